//! Blocks: one per sequence number that is not a null request.
//!
//! ```text
//! header  "obelisk.block.1" | chain id 32 | height u64 | previous 32 | view u64 | sequence u64 | time u64 ms
//!         | tx count u32 | transaction root 32 | batch ids u32 x 32
//! hash    SHA-256 of the header bytes
//! block   header bytes (u32) | certificate | batches u32 x batch
//! ```
//!
//! The transaction root is the Merkle root over the batches' transaction roots, so a proof goes
//! from a transaction over its batch to the header. The certificate is a quorum of commit votes
//! over the hash; since the header holds the previous hash, one certificate proves the whole chain
//! below it. A committed null request has no block; its commit votes sign `null_digest`, which
//! binds the chain below as well.

use std::sync::Arc;

use bytes::Bytes;

use crate::types::batch::Batch;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::BlockHash;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::merkle;
use crate::types::proposal::Proposal;
use crate::types::vote::Phase;

const TAG: &[u8] = b"obelisk.block.1";
const NULL_TAG: &[u8] = b"obelisk.null.1";

/// Header of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// The network.
    pub chain: ChainId,
    /// Position in the chain; genesis is 0 and has no block.
    pub height: Height,
    /// Hash of the block below; the chain id's digest for height 1.
    pub previous: BlockHash,
    /// View in which the content was first proposed.
    pub view: View,
    /// Sequence number.
    pub sequence: SequenceNumber,
    /// Block time, milliseconds since 1970, greater than the previous block's.
    pub time_ms: u64,
    /// Number of transactions.
    pub transactions: u32,
    /// Merkle root over the batches' transaction roots.
    pub transaction_root: Digest,
    /// The batches, in execution order.
    pub batches: Vec<BatchId>,
}

/// The end of a chain: what the next block builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Height of the last block.
    pub height: Height,
    /// Hash of the last block; the chain id's digest at height 0.
    pub hash: BlockHash,
    /// Sequence number of the last committed proposal, null requests included.
    pub sequence: SequenceNumber,
    /// Time of the last block, milliseconds since 1970.
    pub time_ms: u64,
}

impl Tip {
    /// The end of an empty chain.
    pub fn genesis(chain: ChainId, time_ms: u64) -> Self {
        Self { height: Height(0), hash: BlockHash(chain.0), sequence: SequenceNumber(0), time_ms }
    }

    /// The tip after `proposal`, and what commit votes on it sign.
    pub fn extend(&self, chain: ChainId, proposal: &Proposal) -> (Self, Digest) {
        if proposal.is_null() {
            let tip = Self { sequence: proposal.sequence, ..*self };
            return (tip, null_digest(chain, proposal.sequence, self.hash));
        }
        let header = BlockHeader::following(chain, self, proposal);
        let tip = header.tip();
        (tip, tip.hash.0)
    }
}

/// What commit votes sign for a null request at `sequence` on top of the block `previous`.
pub fn null_digest(chain: ChainId, sequence: SequenceNumber, previous: BlockHash) -> Digest {
    Digest::of(&[NULL_TAG, &chain.0.0, &sequence.0.to_be_bytes(), &previous.0.0])
}

impl BlockHeader {
    /// The header that `proposal` makes on top of `tip`. The block's time is the proposed one, or
    /// one millisecond after the previous block's where that is later: a view change may put an
    /// older proposal behind a younger one.
    pub fn following(chain: ChainId, tip: &Tip, proposal: &Proposal) -> Self {
        let roots: Vec<Digest> = proposal.batches.iter().map(|b| b.transaction_root).collect();
        Self {
            chain,
            height: Height(tip.height.0 + 1),
            previous: tip.hash,
            view: proposal.view,
            sequence: proposal.sequence,
            time_ms: proposal.time_ms.max(tip.time_ms.saturating_add(1)),
            transactions: proposal
                .batches
                .iter()
                .map(|b| b.transactions)
                .fold(0, u32::saturating_add),
            transaction_root: merkle::root(&roots),
            batches: proposal.batches.iter().map(|b| b.id).collect(),
        }
    }

    /// SHA-256 of the header bytes.
    pub fn hash(&self) -> BlockHash {
        BlockHash(Digest::of(&[&self.to_bytes()]))
    }

    /// The tip once this block is the last.
    pub fn tip(&self) -> Tip {
        Tip {
            height: self.height,
            hash: self.hash(),
            sequence: self.sequence,
            time_ms: self.time_ms,
        }
    }
}

impl Encode for BlockHeader {
    fn encode(&self, w: &mut Writer) {
        w.raw(TAG);
        self.chain.encode(w);
        self.height.encode(w);
        self.previous.encode(w);
        self.view.encode(w);
        self.sequence.encode(w);
        w.u64(self.time_ms);
        w.u32(self.transactions);
        self.transaction_root.encode(w);
        w.list(&self.batches);
    }
}

impl Decode for BlockHeader {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if r.raw("block tag", TAG.len())? != TAG {
            return Err(DecodeError::Invalid {
                field: "block tag",
                reason: "not an obelisk block, version 1",
            });
        }
        Ok(Self {
            chain: ChainId::decode(r)?,
            height: Height::decode(r)?,
            previous: BlockHash::decode(r)?,
            view: View::decode(r)?,
            sequence: SequenceNumber::decode(r)?,
            time_ms: r.u64("block time")?,
            transactions: r.u32("block transactions")?,
            transaction_root: Digest::decode(r)?,
            batches: r.list("block batches", limits::BLOCK_BATCHES_MAX)?,
        })
    }
}

/// A final block: header, proof, bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The header.
    pub header: BlockHeader,
    /// A quorum of commit votes over the header's hash.
    pub certificate: QuorumCertificate,
    /// The bodies, in the header's order.
    pub batches: Vec<Arc<Batch>>,
}

impl Block {
    /// Checks that header, certificate and bodies belong together; signatures are checked
    /// elsewhere.
    pub fn check_consistent(&self) -> Result<(), DecodeError> {
        let field = "block";
        let ids: Vec<BatchId> = self.batches.iter().map(|b| b.id()).collect();
        if ids != self.header.batches {
            return Err(DecodeError::Invalid {
                field,
                reason: "bodies are not those of the header",
            });
        }
        let references: Vec<_> = self.batches.iter().map(|b| b.reference()).collect();
        let roots: Vec<Digest> = references.iter().map(|b| b.transaction_root).collect();
        let count = references.iter().map(|b| b.transactions).fold(0, u32::saturating_add);
        if merkle::root(&roots) != self.header.transaction_root || count != self.header.transactions
        {
            return Err(DecodeError::Invalid {
                field,
                reason: "transaction root or count is wrong",
            });
        }
        let vote = &self.certificate.vote;
        if vote.digest != self.header.hash().0
            || vote.slot.phase != Phase::Commit
            || vote.slot.sequence != self.header.sequence
        {
            return Err(DecodeError::Invalid {
                field,
                reason: "the certificate is for another block",
            });
        }
        Ok(())
    }
}

impl Encode for Block {
    fn encode(&self, w: &mut Writer) {
        w.bytes(&self.header.to_bytes());
        self.certificate.encode(w);
        w.count(self.batches.len());
        for batch in &self.batches {
            batch.encode(w);
        }
    }

    fn size_hint(&self) -> usize {
        let bodies: usize = self.batches.iter().map(|batch| batch.encoded_len()).sum();
        let header = 256 + 32 * self.header.batches.len();
        bodies + header + 128 * (1 + self.certificate.signatures.len())
    }
}

impl Decode for Block {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header: Bytes = r.bytes("block header", HEADER_BYTES_MAX)?;
        let block = Self {
            header: BlockHeader::from_bytes(&header)?,
            certificate: QuorumCertificate::decode(r)?,
            batches: r
                .list::<Batch>("block bodies", limits::BLOCK_BATCHES_MAX)?
                .into_iter()
                .map(Arc::new)
                .collect(),
        };
        block.check_consistent()?;
        Ok(block)
    }
}

const HEADER_BYTES_MAX: usize = 256 + 32 * limits::BLOCK_BATCHES_MAX;
