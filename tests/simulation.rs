//! Whole networks in the seeded simulator: thousands of seeds, named scenarios, and mutants that
//! the checkers must catch.
//!
//! `OBELISK_SIM_SEEDS` sets the number of seeds per plug-in, `OBELISK_SIM_FIRST` the first one.

use std::collections::BTreeSet;

use obelisk::consensus;
use obelisk::consensus::Claim;
use obelisk::consensus::Core;
use obelisk::consensus::CoreStatus;
use obelisk::consensus::Effect;
use obelisk::consensus::FaultModel;
use obelisk::consensus::Input;
use obelisk::consensus::PLUGINS;
use obelisk::consensus::Plugin;
use obelisk::consensus::Setup;
use obelisk::consensus::Timer;
use obelisk::consensus::evidence::Accusation;
use obelisk::consensus::evidence::EvidenceError;
use obelisk::consensus::evidence::Judge;
use obelisk::pipeline::order::evidence;
use obelisk::pipeline::order::evidence::EvidenceFolder;
use obelisk::sim;
use obelisk::sim::Outcome;
use obelisk::sim::options::Action;
use obelisk::sim::options::CrashPoint;
use obelisk::sim::options::Options;
use obelisk::sim::options::Persona;
use obelisk::sim::options::Sabotage;
use obelisk::sim::replay;
use obelisk::types::codec::Decode;
use obelisk::types::codec::Encode;
use obelisk::types::ids::ReplicaId;

/// Random networks with random faults hold every promise, and the interesting things do happen.
#[test]
fn every_plugin_holds_its_promises_over_many_seeds() {
    for row in PLUGINS {
        let report = sim::run_many(row, number("OBELISK_SIM_FIRST", 0), seeds(row));
        println!("{}: {report}", row.name);
        assert_eq!(report.failed, 0, "{}\n{report}", row.name);
        if report.runs < 500 {
            continue;
        }
        for what in sometimes(row) {
            let count = report.coverage.get(what).copied().unwrap_or(0);
            assert!(count > 0, "{}: no seed of {} had {what}", row.name, report.runs);
        }
    }
}

/// A crash keeps the guard's record of a view-change and loses the log's: a single replica has
/// nobody to wait for and must go on in the next view.
#[test]
fn refused_view_change_of_a_single_replica_does_not_stop_it() {
    holds_seed("pbft", 37_182);
}

/// The primary of a past view delivers what the others order, since null requests are the same in
/// every view; it must notice that its view has passed.
#[test]
fn primary_of_a_past_view_joins_the_others_on_an_idle_network() {
    holds_seed("pbft", 21_239);
}

/// A null request is executed after others were delivered, a checkpoint on it becomes stable, and
/// the crash leaves no block to begin from.
#[test]
fn checkpoint_on_a_null_request_does_not_stop_a_single_replica() {
    holds_seed("pbft", 1_029_120);
}

/// The view that some validators missed has a faulty primary, and the network is idle: only a
/// question in the silence can tell them.
#[test]
fn view_that_was_missed_is_found_on_a_silent_network() {
    holds_seed("pbft", 3_089_833);
}

/// Without faults nobody changes the view or needs to fetch anything.
#[test]
fn a_calm_network_stays_in_its_first_view() {
    for row in PLUGINS {
        for replicas in [1, 4, 7] {
            let outcome = holds(row, &Options::calm(row, 3, replicas));
            assert_eq!(count(&outcome, "views_entered"), 0);
            assert_eq!(count(&outcome, "view_changes_begun"), 0);
            assert!(count(&outcome, "blocks") > 0);
        }
    }
}

/// A primary that can send but not receive is replaced, and joins again when it can.
#[test]
fn primary_isolated_send_only_then_heals() {
    for row in byzantine() {
        let blockade = (1..4).map(|from| (from, 0)).collect();
        let cut = Action::Partition { blockade, for_us: 10_000_000 };
        for seed in 0..20 {
            let outcome = holds(row, &calm(row, seed, 4, 8_000).with(300, cut.clone()));
            assert!(count(&outcome, "views_entered") > 0, "the primary hears nothing");
        }
    }
}

/// Whenever all lose power at once, what any of them had delivered stays.
#[test]
fn all_replicas_killed_together_keep_what_was_committed() {
    for row in PLUGINS {
        for at_ms in (20..2_000).step_by(37) {
            let kill = Action::CrashAll { down_us: 50_000 };
            let again = Action::CrashAll { down_us: 500_000 };
            let options = calm(row, at_ms, 4, 4_000).with(at_ms, kill).with(at_ms + 90, again);
            holds(row, &options);
        }
    }
}

/// The same on an idle network whose execution lags behind: null requests alone moved the stable
/// checkpoint, they leave no block, and nobody is there to catch up from.
#[test]
fn all_replicas_killed_together_on_an_idle_network_go_on() {
    for row in byzantine() {
        for (replicas, at_ms) in [4, 1].into_iter().flat_map(|n| (1..9).map(move |k| (n, k * 397)))
        {
            let kill = Action::CrashAll { down_us: 50_000 };
            let mut options = calm(row, at_ms, replicas, 6_000).with(2_000 + at_ms, kill);
            options.parameters.checkpoint_interval = 2;
            options.tuning.null_request_ms = 150;
            options.execute_us = (300_000, 300_000);
            options.batch_gap_us = 6_000_000;
            options.batches = 1;
            holds(row, &options);
        }
    }
}

/// A primary that proposes two contents for one sequence number is replaced where it must be, and
/// somebody who saw both proves it.
#[test]
fn equivocating_primary_is_accused_and_replaced() {
    for row in byzantine() {
        let (mut accusations, mut views) = (0, 0);
        for seed in 0..20 {
            let options = calm(row, seed, 4, 8_000).with_persona(0, Persona::Equivocator);
            let outcome = holds(row, &options);
            accusations += count(&outcome, "accusations");
            views += count(&outcome, "views_entered");
        }
        assert!(accusations > 0 && views > 0, "accused {accusations}, views {views}");
    }
}

/// What an equivocating primary leaves behind is evidence that stands alone: kept as a file, read
/// again, judged by nothing but the network's document. Whatever is changed about it is refused.
#[test]
fn evidence_of_an_equivocating_primary_is_kept_and_judged_alone() {
    let row = byzantine().next().expect("a row");
    let outcome = (0..20)
        .map(|seed| holds(row, &calm(row, seed, 4, 8_000).with_persona(0, Persona::Equivocator)))
        .find(|outcome| !outcome.evidence.is_empty())
        .expect("somebody saw both texts");
    let parameters = outcome.options.parameters;
    let (chain, replicas) = (outcome.chain, outcome.replicas.clone());
    let judge = Judge { chain, replicas, parameters, plugin: row };
    let verify = |c: &Claim| outcome.keys.verify(c.replica, &c.text, &c.signature);

    let dir = tempfile::tempdir().unwrap();
    let folder = EvidenceFolder::open(dir.path(), chain).unwrap();
    for bytes in &outcome.evidence {
        folder.keep(&judge.judge(bytes, verify).unwrap()).unwrap();
    }
    let kept = evidence::read(dir.path()).unwrap();
    assert!(!kept.is_empty());
    for bytes in &kept {
        let found = judge.judge(bytes, verify).unwrap();
        assert_eq!(found.culprit.0, 0);
        for at in 0..bytes.len() {
            let mut forged = bytes.to_vec();
            forged[at] ^= 1;
            assert!(judge.judge(&forged.into(), verify).is_err(), "byte {at} counts for nothing");
        }
        let accusation = Accusation::from_bytes(bytes).unwrap();
        let once = accusation.messages[..1].to_vec();
        for messages in [Vec::new(), once.clone(), [once.clone(), once].concat()] {
            let weak = Accusation { messages, ..accusation.clone() };
            let refused = judge.judge(&weak.to_bytes(), verify);
            assert!(matches!(refused, Err(EvidenceError::NoOffence(_))), "{refused:?}");
        }
        let other = Accusation { culprit: ReplicaId(1), ..accusation.clone() };
        let refused = judge.judge(&other.to_bytes(), verify);
        assert!(matches!(refused, Err(EvidenceError::NoOffence(ReplicaId(1)))), "{refused:?}");
    }
}

/// A replica cut off for several windows gets the blocks it missed from others.
#[test]
fn laggard_beyond_the_window_catches_up() {
    for row in byzantine() {
        let others = (0..3).flat_map(|other| [(3, other), (other, 3)]).collect();
        let cut = Action::Partition { blockade: others, for_us: 9_000_000 };
        for seed in 0..10 {
            let mut options = calm(row, seed, 4, 10_000).with(200, cut.clone());
            options.parameters.checkpoint_interval = 2;
            options.parameters.window = 4;
            options.parameters.block_batches_max = 1;
            options.batches = 60;
            let outcome = holds(row, &options);
            assert!(count(&outcome, "blocks_fetched") > 4, "more than a window was missing");
        }
    }
}

/// With no client traffic at all, null requests tell a replica that it missed something.
#[test]
fn laggard_catches_up_on_an_idle_network() {
    for row in byzantine() {
        let others = (0..3).flat_map(|other| [(2, other), (other, 2)]).collect();
        let cut = Action::Partition { blockade: others, for_us: 2_800_000 };
        let mut options = calm(row, 9, 4, 3_000).with(100, cut);
        options.batch_gap_us = 40_000;
        options.batches = 10;
        holds(row, &options);
    }
}

/// A primary that says nothing, or proposes nothing, is replaced.
#[test]
fn silent_primary_is_replaced() {
    for row in byzantine() {
        for persona in [Persona::Mute, Persona::SilentPrimary] {
            let outcome = holds(row, &calm(row, 5, 4, 6_000).with_persona(0, persona));
            assert!(count(&outcome, "view_max") > 0, "{persona:?} stays primary");
        }
    }
}

/// Where a sequence number takes one transaction, a primary that puts more into one is replaced; the
/// checkers see none of it delivered.
#[test]
fn a_primary_that_crowds_a_sequence_number_is_replaced() {
    let row = consensus::plugin("classic").expect("a row");
    for seed in 0..20 {
        let mut options = calm(row, seed, 4, 6_000).with_persona(0, Persona::Crowder);
        options.batch_gap_us = 2_000;
        let outcome = holds(row, &options);
        assert!(count(&outcome, "view_max") > 0, "the crowding primary stays");
    }
}

/// Seven replicas survive two silent ones, the first two primaries.
#[test]
fn two_of_seven_silent() {
    for row in byzantine() {
        let options =
            calm(row, 6, 7, 8_000).with_persona(0, Persona::Mute).with_persona(1, Persona::Mute);
        let outcome = holds(row, &options);
        assert!(count(&outcome, "view_max") >= 2);
    }
}

/// A replica may crash before or after any of its syncs, primary or backup.
#[test]
fn restart_in_every_phase() {
    for row in PLUGINS {
        for sync in 1..40 {
            for replica in [0, 1] {
                for point in [CrashPoint::AtSync(sync), CrashPoint::AfterSync(sync)] {
                    let crash = Action::Crash { replica, point, down_us: 30_000 };
                    holds(row, &calm(row, sync, 4, 4_000).with(0, crash));
                }
            }
        }
    }
}

/// Each persona alone cannot stop four replicas, whoever of the first three runs it.
#[test]
fn one_of_four_may_be_anything() {
    for row in byzantine() {
        for persona in Persona::ALL {
            for replica in 0..3 {
                holds(row, &calm(row, 11, 4, 6_000).with_persona(replica, persona));
            }
        }
    }
}

/// Deliberately broken cores and drivers are caught: the checkers can fail. One row of each core.
#[test]
fn mutants_are_caught() {
    for row in byzantine().take(1) {
        for (name, build) in MUTANTS {
            let mutant = Plugin { build: *build, ..copy(row) };
            assert_caught(name, |seed| sim::run(&mutant, seed));
        }
        for sabotage in [Sabotage::ForgetPersist, Sabotage::SendBeforeSync, Sabotage::TrustEveryone]
        {
            assert_caught(&format!("{sabotage:?}"), |seed| {
                let mut options = Options::from_seed(row, seed);
                options.sabotage = Some(sabotage);
                sim::run_options(row, &options)
            });
        }
    }
}

/// A mistake planted into every replica.
type Build = fn(Setup) -> Box<dyn Core>;

const MUTANTS: &[(&str, Build)] = &[
    ("a restart forgets the log", |mut setup| {
        setup.log.clear();
        real(setup)
    }),
    ("every fifth delivery is lost", |setup| wrap(setup, Mistake::LosesDeliveries)),
    ("one signature less than a quorum", |setup| wrap(setup, Mistake::SmallCertificates)),
    ("the request timer is ignored", |setup| wrap(setup, Mistake::NeverSuspects)),
    ("two deliveries change places", |setup| wrap(setup, Mistake::SwapsDeliveries)),
    ("every delivery comes twice", |setup| wrap(setup, Mistake::DeliversTwice)),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mistake {
    LosesDeliveries,
    SmallCertificates,
    NeverSuspects,
    SwapsDeliveries,
    DeliversTwice,
}

struct Mutant {
    inner: Box<dyn Core>,
    quorum: usize,
    mistake: Mistake,
    deliveries: u64,
}

impl Core for Mutant {
    fn step(&mut self, input: Input, effects: &mut Vec<Effect>) {
        if self.mistake == Mistake::NeverSuspects
            && matches!(input, Input::TimerFired(Timer::Request | Timer::ViewChange))
        {
            return;
        }
        let mut own = Vec::new();
        self.inner.step(input, &mut own);
        for effect in own {
            let Effect::Deliver(mut delivered) = effect else {
                effects.push(effect);
                continue;
            };
            self.deliveries += 1;
            match self.mistake {
                Mistake::LosesDeliveries if self.deliveries.is_multiple_of(5) => continue,
                Mistake::SmallCertificates => {
                    delivered.certificate.signatures.truncate(self.quorum - 1);
                }
                Mistake::SwapsDeliveries => delivered.proposal.batches.reverse(),
                Mistake::DeliversTwice => effects.push(Effect::Deliver(delivered.clone())),
                _ => {}
            }
            effects.push(Effect::Deliver(delivered));
        }
    }

    fn status(&self) -> CoreStatus {
        self.inner.status()
    }
}

fn wrap(setup: Setup, mistake: Mistake) -> Box<dyn Core> {
    let quorum = setup.replicas.quorum();
    Box::new(Mutant { inner: real(setup), quorum, mistake, deliveries: 0 })
}

/// The core of the row under test: function pointers capture nothing, so it is found by fault
/// model.
fn real(setup: Setup) -> Box<dyn Core> {
    let row = byzantine().next().expect("called for a Byzantine row only");
    (row.build)(setup)
}

fn copy(row: &Plugin) -> Plugin {
    Plugin {
        name: row.name,
        summary: row.summary,
        faults: row.faults,
        replicas_min: row.replicas_min,
        sequence_txs_max: row.sequence_txs_max,
        build: row.build,
        claims: row.claims,
        slot: row.slot,
        offence: row.offence,
    }
}

fn assert_caught(name: &str, run: impl Fn(u64) -> Outcome) {
    let caught = (0..MUTANT_SEEDS_MAX).find_map(|seed| run(seed).violation.map(|v| (seed, v)));
    let Some((seed, violation)) = caught else {
        panic!("\"{name}\" survives {MUTANT_SEEDS_MAX} seeds");
    };
    println!("\"{name}\" falls at seed {seed}: {}", violation.promise);
}

fn byzantine() -> impl Iterator<Item = &'static Plugin> {
    PLUGINS.iter().filter(|row| row.faults == FaultModel::Byzantine)
}

/// A network without chance faults, whose scripted ones end after `heal_ms`.
fn calm(row: &Plugin, seed: u64, replicas: u16, heal_ms: u64) -> Options {
    Options { heal_us: heal_ms * 1_000, ..Options::calm(row, seed, replicas) }
}

fn holds(row: &Plugin, options: &Options) -> Outcome {
    let outcome = sim::run_options(row, options);
    if outcome.violation.is_some() {
        let traced = sim::run_traced(row, options, 100);
        panic!("{}\n{}", traced.trace.join("\n"), replay::explain(&traced));
    }
    outcome
}

/// A seed that once broke a promise; its options are printed where it does so again.
fn holds_seed(plugin: &str, seed: u64) {
    let row = consensus::plugin(plugin).expect("a row");
    holds(row, &Options::from_seed(row, seed));
}

fn count(outcome: &Outcome, what: &str) -> u64 {
    outcome.coverage.get(what).copied().unwrap_or(0)
}

/// What must have happened in at least one of many seeds.
fn sometimes(row: &Plugin) -> BTreeSet<&'static str> {
    let mut names = BTreeSet::from([
        "blocks",
        "blocks_fetched",
        "crashes",
        "crashes_in_catch_up",
        "crashes_of_all",
        "crashes_with_loss",
        "executions_skipped",
        "fetches",
        "partitions",
    ]);
    if row.faults == FaultModel::Byzantine {
        names.extend([
            "accusations",
            "crashes_in_view_change",
            "divergences",
            "messages_refused",
            "null_requests",
            "signed_ahead",
            "view_changes_begun",
            "views_entered",
        ]);
    }
    names
}

fn seeds(row: &Plugin) -> u64 {
    // `classic` has the core of `pbft`.
    let own_core = row.name != "classic";
    let default = match (row.faults, cfg!(debug_assertions)) {
        (FaultModel::Byzantine, false) if own_core => 2_000,
        (_, false) => 500,
        (_, true) => 40,
    };
    number("OBELISK_SIM_SEEDS", default)
}

fn number(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}"))
}

/// Each row is found under its own name only.
#[test]
fn plugins_are_found_by_name() {
    for row in PLUGINS {
        assert!(consensus::plugin(row.name).is_some_and(|found| found.name == row.name));
    }
    assert!(consensus::plugin("no such protocol").is_none());
}

const MUTANT_SEEDS_MAX: u64 = 300;
