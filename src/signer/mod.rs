//! Floor 2: the only place that holds keys.
//!
//! A consensus signature names its slot. The guard makes slot and text durable before the key is
//! used; the same slot with another text is refused for ever; the same text gets a signature again.
//! No path signs without the guard.

use bytes::Bytes;

use crate::types::signature::PublicKey;
use crate::types::signature::Signature;
use crate::types::vote::Slot;

/// One text to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignRequest {
    /// The slot the guard locks; `None` for texts that no slot governs.
    pub slot: Option<Slot>,
    /// The exact text.
    pub text: Bytes,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Another text was signed for this slot.
    #[error("refused: another text was already signed for {slot:?}")]
    Conflict { slot: Slot },
    /// The guard's record could not be made durable, or is damaged: the process must stop.
    #[error("the signer's guard cannot record: {reason}")]
    Guard { reason: String },
    /// The key cannot be used now.
    #[error("the signing key is unavailable: {reason}")]
    Key { reason: String },
}

/// Signs texts under the guard.
pub trait Signer: Send + Sync {
    /// Signs all requests with one durable guard record for the lot, in order. A conflict on one
    /// refuses that one only.
    fn sign(&self, requests: &[SignRequest]) -> Vec<Result<Signature, SignError>>;

    /// The key that checks the signatures.
    fn public_key(&self) -> &PublicKey;
}
