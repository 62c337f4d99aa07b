//! What a committed block costs the ledger: CPU microseconds per update, over all threads, for
//! blocks of 500 transactions with two writes each, per store, with the shares of the store's
//! batches, of the segment files and of the state tree measured alone.
//!
//! `cargo bench --bench storage -- [keys] [blocks]`; keys are loaded before the measurement. CPU
//! time moves little with the load of the machine, wall time does.

#[path = "../tests/chain_fixture.rs"]
mod chain_fixture;

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;
use nix::sys::time::TimeValLike;
use obelisk::ledger::ExecutedBlock;
use obelisk::ledger::Ledger;
use obelisk::ledger::segments::SegmentSizes;
use obelisk::ledger::segments::Segments;
use obelisk::ledger::segments::StoredBlock;
use obelisk::ledger::state_tree::StateTree;
use obelisk::ledger::state_tree::Update;
use obelisk::ledger::state_tree::key_hash;
use obelisk::ledger::state_tree::value_hash;
use obelisk::storage::Entry;
use obelisk::storage::Kv;
use obelisk::storage::RocksSizing;
use obelisk::storage::STORES;
use obelisk::storage::StorageError;
use obelisk::storage::WriteBatch;
use obelisk::storage::tables::Table;
use obelisk::types::block::Tip;
use obelisk::types::codec::Encode;
use obelisk::types::genesis::Genesis;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::chain_fixture::block;
use crate::chain_fixture::execute;
use crate::chain_fixture::genesis;
use crate::chain_fixture::transaction;

const TXS: u64 = 500;
const WRITES: u64 = 2 * TXS;
/// Bytes of a value, as an asset's record has.
const VALUE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
                     0123456789abcdef0123456789abcdef";

/// CPU time of this process, all threads, and wall time.
struct Clock(f64, Instant);

impl Clock {
    fn start() -> Self {
        Self(cpu_us(), Instant::now())
    }

    /// Microseconds per update of CPU and wall time.
    fn per(&self, updates: u64) -> (f64, f64) {
        let wall = self.1.elapsed().as_secs_f64() * 1e6;
        ((cpu_us() - self.0) / updates as f64, wall / updates as f64)
    }
}

fn cpu_us() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel tells");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    micros as f64
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse::<u64>().ok());
    let keys = numbers.next().unwrap_or(200_000);
    let blocks = numbers.next().unwrap_or(100);
    let genesis = genesis("bench");
    println!(
        "{keys} keys, {blocks} blocks of {TXS} transactions with 2 writes of {} bytes",
        VALUE.len()
    );
    println!("microseconds per update   cpu    wall");
    for row in STORES {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kv = (row.open)(&dir.path().join("kv"), &RocksSizing::default()).expect(row.name);
        commit(row.name, dir.path(), kv, &genesis, keys, blocks);
    }
    tree(keys, blocks);
}

/// A store that remembers the batches it is given.
#[derive(Debug)]
struct Recorder {
    kv: Arc<dyn Kv>,
    batches: Mutex<Vec<WriteBatch>>,
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

    fn write(&self, batch: WriteBatch) -> Result<(), StorageError> {
        self.batches.lock().expect("not poisoned").push(batch.clone());
        self.kv.write(batch)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.kv.sync()
    }
}

/// Loads the keys, then measures commits; afterwards appends the same blocks to segments alone.
fn commit(name: &str, dir: &Path, kv: Arc<dyn Kv>, genesis: &Genesis, keys: u64, blocks: u64) {
    let recorder = Arc::new(Recorder { kv, batches: Mutex::default() });
    let ledger = Ledger::open(dir, genesis, recorder.clone()).expect("opened");
    for first in (0..keys).step_by(WRITES as usize) {
        let next = write_block(genesis, &ledger.tip(), first, |n| first + n);
        ledger.commit(vec![next]).expect("committed");
    }
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut tip = ledger.tip();
    let made: Vec<ExecutedBlock> = (0..blocks)
        .map(|n| {
            let made =
                write_block(genesis, &tip, keys + n * WRITES, |_| random.random_range(0..keys));
            tip = made.block.header.tip();
            made
        })
        .collect();
    let copies = made.clone();
    recorder.batches.lock().expect("not poisoned").clear();
    let clock = Clock::start();
    let mut results = Vec::new();
    for block in copies {
        results.extend(ledger.commit(vec![block]).expect("committed"));
    }
    let (cpu, wall) = clock.per(blocks * WRITES);
    println!("commit/store={name:<11} {cpu:>8.2} {wall:>7.2}");
    let batches = std::mem::take(&mut *recorder.batches.lock().expect("not poisoned"));
    let clock = Clock::start();
    batches.into_iter().for_each(|batch| recorder.kv.write(batch).expect("written"));
    let (cpu, wall) = clock.per(blocks * WRITES);
    println!("kv/write/store={name:<9} {cpu:>8.2} {wall:>7.2}");
    let stored: Vec<StoredBlock> = made
        .iter()
        .zip(&results)
        .map(|(m, r)| StoredBlock { block: m.block.to_bytes(), result: r.to_bytes() })
        .collect();
    let bytes: usize = stored.iter().map(|s| s.block.len() + s.result.len()).sum();
    let alone = Segments::open(&dir.join("alone"), genesis.chain_id(), SegmentSizes::default());
    let alone = alone.expect("opened");
    let clock = Clock::start();
    stored.into_iter().for_each(|block| alone.append(&[block]).expect("appended"));
    let (cpu, wall) = clock.per(blocks * WRITES);
    println!(
        "segments/append           {cpu:>8.2} {wall:>7.2}   ({} bytes per block)",
        bytes as u64 / blocks
    );
}

/// The state tree alone, hashing of keys and values included.
fn tree(keys: u64, blocks: u64) {
    let mut tree = StateTree::new();
    let update = |n: u64, version: u64| -> Update {
        let value = value_hash(format!("{VALUE}{version}").as_bytes());
        (key_hash(&chain_fixture::key(&format!("account{n}"))), Some(value))
    };
    let clock = Clock::start();
    for first in (0..keys).step_by(16 * 1024) {
        let mut updates: Vec<Update> =
            (first..keys.min(first + 16 * 1024)).map(|n| update(n, 0)).collect();
        tree.update(&mut updates);
    }
    let (cpu, wall) = clock.per(keys);
    println!("tree/rebuild              {cpu:>8.2} {wall:>7.2}");
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for batch in [500, 1000, 5000] {
        let mut spent = (0.0, 0.0);
        let rounds = (blocks * WRITES / batch).max(1);
        for round in 0..rounds {
            let mut picked: Vec<u64> = (0..batch).map(|_| random.random_range(0..keys)).collect();
            picked.sort_unstable();
            picked.dedup();
            let clock = Clock::start();
            let mut updates: Vec<Update> = picked.iter().map(|n| update(*n, round + 1)).collect();
            tree.update(&mut updates);
            let (cpu, wall) = clock.per(picked.len() as u64);
            spent = (spent.0 + cpu, spent.1 + wall);
        }
        let (cpu, wall) = (spent.0 / rounds as f64, spent.1 / rounds as f64);
        println!("tree/update/batch={batch:<7} {cpu:>8.2} {wall:>7.2}");
    }
}

/// A block whose transaction `n` writes the keys that `pick` names.
fn write_block(
    genesis: &Genesis,
    tip: &Tip,
    nonce: u64,
    mut pick: impl FnMut(u64) -> u64,
) -> ExecutedBlock {
    let txs = (0..TXS).map(|n| {
        let names = [2 * n, 2 * n + 1].map(|at| format!("account{}", pick(at)));
        let value = format!("{VALUE}{}", nonce + n);
        let writes = names.each_ref().map(|name| (name.as_str(), Some(value.as_str())));
        transaction(genesis, (nonce << 16) + n, &writes)
    });
    execute(block(genesis, tip, txs.collect(), 250))
}
