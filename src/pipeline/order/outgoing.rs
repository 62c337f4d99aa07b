//! Messages of a round on their way out: drafts to sign, and what is signed already.

use crate::consensus::Draft;
use crate::consensus::Envelope;
use crate::signer::SignRequest;
use crate::types::ids::ChainId;
use crate::types::ids::ReplicaId;
use crate::types::vote;

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
                Some(SignRequest { slot: draft.slot, text })
            }
        }
    }

    /// True where it fills a slot.
    pub fn is_vote(&self) -> bool {
        matches!(self, Self::Draft { draft, .. } if draft.slot.is_some())
    }
}
