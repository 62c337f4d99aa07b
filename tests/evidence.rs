//! Evidence from end to end: a validator contradicts itself before a real pipeline, which keeps the
//! proof; the binary judges it from the files, with nothing but the genesis document.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use obelisk::consensus::Envelope;
use obelisk::crypto::SigningKey;
use obelisk::crypto::routing::Crypto;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::consortium::Spec;
use obelisk::membership::identity::Role;
use obelisk::membership::msp::Msp;
use obelisk::network::Message;
use obelisk::network::Transport;
use obelisk::network::memory::Hub;
use obelisk::pipeline::start::Pipeline;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::ids::ChainId;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::ReplicaId;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::ids::View;
use obelisk::types::limits;
use obelisk::types::signature::Algorithm;
use obelisk::types::vote;
use obelisk::types::vote::Phase;
use obelisk::types::vote::Slot;
use obelisk::types::vote::Vote;
use serde_json::Value;

use crate::validator_fixture::validator;

/// Four validators on paper; the first is a running pipeline, the others are their keys.
struct Network {
    folder: tempfile::TempDir,
    chain: ChainId,
    keys: Vec<Arc<dyn SigningKey>>,
    hub: Arc<Hub>,
    pipeline: Option<Pipeline>,
}

impl Network {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let crypto = Arc::new(Crypto::portable());
        let spec = Spec::local("evidence", 4, Algorithm::Ed25519, 1_700_000_000_000);
        let consortium = Consortium::make(&folder.path().join("net"), &spec, &crypto).unwrap();
        let validators = consortium.of_role(Role::Validator);
        let keys: Vec<_> = validators
            .map(|m| Msp::load(&m.folder).unwrap().enrolment.signing_key(&crypto).unwrap())
            .collect();
        let hub = Hub::of_validators(4);
        let data = folder.path().join("data");
        let pipeline = validator(&consortium, &crypto, &hub, &data);
        let chain = consortium.genesis.chain_id();
        Self { folder, chain, keys, hub, pipeline: Some(pipeline) }
    }

    /// A prepare vote of a validator in view 0.
    fn vote(&self, replica: u16, sequence: u64, content: &[u8]) -> Envelope {
        let (epoch, view) = (Epoch(0), View(0));
        let slot = Slot { epoch, view, sequence: SequenceNumber(sequence), phase: Phase::Prepare };
        let body = Vote { slot, digest: Digest::of(&[content]) }.to_bytes();
        let key = &self.keys[usize::from(replica)];
        let signature = key.sign(&vote::signed_text(&self.chain, &body)).unwrap().into();
        Envelope { sender: ReplicaId(replica), body, signature }
    }

    /// Validator 1 passes on what it heard.
    fn relay(&self, envelope: Envelope) {
        self.hub.transport(1).send(ReplicaId(0), Message::Consensus(envelope));
    }

    /// What the running validator keeps, once it keeps that many pieces.
    fn kept(&self, count: usize) -> Vec<bytes::Bytes> {
        let handle = &self.pipeline.as_ref().unwrap().handle;
        let end = Instant::now() + PATIENCE;
        loop {
            let kept = handle.evidence().unwrap();
            if kept.len() >= count {
                return kept;
            }
            assert!(Instant::now() < end, "{} pieces are kept", kept.len());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `obelisk ledger evidence` with this data directory or file.
    fn judge(&self, flag: &str, path: &Path) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_obelisk"));
        command.args(["--json", "ledger", "evidence", flag]).arg(path);
        command.arg("--genesis").arg(self.path("net/genesis.bin")).output().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.hub.transport(0).shutdown();
        self.pipeline.take().into_iter().for_each(Pipeline::stop);
    }
}

fn rows(output: &Output) -> Vec<Value> {
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    rows.as_array().unwrap().clone()
}

/// Two votes in one slot, passed on by a third, become a file beside the running node. The node's
/// directory and a copy of the file are judged alike; a changed copy, and one vote twice, prove
/// nothing.
#[test]
fn equivocation_is_kept_and_judged_from_the_files() {
    let network = Network::start();
    let data = network.path("data");
    let none = network.judge("--data", &data);
    assert_eq!((none.status.code(), rows(&none)), (Some(0), Vec::new()));
    network.relay(network.vote(3, 1, b"one"));
    network.relay(network.vote(3, 1, b"one"));
    network.relay(network.vote(3, 1, b"other"));
    let kept = network.kept(1);
    let judged = network.judge("--data", &data);
    assert_eq!(judged.status.code(), Some(0), "{}", String::from_utf8_lossy(&judged.stderr));
    let found = rows(&judged);
    assert_eq!((kept.len(), found.len()), (1, 1));
    assert_eq!(found[0]["verdict"], "holds");
    assert_eq!(found[0]["what"], "voted for two digests in one slot");
    assert!(found[0]["replica"].as_str().unwrap().starts_with("3 ("), "{}", found[0]);

    let copy = network.path("copy.evidence");
    std::fs::write(&copy, &kept[0]).unwrap();
    assert_eq!(rows(&network.judge("--file", &copy)), found);
    let mut changed = kept[0].to_vec();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&copy, &changed).unwrap();
    let refused = network.judge("--file", &copy);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{errors}");
    assert!(errors.contains("1 of 1 pieces of evidence do not hold"), "{errors}");
    assert_eq!(rows(&refused)[0]["verdict"], "refused");
}

/// However often a validator contradicts itself, others that do are recorded as well.
#[test]
fn an_equivocator_does_not_hide_another() {
    let network = Network::start();
    for sequence in 1..=2 * limits::EVIDENCE_PER_CULPRIT_MAX as u64 {
        network.relay(network.vote(3, sequence, b"one"));
        network.relay(network.vote(3, sequence, b"other"));
    }
    network.relay(network.vote(2, 1, b"one"));
    network.relay(network.vote(2, 1, b"other"));
    let kept = network.kept(2);
    assert!(kept.len() <= limits::EVIDENCE_PER_CULPRIT_MAX + 1, "{} pieces", kept.len());
    let found = rows(&network.judge("--data", &network.path("data")));
    for culprit in ["2 (", "3 ("] {
        let names = |row: &&Value| row["replica"].as_str().unwrap().starts_with(culprit);
        assert!(found.iter().find(names).is_some_and(|row| row["verdict"] == "holds"));
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
