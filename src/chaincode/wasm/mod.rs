//! WebAssembly contracts: core modules in wasmtime, the same result on every validator.
//!
//! ```text
//! package -> module::prepare (validate, limits, imports, depth) -> Cranelift or Pulley
//!         -> InstancePre -> per call: fresh instance from the pool, host calls over Stub, dropped
//! ```
//!
//! What makes it deterministic: the feature set is "lime1" without references (no threads, SIMD,
//! GC, exceptions, tail calls, 64-bit or several memories); NaNs are canonical; time is measured in
//! fuel, which is charged per WebAssembly instruction before any optimisation and so does not
//! depend on the compiler, with bulk operations charged per byte; memory and tables are bounded by
//! the same numbers everywhere; depth of calls is counted in the code itself (`module`) and so does
//! not depend on the size of native frames. ppc64le has no Cranelift back end: wasmtime takes its
//! interpreter, Pulley, there, with the same fuel and the same results.
//!
//! A fault's text never repeats wasmtime's words about this machine. Where the machine itself fails
//! (no memory for an instance) the process stops: a validator that cannot compute must not vote for
//! a guess. The version of wasmtime is part of the protocol version.
//!
//! An instance comes from a pool, so a call costs microseconds; where the pool's address space
//! cannot be reserved, instances are made on demand, with the same limits and results.

mod host;
mod instance;
mod loan;
pub mod module;

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;

use wasmtime::Config;
use wasmtime::Engine;
use wasmtime::InstanceAllocationStrategy;
use wasmtime::Linker;
use wasmtime::OperatorCost;
use wasmtime::OptLevel;
use wasmtime::PoolingAllocationConfig;

use crate::chaincode::Contract;
use crate::chaincode::Fault;
use crate::chaincode::Package;
use crate::chaincode::Runtime;
use crate::chaincode::builtin;
use crate::chaincode::wasm::host::HostState;
use crate::chaincode::wasm::instance::WasmContract;
use crate::types::limits;

/// Native stack that one running contract may use, bytes. Calls between contracts nest up to
/// `limits::CALL_DEPTH_MAX` of them on one thread: 1.5 MiB, within the 2 MiB of a Rust thread.
const NATIVE_STACK_BYTES: usize = 192 * 1024;
/// Transactions and queries that may run WebAssembly at one time.
const CONCURRENT_CALLS_MAX: usize = 6;
/// Memory of an instance that stays mapped for the next, bytes; cleared by writing zeros, which costs
/// less than asking the kernel which pages were written (`PAGEMAP_SCAN`).
const KEEP_RESIDENT_BYTES: usize = 256 * 1024;
/// Fuel of one page that `memory.grow` asks for.
const GROW_PAGE_FUEL: u8 = 200;

/// Compiles and runs WebAssembly.
pub struct WasmRuntime {
    linker: Linker<HostState>,
    pooled: bool,
    turns: Arc<Turns>,
}

impl WasmRuntime {
    /// A runtime for the table of plug-ins.
    pub fn make() -> Result<Arc<dyn Runtime>, String> {
        Ok(Arc::new(Self::new()?))
    }

    /// A runtime; pooled where this machine allows.
    pub fn new() -> Result<Self, String> {
        let pooled = Engine::new(&config(true)).and_then(|engine| Self::with_engine(engine, true));
        match pooled {
            Ok(runtime) => Ok(runtime),
            Err(error) => {
                tracing::warn!(%error, "no pool of contract instances; calls will be slower");
                Self::on_demand()
            }
        }
    }

    /// A runtime that makes each instance anew.
    pub fn on_demand() -> Result<Self, String> {
        Engine::new(&config(false))
            .and_then(|engine| Self::with_engine(engine, false))
            .map_err(|error| format!("wasmtime cannot start on this machine: {error:#}"))
    }

    /// True where instances come from a pool.
    pub fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// Checks and compiles a package.
    pub fn compile(&self, package: &Package) -> Result<WasmContract, Fault> {
        let prepared = module::prepare(&package.bytes)?;
        let compiled = wasmtime::Module::new(self.linker.engine(), &prepared.bytes)
            .and_then(|module| self.linker.instantiate_pre(&module));
        match compiled {
            Ok(pre) => Ok(WasmContract::new(pre, prepared, self.turns.clone())),
            Err(error) => {
                tracing::error!(package = %package.digest, error = format!("{error:#}"), "compile");
                Err(builtin::refused("the module is valid but cannot be compiled; simplify it"))
            }
        }
    }

    fn with_engine(engine: Engine, pooled: bool) -> wasmtime::Result<Self> {
        let linker = host::linker(&engine)?;
        Ok(Self { linker, pooled, turns: Arc::new(Turns::default()) })
    }
}

impl Runtime for WasmRuntime {
    fn load(&self, package: &Package) -> Result<Arc<dyn Contract>, Fault> {
        Ok(Arc::new(self.compile(package)?))
    }
}

fn config(pooled: bool) -> Config {
    let mut cost = OperatorCost::new();
    cost.variable.memory_grow_per_page = GROW_PAGE_FUEL;
    let mut config = Config::new();
    config
        .wasm_features(wasmtime::WasmFeatures::all(), false)
        .wasm_features(module::features(), true)
        .consume_fuel(true)
        .operator_cost(cost)
        .epoch_interruption(false)
        .cranelift_nan_canonicalization(true)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(NATIVE_STACK_BYTES);
    if pooled {
        // One more than there are turns: `init` runs within lifecycle's call, which takes none.
        let slots = ((CONCURRENT_CALLS_MAX + 1) * limits::CALL_DEPTH_MAX) as u32;
        let mut pool = PoolingAllocationConfig::default();
        pool.total_core_instances(slots)
            .total_memories(slots)
            .total_tables(slots)
            .max_memories_per_module(1)
            .max_tables_per_module(1)
            .table_elements(limits::WASM_TABLE_ELEMENTS_MAX)
            .max_memory_size(limits::WASM_MEMORY_BYTES_MAX)
            .max_unused_warm_slots(slots)
            .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
            .table_keep_resident(KEEP_RESIDENT_BYTES);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

/// Bounds how many calls run at one time, so that the pool always has a slot for a nested call.
#[derive(Default)]
struct Turns {
    running: Mutex<usize>,
    freed: Condvar,
}

/// The right to run one outermost call.
struct Turn<'a>(&'a Turns);

impl Turns {
    fn take(&self) -> Turn<'_> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= CONCURRENT_CALLS_MAX {
            running = self.freed.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests;
