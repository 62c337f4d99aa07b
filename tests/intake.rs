//! What peers send, before it costs anything.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::bounded;
use obelisk::consensus;
use obelisk::consensus::Envelope;
use obelisk::crypto::PROVIDERS;
use obelisk::crypto::keys::Secret;
use obelisk::crypto::routing::Crypto;
use obelisk::crypto::verify_pool::PoolConfig;
use obelisk::crypto::verify_pool::VerifyPool;
use obelisk::ledger::Ledger;
use obelisk::membership::directory::Directory;
use obelisk::network::Peer;
use obelisk::pipeline::intake;
use obelisk::pipeline::order::bodies::Bodies;
use obelisk::pipeline::verification::BatchFault;
use obelisk::pipeline::verification::Known;
use obelisk::pipeline::verification::Verification;
use obelisk::storage::memory::MemoryKv;
use obelisk::telemetry::metrics::Metrics;
use obelisk::types::batch::Batch;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::Height;
use obelisk::types::ids::ReplicaId;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::ids::View;
use obelisk::types::replica_set::Replica;
use obelisk::types::replica_set::ReplicaSet;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::Signature;
use obelisk::types::transaction::Transaction;
use obelisk::types::vote;
use obelisk::types::vote::Phase;
use obelisk::types::vote::Slot;
use obelisk::types::vote::Vote;

use crate::chain_fixture::block;
use crate::chain_fixture::certificate;
use crate::chain_fixture::execute;
use crate::chain_fixture::genesis;
use crate::chain_fixture::transaction;

/// The same request under another nonce, valid until a height.
fn until(height: u64, nonce: u64) -> Transaction {
    let first = transaction(&genesis("test"), nonce, &[("a", Some("1"))]);
    let payload = obelisk::types::transaction::Payload {
        valid_until: Height(height),
        ..first.payload().clone()
    };
    Transaction::parse(payload.to_bytes(), Signature([1; 64])).expect("parses")
}

/// The checks of a validator whose network uses this plug-in.
fn verification(plugin: &str) -> Verification {
    let genesis = genesis("test");
    let pool = PoolConfig { threads: 1, cores: Vec::new() };
    let pool = VerifyPool::start(Arc::new(Crypto::portable()), &pool).expect("a thread");
    Verification {
        chain: genesis.chain_id(),
        replicas: Arc::new(genesis.replicas.clone()),
        plugin: consensus::plugin(plugin).expect("a row"),
        directory: Arc::new(Directory::new(&genesis, Arc::new(|_| true)).expect("no roots")),
        pool: Arc::new(pool),
        known: Known::default(),
        stable: Arc::default(),
    }
}

/// Sends batches of validator 0 through the station; `asked` ones were asked for before. Counts of
/// stale ones, and of those whose signatures were checked (and found wrong: a fixture has none).
fn send(ledger: &Ledger, batches: &[(&[Transaction], bool)]) -> (u64, u64) {
    let verification = verification("pbft");
    let (bodies, metrics) = (Arc::new(Bodies::default()), Arc::new(Metrics::new()));
    let (sender, queue) = bounded(batches.len());
    let (order, _ordered) = bounded(batches.len());
    for (transactions, asked) in batches {
        let batch = Batch::new(ReplicaId(0), vec![certificate()], transactions.to_vec());
        if *asked {
            bodies.ask(batch.id());
        }
        let (organisation, name) = ("org".to_owned(), "v0".to_owned());
        let peer = Peer { organisation, name, replica: Some(ReplicaId(0)) };
        let bytes: Bytes = batch.to_bytes();
        sender.send((peer, bytes)).expect("room for all");
    }
    drop(sender);
    intake::check_batches(&queue, &verification, ledger, &bodies, &order, &metrics);
    (metrics.batches_stale.get(), metrics.batches_refused.get())
}

/// A batch that could only repeat the past costs no signature check; one that was asked for, or
/// with one transaction that may still do something, does.
#[test]
fn stale_batches_are_dropped_unless_asked_for() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let genesis = genesis("test");
    let ledger = Ledger::open(dir.path(), &genesis, Arc::new(MemoryKv::new())).expect("opened");
    let done = until(9, 1);
    for txs in [vec![done.clone()], vec![until(9, 2)]] {
        ledger.commit(vec![execute(block(&genesis, &ledger.tip(), txs, 1))]).expect("committed");
    }
    assert_eq!(ledger.tip().height, Height(2));
    let (expired, last_chance, fresh) = (until(2, 3), until(3, 4), until(9, 5));
    let past = [done.clone(), expired.clone()];
    assert_eq!(send(&ledger, &[(&past, false)]), (1, 0));
    assert_eq!(send(&ledger, &[(&past, true)]), (0, 1), "a proposal may name it");
    assert_eq!(send(&ledger, &[(&[done, expired, fresh], false)]), (0, 1));
    assert_eq!(send(&ledger, &[(&[last_chance], false)]), (0, 1), "valid in the next block");
}

/// Where a sequence number takes one transaction, a batch of two is refused before its signatures
/// cost anything; a batch of one is refused for its signature alone, as under another plug-in.
#[test]
fn classic_refuses_a_batch_of_several_transactions() {
    let refusal = |plugin: &str, count: u64| {
        let txs = (0..count).map(|nonce| until(9, nonce)).collect();
        let batch = Batch::new(ReplicaId(0), vec![certificate()], txs);
        let (sender, answer) = bounded(1);
        verification(plugin).batch(batch, move |checked| {
            sender.send(checked.map(drop)).expect("room");
        });
        match answer.recv().expect("an answer") {
            Err(BatchFault::Invalid(reason)) => reason,
            _ => panic!("a fixture's certificate counts for something"),
        }
    };
    let text = refusal("classic", 2);
    assert!(text.contains("2 transactions") && text.contains("classic orders 1"), "{text}");
    assert_eq!(refusal("classic", 1), refusal("pbft", 2));
}

/// A message that comes again costs no signature check; one changed bit costs one and is refused; a
/// message that was refused is refused again.
#[test]
fn what_held_once_is_not_checked_again() {
    let secret = Secret::random(Algorithm::Ed25519).expect("random numbers");
    let key = (PROVIDERS[0].load)(Algorithm::Ed25519, &secret.to_pkcs8()).expect("a key");
    let mut verification = verification("pbft");
    let (organisation, name) = ("org".to_owned(), "v0".to_owned());
    let lone = Replica { organisation, name, key: secret.public.clone() };
    verification.replicas = Arc::new(ReplicaSet::new(Epoch(0), vec![lone]).expect("a set"));
    let (epoch, view, sequence) = (Epoch(0), View(0), SequenceNumber(1));
    let slot = Slot { epoch, view, sequence, phase: Phase::Prepare };
    let body = Vote { slot, digest: Digest::of(&[b"proposal"]) }.to_bytes();
    let signature = key.sign(&vote::signed_text(&verification.chain, &body)).expect("signs");
    let good = Envelope { sender: ReplicaId(0), body: body.clone(), signature: signature.into() };
    let mut forged = signature;
    forged.0[40] ^= 1;
    let forged = Envelope { sender: ReplicaId(0), body, signature: forged.into() };
    let checked = || verification.pool.crypto().counts().checked;
    for round in 0..3 {
        assert!(verification.envelope(good.clone()).is_ok());
        assert_eq!(checked(), 1 + round);
        assert!(verification.envelope(forged.clone()).is_err());
        assert_eq!(checked(), 2 + round);
    }
}
