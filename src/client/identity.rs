//! Who signs: a certificate and its private key.
//!
//! The key is behind `crypto::SigningKey`, so a token may hold it. Nothing here prints or stores
//! it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::crypto::CryptoError;
use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::membership::certificate;
use crate::membership::msp::KeyPair;
use crate::membership::msp::Msp;
use crate::membership::msp::MspError;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::signature::Signature;

/// A member's certificate with the key that signs for it.
#[derive(Clone)]
pub struct ClientIdentity {
    certificate: Bytes,
    id: CertificateId,
    key: Arc<dyn SigningKey>,
}

impl ClientIdentity {
    /// Joins a certificate (DER) and the private key of its subject. Whether they belong together
    /// shows at the first submission: the node answers "bad signature".
    pub fn new(certificate: Bytes, key: Arc<dyn SigningKey>) -> Self {
        // Its id is that of this form, whatever s its authority left in it.
        let certificate = certificate::canonical(&certificate);
        let id = CertificateId(Digest::of(&[&certificate]));
        Self { certificate, id, key }
    }

    /// Enrolment certificate and key of an MSP folder. Refuses a key of another certificate.
    pub fn load(folder: &Path, crypto: &Crypto) -> Result<Self, MspError> {
        Self::from_pair(&Msp::load(folder)?.enrolment, crypto)
    }

    /// A certificate and key that were read already.
    pub fn from_pair(pair: &KeyPair, crypto: &Crypto) -> Result<Self, MspError> {
        Ok(Self::new(pair.certificate.clone(), pair.signing_key(crypto)?))
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &Bytes {
        &self.certificate
    }

    /// SHA-256 of the certificate: how transactions name their creator.
    pub fn id(&self) -> CertificateId {
        self.id
    }

    /// Signs bytes that begin with a domain tag.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError> {
        self.key.sign(message)
    }
}
