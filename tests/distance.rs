//! Latency and block rate over distance and with slow keys, in virtual time: real cores and mempools,
//! a fixed delay of the links, a fixed time of a sync and of a signature. Computing takes no time here, so a crowd of small blocks
//! costs nothing but its syncs: what a machine pays for them is measured with `obelisk bench load`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use obelisk::consensus;
use obelisk::consensus::Core;
use obelisk::consensus::Draft;
use obelisk::consensus::Effect;
use obelisk::consensus::Envelope;
use obelisk::consensus::Executed;
use obelisk::consensus::Input;
use obelisk::consensus::Setup;
use obelisk::consensus::Timer;
use obelisk::consensus::Tuning;
use obelisk::pipeline::mempool::Admitted;
use obelisk::pipeline::mempool::Mempool;
use obelisk::types::batch::BatchRef;
use obelisk::types::block::Tip;
use obelisk::types::digest::Digest;
use obelisk::types::genesis::ChainParameters;
use obelisk::types::genesis::Genesis;
use obelisk::types::ids::BatchId;
use obelisk::types::ids::Epoch;
use obelisk::types::ids::ReplicaId;
use obelisk::types::replica_set::Replica;
use obelisk::types::replica_set::ReplicaSet;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::PublicKey;
use obelisk::types::signature::Signature;
use obelisk::types::verified::Verified;
use obelisk::types::vote::Slot;

use crate::chain_fixture::certificate;
use crate::chain_fixture::genesis;
use crate::chain_fixture::transaction;

/// What is run.
#[derive(Clone, Copy)]
struct Case {
    plugin: &'static str,
    validators: u16,
    /// One way, microseconds.
    delay_us: u64,
    /// A signature of a slow key, of which any number are made at once, microseconds; 0: a key whose
    /// signatures `SYNC_US` covers.
    sign_us: u64,
    /// Transactions per second over all validators.
    rate: u64,
    in_flight_max: u64,
    proposal_spacing_ms: u64,
    batch_spacing_ms: u64,
}

impl Case {
    fn batch_spacing(&self) -> Duration {
        Duration::from_millis(self.batch_spacing_ms)
    }
}

/// What came of it.
struct Figures {
    p50_us: u64,
    p99_us: u64,
    blocks_per_s: u64,
    committed_per_s: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50_us, p99_us, blocks_per_s, committed_per_s } = self;
        write!(f, "p50 {p50_us} us, p99 {p99_us} us, ")?;
        write!(f, "{blocks_per_s} blocks/s, {committed_per_s} committed/s")
    }
}

enum Event {
    Arrives { at: usize, input: Input },
    Round { at: usize },
    Timer { at: usize, timer: Timer, setting: u64 },
    Transaction { at: usize },
    Batch { at: usize },
}

struct Node {
    core: Box<dyn Core>,
    mempool: Mempool,
    /// What came during a sync.
    inbox: Vec<Input>,
    busy: bool,
    timers: BTreeMap<Timer, u64>,
    /// Arrival times of the transactions of own batches, and of those in no batch yet.
    batches: BTreeMap<BatchId, Vec<u64>>,
    waiting: Vec<u64>,
    tip: Tip,
    /// When the votes that were named ahead are signed.
    ahead: BTreeMap<Slot, u64>,
}

struct World {
    case: Case,
    start: Instant,
    genesis: Genesis,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    scheduled: u64,
    settings: u64,
    now_us: u64,
    random: u64,
    latencies_us: Vec<u64>,
    blocks: u64,
}

impl World {
    fn new(case: Case) -> Self {
        let members = (0..case.validators).map(|i| Replica {
            organisation: "org".to_owned(),
            name: format!("v{i}"),
            key: PublicKey::new(Algorithm::Ed25519, &Digest::of(&[&i.to_be_bytes()]).0).unwrap(),
        });
        let replicas = Arc::new(ReplicaSet::new(Epoch(0), members.collect()).unwrap());
        let genesis = genesis("distance");
        let plugin = consensus::plugin(case.plugin).unwrap();
        let tip = Tip::genesis(genesis.chain_id(), 0);
        let tuning = Tuning {
            in_flight_max: case.in_flight_max,
            proposal_spacing_ms: case.proposal_spacing_ms,
            ..Tuning::default()
        };
        let setup = |i: u16| Setup {
            chain: genesis.chain_id(),
            me: ReplicaId(i),
            replicas: replicas.clone(),
            parameters: ChainParameters::default(),
            tuning,
            tip,
            checkpoint: Digest::ZERO,
            log: Vec::new(),
        };
        let node = |i: u16| Node {
            core: (plugin.build)(setup(i)),
            mempool: Mempool::new(plugin.sequence_txs_max, case.batch_spacing()),
            inbox: vec![Input::Clock(1_000), Input::Start],
            busy: false,
            timers: BTreeMap::new(),
            batches: BTreeMap::new(),
            waiting: Vec::new(),
            tip,
            ahead: BTreeMap::new(),
        };
        let nodes = (0..case.validators).map(node).collect();
        Self {
            case,
            start: Instant::now(),
            nodes,
            genesis,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            scheduled: 0,
            settings: 0,
            now_us: 0,
            random: 1,
            latencies_us: Vec::new(),
            blocks: 0,
        }
    }

    /// Runs for `RUN_US` and leaves the first fifth out of the figures.
    fn run(mut self) -> Figures {
        for at in 0..self.nodes.len() {
            self.round(at);
            self.schedule(0, Event::Transaction { at });
        }
        while let Some(Reverse((at_us, order))) = self.queue.pop() {
            if at_us > RUN_US {
                break;
            }
            self.now_us = at_us;
            match self.events.remove(&order).expect("scheduled once") {
                Event::Arrives { at, input } => {
                    self.nodes[at].inbox.push(input);
                    self.round(at);
                }
                Event::Round { at } => {
                    self.nodes[at].busy = false;
                    self.round(at);
                }
                Event::Timer { at, timer, setting } => {
                    if self.nodes[at].timers.get(&timer) == Some(&setting) {
                        self.nodes[at].timers.remove(&timer);
                        self.nodes[at].inbox.push(Input::TimerFired(timer));
                        self.round(at);
                    }
                }
                Event::Transaction { at } => self.submit(at),
                Event::Batch { at } => self.close_batches(at),
            }
        }
        self.latencies_us.sort_unstable();
        let seconds = (RUN_US - WARM_UP_US) / 1_000_000;
        let count = self.latencies_us.len();
        Figures {
            p50_us: self.latencies_us[count / 2],
            p99_us: self.latencies_us[count * 99 / 100],
            blocks_per_s: self.blocks / seconds,
            committed_per_s: count as u64 / seconds,
        }
    }

    fn schedule(&mut self, after_us: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((self.now_us + after_us, self.scheduled)));
        self.events.insert(self.scheduled, event);
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        (self.random >> 33) % below
    }

    /// A client hands a transaction to validator `at`; the next comes after a drawn time.
    fn submit(&mut self, at: usize) {
        let tx = transaction(&self.genesis, self.scheduled, &[("a", Some("1"))]);
        let (now, node) = (self.now_us, &mut self.nodes[at]);
        if node.mempool.reserve(&tx).is_ok() {
            let admitted = Admitted { tx, certificate: certificate() };
            node.mempool.push(vec![Verified::by_checked_signatures(admitted)]);
            node.waiting.push(now);
        }
        let mean_us = 1_000_000 * u64::from(self.case.validators) / self.case.rate;
        let gap_us = self.draw(2 * mean_us);
        self.schedule(gap_us, Event::Transaction { at });
        self.close_batches(at);
    }

    fn close_batches(&mut self, at: usize) {
        let me = ReplicaId(u16::try_from(at).unwrap());
        let now = self.start + Duration::from_micros(self.now_us);
        while let Some(batch) = self.nodes[at].mempool.batch_at(me, now) {
            let spacing_us = 1_000 * self.case.batch_spacing_ms;
            self.schedule(spacing_us, Event::Batch { at });
            let node = &mut self.nodes[at];
            let inside: Vec<u64> = node.waiting.drain(..batch.transactions().len()).collect();
            node.batches.insert(batch.id(), inside);
            for to in 0..self.nodes.len() {
                let input = Input::BatchAvailable(batch.reference());
                self.send(at, to, input);
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, input: Input) {
        let delay_us = if from == to { 0 } else { self.case.delay_us };
        self.schedule(delay_us, Event::Arrives { at: to, input });
    }

    /// One round of the driver: all that came, one sync where something is recorded, then the
    /// messages.
    fn round(&mut self, at: usize) {
        if self.nodes[at].busy {
            return;
        }
        let inbox = std::mem::take(&mut self.nodes[at].inbox);
        if inbox.is_empty() {
            return;
        }
        let mut effects = Vec::new();
        let clock = Input::Clock(1_000 + self.now_us / 1_000);
        for input in std::iter::once(clock).chain(inbox) {
            self.nodes[at].core.step(input, &mut effects);
        }
        let records = effects.iter().any(|e| matches!(e, Effect::Persist(_)));
        let sync_us = if records { SYNC_US } else { 0 };
        self.nodes[at].busy = records;
        for effect in effects {
            self.carry_out(at, effect, sync_us);
        }
        if records {
            self.schedule(sync_us, Event::Round { at });
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect, sync_us: u64) {
        match effect {
            Effect::Foresee(draft) if self.case.sign_us > 0 => {
                let signed_us = self.now_us + SYNC_US + self.case.sign_us;
                self.nodes[at].ahead.extend(draft.slot.map(|slot| (slot, signed_us)));
            }
            Effect::Broadcast(draft) => {
                for to in 0..self.nodes.len() {
                    self.send_later(at, to, &draft, sync_us);
                }
            }
            Effect::Send { to, message } => {
                self.send_later(at, usize::from(to.0), &message, sync_us);
            }
            Effect::Arm { timer, after_ms } => {
                self.settings += 1;
                let setting = self.settings;
                self.nodes[at].timers.insert(timer, setting);
                self.schedule(after_ms * 1_000, Event::Timer { at, timer, setting });
            }
            Effect::Disarm(timer) => {
                self.nodes[at].timers.remove(&timer);
            }
            Effect::Deliver(delivered) => {
                let chain = self.genesis.chain_id();
                let node = &mut self.nodes[at];
                node.tip = node.tip.extend(chain, &delivered.proposal).0;
                let sequence = delivered.proposal.sequence;
                let checkpoint = Digest::of(&[node.tip.hash.0.as_bytes()]);
                let executed = Input::Executed(Executed { sequence, checkpoint });
                self.schedule(EXECUTE_US, Event::Arrives { at, input: executed });
                self.settle(at, &delivered.proposal.batches);
            }
            Effect::Forward { to, message } => {
                let input = Input::Message(Verified::by_checked_signatures(message));
                self.send(at, usize::from(to.0), input);
            }
            Effect::Foresee(_) | Effect::Persist(_) | Effect::Compact(_) => {}
            other => {
                let standing: Vec<_> = self.nodes.iter().map(|node| node.core.status()).collect();
                panic!("{} us: {other:?}, {standing:#?}", self.now_us);
            }
        }
    }

    fn send_later(&mut self, at: usize, to: usize, draft: &Draft, sync_us: u64) {
        let signed_us = draft.slot.and_then(|slot| self.nodes[at].ahead.get(&slot)).copied();
        let left_us = signed_us.map(|signed_us| signed_us.saturating_sub(self.now_us));
        let sync_us = left_us.unwrap_or(self.case.sign_us + sync_us).max(sync_us);
        let (body, sender) = (draft.body.clone(), ReplicaId(u16::try_from(at).unwrap()));
        let envelope = Envelope { sender, body, signature: Signature([1; 64]).into() };
        let input = Input::Message(Verified::by_checked_signatures(envelope));
        let delay_us = if at == to { 0 } else { self.case.delay_us };
        self.schedule(sync_us + delay_us, Event::Arrives { at: to, input });
    }

    /// The author's clients have their answer once the block is durable.
    fn settle(&mut self, at: usize, batches: &[BatchRef]) {
        let counted = self.now_us >= WARM_UP_US;
        self.blocks += u64::from(counted && at == 0);
        for batch in batches {
            self.nodes[at].mempool.ordered(&batch.id);
            let done_us = self.now_us + EXECUTE_US;
            let inside = self.nodes[at].batches.remove(&batch.id).unwrap_or_default();
            if counted {
                self.latencies_us.extend(inside.iter().map(|arrived| done_us - arrived));
            }
        }
        self.close_batches(at);
    }
}

fn figures(case: Case) -> Figures {
    let figures = World::new(case).run();
    println!(
        "{}, {} validators, {} us one way, {} us to sign, {}/s, {} in flight, spacing {}, batches {} ms: {figures}",
        case.plugin,
        case.validators,
        case.delay_us,
        case.sign_us,
        case.rate,
        case.in_flight_max,
        case.proposal_spacing_ms,
        case.batch_spacing_ms,
    );
    figures
}

fn case(delay_us: u64, rate: u64) -> Case {
    let Tuning { in_flight_max, proposal_spacing_ms, .. } = Tuning::default();
    let (plugin, validators) = ("pbft", 4);
    let batch_spacing_ms = proposal_spacing_ms;
    Case {
        plugin,
        validators,
        delay_us,
        sign_us: 0,
        rate,
        in_flight_max,
        proposal_spacing_ms,
        batch_spacing_ms,
    }
}

/// Without the spacing: a proposal for each batch that comes, one small batch of each validator,
/// four proposals in flight.
fn at_once(case: Case) -> Case {
    Case { in_flight_max: 4, proposal_spacing_ms: 0, batch_spacing_ms: NEVER_MS, ..case }
}

/// Between sites the spacing costs nothing: latency and rate are not worse than without it.
#[test]
fn at_distance_nothing_is_lost() {
    for delay_us in [10_000, 50_000] {
        for rate in [40, 400, 2_000] {
            let spaced = figures(case(delay_us, rate));
            let at_once = figures(at_once(case(delay_us, rate)));
            assert!(spaced.p50_us * 10 <= at_once.p50_us * 11, "{spaced}; {at_once}");
            assert!(spaced.p99_us * 10 <= at_once.p99_us * 11, "{spaced}; {at_once}");
            assert!(spaced.committed_per_s * 100 >= at_once.committed_per_s * 97);
        }
    }
}

/// On one site blocks gather what arrives during a round, as with one proposal in flight.
#[test]
fn on_one_site_blocks_gather() {
    let spaced = figures(case(200, 1_000));
    let alone = figures(Case { in_flight_max: 1, ..at_once(case(200, 1_000)) });
    let at_once = figures(at_once(case(200, 1_000)));
    assert_eq!(spaced.blocks_per_s, alone.blocks_per_s);
    assert!(spaced.blocks_per_s * 10 < at_once.blocks_per_s * 9, "{spaced}; {at_once}");
}

/// A key of 10 ms costs the median less than three signatures at any rate: those of pre-prepare and
/// prepare, while the commit vote's is made beside the latter, and what batches and proposals wait.
#[test]
fn a_slow_key_costs_less_than_three_signatures() {
    for rate in [100, 400, 1_000, 4_000] {
        let fast = figures(case(200, rate));
        let slow = figures(Case { sign_us: SIGN_US, ..case(200, rate) });
        assert!(slow.p50_us < fast.p50_us + 3 * SIGN_US, "{slow}; {fast}");
        assert!(slow.committed_per_s * 100 >= fast.committed_per_s * 97, "{slow}; {fast}");
    }
}

const SIGN_US: u64 = 10_000;
const NEVER_MS: u64 = 1_000_000;
const RUN_US: u64 = 4_000_000;
const WARM_UP_US: u64 = 1_000_000;
/// A sync of the log and the guard, and a signature.
const SYNC_US: u64 = 400;
/// Executing and storing a block.
const EXECUTE_US: u64 = 1_000;
