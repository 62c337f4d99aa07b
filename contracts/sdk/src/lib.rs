//! Write contracts for Obelisk in Rust.
//!
//! ```
//! use obelisk_contract::prelude::*;
//!
//! contract! {
//!     "greet" => greet,
//! }
//!
//! /// `greet(name)` remembers who was greeted last.
//! fn greet(args: &Args) -> Answer {
//!     args.count(1, "greet(name)")?;
//!     let name = args.text(0, "name")?;
//!     state::put("last", name);
//!     text(name)
//! }
//! # fn main() {}
//! ```
//!
//! A contract is a crate of type `cdylib` that begins with
//! `#![cfg_attr(target_arch = "wasm32", no_std)]` and names its functions in `contract!`. On
//! `wasm32-unknown-unknown` the functions of this crate are the host's; natively they are those of
//! `mock`, so that plain `cargo test` runs contracts without a network.
//!
//! There is no clock, randomness, file or thread: all that a contract may know is here. A function
//! ends in an answer or in a refusal, which drops everything it wrote.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

pub mod args;
pub mod chain;
pub mod date;
pub mod json;
#[cfg(not(target_arch = "wasm32"))]
pub mod mock;
pub mod record;
pub mod state;

#[cfg(target_arch = "wasm32")]
mod arena;
#[cfg(target_arch = "wasm32")]
mod host;
mod wire;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

#[cfg(not(target_arch = "wasm32"))]
use mock::host;

/// Everything a contract usually needs.
pub mod prelude {
    pub use alloc::borrow::ToOwned;
    pub use alloc::format;
    pub use alloc::string::String;
    pub use alloc::string::ToString;
    pub use alloc::vec;
    pub use alloc::vec::Vec;

    pub use crate::Answer;
    pub use crate::Refusal;
    pub use crate::args::Args;
    pub use crate::chain;
    pub use crate::chain::Caller;
    pub use crate::contract;
    pub use crate::date::Date;
    pub use crate::json::Json;
    pub use crate::record::Record;
    pub use crate::refuse;
    pub use crate::require;
    pub use crate::state;
    pub use crate::text;
}

/// Why a contract does not do what it is asked; the client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub Cow<'static, str>);

/// What a function of a contract gives: the return value, or a refusal.
pub type Answer = Result<Vec<u8>, Refusal>;

/// A function of a contract.
pub type Function = fn(&args::Args) -> Answer;

/// The functions of a contract, by name.
pub type Functions = &'static [(&'static str, Function)];

/// An answer of plain text.
pub fn text(text: &str) -> Answer {
    Ok(text.as_bytes().to_vec())
}

/// A refusal; a literal or a `String`.
pub fn refuse<T>(text: impl Into<Cow<'static, str>>) -> Result<T, Refusal> {
    Err(Refusal(text.into()))
}

/// Refuses where `holds` is false.
pub fn require(holds: bool, text: impl Into<Cow<'static, str>>) -> Result<(), Refusal> {
    match holds {
        true => Ok(()),
        false => refuse(text),
    }
}

/// Finds and runs a function; `contract!` calls it.
pub fn dispatch(functions: Functions, name: &str, args: &args::Args) -> Answer {
    match functions.iter().find(|(known, _)| *known == name) {
        Some((_, function)) => function(args),
        None => {
            let mut text = String::from("no function \"");
            text.push_str(name);
            text.push_str("\"; the contract has");
            for (known, _) in functions {
                text.push(' ');
                text.push_str(known);
            }
            refuse(text)
        }
    }
}

/// Runs the call that the host holds ready; `contract!` calls it.
pub fn enter(functions: Functions) {
    let (name, args) = wire::input(&host::input());
    match dispatch(functions, &name, &args) {
        Ok(value) => host::return_value(&value),
        Err(Refusal(text)) => host::refuse(&text),
    }
}

/// Names the functions of a contract and makes the exports that the host calls.
///
/// `contract! { init => first, "open" => open }` also runs `first` once, at deployment.
#[macro_export]
macro_rules! contract {
    (init => $init:path, $($name:literal => $function:path),+ $(,)?) => {
        $crate::contract! { $($name => $function),+ }

        /// What runs once, at deployment.
        pub const INIT: $crate::Functions = &[("init", $init)];

        #[cfg(target_arch = "wasm32")]
        #[unsafe(no_mangle)]
        extern "C" fn obelisk_init() {
            $crate::enter(INIT);
        }
    };
    ($($name:literal => $function:path),+ $(,)?) => {
        /// The functions of this contract.
        pub const FUNCTIONS: $crate::Functions = &[$(($name, $function)),+];

        #[cfg(target_arch = "wasm32")]
        #[unsafe(no_mangle)]
        extern "C" fn obelisk_invoke() {
            $crate::enter(FUNCTIONS);
        }
    };
}

#[cfg(test)]
mod tests;
