//! The replicas of one epoch, with the keys that check their votes.

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::ids::Epoch;
use crate::types::ids::ReplicaId;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::quorum;
use crate::types::signature::PublicKey;

/// One validator's seat in the replica set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Organisation that runs it.
    pub organisation: String,
    /// Name of the validator within the organisation.
    pub name: String,
    /// Key that checks its consensus messages.
    pub key: PublicKey,
}

/// The replicas of an epoch; a replica's id is its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSet {
    epoch: Epoch,
    members: Vec<Replica>,
}

impl ReplicaSet {
    /// A set of 1 to `REPLICAS_MAX` members with distinct names and keys.
    pub fn new(epoch: Epoch, members: Vec<Replica>) -> Result<Self, DecodeError> {
        let field = "replica set";
        if members.is_empty() || members.len() > limits::REPLICAS_MAX {
            return Err(DecodeError::Invalid { field, reason: "needs 1 to 100 replicas" });
        }
        for (i, a) in members.iter().enumerate() {
            for b in &members[..i] {
                if a.key == b.key {
                    return Err(DecodeError::Invalid { field, reason: "two replicas share a key" });
                }
                if (&a.organisation, &a.name) == (&b.organisation, &b.name) {
                    return Err(DecodeError::Invalid {
                        field,
                        reason: "two replicas share a name",
                    });
                }
            }
        }
        Ok(Self { epoch, members })
    }

    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Number of replicas, n.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// A set is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Quorum size.
    pub fn quorum(&self) -> usize {
        quorum::quorum(self.len())
    }

    /// f + 1.
    pub fn weak_quorum(&self) -> usize {
        quorum::weak_quorum(self.len())
    }

    /// Primary of a view: replica `v mod n`.
    pub fn primary(&self, view: View) -> ReplicaId {
        let n = u64::try_from(self.len()).expect("at most 100");
        ReplicaId(u16::try_from(view.0 % n).expect("below n"))
    }

    /// The replica of that id.
    pub fn get(&self, id: ReplicaId) -> Option<&Replica> {
        self.members.get(usize::from(id.0))
    }

    /// All replicas with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, &Replica)> {
        (0u16..).map(ReplicaId).zip(&self.members)
    }

    /// The seat of a validator by organisation and name.
    pub fn find(&self, organisation: &str, name: &str) -> Option<ReplicaId> {
        self.iter()
            .find(|(_, r)| r.organisation == organisation && r.name == name)
            .map(|(id, _)| id)
    }
}

impl Encode for Replica {
    fn encode(&self, w: &mut Writer) {
        w.string(&self.organisation);
        w.string(&self.name);
        self.key.encode(w);
    }
}

impl Decode for Replica {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            organisation: r.string("organisation", limits::NAME_BYTES_MAX)?,
            name: r.string("replica name", limits::NAME_BYTES_MAX)?,
            key: PublicKey::decode(r)?,
        })
    }
}

impl Encode for ReplicaSet {
    fn encode(&self, w: &mut Writer) {
        self.epoch.encode(w);
        w.list(&self.members);
    }
}

impl Decode for ReplicaSet {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let epoch = Epoch::decode(r)?;
        Self::new(epoch, r.list("replicas", limits::REPLICAS_MAX)?)
    }
}
