//! Damage, power cuts and checkpoints of the RocksDB store; the common contract is in
//! `storage::conformance`.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use super::*;

fn open(path: &Path) -> Result<RocksKv, StorageError> {
    RocksKv::open(path, &RocksSizing::default())
}

/// Writes batch `n`: one row in each of two tables.
fn write(kv: &RocksKv, n: u32) {
    let mut batch = WriteBatch::default();
    batch.put(Table::State, n.to_be_bytes(), vec![n as u8; 300]);
    batch.put(Table::History, n.to_be_bytes(), n.to_be_bytes());
    kv.write(batch).expect("written");
}

fn rows(kv: &RocksKv, table: Table) -> Result<Vec<Entry>, StorageError> {
    kv.scan(table, &[], &[], usize::MAX)
}

fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("listed").path());
    let mut found: Vec<PathBuf> = names
        .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(&wanted))
        .collect();
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for file in files(from, |name| name != "LOCK") {
        fs::copy(&file, to.join(file.file_name().expect("a file"))).expect("copied");
    }
}

/// A changed byte of a table file is an error that names the database and the file, or changes no
/// row.
#[test]
fn changed_table_files_are_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let whole = dir.path().join("whole");
    let kv = open(&whole).expect("opened");
    (0..200).for_each(|n| write(&kv, n));
    kv.flush().expect("flushed");
    let want = (rows(&kv, Table::State).expect("read"), rows(&kv, Table::History).expect("read"));
    drop(kv);
    let mut refused = 0;
    let tables = files(&whole, |name| name.ends_with(".sst"));
    assert!(tables.len() >= 2);
    for (n, table) in tables.iter().enumerate() {
        let bytes = fs::read(table).expect("read");
        for (m, at) in (0..bytes.len()).step_by(bytes.len() / 12 + 1).enumerate() {
            let hurt = dir.path().join(format!("hurt{n}-{m}"));
            copy(&whole, &hurt);
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            fs::write(hurt.join(table.file_name().expect("a file")), changed).expect("written");
            let read = || {
                let kv = open(&hurt)?;
                Ok((rows(&kv, Table::State)?, rows(&kv, Table::History)?))
            };
            match read() {
                Ok(found) => assert!(found == want, "silently changed by byte {at}"),
                Err(StorageError::Damaged { what, .. }) => {
                    assert!(what.contains("hurt"), "{what}");
                    refused += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(refused > 10, "{refused}");
}

/// A write-ahead log cut at any byte leaves a prefix of the batches, each whole over its tables.
#[test]
fn a_cut_log_leaves_a_prefix_of_whole_batches() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let whole = dir.path().join("whole");
    let kv = open(&whole).expect("opened");
    (0..20).for_each(|n| write(&kv, n));
    let cut_at = dir.path().join("cut");
    copy(&whole, &cut_at);
    drop(kv);
    let log = files(&cut_at, |name| name.ends_with(".log")).pop().expect("a log");
    let bytes = fs::read(&log).expect("read");
    let mut most = 0;
    for (n, length) in (0..=bytes.len()).step_by(bytes.len() / 25 + 1).enumerate() {
        let left = dir.path().join(format!("left{n}"));
        copy(&cut_at, &left);
        let log = left.join(log.file_name().expect("a file"));
        fs::write(log, &bytes[..length]).expect("written");
        let kv = open(&left).expect("a cut log opens");
        let state = rows(&kv, Table::State).expect("read");
        let keys: Vec<u32> = state
            .iter()
            .map(|(key, _)| u32::from_be_bytes(key[..].try_into().expect("4 bytes")))
            .collect();
        assert_eq!(keys, (0..keys.len() as u32).collect::<Vec<_>>());
        assert_eq!(rows(&kv, Table::History).expect("read").len(), keys.len());
        most = most.max(keys.len());
    }
    assert!(most > 10, "{most}");
}

/// A checkpoint is the database as of its moment and opens like any other.
#[test]
fn a_checkpoint_holds_its_moment() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kv = open(&dir.path().join("kv")).expect("opened");
    (0..10).for_each(|n| write(&kv, n));
    let at = dir.path().join("checkpoint");
    kv.checkpoint(&at).expect("made");
    (10..20).for_each(|n| write(&kv, n));
    assert_eq!(rows(&open(&at).expect("opened"), Table::State).expect("read").len(), 10);
    assert!(kv.checkpoint(&at).is_err(), "never over an existing one");
}

/// A directory in use, or one that cannot be made, is an error that names it.
#[test]
fn unusable_directories_are_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("kv");
    let _kv = open(&path).expect("opened");
    let error = open(&path).expect_err("in use").to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    fs::write(dir.path().join("file"), b"").expect("written");
    let error = open(&dir.path().join("file/kv")).expect_err("below a file").to_string();
    assert!(error.contains("file/kv"), "{error}");
}

/// A snapshot shows what was overwritten also after flush and compaction.
#[test]
fn snapshots_outlive_compaction() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kv = open(dir.path()).expect("opened");
    (0..50).for_each(|n| write(&kv, n));
    kv.flush().expect("flushed");
    let want = rows(&kv, Table::State).expect("read");
    let snapshot = kv.snapshot();
    for n in 0..50u32 {
        let mut batch = WriteBatch::default();
        match n % 2 {
            0 => batch.put(Table::State, n.to_be_bytes(), b"new"),
            _ => batch.delete(Table::State, n.to_be_bytes()),
        }
        kv.write(batch).expect("written");
    }
    kv.flush().expect("flushed");
    kv.db.compact_range_cf(kv.table(Table::State), None::<&[u8]>, None::<&[u8]>);
    assert!(snapshot.scan(Table::State, &[], &[], usize::MAX).expect("read") == want);
    assert_eq!(snapshot.get(Table::State, &want[1].0).expect("read"), Some(want[1].1.clone()));
    assert_eq!(rows(&kv, Table::State).expect("read").len(), 25);
}
