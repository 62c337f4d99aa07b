//! Running one seed again and reading what happened: the function behind `obelisk sim`.

use std::io;
use std::io::Write;

use crate::consensus;
use crate::consensus::PLUGINS;
use crate::sim;
use crate::sim::Outcome;
use crate::sim::options::Options;

/// What to run.
#[derive(Clone, Debug)]
pub struct Request {
    /// Row of the plug-in table.
    pub plugin: String,
    /// First seed.
    pub seed: u64,
    /// Number of seeds; 1 replays a single one.
    pub count: u64,
    /// Print every event of a single seed.
    pub trace: bool,
}

/// Why nothing was run, or nothing could be written.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// No such row.
    #[error("no consensus plug-in is called {name}; there are: {known}")]
    UnknownPlugin { name: String, known: String },
    /// The output is closed.
    #[error("cannot write the report")]
    Write(#[from] io::Error),
}

/// Runs the request and writes a report. True when every promise held.
pub fn run(request: &Request, out: &mut dyn Write) -> Result<bool, ReplayError> {
    let Some(plugin) = consensus::plugin(&request.plugin) else {
        let known: Vec<&str> = PLUGINS.iter().map(|row| row.name).collect();
        let known = known.join(", ");
        return Err(ReplayError::UnknownPlugin { name: request.plugin.clone(), known });
    };
    if request.count != 1 {
        let report = sim::run_many(plugin, request.seed, request.count);
        write!(out, "{report}")?;
        return Ok(report.failed == 0);
    }
    let options = Options::from_seed(plugin, request.seed);
    writeln!(out, "{options}\n")?;
    let lines = if request.trace { TRACE_LINES_MAX } else { 0 };
    let outcome = sim::run_traced(plugin, &options, lines);
    for line in &outcome.trace {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{}", summary(&outcome))?;
    Ok(outcome.violation.is_none())
}

/// One failed run: seed, options, what broke, and the command that runs it again.
pub fn explain(outcome: &Outcome) -> String {
    let Options { plugin, seed, .. } = outcome.options;
    format!(
        "{}\n{}\n  replay: obelisk sim --plugin {plugin} --seed {seed} --trace\n  or:     \
         OBELISK_SIM_PLUGIN={plugin} OBELISK_SIM_SEED={seed} cargo test --no-default-features \
         --lib sim::tests::replay -- --nocapture",
        outcome.options,
        summary(outcome)
    )
}

fn summary(outcome: &Outcome) -> String {
    let verdict = match &outcome.violation {
        None => "every promise held".to_owned(),
        Some(violation) => violation.to_string(),
    };
    format!(
        "{verdict}\n{} events in {} ms of virtual time, trace hash {}",
        outcome.events, outcome.virtual_ms, outcome.trace_hash
    )
}

/// Lines of a printed trace: the last ones of a long run.
const TRACE_LINES_MAX: usize = 200_000;
