//! Virtual time: a queue of events, ordered by time and then by order of scheduling.
//!
//! Time is in microseconds since the start of the run and jumps from one event to the next, so an
//! idle minute costs nothing.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;

use crate::consensus::Timer;
use crate::sim::keys::Wire;
use crate::types::ids::Height;
use crate::types::vote::Slot;

/// One second of virtual time, microseconds.
pub const SECOND_US: u64 = 1_000_000;
/// One millisecond of virtual time, microseconds.
pub const MILLISECOND_US: u64 = 1_000;
/// What the replicas' clocks show at the start, milliseconds since 1970.
pub const EPOCH_MS: u64 = 1_700_000_000_000;

/// Position of a node in the cluster; a Byzantine replica may have two nodes.
pub type NodeIndex = usize;

/// What can happen.
pub enum Event {
    /// A message reaches a node.
    Receive { node: NodeIndex, wire: Rc<Wire> },
    /// A node's own signed message comes back to it.
    Loopback { node: NodeIndex, incarnation: u64, wire: Rc<Wire> },
    /// The guard refused a draft of the core.
    Refused { node: NodeIndex, incarnation: u64, slot: Slot },
    /// A persona held this message back until now.
    Late { node: NodeIndex, to: u16, wire: Rc<Wire> },
    /// A batch body reaches a node.
    Body { node: NodeIndex, batch: usize },
    /// A node is asked for a batch body.
    Ask { node: NodeIndex, asker: NodeIndex, batch: usize },
    /// A client hands a batch to its author.
    Submit { batch: usize },
    /// A timer runs out, unless it was armed again or disarmed.
    Timer { node: NodeIndex, incarnation: u64, timer: Timer, generation: u64 },
    /// A disk sync completes.
    Synced { node: NodeIndex, incarnation: u64, upto: u64 },
    /// The oldest delivered proposal is executed and durable.
    Executed { node: NodeIndex, incarnation: u64 },
    /// A node looks whether it is behind.
    CatchUpTick { node: NodeIndex },
    /// Blocks arrive from the source.
    CatchUpDone { node: NodeIndex, incarnation: u64, source: NodeIndex, upto: Height },
    /// A node offers undelivered batch bodies to those who lack them.
    Relay { node: NodeIndex },
    /// The next entry of the fault script.
    Fault { index: usize },
    /// The end of a scripted partition.
    Unpartition { index: usize },
    /// A crashed node starts again, if it is still down.
    Restart { node: NodeIndex, incarnation: u64 },
    /// A persona acts on its own.
    Persona { node: NodeIndex },
    /// Faults end.
    Heal,
    /// Time to look whether the cluster has settled.
    Probe,
}

/// The future, in order.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Entry>,
    scheduled: u64,
}

struct Entry {
    at_us: u64,
    order: u64,
    event: Event,
}

impl Queue {
    /// Puts an event at a time; equal times keep the order of scheduling.
    pub fn schedule(&mut self, at_us: u64, event: Event) {
        self.heap.push(Entry { at_us, order: self.scheduled, event });
        self.scheduled += 1;
    }

    /// The next event and its time.
    pub fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|entry| (entry.at_us, entry.event))
    }
}

impl Ord for Entry {
    /// The heap's greatest entry is the earliest event.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_us, other.order).cmp(&(self.at_us, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
