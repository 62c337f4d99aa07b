//! Four validators with their keys on one slow token, in each mode of signing: they commit, and what
//! an outage of signer or token costs is what the mode says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use obelisk::client::invocation::Invocation;
use obelisk::signer::remote;
use obelisk::types::ids::Height;
use obelisk::types::receipt::Status;
use obelisk::types::signature::Algorithm;
use serde_json::Value;

use super::PATIENCE;
use super::SignerProcess;
use super::place;
use super::softhsm::SoftHsm;
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

    fn height(&self, i: usize) -> u64 {
        self.cluster.node(i).handle().ledger().tip().height.0
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// In each mode: the signer is killed under load, comes back, and the network goes on.
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
    }
}

/// Delegated, the mode of keys on tokens where none is named: the token signs certificates alone,
/// and when it is taken away votes go on, across a restart of the signer too.
#[test]
fn delegated_votes_go_on_without_the_token() {
    let Some(mut network) = Network::start("", "fault sign do=latency ms=2") else { return };
    network.invoke(0);
    wait_for("sessions are certified ahead", || network.is_ahead());
    let before = network.token_signatures();
    network.hsm.script("fault sign do=rv value=0x30");
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
