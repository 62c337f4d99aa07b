//! Points and numbers on which libraries are known to disagree.

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use sha2::Digest;
use sha2::Sha512;

use super::sign;
use super::verdict;
use crate::crypto::PROVIDERS;
use crate::crypto::keys::Secret;
use crate::crypto::known_answers::Example;
use crate::crypto::prepared::PreparedKey;
use crate::crypto::providers::portable;
use crate::crypto::validity;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

const P256: Algorithm = Algorithm::EcdsaP256;

/// Some scalar, fixed by its name.
fn scalar(name: &str) -> Scalar {
    Scalar::from_bytes_mod_order_wide(&Sha512::digest(name.as_bytes()).into())
}

fn key_of(point: &EdwardsPoint) -> PublicKey {
    PublicKey::new(Algorithm::Ed25519, point.compress().as_bytes()).unwrap()
}

/// A signature with the given R as bytes: s = r + k a.
fn sign_with(a: Scalar, key: &PublicKey, r: Scalar, r_point: &EdwardsPoint, m: &[u8]) -> Signature {
    let r_bytes = r_point.compress().to_bytes();
    let hash =
        Sha512::new().chain_update(r_bytes).chain_update(key.as_bytes()).chain_update(m).finalize();
    let s = r + Scalar::from_bytes_mod_order_wide(&hash.into()) * a;
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&r_bytes);
    bytes[32..].copy_from_slice(s.as_bytes());
    Signature(bytes)
}

/// Aim: a key or an R with a torsion component satisfies the cofactored equation and is valid
/// everywhere; libraries without the cofactor get there by the second question, which is counted.
#[test]
fn mixed_torsion_is_valid_everywhere() {
    let (a, r) = (scalar("a"), scalar("r"));
    let mut asked_again = 0;
    for torsion in &EIGHT_TORSION[1..] {
        let clean = a * ED25519_BASEPOINT_POINT;
        let mixed_key = key_of(&(clean + torsion));
        let mixed_r = r * ED25519_BASEPOINT_POINT + torsion;
        let clean_r = r * ED25519_BASEPOINT_POINT;
        for message in [&b"one"[..], b"two", b"three", b"four"] {
            let cases = [
                (&mixed_key, sign_with(a, &mixed_key, r, &clean_r, message)),
                (&key_of(&clean), sign_with(a, &key_of(&clean), r, &mixed_r, message)),
                (&mixed_key, sign_with(a, &mixed_key, r, &mixed_r, message)),
            ];
            for (key, signature) in cases {
                assert!(verdict(key, message, &signature));
                assert!(!verdict(key, b"other", &signature));
                for provider in PROVIDERS {
                    let found = PreparedKey::new(provider, key).verify(message, &signature);
                    asked_again += usize::from(found.rechecked);
                    assert!(provider.name != portable::NAME || !found.rechecked);
                }
            }
        }
    }
    assert_eq!(asked_again > 0, PROVIDERS.len() > 1);
}

/// Aim: keys and R of small order are refused everywhere although the equation holds for them: such
/// a key would sign every message.
#[test]
fn small_order_is_refused_everywhere() {
    for torsion in EIGHT_TORSION {
        let key = key_of(&torsion);
        let r = scalar("r");
        // [8][s]B = [8]R + [8][k]A holds for any k, since [8]A is the identity.
        let signature = sign_with(Scalar::ZERO, &key, r, &(r * ED25519_BASEPOINT_POINT), b"m");
        assert!(!verdict(&key, b"m", &signature));
        assert!(!PreparedKey::new(&PROVIDERS[0], &key).is_usable());
        let a = scalar("a");
        let key = key_of(&(a * ED25519_BASEPOINT_POINT));
        let signature = sign_with(a, &key, Scalar::ZERO, &torsion, b"m");
        assert!(!verdict(&key, b"m", &signature));
    }
}

/// Aim: encodings with y at or above the prime and "-0" are refused as key and as R.
#[test]
fn encodings_that_are_not_canonical_are_refused() {
    let secret = Secret::random(Algorithm::Ed25519).unwrap();
    let good = sign(&secret, b"m");
    for low in 0xed..=0xffu8 {
        for high in [0x7f, 0xff] {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (low, high);
            let key = PublicKey::new(Algorithm::Ed25519, &bytes).unwrap();
            assert!(!verdict(&key, b"m", &good));
            let mut signature = good;
            signature.0[..32].copy_from_slice(&bytes);
            assert!(!verdict(&secret.public, b"m", &signature));
        }
    }
}

/// Aim: a signature has one accepted form: s + L (Ed25519) and n - s (P-256) are refused.
#[test]
fn signatures_are_not_malleable() {
    let secret = Secret::random(Algorithm::Ed25519).unwrap();
    let mut signature = sign(&secret, b"m");
    let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut carry = 0u16;
    for (byte, add) in signature.0[32..].iter_mut().zip(order.unwrap()) {
        carry += u16::from(*byte) + u16::from(add);
        *byte = carry as u8;
        carry >>= 8;
    }
    assert!(!verdict(&secret.public, b"m", &signature));

    let secret = Secret::random(P256).unwrap();
    let low = p256::ecdsa::Signature::from_slice(&sign(&secret, b"m").0).unwrap();
    let (r, s) = low.split_scalars();
    let high = p256::ecdsa::Signature::from_scalars(r, -s).unwrap();
    assert!(!verdict(&secret.public, b"m", &Signature(high.to_bytes().into())));
    assert!(verdict(&secret.public, b"m", &Signature(low.to_bytes().into())));
}

/// Aim: P-256 keys that are not a point in the one accepted encoding are refused: off the curve,
/// coordinates not reduced, hybrid and infinity forms.
#[test]
fn bad_p256_keys_are_refused() {
    let Example { public, message, signature, .. } = Example::of(P256);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = public.as_bytes().to_vec();
        change(&mut bytes);
        let key = PublicKey::new(P256, &bytes).unwrap();
        assert!(!verdict(&key, message, &signature), "{}", hex::encode(&bytes));
        for provider in PROVIDERS {
            assert!(!PreparedKey::new(provider, &key).is_usable(), "{}", provider.name);
        }
    };
    changed(&|b| b[64] ^= 1);
    changed(&|b| b[1..].fill(0));
    changed(&|b| b[1..].fill(0xff));
    for form in [0, 2, 3, 5, 6, 7, 0x84] {
        changed(&|b| b[0] = form);
    }
    // x = p with the y of x = 0 (the root of b): that point to a library that reduces.
    let x = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
    let point = "66485c780e2f83d72433bd5d84a06bb6541c2af31dae871728bf856a174f93f4";
    changed(&|b| {
        b[1..33].copy_from_slice(&hex::decode(x).unwrap());
        b[33..].copy_from_slice(&hex::decode(point).unwrap());
    });
}

/// Aim: degenerate r and s (0, n, n + 1, all ones) are refused by every provider.
#[test]
fn degenerate_p256_numbers_are_refused() {
    let Example { public, message, signature, .. } = Example::of(P256);
    let mut above = validity::P256_ORDER;
    above[31] += 1;
    for number in [[0; 32], validity::P256_ORDER, above, [0xff; 32]] {
        for half in [0, 32] {
            let mut changed = signature;
            changed.0[half..half + 32].copy_from_slice(&number);
            assert!(!verdict(&public, message, &changed));
        }
    }
}
