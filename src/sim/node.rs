//! One simulated replica: a core, its disk, and what the driver keeps in memory.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::consensus::Core;
use crate::consensus::Envelope;
use crate::consensus::Timer;
use crate::sim::disk::Disk;
use crate::sim::disk::LedgerEntry;
use crate::sim::keys::Wire;
use crate::sim::options::CrashPoint;
use crate::sim::options::Persona;
use crate::types::block::Tip;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::vote::Slot;
use crate::types::vote::Vote;
use crate::types::vote_signature::VoteSignature;

/// A message that waits for its step to be durable.
pub struct Outgoing {
    /// Receiver; all, the sender included, where absent.
    pub to: Option<ReplicaId>,
    /// The message.
    pub wire: Rc<Wire>,
    /// Slot and text, where the guard recorded them.
    pub vote: Option<(Slot, Digest)>,
}

/// A replica.
pub struct Node {
    /// Whose key it signs with.
    pub id: ReplicaId,
    /// What it does wrong.
    pub persona: Option<Persona>,
    /// Whom a persona talks to, where it chooses.
    pub audience: Option<BTreeSet<ReplicaId>>,
    /// Messages a persona keeps for later use, at most `MEMORY_MESSAGES_MAX`.
    pub memory: VecDeque<Envelope>,
    /// Votes a persona has cast besides those of its core.
    pub echoed: BTreeSet<Vote>,
    /// Messages a persona keeps to itself for good.
    pub withheld: BTreeSet<VoteSignature>,
    /// The state machine; absent while the replica is down.
    pub core: Option<Box<dyn Core>>,
    /// Number of starts: events of an earlier life are dropped.
    pub incarnation: u64,
    /// What survives.
    pub disk: Disk,
    /// Armed timers and the number of their setting.
    pub timers: BTreeMap<Timer, u64>,
    /// Timer settings so far.
    pub timer_settings: u64,
    /// Messages with the mark that must be durable before they leave.
    pub outbox: VecDeque<(u64, Outgoing)>,
    /// Messages of the step in progress.
    pub step_out: Vec<Outgoing>,
    /// True while a sync is under way.
    pub syncing: bool,
    /// Syncs completed since the start of the run.
    pub syncs: u64,
    /// End of what the core delivered or was given.
    pub delivered: Tip,
    /// Delivered and not yet executed.
    pub executing: VecDeque<Rc<LedgerEntry>>,
    /// True while an execution is under way.
    pub execution_busy: bool,
    /// Sequence number of the last execution or fetched block in this life.
    pub executed: SequenceNumber,
    /// Sequence number that the core wants to catch up to.
    pub wanted: SequenceNumber,
    /// True while blocks are on their way.
    pub fetching: bool,
    /// Virtual time of the last execution, microseconds.
    pub moved_us: u64,
    /// Distance of its clock from true time, milliseconds.
    pub clock_offset_ms: i64,
    /// Clock last given to the core.
    pub clock_ms: u64,
    /// Batches announced to the core and not delivered.
    pub announced: BTreeSet<BatchId>,
    /// Batches of `executing`.
    pub executing_batches: BTreeSet<BatchId>,
    /// What the core asked to sign in this life.
    pub asked: BTreeMap<Slot, Digest>,
    /// A crash that waits for its moment, and how long it lasts.
    pub crash_armed: Option<(CrashPoint, u64)>,
    /// Last view seen, for coverage.
    pub view: View,
    /// False while a view change is under way, for coverage.
    pub view_active: bool,
}

impl Node {
    /// A replica with an empty disk that has not started.
    pub fn new(
        id: ReplicaId,
        persona: Option<Persona>,
        genesis: Tip,
        clock_offset_ms: i64,
    ) -> Self {
        Self {
            id,
            persona,
            audience: None,
            memory: VecDeque::new(),
            echoed: BTreeSet::new(),
            withheld: BTreeSet::new(),
            core: None,
            incarnation: 0,
            disk: Disk::default(),
            timers: BTreeMap::new(),
            timer_settings: 0,
            outbox: VecDeque::new(),
            step_out: Vec::new(),
            syncing: false,
            syncs: 0,
            delivered: genesis,
            executing: VecDeque::new(),
            execution_busy: false,
            executed: SequenceNumber(0),
            wanted: SequenceNumber(0),
            fetching: false,
            moved_us: 0,
            clock_offset_ms,
            clock_ms: 0,
            announced: BTreeSet::new(),
            executing_batches: BTreeSet::new(),
            asked: BTreeMap::new(),
            crash_armed: None,
            view: View(0),
            view_active: true,
        }
    }

    /// Whether the replica runs.
    pub fn is_up(&self) -> bool {
        self.core.is_some()
    }

    /// Loses all memory; the disk is the caller's business.
    pub fn power_off(&mut self) {
        self.core = None;
        self.incarnation += 1;
        self.timers.clear();
        self.outbox.clear();
        self.step_out.clear();
        self.syncing = false;
        self.executing.clear();
        self.execution_busy = false;
        self.wanted = SequenceNumber(0);
        self.fetching = false;
        self.clock_ms = 0;
        self.announced.clear();
        self.executing_batches.clear();
        self.asked.clear();
        self.crash_armed = None;
    }

    /// Keeps a message for later mischief.
    pub fn remember(&mut self, envelope: &Envelope) {
        if self.memory.len() == MEMORY_MESSAGES_MAX {
            self.memory.pop_front();
        }
        self.memory.push_back(envelope.clone());
    }
}

const MEMORY_MESSAGES_MAX: usize = 256;
