//! Floor 2: PBFT's message log: what is known of each sequence number, within the watermarks.
//!
//! ```text
//!      history (delivered)        entries
//!  ... ==========================|--------------------------------|
//!                 h (stable)     tip (delivered)                   H = h + window
//! ```
//!
//! Invariants:
//! * Votes and assignments exist only for sequence numbers in `(h, H]`; of each replica at most one
//!   prepare and one commit vote per sequence number is kept, that of the highest view.
//! * A prepared certificate stays until the stable checkpoint passes it, through view changes,
//!   deliveries and catch-up: this is what makes a committed proposal survive (Castro and Liskov
//!   1999, section 4.4).
//! * `history` keeps the last `window` deliveries for replicas that missed them.
//!
//! Source: Castro and Liskov 1999, sections 4.2 and 4.3.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::consensus::Delivered;
use crate::consensus::Envelope;
use crate::consensus::pbft::message::Prepared;
use crate::types::block::Tip;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::genesis::ChainParameters;
use crate::types::ids::BatchId;
use crate::types::ids::BlockHash;
use crate::types::ids::ChainId;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::replica_set::ReplicaSet;
use crate::types::vote::Slot;
use crate::types::vote::Vote;
use crate::types::vote_signature::VoteSignature;

/// One replica's vote; phase and sequence number are those of the table it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cast {
    /// View of the vote.
    pub view: View,
    /// What it states.
    pub digest: Digest,
    /// Over the vote.
    pub signature: VoteSignature,
}

/// The proposal of a sequence number in the current view.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The proposal.
    pub proposal: Proposal,
    /// Its digest.
    pub digest: Digest,
    /// Bodies not held here yet.
    pub missing: BTreeSet<BatchId>,
    /// This replica voted prepare for it.
    pub voted: bool,
    /// It contradicts what is held or committed here: never voted for.
    pub refused: bool,
    /// A quorum of prepare votes was seen.
    pub prepared: bool,
    /// What `extend` last made, and the block hash it made that on.
    extension: Option<(BlockHash, Tip, Digest)>,
    /// Its commit vote was foreseen.
    pub foreseen: bool,
    /// The primary's signed pre-prepare; none where a new-view assigned it.
    pub envelope: Option<Envelope>,
    /// Times that missing bodies were asked for.
    pub fetches: u32,
}

/// All that is known of one sequence number.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// The current view's assignment.
    pub assignment: Option<Assignment>,
    /// Prepare votes, the highest view of each replica.
    pub prepares: BTreeMap<ReplicaId, Cast>,
    /// Commit votes, the highest view of each replica.
    pub commits: BTreeMap<ReplicaId, Cast>,
    /// The prepared certificate of the highest view.
    pub prepared: Option<Prepared>,
    /// View and digest of this replica's last commit vote.
    pub commit_vote: Option<(View, Digest)>,
    /// Proposal digest and commit digest, once delivered here.
    pub delivered: Option<(Digest, Digest)>,
}

/// The log.
#[derive(Debug)]
pub struct Log {
    low: SequenceNumber,
    window: u64,
    entries: BTreeMap<SequenceNumber, Entry>,
    history: BTreeMap<SequenceNumber, Delivered>,
}

impl Log {
    /// An empty log above the low watermark `low`.
    pub fn new(low: SequenceNumber, window: u64) -> Self {
        Self { low, window, entries: BTreeMap::new(), history: BTreeMap::new() }
    }

    /// The low watermark h: the last stable checkpoint.
    pub fn low(&self) -> SequenceNumber {
        self.low
    }

    /// The high watermark H.
    pub fn high(&self) -> SequenceNumber {
        SequenceNumber(self.low.0.saturating_add(self.window))
    }

    /// True for `h < sequence <= H`.
    pub fn covers(&self, sequence: SequenceNumber) -> bool {
        sequence > self.low && sequence <= self.high()
    }

    /// The entry of a sequence number within the watermarks, made where absent.
    pub fn entry(&mut self, sequence: SequenceNumber) -> Option<&mut Entry> {
        self.covers(sequence).then(|| self.entries.entry(sequence).or_default())
    }

    /// The entry, if there is one.
    pub fn get(&self, sequence: SequenceNumber) -> Option<&Entry> {
        self.entries.get(&sequence)
    }

    /// The entry, if there is one.
    pub fn find(&mut self, sequence: SequenceNumber) -> Option<&mut Entry> {
        self.entries.get_mut(&sequence)
    }

    /// Entries by ascending sequence number.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (SequenceNumber, &Entry)> {
        self.entries.iter().map(|(n, e)| (*n, e))
    }

    /// Entries above `sequence`, ascending.
    pub fn above(
        &self,
        sequence: SequenceNumber,
    ) -> impl Iterator<Item = (SequenceNumber, &Entry)> {
        let from = SequenceNumber(sequence.0.saturating_add(1));
        self.entries.range(from..).map(|(n, e)| (*n, e))
    }

    /// Entries above `sequence`, ascending, for change.
    pub fn above_mut(
        &mut self,
        sequence: SequenceNumber,
    ) -> impl Iterator<Item = (SequenceNumber, &mut Entry)> {
        let from = SequenceNumber(sequence.0.saturating_add(1));
        self.entries.range_mut(from..).map(|(n, e)| (*n, e))
    }

    /// The highest assigned sequence number of the view.
    pub fn highest_assigned(&self) -> Option<SequenceNumber> {
        self.entries().rev().find(|(_, e)| e.assignment.is_some()).map(|(n, _)| n)
    }

    /// Assigned proposals above `tip` that hold the batch.
    pub fn assigns(&self, batch: &BatchId, tip: SequenceNumber) -> bool {
        self.above(tip)
            .filter_map(|(_, e)| e.assignment.as_ref())
            .any(|a| a.proposal.batches.iter().any(|b| b.id == *batch))
    }

    /// The prepared certificates a view-change carries.
    pub fn prepared(&self) -> Vec<Prepared> {
        self.above(self.low).filter_map(|(_, e)| e.prepared.clone()).collect()
    }

    /// Forgets the view's assignments; certificates and votes stay.
    pub fn leave_view(&mut self) {
        for entry in self.entries.values_mut() {
            entry.assignment = None;
        }
    }

    /// Moves the watermarks up to a stable checkpoint. What `executed` has not reached stays,
    /// since it may be needed again after a crash, but not more than one window of it.
    pub fn advance(&mut self, low: SequenceNumber, executed: SequenceNumber) {
        if low > self.low {
            self.low = low;
        }
        let keep = self.low.min(executed).0.max(self.low.0.saturating_sub(self.window));
        self.entries = self.entries.split_off(&SequenceNumber(keep.saturating_add(1)));
    }

    /// Keeps a delivery for others.
    pub fn remember(&mut self, delivered: Delivered) {
        self.history.insert(delivered.proposal.sequence, delivered);
        while self.history.len() as u64 > self.window {
            self.history.pop_first();
        }
    }

    /// Batches of the last `window` deliveries.
    pub fn remembered_batches(&self) -> impl Iterator<Item = BatchId> {
        self.history.values().flat_map(|d| d.proposal.batches.iter().map(|b| b.id))
    }

    /// A delivery of the last `window` ones.
    pub fn remembered(&self, sequence: SequenceNumber) -> Option<&Delivered> {
        self.history.get(&sequence)
    }
}

impl Assignment {
    /// A proposal of the current view, not voted for yet.
    pub fn new(proposal: Proposal, digest: Digest, envelope: Option<Envelope>) -> Self {
        Self {
            proposal,
            digest,
            missing: BTreeSet::new(),
            voted: false,
            refused: false,
            prepared: false,
            extension: None,
            foreseen: false,
            envelope,
            fetches: 0,
        }
    }

    /// The tip and the commit digest that it makes on `tip`; kept for the next time.
    pub fn extend(&mut self, chain: ChainId, tip: &Tip) -> (Tip, Digest) {
        let (next, digest) = self.extended(chain, tip);
        self.extension = Some((tip.hash, next, digest));
        (next, digest)
    }

    /// The same, not kept. The hash below stands for all of the tip that counts.
    pub fn extended(&self, chain: ChainId, tip: &Tip) -> (Tip, Digest) {
        match self.extension {
            Some((below, next, digest)) if below == tip.hash => (next, digest),
            _ => tip.extend(chain, &self.proposal),
        }
    }
}

impl Cast {
    /// The vote in full.
    pub fn vote(&self, slot: Slot) -> Vote {
        Vote { slot: Slot { view: self.view, ..slot }, digest: self.digest }
    }

    /// The message that carried the vote.
    pub fn envelope(&self, sender: ReplicaId, slot: Slot) -> Envelope {
        Envelope { sender, body: self.vote(slot).to_bytes(), signature: self.signature.clone() }
    }
}

/// The replicas that voted for `digest` in `view`.
pub fn supporters<'a>(
    votes: &'a BTreeMap<ReplicaId, Cast>,
    view: View,
    digest: &'a Digest,
) -> impl Iterator<Item = (ReplicaId, VoteSignature)> + 'a {
    votes
        .iter()
        .filter(move |(_, c)| c.view == view && c.digest == *digest)
        .map(|(id, c)| (*id, c.signature.clone()))
}

/// The certificate that the votes for `vote` form, if they are a quorum.
pub fn certificate(
    votes: &BTreeMap<ReplicaId, Cast>,
    vote: Vote,
    quorum: usize,
) -> Option<QuorumCertificate> {
    let signatures: Vec<_> = supporters(votes, vote.slot.view, &vote.digest).take(quorum).collect();
    (signatures.len() == quorum).then_some(QuorumCertificate { vote, signatures })
}

/// The window in use: the chain's, or less where a new-view with a full one would not fit a
/// message. Every replica computes the same.
pub fn fitting_window(parameters: &ChainParameters, replicas: &ReplicaSet) -> u64 {
    let quorum = replicas.quorum();
    let batches = parameters.block_batches_max as usize;
    let sequence_bytes = CERTIFICATE_HEAD_BYTES
        + SIGNATURE_BYTES * quorum
        + PROPOSAL_HEAD_BYTES
        + BATCH_REF_BYTES * batches;
    let fits = limits::CONSENSUS_MESSAGE_BYTES_MAX / (sequence_bytes * (quorum + 1));
    (fits as u64).clamp(parameters.checkpoint_interval, parameters.window)
}

/// Vote and count.
const CERTIFICATE_HEAD_BYTES: usize = 57 + 4;
/// Replica and signature.
const SIGNATURE_BYTES: usize = 2 + VoteSignature::BYTES_MAX;
/// View, sequence number, time and count.
const PROPOSAL_HEAD_BYTES: usize = 8 + 8 + 8 + 4;
/// Id, author, transactions, bytes and root.
const BATCH_REF_BYTES: usize = 32 + 2 + 4 + 4 + 32;
