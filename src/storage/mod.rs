//! Floor 1: ordered key-value storage behind one seam, `Kv`.
//!
//! A store holds tables (`tables.rs` is the schema on one page) of ordered byte keys. One
//! `WriteBatch` is atomic over all tables. The contract, proved by `conformance` over every row:
//! * `write` is atomic: after a crash all of a batch is there or nothing. It is durable only after
//!   `sync` returns Ok; batches become durable in the order they were written.
//! * `scan` sees a consistent view and yields keys in ascending byte order.
//! * A `snapshot` shows the store as it was when taken, all tables at once, whatever is written
//!   later; it holds up no writer, and takes memory or disk for what was replaced while it lives.
//! * After a failed `write` or `sync` the store must not be used again; the process stops.

#[cfg(test)]
mod conformance;
pub mod faulty;
pub mod memory;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
pub mod tables;

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::storage::tables::Table;

/// Why a store refused.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The device or the library failed while doing this.
    #[error("storage: {doing}: {reason}")]
    Failed { doing: &'static str, reason: String },
    /// Another process has the store open.
    #[error("another process uses {path}: stop it first, or name another node.data", path = path.display())]
    InUse { path: PathBuf },
    /// Bytes on disk are not what was written.
    #[error(
        "storage: {what} is damaged: {reason}; move it away: it is rebuilt from the ledger's blocks"
    )]
    Damaged { what: String, reason: String },
}

/// One change of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Where.
    pub table: Table,
    /// Which key.
    pub key: &'a [u8],
    /// The new value; `None` removes the key, and removing an absent one is fine.
    pub value: Option<&'a [u8]>,
}

/// Changes applied together, in order; a later one on the same key wins. All keys and values lie in
/// one buffer: a block changes thousands of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

/// Where a change lies in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    table: Table,
    key: usize,
    value: usize,
    end: usize,
    delete: bool,
}

impl WriteBatch {
    /// An empty batch with room.
    pub fn with_capacity(rows: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), rows: Vec::with_capacity(rows) }
    }

    /// Sets a key.
    pub fn put(&mut self, table: Table, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.add(table, key.as_ref(), Some(value.as_ref()));
    }

    /// Removes a key.
    pub fn delete(&mut self, table: Table, key: impl AsRef<[u8]>) {
        self.add(table, key.as_ref(), None);
    }

    /// The changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.rows.iter().map(|row| self.change(row))
    }

    /// The changes by table and key; those on one key stay in order.
    pub fn sorted(&self) -> Vec<Change<'_>> {
        let mut changes: Vec<Change<'_>> = self.changes().collect();
        changes.sort_by(|a, b| a.table.cmp(&b.table).then_with(|| a.key.cmp(b.key)));
        changes
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn add(&mut self, table: Table, key: &[u8], new: Option<&[u8]>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let value = self.bytes.len();
        self.bytes.extend_from_slice(new.unwrap_or_default());
        let (end, delete) = (self.bytes.len(), new.is_none());
        self.rows.push(Row { table, key: start, value, end, delete });
    }

    fn change(&self, row: &Row) -> Change<'_> {
        let value = &self.bytes[row.value..row.end];
        let key = &self.bytes[row.key..row.value];
        Change { table: row.table, key, value: (!row.delete).then_some(value) }
    }
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// An ordered key-value store with atomic batches.
pub trait Kv: Send + Sync + fmt::Debug {
    /// The value of a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// The values of many keys, in the order asked.
    fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        keys.iter().map(|key| self.get(table, key)).collect()
    }

    /// Up to `limit` entries with `start <= key < end`, ascending; an empty `end` means "to the end
    /// of the table".
    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError>;

    /// The last entry with `start <= key < end`.
    fn last(&self, table: Table, start: &[u8], end: &[u8]) -> Result<Option<Entry>, StorageError>;

    /// The store as it is now, for several reads that must agree. Short-lived: what it shows
    /// cannot be released before it is dropped.
    fn snapshot(&self) -> Box<dyn Snapshot + '_>;

    /// Applies a batch atomically; readers see it when this returns.
    fn write(&self, batch: WriteBatch) -> Result<(), StorageError>;

    /// Makes every batch written so far durable.
    fn sync(&self) -> Result<(), StorageError>;

    /// Bytes of memory the store holds, by part, for metrics.
    fn memory(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// A store as it was at one moment.
pub trait Snapshot: Send + Sync + fmt::Debug {
    /// As `Kv::get`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// As `Kv::scan`.
    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError>;
}

/// Memory and threads a store may take. The defaults suit a small host: the whole node stays well
/// below 600 MB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksSizing {
    /// Cache of decompressed blocks, indexes and filters, shared by all tables, bytes.
    pub cache_bytes: usize,
    /// One memtable of the state table, bytes; the others' are a quarter of it.
    pub memtable_bytes: usize,
    /// Memtables of one table: one filling, the rest being flushed.
    pub memtables: usize,
    /// All memtables together; reaching it flushes the oldest, bytes.
    pub memtables_total_bytes: usize,
    /// Threads that flush and compact.
    pub background_jobs: usize,
    /// Reads, flush and compaction bypass the page cache.
    pub direct_io: bool,
    /// Memtables live in huge pages of this size, bytes; 0 for ordinary memory. Where too few are
    /// set aside, ordinary memory is taken.
    pub huge_page_bytes: usize,
}

impl Default for RocksSizing {
    fn default() -> Self {
        Self {
            cache_bytes: 128 << 20,
            memtable_bytes: 32 << 20,
            memtables: 2,
            memtables_total_bytes: 96 << 20,
            background_jobs: 2,
            direct_io: false,
            huge_page_bytes: 0,
        }
    }
}

/// Opens or creates a store in a directory.
pub type OpenStore = fn(&Path, &RocksSizing) -> Result<Arc<dyn Kv>, StorageError>;

/// One store that can be configured.
#[derive(Clone, Copy, Debug)]
pub struct StoreRow {
    /// The name in configuration.
    pub name: &'static str,
    /// True where content survives the process.
    pub durable: bool,
    /// Opens or creates the store in a directory.
    pub open: OpenStore,
}

/// Every store of this build; `conformance` proves the contract over each row.
pub const STORES: &[StoreRow] = &[
    StoreRow { name: "memory", durable: false, open: memory::MemoryKv::open },
    #[cfg(feature = "rocksdb")]
    StoreRow { name: "rocksdb", durable: true, open: rocksdb::RocksKv::open_row },
];

/// The store of that name, where this build has it.
pub fn store(name: &str) -> Option<&'static StoreRow> {
    STORES.iter().find(|row| row.name == name)
}
