//! Evidence that leads from a transaction or a receipt to the signatures of a quorum. Nodes form
//! it, clients check it (`client::verify`).
//!
//! ```text
//! transaction   "obelisk.tx-proof.1" | transaction | header bytes (u32) | certificate
//!               | path in batch | path in block
//! receipt       "obelisk.receipt-proof.1" | receipt | path in result
//! checkpoint    "obelisk.checkpoint-proof.1" | height u64 | block hash 32 | state root 32 | receipts root 32
//!               | certificate
//! ```
//!
//! A commit certificate proves order and content; results (receipts, state) are proven by a
//! checkpoint certificate, which exists for some heights only.

use bytes::Bytes;

use crate::types::block::Block;
use crate::types::block::BlockHeader;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::BlockHash;
use crate::types::ids::Height;
use crate::types::limits;
use crate::types::merkle::Path;
use crate::types::receipt::BlockResult;
use crate::types::receipt::Receipt;
use crate::types::transaction::Transaction;

const TRANSACTION_TAG: &[u8] = b"obelisk.tx-proof.1";
const RECEIPT_TAG: &[u8] = b"obelisk.receipt-proof.1";
const CHECKPOINT_TAG: &[u8] = b"obelisk.checkpoint-proof.1";

/// Evidence that a transaction is in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionProof {
    /// The transaction.
    pub transaction: Transaction,
    /// Header of its block.
    pub header: BlockHeader,
    /// Commit votes over the header.
    pub certificate: QuorumCertificate,
    /// From the transaction to its batch's root.
    pub in_batch: Path,
    /// From the batch's root to the header's transaction root.
    pub in_block: Path,
}

/// A receipt's place among those of its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptProof {
    /// The receipt.
    pub receipt: Receipt,
    /// From the receipt to the result's receipts root.
    pub in_result: Path,
}

/// What checkpoint votes sign, and the votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointProof {
    /// Height of the checkpoint.
    pub height: Height,
    /// Hash of the block there.
    pub hash: BlockHash,
    /// Root of the world state.
    pub state_root: Digest,
    /// Root of the block's receipts.
    pub receipts_root: Digest,
    /// The votes.
    pub certificate: QuorumCertificate,
}

impl TransactionProof {
    /// Evidence for the transaction at `index` of `block`, counted over all batches; `None` where
    /// the block has fewer.
    pub fn of(block: &Block, index: u32) -> Option<Self> {
        let mut at = index as usize;
        let batch = block.batches.iter().position(|b| match b.transactions().len() {
            len if at < len => true,
            len => {
                at -= len;
                false
            }
        })?;
        let transactions = block.batches[batch].transactions();
        let leaves: Vec<Digest> = transactions.iter().map(Transaction::leaf).collect();
        let roots: Vec<Digest> =
            block.batches.iter().map(|b| b.reference().transaction_root).collect();
        Some(Self {
            transaction: transactions[at].clone(),
            header: block.header.clone(),
            certificate: block.certificate.clone(),
            in_batch: Path::among(&leaves, at),
            in_block: Path::among(&roots, batch),
        })
    }
}

impl ReceiptProof {
    /// Evidence for the receipt at `index` of `result`; `None` where it has fewer.
    pub fn of(result: &BlockResult, index: u32) -> Option<Self> {
        let receipt = result.receipts.get(index as usize)?.clone();
        let leaves: Vec<Digest> = result.receipts.iter().map(Receipt::digest).collect();
        Some(Self { receipt, in_result: Path::among(&leaves, index as usize) })
    }
}

impl Encode for TransactionProof {
    fn encode(&self, w: &mut Writer) {
        w.raw(TRANSACTION_TAG);
        self.transaction.encode(w);
        w.bytes(&self.header.to_bytes());
        self.certificate.encode(w);
        self.in_batch.encode(w);
        self.in_block.encode(w);
    }
}

impl Decode for TransactionProof {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        tag(r, TRANSACTION_TAG)?;
        let transaction = Transaction::decode(r)?;
        let header: Bytes = r.bytes("block header", HEADER_BYTES_MAX)?;
        Ok(Self {
            transaction,
            header: BlockHeader::from_bytes(&header)?,
            certificate: QuorumCertificate::decode(r)?,
            in_batch: Path::decode(r)?,
            in_block: Path::decode(r)?,
        })
    }
}

impl Encode for ReceiptProof {
    fn encode(&self, w: &mut Writer) {
        w.raw(RECEIPT_TAG);
        self.receipt.encode(w);
        self.in_result.encode(w);
    }
}

impl Decode for ReceiptProof {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        tag(r, RECEIPT_TAG)?;
        Ok(Self { receipt: Receipt::decode(r)?, in_result: Path::decode(r)? })
    }
}

impl Encode for CheckpointProof {
    fn encode(&self, w: &mut Writer) {
        w.raw(CHECKPOINT_TAG);
        self.height.encode(w);
        self.hash.encode(w);
        self.state_root.encode(w);
        self.receipts_root.encode(w);
        self.certificate.encode(w);
    }
}

impl Decode for CheckpointProof {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        tag(r, CHECKPOINT_TAG)?;
        Ok(Self {
            height: Height::decode(r)?,
            hash: BlockHash::decode(r)?,
            state_root: Digest::decode(r)?,
            receipts_root: Digest::decode(r)?,
            certificate: QuorumCertificate::decode(r)?,
        })
    }
}

fn tag(r: &mut Reader<'_>, tag: &[u8]) -> Result<(), DecodeError> {
    match r.raw("proof tag", tag.len())? == tag {
        true => Ok(()),
        false => Err(DecodeError::Invalid {
            field: "proof tag",
            reason: "not this kind of obelisk proof, version 1",
        }),
    }
}

const HEADER_BYTES_MAX: usize = 256 + 32 * limits::BLOCK_BATCHES_MAX;
