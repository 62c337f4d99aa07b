//! Which provider is fastest here: a measurement of a few milliseconds per pair at start.
//!
//! Only speed depends on it, never a result. The best of several short windows counts, since
//! anything else that runs on the machine can only make a window slower.

use std::hint::black_box;
use std::time::Duration;
use std::time::Instant;

use crate::crypto::Provider;
use crate::crypto::known_answers::Example;
use crate::crypto::known_answers::Operation;
use crate::crypto::prepared::PreparedKey;

/// A text of the size of a small transaction.
const TEXT_BYTES: usize = 256;

/// Nanoseconds per operation, best window, within the budget (one operation at least).
pub fn measure(provider: &Provider, operation: Operation, budget: Duration) -> u64 {
    match operation {
        Operation::Hash => {
            let text = [7; TEXT_BYTES];
            best(budget, 64, || {
                black_box((provider.sha256)(&[black_box(&text)]));
            })
        }
        Operation::Verify(algorithm) => {
            let example = Example::of(algorithm);
            let key = PreparedKey::new(provider, &example.public);
            best(budget, 4, || {
                black_box(key.verify(example.message, black_box(&example.signature)));
            })
        }
        Operation::Sign(algorithm) => {
            let example = Example::of(algorithm);
            let Ok(key) = (provider.load)(algorithm, &example.pkcs8()) else {
                return u64::MAX;
            };
            best(budget, 4, || {
                let _ = black_box(key.sign(black_box(example.message)));
            })
        }
    }
}

fn best(budget: Duration, per_window: u32, mut operation: impl FnMut()) -> u64 {
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
    u64::try_from(fastest.as_nanos()).unwrap_or(u64::MAX) / u64::from(per_window)
}
