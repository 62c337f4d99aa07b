//! Quorum arithmetic for any number of replicas: the one place where it is written.
//!
//! `f = floor((n-1)/3)` faults are tolerated. A quorum is the least q for which any two quorums
//! share a correct replica, `2q - n >= f + 1`, so `q = ceil((n+f+1)/2)`; for `n = 3f+1` that is the
//! `2f+1` of Castro and Liskov. `q <= n-f` holds for every n, so the correct replicas alone always
//! form one.

/// Faulty replicas that a set of `n` tolerates.
pub fn faults(n: usize) -> usize {
    n.saturating_sub(1) / 3
}

/// Replicas whose agreement is final and intersects every other quorum in a correct replica.
pub fn quorum(n: usize) -> usize {
    (n + faults(n) + 2) / 2
}

/// Replicas of which at least one is correct: `f + 1`.
pub fn weak_quorum(n: usize) -> usize {
    faults(n) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For every n up to the limit: quorums are reachable without the faulty, intersect in a
    /// correct replica, and no smaller number does.
    #[test]
    fn quorums_intersect_in_a_correct_replica_for_every_n() {
        for n in 1..=100 {
            let (f, q) = (faults(n), quorum(n));
            assert!(n > 3 * f && n <= 3 * (f + 1));
            assert!(q <= n - f, "n={n}: correct replicas must form a quorum");
            assert!(2 * q > n + f, "n={n}: two quorums must share f+1");
            assert!(2 * (q - 1) <= n + f, "n={n}: q is the least such number");
        }
        assert_eq!([4, 5, 6, 7, 8, 10].map(quorum), [3, 4, 4, 5, 6, 7]);
    }
}
