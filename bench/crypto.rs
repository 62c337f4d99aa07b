//! What hashing, signing and checking cost per provider, in batches, and through the pool.
//!
//! `cargo bench --bench crypto`. Figures are CPU time of the process per operation, best of several
//! windows, so that other work on the machine hardly counts. Texts are 256 bytes, the size of a
//! small transaction.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use nix::time::ClockId;
use nix::time::clock_gettime;
use obelisk::crypto::Check;
use obelisk::crypto::PROVIDERS;
use obelisk::crypto::keys::Secret;
use obelisk::crypto::prepared::PreparedCheck;
use obelisk::crypto::prepared::PreparedKey;
use obelisk::crypto::routing::Crypto;
use obelisk::crypto::routing::Routing;
use obelisk::crypto::verify_pool;
use obelisk::crypto::verify_pool::OwnedCheck;
use obelisk::crypto::verify_pool::PoolConfig;
use obelisk::crypto::verify_pool::VerifyPool;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::PublicKey;
use obelisk::types::signature::Signature;

const TEXT_BYTES: usize = 256;
const WINDOWS: usize = 12;
const WINDOW: Duration = Duration::from_millis(60);

/// A signed text.
struct Signed {
    key: PublicKey,
    text: Vec<u8>,
    signature: Signature,
}

fn main() {
    per_provider();
    batches();
    through_the_pool();
    choice();
}

fn per_provider() {
    println!("us per operation     {}", PROVIDERS.iter().map(|p| cell(p.name)).collect::<String>());
    row("hash/bytes=256", |p| {
        let text = [7; TEXT_BYTES];
        measure(1, || {
            black_box((p.sha256)(&[black_box(&text)]));
        })
    });
    for algorithm in Algorithm::ALL {
        let signed = &signed(algorithm, 1, 1)[0];
        let name = algorithm.name();
        row(&format!("{name} sign"), |p| {
            let der = (p.generate)(algorithm).expect("generates");
            let key = (p.load)(algorithm, &der).expect("loads");
            measure(1, || {
                black_box(key.sign(black_box(&signed.text)).expect("signs"));
            })
        });
        row(&format!("{name} parse key"), |p| {
            measure(1, || {
                black_box((p.prepare)(black_box(&signed.key)));
            })
        });
        row(&format!("{name} verify, bytes"), |p| {
            let (key, message, signature) = (&signed.key, &signed.text[..], &signed.signature);
            measure(1, || assert!((p.verify)(black_box(&Check { key, message, signature }))))
        });
        row(&format!("{name} verify, parsed"), |p| {
            let key = PreparedKey::new(p, &signed.key);
            measure(1, || assert!(key.verify(black_box(&signed.text), &signed.signature).valid))
        });
    }
}

fn batches() {
    println!("\nus per signature, ed25519 batch (group in one thread, keys parsed)");
    let crypto = Crypto::portable();
    println!("{:<21}{}{}{}", "", cell("all keys"), cell("16 keys"), cell("one is bad"));
    for len in [4, 8, 16, 64, 256, 1024] {
        let mut cells = String::new();
        for (keys, bad) in [(len, false), (16, false), (len, true)] {
            let mut signed = signed(Algorithm::Ed25519, len, keys);
            signed[len / 2].signature.0[40] ^= u8::from(bad);
            let parsed: Vec<_> = signed.iter().map(|s| crypto.key(&s.key)).collect();
            let checks: Vec<PreparedCheck<'_>> = signed
                .iter()
                .zip(&parsed)
                .map(|(s, key)| PreparedCheck { key, message: &s.text, signature: &s.signature })
                .collect();
            let us = measure(len, || {
                assert_eq!(crypto.verify_group(black_box(&checks)).all_valid(), !bad);
            });
            cells += &cell(&format!("{us:.2}"));
        }
        println!("{:<21}{cells}", format!("batch/n={len}"));
    }
}

fn through_the_pool() {
    println!("\nus of process CPU per check through the pool of 2 threads, and beside it");
    println!("{:<21}{}{}{}", "", cell("pool"), cell("no pool"), cell("alone"));
    let crypto = Arc::new(Crypto::new(&Routing::default()).expect("providers"));
    let config = PoolConfig { threads: 2, cores: Vec::new() };
    let pool = VerifyPool::start(crypto.clone(), &config).expect("threads start");
    for (algorithm, len) in [
        (Algorithm::EcdsaP256, 16),
        (Algorithm::EcdsaP256, 64),
        (Algorithm::EcdsaP256, 256),
        (Algorithm::Ed25519, 256),
    ] {
        let group: Vec<OwnedCheck> = signed(algorithm, len, 16)
            .into_iter()
            .map(|s| OwnedCheck {
                key: crypto.key(&s.key),
                message: Bytes::from(s.text),
                signature: s.signature,
            })
            .collect();
        let pooled = measure(len, || {
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |verdicts| sender.send(verdicts).expect("receiver waits"));
            pool.submit(group.clone(), done).expect("room");
            assert!(receiver.recv().expect("answer").all_valid());
        });
        let direct =
            measure(len, || assert!(verify_pool::verify_group(&crypto, &group).all_valid()));
        let alone = measure(len, || {
            for check in &group {
                assert!(check.key.verify(&check.message, &check.signature).valid);
            }
        });
        let cells: String =
            [pooled, direct, alone].iter().map(|us| cell(&format!("{us:.2}"))).collect();
        println!("{:<21}{cells}", format!("{}/n={len}", algorithm.name()));
    }
}

fn choice() {
    println!("\nwhat `auto` chose here");
    let crypto = Crypto::new(&Routing::default()).expect("providers");
    for route in crypto.report() {
        let us = route.times[0].map_or(String::new(), |n| format!("{:.2}", n as f64 / 1e3));
        let state = match (route.quarantined, route.chosen) {
            (Some(reason), _) => reason,
            (None, true) => "chosen",
            (None, false) => "",
        };
        println!(
            "{:<8}{:<9}{:<10}{us:>9}  {state}",
            route.operation.name(),
            route.operation.algorithm(),
            route.provider,
        );
    }
}

fn row(name: &str, cost: impl Fn(&obelisk::crypto::Provider) -> f64) {
    let cells: String = PROVIDERS.iter().map(|p| cell(&format!("{:.2}", cost(p)))).collect();
    println!("{name:<21}{cells}");
}

fn cell(text: &str) -> String {
    format!("{text:>11}")
}

fn signed(algorithm: Algorithm, len: usize, keys: usize) -> Vec<Signed> {
    let signer = PROVIDERS.last().expect("one at least");
    let keys: Vec<_> = (0..keys)
        .map(|_| {
            let der = Secret::random(algorithm).expect("random bytes").to_pkcs8();
            (signer.load)(algorithm, &der).expect("loads")
        })
        .collect();
    (0..len)
        .map(|i| {
            let key = &keys[i % keys.len()];
            let mut text = vec![7; TEXT_BYTES];
            text[..8].copy_from_slice(&(i as u64).to_be_bytes());
            let signature = key.sign(&text).expect("signs");
            Signed { key: key.public_key().clone(), text, signature }
        })
        .collect()
}

/// Microseconds of process CPU per item, best window.
fn measure(items: usize, mut operation: impl FnMut()) -> f64 {
    let cpu = || {
        let now = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("every Linux has it");
        Duration::from(now)
    };
    operation();
    let mut best = f64::MAX;
    for _ in 0..WINDOWS {
        let (start, mut rounds) = (cpu(), 0u32);
        let spent = loop {
            for _ in 0..(64 / items).max(1) {
                operation();
                rounds += 1;
            }
            let spent = cpu() - start;
            if spent >= WINDOW {
                break spent;
            }
        };
        best = best.min(spent.as_secs_f64() * 1e6 / f64::from(rounds) / items as f64);
    }
    best
}
