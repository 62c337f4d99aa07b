//! Public keys and signatures as bytes; who computes and checks them is `crypto`'s business.
//!
//! Both algorithms use 64-byte signatures: ECDSA P-256 as `r || s` (FIPS 186-5, low `s` required,
//! each 32 bytes big-endian), Ed25519 as in RFC 8032. A P-256 public key is the 65-byte
//! uncompressed point (SEC 1, 2.3.3), an Ed25519 one its 32 bytes.

use std::fmt;

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;

/// Signature algorithms of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// ECDSA over P-256 with SHA-256: HSMs and X.509.
    EcdsaP256,
    /// Ed25519 (pure), verifiable in batches.
    Ed25519,
}

impl Algorithm {
    /// All algorithms, for tables and tests.
    pub const ALL: [Self; 2] = [Self::EcdsaP256, Self::Ed25519];

    /// The name used in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "p256",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The algorithm of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// Length of a public key, bytes.
    pub fn public_key_len(self) -> usize {
        match self {
            Self::EcdsaP256 => 65,
            Self::Ed25519 => 32,
        }
    }
}

/// A public key. Only its length is checked here; the curve point is checked by whoever verifies
/// with it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl PublicKey {
    /// A key of the algorithm's length.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() != algorithm.public_key_len() {
            return Err(DecodeError::Invalid {
                field: "public key",
                reason: "wrong length for its algorithm",
            });
        }
        Ok(Self { algorithm, bytes: bytes.to_vec() })
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), hex::encode(&self.bytes[..8]))
    }
}

impl Encode for PublicKey {
    fn encode(&self, w: &mut Writer) {
        w.u8(match self.algorithm {
            Algorithm::EcdsaP256 => 1,
            Algorithm::Ed25519 => 2,
        });
        w.raw(&self.bytes);
    }
}

impl Decode for PublicKey {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let algorithm = match r.u8("key algorithm")? {
            1 => Algorithm::EcdsaP256,
            2 => Algorithm::Ed25519,
            _ => return Err(DecodeError::Invalid { field: "key algorithm", reason: "unknown" }),
        };
        let bytes = r.raw("public key", algorithm.public_key_len())?;
        Self::new(algorithm, &bytes)
    }
}

/// A signature, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}..)", hex::encode(&self.0[..4]))
    }
}

impl Encode for Signature {
    fn encode(&self, w: &mut Writer) {
        w.raw(&self.0);
    }
}

impl Decode for Signature {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.array("signature").map(Self)
    }
}
