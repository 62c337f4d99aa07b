//! The integration tests, one binary: each topic is a module.

#[cfg(all(feature = "rest", feature = "wasm"))]
mod api;
#[cfg(feature = "cli")]
mod ca;
mod chain_fixture;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "rest")]
mod cluster;
#[cfg(feature = "wasm")]
mod contracts;
mod crash;
mod creators;
#[cfg(all(feature = "cli", feature = "pkcs11"))]
mod custody;
mod decoders;
#[cfg(feature = "cli")]
mod demo;
mod distance;
#[cfg(feature = "cli")]
mod evidence;
mod execution;
mod fencing;
#[cfg(all(feature = "cli", feature = "pkcs11"))]
mod founding;
mod guard;
mod intake;
mod ledger;
mod mempool;
mod mutations;
#[cfg(any(feature = "cli", feature = "rest"))]
mod ports;
#[cfg(feature = "rest")]
mod revocation;
#[cfg(feature = "cli")]
mod service;
#[cfg(feature = "cli")]
mod signer;
mod simulation;
#[cfg(feature = "cli")]
mod systemd;
mod tidy;
#[cfg(all(feature = "rest", feature = "openssl"))]
mod tls;
#[cfg(any(feature = "cli", all(feature = "rest", feature = "wasm")))]
mod validator_fixture;
mod vectors;
