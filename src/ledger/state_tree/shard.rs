//! One 256th of the state tree: all leaves whose path starts with one byte.
//!
//! ```text
//! upper   heap-shaped array of 2^(levels+1) subtrees: 1 = this shard's root,
//!         2^levels + b = bucket b
//! bucket  its leaves sorted by path: those whose bits 8 .. 8+levels are b
//! ```
//!
//! Levels grow by one when a bucket holds more than `BUCKET_LEAVES_MEAN_MAX` leaves on average;
//! growing rehashes this shard alone, so that no single block pays for the whole tree. They never
//! shrink: the root does not depend on them.

use crate::ledger::state_tree::Domain;
use crate::ledger::state_tree::KeyHash;
use crate::ledger::state_tree::Kind;
use crate::ledger::state_tree::Leaf;
use crate::ledger::state_tree::Subtree;
use crate::ledger::state_tree::Update;
use crate::ledger::state_tree::ValueHash;
use crate::ledger::state_tree::bit;
use crate::ledger::state_tree::proof::ProofNode;
use crate::ledger::state_tree::rehash_above;
use crate::types::digest::Digest;

/// Leaves of one first byte.
#[derive(Debug)]
pub(crate) struct Shard {
    levels: usize,
    upper: Vec<Subtree>,
    buckets: Vec<Vec<Leaf>>,
    len: usize,
}

impl Shard {
    pub(crate) fn new(domain: &Domain) -> Self {
        Self { levels: 0, upper: vec![domain.empty(); 2], buckets: vec![Vec::new()], len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Applies changes that are ascending by path and returns the shard's subtree.
    pub(crate) fn update(&mut self, domain: &Domain, updates: &[Update]) -> Subtree {
        let mut dirty: Vec<usize> = Vec::with_capacity(updates.len());
        for (path, value) in updates {
            let bucket = self.bucket(path);
            let leaves = &mut self.buckets[bucket];
            match (leaves.binary_search_by_key(path, |leaf| leaf.path), value) {
                (Ok(at), Some(value)) => leaves[at].value = *value,
                (Ok(at), None) => {
                    leaves.remove(at);
                    self.len -= 1;
                }
                (Err(at), Some(value)) => {
                    leaves.reserve_exact(1);
                    leaves.insert(at, Leaf { path: *path, value: *value });
                    self.len += 1;
                }
                (Err(_), None) => {}
            }
            if dirty.last() != Some(&bucket) {
                dirty.push(bucket);
            }
        }
        if self.len > self.buckets.len() * BUCKET_LEAVES_MEAN_MAX {
            self.grow(domain);
            dirty = (0..self.buckets.len()).collect();
        }
        self.rehash(domain, dirty);
        self.upper[1]
    }

    pub(crate) fn value(&self, path: &KeyHash) -> Option<ValueHash> {
        let leaves = &self.buckets[self.bucket(path)];
        let at = leaves.binary_search_by_key(path, |leaf| leaf.path).ok()?;
        Some(leaves[at].value)
    }

    /// The proof of the shard's subtree for paths inside it.
    pub(crate) fn prove(&self, domain: &Domain, paths: &[KeyHash]) -> ProofNode {
        self.prove_upper(domain, 1, FIRST_BIT, paths)
    }

    fn prove_upper(
        &self,
        domain: &Domain,
        node: usize,
        depth: usize,
        paths: &[KeyHash],
    ) -> ProofNode {
        if node >= self.buckets.len() {
            return prove_leaves(domain, &self.buckets[node - self.buckets.len()], depth, paths);
        }
        let subtree = self.upper[node];
        match subtree.kind {
            Kind::Empty => ProofNode::Empty,
            Kind::Leaf if !paths.is_empty() => {
                let side = usize::from(self.upper[2 * node].kind == Kind::Empty);
                self.prove_upper(domain, 2 * node + side, depth + 1, paths)
            }
            Kind::Inner if !paths.is_empty() => {
                let (left, right) = paths.split_at(paths.partition_point(|p| !bit(p, depth)));
                ProofNode::inner(
                    self.prove_upper(domain, 2 * node, depth + 1, left),
                    self.prove_upper(domain, 2 * node + 1, depth + 1, right),
                )
            }
            _ => ProofNode::Pruned(Digest(subtree.hash)),
        }
    }

    fn rehash(&mut self, domain: &Domain, mut dirty: Vec<usize>) {
        let first = self.buckets.len();
        for bucket in &mut dirty {
            self.upper[first + *bucket] =
                hash_leaves(domain, &self.buckets[*bucket], FIRST_BIT + self.levels);
            *bucket += first;
        }
        rehash_above(domain, &mut self.upper, dirty);
    }

    fn grow(&mut self, domain: &Domain) {
        while self.len > self.buckets.len() * BUCKET_LEAVES_MEAN_MAX {
            let depth = FIRST_BIT + self.levels;
            let mut split = Vec::with_capacity(2 * self.buckets.len());
            for leaves in self.buckets.drain(..) {
                let at = leaves.partition_point(|leaf| !bit(&leaf.path, depth));
                split.push(leaves[..at].to_vec());
                split.push(leaves[at..].to_vec());
            }
            self.buckets = split;
            self.levels += 1;
        }
        self.upper = vec![domain.empty(); 2 * self.buckets.len()];
    }

    fn bucket(&self, path: &KeyHash) -> usize {
        let word: [u8; 4] = path[1..5].try_into().expect("four bytes of 32");
        let word = u64::from(u32::from_be_bytes(word));
        usize::try_from(word >> (32 - self.levels)).expect("levels stay below 32")
    }
}

/// The subtree of sorted leaves that share the first `depth` bits.
fn hash_leaves(domain: &Domain, leaves: &[Leaf], depth: usize) -> Subtree {
    match leaves {
        [] => domain.empty(),
        [one] => domain.leaf(one),
        many => {
            let (left, right) = many.split_at(many.partition_point(|leaf| !bit(&leaf.path, depth)));
            domain
                .join(&hash_leaves(domain, left, depth + 1), &hash_leaves(domain, right, depth + 1))
        }
    }
}

fn prove_leaves(domain: &Domain, leaves: &[Leaf], depth: usize, paths: &[KeyHash]) -> ProofNode {
    match leaves {
        [] => ProofNode::Empty,
        _ if paths.is_empty() => ProofNode::Pruned(Digest(hash_leaves(domain, leaves, depth).hash)),
        [one] => ProofNode::Leaf { path: Digest(one.path), value: Digest(one.value) },
        many => {
            let (low, high) = many.split_at(many.partition_point(|leaf| !bit(&leaf.path, depth)));
            let (left, right) = paths.split_at(paths.partition_point(|p| !bit(p, depth)));
            ProofNode::inner(
                prove_leaves(domain, low, depth + 1, left),
                prove_leaves(domain, high, depth + 1, right),
            )
        }
    }
}

/// The bits above choose the shard.
const FIRST_BIT: usize = 8;

/// Between two and four leaves per bucket: a touched bucket is rehashed whole, and the array above
/// costs 66 bytes per bucket.
const BUCKET_LEAVES_MEAN_MAX: usize = 4;
