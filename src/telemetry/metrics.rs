//! Everything a node counts, as one plain struct that stations hold by `Arc`.
//!
//! Fields are atomics: counting costs nanoseconds and never blocks; histograms take a short lock
//! of some tens of nanoseconds. Label values are static
//! strings of this program, so no peer or client can blow up the number of series. `render` gives
//! the OpenMetrics text that Prometheus reads; names start with `obelisk_`, counters end with
//! `_total`, units are seconds and bytes.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::registry::Registry;

use crate::telemetry::process;

/// One label with a value known at compile time.
type Label = [(&'static str, &'static str); 1];
/// A provider, what for, and with which algorithm.
type Pair = [(&'static str, &'static str); 3];
type Histograms = Family<Label, Histogram, fn() -> Histogram>;

/// Counters, gauges and histograms of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Transactions admitted from clients.
    pub transactions_admitted: Counter,
    /// Transactions in committed blocks.
    pub transactions_committed: Counter,
    /// Those among them whose execution failed.
    pub transactions_failed: Counter,
    /// Batches closed here.
    pub batches_authored: Counter,
    /// Valid batches received from other validators.
    pub batches_received: Counter,
    /// Batches that came once more while they were held or being checked.
    pub batches_repeated: Counter,
    /// Batches of which every transaction was executed or expired when they came.
    pub batches_stale: Counter,
    /// Batches from other validators that were refused.
    pub batches_refused: Counter,
    /// Blocks committed here, fetched ones included.
    pub blocks_committed: Counter,
    /// Blocks fetched from others to catch up.
    pub blocks_fetched: Counter,
    /// Current view.
    pub consensus_view: Gauge,
    /// Views entered after the first.
    pub view_changes: Counter,
    /// Last delivered sequence number.
    pub consensus_sequence: Gauge,
    /// Last stable checkpoint's sequence number.
    pub consensus_stable: Gauge,
    /// Height of the chain here.
    pub ledger_height: Gauge,
    /// Statements that prove a replica broke the protocol.
    pub evidence: Counter,
    /// Times this validator's key turned out to have signed more than its record holds.
    pub fences: Counter,
    /// Messages from peers that were refused: bad signature, malformed, wrong sender.
    pub messages_refused: Counter,
    /// Messages of peers dropped because a queue of this node was full.
    pub messages_dropped: Counter,
    /// Signatures checked.
    pub signatures_checked: Counter,
    /// Signatures among them that did not hold.
    pub signatures_refused: Counter,
    /// Signatures made for consensus.
    pub signatures_made: Counter,
    /// Votes whose signature was made before they were cast.
    pub votes_signed_ahead: Counter,
    /// Checks that the chosen provider did not settle and the portable one did.
    pub crypto_fallbacks: Counter,
    /// Signatures checked with a table of their key's multiples.
    pub signatures_by_table: Counter,
    /// P-256 keys with such a table.
    pub key_tables: Gauge,
    /// Checks repeated on a second provider.
    pub crypto_second_opinions: Counter,
    /// Those among them whose answers differed.
    pub crypto_divergences: Counter,
    crypto_quarantined: Family<Pair, Gauge>,
    /// Jobs in the verification pool, waiting or running.
    pub verify_pool_jobs: Gauge,
    /// Bytes sent to peers and clients, TLS included.
    pub network_bytes_sent: Counter,
    /// Bytes received.
    pub network_bytes_received: Counter,
    /// Connections of clients and peers that were cut when their certificate was revoked.
    pub connections_cut: Counter,
    /// Peers with a connection.
    pub peers_connected: Gauge,
    /// Messages to peers dropped because a queue was full.
    pub network_messages_dropped: Counter,
    /// Time from admission to the committed receipt, seconds.
    pub commit_seconds: Histogram,
    /// Time to make a group of blocks durable and apply it, seconds.
    pub ledger_seconds: Histogram,
    /// Time to execute one block, seconds.
    pub execute_seconds: Histogram,
    /// Transactions per committed block.
    pub block_transactions: Histogram,
    /// Consensus messages that wait to be signed.
    pub votes_waiting: Gauge,
    signer_seconds: Histograms,
    signer_failures: Family<Label, Counter>,
    refused: Family<Label, Counter>,
    queues: Family<Label, Gauge>,
    held_entries: Family<Label, Gauge>,
    held_bytes: Family<Label, Gauge>,
    fsync: Histograms,
    process_cpu_seconds: Counter<f64, AtomicU64>,
    process_resident_bytes: Gauge,
    process_open_files: Gauge,
    process_threads: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("obelisk"),
            transactions_admitted: Counter::default(),
            transactions_committed: Counter::default(),
            transactions_failed: Counter::default(),
            batches_authored: Counter::default(),
            batches_received: Counter::default(),
            batches_repeated: Counter::default(),
            batches_stale: Counter::default(),
            batches_refused: Counter::default(),
            blocks_committed: Counter::default(),
            blocks_fetched: Counter::default(),
            consensus_view: Gauge::default(),
            view_changes: Counter::default(),
            consensus_sequence: Gauge::default(),
            consensus_stable: Gauge::default(),
            ledger_height: Gauge::default(),
            evidence: Counter::default(),
            fences: Counter::default(),
            messages_refused: Counter::default(),
            messages_dropped: Counter::default(),
            signatures_checked: Counter::default(),
            signatures_refused: Counter::default(),
            signatures_made: Counter::default(),
            votes_signed_ahead: Counter::default(),
            crypto_fallbacks: Counter::default(),
            signatures_by_table: Counter::default(),
            key_tables: Gauge::default(),
            crypto_second_opinions: Counter::default(),
            crypto_divergences: Counter::default(),
            crypto_quarantined: Family::default(),
            verify_pool_jobs: Gauge::default(),
            network_bytes_sent: Counter::default(),
            network_bytes_received: Counter::default(),
            connections_cut: Counter::default(),
            peers_connected: Gauge::default(),
            network_messages_dropped: Counter::default(),
            commit_seconds: seconds(),
            ledger_seconds: seconds(),
            execute_seconds: seconds(),
            block_transactions: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            votes_waiting: Gauge::default(),
            signer_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            signer_failures: Family::default(),
            refused: Family::default(),
            queues: Family::default(),
            held_entries: Family::default(),
            held_bytes: Family::default(),
            fsync: Family::new_with_constructor(seconds as fn() -> Histogram),
            process_cpu_seconds: Counter::default(),
            process_resident_bytes: Gauge::default(),
            process_open_files: Gauge::default(),
            process_threads: Gauge::default(),
        };
        metrics.register_line();
        metrics.register_consensus();
        metrics.register_signer();
        metrics.register_machine();
        metrics
    }

    /// Counts a transaction that was refused; `reason` is one of the refusal's fixed names.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Transactions refused for this reason so far.
    pub fn refused(&self, reason: &'static str) -> u64 {
        self.refused.get_or_create(&[("reason", reason)]).get()
    }

    /// The gauge for the depth of a queue; stations keep it.
    pub fn queue(&self, queue: &'static str) -> Gauge {
        self.queues.get_or_create_owned(&[("queue", queue)])
    }

    /// The gauge for the entries of a table in memory; each has a limit (`docs/operating.md`).
    pub fn held_entries(&self, table: &'static str) -> Gauge {
        self.held_entries.get_or_create_owned(&[("table", table)])
    }

    /// The gauge for the bytes of a part that keeps much in memory.
    pub fn held_bytes(&self, part: &'static str) -> Gauge {
        self.held_bytes.get_or_create_owned(&[("part", part)])
    }

    /// The histogram for syncs of a file; stations keep it. Observe seconds, or use `observe`.
    pub fn fsync(&self, file: &'static str) -> Histogram {
        self.fsync.get_or_create_owned(&[("file", file)])
    }

    /// Says whether a pair of provider and operation is in quarantine.
    pub fn crypto_pair(&self, pair: Pair, quarantined: bool) {
        self.crypto_quarantined.get_or_create(&pair).set(quarantined.into());
    }

    /// Observes a request to the signer, in this process or in another: `lane` is `consensus` or
    /// `transport`, `failed` counts the texts that came back without a signature.
    pub fn asked_signer(&self, lane: &'static str, elapsed: Duration, failed: usize) {
        observe(&self.signer_seconds.get_or_create(&[("lane", lane)]), elapsed);
        self.signer_failures.get_or_create(&[("lane", lane)]).inc_by(failed as u64);
    }

    /// All metrics as OpenMetrics text, `CONTENT_TYPE`.
    pub fn render(&self) -> String {
        let usage = process::usage();
        let more = usage.cpu.as_secs_f64() - self.process_cpu_seconds.get();
        if more > 0.0 {
            self.process_cpu_seconds.inc_by(more);
        }
        self.process_resident_bytes.set(signed(usage.resident_bytes));
        self.process_open_files.set(signed(usage.open_files));
        self.process_threads.set(signed(usage.threads));
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("writing to a string does not fail");
        out
    }

    fn register_line(&mut self) {
        let r = &mut self.registry;
        let mut counter = |name: &str, help: &str, c: &Counter| r.register(name, help, c.clone());
        counter(
            "transactions_admitted",
            "Transactions admitted from clients",
            &self.transactions_admitted,
        );
        counter(
            "transactions_committed",
            "Transactions in committed blocks",
            &self.transactions_committed,
        );
        counter(
            "transactions_failed",
            "Committed transactions whose execution failed",
            &self.transactions_failed,
        );
        counter("batches_authored", "Batches closed here", &self.batches_authored);
        counter("batches_received", "Valid batches of other validators", &self.batches_received);
        counter("batches_repeated", "Batches that came once more", &self.batches_repeated);
        counter("batches_stale", "Batches that could only repeat the past", &self.batches_stale);
        counter("batches_refused", "Refused batches of others", &self.batches_refused);
        counter("blocks_committed", "Blocks committed here", &self.blocks_committed);
        counter("blocks_fetched", "Blocks fetched to catch up", &self.blocks_fetched);
        r.register("transactions_refused", "Transactions refused, by reason", self.refused.clone());
        r.register("ledger_height", "Height of the chain here", self.ledger_height.clone());
        r.register(
            "commit_seconds",
            "From admission to the committed receipt",
            self.commit_seconds.clone(),
        );
        r.register(
            "ledger_seconds",
            "Tree, block files with their sync, and store of one group of blocks",
            self.ledger_seconds.clone(),
        );
        r.register("execute_seconds", "Execution of one block", self.execute_seconds.clone());
        r.register(
            "block_transactions",
            "Transactions per committed block",
            self.block_transactions.clone(),
        );
        r.register("queue_depth", "Items waiting, by queue", self.queues.clone());
    }

    fn register_consensus(&mut self) {
        let r = &mut self.registry;
        r.register("consensus_view", "Current view", self.consensus_view.clone());
        r.register(
            "consensus_sequence",
            "Last delivered sequence number",
            self.consensus_sequence.clone(),
        );
        r.register(
            "consensus_stable_checkpoint",
            "Last stable checkpoint's sequence number",
            self.consensus_stable.clone(),
        );
        let mut counter = |name: &str, help: &str, c: &Counter| r.register(name, help, c.clone());
        counter("view_changes", "Views entered after the first", &self.view_changes);
        counter("signer_fences", "Times this key had signed more than its record", &self.fences);
        counter("evidence", "Proofs that a replica broke the protocol", &self.evidence);
        counter("messages_refused", "Messages of peers that were refused", &self.messages_refused);
        counter(
            "messages_dropped",
            "Messages of peers dropped because a queue here was full",
            &self.messages_dropped,
        );
        counter("signatures_checked", "Signatures checked", &self.signatures_checked);
        counter("signatures_refused", "Signatures that did not hold", &self.signatures_refused);
        counter("signatures_made", "Signatures made for consensus", &self.signatures_made);
        counter(
            "votes_signed_ahead",
            "Votes whose signature was made before they were cast",
            &self.votes_signed_ahead,
        );
        let by_table = "Signatures checked with a table of the key's multiples";
        counter("signatures_by_table", by_table, &self.signatures_by_table);
        let fallbacks = "Checks asked again from another implementation after a no";
        counter("crypto_fallbacks", fallbacks, &self.crypto_fallbacks);
        let opinions = "Checks repeated on a second provider";
        counter("crypto_second_opinions", opinions, &self.crypto_second_opinions);
        counter("crypto_divergences", "Repeated checks that differed", &self.crypto_divergences);
        r.register(
            "crypto_quarantined",
            "1 where a provider fails its known answers and is not used",
            self.crypto_quarantined.clone(),
        );
        r.register(
            "key_tables",
            "P-256 keys with a table of their multiples",
            self.key_tables.clone(),
        );
        r.register(
            "verify_pool_jobs",
            "Jobs in the verification pool",
            self.verify_pool_jobs.clone(),
        );
    }

    fn register_signer(&mut self) {
        let r = &mut self.registry;
        r.register(
            "signer_seconds",
            "From the question to the signer to its answer, by lane",
            self.signer_seconds.clone(),
        );
        r.register(
            "signer_failures",
            "Texts that the signer did not sign, by lane",
            self.signer_failures.clone(),
        );
        r.register(
            "votes_waiting",
            "Consensus messages that wait for the signer",
            self.votes_waiting.clone(),
        );
    }

    fn register_machine(&mut self) {
        let r = &mut self.registry;
        let mut counter = |name: &str, help: &str, c: &Counter| r.register(name, help, c.clone());
        counter("network_bytes_sent", "Bytes sent, TLS included", &self.network_bytes_sent);
        counter(
            "network_bytes_received",
            "Bytes received, TLS included",
            &self.network_bytes_received,
        );
        counter(
            "network_messages_dropped",
            "Messages dropped because a peer's queue was full",
            &self.network_messages_dropped,
        );
        r.register(
            "connections_cut",
            "Connections cut because their certificate was revoked",
            self.connections_cut.clone(),
        );
        r.register("peers_connected", "Peers with a connection", self.peers_connected.clone());
        r.register("fsync_seconds", "Time of file syncs, by file", self.fsync.clone());
        r.register(
            "process_cpu_seconds",
            "CPU time of this process",
            self.process_cpu_seconds.clone(),
        );
        r.register(
            "process_resident_bytes",
            "Memory of this process",
            self.process_resident_bytes.clone(),
        );
        r.register("held_entries", "Entries in memory, by table", self.held_entries.clone());
        r.register("held_bytes", "Bytes in memory, by part", self.held_bytes.clone());
        r.register("process_open_files", "Open files", self.process_open_files.clone());
        r.register("process_threads", "Threads", self.process_threads.clone());
    }
}

/// Brings a counter to a total that is counted elsewhere; a counter never goes back.
pub fn follow(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// Sets a gauge to a count.
pub fn show(gauge: &Gauge, value: u64) {
    gauge.set(signed(value));
}

/// Observes a duration in seconds.
pub fn observe(histogram: &Histogram, elapsed: Duration) {
    histogram.observe(elapsed.as_secs_f64());
}

/// Content type of `render`'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn seconds() -> Histogram {
    // 100 us to 26 s.
    Histogram::new(exponential_buckets(0.000_1, 2.0, 19))
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was counted appears in the text, with unit, label and end mark.
    #[test]
    fn text_shows_what_was_counted() {
        let metrics = Metrics::new();
        metrics.transactions_admitted.inc_by(3);
        metrics.refuse("busy");
        metrics.refuse("busy");
        metrics.queue("mempool").set(7);
        observe(&metrics.fsync("wal"), Duration::from_millis(4));
        metrics.consensus_view.set(2);
        metrics.asked_signer("consensus", Duration::from_millis(7), 2);
        metrics.votes_waiting.set(5);
        metrics.crypto_pair([("provider", "ring"), ("for", "hash"), ("with", "sha256")], true);
        let text = metrics.render();
        for line in [
            "obelisk_transactions_admitted_total 3",
            "obelisk_transactions_refused_total{reason=\"busy\"} 2",
            "obelisk_queue_depth{queue=\"mempool\"} 7",
            "obelisk_consensus_view 2",
            "obelisk_fsync_seconds_count{file=\"wal\"} 1",
            "obelisk_signer_seconds_count{lane=\"consensus\"} 1",
            "obelisk_signer_failures_total{lane=\"consensus\"} 2",
            "obelisk_votes_waiting 5",
            "obelisk_crypto_quarantined{provider=\"ring\",for=\"hash\",with=\"sha256\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    /// Every metric has a help text, and no name appears twice.
    #[test]
    fn names_are_unique_and_explained() {
        let text = Metrics::new().render();
        let names = |kind: &str| -> Vec<String> {
            let mut names: Vec<String> = text
                .lines()
                .filter_map(|l| l.strip_prefix(kind)?.split(' ').next().map(str::to_owned))
                .collect();
            names.sort();
            names
        };
        let (helps, types) = (names("# HELP "), names("# TYPE "));
        assert_eq!(helps, types);
        let mut unique = helps.clone();
        unique.dedup();
        assert_eq!(unique, helps);
        assert!(helps.len() > 25);
    }

    /// The process's own figures are plausible.
    #[test]
    fn process_figures_are_filled() {
        let text = Metrics::new().render();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|l| l.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("obelisk_process_resident_bytes ") > 1e6);
        assert!(value("obelisk_process_threads ") >= 1.0);
    }
}
