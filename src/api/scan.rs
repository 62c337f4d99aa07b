//! A page of a contract's state: what a client may ask for, checked once for both interfaces.
//!
//! ```text
//! prefix | start, end      what to go through, ascending by key
//! from                     where to go on: `next` of the page before
//! height                   only if the state still stands there, else `height-mismatch`
//! ```
//!
//! A page stands at one height: it is read from one view of the state, taken when it is asked for.
//! Pages do not hold the state still between them; who needs all of them at one height names the
//! height of the first in the others.

use bytes::Bytes;

use crate::api::Service;
use crate::api::action::Answer;
use crate::api::failure::Failure;
use crate::chaincode::builtin;
use crate::chaincode::builtin::lifecycle;
use crate::ledger::WorldState;
use crate::ledger::read_write_set;
use crate::ledger::read_write_set::StateKey;
use crate::types::ids::Height;
use crate::types::limits;

/// What a client asked for, unchecked. Empty bytes mean "not given".
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Name of the contract.
    pub chaincode: String,
    /// All keys that begin like this; not together with `start` or `end`.
    pub prefix: Bytes,
    /// First key.
    pub start: Bytes,
    /// First key behind the range.
    pub end: Bytes,
    /// `next` of the page before.
    pub from: Bytes,
    /// Entries of the page at most.
    pub limit: Option<u64>,
    /// The one height at which the answer is wanted.
    pub height: Option<u64>,
}

/// A scan that may be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    chaincode: String,
    start: Bytes,
    end: Bytes,
    limit: usize,
    height: Option<Height>,
}

impl Asked {
    /// Refuses what makes no sense; an end before the start is a mistake, not an empty page.
    pub fn check(self) -> Result<Scan, Failure> {
        let Self { chaincode, prefix, start, end, from, limit, height } = self;
        if chaincode.len() > limits::NAME_BYTES_MAX {
            let text = format!("a contract's name has at most {} bytes", limits::NAME_BYTES_MAX);
            return Err(Failure::malformed(text));
        }
        for (name, key) in [("prefix", &prefix), ("start", &start), ("end", &end), ("from", &from)]
        {
            if key.len() > limits::STATE_KEY_BYTES_MAX {
                let text =
                    format!("{name}: a key has at most {} bytes", limits::STATE_KEY_BYTES_MAX);
                return Err(Failure::malformed(text));
            }
        }
        let is_bounded = !start.is_empty() || !end.is_empty();
        if !prefix.is_empty() && is_bounded {
            let text = "prefix stands beside start or end";
            return Err(Failure::malformed(text).hint("give a prefix, or a start and an end"));
        }
        let (start, end) = match prefix.is_empty() {
            true => (start, end),
            false => read_write_set::prefix_range(&prefix),
        };
        if !end.is_empty() && start > end {
            let text = "the start of the range is behind its end";
            return Err(Failure::malformed(text).hint("exchange start and end"));
        }
        let outside = from < start || (!end.is_empty() && from >= end);
        if !from.is_empty() && outside {
            let text = "from lies outside the range";
            return Err(Failure::malformed(text).hint("use `next` of a page of the same range"));
        }
        let limit = limit.unwrap_or(ENTRIES_DEFAULT);
        let most = limits::STATE_PAGE_ENTRIES_MAX;
        let limit = usize::try_from(limit).ok().filter(|limit| (1..=most).contains(limit));
        let Some(limit) = limit else {
            let text = format!("limit must be from 1 to {most}");
            return Err(Failure::malformed(text).hint("ask for more with further pages"));
        };
        let start = start.max(from);
        Ok(Scan { chaincode, start, end, limit, height: height.map(Height) })
    }
}

impl Service {
    /// One page; may wait for the disk.
    pub(super) fn scan(&self, scan: &Scan) -> Result<Answer, Failure> {
        let Scan { chaincode, start, end, limit, height } = scan;
        let view = self.handle.ledger().view();
        let record = StateKey {
            namespace: lifecycle::NAME.to_owned(),
            key: Bytes::from(lifecycle::name_key(chaincode)),
        };
        if builtin::find(chaincode).is_none() && view.get(&record)?.is_none() {
            let text = format!("no contract {chaincode:?} on this chain");
            return Err(Failure::new("unknown-chaincode", text));
        }
        let page = view.page(chaincode, start, end, *limit)?;
        match height {
            Some(wanted) if *wanted != page.height => {
                let text = format!("asked for height {wanted}, the state is at {}", page.height);
                Err(Failure::new("height-mismatch", text))
            }
            _ => Ok(Answer::Page(Box::new(page))),
        }
    }
}

const ENTRIES_DEFAULT: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(asked: Asked) -> String {
        let refused = asked.check().expect_err("must be refused");
        assert_eq!((refused.code.word, refused.code.http), ("malformed", 400));
        assert!(!refused.hint.is_empty());
        refused.message
    }

    /// Each mistake has its own words, and none reaches the store.
    #[test]
    fn mistakes_are_named() {
        let key = |text: &'static str| Bytes::from_static(text.as_bytes());
        let long = Bytes::from(vec![0; limits::STATE_KEY_BYTES_MAX + 1]);
        let most = limits::STATE_PAGE_ENTRIES_MAX as u64;
        let none = Asked::default;
        for (asked, words) in [
            (Asked { limit: Some(0), ..none() }, "limit must be from 1"),
            (Asked { limit: Some(most + 1), ..none() }, "limit must be from 1"),
            (Asked { limit: Some(u64::MAX), ..none() }, "limit must be from 1"),
            (Asked { start: key("b"), end: key("a"), ..none() }, "behind its end"),
            (Asked { prefix: key("a"), start: key("a"), ..none() }, "prefix stands beside"),
            (Asked { prefix: key("a"), end: key("b"), ..none() }, "prefix stands beside"),
            (Asked { prefix: key("a"), from: key("b"), ..none() }, "from lies outside"),
            (Asked { start: key("b"), from: key("a"), ..none() }, "from lies outside"),
            (Asked { prefix: long, ..none() }, "prefix: a key has at most"),
            (Asked { chaincode: "x".repeat(65), ..none() }, "a contract's name"),
        ] {
            let message = refusal(asked.clone());
            assert!(message.contains(words), "{asked:?}: {message}");
        }
    }

    /// Bounds are taken as they are: the whole state, a prefix, the rest of one.
    #[test]
    fn ranges_are_what_was_asked() {
        let key = |text: &'static str| Bytes::from_static(text.as_bytes());
        let range = |asked: Asked| {
            let scan = asked.check().unwrap();
            (scan.start, scan.end)
        };
        let none = Asked::default;
        assert_eq!(range(none()), (key(""), key("")));
        assert_eq!(range(Asked { prefix: key("a/"), ..none() }), (key("a/"), key("a0")));
        let rest = Asked { prefix: key("a/"), from: key("a/x"), ..none() };
        assert_eq!(range(rest), (key("a/x"), key("a0")));
        let top = Asked { prefix: Bytes::from_static(&[0xFF, 0xFF]), ..none() };
        assert_eq!(range(top), (Bytes::from_static(&[0xFF, 0xFF]), key("")));
    }
}
