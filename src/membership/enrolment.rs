//! What somebody sends to become a member: a name, a one-time secret, two public keys, and a
//! signature of each key that proves its possession.
//!
//! ```text
//! signed text   "obelisk enrolment 1" | organisation | role | name | enrolment key | TLS key
//!               (strings and keys as in `types::codec`); signed by both keys
//! ```
//!
//! The private keys never leave who made them. The text names the organisation, so that a request
//! replayed at another authority is refused there; the secret is not in it, so the text may be
//! logged.

use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::crypto::Check;
use crate::crypto::CryptoError;
use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::membership::identity::Role;
use crate::types::codec::Encode;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// Who wants to be enrolled, and with which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applicant {
    /// Organisation of the authority that is asked.
    pub organisation: String,
    /// Role that was registered.
    pub role: Role,
    /// Name that was registered.
    pub name: String,
    /// Key of the enrolment certificate.
    pub enrolment_key: PublicKey,
    /// Key of the TLS certificate, another one.
    pub tls_key: PublicKey,
}

/// Signatures of both keys over `Applicant::signed_text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Possession {
    /// By the enrolment key.
    pub enrolment: Signature,
    /// By the TLS key.
    pub tls: Signature,
}

/// A one-time secret: 128 random bits, so that it can be kept as a salted digest without being
/// guessed from it.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Applicant {
    /// What both keys sign.
    pub fn signed_text(&self) -> Bytes {
        let mut w = Writer::with_capacity(256);
        w.string("obelisk enrolment 1");
        w.string(&self.organisation);
        w.string(self.role.name());
        w.string(&self.name);
        self.enrolment_key.encode(&mut w);
        self.tls_key.encode(&mut w);
        w.finish()
    }

    /// Proves possession of both keys.
    pub fn sign(
        &self,
        enrolment: &Arc<dyn SigningKey>,
        tls: &Arc<dyn SigningKey>,
    ) -> Result<Possession, CryptoError> {
        let text = self.signed_text();
        Ok(Possession { enrolment: enrolment.sign(&text)?, tls: tls.sign(&text)? })
    }

    /// Whether the applicant has both keys, and they are two.
    pub fn has_both_keys(&self, proof: &Possession, crypto: &Crypto) -> bool {
        let text = self.signed_text();
        let signed = |key, signature| crypto.verify(&Check { key, message: &text, signature });
        self.enrolment_key != self.tls_key
            && signed(&self.enrolment_key, &proof.enrolment)
            && signed(&self.tls_key, &proof.tls)
    }
}

impl Secret {
    /// Draws a new one.
    pub fn draw() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(&mut bytes[..])?;
        Ok(Self(Zeroizing::new(hex::encode(&bytes[..]))))
    }

    /// As typed or read from a file: 32 hex digits, with spaces, dashes and line ends between.
    pub fn read(text: &str) -> Option<Self> {
        let plain = |c: &char| !c.is_ascii_whitespace() && *c != '-';
        let digits: String = text.chars().filter(plain).map(|c| c.to_ascii_lowercase()).collect();
        let digits = Zeroizing::new(digits);
        let hex = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (hex && digits.len() == 2 * SECRET_BYTES).then_some(Self(digits))
    }

    /// For the person who hands it on: eight groups of four.
    pub fn shown(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * SECRET_BYTES + 7));
        for (i, c) in self.0.chars().enumerate() {
            if i > 0 && i % 4 == 0 {
                text.push('-');
            }
            text.push(c);
        }
        text
    }

    /// What is kept of it.
    pub fn digest(&self, salt: &[u8]) -> Digest {
        Digest::of(&[b"obelisk enrolment secret 1", salt, self.0.as_bytes()])
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Randomness of a secret.
const SECRET_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::signature::Algorithm;

    fn key(crypto: &Crypto, algorithm: Algorithm) -> Arc<dyn SigningKey> {
        crypto.load(algorithm, &crypto.generate(algorithm).unwrap()).unwrap()
    }

    /// Both signatures are needed, over every field, by two different keys.
    #[test]
    fn possession_of_both_keys_is_proven() {
        let crypto = Crypto::portable();
        let (enrolment, tls) =
            (key(&crypto, Algorithm::Ed25519), key(&crypto, Algorithm::EcdsaP256));
        let applicant = Applicant {
            organisation: "bank".into(),
            role: Role::Client,
            name: "alice".into(),
            enrolment_key: enrolment.public_key().clone(),
            tls_key: tls.public_key().clone(),
        };
        let proof = applicant.sign(&enrolment, &tls).unwrap();
        assert!(applicant.has_both_keys(&proof, &crypto));
        let swapped = Possession { enrolment: proof.tls, tls: proof.enrolment };
        assert!(!applicant.has_both_keys(&swapped, &crypto));
        for other in [
            Applicant { organisation: "shop".into(), ..applicant.clone() },
            Applicant { role: Role::Admin, ..applicant.clone() },
            Applicant { name: "alicf".into(), ..applicant.clone() },
            Applicant {
                tls_key: key(&crypto, Algorithm::EcdsaP256).public_key().clone(),
                ..applicant.clone()
            },
        ] {
            assert!(!other.has_both_keys(&proof, &crypto), "{other:?}");
        }
        let one = Applicant { enrolment_key: tls.public_key().clone(), ..applicant };
        let proof = one.sign(&tls, &tls).unwrap();
        assert!(!one.has_both_keys(&proof, &crypto));
    }

    /// A secret survives being shown, typed and read; anything else is none.
    #[test]
    fn secrets_are_read_as_shown() {
        let secret = Secret::draw().unwrap();
        let again = Secret::read(&format!("  {}\n", secret.shown().to_uppercase())).unwrap();
        assert_eq!(again.digest(b"salt"), secret.digest(b"salt"));
        assert_ne!(again.digest(b"pepper"), secret.digest(b"salt"));
        for bad in ["", "12", "zz".repeat(16).as_str(), "0".repeat(33).as_str()] {
            assert!(Secret::read(bad).is_none(), "{bad}");
        }
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
