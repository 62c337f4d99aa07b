//! `obelisk bench crypto`: what hashing, signing and checking cost per provider, in batches, and
//! through the pool of verification threads. Texts have 256 bytes, the size of a small transaction.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use clap::Args;

use crate::cli::Context;
use crate::cli::bench::machine::Machine;
use crate::cli::bench::measure::Effort;
use crate::cli::bench::measure::Sample;
use crate::cli::bench::report::Destination;
use crate::cli::bench::report::Report;
use crate::cli::bench::report::Row;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::crypto::Check;
use crate::crypto::CryptoError;
use crate::crypto::PROVIDERS;
use crate::crypto::Provider;
use crate::crypto::keys::Secret;
use crate::crypto::prepared::PreparedCheck;
use crate::crypto::prepared::PreparedKey;
use crate::crypto::routing::Crypto;
use crate::crypto::routing::Routing;
use crate::crypto::verify_pool;
use crate::crypto::verify_pool::OwnedCheck;
use crate::crypto::verify_pool::PoolConfig;
use crate::crypto::verify_pool::VerifyPool;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    to: Destination,
}

/// A signed text.
struct Signed {
    key: PublicKey,
    text: Vec<u8>,
    signature: Signature,
}

pub fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let broken = |error: CryptoError| {
        Failure::of(Exit::Internal, &error, "`obelisk crypto list` shows the providers")
    };
    let effort = &arguments.effort;
    let mut rows = Vec::new();
    for provider in PROVIDERS {
        per_provider(provider, effort, &mut rows).map_err(broken)?;
    }
    batches(effort, &mut rows).map_err(broken)?;
    through_the_pool(effort, &mut rows)?;
    Report::new("crypto", Machine::this(None), rows).deliver(&arguments.to, context)
}

fn per_provider(
    provider: &Provider,
    effort: &Effort,
    rows: &mut Vec<Row>,
) -> Result<(), CryptoError> {
    let name = provider.name;
    for bytes in [64, TEXT_BYTES, 1024, 65_536] {
        let text = vec![7; bytes];
        let samples = effort.sample(1, || {
            black_box((provider.sha256)(&[black_box(&text)]));
        });
        rows.push(Row::times(format!("crypto::sha256/provider={name}/bytes={bytes}"), &samples));
    }
    for algorithm in Algorithm::ALL {
        let mut add = |operation: &str, samples: Vec<Sample>| {
            let algorithm = algorithm.name();
            let row = format!("crypto::{operation}/provider={name}/algorithm={algorithm}");
            rows.push(Row::times(row, &samples));
        };
        let Signed { key, text, signature } = signed(algorithm, 1, 1)?.remove(0);
        let der = (provider.generate)(algorithm)?;
        let secret = (provider.load)(algorithm, &der)?;
        add("sign", effort.sample(1, || drop(black_box(secret.sign(black_box(&text))))));
        let parse = || drop(black_box((provider.prepare)(black_box(&key))));
        add("parse_key", effort.sample(1, parse));
        let check = Check { key: &key, message: &text, signature: &signature };
        let verify = || assert!((provider.verify)(black_box(&check)), "a valid signature holds");
        add("verify_bytes", effort.sample(1, verify));
        let prepared = PreparedKey::new(provider, &key);
        let verify =
            || assert!(prepared.verify(black_box(&text), &signature).valid, "it holds here too");
        add("verify", effort.sample(1, verify));
    }
    Ok(())
}

/// Ed25519 batches in one thread, keys parsed.
fn batches(effort: &Effort, rows: &mut Vec<Row>) -> Result<(), CryptoError> {
    let crypto = Crypto::portable();
    for len in [4, 16, 64, 256, 1024] {
        for (keys, bad) in [(len, 0), (16.min(len), 0), (len, 1)] {
            let mut signed = signed(Algorithm::Ed25519, len, keys)?;
            signed[len / 2].signature.0[40] ^= bad;
            let parsed: Vec<_> = signed.iter().map(|s| crypto.key(&s.key)).collect();
            let checks: Vec<PreparedCheck<'_>> = signed
                .iter()
                .zip(&parsed)
                .map(|(s, key)| PreparedCheck { key, message: &s.text, signature: &s.signature })
                .collect();
            let samples = effort.sample(len, || {
                let verdicts = crypto.verify_group(black_box(&checks));
                assert_eq!(verdicts.all_valid(), bad == 0, "exactly the bad one is found");
            });
            let name =
                format!("crypto::verify_batch/algorithm=ed25519/n={len}/keys={keys}/bad={bad}");
            if !rows.iter().any(|row| row.name == name) {
                rows.push(Row::times(name, &samples));
            }
        }
    }
    Ok(())
}

/// The pool of verification threads with the providers that `auto` chose here, against the same
/// work in one thread.
fn through_the_pool(effort: &Effort, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let broken = |error: &dyn std::error::Error| {
        Failure::of(Exit::Internal, error, "`obelisk crypto list` shows the providers")
    };
    let crypto = Arc::new(Crypto::new(&Routing::default()).map_err(|error| broken(&error))?);
    let config = PoolConfig { threads: 2, cores: Vec::new() };
    let pool = VerifyPool::start(crypto.clone(), &config).map_err(|error| broken(&error))?;
    for (algorithm, len) in
        [(Algorithm::EcdsaP256, 64), (Algorithm::EcdsaP256, 256), (Algorithm::Ed25519, 256)]
    {
        let signed = signed(algorithm, len, 16).map_err(|error| broken(&error))?;
        let group: Vec<OwnedCheck> = signed
            .into_iter()
            .map(|s| OwnedCheck {
                key: crypto.key(&s.key),
                message: Bytes::from(s.text),
                signature: s.signature,
            })
            .collect();
        let mut add = |threads: &str, samples: Vec<Sample>| {
            let algorithm = algorithm.name();
            let row =
                format!("crypto::verify_group/algorithm={algorithm}/n={len}/threads={threads}");
            rows.push(Row::times(row, &samples));
        };
        let pooled = effort.sample(len, || {
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |verdicts| drop(sender.send(verdicts)));
            assert!(pool.submit(group.clone(), done).is_ok(), "one group fits the queue");
            let verdicts = receiver.recv().expect("the pool answers each group");
            assert!(verdicts.all_valid(), "all are valid");
        });
        add("2", pooled);
        let direct = effort.sample(len, || {
            let verdicts = verify_pool::verify_group(&crypto, &group);
            assert!(verdicts.all_valid(), "all are valid");
        });
        add("none", direct);
    }
    Ok(())
}

fn signed(algorithm: Algorithm, len: usize, keys: usize) -> Result<Vec<Signed>, CryptoError> {
    let signer = PROVIDERS.last().expect("the portable provider is always there");
    let key = |_| -> Result<_, CryptoError> {
        let secret = Secret::random(algorithm)?;
        (signer.load)(algorithm, &secret.to_pkcs8())
    };
    let keys = (0..keys).map(key).collect::<Result<Vec<_>, _>>()?;
    let one = |at: usize| {
        let key = &keys[at % keys.len()];
        let mut text = vec![7; TEXT_BYTES];
        text[..8].copy_from_slice(&(at as u64).to_be_bytes());
        let signature = key.sign(&text)?;
        Ok(Signed { key: key.public_key().clone(), text, signature })
    };
    (0..len).map(one).collect()
}

const TEXT_BYTES: usize = 256;
