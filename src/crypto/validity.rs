//! What a valid signature is: one definition for every provider, single or in a batch.
//!
//! Two validators that disagree on one signature disagree on a block, so the set of accepted
//! signatures is part of the protocol. Libraries differ at the edges (malleable forms, encodings,
//! small subgroups, the cofactor), and some differ between single and batch checks. The rule here
//! is fixed by bytes first, which costs nanoseconds, and by one equation after.
//!
//! **ECDSA P-256 with SHA-256** (FIPS 186-5, SEC 1):
//! - the key is `04 || x || y`, `x` and `y` below the field prime, on the curve;
//! - `1 <= r < n`, `1 <= s <= n / 2` (low s: the negated s is as good a signature, so without this
//!   anybody could change a signed transaction's bytes);
//! - the equation of FIPS 186-5, 6.4.2, on which all libraries agree.
//!
//! **Ed25519** (RFC 8032 with the verification equation of ZIP-215):
//! - key `A` and the signature's `R` are canonical encodings (y below the field prime) and not of
//!   small order: a small-order key signs every message at once, and both are rejected by a
//!   comparison with the five y coordinates of the 8-torsion subgroup (which also rejects the "-0"
//!   encodings, since x = 0 only there);
//! - `s < L`;
//! - the cofactored equation `[8][s]B = [8]R + [8][k]A`, k over the bytes as received.
//!
//! Why cofactored: a batch can only be checked with the cofactor. Without it a batch accepts, with
//! a probability that depends on random coefficients, signatures with a torsion component that a
//! single check rejects (Chalkias, Garillot, Nikolaenko, "Taming the many EdDSAs", 2020). With it
//! single and batch results are always equal.
//!
//! Why a library without the cofactor can still be used: `[s]B = R + [k]A` implies the cofactored
//! equation, so what it accepts is valid. What it rejects is asked again from the reference
//! (`ed25519-zebra`, pure ZIP-215). The sets are then equal; only forged and torsion signatures pay
//! twice, and they are counted.

use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// Outcome of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the signature is valid.
    pub valid: bool,
    /// Whether the reference had to be asked after the library said no.
    pub rechecked: bool,
}

impl Verdict {
    /// Not valid, by bytes alone or by the library's word.
    pub const INVALID: Self = Self { valid: false, rechecked: false };
}

/// Whether the key's bytes are acceptable. Says nothing about the curve equation.
pub fn key_is_well_formed(key: &PublicKey) -> bool {
    let bytes = key.as_bytes();
    match key.algorithm() {
        Algorithm::EcdsaP256 => {
            bytes.len() == 65
                && bytes[0] == 4
                && bytes[1..33] < P256_PRIME[..]
                && bytes[33..] < P256_PRIME[..]
        }
        Algorithm::Ed25519 => <&[u8; 32]>::try_from(bytes).is_ok_and(ed25519_point_is_well_formed),
    }
}

/// Whether the signature's bytes are acceptable for the algorithm.
pub fn signature_is_well_formed(algorithm: Algorithm, signature: &Signature) -> bool {
    let (first, second) = signature.0.split_at(32);
    match algorithm {
        Algorithm::EcdsaP256 => {
            first != ZERO
                && first < &P256_ORDER[..]
                && second != ZERO
                && second <= &P256_HALF_ORDER[..]
        }
        Algorithm::Ed25519 => {
            let first = first.try_into().expect("32 of 64 bytes");
            ed25519_point_is_well_formed(first) && little_endian_below(second, &ED25519_ORDER)
        }
    }
}

/// Replaces a high `s` by `n - s`: the same ECDSA signature in its only accepted form. The caller
/// states that `s < n`.
pub fn normalise_s(signature: &mut Signature) {
    if signature.0[32..] <= P256_HALF_ORDER[..] {
        return;
    }
    let mut borrow = 0i16;
    for i in (0..32).rev() {
        let difference = i16::from(P256_ORDER[i]) - i16::from(signature.0[32 + i]) - borrow;
        borrow = i16::from(difference < 0);
        signature.0[32 + i] = difference.rem_euclid(256) as u8;
    }
}

/// Canonical encoding of a point that is not of small order, by bytes alone.
fn ed25519_point_is_well_formed(bytes: &[u8; 32]) -> bool {
    let mut y = *bytes;
    y[31] &= 0x7f;
    little_endian_below(&y, &ED25519_PRIME) && !SMALL_ORDER_Y.contains(&y)
}

fn little_endian_below(number: &[u8], bound: &[u8; 32]) -> bool {
    number.iter().rev().lt(bound.iter().rev())
}

const ZERO: [u8; 32] = [0; 32];

/// p = 2^256 - 2^224 + 2^192 + 2^96 - 1, big-endian.
const P256_PRIME: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
];

/// n, the order of P-256, big-endian (SP 800-186, 3.2.1.3).
pub const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// (n - 1) / 2, big-endian.
const P256_HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0x80, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xde, 0x73, 0x7d, 0x56, 0xd3, 0x8b, 0xcf, 0x42, 0x79, 0xdc, 0xe5, 0x61, 0x7e, 0x31, 0x92, 0xa8,
];

/// 2^255 - 19, little-endian.
const ED25519_PRIME: [u8; 32] = [
    0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
];

/// L, the order of the base point, little-endian (RFC 8032, 5.1).
const ED25519_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10,
];

/// y of the eight points of small order, little-endian: 0, 1, -1 and the two of order 8.
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [0; 32],
    [
        0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;

    use super::*;

    /// Aim: exactly the eight points of small order are in the table, whatever their sign bit.
    #[test]
    fn small_order_table_is_the_torsion_subgroup() {
        let mut seen = std::collections::BTreeSet::new();
        for point in EIGHT_TORSION {
            let mut bytes = point.compress().to_bytes();
            assert!(!ed25519_point_is_well_formed(&bytes));
            bytes[31] ^= 0x80;
            assert!(!ed25519_point_is_well_formed(&bytes));
            bytes[31] &= 0x7f;
            seen.insert(bytes);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), {
            let mut table = SMALL_ORDER_Y.to_vec();
            table.sort_unstable();
            table
        });
    }

    /// Aim: the edges of the numbers: n - 1 is an r, n is not; (n - 1) / 2 is an s, one more is
    /// not.
    #[test]
    fn p256_range_edges() {
        let with = |r: [u8; 32], s: [u8; 32]| {
            let mut signature = Signature([0; 64]);
            signature.0[..32].copy_from_slice(&r);
            signature.0[32..].copy_from_slice(&s);
            signature_is_well_formed(Algorithm::EcdsaP256, &signature)
        };
        let mut one = [0; 32];
        one[31] = 1;
        let mut last = P256_ORDER;
        last[31] -= 1;
        let mut above_half = P256_HALF_ORDER;
        above_half[31] += 1;
        assert!(with(one, one));
        assert!(with(last, P256_HALF_ORDER));
        assert!(!with(P256_ORDER, one));
        assert!(!with([0; 32], one));
        assert!(!with(one, [0; 32]));
        assert!(!with(one, above_half));
        assert!(!with([0xff; 32], one));
    }

    /// Aim: negating s twice gives s back, and the low form is chosen.
    #[test]
    fn normalise_chooses_the_low_form() {
        let mut signature = Signature([7; 64]);
        signature.0[32..].copy_from_slice(&P256_ORDER);
        signature.0[63] -= 1;
        normalise_s(&mut signature);
        let mut one = [0; 32];
        one[31] = 1;
        assert_eq!(signature.0[32..], one);
        normalise_s(&mut signature);
        assert_eq!(signature.0[32..], one);
    }

    /// Aim: s = L and y = p are refused, one less is not.
    #[test]
    fn ed25519_range_edges() {
        let mut y = ED25519_PRIME;
        assert!(!ed25519_point_is_well_formed(&y));
        y[0] -= 2;
        assert!(ed25519_point_is_well_formed(&y));
        let mut s = ED25519_ORDER;
        assert!(!little_endian_below(&s, &ED25519_ORDER));
        s[0] -= 1;
        assert!(little_endian_below(&s, &ED25519_ORDER));
    }
}
