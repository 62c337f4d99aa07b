//! Votes that a slow key signs before the core casts them.
//!
//! ```text
//! foreseen --- with the next round, gate open ---> under way --- answer ---> held
//!                                                      |                      |
//!                                                      '--- cast by the core -+--> sent, after a sync
//!     dropped: the gate is closed, the signer failed, the number is delivered, the view is past
//! ```
//!
//! A core names a vote with `Effect::Foresee` when it will probably follow from what it votes for now:
//! so one signature of the key, over a bundle, stands for a prepare vote and the commit vote behind it.
//! What is held is no vote: it leaves with the draft that the core casts, in the same slot with the
//! same bytes, and with nothing else.
//!
//! Place: the consensus driver's, beside `signing`, whose rounds take these texts along. A fast signer,
//! or one that does not bundle, is asked when the vote is cast, and nothing is foreseen.
//!
//! Invariants:
//! * What is under way or held is inside the gate: no record is compared while a signature that
//!   nobody noted may still leave, and a closed gate drops them all.
//! * Each is asked for as `SignRequest::ahead`: the votes of its bundle that leave do not show it.
//! * At most `limits::SIGNED_AHEAD_MAX`, of those foreseen and of the others.
//!
//! Failure: whatever is dropped, is signed like every other vote when it is cast.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::Draft;
use crate::pipeline::order::fencing::Gate;
use crate::pipeline::order::outgoing::Outgoing;
use crate::signer::SignError;
use crate::signer::SignRequest;
use crate::types::ids::ChainId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::vote;
use crate::types::vote::Slot;
use crate::types::vote_signature::VoteSignature;

/// The votes signed ahead.
pub struct Ahead {
    gate: Arc<Gate>,
    foreseen: VecDeque<(Slot, Bytes)>,
    asked: BTreeMap<Slot, Asked>,
}

struct Asked {
    body: Bytes,
    /// None while it is under way.
    signature: Option<VoteSignature>,
    cast: bool,
}

impl Ahead {
    /// None yet.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate, foreseen: VecDeque::new(), asked: BTreeMap::new() }
    }

    /// A vote that the core named.
    pub fn foresee(&mut self, draft: Draft) {
        let Some(slot) = draft.slot else { return };
        if self.foreseen.len() == limits::SIGNED_AHEAD_MAX {
            self.foreseen.pop_front();
        }
        self.foreseen.push_back((slot, draft.body));
    }

    /// What a round may take along; it is under way then.
    pub fn begin(&mut self, chain: &ChainId) -> Vec<(Slot, SignRequest)> {
        let mut begun = Vec::new();
        while self.asked.len() < limits::SIGNED_AHEAD_MAX
            && let Some((slot, body)) = self.foreseen.pop_front()
        {
            if self.asked.contains_key(&slot) {
                continue;
            }
            if !self.gate.enter() {
                self.foreseen.clear();
                break;
            }
            let text = vote::signed_text(chain, &body);
            self.asked.insert(slot, Asked { body, signature: None, cast: false });
            begun.push((slot, SignRequest { slot: Some(slot), text, ahead: true }));
        }
        begun
    }

    /// The signer's answer for a vote under way. Gives back what waits for it in vain.
    pub fn answered(
        &mut self,
        slot: Slot,
        result: Result<VoteSignature, SignError>,
    ) -> Option<Outgoing> {
        let asked = self.asked.get_mut(&slot)?;
        match result {
            Ok(signature) if self.gate.is_open() => {
                asked.signature = Some(signature);
                None
            }
            // What is wrong is told when the vote is cast and asked for again.
            _ => self.drop_one(&slot),
        }
    }

    /// Takes over the drafts that were signed ahead, or are being; the others stay.
    pub fn take_over(&mut self, outgoing: &mut Vec<Outgoing>) {
        outgoing.retain(|one| {
            let Outgoing::Draft { to: None, draft: Draft { slot: Some(slot), body } } = one else {
                return true;
            };
            self.foreseen.retain(|(foreseen, _)| foreseen != slot);
            match self.asked.get_mut(slot) {
                Some(asked) if !asked.cast && asked.body == *body => {
                    asked.cast = true;
                    false
                }
                _ => true,
            }
        });
    }

    /// What is cast and signed. Each is inside the gate, and `Gate::leave` follows once it is noted.
    pub fn take_ready(&mut self) -> Vec<(Draft, VoteSignature)> {
        let is_ready = |asked: &Asked| asked.cast && asked.signature.is_some();
        let ready: Vec<Slot> =
            self.asked.iter().filter(|(_, asked)| is_ready(asked)).map(|(slot, _)| *slot).collect();
        let take = |slot| {
            let Asked { body, signature, .. } = self.asked.remove(&slot)?;
            Some((Draft { slot: Some(slot), body }, signature?))
        };
        ready.into_iter().filter_map(take).collect()
    }

    /// Drops what is held behind a closed gate, and what is not cast at or below the delivered
    /// number or in a past view. Gives back what is cast. What is under way waits for its answer.
    pub fn forget(&mut self, delivered: SequenceNumber, view: View) -> Vec<Outgoing> {
        let is_past = |slot: &Slot| slot.sequence <= delivered || slot.view < view;
        self.foreseen.retain(|(slot, _)| !is_past(slot));
        let is_open = self.gate.is_open();
        let gone = |(slot, asked): (&Slot, &Asked)| {
            let is_of_no_use = !is_open || (is_past(slot) && !asked.cast);
            (asked.signature.is_some() && is_of_no_use).then_some(*slot)
        };
        let gone: Vec<Slot> = self.asked.iter().filter_map(gone).collect();
        gone.iter().filter_map(|slot| self.drop_one(slot)).collect()
    }

    fn drop_one(&mut self, slot: &Slot) -> Option<Outgoing> {
        let asked = self.asked.remove(slot)?;
        self.gate.leave();
        let draft = Draft { slot: Some(*slot), body: asked.body };
        asked.cast.then_some(Outgoing::Draft { to: None, draft })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Digest;
    use crate::types::ids::Epoch;
    use crate::types::signature::Signature;
    use crate::types::vote::Phase;

    const CHAIN: ChainId = ChainId(Digest::ZERO);

    fn slot(view: u64, sequence: u64) -> Slot {
        let (view, sequence) = (View(view), SequenceNumber(sequence));
        Slot { epoch: Epoch(0), view, sequence, phase: Phase::Commit }
    }

    fn draft(sequence: u64, body: &'static [u8]) -> Draft {
        Draft { slot: Some(slot(0, sequence)), body: Bytes::from_static(body) }
    }

    fn cast(ahead: &mut Ahead, sequence: u64, body: &'static [u8]) -> usize {
        let mut outgoing = vec![Outgoing::Draft { to: None, draft: draft(sequence, body) }];
        ahead.take_over(&mut outgoing);
        outgoing.len()
    }

    fn signed() -> Result<VoteSignature, SignError> {
        Ok(Signature([7; 64]).into())
    }

    /// Ahead with its gate, and the vote `a` for number 1 under way.
    fn under_way() -> (Ahead, Arc<Gate>) {
        let gate = Arc::new(Gate::default());
        let mut ahead = Ahead::new(gate.clone());
        ahead.foresee(draft(1, b"a"));
        let begun = ahead.begin(&CHAIN);
        assert_eq!(begun.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [slot(0, 1)]);
        assert!(begun[0].1.ahead && ahead.begin(&CHAIN).is_empty());
        (ahead, gate)
    }

    /// Aim: a signature leaves with the draft it was made for, once it is cast, and in no other way.
    #[test]
    fn a_held_signature_waits_for_its_vote() {
        let (mut ahead, _) = under_way();
        assert!(ahead.answered(slot(0, 1), signed()).is_none());
        assert!(ahead.take_ready().is_empty(), "nothing was cast");
        assert_eq!(cast(&mut ahead, 1, b"b"), 1, "another text is signed like every vote");
        assert_eq!(cast(&mut ahead, 2, b"a"), 1, "another slot too");
        assert!(ahead.take_ready().is_empty());
        assert_eq!(cast(&mut ahead, 1, b"a"), 0);
        let [(left, _)] = &ahead.take_ready()[..] else { panic!("one vote leaves") };
        assert_eq!((left.slot, &left.body[..]), (Some(slot(0, 1)), &b"a"[..]));
        assert!(ahead.take_ready().is_empty(), "it leaves once");
    }

    /// Aim: what is cast while it is under way leaves when it is signed.
    #[test]
    fn a_vote_cast_early_waits_for_its_signature() {
        let (mut ahead, _) = under_way();
        assert_eq!(cast(&mut ahead, 1, b"a"), 0);
        assert!(ahead.forget(SequenceNumber(9), View(3)).is_empty());
        assert!(ahead.take_ready().is_empty());
        assert!(ahead.answered(slot(0, 1), signed()).is_none());
        assert_eq!(ahead.take_ready().len(), 1);
    }

    /// Aim: behind a closed gate nothing is held and nothing begins, so that a comparison of records
    /// sees all that may still leave; what was cast is given back.
    #[test]
    fn a_closed_gate_drops_what_is_held() {
        for early in [false, true] {
            let (mut ahead, gate) = under_way();
            if early {
                ahead.answered(slot(0, 1), signed());
            }
            assert_eq!(cast(&mut ahead, 1, b"a"), 0);
            gate.close("for this test".to_owned());
            let mut back = ahead.forget(SequenceNumber(0), View(0));
            assert_eq!(gate.is_empty(), early, "what is under way is waited for");
            if !early {
                back.extend(ahead.answered(slot(0, 1), signed()));
            }
            assert_eq!(back.len(), 1, "the cast vote is given back");
            assert!(gate.is_empty());
            ahead.foresee(draft(2, b"b"));
            assert!(ahead.begin(&CHAIN).is_empty());
            assert_eq!((ahead.take_ready().len(), ahead.foreseen.len()), (0, 0));
        }
    }

    /// Aim: a signer that refuses costs a vote nothing but the time; what is past is forgotten.
    #[test]
    fn what_fails_is_given_back_and_what_is_past_forgotten() {
        let (mut ahead, gate) = under_way();
        assert_eq!(cast(&mut ahead, 1, b"a"), 0);
        let refused = Err(SignError::Key { reason: "away".to_owned() });
        assert!(ahead.answered(slot(0, 1), refused).is_some());
        for (sequence, body) in [(2, b"b"), (3, b"c")] {
            ahead.foresee(draft(sequence, body));
            assert_eq!(ahead.begin(&CHAIN).len(), 1);
            ahead.answered(slot(0, sequence), signed());
        }
        assert!(ahead.forget(SequenceNumber(2), View(0)).is_empty());
        assert_eq!(ahead.asked.keys().copied().collect::<Vec<_>>(), [slot(0, 3)]);
        assert!(ahead.forget(SequenceNumber(2), View(1)).is_empty());
        gate.close("for this test".to_owned());
        assert!(ahead.asked.is_empty() && gate.is_empty());
    }

    /// Aim: neither list grows beyond its limit; the oldest that are foreseen give way.
    #[test]
    fn both_lists_are_bounded() {
        let mut ahead = Ahead::new(Arc::new(Gate::default()));
        let most = limits::SIGNED_AHEAD_MAX;
        for round in 1..=3 {
            for sequence in 1..=most as u64 {
                ahead.foresee(draft(100 * round + sequence, b"a"));
            }
            assert_eq!(ahead.begin(&CHAIN).len(), if round == 1 { most } else { 0 });
            assert_eq!(ahead.asked.len(), most);
        }
        assert_eq!(ahead.foreseen.front().map(|(slot, _)| slot.sequence.0), Some(301));
        assert_eq!(ahead.foreseen.len(), most);
    }
}
