//! The world state at one height: reads that must agree, while blocks are committed.
//!
//! A block becomes visible in two steps, its rows in the store and its height in the head; both
//! happen under `applying`, and a view takes height and snapshot under it. So a view is whole
//! blocks, waits for one write batch at most, never for a disk's sync, and holds up no commit.

use bytes::Bytes;

use crate::ledger::Ledger;
use crate::ledger::error::LedgerError;
use crate::ledger::read_write_set::StateKey;
use crate::ledger::rows;
use crate::storage::Entry;
use crate::storage::Snapshot;
use crate::storage::tables::Table;
use crate::types::block::Tip;
use crate::types::ids::Height;
use crate::types::limits;

/// Where a contract's reads come from: the ledger's newest state, or a view.
pub trait WorldState {
    /// The value of a key.
    fn get(&self, at: &StateKey) -> Result<Option<Bytes>, LedgerError>;

    /// Up to `limit` entries of a namespace with `start <= key < end`, ascending; an empty `end`
    /// means to the end of the namespace.
    fn scan(
        &self,
        namespace: &str,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, LedgerError>;
}

/// The state after the block `tip`, whatever is committed meanwhile. Drop it soon: the store keeps
/// what it shows. The callers are bounded by `READS_MAX`, their work by fuel or by the page.
#[derive(Debug)]
pub struct StateView<'a> {
    tip: Tip,
    snapshot: Box<dyn Snapshot + 'a>,
}

/// Part of a namespace's state, ascending by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePage {
    /// The last block whose writes the state holds.
    pub height: Height,
    /// Keys and values.
    pub entries: Vec<(Bytes, Bytes)>,
    /// The first key of the range that did not fit; none where the page reaches the range's end.
    pub next: Option<Bytes>,
}

impl Ledger {
    /// The state as it is now.
    pub fn view(&self) -> StateView<'_> {
        let _still = self.applying.read().expect("no holder of this lock panics");
        StateView { tip: self.tip(), snapshot: self.kv.snapshot() }
    }
}

impl StateView<'_> {
    /// The last block whose writes the view shows; genesis at the start.
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// As `scan`, with a bound in bytes: the page ends where one of both bounds is reached, and
    /// says where to go on.
    pub fn page(
        &self,
        namespace: &str,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<StatePage, LedgerError> {
        let mut page = StatePage { height: self.tip.height, entries: Vec::new(), next: None };
        let (mut bytes, mut from) = (0, start.to_vec());
        loop {
            let found = self.scan(namespace, &from, end, PAGE_STEP)?;
            let ended = found.len() < PAGE_STEP;
            for (key, value) in found {
                let full = page.entries.len() >= limit || bytes >= limits::STATE_PAGE_BYTES_MAX;
                if full {
                    page.next = Some(key);
                    return Ok(page);
                }
                bytes += key.len() + value.len();
                page.entries.push((key, value));
            }
            match page.entries.last() {
                Some((last, _)) if !ended => from = [last.as_ref(), &[0]].concat(),
                _ => return Ok(page),
            }
        }
    }
}

impl WorldState for StateView<'_> {
    fn get(&self, at: &StateKey) -> Result<Option<Bytes>, LedgerError> {
        Ok(self.snapshot.get(Table::State, &rows::state_row(at))?.map(Bytes::from))
    }

    fn scan(
        &self,
        namespace: &str,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, LedgerError> {
        let (low, high) = rows::state_range(namespace, start, end);
        let found = self.snapshot.scan(Table::State, &low, &high, limit)?;
        Ok(entries(namespace, found))
    }
}

impl WorldState for Ledger {
    fn get(&self, at: &StateKey) -> Result<Option<Bytes>, LedgerError> {
        self.get(at)
    }

    fn scan(
        &self,
        namespace: &str,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, LedgerError> {
        self.scan(namespace, start, end, limit)
    }
}

/// Rows of the state table as keys of their namespace and values.
pub(crate) fn entries(namespace: &str, found: Vec<Entry>) -> Vec<(Bytes, Bytes)> {
    let prefix = 1 + namespace.len();
    let split = |(key, value): Entry| (Bytes::from(key).slice(prefix..), Bytes::from(value));
    found.into_iter().map(split).collect()
}

/// Entries of a page that are read at once: values may be large.
const PAGE_STEP: usize = 16;
