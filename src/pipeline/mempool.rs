//! Station 2: admitted transactions wait here for their batch.
//!
//! A batch closes as soon as the pipe is idle (none of this validator's batches is waiting to be
//! ordered), whatever its size, or when it is full: so it grows with the load by itself and a quiet
//! system waits for no timer. While `OWN_BATCHES_MAX` batches wait to be ordered, none closes; then
//! the mempool fills, and a full mempool answers "busy".
//!
//! An id is reserved before its signature is checked, so that the same bytes submitted twice at
//! once cost one check.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Instant;

use bytes::Bytes;

use crate::pipeline::refusal::Refusal;
use crate::types::batch::Batch;
use crate::types::ids::BatchId;
use crate::types::ids::ReplicaId;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::transaction::Transaction;
use crate::types::verified::Verified;

/// A transaction on its way into a batch, with its creator's certificate.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The transaction.
    pub tx: Transaction,
    /// DER of the creator's certificate.
    pub certificate: Bytes,
}

/// Transactions admitted here.
#[derive(Default)]
pub struct Mempool {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Verified<Admitted>>,
    queue_bytes: usize,
    /// Reserved, queued, or in a batch of ours that is not committed; with the time of admission.
    ids: HashMap<TxId, Instant>,
    /// Reserved and not yet queued or released.
    reserved: usize,
    /// Own batches not yet ordered.
    outstanding: HashSet<BatchId>,
    stopped: bool,
}

impl Mempool {
    /// Takes a place for a transaction whose signature will be checked next.
    pub fn reserve(&self, tx: &Transaction) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.stopped {
            return Err(Refusal::Stopping);
        }
        if state.queue.len() + state.reserved >= limits::MEMPOOL_TXS_MAX
            || state.queue_bytes + tx.encoded_len() > limits::MEMPOOL_BYTES_MAX
        {
            let retry_after_ms = limits::BUSY_RETRY_MS;
            return Err(Refusal::Busy { what: "the mempool", retry_after_ms });
        }
        match state.ids.entry(tx.id()) {
            Entry::Occupied(_) => return Err(Refusal::Duplicate(tx.id())),
            Entry::Vacant(place) => place.insert(Instant::now()),
        };
        state.reserved += 1;
        Ok(())
    }

    /// Gives a reserved place back.
    pub fn release(&self, id: &TxId) {
        let mut state = self.lock();
        if state.ids.remove(id).is_some() {
            state.reserved -= 1;
        }
    }

    /// Queues transactions whose places were reserved.
    pub fn push(&self, admitted: Vec<Verified<Admitted>>) {
        let mut state = self.lock();
        for one in admitted {
            state.reserved -= 1;
            state.queue_bytes += one.tx.encoded_len();
            state.queue.push_back(one);
        }
        self.changed.notify_all();
    }

    /// Waits for the next batch of `author`; `None` once stopped.
    pub fn next_batch(&self, author: ReplicaId) -> Option<Batch> {
        let mut state = self.lock();
        while !state.stopped && !state.may_close() {
            state = self.changed.wait(state).expect("no holder of this lock panics");
        }
        if state.stopped {
            return None;
        }
        let batch = state.close(author);
        state.outstanding.insert(batch.id());
        Some(batch)
    }

    /// A batch was ordered; another may close.
    pub fn ordered(&self, id: &BatchId) {
        if self.lock().outstanding.remove(id) {
            self.changed.notify_all();
        }
    }

    /// Transactions are in a block: their ids are the ledger's now. Returns when those that were
    /// admitted here were.
    pub fn committed<'a>(&self, ids: impl Iterator<Item = &'a TxId>) -> Vec<Instant> {
        let mut state = self.lock();
        ids.filter_map(|id| state.ids.remove(id)).collect()
    }

    /// A batch of ours found in the log after a restart counts as waiting.
    pub fn recovered(&self, batch: &Batch) {
        let mut state = self.lock();
        state.outstanding.insert(batch.id());
        let now = Instant::now();
        state.ids.extend(batch.transactions().iter().map(|tx| (tx.id(), now)));
    }

    /// Ends `next_batch` and refuses what comes.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Transactions queued.
    pub fn depth(&self) -> usize {
        self.lock().queue.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl State {
    fn may_close(&self) -> bool {
        let full = self.queue.len() >= limits::BATCH_TARGET_TXS
            || self.queue_bytes >= limits::BATCH_TARGET_BYTES;
        match self.outstanding.len() {
            0 => !self.queue.is_empty(),
            waiting => full && waiting < limits::OWN_BATCHES_MAX,
        }
    }

    fn close(&mut self, author: ReplicaId) -> Batch {
        let mut transactions = Vec::new();
        let mut certificates: Vec<Bytes> = Vec::new();
        let mut creators = HashSet::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            let size = next.tx.encoded_len() + next.certificate.len() + 4;
            let full = transactions.len() >= limits::BATCH_TARGET_TXS
                || bytes + size > limits::BATCH_TARGET_BYTES;
            if full && !transactions.is_empty() {
                break;
            }
            let Admitted { tx, certificate } = self.queue.pop_front().expect("front").into_inner();
            self.queue_bytes -= tx.encoded_len();
            bytes += tx.encoded_len();
            if creators.insert(tx.payload().creator) {
                bytes += certificate.len() + 4;
                certificates.push(certificate);
            }
            transactions.push(tx);
        }
        Batch::new(author, certificates, transactions)
    }
}
