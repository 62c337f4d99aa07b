//! What the ledger answers.

use std::sync::RwLockReadGuard;

use bytes::Bytes;

use crate::ledger::Ledger;
use crate::ledger::error::LedgerError;
use crate::ledger::read_write_set::StateKey;
use crate::ledger::rows;
use crate::ledger::rows::Applied;
use crate::ledger::rows::Located;
use crate::ledger::state_tree::StateProof;
use crate::ledger::state_tree::key_hash;
use crate::ledger::view;
use crate::storage::tables::Table;
use crate::types::block::Block;
use crate::types::block::Tip;
use crate::types::codec::Decode;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::receipt::BlockResult;
use crate::types::receipt::Receipt;
use crate::types::receipt::Status;

/// A proof with the block after which it holds; checkpoint votes sign these roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The last block whose writes the state holds.
    pub tip: Tip,
    /// The root that `proof` leads to.
    pub state_root: Digest,
    /// The receipts root of the same block.
    pub receipts_root: Digest,
    /// Keys, values and their part of the tree.
    pub proof: StateProof,
}

/// Blocks stored and not yet applied, ascending, with their recorded results.
#[derive(Debug)]
pub struct Unapplied<'a> {
    ledger: &'a Ledger,
    next: u64,
    end: u64,
}

impl Iterator for Unapplied<'_> {
    type Item = Result<(Block, BlockResult), LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let height = Height(self.next);
        self.next += 1;
        let both = || Ok(Some((self.ledger.block(height)?, self.ledger.result(height)?)));
        match both() {
            Ok(Some((Some(block), Some(result)))) => Some(Ok((block, result))),
            Ok(_) => None,
            Err(e) => Some(Err(e)),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.end.saturating_sub(self.next)).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl Ledger {
    /// The last block whose writes the state holds; genesis at the start.
    pub fn tip(&self) -> Tip {
        self.head().tip
    }

    /// Height of the last durable block; above `tip` only while blocks wait for `reapply`.
    pub fn stored_height(&self) -> Height {
        self.segments.tip()
    }

    /// Root of the world state at `tip`.
    pub fn state_root(&self) -> Digest {
        self.head().roots.state
    }

    /// The last block and the root of the world state after it.
    pub fn tip_and_root(&self) -> (Tip, Digest) {
        let Applied { tip, roots } = *self.head();
        (tip, roots.state)
    }

    /// State root and receipts root at `tip`.
    pub fn last_result(&self) -> (Digest, Digest) {
        let roots = self.head().roots;
        (roots.state, roots.receipts)
    }

    /// Blocks that are stored and not applied: after a crash, the pipeline executes each again and
    /// hands it to `reapply`.
    pub fn unapplied(&self) -> Result<Unapplied<'_>, LedgerError> {
        let next = self.tip().height.0 + 1;
        Ok(Unapplied { ledger: self, next, end: self.segments.tip().0 + 1 })
    }

    /// The encoded block at a height; `None` above the last one and at 0.
    pub fn block_bytes(&self, height: Height) -> Result<Option<Bytes>, LedgerError> {
        Ok(self.segments.read(height)?.map(|stored| stored.block))
    }

    /// The block at a height.
    pub fn block(&self, height: Height) -> Result<Option<Block>, LedgerError> {
        let Some(bytes) = self.block_bytes(height)? else { return Ok(None) };
        let block = Block::from_bytes(&bytes).map_err(|e| undecodable("block", height, &e))?;
        Ok(Some(block))
    }

    /// The result of the block at a height.
    pub fn result(&self, height: Height) -> Result<Option<BlockResult>, LedgerError> {
        let Some(stored) = self.segments.read(height)? else { return Ok(None) };
        decode_result(height, &stored.result).map(Some)
    }

    /// Height and position of a transaction's first execution, or of its first appearance where it
    /// never executed.
    pub fn locate(&self, id: &TxId) -> Result<Option<(Height, u32)>, LedgerError> {
        Ok(self.located(id)?.map(|at| (at.height, at.tx)))
    }

    /// True where the transaction executed in one of the last `VALIDITY_BLOCKS_MAX` blocks; older
    /// ones, for which this may say either, are refused by their `valid_until`: check that first. A
    /// new id is answered from memory unless more than `RECENT_IDS_MAX` executed in those blocks.
    pub fn contains(&self, id: &TxId) -> Result<bool, LedgerError> {
        if !self.recent.read().expect("no holder of this lock panics").may_contain(id) {
            return Ok(false);
        }
        Ok(self.located(id)?.is_some_and(|at| at.executed))
    }

    /// The certificate of a transaction's creator, DER, from any committed block.
    pub fn certificate(&self, id: &CertificateId) -> Result<Option<Bytes>, LedgerError> {
        Ok(self.kv.get(Table::Certificates, &id.0.0)?.map(Bytes::from))
    }

    /// The value of a key at `tip`.
    pub fn get(&self, at: &StateKey) -> Result<Option<Bytes>, LedgerError> {
        Ok(self.kv.get(Table::State, &rows::state_row(at))?.map(Bytes::from))
    }

    /// The values of many keys, in the order asked.
    pub fn get_many(&self, keys: &[StateKey]) -> Result<Vec<Option<Bytes>>, LedgerError> {
        let rows: Vec<Vec<u8>> = keys.iter().map(rows::state_row).collect();
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let found = self.kv.get_many(Table::State, &rows)?;
        Ok(found.into_iter().map(|value| value.map(Bytes::from)).collect())
    }

    /// Up to `limit` entries of a namespace with `start <= key < end`, ascending; an empty `end`
    /// means to the end of the namespace.
    pub fn scan(
        &self,
        namespace: &str,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, LedgerError> {
        let (low, high) = rows::state_range(namespace, start, end);
        Ok(view::entries(namespace, self.kv.scan(Table::State, &low, &high, limit)?))
    }

    /// The last `limit` writes of a key, newest first: height, position in the block, and whether
    /// it was deleted.
    pub fn history(
        &self,
        namespace: &str,
        key: &[u8],
        limit: usize,
    ) -> Result<Vec<(Height, u32, bool)>, LedgerError> {
        let start = rows::history_prefix(namespace, key);
        let mut end = rows::after_prefix(start.clone());
        let mut found = Vec::new();
        while found.len() < limit.min(limits::SCAN_ENTRIES_MAX) {
            let Some((row, value)) = self.kv.last(Table::History, &start, &end)? else { break };
            found.push(rows::parse_history(&row, &value)?);
            end = row;
        }
        Ok(found)
    }

    /// Values, or absence, of up to `PROOF_KEYS_MAX` keys with the proof against the state root.
    /// Waits for a commit at hand.
    pub fn prove(&self, keys: &[StateKey]) -> Result<Proven, LedgerError> {
        let too_large = |what, found, limit| LedgerError::TooLarge { what, found, limit };
        if keys.len() > limits::PROOF_KEYS_MAX {
            return Err(too_large("keys of a proof", keys.len(), limits::PROOF_KEYS_MAX));
        }
        let tree = self.tree.read().expect("no holder of this lock panics");
        let Applied { tip, roots } = *self.head();
        let values = self.get_many(keys)?;
        let bytes: usize = values.iter().flatten().map(Bytes::len).sum();
        let limit = limits::STATE_PROOF_BYTES_MAX / 2;
        if bytes > limit {
            return Err(too_large("bytes of the proof's values", bytes, limit));
        }
        let paths: Vec<_> = keys.iter().map(key_hash).collect();
        let entries = keys.iter().cloned().zip(values).collect();
        let proof = StateProof { entries, tree: tree.prove(&paths) };
        let (state_root, receipts_root) = (roots.state, roots.receipts);
        Ok(Proven { tip, state_root, receipts_root, proof })
    }

    /// Makes the store durable as well, so that less is replayed after a power cut. Blocks are
    /// durable without it.
    pub fn sync_store(&self) -> Result<(), LedgerError> {
        Ok(self.kv.sync()?)
    }

    /// Entries of the tables in memory, for metrics; waits for a commit at hand.
    pub fn held_entries(&self) -> [(&'static str, u64); 2] {
        let recent = self.recent.read().expect("no holder of this lock panics").len();
        let keys = self.tree.read().expect("no holder of this lock panics").len();
        [("recent_ids", recent as u64), ("state_tree_keys", keys as u64)]
    }

    /// Bytes the store holds in memory, by part, for metrics.
    pub fn store_memory(&self) -> Vec<(&'static str, u64)> {
        self.kv.memory()
    }

    fn located(&self, id: &TxId) -> Result<Option<Located>, LedgerError> {
        let row = self.kv.get(Table::TxIndex, &id.0.0)?;
        row.map(|row| Located::from_row(&row)).transpose()
    }

    fn head(&self) -> RwLockReadGuard<'_, Applied> {
        self.head.read().expect("no holder of this lock panics")
    }
}

/// Ids of the transactions that a block executed: those it did not refuse as expired or duplicate.
pub(crate) fn executed_ids(receipts: &[Receipt]) -> impl Iterator<Item = TxId> {
    receipts.iter().filter(|receipt| executed(receipt)).map(|receipt| receipt.tx)
}

/// True where the transaction ran, whatever the outcome.
pub(crate) fn executed(receipt: &Receipt) -> bool {
    !matches!(receipt.status, Status::Expired | Status::Duplicate)
}

pub(crate) fn decode_result(height: Height, bytes: &Bytes) -> Result<BlockResult, LedgerError> {
    BlockResult::from_bytes(bytes).map_err(|e| undecodable("result", height, &e))
}

fn undecodable(what: &str, height: Height, error: &dyn std::error::Error) -> LedgerError {
    LedgerError::Damaged {
        what: format!("the {what} of height {height}"),
        reason: error.to_string(),
    }
}
