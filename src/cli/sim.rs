//! `obelisk sim`: runs seeds of the simulator again.

use std::io;
use std::io::BufWriter;
use std::io::Write;

use clap::Args;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::sim::replay;
use crate::sim::replay::ReplayError;
use crate::sim::replay::Request;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Consensus plug-in
    #[arg(long, default_value = "pbft")]
    plugin: String,
    /// First seed
    #[arg(long)]
    seed: u64,
    /// Number of seeds
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Print every event of a single seed
    #[arg(long, conflicts_with = "count")]
    trace: bool,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), Failure> {
    let Arguments { plugin, seed, count, trace } = arguments;
    let request = Request { plugin, seed, count: count.max(1), trace };
    let mut report = Vec::new();
    let held = match context.output.is_json() {
        true => replay::run(&request, &mut report),
        false => {
            let mut out = BufWriter::new(io::stdout().lock());
            replay::run(&request, &mut out).and_then(|held| Ok(out.flush().map(|()| held)?))
        }
    };
    let held = match held {
        Ok(held) => held,
        // The reader has seen enough.
        Err(ReplayError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return Ok(());
        }
        Err(ReplayError::Write(error)) => {
            return Err(Failure::of(Exit::Internal, &error, "check where output goes"));
        }
        Err(error) => return Err(Failure::of(Exit::Usage, &error, "choose another plug-in")),
    };
    if context.output.is_json() {
        context.output.value(&serde_json::json!({
            "plugin": request.plugin,
            "seed": request.seed,
            "count": request.count,
            "held": held,
            "report": String::from_utf8_lossy(&report),
        }));
    }
    match held {
        true => Ok(()),
        false => {
            let cause = "a promise of the protocol was broken";
            Err(Failure::new(Exit::Refused, cause, "replay the seed with --trace and report it"))
        }
    }
}
