//! What the outside holds of a running pipeline: submit, wait, query, follow, ask how it stands.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::chaincode::Call;
use crate::chaincode::Fault;
use crate::chaincode::contracts::Contracts;
use crate::consensus::CoreStatus;
use crate::crypto::verify_pool::VerifyPool;
use crate::ledger::Ledger;
use crate::membership::directory::Directory;
use crate::membership::identity::Identity;
use crate::network::PeerStatus;
use crate::network::Transport;
use crate::pipeline::admit::Admission;
use crate::pipeline::execute;
use crate::pipeline::mempool::Mempool;
use crate::pipeline::order::bodies::Bodies;
use crate::pipeline::order::evidence::EvidenceFolder;
use crate::pipeline::order::fencing::Gate;
use crate::pipeline::publish::Located;
use crate::pipeline::publish::Publisher;
use crate::pipeline::publish::Subscription;
use crate::pipeline::refusal::Refusal;
use crate::signer::Signer;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::follow;
use crate::telemetry::metrics::show;
use crate::types::certificate::QuorumCertificate;
use crate::types::digest::Digest;
use crate::types::genesis::Genesis;
use crate::types::ids::BlockHash;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::ids::ReplicaId;
use crate::types::ids::TxId;
use crate::types::receipt::Status;
use crate::types::transaction::Transaction;

/// A running pipeline; cheap to clone.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Shared>);

/// What all holders share.
pub(super) struct Shared {
    pub(super) genesis: Arc<Genesis>,
    pub(super) chain: ChainId,
    pub(super) me: Option<ReplicaId>,
    pub(super) signer: Option<Arc<dyn Signer>>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) directory: Arc<Directory>,
    pub(super) contracts: Arc<Contracts>,
    pub(super) admission: Admission,
    pub(super) mempool: Arc<Mempool>,
    pub(super) bodies: Arc<Bodies>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) core: Arc<Mutex<CoreStatus>>,
    pub(super) gate: Arc<Gate>,
    pub(super) evidence: Option<Arc<EvidenceFolder>>,
    pub(super) rounds: Arc<AtomicU64>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) pool: Arc<VerifyPool>,
}

/// How a node stands.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Network name.
    pub network: String,
    /// Chain.
    pub chain: ChainId,
    /// Seat of this node; `None` on an observer.
    pub replica: Option<ReplicaId>,
    /// Last durable block.
    pub height: Height,
    /// Its hash.
    pub block_hash: BlockHash,
    /// Root of the world state.
    pub state_root: Digest,
    /// Consensus; default on an observer.
    pub core: CoreStatus,
    /// Primary of the view; `None` on an observer.
    pub primary: Option<ReplicaId>,
    /// Links.
    pub peers: Vec<PeerStatus>,
    /// Transactions waiting for a batch.
    pub mempool: usize,
    /// Batches waiting to be ordered.
    pub pending_batches: usize,
    /// Bytes of those.
    pub pending_batch_bytes: usize,
    /// Why the node is not ready to take transactions; empty when it is.
    pub not_ready: Vec<String>,
    /// What an operator should know although the node works: providers in quarantine, tokens
    /// that are away.
    pub warnings: Vec<String>,
}

impl Handle {
    /// Admits one signed transaction; `Ok` means it is on its way, the receipt says that it is
    /// committed.
    pub async fn submit(
        &self,
        tx: Transaction,
        certificate: Option<Bytes>,
    ) -> Result<TxId, Refusal> {
        let mut answers = self.submit_many(vec![(tx, certificate)]).await;
        answers.pop().unwrap_or(Err(Refusal::Stopping))
    }

    /// Admits many at once, one answer each, in order.
    pub async fn submit_many(
        &self,
        txs: Vec<(Transaction, Option<Bytes>)>,
    ) -> Vec<Result<TxId, Refusal>> {
        let count = txs.len();
        if self.0.me.is_none() {
            return vec![Err(Refusal::Observer); count];
        }
        let (sender, receiver) = oneshot::channel();
        let metrics = self.0.metrics.clone();
        self.0.admission.admit(txs, move |answers| {
            for answer in &answers {
                match answer {
                    Ok(_) => {
                        metrics.transactions_admitted.inc();
                    }
                    Err(refusal) => metrics.refuse(refusal.code()),
                }
            }
            let _ = sender.send(answers);
        });
        receiver.await.unwrap_or_else(|_| vec![Err(Refusal::Stopping); count])
    }

    /// The receipt of a transaction as soon as its block is durable here; waits for at most `wait`.
    pub async fn receipt(&self, id: TxId, wait: Duration) -> Result<Located, Refusal> {
        if let Some(located) = self.located(&id)? {
            return Ok(located);
        }
        let receiver = self.0.publisher.wait(id)?;
        // It may have committed between the look and the registration.
        if let Some(located) = self.located(&id)? {
            return Ok(located);
        }
        match tokio::time::timeout(wait, receiver).await {
            Ok(Ok(located)) => Ok(located),
            Ok(Err(_)) => Err(Refusal::Stopping),
            Err(_) => {
                self.0.publisher.forget(&id);
                Err(Refusal::TimedOut(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
            }
        }
    }

    /// Registers for the receipt of a transaction that is about to be submitted; cheaper than
    /// `receipt`.
    pub fn expect_receipt(&self, id: TxId) -> Result<oneshot::Receiver<Located>, Refusal> {
        self.0.publisher.wait(id)
    }

    /// Drops registrations whose receivers are gone.
    pub fn forget_receipt(&self, id: &TxId) {
        self.0.publisher.forget(id);
    }

    /// Where a committed transaction is and what became of it.
    pub fn located(&self, id: &TxId) -> Result<Option<Located>, Refusal> {
        let internal = |error: crate::ledger::LedgerError| Refusal::Internal(error.to_string());
        let Some((height, index)) = self.0.ledger.locate(id).map_err(internal)? else {
            return Ok(None);
        };
        let result = self.0.ledger.result(height).map_err(internal)?;
        let receipt = result.and_then(|r| r.receipts.into_iter().nth(index as usize));
        Ok(receipt.map(|receipt| Located { height, index, receipt }))
    }

    /// Runs a read-only call on the last durable state, here alone; the answer comes with the
    /// height of that state. Takes as long as the contract does and may wait for the disk: not for
    /// network threads.
    pub fn query(
        &self,
        caller: &Identity,
        chaincode: String,
        function: String,
        args: Vec<Bytes>,
    ) -> Result<(Height, Bytes), Fault> {
        let view = self.0.ledger.view();
        let tip = view.tip();
        let call = Call {
            chaincode,
            function,
            args,
            caller: Arc::new(execute::caller(caller)),
            calling_chaincode: None,
            tx: TxId::default(),
            height: tip.height,
            block_time_ms: tip.time_ms,
        };
        let fuel = self.0.genesis.parameters.fuel_max;
        let outcome = execute::query(&view, &self.0.contracts, &call, fuel)
            .map_err(|error| Fault::new(Status::Trap, error.to_string()))?;
        Ok((tip.height, outcome?))
    }

    /// Follows the chain from a height, without gaps.
    pub fn subscribe(&self, from: Height) -> Subscription {
        self.0.publisher.subscribe(from)
    }

    /// Changes when certificates were revoked: connections may have to end.
    pub fn revocations(&self) -> watch::Receiver<usize> {
        self.0.publisher.revocations()
    }

    /// Proof of the last stable checkpoint, where there is one.
    pub fn checkpoint(&self) -> Option<Arc<QuorumCertificate>> {
        self.0.core.lock().expect("no holder of this lock panics").proof.clone()
    }

    /// Evidence that replicas broke the protocol, each piece in its portable form; may wait for the
    /// disk. None on an observer.
    pub fn evidence(&self) -> io::Result<Vec<Bytes>> {
        self.0.evidence.as_ref().map_or(Ok(Vec::new()), |folder| folder.all())
    }

    /// Rounds of the consensus thread so far: it stands still only when that thread does. `None` on
    /// an observer, which has no such thread.
    pub fn rounds(&self) -> Option<u64> {
        self.0.me.map(|_| self.0.rounds.load(Ordering::Relaxed))
    }

    /// The ledger, for reads.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.0.ledger
    }

    /// Identities.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.0.directory
    }

    /// The network's genesis document.
    pub fn genesis(&self) -> &Arc<Genesis> {
        &self.0.genesis
    }

    /// The chain.
    pub fn chain(&self) -> ChainId {
        self.0.chain
    }

    /// All metrics as text; what is counted elsewhere is read now.
    pub fn render_metrics(&self) -> String {
        let shared = &self.0;
        let m = &shared.metrics;
        let (pool, status) = (&shared.pool, self.status());
        let counts = pool.crypto().counts();
        follow(&m.signatures_checked, counts.checked);
        follow(&m.signatures_refused, counts.invalid);
        follow(&m.crypto_fallbacks, counts.rechecked);
        follow(&m.signatures_by_table, counts.tabled);
        show(&m.key_tables, counts.tables);
        follow(&m.crypto_second_opinions, counts.second_opinions);
        follow(&m.crypto_divergences, counts.divergences);
        for route in pool.crypto().report() {
            let (operation, algorithm) = (route.operation.name(), route.operation.algorithm());
            let pair = [("provider", route.provider), ("for", operation), ("with", algorithm)];
            m.crypto_pair(pair, route.quarantined.is_some());
        }
        show(&m.verify_pool_jobs, pool.waiting() as u64);
        show(&m.consensus_view, status.core.view.0);
        show(&m.consensus_sequence, status.core.delivered.0);
        show(&m.consensus_stable, status.core.stable.0);
        show(&m.ledger_height, status.height.0);
        let connected = status.peers.iter().filter(|peer| peer.connected).count();
        show(&m.peers_connected, connected as u64);
        show(&m.queue("mempool"), status.mempool as u64);
        show(&m.queue("batches"), status.pending_batches as u64);
        self.show_held(status.pending_batch_bytes);
        m.render()
    }

    /// What this node keeps in memory; each has a limit, listed in `docs/operating.md`.
    fn show_held(&self, pending_batch_bytes: usize) {
        let shared = &self.0;
        let m = &shared.metrics;
        for (table, entries) in shared.ledger.held_entries() {
            show(&m.held_entries(table), entries);
        }
        let (blocks, block_bytes, waiting) = shared.publisher.held();
        let (known, refused) = shared.directory.remembered();
        for (table, entries) in [
            ("recent_blocks", blocks),
            ("receipt_waiters", waiting),
            ("identities", known),
            ("identities_refused", refused),
        ] {
            show(&m.held_entries(table), entries as u64);
        }
        for (part, bytes) in shared.ledger.store_memory() {
            show(&m.held_bytes(part), bytes);
        }
        for (part, bytes) in [
            ("recent_blocks", block_bytes),
            ("batches_pending", pending_batch_bytes),
            ("batches_delivered", shared.bodies.delivered_bytes()),
        ] {
            show(&m.held_bytes(part), bytes as u64);
        }
    }

    /// Counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// How the node stands.
    pub fn status(&self) -> NodeStatus {
        let shared = &self.0;
        let (tip, state_root) = shared.ledger.tip_and_root();
        let core = shared.core.lock().expect("no holder of this lock panics").clone();
        let peers = shared.transport.peers();
        let replicas = &shared.genesis.replicas;
        let connected =
            1 + peers.iter().filter(|p| p.connected && p.peer.replica.is_some()).count();
        let mut not_ready = Vec::new();
        if shared.me.is_none() {
            not_ready.push("an observer takes no transactions".to_owned());
        } else {
            if connected < replicas.quorum() {
                let quorum = replicas.quorum();
                not_ready.push(format!("{connected} validators connected, a quorum is {quorum}"));
            }
            if !core.view_active {
                not_ready.push(format!("a view change to view {} is under way", core.view));
            }
            not_ready.extend(shared.gate.reason(core.delivered));
            not_ready.extend(shared.signer.as_ref().and_then(|signer| signer.trouble()));
        }
        let mut warnings = shared.pool.crypto().warnings();
        warnings.extend(shared.signer.iter().flat_map(|signer| signer.warnings()));
        let (pending_batches, pending_batch_bytes) = shared.bodies.depth();
        NodeStatus {
            network: shared.genesis.network.clone(),
            chain: shared.chain,
            replica: shared.me,
            height: tip.height,
            block_hash: tip.hash,
            state_root,
            primary: shared.me.map(|_| replicas.primary(core.view)),
            core,
            peers,
            mempool: shared.mempool.depth(),
            pending_batches,
            pending_batch_bytes,
            not_ready,
            warnings,
        }
    }
}
