//! The integration tests, one binary: each topic is a module.

#[cfg(all(feature = "rest", feature = "wasm"))]
mod api;
mod chain_fixture;
#[cfg(feature = "rest")]
mod cluster;
mod crash;
mod guard;
mod ledger;
mod tidy;
#[cfg(feature = "wasm")]
mod contracts;
