//! World state as execution sees it: the durable state below, the writes of blocks still on their
//! way to the disk above, and a cache of what was read or written lately.
//!
//! Execution runs ahead of durability by a few blocks. The overlay holds the newest value of every
//! key those blocks wrote; once the ledger's tip has passed a block, its entries are dropped, since
//! the ledger then answers the same. The cache holds newest values too, durable or not: execution
//! is the only writer of the state, and every write passes here. It spares the walk through
//! RocksDB's memtables, which was a fifth of a transfer's execution.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Bound;

use bytes::Bytes;
use lru::LruCache;

use crate::ledger::LedgerError;
use crate::ledger::WorldState;
use crate::ledger::read_write_set::StateKey;
use crate::ledger::read_write_set::WriteSet;
use crate::types::ids::Height;
use crate::types::limits;

/// Writes of blocks above the ledger's tip, and the cache.
pub struct Overlay {
    newest: BTreeMap<StateKey, (Height, Option<Bytes>)>,
    per_block: VecDeque<(Height, Vec<StateKey>)>,
    /// In a cell, since a read fills it.
    cache: RefCell<LruCache<StateKey, Option<Bytes>>>,
}

impl Default for Overlay {
    fn default() -> Self {
        Self::caching(limits::STATE_CACHE_ENTRIES_MAX)
    }
}

impl Overlay {
    /// Nothing above the ledger, and a cache of at least one and at most `entries` values.
    pub fn caching(entries: usize) -> Self {
        let entries = NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
        let (newest, per_block) = (BTreeMap::new(), VecDeque::new());
        Self { newest, per_block, cache: RefCell::new(LruCache::new(entries)) }
    }

    /// Adds the writes of one transaction of the block at `height`.
    pub fn add(&mut self, height: Height, writes: &WriteSet) {
        if self.per_block.back().is_none_or(|(last, _)| *last != height) {
            self.per_block.push_back((height, Vec::new()));
        }
        let (_, keys) = self.per_block.back_mut().expect("pushed above");
        for (key, value) in &writes.0 {
            keys.push(key.clone());
            remember(self.cache.get_mut(), key, value.as_ref());
            self.newest.insert(key.clone(), (height, value.clone()));
        }
    }

    /// Drops what the ledger holds by now.
    pub fn settle(&mut self, durable: Height) {
        while self.per_block.front().is_some_and(|(height, _)| *height <= durable) {
            let (_, keys) = self.per_block.pop_front().expect("front exists");
            for key in keys {
                if self.newest.get(&key).is_some_and(|(height, _)| *height <= durable) {
                    self.newest.remove(&key);
                }
            }
        }
    }

    /// Values kept: above the ledger, and in the cache.
    pub fn held(&self) -> (usize, usize) {
        (self.newest.len(), self.cache.borrow().len())
    }

    /// The value of a key.
    pub fn value(
        &self,
        ledger: &dyn WorldState,
        at: &StateKey,
    ) -> Result<Option<Bytes>, LedgerError> {
        if let Some(value) = self.cache.borrow_mut().get(at) {
            return Ok(value.clone());
        }
        let value = match self.newest.get(at) {
            Some((_, value)) => value.clone(),
            None => ledger.get(at)?,
        };
        remember(&mut self.cache.borrow_mut(), at, value.as_ref());
        Ok(value)
    }

    /// Up to `limit` entries of a namespace with `start <= key < end` (`end` empty: to its end),
    /// with `own` writes on top.
    pub fn scan(
        &self,
        ledger: &dyn WorldState,
        own: &WriteSet,
        from: &StateKey,
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, LedgerError> {
        let mut above: BTreeMap<&Bytes, Option<&Bytes>> = BTreeMap::new();
        let within = |key: &StateKey| {
            key.namespace == from.namespace && (end.is_empty() || key.key.as_ref() < end)
        };
        let range = (Bound::Included(from), Bound::Unbounded);
        for (key, (_, value)) in self.newest.range(range).take_while(|(key, _)| within(key)) {
            above.insert(&key.key, value.as_ref());
        }
        for (key, value) in own.0.range(range).take_while(|(key, _)| within(key)) {
            above.insert(&key.key, value.as_ref());
        }
        // Each deletion above can hide one entry below.
        let hidden = above.values().filter(|value| value.is_none()).count();
        let below = ledger.scan(&from.namespace, &from.key, end, limit.saturating_add(hidden))?;
        let mut merged: BTreeMap<Bytes, Bytes> = below.into_iter().collect();
        for (key, value) in above {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}

/// Puts the newest value of a key into the cache; a large one only ends what it replaces.
fn remember(cache: &mut LruCache<StateKey, Option<Bytes>>, at: &StateKey, value: Option<&Bytes>) {
    match value.is_some_and(|value| value.len() > limits::STATE_CACHE_VALUE_BYTES_MAX) {
        true => {
            cache.pop(at);
        }
        false => {
            cache.put(at.clone(), value.cloned());
        }
    }
}
