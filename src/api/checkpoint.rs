//! From the votes of the last stable checkpoint to the block and roots they are about.
//!
//! A certificate names a sequence number and a digest. The block is the newest one at or below that
//! sequence number (null requests have none); its roots must give the digest that was signed. What
//! was found is kept until the next checkpoint.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::ledger::Ledger;
use crate::ledger::LedgerError;
use crate::types::block::BlockHeader;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::Decode;
use crate::types::codec::Reader;
use crate::types::evidence::CheckpointProof;
use crate::types::ids::Height;
use crate::types::ids::SequenceNumber;
use crate::types::limits;

/// Remembers the last checkpoint's evidence.
#[derive(Clone, Default)]
pub struct Checkpoints(Arc<Mutex<Option<Arc<CheckpointProof>>>>);

impl Checkpoints {
    /// Evidence of the checkpoint that `votes` prove; `None` before the first block, and where this
    /// node's ledger does not reach it yet.
    pub fn evidence(
        &self,
        ledger: &Ledger,
        votes: &QuorumCertificate,
    ) -> Result<Option<Arc<CheckpointProof>>, LedgerError> {
        if let Some(kept) = self.kept().as_ref().filter(|kept| kept.certificate == *votes) {
            return Ok(Some(kept.clone()));
        }
        let sequence = votes.vote.slot.sequence;
        let tip = ledger.tip();
        if tip.sequence < sequence {
            return Ok(None);
        }
        let Some(height) = newest_at(ledger, tip.height, sequence)? else { return Ok(None) };
        let Some(result) = ledger.result(height)? else { return Ok(None) };
        if result.checkpoint_digest(ledger.chain(), sequence) != votes.vote.digest {
            // Consensus reports a divergence; here it only means that nothing is proven.
            return Ok(None);
        }
        let found = Arc::new(CheckpointProof {
            height,
            hash: result.hash,
            state_root: result.state_root,
            receipts_root: result.receipts_root,
            certificate: votes.clone(),
        });
        *self.kept() = Some(found.clone());
        Ok(Some(found))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Arc<CheckpointProof>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest block at or below `sequence`, by bisection: sequence numbers grow with heights.
fn newest_at(
    ledger: &Ledger,
    tip: Height,
    sequence: SequenceNumber,
) -> Result<Option<Height>, LedgerError> {
    let (mut low, mut high) = (0, tip.0);
    while low < high {
        let middle = high - (high - low) / 2;
        match sequence_of(ledger, Height(middle))? {
            Some(found) if found <= sequence => low = middle,
            _ => high = middle - 1,
        }
    }
    Ok((low > 0).then_some(Height(low)))
}

/// Reads a stored block's header only; the bodies may be megabytes.
fn sequence_of(ledger: &Ledger, height: Height) -> Result<Option<SequenceNumber>, LedgerError> {
    let Some(block) = ledger.block_bytes(height)? else { return Ok(None) };
    let header = Reader::new(&block).bytes("block header", limits::BLOCK_BYTES_MAX);
    let header = header.and_then(|bytes| BlockHeader::from_bytes(&bytes));
    Ok(header.ok().map(|header| header.sequence))
}
