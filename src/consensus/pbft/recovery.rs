//! Floor 2: PBFT's records in the write-ahead log, and the state rebuilt from them.
//!
//! ```text
//! 1 accepted     view u64 | proposal             what pre-prepare and prepare voted for
//! 2 prepared     certificate | proposal | commit digest 32     before the commit vote
//! 3 view-change  body bytes                      own demand, sent again byte for byte
//! 4 new-view     envelope                        the view entered
//! 5 checkpoint   sequence u64 | digest 32        own checkpoint vote
//! 6 stable       certificate                     the low watermark
//! 7 recent       batch ids u32 x 32              delivered since the last such record
//! 8 null         certificate                     a null request executed here
//! ```
//!
//! Invariants: applying the records in order gives back every vote this replica ever sent above
//! the stable checkpoint, so it never contradicts itself after a restart and can repeat each vote
//! with the same bytes. Records at or below the stable checkpoint, or of a view that was left,
//! change nothing. A new-view is not recorded by its sender before it comes back: a primary that
//! restarts between its demand for a view and that view's start leaves the view to fail. Failure:
//! the driver checks the log's integrity; a record that cannot be read then was written by another
//! version, and the replica stops rather than forget a vote.

use bytes::Bytes;

use crate::consensus::Delivered;
use crate::consensus::Effect;
use crate::consensus::Envelope;
use crate::consensus::LogRecord;
use crate::consensus::pbft::Pbft;
use crate::consensus::pbft::log::Assignment;
use crate::consensus::pbft::message::Message;
use crate::consensus::pbft::message::Prepared;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::vote::Phase;
use crate::types::vote::Vote;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The proposal voted for in a view.
    Accepted { view: View, proposal: Proposal },
    /// The prepared certificate and the digest that the commit vote signs.
    Prepared { prepared: Prepared, commit: Digest },
    /// The body of the own view-change.
    ViewChange { body: Bytes },
    /// The new-view that was entered.
    NewView { envelope: Envelope },
    /// An own checkpoint vote.
    Checkpoint { sequence: SequenceNumber, digest: Digest },
    /// A stable checkpoint.
    Stable { certificate: QuorumCertificate },
    /// Batches delivered lately, oldest first.
    Recent { batches: Vec<BatchId> },
    /// The commit certificate of a null request executed here: a ledger keeps none, and without it
    /// a restart would fall back to the last block's sequence number.
    Null { certificate: QuorumCertificate },
}

impl Record {
    /// The record's bytes.
    pub fn to_log(&self) -> LogRecord {
        LogRecord(self.to_bytes())
    }
}

impl Pbft {
    /// Rebuilds the state that the records show; they come in the order they were written.
    pub(super) fn replay(&mut self, log: &[LogRecord]) {
        for record in log {
            let record = Record::from_bytes(&record.0)
                .expect("the write-ahead log holds records that this version wrote");
            self.apply(record);
        }
        self.proposed = self.log.highest_assigned().unwrap_or_default();
    }

    /// First input: sends again what the log shows as unfinished, with the same bytes.
    pub(super) fn on_start(&mut self, effects: &mut Vec<Effect>) {
        if let Some(body) = self.own_view_change.clone().filter(|_| !self.view_active) {
            effects.push(Effect::Broadcast(self.view_change_draft(body)));
        }
        let primary = self.is_active_primary();
        let mut drafts = Vec::new();
        for (n, entry) in self.log.above(self.log.low()).filter(|_| self.view_active) {
            let Some(a) = entry.assignment.as_ref().filter(|a| a.voted) else { continue };
            let by_new_view = self.new_view_top.is_some_and(|top| n <= top);
            if primary && !by_new_view {
                drafts.push(self.pre_prepare_draft(self.view, a.proposal.clone()));
            }
            let slot = self.slot(Phase::Prepare, self.view, n);
            drafts.push(super::vote_draft(Vote { slot, digest: a.digest }));
            if let Some((view, digest)) = entry.commit_vote.filter(|(v, _)| *v == self.view) {
                let slot = self.slot(Phase::Commit, view, n);
                drafts.push(super::vote_draft(Vote { slot, digest }));
            }
        }
        for (sequence, digest) in self.checkpoints.own_above(self.log.low()) {
            drafts.push(super::vote_draft(self.checkpoint_vote(sequence, digest)));
        }
        effects.extend(drafts.into_iter().map(Effect::Broadcast));
        self.send_status(effects);
    }

    /// Everything that is still needed, as the log would hold it.
    pub(super) fn compaction(&self) -> Vec<LogRecord> {
        let mut records = Vec::new();
        let stable = self.checkpoints.stable.clone();
        records.extend(stable.map(|certificate| Record::Stable { certificate }));
        let new_view = self.new_view.clone();
        records.extend(new_view.map(|envelope| Record::NewView { envelope }));
        for (_, entry) in self.log.above(self.log.low()) {
            let voted = entry.assignment.as_ref().filter(|a| a.voted);
            records.extend(
                voted.map(|a| Record::Accepted { view: self.view, proposal: a.proposal.clone() }),
            );
            records.extend(entry.prepared.clone().map(|prepared| {
                let view = prepared.certificate.vote.slot.view;
                let commit = entry.commit_vote.filter(|(v, _)| *v == view).map(|(_, d)| d);
                Record::Prepared { prepared, commit: commit.unwrap_or(Digest::ZERO) }
            }));
        }
        let own = self.own_view_change.clone().filter(|_| !self.view_active);
        records.extend(own.map(|body| Record::ViewChange { body }));
        let checkpoints = self.checkpoints.own_above(self.log.low());
        records
            .extend(checkpoints.map(|(sequence, digest)| Record::Checkpoint { sequence, digest }));
        let null = self.executed_null.clone();
        records.extend(null.map(|certificate| Record::Null { certificate }));
        records.push(Record::Recent { batches: self.batches.recent().collect() });
        records.iter().map(Record::to_log).collect()
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Accepted { view, proposal } => self.replay_accepted(view, proposal),
            Record::Prepared { prepared, commit } => self.replay_prepared(prepared, commit),
            Record::ViewChange { body } => {
                let Ok((_, Message::ViewChange(demand))) = Message::from_body(&body) else {
                    return;
                };
                if demand.view > self.view {
                    self.view = demand.view;
                    self.view_active = false;
                    self.log.leave_view();
                    self.own_view_change = Some(body);
                    // It may have been sent before the crash, with other view-changes.
                    self.composed = Some(demand.view);
                }
            }
            Record::NewView { envelope } => {
                let Ok((_, Message::NewView(new_view))) = Message::from_body(&envelope.body) else {
                    return;
                };
                if let Ok(plan) = self.plan(new_view.view, &new_view.view_changes) {
                    if let Some(certificate) = plan.stable.clone() {
                        self.replay_stable(certificate);
                    }
                    self.adopt_view(envelope, new_view.view, plan);
                }
            }
            Record::Checkpoint { sequence, digest } => {
                self.checkpoints.own.insert(sequence, digest);
            }
            Record::Stable { certificate } => self.replay_stable(certificate),
            Record::Recent { batches } => {
                for id in batches {
                    self.batches.delivered(id);
                }
            }
            Record::Null { certificate } => {
                let proposal = Proposal::null(certificate.vote.slot.sequence);
                let (tip, digest) = self.tip.extend(self.chain, &proposal);
                if tip.sequence > self.tip.sequence && digest == certificate.vote.digest {
                    self.tip = tip;
                    self.executed = tip.sequence;
                }
                if digest == certificate.vote.digest {
                    self.executed_null = Some(certificate.clone());
                    self.last_null = Some(Delivered { proposal, certificate });
                }
            }
        }
    }

    fn replay_stable(&mut self, certificate: QuorumCertificate) {
        let sequence = certificate.vote.slot.sequence;
        if sequence > self.log.low() {
            self.checkpoints.stable = Some(certificate);
            self.checkpoints.own.retain(|own, _| *own >= sequence);
            self.log.advance(sequence, self.executed);
        }
    }

    fn replay_accepted(&mut self, view: View, proposal: Proposal) {
        if view != self.view || !self.view_active {
            return;
        }
        let digest = proposal.digest(&self.chain);
        let n = proposal.sequence;
        let Some(entry) = self.log.entry(n) else { return };
        match &mut entry.assignment {
            Some(a) if a.digest == digest => a.voted = true,
            _ => {
                let mut assignment = Assignment::new(proposal, digest, None);
                assignment.voted = true;
                entry.assignment = Some(assignment);
            }
        }
    }

    fn replay_prepared(&mut self, prepared: Prepared, commit: Digest) {
        let vote = prepared.certificate.vote;
        let Some(entry) = self.log.entry(vote.slot.sequence) else { return };
        if entry.prepared.as_ref().is_some_and(|p| p.certificate.vote.slot.view > vote.slot.view) {
            return;
        }
        if let Some(a) = &mut entry.assignment {
            a.prepared |= vote.slot.view == self.view && a.digest == vote.digest;
        }
        entry.prepared = Some(prepared);
        if commit != Digest::ZERO {
            entry.commit_vote = Some((vote.slot.view, commit));
        }
    }
}

impl Encode for Record {
    fn encode(&self, w: &mut Writer) {
        match self {
            Self::Accepted { view, proposal } => {
                w.u8(1);
                view.encode(w);
                proposal.encode(w);
            }
            Self::Prepared { prepared, commit } => {
                w.u8(2);
                prepared.encode(w);
                commit.encode(w);
            }
            Self::ViewChange { body } => {
                w.u8(3);
                w.bytes(body);
            }
            Self::NewView { envelope } => {
                w.u8(4);
                envelope.encode(w);
            }
            Self::Checkpoint { sequence, digest } => {
                w.u8(5);
                sequence.encode(w);
                digest.encode(w);
            }
            Self::Stable { certificate } => {
                w.u8(6);
                certificate.encode(w);
            }
            Self::Recent { batches } => {
                w.u8(7);
                w.list(batches);
            }
            Self::Null { certificate } => {
                w.u8(8);
                certificate.encode(w);
            }
        }
    }
}

impl Decode for Record {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8("record kind")? {
            1 => Self::Accepted { view: View::decode(r)?, proposal: Proposal::decode(r)? },
            2 => Self::Prepared { prepared: Prepared::decode(r)?, commit: Digest::decode(r)? },
            3 => Self::ViewChange {
                body: r.bytes("view-change", limits::CONSENSUS_MESSAGE_BYTES_MAX)?,
            },
            4 => Self::NewView { envelope: Envelope::decode(r)? },
            5 => Self::Checkpoint {
                sequence: SequenceNumber::decode(r)?,
                digest: Digest::decode(r)?,
            },
            6 => Self::Stable { certificate: QuorumCertificate::decode(r)? },
            7 => Self::Recent { batches: r.list("recent batches", limits::RECENT_BATCHES_MAX)? },
            8 => Self::Null { certificate: QuorumCertificate::decode(r)? },
            _ => return Err(DecodeError::Invalid { field: "record kind", reason: "unknown" }),
        })
    }
}
