//! Validators whose keys are on a token: from the token to a committed transaction, and what a
//! token must not be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use obelisk::signer::remote;
use serde_json::Value;

use super::BINARY;
use super::PATIENCE;
use super::SignerProcess;
use super::place;
use super::refused;
use super::softhsm::PIN;
use super::softhsm::SoftHsm;
use super::softhsm::run;
use crate::ports::Ports;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The README's way, command by command: token, key, network, signer, node, transaction. The
/// private key is nowhere on the disk, and no output of any process holds the PIN.
#[test]
fn from_an_empty_token_to_a_committed_transaction() {
    let Some(hsm) = SoftHsm::new() else { return };
    let (card, public) = hsm.keygen("obelisk", "01", "p256");
    let net = hsm.directory.path().join("net");
    let ports = Ports::reserve();
    run(Command::new(BINARY).args([
        "network",
        "create",
        "--validators",
        "1",
        "--out",
        &text(&net),
        "--base-port",
        &ports.first().to_string(),
        "--validator-key",
        &format!("org1={}", text(&card)),
    ]));
    assert!(!net.join("org1/validator/validator/key.pem").exists());
    let socket = net.join("org1/signer/signer.sock");
    let log = hsm.directory.path().join("node.log");
    let output = fs::File::create(&log).unwrap();
    let mut signer = SignerProcess::start(&net.join("org1/signer.toml"), &socket, &hsm.environment);
    let node = Command::new(BINARY)
        .args(["node", "--config", &text(&net.join("org1/node.toml"))])
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn();
    let _node = Killed(node.unwrap());
    let end = Instant::now() + PATIENCE;
    loop {
        let done = Command::new(BINARY)
            .args(["chaincode", "invoke", "configure", "show", "--network", &text(&net)])
            .output()
            .unwrap();
        if done.status.success() {
            break;
        }
        let errors = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(Instant::now() < end, "{errors}\n{}", fs::read_to_string(&log).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    let status: Value = serde_json::from_str(&remote::status(&place(&socket)).unwrap()).unwrap();
    assert_eq!(status["keys"][0]["public_key"], hex::encode(public.as_bytes()));
    // The token certifies session keys, which sign the votes.
    assert!(status["tokens"][0]["signed"].as_u64() >= Some(1), "{status}");
    assert_eq!(status["keys"][0]["sessions"][0]["certified"], true, "{status}");
    signer.kill();
    assert!(!signer.errors().contains(PIN));
    assert!(!fs::read_to_string(&log).unwrap().contains(PIN));
}

/// A network of one with a key on the token; its signer's configuration.
fn configured(hsm: &SoftHsm) -> PathBuf {
    let (card, _) = hsm.keygen("obelisk", "01", "p256");
    let net = hsm.directory.path().join("net");
    let card = format!("org1={}", text(&card));
    let flags = ["--validators", "1", "--out", &text(&net), "--validator-key", &card];
    run(Command::new(BINARY).args(["network", "create"]).args(flags));
    net.join("org1/signer.toml")
}

fn change(config: &Path, from: &str, to: &str) -> String {
    let good = fs::read_to_string(config).unwrap();
    assert!(good.contains(from), "{from}: {good}");
    fs::write(config, good.replace(from, to)).unwrap();
    good
}

/// A wrong PIN is tried once, however often the signer is started, and again once its file is
/// written anew.
#[test]
fn a_wrong_pin_is_tried_once() {
    let Some(hsm) = SoftHsm::faulty() else { return };
    let config = configured(&hsm);
    let wrong = hsm.write_pin("wrong", "canary-0815");
    let pin = text(&hsm.directory.path().join("pin"));
    change(&config, &pin, &text(&wrong));
    let before = hsm.counters()["login"];
    for _ in 0..3 {
        let (code, errors) = refused(&config, &hsm.environment);
        assert_eq!(code, 78, "{errors}");
        assert!(errors.contains("PIN") && !errors.contains("0815"), "{errors}");
    }
    // The counters begin anew with each process; the last ones did not get as far as a login.
    assert_eq!(hsm.counters().get("login").copied().unwrap_or(0), 0, "{before}");
    hsm.write_pin("wrong", PIN);
    let socket = config.with_file_name("signer").join("signer.sock");
    SignerProcess::start(&config, &socket, &hsm.environment);
}

/// More sessions than the token states are refused at start, with the number that fits.
#[test]
fn more_sessions_than_the_token_has_are_refused() {
    let Some(hsm) = SoftHsm::faulty() else { return };
    let config = configured(&hsm);
    hsm.script("fault token do=sessions value=4");
    let (code, errors) = refused(&config, &hsm.environment);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("sessions = 3"), "{errors}");
    change(&config, "sessions = 4", "sessions = 3");
    let socket = config.with_file_name("signer").join("signer.sock");
    SignerProcess::start(&config, &socket, &hsm.environment);
}

/// Missing or replaced modules, missing, doubled, foreign and unsafe keys, and PINs that others can
/// read: one clear error each.
#[test]
fn every_fault_of_a_token_is_one_clear_error() {
    let Some(hsm) = SoftHsm::new() else { return };
    let config = configured(&hsm);
    let expect = |from: &str, to: &str, words: &str| {
        let good = change(&config, from, to);
        let (code, errors) = refused(&config, &hsm.environment);
        assert_eq!(code, 2, "{errors}");
        assert!(errors.contains(words), "{words}: {errors}");
        fs::write(&config, good).unwrap();
    };
    let module = text(&fs::canonicalize(&hsm.module).unwrap());
    let copy = hsm.directory.path().join("copy.so");
    expect(&module, "/usr/lib/no-such-module.so", "no-such-module.so");
    expect(&module, "/bin/true", "cannot be used");
    fs::write(&copy, b"an elf with PKCS11SPY in its text").unwrap();
    expect(&module, &text(&copy), "is a spy");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o777)).unwrap();
    expect(&module, &text(&copy), "changed by others");
    let shared = hsm.directory.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let copy = shared.join("copy.so");
    fs::copy(&module, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    expect(&module, &text(&copy), "whose files others can replace");
    // It may be a token that is away: tried again.
    let good = change(&config, "label = \"obelisk\"", "label = \"other\"");
    let (code, errors) = refused(&config, &hsm.environment);
    assert!(code == 70 && errors.contains("label \"obelisk\""), "{code} {errors}");
    fs::write(&config, good).unwrap();
    expect("id = \"01\"", "id = \"77\"", "no private key");
    hsm.keygen("obelisk", "05", "p256");
    expect("id = \"01\"", "id = \"05\"", "no validator of the network");
    let pin = text(&hsm.directory.path().join("pin"));
    let open = hsm.write_pin("open", PIN);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    expect(&pin, &text(&open), "others can read");
    hsm.make_token("obelisk");
    let twins = refused(&config, &hsm.environment).1;
    assert!(twins.contains("several tokens"), "{twins}");
}

/// A key that came from outside is told from one made on the token, in the audit and at start; two
/// keys with one id are refused.
#[test]
fn imported_and_doubled_keys_are_refused() {
    let Some(hsm) = SoftHsm::new() else { return };
    let config = configured(&hsm);
    let key = config.with_file_name("admin").join("admin/key.pem");
    let card = text(&hsm.directory.path().join("imported.toml"));
    let more = ["--id", "09", "--out", &card, "--import", &text(&key)];
    let output = hsm.crypto("keygen", "obelisk", &more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let good = change(&config, "id = \"01\"", "id = \"09\"");
    let errors = refused(&config, &hsm.environment).1;
    assert!(errors.contains("CKA_LOCAL is false"), "{errors}");
    fs::write(&config, &good).unwrap();
    let audit = hsm.crypto("audit", "obelisk", &[]);
    assert_eq!(audit.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&audit.stdout).contains("CKA_NEVER_EXTRACTABLE"));
    let again = hsm.crypto("keygen", "obelisk", &["--id", "01", "--out", &format!("{card}2")]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"));
    let tested = hsm.crypto("test", "obelisk", &["--id", "01"]);
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
    let mut command = Command::new("softhsm2-util");
    command.args(["--import", &text(&key), "--token", "obelisk", "--label", "twin", "--id", "01"]);
    command.args(["--pin", PIN, "--force"]);
    run(command.envs(hsm.environment.iter().cloned()));
    let errors = refused(&config, &hsm.environment).1;
    assert!(errors.contains("2 private keys"), "{errors}");
    let audit = hsm.crypto("audit", "obelisk", &[]);
    assert_eq!(audit.status.code(), Some(1));
    let text = String::from_utf8_lossy(&audit.stdout);
    assert!(text.contains("2 private keys have this id") && text.contains("09 "), "{text}");
}

/// A key whose card could not be written is not made, and a key of another kind is listed by the audit
/// and not judged.
#[test]
fn no_key_is_left_without_a_card_and_none_out_of_the_audit() {
    let Some(hsm) = SoftHsm::new() else { return };
    let made = hsm.crypto("keygen", "obelisk", &["--id", "01", "--out", "/no-such-folder/card"]);
    assert_eq!(made.status.code(), Some(2));
    let audit = || {
        let output = hsm.crypto("audit", "obelisk", &[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    assert!(!audit().1.contains("CKA_SIGN"), "{}", audit().1);
    let card = hsm.directory.path().join("card.toml");
    let failing = hsm.crypto("keygen", "nobody", &["--id", "01", "--out", &text(&card)]);
    assert!(!failing.status.success() && !card.exists(), "a refusal leaves no empty card");
    let rsa = hsm.directory.path().join("rsa.pem");
    let mut openssl = Command::new("openssl");
    openssl.args(["genpkey", "-algorithm", "RSA", "-out"]).arg(&rsa);
    if !openssl.output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: no openssl to make an RSA key");
        return;
    }
    let mut import = Command::new("softhsm2-util");
    import.args(["--import", &text(&rsa), "--token", "obelisk", "--label", "rsa", "--id", "07"]);
    run(import.args(["--pin", PIN]).envs(hsm.environment.iter().cloned()));
    let (code, listed) = audit();
    assert_eq!(code, Some(0), "{listed}");
    assert!(listed.contains("it is a key of kind RSA"), "{listed}");
}
