//! Floor 3: contracts behind one seam, `Runtime`.
//!
//! A runtime runs one function of one contract against recorded state. It reads no clock, no
//! randomness and no network; everything it sees comes through `Stub`, so every validator computes
//! the same result. A failed call leaves no write: the caller of the runtime drops the recorded
//! writes.
//!
//! ```text
//! pipeline/execute -> Contracts::resolve -> lifecycle's record -> Runtime::load, kept; or built-in
//!                  -> Contracts::invoke  -> contract -> Stub (recorded reads and writes)
//! ```
//!
//! `RUNTIMES` is the visible table of plug-ins; `contracts` is what the pipeline calls. Everything
//! a fault says may reach a receipt and is hashed there, so a fault's text is a function of the
//! transaction and the state alone.

pub mod builtin;
pub mod contracts;
pub mod memory_stub;
pub mod prices;
#[cfg(feature = "wasm")]
pub mod wasm;

use std::sync::Arc;

use bytes::Bytes;

use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::receipt::Status;

/// Who called, as the certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Organisation.
    pub organisation: String,
    /// Name within the organisation.
    pub name: String,
    /// Role: client, validator, observer, auditor or admin.
    pub role: String,
    /// Attributes of the certificate, sorted by name.
    pub attributes: Vec<(String, String)>,
    /// The certificate.
    pub certificate: CertificateId,
}

/// One call of one contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Name of the contract; also the namespace of its state.
    pub chaincode: String,
    /// Function.
    pub function: String,
    /// Arguments.
    pub args: Vec<Bytes>,
    /// Creator of the transaction, also in calls from contract to contract.
    pub caller: Arc<Caller>,
    /// The contract that made this call; `None` for the transaction itself.
    pub calling_chaincode: Option<String>,
    /// The transaction.
    pub tx: TxId,
    /// Height of the block.
    pub height: Height,
    /// Time of the block, milliseconds since 1970.
    pub block_time_ms: u64,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", status.name())]
pub struct Fault {
    /// What the receipt will say; never `Ok`.
    pub status: Status,
    /// Why, for the client.
    pub text: String,
}

impl Fault {
    /// A fault.
    pub fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

/// State and services a contract sees; implemented by the pipeline's execution over the recorded
/// read and write sets. All keys are within the called contract's namespace.
pub trait Stub {
    /// The value of a key, own writes of this transaction included.
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// Sets a key.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault>;

    /// Removes a key.
    fn delete(&mut self, key: &[u8]) -> Result<(), Fault>;

    /// Up to `limit` entries with `start <= key < end`, ascending, own writes included; empty `end`
    /// = to the end.
    fn scan(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Fault>;

    /// Records an event.
    fn emit(&mut self, name: &str, payload: &[u8]) -> Result<(), Fault>;

    /// Calls another contract within the same transaction; its writes count only if the whole
    /// transaction succeeds. Returns the value and the fuel left.
    fn call(
        &mut self,
        chaincode: &str,
        function: &str,
        args: Vec<Bytes>,
        fuel: u64,
    ) -> Result<(Bytes, u64), Fault>;
}

/// What a successful call gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Return value.
    pub value: Bytes,
    /// Fuel left of what was given.
    pub fuel_left: u64,
}

/// Runs contracts of one kind.
pub trait Runtime: Send + Sync {
    /// Checks a package at deployment and prepares it to run; the fault says what is wrong with it.
    /// The answer is a function of the bytes alone, so it may be kept for ever.
    fn load(&self, package: &Package) -> Result<Arc<dyn Contract>, Fault>;

    /// Checks a package; the fault says what is wrong with it.
    fn check(&self, package: &Package) -> Result<(), Fault> {
        self.load(package).map(|_| ())
    }
}

/// A contract, ready to run on any thread.
pub trait Contract: Send + Sync {
    /// True where deployment must call the function `init`.
    fn has_init(&self) -> bool;

    /// Runs a function with at most `fuel`. On a fault all fuel given counts as used.
    fn invoke(&self, call: &Call, stub: &mut dyn Stub, fuel: u64) -> Result<Outcome, Fault>;
}

/// A deployed contract's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// SHA-256 of the bytes; the key of compiled-code caches.
    pub digest: Digest,
    /// The bytes.
    pub bytes: Bytes,
}

impl Package {
    /// A package of these bytes.
    pub fn new(bytes: Bytes) -> Self {
        Self { digest: Digest::of(&[&bytes]), bytes }
    }
}

/// A row of the table of runtimes.
pub struct RuntimeRow {
    /// Kind of package, as `lifecycle` records it.
    pub kind: &'static str,
    /// What it runs, for people.
    pub about: &'static str,
    /// Makes the runtime; an error says why this machine cannot.
    pub make: fn() -> Result<Arc<dyn Runtime>, String>,
}

/// The runtimes of this build. Built-in contracts need none.
pub const RUNTIMES: &[RuntimeRow] = &[
    #[cfg(feature = "wasm")]
    RuntimeRow {
        kind: "wasm",
        about: "WebAssembly core modules with fuel and deterministic settings",
        make: wasm::WasmRuntime::make,
    },
];
