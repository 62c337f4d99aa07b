//! `obelisk bench`: measures this machine, the parts of a node on it, and a network.
//!
//! ```text
//! host       what the machine gives: syncs, clocks, memory, waking a thread
//! crypto     providers, batches, the verification pool
//! storage    committing blocks: ledger, store, segments, state tree
//! contracts  a transfer's way behind the signature check: decode, execute, commit
//! load       a network under signed transfers: throughput, latency, CPU, memory
//! compare    two reports, row by row
//! ```
//!
//! One command line and one JSON schema (`report`) on x86-64, s390x and ppc64le; figures of an
//! emulated processor are marked. The method and our figures stand in `bench/README.md`, how to
//! read a report in `docs/benchmarking.md`. Limits on memory: each command holds the blocks of one
//! run, and a store with the sizes of a small node.

mod chain;
mod compare;
#[cfg(feature = "wasm")]
mod contracts;
mod crypto;
mod fresh;
mod host;
mod load;
mod load_report;
mod machine;
mod measure;
mod report;
mod storage;

use clap::Subcommand;

use crate::cli::Context;
use crate::cli::failure::Failure;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Signed transfers at a rate or in a closed loop; throughput, latency, cost
    Load(load::Arguments),
    /// Hashing, signing, checking: per provider, in batches, in the pool
    Crypto(crypto::Arguments),
    /// Committing blocks: ledger, store, segment files, state tree
    Storage(storage::Arguments),
    /// A transfer's way behind the signature check, and the contract alone
    #[cfg(feature = "wasm")]
    Contracts(contracts::Arguments),
    /// This machine: syncs, clocks, memory, waking a thread
    Host(host::Arguments),
    /// Two reports row by row: exit code 0 compared, 1 worse than allowed, 2 no report,
    /// 5 not comparable
    Compare(compare::Arguments),
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Load(arguments) => load::run(&arguments, context),
        Command::Crypto(arguments) => crypto::run(&arguments, context),
        Command::Storage(arguments) => storage::run(&arguments, context),
        #[cfg(feature = "wasm")]
        Command::Contracts(arguments) => contracts::run(&arguments, context),
        Command::Host(arguments) => host::run(&arguments, context),
        Command::Compare(arguments) => compare::run(&arguments, context),
    }
}
