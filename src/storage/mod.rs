//! Floor 1: ordered key-value storage behind one seam, `Kv`.
//!
//! A store holds tables (`tables.rs` is the schema on one page) of ordered byte keys. One
//! `WriteBatch` is atomic over all tables. The contract, proved by `conformance` over every row:
//! * `write` is atomic: after a crash all of a batch is there or nothing. It is durable only after
//!   `sync` returns Ok; batches become durable in the order they were written.
//! * `scan` sees a consistent view and yields keys in ascending byte order.
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
use std::sync::Arc;

use crate::storage::tables::Table;

/// Why a store refused.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The device or the library failed while doing this.
    #[error("storage: {doing}: {reason}")]
    Failed { doing: &'static str, reason: String },
    /// Bytes on disk are not what was written.
    #[error(
        "storage: {what} is damaged: {reason}; move it away: it is rebuilt from the ledger's blocks"
    )]
    Damaged { what: String, reason: String },
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a key.
    Put { table: Table, key: Vec<u8>, value: Vec<u8> },
    /// Removes a key; removing an absent one is fine.
    Delete { table: Table, key: Vec<u8> },
}

impl Change {
    /// Table and key.
    pub fn place(&self) -> (Table, &[u8]) {
        match self {
            Self::Put { table, key, .. } | Self::Delete { table, key } => (*table, key),
        }
    }
}

/// Changes applied together, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// The changes; a later one on the same key wins.
    pub changes: Vec<Change>,
}

impl WriteBatch {
    /// Sets a key.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change::Put { table, key: key.into(), value: value.into() });
    }

    /// Removes a key.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push(Change::Delete { table, key: key.into() });
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

    /// Applies a batch atomically; readers see it when this returns.
    fn write(&self, batch: WriteBatch) -> Result<(), StorageError>;

    /// Makes every batch written so far durable.
    fn sync(&self) -> Result<(), StorageError>;
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
