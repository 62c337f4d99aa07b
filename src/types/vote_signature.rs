//! A replica's signature under a consensus text, in one of three ways.
//!
//! ```text
//! vote signature       0 | signature 64                               the replica's key signed the text
//!                      1 | session certificate | signature 64         its session key did
//!                      2 | path | signature 64                        its key signed the root of a bundle
//! session certificate  epoch u64 | first u64 | last u64 | public key | signature 64
//! session text         "obelisk.session.1" | chain id 32 | epoch u64 | first u64 | last u64 | public key
//! bundle text          "obelisk.bundle.1" | chain id 32 | root 32     leaves: SHA-256 of each text;
//!                      after that of one signed ahead a random one
//! ```
//!
//! The replica's key is the one in the replica set; it may be on a token too slow to sign each
//! vote. A session key signs in its stead for the sequence numbers from `first` to `last`, a bundle
//! lets one signature stand for many texts. Either way the signature carries all that is needed to
//! check it with the replica's key alone, so blocks and proofs stay checkable from the genesis
//! document.
//!
//! Invariants: a session text, a bundle text and a consensus text begin differently, so none is
//! taken for another. A vote outside its session's range does not hold, whoever checks it. Messages
//! of view changes name no sequence number: they hold for as long as the checker's own stable
//! checkpoint is not past the session, so the keys of past sessions cannot start views.

use std::sync::Arc;

use bytes::Bytes;

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::Epoch;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::merkle::Path;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;
use crate::types::vote::Phase;
use crate::types::vote::Slot;

const SESSION_TAG: &[u8] = b"obelisk.session.1";
const BUNDLE_TAG: &[u8] = b"obelisk.bundle.1";

/// What a session key may sign, and for how long: everything of its certificate but the signature.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionTerms {
    /// The replica set whose key speaks.
    pub epoch: Epoch,
    /// First sequence number.
    pub first: SequenceNumber,
    /// Last sequence number.
    pub last: SequenceNumber,
    /// The session key.
    pub key: PublicKey,
}

/// A replica's word that a session key signs in its stead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionCertificate {
    /// What is certified.
    pub terms: SessionTerms,
    /// By the replica's key, over the session text.
    pub signature: Signature,
}

/// A signature under a consensus text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VoteSignature {
    /// By the replica's key.
    Direct(Signature),
    /// By a session key.
    Session { certificate: Arc<SessionCertificate>, signature: Signature },
    /// By the replica's key, over the root of a bundle that the text is in.
    Bundle { path: Arc<Path>, signature: Signature },
}

/// What of a text decides whether a session may have signed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// It speaks for one sequence number.
    Sequence(SequenceNumber),
    /// It belongs to a view change.
    View,
    /// Neither: it decides nothing.
    Free,
}

/// What a checker knows: whose signature is claimed, and how far its own chain is.
#[derive(Clone, Copy, Debug)]
pub struct Authority<'a> {
    /// The network.
    pub chain: &'a ChainId,
    /// Epoch of the replica set.
    pub epoch: Epoch,
    /// The replica's key.
    pub key: &'a PublicKey,
    /// The checker's last stable checkpoint; 0 where it follows no chain.
    pub stable: SequenceNumber,
}

/// One plain signature that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureCheck {
    /// The key.
    pub key: PublicKey,
    /// The text.
    pub text: Bytes,
    /// The signature.
    pub signature: Signature,
}

/// What must hold for a vote signature to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    /// The signature under the text, or under the bundle.
    pub own: SignatureCheck,
    /// The signature under the session's text; the same for every vote of a session.
    pub session: Option<SignatureCheck>,
}

impl Slot {
    /// What decides which session signs for this slot.
    pub fn bound(&self) -> Bound {
        match self.phase {
            Phase::ViewChange | Phase::NewView => Bound::View,
            Phase::PrePrepare
            | Phase::Prepare
            | Phase::Commit
            | Phase::Checkpoint
            | Phase::Session => Bound::Sequence(self.sequence),
        }
    }
}

impl SessionTerms {
    /// The text that certifies them.
    pub fn text(&self, chain: &ChainId) -> Bytes {
        let mut w = Writer::with_capacity(192);
        w.raw(SESSION_TAG);
        chain.encode(&mut w);
        self.encode(&mut w);
        w.finish()
    }

    /// The slot that this text fills: one session key per first sequence number.
    pub fn slot(&self) -> Slot {
        Slot { epoch: self.epoch, view: View(0), sequence: self.first, phase: Phase::Session }
    }

    /// Whether the session key may sign a text of that bound.
    fn covers(&self, bound: Bound, stable: SequenceNumber) -> bool {
        match bound {
            Bound::Sequence(sequence) => (self.first..=self.last).contains(&sequence),
            Bound::View => self.last >= stable,
            Bound::Free => true,
        }
    }
}

impl VoteSignature {
    /// Longest encoding: a bundle of the most texts.
    pub const BYTES_MAX: usize = 1 + 4 + 4 + 4 + 32 * BUNDLE_DEPTH_MAX + 64;

    /// The signature itself, without what it is checked with.
    pub fn plain(&self) -> &Signature {
        let (Self::Direct(signature)
        | Self::Session { signature, .. }
        | Self::Bundle { signature, .. }) = self;
        signature
    }

    /// The plain signatures that must hold for this to be the replica's signature under `text`. An
    /// error where no signature could make it so.
    pub fn checks(
        &self,
        by: &Authority<'_>,
        text: &Bytes,
        bound: Bound,
    ) -> Result<Checks, DecodeError> {
        let field = "vote signature";
        match self {
            Self::Direct(signature) => Ok(Checks {
                own: SignatureCheck {
                    key: by.key.clone(),
                    text: text.clone(),
                    signature: *signature,
                },
                session: None,
            }),
            Self::Session { certificate, signature } => {
                let terms = &certificate.terms;
                if terms.epoch != by.epoch {
                    return Err(DecodeError::Invalid {
                        field,
                        reason: "a session of another epoch",
                    });
                }
                if !terms.covers(bound, by.stable) {
                    let reason = "the text is outside its session's sequence numbers";
                    return Err(DecodeError::Invalid { field, reason });
                }
                let own = SignatureCheck {
                    key: terms.key.clone(),
                    text: text.clone(),
                    signature: *signature,
                };
                let session = SignatureCheck {
                    key: by.key.clone(),
                    text: terms.text(by.chain),
                    signature: certificate.signature,
                };
                Ok(Checks { own, session: Some(session) })
            }
            Self::Bundle { path, signature } => {
                let reason = "its path does not fit a bundle";
                let root = path.root_of(&Digest::of(&[text]));
                let root = root.ok_or(DecodeError::Invalid { field, reason })?;
                let (key, text) = (by.key.clone(), bundle_text(by.chain, &root));
                let own = SignatureCheck { key, text, signature: *signature };
                Ok(Checks { own, session: None })
            }
        }
    }
}

impl Checks {
    /// Every plain signature that must hold.
    pub fn all(&self) -> impl Iterator<Item = &SignatureCheck> {
        std::iter::once(&self.own).chain(&self.session)
    }
}

/// The text whose signature stands for every text below `root`.
pub fn bundle_text(chain: &ChainId, root: &Digest) -> Bytes {
    let mut w = Writer::with_capacity(BUNDLE_TAG.len() + 64);
    w.raw(BUNDLE_TAG);
    chain.encode(&mut w);
    root.encode(&mut w);
    w.finish()
}

impl From<Signature> for VoteSignature {
    fn from(signature: Signature) -> Self {
        Self::Direct(signature)
    }
}

impl Encode for SessionTerms {
    fn encode(&self, w: &mut Writer) {
        self.epoch.encode(w);
        self.first.encode(w);
        self.last.encode(w);
        self.key.encode(w);
    }
}

impl Decode for SessionTerms {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let epoch = Epoch::decode(r)?;
        let (first, last) = (SequenceNumber::decode(r)?, SequenceNumber::decode(r)?);
        if first > last {
            let reason = "ends before it begins";
            return Err(DecodeError::Invalid { field: "session", reason });
        }
        Ok(Self { epoch, first, last, key: PublicKey::decode(r)? })
    }
}

impl Encode for SessionCertificate {
    fn encode(&self, w: &mut Writer) {
        self.terms.encode(w);
        self.signature.encode(w);
    }
}

impl Decode for SessionCertificate {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { terms: SessionTerms::decode(r)?, signature: Signature::decode(r)? })
    }
}

impl Encode for VoteSignature {
    fn encode(&self, w: &mut Writer) {
        match self {
            Self::Direct(signature) => {
                w.u8(DIRECT);
                signature.encode(w);
            }
            Self::Session { certificate, signature } => {
                w.u8(SESSION);
                certificate.encode(w);
                signature.encode(w);
            }
            Self::Bundle { path, signature } => {
                w.u8(BUNDLE);
                path.encode(w);
                signature.encode(w);
            }
        }
    }
}

impl Decode for VoteSignature {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8("vote signature")? {
            DIRECT => Self::Direct(Signature::decode(r)?),
            SESSION => Self::Session {
                certificate: Arc::new(SessionCertificate::decode(r)?),
                signature: Signature::decode(r)?,
            },
            BUNDLE => {
                let path = Path::decode(r)?;
                if path.siblings.len() > BUNDLE_DEPTH_MAX {
                    let reason = "of more texts than a bundle may have";
                    return Err(DecodeError::Invalid { field: "bundle", reason });
                }
                Self::Bundle { path: Arc::new(path), signature: Signature::decode(r)? }
            }
            _ => return Err(DecodeError::Invalid { field: "vote signature", reason: "unknown" }),
        })
    }
}

/// Siblings above a leaf of the largest bundle.
const BUNDLE_DEPTH_MAX: usize = limits::BUNDLE_TEXTS_MAX.ilog2() as usize;
const DIRECT: u8 = 0;
const SESSION: u8 = 1;
const BUNDLE: u8 = 2;

#[cfg(test)]
mod tests;
