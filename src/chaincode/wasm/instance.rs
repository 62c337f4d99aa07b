//! One call of a compiled contract: a fresh instance, run, dropped.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::InstancePre;
use wasmtime::ModuleExport;
use wasmtime::Store;
use wasmtime::Trap;

use crate::chaincode::Call;
use crate::chaincode::Contract;
use crate::chaincode::Fault;
use crate::chaincode::Outcome;
use crate::chaincode::Stub;
use crate::chaincode::builtin;
use crate::chaincode::builtin::lifecycle;
use crate::chaincode::prices;
use crate::chaincode::wasm::Turns;
use crate::chaincode::wasm::host::HostState;
use crate::chaincode::wasm::loan::Loan;
use crate::chaincode::wasm::module;
use crate::chaincode::wasm::module::Prepared;
use crate::types::receipt::Status;

/// A compiled contract.
pub struct WasmContract {
    pre: InstancePre<HostState>,
    memory: ModuleExport,
    invoke: ModuleExport,
    init: Option<ModuleExport>,
    enter_fuel: u64,
    turns: Arc<Turns>,
}

impl WasmContract {
    /// Wraps a module that `module::prepare` let through.
    pub(super) fn new(pre: InstancePre<HostState>, prepared: Prepared, turns: Arc<Turns>) -> Self {
        let export = |name: &str| pre.module().get_export_index(name);
        let checked = "the exports were checked before compilation";
        let memory = export(module::MEMORY).expect(checked);
        let invoke = export(module::INVOKE).expect(checked);
        let init = export(module::INIT);
        let pages = prices::of(prepared.memory_pages, prices::ENTER_PAGE);
        Self { memory, invoke, init, enter_fuel: prices::ENTER + pages, pre, turns }
    }

    /// Fuel that entering the contract costs.
    pub fn enter_fuel(&self) -> u64 {
        self.enter_fuel
    }

    fn run(&self, store: &mut Store<HostState>, entry: &ModuleExport) -> wasmtime::Result<()> {
        let instance = self.pre.instantiate(&mut *store)?;
        let memory = instance
            .get_module_export(&mut *store, &self.memory)
            .and_then(wasmtime::Extern::into_memory)
            .expect("the memory export was checked before compilation");
        store.data_mut().memory = Some(memory);
        instance
            .get_module_export(&mut *store, entry)
            .and_then(wasmtime::Extern::into_func)
            .expect("the function exports were checked before compilation")
            .typed::<(), ()>(&*store)?
            .call(&mut *store, ())
    }
}

impl Contract for WasmContract {
    fn has_init(&self) -> bool {
        self.init.is_some()
    }

    fn invoke(&self, call: &Call, stub: &mut dyn Stub, fuel: u64) -> Result<Outcome, Fault> {
        let entry = match (&self.init, call.function.as_str()) {
            (Some(init), lifecycle::INIT) => init,
            _ => &self.invoke,
        };
        let fuel = fuel.checked_sub(self.enter_fuel).ok_or_else(builtin::out_of_fuel)?;
        // Nested calls run within the turn of the outermost one.
        let _turn = call.calling_chaincode.is_none().then(|| self.turns.take());
        // SAFETY: the store that takes the loan is dropped at the end of this function, within both
        // borrows; host functions reach it only while the store runs.
        let loan = unsafe { Loan::new(call, stub) };
        let mut store = Store::new(self.pre.module().engine(), HostState::new(loan));
        store.limiter(|state| &mut state.growth);
        store.set_fuel(fuel).expect("fuel is on in the engine's configuration");
        match self.run(&mut store, entry) {
            Ok(()) => {
                let fuel_left = store.get_fuel().expect("fuel is on");
                let value = std::mem::take(&mut store.data_mut().value);
                Ok(Outcome { value: Bytes::from(value), fuel_left })
            }
            Err(error) => Err(fault(error)),
        }
    }
}

/// What the client is told; equal on every validator.
fn fault(error: wasmtime::Error) -> Fault {
    let error = match error.downcast::<Fault>() {
        Ok(fault) => return fault,
        Err(error) => error,
    };
    let text = match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => return builtin::out_of_fuel(),
        Some(Trap::UnreachableCodeReached) => {
            "the contract panicked (unreachable), or its calls nest too deep"
        }
        Some(Trap::StackOverflow) => "the contract's calls nest too deep",
        Some(Trap::MemoryOutOfBounds) => "the contract touched memory outside its bounds",
        Some(Trap::TableOutOfBounds | Trap::IndirectCallToNull | Trap::BadSignature) => {
            "the contract called a function pointer that is none"
        }
        Some(Trap::IntegerOverflow) => "the contract's integer division overflowed",
        Some(Trap::IntegerDivisionByZero) => "the contract divided by zero",
        Some(Trap::BadConversionToInteger) => {
            "the contract made an integer of a float that is none"
        }
        Some(_) => "the contract trapped",
        // No trap: the machine failed. To answer here would be to guess what others compute.
        None => panic!("this machine cannot run a contract, so the process stops: {error:#}"),
    };
    Fault::new(Status::Trap, text)
}
