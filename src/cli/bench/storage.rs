//! `obelisk bench storage`: what a committed block costs the ledger, per transaction with two
//! writes, per store, with the shares of the store's batches, of the segment files and of the state
//! tree measured alone.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;
use clap::Args;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::cli::Context;
use crate::cli::bench::chain;
use crate::cli::bench::chain::Scratch;
use crate::cli::bench::chain::broken;
use crate::cli::bench::machine::Machine;
use crate::cli::bench::measure::Effort;
use crate::cli::bench::measure::Sample;
use crate::cli::bench::measure::Watch;
use crate::cli::bench::report::Destination;
use crate::cli::bench::report::Report;
use crate::cli::bench::report::Row;
use crate::cli::failure::Failure;
use crate::ledger::ExecutedBlock;
use crate::ledger::Ledger;
use crate::ledger::read_write_set::StateKey;
use crate::ledger::segments::SegmentSizes;
use crate::ledger::segments::Segments;
use crate::ledger::segments::StoredBlock;
use crate::ledger::state_tree::StateTree;
use crate::ledger::state_tree::Update;
use crate::ledger::state_tree::key_hash;
use crate::ledger::state_tree::value_hash;
use crate::storage::Entry;
use crate::storage::Kv;
use crate::storage::RocksSizing;
use crate::storage::STORES;
use crate::storage::Snapshot;
use crate::storage::StorageError;
use crate::storage::StoreRow;
use crate::storage::WriteBatch;
use crate::storage::tables::Table;
use crate::types::block::Tip;
use crate::types::codec::Encode;
use crate::types::genesis::Genesis;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Keys of the state before the measurement
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1000..))]
    keys: u64,
    /// Blocks of 500 transactions of one run
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    blocks: u64,
    /// Where the store lies; the disk that is measured
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    to: Destination,
}

pub fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let scratch = Scratch::new(arguments.data.as_deref())?;
    let machine = Machine::this(Some(scratch.path()));
    let mut rows = Vec::new();
    for store in STORES {
        commits(arguments, store, scratch.path(), &mut rows)?;
    }
    tree(arguments, &mut rows);
    Report::new("storage", machine, rows).deliver(&arguments.to, context)
}

/// A store that remembers the batches it is given.
#[derive(Debug)]
struct Recorder {
    kv: Arc<dyn Kv>,
    batches: Mutex<Vec<WriteBatch>>,
}

impl Recorder {
    fn take(&self) -> Vec<WriteBatch> {
        std::mem::take(&mut *self.batches.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kv for Recorder {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.kv.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.kv.scan(table, start, end, limit)
    }

    fn last(&self, table: Table, start: &[u8], end: &[u8]) -> Result<Option<Entry>, StorageError> {
        self.kv.last(table, start, end)
    }

    fn snapshot(&self) -> Box<dyn Snapshot + '_> {
        self.kv.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StorageError> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).push(batch.clone());
        self.kv.write(batch)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.kv.sync()
    }
}

/// Loads the keys, then measures commits; afterwards the same batches and the same bytes alone.
fn commits(
    arguments: &Arguments,
    store: &StoreRow,
    scratch: &Path,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let (keys, name) = (arguments.keys, store.name);
    let (genesis, folder) = (chain::genesis(), scratch.join(name));
    let kv = (store.open)(&folder.join("kv"), &RocksSizing::default()).map_err(|e| broken(&e))?;
    let recorder = Arc::new(Recorder { kv, batches: Mutex::default() });
    let ledger = Ledger::open(&folder, &genesis, recorder.clone()).map_err(|e| broken(&e))?;
    for first in (0..keys).step_by((2 * TXS) as usize) {
        let next = next_block(&genesis, &ledger.tip(), first, |n| (first + n) % keys)?;
        ledger.commit(vec![next]).map_err(|e| broken(&e))?;
        recorder.take();
    }
    let alone = Segments::open(&folder.join("alone"), genesis.chain_id(), SegmentSizes::default())
        .map_err(|e| broken(&e))?;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut nonce = keys;
    let (mut commit, mut write, mut append) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..arguments.effort.runs() {
        let mut tip = ledger.tip();
        let mut blocks = Vec::new();
        for _ in 0..arguments.blocks {
            nonce += 1;
            let next = next_block(&genesis, &tip, nonce, |_| random.random_range(0..keys))?;
            tip = next.block.header.tip();
            blocks.push(next);
        }
        let transactions = arguments.blocks * TXS;
        let encoded: Vec<_> = blocks.iter().map(|block| block.block.to_bytes()).collect();
        let (watch, mut results) = (Watch::start(), Vec::new());
        for block in blocks {
            results.extend(ledger.commit(vec![block]).map_err(|e| broken(&e))?);
        }
        commit.push(watch.per(transactions));
        let batches = recorder.take();
        let watch = Watch::start();
        for batch in batches {
            recorder.kv.write(batch).map_err(|e| broken(&e))?;
        }
        write.push(watch.per(transactions));
        let results = results.iter().map(Encode::to_bytes);
        let stored: Vec<StoredBlock> = encoded
            .into_iter()
            .zip(results)
            .map(|(block, result)| StoredBlock { block, result })
            .collect();
        bytes += stored.iter().map(|s| s.block.len() + s.result.len()).sum::<usize>();
        let watch = Watch::start();
        for block in stored {
            alone.append(&[block]).map_err(|e| broken(&e))?;
        }
        append.push(watch.per(transactions));
    }
    rows.push(Row::times(format!("ledger::commit/store={name}/keys={keys}"), &commit));
    rows.push(Row::times(format!("storage::write/store={name}/keys={keys}"), &write));
    if name == STORES[0].name {
        rows.push(Row::times("ledger::segments_append/txs=500", &append));
        let count = append.iter().map(|sample| sample.count).sum::<u64>();
        let each = bytes as f64 / count.max(1) as f64;
        rows.push(Row::once("ledger::segment_bytes/txs=500", "bytes", count, each));
    }
    Ok(())
}

/// The state tree alone, per update, hashing of keys and values included.
fn tree(arguments: &Arguments, rows: &mut Vec<Row>) {
    let keys = arguments.keys;
    let update =
        |n: u64, version: u64| -> Update { (key_hash(&key(n)), Some(value_hash(&value(version)))) };
    let mut tree = StateTree::new();
    let watch = Watch::start();
    for first in (0..keys).step_by(16 * 1024) {
        let end = keys.min(first + 16 * 1024);
        let mut updates: Vec<Update> = (first..end).map(|n| update(n, 0)).collect();
        tree.update(&mut updates);
    }
    rows.push(Row::times(format!("ledger::tree_rebuild/keys={keys}"), &[watch.per(keys)]));
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for batch in [500, 1000, 5000] {
        let mut run = |version: u64| -> Sample {
            let rounds = (arguments.blocks * 2 * TXS / batch).max(1);
            let mut picked: Vec<Vec<u64>> = Vec::new();
            for _ in 0..rounds {
                let mut one: Vec<u64> = (0..batch).map(|_| random.random_range(0..keys)).collect();
                one.sort_unstable();
                one.dedup();
                picked.push(one);
            }
            let count = picked.iter().map(|one| one.len() as u64).sum();
            let watch = Watch::start();
            for one in picked {
                let mut updates: Vec<Update> = one.iter().map(|n| update(*n, version)).collect();
                tree.update(&mut updates);
            }
            watch.per(count)
        };
        let samples: Vec<Sample> = (0..arguments.effort.runs()).map(|n| run(n.into())).collect();
        rows.push(Row::times(format!("ledger::tree_update/keys={keys}/batch={batch}"), &samples));
    }
}

/// A block of transactions that write two keys each, which `pick` chooses.
fn next_block(
    genesis: &Genesis,
    tip: &Tip,
    nonce: u64,
    mut pick: impl FnMut(u64) -> u64,
) -> Result<ExecutedBlock, Failure> {
    let mut write = |n: u64| (key(pick(n)), value(nonce + n));
    let writes = (0..TXS).map(|n| vec![write(2 * n), write(2 * n + 1)]).collect();
    chain::written(genesis.chain_id(), tip, writes, nonce).map_err(|e| broken(&e))
}

fn key(number: u64) -> StateKey {
    StateKey { namespace: "asset".to_owned(), key: Bytes::from(format!("account{number}")) }
}

/// As an asset's record has: 128 bytes and a version.
fn value(version: u64) -> Bytes {
    Bytes::from(format!("{:x>128}", version))
}

const TXS: u64 = 500;
