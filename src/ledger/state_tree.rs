//! The commitment to the world state: a canonical compact sparse Merkle tree over SHA-256.
//!
//! ```text
//! kh     H(ns length u8 | namespace | key)          path of a key: its 256 bits from the top
//! leaf   H(0x00 | kh | H(value))                    node   H(0x01 | left | right)
//! empty  32 zero bytes                              a subtree with one leaf IS that leaf
//! ```
//!
//! The root is a pure function of the key and value set: neither the order of updates nor the
//! layout here can be seen in it, so nodes may keep the tree as suits their memory. Hashing the
//! keys bounds the depth: `k` extra levels cost an attacker `2^k` work.
//!
//! Layout: 256 shards by the first byte (`shard`), each with its upper levels as a flat array over
//! sorted buckets of leaves; above them a flat array of eight levels. A batch of updates rehashes
//! only the touched buckets and the paths above them. All in memory, about 110 bytes per key;
//! rebuilt from the flat state at open. Reads of the state never touch the tree.
//!
//! Source of the shape: Diem's Jellyfish Merkle tree (Gao, Hu, Wu 2021), whose roots equal these
//! under other hash domains; the `jmt` crate is the oracle of the tests.

mod proof;
mod shard;
#[cfg(test)]
mod tests;

use crate::ledger::read_write_set::StateKey;
use crate::ledger::state_tree::shard::Shard;
use crate::types::digest::Digest;

pub use crate::ledger::state_tree::proof::ProofError;
pub use crate::ledger::state_tree::proof::ProofNode;
pub use crate::ledger::state_tree::proof::StateProof;

/// Hash of a key: its path in the tree.
pub type KeyHash = [u8; 32];

/// Hash of a value.
pub type ValueHash = [u8; 32];

/// A change of one key: the new value's hash, or `None` where the key was deleted.
pub type Update = (KeyHash, Option<ValueHash>);

/// The path of a key in the tree.
pub fn key_hash(at: &StateKey) -> KeyHash {
    let len = u8::try_from(at.namespace.len()).expect("names are at most 64 bytes");
    Digest::of(&[&[len], at.namespace.as_bytes(), &at.key]).0
}

/// The path of a key given as a row key of the state table, which is the same bytes.
pub fn row_key_hash(row: &[u8]) -> KeyHash {
    Digest::of(&[row]).0
}

/// What the tree keeps of a value.
pub fn value_hash(value: &[u8]) -> ValueHash {
    Digest::of(&[value]).0
}

/// A key of the tree with its value's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) path: KeyHash,
    pub(crate) value: ValueHash,
}

/// What a subtree holds; decides whether its parent collapses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Empty,
    Leaf,
    Inner,
}

/// Hash and kind of a subtree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subtree {
    pub(crate) hash: [u8; 32],
    pub(crate) kind: Kind,
}

/// The texts that keep leaf, node and empty apart. The ledger has one; tests add the oracle's.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) leaf: &'static [u8],
    pub(crate) node: &'static [u8],
    pub(crate) empty: [u8; 32],
}

/// The ledger's domain.
pub(crate) static OBELISK: Domain = Domain { leaf: &[0], node: &[1], empty: [0; 32] };

impl Domain {
    pub(crate) fn empty(&self) -> Subtree {
        Subtree { hash: self.empty, kind: Kind::Empty }
    }

    pub(crate) fn leaf(&self, leaf: &Leaf) -> Subtree {
        let hash = Digest::of(&[self.leaf, &leaf.path, &leaf.value]).0;
        Subtree { hash, kind: Kind::Leaf }
    }

    /// The parent of two subtrees; a lone leaf moves up.
    pub(crate) fn join(&self, left: &Subtree, right: &Subtree) -> Subtree {
        match (left.kind, right.kind) {
            (Kind::Empty, Kind::Empty) => *left,
            (Kind::Leaf, Kind::Empty) => *left,
            (Kind::Empty, Kind::Leaf) => *right,
            _ => {
                let hash = Digest::of(&[self.node, &left.hash, &right.hash]).0;
                Subtree { hash, kind: Kind::Inner }
            }
        }
    }
}

/// The tree.
#[derive(Debug)]
pub struct StateTree {
    domain: &'static Domain,
    shards: Vec<Shard>,
    /// Node `i` has children `2i` and `2i + 1`; the root is 1, shard `s` is `SHARDS + s`.
    top: Vec<Subtree>,
}

impl Default for StateTree {
    fn default() -> Self {
        Self::with_domain(&OBELISK)
    }
}

impl StateTree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with_domain(domain: &'static Domain) -> Self {
        Self {
            domain,
            shards: (0..SHARDS).map(|_| Shard::new(domain)).collect(),
            top: vec![domain.empty(); 2 * SHARDS],
        }
    }

    /// Applies changes, at most one per key, and returns the new root. Sorts `updates` by path.
    pub fn update(&mut self, updates: &mut [Update]) -> Digest {
        updates.sort_unstable_by_key(|(path, _)| *path);
        debug_assert!(updates.windows(2).all(|pair| pair[0].0 < pair[1].0), "one change per key");
        let mut dirty = Vec::new();
        for part in updates.chunk_by(|a, b| a.0[0] == b.0[0]) {
            let shard = usize::from(part[0].0[0]);
            self.top[SHARDS + shard] = self.shards[shard].update(self.domain, part);
            dirty.push(SHARDS + shard);
        }
        rehash_above(self.domain, &mut self.top, dirty);
        self.root()
    }

    /// The root; `Digest::ZERO` for an empty state.
    pub fn root(&self) -> Digest {
        Digest(self.top[1].hash)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.shards.iter().map(Shard::len).sum()
    }

    /// True where the state holds no key.
    pub fn is_empty(&self) -> bool {
        self.top[1].kind == Kind::Empty
    }

    /// The hash kept of a key's value.
    pub fn value(&self, path: &KeyHash) -> Option<ValueHash> {
        self.shards[usize::from(path[0])].value(path)
    }

    /// The part of the tree that proves what it holds, or does not hold, at `paths`.
    pub fn prove(&self, paths: &[KeyHash]) -> ProofNode {
        let mut sorted = paths.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        self.prove_top(1, 0, &sorted)
    }

    fn prove_top(&self, node: usize, depth: usize, paths: &[KeyHash]) -> ProofNode {
        if node >= SHARDS {
            return self.shards[node - SHARDS].prove(self.domain, paths);
        }
        let subtree = self.top[node];
        match subtree.kind {
            Kind::Empty => ProofNode::Empty,
            Kind::Leaf if !paths.is_empty() => {
                let child = [2 * node, 2 * node + 1];
                let side = usize::from(self.top[child[0]].kind == Kind::Empty);
                self.prove_top(child[side], depth + 1, paths)
            }
            Kind::Inner if !paths.is_empty() => {
                let (left, right) = paths.split_at(paths.partition_point(|p| !bit(p, depth)));
                ProofNode::inner(
                    self.prove_top(2 * node, depth + 1, left),
                    self.prove_top(2 * node + 1, depth + 1, right),
                )
            }
            _ => ProofNode::Pruned(Digest(subtree.hash)),
        }
    }
}

/// Bit `depth` of a path, from the top.
pub(crate) fn bit(path: &KeyHash, depth: usize) -> bool {
    path[depth / 8] >> (7 - depth % 8) & 1 == 1
}

/// Rehashes the ancestors of the nodes in `dirty`, which are ascending and on one level of the
/// heap-shaped array.
fn rehash_above(domain: &Domain, nodes: &mut [Subtree], mut dirty: Vec<usize>) {
    while dirty.first().is_some_and(|first| *first > 1) {
        dirty.iter_mut().for_each(|node| *node /= 2);
        dirty.dedup();
        for node in &dirty {
            nodes[*node] = domain.join(&nodes[2 * node], &nodes[2 * node + 1]);
        }
    }
}

const SHARDS: usize = 256;
