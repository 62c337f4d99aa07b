//! Floor 1: signatures and how they are computed, behind one seam, `Provider`.
//!
//! ```text
//! validity     what a valid signature is, once, for everybody
//! prepared     a parsed public key: the rule of `validity` on one provider
//! batch        many Ed25519 signatures in one equation
//! key_tables   P-256 signatures under keys that sign much, by tables of the key's multiples
//! routing      Crypto, the one object that checks, signs and hashes; second opinions
//! choice       which provider does what: known answers, calibration, profile
//! verify_pool  named threads that check groups of signatures
//! providers    portable (always), aws_lc, openssl, ring (features)
//! keys         PKCS#8, shared by all providers
//! ```
//!
//! A provider is a plain struct of parts, not a trait, so that a token can replace signing alone.
//! The table `PROVIDERS` lists the software ones; configuration, conformance tests and benches
//! iterate over it. A new provider is one file, one `mod` line and one row.
//!
//! What is valid is defined once and is the same for every provider, single or in a batch (two
//! nodes that disagree on a signature fork): see `validity`. Callers outside this folder check
//! signatures through `Crypto` or `VerifyPool`, never through a provider's own functions.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;
use crate::types::vote_signature::SignatureCheck;

pub mod batch;
pub mod calibration;
pub mod choice;
#[cfg(test)]
mod conformance;
pub mod key_tables;
pub mod keys;
pub mod known_answers;
pub mod prepared;
pub mod profile;
pub mod providers;
pub mod routing;
pub mod validity;
pub mod verify_pool;

/// The software providers of this build. The portable one is always there and always first: it is
/// the reference where two others disagree.
pub const PROVIDERS: &[Provider] = &[
    providers::portable::PROVIDER,
    #[cfg(feature = "aws-lc")]
    providers::aws_lc::PROVIDER,
    #[cfg(feature = "openssl")]
    providers::openssl::PROVIDER,
    #[cfg(feature = "ring")]
    providers::ring::PROVIDER,
];

/// The provider of that name, where this build has it.
pub fn provider(name: &str) -> Option<&'static Provider> {
    PROVIDERS.iter().find(|p| p.name == name)
}

/// A private key that can sign. Implementations zeroise their secret on drop as far as their
/// library allows (`docs/crypto.md` names the exception).
pub trait SigningKey: Send + Sync {
    /// Signs a message (P-256 hashes it with SHA-256, low s; Ed25519 is pure).
    fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError>;

    /// Signs several messages, in order. A key in a token signs them in parallel sessions.
    fn sign_many(&self, messages: &[&[u8]]) -> Vec<Result<Signature, CryptoError>> {
        messages.iter().map(|message| self.sign(message)).collect()
    }

    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// The places of a key on tokens, in the order in which they are asked; none for keys in memory.
    fn places(&self) -> Vec<KeyPlace> {
        Vec::new()
    }
}

/// A key on one token, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlace {
    /// The token's name.
    pub token: String,
    /// How the key is selected there.
    pub key: String,
    /// The key was seen there since the start: else the place is not used.
    pub confirmed: bool,
    /// Why it does not sign now.
    pub trouble: Option<String>,
}

/// A loaded private key, shared by threads.
pub type SharedSigningKey = Arc<dyn SigningKey>;

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

impl<'a> From<&'a SignatureCheck> for Check<'a> {
    fn from(check: &'a SignatureCheck) -> Self {
        Self { key: &check.key, message: &check.text, signature: &check.signature }
    }
}

/// A public key parsed by a library: checks one signature by the library's own rule.
pub type LibraryKey = Box<dyn Fn(&[u8], &Signature) -> bool + Send + Sync>;

/// Tables of the multiples of one P-256 key: the affine x of `[u1]G + [u2]Q`, for scalars below n
/// that are not both zero; all numbers big-endian. `None` for the point at infinity, and where the
/// library fails. Arithmetic only: what a signature is stands in `key_tables`.
pub type KeyTable = Box<dyn Fn(&[u8; 32], &[u8; 32]) -> Option<[u8; 32]> + Send + Sync>;

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
    /// Parses a public key once for many checks, by the same rule as `verify`; `None` where the
    /// library refuses the key.
    pub prepare: fn(&PublicKey) -> Option<LibraryKey>,
    /// Computes the tables of a P-256 key (milliseconds), where the library can keep such tables;
    /// `None` where this build of it does not, or refuses the key.
    pub table: fn(&PublicKey) -> Option<KeyTable>,
    /// Loads a private key from PKCS#8 DER (RFC 5958).
    pub load: fn(Algorithm, &[u8]) -> Result<SharedSigningKey, CryptoError>,
    /// Makes a private key, PKCS#8 DER.
    pub generate: fn(Algorithm) -> Result<Zeroizing<Vec<u8>>, CryptoError>,
}
