//! What one seed stands for: every choice of a run, drawn up front and printed.
//!
//! A scenario starts from `Options::calm` and adds what it wants; `Options::from_seed` draws all of
//! it. Faults stay within what the plug-in's fault model promises to survive: at most `f` replicas
//! run a persona, the others may crash and be cut off at will until the faults end.

use std::collections::BTreeSet;
use std::fmt;

use crate::consensus::FaultModel;
use crate::consensus::Plugin;
use crate::consensus::Tuning;
use crate::sim::clock::MILLISECOND_US;
use crate::sim::clock::SECOND_US;
use crate::sim::network::Blockade;
use crate::sim::network::Link;
use crate::sim::random::Stream;
use crate::types::genesis::ChainParameters;
use crate::types::quorum;

/// Every choice of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Row of the plug-in table.
    pub plugin: &'static str,
    /// Seed of the random streams.
    pub seed: u64,
    /// Replicas.
    pub replicas: u16,
    /// Byzantine replicas and what they do.
    pub personas: Vec<(u16, Persona)>,
    /// Shared parameters.
    pub parameters: ChainParameters,
    /// Timings of every replica.
    pub tuning: Tuning,
    /// Behaviour of the links.
    pub link: Link,
    /// Least and greatest time of a disk sync, microseconds.
    pub sync_us: (u64, u64),
    /// Least and greatest time of an execution, microseconds.
    pub execute_us: (u64, u64),
    /// A replica whose disk and execution are ten times slower while faults happen.
    pub slow: Option<u16>,
    /// Distance of each replica's clock from true time, milliseconds.
    pub clock_offset_ms: Vec<i64>,
    /// Batches that clients submit while faults happen.
    pub batches: usize,
    /// Average distance of two submissions, microseconds.
    pub batch_gap_us: u64,
    /// Bodies that do not reach a replica when their author sends them out.
    pub missing_permille: u64,
    /// A scenario's choice: whether a fetched block that the core delivered itself meanwhile is
    /// reported as restored, as the contract allows, or as executed, as the order station
    /// does.
    pub restored_when_stale: bool,
    /// Scripted faults, in order of time.
    pub script: Vec<Fault>,
    /// End of the faults, microseconds.
    pub heal_us: u64,
    /// Time for all to settle after the faults, microseconds.
    pub liveness_us: u64,
    /// A deliberate mistake in the driver, to show that the checkers see it.
    pub sabotage: Option<Sabotage>,
}

/// A scripted fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// When.
    pub at_us: u64,
    /// What.
    pub action: Action,
}

/// Kinds of scripted faults.
#[derive(Clone, Debug)]
pub enum Action {
    /// One replica crashes and stays away for a time.
    Crash { replica: u16, point: CrashPoint, down_us: u64 },
    /// All replicas crash at one instant.
    CrashAll { down_us: u64 },
    /// Messages of these directions vanish for a time.
    Partition { blockade: Blockade, for_us: u64 },
    /// A replica's clock is set to another distance from true time.
    ClockSet { replica: u16, offset_ms: i64 },
    /// A client submits one more batch to this replica.
    Submit { replica: u16 },
}

/// Where in its step a replica crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// At once, whatever it does.
    Now,
    /// When the next sync would complete: nothing of it is durable.
    BeforeSync,
    /// After the next sync, before any message of it leaves.
    BeforeSend,
    /// After the next message went to some of its receivers.
    MidSend,
    /// Like `BeforeSync`, at the numbered sync since the start of the run.
    AtSync(u64),
    /// Like `BeforeSend`, at the numbered sync since the start of the run.
    AfterSync(u64),
}

/// What a Byzantine replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Persona {
    /// As primary it proposes nothing; else it behaves.
    SilentPrimary,
    /// Two cores share its key, see other batches and clocks, and talk to other halves.
    Equivocator,
    /// Signs every vote it sees, besides its own.
    VoteEcho,
    /// Sends old messages, its own and those of others, again.
    StaleReplayer,
    /// Sends random and altered bytes, properly signed, and forged ones.
    Garbage,
    /// Demands view after view, up to the last number.
    ViewChangeSpammer,
    /// Sends to a changing part of the others only.
    Selective,
    /// Holds every message back for most of a timeout.
    Delayer,
    /// Restarts with neither log nor guard.
    Amnesiac,
    /// Computes another state.
    DivergentState,
    /// Sends nothing at all.
    Mute,
    /// Puts many transactions into one sequence number, whatever the plug-in allows.
    Crowder,
}

/// Deliberate mistakes in the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing is written to the log.
    ForgetPersist,
    /// Messages leave before the sync, and the guard is not asked.
    SendBeforeSync,
    /// Signatures are not checked.
    TrustEveryone,
}

impl Persona {
    /// All personas.
    pub const ALL: [Self; 12] = [
        Self::SilentPrimary,
        Self::Equivocator,
        Self::VoteEcho,
        Self::StaleReplayer,
        Self::Garbage,
        Self::ViewChangeSpammer,
        Self::Selective,
        Self::Delayer,
        Self::Amnesiac,
        Self::DivergentState,
        Self::Mute,
        Self::Crowder,
    ];
}

impl Options {
    /// A network of `replicas` correct replicas where nothing goes wrong.
    pub fn calm(plugin: &Plugin, seed: u64, replicas: u16) -> Self {
        Self {
            plugin: plugin.name,
            seed,
            replicas,
            personas: Vec::new(),
            parameters: ChainParameters {
                checkpoint_interval: 4,
                window: 16,
                block_batches_max: 4,
                ..ChainParameters::default()
            },
            tuning: Tuning {
                request_timeout_ms: 1_000,
                view_change_timeout_ms: 1_000,
                timeout_ms_max: 8_000,
                retransmit_ms: 250,
                null_request_ms: 1_000,
                in_flight_max: 4,
                proposal_spacing_ms: 10,
            },
            link: Link {
                delay_us_min: 200,
                delay_us_max: 5_000,
                slow_permille: 0,
                loss_permille: 0,
                duplicate_permille: 0,
                ordered: false,
            },
            sync_us: (100, 2_000),
            execute_us: (200, 2_000),
            slow: None,
            clock_offset_ms: vec![0; usize::from(replicas)],
            batches: 20,
            batch_gap_us: 100 * MILLISECOND_US,
            missing_permille: 0,
            restored_when_stale: false,
            script: Vec::new(),
            heal_us: 4 * SECOND_US,
            liveness_us: 300 * SECOND_US,
            sabotage: None,
        }
    }

    /// The options a seed stands for.
    pub fn from_seed(plugin: &Plugin, seed: u64) -> Self {
        let mut random = Stream::new(seed, "options");
        let r = &mut random;
        let replicas = draw_replicas(plugin, r);
        let mut options = Self::calm(plugin, seed, replicas);
        options.heal_us = r.between(2, 12) * SECOND_US;
        options.parameters.checkpoint_interval = r.between(1, 6);
        options.parameters.window = options.parameters.checkpoint_interval * r.between(2, 4);
        options.parameters.block_batches_max = [1, 2, 8][r.index(3)];
        options.tuning = draw_tuning(r);
        options.link = draw_link(r);
        options.sync_us = (50, r.between(100, 30_000));
        options.execute_us = (50, if r.chance(300) { 300_000 } else { 5_000 });
        let skew = if r.chance(500) { 1 } else { r.below(25_000) };
        for offset in &mut options.clock_offset_ms {
            *offset = offset_ms(r, skew);
        }
        options.batches = 1 + r.index(40);
        let batches = u64::try_from(options.batches).expect("few batches");
        options.batch_gap_us = r.between(1, 2 * options.heal_us / (batches + 1));
        options.missing_permille = if r.chance(500) { r.below(500) } else { 0 };
        if plugin.faults == FaultModel::Byzantine {
            options.personas = draw_personas(r, replicas);
        }
        options.script = draw_script(&options, skew);
        let mut last = Stream::new(seed, "slow");
        let slow = u16::try_from(last.below(u64::from(replicas))).expect("below n");
        options.slow = last.chance(200).then_some(slow);
        let mut spacing = Stream::new(seed, "spacing");
        if spacing.chance(750) {
            options.tuning.proposal_spacing_ms = [2, 10, 50, 250][spacing.index(4)];
        }
        let mut crowd = Stream::new(seed, "crowd");
        if plugin.sequence_txs_max == 1 && crowd.chance(300) {
            for (_, persona) in &mut options.personas {
                *persona = Persona::Crowder;
            }
        }
        options
    }

    /// Whether this replica runs no persona.
    pub fn is_correct(&self, replica: u16) -> bool {
        self.personas.iter().all(|(id, _)| *id != replica)
    }

    /// Adds a scripted fault and keeps the order of time.
    pub fn with(mut self, at_ms: u64, action: Action) -> Self {
        self.script.push(Fault { at_us: at_ms * MILLISECOND_US, action });
        self.script.sort_by_key(|fault| fault.at_us);
        self
    }

    /// Makes a replica Byzantine.
    pub fn with_persona(mut self, replica: u16, persona: Persona) -> Self {
        self.personas.push((replica, persona));
        self
    }
}

fn draw_replicas(plugin: &Plugin, r: &mut Stream) -> u16 {
    let drawn = match r.below(100) {
        0..=44 => 4,
        45..=54 => 5,
        55..=64 => 6,
        65..=89 => 7,
        90..=94 => 10,
        _ => 1,
    };
    drawn.max(u16::try_from(plugin.replicas_min).expect("plug-ins need few replicas"))
}

fn draw_tuning(r: &mut Stream) -> Tuning {
    let request_timeout_ms = r.between(200, 2_000);
    Tuning {
        request_timeout_ms,
        view_change_timeout_ms: r.between(200, 2_000),
        timeout_ms_max: 8_000,
        retransmit_ms: r.between(100, 500),
        null_request_ms: r.between(300, 2_000),
        in_flight_max: r.between(1, 8),
        proposal_spacing_ms: 0,
    }
}

fn draw_link(r: &mut Stream) -> Link {
    let delay_us_max = [2_000, 10_000, 50_000, 150_000][r.index(4)];
    let some = |r: &mut Stream, end: u64| if r.chance(500) { r.below(end) } else { 0 };
    Link {
        delay_us_min: r.below(delay_us_max),
        delay_us_max,
        slow_permille: some(r, 50),
        loss_permille: some(r, 200),
        duplicate_permille: some(r, 200),
        ordered: r.chance(300),
    }
}

fn draw_personas(r: &mut Stream, replicas: u16) -> Vec<(u16, Persona)> {
    let faults = u64::try_from(quorum::faults(usize::from(replicas))).expect("small");
    let count = if r.chance(300) { 0 } else { r.between(1, faults) };
    let mut chosen = BTreeSet::new();
    // The first primaries are the most interesting ones.
    while u64::try_from(chosen.len()).expect("small") < count.min(faults) {
        let low = u64::from(replicas).min(2);
        let id = if r.chance(500) { r.below(low) } else { r.below(u64::from(replicas)) };
        chosen.insert(u16::try_from(id).expect("below the number of replicas"));
    }
    // The last one differs from a correct replica under one plug-in only, and is drawn there.
    let drawn = Persona::ALL.len() - 1;
    chosen.into_iter().map(|id| (id, Persona::ALL[r.index(drawn)])).collect()
}

fn draw_script(options: &Options, skew: u64) -> Vec<Fault> {
    let mut random = Stream::new(options.seed, "script");
    let r = &mut random;
    let n = u64::from(options.replicas);
    let mut script = Vec::new();
    let mut add = |r: &mut Stream, action: Action| {
        script.push(Fault { at_us: r.below(options.heal_us), action });
    };
    if r.chance(600) {
        for _ in 0..r.between(1, 6) {
            let replica = u16::try_from(r.below(n)).expect("below n");
            let down_us = draw_down_us(r);
            let point = [
                CrashPoint::Now,
                CrashPoint::BeforeSync,
                CrashPoint::BeforeSend,
                CrashPoint::MidSend,
            ][r.index(4)];
            add(r, Action::Crash { replica, point, down_us });
        }
    }
    if r.chance(200) {
        let down_us = draw_down_us(r);
        add(r, Action::CrashAll { down_us });
    }
    if r.chance(600) && n > 1 {
        for _ in 0..r.between(1, 5) {
            let blockade = draw_blockade(r, n);
            let for_us = r.between(1, options.heal_us);
            add(r, Action::Partition { blockade, for_us });
        }
    }
    if r.chance(200) {
        let replica = u16::try_from(r.below(n)).expect("below n");
        let offset_ms = offset_ms(r, skew.max(1_000));
        add(r, Action::ClockSet { replica, offset_ms });
    }
    script.sort_by_key(|fault| fault.at_us);
    script
}

fn draw_down_us(r: &mut Stream) -> u64 {
    if r.chance(500) { r.between(1, 200_000) } else { r.between(200_000, 5 * SECOND_US) }
}

fn draw_blockade(r: &mut Stream, n: u64) -> Blockade {
    let id = |x: u64| u16::try_from(x).expect("below n");
    let all: Vec<u16> = (0..n).map(id).collect();
    let one = id(r.below(n));
    let kind = r.below(5);
    let side: BTreeSet<u16> = all.iter().copied().filter(|_| r.chance(500)).collect();
    let pairs = all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b)));
    pairs
        .filter(|(from, to)| from != to)
        .filter(|(from, to)| match kind {
            // Two sides; one direction between two sides; one replica alone; one that can only
            // send; one that can only receive.
            0 => side.contains(from) != side.contains(to),
            1 => side.contains(from) && !side.contains(to),
            2 => *from == one || *to == one,
            3 => *to == one,
            _ => *from == one,
        })
        .collect()
}

fn offset_ms(r: &mut Stream, skew: u64) -> i64 {
    let magnitude = i64::try_from(r.below(skew.max(1))).expect("seconds, not ages");
    if r.chance(500) { magnitude } else { -magnitude }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us / MILLISECOND_US;
        writeln!(f, "plugin {}  seed {}  replicas {}", self.plugin, self.seed, self.replicas)?;
        for (id, persona) in &self.personas {
            writeln!(f, "  byzantine  {id}: {persona:?}")?;
        }
        writeln!(
            f,
            "  parameters checkpoint every {}, window {}, batches per block {}",
            self.parameters.checkpoint_interval,
            self.parameters.window,
            self.parameters.block_batches_max
        )?;
        writeln!(f, "  {:?}", self.tuning)?;
        writeln!(f, "  {:?}", self.link)?;
        writeln!(
            f,
            "  disk sync {:?} us  execution {:?} us  slow: {:?}  clocks {:?} ms",
            self.sync_us, self.execute_us, self.slow, self.clock_offset_ms
        )?;
        writeln!(
            f,
            "  {} batches every {} ms, {} permille of bodies missing, stale blocks as restored: {}",
            self.batches,
            ms(self.batch_gap_us),
            self.missing_permille,
            self.restored_when_stale
        )?;
        for fault in &self.script {
            writeln!(f, "  at {:>6} ms  {:?}", ms(fault.at_us), fault.action)?;
        }
        write!(f, "  healed at {} ms, then {} ms to settle", ms(self.heal_us), ms(self.liveness_us))
    }
}
