//! A proposal: what the primary assigns to a sequence number, and what pre-prepare and prepare
//! agree on.
//!
//! ```text
//! proposal  view u64 | sequence u64 | time u64 ms | batches u32 x BatchRef
//! digest    H("obelisk.proposal.1" | chain id | proposal)
//! ```
//!
//! `view` is the view of first proposal and stays when a later view proposes it again. A proposal
//! without batches is a null request: it fills its sequence number and makes no block. The previous
//! block's hash is not part of it, because a sequence number below may still change in a view
//! change while this one is already prepared; the block header, which commit votes sign, binds it
//! (`block.rs`).

use crate::types::batch::BatchRef;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;

const TAG: &[u8] = b"obelisk.proposal.1";

/// Content of one sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// View of first proposal.
    pub view: View,
    /// The sequence number assigned.
    pub sequence: SequenceNumber,
    /// Proposed block time, milliseconds since 1970.
    pub time_ms: u64,
    /// Batches in execution order; none for a null request.
    pub batches: Vec<BatchRef>,
}

impl Proposal {
    /// The null request that fills `sequence`: every replica forms the same one.
    pub fn null(sequence: SequenceNumber) -> Self {
        Self { view: View(0), sequence, time_ms: 0, batches: Vec::new() }
    }

    /// True for a null request.
    pub fn is_null(&self) -> bool {
        self.batches.is_empty()
    }

    /// What pre-prepare and prepare agree on.
    pub fn digest(&self, chain: &ChainId) -> Digest {
        Digest::of(&[TAG, &chain.0.0, &self.to_bytes()])
    }
}

impl Encode for Proposal {
    fn encode(&self, w: &mut Writer) {
        self.view.encode(w);
        self.sequence.encode(w);
        w.u64(self.time_ms);
        w.list(&self.batches);
    }
}

impl Decode for Proposal {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            view: View::decode(r)?,
            sequence: SequenceNumber::decode(r)?,
            time_ms: r.u64("proposal time")?,
            batches: r.list("proposal batches", limits::BLOCK_BATCHES_MAX)?,
        })
    }
}
