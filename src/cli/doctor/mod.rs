//! `obelisk doctor`: asks the machine and a node's folders what would go wrong, and says how to
//! mend it.
//!
//! ```text
//! scope (machine, configuration, probes) -> checks of each group -> table or JSON -> exit code
//! ```
//!
//! Every check has an id, one result (ok, note, warning, error, skipped), the reason and a fix.
//! Exit codes: 0 nothing above a note, 5 warnings, 1 errors. Nothing is changed, except that a
//! ledger that no node uses is opened as a node would open it, and that a scratch file measures the
//! disk. A new check is a function and a row in its group's `CHECKS`; the tests ask for a planted
//! fault that proves it.

mod adapters;
mod clock;
mod config;
mod crypto;
mod data;
mod disk;
mod finding;
mod identity;
mod limits;
mod machine;
mod memory;
mod network;
mod probe;
mod scope;
mod signer;
#[cfg(test)]
mod tests;
mod token;

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::Context;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::finding::Outcome;
use crate::cli::doctor::scope::Scope;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::host;
use crate::cli::output::Cell;
use crate::host::tree::Tree;

#[derive(Args, Debug)]
pub struct Arguments {
    /// The node's configuration file; without it only the machine is looked at
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only checks whose id begins so, as in `disk` or `identity.validity`
    #[arg(long, value_name = "ID")]
    only: Option<String>,
    /// Show what needs attention only: notes, warnings and errors
    #[arg(long)]
    brief: bool,
    /// List the checks instead of running them
    #[arg(long)]
    list: bool,
}

/// Every group, in the order of the report.
const GROUPS: &[&[Check]] = &[
    machine::CHECKS,
    memory::CHECKS,
    limits::CHECKS,
    clock::CHECKS,
    crypto::CHECKS,
    adapters::CHECKS,
    config::CHECKS,
    identity::CHECKS,
    signer::CHECKS,
    token::CHECKS,
    disk::CHECKS,
    data::CHECKS,
    network::CHECKS,
];

fn checks(only: Option<&str>) -> Vec<Check> {
    let all = GROUPS.iter().flat_map(|group| group.iter().copied());
    all.filter(|check| only.is_none_or(|only| check.id.starts_with(only))).collect()
}

/// Runs the doctor.
pub fn run(arguments: Arguments, context: &Context) -> Result<(), Failure> {
    let checks = checks(arguments.only.as_deref());
    if checks.is_empty() {
        let only = arguments.only.unwrap_or_default();
        let fix = "`obelisk doctor --list` names them all";
        return Err(Failure::usage(format!("no check is called {only}"), fix));
    }
    if arguments.list {
        let rows = checks.iter().map(|c| vec![Cell::text_of(c.id), Cell::text_of(c.about)]);
        context.output.table(&["id", "asks"], &rows.collect::<Vec<_>>(), "");
        return Ok(());
    }
    let tree = Tree::machine();
    let cpu_info = host::processor_of_libcrypto(&tree);
    let scope = Scope::new(tree, arguments.config, cpu_info, probe::live());
    let found = ask(&checks, &scope);
    report(&found, arguments.brief, context);
    verdict(&found)
}

fn ask(checks: &[Check], scope: &Scope) -> Vec<(Check, Finding)> {
    let ask = |check: &Check| (*check, (check.run)(scope).unwrap_or_else(|stopped| stopped));
    checks.iter().map(ask).collect()
}

fn report(found: &[(Check, Finding)], brief: bool, context: &Context) {
    let shown = found.iter().filter(|(_, f)| !brief || f.outcome >= Outcome::Note);
    if context.output.is_json() {
        let rows = shown.map(|(check, finding)| {
            json!({ "id": check.id, "about": check.about, "result": finding.outcome.name(),
                    "reason": finding.reason, "fix": finding.fix })
        });
        context.output.value(&rows.collect());
        return;
    }
    let rows: Vec<Vec<Cell>> = shown
        .map(|(check, finding)| {
            let fix = match finding.fix.is_empty() {
                true => String::new(),
                false => format!(". Fix: {}", finding.fix),
            };
            vec![
                Cell::text_of(finding.outcome.name()),
                Cell::text_of(check.id),
                Cell::Text(format!("{}{fix}", finding.reason)),
            ]
        })
        .collect();
    context.output.table(&["result", "check", "reason"], &rows, "nothing needs attention");
}

fn verdict(found: &[(Check, Finding)]) -> Result<(), Failure> {
    let count = |outcome| found.iter().filter(|(_, f)| f.outcome == outcome).count();
    let (errors, warnings) = (count(Outcome::Error), count(Outcome::Warning));
    let cause = format!("of {} checks {errors} failed and {warnings} warn", found.len());
    let fix = "each line of the report names its own";
    match (errors, warnings) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::new(Exit::Warned, cause, fix)),
        _ => Err(Failure::new(Exit::Refused, cause, fix)),
    }
}
