//! What a run of `bench load` found: as rows of the common report, and in sentences for people.

use crate::cli::Context;
use crate::cli::bench::report::Row;
use crate::cli::output::Cell;

/// Everything a run found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub algorithm: String,
    pub payload_bytes: usize,
    pub mode: String,
    pub validators: usize,
    pub seconds: f64,
    pub committed: u64,
    pub failed: u64,
    pub refused: u64,
    pub blocks: u64,
    /// Sorted latencies, milliseconds.
    pub latencies_ms: Vec<f64>,
    /// CPU time of all validators per committed transaction, microseconds; 0 where unknown.
    pub cpu_us: f64,
    pub verification_us: f64,
    pub sync_ms: f64,
    /// Bytes written to the block device per committed transaction; `None` where there is none.
    pub written_bytes: Option<f64>,
    pub sent_bytes: f64,
    pub resident_bytes: u64,
    /// Seconds since the streams opened, and the largest validator's memory then, bytes.
    pub memory: Vec<(f64, u64)>,
    pub generator_cpu_us: f64,
}

impl Findings {
    /// Prints it for people.
    pub fn print(&self, context: &Context) {
        let text = |value: String| Cell::text_of(value);
        let cost = match self.cpu_us > 0.0 {
            true => format!(
                "{:.1} us on all {} validators, {:.1} us on one = {:.2} x one verification",
                self.cpu_us,
                self.validators,
                self.per_validator(),
                self.multiple()
            ),
            false => "unknown: name the validators' processes with --pid".to_owned(),
        };
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|at| self.percentile(at));
        context.output.object(&[
            (
                "load",
                text(format!("{}, {} bytes, {}", self.algorithm, self.payload_bytes, self.mode)),
            ),
            (
                "committed",
                text(format!(
                    "{} in {:.1} s = {:.0} per second",
                    self.committed,
                    self.seconds,
                    self.rate()
                )),
            ),
            ("failed, refused", text(format!("{}, {}", self.failed, self.refused))),
            (
                "blocks",
                text(format!("{} ({:.0} transactions each)", self.blocks, self.per_block())),
            ),
            (
                "latency ms",
                text(format!("p50 {p50:.1}  p90 {p90:.1}  p99 {p99:.1}  p99.9 {p999:.1}")),
            ),
            ("CPU per committed", text(cost)),
            ("one verification", text(format!("{:.1} us", self.verification_us))),
            (
                "one sync",
                text(format!(
                    "{:.2} ms (p50 latency = {:.1} syncs)",
                    self.sync_ms,
                    p50 / self.sync_ms.max(0.001)
                )),
            ),
            (
                "written, sent",
                text(format!(
                    "{}, {:.0} bytes per committed",
                    self.written_bytes.map_or("unknown".to_owned(), |bytes| format!("{bytes:.0}")),
                    self.sent_bytes
                )),
            ),
            ("largest validator", text(format!("{} MB", self.resident_bytes / 1_000_000))),
            ("generator", text(format!("{:.1} us CPU per committed", self.generator_cpu_us))),
        ]);
    }

    /// The same as rows. They carry what was asked for, so that only equal loads are compared.
    pub fn rows(&self) -> Vec<Row> {
        let load = format!(
            "algorithm={}/payload={}/validators={}/load={}",
            self.algorithm,
            self.payload_bytes,
            self.validators,
            self.mode.replace([' ', ','], "-").replace("--", "-"),
        );
        let mut rows = Vec::new();
        let mut add = |operation: &str, unit: &str, value: f64| {
            let name = format!("load::{operation}/{load}");
            rows.push(Row::once(name, unit, self.committed, value));
        };
        add("committed", "transactions/s", self.rate());
        for (name, at) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            add(&format!("latency_{name}"), "ms", self.percentile(at));
        }
        add("failed", "transactions", self.failed as f64);
        add("refused", "transactions", self.refused as f64);
        add("transactions_per_block", "transactions", self.per_block());
        if self.cpu_us > 0.0 {
            add("cpu_per_committed_and_validator", "us", self.per_validator());
            add("cpu_in_verifications", "verifications", self.multiple());
            add("resident_max", "bytes", self.resident_bytes as f64);
        }
        if let Some(bytes) = self.written_bytes {
            add("device_bytes_per_committed", "bytes", bytes);
        }
        add("sent_bytes_per_committed", "bytes", self.sent_bytes);
        add("generator_cpu_per_committed", "us", self.generator_cpu_us);
        add("one_verification", "us", self.verification_us);
        for (seconds, bytes) in &self.memory {
            add(&format!("resident_after_s={seconds:.0}"), "bytes", *bytes as f64);
        }
        rows
    }

    fn rate(&self) -> f64 {
        self.committed as f64 / self.seconds.max(0.001)
    }

    fn per_block(&self) -> f64 {
        self.committed as f64 / (self.blocks.max(1)) as f64
    }

    fn per_validator(&self) -> f64 {
        self.cpu_us / self.validators.max(1) as f64
    }

    fn multiple(&self) -> f64 {
        self.per_validator() / self.verification_us.max(0.001)
    }

    fn percentile(&self, at: f64) -> f64 {
        let last = self.latencies_ms.len().saturating_sub(1);
        let place = (last as f64 * at).round() as usize;
        self.latencies_ms.get(place).copied().unwrap_or(0.0)
    }
}
