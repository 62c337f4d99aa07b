//! Merkle roots and inclusion proofs over an ordered list of digests.
//!
//! The tree of RFC 9162 section 2.1 with SHA-256: `leaf = H(0x00 || d)`, `node = H(0x01 || left ||
//! right)`, a list of n splits at the largest power of two below n. The root of an empty list is
//! `Digest::ZERO`.
//!
//! ```text
//! path   index u32 | count u32 | siblings u32 x 32
//! ```

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;

/// A leaf's place in a Merkle tree and the siblings up to the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// Position of the leaf, from 0.
    pub index: u32,
    /// Leaves of the tree.
    pub count: u32,
    /// Siblings, from the leaf up.
    pub siblings: Vec<Digest>,
}

/// Root over `leaves`, in order.
pub fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest::ZERO,
        [one] => leaf(one),
        many => {
            let (left, right) = many.split_at(split(many.len()));
            node(&root(left), &root(right))
        }
    }
}

/// Sibling digests from the leaf at `index` up to the root. Empty where `index` is out of range.
pub fn proof(leaves: &[Digest], index: usize) -> Vec<Digest> {
    if leaves.len() <= 1 || index >= leaves.len() {
        return Vec::new();
    }
    let at = split(leaves.len());
    let (left, right) = leaves.split_at(at);
    let (mut path, sibling) = match index < at {
        true => (proof(left, index), root(right)),
        false => (proof(right, index - at), root(left)),
    };
    path.push(sibling);
    path
}

/// Recomputes the root from a leaf, its index, the number of leaves and the proof. `None` where
/// they do not fit.
pub fn fold(item: &Digest, index: usize, count: usize, path: &[Digest]) -> Option<Digest> {
    if index >= count {
        return None;
    }
    if count == 1 {
        return path.is_empty().then(|| leaf(item));
    }
    let (sibling, below) = path.split_last()?;
    let at = split(count);
    match index < at {
        true => Some(node(&fold(item, index, at, below)?, sibling)),
        false => Some(node(sibling, &fold(item, index - at, count - at, below)?)),
    }
}

impl Path {
    /// The path of leaf `index` among `leaves`.
    pub fn among(leaves: &[Digest], index: usize) -> Self {
        Self {
            index: u32::try_from(index).expect("leaves stay below the limits of a block"),
            count: u32::try_from(leaves.len()).expect("leaves stay below the limits of a block"),
            siblings: proof(leaves, index),
        }
    }

    /// The root this path leads to from `item`; `None` where the parts do not fit.
    pub fn root_of(&self, item: &Digest) -> Option<Digest> {
        if self.siblings.len() > PATH_SIBLINGS_MAX {
            return None;
        }
        fold(item, self.index as usize, self.count as usize, &self.siblings)
    }
}

impl Encode for Path {
    fn encode(&self, w: &mut Writer) {
        w.u32(self.index);
        w.u32(self.count);
        w.list(&self.siblings);
    }
}

impl Decode for Path {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            index: r.u32("path index")?,
            count: r.u32("path count")?,
            siblings: r.list("path siblings", PATH_SIBLINGS_MAX)?,
        })
    }
}

fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn leaf(item: &Digest) -> Digest {
    Digest::of(&[&[0], &item.0])
}

fn node(left: &Digest, right: &Digest) -> Digest {
    Digest::of(&[&[1], &left.0, &right.0])
}

/// A path has at most as many siblings as the count of leaves has bits.
const PATH_SIBLINGS_MAX: usize = u32::BITS as usize;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every proof of every list up to 33 leaves folds to the root, and to no other root at another
    /// index.
    #[test]
    fn proofs_fold_to_the_root_at_their_own_index_only() {
        let all: Vec<Digest> = (0..33u8).map(|i| Digest::of(&[&[i]])).collect();
        for n in 1..=all.len() {
            let leaves = &all[..n];
            let want = root(leaves);
            for i in 0..n {
                let path = proof(leaves, i);
                assert_eq!(fold(&leaves[i], i, n, &path), Some(want));
                for j in (0..n).filter(|j| *j != i) {
                    assert_ne!(fold(&leaves[i], j, n, &path), Some(want));
                }
            }
        }
    }
}
