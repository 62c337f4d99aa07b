//! What a call of a compiled contract costs: CPU microseconds and fuel of the sample contract
//! `asset`, host calls and state in memory included, by how instances are made.
//!
//! `cargo bench --bench contracts -- [calls]`. CPU time moves little with the load of the machine.

use std::sync::Arc;

use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;
use nix::sys::time::TimeValLike;
use obelisk::chaincode::Caller;
use obelisk::chaincode::Package;
use obelisk::chaincode::contracts::Contracts;
use obelisk::chaincode::contracts::Options;
use obelisk::chaincode::memory_stub::MemoryChain;
use obelisk::chaincode::wasm::WasmRuntime;
use obelisk::types::digest::Digest;
use obelisk::types::ids::CertificateId;

fn cpu_us() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("usage is readable");
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64
}

/// CPU microseconds of each of `calls` runs.
fn measure(name: &str, calls: u32, mut run: impl FnMut(u32)) -> f64 {
    for call in 0..calls / 10 {
        run(call);
    }
    let before = cpu_us();
    for call in 0..calls {
        run(call);
    }
    let each = (cpu_us() - before) / f64::from(calls);
    println!("{name:<44} {each:>8.2} us");
    each
}

fn chain(runtime: WasmRuntime, code: &[u8]) -> (MemoryChain, Caller) {
    let contracts =
        Contracts::new(Options::default()).expect("starts").with_runtime("wasm", Arc::new(runtime));
    let mut chain = MemoryChain::new(Arc::new(contracts));
    let admin = Caller {
        organisation: "bank".to_owned(),
        name: "admin1".to_owned(),
        role: "admin".to_owned(),
        attributes: Vec::new(),
        certificate: CertificateId(Digest::ZERO),
    };
    let args: [&[u8]; 4] = [b"asset", b"1", b"wasm", code];
    chain.transact(&admin, "lifecycle", "deploy", &args).expect("deploys");
    for first in (0..10_000).step_by(500) {
        let first = first.to_string();
        let args: [&[u8]; 4] = [b"a", first.as_bytes(), b"500", b"1000000"];
        chain.transact(&admin, "asset", "open_many", &args).expect("opens");
    }
    (chain, admin)
}

fn main() {
    let calls = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(50_000);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/contracts/wasm/asset.wasm");
    let code = std::fs::read(path).expect("the sample contract is committed");
    let padding = vec![b'x'; 128];
    for (name, runtime) in [
        ("pooled", WasmRuntime::new().expect("starts")),
        ("on demand", WasmRuntime::on_demand().expect("starts")),
    ] {
        println!("{name}: instances from a pool: {}", runtime.is_pooled());
        let package = Package::new(code.clone().into());
        measure(&format!("chaincode::compile/{name}"), 10, |_| {
            runtime.compile(&package).expect("compiles");
        });
        let (mut chain, caller) = chain(runtime, &code);
        measure(&format!("chaincode::balance/{name}"), calls, |call| {
            let account = format!("a{}", call % 10_000);
            chain.query(&caller, "asset", "balance", &[account.as_bytes()]).expect("reads");
        });
        measure(&format!("chaincode::transfer/{name}"), calls, |call| {
            let from = format!("a{}", call % 10_000);
            let to = format!("a{}", (call + 5_000) % 10_000);
            let args: [&[u8]; 4] = [from.as_bytes(), to.as_bytes(), b"1", &padding];
            chain.transact(&caller, "asset", "transfer", &args).expect("moves");
        });
        println!("fuel of a transfer: {}", chain.fuel_used);
    }
}
