//! Floor 1: signatures and how they are computed, behind one seam, `Provider`.
//!
//! A provider is a plain struct of parts, not a trait, so that a token can replace signing alone.
//! The table `PROVIDERS` lists the software ones; configuration, conformance tests and benches
//! iterate over it.
//!
//! What is valid is defined once and is the same for every provider, single or in a batch (two
//! nodes that disagree on a signature fork): see `validity`.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// A private key that can sign. Implementations zeroise their secret on drop.
pub trait SigningKey: Send + Sync {
    /// Signs a message (P-256 hashes it with SHA-256, low s; Ed25519 is pure).
    fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError>;

    /// The public half.
    fn public_key(&self) -> &PublicKey;
}

/// Why a key operation failed. Verification never fails: it is true or false.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The bytes are not a key of this algorithm.
    #[error("not a usable {algorithm} private key: {reason}")]
    Key { algorithm: &'static str, reason: String },
    /// The library failed.
    #[error("{provider} cannot sign: {reason}")]
    Sign { provider: &'static str, reason: String },
}

/// One signature to check.
#[derive(Clone, Debug)]
pub struct Check<'a> {
    /// Key.
    pub key: &'a PublicKey,
    /// Message.
    pub message: &'a [u8],
    /// Signature.
    pub signature: &'a Signature,
}

/// A software crypto provider: a struct of parts.
#[derive(Clone, Copy)]
pub struct Provider {
    /// Name in configuration and output.
    pub name: &'static str,
    /// SHA-256 of the concatenation of the parts.
    pub sha256: fn(&[&[u8]]) -> [u8; 32],
    /// Checks one signature by the library's own rule; `validity` makes the results equal over
    /// providers.
    pub verify: fn(&Check<'_>) -> bool,
    /// Loads a private key from PKCS#8 DER (RFC 5958).
    pub load: fn(Algorithm, &[u8]) -> Result<Arc<dyn SigningKey>, CryptoError>,
    /// Makes a private key, PKCS#8 DER.
    pub generate: fn(Algorithm) -> Result<Zeroizing<Vec<u8>>, CryptoError>,
}
