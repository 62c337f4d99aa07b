//! Crash and damage of segment files, byte by byte.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use super::*;
use crate::types::digest::Digest;

const SMALL: SegmentSizes =
    SegmentSizes { segment_bytes: 4096, preallocated_bytes: 1024, verified_bytes: 1 << 20 };

fn chain() -> ChainId {
    ChainId(Digest::of(&[b"chain"]))
}

fn stored(height: u64) -> StoredBlock {
    let len = 40 + usize::try_from(height * 37 % 90).expect("small");
    StoredBlock {
        block: vec![u8::try_from(height % 251).expect("small"); len].into(),
        result: height.to_be_bytes().to_vec().into(),
    }
}

fn append(segments: &Segments, count: u64) {
    let next = segments.tip().0 + 1;
    let blocks: Vec<_> = (next..next + count).map(stored).collect();
    segments.append(&blocks).expect("appended");
}

fn check(segments: &Segments, tip: u64) {
    assert_eq!(segments.tip(), Height(tip));
    for height in 1..=tip {
        let found = segments.read(Height(height)).expect("read");
        assert_eq!(found, Some(stored(height)), "height {height}");
    }
    for height in [0, tip + 1, u64::MAX] {
        assert_eq!(segments.read(Height(height)).expect("read"), None);
    }
}

fn open(dir: &Path) -> Result<Segments, LedgerError> {
    Segments::open(dir, chain(), SMALL)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    segment_files(dir).expect("listed").into_iter().map(|(_, path)| path).collect()
}

/// Where the record of a height starts in its file.
fn offset(segments: &Segments, height: u64) -> usize {
    let index = segments.index.read().expect("not poisoned");
    let segment = index.iter().rev().find(|s| s.header.first_height <= height).expect("stored");
    let slot = usize::try_from(height - segment.header.first_height).expect("small");
    segment.offsets[slot].try_into().expect("small")
}

/// Blocks come back over rotations and reopenings, whatever the group sizes.
#[test]
fn blocks_come_back_over_rotation_and_reopening() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut tip = 0;
    for round in 0..12 {
        let segments = open(dir.path()).expect("opened");
        check(&segments, tip);
        for group in 1..=round % 4 + 1 {
            append(&segments, group);
            tip += group;
        }
        check(&segments, tip);
    }
    assert!(files(dir.path()).len() > 2, "rotation happened");
    let mut unverified = SMALL;
    unverified.verified_bytes = 0;
    check(&Segments::open(dir.path(), chain(), unverified).expect("opened"), tip);
}

/// The last group is cut at every byte of it, and zeroed from every byte: what was durable before
/// it always comes back, appending goes on, and no byte of the torn group is ever read again.
#[test]
fn torn_tail_is_cut_at_every_byte() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let segments = open(dir.path()).expect("opened");
    append(&segments, 2);
    append(&segments, 2);
    let (from, between) = (offset(&segments, 3), offset(&segments, 4));
    let end = between + record::RECORD_HEAD_BYTES + 4 + stored(4).block.len() + 8;
    drop(segments);
    let path = files(dir.path()).remove(0);
    let whole = fs::read(&path).expect("read");
    assert!(whole[end..].iter().all(|byte| *byte == 0) && whole[end - 1] != 0);
    for cut in from..=end {
        for truncate in [true, false] {
            let mut torn = whole.clone();
            match truncate {
                true => torn.truncate(cut),
                false => torn[cut..].fill(0),
            }
            fs::write(&path, torn).expect("written");
            let segments = open(dir.path()).expect("a torn tail opens");
            let left = if cut < between { 2 } else { 3 };
            let left = if cut >= end { 4 } else { left };
            // A trailing zero byte of the payload may be cut without changing the record.
            let tip = segments.tip().0;
            assert!(tip == left || whole[cut..end].iter().all(|b| *b == 0), "{tip} at {cut}");
            append(&segments, 1);
            append(&segments, 3);
            check(&segments, tip + 4);
            drop(segments);
            check(&open(dir.path()).expect("reopened"), tip + 4);
        }
    }
}

/// Pages of one unsynced group may reach the disk in any order: a hole in its first record with a
/// good second one is a torn tail, not damage.
#[test]
fn hole_within_the_last_group_is_torn() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let segments = open(dir.path()).expect("opened");
    append(&segments, 1);
    append(&segments, 3);
    let (from, to) = (offset(&segments, 2), offset(&segments, 3));
    drop(segments);
    let path = files(dir.path()).remove(0);
    let mut bytes = fs::read(&path).expect("read");
    bytes[from..to].fill(0);
    fs::write(&path, bytes).expect("written");
    let segments = open(dir.path()).expect("opened");
    check(&segments, 1);
    append(&segments, 1);
    drop(segments);
    check(&open(dir.path()).expect("the good records of the torn group are gone"), 2);
}

/// A flipped bit anywhere before the last group is named as damage and never cut away.
#[test]
fn changed_durable_bytes_are_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let segments = open(dir.path()).expect("opened");
    append(&segments, 2);
    append(&segments, 1);
    let last = offset(&segments, 3);
    drop(segments);
    let path = files(dir.path()).remove(0);
    let whole = fs::read(&path).expect("read");
    for at in 0..last {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).expect("written");
        let error = open(dir.path()).expect_err("damage is refused").to_string();
        assert!(error.contains(".seg") && error.contains("damaged"), "{at}: {error}");
        assert_eq!(fs::read(&path).expect("read"), bytes, "nothing was cut");
    }
}

/// Any changed byte of a sealed file is found at open, or at reading where open does not verify.
#[test]
fn changed_sealed_files_are_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let segments = open(dir.path()).expect("opened");
    while files(dir.path()).len() < 2 {
        append(&segments, 1);
    }
    let tip = segments.tip().0;
    drop(segments);
    let path = files(dir.path()).remove(0);
    let whole = fs::read(&path).expect("read");
    let lazy = SegmentSizes { verified_bytes: 0, ..SMALL };
    for at in (0..whole.len()).step_by(7).chain(whole.len() - 60..whole.len()) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, bytes).expect("written");
        assert!(open(dir.path()).is_err(), "byte {at}");
        if let Ok(segments) = Segments::open(dir.path(), chain(), lazy) {
            let bad = (1..=tip).any(|height| segments.read(Height(height)).is_err());
            assert!(bad, "byte {at}");
        }
    }
    fs::write(&path, &whole[..whole.len() - 1]).expect("written");
    assert!(open(dir.path()).is_err(), "a shortened sealed file");
    fs::remove_file(&path).expect("removed");
    let error = open(dir.path()).expect_err("a missing file").to_string();
    assert!(error.contains("missing"), "{error}");
}

/// A crash while the file is being sealed, at every byte of the index record, loses no block.
#[test]
fn crash_while_sealing_loses_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let segments = open(dir.path()).expect("opened");
    while files(dir.path()).len() < 2 {
        append(&segments, 1);
    }
    let next = segments.index.read().expect("not poisoned")[1].header.first_height;
    let index = offset(&segments, next - 1)
        + record::RECORD_HEAD_BYTES
        + record::stored_len(&stored(next - 1))
        - record::RECORD_HEAD_BYTES;
    drop(segments);
    let both = files(dir.path());
    fs::remove_file(&both[1]).expect("removed");
    let whole = fs::read(&both[0]).expect("read");
    for cut in index..=whole.len() {
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        torn.resize(whole.len() + if cut == whole.len() { 0 } else { 500 }, 0);
        fs::write(&both[0], torn).expect("written");
        let segments = open(dir.path()).expect("opened");
        check(&segments, next - 1);
        append(&segments, 2);
        drop(segments);
        check(&open(dir.path()).expect("reopened"), next + 1);
        for left in files(dir.path()).into_iter().skip(1) {
            fs::remove_file(left).expect("removed");
        }
    }
}

/// A record that a client planted inside a block is never taken for one of the file's own.
#[test]
fn planted_records_are_not_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let segments = open(dir.path()).expect("opened");
    append(&segments, 1);
    let foreign = Header::new(chain(), 1);
    let mut planted = Writer::default();
    record::write_block(&mut planted, &foreign, 99, 99, &stored(99)).expect("small");
    let block = StoredBlock { block: planted.finish(), result: Bytes::new() };
    segments.append(&[block]).expect("appended");
    let at = offset(&segments, 2);
    drop(segments);
    let path = files(dir.path()).remove(0);
    let mut bytes = fs::read(&path).expect("read");
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
    check(&open(dir.path()).expect("a torn tail, not damage"), 1);
}

/// Another chain's files, files that are no segments and unfinished ones are told apart.
#[test]
fn foreign_files_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    append(&open(dir.path()).expect("opened"), 1);
    let other = ChainId(Digest::of(&[b"other"]));
    let error = Segments::open(dir.path(), other, SMALL).expect_err("another chain");
    assert!(matches!(error, LedgerError::OtherChain { .. }), "{error}");
    fs::write(dir.path().join("00000000000000000002.new"), b"half").expect("written");
    check(&open(dir.path()).expect("an unnamed file is removed"), 1);
    for content in [&b""[..], b"short", &[0; 200]] {
        fs::write(dir.path().join("00000000000000000001.seg"), content).expect("written");
        let error = open(dir.path()).expect_err("no header").to_string();
        assert!(error.contains("00000000000000000001.seg"), "{error}");
    }
    fs::write(dir.path().join("x.seg"), b"").expect("written");
    assert!(open(dir.path()).expect_err("no height").to_string().contains("x.seg"));
}
