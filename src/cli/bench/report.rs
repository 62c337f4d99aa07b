//! The result of a run: one JSON object, or a table for people.

use serde_json::Value;
use serde_json::json;

use crate::cli::Context;
use crate::cli::output::Cell;

/// Everything a run found.
#[derive(Clone, Debug, Default)]
pub struct Report {
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
    pub generator_cpu_us: f64,
}

impl Report {
    /// Prints it.
    pub fn print(&self, context: &Context) {
        if context.output.is_json() {
            return context.output.value(&self.json());
        }
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

    fn json(&self) -> Value {
        let percentiles: serde_json::Map<String, Value> =
            [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)]
                .into_iter()
                .map(|(name, at)| (name.to_owned(), json!(self.percentile(at))))
                .collect();
        json!({
            "schema": "obelisk.bench.load.1",
            "algorithm": self.algorithm,
            "payload_bytes": self.payload_bytes,
            "mode": self.mode,
            "validators": self.validators,
            "seconds": self.seconds,
            "committed": self.committed,
            "failed": self.failed,
            "refused": self.refused,
            "blocks": self.blocks,
            "committed_per_second": self.rate(),
            "latency_ms": percentiles,
            "cpu_us_per_committed": self.cpu_us,
            "cpu_us_per_committed_and_validator": self.per_validator(),
            "verification_us": self.verification_us,
            "cpu_in_verifications": self.multiple(),
            "sync_ms": self.sync_ms,
            "device_bytes_per_committed": self.written_bytes,
            "sent_bytes_per_committed": self.sent_bytes,
            "resident_bytes_max": self.resident_bytes,
            "generator_cpu_us_per_committed": self.generator_cpu_us,
        })
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
