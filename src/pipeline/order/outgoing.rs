//! Messages of a round on their way out: drafts to sign, what is signed already, and what the guard
//! refused.

use crate::consensus::Draft;
use crate::consensus::Envelope;
use crate::signer::SignError;
use crate::signer::SignRequest;
use crate::types::ids::ChainId;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::vote;
use crate::types::vote::Slot;

/// A message of the core.
pub enum Outgoing {
    /// To sign; to all where no receiver is named.
    Draft { to: Option<ReplicaId>, draft: Draft },
    /// To send as it is.
    Signed { to: ReplicaId, envelope: Envelope },
}

impl Outgoing {
    /// What the signer is asked.
    pub fn request(&self, chain: &ChainId) -> Option<SignRequest> {
        match self {
            Self::Signed { .. } => None,
            Self::Draft { draft, .. } => {
                let text = vote::signed_text(chain, &draft.body);
                Some(SignRequest { slot: draft.slot, text, ahead: false })
            }
        }
    }

    /// True where it fills a slot.
    pub fn is_vote(&self) -> bool {
        matches!(self, Self::Draft { draft, .. } if draft.slot.is_some())
    }
}

/// Drafts that the guard refused: the core is told their slots.
#[derive(Debug, Default)]
pub struct Refusals {
    slots: Vec<Slot>,
    /// The floor that was last told: below a fence each vote is refused until the network is there.
    told: Option<SequenceNumber>,
}

impl Refusals {
    /// One more, told where it is news.
    pub fn add(&mut self, error: &SignError) {
        match error {
            SignError::Forgotten { floor, .. } if self.told.replace(*floor) == Some(*floor) => {}
            _ => tracing::error!(%error, "a consensus message was not signed and is not sent"),
        }
        if let SignError::Conflict { slot } | SignError::Forgotten { slot, .. } = error {
            self.slots.push(*slot);
        }
    }

    /// The slots since the last time.
    pub fn take(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.slots)
    }
}
