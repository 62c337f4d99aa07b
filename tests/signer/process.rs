//! Votes over the socket, through restarts of the signer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use obelisk::client::invocation::Invocation;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::identity::Role;
use obelisk::membership::msp::Msp;
use obelisk::signer::SignError;
use obelisk::signer::SignRequest;
use obelisk::signer::Signer;
use obelisk::signer::remote::RemoteSigner;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::Height;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::ids::View;
use obelisk::types::receipt::Status;
use obelisk::types::signature::Algorithm;
use obelisk::types::vote;
use obelisk::types::vote::Phase;
use obelisk::types::vote::Slot;
use obelisk::types::vote::Vote;
use obelisk::types::vote_signature::VoteSignature;

use super::PATIENCE;
use super::SignerProcess;
use super::place;
use super::settle;
use crate::cluster::Cluster;

/// One signer process for all validators of a network.
pub struct OneSigner {
    pub config: PathBuf,
    pub socket: PathBuf,
}

impl OneSigner {
    /// Takes the keys out of the validators' folders and writes the configuration.
    pub fn make(consortium: &Consortium, directory: &Path) -> Self {
        let home = directory.join("signer");
        fs::create_dir(&home).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        let mut text = "[signer]\nsocket = \"s\"\ndata = \"guard\"\n".to_owned();
        for (i, member) in consortium.of_role(Role::Validator).enumerate() {
            let (vote, tls) = (home.join(format!("{i}.pem")), home.join(format!("tls{i}.pem")));
            fs::rename(member.folder.join("key.pem"), &vote).unwrap();
            fs::rename(member.folder.join("tls/key.pem"), &tls).unwrap();
            let (name, genesis) = (&member.organisation, &consortium.genesis_path);
            text += &format!(
                "[[validator]]\nname = \"{name}/validator\"\ngenesis = {genesis:?}\n\
                 key = {{ file = {vote:?} }}\n[[tls]]\nname = \"{name}/tls\"\n\
                 key = {{ file = {tls:?} }}\n"
            );
        }
        let config = home.join("signer.toml");
        fs::write(&config, text).unwrap();
        Self { config, socket: home.join("s") }
    }

    /// What a node's configuration says about it.
    pub fn section(&self) -> String {
        let socket = &self.socket;
        format!("[signer]\nmode = \"process\"\ntls = true\nsocket = {socket:?}\n")
    }
}

/// A transaction through node `i`, asked again while the node takes no connection: without its TLS
/// key, which the signer holds, it cannot.
fn insist(cluster: &Cluster, i: usize) -> Height {
    let (identity, end) = (cluster.identity(Role::Client, i), Instant::now() + 2 * PATIENCE);
    loop {
        let (client, call) = (cluster.client(i), harmless());
        match cluster.runtime.block_on(client.invoke(&identity, &call, PATIENCE)) {
            Ok(located) => {
                assert_eq!(located.receipt.status, Status::Ok);
                return located.height;
            }
            Err(error) if error.is_transient() && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => panic!("node {i}: {error}"),
        }
    }
}

fn harmless() -> Invocation {
    Invocation::new("configure", "show")
}

/// Four validators with all their keys, TLS included, in one signer process. Killed again and again
/// under load and started again, the network goes on, no node fails, and no slot is signed twice;
/// the node's metrics say what it cost.
#[test]
fn a_signer_killed_under_load_costs_time_alone() {
    let mut process = None;
    let mut at = PathBuf::new();
    let cluster =
        Cluster::start_with(4, Algorithm::Ed25519, "pbft", &[], |consortium, directory| {
            let signer = OneSigner::make(consortium, directory);
            process = Some(SignerProcess::start(&signer.config, &signer.socket, &[]));
            at.clone_from(&signer.socket);
            signer.section()
        });
    let mut process = process.unwrap();
    cluster.invoke(0, &harmless());
    let stop = AtomicBool::new(false);
    let mut last = std::thread::scope(|scope| {
        let load: Vec<_> = (0..2)
            .map(|i| {
                let (cluster, stop) = (&cluster, &stop);
                scope.spawn(move || {
                    let mut last = insist(cluster, i);
                    while !stop.load(Ordering::Relaxed) {
                        last = last.max(insist(cluster, i));
                    }
                    last
                })
            })
            .collect();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            process.kill();
            std::thread::sleep(Duration::from_millis(200));
            process.start_again(&at);
        }
        stop.store(true, Ordering::Relaxed);
        load.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
    });
    // Longer than the nodes' patience: votes wait, and are cast when the signer is back.
    // The connection stands before: without its TLS key a node takes no new one.
    let (client, who) = (cluster.client(0), cluster.identity(Role::Client, 0));
    let invoke = || {
        let call = harmless();
        cluster.runtime.block_on(client.invoke(&who, &call, super::PATIENCE)).unwrap()
    };
    invoke();
    process.kill();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(invoke);
        std::thread::sleep(Duration::from_secs(3));
        process.start_again(&at);
        last = last.max(waiting.join().unwrap().height);
    });
    for i in 0..4 {
        last = last.max(insist(&cluster, i));
    }
    cluster.converge(last);
    // The node counts what the signer cost it: votes and handshakes, and those that failed.
    let metrics = cluster.node(0).handle().render_metrics();
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is missing in {metrics}")).trim().parse().unwrap()
    };
    for lane in ["consensus", "transport"] {
        assert!(value(&format!("obelisk_signer_seconds_count{{lane=\"{lane}\"}}")) > 0.0);
    }
    assert!(value("obelisk_signer_failures_total{lane=\"consensus\"}") > 0.0);
    assert!(value("obelisk_votes_waiting") < 10.0);
}

pub fn request(chain: obelisk::types::ids::ChainId, digest: u8) -> SignRequest {
    let (epoch, view, sequence) = (Epoch(0), View(0), SequenceNumber(7));
    let slot = Slot { epoch, view, sequence, phase: Phase::Commit };
    let vote = Vote { slot, digest: Digest([digest; 32]) };
    SignRequest {
        slot: Some(slot),
        text: vote::signed_text(&chain, &vote.to_bytes()),
        ahead: false,
    }
}

/// The slot survives a SIGKILL: the same text is signed again, another one never. A lost guard is
/// refused to a node that has signed.
#[test]
fn a_killed_signer_remembers_what_it_signed() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = obelisk::membership::consortium::Spec::local(
        "test",
        1,
        Algorithm::EcdsaP256,
        obelisk::host::clock::now_ms() - 1000,
    );
    spec.consensus = "pbft".into();
    let crypto = Arc::new(obelisk::crypto::routing::Crypto::portable());
    let consortium = Consortium::make(directory.path(), &spec, &crypto).unwrap();
    let chain = consortium.genesis.chain_id();
    let member = consortium.of_role(Role::Validator).next().unwrap().clone();
    let key = Msp::load(&member.folder).unwrap().enrolment.identity().unwrap().key;
    let one = OneSigner::make(&consortium, directory.path());
    let mut process = SignerProcess::start(&one.config, &one.socket, &[]);
    let signer = RemoteSigner::open(place(&one.socket), chain, key.clone(), false).unwrap();
    settle(&signer);
    let valid = |signature: &VoteSignature, text: &Bytes| {
        let signature = signature.plain();
        let check = obelisk::crypto::Check { key: &key, message: text, signature };
        crypto.verify(&check)
    };
    let good = request(chain, 1);
    let signed = signer.sign(std::slice::from_ref(&good)).remove(0).unwrap();
    assert!(valid(&signed, &good.text));
    let before = signer.opening();
    process.kill();
    let away = signer.sign(std::slice::from_ref(&good)).remove(0);
    assert!(matches!(away, Err(SignError::Key { .. })), "{away:?}");
    assert!(signer.trouble().unwrap().contains("no signer listens"));
    process.start_again(&one.socket);
    // The link comes back by itself, to a process whose record nobody has compared yet.
    let end = Instant::now() + PATIENCE;
    while signer.opening() == before {
        assert!(Instant::now() < end, "the link does not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
    let unsettled = signer.sign(std::slice::from_ref(&good)).remove(0).unwrap_err().to_string();
    assert!(unsettled.contains("not compared yet"), "{unsettled}");
    settle(&signer);
    let mut results = BTreeMap::new();
    for digest in [1, 2] {
        let asked = request(chain, digest);
        let result = loop {
            match signer.sign(std::slice::from_ref(&asked)).remove(0) {
                Err(SignError::Key { .. }) => std::thread::sleep(Duration::from_millis(20)),
                result => break result,
            }
        };
        results.insert(digest, result);
    }
    assert!(valid(results[&1].as_ref().unwrap(), &good.text));
    assert!(matches!(results[&2], Err(SignError::Conflict { .. })), "{results:?}");
    assert_eq!(signer.trouble(), None);
    process.kill();
    fs::remove_file(directory.path().join("signer/guard/org1_validator.slots")).unwrap();
    process.start_again(&one.socket);
    let lost = RemoteSigner::open(place(&one.socket), chain, key.clone(), true);
    assert!(lost.err().unwrap().to_string().contains("is missing"));
}
