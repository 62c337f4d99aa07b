//! Lifecycle, membership and configure over state in memory.

use bytes::Bytes;

use crate::chaincode::Fault;
use crate::chaincode::builtin::lifecycle;
use crate::chaincode::builtin::membership;
use crate::chaincode::contracts::tests::admin;
use crate::chaincode::contracts::tests::echo_chain;
use crate::chaincode::contracts::tests::person;
use crate::chaincode::memory_stub::MemoryChain;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::limits;
use crate::types::receipt::Status;

fn chain() -> MemoryChain {
    echo_chain().0
}

fn deploy(chain: &mut MemoryChain, name: &str, version: &str, code: &str) -> Result<Bytes, Fault> {
    let args = [name.as_bytes(), version.as_bytes(), b"echo", code.as_bytes()];
    chain.transact(&admin("alpha"), "lifecycle", "deploy", &args)
}

fn upgrade(
    chain: &mut MemoryChain,
    organisation: &str,
    version: &str,
    code: &str,
) -> Result<Bytes, Fault> {
    let args = [b"one", version.as_bytes(), b"echo", code.as_bytes()];
    chain.transact(&admin(organisation), "lifecycle", "upgrade", &args)
}

fn run(chain: &mut MemoryChain) -> Result<Bytes, Fault> {
    chain.transact(&person("beta", "client"), "one", "f", &[])
}

fn json(bytes: &Bytes) -> serde_json::Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// Aim: the life of a contract, deploy, upgrade, retire, upgrade, takes effect at each step.
#[test]
fn a_contract_lives_its_life() {
    let mut chain = chain();
    let shown = json(&deploy(&mut chain, "one", "1.0", "first").expect("deploys"));
    assert_eq!((&shown["revision"], &shown["organisation"]), (&1.into(), &"alpha".into()));
    assert_eq!(run(&mut chain).expect("runs"), "first");
    let shown = json(&upgrade(&mut chain, "alpha", "1.1", "second").expect("upgrades"));
    assert_eq!(shown["revision"], 2);
    assert_eq!(run(&mut chain).expect("runs"), "second");
    chain.transact(&admin("alpha"), "lifecycle", "retire", &[b"one"]).expect("retires");
    assert_eq!(run(&mut chain).expect_err("retired").status, Status::UnknownChaincode);
    upgrade(&mut chain, "alpha", "1.2", "first").expect("comes back");
    assert_eq!(run(&mut chain).expect("runs"), "first");
    let names: Vec<&str> = chain.events.iter().map(|(_, event)| event.name.as_str()).collect();
    assert_eq!(names, ["deployed", "upgraded", "retired", "upgraded"]);
}

/// Aim: the same package under two names is stored once.
#[test]
fn packages_are_stored_once() {
    let mut chain = chain();
    deploy(&mut chain, "one", "1", "same").expect("deploys");
    let fuel = chain.fuel_used;
    deploy(&mut chain, "two", "1", "same").expect("deploys");
    assert!(chain.fuel_used < fuel, "the second deployment stores no bytes");
    let packages = chain.state.keys().filter(|(_, key)| key.starts_with(b"package/")).count();
    assert_eq!(packages, 1);
}

/// Aim: only admins change contracts, and only those of the owning organisation.
#[test]
fn changing_contracts_needs_the_right_admin() {
    let mut chain = chain();
    deploy(&mut chain, "one", "1", "first").expect("deploys");
    for function in ["deploy", "upgrade", "retire"] {
        let fault = chain
            .transact(&person("alpha", "client"), "lifecycle", function, &[b"one"])
            .expect_err("not an admin");
        assert_eq!(fault.status, Status::Unauthorised, "{function}");
    }
    let fault = upgrade(&mut chain, "beta", "2", "stolen").expect_err("another's contract");
    assert_eq!(fault.status, Status::Unauthorised);
    assert!(fault.text.contains("alpha"), "{}", fault.text);
}

/// Aim: names, versions, sizes and packages that do not fit are refused with the reason.
#[test]
fn bad_deployments_are_refused() {
    let mut chain = chain();
    for name in ["", "Upper", "a/b", "1st", "a b", "lifecycle", &"x".repeat(65)] {
        let fault = deploy(&mut chain, name, "1", "code").expect_err("a bad name");
        assert_eq!(fault.status, Status::Refused, "{name:?}");
    }
    let cases: [(&[&[u8]], &str); 4] = [
        (&[b"one"], "got 1 arguments"),
        (&[b"one", b"", b"echo", b"x"], "version"),
        (&[b"one", b"1", b"echo", b"bad"], "a bad package"),
        (&[b"one", b"1", b"echo", b"code", b"arg"], "no function \"init\""),
    ];
    for (args, text) in cases {
        let fault = chain.transact(&admin("a"), "lifecycle", "deploy", args).expect_err(text);
        assert_eq!(fault.status, Status::Refused);
        assert!(fault.text.contains(text), "{}", fault.text);
    }
    let large = vec![0; limits::PACKAGE_BYTES_MAX + 1];
    let args: [&[u8]; 4] = [b"one", b"1", b"echo", &large];
    let fault = chain.transact(&admin("a"), "lifecycle", "deploy", &args).expect_err("large");
    assert!(fault.text.contains("limit"), "{}", fault.text);
    assert!(chain.state.is_empty());
}

/// Aim: deploying a name twice, or upgrading to what runs already, is refused.
#[test]
fn repeated_changes_are_refused() {
    let mut chain = chain();
    deploy(&mut chain, "one", "1", "first").expect("deploys");
    assert!(deploy(&mut chain, "one", "1", "first").is_err());
    assert!(upgrade(&mut chain, "alpha", "1", "first").is_err());
    chain.transact(&admin("alpha"), "lifecycle", "retire", &[b"one"]).expect("retires");
    assert!(chain.transact(&admin("alpha"), "lifecycle", "retire", &[b"one"]).is_err());
}

/// Aim: listing goes page by page and leaves none out.
#[test]
fn lists_are_paged() {
    let mut chain = chain();
    let count = lifecycle::LIST_MAX + 3;
    for number in 0..count {
        deploy(&mut chain, &format!("c{number:03}"), "1", "code").expect("deploys");
    }
    let caller = person("beta", "client");
    let page = json(&chain.query(&caller, "lifecycle", "list", &[]).expect("lists"));
    let page = page.as_array().expect("a list").clone();
    assert_eq!(page.len(), lifecycle::LIST_MAX);
    let last = page[page.len() - 1]["name"].as_str().expect("a name").to_owned();
    let rest = chain.query(&caller, "lifecycle", "list", &[last.as_bytes()]).expect("lists");
    assert_eq!(json(&rest).as_array().expect("a list").len(), 3);
}

/// Aim: a deployment that runs out of fuel leaves nothing.
#[test]
fn deployment_pays_by_size() {
    let mut chain = chain();
    chain.fuel_max = 100_000;
    let code = "x".repeat(50_000);
    let fault = deploy(&mut chain, "one", "1", &code).expect_err("too dear");
    assert_eq!(fault.status, Status::OutOfFuel);
    assert!(chain.state.is_empty());
}

/// Aim: records keep their one encoding, and damaged ones are errors.
#[test]
fn records_survive_encoding() {
    let mut chain = chain();
    deploy(&mut chain, "one", "1", "first").expect("deploys");
    let bytes = chain.get("lifecycle", b"name/one").expect("stored").clone();
    let record = lifecycle::Record::from_bytes(&bytes).expect("decodes");
    assert_eq!(record.to_bytes(), bytes);
    for end in 0..bytes.len() {
        assert!(lifecycle::Record::from_bytes(&bytes.slice(..end)).is_err());
    }
}

/// Aim: a revocation counts for the admin's own organisation and for nobody else's certificates.
#[test]
fn revocation_reaches_the_own_organisation_only() {
    let mut chain = chain();
    let id = CertificateId(Digest::of(&[b"a lost key"]));
    let text = id.to_string();
    let args = [text.as_bytes(), b"key lost"];
    chain.transact(&admin("alpha"), "membership", "revoke", &args).expect("revokes");
    let state = chain.state.clone();
    let mut read =
        |namespace: &str, key: &[u8]| Ok(state.get(&(namespace.to_owned(), key.to_vec())).cloned());
    assert_eq!(membership::is_revoked(&mut read, "alpha", &id), Ok(true));
    assert_eq!(membership::is_revoked(&mut read, "beta", &id), Ok(false));
    let caller = person("alpha", "client");
    let shown = chain.query(&caller, "membership", "status", &[text.as_bytes()]).expect("shows");
    assert_eq!(json(&shown)["reason"], "key lost");
    let other = [text.as_bytes(), b"beta"];
    let shown = chain.query(&caller, "membership", "status", &other).expect("shows");
    assert_eq!(json(&shown)["revoked"], false);
    let fault = chain.transact(&caller, "membership", "revoke", &args).expect_err("no admin");
    assert_eq!(fault.status, Status::Unauthorised);
    assert!(chain.transact(&admin("alpha"), "membership", "revoke", &args).is_err(), "twice");
}

/// Aim: an admin cannot lock itself out, and malformed ids are refused.
#[test]
fn senseless_revocations_are_refused() {
    let mut chain = chain();
    let own = admin("alpha").certificate.to_string();
    for id in [own.as_str(), "abc", ""] {
        let args = [id.as_bytes(), b"why"];
        let fault =
            chain.transact(&admin("alpha"), "membership", "revoke", &args).expect_err("refused");
        assert_eq!(fault.status, Status::Refused);
    }
}

/// Aim: parameters are shown, and changing them is refused in plain words.
#[test]
fn configure_shows_and_refuses_to_write() {
    let mut chain = chain();
    let shown = chain.query(&person("a", "client"), "configure", "show", &[]).expect("shows");
    assert_eq!(json(&shown)["checkpoint_interval"], 16);
    let fault =
        chain.transact(&admin("a"), "configure", "set", &[b"window", b"32"]).expect_err("refused");
    assert_eq!(fault.status, Status::Refused);
    assert!(fault.text.contains("this version"), "{}", fault.text);
}

/// Aim: a function that does not exist gets the list of those that do.
#[test]
fn unknown_functions_name_the_known_ones() {
    let mut chain = chain();
    for name in ["lifecycle", "membership", "configure"] {
        let fault = chain.transact(&admin("a"), name, "nonsense", &[]).expect_err("unknown");
        assert!(fault.text.contains("nonsense") && fault.text.contains('('), "{}", fault.text);
    }
}
