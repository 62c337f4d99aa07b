//! OpenSSL 3 of the system: the default on s390x (CPACF: SHA-256, ECDSA, Ed25519) and Power
//! (in-core vector instructions), where the other libraries are plain C or Rust.
//!
//! Relied on: `EcPoint::from_bytes` checks the curve equation; Ed25519 is checked without the
//! cofactor against the bytes of R. P-256 goes through the key object directly, since the fetching
//! of a method by name in the EVP interface costs about as much as hashing a transaction. Keys are
//! wiped by the library when freed.

use std::ffi::CStr;

use openssl::bn::BigNum;
use openssl::ec::EcGroup;
use openssl::ec::EcKey;
use openssl::ec::EcPoint;
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::Id;
use openssl::pkey::PKey;
use openssl::pkey::Public;
use openssl::sha;
use openssl::sign::Signer;
use openssl::sign::Verifier;
use zeroize::Zeroizing;

use crate::crypto::CryptoError;
use crate::crypto::LibraryKey;
use crate::crypto::Provider;
use crate::crypto::keys;
use crate::crypto::keys::Secret;
use crate::crypto::keys::SignFn;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// Name in configuration and output.
pub const NAME: &str = "openssl";

/// What libcrypto found in the processor, as its own text (`OPENSSL_CPU_INFO`): on IBM Z the query
/// masks of the crypto instructions. Empty where the library does not tell.
pub fn processor() -> String {
    // SAFETY: the call takes any selector and returns null or a string that lives as long as the
    // process.
    let text = unsafe { openssl_sys::OpenSSL_version(OPENSSL_CPU_INFO) };
    if text.is_null() {
        return String::new();
    }
    // SAFETY: checked above; the library ends the string with a zero.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Selector of `OpenSSL_version` (openssl/crypto.h, OpenSSL 3.0).
const OPENSSL_CPU_INFO: i32 = 9;

/// The row of `PROVIDERS`.
pub const PROVIDER: Provider = Provider {
    name: NAME,
    sha256,
    verify: |check| super::verify_once(prepare, check),
    prepare,
    load: |algorithm, der| keys::load(NAME, algorithm, der, sign_with),
    generate,
};

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = sha::Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

fn prepare(key: &PublicKey) -> Option<LibraryKey> {
    match key.algorithm() {
        Algorithm::EcdsaP256 => {
            let key = p256_public(key.as_bytes()).ok()?;
            Some(Box::new(move |message, signature| {
                p256_verify(&key, message, signature).unwrap_or(false)
            }))
        }
        Algorithm::Ed25519 => {
            let key = PKey::public_key_from_raw_bytes(key.as_bytes(), Id::ED25519).ok()?;
            Some(Box::new(move |message, signature| {
                Verifier::new_without_digest(&key)
                    .and_then(|mut v| v.verify_oneshot(&signature.0, message))
                    .unwrap_or(false)
            }))
        }
    }
}

fn p256_public(bytes: &[u8]) -> Result<EcKey<Public>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let mut context = openssl::bn::BigNumContext::new()?;
    let point = EcPoint::from_bytes(&group, bytes, &mut context)?;
    EcKey::from_public_key(&group, &point)
}

fn p256_verify(
    key: &EcKey<Public>,
    message: &[u8],
    signature: &Signature,
) -> Result<bool, ErrorStack> {
    let r = BigNum::from_slice(&signature.0[..32])?;
    let s = BigNum::from_slice(&signature.0[32..])?;
    EcdsaSig::from_private_components(r, s)?.verify(&sha::sha256(message), key)
}

fn sign_with(secret: &Secret) -> Result<SignFn, String> {
    match secret.algorithm {
        Algorithm::EcdsaP256 => {
            let public = p256_public(secret.public.as_bytes()).map_err(|e| e.to_string())?;
            let scalar = BigNum::from_slice(&*secret.bytes).map_err(|e| e.to_string())?;
            let key = EcKey::from_private_components(public.group(), &scalar, public.public_key())
                .map_err(|e| e.to_string())?;
            // A BigNum is not wiped when freed; the key holds its own copy, which is.
            wipe(scalar);
            Ok(Box::new(move |message| {
                let signature =
                    EcdsaSig::sign(&sha::sha256(message), &key).map_err(|e| e.to_string())?;
                let mut bytes = [0; 64];
                let parts = [signature.r(), signature.s()].map(|n| n.to_vec_padded(32));
                for (part, target) in parts.into_iter().zip(bytes.chunks_exact_mut(32)) {
                    target.copy_from_slice(&part.map_err(|e| e.to_string())?);
                }
                Ok(Signature(bytes))
            }))
        }
        Algorithm::Ed25519 => {
            let key = PKey::private_key_from_raw_bytes(&*secret.bytes, Id::ED25519)
                .map_err(|e| e.to_string())?;
            Ok(Box::new(move |message| {
                let mut bytes = [0; 64];
                Signer::new_without_digest(&key)
                    .and_then(|mut signer| signer.sign_oneshot(&mut bytes, message))
                    .map_err(|e| e.to_string())?;
                Ok(Signature(bytes))
            }))
        }
    }
}

/// Overwrites a number before it is freed.
fn wipe(mut number: BigNum) {
    number.clear();
}

fn generate(algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let document = match algorithm {
        Algorithm::EcdsaP256 => EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)
            .and_then(|group| EcKey::generate(&group))
            .and_then(PKey::from_ec_key)
            .and_then(|key| key.private_key_to_pkcs8()),
        Algorithm::Ed25519 => PKey::generate_ed25519().and_then(|key| key.private_key_to_pkcs8()),
    };
    let document = document.map(Zeroizing::new).map_err(|e| CryptoError::Key {
        algorithm: algorithm.name(),
        reason: format!("{NAME} cannot generate: {e}"),
    })?;
    keys::canonical(algorithm, &document)
}
