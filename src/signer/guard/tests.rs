//! The slot guard against a model, torn and damaged logs, and failing disks.

use std::sync::Arc;
use std::sync::Mutex;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::crypto::CryptoError;
use crate::crypto::SigningKey;
use crate::signer::Signer;
use crate::signer::embedded::EmbeddedSigner;
use crate::signer::guard::standing::RecordCall;
use crate::types::ids::Epoch;
use crate::types::ids::View;
use crate::types::signature::Algorithm;
use crate::types::signature::Signature;

fn chain() -> ChainId {
    ChainId(Digest::of(&[b"a chain"]))
}

fn public_key() -> PublicKey {
    PublicKey::new(Algorithm::Ed25519, &[7; 32]).unwrap()
}

fn slot(view: u64, sequence: u64, phase: Phase) -> Slot {
    Slot { epoch: Epoch(0), view: View(view), sequence: SequenceNumber(sequence), phase }
}

fn vote_request(slot: Slot, content: u8) -> SignRequest {
    let vote = Vote { slot, digest: Digest([content; 32]) };
    SignRequest {
        slot: Some(slot),
        text: vote::signed_text(&chain(), &vote.to_bytes()),
        ahead: false,
    }
}

fn prepare(sequence: u64, content: u8) -> SignRequest {
    vote_request(slot(0, sequence, Phase::Prepare), content)
}

fn create(dir: &TempDir) -> SlotGuard {
    settled(SlotGuard::create(&dir.path().join("guard"), chain(), &public_key(), 0).unwrap())
}

fn open(dir: &TempDir) -> Result<SlotGuard, GuardError> {
    SlotGuard::open(&dir.path().join("guard"), chain(), &public_key()).map(settled)
}

/// As after a comparison that found nothing.
fn settled(mut guard: SlotGuard) -> SlotGuard {
    guard.record(guard.opening(), &RecordCall::Settle).unwrap();
    guard
}

fn cleared(guard: &mut SlotGuard, request: &SignRequest) -> bool {
    guard.clear(std::slice::from_ref(request)).remove(0).is_ok()
}

/// Aim: one slot, one text, across reopening; the same text is cleared again without a new record.
#[test]
fn a_second_text_for_a_slot_is_refused_for_ever() {
    let dir = TempDir::new().unwrap();
    let mut guard = create(&dir);
    assert!(cleared(&mut guard, &prepare(1, 1)));
    let end = guard.end;
    assert!(cleared(&mut guard, &prepare(1, 1)));
    assert_eq!(guard.end, end);
    let refused = guard.clear(&[prepare(1, 2), prepare(2, 2), prepare(2, 3)]);
    assert!(matches!(refused[0], Err(SignError::Conflict { .. })));
    assert!(refused[1].is_ok());
    assert!(matches!(refused[2], Err(SignError::Conflict { .. })));
    drop(guard);
    let mut guard = open(&dir).unwrap();
    assert_eq!(guard.len(), 2);
    assert!(cleared(&mut guard, &prepare(1, 1)));
    assert!(!cleared(&mut guard, &prepare(1, 2)));
    assert!(!cleared(&mut guard, &prepare(2, 3)));
}

/// Aim: a vote cannot pass without its slot or under another one; no text but this chain's passes.
#[test]
fn a_wrong_label_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut guard = create(&dir);
    let unlabelled = SignRequest { slot: None, ..prepare(1, 1) };
    let wrong = SignRequest { slot: Some(slot(0, 2, Phase::Prepare)), ..prepare(1, 1) };
    let foreign = SignRequest { text: Bytes::from_static(b"anything"), ..prepare(1, 1) };
    let free =
        SignRequest { slot: None, text: Bytes::from_static(b"obelisk.status.1"), ahead: false };
    for request in [unlabelled, wrong, foreign, free] {
        let refused = guard.clear(&[request]).remove(0);
        assert!(matches!(refused, Err(SignError::Mislabelled { .. })), "{refused:?}");
    }
    assert!(guard.is_empty());
    let status =
        SignRequest { slot: None, text: vote::signed_text(&chain(), b"\x20status"), ahead: false };
    assert!(cleared(&mut guard, &status));
    assert!(guard.is_empty());
}

/// Aim: a missing, second, foreign or locked log is refused with its own error.
#[test]
fn a_guard_opens_only_its_own_log() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("guard");
    assert!(matches!(open(&dir), Err(GuardError::Missing { .. })));
    let open_or_create =
        |has_signed| SlotGuard::open_or_create(&path, chain(), &public_key(), has_signed);
    assert!(matches!(open_or_create(true), Err(GuardError::Missing { .. })));
    let guard = open_or_create(false).unwrap();
    assert!(matches!(open(&dir), Err(GuardError::Locked { .. })));
    drop(guard);
    let second = SlotGuard::create(&path, chain(), &public_key(), 0);
    assert!(matches!(second, Err(GuardError::Exists { .. })));
    let other_chain = SlotGuard::open(&path, ChainId(Digest::ZERO), &public_key());
    assert!(matches!(other_chain, Err(GuardError::Foreign { what: "chain", .. })));
    let other_key = PublicKey::new(Algorithm::Ed25519, &[8; 32]).unwrap();
    let other_key = SlotGuard::open(&path, chain(), &other_key);
    assert!(matches!(other_key, Err(GuardError::Foreign { what: "key", .. })));
    fs::write(&path, b"not a guard").unwrap();
    assert!(matches!(open(&dir), Err(GuardError::Damaged { offset: 0, .. })));
}

/// Three appends of 2, 3 and 2 records; returns the file and the ends of the appends.
fn three_appends(dir: &TempDir) -> (Vec<u8>, Vec<usize>) {
    let mut guard = create(dir);
    let mut ends = Vec::new();
    for sequences in [1..3, 3..6, 6..8] {
        let requests: Vec<_> = sequences.map(|n| prepare(n, 1)).collect();
        assert!(guard.clear(&requests).iter().all(Result::is_ok));
        ends.push(usize::try_from(guard.end).unwrap());
    }
    let mut file = fs::read(dir.path().join("guard")).unwrap();
    file.truncate(ends[2] + 4 * RECORD_BYTES);
    (file, ends)
}

fn open_bytes(dir: &TempDir, bytes: &[u8]) -> Result<SlotGuard, GuardError> {
    fs::write(dir.path().join("guard"), bytes).unwrap();
    open(dir)
}

/// Aim: cut or zeroed from any byte of the last append on, the log opens with every earlier record,
/// and the guard works on.
#[test]
fn a_tail_torn_at_any_byte_keeps_all_synced_records() {
    let dir = TempDir::new().unwrap();
    let (file, ends) = three_appends(&dir);
    for cut in ends[1]..ends[2] {
        for zeroed in [false, true] {
            let mut torn = file[..cut].to_vec();
            if zeroed {
                torn.resize(file.len(), 0);
            }
            let mut guard = open_bytes(&dir, &torn).unwrap();
            assert_eq!(guard.len(), 5 + (cut - ends[1]) / RECORD_BYTES, "cut at {cut}");
            assert!(!cleared(&mut guard, &prepare(5, 9)));
            assert!(cleared(&mut guard, &prepare(9, 1)));
            drop(guard);
            assert!(!cleared(&mut open(&dir).unwrap(), &prepare(9, 2)));
        }
    }
}

/// Aim: the pages of one append may reach the disk in any order; the last append alone may miss
/// any of its records.
#[test]
fn a_hole_is_allowed_in_the_last_append_only() {
    let dir = TempDir::new().unwrap();
    let (file, ends) = three_appends(&dir);
    for at in (HEADER_BYTES..ends[2]).step_by(RECORD_BYTES) {
        let mut holed = file.clone();
        holed[at..at + RECORD_BYTES].fill(0);
        match open_bytes(&dir, &holed) {
            Ok(guard) => {
                assert!(at >= ends[1], "a hole at {at} was accepted");
                assert_eq!(guard.len(), (at - HEADER_BYTES) / RECORD_BYTES);
            }
            Err(error) => {
                assert!(at < ends[1], "{error}");
                assert!(matches!(error, GuardError::Damaged { .. }));
            }
        }
    }
    let mut wide = file;
    wide[ends[1] - RECORD_BYTES..ends[1] + RECORD_BYTES].fill(0);
    assert!(matches!(open_bytes(&dir, &wide), Err(GuardError::Damaged { .. })));
}

/// Aim: a flipped bit anywhere in header or records is damage, named with file and offset.
#[test]
fn a_flipped_bit_is_damage() {
    let dir = TempDir::new().unwrap();
    let (file, ends) = three_appends(&dir);
    for at in 0..ends[2] {
        let mut flipped = file.clone();
        flipped[at] ^= 0x10;
        match open_bytes(&dir, &flipped) {
            Err(GuardError::Damaged { offset, .. }) => {
                let record = at.saturating_sub(HEADER_BYTES) / RECORD_BYTES * RECORD_BYTES;
                let expected = if at < HEADER_BYTES { 0 } else { HEADER_BYTES + record };
                assert_eq!(offset, expected as u64, "flipped byte {at}");
            }
            other => panic!("flipped byte {at}: {other:?}"),
        }
    }
}

/// Aim: old slots are refused after `forget_below`, also when the log was rewritten and reopened.
#[test]
fn forgotten_slots_are_refused() {
    let dir = TempDir::new().unwrap();
    let mut guard = create(&dir);
    let view_change = vote_request(slot(3, 0, Phase::ViewChange), 1);
    assert!(cleared(&mut guard, &view_change));
    for n in 1..=20 {
        assert!(cleared(&mut guard, &prepare(n, 1)));
    }
    guard.forget_below(SequenceNumber(16)).unwrap();
    guard.forget_below(SequenceNumber(4)).unwrap();
    assert_eq!(guard.len(), 6);
    guard.rewrite().unwrap();
    drop(guard);
    let mut guard = open(&dir).unwrap();
    assert_eq!(guard.len(), 6);
    let refused = guard.clear(&[prepare(15, 1)]).remove(0);
    assert!(matches!(refused, Err(SignError::Forgotten { .. })));
    assert!(!cleared(&mut guard, &prepare(16, 2)));
    assert!(!cleared(&mut guard, &vote_request(slot(3, 0, Phase::ViewChange), 2)));
    assert!(cleared(&mut guard, &view_change));
}

/// Aim: memory and log stay bounded over many sequences without a word from the caller, the newest
/// slots stay guarded, and old views are refused as a whole.
#[test]
fn the_log_is_rewritten_when_it_grows() {
    let dir = TempDir::new().unwrap();
    let mut guard = create(&dir);
    let views = limits::GUARD_VIEW_SLOTS_KEPT as u64 + 10;
    let changes: Vec<_> =
        (0..views).map(|v| vote_request(slot(v, 0, Phase::ViewChange), 1)).collect();
    assert!(guard.clear(&changes).iter().all(Result::is_ok));
    let file_max =
        limits::GUARD_COMPACT_BYTES + (2 * limits::GUARD_SLOTS_KEPT * RECORD_BYTES) as u64;
    for lot in 0..40 {
        let first = lot * 4000;
        let requests: Vec<_> = (first..first + 4000).map(|n| prepare(n, 1)).collect();
        assert!(guard.clear(&requests).iter().all(Result::is_ok));
        assert!(guard.len() < limits::GUARD_SLOTS_KEPT + 4000);
        assert!(guard.end < file_max);
    }
    drop(guard);
    let mut guard = open(&dir).unwrap();
    let refused = guard.clear(&changes[9..11]);
    assert!(matches!(refused[0], Err(SignError::Forgotten { .. })));
    assert!(refused[1].is_ok());
    for guarded in 160_000 - limits::GUARD_SEQUENCES_KEPT..160_000 {
        assert!(!cleared(&mut guard, &prepare(guarded, 2)));
    }
    assert!(!cleared(&mut guard, &prepare(1, 2)));
}

/// A log that notes what is done to it, and fails from the n-th operation on.
struct Noting {
    file: File,
    events: Arc<Mutex<Vec<&'static str>>>,
    operations_left: usize,
}

impl Noting {
    fn step(&mut self, event: &'static str) -> io::Result<()> {
        if self.operations_left == 0 {
            return Err(io::Error::other("injected"));
        }
        self.operations_left -= 1;
        self.events.lock().unwrap().push(event);
        Ok(())
    }
}

impl LogFile for Noting {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.step("write")?;
        self.file.write_at(bytes, offset)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.step("set_len")?;
        LogFile::set_len(&mut self.file, len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.step("sync")?;
        self.file.sync()
    }
}

fn note(guard: &mut SlotGuard, operations_left: usize) -> Arc<Mutex<Vec<&'static str>>> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let file = File::options().write(true).open(&guard.path).unwrap();
    guard.file = Box::new(Noting { file, events: events.clone(), operations_left });
    events
}

/// A key that looks at the log when it is asked to sign.
struct WatchingKey {
    public: PublicKey,
    path: PathBuf,
    events: Arc<Mutex<Vec<&'static str>>>,
}

impl SigningKey for WatchingKey {
    fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError> {
        let digest = Digest::of(&[message]);
        let log = fs::read(&self.path).unwrap();
        assert!(log.windows(32).any(|bytes| bytes == digest.as_bytes()), "signed before recorded");
        self.events.lock().unwrap().push("sign");
        Ok(Signature([0; 64]))
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }
}

/// Aim: write, then one sync for the lot, then the key is used.
#[test]
fn the_record_is_durable_before_the_key_is_used() {
    let dir = TempDir::new().unwrap();
    let mut guard = create(&dir);
    let events = note(&mut guard, usize::MAX);
    let path = guard.path.clone();
    let key = WatchingKey { public: public_key(), path, events: events.clone() };
    let signer = EmbeddedSigner::new(guard, Arc::new(key)).unwrap();
    let signed = signer.sign(&[prepare(1, 1), prepare(2, 1), prepare(1, 2)]);
    assert!(signed[0].is_ok() && signed[1].is_ok() && signed[2].is_err());
    assert_eq!(*events.lock().unwrap(), ["write", "sync", "sign", "sign"]);
}

/// A key whose signature says which text it signed.
struct EchoKey(PublicKey);

impl SigningKey for EchoKey {
    fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError> {
        let digest = Digest::of(&[message]).0;
        Ok(Signature([digest, digest].concat().try_into().unwrap()))
    }

    fn public_key(&self) -> &PublicKey {
        &self.0
    }
}

/// Aim: threads that ask for different texts on the same slots get one text signed per slot.
#[test]
fn racing_threads_get_one_text_per_slot() {
    let dir = TempDir::new().unwrap();
    let key = Arc::new(EchoKey(public_key()));
    let signer = EmbeddedSigner::new(create(&dir), key).unwrap();
    let signed = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for content in 0..4u8 {
            let (signer, signed) = (&signer, &signed);
            scope.spawn(move || {
                for sequence in 1..30 {
                    for signature in
                        signer.sign(&[prepare(sequence, content)]).into_iter().flatten()
                    {
                        let other = signed.lock().unwrap().insert(sequence, signature.clone());
                        assert!(other.is_none_or(|other| other == signature));
                    }
                }
            });
        }
    });
    assert_eq!(signed.into_inner().unwrap().len(), 29);
}

/// Aim: after a failed write or sync nothing is cleared any more, not even what was signed before.
#[test]
fn a_failed_write_or_sync_stops_the_guard() {
    for operations in [0, 1] {
        let dir = TempDir::new().unwrap();
        let mut guard = create(&dir);
        assert!(cleared(&mut guard, &prepare(1, 1)));
        note(&mut guard, operations);
        let free = SignRequest { slot: None, text: Bytes::from_static(b"free"), ahead: false };
        for lot in [vec![prepare(2, 1), free.clone()], vec![prepare(1, 1)], vec![free]] {
            for refused in guard.clear(&lot) {
                assert!(matches!(refused, Err(SignError::Guard { .. })));
            }
        }
        assert!(guard.forget_below(SequenceNumber(9)).is_err());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Clear(Vec<(u64, u64, u8, bool)>),
    Forget(u64),
    Rewrite,
    Reopen,
    Tear(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let request = (0..4u64, 0..12u64, 0..3u8, any::<bool>());
    let step = prop_oneof![
        6 => proptest::collection::vec(request, 1..6).prop_map(Step::Clear),
        1 => (0..12u64).prop_map(Step::Forget),
        1 => Just(Step::Rewrite),
        1 => Just(Step::Reopen),
        1 => (1..200usize).prop_map(Step::Tear),
    ];
    proptest::collection::vec(step, 1..40)
}

/// Leaves the beginning of an append that never finished behind the records.
fn tear(path: &Path, end: u64, len: usize) {
    let mut bytes = fs::read(path).unwrap();
    let header = Header::parse(&bytes).unwrap();
    let mut append = format::scan(&bytes, &header).unwrap().last.following();
    let mut torn = Vec::new();
    for n in 0..4 {
        let offset = end + torn.len() as u64;
        let record = (slot(99, 99 + n, Phase::Commit), Digest([0xEE; 32]));
        format::write_record(&mut torn, &header, &mut append, offset, (&record.0, &record.1));
    }
    let end = usize::try_from(end).unwrap();
    bytes.resize(bytes.len().max(end + len), 0);
    bytes[end..end + len].copy_from_slice(&torn[..len]);
    fs::write(path, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Aim: over any run of requests, forgetting, rewriting, restarts and torn appends, no slot
    /// ever has two texts, and a text that was cleared stays cleared until it is forgotten.
    #[test]
    fn the_guard_agrees_with_a_model(steps in steps()) {
        let dir = TempDir::new().unwrap();
        let mut guard = create(&dir);
        let mut signed: BTreeMap<Slot, Digest> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Clear(requests) => {
                    let requests: Vec<_> = requests
                        .into_iter()
                        .map(|(view, sequence, content, commit)| {
                            let phase = if commit { Phase::Commit } else { Phase::Prepare };
                            vote_request(slot(view, sequence, phase), content)
                        })
                        .collect();
                    let results = guard.clear(&requests);
                    for (request, result) in requests.iter().zip(results) {
                        let (slot, digest) =
                            (request.slot.unwrap(), Digest::of(&[&request.text]));
                        match result {
                            Ok(_) => {
                                prop_assert_eq!(*signed.entry(slot).or_insert(digest), digest);
                            }
                            Err(SignError::Conflict { .. }) => {
                                prop_assert_ne!(signed.get(&slot).unwrap(), &digest);
                            }
                            Err(SignError::Forgotten { floor, .. }) => {
                                prop_assert!(slot.sequence < floor);
                            }
                            Err(error) => prop_assert!(false, "{}", error),
                        }
                    }
                }
                Step::Forget(sequence) => guard.forget_below(SequenceNumber(sequence)).unwrap(),
                Step::Rewrite => guard.rewrite().unwrap(),
                Step::Reopen => {
                    drop(guard);
                    guard = open(&dir).unwrap();
                }
                Step::Tear(len) => {
                    let (path, end) = (guard.path.clone(), guard.end);
                    drop(guard);
                    tear(&path, end, len);
                    guard = open(&dir).unwrap();
                }
            }
        }
    }

    /// Aim: no bytes make opening panic.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let dir = TempDir::new().unwrap();
        let (mut file, _) = three_appends(&dir);
        let _ = open_bytes(&dir, &bytes);
        file.truncate(HEADER_BYTES);
        file.extend_from_slice(&bytes);
        let _ = open_bytes(&dir, &file);
    }
}
