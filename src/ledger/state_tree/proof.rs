//! Proofs of what the state holds and does not hold, for one key or many.
//!
//! A proof is the tree with everything cut away that no asked key needs. One form serves membership
//! (the path ends in the key's leaf), absence (it ends in nothing or in another key's leaf) and any
//! number of keys at once, which then share their common nodes.
//!
//! ```text
//! proof   entries u32 x (namespace string | key bytes | 0, or 1 | value bytes) | node
//! node    0                                   empty
//!         1 | key hash 32 | value hash 32     a leaf
//!         2 | hash 32                         a subtree that no asked key enters
//!         3 | left node | right node          an inner node
//! ```
//!
//! `verify` folds the node to the root and follows every asked key; it believes nothing else. A
//! node that a canonical tree cannot have (a leaf off its path, an inner node that should have
//! collapsed, one below 256 levels) is refused.

use bytes::Bytes;

use crate::ledger::read_write_set::StateKey;
use crate::ledger::state_tree::KeyHash;
use crate::ledger::state_tree::Kind;
use crate::ledger::state_tree::Leaf;
use crate::ledger::state_tree::OBELISK;
use crate::ledger::state_tree::Subtree;
use crate::ledger::state_tree::bit;
use crate::ledger::state_tree::key_hash;
use crate::ledger::state_tree::value_hash;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::limits;

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It belongs to another state.
    #[error("the proof leads to the root {found}, not to {wanted}; ask for one at that height")]
    WrongRoot { found: Digest, wanted: Digest },
    /// A claim that the tree contradicts.
    #[error("the proof's tree does not hold what it claims of key {key} of {namespace}: {reason}")]
    WrongClaim { namespace: String, key: String, reason: &'static str },
    /// No canonical tree has this shape.
    #[error("the proof's tree is malformed: {reason}")]
    Malformed { reason: &'static str },
}

/// Part of the state tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofNode {
    /// A subtree without leaves.
    Empty,
    /// A subtree that is one leaf.
    Leaf { path: Digest, value: Digest },
    /// A subtree that no asked key enters.
    Pruned(Digest),
    /// A subtree with two or more leaves.
    Inner(Box<(ProofNode, ProofNode)>),
}

/// Keys with their values, or their absence, and the part of the state tree that proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateProof {
    /// The keys asked for, in the order asked; `None` where the state holds no such key.
    pub entries: Vec<(StateKey, Option<Bytes>)>,
    /// The tree, cut down to them.
    pub tree: ProofNode,
}

impl ProofNode {
    pub(crate) fn inner(left: Self, right: Self) -> Self {
        Self::Inner(Box::new((left, right)))
    }

    /// Folds to the subtree's hash; `prefix` is the path so far, of which `depth` bits count.
    fn fold(&self, prefix: &mut KeyHash, depth: usize) -> Result<Subtree, ProofError> {
        match self {
            Self::Empty => Ok(OBELISK.empty()),
            Self::Pruned(hash) => Ok(Subtree { hash: hash.0, kind: Kind::Inner }),
            Self::Leaf { path, value } => {
                if (0..depth).any(|at| bit(&path.0, at) != bit(prefix, at)) {
                    return Err(ProofError::Malformed { reason: "a leaf lies off its path" });
                }
                Ok(OBELISK.leaf(&Leaf { path: path.0, value: value.0 }))
            }
            Self::Inner(_) if depth == DEPTH_MAX => {
                Err(ProofError::Malformed { reason: "an inner node below 256 levels" })
            }
            Self::Inner(children) => {
                let left = children.0.fold(prefix, depth + 1)?;
                prefix[depth / 8] |= 0x80 >> (depth % 8);
                let right = children.1.fold(prefix, depth + 1)?;
                prefix[depth / 8] &= !(0x80 >> (depth % 8));
                let joined = OBELISK.join(&left, &right);
                if joined.kind != Kind::Inner {
                    return Err(ProofError::Malformed { reason: "an inner node should collapse" });
                }
                Ok(joined)
            }
        }
    }

    /// What the tree holds at a path: `Some(None)` for nothing, `None` where the proof does not
    /// tell.
    fn find(&self, wanted: &KeyHash) -> Option<Option<Digest>> {
        let mut node = self;
        for depth in 0..=DEPTH_MAX {
            match node {
                Self::Empty => return Some(None),
                Self::Pruned(_) => return None,
                Self::Leaf { path, value } => return Some((path.0 == *wanted).then_some(*value)),
                Self::Inner(_) if depth == DEPTH_MAX => return None,
                Self::Inner(children) if bit(wanted, depth) => node = &children.1,
                Self::Inner(children) => node = &children.0,
            }
        }
        None
    }

    fn decode_at(r: &mut Reader<'_>, depth: usize, nodes: &mut usize) -> Result<Self, DecodeError> {
        *nodes += 1;
        if *nodes > limits::PROOF_NODES_MAX {
            let (found, limit) = (*nodes, limits::PROOF_NODES_MAX);
            return Err(DecodeError::TooLong { field: "proof nodes", found, limit });
        }
        match r.u8("proof node")? {
            0 => Ok(Self::Empty),
            1 => Ok(Self::Leaf { path: Digest::decode(r)?, value: Digest::decode(r)? }),
            2 => Ok(Self::Pruned(Digest::decode(r)?)),
            3 if depth < DEPTH_MAX => {
                let left = Self::decode_at(r, depth + 1, nodes)?;
                Ok(Self::inner(left, Self::decode_at(r, depth + 1, nodes)?))
            }
            3 => Err(DecodeError::Invalid { field: "proof node", reason: "below 256 levels" }),
            _ => Err(DecodeError::Invalid { field: "proof node", reason: "unknown kind" }),
        }
    }
}

impl StateProof {
    /// Checks the proof against a state root and returns its entries, now proven.
    pub fn verify(&self, root: &Digest) -> Result<&[(StateKey, Option<Bytes>)], ProofError> {
        let found = Digest(self.tree.fold(&mut [0; 32], 0)?.hash);
        if found != *root {
            return Err(ProofError::WrongRoot { found, wanted: *root });
        }
        for (at, claimed) in &self.entries {
            let claimed = claimed.as_ref().map(|value| Digest(value_hash(value)));
            let reason = match self.tree.find(&key_hash(at)) {
                Some(held) if held == claimed => continue,
                Some(None) => "the key is absent",
                Some(Some(_)) => "the key has another value",
                None => "the path is cut off",
            };
            return Err(ProofError::WrongClaim {
                namespace: at.namespace.clone(),
                key: hex::encode(&at.key),
                reason,
            });
        }
        Ok(&self.entries)
    }
}

impl Encode for ProofNode {
    fn encode(&self, w: &mut Writer) {
        match self {
            Self::Empty => w.u8(0),
            Self::Leaf { path, value } => {
                w.u8(1);
                path.encode(w);
                value.encode(w);
            }
            Self::Pruned(hash) => {
                w.u8(2);
                hash.encode(w);
            }
            Self::Inner(children) => {
                w.u8(3);
                children.0.encode(w);
                children.1.encode(w);
            }
        }
    }
}

impl Decode for ProofNode {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::decode_at(r, 0, &mut 0)
    }
}

impl Encode for StateProof {
    fn encode(&self, w: &mut Writer) {
        w.count(self.entries.len());
        for (at, value) in &self.entries {
            at.encode(w);
            match value {
                None => w.u8(0),
                Some(value) => {
                    w.u8(1);
                    w.bytes(value);
                }
            }
        }
        self.tree.encode(w);
    }
}

impl Decode for StateProof {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let total = r.remaining();
        if total > limits::STATE_PROOF_BYTES_MAX {
            let (found, limit) = (total, limits::STATE_PROOF_BYTES_MAX);
            return Err(DecodeError::TooLong { field: "state proof", found, limit });
        }
        let count = r.count("proof entries", limits::PROOF_KEYS_MAX)?;
        let mut entries = Vec::new();
        for _ in 0..count {
            let at = StateKey::decode(r)?;
            let value = match r.u8("proof value")? {
                0 => None,
                1 => Some(r.bytes("proof value", limits::STATE_VALUE_BYTES_MAX)?),
                _ => {
                    return Err(DecodeError::Invalid {
                        field: "proof value",
                        reason: "an option is 0 or 1",
                    });
                }
            };
            entries.push((at, value));
        }
        Ok(Self { entries, tree: ProofNode::decode(r)? })
    }
}

const DEPTH_MAX: usize = 256;
