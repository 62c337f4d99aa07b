//! Floor 2: PBFT's checkpoints: proof of equal state, garbage collection, watermarks.
//!
//! ```text
//! Executed(n), n multiple of the interval --> CHECKPOINT(n, digest) x n --> quorum: stable
//!     stable: h = n, log below n forgotten, write-ahead log compacted, H = h + window
//! ```
//!
//! Invariants: the digest voted for is what execution reported for exactly that sequence number,
//! however far agreement has run ahead. A quorum's certificate moves `h` even where this replica
//! has not executed so far: it then fetches blocks. Failure: a digest that differs from a quorum's
//! means that this replica's state is wrong; it says so (`Diverged`), votes for no further commit
//! or checkpoint, and waits to be restored.
//!
//! Source: Castro and Liskov 1999, section 4.3; TOCS 2002, section 2.3.4.

use std::collections::BTreeMap;

use crate::consensus::Effect;
use crate::consensus::Envelope;
use crate::consensus::Executed;
use crate::consensus::pbft::Pbft;
use crate::consensus::pbft::evidence::TWO_CHECKPOINTS;
use crate::consensus::pbft::log;
use crate::consensus::pbft::log::Cast;
use crate::consensus::pbft::recovery::Record;
use crate::types::block::Tip;
use crate::types::certificate::QuorumCertificate;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::vote::Phase;
use crate::types::vote::Vote;

/// Checkpoints above the stable one, and the stable one's proof.
#[derive(Debug, Default)]
pub struct Checkpoints {
    /// Proof of the low watermark; none at sequence number 0.
    pub stable: Option<QuorumCertificate>,
    /// Own checkpoint digests, down to the stable one.
    pub own: BTreeMap<SequenceNumber, Digest>,
    /// Votes within the watermarks.
    pub votes: BTreeMap<SequenceNumber, BTreeMap<ReplicaId, Cast>>,
    /// Where this replica's state was found to differ from a quorum's.
    pub diverged: Option<SequenceNumber>,
}

impl Checkpoints {
    /// Own checkpoints above `sequence`.
    pub fn own_above(
        &self,
        sequence: SequenceNumber,
    ) -> impl Iterator<Item = (SequenceNumber, Digest)> {
        let from = SequenceNumber(sequence.0.saturating_add(1));
        self.own.range(from..).map(|(n, d)| (*n, *d))
    }
}

impl Pbft {
    /// Execution reached a sequence number: vote where a checkpoint is due.
    pub(super) fn on_executed(&mut self, executed: Executed, effects: &mut Vec<Effect>) {
        self.executed = self.executed.max(executed.sequence);
        self.take_checkpoint(executed.sequence, executed.checkpoint, effects);
        self.log.advance(self.log.low(), self.executed);
        self.record_null(executed.sequence, effects);
    }

    /// Records that a null request was executed. The log has it before the checkpoint vote of the
    /// same step leaves: who made a checkpoint stable comes back to it by ledger and log alone.
    fn record_null(&mut self, executed: SequenceNumber, effects: &mut Vec<Effect>) {
        // Others may have been delivered since, but no more than the log remembers.
        let delivered = self.log.remembered(executed).filter(|d| d.proposal.is_null());
        let Some(certificate) = delivered.map(|d| d.certificate.clone()) else { return };
        self.executed_null = Some(certificate.clone());
        effects.push(Effect::Persist(Record::Null { certificate }.to_log()));
    }

    /// Blocks came from others: the tip moves, and everything below it is settled.
    pub(super) fn on_restored(&mut self, tip: Tip, checkpoint: Digest, effects: &mut Vec<Effect>) {
        let healed = self.checkpoints.diverged.is_some_and(|n| tip.sequence >= n);
        if tip.sequence <= self.tip.sequence && !healed {
            return;
        }
        if healed {
            self.checkpoints.diverged = None;
            self.checkpoints.own.clear();
        }
        self.tip = tip;
        self.executed = tip.sequence;
        self.finals.retain(|n, _| *n > tip.sequence);
        self.pace.on_delivered();
        self.doubts.clear();
        self.take_checkpoint(tip.sequence, checkpoint, effects);
        self.log.advance(self.log.low(), self.executed);
    }

    /// Batches of fetched blocks need no order any more.
    pub(super) fn on_batches_committed(&mut self, batches: Vec<BatchId>) {
        for id in batches {
            self.batches.delivered(id);
        }
    }

    /// A checkpoint vote of any replica, this one included.
    pub(super) fn on_checkpoint_vote(
        &mut self,
        envelope: &Envelope,
        vote: Vote,
        effects: &mut Vec<Effect>,
    ) {
        let (sender, slot) = (envelope.sender, vote.slot);
        let n = slot.sequence;
        if !self.is_checkpoint(n) {
            return;
        }
        self.note_ahead(sender, n);
        if !self.log.covers(n) {
            return;
        }
        let votes = self.checkpoints.votes.entry(n).or_default();
        if let Some(first) = votes.get(&sender) {
            if first.digest != vote.digest {
                let first = first.envelope(sender, slot);
                self.accuse(sender, TWO_CHECKPOINTS, vec![first, envelope.clone()], effects);
            }
            return;
        }
        let signature = envelope.signature.clone();
        votes.insert(sender, Cast { view: View(0), digest: vote.digest, signature });
        if let Some(proof) = log::certificate(votes, vote, self.replicas.quorum()) {
            self.learn_stable(proof, effects);
        }
    }

    /// A proven stable checkpoint; the caller checked the certificate's shape.
    pub(super) fn learn_stable(
        &mut self,
        certificate: QuorumCertificate,
        effects: &mut Vec<Effect>,
    ) {
        let n = certificate.vote.slot.sequence;
        if n <= self.log.low() || !self.is_checkpoint(n) {
            return;
        }
        self.check_divergence(&certificate, effects);
        self.log.advance(n, self.executed);
        self.checkpoints.own.retain(|own, _| *own >= n);
        self.checkpoints.votes.retain(|voted, _| *voted > n);
        effects.push(Effect::Persist(Record::Stable { certificate: certificate.clone() }.to_log()));
        let batches = self.batches.take_unrecorded();
        effects.push(Effect::Persist(Record::Recent { batches }.to_log()));
        self.checkpoints.stable = Some(certificate);
        let tip = self.tip.sequence;
        self.early.retain(|(_, early), _| *early > n.max(tip));
        effects.push(Effect::Compact(self.compaction()));
        self.repeat_own_checkpoints(effects);
        if n.0 - tip.0.min(n.0) > self.window() {
            self.catch_up(effects);
        }
    }

    /// A checkpoint vote of this replica.
    pub(super) fn checkpoint_vote(&self, sequence: SequenceNumber, digest: Digest) -> Vote {
        Vote { slot: self.slot(Phase::Checkpoint, View(0), sequence), digest }
    }

    /// After a restart: the last block, at `n`, may be a checkpoint whose vote was not recorded. It
    /// is sent with the other unfinished votes. The votes for null requests above it were recorded.
    pub(super) fn recall_checkpoint(&mut self, n: SequenceNumber, digest: Digest) {
        if self.is_checkpoint(n) && n > self.log.low() {
            self.checkpoints.own.entry(n).or_insert(digest);
        }
    }

    /// An own vote that came back while its sequence number was above the high watermark was not
    /// counted: a replica restored far ahead of what it can prove. It is sent again, the same.
    fn repeat_own_checkpoints(&self, effects: &mut Vec<Effect>) {
        if self.checkpoints.diverged.is_some() {
            return;
        }
        for (n, digest) in self.checkpoints.own_above(self.log.low()) {
            let counted = self.checkpoints.votes.get(&n).is_some_and(|v| v.contains_key(&self.me));
            if self.log.covers(n) && !counted {
                effects.push(Effect::Broadcast(super::vote_draft(self.checkpoint_vote(n, digest))));
            }
        }
    }

    fn take_checkpoint(&mut self, n: SequenceNumber, digest: Digest, effects: &mut Vec<Effect>) {
        let due = self.is_checkpoint(n) && n >= self.log.low();
        if !due || self.checkpoints.own.contains_key(&n) || self.checkpoints.diverged.is_some() {
            return;
        }
        self.checkpoints.own.insert(n, digest);
        let proof = self.checkpoints.stable.clone().filter(|c| c.vote.slot.sequence == n);
        if let Some(certificate) = proof {
            self.check_divergence(&certificate, effects);
            return;
        }
        effects.push(Effect::Persist(Record::Checkpoint { sequence: n, digest }.to_log()));
        effects.push(Effect::Broadcast(super::vote_draft(self.checkpoint_vote(n, digest))));
    }

    /// Compares the own digest with a quorum's.
    fn check_divergence(&mut self, certificate: &QuorumCertificate, effects: &mut Vec<Effect>) {
        let sequence = certificate.vote.slot.sequence;
        let Some(own) = self.checkpoints.own.get(&sequence).copied() else { return };
        if own == certificate.vote.digest || self.checkpoints.diverged.is_some() {
            return;
        }
        self.checkpoints.diverged = Some(sequence);
        let certificate = certificate.clone();
        let from = self.others(certificate.signatures.iter().map(|(id, _)| *id));
        effects.push(Effect::Diverged { sequence, own, certificate });
        effects.push(Effect::CatchUp { sequence, from });
    }

    fn is_checkpoint(&self, n: SequenceNumber) -> bool {
        n.0 > 0 && n.0.is_multiple_of(self.parameters.checkpoint_interval)
    }
}
