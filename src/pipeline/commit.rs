//! Station 5: makes executed blocks durable, in order, and says so to publish and to consensus.
//!
//! Takes whatever is queued, up to a limit, and commits it with one sync of the block segments: the
//! disk's speed sets the size of the group. A failed write stops the node: nothing after it is
//! acknowledged. Certificates that a block revoked lose their connections here.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use crossbeam_channel::RecvTimeoutError;
use crossbeam_channel::Sender;

use crate::chaincode::builtin::membership;
use crate::consensus::Executed;
use crate::ledger::ExecutedBlock;
use crate::ledger::Ledger;
use crate::ledger::LedgerError;
use crate::ledger::read_write_set::StateKey;
use crate::membership::directory::Directory;
use crate::network::Transport;
use crate::pipeline::order::OrderInput;
use crate::pipeline::publish::Publisher;
use crate::telemetry::metrics;
use crate::telemetry::metrics::Metrics;
use crate::types::block::Tip;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::receipt;
use crate::types::receipt::BlockResult;
use crate::types::receipt::Status;

/// What execution hands on.
pub enum Finished {
    /// An executed block. `caught_up`: it came from peers, not from the core.
    Block { executed: Box<ExecutedBlock>, caught_up: bool },
    /// A null request: nothing to store, but consensus counts it.
    Null { sequence: SequenceNumber },
}

/// The commit station.
pub struct Commit {
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// The network.
    pub chain: ChainId,
    /// Hears of revocations.
    pub directory: Arc<Directory>,
    /// Ends the links of revoked peers.
    pub transport: Arc<dyn Transport>,
    /// Next station.
    pub publisher: Arc<Publisher>,
    /// Where consensus hears what was executed.
    pub order: Sender<OrderInput>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Commit {
    /// Runs until execution stops. An error means the disk failed: the process must stop.
    pub fn run(self, finished: &Receiver<Finished>) -> Result<(), LedgerError> {
        while let Ok(first) = finished.recv() {
            let mut group = vec![first];
            group.extend(finished.try_iter().take(limits::EXECUTED_BLOCKS_MAX - 1));
            self.group(group)?;
        }
        Ok(())
    }

    /// What a checkpoint vote on the durable chain signs at `sequence`.
    pub fn checkpoint(ledger: &Ledger, chain: ChainId, sequence: SequenceNumber) -> (Tip, Digest) {
        let tip = Tip { sequence, ..ledger.tip() };
        let (state, receipts) = ledger.last_result();
        (tip, receipt::checkpoint_digest(chain, sequence, tip.height, tip.hash, state, receipts))
    }

    fn group(&self, group: Vec<Finished>) -> Result<(), LedgerError> {
        // Null requests repeat the roots of the block before them, so the group is cut there.
        let mut blocks = Vec::new();
        for item in group {
            match item {
                Finished::Block { executed, caught_up } => blocks.push((*executed, caught_up)),
                Finished::Null { sequence } => {
                    self.blocks(std::mem::take(&mut blocks))?;
                    let (_, checkpoint) = Self::checkpoint(&self.ledger, self.chain, sequence);
                    self.tell(OrderInput::Executed(Executed { sequence, checkpoint }));
                }
            }
        }
        self.blocks(blocks)
    }

    fn blocks(&self, group: Vec<(ExecutedBlock, bool)>) -> Result<(), LedgerError> {
        if group.is_empty() {
            return Ok(());
        }
        let (executed, caught_up): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let blocks: Vec<_> = executed.iter().map(|e| e.block.clone()).collect();
        let revoked: Vec<_> = executed.iter().flat_map(revocations).collect();
        let began = Instant::now();
        let results = self.ledger.commit(executed)?;
        for (organisation, id) in &revoked {
            tracing::info!(%organisation, certificate = %id, "certificate revoked");
            self.directory.revoke(organisation, *id);
        }
        metrics::observe(&self.metrics.ledger_seconds, began.elapsed());
        for ((block, result), caught_up) in blocks.into_iter().zip(results).zip(caught_up) {
            let sequence = block.header.sequence;
            let checkpoint = result.checkpoint_digest(self.chain, sequence);
            let (tip, batches) = (block.header.tip(), block.header.batches.clone());
            self.count(&result, caught_up);
            self.publisher.publish(block, result);
            self.tell(match caught_up {
                true => OrderInput::Restored { tip, checkpoint, batches },
                false => OrderInput::Executed(Executed { sequence, checkpoint }),
            });
        }
        // After the receipts are on their way: a cut may end the connection that waits for one.
        if !revoked.is_empty() {
            self.transport.recheck();
            self.publisher.publish_revocations(revoked.len());
        }
        Ok(())
    }

    fn count(&self, result: &BlockResult, caught_up: bool) {
        let failed = result.receipts.iter().filter(|r| r.status != Status::Ok).count();
        self.metrics.blocks_committed.inc();
        self.metrics.blocks_fetched.inc_by(u64::from(caught_up));
        self.metrics.transactions_committed.inc_by(result.receipts.len() as u64);
        self.metrics.transactions_failed.inc_by(failed as u64);
        self.metrics.block_transactions.observe(result.receipts.len() as f64);
    }

    fn tell(&self, input: OrderInput) {
        // Consensus gone means the node is stopping; what is durable stays durable.
        let _ = self.order.send(input);
    }
}

/// What a block revoked: organisation and certificate.
fn revocations(executed: &ExecutedBlock) -> impl Iterator<Item = (String, CertificateId)> {
    let first = StateKey { namespace: membership::NAME.to_owned(), key: Bytes::new() };
    let own = executed.writes.iter().flat_map(move |writes| {
        let behind = writes.0.range(first.clone()..);
        behind.take_while(|(at, _)| at.namespace == membership::NAME)
    });
    own.filter(|(_, value)| value.is_some()).filter_map(|(at, _)| {
        let (organisation, id) = membership::revoked(&at.key)?;
        Some((organisation.to_owned(), id))
    })
}

/// Makes the store's log durable once a second while blocks come, until the other end of `ends` is
/// gone. The store can be rebuilt without it; this bounds how many blocks an open after a power cut
/// executes again, and how much the system has to write back at once.
pub fn sync_store(ledger: &Ledger, ends: &Receiver<Infallible>) -> Result<(), LedgerError> {
    // What an open replayed is not synced either.
    let mut synced = Height(0);
    loop {
        let ended = ends.recv_timeout(STORE_SYNC_EVERY) != Err(RecvTimeoutError::Timeout);
        let height = ledger.tip().height;
        if height != synced {
            ledger.sync_store()?;
            synced = height;
        }
        if ended {
            return Ok(());
        }
    }
}

const STORE_SYNC_EVERY: Duration = Duration::from_secs(1);
