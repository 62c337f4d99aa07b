//! Floor 2: PBFT's repair: status, retransmission, and the way back of a replica that fell behind.
//!
//! ```text
//! lagging   STATUS(view, delivered, stable, held) --> all
//! others    what it misses: own votes, pre-prepares, NEW-VIEW or own VIEW-CHANGE,
//!           committed proposals with certificates, the stable checkpoint's certificate
//! ```
//!
//! A status goes out on the retransmission timer while something is unfinished; nothing is sent on
//! an idle network. Votes come from everybody, since each replica can give only its own; bulk comes
//! from two replicas that the status names, rotating, so that 100 replicas do not all send the same
//! certificates. What the log of others no longer holds comes as blocks (`CatchUp`).
//!
//! Bounds: an answer holds at most `STATUS_ANSWER_SEQUENCES_MAX` proposals and the votes of one
//! window. Failure: a false claim to be ahead costs a fetch that finds nothing; certificates decide
//! what is believed.
//!
//! Source: Castro's thesis (MIT-LCS-TR-817), section 3.2.4, status messages; TOCS 2002, section
//! 2.6.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::consensus::Delivered;
use crate::consensus::Draft;
use crate::consensus::Effect;
use crate::consensus::Envelope;
use crate::consensus::pbft::Final;
use crate::consensus::pbft::Pbft;
use crate::consensus::pbft::message::HELD_ASSIGNMENT;
use crate::consensus::pbft::message::HELD_PREPARED;
use crate::consensus::pbft::message::Message;
use crate::consensus::pbft::message::Status;
use crate::types::certificate::QuorumCertificate;
use crate::types::ids::BatchId;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::vote::Phase;

impl Pbft {
    /// Says to all where this replica stands.
    pub(super) fn send_status(&mut self, effects: &mut Vec<Effect>) {
        let status = Message::Status(self.standing(false));
        self.pace.asked = self.pace.asked.wrapping_add(1);
        let draft = self.draft(None, &status);
        effects.push(Effect::Broadcast(draft));
    }

    /// A replica says where it stands: send what it misses.
    pub(super) fn on_status(
        &mut self,
        sender: ReplicaId,
        status: &Status,
        effects: &mut Vec<Effect>,
    ) {
        if sender == self.me {
            return;
        }
        self.note_ahead(sender, status.delivered);
        if status.active {
            self.note_view(sender, status.view);
        }
        let n = self.replicas.len() as u64;
        let turn = (u64::from(self.me.0) + n - u64::from(status.ask.0) % n) % n;
        let bulk = turn < BULK_SENDERS;
        if bulk {
            self.answer_with_bulk(sender, status, effects);
        }
        self.answer_with_view(sender, status, bulk, effects);
        self.answer_with_votes(sender, status, effects);
        self.fetch_waiting(sender, &status.waiting, effects);
        if !status.answer {
            let draft = self.draft(None, &Message::Status(self.standing(true)));
            effects.push(Effect::Send { to: sender, message: draft });
        }
    }

    /// Proof of a stable checkpoint.
    pub(super) fn on_stable(&mut self, certificate: QuorumCertificate, effects: &mut Vec<Effect>) {
        if certificate.check_shape(&self.replicas).is_ok() {
            self.learn_stable(certificate, effects);
        }
    }

    /// A committed proposal with its proof.
    pub(super) fn on_committed(
        &mut self,
        proposal: Proposal,
        certificate: QuorumCertificate,
        effects: &mut Vec<Effect>,
    ) {
        let (n, tip) = (proposal.sequence, self.tip.sequence);
        if n <= tip || certificate.check_shape(&self.replicas).is_err() {
            return;
        }
        let next = n.0 == tip.0.saturating_add(1);
        if !next && proposal == Proposal::null(n) {
            let (_, digest) = self.tip.extend(self.chain, &proposal);
            if digest == certificate.vote.digest {
                self.null_ahead = Some(Delivered { proposal, certificate });
                return;
            }
        }
        if n.0 - tip.0 > self.window() {
            return;
        }
        if next {
            let (_, digest) = self.tip.extend(self.chain, &proposal);
            if digest != certificate.vote.digest {
                return;
            }
            self.finals.remove(&n);
        }
        if self.finals.contains_key(&n) {
            return;
        }
        let missing = self.missing(&proposal.batches);
        let signers: Vec<ReplicaId> = certificate.signatures.iter().map(|(id, _)| *id).collect();
        for id in &missing {
            self.fetch(*id, 0, &signers, effects);
        }
        let delivered = Delivered { proposal, certificate };
        self.finals.insert(n, Final { delivered, missing, fetches: 0 });
    }

    /// Delivers a null request far above the tip where it proves that only null requests lie
    /// between: nobody may hold those any more, and there are no blocks to fetch.
    pub(super) fn skip_nulls(&mut self, effects: &mut Vec<Effect>) {
        let Some(delivered) = self.null_ahead.take() else { return };
        let (tip, digest) = self.tip.extend(self.chain, &delivered.proposal);
        if tip.sequence <= self.tip.sequence || digest != delivered.certificate.vote.digest {
            return;
        }
        self.tip = tip;
        self.finals.retain(|n, _| *n > tip.sequence);
        self.log.remember(delivered.clone());
        self.last_null = Some(delivered.clone());
        self.pace.on_delivered();
        effects.push(Effect::Deliver(delivered));
    }

    /// Asks the driver for blocks: up to the stable checkpoint, or up to what f+1 replicas say
    /// they delivered, or one step on the word of a single one.
    pub(super) fn catch_up(&self, effects: &mut Vec<Effect>) {
        let tip = self.tip.sequence;
        if tip < self.log.low() {
            let signers = self.checkpoints.stable.iter().flat_map(|c| &c.signatures);
            let from = self.others(signers.map(|(id, _)| *id));
            effects.push(Effect::CatchUp { sequence: self.log.low(), from });
            return;
        }
        let from = self.believed_ahead();
        if from.is_empty() {
            return;
        }
        let sequence = self.weakly_proven().max(SequenceNumber(tip.0.saturating_add(1)));
        effects.push(Effect::CatchUp { sequence, from });
    }

    /// Replicas that say they are ahead, without those whose word has led nowhere unless f+1 agree.
    pub(super) fn believed_ahead(&self) -> Vec<ReplicaId> {
        let tip = self.tip.sequence;
        let proven = self.weakly_proven() > tip;
        let ahead = self.ahead.iter().filter(|(_, n)| **n > tip).map(|(id, _)| *id);
        self.others(ahead.filter(|id| proven || self.doubted(*id) < LONE_CLAIMS_MAX))
    }

    /// A catch-up was asked for on the word of too few: each one counts against them until
    /// something is delivered.
    pub(super) fn doubt_lone_claims(&mut self) {
        for id in self.believed_ahead() {
            let doubts = self.doubts.entry(id).or_default();
            *doubts = doubts.saturating_add(1);
        }
    }

    fn doubted(&self, replica: ReplicaId) -> u32 {
        self.doubts.get(&replica).copied().unwrap_or(0)
    }

    /// True where f+1 replicas, or a certificate, show that others are ahead of this one.
    pub(super) fn is_behind(&self) -> bool {
        self.tip.sequence < self.log.low().max(self.weakly_proven())
    }

    /// Notes a sequence number that a replica says it delivered.
    pub(super) fn note_ahead(&mut self, replica: ReplicaId, sequence: SequenceNumber) {
        if replica != self.me {
            let known = self.ahead.entry(replica).or_default();
            *known = sequence.max(*known);
        }
    }

    /// Notes a view that a replica takes part in: it votes there, assigns there, or says so.
    pub(super) fn note_view(&mut self, replica: ReplicaId, view: View) {
        if replica != self.me {
            let known = self.views.entry(replica).or_default();
            *known = view.max(*known);
        }
    }

    /// True where f+1 others take part in a view above this replica's: one of them is correct, so
    /// that view has begun. A replica may follow the order without noticing: null requests are the
    /// same in every view.
    pub(super) fn is_in_a_past_view(&self) -> bool {
        let mut views: Vec<View> = self.views.values().copied().collect();
        views.sort_unstable_by(|a, b| b.cmp(a));
        views.get(self.replicas.weak_quorum() - 1).is_some_and(|view| *view > self.view)
    }

    /// Tells the primary of a view that was left where this replica stands.
    pub(super) fn wake(&self, primary: ReplicaId, effects: &mut Vec<Effect>) {
        let message = self.draft(None, &Message::Status(self.standing(true)));
        effects.push(Effect::Send { to: primary, message });
    }

    /// These replicas without this one.
    pub(super) fn others(&self, replicas: impl Iterator<Item = ReplicaId>) -> Vec<ReplicaId> {
        let known = replicas.filter(|id| *id != self.me && self.replicas.get(*id).is_some());
        known.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Asks again for bodies that are missing, from other replicas each time.
    pub(super) fn fetch_missing(&mut self, effects: &mut Vec<Effect>) {
        let rounds = limits::FETCH_ROUNDS_MAX.saturating_mul(self.replicas.len() as u32);
        let mut asks: Vec<(BatchId, u32)> = Vec::new();
        let tip = self.tip.sequence;
        for (_, entry) in self.log.above_mut(tip) {
            let Some(a) = entry.assignment.as_mut() else { continue };
            if !a.missing.is_empty() && a.fetches < rounds {
                a.fetches += 1;
                asks.extend(a.missing.iter().map(|id| (*id, a.fetches)));
            }
        }
        for found in self.finals.values_mut() {
            if !found.missing.is_empty() && found.fetches < rounds {
                found.fetches += 1;
                asks.extend(found.missing.iter().map(|id| (*id, found.fetches)));
            }
        }
        for (id, attempt) in asks {
            self.fetch(id, attempt, &[], effects);
        }
    }

    /// The highest sequence number that f+1 other replicas say they delivered.
    fn weakly_proven(&self) -> SequenceNumber {
        let mut claims: Vec<SequenceNumber> = self.ahead.values().copied().collect();
        claims.sort_unstable_by(|a, b| b.cmp(a));
        claims.get(self.replicas.weak_quorum() - 1).copied().unwrap_or_default()
    }

    fn standing(&self, answer: bool) -> Status {
        let tip = self.tip.sequence;
        let mut held = Vec::new();
        for (n, entry) in self.log.above(tip) {
            let index = usize::try_from(n.0 - tip.0 - 1).unwrap_or(usize::MAX);
            if index >= usize::try_from(self.window()).unwrap_or(usize::MAX) {
                break;
            }
            held.resize(index + 1, 0);
            if let Some(a) = &entry.assignment {
                held[index] = HELD_ASSIGNMENT | if a.prepared { HELD_PREPARED } else { 0 };
            }
        }
        let old = self.pace.tick.saturating_sub(WAITING_TICKS_MIN);
        let waiting = self.batches.in_order().filter(|p| p.tick <= old && !answer);
        let n = self.replicas.len() as u64;
        let ask = (u64::from(self.me.0) + 1 + BULK_SENDERS * self.pace.asked) % n;
        Status {
            view: self.view,
            active: self.view_active,
            delivered: tip,
            stable: self.log.low(),
            ask: ReplicaId(u16::try_from(ask).expect("below the number of replicas")),
            answer,
            held: Bytes::from(held),
            waiting: waiting.take(limits::STATUS_BATCHES_MAX).map(|p| p.reference.id).collect(),
        }
    }

    fn answer_with_bulk(&self, to: ReplicaId, status: &Status, effects: &mut Vec<Effect>) {
        if let Some(certificate) = &self.checkpoints.stable
            && status.stable < certificate.vote.slot.sequence
        {
            let message = self.draft(None, &Message::Stable(certificate.clone()));
            effects.push(Effect::Send { to, message });
        }
        let from = status.delivered.0.saturating_add(1);
        let null = self.last_null.as_ref().filter(|d| d.proposal.sequence.0 >= from);
        if let Some(null) = null.filter(|_| self.log.remembered(SequenceNumber(from)).is_none()) {
            effects.push(Effect::Send { to, message: self.committed_draft(null) });
        }
        let last = from.saturating_add(limits::STATUS_ANSWER_SEQUENCES_MAX - 1);
        for n in from..=last.min(self.tip.sequence.0) {
            let Some(delivered) = self.log.remembered(SequenceNumber(n)) else { break };
            effects.push(Effect::Send { to, message: self.committed_draft(delivered) });
        }
    }

    fn committed_draft(&self, delivered: &Delivered) -> Draft {
        let (proposal, certificate) = (delivered.proposal.clone(), delivered.certificate.clone());
        self.draft(None, &Message::Committed { proposal, certificate })
    }

    fn answer_with_view(
        &self,
        to: ReplicaId,
        status: &Status,
        bulk: bool,
        effects: &mut Vec<Effect>,
    ) {
        let lacks = status.view < self.view || (status.view == self.view && !status.active);
        if !lacks {
            return;
        }
        if self.view_active {
            let message = self.new_view.clone().filter(|_| bulk);
            effects.extend(message.map(|message| Effect::Forward { to, message }));
        } else {
            let own = self.view_changes.get(&self.me).filter(|(_, m)| m.view == self.view);
            effects
                .extend(own.map(|(message, _)| Effect::Forward { to, message: message.clone() }));
        }
    }

    /// Own votes, which nobody else can give, and the primary's pre-prepares.
    fn answer_with_votes(&self, to: ReplicaId, status: &Status, effects: &mut Vec<Effect>) {
        let mut forward = |message: Envelope| effects.push(Effect::Forward { to, message });
        if status.view == self.view && status.active && self.view_active {
            for (n, entry) in self.log.above(status.delivered.max(self.log.low())) {
                let index = usize::try_from(n.0 - status.delivered.0 - 1).unwrap_or(usize::MAX);
                let held = status.held.get(index).copied().unwrap_or(0);
                let Some(a) = &entry.assignment else { continue };
                if held & HELD_ASSIGNMENT == 0 {
                    a.envelope.clone().into_iter().for_each(&mut forward);
                }
                let cast = entry.prepares.get(&self.me).filter(|c| c.view == self.view);
                if let Some(cast) = cast.filter(|_| held & HELD_PREPARED == 0) {
                    let slot = self.slot(Phase::Prepare, self.view, n);
                    forward(cast.envelope(self.me, slot));
                }
                if let Some(cast) = entry.commits.get(&self.me).filter(|c| c.view == self.view) {
                    forward(cast.envelope(self.me, self.slot(Phase::Commit, self.view, n)));
                }
            }
        }
        for (n, votes) in &self.checkpoints.votes {
            if let Some(cast) = votes.get(&self.me).filter(|_| *n > status.stable) {
                forward(cast.envelope(self.me, self.slot(Phase::Checkpoint, View(0), *n)));
            }
        }
    }

    /// As primary, gets the batches that another replica waits for and this one never saw.
    fn fetch_waiting(&self, from: ReplicaId, waiting: &[BatchId], effects: &mut Vec<Effect>) {
        if !self.view_active || self.replicas.primary(self.view) != self.me {
            return;
        }
        for id in waiting {
            if self.batches.get(id).is_none() && !self.batches.is_recent(id) {
                effects.push(Effect::FetchBatch { id: *id, from: vec![from] });
            }
        }
    }
}

/// Replicas that answer one status with certificates and proposals.
const BULK_SENDERS: u64 = 2;
/// Catch-ups asked for on the word of less than f+1 replicas, without a delivery in between.
const LONE_CLAIMS_MAX: u32 = 4;
/// Ticks after which a batch is named as waiting.
const WAITING_TICKS_MIN: u64 = 1;
