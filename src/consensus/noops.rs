//! Development consensus: replica 0 orders whatever is available at once, the others follow.
//!
//! ```text
//! replica 0   proposal --+--> all     body: 0x20 | proposal        slot (view 0, sequence, pre-prepare)
//! each        commit   --+--> all     body: vote                   slot (view 0, sequence, commit)
//! each        status   --+--> all     body: 0x21 | delivered u64   no slot
//! record      proposal                accepted here, written before the vote for it is sent
//! ```
//!
//! Invariants: replica 0 has one sequence number in flight and persists a proposal before it sends
//! it; a replica votes for the first proposal of a sequence number only, when it delivered all
//! below and holds all bodies; delivery needs a quorum of commit votes, so a single replica is its
//! own quorum. Failure behaviour: no lie is detected and no primary is replaced; when replica 0 or
//! a quorum is away the chain waits. Lost messages are sent again, a laggard hears of it from
//! status messages and catches up.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::consensus::Claim;
use crate::consensus::Core;
use crate::consensus::CoreStatus;
use crate::consensus::Delivered;
use crate::consensus::Draft;
use crate::consensus::Effect;
use crate::consensus::Envelope;
use crate::consensus::FaultModel;
use crate::consensus::Input;
use crate::consensus::LogRecord;
use crate::consensus::Plugin;
use crate::consensus::Setup;
use crate::consensus::Timer;
use crate::types::batch::BatchRef;
use crate::types::block::Tip;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::ChainId;
use crate::types::ids::Epoch;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::vote;
use crate::types::vote::Phase;
use crate::types::vote::Slot;
use crate::types::vote::Vote;
use crate::types::vote_signature::Bound;
use crate::types::vote_signature::VoteSignature;

/// The row of the plug-in table.
pub const ROW: Plugin = Plugin {
    name: "noops",
    summary: "development: replica 0 orders at once, survives no lie and no missing replica 0",
    faults: FaultModel::None,
    replicas_min: 1,
    sequence_txs_max: limits::SEQUENCE_TXS_MAX,
    build: |setup| Box::new(Noops::new(setup)),
    claims,
    slot,
    // Detects no lie, so it knows no offence.
    offence: |_, _, _| None,
};

struct Noops {
    setup: Setup,
    now_ms: u64,
    /// After the last delivered proposal.
    tip: Tip,
    executed: SequenceNumber,
    /// Held here and not delivered; at most `PENDING_BATCHES_PER_AUTHOR_MAX` per replica.
    pending: BTreeMap<BatchId, BatchRef>,
    /// First proposal of each sequence number that is not executed here: delivered ones, and at
    /// most `AHEAD_MAX` above the tip.
    accepted: BTreeMap<SequenceNumber, Proposal>,
    /// Latest commit vote of each replica, same range.
    votes: BTreeMap<SequenceNumber, BTreeMap<ReplicaId, (Vote, VoteSignature)>>,
    /// Last sequence number voted for since the start.
    voted: SequenceNumber,
    /// True while the short retransmission interval is armed.
    armed_short: bool,
}

enum Message {
    Proposal(Proposal),
    Commit(Vote),
    Status(SequenceNumber),
}

impl Core for Noops {
    fn step(&mut self, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Start => self.arm(effects),
            Input::Clock(now_ms) => self.now_ms = now_ms,
            Input::BatchAvailable(batch) => self.on_batch(batch),
            Input::Message(envelope) => self.on_message(envelope.into_inner(), effects),
            Input::TimerFired(Timer::Retransmit) => self.on_retransmit(effects),
            Input::TimerFired(_) | Input::Refused(_) => {}
            Input::Executed(executed) => {
                self.executed = self.executed.max(executed.sequence);
                self.forget_executed();
                effects.push(Effect::Compact(self.accepted.values().map(record).collect()));
            }
            Input::BatchesCommitted(ids) => self.pending.retain(|id, _| !ids.contains(id)),
            Input::Restored { tip, .. } => self.on_restored(tip),
        }
        self.advance(effects);
        if self.unfinished() && !self.armed_short {
            self.arm(effects);
        }
    }

    fn status(&self) -> CoreStatus {
        CoreStatus {
            view: View(0),
            view_active: true,
            delivered: self.tip.sequence,
            stable: self.executed,
            pending_batches: self.pending.len(),
            proof: None,
        }
    }
}

impl Noops {
    fn new(mut setup: Setup) -> Self {
        let log = std::mem::take(&mut setup.log);
        let accepted = log
            .iter()
            .filter_map(|r| Proposal::from_bytes(&r.0).ok())
            .filter(|p| p.sequence > setup.tip.sequence)
            .map(|p| (p.sequence, p))
            .collect();
        Self {
            now_ms: 0,
            tip: setup.tip,
            executed: setup.tip.sequence,
            pending: BTreeMap::new(),
            accepted,
            votes: BTreeMap::new(),
            voted: setup.tip.sequence,
            armed_short: false,
            setup,
        }
    }

    fn on_batch(&mut self, batch: BatchRef) {
        let limit = limits::PENDING_BATCHES_PER_AUTHOR_MAX * self.setup.replicas.len();
        if self.pending.len() < limit || self.wanted(batch.id) {
            self.pending.insert(batch.id, batch);
        }
    }

    fn on_message(&mut self, envelope: Envelope, effects: &mut Vec<Effect>) {
        let sender = envelope.sender;
        match decode(&envelope.body) {
            Ok(Message::Proposal(p)) if sender == LEADER && self.expected(p.sequence) => {
                let size = p.batches.len();
                if size > 0 && size <= self.setup.parameters.block_batches_max as usize {
                    self.accepted.entry(p.sequence).or_insert(p);
                    self.fetch_missing(effects);
                }
            }
            Ok(Message::Commit(vote)) if self.expected(vote.slot.sequence) => {
                let votes = self.votes.entry(vote.slot.sequence).or_default();
                votes.insert(sender, (vote, envelope.signature));
            }
            Ok(Message::Status(delivered))
                if sender != self.setup.me && delivered > self.tip.sequence =>
            {
                effects.push(Effect::CatchUp { sequence: delivered, from: vec![sender] });
            }
            // Outside the range, not from the leader, or malformed: dropped.
            _ => {}
        }
    }

    fn on_retransmit(&mut self, effects: &mut Vec<Effect>) {
        if self.setup.replicas.len() > 1 {
            if let Some(proposal) = self.accepted.get(&self.next()) {
                if self.setup.me == LEADER {
                    effects.push(Effect::Broadcast(self.proposal_draft(proposal)));
                }
                if self.voted == proposal.sequence {
                    effects.push(Effect::Broadcast(self.vote_draft(proposal)));
                }
            }
            let mut w = Writer::default();
            w.u8(STATUS);
            self.tip.sequence.encode(&mut w);
            effects.push(Effect::Broadcast(Draft { slot: None, body: w.finish() }));
            self.fetch_missing(effects);
        }
        self.arm(effects);
    }

    fn on_restored(&mut self, tip: Tip) {
        self.executed = self.executed.max(tip.sequence);
        if tip.sequence > self.tip.sequence {
            self.tip = tip;
            self.voted = self.voted.max(tip.sequence);
        }
        self.forget_executed();
    }

    /// Proposes, votes and delivers until nothing more is possible.
    fn advance(&mut self, effects: &mut Vec<Effect>) {
        loop {
            self.propose(effects);
            self.vote(effects);
            if !self.deliver(effects) {
                return;
            }
        }
    }

    fn propose(&mut self, effects: &mut Vec<Effect>) {
        let next = self.next();
        if self.setup.me != LEADER || self.window_full() || self.accepted.contains_key(&next) {
            return;
        }
        let mut bytes = 0;
        let batches: Vec<BatchRef> = self
            .pending
            .values()
            .take(self.setup.parameters.block_batches_max as usize)
            .take_while(|b| {
                bytes += b.bytes as usize;
                bytes <= limits::BLOCK_BYTES_MAX
            })
            .copied()
            .collect();
        if batches.is_empty() {
            return;
        }
        let time_ms = self.now_ms.max(self.tip.time_ms + 1);
        let proposal = Proposal { view: View(0), sequence: next, time_ms, batches };
        effects.push(Effect::Persist(record(&proposal)));
        effects.push(Effect::Broadcast(self.proposal_draft(&proposal)));
        self.accepted.insert(next, proposal);
    }

    fn vote(&mut self, effects: &mut Vec<Effect>) {
        let Some(proposal) = self.accepted.get(&self.next()) else { return };
        let held = proposal.batches.iter().all(|b| self.pending.get(&b.id) == Some(b));
        if self.voted >= proposal.sequence || !held || self.window_full() {
            return;
        }
        self.voted = proposal.sequence;
        effects.push(Effect::Persist(record(proposal)));
        effects.push(Effect::Broadcast(self.vote_draft(proposal)));
    }

    fn deliver(&mut self, effects: &mut Vec<Effect>) -> bool {
        let next = self.next();
        let Some(proposal) = self.accepted.get(&next) else { return false };
        let held = proposal.batches.iter().all(|b| self.pending.get(&b.id) == Some(b));
        let (tip, digest) = self.tip.extend(self.setup.chain, proposal);
        let vote = self.commit_vote(next, digest);
        let signatures: Vec<(ReplicaId, VoteSignature)> = self
            .votes
            .get(&next)
            .into_iter()
            .flatten()
            .filter(|(_, (v, _))| *v == vote)
            .map(|(id, (_, signature))| (*id, signature.clone()))
            .collect();
        if !held || self.window_full() || signatures.len() < self.setup.replicas.quorum() {
            return false;
        }
        for batch in &proposal.batches {
            self.pending.remove(&batch.id);
        }
        let certificate = QuorumCertificate { vote, signatures };
        let proposal = proposal.clone();
        effects.push(Effect::Deliver(Delivered { proposal, certificate }));
        self.tip = tip;
        self.votes.retain(|sequence, _| *sequence > tip.sequence);
        true
    }

    /// A delivered proposal stays until its block is durable: a restart votes for it again.
    fn forget_executed(&mut self) {
        let (executed, delivered) = (self.executed, self.tip.sequence);
        self.accepted.retain(|sequence, _| *sequence > executed);
        self.votes.retain(|sequence, _| *sequence > delivered);
    }

    fn fetch_missing(&self, effects: &mut Vec<Effect>) {
        let Some(proposal) = self.accepted.get(&self.next()) else { return };
        for batch in proposal.batches.iter().filter(|b| !self.pending.contains_key(&b.id)) {
            let from = self.setup.replicas.iter().map(|(id, _)| id);
            let from = from.filter(|id| *id != self.setup.me).collect();
            effects.push(Effect::FetchBatch { id: batch.id, from });
        }
    }

    fn arm(&mut self, effects: &mut Vec<Effect>) {
        let tuning = &self.setup.tuning;
        self.armed_short = self.unfinished();
        let idle_ms = tuning.null_request_ms.max(tuning.retransmit_ms);
        let after_ms = if self.armed_short { tuning.retransmit_ms } else { idle_ms };
        effects.push(Effect::Arm { timer: Timer::Retransmit, after_ms });
    }

    fn next(&self) -> SequenceNumber {
        SequenceNumber(self.tip.sequence.0 + 1)
    }

    fn window_full(&self) -> bool {
        self.next().0 > self.executed.0 + self.setup.parameters.window
    }

    fn expected(&self, sequence: SequenceNumber) -> bool {
        sequence > self.tip.sequence && sequence.0 - self.tip.sequence.0 <= AHEAD_MAX
    }

    fn unfinished(&self) -> bool {
        !self.pending.is_empty() || self.accepted.contains_key(&self.next())
    }

    fn wanted(&self, id: BatchId) -> bool {
        self.accepted.values().any(|p| p.batches.iter().any(|b| b.id == id))
    }

    fn slot(&self, sequence: SequenceNumber, phase: Phase) -> Slot {
        Slot { epoch: self.setup.replicas.epoch(), view: View(0), sequence, phase }
    }

    fn commit_vote(&self, sequence: SequenceNumber, digest: Digest) -> Vote {
        Vote { slot: self.slot(sequence, Phase::Commit), digest }
    }

    /// Only for the sequence number above the tip: the digest builds on it.
    fn vote_draft(&self, proposal: &Proposal) -> Draft {
        let (_, digest) = self.tip.extend(self.setup.chain, proposal);
        let vote = self.commit_vote(proposal.sequence, digest);
        Draft { slot: Some(vote.slot), body: vote.to_bytes() }
    }

    fn proposal_draft(&self, proposal: &Proposal) -> Draft {
        let mut w = Writer::default();
        w.u8(PROPOSAL);
        proposal.encode(&mut w);
        Draft { slot: Some(self.slot(proposal.sequence, Phase::PrePrepare)), body: w.finish() }
    }
}

fn record(proposal: &Proposal) -> LogRecord {
    LogRecord(proposal.to_bytes())
}

fn claims(chain: &ChainId, envelope: &Envelope) -> Result<Vec<Claim>, DecodeError> {
    let bound = match decode(&envelope.body)? {
        Message::Proposal(proposal) => Bound::Sequence(proposal.sequence),
        Message::Commit(vote) => vote.slot.bound(),
        Message::Status(_) => Bound::Free,
    };
    Ok(vec![Claim {
        replica: envelope.sender,
        text: vote::signed_text(chain, &envelope.body),
        bound,
        signature: envelope.signature.clone(),
    }])
}

fn slot(epoch: Epoch, envelope: &Envelope) -> Option<Slot> {
    match decode(&envelope.body).ok()? {
        Message::Proposal(proposal) => Some(Slot {
            epoch,
            view: View(0),
            sequence: proposal.sequence,
            phase: Phase::PrePrepare,
        }),
        Message::Commit(vote) => Some(vote.slot),
        Message::Status(_) => None,
    }
}

fn decode(body: &Bytes) -> Result<Message, DecodeError> {
    let mut r = Reader::new(body);
    let message = match r.u8("message kind")? {
        PROPOSAL => Message::Proposal(Proposal::decode(&mut r)?),
        STATUS => Message::Status(SequenceNumber::decode(&mut r)?),
        _ => {
            r = Reader::new(body);
            Message::Commit(Vote::decode(&mut r)?)
        }
    };
    r.end("message")?;
    match message {
        Message::Commit(vote) if vote.slot.phase != Phase::Commit => {
            Err(DecodeError::Invalid { field: "vote phase", reason: "only commit is used" })
        }
        message => Ok(message),
    }
}

const LEADER: ReplicaId = ReplicaId(0);
const PROPOSAL: u8 = 0x20;
const STATUS: u8 = 0x21;
/// Sequence numbers above the tip for which messages are kept; the leader has one in flight.
const AHEAD_MAX: u64 = 8;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::types::genesis::ChainParameters;
    use crate::types::ids::Epoch;
    use crate::types::replica_set::Replica;
    use crate::types::replica_set::ReplicaSet;
    use crate::types::signature::Algorithm;
    use crate::types::signature::PublicKey;
    use crate::types::signature::Signature;
    use crate::types::verified::Verified;

    fn alone(log: Vec<LogRecord>) -> Noops {
        let chain = ChainId(Digest::of(&[b"test"]));
        let key = PublicKey::new(Algorithm::Ed25519, &[7; 32]).expect("32 bytes");
        let seat = Replica { organisation: "a".into(), name: "v".into(), key };
        Noops::new(Setup {
            chain,
            me: LEADER,
            replicas: Arc::new(ReplicaSet::new(Epoch(0), vec![seat]).expect("one member")),
            parameters: ChainParameters::default(),
            tuning: Default::default(),
            tip: Tip::genesis(chain, 0),
            checkpoint: Digest::ZERO,
            log,
        })
    }

    fn batch(number: u8) -> BatchRef {
        let id = BatchId(Digest([number; 32]));
        let transaction_root = Digest([number; 32]);
        BatchRef { id, author: LEADER, transactions: 1, bytes: 100, transaction_root }
    }

    fn broadcasts(effects: &[Effect]) -> Vec<Draft> {
        let drafts = effects.iter().filter_map(|e| match e {
            Effect::Broadcast(draft) => Some(draft.clone()),
            _ => None,
        });
        drafts.collect()
    }

    /// A single replica proposes, votes for itself and delivers with its own vote as certificate.
    #[test]
    fn a_single_replica_is_its_own_quorum() {
        let mut core = alone(Vec::new());
        let mut effects = Vec::new();
        core.step(Input::Clock(5), &mut effects);
        core.step(Input::BatchAvailable(batch(1)), &mut effects);
        let sent = broadcasts(&effects);
        assert_eq!(sent.len(), 2, "a proposal and a vote");
        assert!(matches!(effects[0], Effect::Persist(_)), "persisted before it is sent");
        effects.clear();
        for draft in sent {
            let signature = Signature([1; 64]).into();
            let message = Envelope { sender: LEADER, body: draft.body, signature };
            core.step(Input::Message(Verified::by_checked_signatures(message)), &mut effects);
        }
        let Some(Effect::Deliver(delivered)) = effects.last() else { panic!("{effects:?}") };
        assert_eq!(delivered.proposal.batches, vec![batch(1)]);
        assert_eq!(delivered.certificate.signatures.len(), 1);
        assert_eq!(core.status().delivered, SequenceNumber(1));
    }

    /// After a restart the persisted proposal is taken up, not replaced by what is available now.
    #[test]
    fn a_restart_signs_the_same_proposal_again() {
        let mut core = alone(Vec::new());
        let mut before = Vec::new();
        core.step(Input::BatchAvailable(batch(1)), &mut before);
        let Effect::Persist(record) = &before[0] else { panic!("{before:?}") };
        let mut again = alone(vec![record.clone()]);
        let mut after = Vec::new();
        again.step(Input::Start, &mut after);
        again.step(Input::BatchAvailable(batch(2)), &mut after);
        again.step(Input::BatchAvailable(batch(1)), &mut after);
        let commit = |drafts: Vec<Draft>| drafts.into_iter().filter(|d| d.body[0] == 3).collect();
        let (first, second): (Vec<_>, Vec<_>) =
            (commit(broadcasts(&before)), commit(broadcasts(&after)));
        assert_eq!(first, second);
    }
}
