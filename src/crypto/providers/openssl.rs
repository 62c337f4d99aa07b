//! OpenSSL 3 of the system: the default on s390x (CPACF: SHA-256, ECDSA, Ed25519) and Power
//! (in-core vector instructions), where the other libraries are plain C or Rust.
//!
//! Relied on: `EcPoint::from_bytes` checks the curve equation; Ed25519 is checked without the
//! cofactor against the bytes of R. P-256 goes through the key object directly, since the fetching
//! of a method by name in the EVP interface costs about as much as hashing a transaction. Keys are
//! wiped by the library when freed.
//!
//! Tables of a public key: OpenSSL multiplies the base point of a group by a table of its multiples,
//! and computes such a table for any base point one gives it. It has them where its P-256 is the one
//! for 64-bit words in assembly (x86-64, arm64, Power); the one for s390x does without, and says so.

use std::ffi::CStr;
use std::ffi::c_int;

use foreign_types::ForeignTypeRef;
use openssl::bn::BigNum;
use openssl::bn::BigNumContext;
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
use crate::crypto::KeyTable;
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
    table,
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
    let mut context = BigNumContext::new()?;
    let point = EcPoint::from_bytes(&group, bytes, &mut context)?;
    EcKey::from_public_key(&group, &point)
}

/// The key as the base point of a group of its own, with the table of its multiples.
fn table(key: &PublicKey) -> Option<KeyTable> {
    if key.algorithm() != Algorithm::EcdsaP256 {
        return None;
    }
    let base = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).ok()?;
    let own = group_of(key.as_bytes()).ok().flatten()?;
    Some(Box::new(move |first, second| sum(&base, first, &own, second).ok()))
}

/// P-256 with the key as its base point; `None` where the library keeps no tables.
fn group_of(key: &[u8]) -> Result<Option<EcGroup>, ErrorStack> {
    let mut group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let (mut context, mut order) = (BigNumContext::new()?, BigNum::new()?);
    let point = EcPoint::from_bytes(&group, key, &mut context)?;
    group.order(&mut order, &mut context)?;
    group.set_generator(point, order, BigNum::from_u32(1)?)?;
    // SAFETY: both pointers are to live objects of the library's own types; the group is not shared
    // yet.
    let done = unsafe { EC_GROUP_precompute_mult(group.as_ptr(), context.as_ptr()) };
    if done != 1 {
        return Err(ErrorStack::get());
    }
    // SAFETY: as above; the call only reads.
    let there = unsafe { EC_GROUP_have_precompute_mult(group.as_ptr()) };
    Ok((there == 1).then_some(group))
}

/// The affine x of `[first]G + [second]Q`, Q the base point of `own`. The point at infinity is an
/// error.
fn sum(
    base: &EcGroup,
    first: &[u8; 32],
    own: &EcGroup,
    second: &[u8; 32],
) -> Result<[u8; 32], ErrorStack> {
    let mut context = BigNumContext::new()?;
    let [mut left, mut right, mut sum] =
        [EcPoint::new(base)?, EcPoint::new(base)?, EcPoint::new(base)?];
    left.mul_generator2(base, &*BigNum::from_slice(first)?, &mut context)?;
    right.mul_generator2(own, &*BigNum::from_slice(second)?, &mut context)?;
    sum.add(base, &left, &right, &mut context)?;
    let (mut x, mut y) = (BigNum::new()?, BigNum::new()?);
    sum.affine_coordinates(base, &mut x, &mut y, &mut context)?;
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&x.to_vec_padded(32)?);
    Ok(bytes)
}

// Of libcrypto 3, not in the binding. Deprecated there since 3.0, because its provider interface has
// no tables; declared by every libcrypto 3 that is built with the deprecated interface, as those of
// Debian, Ubuntu, Fedora, RHEL and SLES are.
unsafe extern "C" {
    fn EC_GROUP_precompute_mult(
        group: *mut openssl_sys::EC_GROUP,
        context: *mut openssl_sys::BN_CTX,
    ) -> c_int;
    fn EC_GROUP_have_precompute_mult(group: *const openssl_sys::EC_GROUP) -> c_int;
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
