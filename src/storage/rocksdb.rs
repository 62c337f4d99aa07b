//! The durable store: one RocksDB database, a column family per table (feature `rocksdb`).
//!
//! The write-ahead log is on and not synced per write: the ledger's segment files are the only sync
//! of a block, and blocks above the applied height are replayed at open. After a power cut the log
//! ends at its first torn record (`PointInTime`), so a prefix of the batches is there, as the
//! contract of `Kv` asks. `sync` makes the log durable.
//!
//! Options per table, with the reason (figures: RocksDB 7.8 on 5 M keys of 132 bytes):
//! * all: LZ4, 16 KiB blocks (4 to 16 KiB differ by 10 %), one shared LRU cache with the strict
//!   part for indexes and filters, partitioned where a table grows large.
//! * `state`, `txidx`, `certs`: bloom filter of 10 bits per key, so that an absent key (a new
//!   account, a new transaction id) costs no block read.
//! * `hist`, `meta`: no filter; they are read by range or are tiny.
//!
//! Damage: opening reads every table file's footer and index and checks checksums of every block
//! read later; RocksDB's own "corruption" becomes `StorageError::Damaged` naming the directory and
//! RocksDB's words, which name the file.

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rocksdb::BlockBasedOptions;
use rocksdb::Cache;
use rocksdb::ColumnFamily;
use rocksdb::ColumnFamilyDescriptor;
use rocksdb::DB;
use rocksdb::DBCompressionType;
use rocksdb::DBRawIterator;
use rocksdb::DBRecoveryMode;
use rocksdb::ErrorKind;
use rocksdb::LogLevel;
use rocksdb::Options;
use rocksdb::ReadOptions;
use rocksdb::checkpoint::Checkpoint;

use crate::storage::Change;
use crate::storage::Entry;
use crate::storage::Kv;
use crate::storage::RocksSizing;
use crate::storage::Snapshot;
use crate::storage::StorageError;
use crate::storage::WriteBatch;
use crate::storage::tables::Table;

/// A RocksDB database.
pub struct RocksKv {
    db: DB,
    path: PathBuf,
}

impl RocksKv {
    /// Opens the database of that directory, or creates it.
    pub fn open(path: &Path, sizing: &RocksSizing) -> Result<Self, StorageError> {
        std::fs::create_dir_all(path).map_err(|e| StorageError::Failed {
            doing: "creating the directory of the database",
            reason: format!("{}: {e}", path.display()),
        })?;
        let cache = Cache::new_lru_cache(sizing.cache_bytes);
        let tables = Table::ALL
            .map(|t| ColumnFamilyDescriptor::new(t.name(), table_options(t, sizing, &cache)));
        match DB::open_cf_descriptors(&database_options(sizing), path, tables) {
            Ok(db) => Ok(Self { db, path: path.to_owned() }),
            Err(e) => Err(classify(path, "opening the database", &e)),
        }
    }

    /// The row of `STORES`.
    pub fn open_row(path: &Path, sizing: &RocksSizing) -> Result<Arc<dyn Kv>, StorageError> {
        Ok(Arc::new(Self::open(path, sizing)?))
    }

    /// Makes a copy of the database as of now in `to`, which must not exist; hard links where both
    /// are on one filesystem, so that it takes milliseconds and no space.
    pub fn checkpoint(&self, to: &Path) -> Result<(), StorageError> {
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(to))
            .map_err(|e| self.failed("making a checkpoint", &e))
    }

    /// Writes every memtable to table files and waits for it.
    pub fn flush(&self) -> Result<(), StorageError> {
        for table in Table::ALL {
            self.db.flush_cf(self.table(table)).map_err(|e| self.failed("flushing", &e))?;
        }
        Ok(())
    }

    fn table(&self, table: Table) -> &ColumnFamily {
        self.db.cf_handle(table.name()).expect("open names every table")
    }

    fn failed(&self, doing: &'static str, error: &rocksdb::Error) -> StorageError {
        classify(&self.path, doing, error)
    }

    fn range(&self, table: Table, start: &[u8], end: &[u8]) -> DBRawIterator<'_> {
        self.db.raw_iterator_cf_opt(self.table(table), within(start, end))
    }

    fn rows(
        &self,
        mut at: DBRawIterator<'_>,
        start: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let mut rows = Vec::new();
        at.seek(start);
        while let (true, Some((key, value))) = (rows.len() < limit, at.item()) {
            rows.push((key.to_vec(), value.to_vec()));
            at.next();
        }
        at.status().map_err(|e| self.failed("scanning", &e))?;
        Ok(rows)
    }
}

/// The database as it was at one moment: a sequence number below which nothing is compacted away.
struct RocksSnapshot<'a> {
    kv: &'a RocksKv,
    at: rocksdb::Snapshot<'a>,
}

impl Kv for RocksKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.db.get_cf(self.table(table), key).map_err(|e| self.failed("reading a key", &e))
    }

    fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        self.db
            .batched_multi_get_cf(self.table(table), keys.iter().copied(), false)
            .into_iter()
            .map(|found| match found {
                Ok(value) => Ok(value.map(|v| v.to_vec())),
                Err(e) => Err(self.failed("reading keys", &e)),
            })
            .collect()
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        if is_empty(start, end) {
            return Ok(Vec::new());
        }
        self.rows(self.range(table, start, end), start, limit)
    }

    fn last(&self, table: Table, start: &[u8], end: &[u8]) -> Result<Option<Entry>, StorageError> {
        if is_empty(start, end) {
            return Ok(None);
        }
        let mut at = self.range(table, start, end);
        at.seek_to_last();
        let row = at.item().map(|(key, value)| (key.to_vec(), value.to_vec()));
        at.status().map_err(|e| self.failed("reading the last key", &e))?;
        Ok(row)
    }

    fn snapshot(&self) -> Box<dyn Snapshot + '_> {
        Box::new(RocksSnapshot { kv: self, at: self.db.snapshot() })
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StorageError> {
        // Ascending keys make each insert into a memtable begin next to the one before.
        let sorted = batch.sorted();
        let bytes = batch.bytes() + sorted.len() * ROW_OVERHEAD_BYTES;
        let mut changes = rocksdb::WriteBatch::with_capacity_bytes(bytes);
        for rows in sorted.chunk_by(|a, b| a.table == b.table) {
            let table = self.table(rows[0].table);
            for Change { key, value, .. } in rows {
                match value {
                    Some(value) => changes.put_cf(table, key, value),
                    None => changes.delete_cf(table, key),
                }
            }
        }
        self.db.write(changes).map_err(|e| self.failed("writing a batch", &e))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.db.flush_wal(true).map_err(|e| self.failed("syncing the write-ahead log", &e))
    }

    fn memory(&self) -> Vec<(&'static str, u64)> {
        let of = |table: Table, property: &str| {
            let value = self.db.property_int_value_cf(self.table(table), property);
            value.ok().flatten().unwrap_or(0)
        };
        let all = |property: &str| Table::ALL.iter().map(|table| of(*table, property)).sum();
        vec![
            ("store_memtables", all("rocksdb.cur-size-all-mem-tables")),
            ("store_table_readers", all("rocksdb.estimate-table-readers-mem")),
            // One cache for all tables.
            ("store_block_cache", of(Table::Meta, "rocksdb.block-cache-usage")),
        ]
    }
}

impl Snapshot for RocksSnapshot<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let kv = self.kv;
        self.at.get_cf(kv.table(table), key).map_err(|e| kv.failed("reading a key", &e))
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        if is_empty(start, end) {
            return Ok(Vec::new());
        }
        let table = self.kv.table(table);
        let at = self.at.raw_iterator_cf_opt(table, within(start, end));
        self.kv.rows(at, start, limit)
    }
}

impl fmt::Debug for RocksSnapshot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RocksSnapshot({})", self.kv.path.display())
    }
}

impl fmt::Debug for RocksKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RocksKv({})", self.path.display())
    }
}

/// True where no key lies in the range; an empty `end` is the table's.
fn is_empty(start: &[u8], end: &[u8]) -> bool {
    !end.is_empty() && start >= end
}

fn within(start: &[u8], end: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(start);
    if !end.is_empty() {
        options.set_iterate_upper_bound(end);
    }
    options
}

fn database_options(sizing: &RocksSizing) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_max_background_jobs(signed(sizing.background_jobs));
    options.set_db_write_buffer_size(sizing.memtables_total_bytes);
    options.set_max_total_wal_size(2 * sizing.memtables_total_bytes as u64);
    options.set_max_open_files(-1);
    options.set_bytes_per_sync(1 << 20);
    options.set_use_direct_reads(sizing.direct_io);
    options.set_use_direct_io_for_flush_and_compaction(sizing.direct_io);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(8 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options
}

fn table_options(table: Table, sizing: &RocksSizing, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(16 << 10);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_format_version(5);
    if matches!(table, Table::State | Table::TxIndex | Table::Certificates) {
        blocks.set_bloom_filter(10.0, false);
        blocks.set_partition_filters(true);
        blocks.set_index_type(rocksdb::BlockBasedIndexType::TwoLevelIndexSearch);
        blocks.set_pin_top_level_index_and_filter(true);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_write_buffer_number(signed(sizing.memtables.max(2)));
    let memtable = match table {
        Table::State => sizing.memtable_bytes,
        _ => sizing.memtable_bytes / 4,
    };
    options.set_write_buffer_size(memtable);
    options.set_memtable_huge_page_size(sizing.huge_page_bytes);
    options
}

fn signed(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn classify(path: &Path, doing: &'static str, error: &rocksdb::Error) -> StorageError {
    let reason = error.to_string();
    match error.kind() {
        ErrorKind::Corruption => StorageError::Damaged {
            what: format!("the database {}", path.display()),
            reason: format!("{doing}: {reason}"),
        },
        // The library says no more than that.
        ErrorKind::IOError if reason.contains("lock file") => {
            StorageError::InUse { path: path.to_owned() }
        }
        _ => StorageError::Failed { doing, reason: format!("{}: {reason}", path.display()) },
    }
}

/// Room for tag, column family and two lengths of a row in a batch, bytes.
const ROW_OVERHEAD_BYTES: usize = 16;
