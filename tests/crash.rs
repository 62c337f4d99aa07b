//! A process that commits blocks is killed at random moments; what it reported is never lost.
//!
//! The test binary starts itself again as the victim (the test `victim`, told by an environment
//! variable where to work), reads the heights it reports and kills it with SIGKILL. SIGKILL keeps
//! the page cache, so this covers every state of the process; torn sectors and lost unsynced writes
//! are enumerated in the tests of the segment files and in `ledger`.

use std::env;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use obelisk::ledger::Ledger;
use obelisk::ledger::segments::SegmentSizes;
use obelisk::storage::Kv;
use obelisk::storage::RocksSizing;
use obelisk::storage::STORES;
use obelisk::storage::StoreRow;
use obelisk::storage::memory::MemoryKv;
use obelisk::types::ids::BlockHash;
use obelisk::types::ids::Height;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::chain_fixture::execute;
use crate::chain_fixture::genesis;
use crate::ledger::chain_block;

const WORK_IN: &str = "OBELISK_TEST_CRASH_DIRECTORY";
const STORE: &str = "OBELISK_TEST_CRASH_STORE";
/// Small files, so that kills hit rotation as well.
const SIZES: SegmentSizes =
    SegmentSizes { segment_bytes: 64 << 10, preallocated_bytes: 16 << 10, verified_bytes: 1 << 30 };
/// Kills per store.
const ROUNDS: u64 = 30;

/// Every height that the victim reported is there after each of dozens of kills, the chain links,
/// and executing it again gives the recorded roots.
#[test]
fn killed_at_any_moment_nothing_reported_is_lost() {
    for row in STORES {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let (mut reported, mut hash) = (0, None);
        for round in 0..ROUNDS {
            let wait = Duration::from_micros(random.random_range(0..30_000));
            reported = reported.max(run_and_kill(dir.path(), row, wait));
            hash = Some(check(dir.path(), open_store(dir.path(), row), reported, hash));
            if round % 10 == 9 {
                check(dir.path(), Arc::new(MemoryKv::new()), reported, hash);
            }
        }
        assert!(reported > ROUNDS, "{}: the victim made progress: {reported}", row.name);
    }
}

/// The process that is killed; does nothing unless it was started by the test above.
#[test]
fn victim() {
    let (Ok(dir), Ok(store)) = (env::var(WORK_IN), env::var(STORE)) else { return };
    let dir = Path::new(&dir);
    let row = obelisk::storage::store(&store).expect("a store of this build");
    let ledger = open(dir, open_store(dir, row));
    recover(&ledger);
    for round in 0u64.. {
        let mut tip = ledger.tip();
        let group = (0..round % 3 + 1).map(|_| {
            let block = chain_block(&genesis("crash"), &tip);
            tip = block.block.header.tip();
            block
        });
        ledger.commit(group.collect()).expect("committed");
        let mut out = std::io::stdout().lock();
        writeln!(out, "{COMMITTED}{}", ledger.tip().height).expect("the test reads");
        out.flush().expect("the test reads");
    }
}

/// Starts the victim, lets it report once and then run for `wait`, kills it, and returns the last
/// height it reported.
fn run_and_kill(dir: &Path, row: &StoreRow, wait: Duration) -> u64 {
    let mut child = Command::new(env::current_exe().expect("this test binary"))
        .args(["crash::victim", "--exact", "--nocapture", "--test-threads=1"])
        .env(WORK_IN, dir)
        .env(STORE, row.name)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the victim starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut last = 0;
    let mut line = String::new();
    while last == 0 && out.read_line(&mut line).expect("read") > 0 {
        last = height(&line).unwrap_or(last);
        line.clear();
    }
    thread::sleep(wait);
    kill(&mut child);
    let rest = out.lines().map_while(Result::ok);
    rest.filter_map(|line| height(&line)).fold(last, u64::max)
}

fn kill(child: &mut Child) {
    child.kill().expect("SIGKILL");
    let status = child.wait().expect("reaped");
    assert_eq!(status.code(), None, "the victim ended by itself: {status}");
}

/// The height of a report; a line that the kill cut short is none.
fn height(line: &str) -> Option<u64> {
    let (_, digits) = line.trim_end().split_once(COMMITTED)?;
    digits.parse().ok()
}

/// Opens what the victim left, executes what its store lacks, and follows the chain. Returns the
/// hash at the height reported, which must be the former one where the height is the same.
fn check(dir: &Path, kv: Arc<dyn Kv>, reported: u64, before: Option<BlockHash>) -> BlockHash {
    let ledger = open(dir, kv);
    assert!(ledger.stored_height().0 >= reported, "reported {reported}");
    recover(&ledger);
    let mut previous = BlockHash(ledger.chain().0);
    let mut seen = before.is_none();
    for height in (1..=ledger.tip().height.0).map(Height) {
        let block = ledger.block(height).expect("read").expect("stored");
        assert_eq!(block.header.previous, previous, "the chain links at {height}");
        previous = block.header.hash();
        seen |= before == Some(previous);
    }
    assert!(seen, "the chain of the round before is a prefix of this one");
    assert_eq!(ledger.tip().hash, previous);
    previous
}

fn recover(ledger: &Ledger) {
    for stored in ledger.unapplied().expect("listed") {
        let (block, recorded) = stored.expect("read");
        let result = ledger.reapply(execute(block)).expect("the same roots");
        assert_eq!(result, recorded);
    }
}

fn open(dir: &Path, kv: Arc<dyn Kv>) -> Ledger {
    Ledger::open_sized(dir, &genesis("crash"), kv, SIZES).expect("opened after a kill")
}

fn open_store(dir: &Path, row: &StoreRow) -> Arc<dyn Kv> {
    (row.open)(&dir.join("store"), &RocksSizing::default()).expect("opened after a kill")
}

const COMMITTED: &str = "committed ";
