//! A healthy node on a recorded machine, and one planted fault after the other.

mod machine;
mod node;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::cli::doctor::scope::Drift;
use crate::cli::doctor::scope::Heights;
use crate::cli::doctor::scope::Probes;
use crate::cli::doctor::scope::Space;
use crate::crypto::routing::Crypto;
use crate::host::clock::now_ms;
use crate::host::cpacf;
use crate::host::recorded;
use crate::ledger::Divergence;
use crate::ledger::Ledger;
use crate::ledger::LedgerError;
use crate::ledger::Roots;
use crate::membership::consortium::Consortium;
use crate::membership::consortium::Member;
use crate::membership::consortium::Spec;
use crate::membership::identity::Role;
use crate::membership::msp::Msp;
use crate::network::tls;
use crate::signer::guard::SlotGuard;
use crate::signer::remote;
use crate::storage;
use crate::types::digest::Digest;
use crate::types::ids::Height;
use crate::types::signature::Algorithm;

/// A node's folders, the machine it runs on, and who answers it.
struct Patient {
    machine: TempDir,
    home: TempDir,
    probes: Probes,
    cpu_info: Option<String>,
    made: Consortium,
    peers: Vec<TcpListener>,
}

fn constants() -> Probes {
    Probes {
        syncs: |_| Ok(vec![Duration::from_millis(1); 40]),
        space: |_| Ok(room(900 << 30, 1 << 19)),
        file_system: |_| Ok("ext4"),
        drift: || Drift { backwards: false, apart: Duration::from_micros(20) },
        direct_io: |_| Ok(()),
        signer: remote::status,
        user: nix::unistd::geteuid().as_raw(),
        now_ms: now_ms(),
    }
}

impl Patient {
    /// A node with data.
    fn on(machine: &str) -> Self {
        let patient = Self::fresh(machine);
        patient.write_data();
        patient
    }

    /// A node that was never started.
    fn fresh(machine: &str) -> Self {
        let (machine, _) = recorded::machine(machine);
        let home = tempfile::tempdir().unwrap();
        let made = network(home.path());
        let listen = |_| TcpListener::bind("127.0.0.1:0").unwrap();
        let peers = (0..3).map(listen).collect();
        let patient = Self { machine, home, probes: constants(), cpu_info: None, made, peers };
        patient.write_config();
        patient
    }

    fn validators(&self) -> Vec<Member> {
        self.made.of_role(Role::Validator).cloned().collect()
    }

    fn config(&self) -> PathBuf {
        self.home.path().join("node.toml")
    }

    fn data(&self, path: &str) -> PathBuf {
        self.home.path().join("data").join(path)
    }

    fn write_config(&self) {
        let members = self.validators();
        let peers = members[1..].iter().zip(&self.peers).map(|(member, listener)| {
            let (organisation, name) = (&member.organisation, &member.name);
            let address = listener.local_addr().unwrap();
            format!(
                "[[network.peers]]\norganisation = \"{organisation}\"\nname = \"{name}\"\n\
                 address = \"{address}\"\n"
            )
        });
        let engine = if cfg!(feature = "rocksdb") { "rocksdb" } else { "memory" };
        let text = format!(
            "[node]\nrole = \"validator\"\ndata = \"data\"\nidentity = {:?}\ngenesis = {:?}\n\
             [network]\nlisten = \"127.0.0.1:0\"\n{}[api]\nrest = \"127.0.0.1:0\"\n\
             rest_plain = \"\"\ngrpc = \"127.0.0.1:0\"\nopen = false\n\
             [storage]\nengine = \"{engine}\"\n",
            members[0].folder,
            self.made.genesis_path,
            peers.collect::<String>()
        );
        fs::write(self.config(), text).unwrap();
        mode(&self.config(), 0o644);
    }

    /// An empty ledger and a guard that has signed nothing.
    fn write_data(&self) {
        let engine = if cfg!(feature = "rocksdb") { "rocksdb" } else { "memory" };
        for folder in ["", "guard", "consensus", "state"] {
            fs::create_dir_all(self.data(folder)).unwrap();
        }
        mode(&self.data(""), 0o700);
        let store = storage::store(engine).unwrap();
        let kv = (store.open)(&self.data("state"), &storage::RocksSizing::default()).unwrap();
        Ledger::open(&self.data("ledger"), &self.made.genesis, kv).unwrap();
        let key = Msp::load(&self.validators()[0].folder).unwrap().enrolment;
        let key = key.identity().unwrap().key;
        let chain = self.made.genesis.chain_id();
        SlotGuard::create(&self.data("guard/slots.log"), chain, &key, 0).unwrap();
        mode(&self.data("guard/slots.log"), 0o600);
    }

    fn put(&self, path: &str, text: &str) {
        recorded::put(self.machine.path(), path, text.as_bytes());
    }

    fn replace(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(self.config(), text.replacen(from, to, 1)).unwrap();
    }

    fn scope(&self) -> Scope {
        let tree = Tree::below(self.machine.path());
        let probes = Probes { ..constants() };
        let mut scope = Scope::new(tree, Some(self.config()), self.cpu_info.clone(), probes);
        scope.probes = Probes {
            syncs: self.probes.syncs,
            space: self.probes.space,
            file_system: self.probes.file_system,
            drift: self.probes.drift,
            direct_io: self.probes.direct_io,
            signer: self.probes.signer,
            user: self.probes.user,
            now_ms: self.probes.now_ms,
        };
        scope
    }

    fn ask(&self, id: &str, change: fn(&mut Scope)) -> Finding {
        let mut scope = self.scope();
        change(&mut scope);
        let check = checks(None).into_iter().find(|check| check.id == id).unwrap();
        ask(&[check], &scope).pop().unwrap().1
    }
}

/// A network in its own folder: a copy of one that is made once.
fn network(home: &Path) -> Consortium {
    static MADE: OnceLock<(TempDir, Consortium)> = OnceLock::new();
    let (folder, made) = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let made = another_network(folder.path());
        (folder, made)
    });
    copy(folder.path(), home);
    let moved = |path: &Path| home.join(path.strip_prefix(folder.path()).unwrap());
    let mut own = Consortium { genesis_path: moved(&made.genesis_path), ..made.clone() };
    for member in &mut own.members {
        member.folder = moved(&member.folder);
    }
    own
}

fn another_network(folder: &Path) -> Consortium {
    let mut spec = Spec::local("test", 4, Algorithm::Ed25519, now_ms() - 1000);
    spec.consensus = "pbft".into();
    Consortium::make(folder, &spec, &Crypto::portable()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
        match path.is_dir() {
            true => {
                fs::create_dir_all(to.join(&name)).unwrap();
                copy(&path, &to.join(&name));
            }
            // The mode, which keeps keys from others, is copied too.
            false => {
                fs::copy(&path, to.join(&name)).unwrap();
            }
        }
    }
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
}

/// Answers TLS handshakes as that member until the runtime is dropped.
fn answer(runtime: &Runtime, listener: &TcpListener, member: &Member, made: &Consortium) {
    let pair = Msp::load(&member.folder).unwrap().tls.unwrap();
    let chain = [pair.certificate.clone()];
    let credentials = Arc::new(tls::Credentials::new(&chain, &pair.key.unwrap()).unwrap());
    let roots = tls::Roots::new(made.genesis.organisations.iter().map(|o| &o.root)).unwrap();
    let check: tls::Check = Arc::new(|_| Ok(()));
    let callers = tls::Callers::Authenticated;
    let config = tls::server_config(credentials, &roots, callers, check, &["h2"]).unwrap();
    let acceptor = TlsAcceptor::from(config);
    let listener = listener.try_clone().unwrap();
    listener.set_nonblocking(true).unwrap();
    let _guard = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = tokio::io::AsyncReadExt::read_u8(&mut stream).await;
                }
            });
        }
    });
}

fn answering(patient: &Patient, order: [usize; 3]) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let members = patient.validators();
    for (listener, place) in patient.peers.iter().zip(order) {
        if place > 0 {
            answer(&runtime, listener, &members[place], &patient.made);
        }
    }
    runtime
}

/// Nothing above a note on a node as it should be, and every fix says something.
#[test]
fn a_healthy_node_needs_no_doctor() {
    let patient = Patient::on("x86-small-vm");
    let _answering = answering(&patient, [1, 2, 3]);
    let found = ask(&checks(None), &patient.scope());
    let ill: Vec<_> = found
        .iter()
        .filter(|(_, finding)| finding.outcome > Outcome::Note)
        .map(|(check, finding)| format!("{}: {}", check.id, finding.reason))
        .collect();
    assert_eq!(ill, Vec::<String>::new());
    assert!(found.len() >= 70, "{} checks", found.len());
    let of = |id: &str| found.iter().find(|(check, _)| check.id == id).unwrap().1.clone();
    assert_eq!(of("network.peers").outcome, Outcome::Ok);
    assert_eq!(of("data.state").outcome, Outcome::Ok, "{:?}", of("data.state"));
    assert_eq!(of("guard.log").outcome, Outcome::Ok, "{:?}", of("guard.log"));
    assert!(verdict(&found).is_ok());
}

/// Without a configuration the machine alone is looked at.
#[test]
fn without_a_configuration_the_machine_is_looked_at() {
    let (_folder, tree) = recorded::machine("power-lpar");
    let found = ask(&checks(None), &Scope::new(tree, None, None, constants()));
    let skipped = found.iter().filter(|(_, f)| f.outcome == Outcome::Skipped).count();
    assert!(skipped > 30 && found.len() - skipped > 25, "{skipped} of {}", found.len());
}

/// Peers: one silent is a warning, two are no quorum, a stranger is named.
#[test]
fn silent_and_strange_peers_are_named() {
    let patient = Patient::on("x86-small-vm");
    let runtime = answering(&patient, [2, 1, 3]);
    let strange = patient.ask("network.peers", |_| {});
    assert_eq!(strange.outcome, Outcome::Error, "{strange:?}");
    assert!(strange.reason.contains("answers org3/"), "{strange:?}");
    drop(runtime);
    let mut patient = Patient::on("x86-small-vm");
    patient.peers.pop();
    let runtime = answering(&patient, [1, 2, 0]);
    let one = patient.ask("network.peers", |_| {});
    assert_eq!(one.outcome, Outcome::Warning, "{one:?}");
    drop(runtime);
    patient.peers.clear();
    let none = patient.ask("network.peers", |_| {});
    assert_eq!(none.outcome, Outcome::Error, "{none:?}");
    assert!(none.reason.contains("no quorum"), "{none:?}");
}

/// Exit codes go by the worst finding.
#[test]
fn the_worst_finding_decides_the_exit_code() {
    let check = checks(None)[0];
    let with = |finding| verdict(&[(check, Finding::ok("")), (check, finding)]);
    assert!(with(Finding::note("")).is_ok() && with(Finding::skipped("")).is_ok());
    assert_eq!(with(Finding::warning("", "x")).unwrap_err().exit, Exit::Warned);
    assert_eq!(with(Finding::error("", "x")).unwrap_err().exit, Exit::Refused);
}

/// A planted fault: check, expected result, machine, what is done to node and machine, and to what
/// was gathered.
type Plant = (&'static str, Outcome, &'static str, fn(&mut Patient), fn(&mut Scope));

const VM: &str = "x86-small-vm";
const Z: &str = "linuxone-lpar";
const SERVER: &str = "x86-server";

fn nothing(_: &mut Scope) {}
fn healthy(_: &mut Patient) {}

fn year_ahead(days: u64) -> u64 {
    now_ms() + days * 24 * 60 * 60 * 1000
}

/// Every plant gives its result, with a fix where something is to be done.
#[test]
fn planted_faults_are_found() {
    let mut wrong = Vec::new();
    for (id, expected, machine, plant, change) in plants() {
        let groups = ["data.", "guard.", "clock.ledger", "identity.owner"];
        let mut patient = match groups.iter().any(|group| id.starts_with(group)) {
            true => Patient::on(machine),
            false => Patient::fresh(machine),
        };
        plant(&mut patient);
        let found = patient.ask(id, change);
        let silent = expected >= Outcome::Warning && found.fix.len() < 5 || found.reason.len() < 3;
        if found.outcome != expected || silent {
            wrong.push(format!("{id}: wanted {}, got {found:?}", expected.name()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// No check without a planted fault.
#[test]
fn every_check_has_its_planted_fault() {
    let planted: BTreeSet<&str> = plants().iter().map(|(id, ..)| *id).collect();
    let elsewhere = ["network.peers"];
    let missing: Vec<&str> = checks(None)
        .iter()
        .map(|check| check.id)
        .filter(|id| !planted.contains(id) && !elsewhere.contains(id))
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// The build is named with everything that can be left out of one.
#[test]
fn every_feature_is_named() {
    let manifest: toml::Table = toml::from_str(include_str!("../../../Cargo.toml")).unwrap();
    let features = manifest["features"]["default"].as_array().unwrap();
    let features = features.iter().map(|name| name.as_str().unwrap());
    // The doctor is part of the command line.
    let missing: Vec<&str> = features
        .filter(|name| *name != "cli" && !scope::FEATURES.iter().any(|(known, _)| known == name))
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}

fn plants() -> Vec<Plant> {
    [
        machine::machine_plants(),
        machine::crypto_plants(),
        node::config_plants(),
        node::identity_plants(),
        node::data_plants(),
    ]
    .concat()
}

fn room(free_bytes: u64, free_files: u64) -> Space {
    Space { free_bytes, total_bytes: 1000 << 30, free_files, total_files: 1 << 20 }
}
