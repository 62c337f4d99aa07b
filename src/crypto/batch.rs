//! Ed25519 signatures checked together: one multiscalar multiplication for all of them.
//!
//! ```text
//! [8] ( -[sum z_i s_i] B + sum [z_i] R_i + sum [z_i k_i] A_i ) = 0
//! ```
//!
//! with random 128-bit `z_i` (Bernstein, Duif, Lange, Schwabe, Yang, "High-speed high-security
//! signatures", 2011, section 5; cofactored as in ZIP-215). It accepts all of a set of valid
//! signatures always, and a set with an invalid one with probability 2^-128. Terms of one key are
//! added up first, so a few clients with many signatures cost little more than the `R_i`. The
//! public keys come decompressed from `PreparedKey`; `ed25519-zebra` does the same without that and
//! is the oracle in the tests.
//!
//! When the equation fails the set is halved to find the bad ones. That is worth it for a few; a
//! flood of forged signatures must not cost more than single checks, so the halving has a budget
//! and the rest is checked singly.

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use curve25519_dalek::traits::VartimeMultiscalarMul;
use sha2::Digest;
use sha2::Sha512;

use crate::crypto::prepared::PreparedCheck;

/// Below this many signatures single checks are faster (measured: `obelisk bench crypto`).
pub const BATCH_MIN: usize = 4;

/// One signature's part of the equation.
struct Term<'a> {
    /// Place in the caller's list.
    index: usize,
    /// The key's point; equal references are added up.
    point: &'a EdwardsPoint,
    r: EdwardsPoint,
    z: Scalar,
    /// z times s.
    zs: Scalar,
    /// z times the hash of R, A and the message.
    zk: Scalar,
}

/// Pushes the indices of those of `checks[indices]` that are not valid, in no order, and returns
/// how many were asked again from the reference. All must be Ed25519; others count as invalid.
pub fn find_invalid(
    checks: &[PreparedCheck<'_>],
    indices: &[usize],
    invalid: &mut Vec<usize>,
) -> u64 {
    let mut random = vec![0u8; 16 * indices.len()];
    if indices.len() < BATCH_MIN || getrandom::fill(&mut random).is_err() {
        // Also without random numbers: predictable coefficients could be cancelled out.
        let mut search = Search { checks, budget: 0, rechecked: 0, invalid };
        search.singly(indices.iter().copied());
        return search.rechecked;
    }
    let mut terms = Vec::with_capacity(indices.len());
    for (&index, z) in indices.iter().zip(random.chunks_exact(16)) {
        let z = u128::from_le_bytes(z.try_into().expect("chunks of 16"));
        match term(index, &checks[index], Scalar::from(z)) {
            Some(term) => terms.push(term),
            None => invalid.push(index),
        }
    }
    terms.sort_unstable_by_key(|t| std::ptr::from_ref(t.point) as usize);
    let mut search = Search { checks, budget: 2 * terms.len(), rechecked: 0, invalid };
    search.halve(&terms, false);
    search.rechecked
}

/// The part of one signature; `None` where bytes alone make it invalid.
fn term<'a>(index: usize, check: &PreparedCheck<'a>, z: Scalar) -> Option<Term<'a>> {
    if !check.key.accepts_bytes_of(check.signature) {
        return None;
    }
    let point = check.key.point()?;
    let (r_bytes, s_bytes) = check.signature.0.split_at(32);
    let r = CompressedEdwardsY::from_slice(r_bytes).ok()?.decompress()?;
    let s: Option<Scalar> = Scalar::from_canonical_bytes(s_bytes.try_into().ok()?).into();
    let hash = Sha512::new()
        .chain_update(r_bytes)
        .chain_update(check.key.public().as_bytes())
        .chain_update(check.message)
        .finalize();
    let k = Scalar::from_bytes_mod_order_wide(&hash.into());
    Some(Term { index, point, r, z, zs: z * s?, zk: z * k })
}

/// The search for the invalid ones of a batch.
struct Search<'a> {
    checks: &'a [PreparedCheck<'a>],
    /// Signatures that may still be part of failed equations; then the rest is checked singly.
    budget: usize,
    rechecked: u64,
    invalid: &'a mut Vec<usize>,
}

impl Search<'_> {
    /// Finds the invalid ones among the terms. `known_bad` states that at least one is, so that the
    /// equation need not be asked.
    fn halve(&mut self, terms: &[Term<'_>], known_bad: bool) {
        if terms.len() < BATCH_MIN || self.budget < terms.len() {
            return self.singly(terms.iter().map(|t| t.index));
        }
        if !known_bad {
            if equation_holds(terms) {
                return;
            }
            self.budget -= terms.len();
        }
        let (left, right) = terms.split_at(terms.len() / 2);
        let before = self.invalid.len();
        self.halve(left, false);
        self.halve(right, self.invalid.len() == before);
    }

    fn singly(&mut self, indices: impl Iterator<Item = usize>) {
        for index in indices {
            let check = &self.checks[index];
            let verdict = check.key.verify(check.message, check.signature);
            self.rechecked += u64::from(verdict.rechecked);
            if !verdict.valid {
                self.invalid.push(index);
            }
        }
    }
}

/// The equation over all terms; `terms` are sorted by key.
fn equation_holds(terms: &[Term<'_>]) -> bool {
    let mut scalars = Vec::with_capacity(2 * terms.len() + 1);
    let mut points = Vec::with_capacity(2 * terms.len() + 1);
    let mut base = Scalar::ZERO;
    for of_one_key in terms.chunk_by(|a, b| std::ptr::eq(a.point, b.point)) {
        let mut key = Scalar::ZERO;
        for term in of_one_key {
            base -= term.zs;
            key += term.zk;
            scalars.push(term.z);
            points.push(term.r);
        }
        scalars.push(key);
        points.push(*of_one_key[0].point);
    }
    scalars.push(base);
    points.push(ED25519_BASEPOINT_POINT);
    EdwardsPoint::vartime_multiscalar_mul(&scalars, &points).mul_by_cofactor().is_identity()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::known_answers::Example;
    use crate::crypto::prepared::PreparedKey;
    use crate::crypto::providers::portable;
    use crate::types::signature::Algorithm;
    use crate::types::signature::Signature;

    /// Aim: the search names exactly the bad ones, wherever they stand, from none to all of them.
    #[test]
    fn search_names_exactly_the_bad_ones() {
        let example = Example::of(Algorithm::Ed25519);
        let key = PreparedKey::new(&portable::PROVIDER, &example.public);
        let mut forged = example.signature;
        forged.0[33] ^= 1;
        for len in [4, 5, 37, 100] {
            let mut patterns: Vec<Vec<usize>> = (0..len).step_by(7).map(|i| vec![i]).collect();
            patterns.extend([vec![], vec![0, len - 1], (0..len / 2).collect(), (0..len).collect()]);
            for bad in patterns {
                let signatures: Vec<Signature> = (0..len)
                    .map(|i| if bad.contains(&i) { forged } else { example.signature })
                    .collect();
                let checks: Vec<PreparedCheck<'_>> = signatures
                    .iter()
                    .map(|signature| PreparedCheck {
                        key: &key,
                        message: example.message,
                        signature,
                    })
                    .collect();
                let mut invalid = Vec::new();
                find_invalid(&checks, &(0..len).collect::<Vec<_>>(), &mut invalid);
                invalid.sort_unstable();
                assert_eq!(invalid, bad, "of {len}");
            }
        }
    }
}
