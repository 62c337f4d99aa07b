//! Ids of transactions executed in the last `VALIDITY_BLOCKS_MAX` blocks: the fast way to say "not
//! a duplicate" at more than 10,000 transactions per second.
//!
//! The first eight bytes of each id are kept with the height of their last block, 16 bytes each. A
//! hit may be a chance meeting of prefixes, so the index of transactions confirms it; a miss is
//! certain. A transaction may not execute more than `VALIDITY_BLOCKS_MAX` blocks after it became
//! valid, so ids below the window are refused by their height alone (`Status::Expired`): whoever
//! checks both must check expiry first.

use std::collections::HashMap;
use std::collections::VecDeque;

use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;

/// The window of recent ids. Iterates over no hash order: only membership is asked.
#[derive(Debug, Default)]
pub(crate) struct RecentIds {
    last_seen: HashMap<u64, Height>,
    blocks: VecDeque<(Height, Vec<u64>)>,
}

impl RecentIds {
    /// Adds a block's executed transactions and forgets the block that leaves the window.
    pub(crate) fn add(&mut self, height: Height, ids: impl Iterator<Item = TxId>) {
        let prefixes: Vec<u64> = ids.map(|id| prefix(&id)).collect();
        self.last_seen.extend(prefixes.iter().map(|prefix| (*prefix, height)));
        self.blocks.push_back((height, prefixes));
        while self.blocks.len() as u64 > limits::VALIDITY_BLOCKS_MAX {
            let Some((old, prefixes)) = self.blocks.pop_front() else { return };
            for prefix in prefixes {
                // A prefix seen again later stays for the later block.
                if self.last_seen.get(&prefix) == Some(&old) {
                    self.last_seen.remove(&prefix);
                }
            }
        }
    }

    /// Ids held.
    pub(crate) fn len(&self) -> usize {
        self.last_seen.len()
    }

    /// False: certainly not executed in the window. True: the index must confirm.
    pub(crate) fn may_contain(&self, id: &TxId) -> bool {
        self.last_seen.contains_key(&prefix(id))
    }
}

fn prefix(id: &TxId) -> u64 {
    u64::from_be_bytes(id.0.0[..8].try_into().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Digest;

    /// An id is known for exactly the window, and one repeated in it for a window from the repeat.
    #[test]
    fn ids_leave_with_their_block_unless_seen_again() {
        let id = |n: u64| TxId(Digest::of(&[&n.to_be_bytes()]));
        let mut recent = RecentIds::default();
        let window = limits::VALIDITY_BLOCKS_MAX;
        for height in 1..=2 * window {
            let again = (height == window).then(|| id(1));
            recent.add(Height(height), [id(height)].into_iter().chain(again));
            for old in 1..=height {
                let seen = old + window > height || (old == 1 && height < 2 * window);
                let seen = seen || (old == 1 && height >= window && height < 2 * window);
                if old == 1 || old + window + 2 > height {
                    assert_eq!(recent.may_contain(&id(old)), seen, "{old} at {height}");
                }
            }
        }
        assert_eq!(recent.last_seen.len(), usize::try_from(window).expect("fits"));
    }
}
