//! Floor 2: the only place that holds keys.
//!
//! A consensus signature names its slot. The guard makes slot and text durable before the key is
//! used; the same slot with another text is refused for ever; the same text gets a signature again.
//! No path signs without the guard: a key signs a `guard::ClearedToSign`, which only the guard can
//! make. A guard that a process has just opened signs no slot before its node has compared the
//! record with what was seen of the key (`guard::standing`).
//!
//! ```text
//! SignRequest -> SlotGuard::clear (append, one sync) -> ClearedToSign -> key -> VoteSignature
//! ```
//!
//! `embedded` runs this inside the node; with `obelisk signer` it is a process of its own, which
//! `server` serves over a local socket (`socket`, `wire`) and `remote` asks.
//!
//! Failure: a refused request harms no other request; a guard that cannot record refuses everything
//! from then on and the process must stop (`SignError::Guard`).

pub mod embedded;
pub mod guard;
pub mod keyring;
pub mod queue;
pub mod remote;
pub mod server;
pub mod sessions;
pub mod socket;
pub mod wire;

use bytes::Bytes;

use crate::signer::guard::cleared::Signed;
use crate::signer::guard::standing::Answer;
use crate::signer::guard::standing::Opening;
use crate::signer::guard::standing::RecordCall;
use crate::types::ids::SequenceNumber;
use crate::types::signature::PublicKey;
use crate::types::vote::Slot;

/// One text to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignRequest {
    /// The slot the guard locks; `None` for texts that no slot governs.
    pub slot: Option<Slot>,
    /// The exact text.
    pub text: Bytes,
    /// The signature is made before the vote is cast: those of other texts must not show it. Worth
    /// asking of a signer that bundles.
    pub ahead: bool,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Another text was signed for this slot.
    #[error("refused: another text was already signed for {slot:?}")]
    Conflict { slot: Slot },
    /// The slot is so old that the guard no longer knows what it signed there.
    #[error(
        "refused: {slot:?} lies below the guard's floor (sequence {floor}); what was signed there \
         is forgotten, so nothing is signed there again"
    )]
    Forgotten { slot: Slot, floor: SequenceNumber },
    /// Slot and text contradict each other: a vote without its slot would escape the guard.
    #[error("refused: {reason}; a consensus text is signed only under the slot it states")]
    Mislabelled { reason: &'static str },
    /// The guard's record could not be made durable, or is damaged: the process must stop.
    #[error("the signer's guard cannot record: {reason}")]
    Guard { reason: String },
    /// The key cannot be used now; asking again for the same text later is safe.
    #[error("the signing key is unavailable: {reason}")]
    Key { reason: String },
}

/// Signs texts under the guard.
pub trait Signer: Send + Sync {
    /// Signs all requests with one durable guard record for the lot, in order. A conflict on one
    /// refuses that one only.
    fn sign(&self, requests: &[SignRequest]) -> Signed;

    /// The key that checks the signatures.
    fn public_key(&self) -> &PublicKey;

    /// Calls of `sign` that it is worth having under way at once: more than one where the key is
    /// slow.
    fn parallel(&self) -> usize {
        1
    }

    /// True where one signature of the key stands for all texts of a call, so that a further text
    /// costs next to nothing.
    fn bundles(&self) -> bool;

    /// Why nothing is signed now, where that is known: for the node's status.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// What an operator should look at though votes are signed: a token that is away, a session that
    /// is not certified. For the node's status.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// The opening of the record that answers now. Another one than before means another process,
    /// whose record may be another one as well.
    fn opening(&self) -> Opening;

    /// Tells the guard what others saw of its key, or what follows from that; answers how the
    /// record stands. Refused where another opening than `opening` answers.
    fn record(&self, opening: Opening, call: &RecordCall) -> Result<Answer, SignError>;

    /// Lets the guard forget the sequence-bound slots below `sequence`, which must be stable (a
    /// checkpoint certificate covers everything below it): from then on they are refused. A guard
    /// forgets by itself what lies far below; this is for callers that know earlier. A signer that
    /// keeps no record of its own does nothing.
    fn forget_below(&self, sequence: SequenceNumber) -> Result<(), SignError> {
        let _ = sequence;
        Ok(())
    }
}
