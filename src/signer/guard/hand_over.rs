//! Handing a key's record over to another signer: export retires the log, import makes a new one.
//!
//! ```text
//! export   place of FILE made -> log retired, synced -> FILE  a crash between: export again
//! import   FILE -> new log, new identity, fencing epoch + 1
//!
//! FILE   "obelisk.record.1" | chain id 32 | key fingerprint 32 | guard identity 16
//!        | fencing epoch u64 | floor: sequence u64, epoch u64, view u64
//!        | slots u32 x { slot 25 | SHA-256 of the text 32 } | SHA-256 of all before 32
//! ```
//!
//! Place: behind `obelisk signer export` and `import`, while no signer runs on the log: both take
//! its lock.
//!
//! Invariants:
//! * A file exists only of a log that is retired: at every moment at most one log of the two can
//!   sign. A retired log keeps its slots, so the file can be written again; it is the same file.
//! * Where the file's place cannot be made the log stays in use. Until the log is retired the place
//!   holds zeros.
//! * An import never replaces a log that can sign, nor one that is as new as what it brings.
//!
//! Failure: a damaged file is refused as a whole. Copies of one file imported on two machines, and
//! whatever was deleted by hand, are beyond what a file can know; peers see it (`standing`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use bytes::Bytes;

use crate::signer::guard::GuardError;
use crate::signer::guard::SlotGuard;
use crate::signer::guard::acquire;
use crate::signer::guard::disk::Place;
use crate::signer::guard::fingerprint;
use crate::signer::guard::format::Floor;
use crate::signer::guard::format::Header;
use crate::signer::guard::format::State;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::Epoch;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::signature::PublicKey;
use crate::types::vote::Slot;

/// A record on its way to another signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The network.
    pub chain: ChainId,
    /// SHA-256 of the encoded public key.
    pub key: Digest,
    /// The log it comes from.
    pub identity: [u8; 16],
    /// Epoch of that log.
    pub fencing_epoch: u64,
    /// What it had forgotten.
    pub floor: Floor,
    /// What it held.
    pub slots: BTreeMap<Slot, Digest>,
}

/// Why a record was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The log.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The disk.
    #[error("cannot {doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The disk, when there was no way back.
    #[error(
        "the record is retired, and {path} cannot be written: {source}; run the export again, with \
         another --out where this one takes nothing"
    )]
    Unwritten { path: PathBuf, source: io::Error },
    /// Something else is there.
    #[error("{path} exists and holds something else; name another file")]
    Occupied { path: PathBuf },
    /// The file is none of ours.
    #[error("{path} is no exported record, or a damaged one: {source}; export it again")]
    Damaged { path: PathBuf, source: DecodeError },
    /// Of another validator or network.
    #[error(
        "{path} is the record of another {what}: found {found}, expected {expected}; name the \
         validator it was exported for"
    )]
    Foreign { path: PathBuf, what: &'static str, found: Digest, expected: Digest },
    /// Another log of the key is there already.
    #[error(
        "{guard} is in use, or as new as the record in {path}: a record is imported once, where no \
         log of its key is in use"
    )]
    Known { guard: PathBuf, path: PathBuf },
}

/// Retires the log at `guard` and writes its record to `out`. Again after that: the same file.
pub fn export(
    guard: &Path,
    chain: ChainId,
    key: &PublicKey,
    out: &Path,
) -> Result<Record, HandOverError> {
    let mut log = SlotGuard::open_any(guard, chain, key)?;
    let header = &log.header;
    let record = Record {
        chain: header.chain,
        key: header.key,
        identity: header.identity,
        fencing_epoch: header.fencing_epoch,
        floor: header.floor,
        slots: log.slots.clone(),
    };
    let bytes = record.to_bytes();
    if out.exists() && fs::read(out).map_err(io_error("read", out))? != bytes {
        return Err(HandOverError::Occupied { path: out.to_owned() });
    }
    if matches!(log.header.state, State::Unproven | State::Stopped) {
        return Err(GuardError::NotSettled { path: guard.to_owned() }.into());
    }
    let place = Place::reserve(out, bytes.len()).map_err(io_error("write", out))?;
    if log.header.state == State::InUse
        && let Err(error) = log.alter(|log| log.header.state = State::Retired)
    {
        place.leave();
        return Err(error.into());
    }
    let unwritten = |source| HandOverError::Unwritten { path: out.to_owned(), source };
    place.fill(&bytes).map_err(unwritten)?;
    Ok(record)
}

/// Makes the log at `guard` from the record in `from`.
pub fn import(
    guard: &Path,
    chain: ChainId,
    key: &PublicKey,
    from: &Path,
) -> Result<SlotGuard, HandOverError> {
    let len = fs::metadata(from).map_err(io_error("read", from))?.len();
    let damaged = |source| HandOverError::Damaged { path: from.to_owned(), source };
    if len > limits::GUARD_FILE_BYTES_MAX {
        let reason = "larger than any record";
        return Err(damaged(DecodeError::Invalid { field: "file", reason }));
    }
    let bytes = Bytes::from(fs::read(from).map_err(io_error("read", from))?);
    let record = Record::from_bytes(&bytes).map_err(damaged)?;
    let foreign = |what, found, expected| {
        Err(HandOverError::Foreign { path: from.to_owned(), what, found, expected })
    };
    if record.chain != chain {
        return foreign("chain", record.chain.0, chain.0);
    }
    if record.key != fingerprint(key) {
        return foreign("key", record.key, fingerprint(key));
    }
    if guard.exists() {
        let present = SlotGuard::open_any(guard, chain, key)?;
        let header = &present.header;
        if header.state != State::Retired || header.fencing_epoch > record.fencing_epoch {
            let (guard, path) = (guard.to_owned(), from.to_owned());
            return Err(HandOverError::Known { guard, path });
        }
    }
    let header = Header {
        fencing_epoch: record.fencing_epoch.saturating_add(1),
        identity: draw_identity(guard)?,
        chain,
        key: record.key,
        floor: record.floor,
        state: State::InUse,
    };
    Ok(SlotGuard::make(guard, acquire(guard)?, header, record.slots)?)
}

/// A guard's identity: drawn anew for each log.
pub(super) fn draw_identity(path: &Path) -> Result<[u8; 16], GuardError> {
    let mut identity = [0; 16];
    getrandom::fill(&mut identity).map_err(|error| GuardError::Io {
        doing: "draw an identity for",
        path: path.to_owned(),
        source: io::Error::other(error.to_string()),
    })?;
    Ok(identity)
}

/// Reads a floor.
pub(super) fn floor(r: &mut Reader<'_>) -> Result<Floor, DecodeError> {
    Ok(Floor {
        sequence: SequenceNumber::decode(r)?,
        epoch: Epoch::decode(r)?,
        view: View::decode(r)?,
    })
}

impl Encode for Record {
    fn encode(&self, w: &mut Writer) {
        let mut body = Writer::with_capacity(160 + self.slots.len() * SLOT_BYTES);
        body.raw(TAG);
        self.chain.encode(&mut body);
        self.key.encode(&mut body);
        body.raw(&self.identity);
        body.u64(self.fencing_epoch);
        self.floor.sequence.encode(&mut body);
        self.floor.epoch.encode(&mut body);
        self.floor.view.encode(&mut body);
        body.count(self.slots.len());
        for (slot, digest) in &self.slots {
            slot.encode(&mut body);
            digest.encode(&mut body);
        }
        let body = body.finish();
        w.raw(&body);
        Digest::of(&[&body]).encode(w);
    }
}

impl Decode for Record {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let invalid = |reason| DecodeError::Invalid { field: "record", reason };
        let len = r.remaining().checked_sub(32).ok_or(invalid("it ends early"))?;
        let body = r.raw("record", len)?;
        if Digest::decode(r)? != Digest::of(&[&body]) {
            return Err(invalid("its checksum is wrong"));
        }
        let mut r = Reader::new(&body);
        if r.raw("tag", TAG.len())? != TAG {
            return Err(invalid("it does not begin as an exported record, version 1"));
        }
        let mut record = Self {
            chain: ChainId::decode(&mut r)?,
            key: Digest::decode(&mut r)?,
            identity: r.array("guard identity")?,
            fencing_epoch: r.u64("fencing epoch")?,
            floor: floor(&mut r)?,
            slots: BTreeMap::new(),
        };
        for _ in 0..r.count("slots", limits::GUARD_SLOTS_MAX)? {
            let (slot, digest) = (Slot::decode(&mut r)?, Digest::decode(&mut r)?);
            if record.slots.last_key_value().is_some_and(|(last, _)| *last >= slot) {
                return Err(invalid("its slots do not ascend"));
            }
            record.slots.insert(slot, digest);
        }
        r.end("record")?;
        Ok(record)
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HandOverError {
    let path = path.to_owned();
    move |source| HandOverError::Io { doing, path, source }
}

const TAG: &[u8] = b"obelisk.record.1";
const SLOT_BYTES: usize = 57;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::signer::SignRequest;
    use crate::signer::guard::standing::RecordCall;
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

    fn signs(guard: &mut SlotGuard, sequence: u64, content: u8) -> bool {
        let (epoch, view, phase) = (Epoch(0), View(0), Phase::Commit);
        let slot = Slot { epoch, view, sequence: SequenceNumber(sequence), phase };
        let vote = Vote { slot, digest: Digest([content; 32]) };
        let text = vote::signed_text(&chain(), &vote.to_bytes());
        guard.record(guard.opening(), &RecordCall::Settle).unwrap();
        guard.clear(&[SignRequest { slot: Some(slot), text, ahead: false }]).remove(0).is_ok()
    }

    /// A log that signed 5..=9 and forgot the rest, and its path.
    fn used(dir: &TempDir) -> PathBuf {
        let path = dir.path().join("old");
        let mut guard = SlotGuard::create(&path, chain(), &key(), 2).unwrap();
        assert!((1..=9).all(|n| signs(&mut guard, n, 1)));
        guard.forget_below(SequenceNumber(5)).unwrap();
        guard.change(|_| ()).unwrap();
        path
    }

    /// Aim: what was signed stays signed where the record goes, and the old log never signs again.
    #[test]
    fn a_record_moves_once() {
        let dir = TempDir::new().unwrap();
        let (old, new, file) = (used(&dir), dir.path().join("new"), dir.path().join("file"));
        let running = SlotGuard::open(&old, chain(), &key()).unwrap();
        let locked = export(&old, chain(), &key(), &file).unwrap_err();
        assert!(matches!(locked, HandOverError::Guard(GuardError::Locked { .. })));
        drop(running);
        export(&old, chain(), &key(), &file).unwrap();
        let retired = SlotGuard::open(&old, chain(), &key());
        assert!(matches!(retired, Err(GuardError::Retired { .. })));
        let mut guard = import(&new, chain(), &key(), &file).unwrap();
        assert_eq!(guard.fencing_epoch(), 3);
        drop(guard);
        guard = SlotGuard::open(&new, chain(), &key()).unwrap();
        assert!((5..=9).all(|n| signs(&mut guard, n, 1) && !signs(&mut guard, n, 2)));
        assert!(!signs(&mut guard, 4, 1) && signs(&mut guard, 10, 1));
        drop(guard);
        let twice = import(&new, chain(), &key(), &file);
        assert!(matches!(twice, Err(HandOverError::Known { .. })));
        // On to a third place and back to the first; the first file is too old there by then.
        let back = dir.path().join("back");
        export(&new, chain(), &key(), &back).unwrap();
        drop(import(&old, chain(), &key(), &back).unwrap());
        assert!(import(&new, chain(), &key(), &file).is_err());
        let mut guard = SlotGuard::open(&old, chain(), &key()).unwrap();
        assert!(guard.fencing_epoch() == 4 && !signs(&mut guard, 10, 2));
    }

    /// Aim: a file that cannot be written retires nothing; a log that is retired, as after a crash
    /// before the file was there, is exported again, and a failure says how it stands.
    #[test]
    fn an_export_that_fails_loses_nothing() {
        let dir = TempDir::new().unwrap();
        let old = used(&dir);
        let nowhere = dir.path().join("missing/file");
        assert!(matches!(
            export(&old, chain(), &key(), &nowhere),
            Err(HandOverError::Io { doing: "write", .. })
        ));
        let mut log = SlotGuard::open(&old, chain(), &key()).unwrap();
        assert_eq!(log.state(), State::InUse);
        log.alter(|log| log.header.state = State::Retired).unwrap();
        drop(log);
        let file = dir.path().join("file");
        let first = export(&old, chain(), &key(), &file).unwrap();
        assert_eq!(export(&old, chain(), &key(), &file).unwrap(), first);
        assert_eq!(first.slots.len(), 5);
        let other = dir.path().join("other");
        fs::write(&other, "something").unwrap();
        let refused = export(&old, chain(), &key(), &other);
        assert!(matches!(refused, Err(HandOverError::Occupied { .. })));
    }

    /// Aim: a flipped byte anywhere, another key and another chain are refused.
    #[test]
    fn only_the_own_whole_record_is_imported() {
        let dir = TempDir::new().unwrap();
        let (old, new, file) = (used(&dir), dir.path().join("new"), dir.path().join("file"));
        export(&old, chain(), &key(), &file).unwrap();
        let bytes = fs::read(&file).unwrap();
        let damaged = dir.path().join("damaged");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            fs::write(&damaged, &flipped).unwrap();
            let refused = import(&new, chain(), &key(), &damaged);
            assert!(matches!(refused, Err(HandOverError::Damaged { .. })), "byte {at}");
        }
        let other = PublicKey::new(Algorithm::Ed25519, &[8; 32]).unwrap();
        let refused = import(&new, chain(), &other, &file);
        assert!(matches!(refused, Err(HandOverError::Foreign { what: "key", .. })));
        let refused = import(&new, ChainId(Digest::ZERO), &key(), &file);
        assert!(matches!(refused, Err(HandOverError::Foreign { what: "chain", .. })));
        assert!(!new.exists());
    }
}
