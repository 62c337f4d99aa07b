//! Floor 2: custody of batches: what this replica holds, waits for, and has seen delivered.
//!
//! Every replica keeps every batch it knows until that batch is delivered, in order of arrival, so
//! that the next primary proposes what a faulty one left out.
//!
//! Bounds: `PENDING_BATCHES_PER_AUTHOR_MAX` per author and `RECENT_BATCHES_MAX` delivered ids.
//! Failure: a batch above its author's bound is not taken into custody; if a proposal names it, it
//! is.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;

use crate::types::batch::BatchRef;
use crate::types::ids::BatchId;
use crate::types::ids::ReplicaId;
use crate::types::limits;

/// A batch that is held and not delivered.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// The batch.
    pub reference: BatchRef,
    /// Position in the order of arrival.
    pub arrival: u64,
    /// Retransmission tick when it arrived, or when the view began.
    pub tick: u64,
}

/// Batches in custody.
#[derive(Debug, Default)]
pub struct Batches {
    pending: BTreeMap<BatchId, Pending>,
    order: BTreeMap<u64, BatchId>,
    authors: BTreeMap<ReplicaId, usize>,
    recent: VecDeque<BatchId>,
    recent_ids: BTreeSet<BatchId>,
    arrivals: u64,
    unrecorded: usize,
}

impl Batches {
    /// Takes a batch into custody. `wanted` overrides the author's bound: a proposal names it.
    pub fn insert(&mut self, reference: BatchRef, tick: u64, wanted: bool) {
        if self.pending.contains_key(&reference.id) || self.is_recent(&reference.id) {
            return;
        }
        let count = self.authors.entry(reference.author).or_default();
        if *count >= limits::PENDING_BATCHES_PER_AUTHOR_MAX && !wanted {
            return;
        }
        *count += 1;
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.pending.insert(reference.id, Pending { reference, arrival, tick });
        self.order.insert(arrival, reference.id);
    }

    /// Ends custody: the batch is in a block. Returns what was held.
    pub fn delivered(&mut self, id: BatchId) -> Option<Pending> {
        if self.recent_ids.insert(id) {
            self.recent.push_back(id);
            self.unrecorded += 1;
            if self.recent.len() > limits::RECENT_BATCHES_MAX {
                let oldest = self.recent.pop_front().expect("just above the bound");
                self.recent_ids.remove(&oldest);
            }
        }
        let pending = self.pending.remove(&id)?;
        self.order.remove(&pending.arrival);
        if let Some(count) = self.authors.get_mut(&pending.reference.author) {
            *count -= 1;
        }
        Some(pending)
    }

    /// The ids delivered since this was last asked, oldest first: what the log does not hold yet.
    pub fn take_unrecorded(&mut self) -> Vec<BatchId> {
        let known = self.recent.len().saturating_sub(std::mem::take(&mut self.unrecorded));
        self.recent.iter().skip(known).copied().collect()
    }

    /// Waiting times begin again: a new primary is not blamed for the last one's delay.
    pub fn restart_waiting(&mut self, tick: u64) {
        for pending in self.pending.values_mut() {
            pending.tick = tick;
        }
    }

    /// The batch, if held and not delivered.
    pub fn get(&self, id: &BatchId) -> Option<&BatchRef> {
        self.pending.get(id).map(|p| &p.reference)
    }

    /// True for a batch that was delivered lately.
    pub fn is_recent(&self, id: &BatchId) -> bool {
        self.recent_ids.contains(id)
    }

    /// The ids delivered lately, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = BatchId> {
        self.recent.iter().copied()
    }

    /// Batches in custody, in order of arrival.
    pub fn in_order(&self) -> impl Iterator<Item = &Pending> {
        self.order.values().filter_map(|id| self.pending.get(id))
    }

    /// Number of batches in custody.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// True where nothing waits for delivery.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}
