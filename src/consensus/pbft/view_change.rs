//! Floor 2: PBFT's view change.
//!
//! ```text
//! replicas     suspect --> VIEW-CHANGE(v+1, stable proof, prepared certificates) --> all
//! primary v+1  quorum of them --> NEW-VIEW(v+1, the view-changes, assignments)   --> all
//! replicas     compute the same assignments --> prepare them in v+1
//! ```
//!
//! Invariants:
//! * After demanding view v a replica takes part in no lower view; its demand for v is recorded and
//!   repeated with the same bytes.
//! * A committed proposal has a prepared certificate in every quorum of view-changes unless a
//!   stable checkpoint covers it, and the one of the highest view wins, so it is assigned again.
//! * Of each replica one view-change is kept, that of the highest view; a view is joined only on
//!   the word of f+1 replicas, so f of them cannot push the view to `u64::MAX`.
//!
//! Source: Castro and Liskov 1999, sections 4.4 and 4.5.2.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use bytes::Bytes;

use crate::consensus::Draft;
use crate::consensus::Effect;
use crate::consensus::Envelope;
use crate::consensus::pbft::Pbft;
use crate::consensus::pbft::evidence::TWO_NEW_VIEWS;
use crate::consensus::pbft::evidence::TWO_VIEW_CHANGES;
use crate::consensus::pbft::evidence::WRONG_NEW_VIEW;
use crate::consensus::pbft::log::Assignment;
use crate::consensus::pbft::message::Message;
use crate::consensus::pbft::message::NewView;
use crate::consensus::pbft::message::Prepared;
use crate::consensus::pbft::message::ViewChange;
use crate::consensus::pbft::recovery::Record;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::DecodeError;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::vote::Phase;
use crate::types::vote::Slot;

/// What a quorum of view-changes makes of the sequence numbers above the stable checkpoint.
#[derive(Debug)]
pub struct Plan {
    /// Proof of the highest stable checkpoint among them.
    pub stable: Option<QuorumCertificate>,
    /// Proposals from the next sequence number upward, without a gap.
    pub proposals: Vec<Proposal>,
}

impl Pbft {
    /// Demands a view: leaves the current one and says what was prepared here.
    pub(super) fn start_view_change(&mut self, view: View, effects: &mut Vec<Effect>) {
        if view < self.view || (view == self.view && !self.view_active) {
            return;
        }
        self.view = view;
        self.view_active = false;
        self.new_view = None;
        self.new_view_top = None;
        self.log.leave_view();
        self.early.retain(|_, early| early.view >= view);
        let message = Message::ViewChange(ViewChange {
            view,
            stable: self.checkpoints.stable.clone(),
            prepared: self.carried(),
        });
        let body = message.to_body(self.replicas.epoch());
        effects.push(Effect::Persist(Record::ViewChange { body: body.clone() }.to_log()));
        effects.push(Effect::Broadcast(self.view_change_draft(body.clone())));
        self.own_view_change = Some(body);
    }

    /// The guard holds another text for a slot, recorded just before a crash that lost this
    /// replica's own record of it. Nothing was sent then, so nobody waits for it; but without its
    /// demand, or without its assignments as primary, this replica cannot take part in the view.
    pub(super) fn on_refused(&mut self, slot: Slot, effects: &mut Vec<Effect>) {
        let needed = match slot.phase {
            Phase::ViewChange => !self.view_active,
            Phase::PrePrepare => self.view_active && slot.sequence > self.tip.sequence,
            _ => false,
        };
        if needed && slot.view == self.view && slot.epoch == self.replicas.epoch() {
            self.demand_next_view(effects);
        }
    }

    /// A view-change of any replica, this one included.
    pub(super) fn on_view_change(
        &mut self,
        envelope: Envelope,
        message: ViewChange,
        effects: &mut Vec<Effect>,
    ) {
        let (sender, view) = (envelope.sender, message.view);
        if self.check_view_change(&message).is_err() {
            return;
        }
        if let Some(certificate) = message.stable.clone() {
            self.learn_stable(certificate, effects);
        }
        if view < self.view || (view == self.view && self.view_active) {
            return;
        }
        if let Some((first, known)) = self.view_changes.get(&sender) {
            if known.view == view && first.body != envelope.body {
                let first = first.clone();
                self.accuse(sender, TWO_VIEW_CHANGES, vec![first, envelope], effects);
                return;
            }
            if known.view >= view {
                return;
            }
        }
        self.view_changes.insert(sender, (envelope, message));
        self.join_higher_view(effects);
        self.compose_new_view(effects);
    }

    /// The start of a view.
    pub(super) fn on_new_view(
        &mut self,
        envelope: Envelope,
        message: &NewView,
        effects: &mut Vec<Effect>,
    ) {
        let (sender, view) = (envelope.sender, message.view);
        if sender != self.replicas.primary(view) || view < self.view || view == View(0) {
            return;
        }
        if view == self.view && self.view_active {
            let first = self.new_view.clone().filter(|first| first.body != envelope.body);
            if let Some(first) = first {
                self.accuse(sender, TWO_NEW_VIEWS, vec![first, envelope], effects);
            }
            return;
        }
        let Ok(plan) = self.plan(view, &message.view_changes) else { return };
        let digests = plan.proposals.iter().map(|p| p.digest(&self.chain));
        if !digests.eq(message.assignments.iter().copied()) {
            self.accuse(sender, WRONG_NEW_VIEW, vec![envelope], effects);
            return;
        }
        if let Some(certificate) = plan.stable.clone() {
            self.learn_stable(certificate, effects);
        }
        effects.push(Effect::Persist(Record::NewView { envelope: envelope.clone() }.to_log()));
        self.adopt_view(envelope, view, plan);
        self.batches.restart_waiting(self.pace.tick);
        self.pace.on_new_view();
        self.fetch_missing(effects);
        if self.tip.sequence < self.log.low() && self.replicas.primary(view) == self.me {
            self.catch_up(effects);
        }
    }

    /// Takes over a checked new-view: view and assignments. The watermarks have moved to its
    /// checkpoint before.
    pub(super) fn adopt_view(&mut self, envelope: Envelope, view: View, plan: Plan) {
        if view < self.view || (view == self.view && self.view_active) {
            return;
        }
        self.view = view;
        self.view_active = true;
        self.own_view_change = None;
        self.new_view = Some(envelope);
        self.log.leave_view();
        self.view_changes.retain(|_, (_, demand)| demand.view > view);
        self.early.retain(|_, early| early.view >= view);
        let top = plan.proposals.last().map(|p| p.sequence);
        let base = plan.stable.map_or(SequenceNumber(0), |c| c.vote.slot.sequence);
        self.proposed = top.unwrap_or(base).max(base);
        self.new_view_top = Some(self.proposed);
        for proposal in plan.proposals {
            let (n, digest) = (proposal.sequence, proposal.digest(&self.chain));
            let missing = self.missing(&proposal.batches);
            let delivered = n <= self.tip.sequence;
            let Some(entry) = self.log.entry(n) else { continue };
            let mut assignment = Assignment::new(proposal, digest, None);
            if !delivered {
                assignment.missing = missing;
            }
            entry.assignment = Some(assignment);
            self.check_prepared(n);
        }
    }

    /// What a set of view-changes for `view` makes of the sequence numbers: section 4.4. An error
    /// where they are no quorum or one of them is wrong.
    pub(super) fn plan(
        &self,
        view: View,
        view_changes: &[(Envelope, ViewChange)],
    ) -> Result<Plan, DecodeError> {
        let field = "new-view";
        if view_changes.len() < self.replicas.quorum() {
            return Err(DecodeError::Invalid { field, reason: "fewer view-changes than a quorum" });
        }
        for (envelope, message) in view_changes {
            if message.view != view || self.replicas.get(envelope.sender).is_none() {
                return Err(DecodeError::Invalid { field, reason: "a foreign view-change" });
            }
            self.check_view_change(message)?;
        }
        let stable = view_changes
            .iter()
            .filter_map(|(_, m)| m.stable.as_ref())
            .max_by_key(|c| c.vote.slot.sequence)
            .cloned();
        let low = stable.as_ref().map_or(SequenceNumber(0), |c| c.vote.slot.sequence);
        let mut chosen: BTreeMap<SequenceNumber, &Prepared> = BTreeMap::new();
        for prepared in view_changes.iter().flat_map(|(_, m)| &m.prepared) {
            let n = prepared.proposal.sequence;
            let prepared_in = |p: &Prepared| p.certificate.vote.slot.view;
            let better = chosen.get(&n).is_none_or(|c| prepared_in(prepared) > prepared_in(c));
            if n > low && better {
                chosen.insert(n, prepared);
            }
        }
        let high = chosen.keys().next_back().copied().unwrap_or(low);
        if high.0 - low.0 > self.window() {
            return Err(DecodeError::Invalid { field, reason: "prepared above the watermark" });
        }
        let mut seen = BTreeSet::new();
        let mut proposals = Vec::new();
        for n in (1..=high.0 - low.0).map(|offset| SequenceNumber(low.0 + offset)) {
            let found = chosen.get(&n).map(|p| &p.proposal);
            let fresh = found.filter(|p| !p.batches.iter().any(|b| seen.contains(&b.id)));
            seen.extend(fresh.iter().flat_map(|p| p.batches.iter().map(|b| b.id)));
            proposals.push(fresh.cloned().unwrap_or_else(|| Proposal::null(n)));
        }
        Ok(Plan { stable, proposals })
    }

    /// The prepared certificates that still matter. A proposal above the tip with a batch that is
    /// already delivered below cannot have been committed (nobody would have accepted it on top of
    /// that block), and would deliver the batch twice.
    fn carried(&self) -> Vec<Prepared> {
        let tip = self.tip.sequence;
        let below: BTreeSet<BatchId> = self.log.remembered_batches().collect();
        let again = |p: &Prepared| p.proposal.batches.iter().any(|b| below.contains(&b.id));
        let all = self.log.prepared().into_iter();
        all.filter(|p| p.proposal.sequence <= tip || !again(p)).collect()
    }

    /// The own view-change before signing; the same body for the same view, always.
    pub(super) fn view_change_draft(&self, body: Bytes) -> Draft {
        let slot = self.slot(Phase::ViewChange, self.view, SequenceNumber(0));
        Draft { slot: Some(slot), body }
    }

    /// True once a quorum, this replica included, demands this view or a higher one.
    pub(super) fn view_change_has_quorum(&self) -> bool {
        let demands = self.view_changes.values().filter(|(_, m)| m.view >= self.view);
        demands.count() >= self.replicas.quorum()
    }

    /// Everything about a view-change that its signatures do not show.
    fn check_view_change(&self, message: &ViewChange) -> Result<(), DecodeError> {
        let field = "view-change";
        if let Some(certificate) = &message.stable {
            certificate.check_shape(&self.replicas)?;
            if !certificate.vote.slot.sequence.0.is_multiple_of(self.parameters.checkpoint_interval)
                || certificate.vote.slot.sequence.0 == 0
            {
                return Err(DecodeError::Invalid { field, reason: "no checkpoint is due there" });
            }
        }
        let low = message.stable_sequence();
        let high = SequenceNumber(low.0.saturating_add(self.window()));
        for prepared in &message.prepared {
            prepared.certificate.check_shape(&self.replicas)?;
            let vote = &prepared.certificate.vote;
            if vote.slot.view >= message.view || prepared.proposal.view > vote.slot.view {
                return Err(DecodeError::Invalid { field, reason: "prepared in a later view" });
            }
            if vote.slot.sequence <= low || vote.slot.sequence > high {
                return Err(DecodeError::Invalid { field, reason: "outside the watermarks" });
            }
            if vote.digest != prepared.proposal.digest(&self.chain) {
                return Err(DecodeError::Invalid { field, reason: "another proposal's votes" });
            }
        }
        Ok(())
    }

    /// Section 4.5.2: the highest view that f+1 other replicas have reached is joined, since one of
    /// them is correct.
    fn join_higher_view(&mut self, effects: &mut Vec<Effect>) {
        let others = self.view_changes.iter().filter(|(id, _)| **id != self.me);
        let mut views: Vec<View> = others.map(|(_, (_, m))| m.view).collect();
        views.sort_unstable_by(|a, b| b.cmp(a));
        let reached = views.get(self.replicas.weak_quorum() - 1).copied();
        if let Some(view) = reached.filter(|view| *view > self.view) {
            self.start_view_change(view, effects);
        }
    }

    /// The new primary's part: once, with the first quorum that is there.
    fn compose_new_view(&mut self, effects: &mut Vec<Effect>) {
        let view = self.view;
        let mine = self.replicas.primary(view) == self.me;
        if self.view_active || !mine || self.composed == Some(view) {
            return;
        }
        let view_changes: Vec<(Envelope, ViewChange)> = self
            .view_changes
            .values()
            .filter(|(_, m)| m.view == view)
            .take(self.replicas.quorum())
            .cloned()
            .collect();
        let Ok(plan) = self.plan(view, &view_changes) else { return };
        let assignments: Vec<Digest> =
            plan.proposals.iter().map(|p| p.digest(&self.chain)).collect();
        let message = Message::NewView(NewView { view, view_changes, assignments });
        let body = message.to_body(self.replicas.epoch());
        self.composed = Some(view);
        if body.len() > limits::CONSENSUS_MESSAGE_BYTES_MAX {
            return;
        }
        let slot = self.slot(Phase::NewView, view, SequenceNumber(0));
        effects.push(Effect::Broadcast(Draft { slot: Some(slot), body }));
    }
}
