//! What a client believes before it asks anybody: one network's genesis document.
//!
//! From it come the roots that TLS accepts, the directory that says which certificate is whose, and
//! the replica set whose signatures count.

use std::sync::Arc;

use crate::client::error::ClientError;
use crate::client::verify::Verifier;
use crate::crypto::Check;
use crate::crypto::routing::Crypto;
use crate::membership::directory::Directory;
use crate::types::genesis::Genesis;
use crate::types::ids::ChainId;

/// One network, as its genesis document describes it. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    genesis: Arc<Genesis>,
    directory: Arc<Directory>,
    verifier: Verifier,
    crypto: Arc<Crypto>,
}

impl Network {
    /// Reads the members of `genesis`; `crypto` checks their signatures.
    pub fn new(genesis: Arc<Genesis>, crypto: Arc<Crypto>) -> Result<Self, ClientError> {
        let checks = crypto.clone();
        let verify = Arc::new(move |check: &Check<'_>| checks.verify(check));
        let directory = Arc::new(Directory::new(&genesis, verify.clone())?);
        let verifier = Verifier::new(&genesis, verify);
        Ok(Self { genesis, directory, verifier, crypto })
    }

    /// The document.
    pub fn genesis(&self) -> &Arc<Genesis> {
        &self.genesis
    }

    /// SHA-256 of the document.
    pub fn chain(&self) -> ChainId {
        self.verifier.chain()
    }

    /// Members by certificate.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Checks what nodes answer.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Signs and verifies.
    pub fn crypto(&self) -> &Arc<Crypto> {
        &self.crypto
    }
}
