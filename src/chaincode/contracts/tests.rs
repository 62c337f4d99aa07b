//! Resolution, the cache of loaded code and the rules around a call.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::*;
use crate::chaincode::Caller;
use crate::chaincode::memory_stub::MemoryChain;
use crate::types::ids::CertificateId;

/// A runtime whose package is the text that every function returns.
#[derive(Default)]
pub struct Echo {
    loads: AtomicUsize,
}

struct EchoContract(Bytes);

impl Runtime for Arc<Echo> {
    fn load(&self, package: &Package) -> Result<Arc<dyn Contract>, Fault> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        match package.bytes.starts_with(b"bad") {
            true => Err(builtin::refused("a bad package")),
            false => Ok(Arc::new(EchoContract(package.bytes.clone()))),
        }
    }
}

impl Contract for EchoContract {
    fn has_init(&self) -> bool {
        self.0.starts_with(b"init")
    }

    fn invoke(&self, call: &Call, stub: &mut dyn Stub, fuel: u64) -> Result<Outcome, Fault> {
        let arg = |at: usize| call.args.get(at).cloned().unwrap_or_default();
        let text = |at: usize| String::from_utf8(arg(at).to_vec()).expect("a test's name");
        let value = match call.function.as_str() {
            "init" | "put" => {
                stub.put(&arg(0), &arg(1))?;
                Bytes::new()
            }
            "get" => stub.get(&arg(0))?.unwrap_or_default(),
            "refuse" => return Err(builtin::refused("as asked")),
            "large" => Bytes::from(vec![b'x'; limits::RETURN_BYTES_MAX + 1]),
            "call" => {
                let (value, left) = stub.call(&text(0), &text(1), call.args[2..].to_vec(), fuel)?;
                return Ok(Outcome { value, fuel_left: left.saturating_sub(1) });
            }
            "who" => Bytes::from(call.calling_chaincode.clone().unwrap_or_default()),
            "recurse" => stub.call(&call.chaincode, "recurse", Vec::new(), fuel)?.0,
            _ => self.0.clone(),
        };
        Ok(Outcome { value, fuel_left: fuel.saturating_sub(10) })
    }
}

/// An admin of `organisation`.
pub fn admin(organisation: &str) -> Caller {
    person(organisation, "admin")
}

/// A member of `organisation`.
pub fn person(organisation: &str, role: &str) -> Caller {
    Caller {
        organisation: organisation.to_owned(),
        name: format!("{role}1"),
        role: role.to_owned(),
        attributes: Vec::new(),
        certificate: CertificateId(Digest::of(&[organisation.as_bytes(), role.as_bytes()])),
    }
}

/// A chain whose packages of kind "echo" need no compiler.
pub fn echo_chain() -> (MemoryChain, Arc<Echo>) {
    let echo = Arc::new(Echo::default());
    let contracts = Contracts::new(Options { loaded_max: 1, ..Options::default() })
        .expect("the runtimes of this build start")
        .with_runtime("echo", Arc::new(echo.clone()));
    (MemoryChain::new(Arc::new(contracts)), echo)
}

fn deploy(chain: &mut MemoryChain, name: &str, package: &str) {
    let args = [name.as_bytes(), b"1", b"echo", package.as_bytes()];
    chain.transact(&admin("alpha"), "lifecycle", "deploy", &args).expect("deploys");
}

/// Aim: a name that nobody deployed is a typed fault that names the cure.
#[test]
fn unknown_names_are_refused() {
    let (mut chain, _) = echo_chain();
    let fault = chain.transact(&admin("alpha"), "nothing", "f", &[]).expect_err("unknown");
    assert_eq!(fault.status, Status::UnknownChaincode);
    assert!(fault.text.contains("lifecycle.deploy"), "{}", fault.text);
}

/// Aim: package bytes are read once while the code is in the cache, the record every time.
#[test]
fn code_at_hand_needs_no_package_bytes() {
    let (mut chain, echo) = echo_chain();
    deploy(&mut chain, "one", "first");
    let mut reads = Vec::new();
    let state = chain.state.clone();
    let mut read = |namespace: &str, key: &[u8]| {
        reads.push(String::from_utf8_lossy(key).into_owned());
        Ok(state.get(&(namespace.to_owned(), key.to_vec())).cloned())
    };
    chain.contracts.resolve("one", &mut read).expect("resolves");
    assert_eq!(reads, ["name/one"]);
    assert_eq!(echo.loads.load(Ordering::Relaxed), 1);
}

/// Aim: code that fell out of the bounded cache is loaded again, with the same result.
#[test]
fn evicted_code_is_loaded_again() {
    let (mut chain, echo) = echo_chain();
    deploy(&mut chain, "one", "first");
    deploy(&mut chain, "two", "second");
    let caller = person("alpha", "client");
    assert_eq!(chain.transact(&caller, "one", "f", &[]).expect("runs"), "first");
    assert_eq!(chain.transact(&caller, "two", "f", &[]).expect("runs"), "second");
    assert_eq!(echo.loads.load(Ordering::Relaxed), 4);
}

/// Aim: each contract has its own state, calls between contracts name the caller and return fuel.
#[test]
fn contracts_call_each_other_in_their_own_namespaces() {
    let (mut chain, _) = echo_chain();
    deploy(&mut chain, "one", "first");
    deploy(&mut chain, "two", "second");
    let caller = person("alpha", "client");
    let who = chain.transact(&caller, "one", "call", &[b"two", b"who"]).expect("calls");
    assert_eq!(who, "one");
    assert_eq!(chain.fuel_used, 11);
    chain.transact(&caller, "one", "call", &[b"two", b"put", b"k", b"v"]).expect("calls");
    assert_eq!(chain.get("two", b"k").map(Bytes::as_ref), Some(&b"v"[..]));
    assert_eq!(chain.get("one", b"k"), None);
}

/// Aim: the fault of an inner call drops the writes of the whole transaction.
#[test]
fn faults_leave_no_writes() {
    let (mut chain, _) = echo_chain();
    deploy(&mut chain, "one", "first");
    let before = chain.state.clone();
    let caller = person("alpha", "client");
    let fault = chain.transact(&caller, "one", "call", &[b"one", b"refuse"]).expect_err("refused");
    assert_eq!((fault.status, fault.text.as_str()), (Status::Refused, "as asked"));
    assert_eq!(chain.state, before);
}

/// Aim: endless recursion between contracts ends at the named depth.
#[test]
fn depth_of_calls_is_bounded() {
    let (mut chain, _) = echo_chain();
    deploy(&mut chain, "one", "first");
    let fault =
        chain.transact(&person("alpha", "client"), "one", "recurse", &[]).expect_err("too deep");
    assert_eq!(fault.status, Status::LimitExceeded);
}

/// Aim: a return value above the limit fails instead of entering a receipt.
#[test]
fn large_return_values_are_refused() {
    let (mut chain, _) = echo_chain();
    deploy(&mut chain, "one", "first");
    let fault =
        chain.transact(&person("alpha", "client"), "one", "large", &[]).expect_err("too large");
    assert_eq!(fault.status, Status::LimitExceeded);
}

/// Aim: only a deployment may initialise a contract.
#[test]
fn init_is_reserved() {
    let (mut chain, _) = echo_chain();
    let args: [&[u8]; 6] = [b"one", b"1", b"echo", b"init code", b"owner", b"alpha"];
    chain.transact(&admin("alpha"), "lifecycle", "deploy", &args).expect("deploys");
    assert_eq!(chain.get("one", b"owner").map(Bytes::as_ref), Some(&b"alpha"[..]));
    for caller in [admin("alpha"), person("alpha", "client")] {
        let fault =
            chain.transact(&caller, "one", "init", &[b"owner", b"mallory"]).expect_err("reserved");
        assert_eq!(fault.status, Status::Unauthorised);
    }
    let through = [&b"one"[..], b"init", b"owner", b"mallory"];
    let fault = chain.transact(&admin("alpha"), "one", "call", &through).expect_err("reserved");
    assert_eq!(fault.status, Status::Unauthorised);
}

/// Aim: a build without a runtime says which feature is missing.
#[test]
fn missing_runtimes_are_named() {
    assert!(no_runtime("wasm").text.contains("feature \"wasm\""));
    assert!(no_runtime("java").text.contains("java"));
}
