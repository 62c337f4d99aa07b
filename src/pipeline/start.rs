//! Wires the stations: queues between them, a named thread for each, and what ends them.
//!
//! ```text
//! thread      station                       queue in front (limit in types/limits.rs)
//! verify-N    signature checks              groups of the pool
//! batcher     mempool -> batch              the mempool itself
//! votes       checks of peers' votes        VOTES_UNCHECKED_MAX
//! batches     checks of peers' batches      BATCHES_UNCHECKED_MAX
//! consensus   order                         CONSENSUS_INPUTS_MAX
//! execute     execute                       ORDERED_BLOCKS_MAX
//! commit      commit, publish               EXECUTED_BLOCKS_MAX
//! catch-up    catch_up                      CATCH_UP_INPUTS_MAX
//! fencing     what peers saw of our key     WITNESS_INPUTS_MAX
//! ```
//!
//! A station that fails calls `fatal` once: the process must stop, since a write may be half done.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;
use crossbeam_channel::bounded;

use crate::chaincode::contracts::Contracts;
use crate::consensus::CoreStatus;
use crate::consensus::Envelope;
use crate::consensus::Plugin;
use crate::consensus::Setup;
use crate::consensus::Tuning;
use crate::crypto::verify_pool::VerifyPool;
use crate::ledger::Ledger;
use crate::ledger::LedgerError;
use crate::membership::directory::Directory;
use crate::network::Inbox;
use crate::network::Message;
use crate::network::Peer;
use crate::network::Transport;
use crate::pipeline::admit::Admission;
use crate::pipeline::catch_up::CatchUp;
use crate::pipeline::catch_up::CatchUpInput;
use crate::pipeline::commit;
use crate::pipeline::commit::Commit;
use crate::pipeline::execute::Executor;
use crate::pipeline::execute::station::ExecuteStation;
use crate::pipeline::execute::station::Work;
use crate::pipeline::handle::Handle;
use crate::pipeline::handle::Shared;
use crate::pipeline::intake;
use crate::pipeline::intake::Intake;
use crate::pipeline::measured::Measured;
use crate::pipeline::mempool::Mempool;
use crate::pipeline::order::Order;
use crate::pipeline::order::OrderInput;
use crate::pipeline::order::Parts as OrderParts;
use crate::pipeline::order::bodies::Bodies;
use crate::pipeline::order::evidence;
use crate::pipeline::order::evidence::EvidenceFolder;
use crate::pipeline::order::fencing;
use crate::pipeline::order::fencing::Fencing;
use crate::pipeline::order::fencing::Gate;
use crate::pipeline::order::fencing::Shown;
use crate::pipeline::order::wal::Recovered;
use crate::pipeline::order::wal::Wal;
use crate::pipeline::order::wal::WalError;
use crate::pipeline::order::witness::Witnesses;
use crate::pipeline::publish::Publisher;
use crate::pipeline::verification::Known;
use crate::pipeline::verification::Verification;
use crate::signer::Signer;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::progress::Progress;
use crate::types::batch::Batch;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::genesis::Genesis;
use crate::types::ids::ReplicaId;
use crate::types::limits;
use crate::types::verified::Verified;

/// Called with the reason when a station fails; must end the process.
pub type Fatal = Arc<dyn Fn(String) + Send + Sync>;

/// The seat of a validator: its place, its keys, its log.
pub struct Seat {
    /// Place in the replica set.
    pub me: ReplicaId,
    /// Keys, behind the guard.
    pub signer: Arc<dyn Signer>,
    /// Directory of the write-ahead log.
    pub directory: PathBuf,
    /// Timings of the core.
    pub tuning: Tuning,
}

/// Everything a pipeline is made of.
pub struct Parts {
    /// The network's document.
    pub genesis: Arc<Genesis>,
    /// Row of the consensus table.
    pub plugin: &'static Plugin,
    /// `None` makes an observer.
    pub seat: Option<Seat>,
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// Identities.
    pub directory: Arc<Directory>,
    /// Contracts.
    pub contracts: Arc<Contracts>,
    /// Signature checks.
    pub pool: Arc<VerifyPool>,
    /// Links.
    pub transport: Arc<dyn Transport>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Told how far the start is.
    pub progress: Arc<Progress>,
    /// Ends the process.
    pub fatal: Fatal,
}

/// Why a pipeline did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The write-ahead log failed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The folder of evidence failed.
    #[error("cannot use the folder of evidence {path}: {source}; check its owner and the disk")]
    Evidence { path: PathBuf, source: std::io::Error },
    /// The system refused a thread.
    #[error("cannot start the thread {name}: {source}; raise the limit on tasks")]
    Thread { name: &'static str, source: std::io::Error },
}

/// A started pipeline.
pub struct Pipeline {
    /// What the outside holds.
    pub handle: Handle,
    /// The receiving end for the network.
    pub inbox: Arc<dyn Inbox>,
    order: Sender<OrderInput>,
    catch_up: Sender<CatchUpInput>,
    store: Sender<Infallible>,
    threads: Vec<JoinHandle<()>>,
}

impl Pipeline {
    /// Brings the state up to the stored blocks, then starts every station.
    pub fn start(parts: Parts) -> Result<Self, StartError> {
        let executor = replay(&parts)?;
        let verification = Arc::new(Verification {
            chain: parts.genesis.chain_id(),
            replicas: Arc::new(parts.genesis.replicas.clone()),
            plugin: parts.plugin,
            directory: parts.directory.clone(),
            pool: parts.pool.clone(),
            known: Known::default(),
            stable: Arc::default(),
        });
        let (evidence, witnesses) = (evidence_folder(&parts)?, Arc::new(witnesses(&parts)?));
        let shared = share(&parts, &verification, evidence);
        let (order, order_inputs) = bounded(limits::CONSENSUS_INPUTS_MAX);
        let (work, work_inputs) = bounded(limits::ORDERED_BLOCKS_MAX);
        let (finished, finished_inputs) = bounded(limits::EXECUTED_BLOCKS_MAX);
        let (catch_up, catch_up_inputs) = bounded(limits::CATCH_UP_INPUTS_MAX);
        let mut stations = Stations { fatal: parts.fatal, threads: Vec::new() };
        let IntakeQueues { votes, batches, shown } = match parts.seat {
            None => IntakeQueues::default(),
            Some(seat) => {
                let (order, work, catch_up) = (order.clone(), work.clone(), catch_up.clone());
                let links = Links { order, order_inputs, work, catch_up };
                let (plugin, verification) = (parts.plugin, &verification);
                let witnesses = &witnesses;
                let driver = Driver { shared: &shared, plugin, verification, witnesses };
                driver.start(seat, links, &mut stations)?
            }
        };
        let (chain, ledger) = (shared.chain, shared.ledger.clone());
        let (tip, metrics) = (ledger.tip(), shared.metrics.clone());
        let execute = ExecuteStation { executor, chain, tip, finished, metrics };
        stations.fallible("execute", move || execute.run(&work_inputs))?;
        let commit = Commit {
            ledger: ledger.clone(),
            chain,
            directory: shared.directory.clone(),
            transport: shared.transport.clone(),
            publisher: shared.publisher.clone(),
            order: order.clone(),
            metrics: shared.metrics.clone(),
        };
        stations.fallible("commit", move || commit.run(&finished_inputs))?;
        let (store, store_ends) = bounded(1);
        let to_sync = ledger.clone();
        stations.fallible("store-sync", move || commit::sync_store(&to_sync, &store_ends))?;
        let follower = CatchUp::new(ledger.clone(), shared.transport.clone(), verification, work);
        stations.plain("catch-up", move || follower.run(&catch_up_inputs))?;
        let inbox = Arc::new(Intake {
            transport: shared.transport.clone(),
            ledger,
            bodies: shared.bodies.clone(),
            votes,
            batches,
            shown,
            witnesses,
            catch_up: catch_up.clone(),
            metrics: shared.metrics.clone(),
        });
        let handle = Handle(shared);
        Ok(Self { handle, inbox, order, catch_up, store, threads: stations.threads })
    }

    /// Stops the stations in the order of the line and waits for them. What is durable stays
    /// durable.
    pub fn stop(self) {
        self.handle.0.mempool.stop();
        let _ = self.order.send(OrderInput::Stop);
        let _ = self.catch_up.send(CatchUpInput::Stop);
        let Self { handle, inbox, order, catch_up, store, threads } = self;
        drop((handle, inbox, order, catch_up, store));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// Executes stored blocks that the state does not hold yet; each root must equal the recorded one.
/// From then on the directory knows every revocation.
fn replay(parts: &Parts) -> Result<Executor, StartError> {
    let mut executor = Executor::new(
        parts.ledger.clone(),
        parts.directory.clone(),
        parts.contracts.clone(),
        parts.genesis.parameters,
    )?;
    let last = parts.ledger.stored_height();
    for stored in parts.ledger.unapplied()? {
        let (block, _) = stored?;
        let height = block.header.height;
        parts.progress.at(format!("executing stored block {height} of {last}"));
        let executed = executor.execute(block)?;
        parts.ledger.reapply(executed)?;
    }
    for (organisation, id) in executor.revoked() {
        parts.directory.revoke(organisation, id);
    }
    Ok(executor)
}

/// Where a validator keeps evidence; an observer collects none.
fn evidence_folder(parts: &Parts) -> Result<Option<Arc<EvidenceFolder>>, StartError> {
    let Some(seat) = &parts.seat else { return Ok(None) };
    let path = seat.directory.join(evidence::FOLDER);
    match EvidenceFolder::open(&path, parts.genesis.chain_id()) {
        Ok(folder) => Ok(Some(Arc::new(folder))),
        Err(source) => Err(StartError::Evidence { path, source }),
    }
}

/// What this node knows of the validators' votes: those of its last block.
fn witnesses(parts: &Parts) -> Result<Witnesses, StartError> {
    let witnesses = Witnesses::new(parts.plugin, parts.genesis.replicas.epoch());
    if let Some(block) = parts.ledger.block(parts.ledger.tip().height)? {
        witnesses.saw_certificate(&block.certificate);
    }
    Ok(witnesses)
}

/// What all holders of the pipeline and its stations share.
fn share(
    parts: &Parts,
    verification: &Arc<Verification>,
    evidence: Option<Arc<EvidenceFolder>>,
) -> Arc<Shared> {
    let (chain, ledger) = (parts.genesis.chain_id(), parts.ledger.clone());
    let spacing_ms = parts.seat.as_ref().map_or(0, |seat| seat.tuning.proposal_spacing_ms);
    let spacing = Duration::from_millis(spacing_ms);
    let mempool = Arc::new(Mempool::new(parts.plugin.sequence_txs_max, spacing));
    let (directory, verification) = (parts.directory.clone(), verification.clone());
    let admission =
        Admission::new(chain, ledger.clone(), directory.clone(), mempool.clone(), verification);
    Arc::new(Shared {
        genesis: parts.genesis.clone(),
        chain,
        me: parts.seat.as_ref().map(|seat| seat.me),
        signer: parts.seat.as_ref().map(|seat| seat.signer.clone()),
        publisher: Arc::new(Publisher::new(ledger.clone(), mempool.clone(), parts.metrics.clone())),
        ledger,
        directory,
        contracts: parts.contracts.clone(),
        admission,
        mempool,
        bodies: Arc::new(Bodies::default()),
        transport: parts.transport.clone(),
        core: Arc::new(Mutex::new(CoreStatus::default())),
        gate: Arc::new(Gate::default()),
        evidence,
        rounds: Arc::new(AtomicU64::new(0)),
        metrics: parts.metrics.clone(),
        pool: parts.pool.clone(),
    })
}

/// What the consensus driver is started from.
struct Driver<'a> {
    shared: &'a Shared,
    plugin: &'static Plugin,
    verification: &'a Arc<Verification>,
    witnesses: &'a Arc<Witnesses>,
}

struct Links {
    order: Sender<OrderInput>,
    order_inputs: Receiver<OrderInput>,
    work: Sender<Work>,
    catch_up: Sender<CatchUpInput>,
}

/// Queues that the network fills; none on an observer.
#[derive(Default)]
struct IntakeQueues {
    votes: Option<Sender<(Peer, Envelope)>>,
    batches: Option<Sender<(Peer, bytes::Bytes)>>,
    shown: Option<Sender<Shown>>,
}

impl Driver<'_> {
    fn start(
        &self,
        seat: Seat,
        links: Links,
        stations: &mut Stations,
    ) -> Result<IntakeQueues, StartError> {
        let chain = self.shared.genesis.chain_id();
        let (wal, recovered) = Wal::open(&seat.directory, chain)?;
        let tip = self.shared.ledger.tip();
        let (_, checkpoint) = Commit::checkpoint(&self.shared.ledger, chain, tip.sequence);
        self.recover_bodies(seat.me, &recovered)?;
        let core = (self.plugin.build)(Setup {
            chain,
            me: seat.me,
            replicas: Arc::new(self.shared.genesis.replicas.clone()),
            parameters: self.shared.genesis.parameters,
            tuning: seat.tuning,
            tip,
            checkpoint,
            log: recovered.records,
        });
        let shown = self.start_fencing(&seat)?;
        let station = Order::new(OrderParts {
            chain,
            me: seat.me,
            core,
            wal,
            signer: Arc::new(Measured::new(seat.signer, self.shared.metrics.clone())),
            gate: self.shared.gate.clone(),
            witnesses: self.witnesses.clone(),
            transport: self.shared.transport.clone(),
            bodies: self.shared.bodies.clone(),
            mempool: self.shared.mempool.clone(),
            ordered: links.work,
            catch_up: links.catch_up,
            evidence: self.shared.evidence.clone().expect("made for every seat"),
            status: self.shared.core.clone(),
            stable: self.verification.stable.clone(),
            metrics: self.shared.metrics.clone(),
            rounds: self.shared.rounds.clone(),
        });
        let inputs = links.order_inputs;
        stations.fallible("consensus", move || station.run(&inputs))?;
        let (mempool, transport) = (self.shared.mempool.clone(), self.shared.transport.clone());
        let (order, me) = (links.order.clone(), seat.me);
        let metrics = self.shared.metrics.clone();
        stations.plain("batcher", move || {
            while let Some(batch) = mempool.next_batch(me) {
                metrics.batches_authored.inc();
                transport.broadcast(Message::Batch(batch.to_bytes()));
                // Its transactions were checked one by one at admission.
                let batch = Verified::by_checked_signatures(Arc::new(batch));
                if order.send(OrderInput::Batch(batch)).is_err() {
                    return;
                }
            }
        })?;
        let (votes, batches) = self.start_checks(links.order, stations)?;
        Ok(IntakeQueues { votes: Some(votes), batches: Some(batches), shown: Some(shown) })
    }

    /// Closes the gate in front of votes and has peers asked what they saw of the key.
    fn start_fencing(&self, seat: &Seat) -> Result<Sender<Shown>, StartError> {
        let (shown, inputs) = bounded(limits::WITNESS_INPUTS_MAX);
        let fencing = Fencing::new(fencing::Parts {
            me: seat.me,
            verification: self.verification.clone(),
            witnesses: self.witnesses.clone(),
            signer: seat.signer.clone(),
            transport: self.shared.transport.clone(),
            gate: self.shared.gate.clone(),
            core: self.shared.core.clone(),
            window: self.shared.genesis.parameters.window,
            metrics: self.shared.metrics.clone(),
        });
        spawn("fencing", move || fencing.run(&inputs))?;
        Ok(shown)
    }

    /// The checks of what peers send, and the queues in front of them.
    fn start_checks(
        &self,
        checked: Sender<OrderInput>,
        stations: &mut Stations,
    ) -> Result<CheckQueues, StartError> {
        let (votes, votes_queue) = bounded(limits::VOTES_UNCHECKED_MAX);
        let (verification, order) = (self.verification.clone(), checked.clone());
        let metrics = self.shared.metrics.clone();
        let witnesses = self.witnesses.clone();
        spawn("votes", move || {
            intake::check_votes(&votes_queue, &verification, &witnesses, &order, &metrics);
        })?;
        let (batches, batches_queue) = bounded(limits::BATCHES_UNCHECKED_MAX);
        let (verification, order) = (self.verification.clone(), checked);
        let (bodies, metrics) = (self.shared.bodies.clone(), self.shared.metrics.clone());
        let ledger = self.shared.ledger.clone();
        stations.plain("batches", move || {
            intake::check_batches(
                &batches_queue,
                &verification,
                &ledger,
                &bodies,
                &order,
                &metrics,
            );
        })?;
        Ok((votes, batches))
    }

    /// Batches of the log that are not in a block yet; they were checked before they were logged.
    fn recover_bodies(&self, me: ReplicaId, recovered: &Recovered) -> Result<(), StartError> {
        for bytes in &recovered.batches {
            let Ok(batch) = Batch::from_bytes(bytes) else { continue };
            let mut fresh = false;
            for tx in batch.transactions() {
                fresh |= !self.shared.ledger.contains(&tx.id())?;
            }
            let batch = Arc::new(batch);
            self.shared.bodies.offer(&batch, true);
            match fresh {
                false => {
                    self.shared.bodies.deliver(&batch.id());
                }
                true if batch.author() == me => self.shared.mempool.recovered(&batch),
                true => {}
            }
        }
        Ok(())
    }
}

type CheckQueues = (Sender<(Peer, Envelope)>, Sender<(Peer, bytes::Bytes)>);

/// Threads started so far.
struct Stations {
    fatal: Fatal,
    threads: Vec<JoinHandle<()>>,
}

impl Stations {
    fn plain(
        &mut self,
        name: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), StartError> {
        let thread = spawn(name, run)?;
        self.threads.push(thread);
        Ok(())
    }

    fn fallible<E: std::error::Error>(
        &mut self,
        name: &'static str,
        run: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> Result<(), StartError> {
        let fatal = self.fatal.clone();
        self.plain(name, move || {
            if let Err(error) = run() {
                let mut text = error.to_string();
                let mut cause = error.source();
                while let Some(source) = cause {
                    text = format!("{text}: {source}");
                    cause = source.source();
                }
                fatal(text);
            }
        })
    }
}

/// A named thread. One that is not kept in `Stations` ends with its queue, when the network lets go
/// of it.
fn spawn(
    name: &'static str,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|source| StartError::Thread { name, source })
}
