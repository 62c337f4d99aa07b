//! Private keys as files: PKCS#8 (RFC 5958) for P-256 (RFC 5915, 5480) and Ed25519 (RFC 8410).
//!
//! One parser and one encoder serve all providers, so a key that one generated loads in every other
//! and each refuses the same damaged files. The parser takes version 1 and 2 documents; where the
//! document carries the public half, it must belong to the secret. The encoder writes the form
//! that the strictest of the libraries reads (P-256 with its public point; Ed25519 version 1).
//!
//! Secrets are wiped when dropped.

use std::sync::Arc;

use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::pkcs8::EncodePrivateKey;
use p256::pkcs8::ObjectIdentifier;
use p256::pkcs8::PrivateKeyInfo;
use zeroize::Zeroizing;

use crate::crypto::CryptoError;
use crate::crypto::SigningKey;
use crate::crypto::validity;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// id-Ed25519 (RFC 8410).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// A private key taken out of its PKCS#8 wrapping.
pub struct Secret {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// P-256: the scalar, big-endian; Ed25519: the seed.
    pub bytes: Zeroizing<[u8; 32]>,
    /// The public half, computed from the secret.
    pub public: PublicKey,
}

impl Secret {
    /// Parses PKCS#8 DER. Errors name the algorithm and what is wrong, never key bytes.
    pub fn parse(algorithm: Algorithm, der: &[u8]) -> Result<Self, CryptoError> {
        let fail = |reason: &str| CryptoError::Key {
            algorithm: algorithm.name(),
            reason: reason.to_string(),
        };
        match algorithm {
            Algorithm::EcdsaP256 => {
                let info = PrivateKeyInfo::try_from(der)
                    .map_err(|e| fail(&format!("expected PKCS#8 DER: {e}")))?;
                let key = p256::SecretKey::try_from(info)
                    .map_err(|e| fail(&format!("expected a P-256 key in PKCS#8: {e}")))?;
                Ok(Self::of_p256(&key))
            }
            Algorithm::Ed25519 => {
                let info = PrivateKeyInfo::try_from(der)
                    .map_err(|e| fail(&format!("expected PKCS#8 DER: {e}")))?;
                if info.algorithm.oid != ED25519 || info.algorithm.parameters.is_some() {
                    return Err(fail("expected an Ed25519 key in PKCS#8"));
                }
                // The secret is an OCTET STRING inside the OCTET STRING (RFC 8410, 7).
                let [4, 32, seed @ ..] = info.private_key else {
                    return Err(fail("the seed is not an octet string of 32 bytes"));
                };
                let seed =
                    <[u8; 32]>::try_from(seed).map_err(|_| fail("the seed is not 32 bytes"))?;
                let secret = Self::of_seed(Zeroizing::new(seed));
                if info.public_key.is_some_and(|public| public != secret.public.as_bytes()) {
                    return Err(fail("the public key in the file belongs to another key"));
                }
                Ok(secret)
            }
        }
    }

    /// An Ed25519 secret from its seed.
    pub fn of_seed(seed: Zeroizing<[u8; 32]>) -> Self {
        let key = Zeroizing::new(ed25519_zebra::SigningKey::from_bytes(&seed));
        let public: [u8; 32] = key.verification_key().into();
        Self {
            algorithm: Algorithm::Ed25519,
            bytes: seed,
            public: PublicKey::new(Algorithm::Ed25519, &public).expect("32 bytes"),
        }
    }

    /// A P-256 secret from a parsed key.
    pub fn of_p256(key: &p256::SecretKey) -> Self {
        let point = key.public_key().to_encoded_point(false);
        Self {
            algorithm: Algorithm::EcdsaP256,
            bytes: Zeroizing::new(key.to_bytes().into()),
            public: PublicKey::new(Algorithm::EcdsaP256, point.as_bytes()).expect("65 bytes"),
        }
    }

    /// A new secret from the system's random numbers.
    pub fn random(algorithm: Algorithm) -> Result<Self, CryptoError> {
        loop {
            let mut bytes = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *bytes).map_err(|e| CryptoError::Key {
                algorithm: algorithm.name(),
                reason: format!("the system gives no random bytes: {e}"),
            })?;
            match algorithm {
                Algorithm::Ed25519 => return Ok(Self::of_seed(bytes)),
                // Zero or n and above: once in 2^32 draws; rejection keeps the choice uniform.
                Algorithm::EcdsaP256 => {
                    if let Ok(key) = p256::SecretKey::from_slice(&*bytes) {
                        return Ok(Self::of_p256(&key));
                    }
                }
            }
        }
    }

    /// Encodes as PKCS#8 DER.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        match self.algorithm {
            Algorithm::EcdsaP256 => {
                let key = p256::SecretKey::from_slice(&*self.bytes).expect("a parsed scalar");
                let document = key.to_pkcs8_der().expect("a fixed-size document encodes");
                document.to_bytes()
            }
            Algorithm::Ed25519 => {
                let mut der = Zeroizing::new(Vec::with_capacity(48));
                der.extend_from_slice(ED25519_PKCS8_V1);
                der.extend_from_slice(&*self.bytes);
                der
            }
        }
    }
}

/// Everything of a version 1 document before the seed.
const ED25519_PKCS8_V1: &[u8] = &[
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// What a library does with a loaded key: 64 bytes or its reason.
pub type SignFn = Box<dyn Fn(&[u8]) -> Result<Signature, String> + Send + Sync>;

/// A `SigningKey` around a library's key: adds what is the same for all.
struct LoadedKey {
    provider: &'static str,
    public: PublicKey,
    sign: SignFn,
}

impl SigningKey for LoadedKey {
    fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError> {
        let mut signature = (self.sign)(message)
            .map_err(|reason| CryptoError::Sign { provider: self.provider, reason })?;
        if self.public.algorithm() == Algorithm::EcdsaP256 {
            validity::normalise_s(&mut signature);
        }
        Ok(signature)
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }
}

/// Loads a key file for a provider; `sign_with` hands the secret to its library.
pub fn load(
    provider: &'static str,
    algorithm: Algorithm,
    der: &[u8],
    sign_with: fn(&Secret) -> Result<SignFn, String>,
) -> Result<Arc<dyn SigningKey>, CryptoError> {
    let secret = Secret::parse(algorithm, der)?;
    let sign = sign_with(&secret)
        .map_err(|reason| CryptoError::Key { algorithm: algorithm.name(), reason })?;
    Ok(Arc::new(LoadedKey { provider, public: secret.public, sign }))
}

/// Brings a document that a library generated into the one form that all of them read.
pub fn canonical(algorithm: Algorithm, der: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    Ok(Secret::parse(algorithm, der)?.to_pkcs8())
}

/// The 64 bytes of a signature that a library returned.
pub fn signature_of(bytes: &[u8]) -> Result<Signature, String> {
    bytes
        .try_into()
        .map(Signature)
        .map_err(|_| format!("it returned {} bytes, expected 64", bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: what is encoded parses to the same key, and one algorithm's file is not the other's.
    #[test]
    fn pkcs8_round_trip() {
        for algorithm in Algorithm::ALL {
            let secret = Secret::random(algorithm).unwrap();
            let der = secret.to_pkcs8();
            let parsed = Secret::parse(algorithm, &der).unwrap();
            assert_eq!(parsed.public, secret.public);
            assert_eq!(*parsed.bytes, *secret.bytes);
            let other = Algorithm::ALL.into_iter().find(|a| *a != algorithm).unwrap();
            assert!(Secret::parse(other, &der).is_err());
        }
    }

    /// Aim: a key file cut at any byte or with trailing bytes is refused with a typed error.
    #[test]
    fn damaged_files_are_refused() {
        for algorithm in Algorithm::ALL {
            let der = Secret::random(algorithm).unwrap().to_pkcs8();
            for len in 0..der.len() {
                assert!(Secret::parse(algorithm, &der[..len]).is_err());
            }
            let mut longer = der.to_vec();
            longer.push(0);
            assert!(Secret::parse(algorithm, &longer).is_err());
        }
    }

    /// Aim: a version 2 document whose public half belongs to another key is refused (RFC 8410,
    /// 10.3 gives the document; one bit of its public key is flipped).
    #[test]
    fn foreign_public_half_is_refused() {
        let mut der = hex::decode(concat!(
            "3051020101300506032b657004220420756434bd5b824753007a138d27abbc14",
            "b5cc786adb78fb62435e6419a2b2e72b8121000faccd81e57de15fa6343a7fbb",
            "43b2b93f28be6435100ae8bd633c6dfee3d198",
        ))
        .unwrap();
        assert!(Secret::parse(Algorithm::Ed25519, &der).is_ok());
        *der.last_mut().unwrap() ^= 1;
        assert!(Secret::parse(Algorithm::Ed25519, &der).is_err());
    }
}
