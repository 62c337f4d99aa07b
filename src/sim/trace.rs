//! What happened, as a hash always and as text where asked for.
//!
//! The hash covers time, node, kind and content of every event: two runs of one seed on any
//! machine give the same one. The text is formed only when it is kept.

use std::collections::VecDeque;

use crate::sim::keys::mix;

/// The record of a run.
pub struct Trace {
    hash: [u64; 2],
    keep: usize,
    lines: VecDeque<String>,
    /// Events noted.
    pub events: u64,
}

impl Trace {
    /// A record that keeps the last `keep` lines of text.
    pub fn new(keep: usize) -> Self {
        Self { hash: [1, 2], keep, lines: VecDeque::new(), events: 0 }
    }

    /// Adds an event; `text` is called only where text is kept.
    pub fn note(
        &mut self,
        now_us: u64,
        node: usize,
        kind: &'static str,
        content: u64,
        text: impl FnOnce() -> String,
    ) {
        let kind_number = kind.bytes().fold(0, |n, b| mix(n, u64::from(b)));
        let node_number = u64::try_from(node).expect("positions fit 64 bits");
        let [a, b] = self.hash;
        self.hash = [
            mix(mix(a, now_us), node_number ^ kind_number),
            mix(mix(b, content), kind_number.rotate_left(7) ^ now_us),
        ];
        self.events += 1;
        if self.keep > 0 {
            if self.lines.len() == self.keep {
                self.lines.pop_front();
            }
            let (ms, us) = (now_us / 1000, now_us % 1000);
            self.lines.push_back(format!("{ms:>7}.{us:03} ms  {node:>2}  {kind:<12} {}", text()));
        }
    }

    /// 32 hex digits.
    pub fn hash(&self) -> String {
        format!("{:016x}{:016x}", self.hash[0], self.hash[1])
    }

    /// The lines kept.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
