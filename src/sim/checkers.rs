//! The promises, checked at every event. The first broken one ends the run.
//!
//! | name | promise |
//! | --- | --- |
//! | agreement | no two correct replicas deliver different content, or chains, at one sequence number |
//! | contiguity | a core delivers without gaps above its tip, but for null requests |
//! | certificate | what is delivered carries a quorum of valid commit votes over its digest |
//! | validity | only submitted batches, held when delivered, each once per view of proposal |
//! | size | no more transactions at one sequence number than the plug-in orders at a time |
//! | durability | who voted commit holds all bodies safe from any crash |
//! | one-vote | a correct replica signs one text per slot, across restarts |
//! | evidence | only Byzantine replicas are accused, with signed messages of theirs |
//! | bounds | tables and logs stay within what the window and the replicas allow |
//! | null-request | a null request makes no block |
//! | liveness | after the faults all settle on one view and one chain with every batch in it |

//!
//! Agreement is on blocks: two proposals of a view that differ only in a proposed time at or before
//! the previous block's make the same block.
//!
//! A batch may be in the chain twice, proposed in two views: PBFT must carry over whatever may have
//! committed, even beside a newer proposal of the same batch. Execution makes its transactions
//! `Duplicate`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use crate::consensus::CoreStatus;
use crate::consensus::Evidence;
use crate::consensus::Plugin;
use crate::sim::disk::LedgerEntry;
use crate::sim::keys::Keys;
use crate::types::batch::BatchRef;
use crate::types::block::Tip;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::ChainId;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::replica_set::ReplicaSet;
use crate::types::vote;
use crate::types::vote::Phase;
use crate::types::vote::Slot;
use crate::types::vote::Vote;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the promise, as in the table above.
    pub promise: &'static str,
    /// Virtual time, microseconds.
    pub at_us: u64,
    /// Which replica, and what it did.
    pub text: String,
}

/// How often something noteworthy happened, over a run or many.
pub type Coverage = BTreeMap<&'static str, u64>;

/// The memory of all promises.
pub struct Checker {
    /// First broken promise.
    pub violation: Option<Violation>,
    /// Virtual time of the current event, microseconds.
    pub now_us: u64,
    /// What happened.
    pub coverage: Coverage,
    chain: ChainId,
    sequence_txs_max: usize,
    replicas: Arc<ReplicaSet>,
    byzantine: BTreeSet<ReplicaId>,
    batches: BTreeMap<BatchId, BatchRef>,
    committed: BTreeMap<SequenceNumber, Rc<LedgerEntry>>,
    committed_batches: BTreeMap<BatchId, View>,
    signed: BTreeMap<(ReplicaId, Slot), Digest>,
}

impl Checker {
    /// A checker that has seen nothing.
    pub fn new(
        chain: ChainId,
        plugin: &Plugin,
        replicas: Arc<ReplicaSet>,
        byzantine: BTreeSet<ReplicaId>,
    ) -> Self {
        Self {
            violation: None,
            now_us: 0,
            coverage: Coverage::new(),
            chain,
            sequence_txs_max: plugin.sequence_txs_max,
            replicas,
            byzantine,
            batches: BTreeMap::new(),
            committed: BTreeMap::new(),
            committed_batches: BTreeMap::new(),
            signed: BTreeMap::new(),
        }
    }

    /// Reports a broken promise; the first one stays.
    pub fn fail(&mut self, promise: &'static str, text: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { promise, at_us: self.now_us, text });
        }
    }

    /// Counts something noteworthy.
    pub fn count(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_insert(0) += 1;
    }

    /// Keeps the greatest value seen.
    pub fn peak(&mut self, what: &'static str, value: u64) {
        let peak = self.coverage.entry(what).or_insert(0);
        *peak = value.max(*peak);
    }

    /// Whether this replica follows the protocol.
    pub fn is_correct(&self, id: ReplicaId) -> bool {
        !self.byzantine.contains(&id)
    }

    /// A client submitted a batch.
    pub fn on_submit(&mut self, batch: BatchRef) {
        self.batches.insert(batch.id, batch);
    }

    /// A correct replica's core delivers `entry` on top of `before`. `held` answers for the
    /// deliverer, `safe` for any replica.
    pub fn on_deliver(
        &mut self,
        id: ReplicaId,
        before: &Tip,
        entry: &Rc<LedgerEntry>,
        keys: &Keys,
        held: impl Fn(BatchId) -> bool,
        safe: impl Fn(ReplicaId, BatchId) -> bool,
    ) {
        let sequence = entry.proposal.sequence;
        let skips_nulls = entry.proposal.is_null() && sequence > before.sequence;
        if sequence.0 != before.sequence.0 + 1 && !skips_nulls {
            let text = format!("replica {id} delivers {sequence} after {}", before.sequence);
            return self.fail("contiguity", text);
        }
        self.check_nothing_skipped(id, before.sequence, sequence);
        self.check_certificate(id, entry, keys);
        for batch in &entry.proposal.batches {
            if !held(batch.id) {
                let text = format!("replica {id} delivers {sequence} without a body it names");
                self.fail("validity", text);
            }
            for (signer, _) in &entry.certificate.signatures {
                if self.is_correct(*signer) && !safe(*signer, batch.id) {
                    let text = format!(
                        "replica {signer} voted commit for {sequence} and could lose a body of it"
                    );
                    self.fail("durability", text);
                }
            }
        }
        if entry.proposal.is_null() && entry.tip.height != before.height {
            self.fail("null-request", format!("replica {id} makes a block of null {sequence}"));
        }
        self.check_agreement(id, entry);
    }

    /// A correct replica put `entry` into its ledger from another one.
    pub fn on_restore(&mut self, id: ReplicaId, entry: &Rc<LedgerEntry>, keys: &Keys) {
        self.check_certificate(id, entry, keys);
        self.check_agreement(id, entry);
    }

    /// A correct replica's core asks to sign. False means that it must not.
    pub fn on_sign(
        &mut self,
        id: ReplicaId,
        slot: Option<Slot>,
        body: &bytes::Bytes,
        text: Digest,
    ) {
        if let Ok(vote) = Vote::from_bytes(body)
            && slot != Some(vote.slot)
        {
            self.fail("one-vote", format!("replica {id} signs {vote:?} under {slot:?}"));
        }
        let Some(slot) = slot else { return };
        if self.signed.get(&(id, slot)).is_some_and(|before| *before != text) {
            self.fail("one-vote", format!("replica {id} asks to sign a second text for {slot:?}"));
        }
    }

    /// A signature of a correct replica left it.
    pub fn on_released(&mut self, id: ReplicaId, slot: Slot, text: Digest) {
        let before = *self.signed.entry((id, slot)).or_insert(text);
        if before != text {
            self.fail("one-vote", format!("replica {id} signed two texts for {slot:?}"));
        }
    }

    /// A correct replica accuses another one; `valid` says whether all signatures of the evidence
    /// hold.
    pub fn on_accuse(&mut self, id: ReplicaId, evidence: &Evidence, valid: bool) {
        self.count("accusations");
        let culprit = evidence.culprit;
        let by_culprit = evidence.messages.iter().any(|m| m.sender == culprit);
        if self.is_correct(culprit) {
            let text = format!("replica {id} accuses correct replica {culprit}: {evidence:?}");
            self.fail("evidence", text);
        } else if !valid || !by_culprit {
            let text = format!("replica {id} accuses {culprit} without proof: {evidence:?}");
            self.fail("evidence", text);
        }
    }

    /// A correct replica asks for blocks up to `sequence`; `reached` is the highest sequence number
    /// that any replica delivered, or the next one here, which may be tried on the word of one.
    pub fn on_catch_up(
        &mut self,
        id: ReplicaId,
        sequence: SequenceNumber,
        reached: SequenceNumber,
    ) {
        self.count("catch_ups_asked");
        if sequence > reached {
            let text = format!("replica {id} wants {sequence}, the highest delivered is {reached}");
            self.fail("validity", text);
        }
    }

    /// Status of a correct replica after a step.
    pub fn on_status(
        &mut self,
        id: ReplicaId,
        status: &CoreStatus,
        delivered: SequenceNumber,
        announced: usize,
    ) {
        if status.delivered != delivered {
            let text = format!("replica {id} says {} but delivered {delivered}", status.delivered);
            self.fail("contiguity", text);
        }
        if status.pending_batches > announced {
            let text = format!(
                "replica {id} holds {} batches as pending, {announced} are known to it",
                status.pending_batches
            );
            self.fail("bounds", text);
        }
    }

    /// A correct replica starts on the chain that ends at `tip` and takes `delivered` as delivered.
    pub fn on_start(&mut self, id: ReplicaId, tip: &Tip, delivered: SequenceNumber) {
        self.check_nothing_skipped(id, tip.sequence, SequenceNumber(delivered.0 + 1));
    }

    /// No block may be committed between two sequence numbers that a replica passes over.
    fn check_nothing_skipped(&mut self, id: ReplicaId, after: SequenceNumber, to: SequenceNumber) {
        let mut between = self.committed.range(after..to).filter(|(n, _)| **n > after);
        if let Some((n, _)) = between.find(|(_, entry)| !entry.proposal.is_null()) {
            let text = format!("replica {id} goes from {after} to {to} over the block at {n}");
            self.fail("agreement", text);
        }
    }

    fn check_certificate(&mut self, id: ReplicaId, entry: &LedgerEntry, keys: &Keys) {
        let certificate = &entry.certificate;
        let slot = certificate.vote.slot;
        let fits = slot.phase == Phase::Commit
            && slot.sequence == entry.proposal.sequence
            && certificate.vote.digest == entry.digest;
        let text = vote::signed_text(&self.chain, &certificate.vote.to_bytes());
        let signed = certificate
            .signatures
            .iter()
            .all(|(signer, signature)| keys.verify(*signer, &text, signature));
        let shape = certificate.check_shape(&self.replicas);
        if !fits || !signed || shape.is_err() {
            let text = format!(
                "replica {id} at {}: fits {fits}, signed {signed}, shape {shape:?}",
                entry.proposal.sequence
            );
            self.fail("certificate", text);
        }
    }

    fn check_agreement(&mut self, id: ReplicaId, entry: &Rc<LedgerEntry>) {
        let sequence = entry.proposal.sequence;
        if let Some(first) = self.committed.get(&sequence) {
            if first.digest != entry.digest || first.tip != entry.tip {
                let text = format!(
                    "replica {id} delivers {:?} at {sequence}, another one delivered {:?}",
                    entry.proposal, first.proposal
                );
                self.fail("agreement", text);
            }
            return;
        }
        self.count(if entry.proposal.is_null() { "null_requests" } else { "blocks" });
        let txs: usize = entry.proposal.batches.iter().map(|b| b.transactions as usize).sum();
        if txs > self.sequence_txs_max {
            self.fail("size", format!("{txs} transactions in one block at {sequence}"));
        }
        for batch in &entry.proposal.batches {
            if self.batches.get(&batch.id) != Some(batch) {
                let text = format!("replica {id} delivers {batch:?} that nobody submitted");
                self.fail("validity", text);
            }
            let view = entry.proposal.view;
            let Some(before) = self.committed_batches.insert(batch.id, view) else { continue };
            self.count("batches_repeated");
            if before == view {
                let text = format!("view {view} put {:?} twice, again at {sequence}", batch.id);
                self.fail("validity", text);
            }
        }
        self.committed.insert(sequence, Rc::clone(entry));
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken at {} ms: {}", self.promise, self.at_us / 1000, self.text)
    }
}
