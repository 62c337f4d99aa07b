//! A store that fails on demand and forgets what was not synced: the disk of the crash tests.
//!
//! It keeps what readers see apart from what `sync` made durable. `crash` gives the store that a
//! restarted process would open after a power cut: everything durable plus any prefix of the
//! unsynced batches, because batches become durable in the order they were written (the contract of
//! `Kv`).

use std::sync::Mutex;
use std::sync::MutexGuard;

use crate::storage::Entry;
use crate::storage::Kv;
use crate::storage::Snapshot;
use crate::storage::StorageError;
use crate::storage::WriteBatch;
use crate::storage::memory::MemoryKv;
use crate::storage::tables::Table;

/// Which calls fail, counted from 1; `None` never.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultPlan {
    /// The write that fails.
    pub fail_write: Option<u64>,
    /// The sync that fails.
    pub fail_sync: Option<u64>,
}

/// A memory store with a fault plan and a memory of what is durable.
#[derive(Debug, Default)]
pub struct FaultyKv {
    seen: MemoryKv,
    disk: Mutex<Disk>,
}

#[derive(Debug, Default)]
struct Disk {
    plan: FaultPlan,
    durable: MemoryKv,
    unsynced: Vec<WriteBatch>,
    writes: u64,
    syncs: u64,
    broken: bool,
}

impl FaultyKv {
    /// An empty store that fails as planned.
    pub fn new(plan: FaultPlan) -> Self {
        Self::restarted(MemoryKv::new(), plan)
    }

    /// A store whose content is durable, as after a restart.
    pub fn restarted(durable: MemoryKv, plan: FaultPlan) -> Self {
        let seen = durable.duplicate();
        Self { seen, disk: Mutex::new(Disk { plan, durable, ..Disk::default() }) }
    }

    /// Batches written and not yet synced.
    pub fn unsynced(&self) -> usize {
        self.disk().unsynced.len()
    }

    /// What a power cut leaves: the durable content and the first `kept` unsynced batches.
    pub fn crash(&self, kept: usize) -> MemoryKv {
        let disk = self.disk();
        let left = disk.durable.duplicate();
        disk.unsynced.iter().take(kept).for_each(|batch| left.apply(batch));
        left
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no holder of this lock panics")
    }
}

impl Kv for FaultyKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.seen.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.seen.scan(table, start, end, limit)
    }

    fn last(&self, table: Table, start: &[u8], end: &[u8]) -> Result<Option<Entry>, StorageError> {
        self.seen.last(table, start, end)
    }

    fn snapshot(&self) -> Box<dyn Snapshot + '_> {
        self.seen.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StorageError> {
        let mut disk = self.disk();
        disk.writes += 1;
        disk.broken |= disk.plan.fail_write == Some(disk.writes);
        if disk.broken {
            return Err(planned("write"));
        }
        self.seen.apply(&batch);
        disk.unsynced.push(batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        let mut disk = self.disk();
        disk.syncs += 1;
        disk.broken |= disk.plan.fail_sync == Some(disk.syncs);
        if disk.broken {
            return Err(planned("sync"));
        }
        for batch in std::mem::take(&mut disk.unsynced) {
            disk.durable.apply(&batch);
        }
        Ok(())
    }
}

fn planned(doing: &'static str) -> StorageError {
    StorageError::Failed { doing, reason: "fault of the test plan".to_owned() }
}
