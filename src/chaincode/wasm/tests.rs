//! Good and bad modules, written as text, through the whole way of a transaction.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::chaincode::Caller;
use crate::chaincode::contracts::Contracts;
use crate::chaincode::contracts::Options;
use crate::chaincode::contracts::tests::admin;
use crate::chaincode::contracts::tests::person;
use crate::chaincode::memory_stub::MemoryChain;
use crate::chaincode::prices;
use crate::types::receipt::Status;

/// A module around `body`, the code of its entry, with memory and all imports a test needs.
fn module(body: &str) -> Bytes {
    let text = format!(
        r#"(module
            (import "obelisk" "input" (func $input (param i32 i32) (result i32)))
            (import "obelisk" "result" (func $result (param i32)))
            (import "obelisk" "get" (func $get (param i32 i32 i32 i32) (result i32)))
            (import "obelisk" "put" (func $put (param i32 i32 i32 i32)))
            (import "obelisk" "delete" (func $delete (param i32 i32)))
            (import "obelisk" "scan"
                (func $scan (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
            (import "obelisk" "emit" (func $emit (param i32 i32 i32 i32)))
            (import "obelisk" "call" (func $call (param i32 i32 i32 i32) (result i32)))
            (import "obelisk" "caller" (func $caller (param i32 i32) (result i32)))
            (import "obelisk" "attribute" (func $attribute (param i32 i32 i32 i32) (result i32)))
            (import "obelisk" "calling_contract" (func $calling (param i32 i32) (result i32)))
            (import "obelisk" "height" (func $height (result i64)))
            (import "obelisk" "block_time" (func $block_time (result i64)))
            (import "obelisk" "tx" (func $tx (param i32)))
            (import "obelisk" "return_value" (func $return (param i32 i32)))
            (import "obelisk" "refuse" (func $refuse (param i32 i32)))
            (import "obelisk" "log" (func $log (param i32 i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "key-value-name")
            {body})"#
    );
    Bytes::from(wat::parse_str(text).expect("a test's module parses"))
}

/// A module whose entry is `code`.
fn entry(code: &str) -> Bytes {
    module(&format!(r#"(func (export "obelisk_invoke") {code})"#))
}

fn runtimes() -> Vec<(&'static str, WasmRuntime)> {
    vec![
        ("pooled", WasmRuntime::new().expect("starts")),
        ("on demand", WasmRuntime::on_demand().expect("starts")),
    ]
}

fn chain_with(runtime: WasmRuntime) -> MemoryChain {
    let contracts =
        Contracts::new(Options::default()).expect("starts").with_runtime("wasm", Arc::new(runtime));
    MemoryChain::new(Arc::new(contracts))
}

fn chain() -> MemoryChain {
    chain_with(WasmRuntime::on_demand().expect("starts"))
}

fn deploy(chain: &mut MemoryChain, name: &str, package: &Bytes) -> Result<Bytes, Fault> {
    let args = [name.as_bytes(), b"1", b"wasm", package];
    chain.transact(&admin("alpha"), "lifecycle", "deploy", &args)
}

fn client() -> Caller {
    person("beta", "client")
}

/// Deploys a module and calls it, on a fresh chain.
fn run(package: &Bytes) -> Result<Bytes, Fault> {
    let mut chain = chain();
    deploy(&mut chain, "one", package)?;
    chain.transact(&client(), "one", "f", &[b"argument"])
}

fn refused(package: &Bytes, expected: &str) {
    let mut chain = chain();
    let fault = deploy(&mut chain, "bad", package).expect_err(expected);
    assert_eq!(fault.status, Status::Refused, "{expected}");
    assert!(fault.text.contains(expected), "{expected:?} is not in {:?}", fault.text);
    assert!(chain.state.is_empty());
}

fn faults(package: &Bytes, status: Status, text: &str) {
    let fault = run(package).expect_err(text);
    assert_eq!(fault.status, status, "{}", fault.text);
    assert!(fault.text.contains(text), "{:?} is not in {:?}", text, fault.text);
}

/// Aim: state, events, identity, time and the return value go through, with the same fuel in the
/// pool and on demand.
#[test]
fn host_functions_reach_the_chain() {
    let package = entry(
        r#"(local $n i32)
        (call $put (i32.const 0) (i32.const 3) (i32.const 4) (i32.const 5))
        (call $emit (i32.const 10) (i32.const 4) (i32.const 0) (i32.const 3))
        (call $log (i32.const 0) (i32.const 3))
        (call $tx (i32.const 500))
        (local.set $n (call $get (i32.const 0) (i32.const 3) (i32.const 100) (i32.const 50)))
        (i32.store8 (i32.const 105) (i32.wrap_i64 (call $height)))
        (call $return (i32.const 100) (i32.add (local.get $n) (i32.const 1)))"#,
    );
    let mut fuel = Vec::new();
    for (name, runtime) in runtimes() {
        let mut chain = chain_with(runtime);
        deploy(&mut chain, "one", &package).expect(name);
        let value = chain.transact(&client(), "one", "f", &[]).expect(name);
        assert_eq!(value.as_ref(), b"value\x02");
        assert_eq!(chain.get("one", b"key").expect("written").as_ref(), b"value");
        let (contract, event) = chain.events.last().expect("an event");
        assert_eq!((contract.as_str(), event.name.as_str()), ("one", "name"));
        fuel.push(chain.fuel_used);
    }
    assert_eq!(fuel[0], fuel[1]);
}

/// Aim: what does not fit the buffer waits for `result`, absent values are -1.
#[test]
fn long_results_wait_and_absent_ones_are_negative() {
    let package = entry(
        r#"(if (i32.ne (call $get (i32.const 0) (i32.const 2) (i32.const 0) (i32.const 0))
                       (i32.const -1)) (then unreachable))
        (call $put (i32.const 0) (i32.const 3) (i32.const 4) (i32.const 5))
        (if (i32.ne (call $get (i32.const 0) (i32.const 3) (i32.const 200) (i32.const 4))
                    (i32.const 5)) (then unreachable))
        (if (i32.load8_u (i32.const 200)) (then unreachable))
        (call $result (i32.const 200))
        (call $return (i32.const 200) (i32.const 5))"#,
    );
    assert_eq!(run(&package).expect("runs").as_ref(), b"value");
    let twice = entry("(call $result (i32.const 0))");
    faults(&twice, Status::Trap, "no bytes are waiting");
}

/// Aim: a scan longer than a page gives every entry once, in order, up to its limit.
#[test]
fn scans_go_page_by_page() {
    // Keys are bytes 0 to 199, written downwards; values are "key".
    let package = entry(
        r#"(local $n i32)
        (local.set $n (i32.const 200))
        (loop
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (i32.store8 (i32.const 100) (local.get $n))
            (call $put (i32.const 100) (i32.const 1) (i32.const 0) (i32.const 3))
            (br_if 0 (local.get $n)))
        (i32.store8 (i32.const 100) (i32.const 5))
        (i32.store8 (i32.const 101) (i32.const 190))
        (drop (call $scan (i32.const 100) (i32.const 1) (i32.const 101) (i32.const 1)
            (i32.const 150) (i32.const 1000) (i32.const 5000)))
        (call $return (i32.const 1000) (i32.const 1804))"#,
    );
    let value = run(&package).expect("runs");
    assert_eq!(value[..4], 150_u32.to_be_bytes());
    let keys: Vec<u8> = value[4..].chunks(12).map(|entry| entry[4]).collect();
    assert_eq!(keys, (5..155).collect::<Vec<u8>>());
}

/// Aim: bytes are paid also where they do not fit the buffer.
#[test]
fn bytes_are_paid_without_a_buffer() {
    let get = |count: u32| {
        entry(&format!(
            r#"(local $n i32)
            (call $put (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 50000))
            (loop
                (drop (call $get (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0)))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if 0 (i32.lt_u (local.get $n) (i32.const {count}))))"#
        ))
    };
    run(&get(900)).expect("900 reads of 50,000 bytes are below 50,000,000");
    assert_eq!(run(&get(1000)).expect_err("1000 are above").status, Status::OutOfFuel);
}

/// Aim: a refusal carries the contract's words, cut to the limit, and drops its writes.
#[test]
fn refusals_carry_text() {
    let package = entry(
        r#"(call $put (i32.const 0) (i32.const 3) (i32.const 4) (i32.const 5))
        (call $refuse (i32.const 0) (i32.const 14)) unreachable"#,
    );
    let mut chain = chain();
    deploy(&mut chain, "one", &package).expect("deploys");
    let fault = chain.transact(&client(), "one", "f", &[]).expect_err("refuses");
    assert_eq!((fault.status, fault.text.as_str()), (Status::Refused, "key-value-name"));
    assert_eq!(chain.get("one", b"key"), None);
    let long = entry("(call $refuse (i32.const 0) (i32.const 60000))");
    let fault = run(&long).expect_err("refuses");
    assert_eq!(fault.text.len(), limits::ERROR_TEXT_BYTES_MAX);
}

/// Aim: a contract calls another with what fuel it has left, and recursion ends at the depth.
#[test]
fn contracts_call_contracts() {
    // contract "one", function "f", no arguments
    let request = r#"(data (i32.const 1000) "\00\03one\00\01f\00\00\00\00")"#;
    let code =
        r#"(drop (call $call (i32.const 1000) (i32.const 12) (i32.const 0) (i32.const 99)))"#;
    let recursive = module(&format!(r#"{request}(func (export "obelisk_invoke") {code})"#));
    let mut chain = chain();
    deploy(&mut chain, "one", &recursive).expect("deploys");
    let fault = chain.transact(&client(), "one", "f", &[]).expect_err("too deep");
    assert_eq!(fault.status, Status::LimitExceeded);
    let leaf = entry("(call $return (i32.const 0) (i32.const 3))");
    let mut chain = self::chain();
    deploy(&mut chain, "one", &leaf).expect("deploys");
    chain.transact(&client(), "one", "f", &[]).expect("runs");
    let alone = chain.fuel_used;
    let back = "(call $return (i32.const 0) (i32.const 3))";
    let outer = module(&format!(r#"{request}(func (export "obelisk_invoke") {code}{back})"#));
    deploy(&mut chain, "two", &outer).expect("deploys");
    assert_eq!(chain.transact(&client(), "two", "f", &[]).expect("runs").as_ref(), b"key");
    assert!(chain.fuel_used > alone + prices::ENTER, "the inner call is paid");
}

/// Aim: `obelisk_init` runs once, at deployment, and its fault fails the deployment.
#[test]
fn init_runs_at_deployment() {
    let init = |code: &str| {
        module(&format!(
            r#"(func (export "obelisk_init") {code}) (func (export "obelisk_invoke"))"#
        ))
    };
    let mut chain = chain();
    let good = init("(call $put (i32.const 0) (i32.const 3) (i32.const 4) (i32.const 5))");
    deploy(&mut chain, "one", &good).expect("deploys");
    assert!(chain.get("one", b"key").is_some());
    let fault = deploy(&mut chain, "two", &init("unreachable")).expect_err("fails");
    assert_eq!(fault.status, Status::Trap);
    assert!(chain.get("lifecycle", b"name/two").is_none());
}

/// Aim: each module that cannot be right is refused at deployment with its reason.
#[test]
fn bad_modules_are_refused() {
    let text = |text: &str| Bytes::from(wat::parse_str(text).expect("parses"));
    refused(&Bytes::from_static(b"#!/bin/sh"), "\\0asm");
    refused(&Bytes::new(), "\\0asm");
    refused(&Bytes::from_static(b"\0asm\x01\0\0\0"), "no memory");
    refused(&Bytes::from_static(b"\0asm\x0d\0\x01\0"), "not a valid module");
    refused(&Bytes::from(vec![0; limits::PACKAGE_BYTES_MAX + 1]), "limit");
    refused(
        &text(
            r#"(module (import "wasi_snapshot_preview1" "random_get"
            (func (param i32 i32) (result i32))))"#,
        ),
        "random_get",
    );
    refused(&text(r#"(module (import "obelisk" "now" (func (result i64))))"#), "\"now\"");
    refused(&text(r#"(module (import "obelisk" "height" (func)))"#), "expected type () -> (I)");
    refused(&text(r#"(module (import "obelisk" "memory" (memory 1)))"#), "only functions");
    refused(&text(r#"(module (func (export "obelisk_invoke")))"#), "no memory");
    refused(&text(r#"(module (memory (export "memory") 1))"#), "obelisk_invoke");
    refused(&text(r#"(module (memory 1) (func (export "obelisk_invoke")))"#), "\"memory\"");
    refused(
        &text(r#"(module (memory (export "memory") 257) (func (export "obelisk_invoke")))"#),
        "257 pages",
    );
    refused(
        &text(
            r#"(module (memory (export "memory") 1)
            (func (export "obelisk_invoke") (param i32)))"#,
        ),
        "function () -> ()",
    );
    refused(&module(r#"(func $s) (start $s) (func (export "obelisk_invoke"))"#), "start function");
    refused(&module(r#"(table 20000 funcref) (func (export "obelisk_invoke"))"#), "20000 elements");
}

/// Aim: features whose results could differ, or that need more than the feature set, are refused.
#[test]
fn features_outside_the_set_are_refused() {
    let text = |text: &str| Bytes::from(wat::parse_str(text).expect("parses"));
    for code in [
        "(module (memory i64 1))",
        "(module (memory 1 1 shared))",
        "(module (memory 1) (memory 1))",
        "(module (func (result v128) (v128.const i32x4 0 0 0 0)))",
        "(module (func $f return_call $f))",
        "(module (tag (param i32)))",
        "(module (type (struct)))",
        "(module (func (param externref)))",
        "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))",
        "(component)",
    ] {
        refused(&text(code), "not a valid module");
    }
    let long = "(drop (i32.const 1000000))".repeat(30_000);
    refused(&module(&format!("(func {long})")), "a function has");
    refused(&module("(func (result i32 i32) i32.const 1 i32.const 2)"), "several results");
}

/// Aim: traps, endless loops and bad pointers are typed faults, equal in words everywhere.
#[test]
fn misbehaving_code_faults() {
    faults(&entry("unreachable"), Status::Trap, "panicked");
    faults(&entry("(loop br 0)"), Status::OutOfFuel, "fuel");
    faults(&entry("(drop (i32.load (i32.const -1)))"), Status::Trap, "outside its bounds");
    faults(
        &entry("(drop (i32.div_u (i32.const 1) (i32.const 0)))"),
        Status::Trap,
        "divided by zero",
    );
    faults(&entry("(call $log (i32.const 65530) (i32.const 7))"), Status::Trap, "pointer");
    faults(&entry("(call $log (i32.const -1) (i32.const -1))"), Status::OutOfFuel, "fuel");
    faults(
        &entry("(call $put (i32.const 65536) (i32.const 1) (i32.const 0) (i32.const 1))"),
        Status::Trap,
        "pointer",
    );
    faults(
        &entry("(drop (call $input (i32.const 65535) (i32.const 1000)))"),
        Status::Trap,
        "pointer",
    );
    faults(
        &entry("(drop (call $call (i32.const 0) (i32.const 9) (i32.const 0) (i32.const 9)))"),
        Status::Trap,
        "call to another contract",
    );
    faults(
        &entry("(call $put (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1))"),
        Status::LimitExceeded,
        "key",
    );
    let huge = "(call $return (i32.const 0) (i32.const 65537))";
    let huge = module(&format!(
        r#"(func (export "obelisk_invoke") (drop (memory.grow (i32.const 1))) {huge})"#
    ));
    faults(&huge, Status::LimitExceeded, "64 KiB");
    let indirect = module(
        r#"(table 1 funcref) (type $t (func))
        (func (export "obelisk_invoke") (call_indirect (type $t) (i32.const 0)))"#,
    );
    faults(&indirect, Status::Trap, "function pointer");
}

/// Aim: memory grows to the bound and not beyond, in the pool and on demand alike.
#[test]
fn memory_growth_is_bounded_alike() {
    let package = entry(
        r#"(i32.store (i32.const 0) (memory.grow (i32.const 255)))
        (i32.store (i32.const 4) (memory.grow (i32.const 1)))
        (i32.store (i32.const 16777212) (i32.const 7))
        (call $return (i32.const 0) (i32.const 8))"#,
    );
    for (name, runtime) in runtimes() {
        let mut chain = chain_with(runtime);
        deploy(&mut chain, "one", &package).expect(name);
        let value = chain.transact(&client(), "one", "f", &[]).expect(name);
        assert_eq!(value.as_ref(), &[1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF], "{name}");
        // The slot is clean for the next instance.
        let value = chain.transact(&client(), "one", "f", &[]).expect(name);
        assert_eq!(value.as_ref(), &[1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF], "{name}");
    }
    let grow = "(loop (drop (memory.grow (i32.const -1))) br 0)";
    faults(&entry(grow), Status::OutOfFuel, "fuel");
}

/// Aim: moving memory is paid by the byte, so a loop of large copies ends soon.
#[test]
fn bulk_copies_are_paid_by_the_byte() {
    let package = entry("(memory.fill (i32.const 0) (i32.const 1) (i32.const 60000))");
    let mut chain = chain();
    deploy(&mut chain, "one", &package).expect("deploys");
    chain.transact(&client(), "one", "f", &[]).expect("runs");
    assert!(chain.fuel_used > 60_000, "{}", chain.fuel_used);
}

/// Aim: endless recursion is ended by the counted depth, at the same depth on every machine.
#[test]
fn recursion_ends_at_the_counted_depth() {
    let package = module(
        r#"(func $down (param $n i32) (result i32)
            (i32.store (i32.const 200) (local.get $n))
            (if (result i32) (i32.ge_u (local.get $n) (i32.load (i32.const 204)))
                (then (return (local.get $n)))
                (else (call $down (i32.add (local.get $n) (i32.const 1))))))
        (func (export "obelisk_invoke")
            (drop (call $input (i32.const 300) (i32.const 100)))
            ;; the only argument, a byte of hundreds of calls
            (i32.store (i32.const 204) (i32.mul (i32.load8_u (i32.const 311)) (i32.const 100)))
            (drop (call $down (i32.const 0)))
            (call $return (i32.const 200) (i32.const 4)))"#,
    );
    let mut chain = chain();
    deploy(&mut chain, "one", &package).expect("deploys");
    let value = chain.transact(&client(), "one", "f", &[&[3]]).expect("300 calls nest");
    assert_eq!(value.as_ref(), 300_u32.to_le_bytes());
    // 64 KiB / (128 + 16 x (1 parameter + 2 operands)) = 372 calls.
    let fault = chain.transact(&client(), "one", "f", &[&[4]]).expect_err("400 do not");
    assert_eq!(fault.status, Status::Trap);
    assert!(fault.text.contains("nest too deep"), "{}", fault.text);
    // The counter returns to zero on every way out, so width is no depth.
    let wide = module(
        r#"(func $leaf (param i32)
            (block (block (br_table 0 1 2 (local.get 0))) (return)))
        (func (export "obelisk_invoke") (local $n i32)
            (loop
                (call $leaf (i32.rem_u (local.get $n) (i32.const 3)))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if 0 (i32.lt_u (local.get $n) (i32.const 5000)))))"#,
    );
    run(&wide).expect("runs");
}

/// Aim: every NaN that arithmetic makes has the one canonical form.
#[test]
fn nans_are_canonical() {
    let package = entry(
        r#"(f64.store (i32.const 200)
            (f64.div (f64.load (i32.const 208)) (f64.load (i32.const 208))))
        (f64.store (i32.const 216)
            (f64.add (f64.reinterpret_i64 (i64.const 0xFFF8000000000123)) (f64.const 1)))
        (call $return (i32.const 200) (i32.const 24))"#,
    );
    let value = run(&package).expect("runs");
    let canonical = 0x7FF8_0000_0000_0000_u64.to_le_bytes();
    assert_eq!(value[..8], canonical);
    assert_eq!(value[16..], canonical);
}

/// Aim: many threads at once get their instances from the bounded pool, none is refused.
#[test]
fn the_pool_serves_many_threads() {
    let runtime = WasmRuntime::new().expect("starts");
    let mut chain = chain_with(runtime);
    let package = entry("(call $return (i32.const 0) (i32.const 3))");
    deploy(&mut chain, "one", &package).expect("deploys");
    std::thread::scope(|scope| {
        for _ in 0..3 * CONCURRENT_CALLS_MAX {
            scope.spawn(|| {
                for _ in 0..20 {
                    let value = chain.query(&client(), "one", "f", &[]).expect("runs");
                    assert_eq!(value.as_ref(), b"key");
                }
            });
        }
    });
}

/// Aim: the interpreter that ppc64le gets computes the same and pays the same fuel as the compiler.
#[test]
fn the_interpreter_agrees_with_the_compiler() {
    let mut config = config(false);
    config.target("pulley64").expect("pulley is built in");
    let engine = Engine::new(&config).expect("starts");
    let pulley = WasmRuntime::with_engine(engine, false).expect("starts");
    let package = entry(
        r#"(local $n i32) (local $x f64)
        (local.set $x (f64.const 0.5))
        (loop
            (local.set $x (f64.add (f64.mul (local.get $x) (f64.const 1.0001)) (f64.const 0.3)))
            (f64.store (i32.add (i32.const 512) (i32.mul (local.get $n) (i32.const 8)))
                (local.get $x))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if 0 (i32.lt_u (local.get $n) (i32.const 1000))))
        (memory.copy (i32.const 20000) (i32.const 512) (i32.const 8000))
        (call $put (i32.const 0) (i32.const 3) (i32.const 20000) (i32.const 8000))
        (call $return (i32.const 20000) (i32.const 8000))"#,
    );
    let mut results = Vec::new();
    for runtime in [WasmRuntime::new().expect("starts"), pulley] {
        let mut chain = chain_with(runtime);
        deploy(&mut chain, "one", &package).expect("deploys");
        let value = chain.transact(&client(), "one", "f", &[]).expect("runs");
        results.push((value, chain.fuel_used));
    }
    assert_eq!(results[0], results[1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Aim: a module with bytes changed or cut is refused or runs to an end; never a panic.
    #[test]
    fn mutated_modules_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut bytes = entry(
            r#"(local $n i32)
            (loop
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if 0 (i32.lt_u (local.get $n) (i32.const 50))))
            (if (local.get $n) (then (return)))
            (call $put (i32.const 0) (i32.const 3) (i32.const 4) (i32.const 5))"#,
        ).to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = run(&Bytes::from(bytes));
    }
}
