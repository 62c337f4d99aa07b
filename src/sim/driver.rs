//! The driver around each core, as `pipeline/order` is one: it plays the contract of
//! `consensus/mod.rs` and looks for every way in which a crash may fall between its steps.
//!
//! ```text
//! input -> core.step -> effects -> log, guard, timers at once
//!                               -> messages: outbox -> sync -> (crash?) -> network + loopback
//!                               -> delivered: execution queue (`transfer.rs`)
//! ```
//!
//! The outbox is first in, first out: a message leaves when all that was written up to the end of
//! its step is durable. The core goes on meanwhile.

use std::rc::Rc;

use crate::consensus::Claim;
use crate::consensus::Draft;
use crate::consensus::Effect;
use crate::consensus::Envelope;
use crate::consensus::Evidence;
use crate::consensus::Input;
use crate::consensus::LogRecord;
use crate::consensus::Setup;
use crate::consensus::Timer;
use crate::consensus::evidence::Accusation;
use crate::consensus::evidence::Judge;
use crate::consensus::pbft;
use crate::sim::clock::EPOCH_MS;
use crate::sim::clock::Event;
use crate::sim::clock::MILLISECOND_US;
use crate::sim::clock::NodeIndex;
use crate::sim::cluster::Cluster;
use crate::sim::disk::Cleared;
use crate::sim::keys::Wire;
use crate::sim::node::Outgoing;
use crate::sim::options::CrashPoint;
use crate::sim::options::Persona;
use crate::sim::options::Sabotage;
use crate::types::block::Tip;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::ids::ReplicaId;
use crate::types::verified::Verified;
use crate::types::vote;
use crate::types::vote::Slot;
use crate::types::vote::Vote;

impl Cluster<'_> {
    /// Builds the core from the disk, as after every process start.
    pub(super) fn start(&mut self, at: NodeIndex) {
        let node = &self.nodes[at];
        let tip = node.disk.last().map_or(self.genesis, |entry| entry.tip);
        let setup = Setup {
            chain: self.chain,
            me: node.id,
            replicas: std::sync::Arc::clone(&self.replicas),
            parameters: self.options.parameters,
            tuning: self.options.tuning,
            tip,
            checkpoint: self.checkpoint_of(&tip),
            log: node.disk.log(),
        };
        let build = match node.persona {
            Some(Persona::Crowder) => pbft::PLUGIN.build,
            _ => self.plugin.build,
        };
        let core = build(setup);
        let held: Vec<_> = node.disk.pending_bodies().collect();
        // A core may know from its log that null requests followed the last block.
        let sequence = core.status().delivered.max(tip.sequence);
        let node = &mut self.nodes[at];
        node.core = Some(core);
        node.delivered = Tip { sequence, ..tip };
        node.executed = tip.sequence;
        node.moved_us = self.now_us;
        if node.persona.is_none() {
            self.checker.on_start(node.id, &tip, sequence);
        }
        self.trace.note(self.now_us, at, "start", tip.sequence.0, || format!("{tip:?}"));
        self.input(at, Input::Start);
        for id in held {
            self.announce(at, id);
        }
    }

    /// Gives the core its clock and one input, then carries out what it asks.
    pub(super) fn input(&mut self, at: NodeIndex, input: Input) {
        let clock_ms = self.clock_of(at);
        let node = &mut self.nodes[at];
        let Some(core) = node.core.as_mut() else { return };
        let mut effects = std::mem::take(&mut self.effects);
        if clock_ms != node.clock_ms {
            node.clock_ms = clock_ms;
            core.step(Input::Clock(clock_ms), &mut effects);
        }
        core.step(input, &mut effects);
        if effects.len() > EFFECTS_MAX {
            let text = format!("replica {} asks for {} effects at once", node.id, effects.len());
            self.checker.fail("bounds", text);
        }
        for effect in effects.drain(..) {
            // An effect may have ended the process.
            if self.nodes[at].is_up() {
                self.carry_out(at, effect);
            }
        }
        self.effects = effects;
        self.close_step(at);
        self.look_at_status(at);
    }

    fn carry_out(&mut self, at: NodeIndex, effect: Effect) {
        match effect {
            Effect::Persist(record) => {
                if self.options.sabotage != Some(Sabotage::ForgetPersist) {
                    self.nodes[at].disk.append(record);
                }
            }
            Effect::Compact(records) => self.on_compact(at, records),
            Effect::Send { to, message } => self.queue_draft(at, Some(to), message),
            Effect::Broadcast(message) => self.queue_draft(at, None, message),
            Effect::Foresee(vote) => self.sign_ahead(at, &vote),
            Effect::Forward { to, message } => {
                let wire = Rc::new(Wire::new(message, None));
                let outgoing = Outgoing { to: Some(to), wire, vote: None };
                self.nodes[at].step_out.push(outgoing);
            }
            Effect::Arm { timer, after_ms } => self.arm(at, timer, after_ms),
            Effect::Disarm(timer) => {
                self.nodes[at].timers.remove(&timer);
            }
            Effect::Deliver(delivered) => self.on_deliver(at, delivered),
            Effect::FetchBatch { id, from } => self.on_fetch(at, id, &from),
            Effect::CatchUp { sequence, .. } => self.on_catch_up(at, sequence),
            Effect::Accuse(evidence) => self.on_accuse(at, &evidence),
            Effect::Diverged { sequence, .. } => self.on_diverged(at, sequence),
        }
    }

    fn on_compact(&mut self, at: NodeIndex, records: Vec<LogRecord>) {
        let count = u64::try_from(records.len()).expect("small");
        self.checker.peak("log_records_max", count);
        let window = self.options.parameters.window;
        let bound = LOG_RECORDS_PER_SEQUENCE_MAX * window + LOG_RECORDS_MORE_MAX;
        if count > bound && self.nodes[at].persona.is_none() {
            let id = self.nodes[at].id;
            self.checker.fail("bounds", format!("replica {id} keeps {count} log records"));
        }
        self.nodes[at].disk.compact(records);
    }

    fn queue_draft(&mut self, at: NodeIndex, to: Option<ReplicaId>, draft: Draft) {
        let id = self.nodes[at].id;
        let text = vote::signed_text(&self.chain, &draft.body);
        let mut vote = None;
        if self.nodes[at].persona.is_none() {
            let digest = Digest::of(&[&text]);
            self.checker.on_sign(id, draft.slot, &draft.body, digest);
            if let Some(slot) = draft.slot {
                if !self.cleared(at, slot, digest) {
                    let incarnation = self.nodes[at].incarnation;
                    let event = Event::Refused { node: at, incarnation, slot };
                    return self.queue.schedule(self.now_us, event);
                }
                vote = Some((slot, digest));
            }
        }
        let signature = self.keys.sign(id, &text);
        let envelope = Envelope { sender: id, body: draft.body, signature };
        let wire = Rc::new(Wire::new(envelope, draft.slot));
        self.nodes[at].step_out.push(Outgoing { to, wire, vote });
    }

    /// Has the guard record a vote before the core casts it, as a driver with a slow key does where
    /// it has room. It is not released.
    fn sign_ahead(&mut self, at: NodeIndex, vote: &Draft) {
        let node = &mut self.nodes[at];
        let Some(slot) = vote.slot.filter(|_| node.persona.is_none()) else { return };
        let text = Digest::of(&[&vote::signed_text(&self.chain, &vote.body)]);
        // Half of them, by no stream of its own: the other streams' draws stay where they are.
        if (u16::from(text.0[0]) ^ node.id.0) & 1 == 0 {
            node.disk.clear_to_sign(slot, text);
            self.checker.count("signed_ahead");
        }
    }

    /// Asks the guard. A core that wants two texts for one slot in one life is broken; one that
    /// lost what it never sent in a crash is only refused.
    fn cleared(&mut self, at: NodeIndex, slot: Slot, text: Digest) -> bool {
        if self.options.sabotage == Some(Sabotage::SendBeforeSync) {
            return true;
        }
        let node = &mut self.nodes[at];
        let asked = *node.asked.entry(slot).or_insert(text);
        if asked != text {
            let text = format!("replica {} asks for two texts for {slot:?}", node.id);
            self.checker.fail("one-vote", text);
        }
        match node.disk.clear_to_sign(slot, text) {
            Cleared::Yes => true,
            Cleared::Refused { .. } => {
                self.checker.count("guard_refusals");
                false
            }
        }
    }

    fn arm(&mut self, at: NodeIndex, timer: Timer, after_ms: u64) {
        let node = &mut self.nodes[at];
        node.timer_settings += 1;
        let generation = node.timer_settings;
        node.timers.insert(timer, generation);
        let event = Event::Timer { node: at, incarnation: node.incarnation, timer, generation };
        let after_us = after_ms.saturating_mul(MILLISECOND_US);
        self.queue.schedule(self.now_us.saturating_add(after_us), event);
    }

    pub(super) fn on_timer(&mut self, at: NodeIndex, timer: Timer, generation: u64) {
        if self.nodes[at].timers.get(&timer) == Some(&generation) {
            self.nodes[at].timers.remove(&timer);
            self.trace.note(self.now_us, at, "timer", generation, || format!("{timer:?}"));
            self.input(at, Input::TimerFired(timer));
        }
    }

    fn close_step(&mut self, at: NodeIndex) {
        let early = self.options.sabotage == Some(Sabotage::SendBeforeSync);
        let node = &mut self.nodes[at];
        let mark = if early { 0 } else { node.disk.written() };
        for outgoing in node.step_out.drain(..) {
            node.outbox.push_back((mark, outgoing));
        }
        self.release_durable(at);
        self.start_sync(at);
    }

    fn start_sync(&mut self, at: NodeIndex) {
        let node = &mut self.nodes[at];
        if node.syncing || !node.is_up() || node.disk.written() == node.disk.synced() {
            return;
        }
        node.syncing = true;
        let upto = node.disk.written();
        let event = Event::Synced { node: at, incarnation: node.incarnation, upto };
        let (min, max) = self.options.sync_us;
        let took_us = self.random.disk.between(min, max) * self.slowness(at);
        self.queue.schedule(self.now_us + took_us, event);
    }

    pub(super) fn on_synced(&mut self, at: NodeIndex, upto: u64) {
        let node = &mut self.nodes[at];
        node.syncs += 1;
        let syncs = node.syncs;
        let armed = node.crash_armed;
        self.trace.note(self.now_us, at, "synced", upto, || format!("up to {upto}"));
        match armed {
            Some((CrashPoint::BeforeSync, down_us)) => return self.crash(at, down_us),
            Some((CrashPoint::AtSync(n), down_us)) if n <= syncs => {
                return self.crash(at, down_us);
            }
            _ => {}
        }
        let node = &mut self.nodes[at];
        node.syncing = false;
        node.disk.complete_sync(upto);
        match armed {
            Some((CrashPoint::BeforeSend, down_us)) => return self.crash(at, down_us),
            Some((CrashPoint::AfterSync(n), down_us)) if n <= syncs => {
                return self.crash(at, down_us);
            }
            _ => {}
        }
        self.release_durable(at);
        self.start_sync(at);
    }

    fn release_durable(&mut self, at: NodeIndex) {
        loop {
            let node = &mut self.nodes[at];
            let synced = node.disk.synced();
            match node.outbox.front() {
                Some((mark, _)) if *mark <= synced => {}
                _ => return,
            }
            let Some((_, outgoing)) = node.outbox.pop_front() else { return };
            if node.persona.is_some() {
                self.persona_release(at, outgoing);
            } else {
                self.release(at, outgoing);
            }
        }
    }

    /// Sends a durable message, and crashes halfway where the script says so.
    pub(super) fn release(&mut self, at: NodeIndex, outgoing: Outgoing) {
        let node = &mut self.nodes[at];
        let id = node.id;
        let incarnation = node.incarnation;
        if let Some((slot, text)) = outgoing.vote {
            self.checker.on_released(id, slot, text);
        }
        let receivers: Vec<ReplicaId> = match outgoing.to {
            Some(to) => vec![to],
            None => self.replicas.iter().map(|(id, _)| id).collect(),
        };
        let mut left = receivers.len();
        let mut crash_us = None;
        if let Some((CrashPoint::MidSend, down_us)) = self.nodes[at].crash_armed {
            left = self.random.crashes.index(left + 1);
            crash_us = Some(down_us);
        }
        let content = content(&outgoing.wire);
        self.trace.note(self.now_us, at, "send", content, || describe(&outgoing.wire));
        for to in receivers.into_iter().take(left) {
            if to == id {
                let wire = Rc::clone(&outgoing.wire);
                let event = Event::Loopback { node: at, incarnation, wire };
                self.queue.schedule(self.now_us, event);
            } else {
                self.transmit(at, to, &outgoing.wire);
            }
        }
        if let Some(down_us) = crash_us {
            self.crash(at, down_us);
        }
    }

    /// Puts a message on the link to another replica, to both nodes of it where it has two.
    pub(super) fn transmit(&mut self, at: NodeIndex, to: ReplicaId, wire: &Rc<Wire>) {
        let from = self.nodes[at].id;
        if from == to {
            return;
        }
        for node in self.nodes_of(to.0) {
            for arrival in self.network.route(self.now_us, from.0, to.0).into_iter().flatten() {
                self.queue.schedule(arrival, Event::Receive { node, wire: Rc::clone(wire) });
            }
        }
    }

    pub(super) fn on_receive(&mut self, at: NodeIndex, wire: &Rc<Wire>) {
        if !self.nodes[at].is_up() {
            return;
        }
        let replicas = self.replicas.len();
        if self.options.sabotage != Some(Sabotage::TrustEveryone)
            && !self.keys.check(self.plugin, &self.chain, replicas, wire)
        {
            self.checker.count("messages_refused");
            return;
        }
        self.trace.note(self.now_us, at, "receive", content(wire), || describe(wire));
        if self.nodes[at].persona.is_some() {
            self.persona_receive(at, &wire.envelope);
        }
        let message = Verified::by_checked_signatures(wire.envelope.clone());
        self.input(at, Input::Message(message));
    }

    pub(super) fn on_loopback(&mut self, at: NodeIndex, incarnation: u64, wire: &Rc<Wire>) {
        if self.alive(at, incarnation) {
            let message = Verified::by_checked_signatures(wire.envelope.clone());
            self.trace.note(self.now_us, at, "loopback", content(wire), || describe(wire));
            self.input(at, Input::Message(message));
        }
    }

    fn on_accuse(&mut self, at: NodeIndex, evidence: &Evidence) {
        let id = self.nodes[at].id;
        let culprit = u64::from(evidence.culprit.0);
        self.trace.note(self.now_us, at, "accuse", culprit, || {
            format!("{} of {}", evidence.culprit, evidence.offence)
        });
        if self.nodes[at].persona.is_some() {
            return;
        }
        let bytes = Accusation::of(self.chain, evidence).to_bytes();
        let judge = Judge {
            chain: self.chain,
            replicas: std::sync::Arc::clone(&self.replicas),
            parameters: self.options.parameters,
            plugin: self.plugin,
        };
        let signed = |claim: &Claim| self.keys.verify(claim.replica, &claim.text, &claim.signature);
        let judged = judge.judge(&bytes, signed);
        let valid = judged.as_ref() == Ok(evidence);
        self.checker.on_accuse(id, evidence, valid);
        self.evidence.push(bytes);
    }

    fn look_at_status(&mut self, at: NodeIndex) {
        let node = &mut self.nodes[at];
        let Some(core) = node.core.as_ref() else { return };
        let status = core.status();
        if node.persona.is_none() {
            let delivered = node.delivered.sequence;
            self.checker.on_status(node.id, &status, delivered, node.announced.len());
            if status.view != node.view {
                self.checker.count("views_entered");
            }
            if node.view_active && !status.view_active {
                self.checker.count("view_changes_begun");
            }
        }
        if status.view != node.view || status.view_active != node.view_active {
            self.trace.note(self.now_us, at, "view", status.view.0, || {
                let state = if status.view_active { "active" } else { "changing" };
                format!("{} {state}", status.view)
            });
        }
        node.view = status.view;
        node.view_active = status.view_active;
    }

    /// Factor on the times of this node's disk and execution.
    pub(super) fn slowness(&self, at: NodeIndex) -> u64 {
        let slow = self.options.slow == Some(self.nodes[at].id.0) && !self.healed;
        if slow { 10 } else { 1 }
    }

    fn clock_of(&self, at: NodeIndex) -> u64 {
        let true_ms = EPOCH_MS + self.now_us / MILLISECOND_US;
        true_ms.saturating_add_signed(self.nodes[at].clock_offset_ms)
    }
}

/// A number that stands for the message in the trace hash.
pub(super) fn content(wire: &Wire) -> u64 {
    let bytes = wire.envelope.signature.plain().0;
    u64::from_be_bytes([
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
    ])
}

/// One line for the trace.
pub(super) fn describe(wire: &Wire) -> String {
    let envelope = &wire.envelope;
    let slot = Vote::from_bytes(&envelope.body).ok().map(|vote| (vote.slot, vote.digest.short()));
    let what = match (slot, wire.slot) {
        (Some((slot, digest)), _) => {
            format!("{:?} view {} sequence {} {digest}", slot.phase, slot.view, slot.sequence)
        }
        (None, Some(slot)) => {
            format!("{:?} view {} sequence {}", slot.phase, slot.view, slot.sequence)
        }
        (None, None) => format!("kind {:#04x}", envelope.body.first().copied().unwrap_or(0)),
    };
    format!("{what} of {} ({} bytes)", envelope.sender, envelope.body.len())
}

/// Log records that a core may keep per sequence number of the window after compaction.
const LOG_RECORDS_PER_SEQUENCE_MAX: u64 = 8;
/// Log records that it may keep besides.
const LOG_RECORDS_MORE_MAX: u64 = 32;
/// Effects of one step: a restart or a new view may send the whole window again to everybody.
const EFFECTS_MAX: usize = 20_000;
