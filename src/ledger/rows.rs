//! Rows of the store: keys and values of every table the ledger writes (`storage/tables.rs` draws
//! them).

use crate::ledger::error::LedgerError;
use crate::ledger::error::Roots;
use crate::ledger::read_write_set::StateKey;
use crate::types::block::Tip;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::BlockHash;
use crate::types::ids::Height;
use crate::types::ids::SequenceNumber;

/// Name of the meta row that says how far the state is.
pub(crate) const APPLIED: &[u8] = b"applied";
/// Name of the meta row that says whose state this is.
pub(crate) const CHAIN: &[u8] = b"chain";

/// How far the state is: the last block whose writes it holds, and the roots after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) tip: Tip,
    pub(crate) roots: Roots,
}

impl Encode for Applied {
    fn encode(&self, w: &mut Writer) {
        self.tip.height.encode(w);
        self.tip.hash.encode(w);
        self.tip.sequence.encode(w);
        w.u64(self.tip.time_ms);
        self.roots.state.encode(w);
        self.roots.receipts.encode(w);
    }
}

impl Decode for Applied {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tip = Tip {
            height: Height::decode(r)?,
            hash: BlockHash::decode(r)?,
            sequence: SequenceNumber::decode(r)?,
            time_ms: r.u64("block time")?,
        };
        let roots = Roots { state: Digest::decode(r)?, receipts: Digest::decode(r)? };
        Ok(Self { tip, roots })
    }
}

/// Where a transaction is, and whether it executed there (it did not where it came outside its
/// validity).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) height: Height,
    pub(crate) tx: u32,
    pub(crate) executed: bool,
}

impl Located {
    pub(crate) fn to_row(self) -> [u8; 13] {
        let mut row = [0; 13];
        row[..8].copy_from_slice(&self.height.0.to_be_bytes());
        row[8..12].copy_from_slice(&self.tx.to_be_bytes());
        row[12] = u8::from(self.executed);
        row
    }

    pub(crate) fn from_row(row: &[u8]) -> Result<Self, LedgerError> {
        let fields = || {
            Some(Self {
                height: Height(u64::from_be_bytes(row.get(..8)?.try_into().ok()?)),
                tx: u32::from_be_bytes(row.get(8..12)?.try_into().ok()?),
                executed: *row.get(12)? == 1,
            })
        };
        fields().filter(|_| row.len() == 13).ok_or_else(|| bad_row("txidx"))
    }
}

/// Row key of a state entry; its SHA-256 is the key's path in the state tree.
pub(crate) fn state_row(at: &StateKey) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + at.namespace.len() + at.key.len());
    write_state_row(&mut row, at);
    row
}

/// As `state_row`, into a buffer whose content it replaces.
pub(crate) fn write_state_row(row: &mut Vec<u8>, at: &StateKey) {
    row.clear();
    write_namespace(row, &at.namespace);
    row.extend_from_slice(&at.key);
}

/// Rows of a namespace with `start <= key < end`; an empty `end` means to its end.
pub(crate) fn state_range(namespace: &str, start: &[u8], end: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut prefix = Vec::with_capacity(1 + namespace.len());
    write_namespace(&mut prefix, namespace);
    let low = [&prefix, start].concat();
    if end.is_empty() {
        return (low, after_prefix(prefix));
    }
    (low, [&prefix, end].concat())
}

/// First bytes of every history row of a key.
pub(crate) fn history_prefix(namespace: &str, key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + namespace.len() + 2 + key.len() + 12);
    write_history_prefix(&mut row, namespace, key);
    row
}

/// Row of one write in the history of its key, into a buffer whose content it replaces.
pub(crate) fn write_history_row(row: &mut Vec<u8>, at: &StateKey, height: Height, tx: u32) {
    row.clear();
    write_history_prefix(row, &at.namespace, &at.key);
    row.extend_from_slice(&height.0.to_be_bytes());
    row.extend_from_slice(&tx.to_be_bytes());
}

fn write_history_prefix(row: &mut Vec<u8>, namespace: &str, key: &[u8]) {
    write_namespace(row, namespace);
    let len = u16::try_from(key.len()).expect("state keys are at most 1024 bytes");
    row.extend_from_slice(&len.to_be_bytes());
    row.extend_from_slice(key);
}

/// Height, transaction and operation of a history row.
pub(crate) fn parse_history(row: &[u8], value: &[u8]) -> Result<(Height, u32, bool), LedgerError> {
    let fields = || {
        let at = row.len().checked_sub(12)?;
        let height = u64::from_be_bytes(row[at..at + 8].try_into().ok()?);
        let tx = u32::from_be_bytes(row[at + 8..].try_into().ok()?);
        match value {
            [0] => Some((Height(height), tx, true)),
            [1] => Some((Height(height), tx, false)),
            _ => None,
        }
    };
    fields().ok_or_else(|| bad_row("hist"))
}

/// The first key after all those with this prefix; empty where there is none.
pub(crate) fn after_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            break;
        }
    }
    prefix
}

/// A row that does not parse.
pub(crate) fn bad_row(table: &str) -> LedgerError {
    LedgerError::Damaged {
        what: format!("table {table} of the store"),
        reason: "a row does not have its format".to_owned(),
    }
}

fn write_namespace(row: &mut Vec<u8>, namespace: &str) {
    row.push(u8::try_from(namespace.len()).expect("namespaces are at most 64 bytes"));
    row.extend_from_slice(namespace.as_bytes());
}
