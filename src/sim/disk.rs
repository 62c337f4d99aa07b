//! The simulated disk of one replica: write-ahead log, signer's guard, batch bodies, ledger.
//!
//! Every write gets a mark; a sync makes all marks up to its start durable. A crash keeps the
//! durable marks and, of the rest, a prefix drawn at random, for the log (which holds the bodies,
//! too) and the guard apart, because the driver syncs them in parallel. The ledger is durable entry
//! by entry: the driver reports an execution only when its block is.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::consensus::LogRecord;
use crate::sim::random::Stream;
use crate::types::block::Tip;
use crate::types::certificate::QuorumCertificate;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::Height;
use crate::types::proposal::Proposal;
use crate::types::vote::Slot;

/// One committed sequence number.
#[derive(Debug)]
pub struct LedgerEntry {
    /// The content.
    pub proposal: Proposal,
    /// The proof.
    pub certificate: QuorumCertificate,
    /// What commit votes sign.
    pub digest: Digest,
    /// The chain's end after it.
    pub tip: Tip,
    /// What a checkpoint vote for it signs.
    pub checkpoint: Digest,
}

/// What survives a crash, and what may. Empty at first.
#[derive(Default)]
pub struct Disk {
    log: VecDeque<(u64, LogWrite)>,
    guard: BTreeMap<Slot, (u64, Digest)>,
    bodies: BTreeMap<BatchId, u64>,
    ledger: Vec<Rc<LedgerEntry>>,
    ledger_batches: BTreeSet<BatchId>,
    written: u64,
    synced: u64,
}

enum LogWrite {
    Append(LogRecord),
    Replace(Vec<LogRecord>),
}

/// Answer of the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleared {
    /// Sign.
    Yes,
    /// Another text is on record for the slot.
    Refused {
        /// The text on record.
        recorded: Digest,
    },
}

impl Disk {
    /// Appends a record to the log.
    pub fn append(&mut self, record: LogRecord) {
        self.written += 1;
        self.log.push_back((self.written, LogWrite::Append(record)));
    }

    /// Replaces the log by these records, once durable.
    pub fn compact(&mut self, records: Vec<LogRecord>) {
        self.written += 1;
        self.log.push_back((self.written, LogWrite::Replace(records)));
    }

    /// Records text for slot unless another one is on record.
    pub fn clear_to_sign(&mut self, slot: Slot, text: Digest) -> Cleared {
        match self.guard.get(&slot) {
            Some((_, recorded)) if *recorded == text => Cleared::Yes,
            Some((_, recorded)) => Cleared::Refused { recorded: *recorded },
            None => {
                self.written += 1;
                self.guard.insert(slot, (self.written, text));
                Cleared::Yes
            }
        }
    }

    /// Stores a batch body; false where it was stored or is in the ledger.
    pub fn store_body(&mut self, id: BatchId) -> bool {
        if self.bodies.contains_key(&id) || self.ledger_batches.contains(&id) {
            return false;
        }
        self.written += 1;
        self.bodies.insert(id, self.written);
        true
    }

    /// Appends a block, durably; the caller keeps the order.
    pub fn append_ledger(&mut self, entry: Rc<LedgerEntry>) {
        for batch in &entry.proposal.batches {
            self.bodies.remove(&batch.id);
            self.ledger_batches.insert(batch.id);
        }
        self.ledger.push(entry);
    }

    /// A sync that covers all marks up to `upto` has completed.
    pub fn complete_sync(&mut self, upto: u64) {
        self.synced = self.synced.max(upto);
        let replaced = |(mark, write): &(u64, LogWrite)| {
            *mark <= upto && matches!(write, LogWrite::Replace(_))
        };
        if let Some(last) = self.log.iter().rposition(replaced) {
            self.log.drain(..last);
        }
    }

    /// Loses what was not durable, except a random prefix: one for log and guard where
    /// `in_order`, else one for each; bodies are in the log. Returns true if anything was lost.
    pub fn crash(&mut self, random: &mut Stream, in_order: bool) -> bool {
        let log_kept = random.between(self.synced, self.written);
        let guard_kept = match in_order {
            true => log_kept,
            false => random.between(self.synced, self.written),
        };
        let before = self.log.len() + self.guard.len() + self.bodies.len();
        self.log.retain(|(mark, _)| *mark <= log_kept);
        self.guard.retain(|_, (mark, _)| *mark <= guard_kept);
        self.bodies.retain(|_, mark| *mark <= log_kept);
        let after = self.log.len() + self.guard.len() + self.bodies.len();
        self.complete_sync(self.written);
        before != after
    }

    /// Loses log and guard altogether: what only a Byzantine replica may do.
    pub fn forget_votes(&mut self) {
        self.log.clear();
        self.guard.clear();
    }

    /// The log as a restarted core reads it.
    pub fn log(&self) -> Vec<LogRecord> {
        let mut records = Vec::new();
        for (_, write) in &self.log {
            match write {
                LogWrite::Append(record) => records.push(record.clone()),
                LogWrite::Replace(with) => records.clone_from(with),
            }
        }
        records
    }

    /// Mark of the last write.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Mark up to which all is durable.
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Bodies held and not in the ledger.
    pub fn pending_bodies(&self) -> impl Iterator<Item = BatchId> + '_ {
        self.bodies.keys().copied()
    }

    /// Whether the body is here, in the ledger or outside.
    pub fn holds(&self, id: BatchId) -> bool {
        self.bodies.contains_key(&id) || self.ledger_batches.contains(&id)
    }

    /// Whether the body would survive any crash.
    pub fn holds_durably(&self, id: BatchId) -> bool {
        self.bodies.get(&id).is_some_and(|mark| *mark <= self.synced)
            || self.ledger_batches.contains(&id)
    }

    /// Whether the batch is in a durable block here.
    pub fn in_ledger(&self, id: BatchId) -> bool {
        self.ledger_batches.contains(&id)
    }

    /// The block of that height.
    pub fn block(&self, height: Height) -> Option<&Rc<LedgerEntry>> {
        let index = usize::try_from(height.0.checked_sub(1)?).ok()?;
        self.ledger.get(index)
    }

    /// The last block.
    pub fn last(&self) -> Option<&Rc<LedgerEntry>> {
        self.ledger.last()
    }
}
