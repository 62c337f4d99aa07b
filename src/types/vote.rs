//! A vote: the fixed-width statement that prepare, commit and checkpoint messages sign, and the
//! slot it fills.
//!
//! ```text
//! vote         phase u8 | epoch u64 | view u64 | sequence u64 | digest 32            (57 bytes)
//! signed text  "obelisk.consensus.1" | chain id 32 | body
//!              body = vote, or another message of the plug-in
//! ```
//!
//! A quorum certificate stores signatures only; whoever checks it rebuilds the text from these
//! fields. A `Slot` is what the signer's guard locks: one slot, one text, for ever (design: keys
//! and the signer).

use bytes::Bytes;

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::Epoch;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;

const TAG: &[u8] = b"obelisk.consensus.1";

/// Kinds of slot-bound statements. The numbers are part of every signed vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The primary's assignment of a proposal to a sequence number.
    PrePrepare = 1,
    /// Agreement on the assignment within the view; digest = proposal digest.
    Prepare = 2,
    /// Finality; digest = block hash (or the null digest).
    Commit = 3,
    /// State after a sequence number; digest = checkpoint digest; view 0.
    Checkpoint = 4,
    /// Demand for a view; sequence 0.
    ViewChange = 5,
    /// The new primary's start of a view; sequence 0.
    NewView = 6,
    /// A session key for the sequence numbers from this one on (`vote_signature`); view 0.
    Session = 7,
}

impl Phase {
    /// The phase of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        [
            Self::PrePrepare,
            Self::Prepare,
            Self::Commit,
            Self::Checkpoint,
            Self::ViewChange,
            Self::NewView,
            Self::Session,
        ]
        .into_iter()
        .find(|p| *p as u8 == number)
    }
}

impl Encode for Phase {
    fn encode(&self, w: &mut Writer) {
        w.u8(*self as u8);
    }
}

impl Decode for Phase {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::from_number(r.u8("phase")?)
            .ok_or(DecodeError::Invalid { field: "phase", reason: "unknown" })
    }
}

/// What a key may sign at most one text for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// Replica set.
    pub epoch: Epoch,
    /// View, or 0 where the phase has none.
    pub view: View,
    /// Sequence number, or 0 where the phase has none.
    pub sequence: SequenceNumber,
    /// Phase.
    pub phase: Phase,
}

impl Encode for Slot {
    fn encode(&self, w: &mut Writer) {
        self.phase.encode(w);
        self.epoch.encode(w);
        self.view.encode(w);
        self.sequence.encode(w);
    }
}

impl Decode for Slot {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let phase = Phase::decode(r)?;
        Ok(Self {
            epoch: Epoch::decode(r)?,
            view: View::decode(r)?,
            sequence: SequenceNumber::decode(r)?,
            phase,
        })
    }
}

/// A statement about one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vote {
    /// The slot.
    pub slot: Slot,
    /// What is stated, by phase.
    pub digest: Digest,
}

impl Encode for Vote {
    fn encode(&self, w: &mut Writer) {
        self.slot.encode(w);
        self.digest.encode(w);
    }
}

impl Decode for Vote {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { slot: Slot::decode(r)?, digest: Digest::decode(r)? })
    }
}

/// The text a replica signs for a consensus message with this body.
pub fn signed_text(chain: &ChainId, body: &[u8]) -> Bytes {
    let mut w = Writer::with_capacity(TAG.len() + 32 + body.len());
    w.raw(TAG);
    chain.encode(&mut w);
    w.raw(body);
    w.finish()
}
