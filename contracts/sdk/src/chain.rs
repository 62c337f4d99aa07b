//! Who calls, when, and other contracts.

use alloc::string::String;
use alloc::vec::Vec;

use crate::date::Date;
use crate::host;
use crate::wire;

/// Who called, as the certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Organisation.
    pub organisation: String,
    /// Name within the organisation.
    pub name: String,
    /// Role: client, validator, observer, auditor or admin.
    pub role: String,
    /// SHA-256 of the certificate.
    pub certificate: [u8; 32],
}

impl Caller {
    /// `organisation/name`.
    pub fn full_name(&self) -> String {
        [self.organisation.as_str(), "/", self.name.as_str()].concat()
    }
}

/// The creator of the transaction, also in calls from contract to contract.
pub fn caller() -> Caller {
    let bytes = host::caller();
    let mut r = wire::Reader(&bytes);
    let (organisation, name, role) = (r.string(), r.string(), r.string());
    let mut certificate = [0; 32];
    certificate.copy_from_slice(r.raw(32));
    Caller { organisation, name, role, certificate }
}

/// An attribute of the caller's certificate.
pub fn attribute(name: &str) -> Option<String> {
    host::attribute(name)
}

/// The contract that made this call; `None` for the transaction itself.
pub fn calling_contract() -> Option<String> {
    host::calling_contract()
}

/// Id of the transaction.
pub fn tx() -> [u8; 32] {
    host::tx()
}

/// Height of the block.
pub fn height() -> u64 {
    host::height()
}

/// Time of the block, milliseconds since 1970: the only clock.
pub fn block_time_ms() -> u64 {
    host::block_time()
}

/// Day of the block, UTC.
pub fn today() -> Date {
    Date::from_ms(block_time_ms())
}

/// Records an event; kept only where the transaction succeeds.
pub fn emit(name: &str, payload: impl AsRef<[u8]>) {
    host::emit(name, payload.as_ref());
}

/// Calls another contract within this transaction. A fault there ends the whole transaction.
pub fn call(contract: &str, function: &str, args: &[&[u8]]) -> Vec<u8> {
    host::call(&wire::call(contract, function, args))
}

/// A line for the validator's debug log; never part of a result.
pub fn log(text: &str) {
    host::log(text);
}
