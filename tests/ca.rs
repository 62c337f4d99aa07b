//! The membership service as a process: registered, enrolled, and the identity used in a network
//! whose genesis document names that authority. And everything it must refuse.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use obelisk::client::enrolment::Authority;
use obelisk::client::error::ClientError;
use obelisk::crypto::routing::Crypto;
use obelisk::membership::certificate;
use obelisk::membership::identity::Root;
use obelisk::membership::msp;

use crate::cli::BINARY;
use crate::cli::Running;
use crate::cli::done;
use crate::cli::json;
use crate::cli::make;
use crate::cli::ready;
use crate::cli::refused;
use crate::cli::start;
use crate::cli::text;

/// A service on a port of its own, ended with the test.
struct Service {
    process: Child,
    address: String,
    config: String,
    root: PathBuf,
    folder: PathBuf,
}

impl Service {
    /// Over the authority in a folder.
    fn start(folder: &Path, authority: &Path) -> Self {
        let (out, authority_text) = (text(folder), text(authority));
        let flags = ["--out", &out, "--authority", &authority_text, "--listen", "127.0.0.1:0"];
        done(&[&["ca", "init"], &flags[..]].concat());
        let config = folder.join("ca.toml");
        let (process, address) = serve(&config);
        let (root, folder) = (authority.join("root.pem"), folder.to_owned());
        Self { process, address, config: text(&config), root, folder }
    }

    fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        (self.process, self.address) = serve(Path::new(&self.config));
    }

    /// Registers a name; gives the file that holds its secret.
    fn register(&self, name: &str, more: &[&str]) -> PathBuf {
        let secret = self.folder.join(format!("{name}-{}.secret", more.len()));
        let file = text(&secret);
        let flags = ["--role", "client", "--config", &self.config, "--secret-out", &file];
        done(&[&["ca", "register", name], &flags[..], more].concat());
        secret
    }

    fn enrolment(&self, name: &str, secret: &Path, out: &Path) -> Vec<String> {
        let words = ["member", "enrol", "--ca", &format!("https://{}", self.address), "--ca-cert"];
        let mut words: Vec<String> = words.map(str::to_owned).to_vec();
        words.extend([text(&self.root), "--name".into(), name.into(), "--secret-file".into()]);
        words.extend([text(secret), "--out".into(), text(out)]);
        words
    }

    fn enrol(&self, name: &str, secret: &Path, out: &Path) -> String {
        let words = self.enrolment(name, secret, out);
        done(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn refuses(&self, name: &str, secret: &Path, out: &Path, code: i32) -> String {
        let words = self.enrolment(name, secret, out);
        refused(&words.iter().map(String::as_str).collect::<Vec<_>>(), code)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn serve(config: &Path) -> (Child, String) {
    let log = fs::File::create(config.with_extension("log")).unwrap();
    let mut process = Command::new(BINARY)
        .args(["--json", "ca", "serve", "--config", &text(config)])
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the service starts");
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| {
        panic!("{}", fs::read_to_string(config.with_extension("log")).unwrap())
    });
    (process, said["address"].as_str().unwrap().to_owned())
}

/// Registered, enrolled over the network, and accepted by the network: its transaction commits. The
/// same request after a crash gets the same certificate.
#[test]
fn an_enrolled_member_sends_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let net = dir.path().join("net");
    let _ports = make(&net, "1");
    let _node: Running = start(&net.join("org1/node.toml"));
    let mut service = Service::start(&dir.path().join("ca"), &net.join("org1/ca"));
    let secret = service.register("alice", &["--attribute", "desk=trade"]);
    let alice = dir.path().join("alice");
    let said = service.enrol("alice", &secret, &alice);
    assert!(said.contains("obelisk://org1/client/alice") && said.contains("desk=trade"), "{said}");
    for key in ["key.pem", "tls/key.pem"] {
        let mode = fs::metadata(alice.join(key)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{key}");
    }
    let (network, identity) = (text(&net), text(&alice));
    ready(&network, 1);
    let wasm = concat!(env!("CARGO_MANIFEST_DIR"), "/contracts/wasm/asset.wasm");
    json(&network, &["chaincode", "deploy", "asset", wasm, "--version", "1", "--init", "org1"]);
    let invoke = ["--identity", &identity, "chaincode", "invoke", "asset", "open", "alice", "1"];
    let invoked = json(&network, &invoke);
    assert_eq!(invoked["status"], "ok", "{invoked}");

    // The reply was lost: the folder holds keys and no certificates, the service was killed.
    let before = fs::read(alice.join("cert.pem")).unwrap();
    fs::remove_file(alice.join("cert.pem")).unwrap();
    service.restart();
    service.enrol("alice", &secret, &alice);
    assert_eq!(fs::read(alice.join("cert.pem")).unwrap(), before);
    let listed = done(&["ca", "list", "--config", &service.config]);
    assert!(listed.contains("client/alice") && listed.contains("enrolled"), "{listed}");
    let revoke = done(&["ca", "revoke-info", "alice", "--config", &service.config]);
    assert_eq!(revoke.matches("obelisk member revoke").count(), 2, "{revoke}");
}

/// Wrong, used and expired secrets, an unknown name, another organisation's root: each refused with
/// cause and fix, and no certificate comes of it.
#[test]
fn what_must_be_refused_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    done(&["ca", "init", "--out", &text(&other), "--organisation", "shop"]);
    let own = dir.path().join("own");
    done(&["ca", "init", "--out", &text(&own), "--organisation", "bank"]);
    let mut service = Service::start(&dir.path().join("ca"), &own.join("authority"));
    let out = |name: &str| dir.path().join(name);
    let secret = service.register("alice", &[]);
    let wrong = dir.path().join("wrong");
    fs::write(&wrong, "0123-4567-89ab-cdef-0123-4567-89ab-cdef\n").unwrap();
    let open = service.refuses("alice", &wrong, &out("a"), 2);
    assert!(open.contains("chmod 600"), "{open}");
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).unwrap();
    let errors = service.refuses("alice", &wrong, &out("a"), 1);
    assert!(errors.contains("not its secret"), "{errors}");
    assert!(service.refuses("bob", &secret, &out("a"), 1).contains("not its secret"));
    assert!(!out("a").join("cert.pem").exists());
    // Not the service that the caller means.
    let root = std::mem::replace(&mut service.root, other.join("authority/root.pem"));
    service.refuses("alice", &secret, &out("b"), 3);
    service.root = root;
    service.enrol("alice", &secret, &out("a"));
    let errors = service.refuses("alice", &secret, &out("thief"), 1);
    assert!(errors.contains("was used before"), "{errors}");
    let late = register_briefly(&mut service, "carol");
    assert!(service.refuses("carol", &late, &out("c"), 1).contains("has expired"));
    let again = ["ca", "register", "alice", "--role", "client", "--config", &service.config];
    assert!(refused(&again, 2).contains("--again"));
    refused(&["ca", "init", "--out", &text(&own), "--organisation", "bank"], 2);
    bodies_are_bounded_and_read_strictly(&service);
    let log = fs::read_to_string(dir.path().join("ca/register.log")).unwrap();
    assert!(log.contains("wrong secret") && log.contains("other keys"), "{log}");
}

/// Registers with a secret that has expired when this returns.
fn register_briefly(service: &mut Service, name: &str) -> PathBuf {
    let text = fs::read_to_string(&service.config).unwrap();
    assert!(text.contains("secret_seconds = 86400"), "{text}");
    let brief = service.folder.join("brief.toml");
    fs::write(&brief, text.replace("secret_seconds = 86400", "secret_seconds = 1")).unwrap();
    let config = std::mem::replace(&mut service.config, brief.display().to_string());
    let secret = service.register(name, &[]);
    service.config = config;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    secret
}

/// Bodies that are too large or make no sense, straight at the socket.
fn bodies_are_bounded_and_read_strictly(service: &Service) {
    let der = msp::read_certificate(&service.root).unwrap();
    let root = Root::claimed(&certificate::parse(&der).unwrap(), der.clone()).unwrap();
    let crypto = Arc::new(Crypto::portable());
    let authority = Authority { address: &service.address, root: &root, crypto };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (body, expected) in [
        (Bytes::from(vec![b' '; 100 * 1024]), "too-large"),
        (Bytes::from_static(b"{\"role\":\"client\"}"), "malformed"),
        (Bytes::from_static(b"\xff\xfe"), "malformed"),
    ] {
        match runtime.block_on(authority.ask(body)) {
            Err(ClientError::Refused { code, .. }) => assert_eq!(code, expected),
            // The service closes while the rest of a large body is still on its way.
            Err(ClientError::Unreachable { .. }) if expected == "too-large" => {}
            other => panic!("{expected}: {other:?}"),
        }
    }
}
