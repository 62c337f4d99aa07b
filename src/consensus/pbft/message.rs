//! Floor 2: PBFT's messages and their bytes.
//!
//! ```text
//! prepare, commit, checkpoint   the 57 bytes of a `Vote`: a certificate needs signatures only
//! pre-prepare   0x10 | epoch u64 | view u64 | proposal
//! view-change   0x11 | epoch u64 | view u64 | option certificate (checkpoint)
//!                    | prepared u32 x (certificate | proposal)
//! new-view      0x12 | epoch u64 | view u64 | view-changes u32 x envelope
//!                    | assignments u32 x digest 32
//! status        0x13 | epoch u64 | view u64 | active u8 | delivered u64 | stable u64 | ask u16
//!                    | answer u8 | held bytes | waiting u32 x batch id 32
//! stable        0x14 | epoch u64 | certificate (checkpoint)
//! committed     0x15 | epoch u64 | proposal | certificate (commit)
//! ```
//!
//! A kind byte is above every `Phase`, so no vote can be read as another message or the other way
//! round. Decoding checks what the bytes alone can show (phases, order, that a proposal is the one
//! its certificate names by sequence number); quorum size and membership need the replica set and
//! are checked by the core. Malformed bytes are an error, never a panic.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::consensus::Claim;
use crate::consensus::Envelope;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::ChainId;
use crate::types::ids::Epoch;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::vote;
use crate::types::vote::Phase;
use crate::types::vote::Slot;
use crate::types::vote::Vote;
use crate::types::vote_signature::Bound;
use crate::types::vote_signature::VoteSignature;

/// What the body of an envelope says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A prepare, commit or checkpoint vote.
    Vote(Vote),
    /// The primary's assignment of a proposal to its sequence number in a view.
    PrePrepare { view: View, proposal: Proposal },
    /// The demand for a view.
    ViewChange(ViewChange),
    /// The start of a view.
    NewView(NewView),
    /// Where a replica stands.
    Status(Status),
    /// Proof of a stable checkpoint.
    Stable(QuorumCertificate),
    /// A committed proposal with its proof, for a replica that missed it.
    Committed { proposal: Proposal, certificate: QuorumCertificate },
}

/// A proposal that a quorum prepared: no other can have been committed in that view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// A quorum of prepare votes for the proposal's digest.
    pub certificate: QuorumCertificate,
    /// The proposal.
    pub proposal: Proposal,
}

/// What a replica carries into a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewChange {
    /// The view demanded.
    pub view: View,
    /// Its last stable checkpoint; none at sequence number 0.
    pub stable: Option<QuorumCertificate>,
    /// For each sequence number above it, the prepared certificate of the highest view; ascending.
    pub prepared: Vec<Prepared>,
}

/// What starts a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewView {
    /// The view started.
    pub view: View,
    /// A quorum of view-changes for it, by ascending sender, as they were signed.
    pub view_changes: Vec<(Envelope, ViewChange)>,
    /// Proposal digests from the highest stable checkpoint upward.
    pub assignments: Vec<Digest>,
}

/// Where a replica stands; names no slot, as it may differ from one moment to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its view.
    pub view: View,
    /// False while it demands that view.
    pub active: bool,
    /// Last delivered sequence number.
    pub delivered: SequenceNumber,
    /// Last stable checkpoint it can prove.
    pub stable: SequenceNumber,
    /// This replica and the next one send bulk (certificates, proposals); all send their votes.
    pub ask: ReplicaId,
    /// True where it answers a status, and is not answered by another.
    pub answer: bool,
    /// What it holds of each sequence number above `delivered`: `HELD_*` bits.
    pub held: Bytes,
    /// Batches it waits for, oldest first.
    pub waiting: Vec<BatchId>,
}

/// The replica holds the assignment of its view.
pub const HELD_ASSIGNMENT: u8 = 1;
/// The replica holds a quorum of prepare votes of its view.
pub const HELD_PREPARED: u8 = 2;

impl ViewChange {
    /// Sequence number of the stable checkpoint.
    pub fn stable_sequence(&self) -> SequenceNumber {
        self.stable.as_ref().map_or(SequenceNumber(0), |c| c.vote.slot.sequence)
    }
}

impl Message {
    /// What it speaks for.
    fn bound(&self) -> Bound {
        match self {
            Self::Vote(vote) => vote.slot.bound(),
            Self::PrePrepare { proposal, .. } => Bound::Sequence(proposal.sequence),
            Self::ViewChange(_) | Self::NewView(_) => Bound::View,
            Self::Status(_) | Self::Stable(_) | Self::Committed { .. } => Bound::Free,
        }
    }

    /// The body that is signed.
    pub fn to_body(&self, epoch: Epoch) -> Bytes {
        let mut w = Writer::with_capacity(256);
        match self {
            Self::Vote(vote) => vote.encode(&mut w),
            Self::PrePrepare { view, proposal } => {
                head(&mut w, PRE_PREPARE, epoch);
                view.encode(&mut w);
                proposal.encode(&mut w);
            }
            Self::ViewChange(message) => {
                head(&mut w, VIEW_CHANGE, epoch);
                message.encode(&mut w);
            }
            Self::NewView(message) => {
                head(&mut w, NEW_VIEW, epoch);
                message.encode(&mut w);
            }
            Self::Status(status) => {
                head(&mut w, STATUS, epoch);
                status.encode(&mut w);
            }
            Self::Stable(certificate) => {
                head(&mut w, STABLE, epoch);
                certificate.encode(&mut w);
            }
            Self::Committed { proposal, certificate } => {
                head(&mut w, COMMITTED, epoch);
                proposal.encode(&mut w);
                certificate.encode(&mut w);
            }
        }
        w.finish()
    }

    /// Reads a body; the epoch is the one it speaks for.
    pub fn from_body(body: &Bytes) -> Result<(Epoch, Self), DecodeError> {
        if body.first().is_some_and(|kind| *kind < PRE_PREPARE) {
            let vote = Vote::from_bytes(body)?;
            check_phase(&vote, &[Phase::Prepare, Phase::Commit, Phase::Checkpoint])?;
            return Ok((vote.slot.epoch, Self::Vote(vote)));
        }
        let mut r = Reader::new(body);
        let kind = r.u8("message kind")?;
        let epoch = Epoch::decode(&mut r)?;
        let message = match kind {
            PRE_PREPARE => Self::PrePrepare {
                view: View::decode(&mut r)?,
                proposal: Proposal::decode(&mut r)?,
            },
            VIEW_CHANGE => Self::ViewChange(ViewChange::decode(&mut r)?),
            NEW_VIEW => Self::NewView(NewView::decode(&mut r, epoch)?),
            STATUS => Self::Status(Status::decode(&mut r)?),
            STABLE => Self::Stable(checkpoint_certificate(&mut r)?),
            COMMITTED => {
                let proposal = Proposal::decode(&mut r)?;
                let certificate = certificate(&mut r, Phase::Commit)?;
                check_sequence(&proposal, &certificate)?;
                Self::Committed { proposal, certificate }
            }
            _ => return Err(DecodeError::Invalid { field: "message kind", reason: "unknown" }),
        };
        r.end("consensus message")?;
        Ok((epoch, message))
    }
}

/// Every signature that `envelope` carries, its own first, each once.
pub fn claims(chain: &ChainId, envelope: &Envelope) -> Result<Vec<Claim>, DecodeError> {
    let (_, message) = Message::from_body(&envelope.body)?;
    let mut claims = Claims { chain, seen: BTreeSet::new(), list: Vec::new() };
    claims.add(envelope, message.bound());
    match &message {
        Message::Vote(_) | Message::PrePrepare { .. } | Message::Status(_) => {}
        Message::ViewChange(view_change) => claims.add_view_change(view_change),
        Message::NewView(new_view) => {
            for (envelope, view_change) in &new_view.view_changes {
                claims.add(envelope, Bound::View);
                claims.add_view_change(view_change);
            }
        }
        Message::Stable(certificate) | Message::Committed { certificate, .. } => {
            claims.add_certificate(certificate);
        }
    }
    Ok(claims.list)
}

/// The slot that `envelope` fills.
pub fn slot(epoch: Epoch, envelope: &Envelope) -> Option<Slot> {
    let (stated, message) = Message::from_body(&envelope.body).ok()?;
    if stated != epoch {
        return None;
    }
    let none = SequenceNumber(0);
    let (phase, view, sequence) = match message {
        Message::Vote(vote) => return Some(vote.slot),
        Message::PrePrepare { view, proposal } => (Phase::PrePrepare, view, proposal.sequence),
        Message::ViewChange(message) => (Phase::ViewChange, message.view, none),
        Message::NewView(message) => (Phase::NewView, message.view, none),
        Message::Status(_) | Message::Stable(_) | Message::Committed { .. } => return None,
    };
    Some(super::slot(epoch, phase, view, sequence))
}

/// Collects claims; certificates that several view-changes share are listed once.
struct Claims<'a> {
    chain: &'a ChainId,
    seen: BTreeSet<(ReplicaId, VoteSignature, Digest)>,
    list: Vec<Claim>,
}

impl Claims<'_> {
    fn add(&mut self, envelope: &Envelope, bound: Bound) {
        let text = vote::signed_text(self.chain, &envelope.body);
        self.add_claim(Claim {
            replica: envelope.sender,
            text,
            bound,
            signature: envelope.signature.clone(),
        });
    }

    fn add_claim(&mut self, claim: Claim) {
        let text = Digest::of(&[&claim.text]);
        if self.seen.insert((claim.replica, claim.signature.clone(), text)) {
            self.list.push(claim);
        }
    }

    fn add_certificate(&mut self, certificate: &QuorumCertificate) {
        for claim in Claim::of_certificate(self.chain, certificate) {
            self.add_claim(claim);
        }
    }

    fn add_view_change(&mut self, view_change: &ViewChange) {
        if let Some(certificate) = &view_change.stable {
            self.add_certificate(certificate);
        }
        for prepared in &view_change.prepared {
            self.add_certificate(&prepared.certificate);
        }
    }
}

impl Encode for Prepared {
    fn encode(&self, w: &mut Writer) {
        self.certificate.encode(w);
        self.proposal.encode(w);
    }
}

impl Decode for Prepared {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let certificate = certificate(r, Phase::Prepare)?;
        let proposal = Proposal::decode(r)?;
        check_sequence(&proposal, &certificate)?;
        Ok(Self { certificate, proposal })
    }
}

impl Encode for ViewChange {
    fn encode(&self, w: &mut Writer) {
        self.view.encode(w);
        w.option(self.stable.as_ref());
        w.list(&self.prepared);
    }
}

impl Decode for ViewChange {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let view = View::decode(r)?;
        let stable: Option<QuorumCertificate> = r.option("stable checkpoint")?;
        if let Some(certificate) = &stable {
            check_phase(&certificate.vote, &[Phase::Checkpoint])?;
        }
        let window = usize::try_from(limits::WINDOW_MAX).expect("a small number");
        let prepared: Vec<Prepared> = r.list("prepared certificates", window)?;
        let sequences = prepared.iter().map(|p| p.proposal.sequence);
        if sequences.clone().zip(sequences.skip(1)).any(|(a, b)| a >= b) {
            return Err(DecodeError::Invalid {
                field: "prepared certificates",
                reason: "not strictly ascending",
            });
        }
        Ok(Self { view, stable, prepared })
    }
}

impl Encode for NewView {
    fn encode(&self, w: &mut Writer) {
        self.view.encode(w);
        w.count(self.view_changes.len());
        for (envelope, _) in &self.view_changes {
            envelope.encode(w);
        }
        w.list(&self.assignments);
    }
}

impl NewView {
    fn decode(r: &mut Reader<'_>, epoch: Epoch) -> Result<Self, DecodeError> {
        let field = "new-view";
        let view = View::decode(r)?;
        let count = r.count("view-changes", limits::REPLICAS_MAX)?;
        let mut view_changes: Vec<(Envelope, ViewChange)> = Vec::new();
        for _ in 0..count {
            let envelope = Envelope::decode(r)?;
            if view_changes.last().is_some_and(|(last, _)| last.sender >= envelope.sender) {
                return Err(DecodeError::Invalid { field, reason: "senders not ascending" });
            }
            let mut inner = Reader::new(&envelope.body);
            if inner.u8("message kind")? != VIEW_CHANGE || Epoch::decode(&mut inner)? != epoch {
                return Err(DecodeError::Invalid {
                    field,
                    reason: "holds something else than view-changes of its epoch",
                });
            }
            let view_change = ViewChange::decode(&mut inner)?;
            inner.end("view-change")?;
            if view_change.view != view {
                return Err(DecodeError::Invalid { field, reason: "view-change of another view" });
            }
            view_changes.push((envelope, view_change));
        }
        let limit = usize::try_from(limits::WINDOW_MAX).expect("a small number");
        Ok(Self { view, view_changes, assignments: r.list("assignments", limit)? })
    }
}

impl Encode for Status {
    fn encode(&self, w: &mut Writer) {
        self.view.encode(w);
        w.u8(u8::from(self.active));
        self.delivered.encode(w);
        self.stable.encode(w);
        self.ask.encode(w);
        w.u8(u8::from(self.answer));
        w.bytes(&self.held);
        w.list(&self.waiting);
    }
}

impl Decode for Status {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let window = usize::try_from(limits::WINDOW_MAX).expect("a small number");
        Ok(Self {
            view: View::decode(r)?,
            active: flag(r, "active")?,
            delivered: SequenceNumber::decode(r)?,
            stable: SequenceNumber::decode(r)?,
            ask: ReplicaId::decode(r)?,
            answer: flag(r, "answer")?,
            held: r.bytes("held", window)?,
            waiting: r.list("waiting batches", limits::STATUS_BATCHES_MAX)?,
        })
    }
}

fn head(w: &mut Writer, kind: u8, epoch: Epoch) {
    w.u8(kind);
    epoch.encode(w);
}

fn flag(r: &mut Reader<'_>, field: &'static str) -> Result<bool, DecodeError> {
    match r.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid { field, reason: "a flag is 0 or 1" }),
    }
}

fn certificate(r: &mut Reader<'_>, phase: Phase) -> Result<QuorumCertificate, DecodeError> {
    let certificate = QuorumCertificate::decode(r)?;
    check_phase(&certificate.vote, &[phase])?;
    Ok(certificate)
}

fn checkpoint_certificate(r: &mut Reader<'_>) -> Result<QuorumCertificate, DecodeError> {
    certificate(r, Phase::Checkpoint)
}

/// A checkpoint belongs to no view; its votes carry view 0, so that those of different views count
/// together.
fn check_phase(vote: &Vote, phases: &[Phase]) -> Result<(), DecodeError> {
    if !phases.contains(&vote.slot.phase) {
        return Err(DecodeError::Invalid { field: "vote", reason: "its phase is not due here" });
    }
    if vote.slot.phase == Phase::Checkpoint && vote.slot.view != View(0) {
        return Err(DecodeError::Invalid { field: "vote", reason: "a checkpoint has view 0" });
    }
    Ok(())
}

fn check_sequence(proposal: &Proposal, certificate: &QuorumCertificate) -> Result<(), DecodeError> {
    if proposal.sequence != certificate.vote.slot.sequence {
        return Err(DecodeError::Invalid {
            field: "certificate",
            reason: "for another sequence number than its proposal",
        });
    }
    Ok(())
}

const PRE_PREPARE: u8 = 0x10;
const VIEW_CHANGE: u8 = 0x11;
const NEW_VIEW: u8 = 0x12;
const STATUS: u8 = 0x13;
const STABLE: u8 = 0x14;
const COMMITTED: u8 = 0x15;
