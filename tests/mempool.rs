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

/// A first batch closes at once; the next when the first is ordered, or when the spacing is over.
///
/// ```text
/// 1 tx -> batch     2 tx -> -     ordered -> batch     1 tx -> -     spacing -> batch
/// ```
#[test]
fn a_batch_closes_when_the_pipe_is_idle_or_the_spacing_over() {
    let (mempool, now) = (Mempool::new(limits::SEQUENCE_TXS_MAX, SPACING), Instant::now());
    put(&mempool, 0..1);
    let first = mempool.batch_at(ME, now).expect("the pipe is idle");
    put(&mempool, 1..3);
    assert_eq!(size(mempool.batch_at(ME, now)), 0);
    mempool.ordered(&first.id());
    assert_eq!(size(mempool.batch_at(ME, now)), 2);
    put(&mempool, 3..4);
    assert_eq!(size(mempool.batch_at(ME, now + SPACING / 2)), 0);
    assert_eq!(size(mempool.batch_at(ME, now + SPACING)), 1);
    assert_eq!(size(mempool.batch_at(ME, now + 9 * SPACING)), 0, "nothing is queued");
}

/// Whoever waits for the next batch is woken by the spacing alone.
#[test]
fn the_spacing_wakes_who_waits() {
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
