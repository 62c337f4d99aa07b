//! The contract of `Kv`, run over every row of `STORES` and over the faulty store.

use std::sync::Arc;

use proptest::prelude::*;

use crate::storage::Change;
use crate::storage::Entry;
use crate::storage::Kv;
use crate::storage::RocksSizing;
use crate::storage::STORES;
use crate::storage::WriteBatch;
use crate::storage::faulty::FaultPlan;
use crate::storage::faulty::FaultyKv;
use crate::storage::memory::MemoryKv;
use crate::storage::tables::Table;

/// Opens every row in a directory of its own and hands it to `check`.
fn each_store(check: impl Fn(&str, Arc<dyn Kv>)) {
    for row in STORES {
        let dir = tempfile::tempdir().expect("a temporary directory");
        check(row.name, (row.open)(dir.path(), &RocksSizing::default()).expect(row.name));
    }
    check("faulty", Arc::new(FaultyKv::new(FaultPlan::default())));
}

fn put(kv: &dyn Kv, table: Table, key: &[u8], value: &[u8]) {
    let mut batch = WriteBatch::default();
    batch.put(table, key, value);
    kv.write(batch).expect("written");
}

fn keys(rows: Vec<Entry>) -> Vec<Vec<u8>> {
    rows.into_iter().map(|(k, _)| k).collect()
}

/// A value written is read back from its own table only, and a deleted one is gone.
#[test]
fn values_live_in_their_own_table() {
    each_store(|name, kv| {
        put(&*kv, Table::State, b"k", b"v");
        assert_eq!(kv.get(Table::State, b"k").expect(name).as_deref(), Some(&b"v"[..]));
        for table in Table::ALL.into_iter().filter(|t| *t != Table::State) {
            assert_eq!(kv.get(table, b"k").expect(name), None, "{name}");
        }
        let mut batch = WriteBatch::default();
        batch.delete(Table::State, b"k".as_slice());
        batch.delete(Table::State, b"never there".as_slice());
        kv.write(batch).expect(name);
        assert_eq!(kv.get(Table::State, b"k").expect(name), None, "{name}");
        kv.sync().expect(name);
    });
}

/// The later change of a batch on the same key wins.
#[test]
fn later_changes_of_a_batch_win() {
    each_store(|name, kv| {
        let mut batch = WriteBatch::default();
        batch.put(Table::Meta, b"a".as_slice(), b"1".as_slice());
        batch.delete(Table::Meta, b"a".as_slice());
        batch.delete(Table::Meta, b"b".as_slice());
        batch.put(Table::Meta, b"b".as_slice(), b"2".as_slice());
        kv.write(batch).expect(name);
        let found = kv.get_many(Table::Meta, &[b"b", b"a", b"b"]).expect(name);
        assert_eq!(found, [Some(b"2".to_vec()), None, Some(b"2".to_vec())], "{name}");
    });
}

/// Scans honour start, end, limit and order; empty, backward and open ranges included.
#[test]
fn scans_are_ascending_and_half_open() {
    each_store(|name, kv| {
        for key in [&b"\xff\xff"[..], b"", b"b", b"a\x00", b"a", b"\xff"] {
            put(&*kv, Table::History, key, b"x");
        }
        let scan = |s: &[u8], e: &[u8], n| keys(kv.scan(Table::History, s, e, n).expect("scanned"));
        assert_eq!(scan(b"", b"", 9), [&b""[..], b"a", b"a\0", b"b", b"\xff", b"\xff\xff"]);
        assert_eq!(scan(b"a", b"b", 9), [&b"a"[..], b"a\0"], "{name}");
        assert_eq!(scan(b"a", b"", 2), [&b"a"[..], b"a\0"], "{name}");
        assert_eq!(scan(b"\xff", b"", 9), [&b"\xff"[..], b"\xff\xff"], "{name}");
        for (s, e, n) in [(&b"b"[..], &b"a"[..], 9), (b"a", b"a", 9), (b"a", b"b", 0)] {
            assert!(scan(s, e, n).is_empty(), "{name}");
        }
        let last = |s: &[u8], e: &[u8]| kv.last(Table::History, s, e).expect(name).map(|r| r.0);
        assert_eq!(last(b"", b""), Some(b"\xff\xff".to_vec()), "{name}");
        assert_eq!(last(b"a", b"b"), Some(b"a\0".to_vec()), "{name}");
        assert_eq!(last(b"a\x01", b"b"), None, "{name}");
        assert_eq!(last(b"b", b"a"), None, "{name}");
    });
}

/// A snapshot shows all tables as they were when it was taken, by key and by range, whatever is
/// changed, removed or added later, and whichever other snapshot ends before it.
#[test]
fn snapshots_show_the_store_as_it_was() {
    each_store(|name, kv| {
        let empty = kv.snapshot();
        for key in [&b"a"[..], b"b", b"c"] {
            put(&*kv, Table::State, key, b"old");
            put(&*kv, Table::Meta, key, b"old");
        }
        let (before, twin) = (kv.snapshot(), kv.snapshot());
        let mut batch = WriteBatch::default();
        for table in [Table::State, Table::Meta] {
            batch.put(table, b"a", b"new");
            batch.delete(table, b"b");
            batch.put(table, b"bb", b"new");
        }
        kv.write(batch).expect(name);
        drop(twin);
        let after = kv.snapshot();
        put(&*kv, Table::State, b"c", b"newest");
        kv.sync().expect(name);
        for table in [Table::State, Table::Meta] {
            for (key, old, new) in [
                (&b"a"[..], Some(&b"old"[..]), Some(&b"new"[..])),
                (b"b", Some(b"old"), None),
                (b"bb", None, Some(b"new")),
                (b"c", Some(b"old"), Some(b"old")),
            ] {
                assert_eq!(empty.get(table, key).expect(name), None, "{name}");
                assert_eq!(before.get(table, key).expect(name).as_deref(), old, "{name}");
                assert_eq!(after.get(table, key).expect(name).as_deref(), new, "{name}");
            }
            let scan = |s: &[u8], e: &[u8], n| keys(before.scan(table, s, e, n).expect(name));
            assert_eq!(scan(b"", b"", 9), [b"a", b"b", b"c"], "{name}");
            assert_eq!(scan(b"aa", b"c", 9), [b"b"], "{name}");
            assert_eq!(scan(b"", b"", 2), [b"a", b"b"], "{name}");
            assert!(scan(b"c", b"a", 9).is_empty() && scan(b"a", b"a", 9).is_empty(), "{name}");
            assert!(empty.scan(table, b"", b"", 9).expect(name).is_empty(), "{name}");
            let rows = after.scan(table, b"", b"", 9).expect(name);
            assert_eq!(keys(rows), [&b"a"[..], b"bb", b"c"], "{name}");
        }
        let newest = kv.get(Table::State, b"c").expect(name);
        assert_eq!(newest.as_deref(), Some(&b"newest"[..]), "{name}");
    });
}

/// Large values and keys with every byte come back unchanged.
#[test]
fn bytes_come_back_unchanged() {
    each_store(|name, kv| {
        let key: Vec<u8> = (0..=255).collect();
        let value: Vec<u8> =
            (0..2_000_000u32).map(|i| i.wrapping_mul(2_654_435_761) as u8).collect();
        put(&*kv, Table::State, &key, &value);
        assert!(kv.get(Table::State, &key).expect(name) == Some(value), "{name}");
        put(&*kv, Table::State, &key, b"");
        assert_eq!(kv.get(Table::State, &key).expect(name), Some(Vec::new()), "{name}");
    });
}

/// A durable row shows everything after it was closed and opened again.
#[test]
fn durable_stores_reopen_with_their_content() {
    for row in STORES.iter().filter(|row| row.durable) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for round in 0..3u8 {
            let kv = (row.open)(dir.path(), &RocksSizing::default()).expect(row.name);
            for before in 0..round {
                assert_eq!(kv.get(Table::History, &[before]).expect(row.name), Some(vec![before]));
            }
            put(&*kv, Table::History, &[round], &[round]);
            if round == 1 {
                kv.sync().expect(row.name);
            }
        }
    }
}

/// A crash leaves the durable content and a prefix of the rest, and a failed store stays failed.
#[test]
fn faulty_store_forgets_and_fails_as_planned() {
    let kv = FaultyKv::new(FaultPlan { fail_write: Some(4), fail_sync: None });
    put(&kv, Table::Meta, b"1", b"");
    kv.sync().expect("the first sync works");
    put(&kv, Table::Meta, b"2", b"");
    put(&kv, Table::Meta, b"3", b"");
    let left = |kept| keys(kv.crash(kept).scan(Table::Meta, b"", b"", 9).expect("memory")).len();
    assert_eq!([left(0), left(1), left(2), left(9)], [1, 2, 3, 3]);
    assert!(kv.write(WriteBatch::default()).is_err());
    assert!(kv.write(WriteBatch::default()).is_err());
    assert!(kv.sync().is_err());
    assert_eq!(left(9), 3);
}

/// Table, key and value; no value deletes.
type Drawn = (Table, Vec<u8>, Option<Vec<u8>>);

fn change() -> impl Strategy<Value = Drawn> {
    let key = prop::collection::vec(0u8..3, 0..4);
    let table = prop::sample::select(Table::ALL.to_vec());
    (table, key, prop::option::of(prop::collection::vec(any::<u8>(), 0..4)))
}

fn batch(changes: &[Drawn]) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for (table, key, value) in changes {
        match value {
            Some(value) => batch.put(*table, key, value),
            None => batch.delete(*table, key),
        }
    }
    batch
}

/// Aim: a batch gives back what was put in, in order, and sorted with the last change of a key last.
#[test]
fn batches_keep_their_changes() {
    let mut batch = WriteBatch::default();
    batch.put(Table::State, b"b", b"1");
    batch.put(Table::Meta, b"", b"");
    batch.delete(Table::State, b"b");
    batch.put(Table::State, b"a", b"2");
    let change = |table, key, value| Change { table, key, value };
    let b = &b"b"[..];
    let all = [
        change(Table::State, b, Some(&b"1"[..])),
        change(Table::Meta, b"", Some(b"")),
        change(Table::State, b, None),
        change(Table::State, b"a", Some(b"2")),
    ];
    assert!(batch.changes().eq(all));
    assert_eq!(batch.sorted(), [all[1], all[3], all[0], all[2]]);
    assert_eq!(batch.bytes(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every store ends with the same rows as the memory store after the same random batches, and a
    /// snapshot taken before each batch still shows the rows of that moment.
    #[test]
    fn stores_agree_on_random_batches(
        batches in prop::collection::vec(prop::collection::vec(change(), 0..20), 0..10),
    ) {
        let model = MemoryKv::new();
        let steps: Vec<MemoryKv> = batches
            .iter()
            .map(|changes| {
                let before = model.duplicate();
                model.apply(&batch(changes));
                before
            })
            .collect();
        each_store(|name, kv| {
            let mut snapshots = Vec::new();
            for changes in &batches {
                snapshots.push(kv.snapshot());
                kv.write(batch(changes)).expect(name);
            }
            for (snapshot, before) in snapshots.iter().zip(&steps) {
                for table in Table::ALL {
                    let want = before.scan(table, b"", b"", 1000).expect("memory");
                    let found = snapshot.scan(table, b"", b"", 1000).expect(name);
                    assert_eq!(found, want, "{name}");
                }
            }
            for table in Table::ALL {
                let want = model.scan(table, b"", b"", 1000).expect("memory");
                assert_eq!(kv.scan(table, b"", b"", 1000).expect(name), want, "{name}");
                assert_eq!(kv.last(table, b"", b"").expect(name), want.last().cloned(), "{name}");
            }
        });
    }
}
