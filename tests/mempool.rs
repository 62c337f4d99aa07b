//! When a batch closes.

use std::ops::Range;
use std::time::Duration;
use std::time::Instant;

use obelisk::pipeline::mempool::Admitted;
use obelisk::pipeline::mempool::Mempool;
use obelisk::types::batch::Batch;
use obelisk::types::ids::ReplicaId;
use obelisk::types::limits;
use obelisk::types::verified::Verified;

use crate::chain_fixture::certificate;
use crate::chain_fixture::genesis;
use crate::chain_fixture::transaction;

const ME: ReplicaId = ReplicaId(0);
const SPACING: Duration = Duration::from_millis(10);

fn put(mempool: &Mempool, nonces: Range<u64>) {
    let genesis = genesis("test");
    for nonce in nonces {
        let tx = transaction(&genesis, nonce, &[("a", Some("1"))]);
        mempool.reserve(&tx).expect("room");
        let admitted = Admitted { tx, certificate: certificate() };
        mempool.push(vec![Verified::by_checked_signatures(admitted)]);
    }
}

fn size(batch: Option<Batch>) -> usize {
    batch.map_or(0, |batch| batch.transactions().len())
}

/// A first batch closes at once; the next when the first is ordered, or when the distance is over, a
/// quarter of the spacing beside one that waits.
///
/// ```text
/// 1 tx -> batch     2 tx -> -     ordered -> batch     1 tx -> -     distance -> batch
/// ```
#[test]
fn a_batch_closes_when_the_pipe_is_idle_or_the_distance_over() {
    let (mempool, now) = (Mempool::new(limits::SEQUENCE_TXS_MAX, SPACING), Instant::now());
    put(&mempool, 0..1);
    let first = mempool.batch_at(ME, now).expect("the pipe is idle");
    put(&mempool, 1..3);
    assert_eq!(size(mempool.batch_at(ME, now)), 0);
    mempool.ordered(&first.id());
    assert_eq!(size(mempool.batch_at(ME, now)), 2);
    put(&mempool, 3..4);
    assert_eq!(size(mempool.batch_at(ME, now + SPACING / 5)), 0);
    assert_eq!(size(mempool.batch_at(ME, now + SPACING / 4)), 1);
    assert_eq!(size(mempool.batch_at(ME, now + 9 * SPACING)), 0, "nothing is queued");
}

/// The more batches wait, the farther apart they close: the k-th of eight by (k/8)^2 of the spacing, a
/// quarter at least.
#[test]
fn the_distance_grows_with_what_waits() {
    let (mempool, mut now) = (Mempool::new(limits::SEQUENCE_TXS_MAX, SPACING), Instant::now());
    put(&mempool, 0..1);
    assert_eq!(size(mempool.batch_at(ME, now)), 1);
    let us = |us: u64| Duration::from_micros(us);
    for (nonce, distance) in (1..).zip([2_500, 2_500, 2_500, 3_906, 5_625, 7_656, 10_000].map(us)) {
        put(&mempool, nonce..nonce + 1);
        assert_eq!(size(mempool.batch_at(ME, now + distance - us(10))), 0, "batch {nonce}");
        now += distance + us(1);
        assert_eq!(size(mempool.batch_at(ME, now)), 1, "batch {nonce}");
    }
    put(&mempool, 8..9);
    assert_eq!(size(mempool.batch_at(ME, now + 9 * SPACING)), 0, "eight wait");
}

/// Whoever waits for the next batch is woken by the distance alone.
#[test]
fn the_distance_wakes_who_waits() {
    let mempool = Mempool::new(limits::SEQUENCE_TXS_MAX, SPACING);
    put(&mempool, 0..1);
    assert_eq!(size(mempool.next_batch(ME)), 1);
    put(&mempool, 1..3);
    assert_eq!(size(mempool.next_batch(ME)), 2, "although none was ordered");
}

/// A full batch closes beside others, and no more wait to be ordered than the limit says.
#[test]
fn full_batches_close_up_to_the_limit() {
    let (mempool, now) = (Mempool::new(limits::SEQUENCE_TXS_MAX, SPACING), Instant::now());
    let full = limits::BATCH_TARGET_TXS as u64;
    put(&mempool, 0..2 * full);
    let sizes: Vec<usize> = (0..3).map(|_| size(mempool.batch_at(ME, now))).collect();
    assert!(sizes[0] > 200 && sizes[1] > 200, "{sizes:?}");
    put(&mempool, 2 * full..12 * full);
    let later = now + 9 * SPACING;
    let more = std::iter::from_fn(|| mempool.batch_at(ME, later)).take(100).count();
    let closed = more + sizes.iter().filter(|size| **size > 0).count();
    assert_eq!(closed, limits::OWN_BATCHES_MAX);
}

/// Where a sequence number takes one transaction, so does a batch, and several wait side by side.
#[test]
fn classic_closes_batches_of_one() {
    let (mempool, now) = (Mempool::new(1, SPACING), Instant::now());
    put(&mempool, 0..3);
    let sizes: Vec<usize> = (0..4).map(|_| size(mempool.batch_at(ME, now))).collect();
    assert_eq!(sizes, [1, 1, 1, 0]);
}
