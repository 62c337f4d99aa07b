//! The Wycheproof vectors (project C2SP) against the rule of `validity`.
//!
//! Where our expectation differs from the file's "valid" there is one reason only: ECDSA vectors
//! with a high s, which the rule refuses on purpose; their low form must then be valid. Ed25519 has
//! no difference: the vectors contain no torsion components, and encodings that are not canonical
//! are "invalid" there as well.

use ::wycheproof::TestResult;
use ::wycheproof::ecdsa;
use ::wycheproof::eddsa;

use super::verdict;
use crate::crypto::validity;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

const P256: Algorithm = Algorithm::EcdsaP256;

/// Compares one ECDSA vector; returns whether its s was high.
fn check_ecdsa(key: &PublicKey, message: &[u8], raw: Signature, must_hold: bool) -> bool {
    let mut low = raw;
    if raw.0[32..] < validity::P256_ORDER[..] {
        validity::normalise_s(&mut low);
    }
    assert_eq!(verdict(key, message, &low), must_hold);
    if low != raw {
        assert!(!verdict(key, message, &raw), "a high s is never valid");
    }
    low != raw
}

/// Aim: every P-256 SHA-256 vector in the fixed form (IEEE P1363) has the expected verdict in all
/// providers; other lengths than 64 bytes cannot be represented and are all "invalid" there.
#[test]
fn p256_fixed_form() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let (mut seen, mut high) = (0, 0);
    for group in &set.test_groups {
        let key = PublicKey::new(P256, &group.key.key).unwrap();
        for test in &group.tests {
            let Ok(raw) = <[u8; 64]>::try_from(test.sig.as_slice()) else {
                assert!(test.result.must_fail(), "case {}", test.tc_id);
                continue;
            };
            let must_hold = test.result == TestResult::Valid;
            high += usize::from(check_ecdsa(&key, &test.msg, Signature(raw), must_hold));
            seen += 1;
        }
    }
    assert!(seen > 200 && high > 50, "{seen} vectors, {high} with a high s");
}

/// Aim: every DER vector that is DER at all has the expected verdict after conversion to the fixed
/// form; what the strict parser refuses is "invalid" in the file.
#[test]
fn p256_der_form() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256).unwrap();
    let mut seen = 0;
    for group in &set.test_groups {
        let key = PublicKey::new(P256, &group.key.key).unwrap();
        for test in &group.tests {
            let Ok(parsed) = p256::ecdsa::Signature::from_der(&test.sig) else {
                assert!(test.result.must_fail(), "case {}", test.tc_id);
                continue;
            };
            let must_hold = test.result == TestResult::Valid;
            check_ecdsa(&key, &test.msg, Signature(parsed.to_bytes().into()), must_hold);
            seen += 1;
        }
    }
    assert!(seen > 150, "{seen} vectors");
}

/// Aim: every Ed25519 vector has the expected verdict in all providers and in the batch.
#[test]
fn ed25519() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let mut seen = 0;
    for group in &set.test_groups {
        let key = PublicKey::new(Algorithm::Ed25519, &group.key.pk).unwrap();
        for test in &group.tests {
            let Ok(raw) = <[u8; 64]>::try_from(test.sig.as_slice()) else {
                assert!(test.result.must_fail(), "case {}", test.tc_id);
                continue;
            };
            let found = verdict(&key, &test.msg, &Signature(raw));
            assert_eq!(found, test.result == TestResult::Valid, "case {}", test.tc_id);
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} vectors");
}
