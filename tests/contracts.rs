//! The sample contracts, as committed, in the runtime of the validator.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use obelisk::chaincode::Caller;
use obelisk::chaincode::contracts::Contracts;
use obelisk::chaincode::contracts::Options;
use obelisk::chaincode::memory_stub::MemoryChain;
use obelisk::types::digest::Digest;
use obelisk::types::ids::CertificateId;
use obelisk::types::receipt::Status;

fn person(organisation: &str, name: &str, role: &str) -> Caller {
    Caller {
        organisation: organisation.to_owned(),
        name: name.to_owned(),
        role: role.to_owned(),
        attributes: Vec::new(),
        certificate: CertificateId(Digest::of(&[organisation.as_bytes(), name.as_bytes()])),
    }
}

fn wasm(name: &str) -> Vec<u8> {
    let path = format!("{}/contracts/wasm/{name}.wasm", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).expect("the sample contract is committed")
}

/// A chain with one sample contract.
fn chain(name: &str, init: &[&str]) -> MemoryChain {
    let contracts = Contracts::new(Options::default()).expect("the runtimes start");
    let mut chain = MemoryChain::new(Arc::new(contracts));
    let code = wasm(name);
    let mut args: Vec<&[u8]> = vec![name.as_bytes(), b"1", b"wasm", &code];
    args.extend(init.iter().map(|arg| arg.as_bytes()));
    let admin = person("operator", "admin1", "admin");
    chain.transact(&admin, "lifecycle", "deploy", &args).expect("deploys");
    chain
}

fn call(
    chain: &mut MemoryChain,
    caller: &Caller,
    contract: &str,
    function: &str,
    args: &[&str],
) -> Result<String, (Status, String)> {
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    chain
        .transact(caller, contract, function, &args)
        .map(|value| String::from_utf8(value.to_vec()).expect("text"))
        .map_err(|fault| (fault.status, fault.text))
}

/// Aim: the load path reads two keys, writes two keys and costs little fuel.
#[test]
fn asset_transfers_run_compiled() {
    let mut chain = chain("asset", &["bank"]);
    let bank = person("bank", "teller", "client");
    call(&mut chain, &bank, "asset", "open_many", &["a", "0", "100", "1000"]).expect("opens");
    let client = person("shop", "ann", "client");
    let padding = "x".repeat(200);
    call(&mut chain, &client, "asset", "transfer", &["a1", "a2", "30", &padding]).expect("moves");
    assert!(chain.fuel_used < 60_000, "a transfer costs {} fuel", chain.fuel_used);
    assert_eq!(call(&mut chain, &client, "asset", "balance", &["a1"]).expect("reads"), "970");
    assert_eq!(chain.get("asset", b"account/a2"), Some(&Bytes::from_static(b"1030")));
    let refused = call(&mut chain, &client, "asset", "transfer", &["a1", "a2", "9999"]);
    assert_eq!(refused.expect_err("too much").0, Status::Refused);
    let refused = call(&mut chain, &client, "asset", "open", &["free", "5"]);
    assert!(refused.expect_err("no issuer").1.contains("bank"));
}

/// Steps of a story: who, which function, arguments.
type Step<'a> = (&'a str, &'a str, &'a [&'a str]);

fn tell(chain: &mut MemoryChain, contract: &str, story: &[Step<'_>]) {
    for (organisation, function, args) in story {
        let caller = person(organisation, "clerk", "client");
        call(chain, &caller, contract, function, args)
            .unwrap_or_else(|(status, text)| panic!("{function}: {}: {text}", status.name()));
    }
}

/// Midnight of a day of 2024, milliseconds since 1970.
fn day_of_2024(day: u64) -> u64 {
    (19_723 + day) * 24 * 60 * 60 * 1000
}

/// Aim: a letter of credit lives its whole life compiled, by the time of blocks.
#[test]
fn a_letter_of_credit_is_paid() {
    let mut chain = chain("letter-of-credit", &[]);
    chain.block_time_ms = day_of_2024(121);
    let digest = "ab".repeat(32);
    let documents = format!("invoice={digest},insurance={digest}");
    let terms = [
        "lc1",
        "1000000",
        "EUR",
        "10",
        "seller",
        "issuing",
        "advising",
        "carrier",
        "2024-06-28",
        "2024-07-15",
        "no",
        "invoice,insurance",
    ];
    let ship = ["lc1", "bl1", "4 machines", "2024-05-01"];
    let present: [&str; 4] = ["lc1", "bl1", "1000000", &documents];
    let story: [Step<'_>; 7] = [
        ("buyer", "apply", &terms),
        ("issuing", "issue", &["lc1"]),
        ("advising", "advise", &["lc1"]),
        ("carrier", "ship", &ship),
        ("seller", "present", &present),
        ("issuing", "accept", &["lc1", "1"]),
        ("issuing", "pay", &["lc1", "1"]),
    ];
    tell(&mut chain, "letter-of-credit", &story);
    let shown = call(&mut chain, &person("x", "y", "client"), "letter-of-credit", "show", &["lc1"]);
    assert!(shown.expect("shows").contains(r#""status":"settled""#));
    let events: Vec<&str> = chain.events.iter().map(|(_, event)| event.name.as_str()).collect();
    let expected =
        ["deployed", "applied", "issued", "advised", "shipped", "presented", "accepted", "paid"];
    assert_eq!(events, expected);

    let late = ["lc2", "5", "EUR", "0", "s", "i", "a", "c", "2024-06-28", "2024-07-15", "no", "x"];
    tell(
        &mut chain,
        "letter-of-credit",
        &[
            ("b", "apply", &late),
            ("i", "issue", &["lc2"]),
            ("a", "advise", &["lc2"]),
            ("c", "ship", &["lc2", "bl", "goods", "2024-05-01"]),
        ],
    );
    chain.block_time_ms = day_of_2024(121 + 22);
    let seller = person("s", "sam", "client");
    let documents = format!("x={digest}");
    let args = ["lc2", "bl", "5", documents.as_str()];
    let refused = call(&mut chain, &seller, "letter-of-credit", "present", &args);
    let (status, text) = refused.expect_err("documents are stale");
    assert_eq!(status, Status::Refused);
    assert!(text.contains("21 days"), "{text}");
}

/// Aim: an attribute of the certificate reaches the compiled contract.
#[test]
fn attributes_reach_the_contract() {
    let mut chain = chain("letter-of-credit", &[]);
    chain.block_time_ms = day_of_2024(121);
    let terms = ["lc", "5", "EUR", "0", "s", "i", "a", "c", "2024-06-28", "2024-07-15", "no", "x"];
    tell(&mut chain, "letter-of-credit", &[("b", "apply", &terms)]);
    let mut bound = person("i", "ivo", "client");
    bound.attributes.push(("trade".to_owned(), "carrier".to_owned()));
    assert!(call(&mut chain, &bound, "letter-of-credit", "issue", &["lc"]).is_err());
    bound.attributes[0].1 = "issuing-bank".to_owned();
    call(&mut chain, &bound, "letter-of-credit", "issue", &["lc"]).expect("issues");
}

/// Aim: goods keep their quantity through split, transformation and custody, compiled.
#[test]
fn provenance_conserves_quantity() {
    let mut chain = chain("provenance", &[]);
    let story: [Step<'_>; 7] = [
        ("farm", "create", &["w1", "wheat", "1000", "kg", "field 7"]),
        ("farm", "split", &["w1", "w2", "600", "w3", "400"]),
        ("farm", "send", &["w2", "mill"]),
        ("mill", "receive", &["w2"]),
        ("mill", "declare", &["milling", "flour", "kg", "kg", "800"]),
        ("mill", "transform", &["f1", "milling", "480", "w2"]),
        ("farm", "remove", &["w3", "spoilt"]),
    ];
    tell(&mut chain, "provenance", &story);
    let anyone = person("x", "y", "client");
    let book = call(&mut chain, &anyone, "provenance", "book", &["wheat", "kg"]).expect("a book");
    assert_eq!(book, r#"{"created":1000,"made":0,"used":600,"removed":400,"present":0}"#);
    let trace = call(&mut chain, &anyone, "provenance", "trace", &["f1"]).expect("a trace");
    assert!(trace.contains("field 7") && trace.contains(r#""complete":true"#), "{trace}");
    let again = ["f2", "milling", "1", "w2"];
    let refused =
        call(&mut chain, &person("mill", "m", "client"), "provenance", "transform", &again);
    assert!(refused.expect_err("used up").1.contains("is used"));
}

/// Aim: a bond is sold by two banks and settled against payment, compiled.
#[test]
fn a_bond_is_settled_against_payment() {
    let mut chain = chain("bond", &[]);
    let story: [Step<'_>; 11] = [
        ("treasury", "issue", &["b1", "1000", "98", "EUR", "regulator", "2030-01-31"]),
        ("treasury", "quota", &["b1", "north", "600"]),
        ("treasury", "quota", &["b1", "south", "400"]),
        ("treasury", "open", &["b1"]),
        ("north", "subscribe", &["b1", "ann", "500"]),
        ("north", "subscribe", &["b1", "bob", "400"]),
        ("south", "subscribe", &["b1", "cid", "100"]),
        ("treasury", "close", &["b1"]),
        ("treasury", "allot", &["b1", "north"]),
        ("north", "pay", &["b1", "north", "wire 7"]),
        ("treasury", "settle", &["b1", "north"]),
    ];
    tell(&mut chain, "bond", &story);
    let regulator = person("regulator", "rae", "auditor");
    let seen = call(&mut chain, &regulator, "bond", "supervise", &["b1"]).expect("sees");
    assert!(seen.contains(r#""settled":600"#), "{seen}");
    let held = call(&mut chain, &regulator, "bond", "holding", &["b1", "north", "ann"]);
    assert!(held.expect("sees").contains(r#""units":334"#));
}

const CONTRACTS: [&str; 4] = ["asset", "bond", "letter-of-credit", "provenance"];

fn contracts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts")
}

/// Files below `path` that reach the code, relative to `contracts/`.
fn files(path: &str, found: &mut Vec<String>) {
    let full = contracts().join(path);
    if full.is_file() {
        let name = full.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !matches!(name, "tests.rs" | "mock.rs") {
            found.push(path.to_owned());
        }
        return;
    }
    for entry in std::fs::read_dir(&full).expect("sources are readable") {
        let name = entry.expect("sources are readable").file_name();
        files(&format!("{path}/{}", name.to_string_lossy()), found);
    }
}

/// What `contracts/build.sh` records of the sources of one contract.
fn source_digest(contract: &str) -> String {
    let mut found = Vec::new();
    for path in ["Cargo.toml", "Cargo.lock", "sdk/Cargo.toml", "sdk/src"] {
        files(path, &mut found);
    }
    files(&format!("{contract}/Cargo.toml"), &mut found);
    files(&format!("{contract}/src"), &mut found);
    found.sort();
    let lines: String = found
        .iter()
        .map(|path| {
            let bytes = std::fs::read(contracts().join(path)).expect("sources are readable");
            format!("{}  {path}\n", Digest::of(&[&bytes]))
        })
        .collect();
    Digest::of(&[lines.as_bytes()]).to_string()
}

/// Aim: the committed modules are those of the committed sources.
#[test]
fn committed_modules_match_their_sources() {
    let recorded = std::fs::read_to_string(contracts().join("wasm/SOURCES")).expect("is committed");
    for contract in CONTRACTS {
        let module = Digest::of(&[&wasm(contract)]);
        let line = format!("{} {module} {contract}.wasm", source_digest(contract));
        assert!(
            recorded.lines().any(|recorded| recorded == line),
            "{contract}: run contracts/build.sh and commit contracts/wasm; expected\n{line}"
        );
    }
}

/// Aim: where this machine can build the contracts with the recorded compiler, the bytes are equal.
#[test]
fn a_rebuild_gives_the_same_bytes() {
    let recorded = std::fs::read_to_string(contracts().join("wasm/SOURCES")).expect("is committed");
    let said = |args: &[&str]| {
        let output = Command::new("rustc").args(args).output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let version = said(&["--version"]).unwrap_or_default();
    let library = ["--print", "target-libdir", "--target", "wasm32-unknown-unknown"];
    let installed = said(&library).is_some_and(|path| Path::new(path.trim()).is_dir());
    if !installed || version.is_empty() || !recorded.contains(version.trim()) {
        eprintln!("not rebuilt: needs the target wasm32-unknown-unknown and the recorded rustc");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new("sh")
        .arg(contracts().join("build.sh"))
        .arg(folder.path())
        .env("CARGO_TARGET_DIR", folder.path().join("target"))
        .output()
        .expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for contract in CONTRACTS {
        let built = std::fs::read(folder.path().join(format!("{contract}.wasm"))).expect("built");
        assert_eq!(Digest::of(&[&built]), Digest::of(&[&wasm(contract)]), "{contract}");
    }
}
