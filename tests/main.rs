//! The integration tests, one binary: each topic is a module.

mod chain_fixture;
#[cfg(feature = "rest")]
mod cluster;
#[cfg(feature = "wasm")]
mod contracts;
mod crash;
mod execution;
mod guard;
mod ledger;
mod simulation;
mod tidy;
