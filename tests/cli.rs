//! The command line from outside: help of every command, one clear error per mistake, and a real
//! network made and asked with the binary alone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use obelisk::cli;

use super::ports::Ports;

#[cfg(feature = "wasm")]
mod refusals;

pub const BINARY: &str = env!("CARGO_BIN_EXE_obelisk");

fn obelisk(arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_remove(cli::NETWORK_VARIABLE).stdin(Stdio::null());
    command.output().expect("the binary starts")
}

pub fn done(arguments: &[&str]) -> String {
    let output = obelisk(arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs a command that must fail with this exit code and exactly one error; returns its text.
pub fn refused(arguments: &[&str], code: i32) -> String {
    let output = obelisk(arguments);
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    let lines = |head: &str| errors.lines().filter(|line| line.starts_with(head)).count();
    assert_eq!((lines("error: "), lines("fix: ")), (1, 1), "{arguments:?}: {errors}");
    assert!(!errors.contains("panicked at"), "{errors}");
    for line in errors.lines().filter(|l| l.starts_with("error: ") || l.starts_with("fix: ")) {
        assert!(line.len() > 10, "{arguments:?} says nothing: {errors}");
    }
    errors
}

/// Makes a network; its ports are its own until the answer is dropped.
#[must_use]
pub fn make(out: &Path, validators: &str) -> Ports {
    let ports = Ports::reserve();
    let (out, port) = (out.display().to_string(), ports.first().to_string());
    let flags = ["--out", &out, "--validators", validators, "--base-port", &port];
    done(&[&["network", "create"], &flags[..]].concat());
    ports
}

pub fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Every command of the tree prints its help and explains each of its arguments.
#[test]
fn every_command_has_help() {
    fn walk(command: &clap::Command, path: &[&str]) {
        let output = done(&[path, &["--help"]].concat());
        assert!(output.contains("Usage: obelisk"), "{path:?}: {output}");
        assert!(command.get_about().is_some(), "{path:?} has no summary");
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{path:?}: {} is unexplained",
                argument.get_id()
            );
        }
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            walk(sub, &[path, &[sub.get_name()]].concat());
        }
    }
    walk(&cli::tree(), &[]);
    cli::tree().debug_assert();
}

/// Mistakes in the command itself: exit 2, the nearest word suggested.
#[test]
fn misuse_is_explained() {
    for (arguments, words) in [
        (&["netwrok"][..], &["unrecognized subcommand 'netwrok'", "did you mean network?"][..]),
        (&["network", "create", "--outt", "x"], &["'--outt'", "did you mean --out?"]),
        (&["network", "create"], &["--out <DIR>", "write it as"]),
        (&["network"], &["not complete", "create"]),
        (&["node"], &["--config"]),
        (&["block", "show", "last"], &["invalid value 'last'", "latest"]),
        (&["tx", "show", "12"], &["64 hex digits"]),
        (&["network", "create", "--out", "x", "--algorithm", "rsa"], &["p256 or ed25519"]),
        (&["network", "status"], &["no network is named", "--network DIR"]),
        (&["sim", "--seed", "1", "--plugin", "poof"], &["poof", "noops"]),
        (
            &["chaincode", "invoke", "a", "f", "x", "--timeut", "9"],
            &["did you mean --timeout?", "-- --timeut"],
        ),
        (
            &["chaincode", "query", "a", "f", "--x"],
            &["unexpected argument '--x'", "put `--` before", "-- --x"],
        ),
        (&["chaincode", "query", "a", "f", "x", "-x"], &["unexpected argument '-x'", "-- -x"]),
        (&["chaincode", "invoke", "a", "f", "x", "--timeout", "soon"], &["invalid value 'soon'"]),
    ] {
        let errors = refused(arguments, 2);
        for word in words {
            assert!(errors.contains(word), "{arguments:?}: no {word:?} in {errors}");
        }
    }
}

/// Flags are flags before and after a contract's arguments; numbers below zero and what follows
/// `--` are arguments.
#[test]
fn flags_may_follow_a_contracts_arguments() {
    for arguments in [
        &["chaincode", "invoke", "a", "f", "x", "-5", "--timeout", "300", "--network", "/no/such"]
            [..],
        &["chaincode", "query", "a", "f", "x", "--network", "/no/such", "--", "--timeout", "-x"],
        &["chaincode", "query", "--network", "/no/such", "a", "f", "--", "--json"],
    ] {
        let errors = refused(arguments, 4);
        assert!(errors.contains("/no/such"), "{arguments:?}: {errors}");
    }
    let deploy = ["chaincode", "deploy", "a", "/no/such.wasm", "--version", "1"];
    let more = ["--init", "x", "-5", "--timeout", "9"];
    assert!(refused(&[&deploy[..], &more].concat(), 4).contains("/no/such.wasm"));
}

/// With `--json` an error is one JSON object.
#[test]
fn errors_can_be_json() {
    for arguments in [&["--json", "network", "status"][..], &["netwrok", "--json"]] {
        let output = obelisk(arguments);
        let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON");
        assert_eq!((error["error"]["exit"].as_u64(), output.status.code()), (Some(2), Some(2)));
        assert!(error["error"]["cause"].is_string() && error["error"]["fix"].is_string());
    }
}

/// Files that are missing: exit 4 and the path.
#[test]
fn missing_files_are_named() {
    for arguments in [
        &["node", "--config", "/no/such/node.toml"][..],
        &["node", "check", "--config", "/no/such/node.toml"],
        &["network", "status", "--network", "/no/such"],
        &["member", "show", "/no/such"],
        &["tx", "submit", "/no/such"],
        &["chaincode", "deploy", "a", "/no/such.wasm", "--version", "1"],
    ] {
        let errors = refused(arguments, 4);
        assert!(errors.contains("/no/such"), "{errors}");
    }
}

/// A made network passes its own check, is not overwritten, and keeps its keys private.
#[test]
fn networks_are_made_once_and_privately() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("net");
    let _ports = make(&out, "4");
    let mut keys = 0;
    let mut open = vec![out.clone()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            if path.is_dir() {
                assert_eq!(mode, 0o700, "{}", path.display());
                open.push(path);
            } else if path.ends_with("key.pem") {
                assert_eq!(mode, 0o600, "{}", path.display());
                keys += 1;
            }
        }
    }
    assert_eq!(keys, 4 * (1 + 3 * 2), "one authority and three members with TLS each");
    let again = refused(&["network", "create", "--out", &text(&out)], 2);
    assert!(again.contains("exists already"), "{again}");
    for organisation in ["org1", "org4"] {
        let config = text(&out.join(organisation).join("node.toml"));
        let checked = done(&["node", "check", "--json", "--config", &config]);
        let checked: serde_json::Value = serde_json::from_str(&checked).unwrap();
        assert_eq!(checked["identity"], format!("obelisk://{organisation}/validator/validator"));
    }
    let shown = done(&["network", "show", "--genesis", &text(&out.join("genesis.bin"))]);
    assert!(shown.contains("org4/validator"), "{shown}");
}

/// Damaged configurations, genesis documents and identities: one clear error each, exit 2, and
/// nothing is started.
#[test]
fn bad_inputs_are_refused_with_cause_and_fix() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("net");
    let ports = make(&out, "1");
    let config = out.join("org1/node.toml");
    let good = fs::read_to_string(&config).unwrap();
    let check = |words: &[&str]| {
        let errors = refused(&["node", "--config", &text(&config)], 2);
        for word in words {
            assert!(errors.contains(word), "no {word:?} in {errors}");
        }
    };
    let listen = format!("127.0.0.1:{}", ports.first() + 1);
    for (from, to, words) in [
        ("role = \"validator\"", "role = \"king\"", &["king", "validator"][..]),
        ("[storage]", "[storge]", &["storge", "did you mean `storage`"]),
        (&*listen, "17151", &["network.listen", "host:port"]),
        ("engine = \"rocksdb\"", "engine = \"paper\"", &["storage.engine", "rocksdb"]),
        ("level = \"info\"", "level = \"obelisk=loud\"", &["loud"]),
        ("level = \"info\"", "level = \"eror\"", &["eror", "none of off, error"]),
        ("hash = \"auto\"", "hash = \"opensl\"", &["opensl", "choose auto"]),
        ("sign = \"auto\"", "sign = \"pkcs11:hsm\"", &["pkcs11:hsm", "signer.toml"]),
        ("tls = \"auto\"", "tls = \"ring\"", &["ring"]),
        ("data = \"data\"", "data = \"../genesis.bin\"", &["node.data must name a folder"]),
        ("nodes = 1", "nodes = 5000", &["host.nodes", "at most 64"]),
        ("format = \"text\"", "format = \"xml\"", &["log.format"]),
        ("../genesis.bin", "node.toml", &["genesis document"]),
        ("validator/validator", "client/client", &["is no validator", "observer"]),
        ("validator/validator", "ca", &["cert.pem"]),
        ("[node]", "[node", &["node.toml"]),
    ] {
        assert!(good.contains(from), "{from} is in {good}");
        fs::write(&config, good.replace(from, to)).unwrap();
        check(words);
    }
    fs::write(&config, good.replace("verify = \"auto\"", "verify = \"opensl\"")).unwrap();
    assert!(refused(&["node", "check", "--config", &text(&config)], 2).contains("opensl"));
    fs::write(&config, &good).unwrap();
    let key = out.join("org1/validator/validator/key.pem");
    let saved = fs::read(&key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    check(&["can be read by others", "chmod 600"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, "-----BEGIN NONSENSE-----\n").unwrap();
    check(&["key.pem"]);
    fs::write(&key, fs::read(out.join("org1/admin/admin/key.pem")).unwrap()).unwrap();
    check(&["does not belong"]);
    fs::write(&key, saved).unwrap();
    done(&["node", "check", "--config", &text(&config)]);
}

/// Identities are issued for a network and described; a folder is not overwritten.
#[test]
fn members_are_issued_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("net");
    let _ports = make(&out, "1");
    let (ca, alice) = (text(&out.join("org1/ca")), text(&dir.path().join("alice")));
    let genesis = text(&out.join("genesis.bin"));
    let flags = ["--ca", &ca, "--name", "alice", "--out", &alice, "--genesis", &genesis];
    let more = ["--algorithm", "p256", "--attribute", "desk=trade"];
    let issue = [&["member", "issue"], &flags[..], &more].concat();
    let issued = done(&issue);
    assert!(issued.contains("obelisk://org1/client/alice"), "{issued}");
    let shown = done(&["member", "show", &alice]);
    assert!(shown.contains("desk=trade") && shown.contains("fits"), "{shown}");
    refused(&issue, 2);
    let shown = done(&["member", "show", &text(&out.join("org1/ca"))]);
    assert!(shown.contains("root of an organisation"), "{shown}");
    let bad = ["member", "issue", "--ca", &ca, "--name", "Not A Name", "--out", "/tmp/never"];
    refused(&bad, 2);
}

/// Providers are listed as a table and as JSON.
#[test]
fn crypto_providers_are_listed() {
    assert!(done(&["crypto", "list"]).contains("portable"));
    let rows: serde_json::Value =
        serde_json::from_str(&done(&["crypto", "list", "--json"])).unwrap();
    let mut chosen: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for row in rows.as_array().unwrap().iter().filter(|row| row["chosen"] == true) {
        let by = chosen.entry(format!("{} {}", row["operation"], row["algorithm"])).or_default();
        by.extend(row["provider"].as_str().filter(|name| !name.ends_with(" tables")));
    }
    assert_eq!(chosen.len(), 5, "every operation has a provider: {chosen:?}");
    // Hashing may have one for each size.
    let one = |(operation, by): (&String, &Vec<&str>)| operation.contains("hash") || by.len() == 1;
    assert!(chosen.iter().all(one), "{chosen:?}");
}

/// A running node, ended with the test.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn start(config: &Path) -> Running {
    let log = fs::File::create(config.with_extension("log")).unwrap();
    let child = Command::new(BINARY)
        .args(["node", "--config", &text(config)])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the node starts");
    Running(child)
}

pub fn json(network: &str, arguments: &[&str]) -> serde_json::Value {
    let all = [&["--json", "--network", network], arguments].concat();
    serde_json::from_str(&done(&all)).expect("JSON")
}

/// Waits until all `nodes` answer that they are ready.
pub fn ready(network: &str, nodes: usize) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let output = obelisk(&["--json", "--network", network, "network", "status"]);
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let rows = rows.as_array().cloned().unwrap_or_default();
        if rows.iter().filter(|row| row["state"] == "ready").count() == nodes {
            return;
        }
        assert!(Instant::now() < end, "not ready: {rows:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Four validators from `network create`: deploy, invoke, query, prove, follow, revoke, and the
/// stopped ledger verified offline.
#[test]
fn a_network_of_four_does_everything_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("net");
    let _ports = make(&out, "4");
    let network = text(&out);
    refused(&["--network", &network, "chaincode", "list"], 3);
    let mut nodes: Vec<Running> =
        (1..=4).map(|n| start(&out.join(format!("org{n}/node.toml")))).collect();
    ready(&network, 4);
    let wasm = concat!(env!("CARGO_MANIFEST_DIR"), "/contracts/wasm/asset.wasm");
    let deploy = ["chaincode", "deploy", "asset", wasm, "--version", "1", "--init", "org1"];
    let deployed = json(&network, &deploy);
    assert_eq!(deployed["status"], "ok", "{deployed}");
    let listed = json(&network, &["chaincode", "list"]);
    assert_eq!(listed[0]["name"], "asset");
    let invoked = json(&network, &["chaincode", "invoke", "asset", "open", "alice", "100"]);
    assert_eq!(invoked["status"], "ok", "{invoked}");
    let (id, height) = (invoked["transaction"].as_str().unwrap(), &invoked["block"]);
    let key = "account/alice";
    assert_eq!(json(&network, &["state", "get", "asset", key])["value"], "100");
    let query = ["chaincode", "query", "asset", "balance", "alice"];
    assert_eq!(json(&network, &query)["value"], "100");
    let proven = json(&network, &["state", "get", "asset", key, "--proof"]);
    assert_eq!((&proven["found"], &proven["value"]), (&true.into(), &"100".into()));
    assert_eq!(json(&network, &["state", "history", "asset", key])[0]["height"], *height);
    assert_eq!(json(&network, &["tx", "show", id])["function"], "open");
    assert_eq!(json(&network, &["tx", "receipt", id, "--wait"])["status"], "ok");
    let proof = text(&dir.path().join("proof"));
    done(&["--network", &network, "tx", "proof", id, "--out", &proof]);
    let genesis = text(&out.join("genesis.bin"));
    let verified = done(&["tx", "verify", "--proof", &proof, "--genesis", &genesis]);
    assert!(verified.contains("the proof holds"), "{verified}");
    let mut bytes = fs::read(&proof).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&proof, bytes).unwrap();
    let broken = obelisk(&["tx", "verify", "--proof", &proof, "--genesis", &genesis]);
    assert!(matches!(broken.status.code(), Some(1 | 2)), "a changed proof is refused");
    assert!(json(&network, &["block", "list"]).as_array().unwrap().len() >= 2);
    let block = json(&network, &["block", "show", &height.to_string()]);
    assert!(block["transactions"].to_string().contains(id), "{block}");
    json(&network, &["block", "follow", "--from", "1", "--count", "1"]);
    let event = json(&network, &["events", "follow", "--from", "1", "--count", "1"]);
    assert_eq!(event["name"], "deployed", "{event}");
    assert_eq!(json(&network, &["network", "peers"]).as_array().unwrap().len(), 3);
    refusals(&network, &out);
    for node in &mut nodes {
        stop(node);
    }
    let data = text(&out.join("org1/data"));
    let verified = done(&["ledger", "verify", "--data", &data, "--genesis", &genesis]);
    assert!(verified.contains("every block holds"), "{verified}");
    done(&["ledger", "show", "--data", &data, "--genesis", &genesis]);
    let evidence = ["ledger", "evidence", "--data", &data, "--genesis", &genesis];
    assert!(done(&evidence).contains("no evidence"), "all four were honest");
    let folder = out.join("org1/data/consensus/evidence");
    let frozen = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/chain/evidence.bin");
    fs::copy(frozen, folder.join("2-0123456789abcdef.evidence")).unwrap();
    let foreign = refused(&evidence, 1);
    assert!(foreign.contains("1 of 1"), "evidence of another network: {foreign}");
}

/// Evidence is judged by the genesis document alone: no node, no network.
#[test]
fn evidence_is_judged_offline() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/chain");
    let (genesis, file) = (format!("{vectors}/genesis.bin"), format!("{vectors}/evidence.bin"));
    let verdict = done(&["ledger", "evidence", "--file", &file, "--genesis", &genesis]);
    for word in ["holds", "bank/validator-2", "voted for two digests in one slot"] {
        assert!(verdict.contains(word), "{word}: {verdict}");
    }
    let dir = tempfile::tempdir().unwrap();
    let forged = text(&dir.path().join("forged"));
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&forged, bytes).unwrap();
    refused(&["ledger", "evidence", "--file", &forged, "--genesis", &genesis], 1);
    refused(&["ledger", "evidence", "--file", &genesis, "--genesis", &genesis], 1);
    refused(&["ledger", "evidence", "--file", "no such file", "--genesis", &genesis], 4);
    refused(&["ledger", "evidence", "--data", &text(dir.path()), "--genesis", &genesis], 4);
}

/// What the network says no to, with the right exit codes.
fn refusals(network: &str, out: &Path) {
    let at =
        |code, arguments: &[&str]| refused(&[&["--network", network], arguments].concat(), code);
    at(4, &["state", "get", "asset", "account/nobody"]);
    at(4, &["block", "show", "999999"]);
    at(4, &["tx", "show", &"0".repeat(64)]);
    at(4, &["chaincode", "query", "nobody", "get", "x"]);
    at(1, &["chaincode", "invoke", "asset", "no-such-function"]);
    at(1, &["chaincode", "invoke", "asset", "open", "alice", "1"]);
    let client = text(&out.join("org1/client/client"));
    let id = json(network, &["member", "show", &client])["id"].as_str().unwrap().to_owned();
    at(1, &["member", "revoke", &id, "--reason", "lost", "--identity", &client]);
    assert_eq!(json(network, &["member", "revoke", &id, "--reason", "lost"])["status"], "ok");
    at(1, &["chaincode", "invoke", "asset", "open", "bob", "1"]);
}

fn stop(node: &mut Running) {
    let pid = nix::unistd::Pid::from_raw(node.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = node.0.wait().unwrap();
    assert_eq!(status.code(), Some(0), "a node that is asked to stop stops in order");
}
