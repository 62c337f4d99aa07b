//! Receipts: what became of each ordered transaction. A failed transaction keeps its place, its
//! error and no writes.
//!
//! ```text
//! event    name string | payload bytes
//! receipt  tx id 32 | status u8 | error string | return value bytes | events u32 x event
//!          | write-set digest 32 | fuel u64
//! result   height u64 | block hash 32 | receipts u32 x receipt | receipts root 32 | state root 32
//! ```

use bytes::Bytes;

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::BlockHash;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::ids::SequenceNumber;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::merkle;

const CHECKPOINT_TAG: &[u8] = b"obelisk.checkpoint.1";

/// Outcome of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Executed; its writes are in the state.
    Ok = 0,
    /// The contract refused; its text says why.
    Refused = 1,
    /// The contract trapped.
    Trap = 2,
    /// The contract used up its fuel.
    OutOfFuel = 3,
    /// A limit on writes, events, calls or sizes was hit.
    LimitExceeded = 4,
    /// The block's height is above `valid_until`, or `valid_until` is further ahead than allowed.
    Expired = 5,
    /// The id executed before.
    Duplicate = 6,
    /// No active contract of that name.
    UnknownChaincode = 7,
    /// The creator's role or certificate does not allow this.
    Unauthorised = 8,
}

impl Status {
    /// All outcomes, in order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Refused,
        Self::Trap,
        Self::OutOfFuel,
        Self::LimitExceeded,
        Self::Expired,
        Self::Duplicate,
        Self::UnknownChaincode,
        Self::Unauthorised,
    ];

    /// The name used in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Trap => "trap",
            Self::OutOfFuel => "out-of-fuel",
            Self::LimitExceeded => "limit-exceeded",
            Self::Expired => "expired",
            Self::Duplicate => "duplicate",
            Self::UnknownChaincode => "unknown-chaincode",
            Self::Unauthorised => "unauthorised",
        }
    }
}

/// A named message from a contract to whoever listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Name, chosen by the contract.
    pub name: String,
    /// Content, as the contract defines it.
    pub payload: Bytes,
}

/// Record of one executed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The transaction.
    pub tx: TxId,
    /// Outcome.
    pub status: Status,
    /// Why it failed; empty when it did not.
    pub error: String,
    /// What the contract returned.
    pub value: Bytes,
    /// Events, in order; none of a failed transaction.
    pub events: Vec<Event>,
    /// Digest of the writes; zero where there are none.
    pub write_set: Digest,
    /// Fuel used.
    pub fuel: u64,
}

/// Record of one executed block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockResult {
    /// The block.
    pub height: Height,
    /// Its hash.
    pub hash: BlockHash,
    /// One receipt per transaction, in block order.
    pub receipts: Vec<Receipt>,
    /// Merkle root over the receipts' digests.
    pub receipts_root: Digest,
    /// Root of the world state after the block.
    pub state_root: Digest,
}

impl Receipt {
    /// SHA-256 of the encoded receipt.
    pub fn digest(&self) -> Digest {
        Digest::of(&[&self.to_bytes()])
    }
}

impl BlockResult {
    /// Forms a result and its receipts root.
    pub fn new(
        height: Height,
        hash: BlockHash,
        receipts: Vec<Receipt>,
        state_root: Digest,
    ) -> Self {
        let mut w = Writer::default();
        let digest = |receipt: &Receipt| {
            w.clear();
            receipt.encode(&mut w);
            Digest::of(&[w.as_slice()])
        };
        let digests: Vec<Digest> = receipts.iter().map(digest).collect();
        Self { height, hash, receipts, receipts_root: merkle::root(&digests), state_root }
    }

    /// What checkpoint votes sign after `sequence`.
    pub fn checkpoint_digest(&self, chain: ChainId, sequence: SequenceNumber) -> Digest {
        checkpoint_digest(
            chain,
            sequence,
            self.height,
            self.hash,
            self.state_root,
            self.receipts_root,
        )
    }
}

/// What checkpoint votes sign: the chain, its tip and the roots after `sequence`. A null request
/// changes none of the roots, so the digest then repeats the last block's with the new sequence
/// number.
pub fn checkpoint_digest(
    chain: ChainId,
    sequence: SequenceNumber,
    height: Height,
    hash: BlockHash,
    state_root: Digest,
    receipts_root: Digest,
) -> Digest {
    let mut w = Writer::with_capacity(192);
    w.raw(CHECKPOINT_TAG);
    chain.encode(&mut w);
    sequence.encode(&mut w);
    height.encode(&mut w);
    hash.encode(&mut w);
    state_root.encode(&mut w);
    receipts_root.encode(&mut w);
    Digest::of(&[&w.finish()])
}

impl Encode for Event {
    fn encode(&self, w: &mut Writer) {
        w.string(&self.name);
        w.bytes(&self.payload);
    }
}

impl Decode for Event {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: r.string("event name", limits::EVENT_BYTES_MAX)?,
            payload: r.bytes("event payload", limits::EVENT_BYTES_MAX)?,
        })
    }
}

impl Encode for Receipt {
    fn encode(&self, w: &mut Writer) {
        self.tx.encode(w);
        w.u8(self.status as u8);
        w.string(&self.error);
        w.bytes(&self.value);
        w.list(&self.events);
        self.write_set.encode(w);
        w.u64(self.fuel);
    }

    fn size_hint(&self) -> usize {
        let event = |event: &Event| 6 + event.name.len() + event.payload.len();
        let events: usize = self.events.iter().map(event).sum();
        83 + self.error.len() + self.value.len() + events
    }
}

impl Decode for Receipt {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tx = TxId::decode(r)?;
        let status = usize::from(r.u8("status")?);
        Ok(Self {
            tx,
            status: *Status::ALL
                .get(status)
                .ok_or(DecodeError::Invalid { field: "status", reason: "unknown" })?,
            error: r.string("error", limits::ERROR_TEXT_BYTES_MAX)?,
            value: r.bytes("return value", limits::RETURN_BYTES_MAX)?,
            events: r.list("events", limits::TX_EVENTS_MAX)?,
            write_set: Digest::decode(r)?,
            fuel: r.u64("fuel")?,
        })
    }
}

impl Encode for BlockResult {
    fn encode(&self, w: &mut Writer) {
        self.height.encode(w);
        self.hash.encode(w);
        w.list(&self.receipts);
        self.receipts_root.encode(w);
        self.state_root.encode(w);
    }

    fn size_hint(&self) -> usize {
        108 + self.receipts.iter().map(Encode::size_hint).sum::<usize>()
    }
}

impl Decode for BlockResult {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            height: Height::decode(r)?,
            hash: BlockHash::decode(r)?,
            receipts: r.list("receipts", limits::BATCH_TXS_MAX * limits::BLOCK_BATCHES_MAX)?,
            receipts_root: Digest::decode(r)?,
            state_root: Digest::decode(r)?,
        })
    }
}
