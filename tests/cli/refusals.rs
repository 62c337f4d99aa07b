//! Bad input from the command line to a running node: each kind has its one clear error, exit code
//! included, and leaves nothing behind. `docs/testing.md` lists the kinds with their tests.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use obelisk::client::identity::ClientIdentity;
use obelisk::client::invocation::Invocation;
use obelisk::crypto::routing::Crypto;
use obelisk::membership::consortium::read_genesis;
use obelisk::membership::msp::KeyPair;
use obelisk::types::codec::Encode;
use obelisk::types::ids::ChainId;
use obelisk::types::ids::Height;
use obelisk::types::limits;
use obelisk::types::transaction::Transaction;

use super::Ports;
use super::Running;
use super::done;
use super::json;
use super::make;
use super::obelisk;
use super::ready;
use super::refused;
use super::start;
use super::text;

/// A network of one with a contract `kv`, and what a test needs to ask it.
struct Solo {
    // Ended before its folder and ports are given back.
    _node: Running,
    folder: tempfile::TempDir,
    _ports: Ports,
    chain: ChainId,
}

impl Solo {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("net");
        let ports = make(&out, "1");
        let chain = read_genesis(&out.join("genesis.bin")).unwrap().chain_id();
        let node = start(&out.join("org1/node.toml"));
        let solo = Self { _node: node, folder, _ports: ports, chain };
        ready(&solo.network(), 1);
        let good = solo.module("good", r#"(func (export "obelisk_invoke"))"#);
        assert_eq!(json(&solo.network(), &deploy("kv", &good))["status"], "ok");
        solo
    }

    fn network(&self) -> String {
        text(&self.folder.path().join("net"))
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        text(&path)
    }

    /// A file with a module: memory, and this behind it.
    fn module(&self, name: &str, body: &str) -> String {
        let text = format!(r#"(module (memory (export "memory") 1) {body})"#);
        self.file(name, &wat::parse_str(text).unwrap())
    }

    fn height(&self) -> u64 {
        json(&self.network(), &["network", "status"])[0]["height"].as_u64().unwrap()
    }

    fn refused(&self, code: i32, arguments: &[&str], words: &str) -> String {
        let network = self.network();
        let errors = refused(&[&["--network", &network], arguments].concat(), code);
        assert!(errors.contains(words), "{arguments:?}: no {words:?} in {errors}");
        errors
    }

    fn identity(&self, place: &str) -> ClientIdentity {
        let folder = self.folder.path().join("net/org1").join(place);
        ClientIdentity::load(&folder, &Crypto::portable()).unwrap()
    }

    /// Who signs for a certificate that no ledger has seen.
    fn stranger(&self) -> ClientIdentity {
        let folder = self.folder.path().join("net/org1/client/client");
        let pair = KeyPair::load(&folder).unwrap();
        let key = pair.signing_key(&Crypto::portable()).unwrap();
        ClientIdentity::new(Bytes::from_static(b"unseen"), key)
    }

    /// A file with a transaction of the client.
    fn transaction(&self, name: &str, make: impl FnOnce(&ClientIdentity) -> Transaction) -> String {
        let transaction = make(&self.identity("client/client"));
        self.file(name, &transaction.to_bytes())
    }
}

fn deploy<'a>(name: &'a str, file: &'a str) -> [&'a str; 6] {
    ["chaincode", "deploy", name, file, "--version", "1"]
}

fn upgrade<'a>(name: &'a str, file: &'a str) -> [&'a str; 6] {
    ["chaincode", "upgrade", name, file, "--version", "2"]
}

fn call() -> Invocation {
    Invocation::new("kv", "anything")
}

/// Modules that cannot be right are refused at deployment and at an upgrade, each with its reason,
/// and the running contract stays as it was.
#[test]
fn bad_modules_are_refused_at_deploy_and_upgrade() {
    let solo = Solo::start();
    let entry = r#"(func (export "obelisk_invoke"))"#;
    let wat = |name: &str, text: &str| solo.file(name, &wat::parse_str(text).unwrap());
    let cases = [
        (solo.file("script", b"#!/bin/sh\n"), "\\0asm"),
        (solo.file("empty", b""), "\\0asm"),
        (wat("no-memory", &format!("(module {entry})")), "no memory"),
        (wat("import", &format!(r#"(module (import "env" "clock" (func)) {entry})"#)), "clock"),
        (solo.module("no-entry", ""), "obelisk_invoke"),
        (
            wat("memory", &format!(r#"(module (memory (export "memory") 65536) {entry})"#)),
            "65536 pages",
        ),
        (solo.module("table", &format!("(table 1000000 funcref) {entry}")), "1000000 elements"),
        (solo.module("start", &format!("(func $s) (start $s) {entry}")), "start function"),
        (solo.file("large", &vec![0; limits::PACKAGE_BYTES_MAX + 1]), "the limit is 1048576"),
    ];
    for (file, words) in &cases {
        solo.refused(1, &deploy("bad", file), words);
        solo.refused(1, &upgrade("kv", file), words);
    }
    let huge = solo.file("huge", &vec![0; limits::TX_PAYLOAD_BYTES_MAX + 1]);
    solo.refused(2, &deploy("bad", &huge), "is larger than the 2097152 bytes");
    let good = text(&solo.folder.path().join("good"));
    solo.refused(1, &deploy("kv", &good), "a contract \"kv\" exists");
    solo.refused(1, &deploy("Not A Name", &good), "use a-z, 0-9");
    solo.refused(1, &upgrade("nobody", &good), "nobody");
    let client = text(&solo.folder.path().join("net/org1/client/client"));
    let as_client = [&deploy("bad", &good)[..], &["--identity", &client]].concat();
    solo.refused(1, &as_client, "admin");
    solo.refused(4, &["chaincode", "query", "bad", "f"], "unknown-chaincode");
    assert_eq!(json(&solo.network(), &["chaincode", "show", "kv"])["revision"], 1);
}

/// Endless loops end with their fuel, at deployment and in a call; more memory than allowed is not
/// given; the node serves on.
#[test]
fn endless_loops_and_huge_allocations_are_ended() {
    let solo = Solo::start();
    let entry = r#"(func (export "obelisk_invoke"))"#;
    let endless = format!(r#"(func (export "obelisk_init") (loop br 0)) {entry}"#);
    let endless = solo.module("endless", &endless);
    solo.refused(1, &deploy("endless", &endless), "out-of-fuel");
    let code = r#"(func (export "obelisk_invoke") (loop br 0))"#;
    let looping = solo.module("looping", code);
    json(&solo.network(), &deploy("looping", &looping));
    solo.refused(1, &["chaincode", "invoke", "looping", "f"], "out-of-fuel");
    solo.refused(1, &["chaincode", "query", "looping", "f"], "out-of-fuel");
    let code = r#"(func (export "obelisk_invoke")
        (if (i32.eq (memory.grow (i32.const 60000)) (i32.const -1)) (then unreachable)))"#;
    let greedy = solo.module("greedy", code);
    json(&solo.network(), &deploy("greedy", &greedy));
    solo.refused(1, &["chaincode", "invoke", "greedy", "f"], "trap");
    assert_eq!(json(&solo.network(), &["chaincode", "invoke", "kv", "f"])["status"], "ok");
}

/// Signed transactions from a file: malformed, oversized, expired, too far ahead, for another
/// chain, badly signed, of an unknown creator, of a role that may not, of a revoked certificate.
/// None of them comes into a block; a replayed one is answered with its first receipt.
#[test]
fn bad_transactions_are_refused() {
    let solo = Solo::start();
    let chain = solo.chain;
    let now = Height(solo.height());
    let submit = |file: &str| ["tx", "submit", file].map(str::to_owned);
    let no = |code: i32, file: &str, words: &str| {
        let arguments = submit(file);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        solo.refused(code, &arguments, words)
    };
    no(2, &solo.file("malformed", b"not a transaction"), "is no encoded transaction");
    no(2, &solo.file("none", b""), "is no encoded transaction");
    let oversized = solo.file("oversized", &vec![0; limits::TX_PAYLOAD_BYTES_MAX + 1]);
    no(2, &oversized, "is larger than");
    let expired = call().valid_for_blocks(0);
    let expired = solo.transaction("expired", |who| expired.sign(who, chain, now).unwrap());
    no(1, &expired, "expired");
    let far = Height(now.0 + 2 * limits::VALIDITY_BLOCKS_MAX);
    let far = solo.transaction("far", |who| call().sign(who, chain, far).unwrap());
    no(1, &far, "too-far-ahead");
    let other = ChainId::default();
    let other = solo.transaction("other", |who| call().sign(who, other, now).unwrap());
    no(1, &other, "wrong-chain");
    let forged = solo.transaction("forged", |who| {
        let (one, two) = (call().sign(who, chain, now), call().sign(who, chain, now));
        let (one, two) = (one.unwrap(), two.unwrap());
        Transaction::parse(one.signed_bytes().clone(), *two.signature()).unwrap()
    });
    no(1, &forged, "bad-signature");
    // Handed in by the client, whose certificate does not help the node here.
    let unknown = call().sign(&solo.stranger(), chain, now).unwrap();
    no(1, &solo.file("unknown", &unknown.to_bytes()), "unknown-creator");
    let validator = text(&solo.folder.path().join("net/org1/validator/validator"));
    solo.refused(1, &["chaincode", "invoke", "kv", "f", "--identity", &validator], "unauthorised");

    let before = solo.height();
    let good = solo.transaction("good.tx", |who| call().sign(who, chain, now).unwrap());
    let first = json(&solo.network(), &["tx", "submit", &good]);
    let again = json(&solo.network(), &["tx", "submit", &good]);
    assert_eq!((&first, solo.height()), (&again, before + 1), "a replay executes nothing");

    let client = text(&solo.folder.path().join("net/org1/client/client"));
    let id = json(&solo.network(), &["member", "show", &client])["id"].as_str().unwrap().to_owned();
    done(&["--network", &solo.network(), "member", "revoke", &id, "--reason", "lost"]);
    let late = solo.transaction("late", |who| call().sign(who, chain, now).unwrap());
    no(1, &late, "revoked");
    assert_eq!(solo.height(), before + 2);
}

/// Certificates and authorities that do not fit are refused before anything is written.
#[test]
fn bad_certificates_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let (_one, _two) = (make(&one, "1"), make(&two, "1"));
    let garbage = dir.path().join("garbage.pem");
    for (content, words) in [
        (&b"words"[..], "is not what belongs there"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is not usable"),
        (b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "not base64"),
    ] {
        fs::write(&garbage, content).unwrap();
        let errors = refused(&["member", "show", &text(&garbage)], 2);
        assert!(errors.contains(words), "no {words:?} in {errors}");
    }
    fs::write(&garbage, vec![b'a'; limits::PEM_BYTES_MAX + 1]).unwrap();
    let errors = refused(&["member", "show", &text(&garbage)], 2);
    assert!(errors.contains("larger than any certificate"), "{errors}");
    let out = text(&dir.path().join("alice"));
    let (ca, genesis) = (text(&one.join("org1/ca")), text(&two.join("genesis.bin")));
    let issue = ["member", "issue", "--ca", &ca, "--name", "alice", "--out", &out];
    let errors = refused(&[&issue[..], &["--genesis", &genesis]].concat(), 2);
    assert!(errors.contains("does not know the authority"), "{errors}");
    let long = format!("desk={}", "x".repeat(limits::ATTRIBUTE_VALUE_BYTES_MAX + 1));
    let errors = refused(&[&issue[..], &["--attribute", &long]].concat(), 2);
    assert!(errors.contains("256 bytes"), "{errors}");
    assert!(!PathBuf::from(&out).exists());
}

/// Scans with bounds that make no sense are refused before a node is asked; an unknown contract and
/// a passed height by the node.
#[test]
fn bad_scans_are_refused() {
    let solo = Solo::start();
    let scan = |more: &[&'static str]| [&["state", "scan", "lifecycle"], more].concat();
    solo.refused(2, &scan(&["--limit", "0"]), "limit must be from 1 to 1024");
    solo.refused(2, &scan(&["--limit", "1025"]), "limit must be from 1 to 1024");
    solo.refused(2, &scan(&["--start", "b", "--end", "a"]), "behind its end");
    solo.refused(2, &scan(&["--prefix", "a", "--start", "a"]), "--start");
    solo.refused(2, &scan(&["--prefix", "hex:0"]), "is not hexadecimal");
    solo.refused(1, &scan(&["--height", "99"]), "height-mismatch");
    solo.refused(4, &["state", "scan", "nobody"], "unknown-chaincode");
    let page = json(&solo.network(), &scan(&["--limit", "1"]));
    assert_eq!(page["entries"][0]["key"], "name/kv");
    let next = page["next"].as_str().unwrap().to_owned();
    let network = solo.network();
    let rest = json(&network, &["state", "scan", "lifecycle", "--from", &next, "--height", "1"]);
    assert_eq!((rest["entries"].as_array().unwrap().len(), &rest["next"]), (1, &().into()));
    let shown = obelisk(&["--network", &network, "state", "scan", "lifecycle", "--limit", "1"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("more with --from"));
}

/// Every kind of bad input that `docs/testing.md` lists has the test it names.
#[test]
fn every_kind_of_bad_input_has_its_test() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/testing.md")).unwrap();
    let (_, section) = text.split_once("\n## Bad input\n").expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() > 25, "{}", rows.len());
    for row in rows {
        let named: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let [file, test] = named[..] else { panic!("{row} names file and test") };
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(source.contains(&format!("fn {test}(")), "{file} has no {test}");
    }
}
