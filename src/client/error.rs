//! What can go wrong for a client.

use crate::client::invocation::SignError;
use crate::client::verify::ProofError;
use crate::membership::error::MembershipError;
use crate::membership::msp::MspError;
#[cfg(feature = "grpc")]
use crate::types::codec::DecodeError;

/// Why a call did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The node said no.
    #[error("{message}; {hint}")]
    Refused {
        /// Short stable word, the same as in REST.
        code: String,
        /// What happened.
        message: String,
        /// What to do.
        hint: String,
        /// Above 0 where a later attempt may succeed, milliseconds.
        retry_after_ms: u64,
    },
    /// No answer: not connected, or the connection broke.
    #[error("no answer from {address}: {reason}; is the node running and the address right?")]
    Unreachable {
        /// Where to.
        address: String,
        /// Every cause, outermost first.
        reason: String,
    },
    /// The identity's folder cannot be used.
    #[error("the identity cannot be used")]
    Identity(#[from] MspError),
    /// TLS could not be set up.
    #[cfg(feature = "grpc")]
    #[error("TLS cannot be set up")]
    Tls(#[from] crate::network::tls::TlsError),
    /// The genesis document's members are not usable.
    #[error("the genesis document's members are not usable")]
    Membership(#[from] MembershipError),
    /// The node's answer is not what the protocol says.
    #[error("the answer of {address} makes no sense: {what}; ask another node")]
    Answer {
        /// Who.
        address: String,
        /// What is wrong.
        what: String,
    },
    /// The answer does not hold.
    #[error("the node's answer is not proven; ask another node and report this one")]
    Proof(#[from] ProofError),
    /// Not committed in time.
    #[error("not committed within {0} ms; it may still be: ask for its receipt later")]
    TimedOut(u64),
    /// The invocation could not be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl ClientError {
    /// The node's word for a refusal; empty for anything else.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            _ => "",
        }
    }

    /// True where the same request may succeed when sent again, here or to another node.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, retry_after_ms, .. } => {
                *retry_after_ms > 0 || code == "stopping" || code == "busy"
            }
            _ => false,
        }
    }

    #[cfg(feature = "grpc")]
    pub(super) fn answer(address: &str, what: impl ToString) -> Self {
        Self::Answer { address: address.to_owned(), what: what.to_string() }
    }

    #[cfg(feature = "grpc")]
    pub(super) fn undecodable(address: &str, error: &DecodeError) -> Self {
        Self::answer(address, error)
    }
}
