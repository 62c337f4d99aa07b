//! A frozen chain with its state, certificates, proofs, logs and evidence: the bytes of today stay
//! readable and mean the same, on every architecture, in every build.
//!
//! The files are in `tests/vectors/chain`; `expected.txt` is their readable page. Where a change of
//! the bytes is meant (a new version of a format), write them anew and review the difference:
//! `OBELISK_FREEZE=1 cargo test --no-default-features --test main vectors`

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use obelisk::client::verify::Verifier;
use obelisk::consensus::Claim;
use obelisk::consensus::Input;
use obelisk::consensus::evidence::Accusation;
use obelisk::consensus::evidence::EvidenceError;
use obelisk::consensus::evidence::Judge;
use obelisk::crypto::Check;
use obelisk::crypto::routing::Crypto;
use obelisk::ledger::Ledger;
use obelisk::ledger::state_tree::StateProof;
use obelisk::pipeline::order::wal::Wal;
use obelisk::signer::SignError;
use obelisk::signer::SignRequest;
use obelisk::signer::Signer;
use obelisk::signer::embedded::EmbeddedSigner;
use obelisk::signer::embedded::Mode;
use obelisk::signer::guard::standing::RecordCall;
use obelisk::storage::memory::MemoryKv;
use obelisk::types::batch::Batch;
use obelisk::types::block::Block;
use obelisk::types::codec::Decode;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::evidence::CheckpointProof;
use obelisk::types::evidence::ReceiptProof;
use obelisk::types::evidence::TransactionProof;
use obelisk::types::genesis::Genesis;
use obelisk::types::ids::Height;
use obelisk::types::ids::ReplicaId;
use obelisk::types::ids::View;
use obelisk::types::receipt::BlockResult;
use obelisk::types::receipt::Status;
use obelisk::types::vote;
use obelisk::types::vote::Phase;
use obelisk::types::vote::Vote;
use obelisk::types::vote_signature::SignatureCheck;

mod replicas;
mod story;

const ANEW: &str = "where this is meant, write the files anew: \
                    OBELISK_FREEZE=1 cargo test --no-default-features --test main vectors";

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/chain").join(file)
}

fn frozen(file: &str) -> Bytes {
    fs::read(path(file)).unwrap_or_else(|error| panic!("{file}: {error}; {ANEW}")).into()
}

fn read<T: Decode>(file: &str) -> T {
    T::from_bytes(&frozen(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn verifier() -> Verifier {
    let crypto = Crypto::portable();
    Verifier::new(&read("genesis.bin"), Arc::new(move |check: &Check<'_>| crypto.verify(check)))
}

/// The same keys, times and transactions give the same bytes: certificates, blocks, receipts,
/// roots, proofs, consensus messages and the order log.
#[test]
fn the_chain_is_made_again_byte_for_byte() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (files, salted) = story::live(dir.path());
    if std::env::var_os("OBELISK_FREEZE").is_some() {
        for (file, bytes) in files.iter().chain(&salted) {
            fs::write(path(file), bytes).expect("written");
        }
    }
    let names: BTreeSet<String> = fs::read_dir(path(""))
        .expect("frozen files")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .collect();
    let made: BTreeSet<String> = files.keys().chain(salted.keys()).cloned().collect();
    assert_eq!(names, made, "{ANEW}");
    let page = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(page(&files["expected.txt"]), page(&frozen("expected.txt")), "{ANEW}");
    for (file, bytes) in &files {
        assert!(*bytes == frozen(file), "{file} differs from what was frozen; {ANEW}");
    }
}

/// The frozen segment file opens, and its blocks execute to the recorded receipts and roots.
#[test]
fn the_frozen_segment_executes_to_the_recorded_roots() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let segments = dir.path().join("segments");
    fs::create_dir(&segments).expect("a directory");
    fs::write(segments.join("00000000000000000001.seg"), frozen("segment.seg")).expect("written");
    let genesis: Genesis = read("genesis.bin");
    let ledger = Ledger::open(dir.path(), &genesis, Arc::new(MemoryKv::new())).expect("opens");
    let ledger = Arc::new(ledger);
    let mut executor = story::executor(&ledger);
    let mut statuses = BTreeSet::new();
    for (number, stored) in (1u64..).zip(ledger.unapplied().expect("readable")) {
        let (block, recorded) = stored.expect("a whole record");
        assert_eq!(block, read::<Block>(&format!("block-{number}.bin")));
        assert_eq!(recorded, read::<BlockResult>(&format!("result-{number}.bin")));
        let result = ledger.reapply(executor.execute(block).expect("executed"));
        assert_eq!(result.expect("the recorded roots"), recorded);
        statuses.extend(recorded.receipts.iter().map(|receipt| receipt.status));
    }
    assert_eq!(ledger.tip().height, Height(6));
    use Status::{Duplicate, Expired, Ok, Refused, Unauthorised, UnknownChaincode};
    let told = [Ok, Refused, Expired, Duplicate, UnknownChaincode, Unauthorised];
    assert_eq!(statuses, told.into_iter().collect());
}

/// Every certificate and proof holds against the genesis document alone.
#[test]
fn frozen_certificates_and_proofs_hold() {
    let verifier = verifier();
    for number in 1..=6 {
        let block: Block = read(&format!("block-{number}.bin"));
        verifier.check_block(&block).expect("a quorum signed it");
    }
    let last: BlockResult = read("result-6.bin");
    let entries = |file| -> Vec<Option<Bytes>> {
        let proof: StateProof = read(file);
        let found = proof.verify(&last.state_root).expect("it leads to the root");
        found.iter().map(|(_, value)| value.clone()).collect()
    };
    let (four, bytes) = (Bytes::from_static(b"4"), Bytes::from_static(&[0, 255]));
    assert_eq!(entries("state-present.bin"), [Some(four.clone())]);
    assert_eq!(entries("state-absent.bin"), [None]);
    assert_eq!(entries("state-many.bin"), [Some(four), None, Some(bytes)]);
    let transaction: TransactionProof = read("transaction-proof.bin");
    let block: Block = read("block-5.bin");
    assert_eq!(verifier.check_transaction(&transaction).expect("holds"), block.header.hash());
    let (receipt, checkpoint): (ReceiptProof, CheckpointProof) =
        (read("receipt-proof.bin"), read("checkpoint.bin"));
    verifier.check_receipt(&receipt, &checkpoint).expect("a checkpoint covers it");
    assert_eq!(receipt.receipt.tx, transaction.transaction.id());
}

/// The frozen order log gives back the bodies and a core in the view and at the place it had.
#[test]
fn the_frozen_order_log_restores_a_replica() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("order.1"), frozen("order.1")).expect("written");
    let genesis: Genesis = read("genesis.bin");
    let (_, held) = Wal::open(dir.path(), genesis.chain_id()).expect("opens");
    let batches: Vec<Batch> =
        held.batches.iter().map(|bytes| Batch::from_bytes(bytes).expect("a batch")).collect();
    let ordered: Vec<Batch> = (1..=6)
        .flat_map(|number| read::<Block>(&format!("block-{number}.bin")).batches)
        .map(|batch| batch.as_ref().clone())
        .collect();
    assert_eq!(batches, ordered);
    let tip = read::<Block>("block-6.bin").header.tip();
    let mut core = replicas::core(&genesis, replicas::WITNESS, tip, held.records);
    core.step(Input::Start, &mut Vec::new());
    let status = core.status();
    assert_eq!((status.view, status.view_active), (View(1), true));
    assert_eq!((status.delivered, status.stable.0), (tip.sequence, 6));
}

/// The frozen guard opens with its key, gives the same text the same signature, and refuses another
/// text for a slot it signed.
#[test]
fn the_frozen_guard_remembers_what_it_signed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = dir.path().join("guard.log");
    fs::write(&log, frozen("guard.log")).expect("written");
    let genesis: Genesis = read("genesis.bin");
    let chain = genesis.chain_id();
    let key = story::validator_keys().remove(replicas::WITNESS);
    let signer = EmbeddedSigner::start(Mode::Direct, &log, chain, key, true).expect("opens");
    signer.record(signer.opening(), &RecordCall::Settle).expect("settles");
    let block: Block = read("block-6.bin");
    let request = |vote: Vote| SignRequest {
        slot: Some(vote.slot),
        text: vote::signed_text(&chain, &vote.to_bytes()),
        ahead: false,
    };
    let vote = block.certificate.vote;
    let witness = ReplicaId(u16::try_from(replicas::WITNESS).expect("few"));
    let signed = block.certificate.signatures.iter().find(|(id, _)| *id == witness);
    let again = signer.sign(&[request(vote)]).remove(0).expect("the same text");
    assert_eq!(again, signed.expect("one of three").1);
    let other = Vote { digest: Digest::ZERO, ..vote };
    let refused = signer.sign(&[request(other)]).remove(0);
    assert!(matches!(refused, Err(SignError::Conflict { .. })), "{refused:?}");
    let slot = story::slot(Phase::Commit, 1, 8);
    let fresh = Vote { slot, digest: Digest::ZERO };
    assert!(signer.sign(&[request(fresh)]).remove(0).is_ok(), "a slot never signed");
}

/// The frozen evidence is judged with real keys; with any byte changed it is refused.
#[test]
fn frozen_evidence_is_judged_by_the_document_alone() {
    let judge = Judge::of(&read("genesis.bin")).expect("a known plug-in");
    let crypto = Crypto::portable();
    let verify = |claim: &Claim| {
        let holds = |check: &SignatureCheck| crypto.verify(&Check::from(check));
        claim.holds(&judge.chain, &judge.replicas, holds)
    };
    let bytes = frozen("evidence.bin");
    let found = judge.judge(&bytes, verify).expect("it holds");
    assert_eq!((found.culprit, found.offence), (ReplicaId(2), "voted for two digests in one slot"));
    for at in 0..bytes.len() {
        let mut forged = bytes.to_vec();
        forged[at] ^= 1;
        assert!(judge.judge(&forged.into(), verify).is_err(), "byte {at}");
    }
    let other = Genesis { network: "another".to_owned(), ..read("genesis.bin") };
    let elsewhere = Judge::of(&other).expect("a known plug-in").judge(&bytes, verify);
    assert!(matches!(elsewhere, Err(EvidenceError::OtherChain { .. })), "{elsewhere:?}");
    let accusation: Accusation = read("evidence.bin");
    let framed = Accusation { culprit: ReplicaId(1), ..accusation };
    let refused = judge.judge(&framed.to_bytes(), verify);
    assert_eq!(refused, Err(EvidenceError::NoOffence(ReplicaId(1))));
}
