//! The frozen chain's story: a network with fixed keys and times, six blocks ordered by PBFT, and
//! what they leave behind as bytes.
//!
//! ```text
//! block  sequence  view  holds
//! 1      1         0     deploy of the contract "notes", with its init
//! 2      2         0     writes, an event; a refusal; an unknown contract
//! 3      4         0     a delete; a duplicate; an expired one (sequence 3 is a null request)
//! 4      5         0     configure.set by a client (unauthorised), configure.show, bob revoked
//! 5      6         1     two batches, ordered after a view change: the first primary has stopped;
//!                        bob's transaction is unauthorised
//! 6      7         1     one more write
//! ```
//!
//! Nothing here may depend on the clock, on chance or on a feature of the build.

use std::collections::BTreeMap;
use std::path::Path;
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
use obelisk::consensus::Envelope;
use obelisk::consensus::Evidence;
use obelisk::consensus::Executed;
use obelisk::consensus::Timer;
use obelisk::consensus::evidence::Accusation;
use obelisk::crypto::Check;
use obelisk::crypto::SigningKey;
use obelisk::crypto::keys::Secret;
use obelisk::crypto::routing::Crypto;
use obelisk::ledger::Ledger;
use obelisk::ledger::read_write_set::StateKey;
use obelisk::membership::authority::Authority;
use obelisk::membership::authority::Enrolment;
use obelisk::membership::authority::Terms;
use obelisk::membership::directory::Directory;
use obelisk::membership::identity::Role;
use obelisk::pipeline::commit::Commit;
use obelisk::pipeline::execute::Executor;
use obelisk::pipeline::order::wal::Wal;
use obelisk::storage::memory::MemoryKv;
use obelisk::types::batch::Batch;
use obelisk::types::block::Block;
use obelisk::types::block::BlockHeader;
use obelisk::types::certificate::QuorumCertificate;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::evidence::CheckpointProof;
use obelisk::types::evidence::ReceiptProof;
use obelisk::types::evidence::TransactionProof;
use obelisk::types::genesis::ChainParameters;
use obelisk::types::genesis::Genesis;
use obelisk::types::genesis::Organisation;
use obelisk::types::ids::CertificateId;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::Height;
use obelisk::types::ids::ReplicaId;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::ids::View;
use obelisk::types::receipt::BlockResult;
use obelisk::types::receipt::Status;
use obelisk::types::replica_set::Replica;
use obelisk::types::replica_set::ReplicaSet;
use obelisk::types::signature::Algorithm;
use obelisk::types::transaction::Payload;
use obelisk::types::transaction::Transaction;
use obelisk::types::vote;
use obelisk::types::vote::Phase;
use obelisk::types::vote::Slot;
use obelisk::types::vote::Vote;

use super::replicas;
use super::replicas::Replicas;

const GENESIS_MS: u64 = 1_700_000_000_000;

/// Everything the story leaves behind: file name to bytes.
pub type Files = BTreeMap<String, Bytes>;

/// A key made from one number.
pub fn key(algorithm: Algorithm, seed: u8) -> Arc<dyn SigningKey> {
    let secret = match algorithm {
        Algorithm::Ed25519 => Secret::of_seed([seed; 32].into()),
        Algorithm::EcdsaP256 => {
            Secret::of_p256(&p256::SecretKey::from_slice(&[seed; 32]).expect("a scalar"))
        }
    };
    Crypto::portable().load(algorithm, &secret.to_pkcs8()).expect("a key")
}

/// Keys of the validators; one is of the other algorithm.
pub fn validator_keys() -> Vec<Arc<dyn SigningKey>> {
    let algorithm = |i: u8| if i == 1 { Algorithm::EcdsaP256 } else { Algorithm::Ed25519 };
    (0..4).map(|i| key(algorithm(i), 100 + i)).collect()
}

fn authority() -> Authority {
    Authority::found("bank", key(Algorithm::EcdsaP256, 1), &terms(1)).expect("a root")
}

fn terms(serial: u8) -> Terms {
    Terms { not_before_ms: GENESIS_MS - 86_400_000, days: 3_650, serial: [serial; 16] }
}

/// The network's document.
pub fn genesis() -> Genesis {
    let members = validator_keys().into_iter().enumerate().map(|(i, key)| Replica {
        organisation: "bank".to_owned(),
        name: format!("validator-{i}"),
        key: key.public_key().clone(),
    });
    Genesis {
        network: "vectors".to_owned(),
        time_ms: GENESIS_MS,
        consensus: "pbft".to_owned(),
        parameters: ChainParameters {
            checkpoint_interval: 2,
            window: 4,
            block_batches_max: 4,
            ..ChainParameters::default()
        },
        replicas: ReplicaSet::new(Epoch(0), members.collect()).expect("distinct members"),
        organisations: vec![Organisation {
            name: "bank".to_owned(),
            root: authority().root().der.clone(),
        }],
    }
}

/// Who signs transactions.
pub struct Person {
    key: Arc<dyn SigningKey>,
    /// Certificate, DER.
    pub certificate: Bytes,
}

impl Person {
    fn new(name: &str, role: Role, algorithm: Algorithm, seed: u8) -> Self {
        let key = key(algorithm, seed);
        let enrolment = Enrolment { name, role, attributes: &[], key: key.public_key() };
        let certificate = authority().enrol(&enrolment, &terms(seed)).expect("a certificate");
        Self { key, certificate }
    }

    fn id(&self) -> CertificateId {
        CertificateId(Digest::of(&[&self.certificate]))
    }

    fn ask(&self, nonce: u8, until: u64, what: &[&[u8]]) -> Transaction {
        let text = |at: usize| String::from_utf8(what[at].to_vec()).expect("names are text");
        let payload = Payload {
            chain: genesis().chain_id(),
            creator: self.id(),
            nonce: [nonce; 16],
            valid_until: Height(until),
            client_time_ms: GENESIS_MS + u64::from(nonce),
            chaincode: text(0),
            function: text(1),
            args: what[2..].iter().map(|arg| Bytes::copy_from_slice(arg)).collect(),
        };
        let bytes = payload.to_bytes();
        let signature = self.key.sign(&bytes).expect("signed");
        Transaction::parse(bytes, signature).expect("parses")
    }
}

/// A contract kind that every build has: each function does one thing to the state.
struct Notes;

impl Runtime for Notes {
    fn load(&self, package: &Package) -> Result<Arc<dyn Contract>, Fault> {
        match package.bytes.starts_with(b"notes ") {
            true => Ok(Arc::new(Notes)),
            false => Err(Fault::new(Status::Refused, "no package of notes")),
        }
    }
}

impl Contract for Notes {
    fn has_init(&self) -> bool {
        true
    }

    fn invoke(&self, call: &Call, stub: &mut dyn Stub, fuel: u64) -> Result<Outcome, Fault> {
        let value = match (call.function.as_str(), call.args.as_slice()) {
            ("init" | "put", [key, value]) => {
                let before = stub.get(key)?;
                stub.put(key, value)?;
                stub.emit("put", key)?;
                before.unwrap_or_default()
            }
            ("delete", [key]) => {
                stub.delete(key)?;
                Bytes::new()
            }
            (function, _) => return Err(Fault::new(Status::Refused, format!("no {function}"))),
        };
        Ok(Outcome { value, fuel_left: fuel - 100 })
    }
}

/// An executor of the story's chain over a ledger.
pub fn executor(ledger: &Arc<Ledger>) -> Executor {
    let genesis = genesis();
    let crypto = Crypto::portable();
    let verify = Arc::new(move |check: &Check<'_>| crypto.verify(check));
    let directory = Arc::new(Directory::new(&genesis, verify).expect("a root"));
    let options = Options { parameters: genesis.parameters, ..Options::default() };
    let contracts = Contracts::new(options).expect("every runtime starts");
    let contracts = Arc::new(contracts.with_runtime("notes", Arc::new(Notes)));
    Executor::new(ledger.clone(), directory, contracts, genesis.parameters).expect("an executor")
}

/// The batches of each block.
fn script() -> Vec<Vec<Batch>> {
    let admin = Person::new("ada", Role::Admin, Algorithm::Ed25519, 10);
    let alice = Person::new("alice", Role::Client, Algorithm::EcdsaP256, 11);
    let bob = Person::new("bob", Role::Client, Algorithm::Ed25519, 12);
    let people = [&admin, &alice, &bob];
    let batch = |author, txs: Vec<Transaction>| {
        let named = |p: &&&Person| txs.iter().any(|tx| tx.payload().creator == p.id());
        let certificates = people.iter().filter(named).map(|p| p.certificate.clone()).collect();
        Batch::new(ReplicaId(author), certificates, txs)
    };
    let deploy: &[&[u8]] =
        &[b"lifecycle", b"deploy", b"notes", b"1", b"notes", b"notes package", b"origin", b"bank"];
    let first = alice.ask(2, 100, &[b"notes", b"put", b"a", b"1"]);
    let revoked = bob.id().to_string();
    let revoke: &[&[u8]] = &[b"membership", b"revoke", revoked.as_bytes(), b"key lost"];
    vec![
        vec![batch(0, vec![admin.ask(1, 100, deploy)])],
        vec![batch(
            1,
            vec![
                first.clone(),
                bob.ask(3, 100, &[b"notes", b"put", b"b", b"2"]),
                bob.ask(4, 100, &[b"notes", b"burn"]),
                alice.ask(5, 100, &[b"nothing", b"put", b"a", b"1"]),
            ],
        )],
        vec![batch(
            2,
            vec![
                bob.ask(6, 100, &[b"notes", b"delete", b"b"]),
                first,
                alice.ask(7, 2, &[b"notes", b"put", b"a", b"late"]),
            ],
        )],
        vec![batch(
            3,
            vec![
                alice.ask(8, 100, &[b"configure", b"set", b"window", b"8"]),
                admin.ask(9, 100, &[b"configure", b"show"]),
                admin.ask(10, 100, revoke),
            ],
        )],
        vec![
            batch(0, vec![bob.ask(11, 100, &[b"notes", b"put", b"b", b"3"])]),
            batch(1, vec![alice.ask(12, 100, &[b"notes", b"put", b"a", b"4"])]),
        ],
        vec![batch(2, vec![alice.ask(13, 100, &[b"notes", b"put", b"c", &[0, 255]])])],
    ]
}

/// A chain under construction.
struct Growing {
    replicas: Replicas,
    ledger: Arc<Ledger>,
    executor: Executor,
    wal: Wal,
    logged: usize,
}

impl Growing {
    /// Executes and commits what was delivered; a null request leaves no block.
    fn take(&mut self, bodies: Vec<Batch>) {
        let chain = genesis().chain_id();
        let bodies: Vec<Arc<Batch>> = bodies.into_iter().map(Arc::new).collect();
        while let Some(delivered) = self.replicas.delivered.pop_front() {
            let (proposal, certificate) = (delivered.proposal, delivered.certificate);
            if !proposal.is_null() {
                let header = BlockHeader::following(chain, &self.ledger.tip(), &proposal);
                let batches = bodies.clone();
                let block = Block { header, certificate, batches };
                block.check_consistent().expect("what was delivered makes this block");
                let executed = self.executor.execute(block).expect("executed");
                self.ledger.commit(vec![executed]).expect("committed");
            }
            let sequence = proposal.sequence;
            let (_, checkpoint) = Commit::checkpoint(&self.ledger, chain, sequence);
            self.replicas.executed(Executed { sequence, checkpoint });
        }
        for record in &self.replicas.log[self.logged..] {
            self.wal.append_record(record);
        }
        self.logged = self.replicas.log.len();
        self.wal.sync().expect("written");
    }

    fn run(&mut self) {
        for (number, batches) in (1..).zip(script()) {
            self.replicas.clock(GENESIS_MS + number * 1_000);
            if number == 5 {
                self.replicas.stop(0);
            }
            self.replicas.deafen(2, number == 2);
            for batch in &batches {
                self.wal.append_batch(&batch.to_bytes());
                self.replicas.submit(batch.reference());
            }
            if number == 5 {
                // The third joins the two.
                (1..3).for_each(|at| self.replicas.fire(at, Timer::Request));
            }
            self.take(batches);
            if number == 2 {
                self.replicas.deafen(2, false);
                // The first tick sees that it moved, the second that it does not.
                self.replicas.fire(2, Timer::Retransmit);
                self.replicas.fire(2, Timer::Retransmit);
                self.replicas.fire(0, Timer::NullRequest);
                self.take(Vec::new());
            }
        }
    }
}

/// Lives through the story in `dir`. The second part holds random salts, so it differs each time.
pub fn live(dir: &Path) -> (Files, Files) {
    let genesis = genesis();
    let ledger = Ledger::open(&dir.join("ledger"), &genesis, Arc::new(MemoryKv::new()));
    let ledger = Arc::new(ledger.expect("opened"));
    std::fs::create_dir(dir.join("consensus")).expect("a directory");
    let (wal, _) = Wal::open(&dir.join("consensus"), genesis.chain_id()).expect("a new log");
    let mut growing = Growing {
        replicas: Replicas::start(&genesis, &validator_keys(), dir),
        executor: executor(&ledger),
        ledger: ledger.clone(),
        wal,
        logged: 0,
    };
    growing.run();
    let mut files = Files::new();
    files.insert("genesis.bin".to_owned(), genesis.to_bytes());
    blocks(&ledger, &mut files);
    proofs(&ledger, &growing.replicas.sent, &mut files);
    messages(&growing.replicas.sent, &mut files);
    files.insert("evidence.bin".to_owned(), evidence());
    let log = whole(&dir.join("consensus/order.1"));
    files.insert("order.1".to_owned(), log);
    drop(growing);
    drop(ledger);
    let segment = dir.join("ledger/segments/00000000000000000001.seg");
    let salted = Files::from([
        ("segment.seg".to_owned(), whole(&segment)),
        ("guard.log".to_owned(), whole(&replicas::guard_path(dir, replicas::WITNESS))),
    ]);
    (files, salted)
}

/// Each block and its result, and a readable page of what they come to.
fn blocks(ledger: &Ledger, files: &mut Files) {
    let mut page = format!("chain {}\n", ledger.chain());
    for height in (1..=ledger.tip().height.0).map(Height) {
        let block = ledger.block(height).expect("read").expect("stored");
        let result = ledger.result(height).expect("read").expect("stored");
        files.insert(format!("block-{height}.bin"), block.to_bytes());
        files.insert(format!("result-{height}.bin"), result.to_bytes());
        page.push_str(&described(&block, &result));
    }
    files.insert("expected.txt".to_owned(), page.into());
}

fn described(block: &Block, result: &BlockResult) -> String {
    let header = &block.header;
    let signers: Vec<u16> = block.certificate.signatures.iter().map(|(id, _)| id.0).collect();
    let mut text = format!(
        "\nblock {} sequence {} view {} time {} signers {signers:?}\n  hash          {}\n  \
         transactions  {}\n  receipts      {}\n  state         {}\n",
        header.height,
        header.sequence,
        header.view,
        header.time_ms,
        result.hash,
        header.transaction_root,
        result.receipts_root,
        result.state_root
    );
    for receipt in &result.receipts {
        let (id, status, error) = (receipt.tx, receipt.status.name(), &receipt.error);
        text.push_str(&format!("  {id} {status} {error}\n").replace(" \n", "\n"));
    }
    text
}

/// Proofs at the end of the chain; a checkpoint is due at its last even sequence number.
fn proofs(ledger: &Ledger, sent: &[Envelope], files: &mut Files) {
    let key =
        |name: &[u8]| StateKey { namespace: "notes".to_owned(), key: Bytes::copy_from_slice(name) };
    let present = ledger.prove(&[key(b"a")]).expect("proven");
    let absent = ledger.prove(&[key(b"b")]).expect("proven");
    let many = ledger.prove(&[key(b"a"), key(b"b"), key(b"c")]).expect("proven");
    files.insert("state-present.bin".to_owned(), present.proof.to_bytes());
    files.insert("state-absent.bin".to_owned(), absent.proof.to_bytes());
    files.insert("state-many.bin".to_owned(), many.proof.to_bytes());
    let height = Height(5);
    let block = ledger.block(height).expect("read").expect("stored");
    let result = ledger.result(height).expect("read").expect("stored");
    let transaction = TransactionProof::of(&block, 1).expect("two transactions");
    let receipt = ReceiptProof::of(&result, 1).expect("two receipts");
    files.insert("transaction-proof.bin".to_owned(), transaction.to_bytes());
    files.insert("receipt-proof.bin".to_owned(), receipt.to_bytes());
    let digest = result.checkpoint_digest(ledger.chain(), block.header.sequence);
    let slot = slot(Phase::Checkpoint, 0, block.header.sequence.0);
    let vote = Vote { slot, digest };
    let signatures: BTreeMap<ReplicaId, _> = sent
        .iter()
        .filter(|envelope| envelope.body == vote.to_bytes())
        .map(|envelope| (envelope.sender, envelope.signature.clone()))
        .collect();
    let signatures = signatures.into_iter().take(3).collect();
    let checkpoint = CheckpointProof {
        height,
        hash: result.hash,
        state_root: result.state_root,
        receipts_root: result.receipts_root,
        certificate: QuorumCertificate { vote, signatures },
    };
    files.insert("checkpoint.bin".to_owned(), checkpoint.to_bytes());
}

/// The longest message of each kind.
fn messages(sent: &[Envelope], files: &mut Files) {
    let mut longest: BTreeMap<u8, &Envelope> = BTreeMap::new();
    for envelope in sent {
        let found = longest.entry(envelope.body[0]).or_insert(envelope);
        if envelope.body.len() > found.body.len() {
            *found = envelope;
        }
    }
    for (kind, envelope) in longest {
        files.insert(format!("message-{kind:02x}.bin"), envelope.to_bytes());
    }
}

/// Validator 2 voted for two digests in one slot.
fn evidence() -> Bytes {
    let (chain, culprit) = (genesis().chain_id(), ReplicaId(2));
    let key = &validator_keys()[2];
    let messages = [1, 2].map(|byte| {
        let slot = slot(Phase::Prepare, 3, 9);
        let body = Vote { slot, digest: Digest([byte; 32]) }.to_bytes();
        let signature = key.sign(&vote::signed_text(&chain, &body)).expect("signed");
        Envelope { sender: culprit, body, signature: signature.into() }
    });
    let evidence = Evidence { culprit, offence: "", messages: messages.to_vec() };
    Accusation::of(chain, &evidence).to_bytes()
}

/// A slot of the only epoch.
pub fn slot(phase: Phase, view: u64, sequence: u64) -> Slot {
    Slot { epoch: Epoch(0), view: View(view), sequence: SequenceNumber(sequence), phase }
}

/// A file without the zeros it was preallocated with, but up to a whole disk sector.
fn whole(path: &Path) -> Bytes {
    const SECTOR: usize = 512;
    let mut bytes = std::fs::read(path).expect("written");
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(end.next_multiple_of(SECTOR));
    bytes.into()
}
