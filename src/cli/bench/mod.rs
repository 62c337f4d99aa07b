//! `obelisk bench`: measures a network.
//!
//! `load` drives a running network, or one that it starts for itself, with signed transfers and
//! says what a committed transaction costs. The method and the figures stand in
//! `bench/README.md`.

mod fresh;
mod load;
mod measure;
mod report;

use clap::Subcommand;

use crate::cli::Context;
use crate::cli::failure::Failure;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Signed transfers at a rate or in a closed loop; throughput, latency, cost
    Load(load::Arguments),
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Load(arguments) => load::run(&arguments, context),
    }
}
