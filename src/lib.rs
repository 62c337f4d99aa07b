//! Obelisk: a validating peer for permissioned ledgers.
//!
//! The house has floors; a module imports only lower ones (`tests/tidy.rs` checks it,
//! `docs/ARCHITECTURE.md` draws it).

// Order of floors, from the ground up.
pub mod types;

pub mod crypto;
pub mod host;
pub mod storage;
pub mod telemetry;

pub mod consensus;
pub mod ledger;
pub mod membership;
pub mod signer;

pub mod chaincode;
pub mod network;

pub mod pipeline;

pub mod api;
pub mod client;
pub mod node;

#[cfg(feature = "cli")]
pub mod cli;

pub mod sim;
