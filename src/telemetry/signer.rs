//! What a signer process counts. Rendered like a node's metrics, but handed out over the signer's
//! own socket: the process has no network.

use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::registry::Registry;

use crate::telemetry::metrics::follow;
use crate::telemetry::metrics::show;

type Label = [(&'static str, &'static str); 1];
/// The name of a token, from the signer's configuration.
type Token = [(&'static str, String); 1];

/// Counters, gauges and histograms of one signer.
#[derive(Debug)]
pub struct SignerMetrics {
    registry: Registry,
    /// Connections that may not ask.
    pub callers_refused: Counter,
    /// Open connections.
    pub connections: Gauge,
    signatures: Family<Label, Counter>,
    refused: Family<Label, Counter>,
    seconds: Family<Label, Histogram, fn() -> Histogram>,
    queues: Family<Label, Gauge>,
    sessions: Family<Token, Gauge>,
    sessions_refused: Family<Token, Counter>,
    away: Family<Token, Gauge>,
}

impl Default for SignerMetrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("obelisk_signer"),
            callers_refused: Counter::default(),
            connections: Gauge::default(),
            signatures: Family::default(),
            refused: Family::default(),
            seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            queues: Family::default(),
            sessions: Family::default(),
            sessions_refused: Family::default(),
            away: Family::default(),
        };
        let r = &mut metrics.registry;
        r.register("signatures", "Signatures handed out, by lane", metrics.signatures.clone());
        r.register("refused", "Texts and requests not signed, by reason", metrics.refused.clone());
        r.register(
            "callers_refused",
            "Connections of users that are not listed",
            metrics.callers_refused.clone(),
        );
        r.register("connections", "Open connections", metrics.connections.clone());
        let help = "Time from a request's arrival to its answer, seconds, by lane";
        r.register("request_seconds", help, metrics.seconds.clone());
        r.register("queue_depth", "Requests waiting, by lane", metrics.queues.clone());
        let help = "Sessions that sign in parallel, by token";
        r.register("token_sessions", help, metrics.sessions.clone());
        let help = "Sessions that a token refused, by token";
        r.register("token_sessions_refused", help, metrics.sessions_refused.clone());
        let help = "For how long a token is away, seconds; 0: it is there";
        r.register("token_away_seconds", help, metrics.away.clone());
        metrics
    }
}

impl SignerMetrics {
    /// Counts signatures of a lane.
    pub fn signed(&self, lane: &'static str, count: usize) {
        self.signatures.get_or_create(&[("lane", lane)]).inc_by(count as u64);
    }

    /// Counts something that was not signed.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Observes one request.
    pub fn answered(&self, lane: &'static str, elapsed: Duration) {
        self.seconds.get_or_create(&[("lane", lane)]).observe(elapsed.as_secs_f64());
    }

    /// Shows how much waits in a lane.
    pub fn depth(&self, lane: &'static str, depth: usize) {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.queues.get_or_create(&[("lane", lane)]).set(depth);
    }

    /// Shows the sessions of a token and how often it refused one.
    pub fn sessions(&self, token: &str, open: u64, refused: u64) {
        let label = [("token", token.to_owned())];
        show(&self.sessions.get_or_create(&label), open);
        follow(&self.sessions_refused.get_or_create(&label), refused);
    }

    /// Shows for how long a token is away, seconds; 0 where it is there.
    pub fn away(&self, token: &str, seconds: u64) {
        show(&self.away.get_or_create(&[("token", token.to_owned())]), seconds);
    }

    /// OpenMetrics text.
    pub fn render(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("a string takes all text");
        out
    }
}

fn seconds() -> Histogram {
    // 50 us to 26 s.
    Histogram::new(exponential_buckets(0.000_05, 2.0, 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was counted appears in the text.
    #[test]
    fn text_shows_what_was_counted() {
        let metrics = SignerMetrics::default();
        metrics.signed("consensus", 3);
        metrics.refuse("conflict");
        metrics.answered("consensus", Duration::from_millis(3));
        metrics.depth("transport", 2);
        metrics.sessions("hsm", 3, 2);
        metrics.away("hsm", 7);
        let text = metrics.render();
        for line in [
            "obelisk_signer_signatures_total{lane=\"consensus\"} 3",
            "obelisk_signer_refused_total{reason=\"conflict\"} 1",
            "obelisk_signer_request_seconds_count{lane=\"consensus\"} 1",
            "obelisk_signer_queue_depth{lane=\"transport\"} 2",
            "obelisk_signer_token_sessions{token=\"hsm\"} 3",
            "obelisk_signer_token_sessions_refused_total{token=\"hsm\"} 2",
            "obelisk_signer_token_away_seconds{token=\"hsm\"} 7",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
        }
    }
}
