//! A TLS key that lives elsewhere, as rustls uses it: in a token, behind the signer.
//!
//! rustls signs inside a handshake, on the thread that drives it; the key's own deadline bounds how
//! long that takes. A key that is away fails the handshake, and the peers dial again.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rustls::Error;
use rustls::SignatureAlgorithm;
use rustls::SignatureScheme;
use rustls::sign::Signer;
use rustls::sign::SigningKey;

use crate::crypto;
use crate::membership::certificate;
use crate::telemetry::metrics::Metrics;
use crate::types::signature::Algorithm;

/// A key of this house as rustls sees it.
#[derive(Clone)]
pub struct TlsKey {
    key: Arc<dyn crypto::SigningKey>,
    metrics: Arc<Metrics>,
}

impl TlsKey {
    /// Wraps the key; what it is asked is counted as the signer's lane `transport`.
    pub fn new(key: Arc<dyn crypto::SigningKey>, metrics: Arc<Metrics>) -> Self {
        Self { key, metrics }
    }

    fn own_scheme(&self) -> SignatureScheme {
        match self.key.public_key().algorithm() {
            Algorithm::EcdsaP256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Algorithm::Ed25519 => SignatureScheme::ED25519,
        }
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsKey").field(self.key.public_key()).finish()
    }
}

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.own_scheme()).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.key.public_key().algorithm() {
            Algorithm::EcdsaP256 => SignatureAlgorithm::ECDSA,
            Algorithm::Ed25519 => SignatureAlgorithm::ED25519,
        }
    }
}

impl Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let start = Instant::now();
        let signed = self.key.sign(message);
        self.metrics.asked_signer("transport", start.elapsed(), usize::from(signed.is_err()));
        let signature = signed.map_err(|error| Error::General(error.to_string()))?;
        Ok(match self.key.public_key().algorithm() {
            Algorithm::EcdsaP256 => certificate::ecdsa_der(&signature),
            Algorithm::Ed25519 => signature.0.to_vec(),
        })
    }

    fn scheme(&self) -> SignatureScheme {
        self.own_scheme()
    }
}
