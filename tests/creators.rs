//! Execution over blocks that admission would not have let pass: what a creator may not do, and
//! what a block may not grow to, is decided alike on every node.

use std::sync::Arc;

use bytes::Bytes;
use obelisk::chaincode::Call;
use obelisk::chaincode::Contract;
use obelisk::chaincode::Fault;
use obelisk::chaincode::Outcome;
use obelisk::chaincode::Package;
use obelisk::chaincode::Runtime;
use obelisk::chaincode::Stub;
use obelisk::chaincode::contracts::Contracts;
use obelisk::chaincode::contracts::Options;
use obelisk::crypto::Check;
use obelisk::crypto::routing::Crypto;
use obelisk::ledger::Ledger;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::consortium::Spec;
use obelisk::membership::directory::Directory;
use obelisk::membership::identity::Role;
use obelisk::membership::msp::Msp;
use obelisk::pipeline::execute::Executor;
use obelisk::storage::memory::MemoryKv;
use obelisk::types::batch::Batch;
use obelisk::types::block::Block;
use obelisk::types::block::BlockHeader;
use obelisk::types::certificate::QuorumCertificate;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::genesis::Genesis;
use obelisk::types::ids::CertificateId;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::Height;
use obelisk::types::ids::ReplicaId;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::ids::View;
use obelisk::types::limits;
use obelisk::types::proposal::Proposal;
use obelisk::types::receipt::Receipt;
use obelisk::types::receipt::Status;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::Signature;
use obelisk::types::transaction::Payload;
use obelisk::types::transaction::Transaction;
use obelisk::types::vote::Phase;
use obelisk::types::vote::Slot;
use obelisk::types::vote::Vote;

/// A contract that writes as many bytes as its function's name says, keys included.
struct Filler;

impl Runtime for Filler {
    fn load(&self, _: &Package) -> Result<Arc<dyn Contract>, Fault> {
        Ok(Arc::new(Self))
    }
}

impl Contract for Filler {
    fn has_init(&self) -> bool {
        false
    }

    fn invoke(&self, call: &Call, stub: &mut dyn Stub, fuel: u64) -> Result<Outcome, Fault> {
        let mut left: usize = call.function.parse().expect("a number");
        for key in [b"a", b"b"] {
            if left > 0 {
                let value = vec![7; (left - 1).min(limits::STATE_VALUE_BYTES_MAX - 1)];
                stub.put(key, &value)?;
                left -= 1 + value.len();
            }
        }
        assert_eq!(left, 0, "two values hold it");
        Ok(Outcome { value: Bytes::new(), fuel_left: fuel })
    }
}

/// A network's executor, and its members' certificates.
struct Chain {
    _folder: tempfile::TempDir,
    consortium: Consortium,
    ledger: Arc<Ledger>,
    executor: Executor,
    nonce: u64,
}

impl Chain {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let crypto = Crypto::portable();
        let mut spec = Spec::local("creators", 1, Algorithm::Ed25519, NOW_MS);
        let members = &mut spec.organisations[0].members;
        for role in [Role::Observer, Role::Auditor] {
            let name = role.name().to_owned();
            members.push(obelisk::membership::consortium::MemberSpec {
                name,
                role,
                ..members[0].clone()
            });
        }
        let consortium = Consortium::make(&folder.path().join("net"), &spec, &crypto).unwrap();
        let genesis = &consortium.genesis;
        let kv = Arc::new(MemoryKv::new());
        let ledger = Ledger::open(&folder.path().join("ledger"), genesis, kv).unwrap();
        let ledger = Arc::new(ledger);
        let verify = Arc::new(move |check: &Check<'_>| crypto.verify(check));
        let directory = Arc::new(Directory::new(genesis, verify).unwrap());
        let contracts = Contracts::new(Options::default()).unwrap();
        let contracts = Arc::new(contracts.with_runtime("filler", Arc::new(Filler)));
        let parameters = genesis.parameters;
        let executor = Executor::new(ledger.clone(), directory, contracts, parameters).unwrap();
        Self { _folder: folder, consortium, ledger, executor, nonce: 0 }
    }

    fn genesis(&self) -> &Genesis {
        &self.consortium.genesis
    }

    fn msp(&self, role: Role) -> Msp {
        Msp::load(&self.consortium.of_role(role).next().unwrap().folder).unwrap()
    }

    fn call(&mut self, creator: &Bytes, chaincode: &str, function: &str) -> Transaction {
        self.call_with(creator, chaincode, function, &[])
    }

    fn call_with(
        &mut self,
        creator: &Bytes,
        chaincode: &str,
        function: &str,
        args: &[&str],
    ) -> Transaction {
        self.nonce += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonce.to_be_bytes());
        let payload = Payload {
            chain: self.genesis().chain_id(),
            creator: CertificateId(Digest::of(&[creator])),
            nonce,
            valid_until: Height(100),
            client_time_ms: 0,
            chaincode: chaincode.to_owned(),
            function: function.to_owned(),
            args: args.iter().map(|arg| Bytes::copy_from_slice(arg.as_bytes())).collect(),
        };
        // Signatures are checked before execution, not in it.
        Transaction::parse(payload.to_bytes(), Signature([1; 64])).unwrap()
    }

    /// Executes one block with these transactions and stores it.
    fn run(&mut self, certificates: &[Bytes], txs: Vec<Transaction>) -> Vec<Receipt> {
        let tip = self.ledger.tip();
        let batch = Arc::new(Batch::new(ReplicaId(0), certificates.to_vec(), txs));
        let proposal = Proposal {
            view: View(0),
            sequence: SequenceNumber(tip.sequence.0 + 1),
            time_ms: NOW_MS + tip.height.0 + 1,
            batches: vec![batch.reference()],
        };
        let header = BlockHeader::following(self.genesis().chain_id(), &tip, &proposal);
        let (view, sequence) = (View(0), header.sequence);
        let slot = Slot { epoch: Epoch(0), view, sequence, phase: Phase::Commit };
        let vote = Vote { slot, digest: header.hash().0 };
        let certificate = QuorumCertificate { vote, signatures: Vec::new() };
        let block = Block { header, certificate, batches: vec![batch] };
        let executed = self.executor.execute(block).unwrap();
        let receipts = executed.receipts.clone();
        self.ledger.commit(vec![executed]).unwrap();
        receipts
    }
}

/// A validator that orders what admission refuses changes nothing: a TLS certificate, and the
/// enrolment certificate of a role that only votes or reads, create no transaction.
#[test]
fn certificates_made_for_another_purpose_are_no_creators() {
    let mut chain = Chain::new();
    for role in Role::ALL {
        let msp = chain.msp(role);
        let pairs = [(msp.enrolment, "enrolment"), (msp.tls.unwrap(), "TLS")];
        for (pair, purpose) in pairs {
            let creator = pair.certificate;
            let call = chain.call(&creator, "lifecycle", "list");
            let receipt = chain.run(&[creator], vec![call]).remove(0);
            let may = purpose == "enrolment" && [Role::Client, Role::Admin].contains(&role);
            let wanted = if may { Status::Ok } else { Status::Unauthorised };
            assert_eq!(receipt.status, wanted, "{role:?}, {purpose}: {}", receipt.error);
            let says = receipt.error.contains("may not submit") && receipt.error.contains(purpose);
            assert_eq!(says, !may, "{}", receipt.error);
        }
    }
}

/// A block's transactions may leave `BLOCK_OUTPUT_BYTES_MAX` behind, to the byte; the one that would
/// pass it fails with `limit-exceeded` and no writes, a smaller one behind it still fits, and the
/// next block begins at zero.
#[test]
fn a_block_that_would_grow_too_large_fails_its_last_transactions() {
    let mut chain = Chain::new();
    let (admin, client) = (chain.msp(Role::Admin), chain.msp(Role::Client));
    let (admin, client) = (admin.enrolment.certificate, client.enrolment.certificate);
    let deploy = ["filler", "1", "filler", "package"];
    let deploy = chain.call_with(&admin, "lifecycle", "deploy", &deploy);
    assert_eq!(chain.run(&[admin], vec![deploy])[0].status, Status::Ok);

    let largest = limits::TX_WRITE_BYTES_MAX;
    let full = limits::BLOCK_OUTPUT_BYTES_MAX / largest;
    assert_eq!(full * largest, limits::BLOCK_OUTPUT_BYTES_MAX, "the test fills it to the byte");
    let mut sizes = vec![largest; full - 1];
    sizes.extend([largest - 10, 11, 10, 1]);
    let mut wanted = vec![Status::Ok; full];
    wanted.extend([Status::LimitExceeded, Status::Ok, Status::LimitExceeded]);
    let call = |chain: &mut Chain, size: &usize| chain.call(&client, "filler", &size.to_string());
    let txs: Vec<_> = sizes.iter().map(|size| call(&mut chain, size)).collect();
    let receipts = chain.run(std::slice::from_ref(&client), txs);
    let statuses: Vec<Status> = receipts.iter().map(|receipt| receipt.status).collect();
    assert_eq!(statuses, wanted);
    let refused = &receipts[full];
    assert!(refused.error.contains("no room for its output"), "{}", refused.error);
    assert_eq!(refused.write_set, Digest::ZERO, "it wrote nothing");
    let again = call(&mut chain, &largest);
    assert_eq!(
        chain.run(std::slice::from_ref(&client), vec![again])[0].status,
        Status::Ok,
        "a new block"
    );
}

const NOW_MS: u64 = 1_780_000_000_000;
