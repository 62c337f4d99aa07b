//! Floor 2: PBFT's normal case: pre-prepare, prepare, commit, delivery.
//!
//! ```text
//! primary   PRE-PREPARE(n) \        / PREPARE(n) \        / COMMIT(n) \
//! backups                    accept   x n          prepared   x n       deliver n
//! ```
//!
//! Invariants: a replica votes prepare for one proposal per view and sequence number, after every
//! body is here and after the vote's record; commit votes follow the prepared certificate's record
//! and only where everything below is prepared in this view or delivered, because the block hash
//! they sign binds the chain below. Failure: whatever does not fit is dropped; retransmission and
//! view changes repair it.
//!
//! Source: Castro and Liskov 1999, section 4.2.

use std::collections::BTreeSet;

use crate::consensus::Delivered;
use crate::consensus::Draft;
use crate::consensus::Effect;
use crate::consensus::Envelope;
use crate::consensus::pbft::Early;
use crate::consensus::pbft::Pbft;
use crate::consensus::pbft::evidence::TWO_PROPOSALS;
use crate::consensus::pbft::evidence::TWO_VOTES;
use crate::consensus::pbft::log;
use crate::consensus::pbft::log::Assignment;
use crate::consensus::pbft::log::Cast;
use crate::consensus::pbft::log::Entry;
use crate::consensus::pbft::message::Message;
use crate::consensus::pbft::message::Prepared;
use crate::consensus::pbft::recovery::Record;
use crate::types::batch::BatchRef;
use crate::types::certificate::QuorumCertificate;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::vote::Phase;
use crate::types::vote::Vote;

impl Pbft {
    /// A pre-prepare: kept until its turn comes, since assignments are accepted in order.
    pub(super) fn on_pre_prepare(
        &mut self,
        envelope: Envelope,
        view: View,
        proposal: Proposal,
        effects: &mut Vec<Effect>,
    ) {
        let (sender, n) = (envelope.sender, proposal.sequence);
        let current = view == self.view && self.view_active;
        if sender != self.replicas.primary(view) {
            return;
        }
        if view < self.view && self.view_active && sender != self.me {
            self.wake(sender, effects);
        }
        if view < self.view || !self.log.covers(n) {
            return;
        }
        if let Some(a) = self.log.find(n).and_then(|e| e.assignment.as_mut()).filter(|_| current) {
            if a.digest == proposal.digest(&self.chain) {
                a.envelope.get_or_insert(envelope);
            } else if let Some(first) = a.envelope.clone() {
                self.accuse(sender, TWO_PROPOSALS, vec![first, envelope], effects);
            }
            return;
        }
        if n <= self.tip.sequence {
            return;
        }
        match self.early.get(&(sender, n)) {
            Some(early) if early.view > view => {}
            Some(early) if early.view == view => {
                if early.proposal != proposal {
                    let first = early.envelope.clone();
                    self.accuse(sender, TWO_PROPOSALS, vec![first, envelope], effects);
                }
            }
            _ => {
                self.early.insert((sender, n), Early { view, proposal, envelope });
            }
        }
    }

    /// A prepare or commit vote: the highest view of each replica is kept.
    pub(super) fn on_agreement_vote(
        &mut self,
        envelope: &Envelope,
        vote: Vote,
        effects: &mut Vec<Effect>,
    ) {
        let (sender, slot) = (envelope.sender, vote.slot);
        let Some(entry) = self.open_entry(slot.sequence) else { return };
        let votes = match slot.phase {
            Phase::Prepare => &mut entry.prepares,
            _ => &mut entry.commits,
        };
        if let Some(first) = votes.get(&sender).filter(|c| c.view >= slot.view) {
            if first.view == slot.view && first.digest != vote.digest {
                let first = first.envelope(sender, slot);
                self.accuse(sender, TWO_VOTES, vec![first, envelope.clone()], effects);
            }
            return;
        }
        let signature = envelope.signature.clone();
        votes.insert(sender, Cast { view: slot.view, digest: vote.digest, signature });
        self.check_prepared(slot.sequence);
        self.commit_again(slot.sequence, effects);
    }

    /// Accepts waiting pre-prepares whose turn has come, votes, delivers, proposes.
    pub(super) fn progress(&mut self, effects: &mut Vec<Effect>) {
        self.deliver(effects);
        if self.view_active {
            self.accept_early(effects);
            self.cast_prepares(effects);
            self.cast_commits(effects);
            self.propose(effects);
            self.foresee_commits(effects);
        }
    }

    /// A batch came: proposals that wait for it may be voted for.
    pub(super) fn on_batch_available(&mut self, reference: BatchRef) {
        let id = reference.id;
        let mut wanted = false;
        for (_, entry) in self.log.above_mut(SequenceNumber(0)) {
            let Some(a) = entry.assignment.as_mut().filter(|a| a.missing.contains(&id)) else {
                continue;
            };
            wanted = true;
            a.missing.remove(&id);
            a.refused |= !a.proposal.batches.contains(&reference);
        }
        for found in self.finals.values_mut() {
            wanted |= found.missing.remove(&id);
        }
        // In custody it would never be proposed, and every primary be suspected for that.
        if reference.transactions as usize > self.sequence_txs_max {
            return;
        }
        self.batches.insert(reference, self.pace.tick, wanted);
    }

    /// Of these batches, the ones not held here.
    pub(super) fn missing(&self, batches: &[BatchRef]) -> BTreeSet<BatchId> {
        let held = |id: &BatchId| self.batches.get(id).is_some() || self.batches.is_recent(id);
        batches.iter().map(|b| b.id).filter(|id| !held(id)).collect()
    }

    /// Proposes a null request where the primary has been idle.
    pub(super) fn propose_null(&mut self, effects: &mut Vec<Effect>) {
        let Some(n) = self.next_proposal() else { return };
        if n.0 - 1 == self.tip.sequence.0 {
            self.assign(Proposal::null(n), effects);
        }
    }

    fn accept_early(&mut self, effects: &mut Vec<Effect>) {
        let primary = self.replicas.primary(self.view);
        loop {
            let n = self.next_unassigned();
            let Some(early) = self.early.remove(&(primary, n)) else { return };
            if early.view > self.view {
                self.early.insert((primary, n), early);
                return;
            }
            if early.view < self.view || !self.acceptable(&early.proposal) {
                return;
            }
            let missing = self.missing(&early.proposal.batches);
            for id in &missing {
                let author = early.proposal.batches.iter().find(|b| b.id == *id).map(|b| b.author);
                self.fetch(*id, 0, &[primary, author.unwrap_or(primary)], effects);
            }
            let digest = early.proposal.digest(&self.chain);
            let mut assignment = Assignment::new(early.proposal, digest, Some(early.envelope));
            assignment.missing = missing;
            if let Some(entry) = self.log.entry(n) {
                entry.assignment = Some(assignment);
            }
            self.check_prepared(n);
        }
    }

    /// The first sequence number above what is delivered, stable or assigned.
    fn next_unassigned(&self) -> SequenceNumber {
        let mut n = self.tip.sequence.max(self.log.low());
        for (found, entry) in self.log.above(n) {
            if found.0 != n.0 + 1 || entry.assignment.is_none() {
                break;
            }
            n = found;
        }
        SequenceNumber(n.0.saturating_add(1))
    }

    /// What a backup asks of a fresh proposal (section 4.2, plus the rules of this chain).
    fn acceptable(&self, proposal: &Proposal) -> bool {
        if proposal.is_null() {
            return *proposal == Proposal::null(proposal.sequence);
        }
        let (transactions, bytes) = extent(&proposal.batches);
        let distinct: BTreeSet<BatchId> = proposal.batches.iter().map(|b| b.id).collect();
        let fresh = |b: &BatchRef| {
            !self.batches.is_recent(&b.id)
                && !self.log.assigns(&b.id, self.tip.sequence)
                && self.batches.get(&b.id).is_none_or(|held| held == b)
        };
        proposal.view == self.view
            && proposal.time_ms > self.time_below(proposal.sequence)
            && proposal.time_ms.abs_diff(self.clock_ms) <= self.parameters.block_time_skew_ms
            && proposal.batches.len() <= self.parameters.block_batches_max as usize
            && transactions <= self.sequence_txs_max
            && bytes <= limits::BLOCK_BYTES_MAX
            && distinct.len() == proposal.batches.len()
            && proposal.batches.iter().all(fresh)
    }

    /// Time of the last block below `n`, as far as it is assigned here.
    fn time_below(&self, n: SequenceNumber) -> u64 {
        self.log
            .above(self.tip.sequence)
            .take_while(|(found, _)| *found < n)
            .filter_map(|(_, e)| e.assignment.as_ref())
            .map(|a| a.proposal.time_ms)
            .fold(self.tip.time_ms, u64::max)
    }

    /// Votes prepare for each assignment whose bodies are all here. What is already delivered is
    /// voted for again only where it is the same.
    fn cast_prepares(&mut self, effects: &mut Vec<Effect>) {
        let (view, epoch, tip) = (self.view, self.replicas.epoch(), self.tip.sequence);
        for (n, entry) in self.log.above_mut(self.log.low()) {
            let Entry { assignment: Some(a), delivered, .. } = entry else { continue };
            if a.voted || a.refused || !a.missing.is_empty() {
                continue;
            }
            if n <= tip && delivered.is_none_or(|(digest, _)| digest != a.digest) {
                a.refused = true;
                continue;
            }
            a.voted = true;
            effects.push(Effect::Persist(
                Record::Accepted { view, proposal: a.proposal.clone() }.to_log(),
            ));
            let slot = super::slot(epoch, Phase::Prepare, view, n);
            effects.push(Effect::Broadcast(super::vote_draft(Vote { slot, digest: a.digest })));
        }
    }

    /// Commits what is prepared, upward from the tip and without a gap.
    fn cast_commits(&mut self, effects: &mut Vec<Effect>) {
        if self.checkpoints.diverged.is_some() {
            return;
        }
        let (chain, view) = (self.chain, self.view);
        let mut tip = self.tip;
        while let Some(entry) = tip.sequence.next().and_then(|n| self.log.find(n)) {
            let Some(a) = entry.assignment.as_mut().filter(|a| a.voted && a.prepared) else {
                return;
            };
            let (next, digest) = a.extend(chain, &tip);
            tip = next;
            if entry.commit_vote.is_none_or(|(voted, _)| voted < view) {
                self.cast_commit(tip.sequence, digest, effects);
            }
        }
    }

    /// Names the commit votes that follow from what is voted for, each once. Where another proposal
    /// than the one voted for becomes final below, which takes a faulty primary, the vote that was
    /// named is never cast.
    fn foresee_commits(&mut self, effects: &mut Vec<Effect>) {
        if self.checkpoints.diverged.is_some() {
            return;
        }
        let (chain, view, epoch) = (self.chain, self.view, self.replicas.epoch());
        let mut tip = self.tip;
        while let Some(entry) = tip.sequence.next().and_then(|n| self.log.find(n)) {
            let cast = entry.commit_vote.is_some_and(|(voted, _)| voted >= view);
            let Some(a) = entry.assignment.as_mut().filter(|a| a.voted) else { return };
            let (next, digest) = a.extend(chain, &tip);
            if !std::mem::replace(&mut a.foreseen, true) && !cast {
                let slot = super::slot(epoch, Phase::Commit, view, next.sequence);
                effects.push(Effect::Foresee(super::vote_draft(Vote { slot, digest })));
            }
            tip = next;
        }
    }

    /// Commits once more, in a later view, what is delivered here: others may still need it.
    fn commit_again(&mut self, n: SequenceNumber, effects: &mut Vec<Effect>) {
        if n > self.tip.sequence || !self.view_active || self.checkpoints.diverged.is_some() {
            return;
        }
        let Some(entry) = self.log.get(n) else { return };
        let (Some(a), Some((proposal, digest))) = (&entry.assignment, entry.delivered) else {
            return;
        };
        let voted = entry.commit_vote.is_some_and(|(view, _)| view >= self.view);
        if a.voted && a.prepared && a.digest == proposal && !voted {
            self.cast_commit(n, digest, effects);
        }
    }

    fn cast_commit(&mut self, n: SequenceNumber, digest: Digest, effects: &mut Vec<Effect>) {
        let (view, epoch) = (self.view, self.replicas.epoch());
        let Some(entry) = self.log.find(n) else { return };
        let Some(prepared) = &entry.prepared else { return };
        let record = Record::Prepared { prepared: prepared.clone(), commit: digest };
        entry.commit_vote = Some((view, digest));
        effects.push(Effect::Persist(record.to_log()));
        let slot = super::slot(epoch, Phase::Commit, view, n);
        effects.push(Effect::Broadcast(super::vote_draft(Vote { slot, digest })));
    }

    /// Notes a quorum of prepare votes for the current assignment of `n`: its certificate then
    /// replaces that of an earlier view.
    pub(super) fn check_prepared(&mut self, n: SequenceNumber) {
        let slot = self.slot(Phase::Prepare, self.view, n);
        let quorum = self.replicas.quorum();
        let Some(entry) = self.log.find(n) else { return };
        let Some(a) = entry.assignment.as_mut().filter(|a| !a.prepared) else { return };
        let vote = Vote { slot, digest: a.digest };
        if let Some(certificate) = log::certificate(&entry.prepares, vote, quorum) {
            a.prepared = true;
            entry.prepared = Some(Prepared { certificate, proposal: a.proposal.clone() });
        }
    }

    /// Delivers whatever is final, in order.
    fn deliver(&mut self, effects: &mut Vec<Effect>) {
        while let Some(mut delivered) = self.next_final() {
            let (tip, commit) = self.tip.extend(self.chain, &delivered.proposal);
            let digest = delivered.proposal.digest(&self.chain);
            self.tip = tip;
            self.settle_content(&mut delivered.proposal);
            let proposal = &delivered.proposal;
            if let Some(entry) = self.log.entry(tip.sequence) {
                entry.delivered = Some((digest, commit));
            }
            for batch in &proposal.batches {
                let held = self.batches.delivered(batch.id);
                self.pace.on_batch_delivered(held);
            }
            self.log.remember(delivered.clone());
            if delivered.proposal.is_null() {
                self.last_null = Some(delivered.clone());
            }
            self.finals.remove(&tip.sequence);
            self.pace.on_delivered();
            self.doubts.clear();
            effects.push(Effect::Deliver(delivered));
        }
    }

    /// Puts into a proposal what its block holds. The certificate is over the block hash: it binds
    /// the block's time, not a proposed time before the block below, and the batch ids, not what a
    /// liar who passed the proposal on says of their size.
    fn settle_content(&self, proposal: &mut Proposal) {
        if proposal.is_null() {
            return;
        }
        proposal.time_ms = self.tip.time_ms;
        for batch in &mut proposal.batches {
            *batch = self.batches.get(&batch.id).copied().unwrap_or(*batch);
        }
    }

    /// The proposal after the tip, if a quorum committed it and its bodies are here.
    fn next_final(&mut self) -> Option<Delivered> {
        let n = self.tip.sequence.next()?;
        // The driver's queue of delivered proposals is bounded by this.
        if n.0.saturating_sub(self.executed.0) > self.window() {
            return None;
        }
        if let Some(found) = self.finals.get(&n) {
            let (_, digest) = self.tip.extend(self.chain, &found.delivered.proposal);
            if digest != found.delivered.certificate.vote.digest {
                self.finals.remove(&n);
            } else if found.missing.is_empty() {
                return Some(found.delivered.clone());
            }
        }
        let entry = self.log.get(n)?;
        let a = entry.assignment.as_ref().filter(|a| !a.refused && a.missing.is_empty())?;
        if entry.commits.len() < self.replicas.quorum() {
            return None;
        }
        let (_, digest) = a.extended(self.chain, &self.tip);
        let certificate = self.commit_certificate(entry, n, digest)?;
        Some(Delivered { proposal: a.proposal.clone(), certificate })
    }

    fn commit_certificate(
        &self,
        entry: &Entry,
        n: SequenceNumber,
        digest: Digest,
    ) -> Option<QuorumCertificate> {
        let views: BTreeSet<View> =
            entry.commits.values().filter(|c| c.digest == digest).map(|c| c.view).collect();
        views.into_iter().rev().find_map(|view| {
            let slot = self.slot(Phase::Commit, view, n);
            log::certificate(&entry.commits, Vote { slot, digest }, self.replicas.quorum())
        })
    }

    /// Proposes the waiting batches while the pipe has room, beside a fresh proposal only what
    /// fills one: a round costs the same for one transaction and for many.
    fn propose(&mut self, effects: &mut Vec<Effect>) {
        while let Some(n) = self.next_proposal() {
            let batches = self.proposable();
            let gathers = self.keeps_distance() && !self.is_full(&batches);
            if batches.is_empty() || gathers {
                return;
            }
            let time_ms = self.clock_ms.max(self.time_below(n).saturating_add(1));
            self.assign(Proposal { view: self.view, sequence: n, time_ms, batches }, effects);
        }
    }

    /// The sequence number this replica may propose for now.
    fn next_proposal(&self) -> Option<SequenceNumber> {
        if !self.is_active_primary() || self.checkpoints.diverged.is_some() {
            return None;
        }
        let last = self.proposed.max(self.tip.sequence).max(self.log.low());
        let n = last.next()?;
        let room = last.0 - self.tip.sequence.0 < self.tuning.in_flight_max.max(1);
        let executing = n.0.saturating_sub(self.executed.0);
        let keeps_up = executing <= limits::ORDERED_BLOCKS_MAX as u64;
        (self.log.covers(n) && room && keeps_up).then_some(n)
    }

    /// Batches in order of arrival that fit one block and are in no other proposal.
    fn proposable(&self) -> Vec<BatchRef> {
        let taken: BTreeSet<BatchId> = self
            .log
            .above(self.tip.sequence)
            .filter_map(|(_, e)| e.assignment.as_ref())
            .flat_map(|a| a.proposal.batches.iter().map(|b| b.id))
            .collect();
        let (mut transactions, mut bytes) = (0, 0);
        let mut batches = Vec::new();
        for pending in self.batches.in_order() {
            let reference = pending.reference;
            if taken.contains(&reference.id) {
                continue;
            }
            transactions += reference.transactions as usize;
            bytes += reference.bytes as usize;
            let full = batches.len() >= self.parameters.block_batches_max as usize
                || transactions > self.sequence_txs_max;
            if full || bytes > limits::BLOCK_BYTES_MAX {
                break;
            }
            batches.push(reference);
        }
        batches
    }

    /// Worth a round of its own, or all that one may carry.
    fn is_full(&self, batches: &[BatchRef]) -> bool {
        let (transactions, bytes) = extent(batches);
        transactions >= limits::PROPOSAL_FULL_TXS.min(self.sequence_txs_max)
            || bytes >= limits::PROPOSAL_FULL_BYTES
            || batches.len() >= self.parameters.block_batches_max as usize
    }

    /// Assigns a proposal as primary: the record, the pre-prepare, and the primary's own prepare.
    fn assign(&mut self, proposal: Proposal, effects: &mut Vec<Effect>) {
        let (view, n) = (self.view, proposal.sequence);
        let digest = proposal.digest(&self.chain);
        let record = Record::Accepted { view, proposal: proposal.clone() };
        self.pace.on_proposed(!proposal.is_null() && self.tuning.proposal_spacing_ms > 0);
        effects.push(Effect::Persist(record.to_log()));
        effects.push(Effect::Broadcast(self.pre_prepare_draft(view, proposal.clone())));
        let slot = self.slot(Phase::Prepare, view, n);
        effects.push(Effect::Broadcast(super::vote_draft(Vote { slot, digest })));
        let mut assignment = Assignment::new(proposal, digest, None);
        assignment.voted = true;
        if let Some(entry) = self.log.entry(n) {
            entry.assignment = Some(assignment);
        }
        self.proposed = n;
        self.check_prepared(n);
    }

    /// The primary's pre-prepare before signing.
    pub(super) fn pre_prepare_draft(&self, view: View, proposal: Proposal) -> Draft {
        let slot = self.slot(Phase::PrePrepare, view, proposal.sequence);
        self.draft(Some(slot), &Message::PrePrepare { view, proposal })
    }

    /// The entry of a sequence number that may still take votes.
    fn open_entry(&mut self, n: SequenceNumber) -> Option<&mut Entry> {
        if self.log.covers(n) {
            return self.log.entry(n);
        }
        self.log.find(n).filter(|_| n > self.tip.sequence)
    }

    /// Asks for a body: first those who must have it, then two others at each attempt.
    pub(super) fn fetch(
        &self,
        id: BatchId,
        attempt: u32,
        first: &[ReplicaId],
        effects: &mut Vec<Effect>,
    ) {
        let n = self.replicas.len() as u64;
        let others = [0, 1].map(|k| {
            let turn = u64::from(self.me.0) + 1 + 2 * u64::from(attempt) + k;
            ReplicaId(u16::try_from(turn % n).expect("below the number of replicas"))
        });
        let asked = if attempt == 0 { first } else { &others };
        let known = asked.iter().filter(|r| **r != self.me && self.replicas.get(**r).is_some());
        let from: Vec<ReplicaId> = known.copied().collect::<BTreeSet<_>>().into_iter().collect();
        if !from.is_empty() {
            effects.push(Effect::FetchBatch { id, from });
        }
    }
}

/// Transactions and bytes of some batches.
fn extent(batches: &[BatchRef]) -> (usize, usize) {
    let sum = |of: fn(&BatchRef) -> u32| batches.iter().map(|b| of(b) as usize).sum();
    (sum(|b| b.transactions), sum(|b| b.bytes))
}
