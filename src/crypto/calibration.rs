//! Which provider is fastest here: a measurement of a few milliseconds per pair at start.
//!
//! | operation | classes |
//! | --- | --- |
//! | hash | 64 bytes, 1 KiB, 64 KiB |
//! | verify, sign | 1, 32, 128 signatures |
//!
//! Only speed depends on it, never a result. The best of several short windows counts, since
//! anything else that runs on the machine can only make a window slower. At start only what the
//! choice needs is measured; `obelisk crypto bench` measures everything.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::crypto::KeyTable;
use crate::crypto::Provider;
use crate::crypto::batch;
use crate::crypto::key_tables;
use crate::crypto::key_tables::Tabled;
use crate::crypto::known_answers::Example;
use crate::crypto::known_answers::Operation;
use crate::crypto::prepared::PreparedCheck;
use crate::crypto::prepared::PreparedKey;
use crate::types::signature::Algorithm;

/// Classes of size that are measured and chosen apart.
pub const CLASSES: usize = 3;

/// Texts of each class, bytes.
const TEXT_BYTES: [usize; CLASSES] = [64, 1024, 64 * 1024];

/// Signatures of each class.
const BATCH: [usize; CLASSES] = [1, 32, 128];

/// Names of an operation's classes, for output and in profiles.
pub fn classes(operation: Operation) -> [&'static str; CLASSES] {
    match operation {
        Operation::Hash => ["64 B", "1 KiB", "64 KiB"],
        Operation::Verify(_) | Operation::Sign(_) => ["1", "32", "128"],
    }
}

/// Nanoseconds per text or signature, best window, within the budget (one window at least).
pub fn measure(provider: &Provider, operation: Operation, class: usize, budget: Duration) -> u64 {
    match operation {
        Operation::Hash => {
            let text = vec![7; TEXT_BYTES[class]];
            best(budget, [64, 16, 1][class], || {
                black_box((provider.sha256)(&[black_box(&text)]));
            })
        }
        Operation::Verify(algorithm) => {
            let example = Example::of(algorithm);
            let key = PreparedKey::new(provider, &example.public);
            best(budget, BATCH[class], || {
                black_box(key.verify(example.message, black_box(&example.signature)));
            })
        }
        Operation::Sign(algorithm) => {
            let example = Example::of(algorithm);
            let Ok(key) = (provider.load)(algorithm, &example.pkcs8()) else {
                return u64::MAX;
            };
            best(budget, BATCH[class], || {
                let _ = black_box(key.sign(black_box(example.message)));
            })
        }
    }
}

/// Nanoseconds per Ed25519 signature where a group is checked in one equation.
pub fn measure_batch(provider: &Provider, class: usize, budget: Duration) -> u64 {
    let example = Example::of(Algorithm::Ed25519);
    let key = PreparedKey::new(provider, &example.public);
    let check =
        PreparedCheck { key: &key, message: example.message, signature: &example.signature };
    let checks = vec![check; BATCH[class]];
    let indices: Vec<usize> = (0..checks.len()).collect();
    let group = best(budget, 1, || {
        let mut invalid = Vec::new();
        batch::find_invalid(black_box(&checks), &indices, &mut invalid);
        black_box(&invalid);
    });
    group / checks.len() as u64
}

/// Nanoseconds per P-256 signature where the key has a table, in groups of the second class;
/// `table` is that of the example's key.
pub fn measure_table(provider: &Provider, table: &Arc<KeyTable>, budget: Duration) -> u64 {
    let example = Example::of(Algorithm::EcdsaP256);
    let key = PreparedKey::new(provider, &example.public);
    let check =
        PreparedCheck { key: &key, message: example.message, signature: &example.signature };
    let group: Vec<Tabled<'_>> =
        (0..BATCH[1]).map(|place| Tabled { place, check, table: table.clone() }).collect();
    let time = best(budget, 1, || {
        let mut invalid = Vec::new();
        key_tables::find_invalid(black_box(&group), &mut invalid);
        black_box(&invalid);
    });
    time / group.len() as u64
}

fn best(budget: Duration, per_window: usize, mut operation: impl FnMut()) -> u64 {
    // The first call fetches tables and methods.
    operation();
    let start = Instant::now();
    let mut fastest = Duration::MAX;
    while fastest == Duration::MAX || start.elapsed() < budget {
        let window = Instant::now();
        for _ in 0..per_window {
            operation();
        }
        fastest = fastest.min(window.elapsed());
    }
    u64::try_from(fastest.as_nanos()).unwrap_or(u64::MAX) / per_window as u64
}
