//! Station 6: tells everyone who waits that a block is durable.
//!
//! Receipts go to the clients that wait for them; subscribers learn the new height and read the
//! blocks themselves, the latest from memory, older ones from the store. So a slow subscriber holds
//! nobody up, loses nothing, and may start at any height.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;

use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::ledger::Ledger;
use crate::ledger::LedgerError;
use crate::pipeline::mempool::Mempool;
use crate::pipeline::refusal::Refusal;
use crate::telemetry::metrics;
use crate::telemetry::metrics::Metrics;
use crate::types::block::Block;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::receipt::BlockResult;
use crate::types::receipt::Receipt;
use crate::types::receipt::Status;

/// A durable block and what became of its transactions.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The block.
    pub block: Block,
    /// Receipts and roots.
    pub result: BlockResult,
}

/// A receipt and its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Block.
    pub height: Height,
    /// Position in the block.
    pub index: u32,
    /// The receipt.
    pub receipt: Receipt,
}

/// The publish station.
pub struct Publisher {
    ledger: Arc<Ledger>,
    mempool: Arc<Mempool>,
    metrics: Arc<Metrics>,
    waiting: Mutex<HashMap<TxId, Vec<oneshot::Sender<Located>>>>,
    recent: Mutex<VecDeque<Arc<Committed>>>,
    height: watch::Sender<Height>,
    revocations: watch::Sender<usize>,
}

impl Publisher {
    /// A station that starts at the ledger's tip.
    pub fn new(ledger: Arc<Ledger>, mempool: Arc<Mempool>, metrics: Arc<Metrics>) -> Self {
        let (height, _) = watch::channel(ledger.tip().height);
        let (revocations, _) = watch::channel(0);
        let (waiting, recent) = (Mutex::default(), Mutex::default());
        Self { ledger, mempool, metrics, waiting, recent, height, revocations }
    }

    /// Announces a durable block.
    pub fn publish(&self, block: Block, result: BlockResult) {
        let height = block.header.height;
        for admitted in self.mempool.committed(result.receipts.iter().map(|r| &r.tx)) {
            metrics::observe(&self.metrics.commit_seconds, admitted.elapsed());
        }
        let committed = Arc::new(Committed { block, result });
        self.answer_waiting(&committed);
        let mut recent = self.recent.lock().expect("no holder of this lock panics");
        recent.push_back(committed);
        if recent.len() > limits::RECENT_BLOCKS_MAX {
            recent.pop_front();
        }
        drop(recent);
        self.height.send_replace(height);
    }

    /// Announces that so many more certificates are revoked; the directory knows which.
    pub fn publish_revocations(&self, more: usize) {
        self.revocations.send_modify(|count| *count += more);
    }

    /// Changes with every revocation.
    pub fn revocations(&self) -> watch::Receiver<usize> {
        self.revocations.subscribe()
    }

    /// Registers for a receipt that is not there yet.
    pub fn wait(&self, id: TxId) -> Result<oneshot::Receiver<Located>, Refusal> {
        let mut waiting = self.waiting.lock().expect("no holder of this lock panics");
        if waiting.len() >= limits::RECEIPT_WAITERS_MAX {
            let retry_after_ms = limits::BUSY_RETRY_MS;
            return Err(Refusal::Busy { what: "the list of waiting clients", retry_after_ms });
        }
        let (sender, receiver) = oneshot::channel();
        let senders = waiting.entry(id).or_default();
        senders.retain(|sender| !sender.is_closed());
        senders.push(sender);
        Ok(receiver)
    }

    /// Drops registrations of clients that went away.
    pub fn forget(&self, id: &TxId) {
        let mut waiting = self.waiting.lock().expect("no holder of this lock panics");
        if let Some(senders) = waiting.get_mut(id) {
            senders.retain(|sender| !sender.is_closed());
            if senders.is_empty() {
                waiting.remove(id);
            }
        }
    }

    /// Follows the chain from `from` (0 and 1 both mean the first block).
    pub fn subscribe(self: &Arc<Self>, from: Height) -> Subscription {
        let next = Height(from.0.max(1));
        Subscription { publisher: self.clone(), next, height: self.height.subscribe() }
    }

    /// Height of the last durable block.
    pub fn height(&self) -> Height {
        *self.height.borrow()
    }

    /// Blocks kept for subscribers and the bytes of their bodies, and clients that wait.
    pub fn held(&self) -> (usize, usize, usize) {
        let waiting = self.waiting.lock().expect("no holder of this lock panics").len();
        let recent = self.recent.lock().expect("no holder of this lock panics");
        let bodies = recent.iter().flat_map(|committed| &committed.block.batches);
        (recent.len(), bodies.map(|batch| batch.encoded_len()).sum(), waiting)
    }

    fn answer_waiting(&self, committed: &Committed) {
        let mut waiting = self.waiting.lock().expect("no holder of this lock panics");
        if waiting.is_empty() {
            return;
        }
        let height = committed.block.header.height;
        for (index, receipt) in (0u32..).zip(&committed.result.receipts) {
            // A repeated id was answered by its first execution.
            if receipt.status == Status::Duplicate {
                continue;
            }
            for sender in waiting.remove(&receipt.tx).into_iter().flatten() {
                let _ = sender.send(Located { height, index, receipt: receipt.clone() });
            }
        }
    }

    fn at(&self, height: Height) -> Result<Option<Arc<Committed>>, LedgerError> {
        let recent = self.recent.lock().expect("no holder of this lock panics");
        let held = recent.iter().find(|c| c.block.header.height == height).cloned();
        drop(recent);
        if held.is_some() {
            return Ok(held);
        }
        let (Some(block), Some(result)) = (self.ledger.block(height)?, self.ledger.result(height)?)
        else {
            return Ok(None);
        };
        Ok(Some(Arc::new(Committed { block, result })))
    }
}

/// Blocks from a height on, without gaps.
pub struct Subscription {
    publisher: Arc<Publisher>,
    next: Height,
    height: watch::Receiver<Height>,
}

impl Subscription {
    /// The next block, as soon as it is durable; `None` when the node stops.
    pub async fn next(&mut self) -> Result<Option<Arc<Committed>>, LedgerError> {
        let next = self.next;
        if self.height.wait_for(|height| *height >= next).await.is_err() {
            return Ok(None);
        }
        let (publisher, wanted) = (self.publisher.clone(), self.next);
        let committed = publisher.at(wanted)?;
        if committed.is_some() {
            self.next = Height(wanted.0 + 1);
        }
        Ok(committed)
    }
}
