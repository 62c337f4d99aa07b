//! Pure Rust: `p256` (RustCrypto), `ed25519-zebra`, `sha2`. In every build, and the reference
//! where two other providers disagree.
//!
//! P-256 here is about five times slower than in assembly: good for tests, other architectures and
//! second opinions. Ed25519 is on a par with the best, and signing is deterministic for both
//! algorithms (RFC 6979, RFC 8032).

use ed25519_zebra::VerificationKey;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::signature::Verifier;
use sha2::Digest;
use zeroize::Zeroizing;

use crate::crypto::LibraryKey;
use crate::crypto::Provider;
use crate::crypto::keys;
use crate::crypto::keys::Secret;
use crate::crypto::keys::SignFn;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// Name in configuration and output.
pub const NAME: &str = "portable";

/// The row of `PROVIDERS`.
pub const PROVIDER: Provider = Provider {
    name: NAME,
    sha256,
    verify: |check| super::verify_once(prepare, check),
    prepare,
    table: |_| None,
    load: |algorithm, der| keys::load(NAME, algorithm, der, sign_with),
    generate: |algorithm| Ok(Secret::random(algorithm)?.to_pkcs8()),
};

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = sha2::Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn prepare(key: &PublicKey) -> Option<LibraryKey> {
    match key.algorithm() {
        Algorithm::EcdsaP256 => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key.as_bytes()).ok()?;
            Some(Box::new(move |message, signature| {
                p256::ecdsa::Signature::from_slice(&signature.0)
                    .is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }))
        }
        Algorithm::Ed25519 => {
            let key = VerificationKey::try_from(key.as_bytes()).ok()?;
            Some(Box::new(move |message, signature| {
                key.verify(&ed25519_zebra::Signature::from_bytes(&signature.0), message).is_ok()
            }))
        }
    }
}

fn sign_with(secret: &Secret) -> Result<SignFn, String> {
    match secret.algorithm {
        Algorithm::EcdsaP256 => {
            let key = p256::ecdsa::SigningKey::from_slice(&*secret.bytes)
                .map_err(|e| format!("not a scalar of P-256: {e}"))?;
            Ok(Box::new(move |message| {
                let signature: p256::ecdsa::Signature =
                    key.try_sign(message).map_err(|e| e.to_string())?;
                keys::signature_of(&signature.to_bytes())
            }))
        }
        Algorithm::Ed25519 => {
            let key = Zeroizing::new(ed25519_zebra::SigningKey::from_bytes(&secret.bytes));
            Ok(Box::new(move |message| Ok(Signature(key.sign(message).to_bytes()))))
        }
    }
}
