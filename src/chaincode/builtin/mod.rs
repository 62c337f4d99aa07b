//! Contracts that are part of the protocol: compiled into every node, called like any other.
//!
//! They see state through the same `Stub`, pay the same prices and fail the same way. `BUILTINS` is
//! the table. Arguments are bytes; names and numbers are given as UTF-8 text so that they can be
//! called from a command line. What they return is JSON text; what they store is binary
//! (`types::codec`) because it decides what runs.

pub mod configure;
pub mod lifecycle;
pub mod membership;

use bytes::Bytes;

use crate::chaincode::Call;
use crate::chaincode::Fault;
use crate::chaincode::Outcome;
use crate::chaincode::Stub;
use crate::chaincode::contracts::Contracts;
use crate::chaincode::prices;
use crate::types::codec::DecodeError;
use crate::types::limits;
use crate::types::receipt::Status;

/// Role whose certificates may change contracts and revoke certificates.
pub const ADMIN: &str = "admin";

/// A contract that is part of the protocol.
pub trait Builtin: Sync {
    /// Its name and namespace.
    fn name(&self) -> &'static str;

    /// Functions with their arguments, for people.
    fn functions(&self) -> &'static [&'static str];

    /// Runs a function.
    fn run(
        &self,
        contracts: &Contracts,
        call: &Call,
        services: &mut Services<'_>,
    ) -> Result<Bytes, Fault>;

    /// Runs a function with at most `fuel`.
    fn invoke(
        &self,
        contracts: &Contracts,
        call: &Call,
        stub: &mut dyn Stub,
        fuel: u64,
    ) -> Result<Outcome, Fault> {
        let mut services = Services { stub, fuel };
        let input: usize = call.args.iter().map(Bytes::len).sum();
        services.charge(prices::ENTER)?;
        services.charge(prices::of(input, prices::BYTE))?;
        let value = self.run(contracts, call, &mut services)?;
        Ok(Outcome { value, fuel_left: services.fuel })
    }
}

/// The built-in contracts, by name.
pub const BUILTINS: &[&dyn Builtin] =
    &[&configure::Configure, &lifecycle::Lifecycle, &membership::Membership];

/// The built-in contract of that name.
pub fn find(name: &str) -> Option<&'static dyn Builtin> {
    BUILTINS.iter().copied().find(|builtin| builtin.name() == name)
}

/// The stub with its prices.
pub struct Services<'a> {
    stub: &'a mut dyn Stub,
    fuel: u64,
}

impl Services<'_> {
    /// Uses fuel.
    pub fn charge(&mut self, price: u64) -> Result<(), Fault> {
        self.fuel = self.fuel.checked_sub(price).ok_or_else(out_of_fuel)?;
        Ok(())
    }

    /// The value of a key.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.charge(prices::GET)?;
        let value = self.stub.get(key)?;
        self.charge(prices::of(value.as_ref().map_or(0, Bytes::len), prices::BYTE))?;
        Ok(value)
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.charge(prices::PUT)?;
        self.charge(prices::of(key.len() + value.len(), prices::PUT_BYTE))?;
        self.stub.put(key, value)
    }

    /// Entries with `start <= key < end`.
    pub fn scan(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        self.charge(prices::SCAN)?;
        let entries = self.stub.scan(start, end, limit)?;
        self.charge(prices::of(entries.len(), prices::SCAN_ENTRY))?;
        let bytes = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.charge(prices::of(bytes, prices::BYTE))?;
        Ok(entries)
    }

    /// Records an event.
    pub fn emit(&mut self, name: &str, payload: &[u8]) -> Result<(), Fault> {
        self.charge(prices::EVENT)?;
        self.charge(prices::of(name.len() + payload.len(), prices::EVENT_BYTE))?;
        self.stub.emit(name, payload)
    }

    /// Calls another contract with all fuel that is left.
    pub fn call(
        &mut self,
        chaincode: &str,
        function: &str,
        args: Vec<Bytes>,
    ) -> Result<Bytes, Fault> {
        let (value, fuel) = self.stub.call(chaincode, function, args, self.fuel)?;
        self.fuel = fuel;
        Ok(value)
    }
}

/// A refusal with its reason.
pub fn refused(text: impl Into<String>) -> Fault {
    Fault::new(Status::Refused, text)
}

/// What an exhausted call says.
pub fn out_of_fuel() -> Fault {
    Fault::new(
        Status::OutOfFuel,
        "the call used up its fuel; do less work in one transaction or raise the network's limit",
    )
}

/// Refuses everyone but admins.
fn require_admin(call: &Call) -> Result<(), Fault> {
    if call.caller.role == ADMIN {
        return Ok(());
    }
    Err(Fault::new(
        Status::Unauthorised,
        format!(
            "{}.{} needs a certificate of role admin; the caller's role is {}",
            call.chaincode, call.function, call.caller.role
        ),
    ))
}

/// Refuses a wrong number of arguments; `form` says what is expected.
fn require_args(call: &Call, count: usize, form: &str) -> Result<(), Fault> {
    if call.args.len() == count {
        return Ok(());
    }
    Err(refused(format!("expected {form}, got {} arguments", call.args.len())))
}

/// An argument as text of at most `limits::NAME_BYTES_MAX` bytes.
fn text<'a>(call: &'a Call, at: usize, what: &str) -> Result<&'a str, Fault> {
    let bytes = call.args.get(at).map(Bytes::as_ref).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.len() <= limits::NAME_BYTES_MAX => Ok(text),
        _ => {
            Err(refused(format!("{what}: expected 1 to {} bytes of text", limits::NAME_BYTES_MAX)))
        }
    }
}

/// What a call of a function that does not exist gets.
fn unknown_function(builtin: &dyn Builtin, call: &Call) -> Fault {
    let known = builtin.functions().join(", ");
    let asked: String = call.function.chars().take(limits::NAME_BYTES_MAX).collect();
    refused(format!("no function {asked:?} in {}; it has {known}", builtin.name()))
}

/// State that this contract wrote cannot be read: our own bug, told instead of acted upon.
fn damaged(what: &str, error: &DecodeError) -> Fault {
    Fault::new(Status::Trap, format!("damaged state: {what}: {error}"))
}

#[cfg(test)]
mod tests;
