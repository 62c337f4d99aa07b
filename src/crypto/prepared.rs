//! A public key parsed once for many checks, and the rule of `validity` applied to it.
//!
//! Parsing is paid per identity instead of per signature: the library's key object, the byte checks
//! and for Ed25519 the decompressed point. A key that is not acceptable prepares too; nothing
//! verifies with it.

use std::sync::Arc;

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::edwards::EdwardsPoint;

use crate::crypto::LibraryKey;
use crate::crypto::Provider;
use crate::crypto::key_tables::Slot;
use crate::crypto::validity;
use crate::crypto::validity::Verdict;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// A public key bound to the provider that checks with it.
pub struct PreparedKey {
    public: PublicKey,
    /// Byte rules hold and the bytes are a point of the curve.
    usable: bool,
    library: Option<LibraryKey>,
    /// Ed25519 only; boxed, since most keys are P-256.
    reference: Option<Box<Reference>>,
    /// P-256 only: where its table is, once it has earned one.
    slot: Option<Arc<Slot>>,
}

/// What decides for Ed25519: the key for single checks and its point for batches.
struct Reference {
    key: ed25519_zebra::VerificationKey,
    point: EdwardsPoint,
}

/// One signature to check with a prepared key.
#[derive(Clone, Copy)]
pub struct PreparedCheck<'a> {
    /// Key.
    pub key: &'a PreparedKey,
    /// Message.
    pub message: &'a [u8],
    /// Signature.
    pub signature: &'a Signature,
}

impl PreparedKey {
    /// Parses a key. Never fails: a bad key makes every signature invalid.
    pub fn new(provider: &Provider, public: &PublicKey) -> Self {
        let mut key = Self {
            public: public.clone(),
            usable: false,
            library: None,
            reference: None,
            slot: None,
        };
        if !validity::key_is_well_formed(public) {
            return key;
        }
        key.library = (provider.prepare)(public);
        key.usable = match public.algorithm() {
            // Asked from the reference, since not every library checks the point when it parses.
            Algorithm::EcdsaP256 => {
                key.slot = Some(Arc::default());
                key.library.is_some() && p256::PublicKey::from_sec1_bytes(public.as_bytes()).is_ok()
            }
            Algorithm::Ed25519 => {
                key.reference = Reference::new(public).map(Box::new);
                key.reference.is_some()
            }
        };
        key
    }

    /// Checks one signature by the rule of `validity`.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Verdict {
        if !self.accepts_bytes_of(signature) {
            return Verdict::INVALID;
        }
        if self.library.as_ref().is_some_and(|accepts| accepts(message, signature)) {
            return Verdict { valid: true, rechecked: false };
        }
        match self.algorithm() {
            Algorithm::EcdsaP256 => Verdict::INVALID,
            Algorithm::Ed25519 => {
                Verdict { valid: self.reference_accepts(message, signature), rechecked: true }
            }
        }
    }

    /// The key as bytes.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.public.algorithm()
    }

    /// Whether any signature can be valid with it: well formed, on the curve, not of small order.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// The byte rules for key and signature together.
    pub(super) fn accepts_bytes_of(&self, signature: &Signature) -> bool {
        self.usable && validity::signature_is_well_formed(self.algorithm(), signature)
    }

    /// The Ed25519 equation alone; false for other algorithms. The byte rules come before.
    pub(super) fn reference_accepts(&self, message: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_zebra::Signature::from_bytes(&signature.0);
        self.reference.as_ref().is_some_and(|r| r.key.verify(&signature, message).is_ok())
    }

    /// Where the table of a usable P-256 key is.
    pub(super) fn table_slot(&self) -> Option<&Arc<Slot>> {
        self.slot.as_ref().filter(|_| self.usable)
    }

    /// The decompressed Ed25519 point of a usable key.
    pub(super) fn point(&self) -> Option<&EdwardsPoint> {
        self.reference.as_ref().map(|r| &r.point)
    }
}

impl Reference {
    fn new(public: &PublicKey) -> Option<Self> {
        let key = ed25519_zebra::VerificationKey::try_from(public.as_bytes()).ok()?;
        let point = CompressedEdwardsY::from_slice(public.as_bytes()).ok()?.decompress()?;
        Some(Self { key, point })
    }
}

impl std::fmt::Debug for PreparedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PreparedKey({:?}, usable: {})", self.public, self.usable)
    }
}
