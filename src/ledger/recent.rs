//! Ids of transactions executed in the last `VALIDITY_BLOCKS_MAX` blocks: the fast way to say "not
//! a duplicate" at more than 10,000 transactions per second.
//!
//! The first eight bytes of each id are kept with the height of their last block, 16 bytes each. A
//! hit may be a chance meeting of prefixes, so the index of transactions confirms it; a miss is
//! certain. A transaction may not execute more than `VALIDITY_BLOCKS_MAX` blocks after it became
//! valid, so ids below the window are refused by their height alone (`Status::Expired`): whoever
//! checks both must check expiry first.
//!
//! At most `RECENT_IDS_MAX` ids are kept. Where the window holds more, its oldest blocks leave, and
//! until it has passed them every question goes to the index: slower, never another answer.

use std::collections::HashMap;
use std::collections::VecDeque;

use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;

/// The window of recent ids. Iterates over no hash order: only membership is asked.
#[derive(Debug)]
pub(crate) struct RecentIds {
    last_seen: HashMap<u64, Height>,
    blocks: VecDeque<(Height, Box<[u64]>)>,
    /// Ids in `blocks`.
    held: usize,
    held_max: usize,
    /// The last block that left although it is in the window.
    cut: Option<Height>,
}

impl Default for RecentIds {
    fn default() -> Self {
        Self::new(limits::RECENT_IDS_MAX)
    }
}

impl RecentIds {
    fn new(held_max: usize) -> Self {
        let (last_seen, blocks) = (HashMap::new(), VecDeque::new());
        Self { last_seen, blocks, held: 0, held_max, cut: None }
    }

    /// Adds a block's executed transactions and forgets the block that leaves the window, and
    /// others where too many ids are held.
    pub(crate) fn add(&mut self, height: Height, ids: impl Iterator<Item = TxId>) {
        let prefixes: Box<[u64]> = ids.map(|id| prefix(&id)).collect();
        self.last_seen.extend(prefixes.iter().map(|prefix| (*prefix, height)));
        self.held += prefixes.len();
        self.blocks.push_back((height, prefixes));
        let has_passed = |block: Height| block.0 + limits::VALIDITY_BLOCKS_MAX <= height.0;
        while let Some(oldest) = self.blocks.front().map(|(oldest, _)| *oldest)
            && (has_passed(oldest) || self.held > self.held_max)
        {
            self.forget_oldest();
            if !has_passed(oldest) {
                self.cut = Some(oldest);
            }
        }
        self.cut = self.cut.filter(|cut| !has_passed(*cut));
    }

    fn forget_oldest(&mut self) {
        let Some((old, prefixes)) = self.blocks.pop_front() else { return };
        self.held -= prefixes.len();
        for prefix in prefixes {
            // A prefix seen again later stays for the later block.
            if self.last_seen.get(&prefix) == Some(&old) {
                self.last_seen.remove(&prefix);
            }
        }
    }

    /// Ids held.
    pub(crate) fn len(&self) -> usize {
        self.last_seen.len()
    }

    /// False: certainly not executed in the window. True: the index must confirm.
    pub(crate) fn may_contain(&self, id: &TxId) -> bool {
        self.cut.is_some() || self.last_seen.contains_key(&prefix(id))
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

    /// Full blocks do not grow the table beyond its limit, and no id of the window is denied for
    /// it: the index is asked, until the window has passed what was cut.
    #[test]
    fn the_limit_costs_time_and_forgets_nothing() {
        let id = |block: u64, n: u64| TxId(Digest::of(&[&(block * 100 + n).to_be_bytes()]));
        let (window, held_max) = (limits::VALIDITY_BLOCKS_MAX, 500);
        let mut recent = RecentIds::new(held_max);
        for height in 1..=40 {
            recent.add(Height(height), (0..30).map(|n| id(height, n)));
            assert!(recent.len() <= held_max, "{} ids at {height}", recent.len());
            for old in 1..=height {
                assert!(recent.may_contain(&id(old, 7)), "{old} at {height}");
            }
        }
        let last_cut = 40 - 500 / 30;
        for height in 41..last_cut + window {
            recent.add(Height(height), std::iter::empty());
            assert!(recent.may_contain(&id(last_cut, 7)), "{last_cut} at {height}");
        }
        recent.add(Height(last_cut + window), std::iter::empty());
        assert!(!recent.may_contain(&id(last_cut, 7)), "too old to execute");
        assert!(recent.may_contain(&id(last_cut + 1, 7)), "answered from memory again");
    }

    /// What the comment at the limit says of memory: the hash table of the largest window, whatever
    /// came and went.
    #[test]
    fn the_table_keeps_to_the_memory_named_at_its_limit() {
        let mut recent = RecentIds::new(1 << 10);
        for height in 1..=3000 {
            recent.add(
                Height(height),
                (0..3).map(|n| TxId(Digest::of(&[&[n], &height.to_be_bytes()]))),
            );
        }
        // Of 2^11 buckets 7/8 can be filled; removed entries may double them once.
        assert!(
            recent.last_seen.capacity() <= (1 << 12) / 8 * 7,
            "{}",
            recent.last_seen.capacity()
        );
    }
}
