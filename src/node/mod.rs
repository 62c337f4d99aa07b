//! Floor 6: a node, put together from its configuration.
//!
//! `config` is the file an operator writes, `assembly` wires every part, top to bottom, `lifecycle`
//! runs it until a signal or a failure ends it. `signer` does the same for the process that holds
//! the keys, `ca` for the membership service. `key` opens the key of a folder. `placement` is what a
//! node takes of the machine, `service` what it tells systemd.

#[cfg(feature = "rest")]
pub mod assembly;
#[cfg(all(feature = "rest", feature = "cli"))]
pub mod ca;
pub mod config;
pub mod key;
#[cfg(all(feature = "rest", feature = "cli"))]
pub mod lifecycle;
pub mod placement;
#[cfg(all(feature = "rest", feature = "cli"))]
pub mod service;
pub mod signer;
pub mod users;
