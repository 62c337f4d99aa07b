//! Faults of a node: configuration, identity, disk, data.

use super::*;

pub(super) fn config_plants() -> Vec<Plant> {
    use Outcome::Error;
    use Outcome::Note;
    use Outcome::Warning;
    vec![
        ("config.file", Error, VM, |p| p.replace("engine =", "engin ="), nothing),
        ("config.file", Error, VM, |p| fs::remove_file(p.config()).unwrap(), nothing),
        ("config.mode", Error, VM, |p| mode(&p.config(), 0o666), nothing),
        (
            "config.genesis",
            Error,
            VM,
            |p| fs::write(&p.made.genesis_path, b"nonsense").unwrap(),
            nothing,
        ),
        ("config.store", Warning, VM, |p| engine(p, "memory"), nothing),
        ("config.store", Error, VM, |p| engine(p, "floppy"), nothing),
        (
            "config.ports",
            Error,
            VM,
            |p| {
                p.replace("rest = \"127.0.0.1:0\"", "rest = \"127.0.0.1:7050\"");
                p.replace("grpc = \"127.0.0.1:0\"", "grpc = \"127.0.0.1:7050\"");
            },
            nothing,
        ),
        (
            "config.plain",
            Error,
            VM,
            |p| p.replace("rest_plain = \"\"", "rest_plain = \"0.0.0.0:7052\""),
            nothing,
        ),
        ("config.open", Note, VM, |p| p.replace("open = false", "open = true"), nothing),
        (
            "config.peers",
            Warning,
            VM,
            |p| {
                p.peers.pop();
                p.write_config();
            },
            nothing,
        ),
        (
            "config.peers",
            Error,
            VM,
            |p| p.replace("organisation = \"org2\"", "organisation = \"org9\""),
            nothing,
        ),
        (
            "config.timeouts",
            Warning,
            VM,
            |p| p.replace("[storage]", "[consensus]\nrequest_timeout_ms = 50\n[storage]"),
            nothing,
        ),
        ("signer.user", Error, VM, |p| process(p, "/nowhere", "nobody-of-this-name"), nothing),
        ("signer.socket", Error, VM, |p| process(p, "/nowhere", ""), nothing),
        ("signer.socket", Error, VM, exposed_socket, nothing),
        ("signer.answers", Error, VM, exposed_socket, nothing),
        ("signer.records", Error, VM, own_record_gone, says_own_record_gone),
        ("signer.records", Error, VM, served, |scope| says(scope, &key(STOPPED, "[]", "null"))),
        ("signer.records", Warning, VM, served, |scope| says(scope, &key(UNPROVEN, "[]", "null"))),
        ("signer.records", Note, VM, served, |scope| says(scope, &key(UNCOMPARED, "[]", "null"))),
        ("signer.records", Warning, VM, served, |scope| says(scope, &key(FENCED, "[]", "null"))),
        ("signer.tokens", Error, VM, served, |scope| {
            says(scope, &token("0, \"stopped\": \"PIN\""))
        }),
        ("signer.tokens", Error, VM, served, |scope| {
            says(scope, &token("4, \"away_since_ms\": 7"))
        }),
        ("signer.tokens", Warning, VM, served, |scope| says(scope, &token("3"))),
        ("signer.sessions", Error, VM, served, |scope| {
            says(scope, &key(HEALTHY, &session(false), "null"));
        }),
        ("signer.sessions", Warning, VM, served, |scope| {
            says(scope, &key(HEALTHY, &session(true), "\"the token is away\""));
        }),
        ("tls.key", Error, VM, with_tls_elsewhere, |scope| {
            says(scope, &key(HEALTHY, "[]", "null"))
        }),
        ("token.config", Error, VM, |p| signer_file(p, "[signer]\nsokcet = 1\n", 0), nothing),
        ("token.module", Error, VM, |p| signer_file(p, "", 0), nothing),
        ("token.module", Error, VM, |p| spied(p, b"getenv PKCS11SPY", 0o755), nothing),
        ("token.module", Error, VM, |p| spied(p, b"a library", 0o777), nothing),
        ("token.pin", Error, VM, |p| signer_file(p, "", 0o444), nothing),
        ("token.pin", Error, VM, |p| signer_file(p, "", 0), nothing),
        ("identity.custody", Warning, VM, |p| process(p, "/nowhere", ""), nothing),
        (
            "network.ports",
            Error,
            VM,
            |p| {
                let taken = p.peers[0].local_addr().unwrap();
                p.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"{taken}\""));
            },
            nothing,
        ),
        (
            "network.names",
            Error,
            VM,
            |p| {
                let address = p.peers[0].local_addr().unwrap().to_string();
                p.replace(&address, "no-such-host.invalid:7051");
            },
            nothing,
        ),
    ]
}

fn process(patient: &Patient, socket: &str, user: &str) {
    let section = format!(
        "[signer]\nmode = \"process\"\nsocket = \"{socket}\"\nuser = \"{user}\"\n[storage]"
    );
    patient.replace("[storage]", &section);
}

/// A socket that everybody may open, and where nobody answers.
fn exposed_socket(patient: &mut Patient) {
    let path = patient.home.path().join("signer.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    mode(&path, 0o777);
    process(patient, &path.display().to_string(), "");
}

fn served(patient: &mut Patient) {
    process(patient, "/nowhere", "");
}

fn with_tls_elsewhere(patient: &mut Patient) {
    served(patient);
    patient.replace("mode = \"process\"", "mode = \"process\"\ntls = true");
}

/// The signer's configuration beside the node's, or a text instead; a PIN file of that mode, or none.
fn signer_file(patient: &mut Patient, instead: &str, pin_mode: u32) {
    served(patient);
    let text = "[signer]\nsocket = \"s\"\ndata = \"guard\"\n[[validator]]\n\
                name = \"org1/validator\"\ngenesis = \"genesis.bin\"\n\
                key = { token = \"hsm\", id = \"01\" }\n[[token]]\nname = \"hsm\"\n\
                module = \"module.so\"\nlabel = \"x\"\npin = \"pin\"\n";
    let text = if instead.is_empty() { text } else { instead };
    fs::write(patient.config().with_file_name("signer.toml"), text).unwrap();
    if pin_mode > 0 {
        let pin = patient.config().with_file_name("pin");
        fs::write(&pin, "1234").unwrap();
        mode(&pin, pin_mode);
    }
}

fn spied(patient: &mut Patient, module: &[u8], module_mode: u32) {
    signer_file(patient, "", 0o400);
    let path = patient.config().with_file_name("module.so");
    fs::write(&path, module).unwrap();
    mode(&path, module_mode);
}

/// What the signer says of itself.
fn says(scope: &mut Scope, text: &str) {
    scope.signer.set(Ok(serde_json::from_str(text).unwrap())).unwrap();
}

fn key(guard: &str, sessions: &str, trouble: &str) -> String {
    format!(
        r#"{{"keys": [{{"name": "org1/validator", "purpose": "votes", "guard": {guard},
            "sessions": {sessions}, "trouble": {trouble}}}], "tokens": []}}"#
    )
}

fn session(certified: bool) -> String {
    format!(r#"[{{"first": 1, "last": 9, "certified": {certified}}}]"#)
}

fn token(fields: &str) -> String {
    format!(
        r#"{{"keys": [], "tokens": [{{"name": "hsm", "sessions_wanted": 4, "sessions": {fields}}}]}}"#
    )
}

const HEALTHY: &str = r#"{"state": "in use", "signs": true, "floor": 0, "newest": 5}"#;
const FENCED: &str = r#"{"state": "in use", "signs": true, "floor": 143, "newest": 21}"#;
const UNCOMPARED: &str = r#"{"state": "in use", "signs": false, "floor": 0, "newest": 5}"#;
const UNPROVEN: &str = r#"{"state": "waiting for peers", "signs": false, "floor": 143}"#;
const STOPPED: &str = r#"{"state": "stopped: another signer uses the key", "signs": false}"#;

/// A node that has voted, whose signer has no record.
fn own_record_gone(patient: &mut Patient) {
    served(patient);
    fs::create_dir_all(patient.data("consensus")).unwrap();
    fs::write(patient.data("consensus/order.1"), b"").unwrap();
}

fn says_own_record_gone(scope: &mut Scope) {
    let own = scope.members().unwrap().enrolment.identity().unwrap().key;
    let public = hex::encode(own.as_bytes());
    says(scope, &key(&format!("null, \"public_key\": \"{public}\""), "[]", "null"));
}

/// A signer whose records, tokens and session keys are as they should be.
#[test]
fn a_signer_that_is_well_needs_nothing() {
    let mut patient = Patient::fresh(VM);
    spied(&mut patient, b"a library", 0o755);
    for id in ["token.config", "token.module", "token.pin"] {
        let found = patient.ask(id, nothing);
        assert_eq!(found.outcome, Outcome::Ok, "{id}: {found:?}");
    }
    for (id, status) in [
        ("signer.records", key(HEALTHY, "[]", "null")),
        ("signer.tokens", token("4, \"stopped\": null, \"away_since_ms\": null")),
        ("signer.sessions", key(HEALTHY, &session(true), "null")),
    ] {
        let mut scope = patient.scope();
        says(&mut scope, &status);
        let check = checks(None).into_iter().find(|check| check.id == id).unwrap();
        let found = ask(&[check], &scope).pop().unwrap().1;
        assert_eq!(found.outcome, Outcome::Ok, "{id}: {found:?}");
    }
}

fn engine(patient: &Patient, name: &str) {
    let text = fs::read_to_string(patient.config()).unwrap();
    let (head, _) = text.split_once("engine = ").unwrap();
    fs::write(patient.config(), format!("{head}engine = \"{name}\"\n")).unwrap();
}

pub(super) fn identity_plants() -> Vec<Plant> {
    use Outcome::Error;
    use Outcome::Note;
    use Outcome::Warning;
    fn key(p: &Patient) -> PathBuf {
        p.validators()[0].folder.join("key.pem")
    }
    fn swap(p: &Patient, role: Role) {
        let other = p.made.of_role(role).next().unwrap().folder.clone();
        let own = p.validators()[0].folder.clone();
        let text = fs::read_to_string(p.config()).unwrap();
        fs::write(p.config(), text.replace(&format!("{own:?}"), &format!("{other:?}"))).unwrap();
    }
    vec![
        (
            "identity.folder",
            Error,
            VM,
            |p| fs::remove_file(p.validators()[0].folder.join("cert.pem")).unwrap(),
            nothing,
        ),
        ("identity.key", Error, VM, |p| fs::remove_file(key(p)).unwrap(), nothing),
        ("identity.key-mode", Error, VM, |p| mode(&key(p), 0o644), nothing),
        ("identity.owner", Warning, VM, foreign_identity, nothing),
        ("identity.chain", Error, VM, stranger, nothing),
        ("identity.validity", Error, VM, |p| p.probes.now_ms = year_ahead(40_000), nothing),
        ("identity.validity", Error, VM, |p| p.probes.now_ms = 1_000_000, nothing),
        ("identity.validity", Warning, VM, |p| p.probes.now_ms = last_days(p, 20), nothing),
        (
            "identity.key",
            Error,
            VM,
            |p| {
                let other = p.validators()[1].folder.join("key.pem");
                fs::copy(other, key(p)).unwrap();
                mode(&key(p), 0o600);
            },
            nothing,
        ),
        ("identity.role", Error, VM, |p| swap(p, Role::Client), nothing),
        ("identity.seat", Error, VM, |p| swap(p, Role::Client), nothing),
        ("identity.custody", Note, VM, healthy, nothing),
        ("tls.chain", Error, VM, no_tls, nothing),
        ("tls.validity", Error, VM, |p| p.probes.now_ms = year_ahead(40_000), nothing),
        (
            "tls.key",
            Error,
            VM,
            |p| {
                let path = p.validators()[0].folder.join("tls/key.pem");
                fs::copy(p.validators()[1].folder.join("tls/key.pem"), &path).unwrap();
                mode(&path, 0o600);
            },
            nothing,
        ),
        (
            "tls.names",
            Warning,
            VM,
            |p| p.replace("rest = \"127.0.0.1:0\"", "rest = \"ledger.example.org:7050\""),
            nothing,
        ),
        ("roots.validity", Error, VM, |p| p.probes.now_ms = year_ahead(80_000), nothing),
    ]
}

fn last_days(patient: &Patient, days: u64) -> u64 {
    let pair = Msp::load(&patient.validators()[0].folder).unwrap().enrolment;
    pair.identity().unwrap().not_after_ms - days * 24 * 60 * 60 * 1000
}

fn no_tls(patient: &mut Patient) {
    fs::remove_dir_all(patient.validators()[0].folder.join("tls")).unwrap();
}

/// Another network's validator of the same name.
fn stranger(patient: &mut Patient) {
    let folder = tempfile::tempdir().unwrap();
    let other = another_network(folder.path());
    let from = &other.of_role(Role::Validator).next().unwrap().folder;
    let to = &patient.validators()[0].folder;
    for name in ["cert.pem", "key.pem"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// Only root can give files away; elsewhere the data is someone else's: `/`, root's own folder.
fn foreign_identity(patient: &mut Patient) {
    let identity = patient.validators()[0].folder.clone();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&identity, Some(12_345), None).unwrap();
    } else {
        patient.replace("data = \"data\"", "data = \"/\"");
    }
}

pub(super) fn data_plants() -> Vec<Plant> {
    use Outcome::Error;
    use Outcome::Note;
    use Outcome::Skipped;
    use Outcome::Warning;
    vec![
        ("disk.sync", Warning, VM, |p| p.probes.syncs = |_| Ok(slow_syncs(1, 50)), nothing),
        ("disk.sync", Error, VM, |p| p.probes.syncs = |_| Ok(slow_syncs(60, 60)), nothing),
        ("disk.sync", Error, VM, |p| p.probes.syncs = |_| Err(io::Error::other("denied")), nothing),
        ("disk.space", Error, VM, |p| p.probes.space = |_| Ok(room(1 << 30, 100)), nothing),
        ("disk.space", Warning, VM, |p| p.probes.space = |_| Ok(room(20 << 30, 100)), nothing),
        ("disk.files", Warning, VM, |p| p.probes.space = |_| Ok(room(900 << 30, 100)), nothing),
        ("disk.file-system", Error, VM, |p| p.probes.file_system = |_| Ok("tmpfs"), nothing),
        ("disk.file-system", Warning, VM, |p| p.probes.file_system = |_| Ok("overlay"), nothing),
        (
            "disk.options",
            Error,
            VM,
            |p| p.put("proc/self/mounts", "/dev/vda1 / ext4 rw,nobarrier 0 0\n"),
            nothing,
        ),
        // A relative data directory lies somewhere, too.
        ("disk.options", Outcome::Ok, VM, healthy, |scope| relative(scope)),
        (
            "disk.scheduler",
            Warning,
            VM,
            |p| p.put("sys/block/vda/queue/scheduler", "none [bfq]"),
            nothing,
        ),
        (
            "disk.direct-io",
            Error,
            SERVER,
            |p| p.probes.direct_io = |_| Err(io::Error::from_raw_os_error(22)),
            nothing,
        ),
        ("data.owner", Error, VM, |p| mode(&p.data(""), 0o777), nothing),
        ("data.running", Note, VM, hold, nothing),
        ("data.chain", Error, VM, other_chain, nothing),
        (
            "data.blocks",
            Error,
            VM,
            |p| fs::write(p.data("ledger/segments/00000001.seg"), [7; 9000]).unwrap(),
            nothing,
        ),
        ("data.state", Error, VM, healthy, |scope| refuse(scope, diverged())),
        ("data.state", Note, VM, healthy, |scope| stand(scope, 5, 3)),
        ("data.blocks", Skipped, VM, |p| p.probes.user = 54_321, nothing),
        ("data.tree", Warning, VM, |p| sparse(&p.data("state/x.sst"), 1 << 40), nothing),
        (
            "guard.log",
            Error,
            VM,
            |p| {
                fs::remove_file(p.data("guard/slots.log")).unwrap();
                fs::write(p.data("consensus/order.1"), b"").unwrap();
            },
            nothing,
        ),
        (
            "guard.log",
            Error,
            VM,
            |p| fs::write(p.data("guard/slots.log"), [1; 4096]).unwrap(),
            nothing,
        ),
        (
            "guard.log",
            Error,
            VM,
            |p| fs::remove_file(p.data("guard/slots.log")).unwrap(),
            |scope| {
                stand(scope, 4, 4);
            },
        ),
        ("guard.age", Warning, VM, healthy, |scope| stand(scope, 9000, 9000)),
        ("guard.age", Warning, VM, healthy, |scope| {
            let heights = Heights { voted: Some(4), ..AT_FOUR };
            assert!(scope.ledger.set(Ok(heights)).is_ok());
        }),
        ("guard.mode", Error, VM, |p| mode(&p.data("guard/slots.log"), 0o666), nothing),
    ]
}

fn relative(scope: &mut Scope) {
    let Some(Ok(config)) = &mut scope.config else { panic!("no configuration") };
    config.node.data = PathBuf::from("src");
}

fn slow_syncs(median_ms: u64, ninth_ms: u64) -> Vec<Duration> {
    let of = |count, ms| vec![Duration::from_millis(ms); count];
    [of(30, median_ms), of(10, ninth_ms)].concat()
}

/// As a node does; the test's process holds it to its end.
fn hold(patient: &mut Patient) {
    use nix::fcntl::Flock;
    use nix::fcntl::FlockArg;

    let file = fs::OpenOptions::new().write(true).open(patient.data("ledger/lock")).unwrap();
    std::mem::forget(Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap());
}

fn other_chain(patient: &mut Patient) {
    let folder = tempfile::tempdir().unwrap();
    let genesis = fs::read(&another_network(folder.path()).genesis_path).unwrap();
    fs::write(&patient.made.genesis_path, genesis).unwrap();
}

fn sparse(path: &Path, bytes: u64) {
    fs::File::create(path).unwrap().set_len(bytes).unwrap();
}

fn diverged() -> LedgerError {
    let roots = |byte| Roots { state: Digest([byte; 32]), receipts: Digest::ZERO };
    Divergence { height: Height(3), recorded: roots(1), computed: roots(2) }.into()
}

fn refuse(scope: &mut Scope, error: LedgerError) {
    assert!(scope.ledger.set(Err(error)).is_ok());
}

const AT_FOUR: Heights = Heights { stored: 4, applied: 4, time_ms: 1, sequence: 4, voted: None };

fn stand(scope: &mut Scope, stored: u64, applied: u64) {
    let heights = Heights { stored, applied, time_ms: 1, sequence: applied, voted: None };
    assert!(scope.ledger.set(Ok(heights)).is_ok());
}
