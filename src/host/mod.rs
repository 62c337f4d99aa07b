//! Floor 1: the machine: what it offers and what the node takes of it.
//!
//! ```text
//! tree      /proc and /sys below a root folder: this machine, or a recorded one
//! detect    processor, memory, limits, crypto instructions      devices   disks, adapters, guests
//! clock     the wall clock                                      emulation  a processor that is played
//! kernel    its version, and the oldest that will do
//! cpacf     which functions the crypto instructions of IBM Z offer
//! topology  cores, books, drawers, NUMA nodes (hwloc or /sys)
//! profile   what a board should be set to (firmware-config/), compared
//! sizing    memory and threads of the parts                     pinning   which thread runs where
//! ```
//!
//! Tests replace the root folder by recorded machines. Nothing here fails: what cannot be read gets
//! a cautious value and a remark for the operator. Stations receive the results as plain values
//! from assembly.

pub mod clock;
pub mod cpacf;
pub mod detect;
pub mod devices;
pub mod emulation;
pub mod kernel;
pub mod pinning;
pub mod profile;
#[cfg(test)]
pub mod recorded;
pub mod sizing;
pub mod topology;
pub mod tree;
