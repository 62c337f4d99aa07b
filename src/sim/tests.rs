//! Tests of the simulator itself: determinism, and that its checkers can fail.

use super::*;
use crate::consensus::PLUGINS;
use crate::consensus::plugin;

/// The same seed gives the same events, for every plug-in.
#[test]
fn one_seed_is_one_run() {
    for row in PLUGINS {
        for seed in 0..5 {
            let (first, second) = (run(row, seed), run(row, seed));
            assert_eq!(first.trace_hash, second.trace_hash, "{} seed {seed}", row.name);
            assert_ne!(first.trace_hash, run(row, seed + 1_000).trace_hash);
        }
    }
}

/// Replays the seed named by the environment, with its trace; a fixed one otherwise.
#[test]
fn replay() {
    let text = |name: &str| std::env::var(name).ok();
    let asked = text("OBELISK_SIM_SEED").and_then(|seed| seed.parse().ok());
    let request = replay::Request {
        plugin: text("OBELISK_SIM_PLUGIN").unwrap_or_else(|| "noops".to_owned()),
        seed: asked.unwrap_or(1),
        count: 1,
        trace: asked.is_some(),
    };
    let mut out = Vec::new();
    let held = replay::run(&request, &mut out).expect("a known plug-in");
    if asked.is_some() {
        println!("{}", String::from_utf8_lossy(&out));
    }
    assert!(held, "seed {} broke a promise", request.seed);
}

/// A few hundred seeds of the development consensus hold every promise.
#[test]
fn noops_holds_its_promises() {
    let row = plugin("noops").expect("a row");
    let report = run_many(row, 0, 200);
    assert_eq!(report.failed, 0, "{report}");
}
