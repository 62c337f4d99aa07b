//! Floor 2: evidence that a replica broke the protocol, as bytes that anyone can judge alone.
//!
//! ```text
//! evidence   "obelisk.evidence.1" | chain id 32 | culprit u16 | messages u32 x envelope
//! ```
//!
//! The offence is not written down: the messages show it or they show nothing, so there is no word
//! to believe. A judge needs the genesis document only: chain, replicas and their keys, parameters
//! and the consensus plug-in, whose `offence` says what a set of messages proves once every
//! signature in them holds.
//!
//! Invariant: a correct replica's messages prove nothing, in whatever selection. Failure: what is
//! not evidence is refused with the reason; malformed bytes never panic.

use std::sync::Arc;

use bytes::Bytes;

use crate::consensus;
use crate::consensus::Claim;
use crate::consensus::Envelope;
use crate::consensus::Evidence;
use crate::consensus::Plugin;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::genesis::ChainParameters;
use crate::types::genesis::Genesis;
use crate::types::ids::ChainId;
use crate::types::ids::ReplicaId;
use crate::types::limits;
use crate::types::replica_set::ReplicaSet;

const TAG: &[u8] = b"obelisk.evidence.1";

/// Accused replica and messages, read and not judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// The network it is about.
    pub chain: ChainId,
    /// Who is said to have broken the protocol.
    pub culprit: ReplicaId,
    /// The signed messages, at most `EVIDENCE_MESSAGES_MAX`.
    pub messages: Vec<Envelope>,
}

/// Why bytes are no evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Not in the form of evidence.
    #[error("malformed evidence")]
    Malformed(#[from] DecodeError),
    /// About another network.
    #[error("the evidence is about chain {found}, the genesis document is of {expected}")]
    OtherChain { found: ChainId, expected: ChainId },
    /// A signer that is not in the genesis document.
    #[error("replica {0} is not one of this network")]
    UnknownReplica(ReplicaId),
    /// A signature does not hold: anybody could have made this up.
    #[error("a signature of replica {0} does not hold: forged, or damaged on the way")]
    Signature(ReplicaId),
    /// Genuine messages that a correct replica may send.
    #[error("the messages are genuine, but they prove no offence of replica {0}")]
    NoOffence(ReplicaId),
    /// The genesis document names a plug-in that this build does not have.
    #[error("consensus {0:?} is unknown to this build")]
    UnknownPlugin(String),
}

/// What evidence is judged by.
#[derive(Clone)]
pub struct Judge<'a> {
    /// The network.
    pub chain: ChainId,
    /// The replicas whose signatures count.
    pub replicas: Arc<ReplicaSet>,
    /// Shared parameters.
    pub parameters: ChainParameters,
    /// Row of the plug-in table.
    pub plugin: &'a Plugin,
}

impl Judge<'static> {
    /// The judge of the network that the document describes.
    pub fn of(genesis: &Genesis) -> Result<Self, EvidenceError> {
        let plugin = consensus::plugin(&genesis.consensus)
            .ok_or_else(|| EvidenceError::UnknownPlugin(genesis.consensus.clone()))?;
        let (chain, parameters) = (genesis.chain_id(), genesis.parameters);
        Ok(Self { chain, replicas: Arc::new(genesis.replicas.clone()), parameters, plugin })
    }
}

impl Judge<'_> {
    /// Reads evidence and checks everything about it: network, signers, every signature with
    /// `verify`, and that the messages prove an offence.
    pub fn judge(
        &self,
        bytes: &Bytes,
        verify: impl Fn(&Claim) -> bool,
    ) -> Result<Evidence, EvidenceError> {
        let accusation = Accusation::from_bytes(bytes)?;
        let (found, expected) = (accusation.chain, self.chain);
        if found != expected {
            return Err(EvidenceError::OtherChain { found, expected });
        }
        let culprit = accusation.culprit;
        self.replicas.get(culprit).ok_or(EvidenceError::UnknownReplica(culprit))?;
        for message in &accusation.messages {
            for claim in (self.plugin.claims)(&self.chain, message)? {
                let replica = claim.replica;
                self.replicas.get(replica).ok_or(EvidenceError::UnknownReplica(replica))?;
                if !verify(&claim) {
                    return Err(EvidenceError::Signature(replica));
                }
            }
        }
        let offence = self.offence(&accusation).ok_or(EvidenceError::NoOffence(culprit))?;
        Ok(Evidence { culprit, offence, messages: accusation.messages })
    }

    /// What the messages would prove if their signatures held.
    pub fn offence(&self, accusation: &Accusation) -> Option<&'static str> {
        (self.plugin.offence)(self, accusation.culprit, &accusation.messages)
    }
}

impl Accusation {
    /// What a replica that found evidence passes on.
    pub fn of(chain: ChainId, evidence: &Evidence) -> Self {
        Self { chain, culprit: evidence.culprit, messages: evidence.messages.clone() }
    }
}

impl Encode for Accusation {
    fn encode(&self, w: &mut Writer) {
        w.raw(TAG);
        self.chain.encode(w);
        self.culprit.encode(w);
        w.list(&self.messages);
    }
}

impl Decode for Accusation {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if r.raw("evidence tag", TAG.len())? != TAG {
            return Err(DecodeError::Invalid {
                field: "evidence tag",
                reason: "not obelisk evidence, version 1",
            });
        }
        Ok(Self {
            chain: ChainId::decode(r)?,
            culprit: ReplicaId::decode(r)?,
            messages: r.list("evidence messages", limits::EVIDENCE_MESSAGES_MAX)?,
        })
    }
}
