//! A small chain for tests and benches of the ledger: real blocks with unsigned certificates, and a
//! deterministic stand-in for execution.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use obelisk::ledger::ExecutedBlock;
use obelisk::ledger::read_write_set::StateKey;
use obelisk::ledger::read_write_set::WriteSet;
use obelisk::types::batch::Batch;
use obelisk::types::block::Block;
use obelisk::types::block::BlockHeader;
use obelisk::types::block::Tip;
use obelisk::types::certificate::QuorumCertificate;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::genesis::ChainParameters;
use obelisk::types::genesis::Genesis;
use obelisk::types::ids::CertificateId;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::Height;
use obelisk::types::ids::ReplicaId;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::ids::View;
use obelisk::types::proposal::Proposal;
use obelisk::types::receipt::Receipt;
use obelisk::types::receipt::Status;
use obelisk::types::replica_set::Replica;
use obelisk::types::replica_set::ReplicaSet;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::PublicKey;
use obelisk::types::signature::Signature;
use obelisk::types::transaction::Payload;
use obelisk::types::transaction::Transaction;
use obelisk::types::vote::Phase;
use obelisk::types::vote::Slot;
use obelisk::types::vote::Vote;

/// The contract whose keys the fixture writes.
pub const NAMESPACE: &str = "asset";

/// A genesis document of one replica.
pub fn genesis(network: &str) -> Genesis {
    let key = PublicKey::new(Algorithm::Ed25519, &[7; 32]).expect("32 bytes");
    let member = Replica { organisation: "org".to_owned(), name: "v0".to_owned(), key };
    Genesis {
        network: network.to_owned(),
        time_ms: 1_700_000_000_000,
        consensus: "pbft".to_owned(),
        parameters: ChainParameters::default(),
        replicas: ReplicaSet::new(Epoch(0), vec![member]).expect("one member"),
        organisations: Vec::new(),
    }
}

/// A key of the fixture's contract.
pub fn key(name: &str) -> StateKey {
    StateKey { namespace: NAMESPACE.to_owned(), key: Bytes::copy_from_slice(name.as_bytes()) }
}

/// The certificate of the fixture's only client; no real one.
pub fn certificate() -> Bytes {
    Bytes::from_static(b"certificate of the client")
}

/// A transaction that writes (or, with no value, deletes) the keys named by its arguments.
pub fn transaction(genesis: &Genesis, nonce: u64, writes: &[(&str, Option<&str>)]) -> Transaction {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&nonce.to_be_bytes());
    let args = writes
        .iter()
        .map(|(key, value)| Bytes::from(format!("{key}={}", value.unwrap_or_default())));
    let payload = Payload {
        chain: genesis.chain_id(),
        creator: CertificateId(Digest::of(&[&certificate()])),
        nonce: bytes,
        valid_until: Height(u64::MAX),
        client_time_ms: 0,
        chaincode: NAMESPACE.to_owned(),
        function: "write".to_owned(),
        args: args.collect(),
    };
    Transaction::parse(payload.to_bytes(), Signature([1; 64])).expect("a fixture's payload parses")
}

/// The next block after `tip` with these transactions in batches of `per_batch`.
pub fn block(genesis: &Genesis, tip: &Tip, txs: Vec<Transaction>, per_batch: usize) -> Block {
    let batches: Vec<Arc<Batch>> = txs
        .chunks(per_batch)
        .map(|txs| Arc::new(Batch::new(ReplicaId(0), vec![certificate()], txs.to_vec())))
        .collect();
    let proposal = Proposal {
        view: View(0),
        sequence: SequenceNumber(tip.sequence.0 + 1),
        time_ms: tip.time_ms + 1,
        batches: batches.iter().map(|batch| batch.reference()).collect(),
    };
    let header = BlockHeader::following(genesis.chain_id(), tip, &proposal);
    let slot =
        Slot { epoch: Epoch(0), view: View(0), sequence: header.sequence, phase: Phase::Commit };
    let vote = Vote { slot, digest: header.hash().0 };
    let signatures = vec![(ReplicaId(0), Signature([2; 64]).into())];
    Block { header, certificate: QuorumCertificate { vote, signatures }, batches }
}

/// Executes a block: every argument `key=value` is a write, `key=` a delete, `!` fails the
/// transaction. A pure function of the block.
pub fn execute(block: Block) -> ExecutedBlock {
    let txs = block.batches.iter().flat_map(|batch| batch.transactions());
    let (receipts, writes) = txs.map(execute_transaction).unzip();
    ExecutedBlock { block, receipts, writes }
}

fn execute_transaction(tx: &Transaction) -> (Receipt, WriteSet) {
    let mut writes = BTreeMap::new();
    let mut status = Status::Ok;
    for arg in &tx.payload().args {
        let text = std::str::from_utf8(arg).expect("fixtures write text");
        match text.split_once('=') {
            Some(("!", _)) => status = Status::Refused,
            Some(("?", _)) => status = Status::Expired,
            Some(("+", _)) => status = Status::Duplicate,
            Some((name, "")) => drop(writes.insert(key(name), None)),
            Some((name, value)) => {
                let value = Bytes::copy_from_slice(value.as_bytes());
                writes.insert(key(name), Some(value));
            }
            None => {}
        }
    }
    if status != Status::Ok {
        writes.clear();
    }
    let writes = WriteSet(writes);
    let receipt = Receipt {
        tx: tx.id(),
        status,
        error: if status == Status::Ok { String::new() } else { status.name().to_owned() },
        value: Bytes::new(),
        events: Vec::new(),
        write_set: writes.digest(),
        fuel: 100,
    };
    (receipt, writes)
}
