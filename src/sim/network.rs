//! The simulated network: delay, loss, duplication, reordering and one-way blockades per link.
//!
//! Messages are whole and unaltered; a persona that wants to alter one signs it itself. Blockades
//! are counted, so overlapping partitions end independently.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::sim::random::Stream;

/// Behaviour of every link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Least delay, microseconds.
    pub delay_us_min: u64,
    /// Greatest usual delay, microseconds.
    pub delay_us_max: u64,
    /// Messages that take up to twenty times the greatest usual delay.
    pub slow_permille: u64,
    /// Messages that vanish.
    pub loss_permille: u64,
    /// Messages that arrive twice.
    pub duplicate_permille: u64,
    /// Whether a link keeps the order of its messages, as one TCP connection does.
    pub ordered: bool,
}

/// One-way blockades: (from, to).
pub type Blockade = BTreeSet<(u16, u16)>;

/// All links.
pub struct Network {
    link: Link,
    blocked: BTreeMap<(u16, u16), u32>,
    last_arrival_us: BTreeMap<(u16, u16), u64>,
    random: Stream,
}

impl Network {
    /// A network without blockades.
    pub fn new(link: Link, random: Stream) -> Self {
        Self { link, blocked: BTreeMap::new(), last_arrival_us: BTreeMap::new(), random }
    }

    /// Times at which a message sent now arrives: none, one or two.
    pub fn route(&mut self, now_us: u64, from: u16, to: u16) -> [Option<u64>; 2] {
        if self.is_blocked(from, to) || self.random.chance(self.link.loss_permille) {
            return [None, None];
        }
        let first = self.arrival(now_us, from, to);
        let twice = self.random.chance(self.link.duplicate_permille);
        [Some(first), twice.then(|| self.arrival(now_us, from, to))]
    }

    /// Whether messages of this direction vanish now.
    pub fn is_blocked(&self, from: u16, to: u16) -> bool {
        self.blocked.contains_key(&(from, to))
    }

    /// Starts a blockade.
    pub fn block(&mut self, blockade: &Blockade) {
        for pair in blockade {
            *self.blocked.entry(*pair).or_insert(0) += 1;
        }
    }

    /// Ends a blockade that was started.
    pub fn unblock(&mut self, blockade: &Blockade) {
        for pair in blockade {
            let left = self.blocked.get(pair).copied().unwrap_or(0);
            if left > 1 {
                self.blocked.insert(*pair, left - 1);
            } else {
                self.blocked.remove(pair);
            }
        }
    }

    /// Ends all blockades, loss and long delays.
    pub fn heal(&mut self) {
        self.blocked.clear();
        self.link.loss_permille = 0;
        self.link.slow_permille = 0;
        self.link.delay_us_max = self.link.delay_us_max.min(HEALED_DELAY_US_MAX);
        self.link.delay_us_min = self.link.delay_us_min.min(self.link.delay_us_max);
    }

    fn arrival(&mut self, now_us: u64, from: u16, to: u16) -> u64 {
        let mut delay = self.random.between(self.link.delay_us_min, self.link.delay_us_max);
        if self.random.chance(self.link.slow_permille) {
            delay += self.random.below(20 * self.link.delay_us_max);
        }
        let at = now_us + delay;
        if !self.link.ordered {
            return at;
        }
        let last = self.last_arrival_us.entry((from, to)).or_insert(0);
        *last = at.max(*last + 1);
        *last
    }
}

/// Delay of a healthy link, microseconds: a wide-area network.
const HEALED_DELAY_US_MAX: u64 = 50_000;
