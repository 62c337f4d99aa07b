//! A key's record that is moved, restored from an old copy, or used twice, under real validators.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use obelisk::client::invocation::Invocation;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::consortium::Spec;
use obelisk::membership::identity::Role;
use obelisk::membership::msp::Msp;
use obelisk::node::assembly::Node;
use obelisk::node::placement::Placement;
use obelisk::signer::Signer;
use obelisk::signer::guard::format::State;
use obelisk::signer::guard::inspect;
use obelisk::signer::remote::RemoteSigner;
use obelisk::types::ids::Height;
use obelisk::types::ids::ReplicaId;
use obelisk::types::signature::Algorithm;
use tempfile::TempDir;

use super::BINARY;
use super::PATIENCE;
use super::SignerProcess;
use super::place;
use super::process::OneSigner;
use super::process::request;
use super::refused;
use super::settle;
use crate::cluster::Cluster;
use crate::ports::Ports;

fn harmless() -> Invocation {
    Invocation::new("configure", "show")
}

/// Why a node is not ready.
fn reasons(node: &Node) -> String {
    node.handle().status().not_ready.join("; ")
}

/// Runs transactions through node 0 until `done`; the network goes on for all that time.
fn run_until(cluster: &Cluster, what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + 2 * PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: never");
        cluster.invoke(0, &harmless());
    }
}

/// True where a replica's vote is in the certificate of some block from that height on.
fn votes_from(cluster: &Cluster, replica: ReplicaId, from: Height) -> bool {
    let ledger = cluster.node(0).handle().ledger().clone();
    let mut blocks = (from.0..=ledger.tip().height.0)
        .map(|height| ledger.block(Height(height)).unwrap().unwrap());
    blocks.any(|block| block.certificate.signatures.iter().any(|(r, _)| *r == replica))
}

fn assert_no_evidence(cluster: &Cluster) {
    for i in 0..4 {
        assert!(cluster.node(i).handle().evidence().unwrap().is_empty(), "evidence at node {i}");
    }
}

/// Aim: a validator whose guard is an old copy finds out before it signs, keeps silent while the
/// network goes on, votes again by itself, and no peer ever holds two votes of it.
#[test]
fn a_restored_record_is_fenced_and_votes_again() {
    let mut cluster = Cluster::start(4, Algorithm::Ed25519, "pbft");
    cluster.invoke(0, &harmless());
    let guard = cluster.config(3).node.data.join("guard/slots.log");
    let me = cluster.node(3).handle().status().replica.unwrap();
    cluster.stop_node(3);
    let old = fs::read(&guard).unwrap();
    cluster.start_node(3);
    run_until(&cluster, "node 3 votes", || votes_from(&cluster, me, Height(2)));
    cluster.converge(Height(1));
    cluster.stop_node(3);
    fs::write(&guard, &old).unwrap();
    cluster.start_node(3);
    let fenced = || reasons(cluster.node(3)).contains("what its record does not hold");
    run_until(&cluster, "it is fenced", fenced);
    let from = cluster.node(0).handle().ledger().tip().height;
    run_until(&cluster, "it is ready", || reasons(cluster.node(3)).is_empty());
    run_until(&cluster, "it votes again", || votes_from(&cluster, me, from));
    let metrics = cluster.node(3).handle().render_metrics();
    assert!(metrics.contains("obelisk_signer_fences_total 1"), "{metrics}");
    assert_no_evidence(&cluster);
    assert_ne!(fs::read(&guard).unwrap()[18..34], old[18..34], "the guard's identity");
}

/// Aim: a second node with the same key on a copy of the record signs nothing while the first one
/// lives, says so, and the first one is not disturbed.
#[test]
fn a_clone_keeps_silent_while_the_original_lives() {
    let mut cluster = Cluster::start(4, Algorithm::Ed25519, "pbft");
    cluster.invoke(0, &harmless());
    let me = cluster.node(3).handle().status().replica.unwrap();
    let mut config = cluster.config(3);
    let copy = cluster.directory.path().join("clone");
    fs::create_dir_all(copy.join("guard")).unwrap();
    fs::copy(config.node.data.join("guard/slots.log"), copy.join("guard/slots.log")).unwrap();
    run_until(&cluster, "node 3 votes", || votes_from(&cluster, me, Height(2)));
    let ports = Ports::reserve();
    let [peer, grpc, rest] = [0, 1, 2].map(|i| format!("127.0.0.1:{}", ports.first() + i));
    config.node.data = copy;
    (config.network.listen, config.api.grpc, config.api.rest_plain) = (peer, grpc, rest);
    let placement = Placement::of_machine(&config.host, &config.node.data);
    let fatal = Arc::new(|reason: String| panic!("the clone failed: {reason}"));
    let clone =
        Node::start(&config, &placement, cluster.runtime.handle(), fatal, &Arc::default()).unwrap();
    let knows = || reasons(&clone).contains("another signer uses this key now");
    run_until(&cluster, "the clone knows", knows);
    clone.stop();
    // The fence forgot what was copied: a slot on record would be one that the clone signed.
    let chain = cluster.consortium.genesis.chain_id();
    let folder = &cluster.members(Role::Validator)[3].folder;
    let key = Msp::load(folder).unwrap().enrolment.identity().unwrap().key;
    let log = config.node.data.join("guard/slots.log");
    let seen = inspect::inspect(&log, chain, &key).unwrap();
    assert_eq!((seen.slots, seen.state), (0, State::Unproven));
    let from = cluster.node(0).handle().ledger().tip().height;
    run_until(&cluster, "node 3 goes on", || votes_from(&cluster, me, from));
    assert_no_evidence(&cluster);
    cluster.stop_node(3);
}

/// Aim: an ordinary restart of one and of all validators fences none, so votes wait for no timer.
#[test]
fn a_restart_asks_peers_and_votes_at_once() {
    let mut cluster = Cluster::start(4, Algorithm::Ed25519, "pbft");
    cluster.invoke(0, &harmless());
    cluster.stop_node(3);
    cluster.start_node(3);
    run_until(&cluster, "one is let go", || reasons(cluster.node(3)).is_empty());
    (0..4).for_each(|i| cluster.stop_node(i));
    (0..4).for_each(|i| cluster.start_node(i));
    for i in 0..4 {
        // Three are enough to commit, so the fourth may still be on its way.
        run_until(&cluster, "all are let go", || reasons(cluster.node(i)).is_empty());
        let metrics = cluster.node(i).handle().render_metrics();
        assert!(metrics.contains("obelisk_signer_fences_total 0"), "node {i}: {metrics}");
    }
    assert_no_evidence(&cluster);
}

/// A network whose keys are in one signer process, and that process.
fn over_a_process(validators: usize) -> (Cluster, SignerProcess, OneSigner) {
    let mut made = None;
    let cluster =
        Cluster::start_with(validators, Algorithm::Ed25519, "pbft", &[], |network, directory| {
            let one = OneSigner::make(network, directory);
            let process = SignerProcess::start(&one.config, &one.socket, &[]);
            let section = one.section();
            made = Some((process, one));
            section
        });
    let (process, one) = made.unwrap();
    (cluster, process, one)
}

/// Aim: an old copy of the record that a new signer process finds under a running node is noticed
/// before anything is signed from it: the validator is fenced, says so, keeps silent, votes again.
#[test]
fn a_record_that_gets_older_under_a_running_node_is_fenced() {
    let (cluster, mut process, one) = over_a_process(4);
    cluster.invoke(0, &harmless());
    let me = cluster.node(3).handle().status().replica.unwrap();
    let organisation = &cluster.members(Role::Validator)[3].organisation;
    let log = one.config.with_file_name("guard").join(format!("{organisation}_validator.slots"));
    process.kill();
    let old = fs::read(&log).unwrap();
    process.start_again(&one.socket);
    let from = cluster.node(0).handle().ledger().tip().height;
    run_until(&cluster, "node 3 votes", || votes_from(&cluster, me, Height(from.0 + 1)));
    (0..3).for_each(|_| drop(cluster.invoke(0, &harmless())));
    process.kill();
    fs::write(&log, &old).unwrap();
    process.start_again(&one.socket);
    let fenced = || reasons(cluster.node(3)).contains("what its record does not hold");
    run_until(&cluster, "it is fenced", fenced);
    let from = cluster.node(0).handle().ledger().tip().height;
    run_until(&cluster, "it votes again", || votes_from(&cluster, me, Height(from.0 + 1)));
    let fences = |i: usize| {
        let metrics = cluster.node(i).handle().render_metrics();
        let line = metrics.lines().find(|line| line.starts_with("obelisk_signer_fences_total"));
        line.unwrap().to_owned()
    };
    assert_eq!(fences(3), "obelisk_signer_fences_total 1");
    assert_eq!(fences(0), "obelisk_signer_fences_total 0", "its record is whole");
    assert_no_evidence(&cluster);
}

/// Aim: a validator that has no peers compares its record with what it saw signed itself.
#[test]
fn a_lone_validator_notices_an_old_record() {
    let (cluster, mut process, one) = over_a_process(1);
    cluster.invoke(0, &harmless());
    let organisation = &cluster.members(Role::Validator)[0].organisation;
    let log = one.config.with_file_name("guard").join(format!("{organisation}_validator.slots"));
    process.kill();
    let old = fs::read(&log).unwrap();
    process.start_again(&one.socket);
    (0..3).for_each(|_| drop(cluster.invoke(0, &harmless())));
    let fences = || {
        let metrics = cluster.node(0).handle().render_metrics();
        metrics.contains("obelisk_signer_fences_total 1")
    };
    assert!(!fences(), "a restart of the signer alone is harmless");
    process.kill();
    fs::write(&log, &old).unwrap();
    process.start_again(&one.socket);
    let end = Instant::now() + PATIENCE;
    while !fences() {
        assert!(Instant::now() < end, "an old record was not noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_ne!(fs::read(&log).unwrap()[18..34], old[18..34], "the guard's identity");
    cluster.invoke(0, &harmless());
}

fn command(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

/// Aim: `signer export` retires the record, `signer import` elsewhere goes on with it, and neither
/// works while a signer runs or a second time.
#[test]
fn a_record_moves_to_another_signer() {
    let directory = TempDir::new().unwrap();
    let now = obelisk::host::clock::now_ms();
    let spec = Spec::local("test", 1, Algorithm::EcdsaP256, now - 1000);
    let crypto = obelisk::crypto::routing::Crypto::portable();
    let consortium = Consortium::make(directory.path(), &spec, &crypto).unwrap();
    let chain = consortium.genesis.chain_id();
    let member = consortium.of_role(Role::Validator).next().unwrap().clone();
    let key = Msp::load(&member.folder).unwrap().enrolment.identity().unwrap().key;
    let name = format!("{}/validator", member.organisation);
    let one = OneSigner::make(&consortium, directory.path());
    let process = SignerProcess::start(&one.config, &one.socket, &[]);
    let signer = RemoteSigner::open(place(&one.socket), chain, key.clone(), false).unwrap();
    settle(&signer);
    assert!(signer.sign(&[request(chain, 1)]).remove(0).is_ok());
    let file = directory.path().join("record").display().to_string();
    let (config, other) = (one.config.display().to_string(), elsewhere(&one));
    let export = ["signer", "export", "--config", &config, "--validator", &name, "--out", &file];
    let running = command(&export);
    let text = String::from_utf8_lossy(&running.stderr).into_owned();
    assert!(!running.status.success() && text.contains("locked"), "{text}");
    drop(process);
    let exported = command(&export);
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let (_, text) = refused(&one.config, &[]);
    assert!(text.contains("is retired"), "{text}");
    let new = other.display().to_string();
    let import = ["signer", "import", "--config", &new, "--validator", &name, &file];
    let imported = command(&import);
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    assert!(!command(&import).status.success());
    let socket = other.with_file_name("s");
    let _process = SignerProcess::start(&other, &socket, &[]);
    let signer = RemoteSigner::open(place(&socket), chain, key, true).unwrap();
    settle(&signer);
    assert!(signer.sign(&[request(chain, 2)]).remove(0).is_err());
    assert!(signer.sign(&[request(chain, 1)]).remove(0).is_ok());
}

/// The same signer on another machine: its keys, no guard.
fn elsewhere(one: &OneSigner) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let home = one.config.parent().unwrap().parent().unwrap().join("elsewhere");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let config = home.join("signer.toml");
    fs::copy(&one.config, &config).unwrap();
    config
}
