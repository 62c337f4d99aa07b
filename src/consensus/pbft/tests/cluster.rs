//! Replicas in one process: a network without signatures, a guard, a write-ahead log, an executor.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::words::*;
use crate::consensus::Core;
use crate::consensus::Delivered;
use crate::consensus::Draft;
use crate::consensus::Effect;
use crate::consensus::Envelope;
use crate::consensus::Executed;
use crate::consensus::Input;
use crate::consensus::LogRecord;
use crate::consensus::Setup;
use crate::consensus::Timer;
use crate::consensus::Tuning;
use crate::consensus::pbft::Pbft;
use crate::types::batch::BatchRef;
use crate::types::block::Tip;
use crate::types::ids::BatchId;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::verified::Verified;
use crate::types::vote::Slot;

/// A replica of a cluster with what survives its crash.
pub struct Member {
    pub core: Option<Pbft>,
    pub log: Vec<LogRecord>,
    pub tip: Tip,
    pub chain: Vec<Delivered>,
    pub executed: SequenceNumber,
    pub timers: BTreeMap<Timer, u64>,
    pub batches: BTreeMap<BatchId, BatchRef>,
    pub guard: BTreeMap<Slot, bytes::Bytes>,
    pub wants: Option<SequenceNumber>,
    pub accused: usize,
    pub diverged: bool,
    pub refused: usize,
}

/// A message under way.
#[derive(Clone, Debug)]
pub struct Flight {
    pub to: u16,
    pub envelope: Envelope,
}

/// A cluster with a seeded schedule.
pub struct Cluster {
    pub members: Vec<Member>,
    pub flights: Vec<Flight>,
    pub now: u64,
    pub cut: BTreeSet<u16>,
    pub loss_percent: u64,
    pub tuning: Tuning,
    seed: u64,
}

impl Cluster {
    pub fn new(n: usize, seed: u64) -> Self {
        let members = (0..n)
            .map(|_| Member {
                core: None,
                log: Vec::new(),
                tip: Tip::genesis(chain(), 0),
                chain: Vec::new(),
                executed: SequenceNumber(0),
                timers: BTreeMap::new(),
                batches: BTreeMap::new(),
                guard: BTreeMap::new(),
                wants: None,
                accused: 0,
                diverged: false,
                refused: 0,
            })
            .collect();
        let tuning = Tuning { null_request_ms: 0, ..Tuning::default() };
        let (flights, cut) = (Vec::new(), BTreeSet::new());
        let mut cluster =
            Self { members, flights, now: NOW, cut, loss_percent: 0, tuning, seed: seed * 2 + 1 };
        for i in 0..n {
            cluster.start(u16::try_from(i).unwrap());
        }
        cluster
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        (self.seed >> 33) % below
    }

    /// Builds a replica from what survived.
    pub fn start(&mut self, i: u16) {
        let n = self.members.len();
        let member = &mut self.members[usize::from(i)];
        let (tip, log) = (member.tip, member.log.clone());
        let checkpoint = state_digest(&tip);
        let tuning = self.tuning;
        let setup = Setup { tip, log, checkpoint, tuning, ..setup(n, i) };
        member.core = Some(Pbft::new(setup, limits::SEQUENCE_TXS_MAX));
        self.input(i, Input::Start);
        // As the driver does: what is in the ledger is not announced again.
        let member = &self.members[usize::from(i)];
        let ledger = &member.chain[..usize::try_from(member.executed.0).unwrap()];
        let done: BTreeSet<BatchId> = ledger.iter().flat_map(Delivered::ids).collect();
        let held = member.batches.values().filter(|b| !done.contains(&b.id));
        for reference in held.copied().collect::<Vec<_>>() {
            self.input(i, Input::BatchAvailable(reference));
        }
    }

    /// Forgets what is not durable: here all effects of a step are applied at once, so only the
    /// core and its timers are lost.
    pub fn crash(&mut self, i: u16) {
        let member = &mut self.members[usize::from(i)];
        member.core = None;
        member.timers.clear();
        member.wants = None;
    }

    pub fn submit(&mut self, i: u16, reference: BatchRef) {
        self.members[usize::from(i)].batches.insert(reference.id, reference);
        self.input(i, Input::BatchAvailable(reference));
    }

    pub fn submit_all(&mut self, reference: BatchRef) {
        for i in 0..u16::try_from(self.members.len()).unwrap() {
            self.submit(i, reference);
        }
    }

    pub fn input(&mut self, i: u16, input: Input) {
        let mut effects = Vec::new();
        let now = self.now;
        let Some(core) = &mut self.members[usize::from(i)].core else { return };
        core.step(Input::Clock(now), &mut effects);
        core.step(input, &mut effects);
        for effect in effects {
            self.apply(i, effect);
        }
    }

    fn sign(&mut self, i: u16, draft: &Draft) -> Option<Envelope> {
        let member = &mut self.members[usize::from(i)];
        if let Some(slot) = draft.slot {
            let locked = member.guard.entry(slot).or_insert_with(|| draft.body.clone());
            if *locked != draft.body {
                member.refused += 1;
                return None;
            }
        }
        Some(envelope(i, draft))
    }

    fn send(&mut self, from: u16, to: u16, envelope: Envelope) {
        let cut = self.cut.contains(&from) != self.cut.contains(&to);
        let lost = from != to && (cut || self.random(100) < self.loss_percent);
        if !lost {
            self.flights.push(Flight { to, envelope });
        }
    }

    fn apply(&mut self, i: u16, effect: Effect) {
        let now = self.now;
        let n = u16::try_from(self.members.len()).unwrap();
        let member = &mut self.members[usize::from(i)];
        match effect {
            Effect::Persist(record) => member.log.push(record),
            Effect::Compact(records) => member.log = records,
            Effect::Send { to, message } => {
                if let Some(envelope) = self.sign(i, &message) {
                    self.send(i, to.0, envelope);
                }
            }
            Effect::Broadcast(draft) => {
                if let Some(envelope) = self.sign(i, &draft) {
                    (0..n).for_each(|to| self.send(i, to, envelope.clone()));
                }
            }
            Effect::Forward { to, message } => self.send(i, to.0, message),
            Effect::Arm { timer, after_ms } => {
                member.timers.insert(timer, now + after_ms);
            }
            Effect::Disarm(timer) => {
                member.timers.remove(&timer);
            }
            Effect::Deliver(delivered) => member.deliver(delivered),
            Effect::FetchBatch { id, from } => {
                let holders = from.iter().map(|r| &self.members[usize::from(r.0)]);
                let cut = |r: &ReplicaId| self.cut.contains(&r.0) != self.cut.contains(&i);
                let body = holders
                    .zip(&from)
                    .filter(|(m, r)| m.core.is_some() && !cut(r))
                    .find_map(|(m, _)| m.batches.get(&id).copied());
                if let Some(reference) = body {
                    self.submit(i, reference);
                }
            }
            Effect::CatchUp { sequence, .. } => {
                member.wants = Some(member.wants.unwrap_or(sequence).max(sequence));
            }
            Effect::Foresee(_) => {}
            Effect::Accuse(_) => member.accused += 1,
            Effect::Diverged { .. } => member.diverged = true,
        }
    }

    /// Executes one delivered proposal, where there is one.
    pub fn execute(&mut self, i: u16) -> bool {
        let member = &mut self.members[usize::from(i)];
        let at = usize::try_from(member.executed.0).unwrap();
        let Some(delivered) = member.chain.get(at) else { return false };
        let sequence = delivered.proposal.sequence;
        member.tip = member.tip.extend(chain(), &delivered.proposal).0;
        member.executed = sequence;
        let checkpoint = state_digest(&member.tip);
        self.input(i, Input::Executed(Executed { sequence, checkpoint }));
        true
    }

    /// Fetches blocks from the replica that executed most, where some are wanted.
    pub fn catch_up(&mut self, i: u16) {
        if self.members[usize::from(i)].wants.is_none() || self.cut.contains(&i) {
            return;
        }
        let cut = self.cut.clone();
        let others = self
            .members
            .iter()
            .enumerate()
            .filter(|(k, m)| m.core.is_some() && !cut.contains(&u16::try_from(*k).unwrap()));
        let (_, best) = others.max_by_key(|(_, m)| m.executed).unwrap();
        let chain: Vec<Delivered> =
            best.chain[..usize::try_from(best.executed.0).unwrap()].to_vec();
        let tip = best.tip;
        let member = &mut self.members[usize::from(i)];
        if tip.sequence <= member.executed {
            return;
        }
        member.wants = None;
        let known = member.chain.len().min(chain.len());
        assert_eq!(
            member.chain[..known].iter().map(|d| &d.proposal).collect::<Vec<_>>(),
            chain[..known].iter().map(|d| &d.proposal).collect::<Vec<_>>()
        );
        if member.chain.len() < chain.len() {
            member.chain = chain;
        }
        let fetched = member.chain[usize::try_from(member.executed.0).unwrap()..].to_vec();
        member.executed = tip.sequence;
        member.tip = tip;
        let ids = fetched.iter().flat_map(|d| d.proposal.batches.iter().map(|b| b.id)).collect();
        self.input(i, Input::BatchesCommitted(ids));
        let checkpoint = state_digest(&tip);
        self.input(i, Input::Restored { tip, checkpoint });
    }

    /// One step of the schedule: a message in random order, an execution, or the next timer.
    pub fn turn(&mut self) {
        let n = self.members.len() as u64;
        let i = u16::try_from(self.random(n)).unwrap();
        self.catch_up(i);
        if self.random(4) == 0 && self.execute(i) {
            return;
        }
        if !self.flights.is_empty() && self.random(50) != 0 {
            let window = self.flights.len().min(40) as u64;
            let at = usize::try_from(self.random(window)).unwrap();
            let flight = self.flights.remove(at);
            let input = Input::Message(Verified::by_checked_signatures(flight.envelope));
            self.now += self.random(2);
            self.input(flight.to, input);
            return;
        }
        let next = self
            .members
            .iter()
            .enumerate()
            .flat_map(|(k, m)| m.timers.iter().map(move |(t, at)| (*at, k, *t)))
            .min();
        if let Some((at, k, timer)) = next
            && (self.flights.is_empty() || at <= self.now)
        {
            self.now = self.now.max(at);
            self.members[k].timers.remove(&timer);
            self.input(u16::try_from(k).unwrap(), Input::TimerFired(timer));
        }
    }

    /// Runs until `done` holds, or fails after so many turns.
    pub fn run_until(&mut self, turns: usize, done: impl Fn(&Self) -> bool) {
        for _ in 0..turns {
            if done(self) {
                self.check_agreement();
                return;
            }
            self.turn();
        }
        let standing: Vec<_> =
            self.members.iter().map(|m| m.core.as_ref().map(Core::status)).collect();
        panic!("not done after {turns} turns, {} ms: {standing:#?}", self.now - NOW);
    }

    /// No two replicas deliver different proposals for one sequence number.
    pub fn check_agreement(&self) {
        let longest = self.members.iter().max_by_key(|m| m.chain.len()).unwrap();
        for member in &self.members {
            for (a, b) in member.chain.iter().zip(&longest.chain) {
                assert_eq!(a.proposal, b.proposal);
            }
        }
    }

    /// True when every replica that runs delivered all these batches.
    pub fn all_delivered(&self, batches: std::ops::Range<u64>) -> bool {
        self.members.iter().filter(|m| m.core.is_some()).all(|m| {
            let have: BTreeSet<BatchId> = m.chain.iter().flat_map(|d| d.ids()).collect();
            batches.clone().all(|i| have.contains(&batch(i).id))
        })
    }
}

impl Member {
    fn deliver(&mut self, delivered: Delivered) {
        let n = delivered.proposal.sequence.0;
        let at = usize::try_from(n - 1).unwrap();
        // After a restart the core delivers again what was not executed.
        if let Some(known) = self.chain.get(at) {
            assert_eq!(known.proposal, delivered.proposal, "delivered twice, differently");
            return;
        }
        assert_eq!(self.chain.len(), at, "deliveries are contiguous");
        self.chain.push(delivered);
    }
}

impl Delivered {
    fn ids(&self) -> Vec<BatchId> {
        self.proposal.batches.iter().map(|b| b.id).collect()
    }
}
