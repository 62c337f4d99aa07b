//! A key card: the public part of a key on a token, and where it is. Whoever made the key hands it
//! to whoever enrols it; in an identity's or authority's folder it stands for the key (`key.toml`).
//!
//! ```text
//! algorithm, public_key    what the certificate will name
//! proof                    signature over "obelisk.key-card.1" | encoded public key
//! [key] [[token]]          where the key is, standby tokens included, as in a signer's configuration
//! ```
//!
//! Relative paths are relative to the file that is read; a card that is written has whole ones.
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
    /// The token it is on, then those of its standbys.
    pub token: Vec<TokenSection>,
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
            token: vec![token],
        })
    }

    /// Reads a card and checks its proof.
    pub fn load(path: &Path, crypto: &Crypto) -> Result<(Self, PublicKey), ConfigError> {
        let mut card: Self = parsed(&text_of(path)?, path)?;
        let whole = std::path::absolute(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        for token in &mut card.token {
            token.rebase(whole.parent().unwrap_or(&whole));
        }
        let public = card.checked(crypto);
        public.map(|public| (card, public)).map_err(|(key, reason)| {
            let path = path.to_owned();
            ConfigError::Value { path, key, reason }
        })
    }

    /// The public key, where the card says one place for it and the key has signed it.
    fn checked(&self, crypto: &Crypto) -> Result<PublicKey, (&'static str, String)> {
        TokenSection::check_all(&self.token)?;
        if !self.key.is_on_token() {
            return Err(("key", "a card is of a key on a token; name the token".to_owned()));
        }
        self.key.check(&self.token).map_err(|reason| ("key", reason))?;
        self.public().filter(|public| self.is_proven(public, crypto)).ok_or_else(|| {
            let reason = "the key on the card did not sign it; make the card again with `obelisk \
                          crypto card`";
            ("proof", reason.to_owned())
        })
    }

    /// Adds a token that holds the same key, as another card says it: asked where those before it
    /// fail.
    pub fn add_standby(&mut self, other: &Self) {
        let first = other.key.place();
        for mut place in std::iter::once(first).chain(other.key.standby.iter().cloned()) {
            let Some(mut token) = other.token.iter().find(|t| t.name == place.token).cloned()
            else {
                continue;
            };
            // Copies of a token often have its label.
            let mut name = token.name.clone();
            let mut copies = 1;
            while self.token.iter().any(|known| known.name == name) {
                copies += 1;
                name = format!("{}-{copies}", token.name);
            }
            place.token.clone_from(&name);
            token.name = name;
            self.token.push(token);
            self.key.standby.push(place);
        }
    }

    /// As a folder keeps it. With `credential` a service takes the PIN from that systemd credential,
    /// and those of standbys from `credential-2`, `credential-3`.
    pub fn kept(&self, credential: Option<&str>) -> Self {
        let mut kept = self.clone();
        for (i, token) in kept.token.iter_mut().enumerate() {
            if let Some(name) = credential {
                token.use_credential(name, i);
            }
        }
        kept
    }

    /// Writes a new card.
    pub fn store(&self, path: &Path) -> Result<(), MspError> {
        let text = toml::to_string(self).expect("a card is a table of plain values");
        let head = "# The public part of a key on a token, and where it is.\n# Nothing in it is \
                    secret; the private key never leaves the token.\n";
        msp::write_new(path, format!("{head}{text}").as_bytes(), 0o644)
    }

    /// The public key that it names.
    pub fn public(&self) -> Option<PublicKey> {
        let algorithm = Algorithm::from_name(&self.algorithm)?;
        PublicKey::new(algorithm, &hex::decode(&self.public_key).ok()?).ok()
    }

    fn is_proven(&self, public: &PublicKey, crypto: &Crypto) -> bool {
        let proof = hex::decode(&self.proof).ok().and_then(|bytes| bytes.try_into().ok());
        let Some(signature) = proof.map(Signature) else { return false };
        let message = text(public);
        crypto.verify(&Check { key: public, message: &message, signature: &signature })
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
        let token = || TokenSection {
            name: "t".into(),
            module: "module.so".into(),
            label: "t".into(),
            pin: "pin".into(),
            ..TokenSection::default()
        };
        let card = KeyCard::new(&*one, section(), token()).unwrap();
        let path = directory.path().join("card.toml");
        card.store(&path).unwrap();
        let (read, public) = KeyCard::load(&path, &crypto).unwrap();
        assert_eq!(public, *one.public_key());
        assert_eq!(read.token[0].pin, directory.path().join("pin"));
        let good = std::fs::read_to_string(&path).unwrap();
        for (from, to, words) in [
            ("id = \"01\"", "id = \"0x\"", "hexadecimal"),
            ("token = \"t\"", "token = \"u\"", "no [[token]] is called"),
            ("token = \"t\"", "file = \"f\"", "name the token"),
            ("pin = \"pin\"", "pin = \"pin\"\ncredential = \"pin\"", "PIN file"),
        ] {
            assert!(good.contains(from), "{from}: {good}");
            std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
            let error = KeyCard::load(&path, &crypto).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
        std::fs::write(&path, &good).unwrap();
        let stolen = std::fs::read_to_string(&path).unwrap().replace(
            &hex::encode(one.public_key().as_bytes()),
            &hex::encode(other.public_key().as_bytes()),
        );
        std::fs::write(&path, stolen).unwrap();
        let error = KeyCard::load(&path, &crypto).unwrap_err().to_string();
        assert!(error.contains("did not sign"), "{error}");
    }

    /// A standby on a token of the same name gets a name of its own; each token its credential.
    #[test]
    fn standbys_are_told_apart() {
        let pkcs8 = (portable::PROVIDER.generate)(Algorithm::EcdsaP256).unwrap();
        let key = (portable::PROVIDER.load)(Algorithm::EcdsaP256, &pkcs8).unwrap();
        let token = TokenSection { name: "t".into(), pin: "pin".into(), ..Default::default() };
        let made = || KeyCard::new(&*key, KeySection::on_token("t", "01"), token.clone()).unwrap();
        let mut card = made();
        card.add_standby(&made());
        card.add_standby(&made());
        let names = |card: &KeyCard| card.token.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&card), ["t", "t-2", "t-3"]);
        let places: Vec<_> = card.key.standby.iter().map(|place| place.token.as_str()).collect();
        assert_eq!(places, ["t-2", "t-3"]);
        let kept = card.kept(Some("pin"));
        let credentials: Vec<_> = kept.token.iter().map(|t| t.credential.as_str()).collect();
        assert_eq!(credentials, ["pin", "pin-2", "pin-3"]);
        assert!(kept.token.iter().all(|token| token.pin.as_os_str().is_empty()));
    }
}
