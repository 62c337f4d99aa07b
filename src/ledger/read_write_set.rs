//! What a transaction read and wrote: the unit that execution hands to the ledger.
//!
//! Reads are recorded so that parallel execution and audit can be added with the same results;
//! ranges are predicates (start, end, what was seen). The digest of a write set goes into the
//! receipt: `H("obelisk.writes.1" | per key ascending: namespace string | key bytes | 0, or 1 |
//! value bytes)`.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ledger::rows;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::limits;

const TAG: &[u8] = b"obelisk.writes.1";

/// A key of the world state: the contract's namespace and the contract's own key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey {
    /// Name of the contract.
    pub namespace: String,
    /// Its key.
    pub key: Bytes,
}

/// Final writes of one transaction; `None` deletes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteSet(pub BTreeMap<StateKey, Option<Bytes>>);

/// First key of all those with this prefix, and first key behind them; that one is empty where none
/// can lie behind.
pub fn prefix_range(prefix: &Bytes) -> (Bytes, Bytes) {
    (prefix.clone(), Bytes::from(rows::after_prefix(prefix.to_vec())))
}

/// What one transaction saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadSet {
    /// Keys read, with the value seen (`None` = absent), own writes excluded.
    pub keys: BTreeMap<StateKey, Option<Bytes>>,
    /// Ranges read: namespace, start, end, number of entries seen.
    pub ranges: Vec<(String, Bytes, Bytes, usize)>,
}

impl Encode for StateKey {
    fn encode(&self, w: &mut Writer) {
        w.string(&self.namespace);
        w.bytes(&self.key);
    }
}

impl Decode for StateKey {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            namespace: r.string("namespace", limits::NAME_BYTES_MAX)?,
            key: r.bytes("state key", limits::STATE_KEY_BYTES_MAX)?,
        })
    }
}

impl WriteSet {
    /// The digest for the receipt; zero for no writes.
    pub fn digest(&self) -> Digest {
        if self.0.is_empty() {
            return Digest::ZERO;
        }
        let mut w = Writer::with_capacity(256);
        w.raw(TAG);
        for (at, value) in &self.0 {
            w.string(&at.namespace);
            w.bytes(&at.key);
            match value {
                None => w.u8(0),
                Some(value) => {
                    w.u8(1);
                    w.bytes(value);
                }
            }
        }
        Digest::of(&[w.as_slice()])
    }
}
