//! What a guard says when it is shown what others saw of its key, and what becomes of it then.
//!
//! ```text
//! open      a process opens the log: nothing is compared yet ----------------> silent
//! examine   all shown slots known ------------------------------------------> Complete
//!           one unknown: the record is older than the key's votes, or another
//!           signer uses the key; or the record was begun anew ---------------> Incomplete
//! fence     refuse all that may have been signed; new identity, epoch + 1 ---> unproven
//! settle    enough was shown, and all of it is on record, or is fenced ------> in use, signs
//! stop      the key is used elsewhere after a fence -------------------------> stopped
//! ```
//!
//! Place: called by the node (`pipeline/order/fencing`), which has checked that the key signed what
//! it shows. Nothing here lets a guard sign more than before: floors only rise, and `settle` ends
//! what `fence` began. So a node that lies can silence its own validator, as it always could.
//!
//! Invariants:
//! * Each change is on the medium before it is answered, in one rewrite of the log.
//! * A guard clears no slot between its opening, or an examination that finds something unknown, and
//!   the next `settle`; nor while it is unproven or stopped.
//! * A call is for one opening. A log that was put back from an old copy, and a log in another
//!   place, are opened by another process: what was examined before says nothing of them.
//!
//! Failure: a rewrite that fails leaves a guard that refuses everything, as every failed write.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::signer::SignError;
use crate::signer::guard::GuardError;
use crate::signer::guard::SlotGuard;
use crate::signer::guard::format::Floor;
use crate::signer::guard::format::State;
use crate::signer::guard::hand_over;
use crate::signer::guard::is_view_bound;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::signature::PublicKey;
use crate::types::vote::Slot;

/// What a node has to say about a key's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordCall {
    /// The key signed these texts, given by their SHA-256, for these slots.
    Examine(Vec<(Slot, Digest)>),
    /// What lies below may have been signed; whatever the record says, nothing is signed there.
    Fence(Floor),
    /// Since the opening, or the fence, enough was shown, and nothing more is unknown: sign.
    Settle,
    /// Another signer uses the key.
    Stop,
}

/// One opening of a guard's log by a process; drawn then and kept nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening(pub [u8; 16]);

/// What a guard answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How its record stands.
    pub standing: Standing,
    /// Nothing is signed below this sequence number.
    pub floor: SequenceNumber,
}

/// How a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds all that was shown.
    Complete,
    /// It does not, or nobody knows yet: nothing is signed before a fence.
    Incomplete,
    /// Another signer uses the key: nothing is signed.
    Stopped,
}

impl SlotGuard {
    /// Answers a call that is meant for `opening`.
    pub fn record(&mut self, opening: Opening, call: &RecordCall) -> Result<Answer, SignError> {
        if opening != self.opening {
            return Err(SignError::Key { reason: OTHER_OPENING.to_owned() });
        }
        let standing = self.stand(call)?;
        Ok(Answer { standing, floor: self.header.floor.sequence })
    }

    fn stand(&mut self, call: &RecordCall) -> Result<Standing, SignError> {
        if let Some(reason) = &self.failed {
            return Err(SignError::Guard { reason: reason.clone() });
        }
        match (call, self.header.state) {
            (_, State::Stopped | State::Retired) => return Ok(Standing::Stopped),
            (RecordCall::Examine(_), State::Unproven) => return Ok(Standing::Incomplete),
            (RecordCall::Examine(shown), State::InUse) => {
                let known = shown.iter().all(|(slot, digest)| self.knows(slot, digest));
                self.compared &= known;
                return Ok(if known { Standing::Complete } else { Standing::Incomplete });
            }
            (RecordCall::Fence(floor), _) => self.fence(*floor)?,
            (RecordCall::Settle, state) => {
                if state != State::InUse {
                    self.change(|guard| guard.header.state = State::InUse)?;
                }
                self.compared = true;
            }
            (RecordCall::Stop, _) => self.change(|guard| guard.header.state = State::Stopped)?,
        }
        Ok(match self.header.state {
            State::InUse => Standing::Complete,
            State::Unproven => Standing::Incomplete,
            State::Stopped | State::Retired => Standing::Stopped,
        })
    }

    /// This opening of the log, which calls name.
    pub fn opening(&self) -> Opening {
        self.opening
    }

    /// True where it was compared since it was opened, and clears slots.
    pub fn signs(&self) -> bool {
        self.silence().is_none()
    }

    /// Whether it signs.
    pub fn state(&self) -> State {
        self.header.state
    }

    /// Why a slot is not cleared whatever its text.
    pub(super) fn silence(&self) -> Option<SignError> {
        let reason = match self.header.state {
            State::InUse if self.compared => return None,
            State::InUse => UNCOMPARED,
            State::Unproven => UNPROVEN,
            State::Stopped | State::Retired => STOPPED,
        };
        Some(SignError::Key { reason: reason.to_owned() })
    }

    /// True where the slot's record holds that text, or was forgotten: nothing is signed there.
    fn knows(&self, slot: &Slot, digest: &Digest) -> bool {
        match self.slots.get(slot) {
            Some(known) => known == digest,
            None => self.is_forgotten(slot),
        }
    }

    fn fence(&mut self, to: Floor) -> Result<(), SignError> {
        let identity = match self.header.state {
            // The fence is raised.
            State::Unproven => None,
            _ => Some(
                hand_over::draw_identity(&self.path)
                    .map_err(|error| SignError::Guard { reason: error.to_string() })?,
            ),
        };
        self.compared = false;
        self.change(|guard| {
            let header = &mut guard.header;
            if let Some(identity) = identity {
                header.identity = identity;
                header.fencing_epoch = header.fencing_epoch.saturating_add(1);
            }
            header.state = State::Unproven;
            let floor = &mut header.floor;
            floor.sequence = floor.sequence.max(to.sequence);
            (floor.epoch, floor.view) = (floor.epoch, floor.view).max((to.epoch, to.view));
            let floor = *floor;
            guard.slots.retain(|slot, _| !floor.covers(slot));
        })
    }

    /// Changes header and slots, durably before anything else.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Self)) -> Result<(), SignError> {
        change(self);
        self.rewrite().map_err(|error| {
            let reason = format!("cannot rewrite {}: {error}", self.path.display());
            self.failed = Some(reason.clone());
            SignError::Guard { reason }
        })
    }

    /// The same, for commands.
    pub(super) fn alter(&mut self, change: impl FnOnce(&mut Self)) -> Result<(), GuardError> {
        change(self);
        self.rewrite().map_err(|source| GuardError::Io {
            doing: "rewrite",
            path: self.path.clone(),
            source,
        })
    }
}

/// An operator's word that no other signer uses the key: a lost or damaged log begins anew, a
/// stopped one goes on. Either signs once peers have shown what they saw. What is left of a damaged
/// log is kept beside the new one.
pub fn renew(path: &Path, chain: ChainId, key: &PublicKey) -> Result<SlotGuard, GuardError> {
    if !path.exists() {
        let mut guard = SlotGuard::create(path, chain, key, RENEWED_EPOCH)?;
        guard.alter(|guard| guard.header.state = State::Unproven)?;
        return Ok(guard);
    }
    let mut guard = match SlotGuard::open(path, chain, key) {
        Err(GuardError::Damaged { .. }) => {
            put_aside(path)?;
            return renew(path, chain, key);
        }
        opened => opened?,
    };
    if guard.header.state != State::Stopped {
        return Err(GuardError::NothingToRenew { path: path.to_owned() });
    }
    let identity = hand_over::draw_identity(path)?;
    guard.alter(|guard| {
        let header = &mut guard.header;
        (header.identity, header.state) = (identity, State::Unproven);
        header.fencing_epoch = header.fencing_epoch.saturating_add(1);
    })?;
    Ok(guard)
}

/// Renames a damaged log, so that it can be looked at.
fn put_aside(path: &Path) -> Result<(), GuardError> {
    let name = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged.{n}"));
        PathBuf::from(name)
    };
    let aside = (0..).map(name).find(|aside| !aside.exists()).expect("names do not run out");
    fs::rename(path, &aside).map_err(|source| GuardError::Io {
        doing: "put the damaged log aside",
        path: path.to_owned(),
        source,
    })
}

impl Floor {
    /// True where nothing is signed for the slot any more.
    pub fn covers(&self, slot: &Slot) -> bool {
        match is_view_bound(slot) {
            true => (slot.epoch, slot.view) < (self.epoch, self.view),
            false => slot.sequence < self.sequence,
        }
    }
}

impl Encode for RecordCall {
    fn encode(&self, w: &mut Writer) {
        match self {
            Self::Examine(shown) => {
                w.u8(0);
                w.count(shown.len());
                for (slot, digest) in shown {
                    slot.encode(w);
                    digest.encode(w);
                }
            }
            Self::Fence(floor) => {
                w.u8(1);
                floor.sequence.encode(w);
                floor.epoch.encode(w);
                floor.view.encode(w);
            }
            Self::Settle => w.u8(2),
            Self::Stop => w.u8(3),
        }
    }
}

impl Decode for RecordCall {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8("call")? {
            0 => {
                let count = r.count("shown slots", limits::WITNESS_ENVELOPES_MAX)?;
                let mut shown = Vec::with_capacity(count);
                for _ in 0..count {
                    shown.push((Slot::decode(r)?, Digest::decode(r)?));
                }
                Self::Examine(shown)
            }
            1 => Self::Fence(hand_over::floor(r)?),
            2 => Self::Settle,
            3 => Self::Stop,
            _ => return Err(DecodeError::Invalid { field: "call", reason: "unknown" }),
        })
    }
}

impl Encode for Opening {
    fn encode(&self, w: &mut Writer) {
        w.raw(&self.0);
    }
}

impl Decode for Opening {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(r.array("opening")?))
    }
}

impl Encode for Answer {
    fn encode(&self, w: &mut Writer) {
        w.u8(match self.standing {
            Standing::Complete => 0,
            Standing::Incomplete => 1,
            Standing::Stopped => 2,
        });
        self.floor.encode(w);
    }
}

impl Decode for Answer {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let standing = match r.u8("standing")? {
            0 => Standing::Complete,
            1 => Standing::Incomplete,
            2 => Standing::Stopped,
            _ => return Err(DecodeError::Invalid { field: "standing", reason: "unknown" }),
        };
        Ok(Self { standing, floor: SequenceNumber::decode(r)? })
    }
}

const OTHER_OPENING: &str = "the record was opened anew since; it is compared once more";
const UNCOMPARED: &str = "this record was opened a moment ago and not compared yet with what peers \
                          and the node saw of the key; it signs by itself when it is";
const UNPROVEN: &str = "what this key has signed is not known for certain; it signs again by \
                        itself when its peers have shown what they saw";
const STOPPED: &str = "another signer uses this key; stop that one, then `obelisk signer renew`";
/// The epoch of the lost log is lost with it.
const RENEWED_EPOCH: u64 = 1;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::signer::SignRequest;
    use crate::types::ids::Epoch;
    use crate::types::ids::View;
    use crate::types::signature::Algorithm;
    use crate::types::vote;
    use crate::types::vote::Phase;
    use crate::types::vote::Vote;

    fn chain() -> ChainId {
        ChainId(Digest::of(&[b"a chain"]))
    }

    fn key() -> PublicKey {
        PublicKey::new(Algorithm::Ed25519, &[7; 32]).unwrap()
    }

    fn slot(view: u64, sequence: u64, phase: Phase) -> Slot {
        Slot { epoch: Epoch(0), view: View(view), sequence: SequenceNumber(sequence), phase }
    }

    fn request(slot: Slot, content: u8) -> SignRequest {
        let vote = Vote { slot, digest: Digest([content; 32]) };
        SignRequest {
            slot: Some(slot),
            text: vote::signed_text(&chain(), &vote.to_bytes()),
            ahead: false,
        }
    }

    fn signs(guard: &mut SlotGuard, slot: Slot, content: u8) -> bool {
        guard.clear(&[request(slot, content)]).remove(0).is_ok()
    }

    fn call(guard: &mut SlotGuard, call: RecordCall) -> Standing {
        guard.record(guard.opening(), &call).unwrap().standing
    }

    fn examine(guard: &mut SlotGuard, slot: Slot, content: u8) -> Standing {
        let digest = Digest::of(&[&request(slot, content).text]);
        call(guard, RecordCall::Examine(vec![(slot, digest)]))
    }

    fn fence(sequence: u64, view: u64) -> RecordCall {
        let (sequence, epoch, view) = (SequenceNumber(sequence), Epoch(0), View(view));
        RecordCall::Fence(Floor { sequence, epoch, view })
    }

    /// Aim: a vote newer than the record, and another text on record, are unknown; what was signed
    /// here or was forgotten is known.
    #[test]
    fn what_the_record_lacks_is_told() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("guard");
        let mut guard = SlotGuard::create(&path, chain(), &key(), 0).unwrap();
        call(&mut guard, RecordCall::Settle);
        for n in 1..=9 {
            assert!(signs(&mut guard, slot(0, n, Phase::Commit), 1));
        }
        assert_eq!(examine(&mut guard, slot(0, 9, Phase::Commit), 1), Standing::Complete);
        assert_eq!(examine(&mut guard, slot(0, 9, Phase::Commit), 2), Standing::Incomplete);
        assert_eq!(examine(&mut guard, slot(0, 10, Phase::Commit), 1), Standing::Incomplete);
        assert_eq!(examine(&mut guard, slot(1, 0, Phase::ViewChange), 1), Standing::Incomplete);
        guard.forget_below(SequenceNumber(5)).unwrap();
        assert_eq!(examine(&mut guard, slot(0, 4, Phase::Commit), 2), Standing::Complete);
    }

    /// Aim: from the fence on nothing is signed until it is settled, then nothing below the floors,
    /// over restarts; identity and epoch are new once, also where the fence is raised.
    #[test]
    fn a_fence_holds_over_restarts() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("guard");
        let open = || SlotGuard::open(&path, chain(), &key()).unwrap();
        let mut guard = SlotGuard::create(&path, chain(), &key(), 4).unwrap();
        let before = guard.identity();
        call(&mut guard, RecordCall::Settle);
        assert!(signs(&mut guard, slot(0, 7, Phase::Commit), 1));
        assert_eq!(call(&mut guard, fence(20, 3)), Standing::Incomplete);
        assert_eq!(call(&mut guard, fence(30, 2)), Standing::Incomplete);
        drop(guard);
        let mut guard = open();
        assert!(guard.identity() != before && guard.fencing_epoch() == 5);
        assert!(!signs(&mut guard, slot(0, 40, Phase::Commit), 1));
        assert_eq!(examine(&mut guard, slot(0, 7, Phase::Commit), 1), Standing::Incomplete);
        assert_eq!(call(&mut guard, RecordCall::Settle), Standing::Complete);
        drop(guard);
        let mut guard = open();
        call(&mut guard, RecordCall::Settle);
        for (slot, signed) in [
            (slot(9, 29, Phase::Commit), false),
            (slot(0, 30, Phase::Commit), true),
            (slot(2, 0, Phase::ViewChange), false),
            (slot(3, 0, Phase::NewView), true),
        ] {
            assert_eq!(signs(&mut guard, slot, 1), signed, "{slot:?}");
        }
        assert_eq!(guard.newest(), SequenceNumber(30));
    }

    /// Aim: a stopped log signs nothing until an operator renews it, and a lost one begins
    /// unproven; a log in use is not renewed.
    #[test]
    fn only_a_stopped_or_lost_log_is_renewed() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("guard");
        let commit = slot(0, 50, Phase::Commit);
        let mut guard = renew(&path, chain(), &key()).unwrap();
        assert!(!signs(&mut guard, commit, 1));
        call(&mut guard, fence(40, 1));
        call(&mut guard, RecordCall::Settle);
        assert!(signs(&mut guard, commit, 1));
        drop(guard);
        let refused = renew(&path, chain(), &key());
        assert!(matches!(refused, Err(GuardError::NothingToRenew { .. })));
        let mut guard = SlotGuard::open(&path, chain(), &key()).unwrap();
        assert_eq!(call(&mut guard, RecordCall::Stop), Standing::Stopped);
        assert_eq!(call(&mut guard, RecordCall::Settle), Standing::Stopped);
        assert!(!signs(&mut guard, commit, 1));
        drop(guard);
        let mut guard = renew(&path, chain(), &key()).unwrap();
        call(&mut guard, RecordCall::Settle);
        assert!(signs(&mut guard, commit, 1) && !signs(&mut guard, commit, 2));
    }

    /// Aim: a log that a process has just opened signs nothing before a settling that is meant for
    /// this very opening; an examination that finds something unknown takes it back.
    #[test]
    fn an_opening_signs_only_when_it_was_compared() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("guard");
        let commit = |n| slot(0, n, Phase::Commit);
        let mut guard = SlotGuard::create(&path, chain(), &key(), 0).unwrap();
        assert!(!guard.signs() && !signs(&mut guard, commit(1), 1));
        call(&mut guard, RecordCall::Settle);
        assert!(signs(&mut guard, commit(1), 1));
        let before = guard.opening();
        drop(guard);
        let mut guard = SlotGuard::open(&path, chain(), &key()).unwrap();
        let late = guard.record(before, &RecordCall::Settle);
        assert!(matches!(late, Err(SignError::Key { .. })), "meant for the opening before");
        assert!(!signs(&mut guard, commit(1), 1) && !signs(&mut guard, commit(2), 1));
        assert_eq!(examine(&mut guard, commit(1), 1), Standing::Complete);
        assert!(!guard.signs(), "shown is not settled");
        call(&mut guard, RecordCall::Settle);
        assert!(signs(&mut guard, commit(2), 1));
        assert_eq!(examine(&mut guard, commit(9), 1), Standing::Incomplete);
        assert!(!signs(&mut guard, commit(3), 1));
    }

    /// Aim: a damaged log is put aside and begun anew, unproven; what was damaged is kept.
    #[test]
    fn a_damaged_log_is_renewed_beside_what_is_left_of_it() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("guard");
        let mut guard = SlotGuard::create(&path, chain(), &key(), 0).unwrap();
        call(&mut guard, RecordCall::Settle);
        assert!(signs(&mut guard, slot(0, 7, Phase::Commit), 1));
        drop(guard);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        for n in 0..2 {
            let damaged = SlotGuard::open(&path, chain(), &key());
            assert!(matches!(damaged, Err(GuardError::Damaged { .. })));
            let guard = renew(&path, chain(), &key()).unwrap();
            assert_eq!(guard.state(), State::Unproven);
            let aside = dir.path().join(format!("guard.damaged.{n}"));
            assert_eq!(std::fs::read(&aside).unwrap(), bytes);
            drop(guard);
            std::fs::write(&path, &bytes).unwrap();
        }
    }
}
