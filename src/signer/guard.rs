//! The slot guard: the durable memory of what a key signed, which makes double signing impossible.
//!
//! ```text
//! requests -> clear -> known slot, same text ----------------------------> ClearedToSign -> key
//!                   -> known slot, other text ---------------------------> Conflict
//!                   -> new slots -> append all -> one sync -> remember --> ClearedToSign -> key
//! ```
//!
//! Place: between the consensus driver's requests and the signing key, in the signer's process or
//! embedded in the node. The log's bytes are drawn in `format`.
//!
//! Invariants:
//! * A `ClearedToSign` for a slot exists only after the slot's record is on the medium.
//! * Per slot at most one text is ever cleared, over restarts and crashes.
//! * A consensus text is cleared only under the slot it states; texts of another chain never.
//! * One process at a time uses a log (exclusive lock on `<log>.lock`).
//! * After a failed write or sync nothing is cleared any more: the state of the file is unknown
//!   (the kernel may have dropped the pages), so the process must stop and open the log again.
//!
//! A lost log is not made again silently: `open` refuses where it is missing. A restored old copy
//! cannot be recognised from the file alone: after each opening, before anything is signed, peers
//! show what they saw of the key (`standing`). A log moves to another signer by `hand_over`. Slots
//! far below the newest signed sequence number, or below what the caller says is stable, are
//! forgotten and refused from then on: forgetting can only refuse too much, never sign twice.

pub mod cleared;
pub mod disk;
pub mod format;
pub mod hand_over;
pub mod inspect;
pub mod standing;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::fs::File;
use std::fs::TryLockError;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use bytes::Bytes;

use crate::signer::SignError;
use crate::signer::SignRequest;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::signature::PublicKey;
use crate::types::vote;
use crate::types::vote::Phase;
use crate::types::vote::Slot;
use crate::types::vote::Vote;
use crate::types::vote_signature::SessionTerms;

use cleared::ClearedToSign;
use disk::LogFile;
use format::Append;
use format::HEADER_BYTES;
use format::Header;
use format::RECORD_BYTES;
use format::State;
use standing::Opening;

/// Why a guard cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// No log where one must be.
    #[error(
        "the slot guard {path} is missing, and this key has signed before: without the record of \
         what it signed it could sign twice; put it back where it was moved, and where it is lost \
         `obelisk signer renew` begins it anew"
    )]
    Missing { path: PathBuf },
    /// A log where none may be.
    #[error(
        "{path} exists already: a guard is made once for a key; open it, or choose another path"
    )]
    Exists { path: PathBuf },
    /// Another process uses it.
    #[error(
        "the slot guard {path} is locked by another process: one key signs in one process; stop \
         the other node or signer first"
    )]
    Locked { path: PathBuf },
    /// The disk refused.
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The bytes are not what was written.
    #[error(
        "the slot guard {path} is damaged at byte {offset}: {reason}. What was signed is not known \
         for certain, so nothing is signed; put no old copy in its place: where no other signer has \
         the key, `obelisk signer renew` puts this file aside and begins a record anew"
    )]
    Damaged { path: PathBuf, offset: u64, reason: &'static str },
    /// The record was handed over.
    #[error(
        "the slot guard {path} is retired: its record was exported, and another signer holds it \
         now; start that one, or export it there and import it here to sign here again"
    )]
    Retired { path: PathBuf },
    /// Only a lost, damaged or stopped log is renewed.
    #[error("the slot guard {path} is in use already; there is nothing to renew")]
    NothingToRenew { path: PathBuf },
    /// A log that does not know what its key signed has nothing to hand over.
    #[error(
        "the slot guard {path} does not know for certain what its key has signed; let it go on \
         first, then export it"
    )]
    NotSettled { path: PathBuf },
    /// A log of another chain or key.
    #[error(
        "the slot guard {path} belongs to another {what}: found {found}, expected {expected}; \
         point the signer at its own log"
    )]
    Foreign { path: PathBuf, what: &'static str, found: Digest, expected: Digest },
}

/// The guard of one key on one chain.
pub struct SlotGuard {
    path: PathBuf,
    file: Box<dyn LogFile>,
    header: Header,
    /// What was signed, above the floor.
    slots: BTreeMap<Slot, Digest>,
    /// The highest sequence number among them, or forgotten.
    newest: Option<SequenceNumber>,
    /// Offset behind the last record.
    end: u64,
    /// Length of the file; zero from `end` on.
    allocated: u64,
    append: Append,
    /// First bytes of every consensus text of this chain.
    text_prefix: Bytes,
    /// This opening of the log, and whether the record was compared since then: see `standing`.
    opening: Opening,
    compared: bool,
    /// Why nothing is cleared any more.
    failed: Option<String>,
    /// Held for the life of the guard.
    _lock: File,
}

impl SlotGuard {
    /// Makes the log of a key that never signed. `fencing_epoch` is 0 for a new key and grows each
    /// time peers allow a key to go on with a new log.
    pub fn create(
        path: &Path,
        chain: ChainId,
        key: &PublicKey,
        fencing_epoch: u64,
    ) -> Result<Self, GuardError> {
        let lock = acquire(path)?;
        if path.exists() {
            return Err(GuardError::Exists { path: path.to_owned() });
        }
        let header = Header {
            fencing_epoch,
            identity: hand_over::draw_identity(path)?,
            chain,
            key: fingerprint(key),
            floor: format::Floor::default(),
            state: State::InUse,
        };
        Self::make(path, lock, header, BTreeMap::new())
    }

    /// Writes a whole log, in the place of any that is there.
    fn make(
        path: &Path,
        lock: File,
        header: Header,
        slots: BTreeMap<Slot, Digest>,
    ) -> Result<Self, GuardError> {
        let mut append = Append::default();
        let (bytes, end) = image(&header, &slots, &mut append);
        let file = disk::replace(path, &bytes).map_err(|source| GuardError::Io {
            doing: "create",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file: Box::new(file),
            text_prefix: vote::signed_text(&header.chain, &[]),
            header,
            newest: newest_of(slots.keys()),
            slots,
            end,
            allocated: bytes.len() as u64,
            append,
            opening: Opening(hand_over::draw_identity(path)?),
            compared: false,
            failed: None,
            _lock: lock,
        })
    }

    /// Opens the log of a key that may have signed. Wipes the remains of an append that a crash cut
    /// short; refuses any other damage.
    pub fn open(path: &Path, chain: ChainId, key: &PublicKey) -> Result<Self, GuardError> {
        let guard = Self::open_any(path, chain, key)?;
        match guard.header.state {
            State::Retired => Err(GuardError::Retired { path: path.to_owned() }),
            State::InUse | State::Unproven | State::Stopped => Ok(guard),
        }
    }

    /// Opens a log, one that was handed over too.
    fn open_any(path: &Path, chain: ChainId, key: &PublicKey) -> Result<Self, GuardError> {
        if !path.exists() {
            return Err(GuardError::Missing { path: path.to_owned() });
        }
        let lock = acquire(path)?;
        let io_error =
            |doing| move |source| GuardError::Io { doing, path: path.to_owned(), source };
        let damaged = |damage: format::Damage| GuardError::Damaged {
            path: path.to_owned(),
            offset: damage.offset,
            reason: damage.reason,
        };
        let file = File::options().read(true).write(true).open(path).map_err(io_error("open"))?;
        if file.metadata().map_err(io_error("read"))?.len() > limits::GUARD_FILE_BYTES_MAX {
            let reason = "the file is larger than any guard's log";
            return Err(damaged(format::Damage { offset: 0, reason }));
        }
        let bytes = fs::read(path).map_err(io_error("read"))?;
        let header = Header::parse(&bytes).map_err(damaged)?;
        check_owner(path, &header, chain, key)?;
        let scan = format::scan(&bytes, &header).map_err(damaged)?;
        let mut guard = Self {
            path: path.to_owned(),
            file: Box::new(file),
            text_prefix: vote::signed_text(&header.chain, &[]),
            header,
            slots: BTreeMap::new(),
            newest: None,
            end: scan.end,
            allocated: bytes.len() as u64,
            append: scan.last,
            opening: Opening(hand_over::draw_identity(path)?),
            compared: false,
            failed: None,
            _lock: lock,
        };
        guard.remember(scan.records)?;
        if scan.torn || !guard.allocated.is_multiple_of(RECORD_BYTES as u64) {
            guard.wipe_tail().map_err(io_error("wipe the unfinished end of"))?;
        }
        Ok(guard)
    }

    /// Opens the log, or makes it where there is none and `has_signed` is false. `has_signed` is
    /// what the node's own data says: true as soon as it holds anything that this key voted for.
    pub fn open_or_create(
        path: &Path,
        chain: ChainId,
        key: &PublicKey,
        has_signed: bool,
    ) -> Result<Self, GuardError> {
        if !path.exists() && !has_signed {
            return Self::create(path, chain, key, 0);
        }
        Self::open(path, chain, key)
    }

    /// Clears the text of a session key: at most one per first sequence number. No caller can ask
    /// for it; whoever holds a session key signs without this guard.
    pub fn clear_session(&mut self, terms: &SessionTerms) -> Result<ClearedToSign, SignError> {
        let text = terms.text(&self.header.chain);
        let request = SignRequest { slot: Some(terms.slot()), text, ahead: false };
        let cleared = self.clear_checked(std::slice::from_ref(&request), |_, _| Ok(()));
        cleared.into_iter().next().expect("one answer per request")
    }

    /// Decides every request, makes all new slots durable with one sync, and only then hands out
    /// the permissions, in the order of the requests.
    pub fn clear(&mut self, requests: &[SignRequest]) -> Vec<Result<ClearedToSign, SignError>> {
        self.clear_checked(requests, Self::check_label)
    }

    fn clear_checked(
        &mut self,
        requests: &[SignRequest],
        check: impl Fn(&Self, &SignRequest) -> Result<(), SignError>,
    ) -> Vec<Result<ClearedToSign, SignError>> {
        self.forget_old();
        let mut fresh = BTreeMap::new();
        let decisions: Vec<_> = requests
            .iter()
            .map(|request| {
                check(self, request)?;
                self.decide(request, &mut fresh)
            })
            .collect();
        if self.failed.is_none() && !fresh.is_empty() {
            match self.append(&fresh) {
                Ok(()) => {
                    self.newest = self.newest.max(newest_of(fresh.keys()));
                    // One by one: `append` would rebuild the whole map.
                    self.slots.extend(fresh);
                }
                Err(error) => {
                    self.failed = Some(format!(
                        "cannot write {}: {error}; stop this process, repair the disk, start again",
                        self.path.display()
                    ));
                }
            }
        }
        if let Some(reason) = &self.failed {
            let refuse = |_| Err(SignError::Guard { reason: reason.clone() });
            return requests.iter().map(refuse).collect();
        }
        decisions
            .into_iter()
            .zip(requests)
            .map(|(decision, request)| decision.map(|()| ClearedToSign::new(request)))
            .collect()
    }

    /// Forgets and from now on refuses the sequence-bound slots below `sequence`. Rewrites the log
    /// where it has grown above its limit.
    pub fn forget_below(&mut self, sequence: SequenceNumber) -> Result<(), SignError> {
        if let Some(reason) = &self.failed {
            return Err(SignError::Guard { reason: reason.clone() });
        }
        if sequence <= self.header.floor.sequence {
            return Ok(());
        }
        // Kept in memory alone until the next rewrite: after a crash the records are still there.
        self.header.floor.sequence = sequence;
        self.slots.retain(|slot, _| is_view_bound(slot) || slot.sequence >= sequence);
        let live = (self.slots.len() * RECORD_BYTES) as u64;
        if self.end > limits::GUARD_COMPACT_BYTES && live < self.end / 2 {
            self.change(|_| ())?;
        }
        Ok(())
    }

    /// Drawn when the log was made: tells it from every other guard of the same key.
    pub fn identity(&self) -> [u8; 16] {
        self.header.identity
    }

    /// The network whose texts are signed.
    pub fn chain(&self) -> ChainId {
        self.header.chain
    }

    /// See `create`.
    pub fn fencing_epoch(&self) -> u64 {
        self.header.fencing_epoch
    }

    /// The newest sequence number that was signed for.
    pub fn newest(&self) -> SequenceNumber {
        self.newest.unwrap_or_default()
    }

    /// Nothing is signed below this sequence number any more.
    pub fn floor(&self) -> SequenceNumber {
        self.header.floor.sequence
    }

    /// Slots held in memory.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True where no slot is held.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Why nothing is cleared any more, where a write failed.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// True where this guard was made for that key.
    pub fn is_for(&self, key: &PublicKey) -> bool {
        self.header.key == fingerprint(key)
    }

    fn decide(
        &self,
        request: &SignRequest,
        fresh: &mut BTreeMap<Slot, Digest>,
    ) -> Result<(), SignError> {
        let Some(slot) = request.slot else {
            return Ok(());
        };
        if let Some(error) = self.silence() {
            return Err(error);
        }
        let digest = Digest::of(&[&request.text]);
        if let Some(known) = self.slots.get(&slot) {
            return if *known == digest { Ok(()) } else { Err(SignError::Conflict { slot }) };
        }
        if self.is_forgotten(&slot) {
            return Err(SignError::Forgotten { slot, floor: self.header.floor.sequence });
        }
        let full = self.slots.len() + fresh.len() >= limits::GUARD_SLOTS_MAX
            || fresh.len() >= limits::GUARD_APPEND_RECORDS_MAX;
        match fresh.entry(slot) {
            Entry::Occupied(entry) if *entry.get() == digest => Ok(()),
            Entry::Occupied(_) => Err(SignError::Conflict { slot }),
            Entry::Vacant(_) if full => Err(SignError::Guard {
                reason: format!(
                    "{} slots are held or asked for at once; forget those below the stable \
                     checkpoint, or ask in smaller lots",
                    self.slots.len() + fresh.len()
                ),
            }),
            Entry::Vacant(entry) => {
                entry.insert(digest);
                Ok(())
            }
        }
    }

    fn is_forgotten(&self, slot: &Slot) -> bool {
        self.header.floor.covers(slot)
    }

    /// A vote must come with the slot that it states: a wrong label would let two votes for one
    /// slot pass. Texts that are no consensus texts of this chain are not signed: a session's or a
    /// bundle's would open a way around this guard.
    fn check_label(&self, request: &SignRequest) -> Result<(), SignError> {
        let refuse = |reason| Err(SignError::Mislabelled { reason });
        let Some(body) = request.text.strip_prefix(&self.text_prefix[..]) else {
            return refuse("the text is no consensus text of this chain");
        };
        if request.slot.is_some_and(|slot| slot.phase == Phase::Session) {
            return refuse("a session key is not asked for");
        }
        match Vote::from_bytes(&request.text.slice_ref(body)) {
            Ok(vote) if request.slot != Some(vote.slot) => {
                refuse("a vote came with another slot than it states, or with none")
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Forgets what no correct replica is asked to sign any more, when there is much of it.
    fn forget_old(&mut self) {
        let newest = self.newest.unwrap_or_default().0;
        let floor = newest.saturating_sub(limits::GUARD_SEQUENCES_KEPT);
        let step = self.header.floor.sequence.0 + limits::WINDOW_MAX;
        if self.slots.len() >= limits::GUARD_SLOTS_KEPT && floor >= step {
            // A failure is kept in `failed`, which the caller looks at.
            let _ = self.forget_below(SequenceNumber(floor));
        }
    }

    fn append(&mut self, fresh: &BTreeMap<Slot, Digest>) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(fresh.len() * RECORD_BYTES);
        let mut append = self.append.following();
        for record in fresh {
            let offset = self.end + bytes.len() as u64;
            format::write_record(&mut bytes, &self.header, &mut append, offset, record);
        }
        let end = self.end + bytes.len() as u64;
        if end > self.allocated {
            let allocated = preallocated_len(end);
            let zeros = vec![0; usize::try_from(allocated - self.allocated).unwrap_or(0)];
            self.file.write_at(&zeros, self.allocated)?;
            self.allocated = allocated;
        }
        self.file.write_at(&bytes, self.end)?;
        self.file.sync()?;
        (self.end, self.append) = (end, append);
        Ok(())
    }

    fn remember(&mut self, records: Vec<(Slot, Digest)>) -> Result<(), GuardError> {
        for (i, (slot, digest)) in records.into_iter().enumerate() {
            self.newest = self.newest.max(newest_of(std::iter::once(&slot)));
            if self.slots.insert(slot, digest).is_some_and(|before| before != digest) {
                return Err(GuardError::Damaged {
                    path: self.path.clone(),
                    offset: (HEADER_BYTES + i * RECORD_BYTES) as u64,
                    reason: "a second record for one slot with another text",
                });
            }
        }
        Ok(())
    }

    /// Cuts the file behind the last whole record and fills it with zeros again, so that remains of
    /// the unfinished append can never be taken for part of the next one.
    fn wipe_tail(&mut self) -> io::Result<()> {
        self.file.set_len(self.end)?;
        self.allocated = preallocated_len(self.end);
        let zeros = vec![0; usize::try_from(self.allocated - self.end).unwrap_or(0)];
        self.file.write_at(&zeros, self.end)?;
        self.file.sync()
    }

    /// Replaces the log by one with the live slots only and a durable floor.
    fn rewrite(&mut self) -> io::Result<()> {
        let views: Vec<Slot> = self.slots.keys().filter(|s| is_view_bound(s)).copied().collect();
        if let Some(excess) = views.len().checked_sub(limits::GUARD_VIEW_SLOTS_KEPT) {
            let oldest = views[excess];
            let floor = &mut self.header.floor;
            (floor.epoch, floor.view) = (oldest.epoch, oldest.view);
            let kept = (oldest.epoch, oldest.view);
            self.slots.retain(|slot, _| !is_view_bound(slot) || (slot.epoch, slot.view) >= kept);
        }
        let mut append = Append::default();
        let (bytes, end) = image(&self.header, &self.slots, &mut append);
        self.file = Box::new(disk::replace(&self.path, &bytes)?);
        (self.end, self.allocated, self.append) = (end, bytes.len() as u64, append);
        Ok(())
    }
}

impl std::fmt::Debug for SlotGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotGuard")
            .field("path", &self.path)
            .field("identity", &hex::encode(self.header.identity))
            .field("slots", &self.slots.len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// A whole log in memory, zeros behind the records included, and the offset of their end.
fn image(header: &Header, slots: &BTreeMap<Slot, Digest>, append: &mut Append) -> (Vec<u8>, u64) {
    let mut bytes = header.to_bytes();
    for (i, record) in slots.iter().enumerate() {
        if i.is_multiple_of(limits::GUARD_APPEND_RECORDS_MAX) {
            *append = append.following();
        }
        let offset = bytes.len() as u64;
        format::write_record(&mut bytes, header, append, offset, record);
    }
    let end = bytes.len() as u64;
    bytes.resize(usize::try_from(preallocated_len(end)).unwrap_or(bytes.len()), 0);
    (bytes, end)
}

/// Length of a file whose records end at `end`.
fn preallocated_len(end: u64) -> u64 {
    (end / PREALLOCATE_BYTES + 1) * PREALLOCATE_BYTES
}

/// Slots of view changes have sequence 0 and are ordered by view.
fn is_view_bound(slot: &Slot) -> bool {
    matches!(slot.phase, Phase::ViewChange | Phase::NewView)
}

/// A session is certified long before its sequence numbers come: it does not count.
fn newest_of<'a>(slots: impl Iterator<Item = &'a Slot>) -> Option<SequenceNumber> {
    slots.filter(|slot| slot.phase != Phase::Session).map(|slot| slot.sequence).max()
}

fn fingerprint(key: &PublicKey) -> Digest {
    Digest::of(&[&key.to_bytes()])
}

fn acquire(path: &Path) -> Result<File, GuardError> {
    let io_error =
        |source| GuardError::Io { doing: "lock the slot guard", path: path.to_owned(), source };
    let lock = disk::lock_file(path).map_err(io_error)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(GuardError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io_error(source)),
    }
}

fn check_owner(
    path: &Path,
    header: &Header,
    chain: ChainId,
    key: &PublicKey,
) -> Result<(), GuardError> {
    let foreign = |what, found, expected| {
        Err(GuardError::Foreign { path: path.to_owned(), what, found, expected })
    };
    if header.chain != chain {
        return foreign("chain", header.chain.0, chain.0);
    }
    if header.key != fingerprint(key) {
        return foreign("key", header.key, fingerprint(key));
    }
    Ok(())
}

/// Tests take small steps, so that they cross many.
const PREALLOCATE_BYTES: u64 = if cfg!(test) { 2048 } else { limits::GUARD_PREALLOCATE_BYTES };

#[cfg(test)]
mod tests;
