//! ring: a third opinion and a fast P-256.
//!
//! Relied on: every P-256 check begins with the point's curve equation (about 1 us, no heap); its
//! API has no parsed key. Ed25519 is checked without the cofactor against the bytes of R. ring does
//! not wipe private keys in memory, so `auto` never chooses it for signing.

use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::ECDSA_P256_SHA256_FIXED;
use ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use ring::signature::ED25519;
use ring::signature::EcdsaKeyPair;
use ring::signature::Ed25519KeyPair;
use ring::signature::UnparsedPublicKey;
use ring::signature::VerificationAlgorithm;
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
pub const NAME: &str = "ring";

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
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn prepare(key: &PublicKey) -> Option<LibraryKey> {
    let algorithm: &'static dyn VerificationAlgorithm = match key.algorithm() {
        Algorithm::EcdsaP256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::Ed25519 => &ED25519,
    };
    let key = UnparsedPublicKey::new(algorithm, key.as_bytes().to_vec());
    Some(Box::new(move |message, signature| key.verify(message, &signature.0).is_ok()))
}

fn sign_with(secret: &Secret) -> Result<SignFn, String> {
    let (bytes, public) = (&*secret.bytes, secret.public.as_bytes());
    match secret.algorithm {
        Algorithm::EcdsaP256 => {
            let random = SystemRandom::new();
            let key = EcdsaKeyPair::from_private_key_and_public_key(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                bytes,
                public,
                &random,
            )
            .map_err(|e| e.to_string())?;
            Ok(Box::new(move |message| {
                let signature = key.sign(&random, message).map_err(|e| e.to_string())?;
                keys::signature_of(signature.as_ref())
            }))
        }
        Algorithm::Ed25519 => {
            let key = Ed25519KeyPair::from_seed_and_public_key(bytes, public)
                .map_err(|e| e.to_string())?;
            Ok(Box::new(move |message| keys::signature_of(key.sign(message).as_ref())))
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
