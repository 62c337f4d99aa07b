//! The cluster: all nodes, the event loop, the fault script and the question whether all settled.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::CoreStatus;
use crate::consensus::Effect;
use crate::consensus::FaultModel;
use crate::consensus::Input;
use crate::consensus::Plugin;
use crate::sim::Outcome;
use crate::sim::checkers::Checker;
use crate::sim::clock::Event;
use crate::sim::clock::MILLISECOND_US;
use crate::sim::clock::NodeIndex;
use crate::sim::clock::Queue;
use crate::sim::keys::Keys;
use crate::sim::network::Network;
use crate::sim::node::Node;
use crate::sim::options::Action;
use crate::sim::options::CrashPoint;
use crate::sim::options::Options;
use crate::sim::options::Persona;
use crate::sim::random::Stream;
use crate::sim::trace::Trace;
use crate::sim::transfer::CATCH_UP_TICK_US;
use crate::types::batch::BatchRef;
use crate::types::block::Tip;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::ChainId;
use crate::types::ids::Epoch;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::replica_set::Replica;
use crate::types::replica_set::ReplicaSet;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;

/// A run in progress.
pub struct Cluster<'a> {
    pub(super) plugin: &'a Plugin,
    pub(super) options: &'a Options,
    pub(super) chain: ChainId,
    pub(super) replicas: Arc<ReplicaSet>,
    pub(super) genesis: Tip,
    pub(super) keys: Keys,
    pub(super) now_us: u64,
    pub(super) queue: Queue,
    pub(super) network: Network,
    pub(super) nodes: Vec<Node>,
    pub(super) batches: Vec<BatchRef>,
    pub(super) batch_index: BTreeMap<BatchId, usize>,
    pub(super) checker: Checker,
    pub(super) trace: Trace,
    pub(super) random: Streams,
    pub(super) healed: bool,
    /// Highest sequence number that any node delivered.
    pub(super) reached: SequenceNumber,
    /// Effects of the step in progress; kept to reuse its memory.
    pub(super) effects: Vec<Effect>,
    /// What correct replicas keep as evidence, in its portable form.
    pub(super) evidence: Vec<Bytes>,
    stage: Stage,
}

/// One random stream per subsystem.
pub(super) struct Streams {
    pub(super) disk: Stream,
    pub(super) execution: Stream,
    pub(super) bodies: Stream,
    pub(super) clients: Stream,
    pub(super) catch_up: Stream,
    pub(super) personas: Stream,
    pub(super) crashes: Stream,
}

/// How far the liveness phase is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Faults happen.
    Faults,
    /// Everything submitted so far must be in the chain.
    Settling,
    /// Batches submitted after that must be, too.
    FreshWork,
    Done,
}

impl<'a> Cluster<'a> {
    /// A cluster before its first event; `keep_lines` of the trace are kept as text.
    pub fn new(plugin: &'a Plugin, options: &'a Options, keep_lines: usize) -> Self {
        let seed = options.seed;
        let chain = ChainId(Digest::of(&[b"obelisk.sim.chain", &seed.to_be_bytes()]));
        let replicas = Arc::new(replica_set(options.replicas));
        let genesis = Tip::genesis(chain, 0);
        let byzantine = options.personas.iter().map(|(id, _)| ReplicaId(*id)).collect();
        let stream = |name| Stream::new(seed, name);
        Self {
            plugin,
            options,
            chain,
            genesis,
            keys: Keys::new(seed),
            now_us: 0,
            queue: Queue::default(),
            network: Network::new(options.link, stream("network")),
            nodes: nodes(options, genesis),
            batches: Vec::new(),
            batch_index: BTreeMap::new(),
            checker: Checker::new(chain, plugin, Arc::clone(&replicas), byzantine),
            trace: Trace::new(keep_lines),
            random: Streams {
                disk: stream("disk"),
                execution: stream("execution"),
                bodies: stream("bodies"),
                clients: stream("clients"),
                catch_up: stream("catch-up"),
                personas: stream("personas"),
                crashes: stream("crashes"),
            },
            healed: false,
            reached: SequenceNumber(0),
            effects: Vec::new(),
            evidence: Vec::new(),
            stage: Stage::Faults,
            replicas,
        }
    }

    /// Runs to the end: settled, a broken promise, or out of time.
    pub fn run(mut self) -> Outcome {
        self.schedule_all();
        let end_us = self.options.heal_us + self.options.liveness_us;
        while let Some((at_us, event)) = self.queue.pop() {
            if at_us > end_us {
                let text = self.unsettled();
                self.checker.fail("liveness", text);
            }
            self.now_us = at_us;
            self.checker.now_us = at_us;
            if self.trace.events > EVENTS_MAX {
                self.checker.fail("bounds", format!("more than {EVENTS_MAX} events"));
            }
            if self.checker.violation.is_some() || self.stage == Stage::Done {
                break;
            }
            self.handle(event);
        }
        Outcome {
            options: self.options.clone(),
            violation: self.checker.violation,
            trace_hash: self.trace.hash(),
            events: self.trace.events,
            virtual_ms: self.now_us / MILLISECOND_US,
            coverage: self.checker.coverage,
            trace: self.trace.into_lines(),
            chain: self.chain,
            keys: self.keys,
            replicas: self.replicas,
            evidence: self.evidence,
        }
    }

    fn schedule_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.start(node);
            let offset = self.random.bodies.below(RELAY_US);
            self.queue.schedule(offset, Event::Relay { node });
            self.queue.schedule(offset % CATCH_UP_TICK_US, Event::CatchUpTick { node });
            if self.nodes[node].persona.is_some() {
                self.queue.schedule(offset, Event::Persona { node });
            }
        }
        let mut at_us = 0;
        for _ in 0..self.options.batches {
            at_us += self.random.clients.below(2 * self.options.batch_gap_us);
            let author = self.random.clients.below(u64::from(self.options.replicas));
            let batch = self.new_batch(u16::try_from(author).expect("below n"));
            self.queue.schedule(at_us, Event::Submit { batch });
        }
        for (index, fault) in self.options.script.iter().enumerate() {
            self.queue.schedule(fault.at_us, Event::Fault { index });
        }
        self.queue.schedule(self.options.heal_us, Event::Heal);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Receive { node, wire } => self.on_receive(node, &wire),
            Event::Loopback { node, incarnation, wire } => {
                self.on_loopback(node, incarnation, &wire);
            }
            Event::Refused { node, incarnation, slot } => {
                if self.alive(node, incarnation) {
                    self.input(node, Input::Refused(slot));
                }
            }
            Event::Late { node, to, wire } => self.transmit(node, ReplicaId(to), &wire),
            Event::Body { node, batch } => self.on_body(node, batch),
            Event::Ask { node, asker, batch } => self.on_ask(node, asker, batch),
            Event::Submit { batch } => self.on_submit(batch),
            Event::Timer { node, incarnation, timer, generation } => {
                if self.alive(node, incarnation) {
                    self.on_timer(node, timer, generation);
                }
            }
            Event::Synced { node, incarnation, upto } => {
                if self.alive(node, incarnation) {
                    self.on_synced(node, upto);
                }
            }
            Event::Executed { node, incarnation } => {
                if self.alive(node, incarnation) {
                    self.on_executed(node);
                }
            }
            Event::CatchUpTick { node } => self.on_catch_up_tick(node),
            Event::CatchUpDone { node, incarnation, source, upto } => {
                if self.alive(node, incarnation) {
                    self.on_catch_up_done(node, source, upto);
                }
            }
            Event::Relay { node } => self.on_relay(node),
            Event::Fault { index } => self.on_fault(index),
            Event::Unpartition { index } => self.on_unpartition(index),
            Event::Restart { node, incarnation } => {
                if self.nodes[node].incarnation == incarnation && !self.nodes[node].is_up() {
                    self.start(node);
                }
            }
            Event::Persona { node } => self.on_persona(node),
            Event::Heal => self.on_heal(),
            Event::Probe => self.on_probe(),
        }
    }

    /// Forms a batch nobody has seen.
    pub(super) fn new_batch(&mut self, author: u16) -> usize {
        let id = BatchId(self.random.clients.digest());
        let transaction_root = self.random.clients.digest();
        let bytes = u32::try_from(self.random.clients.between(200, 100_000)).expect("small");
        let author = ReplicaId(author);
        let drawn = u32::from(u16::from_be_bytes([transaction_root.0[0], transaction_root.0[1]]));
        let most = self.plugin.sequence_txs_max.min(BATCH_TXS_DRAWN_MAX);
        let transactions = 1 + drawn % u32::try_from(most).expect("small");
        self.batches.push(BatchRef { id, author, transactions, bytes, transaction_root });
        self.batch_index.insert(id, self.batches.len() - 1);
        self.batches.len() - 1
    }

    fn on_fault(&mut self, index: usize) {
        let action = &self.options.script[index].action;
        if self.healed && !matches!(action, Action::Submit { .. }) {
            return;
        }
        self.trace.note(self.now_us, 0, "fault", index as u64, || format!("{action:?}"));
        match action {
            Action::Crash { replica, point, down_us } => {
                for node in self.nodes_of(*replica) {
                    self.arm_crash(node, *point, *down_us);
                }
            }
            Action::CrashAll { down_us } => {
                self.checker.count("crashes_of_all");
                for node in 0..self.nodes.len() {
                    self.crash(node, *down_us);
                }
            }
            Action::Partition { blockade, for_us } => {
                self.checker.count("partitions");
                self.network.block(blockade);
                let end_us = self.now_us + for_us;
                self.queue.schedule(end_us, Event::Unpartition { index });
            }
            Action::ClockSet { replica, offset_ms } => {
                for node in self.nodes_of(*replica) {
                    self.nodes[node].clock_offset_ms = *offset_ms;
                }
            }
            Action::Submit { replica } => {
                let batch = self.new_batch(*replica);
                self.on_submit(batch);
            }
        }
    }

    fn arm_crash(&mut self, at: NodeIndex, point: CrashPoint, down_us: u64) {
        if point == CrashPoint::Now {
            self.crash(at, down_us);
        } else if self.nodes[at].is_up() {
            self.nodes[at].crash_armed = Some((point, down_us));
        }
    }

    /// Cuts the power of a node and plans its return.
    pub(super) fn crash(&mut self, at: NodeIndex, down_us: u64) {
        let node = &mut self.nodes[at];
        if !node.is_up() {
            return;
        }
        self.checker.count("crashes");
        if !node.view_active {
            self.checker.count("crashes_in_view_change");
        }
        if node.fetching {
            self.checker.count("crashes_in_catch_up");
        }
        node.power_off();
        // A core that survives no fault cannot outlive a guard that remembers more than its log.
        let in_order = self.plugin.faults == FaultModel::None;
        if node.disk.crash(&mut self.random.disk, in_order) {
            self.checker.count("crashes_with_loss");
        }
        self.trace.note(self.now_us, at, "crash", down_us, || format!("for {down_us} us"));
        let incarnation = self.nodes[at].incarnation;
        self.queue.schedule(self.now_us + down_us, Event::Restart { node: at, incarnation });
    }

    fn on_unpartition(&mut self, index: usize) {
        if let Action::Partition { blockade, .. } = &self.options.script[index].action
            && !self.healed
        {
            self.trace.note(self.now_us, 0, "unpartition", index as u64, String::new);
            self.network.unblock(blockade);
        }
    }

    fn on_heal(&mut self) {
        self.trace.note(self.now_us, 0, "heal", 0, String::new);
        self.healed = true;
        self.network.heal();
        for node in 0..self.nodes.len() {
            self.nodes[node].crash_armed = None;
            if !self.nodes[node].is_up() {
                self.start(node);
            }
        }
        self.stage = Stage::Settling;
        self.queue.schedule(self.now_us + PROBE_US, Event::Probe);
    }

    fn on_probe(&mut self) {
        if self.unsettled().is_empty() {
            self.stage = match self.stage {
                Stage::Settling => {
                    for _ in 0..2 {
                        let n = u64::from(self.options.replicas);
                        let to = self.random.clients.below(n);
                        let batch = self.new_batch(u16::try_from(to).expect("below n"));
                        self.on_submit(batch);
                    }
                    Stage::FreshWork
                }
                Stage::FreshWork => {
                    self.finish();
                    Stage::Done
                }
                stage => stage,
            };
        }
        self.queue.schedule(self.now_us + PROBE_US, Event::Probe);
    }

    fn finish(&mut self) {
        let settled_ms = (self.now_us - self.options.heal_us) / MILLISECOND_US;
        self.checker.peak("settled_ms_max", settled_ms);
        for node in self.nodes.iter().filter(|n| n.persona.is_none()) {
            self.checker.peak("view_max", node.view.0);
        }
    }

    /// Why the correct replicas have not settled; empty when they have.
    fn unsettled(&self) -> String {
        let correct: Vec<&Node> = self.nodes.iter().filter(|n| n.persona.is_none()).collect();
        let height = |n: &Node| n.disk.last().map_or(0, |e| e.tip.height.0);
        let status = |n: &Node| n.core.as_ref().map(|c| c.status()).unwrap_or_default();
        let pending = |n: &Node| n.disk.pending_bodies().count();
        let same_chain =
            correct.iter().all(|n| n.is_up() && pending(n) == 0 && height(n) == height(correct[0]));
        let settled = same_chain && self.views_converged(&correct);
        if settled {
            return String::new();
        }
        let lines: Vec<String> = correct
            .iter()
            .map(|n| {
                let s = status(n);
                format!(
                    "{}: height {} view {}{} delivered {} stable {} pending {}",
                    n.id,
                    height(n),
                    s.view,
                    if s.view_active { "" } else { " (changing)" },
                    s.delivered,
                    s.stable,
                    pending(n)
                )
            })
            .collect();
        lines.join("; ")
    }

    /// A quorum is active in one view, counting the Byzantine replicas as willing; who demanded a
    /// higher view alone must not vote in a lower one again and follows by catching up.
    fn views_converged(&self, correct: &[&Node]) -> bool {
        let statuses = correct.iter().filter_map(|n| n.core.as_ref()).map(|core| core.status());
        let statuses: Vec<CoreStatus> = statuses.collect();
        let view = statuses.iter().filter(|s| s.view_active).map(|s| s.view).max();
        let here = statuses.iter().filter(|s| s.view_active && Some(s.view) == view).count();
        let ahead = statuses.iter().filter(|s| !s.view_active && Some(s.view) > view).count();
        let byzantine = self.options.personas.len();
        here + ahead == statuses.len() && here + byzantine >= self.replicas.quorum()
    }

    pub(super) fn alive(&self, node: NodeIndex, incarnation: u64) -> bool {
        self.nodes[node].incarnation == incarnation && self.nodes[node].is_up()
    }

    /// The node, or the two nodes, that hold this replica's key.
    pub(super) fn nodes_of(&self, replica: u16) -> Vec<NodeIndex> {
        let of = |node: &(usize, &Node)| node.1.id.0 == replica;
        self.nodes.iter().enumerate().filter(of).map(|(index, _)| index).collect()
    }
}

fn nodes(options: &Options, genesis: Tip) -> Vec<Node> {
    let offset = |id: u16| options.clock_offset_ms.get(usize::from(id)).copied().unwrap_or(0);
    let persona = |id: u16| options.personas.iter().find(|(p, _)| *p == id).map(|(_, p)| *p);
    let mut nodes: Vec<Node> = (0..options.replicas)
        .map(|id| Node::new(ReplicaId(id), persona(id), genesis, offset(id)))
        .collect();
    for (id, persona) in &options.personas {
        if *persona == Persona::Equivocator {
            let twin_clock = offset(*id) + 137;
            nodes.push(Node::new(ReplicaId(*id), Some(*persona), genesis, twin_clock));
        }
    }
    nodes
}

fn replica_set(count: u16) -> ReplicaSet {
    let member = |id: u16| {
        let key = Digest::of(&[b"obelisk.sim.key", &id.to_be_bytes()]);
        Replica {
            organisation: format!("organisation-{id}"),
            name: format!("validator-{id}"),
            key: PublicKey::new(Algorithm::Ed25519, &key.0).expect("32 bytes"),
        }
    };
    ReplicaSet::new(Epoch(0), (0..count).map(member).collect()).expect("distinct members")
}

/// Transactions of one batch, at most: some fill a proposal, most do not.
const BATCH_TXS_DRAWN_MAX: usize = 400;
/// Distance of two looks at whether all have settled, microseconds.
const PROBE_US: u64 = 100_000;
/// Distance of two offers of undelivered bodies by one node, microseconds.
pub(super) const RELAY_US: u64 = 400_000;
/// Events of one run: a run that needs more is a storm.
const EVENTS_MAX: u64 = 3_000_000;
