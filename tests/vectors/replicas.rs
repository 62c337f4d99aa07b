//! Four PBFT replicas without time, threads or chance: messages are delivered in the order they
//! were sent, timers fire when they are told to, keys and guards are real.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use obelisk::consensus;
use obelisk::consensus::Core;
use obelisk::consensus::Delivered;
use obelisk::consensus::Draft;
use obelisk::consensus::Effect;
use obelisk::consensus::Envelope;
use obelisk::consensus::Executed;
use obelisk::consensus::Input;
use obelisk::consensus::LogRecord;
use obelisk::consensus::Setup;
use obelisk::consensus::Timer;
use obelisk::consensus::Tuning;
use obelisk::crypto::SigningKey;
use obelisk::signer::SignRequest;
use obelisk::signer::Signer;
use obelisk::signer::embedded::EmbeddedSigner;
use obelisk::signer::embedded::Mode;
use obelisk::signer::guard::standing::RecordCall;
use obelisk::types::batch::BatchRef;
use obelisk::types::block::Tip;
use obelisk::types::digest::Digest;
use obelisk::types::genesis::Genesis;
use obelisk::types::ids::ChainId;
use obelisk::types::ids::ReplicaId;
use obelisk::types::ids::SequenceNumber;
use obelisk::types::verified::Verified;
use obelisk::types::vote;

/// The replica whose log, guard and deliveries are looked at.
pub const WITNESS: usize = 3;

struct Replica {
    core: Option<Box<dyn Core>>,
    signer: EmbeddedSigner,
    /// Hears nobody but itself.
    deaf: bool,
    delivered: VecDeque<SequenceNumber>,
}

/// The replicas and what they said.
pub struct Replicas {
    chain: ChainId,
    replicas: Vec<Replica>,
    queue: VecDeque<(usize, Envelope)>,
    executed: BTreeMap<SequenceNumber, Digest>,
    /// Every message sent, in order.
    pub sent: Vec<Envelope>,
    /// What the witness wrote into its log.
    pub log: Vec<LogRecord>,
    /// What the witness delivered and nobody has taken yet.
    pub delivered: VecDeque<Delivered>,
}

/// A replica's core as the network's document and a log make it.
pub fn core(genesis: &Genesis, me: usize, tip: Tip, log: Vec<LogRecord>) -> Box<dyn Core> {
    let row = consensus::plugin(&genesis.consensus).expect("a row");
    (row.build)(Setup {
        chain: genesis.chain_id(),
        me: ReplicaId(u16::try_from(me).expect("few")),
        replicas: Arc::new(genesis.replicas.clone()),
        parameters: genesis.parameters,
        tuning: Tuning::default(),
        tip,
        checkpoint: Digest::ZERO,
        log,
    })
}

/// Path of a replica's guard.
pub fn guard_path(dir: &Path, replica: usize) -> std::path::PathBuf {
    dir.join(format!("guard-{replica}"))
}

impl Replicas {
    /// Starts a replica per key; guards are kept in `dir`.
    pub fn start(genesis: &Genesis, keys: &[Arc<dyn SigningKey>], dir: &Path) -> Self {
        let chain = genesis.chain_id();
        let tip = Tip::genesis(chain, genesis.time_ms);
        let replica = |(i, key): (usize, &Arc<dyn SigningKey>)| Replica {
            core: Some(core(genesis, i, tip, Vec::new())),
            signer: EmbeddedSigner::start(
                Mode::Direct,
                &guard_path(dir, i),
                chain,
                key.clone(),
                false,
            )
            .expect("a new guard"),
            deaf: false,
            delivered: VecDeque::new(),
        };
        let mut all = Self {
            chain,
            replicas: keys.iter().enumerate().map(replica).collect(),
            queue: VecDeque::new(),
            executed: BTreeMap::new(),
            sent: Vec::new(),
            log: Vec::new(),
            delivered: VecDeque::new(),
        };
        for replica in &all.replicas {
            let signer = &replica.signer;
            signer.record(signer.opening(), &RecordCall::Settle).expect("a new guard");
        }
        all.everybody(&Input::Start);
        all
    }

    /// Sets all clocks, milliseconds since 1970.
    pub fn clock(&mut self, now_ms: u64) {
        self.everybody(&Input::Clock(now_ms));
    }

    /// Everybody holds a batch.
    pub fn submit(&mut self, batch: BatchRef) {
        self.everybody(&Input::BatchAvailable(batch));
    }

    /// A sequence number was executed by whoever delivered it.
    pub fn executed(&mut self, executed: Executed) {
        self.executed.insert(executed.sequence, executed.checkpoint);
        self.settle();
    }

    /// A timer fires at one replica.
    pub fn fire(&mut self, at: usize, timer: Timer) {
        self.input(at, Input::TimerFired(timer));
        self.settle();
    }

    /// Ends a replica for good.
    pub fn stop(&mut self, at: usize) {
        self.replicas[at].core = None;
    }

    /// Cuts off what others send to a replica, or ends that.
    pub fn deafen(&mut self, at: usize, deaf: bool) {
        self.replicas[at].deaf = deaf;
    }

    fn everybody(&mut self, input: &Input) {
        for at in 0..self.replicas.len() {
            self.input(at, input.clone());
        }
        self.settle();
    }

    /// Delivers messages and reports executions until nothing is left to do.
    fn settle(&mut self) {
        loop {
            while let Some((to, envelope)) = self.queue.pop_front() {
                if !self.replicas[to].deaf || usize::from(envelope.sender.0) == to {
                    self.input(to, Input::Message(Verified::by_checked_signatures(envelope)));
                }
            }
            let due = (0..self.replicas.len()).find_map(|at| {
                let sequence = *self.replicas[at].delivered.front()?;
                Some((at, sequence, *self.executed.get(&sequence)?))
            });
            let Some((at, sequence, checkpoint)) = due else { return };
            self.replicas[at].delivered.pop_front();
            self.input(at, Input::Executed(Executed { sequence, checkpoint }));
        }
    }

    fn input(&mut self, at: usize, input: Input) {
        let Some(core) = self.replicas[at].core.as_mut() else { return };
        let mut effects = Vec::new();
        core.step(input, &mut effects);
        for effect in effects {
            self.effect(at, effect);
        }
    }

    fn effect(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Persist(record) if at == WITNESS => self.log.push(record),
            Effect::Broadcast(draft) => {
                let envelope = self.sign(at, draft);
                (0..self.replicas.len())
                    .for_each(|to| self.queue.push_back((to, envelope.clone())));
            }
            Effect::Send { to, message } => {
                let envelope = self.sign(at, message);
                self.queue.push_back((usize::from(to.0), envelope));
            }
            Effect::Forward { to, message } => {
                self.queue.push_back((usize::from(to.0), message));
            }
            Effect::Deliver(delivered) => {
                self.replicas[at].delivered.push_back(delivered.proposal.sequence);
                if at == WITNESS {
                    self.delivered.push_back(delivered);
                }
            }
            Effect::Accuse(evidence) => panic!("a correct replica is accused: {evidence:?}"),
            Effect::FetchBatch { .. } | Effect::CatchUp { .. } | Effect::Diverged { .. } => {
                panic!("everybody has everything: {effect:?}")
            }
            Effect::Foresee(_)
            | Effect::Persist(_)
            | Effect::Compact(_)
            | Effect::Arm { .. }
            | Effect::Disarm(_) => {}
        }
    }

    fn sign(&mut self, at: usize, draft: Draft) -> Envelope {
        let text = vote::signed_text(&self.chain, &draft.body);
        let request = SignRequest { slot: draft.slot, text, ahead: false };
        let signature = self.replicas[at].signer.sign(&[request]).remove(0).expect("signed");
        let sender = ReplicaId(u16::try_from(at).expect("few"));
        let envelope = Envelope { sender, body: draft.body, signature };
        self.sent.push(envelope.clone());
        envelope
    }
}
