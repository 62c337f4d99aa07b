//! The words of the step tests: proposals, votes, certificates, and one replica driven by hand.

use std::sync::Arc;

use crate::consensus::Core;
use crate::consensus::Delivered;
use crate::consensus::Draft;
use crate::consensus::Effect;
use crate::consensus::Envelope;
use crate::consensus::Executed;
use crate::consensus::Input;
use crate::consensus::LogRecord;
use crate::consensus::Setup;
use crate::consensus::Tuning;
use crate::consensus::pbft::Pbft;
use crate::consensus::pbft::message::Message;
use crate::consensus::pbft::message::NewView;
use crate::consensus::pbft::message::Prepared;
use crate::consensus::pbft::message::ViewChange;
use crate::types::batch::BatchRef;
use crate::types::block::Tip;
use crate::types::certificate::QuorumCertificate;
use crate::types::digest::Digest;
use crate::types::genesis::ChainParameters;
use crate::types::ids::BatchId;
use crate::types::ids::ChainId;
use crate::types::ids::Epoch;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::replica_set::Replica;
use crate::types::replica_set::ReplicaSet;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;
use crate::types::verified::Verified;
use crate::types::vote::Phase;
use crate::types::vote::Slot;
use crate::types::vote::Vote;
use crate::types::vote_signature::VoteSignature;

pub const NOW: u64 = 1_000_000;

pub fn chain() -> ChainId {
    ChainId(Digest::of(&[b"test chain"]))
}

pub fn parameters() -> ChainParameters {
    ChainParameters { checkpoint_interval: 4, window: 8, ..ChainParameters::default() }
}

pub fn replica_set(n: usize) -> Arc<ReplicaSet> {
    let members = (0..n)
        .map(|i| Replica {
            organisation: "org".to_owned(),
            name: format!("replica {i}"),
            key: PublicKey::new(Algorithm::Ed25519, &[u8::try_from(i).unwrap(); 32]).unwrap(),
        })
        .collect();
    Arc::new(ReplicaSet::new(Epoch(0), members).unwrap())
}

pub fn setup(n: usize, me: u16) -> Setup {
    Setup {
        chain: chain(),
        me: ReplicaId(me),
        replicas: replica_set(n),
        parameters: parameters(),
        tuning: Tuning { null_request_ms: 0, ..Tuning::default() },
        tip: Tip::genesis(chain(), 0),
        checkpoint: Digest::ZERO,
        log: Vec::new(),
    }
}

pub fn batch(i: u64) -> BatchRef {
    let digest = Digest::of(&[b"batch", &i.to_be_bytes()]);
    let author = ReplicaId(u16::try_from(i % 4).unwrap());
    BatchRef { id: BatchId(digest), author, transactions: 1, bytes: 300, transaction_root: digest }
}

/// A stand-in signature: names its sender, so that equal votes of two replicas differ.
pub fn signature(sender: u16) -> VoteSignature {
    Signature([u8::try_from(sender).unwrap() + 1; 64]).into()
}

pub fn envelope(sender: u16, draft: &Draft) -> Envelope {
    Envelope { sender: ReplicaId(sender), body: draft.body.clone(), signature: signature(sender) }
}

pub fn message(sender: u16, message: &Message) -> Envelope {
    Envelope {
        sender: ReplicaId(sender),
        body: message.to_body(Epoch(0)),
        signature: signature(sender),
    }
}

pub fn vote(sender: u16, phase: Phase, view: u64, sequence: u64, digest: Digest) -> Envelope {
    let slot =
        Slot { epoch: Epoch(0), view: View(view), sequence: SequenceNumber(sequence), phase };
    message(sender, &Message::Vote(Vote { slot, digest }))
}

pub fn proposal(view: u64, sequence: u64, batches: &[u64]) -> Proposal {
    Proposal {
        view: View(view),
        sequence: SequenceNumber(sequence),
        time_ms: NOW + sequence,
        batches: batches.iter().map(|i| batch(*i)).collect(),
    }
}

pub fn pre_prepare(view: u64, proposal: &Proposal) -> Envelope {
    let primary = u16::try_from(view % 4).unwrap();
    message(primary, &Message::PrePrepare { view: View(view), proposal: proposal.clone() })
}

pub fn decode(draft: &Draft) -> Message {
    Message::from_body(&draft.body).unwrap().1
}

pub fn state_digest(tip: &Tip) -> Digest {
    Digest::of(&[b"state", &tip.sequence.0.to_be_bytes(), tip.hash.0.as_bytes()])
}

/// One replica driven by hand: a step returns its effects.
pub struct Solo(pub Pbft);

impl Solo {
    /// Started, with the clock set.
    pub fn new(setup: Setup) -> Self {
        Self::with(setup, limits::SEQUENCE_TXS_MAX)
    }

    /// The same, with so many transactions of one sequence number at most.
    pub fn with(setup: Setup, sequence_txs_max: usize) -> Self {
        let mut core = Pbft::new(setup, sequence_txs_max);
        let mut effects = Vec::new();
        core.step(Input::Clock(NOW), &mut effects);
        core.step(Input::Start, &mut effects);
        Self(core)
    }

    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.0.step(input, &mut effects);
        effects
    }

    pub fn receive(&mut self, envelope: Envelope) -> Vec<Effect> {
        self.step(Input::Message(Verified::by_checked_signatures(envelope)))
    }

    pub fn receive_all(&mut self, envelopes: impl IntoIterator<Item = Envelope>) -> Vec<Effect> {
        envelopes.into_iter().flat_map(|e| self.receive(e)).collect()
    }

    pub fn has(&mut self, batches: &[u64]) {
        for i in batches {
            self.step(Input::BatchAvailable(batch(*i)));
        }
    }
}

/// Helpers that drive a backup (replica 3 unless said otherwise) with the words of 0, 1 and 2.
impl Solo {
    /// Pre-prepare and a quorum of prepares of the others: prepared here.
    pub fn prepare(&mut self, view: u64, p: &Proposal) -> Vec<Effect> {
        let n = p.sequence.0;
        for b in &p.batches {
            self.step(Input::BatchAvailable(*b));
        }
        let mut effects = self.receive(pre_prepare(view, p));
        let digest = p.digest(&chain());
        effects
            .extend(self.receive_all([0, 1, 2].map(|i| vote(i, Phase::Prepare, view, n, digest))));
        effects
    }

    /// Prepared and committed: delivered here.
    pub fn commit(&mut self, view: u64, p: &Proposal) -> Vec<Effect> {
        let (_, digest) = self.0.tip.extend(chain(), p);
        let mut effects = self.prepare(view, p);
        let n = p.sequence.0;
        effects
            .extend(self.receive_all([0, 1, 2].map(|i| vote(i, Phase::Commit, view, n, digest))));
        effects
    }

    /// Delivered and executed.
    pub fn execute(&mut self, view: u64, p: &Proposal) -> Vec<Effect> {
        let mut effects = self.commit(view, p);
        let (sequence, checkpoint) = (self.0.tip.sequence, state_digest(&self.0.tip));
        effects.extend(self.step(Input::Executed(Executed { sequence, checkpoint })));
        effects
    }

    /// What the loopback brings back: own broadcasts, signed.
    pub fn loopback(&mut self, effects: &[Effect]) -> Vec<Effect> {
        let me = self.0.me.0;
        let own: Vec<Envelope> = effects
            .iter()
            .filter_map(|e| match e {
                Effect::Broadcast(draft) => Some(envelope(me, draft)),
                _ => None,
            })
            .collect();
        self.receive_all(own)
    }
}

/// A certificate of replicas 0, 1 and 2.
pub fn certificate(phase: Phase, view: u64, sequence: u64, digest: Digest) -> QuorumCertificate {
    let slot =
        Slot { epoch: Epoch(0), view: View(view), sequence: SequenceNumber(sequence), phase };
    let signatures = (0..3).map(|i| (ReplicaId(i), signature(i))).collect();
    QuorumCertificate { vote: Vote { slot, digest }, signatures }
}

/// A prepared certificate for a proposal in a view.
pub fn prepared(view: u64, p: &Proposal) -> Prepared {
    let digest = p.digest(&chain());
    let certificate = certificate(Phase::Prepare, view, p.sequence.0, digest);
    Prepared { certificate, proposal: p.clone() }
}

/// A view-change of a replica.
pub fn view_change(sender: u16, view: u64, stable: u64, prepared: Vec<Prepared>) -> Envelope {
    let digest = Digest::of(&[b"state", &stable.to_be_bytes()]);
    let stable = (stable > 0).then(|| certificate(Phase::Checkpoint, 0, stable, digest));
    message(sender, &Message::ViewChange(ViewChange { view: View(view), stable, prepared }))
}

/// A new-view of the view's primary over these view-changes.
pub fn new_view(view: u64, view_changes: &[Envelope], proposals: &[Proposal]) -> Envelope {
    let view_changes = view_changes
        .iter()
        .map(|e| match Message::from_body(&e.body).unwrap().1 {
            Message::ViewChange(inner) => (e.clone(), inner),
            other => panic!("not a view-change: {other:?}"),
        })
        .collect();
    let assignments = proposals.iter().map(|p| p.digest(&chain())).collect();
    let body = NewView { view: View(view), view_changes, assignments };
    message(u16::try_from(view % 4).unwrap(), &Message::NewView(body))
}

/// Records among the effects.
pub fn records(effects: &[Effect]) -> Vec<LogRecord> {
    let mut log = Vec::new();
    for effect in effects {
        match effect {
            Effect::Persist(record) => log.push(record.clone()),
            Effect::Compact(records) => log = records.clone(),
            _ => {}
        }
    }
    log
}

/// Accused replicas among the effects.
pub fn accused(effects: &[Effect]) -> Vec<u16> {
    let all = effects.iter().filter_map(|e| match e {
        Effect::Accuse(evidence) => Some(evidence.culprit.0),
        _ => None,
    });
    all.collect()
}

/// Broadcast messages among the effects.
pub fn broadcasts(effects: &[Effect]) -> Vec<Message> {
    let drafts = effects.iter().filter_map(|e| match e {
        Effect::Broadcast(draft) => Some(draft),
        _ => None,
    });
    drafts.map(decode).collect()
}

/// Broadcast votes of a phase among the effects.
pub fn votes(effects: &[Effect], phase: Phase) -> Vec<Vote> {
    let all = broadcasts(effects).into_iter();
    all.filter_map(|m| match m {
        Message::Vote(vote) if vote.slot.phase == phase => Some(vote),
        _ => None,
    })
    .collect()
}

pub fn deliveries(effects: &[Effect]) -> Vec<Delivered> {
    let all = effects.iter().filter_map(|e| match e {
        Effect::Deliver(delivered) => Some(delivered.clone()),
        _ => None,
    });
    all.collect()
}
