//! Every link of the evidence is broken once and must be noticed.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::types::batch::Batch;
use crate::types::block::Tip;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::genesis::ChainParameters;
use crate::types::ids::CertificateId;
use crate::types::ids::Epoch;
use crate::types::ids::Height;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::proposal::Proposal;
use crate::types::receipt::BlockResult;
use crate::types::receipt::Receipt;
use crate::types::receipt::Status;
use crate::types::replica_set::Replica;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;
use crate::types::transaction::Payload;
use crate::types::transaction::Transaction;
use crate::types::vote::Slot;
use crate::types::vote::Vote;
use crate::types::vote::signed_text;

fn key(i: u8) -> ed25519_zebra::SigningKey {
    ed25519_zebra::SigningKey::from([i + 1; 32])
}

fn verify(check: &Check<'_>) -> bool {
    let Ok(key) = ed25519_zebra::VerificationKey::try_from(check.key.as_bytes()) else {
        return false;
    };
    key.verify(&ed25519_zebra::Signature::from(check.signature.0), check.message).is_ok()
}

fn genesis() -> Genesis {
    let members = (0..4)
        .map(|i| Replica {
            organisation: "acme".into(),
            name: format!("validator{i}"),
            key: PublicKey::new(
                Algorithm::Ed25519,
                ed25519_zebra::VerificationKey::from(&key(i)).as_ref(),
            )
            .unwrap(),
        })
        .collect();
    Genesis {
        network: "test".into(),
        time_ms: 1,
        consensus: "pbft".into(),
        parameters: ChainParameters::default(),
        replicas: ReplicaSet::new(Epoch(0), members).unwrap(),
        organisations: Vec::new(),
    }
}

fn certificate(phase: Phase, digest: Digest, signers: &[u8]) -> QuorumCertificate {
    let slot = Slot { epoch: Epoch(0), view: View(0), sequence: SequenceNumber(1), phase };
    let vote = Vote { slot, digest };
    let text = signed_text(&genesis().chain_id(), &vote.to_bytes());
    let signatures = signers
        .iter()
        .map(|i| (ReplicaId(u16::from(*i)), Signature(key(*i).sign(&text).to_bytes()).into()))
        .collect();
    QuorumCertificate { vote, signatures }
}

fn transaction(nonce: u8) -> Transaction {
    let payload = Payload {
        chain: genesis().chain_id(),
        creator: CertificateId::default(),
        nonce: [nonce; 16],
        valid_until: Height(9),
        client_time_ms: 0,
        chaincode: "asset".into(),
        function: "transfer".into(),
        args: vec![Bytes::from_static(b"x")],
    };
    Transaction::parse(payload.to_bytes(), Signature([nonce; 64])).unwrap()
}

fn block() -> Block {
    let batches: Vec<Arc<Batch>> = (0..3u8)
        .map(|b| {
            let transactions = (0..5).map(|t| transaction(b * 5 + t)).collect();
            Arc::new(Batch::new(ReplicaId(u16::from(b)), Vec::new(), transactions))
        })
        .collect();
    let chain = genesis().chain_id();
    let proposal = Proposal {
        view: View(0),
        sequence: SequenceNumber(1),
        time_ms: 5,
        batches: batches.iter().map(|b| b.reference()).collect(),
    };
    let header = BlockHeader::following(chain, &Tip::genesis(chain, 1), &proposal);
    let certificate = certificate(Phase::Commit, header.hash().0, &[0, 1, 3]);
    Block { header, certificate, batches }
}

fn verifier() -> Verifier {
    Verifier::new(&genesis(), Arc::new(verify))
}

/// Every transaction of a block proves its place; the same path proves no other transaction.
#[test]
fn every_transaction_of_a_block_is_provable() {
    let (block, verifier) = (block(), verifier());
    let hash = verifier.check_block(&block).unwrap();
    for index in 0..15 {
        let proof = TransactionProof::of(&block, index).unwrap();
        let mut proof = TransactionProof::from_bytes(&proof.to_bytes()).unwrap();
        assert_eq!(verifier.check_transaction(&proof), Ok(hash));
        proof.transaction = transaction(99);
        assert_eq!(verifier.check_transaction(&proof), Err(ProofError::Path("batch")));
    }
    assert_eq!(TransactionProof::of(&block, 15), None);
}

/// Too few signers, a wrong signature, another phase, another digest, another epoch: each is
/// refused with its own reason.
#[test]
fn certificates_are_refused_for_each_fault() {
    let (block, verifier) = (block(), verifier());
    let hash = block.header.hash().0;
    let check = |c: &QuorumCertificate| verifier.check_certificate(c, Phase::Commit, hash);
    assert_eq!(check(&block.certificate), Ok(()));
    let few = certificate(Phase::Commit, hash, &[0, 1]);
    assert!(matches!(check(&few), Err(ProofError::Certificate(_))));
    let mut forged = block.certificate.clone();
    let mut bytes = *forged.signatures[1].1.plain();
    bytes.0[7] ^= 1;
    forged.signatures[1].1 = bytes.into();
    assert_eq!(check(&forged), Err(ProofError::Signature(ReplicaId(1))));
    let other = certificate(Phase::Prepare, hash, &[0, 1, 2]);
    assert!(matches!(check(&other), Err(ProofError::OtherPhase { .. })));
    let other = certificate(Phase::Commit, Digest::ZERO, &[0, 1, 2]);
    assert!(matches!(check(&other), Err(ProofError::OtherDigest { .. })));
    let mut other = block.certificate.clone();
    other.vote.slot.epoch = Epoch(1);
    assert!(matches!(check(&other), Err(ProofError::Certificate(_))));
    let mut moved = block.certificate.clone();
    moved.vote.slot.view = View(1);
    assert_eq!(check(&moved), Err(ProofError::Signature(ReplicaId(0))));
}

/// A header of another chain is refused even with a certificate.
#[test]
fn headers_of_another_chain_are_refused() {
    let mut block = block();
    block.header.chain = ChainId::default();
    let found = verifier().check_header(&block.header, &block.certificate);
    assert!(matches!(found, Err(ProofError::OtherChain { .. })));
}

/// A receipt is proven by a checkpoint over its root, and by no other root.
#[test]
fn receipts_are_proven_by_checkpoints() {
    let receipts: Vec<Receipt> = (0..7)
        .map(|i| Receipt {
            tx: transaction(i).id(),
            status: Status::Ok,
            error: String::new(),
            value: Bytes::from_static(b"v"),
            events: Vec::new(),
            write_set: Digest::ZERO,
            fuel: 3,
        })
        .collect();
    let (hash, state) = (block().header.hash(), Digest::of(&[b"state"]));
    let result = BlockResult::new(Height(1), hash, receipts, state);
    let digest = result.checkpoint_digest(genesis().chain_id(), SequenceNumber(1));
    let mut checkpoint = CheckpointProof {
        height: Height(1),
        hash,
        state_root: state,
        receipts_root: result.receipts_root,
        certificate: certificate(Phase::Checkpoint, digest, &[1, 2, 3]),
    };
    let bytes = ReceiptProof::of(&result, 4).unwrap().to_bytes();
    let proof = ReceiptProof::from_bytes(&bytes).unwrap();
    let checkpoint_bytes = checkpoint.to_bytes();
    assert_eq!(CheckpointProof::from_bytes(&checkpoint_bytes).unwrap(), checkpoint);
    let verifier = verifier();
    verifier.check_receipt(&proof, &checkpoint).unwrap();
    let receipt = result.receipts[3].clone();
    let wrong = verifier.check_receipt(&ReceiptProof { receipt, ..proof.clone() }, &checkpoint);
    assert_eq!(wrong, Err(ProofError::Path("receipt")));
    checkpoint.state_root = Digest::ZERO;
    let wrong = verifier.check_receipt(&proof, &checkpoint);
    assert!(matches!(wrong, Err(ProofError::OtherDigest { .. })));
}

/// Paths from outside with absurd lengths or indices end in an error, not in a panic.
#[test]
fn absurd_paths_are_refused() {
    let item = Digest::of(&[b"x"]);
    for (index, count, len) in [(0, 0, 0), (5, 5, 3), (0, 2, 0), (0, 1, 1), (0, 4, 1000)] {
        let path = Path { index, count, siblings: vec![item; len] };
        assert_eq!(path.root_of(&item), None);
    }
}
