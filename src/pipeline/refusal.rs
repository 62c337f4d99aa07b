//! Why a transaction or a question was not accepted: one typed answer each, with cause and fix.
//!
//! Part of the line's contract: an acknowledged transaction is in exactly one block, everything
//! else gets one of these. Nothing is stored for a refused transaction.

use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::ids::TxId;

/// Why the node refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes are not what was expected.
    #[error("malformed: {0}; encode the transaction as docs/formats.md describes")]
    Malformed(String),
    /// Signed for another network.
    #[error(
        "wrong chain: signed for {found}, this network is {expected}; use this network's genesis document"
    )]
    WrongChain { found: ChainId, expected: ChainId },
    /// The node does not know the creator's certificate and none was sent along.
    #[error("unknown creator: send the creator's certificate with the transaction")]
    UnknownCreator,
    /// The creator's certificate does not hold.
    #[error("certificate refused: {0}")]
    BadCertificate(String),
    /// The signature does not hold under the creator's key.
    #[error("bad signature: the payload was not signed with the key of the creator's certificate")]
    BadSignature,
    /// `valid_until` lies behind.
    #[error("expired: valid until height {valid_until}, the chain is at {height}; sign it anew")]
    Expired { valid_until: Height, height: Height },
    /// `valid_until` lies too far ahead.
    #[error("valid until height {valid_until} is too far ahead; at most {limit} is accepted now")]
    TooFarAhead { valid_until: Height, limit: Height },
    /// The id is known already.
    #[error("duplicate: {0} was submitted before; ask for its receipt, or sign with a new nonce")]
    Duplicate(TxId),
    /// The role does not allow this.
    #[error("unauthorised: {0}")]
    Unauthorised(String),
    /// A size limit.
    #[error("too large: {what} is {found} bytes, the limit is {limit}")]
    TooLarge { what: &'static str, found: usize, limit: usize },
    /// A queue is full.
    #[error("busy: {what} is full; retry after {retry_after_ms} ms")]
    Busy { what: &'static str, retry_after_ms: u64 },
    /// Nothing of that name here.
    #[error("not found: {0}")]
    NotFound(String),
    /// The wait ended first.
    #[error("not committed within {0} ms; it may still be, ask again for its receipt")]
    TimedOut(u64),
    /// This node does not take transactions.
    #[error("this node is an observer: submit to a validator")]
    Observer,
    /// The node is going down.
    #[error("the node is stopping; submit to another validator")]
    Stopping,
    /// The node failed.
    #[error("the node failed: {0}")]
    Internal(String),
}

impl Refusal {
    /// A short stable word for metrics and machine-readable answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::WrongChain { .. } => "wrong-chain",
            Self::UnknownCreator => "unknown-creator",
            Self::BadCertificate(_) => "bad-certificate",
            Self::BadSignature => "bad-signature",
            Self::Expired { .. } => "expired",
            Self::TooFarAhead { .. } => "too-far-ahead",
            Self::Duplicate(_) => "duplicate",
            Self::Unauthorised(_) => "unauthorised",
            Self::TooLarge { .. } => "too-large",
            Self::Busy { .. } => "busy",
            Self::NotFound(_) => "not-found",
            Self::TimedOut(_) => "timed-out",
            Self::Observer => "observer",
            Self::Stopping => "stopping",
            Self::Internal(_) => "internal",
        }
    }
}
