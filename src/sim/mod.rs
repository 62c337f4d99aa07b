//! The seeded simulator: a whole network of real cores in one thread, with virtual time.
//!
//! It may use every module except `api`, `node` and `cli`, and is used by tests and by
//! `obelisk sim` only. One seed stands for a printed set of options (`options.rs`) and, with it,
//! for every event of the run: the same seed gives the same trace hash on any machine.
//!
//! ```text
//! options --> cluster (event loop, virtual time) --> outcome: broken promise?, trace hash, coverage
//!               |- node: core + disk        driver.rs   persist, guard, sync, send, loopback, timers
//!               |- network, clock, disk     transfer.rs bodies, execution, catch-up
//!               |- personas                 checkers.rs promises, at every event
//! ```
//!
//! A run has two phases: faults happen, then all heal and the cluster must settle in bounded
//! virtual time, take fresh work and settle again. Rules: a random stream per subsystem, ordered
//! maps only, no floating point, no wall clock (facts: TigerBeetle's VOPR, FoundationDB; personas
//! after Twins and ByzzFuzz).

pub mod checkers;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod driver;
pub mod keys;
pub mod network;
pub mod node;
pub mod options;
pub mod personas;
pub mod random;
pub mod replay;
pub mod trace;
pub mod transfer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::consensus::Plugin;
use crate::sim::checkers::Coverage;
use crate::sim::checkers::Violation;
use crate::sim::cluster::Cluster;
use crate::sim::keys::Keys;
use crate::sim::options::Options;
use crate::types::ids::ChainId;
use crate::types::replica_set::ReplicaSet;

/// What one run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was run.
    pub options: Options,
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// Hash over all events.
    pub trace_hash: String,
    /// Number of events.
    pub events: u64,
    /// Virtual time at the end, milliseconds.
    pub virtual_ms: u64,
    /// What happened how often.
    pub coverage: Coverage,
    /// The last events as text, where asked for.
    pub trace: Vec<String>,
    /// The network of the run.
    pub chain: ChainId,
    /// Its replicas.
    pub replicas: Arc<ReplicaSet>,
    /// What checks their signatures.
    pub keys: Keys,
    /// Evidence that correct replicas kept, in its portable form.
    pub evidence: Vec<Bytes>,
}

/// What many runs came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Runs.
    pub runs: u64,
    /// Outcomes with a broken promise, by seed, at most `FAILURES_KEPT_MAX`.
    pub failures: Vec<Outcome>,
    /// Runs with a broken promise.
    pub failed: u64,
    /// What happened how often over all runs; names that end in `_max` are peaks.
    pub coverage: Coverage,
}

/// Runs one seed.
pub fn run(plugin: &Plugin, seed: u64) -> Outcome {
    run_options(plugin, &Options::from_seed(plugin, seed))
}

/// Runs a scenario.
pub fn run_options(plugin: &Plugin, options: &Options) -> Outcome {
    Cluster::new(plugin, options, 0).run()
}

/// Runs a scenario and keeps the last `lines` events as text.
pub fn run_traced(plugin: &Plugin, options: &Options, lines: usize) -> Outcome {
    Cluster::new(plugin, options, lines).run()
}

/// Runs `count` seeds from `first` on `THREADS` threads.
pub fn run_many(plugin: &Plugin, first: u64, count: u64) -> Report {
    let next = AtomicU64::new(0);
    let worker = || {
        let mut report = Report::default();
        loop {
            let offset = next.fetch_add(1, Ordering::Relaxed);
            if offset >= count {
                return report;
            }
            report.add(run(plugin, first.wrapping_add(offset)));
        }
    };
    let mut total = Report::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            total.merge(worker.join().expect("a panic in a run is a failure of its own"));
        }
    });
    total
}

impl Report {
    fn add(&mut self, outcome: Outcome) {
        self.runs += 1;
        merge_coverage(&mut self.coverage, &outcome.coverage);
        if outcome.violation.is_some() {
            self.failed += 1;
            self.keep(outcome);
        }
    }

    fn merge(&mut self, other: Self) {
        self.runs += other.runs;
        self.failed += other.failed;
        merge_coverage(&mut self.coverage, &other.coverage);
        for outcome in other.failures {
            self.keep(outcome);
        }
    }

    /// Keeps the failures of the lowest seeds.
    fn keep(&mut self, outcome: Outcome) {
        self.failures.push(outcome);
        self.failures.sort_by_key(|failure| failure.options.seed);
        self.failures.truncate(FAILURES_KEPT_MAX);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} runs, {} broke a promise", self.runs, self.failed)?;
        for (what, count) in &self.coverage {
            writeln!(f, "  {what:<28} {count}")?;
        }
        for failure in &self.failures {
            writeln!(f, "\n{}", replay::explain(failure))?;
        }
        Ok(())
    }
}

fn merge_coverage(into: &mut Coverage, from: &Coverage) {
    for (what, count) in from {
        let sum = into.entry(what).or_insert(0);
        *sum = if what.ends_with("_max") { *count.max(sum) } else { *sum + count };
    }
}

/// The machines this runs on have two cores to spare.
const THREADS: usize = 2;
/// Failures reported in full.
const FAILURES_KEPT_MAX: usize = 5;

#[cfg(test)]
mod tests;
