//! Station 2: admitted transactions wait here for their batch.
//!
//! A batch closes as soon as the pipe is idle (none of this validator's batches is waiting to be
//! ordered), whatever its size, or when it is full: so it grows with the load by itself and a quiet
//! system waits for no timer. Where ordering takes long, because validators are far apart or their
//! keys are slow, the next batch closes a distance after the last, which grows with the batches that
//! wait as the primary's grows with its proposals (`consensus/pbft/pace`): the k-th of
//! `OWN_BATCHES_MAX` keeps the square of its part of the spacing, a quarter at least. While all of
//! `OWN_BATCHES_MAX` wait to be ordered, none closes; then the mempool fills, and a full
//! mempool answers "busy".
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
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;

use crate::consensus;
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
pub struct Mempool {
    /// Transactions at which a batch is full.
    batch_txs: usize,
    /// The greatest distance of two batches that are not full.
    spacing: Duration,
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
    /// When the last batch closed.
    closed: Option<Instant>,
    stopped: bool,
}

impl Mempool {
    /// An empty one. A sequence number takes no more than `sequence_txs_max` transactions; while a
    /// batch waits to be ordered, the next one that is not full closes up to `spacing` after the last.
    pub fn new(sequence_txs_max: usize, spacing: Duration) -> Self {
        let batch_txs = limits::BATCH_TARGET_TXS.min(sequence_txs_max);
        Self { batch_txs, spacing, state: Mutex::default(), changed: Condvar::new() }
    }

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
        while !state.stopped {
            let now = Instant::now();
            if let Some(batch) = self.close(&mut state, author, now) {
                return Some(batch);
            }
            let expected = "no holder of this lock panics";
            state = match self.closes_at(&state) {
                Some(at) => self.changed.wait_timeout(state, at - now).expect(expected).0,
                None => self.changed.wait(state).expect(expected),
            };
        }
        None
    }

    /// The next batch of `author`, if one may close now.
    pub fn batch_at(&self, author: ReplicaId, now: Instant) -> Option<Batch> {
        self.close(&mut self.lock(), author, now)
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

    fn close(&self, state: &mut State, author: ReplicaId, now: Instant) -> Option<Batch> {
        let full =
            state.queue.len() >= self.batch_txs || state.queue_bytes >= limits::BATCH_TARGET_BYTES;
        let due = state.closed.is_none_or(|at| now.duration_since(at) >= self.distance(state));
        let may_close = match state.outstanding.len() {
            0 => true,
            waiting => waiting < limits::OWN_BATCHES_MAX && (full || due),
        };
        if state.queue.is_empty() || !may_close {
            return None;
        }
        let batch = state.take(author, self.batch_txs);
        state.outstanding.insert(batch.id());
        state.closed = Some(now);
        Some(batch)
    }

    /// When what is queued may close although nothing happens before.
    fn closes_at(&self, state: &State) -> Option<Instant> {
        let room = state.outstanding.len() < limits::OWN_BATCHES_MAX;
        let waits = room && !state.queue.is_empty();
        state.closed.filter(|_| waits).map(|at| at + self.distance(state))
    }

    /// From a batch to the next that is not full, by how many will wait to be ordered.
    fn distance(&self, state: &State) -> Duration {
        let most = limits::OWN_BATCHES_MAX;
        let with_next = (state.outstanding.len() + 1).min(most);
        let spacing_us = u64::try_from(self.spacing.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(consensus::distance(spacing_us, with_next as u64, most as u64))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl State {
    fn take(&mut self, author: ReplicaId, batch_txs: usize) -> Batch {
        let mut transactions = Vec::new();
        let mut certificates: Vec<Bytes> = Vec::new();
        let mut creators = HashSet::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            let size = next.tx.encoded_len() + next.certificate.len() + 4;
            let full = transactions.len() >= batch_txs || bytes + size > limits::BATCH_TARGET_BYTES;
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
