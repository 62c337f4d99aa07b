//! A store in memory: for tests, the simulator and `--no-default-features` builds.
//!
//! Nothing survives the process, so `sync` has nothing to do and every restart replays the ledger's
//! segment files from the first block.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;

use crate::storage::Change;
use crate::storage::Entry;
use crate::storage::Kv;
use crate::storage::RocksSizing;
use crate::storage::StorageError;
use crate::storage::WriteBatch;
use crate::storage::tables::Table;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Ordered tables in memory.
#[derive(Debug, Default)]
pub struct MemoryKv {
    tables: RwLock<[Rows; Table::ALL.len()]>,
}

impl MemoryKv {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The row of `STORES`: ignores directory and sizing.
    pub fn open(_: &Path, _: &RocksSizing) -> Result<Arc<dyn Kv>, StorageError> {
        Ok(Arc::new(Self::new()))
    }

    /// Applies changes in order.
    pub(crate) fn apply(&self, batch: &WriteBatch) {
        let mut tables = self.tables.write().expect("no holder of this lock panics");
        for Change { table, key, value } in batch.changes() {
            match value {
                Some(value) => tables[slot(table)].insert(key.to_vec(), value.to_vec()),
                None => tables[slot(table)].remove(key),
            };
        }
    }

    /// A store of its own with the same content.
    pub fn duplicate(&self) -> Self {
        Self { tables: RwLock::new(self.read().clone()) }
    }

    fn read(&self) -> RwLockReadGuard<'_, [Rows; Table::ALL.len()]> {
        self.tables.read().expect("no holder of this lock panics")
    }
}

impl Kv for MemoryKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.read()[slot(table)].get(key).cloned())
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let Some(range) = range(start, end) else { return Ok(Vec::new()) };
        let tables = self.read();
        let rows = tables[slot(table)].range::<[u8], _>(range);
        Ok(rows.take(limit).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn last(&self, table: Table, start: &[u8], end: &[u8]) -> Result<Option<Entry>, StorageError> {
        let Some(range) = range(start, end) else { return Ok(None) };
        let tables = self.read();
        let last = tables[slot(table)].range::<[u8], _>(range).next_back();
        Ok(last.map(|(k, v)| (k.clone(), v.clone())))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StorageError> {
        self.apply(&batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

/// `None` for a range that holds nothing: `BTreeMap::range` panics on one that runs backwards.
fn range<'a>(start: &'a [u8], end: &'a [u8]) -> Option<Bounds<'a>> {
    if end.is_empty() {
        return Some((Bound::Included(start), Bound::Unbounded));
    }
    (start < end).then_some((Bound::Included(start), Bound::Excluded(end)))
}

fn slot(table: Table) -> usize {
    table as usize
}
