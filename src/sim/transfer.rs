//! What moves besides consensus messages: batch bodies, executions, blocks for those behind.
//!
//! Bodies: the author sends each to all (some get lost), every holder offers what is undelivered
//! to those who lack it, a core may fetch. Execution: one after the other, a block is durable when
//! it is reported; a null request leaves nothing. Catch-up: blocks from a correct replica that has
//! more, checked by hash and certificate; each is reported to the core by itself.

use std::rc::Rc;

use crate::consensus::Delivered;
use crate::consensus::Executed;
use crate::consensus::Input;
use crate::sim::clock::Event;
use crate::sim::clock::NodeIndex;
use crate::sim::cluster::Cluster;
use crate::sim::cluster::RELAY_US;
use crate::sim::disk::LedgerEntry;
use crate::sim::options::Persona;
use crate::types::block::Tip;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::BlockHash;
use crate::types::ids::Height;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::receipt;

impl Cluster<'_> {
    /// A client hands a batch to its author, who sends it to all. A batch for a dead author is
    /// lost, as a refused request is.
    pub(super) fn on_submit(&mut self, batch: usize) {
        let reference = self.batches[batch];
        let author = reference.author.0;
        self.checker.on_submit(reference);
        self.trace.note(self.now_us, usize::from(author), "submit", batch as u64, || {
            format!("batch {batch}")
        });
        for node in self.nodes_of(author) {
            if !self.nodes[node].is_up() {
                continue;
            }
            self.on_body(node, batch);
            for other in 0..self.nodes.len() {
                let missing = self.random.bodies.chance(self.options.missing_permille);
                if self.nodes[other].id.0 != author && (self.healed || !missing) {
                    self.send_body(node, other, batch);
                }
            }
        }
    }

    fn send_body(&mut self, from: NodeIndex, to: NodeIndex, batch: usize) {
        let (a, b) = (self.nodes[from].id.0, self.nodes[to].id.0);
        for arrival in self.network.route(self.now_us, a, b).into_iter().flatten() {
            self.queue.schedule(arrival, Event::Body { node: to, batch });
        }
    }

    /// A body arrives: stored, then announced. Repeats of undelivered ones are announced again.
    pub(super) fn on_body(&mut self, at: NodeIndex, batch: usize) {
        if self.nodes[at].is_up() {
            let id = self.batches[batch].id;
            self.nodes[at].disk.store_body(id);
            self.trace.note(self.now_us, at, "body", batch as u64, || format!("batch {batch}"));
            self.announce(at, id);
        }
    }

    /// Tells the core of a body, unless it is in the chain already.
    pub(super) fn announce(&mut self, at: NodeIndex, id: BatchId) {
        let node = &mut self.nodes[at];
        if node.disk.in_ledger(id) || node.executing_batches.contains(&id) {
            return;
        }
        node.announced.insert(id);
        let batch = self.batches[self.batch_index[&id]];
        self.input(at, Input::BatchAvailable(batch));
    }

    /// Offers undelivered bodies to those who lack them.
    pub(super) fn on_relay(&mut self, at: NodeIndex) {
        self.queue.schedule(self.now_us + RELAY_US, Event::Relay { node: at });
        let quiet = matches!(self.nodes[at].persona, Some(Persona::Mute | Persona::Selective));
        if !self.nodes[at].is_up() || quiet {
            return;
        }
        let held: Vec<BatchId> = self.nodes[at].disk.pending_bodies().collect();
        for id in held {
            for other in 0..self.nodes.len() {
                if other != at && self.nodes[other].is_up() && !self.nodes[other].disk.holds(id) {
                    self.send_body(at, other, self.batch_index[&id]);
                }
            }
        }
    }

    pub(super) fn on_fetch(&mut self, at: NodeIndex, id: BatchId, from: &[ReplicaId]) {
        self.checker.count("fetches");
        let Some(batch) = self.batch_index.get(&id).copied() else { return };
        let me = self.nodes[at].id.0;
        for source in from.iter().filter(|source| source.0 != me) {
            for node in self.nodes_of(source.0) {
                let [arrival, _] = self.network.route(self.now_us, me, source.0);
                if let Some(arrival) = arrival {
                    self.queue.schedule(arrival, Event::Ask { node, asker: at, batch });
                }
            }
        }
    }

    pub(super) fn on_ask(&mut self, at: NodeIndex, asker: NodeIndex, batch: usize) {
        let node = &self.nodes[at];
        let serves = node.persona.is_none() || self.random.personas.chance(500);
        if node.is_up() && serves && node.disk.holds(self.batches[batch].id) {
            self.send_body(at, asker, batch);
        }
    }

    pub(super) fn on_deliver(&mut self, at: NodeIndex, delivered: Delivered) {
        let Delivered { proposal, certificate } = delivered;
        let before = self.nodes[at].delivered;
        let (tip, digest) = before.extend(self.chain, &proposal);
        let checkpoint = self.checkpoint_of(&tip);
        let entry = Rc::new(LedgerEntry { proposal, certificate, digest, tip, checkpoint });
        self.reached = self.reached.max(tip.sequence);
        self.trace.note(self.now_us, at, "deliver", tip.sequence.0, || {
            let batches = entry.proposal.batches.iter();
            let batches: Vec<_> = batches.map(|b| self.batch_index.get(&b.id)).collect();
            format!("{} height {} batches {batches:?}", tip.sequence, tip.height)
        });
        let nodes = &self.nodes;
        if nodes[at].persona.is_none() {
            let safe = |replica: ReplicaId, batch: BatchId| {
                let mut of = nodes.iter().filter(|n| n.id == replica);
                of.any(|n| n.disk.holds_durably(batch))
            };
            let held = |batch: BatchId| nodes[at].disk.holds(batch);
            let id = nodes[at].id;
            self.checker.on_deliver(id, &before, &entry, &self.keys, held, safe);
        }
        let node = &mut self.nodes[at];
        node.delivered = tip;
        for batch in &entry.proposal.batches {
            node.announced.remove(&batch.id);
            node.executing_batches.insert(batch.id);
        }
        node.executing.push_back(entry);
        let executed = node.executed;
        let waiting = node.executing.iter().filter(|e| e.proposal.sequence > executed).count();
        let waiting = u64::try_from(waiting).expect("small");
        self.checker.peak("execution_queue_max", waiting);
        if waiting > EXECUTION_QUEUE_MAX.max(2 * self.options.parameters.window) {
            let text = format!("{waiting} delivered and not executed");
            self.checker.fail("bounds", text);
        }
        self.start_execution(at);
    }

    fn start_execution(&mut self, at: NodeIndex) {
        let node = &mut self.nodes[at];
        while !node.execution_busy
            && let Some(front) = node.executing.front()
            && front.proposal.sequence <= node.executed
        {
            for batch in &front.proposal.batches {
                node.executing_batches.remove(&batch.id);
            }
            node.executing.pop_front();
            self.checker.count("executions_skipped");
        }
        if node.execution_busy || node.executing.is_empty() {
            return;
        }
        node.execution_busy = true;
        let event = Event::Executed { node: at, incarnation: node.incarnation };
        let (min, max) = self.options.execute_us;
        let max = if self.healed { max.min(EXECUTION_HEALED_US_MAX) } else { max };
        let took_us = self.random.execution.between(min, max) * self.slowness(at);
        self.queue.schedule(self.now_us + took_us, event);
    }

    /// As the execute and commit stations do: what a fetched block overtook is skipped in silence,
    /// a null request is counted and not stored.
    pub(super) fn on_executed(&mut self, at: NodeIndex) {
        let node = &mut self.nodes[at];
        node.execution_busy = false;
        let Some(entry) = node.executing.pop_front() else { return };
        for batch in &entry.proposal.batches {
            node.executing_batches.remove(&batch.id);
        }
        let sequence = entry.proposal.sequence;
        if sequence <= node.executed {
            self.checker.count("executions_skipped");
            return self.start_execution(at);
        }
        node.executed = sequence;
        if !entry.proposal.is_null() {
            let (before, _) = self.tip_of(at).extend(self.chain, &entry.proposal);
            if before != entry.tip {
                let text =
                    format!("replica {}: block {sequence} does not follow", self.nodes[at].id);
                return self.checker.fail("agreement", text);
            }
            self.nodes[at].disk.append_ledger(Rc::clone(&entry));
        }
        let mut checkpoint = entry.checkpoint;
        if self.nodes[at].persona == Some(Persona::DivergentState) {
            checkpoint = Digest::of(&[b"another state", &checkpoint.0]);
        }
        self.nodes[at].moved_us = self.now_us;
        self.trace.note(self.now_us, at, "executed", sequence.0, || sequence.to_string());
        self.input(at, Input::Executed(Executed { sequence, checkpoint }));
        if self.nodes[at].is_up() {
            self.start_execution(at);
        }
    }

    pub(super) fn on_catch_up(&mut self, at: NodeIndex, sequence: SequenceNumber) {
        let node = &mut self.nodes[at];
        if node.persona.is_none() {
            let reached = self.reached.0.max(node.delivered.sequence.0 + 1);
            self.checker.on_catch_up(node.id, sequence, SequenceNumber(reached));
        }
        self.trace.note(self.now_us, at, "catch-up", sequence.0, || format!("to {sequence}"));
        node.wanted = node.wanted.max(sequence);
    }

    pub(super) fn on_diverged(&mut self, at: NodeIndex, sequence: SequenceNumber) {
        let node = &mut self.nodes[at];
        self.trace.note(self.now_us, at, "diverged", sequence.0, || format!("at {sequence}"));
        self.checker.count("divergences");
        if node.persona.is_none() {
            let text = format!("correct replica {} says that its state diverged", node.id);
            return self.checker.fail("agreement", text);
        }
        // As the order station does: the process stops and starts anew from the ledger.
        self.crash(at, REBUILD_US);
    }

    /// As the catch-up station does: asks one peer for blocks where the core says that it is
    /// behind, where a peer is far ahead, or ahead while this replica stands still.
    pub(super) fn on_catch_up_tick(&mut self, at: NodeIndex) {
        self.queue.schedule(self.now_us + CATCH_UP_TICK_US, Event::CatchUpTick { node: at });
        let node = &self.nodes[at];
        if !node.is_up() || node.fetching {
            return;
        }
        let here = self.tip_of(at);
        let still = self.now_us > node.moved_us + STANDSTILL_US;
        let wanted = here.sequence < node.wanted || still;
        let me = node.id.0;
        let sources: Vec<NodeIndex> = (0..self.nodes.len())
            .filter(|other| {
                let source = &self.nodes[*other];
                source.persona.is_none()
                    && source.is_up()
                    && self.tip_of(*other).height.0 > here.height.0 + if wanted { 0 } else { LAG }
                    && !self.network.is_blocked(me, source.id.0)
                    && !self.network.is_blocked(source.id.0, me)
            })
            .collect();
        let Some(source) = self.random.catch_up.pick(&sources).copied() else { return };
        self.nodes[at].fetching = true;
        if self.nodes[at].wanted <= here.sequence {
            self.checker.count("catch_ups_unasked");
        }
        let took_us = self.random.catch_up.between(2_000, 60_000);
        let incarnation = self.nodes[at].incarnation;
        let upto = Height(self.tip_of(source).height.0.min(here.height.0 + CHUNK));
        let event = Event::CatchUpDone { node: at, incarnation, source, upto };
        self.queue.schedule(self.now_us + took_us, event);
    }

    pub(super) fn on_catch_up_done(&mut self, at: NodeIndex, source: NodeIndex, upto: Height) {
        self.nodes[at].fetching = false;
        let incarnation = self.nodes[at].incarnation;
        loop {
            let next = Height(self.tip_of(at).height.0 + 1);
            let entry = self.nodes[source].disk.block(next).cloned();
            let Some(entry) = entry.filter(|_| next <= upto) else { return };
            let (tip, digest) = self.tip_of(at).extend(self.chain, &entry.proposal);
            let node = &mut self.nodes[at];
            if digest != entry.digest || tip != entry.tip {
                let text = format!("replica {}: fetched block {next} does not follow", node.id);
                return self.checker.fail("agreement", text);
            }
            node.disk.append_ledger(Rc::clone(&entry));
            node.executed = node.executed.max(tip.sequence);
            node.moved_us = self.now_us;
            if node.persona.is_none() {
                self.checker.on_restore(node.id, &entry, &self.keys);
            }
            self.restored(at, &entry);
            if !self.alive(at, incarnation) {
                return;
            }
        }
    }

    /// A fetched block is durable here.
    fn restored(&mut self, at: NodeIndex, entry: &Rc<LedgerEntry>) {
        let tip = entry.tip;
        self.checker.count("blocks_fetched");
        self.trace.note(self.now_us, at, "restored", tip.sequence.0, || format!("{tip:?}"));
        let ids: Vec<BatchId> = entry.proposal.batches.iter().map(|b| b.id).collect();
        self.forget_announced(at, &ids);
        self.input(at, Input::BatchesCommitted(ids));
        let checkpoint = entry.checkpoint;
        let node = &mut self.nodes[at];
        let stale = tip.sequence <= node.delivered.sequence;
        if !stale {
            node.delivered = tip;
        } else if !self.options.restored_when_stale {
            // The order station's shortcut for what the core delivered itself meanwhile.
            let sequence = tip.sequence;
            return self.input(at, Input::Executed(Executed { sequence, checkpoint }));
        }
        self.input(at, Input::Restored { tip, checkpoint });
    }

    fn forget_announced(&mut self, at: NodeIndex, ids: &[BatchId]) {
        for id in ids {
            self.nodes[at].announced.remove(id);
        }
    }

    /// What a checkpoint vote at this tip signs: the state is a function of the chain.
    pub(super) fn checkpoint_of(&self, tip: &Tip) -> Digest {
        let Tip { height, hash, sequence, .. } = *tip;
        let state_root = state_root(height, hash);
        receipt::checkpoint_digest(self.chain, sequence, height, hash, state_root, Digest::ZERO)
    }

    /// The end of the blocks; null requests leave nothing behind.
    pub(super) fn tip_of(&self, at: NodeIndex) -> Tip {
        self.nodes[at].disk.last().map_or(self.genesis, |entry| entry.tip)
    }
}

fn state_root(height: Height, hash: BlockHash) -> Digest {
    Digest::of(&[b"obelisk.sim.state", &height.0.to_be_bytes(), &hash.0.0])
}

/// Sequence numbers delivered and not executed: two windows, or what the stations between hold.
const EXECUTION_QUEUE_MAX: u64 = 32;
/// Blocks of one catch-up answer.
const CHUNK: u64 = 8;
/// Distance of two looks at whether this replica is behind, microseconds.
pub(super) const CATCH_UP_TICK_US: u64 = 100_000;
/// A replica that stands still this long while a peer is ahead fetches unasked, microseconds.
const STANDSTILL_US: u64 = 1_000_000;
/// Blocks that a peer may be ahead without being asked.
const LAG: u64 = 64;
/// Time that rebuilding a diverged state takes, microseconds.
const REBUILD_US: u64 = 500_000;
/// Greatest execution time once faults have ended, microseconds.
const EXECUTION_HEALED_US_MAX: u64 = 20_000;
