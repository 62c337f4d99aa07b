//! aws-lc-rs: the default on x86-64 (best SHA-256, P-256 and Ed25519 assembly).
//!
//! Relied on: `ParsedPublicKey` checks that a P-256 point is on the curve; Ed25519 is checked
//! without the cofactor against the bytes of R, so acceptance implies the rule of `validity`. Keys
//! are wiped by the library when freed.

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::ED25519;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::Ed25519KeyPair;
use aws_lc_rs::signature::ParsedPublicKey;
use aws_lc_rs::signature::VerificationAlgorithm;
use zeroize::Zeroizing;

use crate::crypto::CryptoError;
use crate::crypto::LibraryKey;
use crate::crypto::Provider;
use crate::crypto::keys;
use crate::crypto::keys::Secret;
use crate::crypto::keys::SignFn;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;

/// Name in configuration and output.
pub const NAME: &str = "aws-lc";

/// The row of `PROVIDERS`.
pub const PROVIDER: Provider = Provider {
    name: NAME,
    sha256,
    verify: |check| super::verify_once(prepare, check),
    prepare,
    table: |_| None,
    load: |algorithm, der| keys::load(NAME, algorithm, der, sign_with),
    generate,
};

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let digest = match parts {
        [one] => digest::digest(&digest::SHA256, one),
        _ => {
            let mut context = digest::Context::new(&digest::SHA256);
            for part in parts {
                context.update(part);
            }
            context.finish()
        }
    };
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn prepare(key: &PublicKey) -> Option<LibraryKey> {
    let algorithm: &'static dyn VerificationAlgorithm = match key.algorithm() {
        Algorithm::EcdsaP256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::Ed25519 => &ED25519,
    };
    let key = ParsedPublicKey::new(algorithm, key.as_bytes()).ok()?;
    Some(Box::new(move |message, signature| key.verify_sig(message, &signature.0).is_ok()))
}

fn sign_with(secret: &Secret) -> Result<SignFn, String> {
    let (bytes, public) = (&*secret.bytes, secret.public.as_bytes());
    match secret.algorithm {
        Algorithm::EcdsaP256 => {
            let key = EcdsaKeyPair::from_private_key_and_public_key(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                bytes,
                public,
            )
            .map_err(|e| e.to_string())?;
            Ok(Box::new(move |message| {
                let signature =
                    key.sign(&SystemRandom::new(), message).map_err(|e| e.to_string())?;
                keys::signature_of(signature.as_ref())
            }))
        }
        Algorithm::Ed25519 => {
            let key = Ed25519KeyPair::from_seed_and_public_key(bytes, public)
                .map_err(|e| e.to_string())?;
            Ok(Box::new(move |message| {
                let signature = key.try_sign(message).map_err(|e| e.to_string())?;
                keys::signature_of(signature.as_ref())
            }))
        }
    }
}

fn generate(algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let random = SystemRandom::new();
    let document = match algorithm {
        Algorithm::EcdsaP256 => {
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
        }
        Algorithm::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
    };
    let document = document.map_err(|e| CryptoError::Key {
        algorithm: algorithm.name(),
        reason: format!("{NAME} cannot generate: {e}"),
    })?;
    keys::canonical(algorithm, document.as_ref())
}
