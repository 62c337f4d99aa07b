//! Modes of signing over a token in memory: bundles, outages, restarts, lost session keys.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::crypto::Check;
use crate::crypto::CryptoError;
use crate::crypto::SharedSigningKey;
use crate::crypto::routing::Crypto;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::ids::Epoch;
use crate::types::ids::View;
use crate::types::merkle;
use crate::types::signature::Algorithm;
use crate::types::signature::Signature;
use crate::types::vote;
use crate::types::vote::Phase;
use crate::types::vote::Slot;
use crate::types::vote::Vote;
use crate::types::vote_signature::Authority;
use crate::types::vote_signature::SessionTerms;
use crate::types::vote_signature::bundle_text;

/// A token in memory: counts its signatures, and can be away.
struct Token {
    key: SharedSigningKey,
    signed: AtomicUsize,
    away: AtomicBool,
}

impl SigningKey for Token {
    fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError> {
        if self.away.load(Ordering::SeqCst) {
            let reason = "the token is away".to_owned();
            return Err(CryptoError::Sign { provider: "token", reason });
        }
        self.signed.fetch_add(1, Ordering::SeqCst);
        self.key.sign(message)
    }

    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }
}

struct Bench {
    dir: TempDir,
    token: Arc<Token>,
    crypto: Arc<Crypto>,
    chain: ChainId,
}

/// As after a comparison that found nothing.
fn settled(signer: EmbeddedSigner) -> EmbeddedSigner {
    signer.record(signer.opening(), &RecordCall::Settle).unwrap();
    signer
}

const LENGTH: u64 = limits::SESSION_SEQUENCES_MIN;

impl Bench {
    fn new() -> Self {
        let crypto = Arc::new(Crypto::portable());
        let pkcs8 = crypto.generate(Algorithm::EcdsaP256).unwrap();
        let key = crypto.load(Algorithm::EcdsaP256, &pkcs8).unwrap();
        let (signed, away) = (AtomicUsize::new(0), AtomicBool::new(false));
        let token = Arc::new(Token { key, signed, away });
        let chain = ChainId(Digest([7; 32]));
        Self { dir: TempDir::new().unwrap(), token, crypto, chain }
    }

    fn plan(&self) -> SessionPlan {
        SessionPlan {
            folder: self.dir.path().join("v.sessions"),
            epoch: Epoch(0),
            length: LENGTH,
            algorithm: Algorithm::Ed25519,
            crypto: self.crypto.clone(),
        }
    }

    fn start(&self, mode: Mode) -> EmbeddedSigner {
        let log = self.dir.path().join("v.slots");
        let made = log.exists();
        settled(EmbeddedSigner::start(mode, &log, self.chain, self.token.clone(), made).unwrap())
    }

    /// Once the thread of the signer before has let go of the guard.
    fn start_again(&self) -> EmbeddedSigner {
        let log = self.dir.path().join("v.slots");
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let (mode, key) = (Mode::Delegated(self.plan()), self.token.clone());
            match EmbeddedSigner::start(mode, &log, self.chain, key, true) {
                Ok(signer) => return settled(signer),
                Err(StartError::Guard(GuardError::Locked { .. })) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn request(&self, sequence: u64, content: u8) -> SignRequest {
        let (epoch, view, sequence) = (Epoch(0), View(0), SequenceNumber(sequence));
        let slot = Slot { epoch, view, sequence, phase: Phase::Commit };
        let body = Vote { slot, digest: Digest([content; 32]) }.to_bytes();
        SignRequest { slot: Some(slot), text: vote::signed_text(&self.chain, &body), ahead: false }
    }

    fn holds(&self, signature: &VoteSignature, request: &SignRequest) -> bool {
        let (epoch, stable) = (Epoch(0), SequenceNumber(0));
        let key = self.token.public_key();
        let by = Authority { chain: &self.chain, epoch, key, stable };
        let bound = request.slot.map_or(Bound::Free, |slot| slot.bound());
        let checks = signature.checks(&by, &request.text, bound).unwrap();
        checks.all().all(|check| self.crypto.verify(&Check::from(check)))
    }

    fn sign_one(&self, signer: &EmbeddedSigner, sequence: u64) -> Result<(), SignError> {
        let request = self.request(sequence, 1);
        let signature = signer.sign(std::slice::from_ref(&request)).remove(0)?;
        assert!(self.holds(&signature, &request), "{signature:?} at {sequence}");
        Ok(())
    }

    fn token_signatures(&self) -> usize {
        self.token.signed.load(Ordering::SeqCst)
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn certified(signer: &EmbeddedSigner) -> usize {
    signer.sessions().iter().filter(|(_, _, certified)| *certified).count()
}

/// Strict: any number of votes costs one signature of the token per bundle, each vote holds alone,
/// a refused one costs its neighbours nothing.
#[test]
fn a_bundle_is_one_signature_of_the_token() {
    let bench = Bench::new();
    let signer = bench.start(Mode::Strict);
    let mut requests: Vec<_> = (1..=150).map(|n| bench.request(n, 1)).collect();
    requests.insert(40, bench.request(7, 2));
    let signed = signer.sign(&requests);
    assert_eq!(bench.token_signatures(), 150usize.div_ceil(limits::BUNDLE_TEXTS_MAX));
    for (at, (request, signature)) in requests.iter().zip(&signed).enumerate() {
        match (at, signature) {
            (40, Err(SignError::Conflict { .. })) => {}
            (_, Ok(signature)) => assert!(bench.holds(signature, request), "{at}"),
            (_, other) => panic!("{at}: {other:?}"),
        }
    }
    let other = bench.request(8, 1);
    assert!(!bench.holds(signed[0].as_ref().unwrap(), &other), "a vote holds for its text alone");
    let lone = signer.sign(&[bench.request(500, 1)]).remove(0).unwrap();
    assert!(matches!(lone, VoteSignature::Direct(_)), "a lone vote needs no bundle");
}

/// Aim: votes signed ahead share the token's signature, and what leaves of their bundle does not show it.
/// Without the random leaf beside each, a neighbour's path would be all that is missing.
#[test]
fn a_vote_signed_ahead_is_hidden_in_its_bundle() {
    let bench = Bench::new();
    let signer = bench.start(Mode::Strict);
    let leaf = |request: &SignRequest| merkle::root(&[Digest::of(&[&request.text])]);
    let siblings = |signature: &VoteSignature| match signature {
        VoteSignature::Bundle { path, .. } => path.siblings.clone(),
        other => panic!("{other:?}"),
    };
    for ahead in [false, true, true] {
        let request = |n| SignRequest { ahead: ahead && n % 2 == 0, ..bench.request(n, 1) };
        let requests: Vec<SignRequest> = (1..=70).map(request).collect();
        let before = bench.token_signatures();
        let signed: Vec<_> = signer.sign(&requests).into_iter().map(Result::unwrap).collect();
        assert_eq!(bench.token_signatures() - before, 2, "two bundles of up to 64 leaves");
        let pairs = || requests.iter().zip(&signed);
        assert!(pairs().all(|(request, signature)| bench.holds(signature, request)));
        let leaves = pairs().filter(|(request, _)| !request.ahead);
        let shown: BTreeSet<Digest> =
            leaves.flat_map(|(_, signature)| siblings(signature)).collect();
        let is_shown = |(request, signature): (&SignRequest, &VoteSignature)| {
            shown.contains(&leaf(request)) || shown.contains(&siblings(signature)[0])
        };
        match ahead {
            false => assert!(pairs().any(is_shown), "neighbours show each other"),
            true => assert!(!pairs().filter(|(request, _)| request.ahead).any(is_shown)),
        }
    }
    let alone = SignRequest { ahead: true, ..bench.request(71, 1) };
    let signature = signer.sign(std::slice::from_ref(&alone)).remove(0).unwrap();
    assert!(bench.holds(&signature, &alone) && siblings(&signature).len() == 1);
}

/// Delegated: the token signs two certificates for any number of votes; away, it costs nothing
/// until the session ahead ends too; back, signing goes on by itself.
#[test]
fn an_outage_of_the_token_costs_nothing_for_a_session() {
    let bench = Bench::new();
    let signer = bench.start(Mode::Delegated(bench.plan()));
    (1..=20).for_each(|n| bench.sign_one(&signer, n).unwrap());
    wait_for("the next session is certified", || certified(&signer) == 2);
    assert_eq!(bench.token_signatures(), 2);
    bench.token.away.store(true, Ordering::SeqCst);
    for n in [21, LENGTH, LENGTH + 1, 2 * LENGTH] {
        bench.sign_one(&signer, n).unwrap();
    }
    let refused = bench.sign_one(&signer, 2 * LENGTH + 1).unwrap_err();
    assert!(matches!(&refused, SignError::Key { reason } if reason.contains("away")), "{refused}");
    wait_for("the outage is told", || signer.trouble().is_some());
    bench.token.away.store(false, Ordering::SeqCst);
    bench.sign_one(&signer, 2 * LENGTH + 1).unwrap();
    wait_for("it is over", || signer.trouble().is_none() && certified(&signer) >= 2);
}

/// A restart, with the token away, goes on with the session keys on disk and under the same guard.
#[test]
fn sessions_survive_a_restart_without_the_token() {
    let bench = Bench::new();
    let signer = bench.start(Mode::Delegated(bench.plan()));
    bench.sign_one(&signer, 5).unwrap();
    wait_for("the next session is certified", || certified(&signer) == 2);
    drop(signer);
    bench.token.away.store(true, Ordering::SeqCst);
    let signer = bench.start_again();
    bench.sign_one(&signer, 6).unwrap();
    let other = signer.sign(&[bench.request(5, 2)]).remove(0);
    assert!(matches!(other, Err(SignError::Conflict { .. })), "{other:?}");
}

/// A validator that slept for several sessions begins one near the network's present; what lies
/// between is never signed. Past keys are deleted from memory and disk.
#[test]
fn sessions_follow_the_network_and_leave_nothing_behind() {
    let bench = Bench::new();
    let signer = bench.start(Mode::Delegated(bench.plan()));
    bench.sign_one(&signer, 1).unwrap();
    wait_for("the next session is certified", || certified(&signer) == 2);
    let present = 10 * LENGTH;
    bench.sign_one(&signer, present).unwrap();
    bench.sign_one(&signer, present - 5).unwrap();
    let between = bench.sign_one(&signer, 5 * LENGTH).unwrap_err();
    assert!(matches!(between, SignError::Forgotten { .. }), "{between}");
    wait_for("past keys are deleted", || signer.sessions()[0].0.0 > 2 * LENGTH);
    let files = std::fs::read_dir(bench.plan().folder).unwrap().count();
    wait_for("as many files as sessions", || files <= signer.sessions().len() + 1);
}

/// A session key that is lost with its file is replaced by one that begins a number later; damaged
/// files and those of others are refused by name.
#[test]
fn lost_and_damaged_session_keys() {
    let bench = Bench::new();
    let signer = bench.start(Mode::Delegated(bench.plan()));
    bench.sign_one(&signer, 1).unwrap();
    wait_for("the next session is certified", || certified(&signer) == 2);
    drop(signer);
    let folder = bench.plan().folder;
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let whole = std::fs::read(&files[0]).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&files[0], &bytes).unwrap();
        let opened = Sessions::open(bench.plan(), bench.chain, bench.token.as_ref());
        assert!(matches!(opened, Err(SessionError::Damaged { .. })), "byte {at}");
    }
    std::fs::write(&files[0], &whole).unwrap();
    let other = ChainId(Digest([8; 32]));
    let opened = Sessions::open(bench.plan(), other, bench.token.as_ref());
    assert!(matches!(opened, Err(SessionError::Damaged { .. })));
    files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let signer = bench.start_again();
    bench.sign_one(&signer, 2).unwrap();
    assert_eq!(signer.sessions()[0].0, SequenceNumber(2));
}

/// No caller gets a session's or a bundle's text signed: it would be a way around the guard.
#[test]
fn only_consensus_texts_are_signed() {
    let bench = Bench::new();
    let signer = bench.start(Mode::Direct);
    let terms = SessionTerms {
        epoch: Epoch(0),
        first: SequenceNumber(1),
        last: SequenceNumber(9),
        key: bench.token.public_key().clone(),
    };
    let bundle = bundle_text(&bench.chain, &Digest([1; 32]));
    let session = terms.text(&bench.chain);
    let labelled = bench.request(1, 1);
    for (slot, text) in [
        (None, bundle.clone()),
        (labelled.slot, bundle),
        (None, session.clone()),
        (Some(terms.slot()), session),
        (Some(terms.slot()), labelled.text.clone()),
    ] {
        let answer = signer.sign(&[SignRequest { slot, text, ahead: false }]).remove(0);
        assert!(matches!(answer, Err(SignError::Mislabelled { .. })), "{answer:?}");
    }
    assert_eq!(bench.token_signatures(), 0);
}
