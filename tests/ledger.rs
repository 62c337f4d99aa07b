//! The ledger as its users see it: commit, read, prove, reopen, recover, refuse.

use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use obelisk::ledger::Divergence;
use obelisk::ledger::ExecutedBlock;
use obelisk::ledger::Ledger;
use obelisk::ledger::LedgerError;
use obelisk::ledger::WorldState;
use obelisk::ledger::segments::SegmentSizes;
use obelisk::storage::Entry;
use obelisk::storage::Kv;
use obelisk::storage::RocksSizing;
use obelisk::storage::STORES;
use obelisk::storage::Snapshot;
use obelisk::storage::StorageError;
use obelisk::storage::WriteBatch;
use obelisk::storage::faulty::FaultPlan;
use obelisk::storage::faulty::FaultyKv;
use obelisk::storage::memory::MemoryKv;
use obelisk::storage::tables::Table;
use obelisk::types::block::Tip;
use obelisk::types::digest::Digest;
use obelisk::types::genesis::Genesis;
use obelisk::types::ids::CertificateId;
use obelisk::types::ids::Height;
use obelisk::types::ids::TxId;
use obelisk::types::limits;
use obelisk::types::receipt::BlockResult;

use crate::chain_fixture::block;
use crate::chain_fixture::certificate;
use crate::chain_fixture::execute;
use crate::chain_fixture::genesis;
use crate::chain_fixture::key;
use crate::chain_fixture::transaction;

const SMALL: SegmentSizes =
    SegmentSizes { segment_bytes: 16 << 10, preallocated_bytes: 4096, verified_bytes: 1 << 30 };

/// Block number `height` of the test chain: five transactions over a few keys, with overwrites
/// within the block, deletes and failures; the same on every run.
pub fn chain_block(genesis: &Genesis, tip: &Tip) -> ExecutedBlock {
    let height = tip.height.0 + 1;
    let txs = (0..5u64)
        .map(|n| {
            let nonce = height * 10 + n;
            let a = format!("k{}", nonce * 7 % 40);
            let b = format!("k{}", nonce * 11 % 40);
            let value = format!("v{nonce}");
            let second = (!nonce.is_multiple_of(3)).then_some(value.as_str());
            let mut writes = vec![(a.as_str(), Some(value.as_str())), (b.as_str(), second)];
            if nonce % 5 == 4 {
                writes.push(("!", None));
            }
            transaction(genesis, nonce, &writes)
        })
        .collect();
    execute(block(genesis, tip, txs, 2))
}

fn open(dir: &Path, kv: Arc<dyn Kv>) -> Result<Ledger, LedgerError> {
    Ledger::open_sized(dir, &genesis("test"), kv, SMALL)
}

fn memory() -> Arc<MemoryKv> {
    Arc::new(MemoryKv::new())
}

fn next(ledger: &Ledger) -> ExecutedBlock {
    chain_block(&genesis("test"), &ledger.tip())
}

fn grow(ledger: &Ledger, blocks: u64) -> Vec<BlockResult> {
    (0..blocks).flat_map(|_| ledger.commit(vec![next(ledger)]).expect("committed")).collect()
}

/// Re-executes what the store lacks; the recovery loop of the pipeline.
fn recover(ledger: &Ledger) -> Result<u64, LedgerError> {
    let mut count = 0;
    for stored in ledger.unapplied()? {
        let (block, recorded) = stored?;
        assert_eq!(ledger.reapply(execute(block))?, recorded);
        count += 1;
    }
    Ok(count)
}

fn writes(genesis: &Genesis, nonce: u64, writes: &[(&str, Option<&str>)], ledger: &Ledger) {
    let tx = transaction(genesis, nonce, writes);
    ledger.commit(vec![execute(block(genesis, &ledger.tip(), vec![tx], 1))]).expect("committed");
}

fn value(ledger: &Ledger, name: &str) -> Option<String> {
    let value = ledger.get(&key(name)).expect("read")?;
    Some(String::from_utf8(value.to_vec()).expect("fixtures write text"))
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(dir.join("segments")).expect("listed");
    let mut files: Vec<PathBuf> = read.map(|entry| entry.expect("listed").path()).collect();
    files.sort();
    files
}

/// A memory store that does something more once, when a write is visible to readers.
#[derive(Default)]
struct WatchedKv {
    inner: MemoryKv,
    after_write: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for WatchedKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Kv for WatchedKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.inner.scan(table, start, end, limit)
    }

    fn last(&self, table: Table, start: &[u8], end: &[u8]) -> Result<Option<Entry>, StorageError> {
        self.inner.last(table, start, end)
    }

    fn snapshot(&self) -> Box<dyn Snapshot + '_> {
        self.inner.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StorageError> {
        self.inner.write(batch)?;
        let after = self.after_write.lock().expect("no holder panics").take();
        after.into_iter().for_each(|after| after());
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()
    }
}

/// Who reads while a block is being applied gets a value and the height at which it holds: the store
/// shows the new value before the ledger says the new height.
#[test]
fn a_value_is_read_with_its_height() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kv = Arc::new(WatchedKv::default());
    let ledger = Arc::new(open(dir.path(), kv.clone()).expect("opened"));
    let genesis = genesis("test");
    writes(&genesis, 1, &[("k", Some("first"))], &ledger);
    let (say, said) = mpsc::channel();
    let hear = {
        let reader = ledger.clone();
        move || {
            let read = std::thread::spawn(move || {
                let view = reader.view();
                (view.tip().height, view.get(&key("k")).expect("read"))
            });
            // Whoever waits for the commit, as is right, cannot answer before this returns.
            let looks = 0..200;
            looks.take_while(|_| !read.is_finished()).for_each(|_| {
                std::thread::sleep(Duration::from_millis(1));
            });
            say.send(read).expect("heard");
        }
    };
    *kv.after_write.lock().expect("no holder panics") = Some(Box::new(hear));
    writes(&genesis, 2, &[("k", Some("second"))], &ledger);
    let read = said.recv().expect("said").join().expect("read");
    assert_eq!(read, (Height(2), Some(Bytes::from_static(b"second"))));
}

/// A view stays at its height while blocks change, delete and add what it shows, with every store.
#[test]
fn a_view_stays_at_its_height() {
    for row in STORES {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kv = (row.open)(&dir.path().join("kv"), &RocksSizing::default()).expect(row.name);
        let (genesis, ledger) = (genesis("test"), open(dir.path(), kv).expect(row.name));
        let start = ledger.view();
        writes(&genesis, 1, &[("a", Some("100")), ("b", Some("0")), ("c", Some("1"))], &ledger);
        let (tip, view) = (ledger.tip(), ledger.view());
        let moved = [("a", Some("30")), ("b", Some("70")), ("c", None), ("aa", Some("x"))];
        writes(&genesis, 2, &moved, &ledger);
        let value = |at: &str| view.get(&key(at)).expect(row.name);
        let entry = |(key, value): &(&'static str, &'static str)| {
            (Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()))
        };
        let old: Vec<_> = [("a", "100"), ("b", "0"), ("c", "1")].iter().map(entry).collect();
        for (name, (_, was)) in ["a", "b", "c"].iter().zip(&old) {
            assert_eq!(value(name).as_ref(), Some(was), "{}", row.name);
        }
        assert_eq!((value("aa"), view.tip()), (None, tip), "{}", row.name);
        assert_eq!(view.scan("asset", b"", b"", 9).expect(row.name), old, "{}", row.name);
        let page = view.page("asset", b"", b"", 2).expect(row.name);
        assert_eq!((page.height, page.next), (Height(1), Some(Bytes::from_static(b"c"))));
        assert_eq!(page.entries, old[..2], "{}", row.name);
        let page = start.page("asset", b"", b"", 9).expect(row.name);
        assert_eq!((page.height, page.entries.len()), (Height(0), 0), "{}", row.name);
        let now = ledger.view().page("asset", b"", b"", 9).expect(row.name);
        let new: Vec<_> = [("a", "30"), ("aa", "x"), ("b", "70")].iter().map(entry).collect();
        assert_eq!((now.height, now.entries), (Height(2), new), "{}", row.name);
    }
}

/// Committed blocks, results, transactions, certificates and values are read back.
#[test]
fn what_is_committed_is_read_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ledger = open(dir.path(), memory()).expect("opened");
    assert_eq!(ledger.tip().height, Height(0));
    assert_eq!(ledger.last_result(), (Digest::ZERO, Digest::ZERO));
    let mut tip = ledger.tip();
    let group: Vec<ExecutedBlock> = (0..3)
        .map(|_| {
            let block = chain_block(&genesis("test"), &tip);
            tip = block.block.header.tip();
            block
        })
        .collect();
    let results = ledger.commit(group.clone()).expect("committed");
    assert_eq!(ledger.tip(), tip);
    for (executed, result) in group.iter().zip(&results) {
        let height = executed.block.header.height;
        assert_eq!(ledger.block(height).expect("read").as_ref(), Some(&executed.block));
        assert_eq!(ledger.result(height).expect("read").as_ref(), Some(result));
        for (n, receipt) in (0..).zip(&result.receipts) {
            assert_eq!(ledger.locate(&receipt.tx).expect("read"), Some((height, n)));
            assert!(ledger.contains(&receipt.tx).expect("read"));
        }
    }
    assert_eq!(ledger.state_root(), results[2].state_root);
    assert_eq!(ledger.last_result().1, results[2].receipts_root);
    let id = CertificateId(Digest::of(&[&certificate()]));
    assert_eq!(ledger.certificate(&id).expect("read"), Some(certificate()));
    let unknown = TxId(Digest::of(&[b"unknown"]));
    assert_eq!(ledger.locate(&unknown).expect("read"), None);
    assert!(!ledger.contains(&unknown).expect("read"));
    assert_eq!(ledger.block(Height(4)).expect("read"), None);
    assert_eq!(ledger.block(Height(0)).expect("read"), None);
}

/// Values, scans and history follow the writes: last one of a block wins, deletes delete.
#[test]
fn state_and_history_follow_the_writes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (genesis, ledger) = (genesis("test"), open(dir.path(), memory()).expect("opened"));
    let tx = |nonce, writes: &[(&str, Option<&str>)]| transaction(&genesis, nonce, writes);
    let txs = vec![
        tx(1, &[("a", Some("1")), ("b", Some("1"))]),
        tx(2, &[("a", Some("2")), ("b", None)]),
        tx(3, &[("a", Some("3")), ("!", None)]),
    ];
    ledger.commit(vec![execute(block(&genesis, &ledger.tip(), txs, 2))]).expect("committed");
    assert_eq!(value(&ledger, "a").as_deref(), Some("2"));
    assert_eq!(value(&ledger, "b"), None);
    writes(&genesis, 4, &[("a", None), ("ab", Some("x")), ("b", Some("y"))], &ledger);
    let history = |name: &str, limit| {
        let found = ledger.history("asset", name.as_bytes(), limit).expect("read");
        found.into_iter().map(|(height, tx, gone)| (height.0, tx, gone)).collect::<Vec<_>>()
    };
    assert_eq!(history("a", 9), [(2, 0, true), (1, 1, false), (1, 0, false)]);
    assert_eq!(history("a", 2), [(2, 0, true), (1, 1, false)]);
    assert_eq!(history("b", 9), [(2, 0, false), (1, 1, true), (1, 0, false)]);
    assert_eq!(history("none", 9), []);
    let scan = |start: &str, end: &str, limit| {
        let found = ledger.scan("asset", start.as_bytes(), end.as_bytes(), limit).expect("read");
        found.into_iter().map(|(key, _)| key.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(scan("", "", 9), [b"ab".to_vec(), b"b".to_vec()]);
    assert_eq!(scan("b", "", 9), [b"b".to_vec()]);
    assert_eq!(scan("", "b", 9), [b"ab".to_vec()]);
    assert_eq!(scan("", "", 1), [b"ab".to_vec()]);
    assert!(ledger.scan("asse", b"", b"", 9).expect("read").is_empty());
    let found = ledger.get_many(&[key("b"), key("a"), key("ab")]).expect("read");
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
}

/// Proofs lead from values and absences to the root that the result records.
#[test]
fn proofs_lead_to_the_recorded_root() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ledger = open(dir.path(), memory()).expect("opened");
    grow(&ledger, 8);
    let keys: Vec<_> = ["k1", "k2", "k3", "absent"].map(key).to_vec();
    let proven = ledger.prove(&keys).expect("proven");
    let result = ledger.result(proven.tip.height).expect("read").expect("stored");
    assert_eq!(proven.state_root, result.state_root);
    let entries = proven.proof.verify(&result.state_root).expect("it holds");
    for (at, value) in entries {
        assert_eq!(*value, ledger.get(at).expect("read"));
    }
    assert!(entries.iter().any(|(_, value)| value.is_some()));
    assert_eq!(entries[3].1, None);
    grow(&ledger, 1);
    assert!(proven.proof.verify(&ledger.state_root()).is_err());
    let many: Vec<_> = (0..=limits::PROOF_KEYS_MAX).map(|n| key(&n.to_string())).collect();
    assert!(matches!(ledger.prove(&many), Err(LedgerError::TooLarge { .. })));
}

/// An id is indexed where it first executed, whatever repeats or expired copies surround it.
#[test]
fn an_id_is_indexed_where_it_executed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (genesis, ledger) = (genesis("test"), open(dir.path(), memory()).expect("opened"));
    let commit = |txs| {
        let executed = execute(block(&genesis, &ledger.tip(), txs, 9));
        ledger.commit(vec![executed]).expect("committed");
    };
    let tx = transaction(&genesis, 1, &[("a", Some("1"))]);
    commit(vec![tx.clone(), tx.clone()]);
    assert_eq!(ledger.locate(&tx.id()).expect("read"), Some((Height(1), 0)));
    let expired = transaction(&genesis, 2, &[("?", None)]);
    commit(vec![expired.clone()]);
    assert_eq!(ledger.locate(&expired.id()).expect("read"), Some((Height(2), 0)));
    assert!(!ledger.contains(&expired.id()).expect("read"), "it never executed");
    commit(vec![expired.clone()]);
    assert_eq!(ledger.locate(&expired.id()).expect("read"), Some((Height(2), 0)));
    let duplicate = transaction(&genesis, 3, &[("+", None)]);
    commit(vec![duplicate.clone()]);
    assert!(!ledger.contains(&duplicate.id()).expect("read"));
}

/// Blocks that do not follow, of another chain, or without their receipts are refused, and nothing
/// has changed: the right one still commits.
#[test]
fn unfit_blocks_change_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ledger = open(dir.path(), memory()).expect("opened");
    grow(&ledger, 2);
    let good = next(&ledger);
    let mut wrong = vec![chain_block(&genesis("other"), &ledger.tip())];
    for change in [
        |b: &mut ExecutedBlock| b.block.header.height = Height(9),
        |b: &mut ExecutedBlock| b.block.header.previous.0.0[0] ^= 1,
        |b: &mut ExecutedBlock| b.block.header.sequence.0 = 1,
        |b: &mut ExecutedBlock| drop(b.receipts.pop()),
        |b: &mut ExecutedBlock| drop(b.writes.pop()),
        |b: &mut ExecutedBlock| b.receipts.swap(0, 1),
        |b: &mut ExecutedBlock| b.writes[0].0.clear(),
    ] {
        let mut block = good.clone();
        change(&mut block);
        wrong.push(block);
    }
    let before = (ledger.tip(), ledger.state_root());
    for block in wrong {
        let error = ledger.commit(vec![block]).expect_err("refused");
        assert!(matches!(error, LedgerError::Unfit { .. }), "{error}");
        assert_eq!((ledger.tip(), ledger.state_root()), before);
    }
    assert!(ledger.reapply(good.clone()).is_err(), "not stored yet");
    ledger.commit(vec![good.clone()]).expect("committed");
    assert!(ledger.commit(vec![good]).is_err(), "twice");
    assert!(ledger.commit(Vec::new()).expect("nothing to do").is_empty());
}

/// Whatever prefix of the unsynced batches survives a power cut, re-execution gives the recorded
/// results and the ledger goes on.
#[test]
fn every_surviving_prefix_of_the_store_recovers() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kv = Arc::new(FaultyKv::new(FaultPlan::default()));
    let ledger = open(dir.path(), kv.clone()).expect("opened");
    grow(&ledger, 6);
    ledger.sync_store().expect("synced");
    grow(&ledger, 10);
    let (tip, root) = (ledger.tip(), ledger.state_root());
    let stored: Vec<_> = (1..=16).map(|h| ledger.block(Height(h)).expect("read")).collect();
    drop(ledger);
    assert_eq!(kv.unsynced(), 10);
    for kept in 0..=10 {
        let ledger = open(dir.path(), Arc::new(kv.crash(kept))).expect("opened");
        assert_eq!(ledger.tip().height.0, 6 + kept as u64);
        assert_eq!(ledger.stored_height(), Height(16));
        if kept < 10 {
            let refused = ledger.commit(vec![next(&ledger)]).expect_err("blocks wait");
            assert!(matches!(refused, LedgerError::Unapplied { .. }), "{refused}");
        }
        assert_eq!(recover(&ledger).expect("recovered"), 10 - kept as u64);
        assert_eq!((ledger.tip(), ledger.state_root()), (tip, root));
        let found: Vec<_> = (1..=16).map(|h| ledger.block(Height(h)).expect("read")).collect();
        assert_eq!(found, stored);
    }
}

/// A lost store is rebuilt from the segment files alone.
#[test]
fn a_lost_store_is_rebuilt_from_the_blocks() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ledger = open(dir.path(), memory()).expect("opened");
    grow(&ledger, 40);
    let (tip, root) = (ledger.tip(), ledger.state_root());
    drop(ledger);
    assert!(segment_files(dir.path()).len() > 2, "rotation happened");
    let ledger = open(dir.path(), memory()).expect("opened");
    assert_eq!(recover(&ledger).expect("recovered"), 40);
    assert_eq!((ledger.tip(), ledger.state_root()), (tip, root));
    grow(&ledger, 1);
}

/// A write that fails stops the ledger: nothing more is accepted, and a restart recovers.
#[test]
fn a_failed_write_stops_the_ledger() {
    for fail in 2..6 {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let plan = FaultPlan { fail_write: Some(fail), fail_sync: None };
        let kv = Arc::new(FaultyKv::new(plan));
        let ledger = open(dir.path(), kv.clone()).expect("opened");
        grow(&ledger, fail - 2);
        let block = next(&ledger);
        assert!(matches!(ledger.commit(vec![block.clone()]), Err(LedgerError::Storage(_))));
        assert!(matches!(ledger.commit(vec![block.clone()]), Err(LedgerError::Stopped)));
        assert!(matches!(ledger.reapply(block), Err(LedgerError::Stopped)));
        drop(ledger);
        let ledger = open(dir.path(), Arc::new(kv.crash(99))).expect("opened");
        assert_eq!(recover(&ledger).expect("recovered"), 1, "the block was durable");
        grow(&ledger, 2);
    }
}

/// Another result than the recorded one is a divergence that names height and both roots.
#[test]
fn another_result_is_a_divergence() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ledger = open(dir.path(), memory()).expect("opened");
    let results = grow(&ledger, 3);
    drop(ledger);
    for receipt_only in [false, true] {
        let ledger = open(dir.path(), memory()).expect("opened");
        let stored: Vec<_> = ledger.unapplied().expect("read").map(|b| b.expect("read")).collect();
        ledger.reapply(execute(stored[0].0.clone())).expect("the same result");
        let mut other = execute(stored[1].0.clone());
        match receipt_only {
            true => other.receipts[0].fuel += 1,
            false => {
                let value = other.writes[0].0.values_mut().next().expect("it writes");
                *value = Some("another".into());
            }
        }
        let error = ledger.reapply(other).expect_err("refused");
        let LedgerError::Divergence(divergence) = &error else { panic!("{error}") };
        let Divergence { height, recorded, computed } = &**divergence;
        assert_eq!((*height, recorded.state), (Height(2), results[1].state_root));
        assert_eq!(computed.state == recorded.state, receipt_only);
        assert!(error.to_string().contains(&recorded.receipts.to_string()));
        assert!(matches!(ledger.reapply(execute(stored[1].0.clone())), Err(LedgerError::Stopped)));
    }
}

/// A store ahead of the segment files, or a state that is not the recorded one, is named at open.
#[test]
fn lost_blocks_and_changed_state_are_named_at_open() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kv = memory();
    let ledger = open(dir.path(), kv.clone()).expect("opened");
    grow(&ledger, 3);
    drop(ledger);
    let changed = kv.duplicate();
    let mut batch = WriteBatch::default();
    batch.put(Table::State, b"\x05assetk1".as_slice(), b"forged".as_slice());
    changed.write(batch).expect("written");
    let error = open(dir.path(), Arc::new(changed)).expect_err("a changed value");
    assert!(matches!(&error, LedgerError::Divergence(at) if at.height == Height(3)), "{error}");
    for file in segment_files(dir.path()) {
        fs::remove_file(file).expect("removed");
    }
    let error = open(dir.path(), kv.clone()).expect_err("lost segments");
    let LedgerError::BlocksLost { applied: Height(3), stored: Height(0) } = error else {
        panic!("{error}")
    };
    let other = Ledger::open(dir.path(), &genesis("other"), kv).expect_err("another chain");
    assert!(matches!(other, LedgerError::OtherChain { .. }), "{other}");
}

/// Two ledgers never share a directory.
#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let first = open(dir.path(), memory()).expect("opened");
    let error = open(dir.path(), memory()).expect_err("in use");
    assert!(matches!(error, LedgerError::InUse { .. }), "{error}");
    drop(first);
    open(dir.path(), memory()).expect("free again");
}

/// Proofs asked while blocks are committed always fit their own root.
#[test]
fn proofs_during_commits_fit_their_root() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ledger = Arc::new(open(dir.path(), memory()).expect("opened"));
    let asking = Arc::clone(&ledger);
    let asker = std::thread::spawn(move || {
        let keys: Vec<_> = (0..40).map(|n| key(&format!("k{n}"))).collect();
        let mut last = Height(0);
        while last < Height(30) {
            let proven = asking.prove(&keys).expect("proven");
            proven.proof.verify(&proven.state_root).expect("it holds");
            assert!(proven.tip.height >= last);
            last = proven.tip.height;
        }
    });
    grow(&ledger, 30);
    asker.join().expect("every proof held");
}

/// A page read while blocks are committed stands at the height it names: every block writes its
/// height under every key, so one entry of another block would show.
#[test]
fn pages_during_commits_stand_at_one_height() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ledger = Arc::new(open(dir.path(), memory()).expect("opened"));
    let asking = Arc::clone(&ledger);
    let asker = std::thread::spawn(move || {
        let mut last = Height(0);
        while last < Height(200) {
            let page = asking.view().page("asset", b"", b"", 60).expect("read");
            let height = page.height.to_string();
            let at = |(_, value): &(Bytes, Bytes)| value[..] == *height.as_bytes();
            assert!(page.entries.iter().all(at), "block {height}: {:?}", page.entries);
            let all = if page.height == Height(0) { 0 } else { 40 };
            assert_eq!((page.entries.len(), &page.next), (all, &None));
            last = page.height;
        }
    });
    let names: Vec<String> = (0..40).map(|n| format!("k{n:02}")).collect();
    for height in 1..=200 {
        let value = height.to_string();
        let every: Vec<_> = names.iter().map(|name| (&**name, Some(&*value))).collect();
        writes(&genesis("test"), height, &every, &ledger);
    }
    asker.join().expect("every page was whole");
    let page = ledger.view().page("asset", b"k05", b"k30", 20).expect("read");
    let ends = (page.entries[0].0.as_ref(), page.entries.len(), page.next.as_deref());
    assert_eq!(ends, (&b"k05"[..], 20, Some(&b"k25"[..])));
    let exact = ledger.view().page("asset", b"k05", b"k21", 16).expect("read");
    assert_eq!((exact.entries.len(), exact.next), (16, None), "a page that ends with its range");
}
