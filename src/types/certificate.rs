//! Quorum certificates: proof that a quorum of replicas made one statement.
//!
//! ```text
//! certificate  vote 57 | signatures u32 x (replica u16 | vote signature), replicas strictly ascending
//! ```
//!
//! "Certificate" alone means X.509 in this project; this is always `QuorumCertificate`.
//! One bad signature rejects the whole certificate. Checking needs a verifier, so it lives in
//! `crypto`'s users; the shape rules (quorum size, order, membership) are checked here.

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::ids::ReplicaId;
use crate::types::limits;
use crate::types::replica_set::ReplicaSet;
use crate::types::vote::Vote;
use crate::types::vote_signature::VoteSignature;

/// A vote with the signatures of those who cast it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumCertificate {
    /// The common statement.
    pub vote: Vote,
    /// Who signed it, replicas strictly ascending.
    pub signatures: Vec<(ReplicaId, VoteSignature)>,
}

impl QuorumCertificate {
    /// Checks size, order and membership against the epoch's replica set, not the signatures.
    pub fn check_shape(&self, replicas: &ReplicaSet) -> Result<(), DecodeError> {
        let field = "quorum certificate";
        if self.vote.slot.epoch != replicas.epoch() {
            return Err(DecodeError::Invalid { field, reason: "another epoch's replica set" });
        }
        if self.signatures.len() < replicas.quorum() {
            return Err(DecodeError::Invalid { field, reason: "fewer signatures than a quorum" });
        }
        if self.signatures.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(DecodeError::Invalid { field, reason: "replicas not strictly ascending" });
        }
        if self.signatures.iter().any(|(id, _)| replicas.get(*id).is_none()) {
            return Err(DecodeError::Invalid { field, reason: "a signer outside the replica set" });
        }
        Ok(())
    }
}

impl Encode for QuorumCertificate {
    fn encode(&self, w: &mut Writer) {
        self.vote.encode(w);
        w.count(self.signatures.len());
        for (id, signature) in &self.signatures {
            id.encode(w);
            signature.encode(w);
        }
    }
}

impl Decode for QuorumCertificate {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let vote = Vote::decode(r)?;
        let count = r.count("certificate signatures", limits::REPLICAS_MAX)?;
        let signatures = (0..count)
            .map(|_| Ok((ReplicaId::decode(r)?, VoteSignature::decode(r)?)))
            .collect::<Result<Vec<_>, DecodeError>>()?;
        if signatures.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(DecodeError::Invalid {
                field: "quorum certificate",
                reason: "replicas not strictly ascending",
            });
        }
        Ok(Self { vote, signatures })
    }
}
