//! Checks that need no trust in the answering node: only the genesis document, which says whose
//! signatures count.
//!
//! ```text
//! transaction -- path --> batch root -- path --> header.transaction_root -- hash --> 2f+1 commit votes
//! receipt     -- path --> receipts root  \
//! state entry -- tree --> state root      +--> checkpoint digest --> 2f+1 checkpoint votes
//! block hash ----------------------------/
//! ```
//!
//! A commit certificate proves order and content, not results; results (receipts, state) are
//! proven by a checkpoint certificate, which exists for one block in each checkpoint interval.
//! One bad signature rejects the whole certificate.

use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::Claim;
use crate::crypto::Check;
use crate::ledger::read_write_set::StateKey;
use crate::ledger::state_tree::StateProof;
use crate::types::block::Block;
use crate::types::block::BlockHeader;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::DecodeError;
use crate::types::digest::Digest;
use crate::types::evidence::CheckpointProof;
use crate::types::evidence::ReceiptProof;
use crate::types::evidence::TransactionProof;
use crate::types::genesis::Genesis;
use crate::types::ids::BlockHash;
use crate::types::ids::ChainId;
use crate::types::ids::ReplicaId;
use crate::types::ids::TxId;
use crate::types::merkle::Path;
use crate::types::receipt::checkpoint_digest;
use crate::types::replica_set::ReplicaSet;
use crate::types::vote::Phase;
use crate::types::vote_signature::SignatureCheck;

/// Why a proof was not accepted. Each says which link of the chain of evidence is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The certificate is malformed, too small or of another epoch.
    #[error("the quorum certificate is not acceptable")]
    Certificate(#[source] DecodeError),
    /// The certificate is for something else.
    #[error("the quorum certificate signs {found}, the evidence leads to {expected}")]
    OtherDigest { found: Digest, expected: Digest },
    /// The certificate is of another kind of vote.
    #[error("the quorum certificate holds {found:?} votes, {expected:?} votes were expected")]
    OtherPhase { found: Phase, expected: Phase },
    /// A signature in the certificate is wrong.
    #[error("the signature of replica {0} in the quorum certificate is wrong")]
    Signature(ReplicaId),
    /// Another network's header.
    #[error("the header belongs to chain {found}, this verifier to {expected}")]
    OtherChain { found: ChainId, expected: ChainId },
    /// A Merkle path does not lead to its root.
    #[error("the path of the {0} does not lead to its root")]
    Path(&'static str),
    /// The block's parts do not belong together.
    #[error("the block contradicts itself")]
    Block(#[source] DecodeError),
    /// The receipt is of another transaction.
    #[error("the receipt is of transaction {found}, {expected} was asked for")]
    OtherTransaction { found: TxId, expected: TxId },
    /// The state proof does not lead to the root, or contradicts itself.
    #[error("the state proof does not hold: {0}")]
    State(String),
    /// The state proof is about other keys.
    #[error("the state proof is not about the key that was asked for")]
    OtherKey,
}

/// Checks one signature by the protocol's rule of validity (`crypto::validity`).
pub type VerifySignature = Arc<dyn Fn(&Check<'_>) -> bool + Send + Sync>;

/// Checks evidence against one network's genesis document.
#[derive(Clone)]
pub struct Verifier {
    chain: ChainId,
    replicas: ReplicaSet,
    verify: VerifySignature,
}

impl Verifier {
    /// A verifier for the network of `genesis`.
    pub fn new(genesis: &Genesis, verify: VerifySignature) -> Self {
        Self { chain: genesis.chain_id(), replicas: genesis.replicas.clone(), verify }
    }

    /// The network.
    pub fn chain(&self) -> ChainId {
        self.chain
    }

    /// Checks that a quorum of the replica set signed `digest` in `phase`.
    pub fn check_certificate(
        &self,
        certificate: &QuorumCertificate,
        phase: Phase,
        digest: Digest,
    ) -> Result<(), ProofError> {
        let vote = &certificate.vote;
        if vote.slot.phase != phase {
            return Err(ProofError::OtherPhase { found: vote.slot.phase, expected: phase });
        }
        if vote.digest != digest {
            return Err(ProofError::OtherDigest { found: vote.digest, expected: digest });
        }
        certificate.check_shape(&self.replicas).map_err(ProofError::Certificate)?;
        for claim in Claim::of_certificate(&self.chain, certificate) {
            let verify = |check: &SignatureCheck| (self.verify)(&Check::from(check));
            if !claim.holds(&self.chain, &self.replicas, verify) {
                return Err(ProofError::Signature(claim.replica));
            }
        }
        Ok(())
    }

    /// Checks a header and its commit certificate; returns the hash.
    pub fn check_header(
        &self,
        header: &BlockHeader,
        certificate: &QuorumCertificate,
    ) -> Result<BlockHash, ProofError> {
        if header.chain != self.chain {
            return Err(ProofError::OtherChain { found: header.chain, expected: self.chain });
        }
        let hash = header.hash();
        self.check_certificate(certificate, Phase::Commit, hash.0)?;
        Ok(hash)
    }

    /// Checks a whole block: bodies, header, certificate.
    pub fn check_block(&self, block: &Block) -> Result<BlockHash, ProofError> {
        block.check_consistent().map_err(ProofError::Block)?;
        self.check_header(&block.header, &block.certificate)
    }

    /// Checks that the transaction is in the block of the proof; returns the block's hash.
    pub fn check_transaction(&self, proof: &TransactionProof) -> Result<BlockHash, ProofError> {
        let hash = self.check_header(&proof.header, &proof.certificate)?;
        let batch = root(&proof.in_batch, &proof.transaction.leaf(), "transaction")?;
        if root(&proof.in_block, &batch, "batch")? != proof.header.transaction_root {
            return Err(ProofError::Path("batch"));
        }
        Ok(hash)
    }

    /// Checks a checkpoint's certificate over its roots.
    pub fn check_checkpoint(&self, proof: &CheckpointProof) -> Result<(), ProofError> {
        let digest = checkpoint_digest(
            self.chain,
            proof.certificate.vote.slot.sequence,
            proof.height,
            proof.hash,
            proof.state_root,
            proof.receipts_root,
        );
        self.check_certificate(&proof.certificate, Phase::Checkpoint, digest)
    }

    /// Checks that a receipt is of this transaction and below a receipts root.
    pub fn check_receipt_root(
        &self,
        proof: &ReceiptProof,
        id: TxId,
        receipts_root: Digest,
    ) -> Result<(), ProofError> {
        let found = proof.receipt.tx;
        if found != id {
            return Err(ProofError::OtherTransaction { found, expected: id });
        }
        match root(&proof.in_result, &proof.receipt.digest(), "receipt")? == receipts_root {
            true => Ok(()),
            false => Err(ProofError::Path("receipt")),
        }
    }

    /// Checks a proof of exactly one key against a state root; returns its value, if it has one.
    pub fn check_state(
        &self,
        proof: &StateProof,
        key: &StateKey,
        state_root: Digest,
    ) -> Result<Option<Bytes>, ProofError> {
        let entries =
            proof.verify(&state_root).map_err(|error| ProofError::State(error.to_string()))?;
        match entries {
            [(found, value)] if found == key => Ok(value.clone()),
            _ => Err(ProofError::OtherKey),
        }
    }

    /// Checks that a receipt is below the receipts root of a checkpoint.
    pub fn check_receipt(
        &self,
        proof: &ReceiptProof,
        checkpoint: &CheckpointProof,
    ) -> Result<(), ProofError> {
        self.check_checkpoint(checkpoint)?;
        let found = root(&proof.in_result, &proof.receipt.digest(), "receipt")?;
        match found == checkpoint.receipts_root {
            true => Ok(()),
            false => Err(ProofError::Path("receipt")),
        }
    }
}

fn root(path: &Path, item: &Digest, what: &'static str) -> Result<Digest, ProofError> {
    path.root_of(item).ok_or(ProofError::Path(what))
}

#[cfg(test)]
mod tests;
