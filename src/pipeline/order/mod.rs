//! Station 3: the consensus driver. It owns what a core must not see: clock, disk, keys, network.
//!
//! ```text
//!   batches, verified messages, executed, timers
//!        |  drain what is queued
//!        v
//!   core.step ... core.step        (one round)
//!        |  effects
//!        v
//!   write-ahead log sync  ||  signer: guard sync, then sign      (in parallel, one each per round;
//!        |                                                        a slow key signs apart: `signing`)
//!        v
//!   send; own messages come back through the loopback as the next round's first inputs
//! ```
//!
//! Invariants:
//! * No message of a round leaves before everything persisted in it, and the guard's record of
//!   every slot, is on disk. Many steps share one sync: whatever arrives during a sync is the next
//!   round.
//! * A failed write ends the station with an error; the process must stop.
//! * Bodies are in the log before the core hears of them, so the sync that precedes a commit vote
//!   covers them.

pub mod ahead;
pub mod bodies;
pub mod evidence;
pub mod fencing;
pub mod outgoing;
mod release;
pub mod signing;
pub mod syncer;
pub mod timers;
pub mod wal;
pub mod witness;

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;
use crossbeam_channel::TrySendError;
use crossbeam_channel::select;

use crate::consensus::Core;
use crate::consensus::CoreStatus;
use crate::consensus::Delivered;
use crate::consensus::Effect;
use crate::consensus::Envelope;
use crate::consensus::Executed;
use crate::consensus::Input;
use crate::consensus::LogRecord;
use crate::host::clock::now_ms;
use crate::network::Message;
use crate::network::Transport;
use crate::pipeline::catch_up::CatchUpInput;
use crate::pipeline::execute::station::Work;
use crate::pipeline::mempool::Mempool;
use crate::pipeline::order::ahead::Ahead;
use crate::pipeline::order::bodies::Bodies;
use crate::pipeline::order::bodies::Offer;
use crate::pipeline::order::evidence::EvidenceFolder;
use crate::pipeline::order::fencing::Gate;
use crate::pipeline::order::outgoing::Outgoing;
use crate::pipeline::order::outgoing::Refusals;
use crate::pipeline::order::release::Round;
use crate::pipeline::order::signing::Signing;
use crate::pipeline::order::syncer::Syncer;
use crate::pipeline::order::timers::Timers;
use crate::pipeline::order::wal::Wal;
use crate::pipeline::order::wal::WalError;
use crate::pipeline::order::witness::Witnesses;
use crate::signer::SignError;
use crate::signer::Signer;
use crate::telemetry::metrics::Metrics;
use crate::types::batch::Batch;
use crate::types::block::Tip;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::ChainId;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::verified::Verified;

/// What the station consumes.
pub enum OrderInput {
    /// A valid batch: our own, or a peer's whose signatures were checked.
    Batch(Verified<Arc<Batch>>),
    /// A message whose signatures were checked.
    Message(Verified<Envelope>),
    /// A delivered proposal is executed and durable.
    Executed(Executed),
    /// A block of others was executed; these batches are in it.
    Restored { tip: Tip, checkpoint: Digest, batches: Vec<BatchId> },
    /// Ends the station.
    Stop,
}

/// What the station gives: a final proposal with its bodies, in order of sequence numbers.
pub struct Ordered {
    /// Proposal and certificate.
    pub delivered: Delivered,
    /// Bodies in the proposal's order; none for a null request.
    pub batches: Vec<Arc<Batch>>,
}

/// Why the station ended.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The log failed; votes may not leave any more.
    #[error("consensus stopped: its log failed")]
    Wal(#[from] WalError),
    /// The guard failed.
    #[error("consensus stopped: the signer failed")]
    Signer(#[source] SignError),
    /// A quorum computed another state than this node.
    #[error(
        "this node's state differs from the network's: after sequence number {sequence} its \
         checkpoint is {own}, a quorum signed {quorum}; nothing more is voted. Keep the ledger \
         directory for analysis, start with an empty one, and the node rebuilds it from its peers"
    )]
    Diverged { sequence: SequenceNumber, own: Digest, quorum: Digest },
}

/// Parts of the station.
pub struct Parts {
    /// The network.
    pub chain: ChainId,
    /// This replica.
    pub me: ReplicaId,
    /// The core, built from the log's records.
    pub core: Box<dyn Core>,
    /// The log.
    pub wal: Wal,
    /// Keys, behind the guard.
    pub signer: Arc<dyn Signer>,
    /// Closed while nobody knows what the key signed: votes wait.
    pub gate: Arc<Gate>,
    /// Told each own vote before it leaves.
    pub witnesses: Arc<Witnesses>,
    /// Links to the others.
    pub transport: Arc<dyn Transport>,
    /// Batch bodies, shared with the network side.
    pub bodies: Arc<Bodies>,
    /// Told when own batches are ordered.
    pub mempool: Arc<Mempool>,
    /// Next station.
    pub ordered: Sender<Work>,
    /// Told when this replica is behind.
    pub catch_up: Sender<CatchUpInput>,
    /// Where evidence is kept.
    pub evidence: Arc<EvidenceFolder>,
    /// Where status readers find the core's status.
    pub status: Arc<Mutex<CoreStatus>>,
    /// Told the last stable checkpoint: session keys of the past are refused by it.
    pub stable: Arc<AtomicU64>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Counts the rounds, at least one a second: a watchdog sees whether this thread still turns.
    pub rounds: Arc<AtomicU64>,
}

/// The running station.
pub struct Order {
    parts: Parts,
    syncer: Syncer,
    timers: Timers,
    effects: Vec<Effect>,
    loopback: VecDeque<Envelope>,
    /// What the guard refused of the last round's drafts.
    refusals: Refusals,
    outgoing: Vec<Outgoing>,
    /// Rounds that a slow key is signing.
    signing: Signing<Round>,
    /// Votes that it signs before they are cast.
    ahead: Ahead,
    /// Messages that the signer could not sign; asked again, oldest first.
    unsigned: VecDeque<Outgoing>,
    /// Some message of the last signed round was not signed.
    silenced: bool,
    dirty: bool,
    /// Delivered and not yet taken by execution; bounded by the core's window.
    backlog: VecDeque<Delivered>,
    /// Batches of delivered sequence numbers whose blocks are not durable here yet.
    unsettled: BTreeMap<SequenceNumber, Vec<BatchId>>,
    /// When everyone was last asked for missing bodies.
    asked_all: Option<Instant>,
    failed: Option<WalError>,
    diverged: Option<OrderError>,
}

impl Order {
    /// A station over its parts.
    pub fn new(parts: Parts) -> Self {
        let signing = Signing::start(&parts.signer);
        let ahead = Ahead::new(parts.gate.clone());
        Self {
            parts,
            syncer: Syncer::start(),
            timers: Timers::default(),
            effects: Vec::new(),
            loopback: VecDeque::new(),
            refusals: Refusals::default(),
            outgoing: Vec::new(),
            signing,
            ahead,
            unsigned: VecDeque::new(),
            silenced: false,
            dirty: false,
            backlog: VecDeque::new(),
            unsettled: BTreeMap::new(),
            asked_all: None,
            failed: None,
            diverged: None,
        }
    }

    /// Runs until `Stop`, the senders are gone, or a write fails.
    pub fn run(mut self, inputs: &Receiver<OrderInput>) -> Result<(), OrderError> {
        self.clock();
        self.step(Input::Start);
        for batch in self.parts.bodies.pending() {
            self.step(Input::BatchAvailable(batch.reference()));
        }
        loop {
            self.parts.rounds.fetch_add(1, Ordering::Relaxed);
            self.hand_over();
            self.release()?;
            let own: Vec<Envelope> = self.loopback.drain(..).collect();
            let refused = self.refusals.take();
            let wait = match own.is_empty() && refused.is_empty() {
                false => Duration::ZERO,
                true => self.timers.until_next(Instant::now(), self.idle_wait()),
            };
            self.clock();
            for envelope in own {
                self.step(Input::Message(Verified::by_checked_signatures(envelope)));
            }
            for slot in refused {
                self.step(Input::Refused(slot));
            }
            let first = select! {
                recv(inputs) -> input => Some(input.unwrap_or(OrderInput::Stop)),
                recv(self.signing.answers()) -> answer => {
                    self.signing.arrived(answer.expect("the threads live as long as this"));
                    None
                }
                default(wait) => None,
            };
            for input in first.into_iter().chain(inputs.try_iter().take(ROUND_INPUTS_MAX)) {
                if matches!(input, OrderInput::Stop) {
                    return Ok(());
                }
                self.input(input);
            }
            let now = Instant::now();
            while let Some(timer) = self.timers.take_due(now) {
                self.step(Input::TimerFired(timer));
            }
        }
    }

    fn idle_wait(&self) -> Duration {
        match (self.backlog.is_empty(), self.unsigned.is_empty()) {
            (true, true) => IDLE_WAIT,
            (true, false) => UNSIGNED_WAIT,
            (false, _) => BACKLOG_WAIT,
        }
    }

    fn clock(&mut self) {
        self.step(Input::Clock(now_ms()));
    }

    fn input(&mut self, input: OrderInput) {
        match input {
            OrderInput::Batch(batch) => self.on_batch(batch.into_inner()),
            OrderInput::Message(envelope) => self.step(Input::Message(envelope)),
            OrderInput::Executed(executed) => self.on_executed(executed),
            OrderInput::Restored { tip, checkpoint, batches } => {
                self.on_restored(tip, checkpoint, batches);
            }
            OrderInput::Stop => {}
        }
    }

    fn on_batch(&mut self, batch: Arc<Batch>) {
        let id = batch.id();
        let wanted = self.backlog.iter().any(|d| d.proposal.batches.iter().any(|b| b.id == id));
        match self.parts.bodies.offer(&batch, wanted) {
            Offer::Full => {
                tracing::debug!(author = %batch.author(), "batch dropped: its author's share is full")
            }
            Offer::Known => self.step(Input::BatchAvailable(batch.reference())),
            Offer::New => {
                self.parts.wal.append_batch(&batch.to_bytes());
                self.dirty = true;
                self.step(Input::BatchAvailable(batch.reference()));
            }
        }
    }

    fn on_executed(&mut self, executed: Executed) {
        self.unsettled = self.unsettled.split_off(&SequenceNumber(executed.sequence.0 + 1));
        self.step(Input::Executed(executed));
    }

    fn on_restored(&mut self, tip: Tip, checkpoint: Digest, batches: Vec<BatchId>) {
        for id in &batches {
            self.parts.bodies.deliver(id);
            self.parts.mempool.ordered(id);
        }
        self.step(Input::BatchesCommitted(batches));
        // What the core delivered itself was executed from another source: to the core that is the
        // same.
        if tip.sequence <= self.parts.core.status().delivered {
            let sequence = tip.sequence;
            return self.on_executed(Executed { sequence, checkpoint });
        }
        self.unsettled = self.unsettled.split_off(&SequenceNumber(tip.sequence.0 + 1));
        self.step(Input::Restored { tip, checkpoint });
    }

    fn step(&mut self, input: Input) {
        let mut effects = std::mem::take(&mut self.effects);
        self.parts.core.step(input, &mut effects);
        for effect in effects.drain(..) {
            self.effect(effect);
        }
        self.effects = effects;
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(record) => {
                self.parts.wal.append_record(&record);
                self.dirty = true;
            }
            Effect::Compact(records) => self.compact(&records),
            Effect::Send { to, message } => {
                self.outgoing.push(Outgoing::Draft { to: Some(to), draft: message });
            }
            Effect::Broadcast(draft) => self.outgoing.push(Outgoing::Draft { to: None, draft }),
            Effect::Foresee(draft) => {
                if self.signing.is_apart() && self.parts.signer.bundles() {
                    self.ahead.foresee(draft);
                }
            }
            Effect::Forward { to, message } => {
                self.outgoing.push(Outgoing::Signed { to, envelope: message });
            }
            Effect::Arm { timer, after_ms } => self.timers.arm(timer, after_ms, Instant::now()),
            Effect::Disarm(timer) => self.timers.disarm(timer),
            Effect::Deliver(delivered) => self.deliver(delivered),
            Effect::FetchBatch { id, from } => self.fetch(id, &from),
            Effect::CatchUp { sequence, from } => {
                let _ = self.parts.catch_up.try_send(CatchUpInput::Behind { sequence, from });
            }
            Effect::Accuse(evidence) => {
                self.parts.metrics.evidence.inc();
                self.parts.evidence.keep_or_tell(&evidence);
            }
            Effect::Diverged { sequence, own, certificate } => {
                let quorum = certificate.vote.digest;
                self.diverged.get_or_insert(OrderError::Diverged { sequence, own, quorum });
            }
        }
    }

    fn deliver(&mut self, delivered: Delivered) {
        for batch in &delivered.proposal.batches {
            self.parts.bodies.deliver(&batch.id);
            self.parts.mempool.ordered(&batch.id);
        }
        let ids = delivered.proposal.batches.iter().map(|b| b.id).collect();
        self.unsettled.insert(delivered.proposal.sequence, ids);
        self.backlog.push_back(delivered);
    }

    /// Hands delivered proposals to execution as far as it takes them and their bodies are here.
    fn hand_over(&mut self) {
        while let Some(delivered) = self.backlog.pop_front() {
            let ids = delivered.proposal.batches.iter().map(|b| b.id);
            let bodies: Vec<_> = ids.map(|id| (id, self.parts.bodies.body(&id))).collect();
            let missing: Vec<BatchId> =
                bodies.iter().filter(|(_, body)| body.is_none()).map(|(id, _)| *id).collect();
            if !missing.is_empty() {
                self.ask_all_for(&missing);
                self.backlog.push_front(delivered);
                return;
            }
            let batches = bodies.into_iter().filter_map(|(_, body)| body).collect();
            match self.parts.ordered.try_send(Work::Ordered(Ordered { delivered, batches })) {
                Ok(()) => {}
                Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => {
                    if let Work::Ordered(back) = back {
                        self.backlog.push_front(back.delivered);
                    }
                    return;
                }
            }
        }
    }

    /// Asks everyone for bodies that a final proposal names, again after `BODIES_RETRY`.
    fn ask_all_for(&mut self, missing: &[BatchId]) {
        if self.asked_all.is_some_and(|at| at.elapsed() < BODIES_RETRY) {
            return;
        }
        self.asked_all = Some(Instant::now());
        for id in missing.iter().filter(|id| !self.parts.bodies.is_arriving(id)) {
            self.parts.bodies.ask(*id);
            self.parts.transport.broadcast(Message::BatchRequest(*id));
        }
    }

    fn fetch(&mut self, id: BatchId, from: &[ReplicaId]) {
        match self.parts.bodies.body(&id) {
            Some(batch) => self.step(Input::BatchAvailable(batch.reference())),
            None if self.parts.bodies.is_arriving(&id) => {}
            None => {
                self.parts.bodies.ask(id);
                for to in from.iter().filter(|to| **to != self.parts.me) {
                    self.parts.transport.send(*to, Message::BatchRequest(id));
                }
            }
        }
    }

    /// Starts a new generation of the log when the present one is long. It keeps the bodies that
    /// are not ordered and those of blocks that are not durable yet.
    fn compact(&mut self, records: &[LogRecord]) {
        if !self.parts.wal.is_long() {
            return;
        }
        let mut batches = self.parts.bodies.pending();
        let unsettled = self.unsettled.values().flatten();
        batches.extend(unsettled.filter_map(|id| self.parts.bodies.body(id)));
        let batches: Vec<Bytes> = batches.iter().map(|batch| batch.to_bytes()).collect();
        if let Err(error) = self.parts.wal.replace(records, &batches) {
            self.failed.get_or_insert(error);
        }
    }

    fn tell_status(&self) {
        let mut status = self.parts.core.status();
        self.parts.stable.store(status.stable.0, Ordering::Relaxed);
        let mut told = self.parts.status.lock().expect("no holder of this lock panics");
        self.parts.metrics.view_changes.inc_by(status.view.0.saturating_sub(told.view.0));
        // Copied only when it changes, not on every step.
        status.proof = match status.stable == told.stable {
            true => told.proof.take(),
            false => self.parts.core.checkpoint().map(Arc::new),
        };
        *told = status;
    }
}

const ROUND_INPUTS_MAX: usize = 1024;
const IDLE_WAIT: Duration = Duration::from_millis(1000);
const BODIES_RETRY: Duration = Duration::from_millis(500);
const BACKLOG_WAIT: Duration = Duration::from_millis(2);
const UNSIGNED_WAIT: Duration = Duration::from_millis(20);
