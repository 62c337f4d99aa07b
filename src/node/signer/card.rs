//! A key card: the public part of a validator's key in a token, on its way from whoever made the
//! key to whoever enrols it.
//!
//! ```text
//! algorithm, public_key    what the certificate will name
//! proof                    signature over "obelisk.key-card.1" | encoded public key
//! [key] [token]            where the key is, for the signer's configuration
//! ```
//!
//! The proof shows that whoever made the card can sign with the key: nobody gets a certificate for
//! another's key.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::crypto::Check;
use crate::crypto::CryptoError;
use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::membership::msp;
use crate::membership::msp::MspError;
use crate::node::config::ConfigError;
use crate::node::config::parsed;
use crate::node::config::text_of;
use crate::node::signer::config::KeySection;
use crate::node::signer::config::TokenSection;
use crate::types::codec::Encode;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// A key card.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyCard {
    algorithm: String,
    public_key: String,
    proof: String,
    /// Where the key is.
    pub key: KeySection,
    /// The token it is on.
    pub token: TokenSection,
}

impl KeyCard {
    /// Makes the card of a key, which signs it.
    pub fn new(
        signer: &dyn SigningKey,
        key: KeySection,
        token: TokenSection,
    ) -> Result<Self, CryptoError> {
        let public = signer.public_key();
        let proof = signer.sign(&text(public))?;
        Ok(Self {
            algorithm: public.algorithm().name().to_owned(),
            public_key: hex::encode(public.as_bytes()),
            proof: hex::encode(proof.0),
            key,
            token,
        })
    }

    /// Reads a card and checks its proof.
    pub fn load(path: &Path, crypto: &Crypto) -> Result<(Self, PublicKey), ConfigError> {
        let card: Self = parsed(&text_of(path)?, path)?;
        let public = card.public(crypto).ok_or_else(|| ConfigError::Value {
            path: path.to_owned(),
            key: "proof",
            reason:
                "the key on the card did not sign it; make the card again with `obelisk crypto \
                     keygen` or `obelisk crypto card`"
                    .to_owned(),
        })?;
        Ok((card, public))
    }

    /// Writes a new card.
    pub fn store(&self, path: &Path) -> Result<(), MspError> {
        let text = toml::to_string(self).expect("a card is a table of plain values");
        let head = "# The public part of a key in a token, for `obelisk network create` and `member \
                    issue`.\n# Nothing in it is secret; the private key never leaves the token.\n";
        msp::write_new(path, format!("{head}{text}").as_bytes(), 0o644)
    }

    fn public(&self, crypto: &Crypto) -> Option<PublicKey> {
        let algorithm = Algorithm::from_name(&self.algorithm)?;
        let public = PublicKey::new(algorithm, &hex::decode(&self.public_key).ok()?).ok()?;
        let signature = Signature(hex::decode(&self.proof).ok()?.try_into().ok()?);
        let message = text(&public);
        let check = Check { key: &public, message: &message, signature: &signature };
        crypto.verify(&check).then_some(public)
    }
}

fn text(public: &PublicKey) -> Vec<u8> {
    [TAG, &public.to_bytes()].concat()
}

const TAG: &[u8] = b"obelisk.key-card.1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::providers::portable;

    /// A card comes back as it was written; with another key on it, it is refused.
    #[test]
    fn a_card_proves_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let crypto = Crypto::portable();
        let key = |algorithm| {
            let pkcs8 = (portable::PROVIDER.generate)(algorithm).unwrap();
            (portable::PROVIDER.load)(algorithm, &pkcs8).unwrap()
        };
        let (one, other) = (key(Algorithm::EcdsaP256), key(Algorithm::EcdsaP256));
        let section = || KeySection::on_token("t", "01");
        let card = KeyCard::new(&*one, section(), TokenSection::default()).unwrap();
        let path = directory.path().join("card.toml");
        card.store(&path).unwrap();
        assert_eq!(KeyCard::load(&path, &crypto).unwrap().1, *one.public_key());
        let stolen = std::fs::read_to_string(&path).unwrap().replace(
            &hex::encode(one.public_key().as_bytes()),
            &hex::encode(other.public_key().as_bytes()),
        );
        std::fs::write(&path, stolen).unwrap();
        let error = KeyCard::load(&path, &crypto).unwrap_err().to_string();
        assert!(error.contains("did not sign"), "{error}");
    }
}
