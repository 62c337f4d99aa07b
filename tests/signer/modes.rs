//! Four validators with their keys on one slow token, in each mode of signing: they commit, and what
//! an outage of signer or token costs is what the mode says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use obelisk::client::invocation::Invocation;
use obelisk::crypto::routing::Crypto;
use obelisk::host::clock::now_ms;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::consortium::Spec;
use obelisk::membership::identity::Role;
use obelisk::signer::SignRequest;
use obelisk::signer::Signer;
use obelisk::signer::guard::standing::RecordCall;
use obelisk::signer::guard::standing::Standing;
use obelisk::signer::remote;
use obelisk::signer::remote::RemoteSigner;
use obelisk::types::ids::Height;
use obelisk::types::receipt::Status;
use obelisk::types::signature::Algorithm;
use serde_json::Value;

use super::BINARY;
use super::SignerProcess;
use super::place;
use super::process::request;
use super::settle;
use super::softhsm::SoftHsm;
use super::wait_for;
use crate::cluster::Cluster;

/// A network whose four keys are on one token that p11-fault slows down, behind one signer.
struct Network {
    hsm: SoftHsm,
    process: SignerProcess,
    socket: PathBuf,
    cluster: Cluster,
}

impl Network {
    fn start(mode: &str, slowed: &str) -> Option<Self> {
        let hsm = SoftHsm::faulty()?;
        let ids = ["01", "02", "03", "04"];
        let keys =
            ids.map(|id| hsm.keygen("obelisk", id, if id < "03" { "p256" } else { "ed25519" }).1);
        hsm.script(slowed);
        let home = hsm.directory.path().join("signer");
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        let (config, socket) = (home.join("signer.toml"), home.join("s"));
        let mut process = None;
        let cluster = Cluster::start_with(4, Algorithm::EcdsaP256, "pbft", &keys, |network, _| {
            let mut text = "[signer]\nsocket = \"s\"\ndata = \"guard\"\n".to_owned();
            for (i, id) in ids.iter().enumerate() {
                text += &format!(
                    "[[validator]]\nname = \"org{i}/validator\"\ngenesis = {:?}\n{mode}\n\
                     key = {{ token = \"obelisk\", id = \"{id}\" }}\n",
                    network.genesis_path
                );
            }
            text += &hsm.token_section("obelisk");
            fs::write(&config, text).unwrap();
            process = Some(SignerProcess::start(&config, &socket, &hsm.environment));
            format!("[signer]\nmode = \"process\"\nsocket = {socket:?}\n")
        });
        Some(Self { hsm, process: process.unwrap(), socket, cluster })
    }

    fn invoke(&self, i: usize) -> Height {
        let located = self.cluster.invoke(i, &Invocation::new("configure", "show"));
        assert_eq!(located.receipt.status, Status::Ok);
        located.height
    }

    fn status(&self) -> Value {
        serde_json::from_str(&remote::status(&place(&self.socket)).unwrap()).unwrap()
    }

    fn token_signatures(&self) -> u64 {
        self.status()["tokens"][0]["signed"].as_u64().unwrap()
    }

    /// True once every validator has a session certified ahead of its present one.
    fn is_ahead(&self) -> bool {
        let status = self.status();
        status["keys"].as_array().unwrap().iter().all(|key| {
            let sessions = key["sessions"].as_array().unwrap();
            sessions.len() >= 2 && sessions.iter().all(|session| session["certified"] == true)
        })
    }

    /// Votes of a node whose signature was made before they were cast.
    fn signed_ahead(&self, i: usize) -> u64 {
        let metrics = self.cluster.node(i).handle().render_metrics();
        let name = "obelisk_votes_signed_ahead_total ";
        metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
    }

    fn height(&self, i: usize) -> u64 {
        self.cluster.node(i).handle().ledger().tip().height.0
    }
}

/// In each mode: the signer is killed under load, comes back, and the network goes on. Where votes wait
/// for the token in bundles, some are signed ahead.
#[test]
fn four_validators_on_a_slow_token_survive_a_killed_signer() {
    for mode in ["direct", "delegated", "strict"] {
        let mode = format!("mode = {mode:?}");
        let Some(mut network) = Network::start(&mode, "fault sign do=latency ms=2") else { return };
        network.invoke(0);
        let stop = AtomicBool::new(false);
        let (process, cluster) = (&mut network.process, &network.cluster);
        let harmless = || Invocation::new("configure", "show");
        let last = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let mut last = cluster.invoke(1, &harmless()).height;
                while !stop.load(Ordering::Relaxed) {
                    last = last.max(cluster.invoke(1, &harmless()).height);
                }
                last
            });
            for _ in 0..2 {
                std::thread::sleep(Duration::from_millis(400));
                process.kill();
                process.start_again(&network.socket);
            }
            stop.store(true, Ordering::Relaxed);
            load.join().unwrap()
        });
        let height = network.invoke(3);
        network.cluster.converge(last.max(height));
        let ahead = (0..4).map(|i| network.signed_ahead(i)).sum::<u64>();
        assert_eq!(ahead > 0, mode.contains("strict"), "{mode}: {ahead}");
    }
}

/// Delegated, the mode of keys on tokens where none is named: the token signs certificates alone,
/// and when it is taken away, so that nothing shows it any more, votes go on, across a restart of the
/// signer too. The nodes stay ready and warn until it is back, which needs no restart.
#[test]
fn delegated_votes_go_on_without_the_token() {
    let Some(mut network) = Network::start("", "fault sign do=latency ms=2") else { return };
    network.invoke(0);
    wait_for("sessions are certified ahead", || network.is_ahead());
    let before = network.token_signatures();
    network.hsm.script("fault sign do=rv value=0x32\nfault info do=gone\nfault slots do=none");
    let first = network.invoke(1);
    let mut last = first;
    for i in 0..20 {
        last = network.invoke(i % 4);
    }
    assert!(last.0 > first.0);
    assert_eq!(network.token_signatures(), before, "the token signed no vote");
    network.process.kill();
    network.process.start_again(&network.socket);
    let height = network.invoke(2);
    network.cluster.converge(height);
    let told = || network.cluster.node(0).handle().status();
    wait_for("the node warns", || told().warnings.join(" ").contains("token obelisk"));
    assert_eq!(told().not_ready, Vec::<String>::new());
    network.hsm.script("");
    wait_for("the token is taken up", || told().warnings.is_empty());
    network.invoke(3);
}

/// Strict: while the token is away nobody votes and the nodes say why; back, they go on by
/// themselves. Far fewer signatures of the token than votes.
#[test]
fn strict_votes_wait_for_the_token() {
    let Some(network) = Network::start("mode = \"strict\"", "fault sign do=latency ms=2") else {
        return;
    };
    network.invoke(0);
    network.hsm.script("fault sign do=rv value=0x30");
    wait_for("the node says why it does not vote", || {
        let reasons = network.cluster.node(0).handle().status().not_ready;
        reasons.iter().any(|reason| reason.contains("token"))
    });
    let stuck = network.height(0);
    network.hsm.script("fault sign do=latency ms=2");
    let height = network.invoke(1);
    assert!(height.0 > stuck);
    network.cluster.converge(height);
}

/// Delegated: a record that was stopped silences its session keys too, the network goes on without
/// that validator, and after `renew` it votes again by itself.
#[test]
fn a_stopped_record_silences_session_keys_until_it_is_renewed() {
    let Some(mut network) = Network::start("", "fault sign do=latency ms=2") else { return };
    network.invoke(0);
    wait_for("sessions are certified ahead", || network.is_ahead());
    let genesis = &network.cluster.consortium.genesis;
    let me = network.cluster.node(3).handle().status().replica.unwrap();
    let key = genesis.replicas.get(me).unwrap().key.clone();
    let signer = RemoteSigner::open(place(&network.socket), genesis.chain_id(), key, true).unwrap();
    let stopped = signer.record(signer.opening(), &RecordCall::Stop).unwrap();
    assert_eq!(stopped.standing, Standing::Stopped);
    drop(signer);
    let reasons =
        |network: &Network| network.cluster.node(3).handle().status().not_ready.join("; ");
    wait_for("the node says that its record was stopped", || {
        network.invoke(0);
        reasons(&network).contains("another signer uses this key")
    });
    let stopped = network.invoke(1);
    network.process.kill();
    let renewed = Command::new(BINARY)
        .args(["signer", "renew", "--validator", "org3/validator", "--config"])
        .arg(network.hsm.directory.path().join("signer/signer.toml"))
        .envs(network.hsm.environment.iter().cloned())
        .output()
        .unwrap();
    assert!(renewed.status.success(), "{}", String::from_utf8_lossy(&renewed.stderr));
    network.process.start_again(&network.socket);
    wait_for("it votes again", || {
        let tip = network.invoke(0);
        let ledger = network.cluster.node(0).handle().ledger().clone();
        (stopped.0 + 1..=tip.0).any(|height| {
            let block = ledger.block(Height(height)).unwrap().unwrap();
            block.certificate.signatures.iter().any(|(replica, _)| *replica == me)
        })
    });
    for i in 0..4 {
        assert!(network.cluster.node(i).handle().evidence().unwrap().is_empty(), "node {i}");
    }
}

/// A signer of one delegated key on a token, in a folder of its own.
fn delegated(hsm: &SoftHsm, home: &Path, genesis: &Path) -> (PathBuf, PathBuf) {
    fs::create_dir(home).unwrap();
    fs::set_permissions(home, fs::Permissions::from_mode(0o700)).unwrap();
    let (config, socket) = (home.join("signer.toml"), home.join("s"));
    let text = format!(
        "[signer]\nsocket = \"s\"\ndata = \"guard\"\n[[validator]]\nname = \"org1/validator\"\n\
         genesis = {genesis:?}\nkey = {{ token = \"obelisk\", id = \"01\" }}\n{}",
        hsm.token_section("obelisk")
    );
    fs::write(&config, text).unwrap();
    (config, socket)
}

/// Delegated: the record moves and the session keys stay behind. What was signed is not signed
/// otherwise at the new place, where the token certifies another session; the old place is silent.
#[test]
fn a_record_moves_without_its_session_keys() {
    let Some(hsm) = SoftHsm::new() else { return };
    let (_, public) = hsm.keygen("obelisk", "01", "p256");
    let mut spec = Spec::local("test", 1, Algorithm::EcdsaP256, now_ms() - 1000);
    let members = spec.organisations.iter_mut().flat_map(|o| &mut o.members);
    members.filter(|m| m.role == Role::Validator).for_each(|m| m.key = Some(public.clone()));
    let at = |name: &str| hsm.directory.path().join(name);
    let made = Consortium::make(&at("net"), &spec, &Crypto::portable()).unwrap();
    let chain = made.genesis.chain_id();
    let run = |words: [&str; 2], config: &Path, more: &[&Path]| {
        let mut command = Command::new(BINARY);
        command.args(words).arg("--config").arg(config).args(["--validator", "org1/validator"]);
        command.args(more).envs(hsm.environment.iter().cloned());
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let sessions = |socket: &Path| {
        let status: Value = serde_json::from_str(&remote::status(&place(socket)).unwrap()).unwrap();
        status["keys"][0]["sessions"].clone()
    };
    let (old, old_socket) = delegated(&hsm, &at("old"), &made.genesis_path);
    let process = SignerProcess::start(&old, &old_socket, &hsm.environment);
    let open = |socket: &Path, signed| {
        let signer = RemoteSigner::open(place(socket), chain, public.clone(), signed).unwrap();
        settle(&signer);
        signer
    };
    let signs = |signer: &RemoteSigner, request: SignRequest| signer.sign(&[request]).remove(0);
    let first = signs(&open(&old_socket, false), request(chain, 1)).unwrap();
    let before = sessions(&old_socket);
    drop(process);
    let file = at("record");
    let exported = run(["signer", "export"], &old, &[Path::new("--out"), &file]);
    assert!(exported.0, "{}", exported.1);
    let (new, new_socket) = delegated(&hsm, &at("new"), &made.genesis_path);
    let imported = run(["signer", "import"], &new, &[&file]);
    assert!(imported.0, "{}", imported.1);
    let _process = SignerProcess::start(&new, &new_socket, &hsm.environment);
    let signer = open(&new_socket, true);
    assert!(signs(&signer, request(chain, 2)).is_err(), "another text for a slot that was signed");
    let again = signs(&signer, request(chain, 1)).unwrap();
    assert_ne!(again, first, "by another session key");
    let after = sessions(&new_socket);
    assert_ne!(after[0], before[0], "the session keys did not move");
    let (_, errors) = super::refused(&old, &hsm.environment);
    assert!(errors.contains("is retired"), "{errors}");
}
