//! What this node saw of each replica's key: the newest vote of each phase, by sequence number and
//! by view, kept as it was signed, so that it is proof to whoever asks. By view too, since after a
//! view change lower numbers are voted for again: a record from between holds the highest number.
//!
//! Filled by the thread that checks votes and, with its own votes before they leave, by the
//! consensus driver. Read by `order/fencing`, which compares its own with the signer's record, and
//! on network threads where a replica asks (`Message::WitnessRequest`), which `order/fencing` does.
//! Bounded: one message per replica and phase, and no answer more often than
//! `WITNESS_ANSWER_MS_MIN` per replica. Invariant: every message in it was verified. After a start
//! it knows the votes in the last block's certificate.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::Instant;

use crate::consensus::Envelope;
use crate::consensus::Plugin;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::Encode;
use crate::types::ids::Epoch;
use crate::types::ids::ReplicaId;
use crate::types::limits;
use crate::types::vote::Phase;
use crate::types::vote::Slot;

/// The newest votes of all replicas.
pub struct Witnesses {
    plugin: &'static Plugin,
    epoch: Epoch,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    seen: BTreeMap<(ReplicaId, Phase, By), (Slot, Envelope)>,
    answered: BTreeMap<ReplicaId, Instant>,
}

/// What makes a vote the newest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Sequence,
    View,
}

impl Witnesses {
    /// Knows nothing yet.
    pub fn new(plugin: &'static Plugin, epoch: Epoch) -> Self {
        Self { plugin, epoch, table: Mutex::default() }
    }

    /// Remembers a verified message where it is the newest of its kind.
    pub fn saw(&self, envelope: &Envelope) {
        if let Some(slot) = (self.plugin.slot)(self.epoch, envelope) {
            self.signed(slot, envelope);
        }
    }

    /// The same of a vote whose slot is known: an own one, that was just signed.
    pub fn signed(&self, slot: Slot, envelope: &Envelope) {
        let mut table = self.lock();
        for by in [By::Sequence, By::View] {
            let place = table.seen.entry((envelope.sender, slot.phase, by));
            let known = place.or_insert_with(|| (slot, envelope.clone()));
            if by.age(&slot) > by.age(&known.0) {
                *known = (slot, envelope.clone());
            }
        }
    }

    /// Remembers the votes of a block's certificate; the ledger holds verified ones alone.
    pub fn saw_certificate(&self, certificate: &QuorumCertificate) {
        for (sender, signature) in &certificate.signatures {
            let (body, signature) = (certificate.vote.to_bytes(), signature.clone());
            self.saw(&Envelope { sender: *sender, body, signature });
        }
    }

    /// The newest votes of a replica, smaller kinds first.
    pub fn of(&self, replica: ReplicaId) -> Vec<Envelope> {
        let table = self.lock();
        let (first, last) = ((Phase::PrePrepare, By::Sequence), (Phase::Session, By::View));
        let votes = table.seen.range((replica, first.0, first.1)..=(replica, last.0, last.1));
        let mut newest: Vec<Envelope> = votes.map(|(_, (_, envelope))| envelope.clone()).collect();
        newest.dedup();
        newest
    }

    /// The same for a replica that asks; `None` where it asks too often.
    pub fn answer(&self, replica: ReplicaId) -> Option<Vec<Envelope>> {
        let pause = Duration::from_millis(limits::WITNESS_ANSWER_MS_MIN);
        {
            let mut table = self.lock();
            let last = table.answered.insert(replica, Instant::now());
            if last.is_some_and(|last| last.elapsed() < pause) {
                return None;
            }
        }
        Some(self.of(replica))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder of this lock panics")
    }
}

impl By {
    fn age(self, slot: &Slot) -> (Epoch, u64, u64) {
        match self {
            Self::Sequence => (slot.epoch, slot.sequence.0, slot.view.0),
            Self::View => (slot.epoch, slot.view.0, slot.sequence.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::plugin;
    use crate::types::digest::Digest;
    use crate::types::ids::SequenceNumber;
    use crate::types::ids::View;
    use crate::types::signature::Signature;
    use crate::types::vote::Vote;

    fn vote(sender: u16, phase: Phase, view: u64, sequence: u64) -> Envelope {
        let (epoch, view, sequence) = (Epoch(0), View(view), SequenceNumber(sequence));
        let vote = Vote { slot: Slot { epoch, view, sequence, phase }, digest: Digest::ZERO };
        let signature = Signature([1; 64]).into();
        Envelope { sender: ReplicaId(sender), body: vote.to_bytes(), signature }
    }

    /// The newest vote of each phase and replica stays; what comes late changes nothing; whoever
    /// asks twice at once is answered once.
    #[test]
    fn the_newest_vote_of_each_phase_is_kept() {
        let witnesses = Witnesses::new(plugin("pbft").unwrap(), Epoch(0));
        let prepare = |view, sequence| vote(1, Phase::Prepare, view, sequence);
        let commit = vote(1, Phase::Commit, 0, 4);
        for seen in [prepare(0, 5), prepare(1, 4), prepare(1, 5), prepare(0, 5), commit.clone()] {
            witnesses.saw(&seen);
        }
        witnesses.saw(&vote(2, Phase::Prepare, 9, 9));
        assert_eq!(witnesses.of(ReplicaId(1)), [prepare(1, 5), commit.clone()]);
        witnesses.saw(&prepare(2, 3));
        assert_eq!(witnesses.of(ReplicaId(1)), [prepare(1, 5), prepare(2, 3), commit]);
        assert_eq!(witnesses.answer(ReplicaId(3)), Some(Vec::new()));
        assert_eq!(witnesses.answer(ReplicaId(3)), None);
    }
}
