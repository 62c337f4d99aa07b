//! Routing: names, quarantine, second opinions, groups.

use std::sync::atomic::AtomicUsize;

use p256::elliptic_curve::PrimeField;

use super::*;
use crate::crypto::KeyTable;
use crate::crypto::LibraryKey;
use crate::crypto::keys::Secret;
use crate::crypto::known_answers::Example;
use crate::crypto::providers::portable;

/// Says yes to everything: fails its known answers.
const CREDULOUS: Provider =
    Provider { name: "credulous", prepare: |_| Some(Box::new(|_, _| true)), ..portable::PROVIDER };

/// Wrong on one message only, which no known answer contains.
const SUBTLE: Provider = Provider { name: "subtle", prepare: subtle, ..portable::PROVIDER };

/// Right in single checks and in all known answers; its table accepts one signature too many.
const GULLIBLE: Provider = Provider { name: "gullible", table: gullible, ..portable::PROVIDER };

fn gullible(public: &PublicKey) -> Option<KeyTable> {
    let key = p256::PublicKey::from_sec1_bytes(public.as_bytes()).ok()?;
    let example = Example::of(P256).public == *public;
    Some(Box::new(move |first, second| {
        if !example {
            return FORGED_R;
        }
        let scalar = |bytes: &[u8; 32]| p256::Scalar::from_repr((*bytes).into()).unwrap();
        let sum =
            p256::ProjectivePoint::GENERATOR * scalar(first) + key.to_projective() * scalar(second);
        let point = p256::EncodedPoint::from(p256::AffinePoint::from(sum));
        point.x().map(|x| (*x).into())
    }))
}

/// The r of all signatures that `GULLIBLE` accepts under other keys than the example's.
const FORGED_R: Option<[u8; 32]> = Some([1; 32]);

const CURSED: &[u8] = b"the cursed message";

fn subtle(key: &PublicKey) -> Option<LibraryKey> {
    let inner = (portable::PROVIDER.prepare)(key)?;
    Some(Box::new(move |message, signature| message != CURSED && inner(message, signature)))
}

static WITH_CREDULOUS: [Provider; 2] = [portable::PROVIDER, CREDULOUS];
static WITH_SUBTLE: [Provider; 2] = [portable::PROVIDER, SUBTLE];
static WITH_GULLIBLE: [Provider; 2] = [portable::PROVIDER, GULLIBLE];
static ONLY_CREDULOUS: [Provider; 1] = [CREDULOUS];

const P256: Algorithm = Algorithm::EcdsaP256;

fn signed(algorithm: Algorithm, message: &[u8]) -> (PublicKey, Signature) {
    let example = Example::of(algorithm);
    let key = (portable::PROVIDER.load)(algorithm, &example.pkcs8()).unwrap();
    (example.public, key.sign(message).unwrap())
}

/// Aim: a name that is not in the build is refused with the names that are.
#[test]
fn unknown_name_is_refused() {
    let routing = Routing { hash: "openssel".to_string(), ..Routing::all("portable") };
    let error = Crypto::new(&routing).unwrap_err();
    assert!(error.to_string().contains("openssel") && error.to_string().contains("portable"));
}

/// Aim: a token is no provider of an operation; the refusal says where tokens are named.
#[test]
fn a_token_is_named_with_its_key() {
    let routing = Routing { sign_p256: "pkcs11:hsm".to_string(), ..Routing::all("portable") };
    let error = Crypto::new(&routing).unwrap_err().to_string();
    assert!(error.contains("pkcs11:hsm") && error.contains("signer.toml"), "{error}");
}

/// Aim: a provider that accepts wrong signatures is quarantined for checking: `auto` avoids it and
/// naming it refuses the start.
#[test]
fn failing_provider_is_quarantined() {
    let crypto = Crypto::over(&WITH_CREDULOUS, &Routing::default()).unwrap();
    for algorithm in Algorithm::ALL {
        assert_eq!(crypto.chosen(Operation::Verify(algorithm)), "portable");
        let row = crypto
            .report()
            .iter()
            .find(|r| r.provider == "credulous" && r.operation == Operation::Verify(algorithm));
        assert!(row.is_some_and(|r| r.quarantined.is_some() && !r.chosen));
    }
    let routing = Routing { verify_p256: "credulous".to_string(), ..Routing::all("portable") };
    let error = Crypto::over(&WITH_CREDULOUS, &routing).unwrap_err();
    assert!(matches!(error, RoutingError::Quarantined { name: "credulous", .. }), "{error}");
}

/// Aim: no healthy provider at all is a typed error, not a choice.
#[test]
fn none_left_is_an_error() {
    let error = Crypto::over(&ONLY_CREDULOUS, &Routing::default()).unwrap_err();
    assert!(matches!(error, RoutingError::NoneLeft { operation: "verify", .. }), "{error}");
}

/// Aim: a provider that differs on one signature in a sample raises the alarm, is counted, and the
/// portable verdict stands.
#[test]
fn divergence_raises_the_alarm_and_portable_decides() {
    let routing = Routing { verify_p256: "subtle".to_string(), ..Routing::all("portable") };
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = seen.clone();
    let crypto = Crypto::over(&WITH_SUBTLE, &routing).unwrap().with_alarm(Box::new(move |d| {
        assert_eq!((d.first, d.second, d.first_valid), ("subtle", "portable", false));
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    let (public, signature) = signed(P256, CURSED);
    let check = Check { key: &public, message: CURSED, signature: &signature };
    assert!(!crypto.verify(&check), "outside the sample the chosen provider's word counts");
    crypto.checked.store(SECOND_OPINION_EVERY - 1, Ordering::Relaxed);
    assert!(crypto.verify(&check), "in the sample the portable provider decides");
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    let counts = crypto.counts();
    assert_eq!((counts.second_opinions, counts.divergences), (1, 1));
}

/// Aim: a table's yes is in the sample of second opinions as everybody's is.
#[test]
fn a_wrong_table_is_found_by_a_second_opinion() {
    let routing = Routing { verify_p256: "gullible".to_string(), ..Routing::all("portable") };
    let crypto = Crypto::over(&WITH_GULLIBLE, &routing).unwrap();
    assert!(crypto.tabling().used);
    let secret = Secret::random(P256).unwrap();
    let forged = Signature([1; 64]);
    let check = Check { key: &secret.public, message: b"text", signature: &forged };
    assert!(!crypto.verify(&check), "without a table");
    let key = crypto.key(&secret.public);
    let prepared = PreparedCheck { key: &key, message: b"text", signature: &forged };
    let verdicts = crypto.verify_group(&vec![prepared; limits::KEY_TABLE_AFTER_CHECKS as usize]);
    let counts = crypto.counts();
    assert_eq!((counts.tables, counts.divergences), (1, 1));
    assert!(!verdicts.is_valid(SECOND_OPINION_EVERY as usize - 2), "the sample is refused");
    assert_eq!(verdicts.invalid().len(), 1);
}

/// Aim: exactly one in `SECOND_OPINION_EVERY` is sampled, whatever the sizes of the groups.
#[test]
fn sample_is_one_in_n_over_groups() {
    let crypto = Crypto::over(&WITH_SUBTLE, &Routing::all("portable")).unwrap();
    let (public, _) = signed(P256, b"x");
    let key = crypto.key(&public);
    // Not well formed: refused by bytes, so the loop is quick.
    let signature = Signature([0; 64]);
    let mut total = 0;
    for len in [1, 7, 1023, 1024, 1025, 3000, 2 * 1024, 64] {
        let check = PreparedCheck { key: &key, message: b"x", signature: &signature };
        let verdicts = crypto.verify_group(&vec![check; len]);
        assert_eq!(verdicts.invalid().len(), len);
        total += len as u64;
        assert_eq!(crypto.counts().second_opinions, total / SECOND_OPINION_EVERY);
    }
    assert_eq!((crypto.counts().checked, crypto.counts().invalid), (total, total));
}

/// Aim: a mixed group gets one verdict per check, in place.
#[test]
fn mixed_group_names_the_invalid_ones() {
    let crypto = Crypto::portable();
    let mut checks = Vec::new();
    for i in 0..24u8 {
        let algorithm = Algorithm::ALL[usize::from(i % 2)];
        let message = vec![i; 40];
        let (public, mut signature) = signed(algorithm, &message);
        if i % 5 == 0 {
            signature.0[3] ^= 1;
        }
        checks.push((crypto.key(&public), message, signature));
    }
    let views: Vec<PreparedCheck<'_>> = checks
        .iter()
        .map(|(key, message, signature)| PreparedCheck { key, message, signature })
        .collect();
    let verdicts = crypto.verify_group(&views);
    assert_eq!(verdicts.invalid(), [0, 5, 10, 15, 20]);
    assert!(!verdicts.is_valid(5) && verdicts.is_valid(6) && !verdicts.is_valid(24));
}

/// Aim: the cache returns the same parsed key and stays within its limit.
#[test]
fn key_cache_is_shared_and_bounded() {
    let crypto = Crypto::portable();
    let (public, _) = signed(Algorithm::Ed25519, b"x");
    assert!(Arc::ptr_eq(&crypto.key(&public), &crypto.key(&public)));
    for i in 0..limits::VERIFY_KEYS_MAX as u32 + 10 {
        // y below the prime, most of them not on the curve: cached as unusable too.
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&i.to_be_bytes());
        crypto.key(&PublicKey::new(Algorithm::Ed25519, &bytes).unwrap());
    }
    assert_eq!(crypto.keys.lock().unwrap().len(), limits::VERIFY_KEYS_MAX);
}

/// Aim: `auto` chooses something for each operation and measures what it chose between.
#[test]
fn auto_reports_what_it_measured() {
    let crypto = Crypto::new(&Routing::default()).unwrap();
    for operation in Operation::ALL {
        let rows: Vec<&Route> =
            crypto.report().iter().filter(|r| r.operation == operation).collect();
        assert_eq!(rows.len(), PROVIDERS.len());
        for class in 0..CLASSES {
            assert_eq!(rows.iter().filter(|r| r.classes[class]).count(), 1, "{rows:?}");
        }
        let signing = matches!(operation, Operation::Sign(_));
        assert!(rows.iter().all(|r| r.times[0].is_some() != signing));
        assert!(!signing || crypto.chosen(operation) != "ring");
    }
}

/// Aim: what a whole measurement needs for a table is measured, and its choices, kept as a profile,
/// are those of the next start where nothing else is clearly faster.
#[test]
fn a_profile_carries_the_choice_to_the_next_start() {
    let build = |profile| {
        Crypto::build(PROVIDERS, &Routing::all("portable"), profile, Effort::Whole).unwrap()
    };
    let crypto = build(Profile::default());
    for route in crypto.report() {
        assert!(route.times.iter().all(Option::is_some), "{route:?}");
    }
    assert!(crypto.batching().times[1..].iter().all(Option::is_some));
    // What an operator named is no choice to keep.
    assert!(crypto.profile().choices.is_empty());
    let first = Crypto::new(&Routing::default()).unwrap();
    let choices = &first.profile().choices;
    assert_eq!(choices.len(), 3 + 4, "three classes of hashing, one of the rest: {choices:?}");
}

/// Aim: a provider in quarantine, and one that contradicts another, are named to operators.
#[test]
fn warnings_name_what_is_wrong() {
    assert!(Crypto::portable().warnings().is_empty());
    let crypto = Crypto::over(&WITH_CREDULOUS, &Routing::default()).unwrap();
    let warnings = crypto.warnings();
    assert!(warnings.iter().any(|w| w.contains("credulous fails verify p256")), "{warnings:?}");
    crypto.divergences.store(2, Ordering::Relaxed);
    assert!(crypto.warnings().iter().any(|w| w.contains("disagreed on 2")));
}

/// Aim: the chosen hash becomes the process's hash once, and digests stay what they are.
#[test]
fn hash_is_installed_once() {
    let crypto = Crypto::new(&Routing::default()).unwrap();
    let before = Digest::of(&[b"ab", b"c"]);
    let text = vec![7; 100_000];
    let lengths = [0, 64, 256, 257, 8192, 8193, text.len()];
    let digests = || lengths.map(|len| Digest::of(&[&text[..len / 3], &text[len / 3..len]]));
    let each = digests();
    crypto.install_hash();
    assert_eq!(digests(), each, "short, middle and long texts");
    assert!(!crypto.install_hash());
    assert_eq!(Digest::of(&[b"ab", b"c"]), before);
    assert!(before.to_string().starts_with("ba7816bf"));
}
