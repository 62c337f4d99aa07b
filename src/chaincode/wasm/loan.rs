//! What a running call lends to the host functions.
//!
//! wasmtime wants the data of a store to outlive everything (`'static`), while the stub and the
//! call are borrowed from the caller's stack. This is the one place where that borrow is hidden
//! from the compiler. `WasmContract::invoke` makes a loan, moves it into a store of its own, and
//! drops the store before it returns; nothing else can reach the store.

use std::ptr::NonNull;

use crate::chaincode::Call;
use crate::chaincode::Stub;

/// A borrowed call and stub without their lifetime.
pub struct Loan {
    call: NonNull<Call>,
    stub: NonNull<dyn Stub>,
}

impl Loan {
    /// Hides the borrow of `call` and `stub`.
    ///
    /// # Safety
    /// The loan must be dropped, unused from then on, before either borrow ends.
    pub unsafe fn new(call: &Call, stub: &mut dyn Stub) -> Self {
        // SAFETY: only the lifetime changes; the caller promises not to use the loan beyond it.
        let stub: &mut (dyn Stub + 'static) = unsafe { std::mem::transmute(stub) };
        Self { call: NonNull::from(call), stub: NonNull::from(stub) }
    }

    /// The call.
    pub fn call(&self) -> &Call {
        // SAFETY: the maker of the loan promised that the borrow lasts as long as the loan.
        unsafe { self.call.as_ref() }
    }

    /// The stub.
    pub fn stub(&mut self) -> &mut dyn Stub {
        // SAFETY: as above; the loan holds the only mutable borrow and gives it out one at a time.
        unsafe { self.stub.as_mut() }
    }
}
