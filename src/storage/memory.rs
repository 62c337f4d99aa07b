//! A store in memory: for tests, the simulator and `--no-default-features` builds.
//!
//! Nothing survives the process, so `sync` has nothing to do and every restart replays the ledger's
//! segment files from the first block.
//!
//! A snapshot shares the tables. The first write to a table after it copies that table, unless the
//! snapshot is gone by then: simple, and dear only where a large store is asked and changed at once.

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
use crate::storage::Snapshot;
use crate::storage::StorageError;
use crate::storage::WriteBatch;
use crate::storage::tables::Table;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Ordered tables in memory.
#[derive(Debug, Default)]
pub struct MemoryKv {
    tables: RwLock<Tables>,
}

/// Every table, shared with the snapshots that show it.
#[derive(Clone, Debug, Default)]
struct Tables([Arc<Rows>; Table::ALL.len()]);

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
            let rows = Arc::make_mut(&mut tables.0[table as usize]);
            match value {
                Some(value) => rows.insert(key.to_vec(), value.to_vec()),
                None => rows.remove(key),
            };
        }
    }

    /// A store of its own with the same content.
    pub fn duplicate(&self) -> Self {
        Self { tables: RwLock::new(self.read().clone()) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().expect("no holder of this lock panics")
    }
}

impl Kv for MemoryKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.read().get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read().scan(table, start, end, limit)
    }

    fn last(&self, table: Table, start: &[u8], end: &[u8]) -> Result<Option<Entry>, StorageError> {
        let Some(range) = range(start, end) else { return Ok(None) };
        let tables = self.read();
        let last = tables.0[table as usize].range::<[u8], _>(range).next_back();
        Ok(last.map(|(k, v)| (k.clone(), v.clone())))
    }

    fn snapshot(&self) -> Box<dyn Snapshot + '_> {
        Box::new(self.read().clone())
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StorageError> {
        self.apply(&batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

impl Snapshot for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.0[table as usize].get(key).cloned())
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let Some(range) = range(start, end) else { return Ok(Vec::new()) };
        let rows = self.0[table as usize].range::<[u8], _>(range);
        Ok(rows.take(limit).map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}

/// `None` for a range that holds nothing: `BTreeMap::range` panics on one that runs backwards.
fn range<'a>(start: &'a [u8], end: &'a [u8]) -> Option<Bounds<'a>> {
    if end.is_empty() {
        return Some((Bound::Included(start), Bound::Unbounded));
    }
    (start < end).then_some((Bound::Included(start), Bound::Excluded(end)))
}
