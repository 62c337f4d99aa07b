//! The thread that compares a record with what was seen of its key, when another process has opened
//! another record under a running node: here another guard takes the first one's place.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use crossbeam_channel::Sender;
use crossbeam_channel::bounded;
use obelisk::consensus;
use obelisk::consensus::CoreStatus;
use obelisk::consensus::Envelope;
use obelisk::crypto::SigningKey;
use obelisk::crypto::keys::Secret;
use obelisk::crypto::routing::Crypto;
use obelisk::crypto::verify_pool::PoolConfig;
use obelisk::crypto::verify_pool::VerifyPool;
use obelisk::membership::directory::Directory;
use obelisk::network::Peer;
use obelisk::network::memory::Hub;
use obelisk::pipeline::order::fencing::Fencing;
use obelisk::pipeline::order::fencing::Gate;
use obelisk::pipeline::order::fencing::Parts;
use obelisk::pipeline::order::fencing::Shown;
use obelisk::pipeline::order::witness::Witnesses;
use obelisk::pipeline::verification::Known;
use obelisk::pipeline::verification::Verification;
use obelisk::signer::SignError;
use obelisk::signer::SignRequest;
use obelisk::signer::Signer;
use obelisk::signer::embedded::EmbeddedSigner;
use obelisk::signer::embedded::Mode;
use obelisk::signer::guard::cleared::Signed;
use obelisk::signer::guard::standing::Answer;
use obelisk::signer::guard::standing::Opening;
use obelisk::signer::guard::standing::RecordCall;
use obelisk::telemetry::metrics::Metrics;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::ids::ChainId;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::ReplicaId;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::ids::View;
use obelisk::types::replica_set::Replica;
use obelisk::types::replica_set::ReplicaSet;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::PublicKey;
use obelisk::types::vote;
use obelisk::types::vote::Phase;
use obelisk::types::vote::Slot;
use obelisk::types::vote::Vote;
use tempfile::TempDir;

use crate::chain_fixture::genesis;

const PATIENCE: Duration = Duration::from_secs(30);

/// A signer whose process, and record, is replaced.
struct Replaced {
    key: PublicKey,
    now: Mutex<Arc<EmbeddedSigner>>,
}

impl Replaced {
    fn now(&self) -> Arc<EmbeddedSigner> {
        self.now.lock().unwrap().clone()
    }
}

impl Signer for Replaced {
    fn sign(&self, requests: &[SignRequest]) -> Signed {
        self.now().sign(requests)
    }

    fn public_key(&self) -> &PublicKey {
        &self.key
    }

    fn bundles(&self) -> bool {
        self.now().bundles()
    }

    fn opening(&self) -> Opening {
        self.now().opening()
    }

    fn record(&self, opening: Opening, call: &RecordCall) -> Result<Answer, SignError> {
        self.now().record(opening, call)
    }
}

/// A validator's thread beside its signer; the others are played by the test.
struct Bench {
    dir: TempDir,
    key: Arc<dyn SigningKey>,
    chain: ChainId,
    signer: Arc<Replaced>,
    gate: Arc<Gate>,
    witnesses: Arc<Witnesses>,
    metrics: Arc<Metrics>,
    shown: Sender<Shown>,
}

impl Bench {
    fn start(validators: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::random(Algorithm::Ed25519).unwrap();
        let crypto = Crypto::portable();
        let key = crypto.load(Algorithm::Ed25519, &secret.to_pkcs8()).unwrap();
        let genesis = genesis("test");
        let chain = genesis.chain_id();
        let plugin = consensus::plugin("pbft").unwrap();
        let replica = |i: u16| {
            let key = match i {
                0 => secret.public.clone(),
                i => PublicKey::new(Algorithm::Ed25519, &[i as u8; 32]).unwrap(),
            };
            Replica { organisation: format!("org{i}"), name: "v".to_owned(), key }
        };
        let replicas = (0..validators).map(replica).collect();
        let replicas = Arc::new(ReplicaSet::new(Epoch(0), replicas).unwrap());
        let peers = replicas.iter().map(|(id, replica)| {
            let (organisation, name) = (replica.organisation.clone(), replica.name.clone());
            Peer { organisation, name, replica: Some(id) }
        });
        let transport = Hub::new(peers.collect()).transport(0);
        let first = opened(&dir.path().join("first"), chain, &key, false);
        let (signer, metrics) = (
            Arc::new(Replaced { key: secret.public, now: Mutex::new(first) }),
            Arc::new(Metrics::new()),
        );
        let pool = PoolConfig { threads: 1, cores: Vec::new() };
        let verification = Verification {
            chain,
            replicas,
            plugin,
            directory: Arc::new(Directory::new(&genesis, Arc::new(|_| true)).unwrap()),
            pool: Arc::new(VerifyPool::start(Arc::new(crypto), &pool).unwrap()),
            known: Known::default(),
            stable: Arc::default(),
        };
        let (gate, core) = (Arc::new(Gate::default()), CoreStatus::default());
        let witnesses = Arc::new(Witnesses::new(plugin, Epoch(0)));
        let (shown, inputs) = bounded(16);
        let fencing = Fencing::new(Parts {
            me: ReplicaId(0),
            verification: Arc::new(verification),
            witnesses: witnesses.clone(),
            signer: signer.clone(),
            transport,
            gate: gate.clone(),
            core: Arc::new(Mutex::new(core)),
            window: 8,
            metrics: metrics.clone(),
        });
        std::thread::spawn(move || fencing.run(&inputs));
        Self { dir, key, chain, signer, gate, witnesses, metrics, shown }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Another process opens another record, which others may have brought.
    fn replace(&self, log: &str) {
        let opened = opened(&self.path(log), self.chain, &self.key, true);
        *self.signer.now.lock().unwrap() = opened;
    }

    fn request(&self, sequence: u64, content: u8) -> SignRequest {
        let (epoch, view, phase) = (Epoch(0), View(0), Phase::Commit);
        let slot = Slot { epoch, view, sequence: SequenceNumber(sequence), phase };
        let body = Vote { slot, digest: Digest([content; 32]) }.to_bytes();
        SignRequest { slot: Some(slot), text: vote::signed_text(&self.chain, &body), ahead: false }
    }

    /// A vote as it is sent, if it is signed.
    fn vote(&self, sequence: u64, content: u8) -> Option<Envelope> {
        let request = self.request(sequence, content);
        let signature = self.signer.sign(std::slice::from_ref(&request)).remove(0).ok()?;
        let body = Vote { slot: request.slot.unwrap(), digest: Digest([content; 32]) }.to_bytes();
        Some(Envelope { sender: ReplicaId(0), body, signature })
    }

    fn note(&self, vote: &Envelope, sequence: u64) {
        self.witnesses.signed(self.request(sequence, 0).slot.unwrap(), vote);
    }

    fn show(&self, from: u16, envelopes: Vec<Envelope>) {
        self.shown.send(Shown { from: ReplicaId(from), envelopes }).unwrap();
    }

    fn fences(&self) -> u64 {
        self.metrics.fences.get()
    }
}

fn opened(
    log: &Path,
    chain: ChainId,
    key: &Arc<dyn SigningKey>,
    has_signed: bool,
) -> Arc<EmbeddedSigner> {
    Arc::new(EmbeddedSigner::start(Mode::Direct, log, chain, key.clone(), has_signed).unwrap())
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: never");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn never(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        assert!(!done(), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Aim: a vote that is under way while the record is replaced by an older one is compared with it,
/// however late it is noted: the older record never signs another text for its slot.
#[test]
fn a_record_is_compared_when_no_vote_is_under_way() {
    let bench = Bench::start(1);
    wait("a lone validator asks nobody", || bench.gate.is_open());
    std::fs::copy(bench.path("first"), bench.path("old")).unwrap();
    assert!(bench.gate.enter());
    let vote = bench.vote(5, 1).expect("signed");
    bench.replace("old");
    wait("the gate closes", || !bench.gate.is_open());
    never("another text is signed", || bench.vote(5, 2).is_some());
    assert_eq!(bench.fences(), 0, "nothing is known of the vote yet");
    bench.note(&vote, 5);
    bench.gate.leave();
    wait("the record is fenced", || bench.fences() == 1);
    wait("it votes again", || bench.gate.is_open());
    assert!(bench.vote(5, 2).is_none() && bench.vote(6, 1).is_some());
}

/// Aim: another opening waits for f+1 peers, whatever was said of the one before; the same record
/// goes on, and one that lacks what a single peer shows is fenced.
#[test]
fn each_opening_waits_for_peers() {
    let bench = Bench::start(4);
    never("votes wait for peers", || bench.gate.is_open() || bench.vote(1, 1).is_some());
    bench.show(1, Vec::new());
    bench.show(2, Vec::new());
    wait("two peers answered", || bench.gate.is_open());
    let vote = bench.vote(1, 1).expect("signed");
    bench.note(&vote, 1);
    let closed = || !bench.gate.is_open();
    std::fs::copy(bench.path("first"), bench.path("same")).unwrap();
    std::fs::copy(bench.path("first"), bench.path("old")).unwrap();
    bench.replace("same");
    wait("the gate closes", closed);
    bench.show(3, vec![vote.clone()]);
    bench.show(3, vec![vote]);
    never("one peer is not enough", || bench.gate.is_open() || bench.vote(2, 1).is_some());
    bench.show(1, Vec::new());
    wait("two peers answered", || bench.gate.is_open());
    let later = bench.vote(9, 1).expect("signed");
    bench.replace("old");
    wait("the gate closes", closed);
    bench.show(1, Vec::new());
    bench.show(3, vec![later]);
    wait("the record is fenced", || bench.fences() == 1);
    never("it is silent", || bench.gate.is_open() || bench.vote(99, 1).is_some());
    let reason = bench.gate.reason(SequenceNumber(9)).unwrap();
    assert!(reason.contains("what its record does not hold"), "{reason}");
}

/// Aim: after a fence the gate is open and says where votes begin again, until the network is there.
#[test]
fn a_fence_that_is_not_passed_is_told() {
    let bench = Bench::start(1);
    wait("a lone validator asks nobody", || bench.gate.is_open());
    std::fs::copy(bench.path("first"), bench.path("old")).unwrap();
    let vote = bench.vote(7, 1).expect("signed");
    bench.note(&vote, 7);
    bench.replace("old");
    wait("the record is fenced", || bench.fences() == 1 && bench.gate.is_open());
    let reason = bench.gate.reason(SequenceNumber(3)).expect("votes are refused below 8");
    assert!(reason.contains("begin again at sequence number 8"), "{reason}");
    assert_eq!(bench.gate.reason(SequenceNumber(7)), None);
}
