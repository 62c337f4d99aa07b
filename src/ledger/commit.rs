//! Changing the ledger: `commit` for new blocks, `reapply` for stored ones after a crash.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::ledger::ExecutedBlock;
use crate::ledger::Ledger;
use crate::ledger::error::Divergence;
use crate::ledger::error::LedgerError;
use crate::ledger::error::Roots;
use crate::ledger::read_write_set::StateKey;
use crate::ledger::reads::executed;
use crate::ledger::reads::executed_ids;
use crate::ledger::rows;
use crate::ledger::rows::Applied;
use crate::ledger::rows::Located;
use crate::ledger::segments::StoredBlock;
use crate::ledger::state_tree::KeyHash;
use crate::ledger::state_tree::StateTree;
use crate::ledger::state_tree::Update;
use crate::ledger::state_tree::key_hash;
use crate::ledger::state_tree::value_hash;
use crate::storage::WriteBatch;
use crate::storage::tables::Table;
use crate::types::block::Block;
use crate::types::block::Tip;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::ids::ChainId;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::receipt::BlockResult;
use crate::types::receipt::Receipt;

/// A block after step 2: its result is known, nothing is written.
struct Prepared {
    block: Block,
    applied: Applied,
    result: BlockResult,
    batch: WriteBatch,
}

impl Ledger {
    /// Makes executed blocks durable, in order, and applies their writes; all of them are durable
    /// when this returns. Each must follow the one before it.
    ///
    /// A block that does not fit is refused before anything changes. After any other error the
    /// ledger refuses further changes.
    pub fn commit(&self, blocks: Vec<ExecutedBlock>) -> Result<Vec<BlockResult>, LedgerError> {
        let mut certificates = self.begin()?;
        let (applied, stored) = (self.tip().height, self.segments.tip());
        if applied != stored {
            return Err(LedgerError::Unapplied { applied, stored });
        }
        let tips = self.check(&blocks)?;
        self.changing(|| {
            let mut tree = self.tree.write().expect("no holder of this lock panics");
            let prepared: Vec<Prepared> = blocks
                .into_iter()
                .zip(tips)
                .map(|(block, tip)| prepare(&mut tree, block, tip))
                .collect();
            let records: Vec<StoredBlock> = prepared
                .iter()
                .map(|p| StoredBlock { block: p.block.to_bytes(), result: p.result.to_bytes() })
                .collect();
            self.segments.append(&records)?;
            let mut results = Vec::with_capacity(prepared.len());
            for block in prepared {
                results.push(self.apply(block, &mut certificates)?);
            }
            Ok(results)
        })
    }

    /// Applies a stored block that was executed again, without storing it, and compares the result
    /// with the recorded one.
    pub fn reapply(&self, executed: ExecutedBlock) -> Result<BlockResult, LedgerError> {
        let mut certificates = self.begin()?;
        let height = executed.block.header.height;
        let Some(recorded) = self.result(height)? else {
            let reason = "it is not stored; commit it instead".to_owned();
            return Err(LedgerError::Unfit { height, reason });
        };
        let tip = self.check(std::slice::from_ref(&executed))?.remove(0);
        if recorded.hash != tip.hash {
            let reason = format!("the stored block has hash {}", recorded.hash);
            return Err(LedgerError::Unfit { height, reason });
        }
        self.changing(|| {
            let mut tree = self.tree.write().expect("no holder of this lock panics");
            let prepared = prepare(&mut tree, executed, tip);
            let recorded = Roots { state: recorded.state_root, receipts: recorded.receipts_root };
            let computed = prepared.applied.roots;
            if recorded != computed {
                return Err(Divergence { height, recorded, computed }.into());
            }
            self.apply(prepared, &mut certificates)
        })
    }

    fn begin(&self) -> Result<MutexGuard<'_, BTreeSet<CertificateId>>, LedgerError> {
        // A panic under this lock leaves `stopped` set, which says more than the lock's poison.
        let guard = self.committing.lock().map_err(|_| LedgerError::Stopped)?;
        match self.stopped.load(Ordering::Acquire) {
            true => Err(LedgerError::Stopped),
            false => Ok(guard),
        }
    }

    /// Runs a change; if it fails or panics, no other is accepted.
    fn changing<T>(
        &self,
        change: impl FnOnce() -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.stopped.store(true, Ordering::Release);
        let done = change()?;
        self.stopped.store(false, Ordering::Release);
        Ok(done)
    }

    /// Step 1: each block follows the one before and has a receipt and a write set for each of its
    /// transactions.
    fn check(&self, blocks: &[ExecutedBlock]) -> Result<Vec<Tip>, LedgerError> {
        let mut tip = self.tip();
        let mut tips = Vec::with_capacity(blocks.len());
        for executed in blocks {
            tip = follow(self.chain, &tip, executed).map_err(|reason| LedgerError::Unfit {
                height: executed.block.header.height,
                reason,
            })?;
            tips.push(tip);
        }
        Ok(tips)
    }

    /// Step 4: one write batch with everything the block changes.
    fn apply(
        &self,
        prepared: Prepared,
        stored: &mut BTreeSet<CertificateId>,
    ) -> Result<BlockResult, LedgerError> {
        let Prepared { block, applied, result, mut batch } = prepared;
        self.index_transactions(&mut batch, applied.tip, &result.receipts)?;
        add_certificates(&mut batch, &block, stored);
        batch.put(Table::Meta, rows::APPLIED, applied.to_bytes());
        // From here to the new head no view is taken: it would show this block under the old height.
        let _applying = self.applying.write().expect("no holder of this lock panics");
        self.kv.write(batch)?;
        let mut recent = self.recent.write().expect("no holder of this lock panics");
        recent.add(applied.tip.height, executed_ids(&result.receipts));
        drop(recent);
        *self.head.write().expect("no holder of this lock panics") = applied;
        Ok(result)
    }

    /// Each id gets one row: where it executed; where it was only refused as expired, its first
    /// appearance, until it executes.
    fn index_transactions(
        &self,
        batch: &mut WriteBatch,
        tip: Tip,
        receipts: &[Receipt],
    ) -> Result<(), LedgerError> {
        let mut seen: HashSet<TxId> = HashSet::with_capacity(receipts.len());
        for (tx, receipt) in (0u32..).zip(receipts) {
            let row = Located { height: tip.height, tx, executed: executed(receipt) };
            let id = receipt.tx.0.0;
            if !seen.insert(receipt.tx)
                || (!row.executed && self.kv.get(Table::TxIndex, &id)?.is_some())
            {
                continue;
            }
            batch.put(Table::TxIndex, id, row.to_row());
        }
        Ok(())
    }
}

/// Step 2: the block's writes go into the tree and, as rows, into its batch.
fn prepare(tree: &mut StateTree, executed: ExecutedBlock, tip: Tip) -> Prepared {
    let ExecutedBlock { block, receipts, writes } = executed;
    let mut batch = WriteBatch::with_capacity(ROWS_EXPECTED * writes.len(), 0);
    let mut row = Vec::new();
    let mut changes: Vec<(KeyHash, usize)> = Vec::with_capacity(2 * writes.len());
    let writes: Vec<(StateKey, Option<Bytes>)> = (0u32..)
        .zip(writes)
        .flat_map(|(tx, writes)| writes.0.into_iter().map(move |write| (tx, write)))
        .enumerate()
        .map(|(place, (tx, (at, value)))| {
            rows::write_history_row(&mut row, &at, tip.height, tx);
            batch.put(Table::History, &row, [u8::from(value.is_some())]);
            changes.push((key_hash(&at), place));
            (at, value)
        })
        .collect();
    // The last write of a key counts: the one with the highest place.
    changes.sort_unstable();
    let mut updates: Vec<Update> = Vec::with_capacity(changes.len());
    for same in changes.chunk_by(|a, b| a.0 == b.0) {
        let (path, place) = same[same.len() - 1];
        let (at, value) = &writes[place];
        updates.push((path, value.as_deref().map(value_hash)));
        rows::write_state_row(&mut row, at);
        match value {
            Some(value) => batch.put(Table::State, &row, value),
            None => batch.delete(Table::State, &row),
        }
    }
    let state = tree.update(&mut updates);
    let result = BlockResult::new(tip.height, tip.hash, receipts, state);
    let roots = Roots { state, receipts: result.receipts_root };
    Prepared { block, applied: Applied { tip, roots }, result, batch }
}

/// The tip after `executed`, or why it does not follow `tip`.
fn follow(chain: ChainId, tip: &Tip, executed: &ExecutedBlock) -> Result<Tip, String> {
    let header = &executed.block.header;
    if header.chain != chain {
        return Err(format!("it belongs to chain {}", header.chain));
    }
    if Some(header.height) != tip.height.next() || header.previous != tip.hash {
        return Err(format!("it does not follow block {} with hash {}", tip.height, tip.hash));
    }
    if header.sequence <= tip.sequence {
        return Err(format!("its sequence number is not above {}", tip.sequence));
    }
    let batches = &executed.block.batches;
    let mut ids = batches.iter().flat_map(|batch| batch.transactions()).map(|tx| tx.id());
    let receipts = executed.receipts.iter().map(|receipt| receipt.tx);
    if !ids.by_ref().eq(receipts) || executed.writes.len() != executed.receipts.len() {
        return Err("receipts or write sets are not those of its transactions".to_owned());
    }
    let failed = executed.receipts.iter().map(|receipt| receipt.write_set == Digest::ZERO);
    if failed.zip(&executed.writes).any(|(none, writes)| none != writes.0.is_empty()) {
        return Err("a receipt and its write set differ on whether there are writes".to_owned());
    }
    Ok(header.tip())
}

/// Stores the creators' certificates that are not known to be stored.
fn add_certificates(batch: &mut WriteBatch, block: &Block, stored: &mut BTreeSet<CertificateId>) {
    let bodies = block.batches.iter();
    for (id, der) in bodies.flat_map(|b| b.certificate_ids().iter().zip(b.certificates())) {
        if stored.contains(id) {
            continue;
        }
        if stored.len() >= limits::STORED_CERTIFICATES_REMEMBERED_MAX {
            stored.clear();
        }
        stored.insert(*id);
        batch.put(Table::Certificates, id.0.0, der);
    }
}

/// Rows of a transaction that writes two keys: two values, their history, its place.
const ROWS_EXPECTED: usize = 5;
