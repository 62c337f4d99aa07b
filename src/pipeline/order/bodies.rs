//! Bodies of batches: those waiting to be ordered, and the latest delivered ones for replicas that
//! still ask.
//!
//! Shared between the order thread, which fills it, and the network, which serves requests from it.
//! Bounded: in total, and per author, so that one validator cannot fill the table of another.
//!
//! It also knows which bodies are having their signatures checked: a body that comes a second time
//! is dropped before its check, and one that is on its way is not asked for. Without that, a node
//! that falls behind with checking asks for what it already has, checks that too, and falls behind
//! further. And it knows which bodies this node asked for: those are taken even where nobody would
//! want them unasked (`intake`).

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use crate::types::batch::Batch;
use crate::types::ids::BatchId;
use crate::types::ids::ReplicaId;
use crate::types::limits;

/// Known batch bodies.
#[derive(Default)]
pub struct Bodies(Mutex<Table>);

#[derive(Default)]
struct Table {
    pending: HashMap<BatchId, Arc<Batch>>,
    pending_bytes: usize,
    per_author: HashMap<ReplicaId, usize>,
    delivered: HashMap<BatchId, Arc<Batch>>,
    delivered_order: VecDeque<BatchId>,
    delivered_bytes: usize,
    arriving: HashSet<BatchId>,
    asked: HashSet<BatchId>,
    asked_order: VecDeque<BatchId>,
}

/// A body whose signatures are being checked; ends that when dropped.
pub struct Arriving {
    bodies: Arc<Bodies>,
    id: BatchId,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.bodies.lock().arriving.remove(&self.id);
    }
}

/// What became of an offered body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Kept.
    New,
    /// Held already, pending or delivered.
    Known,
    /// The author's share or the table is full.
    Full,
}

impl Bodies {
    /// Keeps a body. `wanted` bodies, which a proposal names, are kept beyond the limits: proposals
    /// are bounded.
    pub fn offer(&self, batch: &Arc<Batch>, wanted: bool) -> Offer {
        let mut table = self.lock();
        let (id, author, bytes) = (batch.id(), batch.author(), batch.encoded_len());
        if table.pending.contains_key(&id) || table.delivered.contains_key(&id) {
            return Offer::Known;
        }
        let share = table.per_author.get(&author).copied().unwrap_or(0);
        let full = share >= limits::PENDING_BATCHES_PER_AUTHOR_MAX
            || table.pending_bytes + bytes > limits::PENDING_BATCH_BYTES_MAX;
        if full && !wanted {
            return Offer::Full;
        }
        table.pending.insert(id, batch.clone());
        table.pending_bytes += bytes;
        *table.per_author.entry(author).or_default() += 1;
        Offer::New
    }

    /// Announces the check of a body; `None` where it is held or being checked already. Bounded by
    /// the queues of the check.
    pub fn arrive(self: &Arc<Self>, id: BatchId) -> Option<Arriving> {
        let mut table = self.lock();
        let held = table.pending.contains_key(&id) || table.delivered.contains_key(&id);
        (!held && table.arriving.insert(id)).then(|| Arriving { bodies: self.clone(), id })
    }

    /// True where a body is being checked, so that asking for it is no use.
    pub fn is_arriving(&self, id: &BatchId) -> bool {
        self.lock().arriving.contains(id)
    }

    /// Notes that this node asks others for a body; the oldest of more than
    /// `BODIES_ASKED_MAX` is forgotten, and noted again when it is asked for again.
    pub fn ask(&self, id: BatchId) {
        let mut table = self.lock();
        if table.asked.insert(id) {
            table.asked_order.push_back(id);
        }
        while table.asked_order.len() > limits::BODIES_ASKED_MAX {
            let Some(oldest) = table.asked_order.pop_front() else { break };
            table.asked.remove(&oldest);
        }
    }

    /// True where this node asked for a body.
    pub fn is_asked(&self, id: &BatchId) -> bool {
        self.lock().asked.contains(id)
    }

    /// A body, pending or lately delivered.
    pub fn body(&self, id: &BatchId) -> Option<Arc<Batch>> {
        let table = self.lock();
        table.pending.get(id).or_else(|| table.delivered.get(id)).cloned()
    }

    /// Moves a body to the delivered ones; true where it was pending.
    pub fn deliver(&self, id: &BatchId) -> bool {
        let mut table = self.lock();
        let Some(batch) = table.pending.remove(id) else { return false };
        let bytes = batch.encoded_len();
        table.pending_bytes -= bytes;
        if let Some(share) = table.per_author.get_mut(&batch.author()) {
            *share -= 1;
        }
        table.delivered_bytes += bytes;
        table.delivered_order.push_back(*id);
        table.delivered.insert(*id, batch);
        while table.delivered_bytes > limits::DELIVERED_BATCH_BYTES_MAX {
            let Some(oldest) = table.delivered_order.pop_front() else { break };
            if let Some(batch) = table.delivered.remove(&oldest) {
                table.delivered_bytes -= batch.encoded_len();
            }
        }
        true
    }

    /// All bodies not yet delivered.
    pub fn pending(&self) -> Vec<Arc<Batch>> {
        let mut all: Vec<_> = self.lock().pending.values().cloned().collect();
        all.sort_by_key(|batch| batch.id());
        all
    }

    /// Number and bytes of the bodies not yet delivered.
    pub fn depth(&self) -> (usize, usize) {
        let table = self.lock();
        (table.pending.len(), table.pending_bytes)
    }

    /// Bytes of the delivered bodies that are kept.
    pub fn delivered_bytes(&self) -> usize {
        self.lock().delivered_bytes
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Digest;

    /// Aim: what was asked for is remembered, and memory of it stays bounded.
    #[test]
    fn bodies_asked_for_are_remembered_within_a_limit() {
        let bodies = Bodies::default();
        let id = |n: usize| BatchId(Digest::of(&[&n.to_be_bytes()]));
        (0..=limits::BODIES_ASKED_MAX).for_each(|n| bodies.ask(id(n)));
        bodies.ask(id(1));
        assert!(!bodies.is_asked(&id(0)) && bodies.is_asked(&id(1)));
        assert!(bodies.is_asked(&id(limits::BODIES_ASKED_MAX)));
    }

    /// Aim: a body is checked once at a time, may come again after a check that failed, and is not
    /// checked again once it is held.
    #[test]
    fn a_body_is_checked_once() {
        let bodies = Arc::new(Bodies::default());
        let batch = Arc::new(Batch::new(ReplicaId(1), Vec::new(), Vec::new()));
        let (id, other) = (batch.id(), BatchId(Digest::of(&[b"other"])));
        let first = bodies.arrive(id).unwrap();
        assert!(bodies.arrive(id).is_none() && bodies.is_arriving(&id));
        assert!(bodies.arrive(other).is_some());
        drop(first);
        let second = bodies.arrive(id).unwrap();
        assert_eq!(bodies.offer(&batch, false), Offer::New);
        drop(second);
        assert!(bodies.arrive(id).is_none() && !bodies.is_arriving(&id));
        assert!(bodies.deliver(&id));
        assert!(bodies.arrive(id).is_none());
    }
}
