//! Byzantine behaviour, independent of the plug-in: a persona drives a real core and changes what
//! leaves it, when, to whom, and what comes beside it.
//!
//! It signs with its own key only. An equivocator is two real cores under one key (Twins, Bano et
//! al. 2021): both follow the protocol, together they contradict each other in every way that the
//! protocol offers.

use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;

use crate::consensus::Envelope;
use crate::consensus::Input;
use crate::consensus::Timer;
use crate::sim::clock::Event;
use crate::sim::clock::MILLISECOND_US;
use crate::sim::clock::NodeIndex;
use crate::sim::cluster::Cluster;
use crate::sim::keys::Wire;
use crate::sim::node::Outgoing;
use crate::sim::options::Persona;
use crate::types::codec::Decode;
use crate::types::ids::ReplicaId;
use crate::types::vote;
use crate::types::vote::Phase;
use crate::types::vote::Slot;
use crate::types::vote::Vote;

impl Cluster<'_> {
    /// A message of a persona's core is ready to leave.
    pub(super) fn persona_release(&mut self, at: NodeIndex, outgoing: Outgoing) {
        let phase = outgoing.wire.slot.map(|slot| slot.phase);
        self.nodes[at].remember(&outgoing.wire.envelope);
        match self.nodes[at].persona {
            Some(Persona::SilentPrimary) if phase == Some(Phase::PrePrepare) => {
                self.nodes[at].withheld.insert(outgoing.wire.envelope.signature.clone());
                self.loop_back(at, &outgoing.wire);
            }
            Some(Persona::SilentPrimary)
                if self.nodes[at].withheld.contains(&outgoing.wire.envelope.signature) => {}
            Some(Persona::Mute) => self.loop_back(at, &outgoing.wire),
            Some(Persona::Equivocator | Persona::Selective) => self.release_to_some(at, &outgoing),
            Some(Persona::Delayer) => self.release_late(at, &outgoing),
            Some(Persona::Garbage) => {
                if self.random.personas.chance(100) {
                    self.send_altered(at, &outgoing.wire.envelope);
                }
                self.release(at, outgoing);
            }
            Some(Persona::ViewChangeSpammer) => {
                if let Some(slot) = outgoing.wire.slot
                    && matches!(slot.phase, Phase::ViewChange | Phase::NewView)
                {
                    self.send_other_view(at, &outgoing.wire.envelope, slot);
                }
                self.release(at, outgoing);
            }
            _ => self.release(at, outgoing),
        }
    }

    /// A message reaches a persona, besides its core.
    pub(super) fn persona_receive(&mut self, at: NodeIndex, envelope: &Envelope) {
        self.nodes[at].remember(envelope);
        if self.nodes[at].persona == Some(Persona::VoteEcho)
            && let Ok(vote) = Vote::from_bytes(&envelope.body)
            && self.nodes[at].echoed.insert(vote)
        {
            let wire = self.sign_as(at, envelope.body.clone(), Some(vote.slot));
            self.send_to_all(at, &wire);
        }
    }

    /// A persona acts unasked.
    pub(super) fn on_persona(&mut self, at: NodeIndex) {
        let pause_us = self.random.personas.between(20, 400) * MILLISECOND_US;
        self.queue.schedule(self.now_us + pause_us, Event::Persona { node: at });
        if !self.nodes[at].is_up() {
            return;
        }
        match self.nodes[at].persona {
            Some(Persona::Equivocator | Persona::Selective) => self.choose_audience(at),
            Some(Persona::StaleReplayer) => self.replay(at),
            Some(Persona::Garbage) => self.send_garbage(at),
            Some(Persona::ViewChangeSpammer) => {
                let timers = [Timer::Request, Timer::ViewChange, Timer::Retransmit];
                let timer = timers[self.random.personas.index(timers.len())];
                self.input(at, Input::TimerFired(timer));
            }
            Some(Persona::Amnesiac) if self.random.personas.chance(100) => {
                self.nodes[at].disk.forget_votes();
                self.crash(at, MILLISECOND_US);
                self.nodes[at].disk.forget_votes();
            }
            _ => {}
        }
    }

    /// Draws whom to talk to: a half, which for twins now and then overlaps with the other's, so
    /// that somebody sees both faces.
    fn choose_audience(&mut self, at: NodeIndex) {
        if self.nodes[at].audience.is_some() && !self.random.personas.chance(200) {
            return;
        }
        let id = self.nodes[at].id;
        let members: Vec<ReplicaId> = self.replicas.iter().map(|(id, _)| id).collect();
        let half: BTreeSet<ReplicaId> =
            members.iter().copied().filter(|_| self.random.personas.chance(500)).collect();
        let overlap = self.random.personas.chance(300);
        for (face, node) in self.nodes_of(id.0).into_iter().enumerate() {
            let chosen = |member: &ReplicaId| overlap || half.contains(member) == (face == 0);
            self.nodes[node].audience = Some(members.iter().copied().filter(chosen).collect());
        }
    }

    fn release_to_some(&mut self, at: NodeIndex, outgoing: &Outgoing) {
        if self.nodes[at].audience.is_none() {
            self.choose_audience(at);
        }
        let audience = self.nodes[at].audience.clone().unwrap_or_default();
        if outgoing.to.is_none() {
            self.loop_back(at, &outgoing.wire);
        }
        for to in audience {
            if outgoing.to.is_none_or(|only| only == to) {
                self.transmit(at, to, &outgoing.wire);
            }
        }
    }

    fn release_late(&mut self, at: NodeIndex, outgoing: &Outgoing) {
        if outgoing.to.is_none() {
            self.loop_back(at, &outgoing.wire);
        }
        let timeout_us = self.options.tuning.request_timeout_ms * MILLISECOND_US;
        let late_us = self.now_us + self.random.personas.between(timeout_us / 2, timeout_us);
        for (to, _) in self.replicas.iter() {
            if outgoing.to.is_none_or(|only| only == to) {
                let wire = Rc::clone(&outgoing.wire);
                self.queue.schedule(late_us, Event::Late { node: at, to: to.0, wire });
            }
        }
    }

    fn loop_back(&mut self, at: NodeIndex, wire: &Rc<Wire>) {
        let incarnation = self.nodes[at].incarnation;
        let event = Event::Loopback { node: at, incarnation, wire: Rc::clone(wire) };
        self.queue.schedule(self.now_us, event);
    }

    fn send_to_all(&mut self, at: NodeIndex, wire: &Rc<Wire>) {
        for to in 0..self.options.replicas {
            self.transmit(at, ReplicaId(to), wire);
        }
    }

    fn send_to_one(&mut self, at: NodeIndex, wire: &Rc<Wire>) {
        let to = self.random.personas.below(u64::from(self.options.replicas));
        self.transmit(at, ReplicaId(u16::try_from(to).expect("below n")), wire);
    }

    fn replay(&mut self, at: NodeIndex) {
        for _ in 0..4 {
            let count = self.nodes[at].memory.len();
            let index = self.random.personas.index(count);
            let Some(envelope) = self.nodes[at].memory.get(index).cloned() else { return };
            self.send_to_one(at, &Rc::new(Wire::new(envelope, None)));
        }
    }

    fn send_garbage(&mut self, at: NodeIndex) {
        let len = self.random.personas.index(200);
        let bytes = Bytes::from(self.random.personas.bytes(len));
        let wire = self.sign_as(at, bytes, None);
        self.send_to_one(at, &wire);
        let count = self.nodes[at].memory.len();
        let index = self.random.personas.index(count);
        let Some(envelope) = self.nodes[at].memory.get(index).cloned() else { return };
        self.send_altered(at, &envelope);
        // In the name of another one: must be refused.
        let other = self.random.personas.below(u64::from(self.options.replicas));
        let mut forged = self.altered(at, &envelope).envelope.clone();
        forged.sender = ReplicaId(u16::try_from(other).expect("below n"));
        if forged.sender != self.nodes[at].id {
            self.send_to_all(at, &Rc::new(Wire::new(forged, None)));
        }
    }

    fn send_altered(&mut self, at: NodeIndex, envelope: &Envelope) {
        let wire = self.altered(at, envelope);
        self.send_to_one(at, &wire);
    }

    /// The message with some bytes or a whole number changed, cut or lengthened, properly signed.
    fn altered(&mut self, at: NodeIndex, envelope: &Envelope) -> Rc<Wire> {
        let random = &mut self.random.personas;
        let mut body = envelope.body.to_vec();
        match random.below(6) {
            0 => body.truncate(random.index(body.len() + 1)),
            1 => {
                let extra = random.index(16);
                body.extend(random.bytes(extra));
            }
            2 | 3 if body.len() >= 8 => {
                let from = random.index(body.len() - 7);
                let number = [0, 1, u64::MAX, u64::MAX - 1, 1 << 32, random.below(64)];
                let number = number[random.index(number.len())];
                body[from..from + 8].copy_from_slice(&number.to_be_bytes());
            }
            4 => {} // As it is, signed by another one.
            _ => {
                let at = random.index(body.len());
                if let Some(byte) = body.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
        self.sign_as(at, Bytes::from(body), None)
    }

    /// The same message for views up to the last number, wherever the view stands in it.
    fn send_other_view(&mut self, at: NodeIndex, envelope: &Envelope, slot: Slot) {
        let view = slot.view.0;
        let random = &mut self.random.personas;
        let others = [view + 1, view + random.below(100), u64::MAX, u64::MAX - 1, 1 << 33];
        let other = others[random.index(others.len())];
        let mut body = envelope.body.to_vec();
        let bytes = view.to_be_bytes();
        if let Some(from) = body.windows(8).position(|window| window == bytes) {
            body[from..from + 8].copy_from_slice(&other.to_be_bytes());
        }
        let wire = self.sign_as(at, Bytes::from(body), None);
        self.send_to_all(at, &wire);
    }

    fn sign_as(&mut self, at: NodeIndex, body: Bytes, slot: Option<Slot>) -> Rc<Wire> {
        let sender = self.nodes[at].id;
        let signature = self.keys.sign(sender, &vote::signed_text(&self.chain, &body));
        Rc::new(Wire::new(Envelope { sender, body, signature }, slot))
    }
}
