//! Organisations with authorities of their own found a network together: each makes its root, one of
//! them on a token, enrols its members, and only public certificates meet in the genesis document.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use crate::cli::BINARY;
use crate::cli::Running;
use crate::cli::done;
use crate::cli::json;
use crate::cli::ready;
use crate::cli::refused;
use crate::cli::start;
use crate::cli::text;
use crate::ports::Ports;
use crate::signer::softhsm::PIN;
use crate::signer::softhsm::SoftHsm;

/// Commands with the environment of a token.
pub fn with(environment: &[(String, String)], arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).envs(environment.iter().cloned()).stdin(Stdio::null());
    command.output().expect("the binary starts")
}

pub fn made(environment: &[(String, String)], arguments: &[&str]) -> String {
    let output = with(environment, arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A membership service, ended with the value.
pub struct Service {
    process: Child,
    pub url: String,
}

impl Service {
    pub fn start(config: &Path, environment: &[(String, String)]) -> Self {
        let log = config.with_extension("log");
        let mut process = Command::new(BINARY)
            .args(["--json", "ca", "serve", "--config", &text(config)])
            .envs(environment.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .expect("the service starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("{}", fs::read_to_string(&log).unwrap()));
        Self { process, url: format!("https://{}", said["address"].as_str().unwrap()) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One organisation: its folder holds `ca`, and an identity per member.
struct Organisation {
    name: &'static str,
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

impl Organisation {
    fn at(&self, place: &str) -> String {
        text(&self.folder.join(place))
    }

    /// Root, authority, register; with `card` the authority's key is on a token.
    fn init(name: &'static str, folder: PathBuf, card: Option<&Path>, hsm: &SoftHsm) -> Self {
        fs::create_dir(&folder).unwrap();
        let environment = card.map(|_| hsm.environment.clone()).unwrap_or_default();
        let made_here = Self { name, folder, environment };
        let out = made_here.at("ca");
        let mut flags = vec!["ca", "init", "--organisation", name, "--out", &out];
        flags.extend(["--listen", "127.0.0.1:0"]);
        let card = card.map(text);
        if let Some(card) = &card {
            flags.extend(["--key-card", card]);
        }
        made(&made_here.environment, &flags);
        made_here
    }

    /// Serves, registers and enrols the members over the network, then stops.
    fn enrol(&self) {
        let config = self.at("ca/ca.toml");
        let service = Service::start(Path::new(&config), &self.environment);
        let url = &service.url;
        let root = self.at("ca/authority/root.pem");
        for role in ["validator", "client", "admin"] {
            let (secret, out) = (self.at(&format!("{role}.secret")), self.at(role));
            let place = ["--config", &config, "--secret-out", &secret];
            let host = ["--host", "127.0.0.1", "--role", role];
            done(&[&["ca", "register", role], &host[..], &place].concat());
            let who = ["--name", role, "--role", role, "--secret-file", &secret, "--out", &out];
            done(&[&["member", "enrol", "--ca", url, "--ca-cert", &root], &who[..]].concat());
        }
    }

    fn root(&self) -> String {
        self.at("ca/authority/root.pem")
    }
}

/// Four organisations, the first with its authority's key on a token.
fn consortium(directory: &Path, hsm: &SoftHsm) -> Vec<Organisation> {
    let (card, _) = hsm.keygen("obelisk", "ca", "p256");
    ["bank", "carrier", "customs", "insurer"]
        .into_iter()
        .enumerate()
        .map(|(i, name)| {
            let card = (i == 0).then_some(&*card);
            let organisation = Organisation::init(name, directory.join(name), card, hsm);
            organisation.enrol();
            organisation
        })
        .collect()
}

fn founding(out: &Path, members: &[&Organisation], more: &[&str]) -> Vec<String> {
    let words = ["network", "found", "--name", "trade", "--out", &text(out)];
    let mut words: Vec<String> = words.map(str::to_owned).to_vec();
    for member in members {
        words.extend(["--root".into(), member.root()]);
        words.extend(["--validator".into(), member.at("validator/cert.pem")]);
    }
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words
}

fn words(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// The node's configuration of one member, as an operator would write it from the example.
fn configure(members: &[Organisation], own: usize, first: u16) -> PathBuf {
    let port = |i: usize, offset: u16| first + 10 * u16::try_from(i).unwrap() + offset;
    let mut file = format!(
        "[node]\nrole = \"validator\"\ndata = \"data\"\nidentity = \"validator\"\n\
         genesis = \"../genesis.bin\"\n[api]\nrest = \"127.0.0.1:{}\"\ngrpc = \"127.0.0.1:{}\"\n\
         [host]\nnodes = 4\n[network]\nlisten = \"127.0.0.1:{}\"\n",
        port(own, 0),
        port(own, 3),
        port(own, 1)
    );
    for (i, peer) in members.iter().enumerate().filter(|(i, _)| *i != own) {
        file += &format!(
            "[[network.peers]]\norganisation = \"{}\"\nname = \"validator\"\n\
             address = \"127.0.0.1:{}\"\n",
            peer.name,
            port(i, 1)
        );
    }
    let addresses: Vec<String> =
        (0..members.len()).map(|i| format!("127.0.0.1:{}", port(i, 3))).collect();
    let profile = format!(
        "genesis = \"../genesis.bin\"\nidentity = \"client\"\nadmin = \"admin\"\n\
         grpc = {addresses:?}\n"
    );
    fs::write(members[own].folder.join("client.toml"), profile).unwrap();
    let config = members[own].folder.join("node.toml");
    fs::write(&config, file).unwrap();
    config
}

/// Every founder makes the same document from the public certificates alone; four nodes run on it,
/// and a client whose authority's key never left its token commits a transaction.
#[test]
fn organisations_with_their_own_authorities_found_a_network() {
    let Some(hsm) = SoftHsm::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let members = consortium(dir.path(), &hsm);
    assert!(!members[0].folder.join("ca/authority/key.pem").exists(), "the key is on the token");
    let out = dir.path().join("genesis.bin");
    let in_order: Vec<&Organisation> = members.iter().collect();
    let said = done(&words(&founding(&out, &in_order, &["--json"])));
    let said: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    let again = dir.path().join("again.bin");
    let time = said["time_ms"].to_string();
    let backwards: Vec<&Organisation> = members.iter().rev().collect();
    done(&words(&founding(&again, &backwards, &["--time-ms", &time])));
    assert_eq!(fs::read(&out).unwrap(), fs::read(&again).unwrap());
    let shown = done(&["network", "show", "--genesis", &text(&out)]);
    assert!(shown.contains("insurer/validator"), "{shown}");

    let ports = Ports::reserve();
    let configs: Vec<PathBuf> =
        (0..members.len()).map(|i| configure(&members, i, ports.first())).collect();
    let _nodes: Vec<Running> = configs.iter().map(|config| start(config)).collect();
    let network = text(&members[0].folder);
    ready(&network, 4);
    let invoked = json(&network, &["chaincode", "invoke", "configure", "show"]);
    assert_eq!(invoked["status"], "ok", "{invoked}");
}

/// What does not found a network: one error each, and no file.
#[test]
fn foundings_that_cannot_work_are_refused() {
    let Some(hsm) = SoftHsm::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let members = consortium(dir.path(), &hsm);
    let out = dir.path().join("genesis.bin");
    let all: Vec<&Organisation> = members.iter().collect();
    let refuses = |list: &[&Organisation], more: &[&str], said: &str| {
        let errors = refused(&words(&founding(&out, list, more)), 2);
        assert!(errors.contains(said), "no {said:?} in {errors}");
        assert!(!out.exists());
    };
    let bank = &members[0];
    let client = bank.at("client/cert.pem");
    refuses(&all, &["--validator", &client], "the certificate of the client");
    refuses(&all, &["--validator", &bank.at("validator/tls/cert.pem")], "a TLS certificate");
    refuses(&all, &["--validator", &bank.at("validator/cert.pem")], "share a key");
    refuses(&all, &["--root", &bank.root()], "a second root of \"bank\"");
    refuses(&all, &["--root", &client], "cannot found a network");
    refuses(&all, &["--time-ms", "1"], "not valid at the genesis time");
    refuses(&all, &["--consensus", "poof"], "no consensus plug-in");
    refuses(&all[..3], &["--validator", &members[3].at("validator/cert.pem")], "root is not named");
    // Another organisation of the same name issued the certificate.
    let twin = Organisation::init("bank", dir.path().join("twin"), None, &hsm);
    let mut list = founding(&out, &all[1..], &["--root", &twin.root()]);
    list.extend(["--validator".into(), bank.at("validator/cert.pem")]);
    assert!(refused(&words(&list), 2).contains("did not sign it"));
}

/// An authority whose key is on a token: a wrong PIN is final and tried once, a missing token and
/// two keys are one error each, and a member is issued by the token.
#[test]
fn an_authority_on_a_token_fails_closed() {
    let Some(hsm) = SoftHsm::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (card, public) = hsm.keygen("obelisk", "ca", "p256");
    let bank = Organisation::init("bank", dir.path().join("bank"), Some(&card), &hsm);
    let authority = bank.folder.join("ca/authority");
    let ca = text(&authority);
    let shown = done(&["member", "show", &bank.root()]);
    assert!(shown.contains("root of an organisation"), "{shown}");
    let alice = bank.at("alice");
    let issue = ["member", "issue", "--ca", &ca, "--name", "alice", "--out", &alice];
    made(&bank.environment, &issue);

    let key_card = authority.join("key.toml");
    let good = fs::read_to_string(&key_card).unwrap();
    assert!(good.contains(&hex::encode(public.as_bytes())));
    let wrong = hsm.write_pin("wrong", "canary-0815");
    let pin = text(&hsm.directory.path().join("pin"));
    assert!(good.contains(&pin), "{good}");
    fs::write(&key_card, good.replace(&pin, &text(&wrong))).unwrap();
    let serve = ["ca", "serve", "--config", &bank.at("ca/ca.toml")];
    for _ in 0..2 {
        let output = with(&bank.environment, &serve);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{errors}");
        assert!(errors.contains("PIN") && !errors.contains(PIN), "{errors}");
        assert!(!errors.contains("canary-0815"), "{errors}");
    }
    fs::write(&key_card, &good).unwrap();
    // A token that is away may come back: the unit tries again.
    let output = with(&[], &serve);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(70), "{errors}");
    assert!(errors.contains("the authority's key"), "{errors}");
    let key = authority.join("key.pem");
    fs::write(&key, fs::read(bank.folder.join("alice/key.pem")).unwrap()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let errors = String::from_utf8_lossy(&with(&bank.environment, &serve).stderr).into_owned();
    assert!(errors.contains("both key.pem and key.toml"), "{errors}");
}
