//! SHA-256 digests: the only hash of the ledger (hardware on all three architectures).
//!
//! Hashing is a pure function, so which library computes it never changes a byte. By default the
//! `sha2` crate does; `install` lets the crypto routing put a faster one in its place once, at
//! start (CPACF through OpenSSL on s390x).

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use sha2::Digest as _;
use sha2::Sha256;

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;

/// A SHA-256 digest, 32 bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// Hashes the concatenation of the parts.
pub type HashFn = fn(&[&[u8]]) -> [u8; 32];

static INSTALLED: OnceLock<HashFn> = OnceLock::new();

/// Replaces the hash implementation for the life of the process. Returns false where one was
/// installed before.
pub fn install(hash: HashFn) -> bool {
    INSTALLED.set(hash).is_ok()
}

impl Digest {
    /// The digest that stands for "nothing": 32 zero bytes.
    pub const ZERO: Self = Self([0; 32]);

    /// SHA-256 of the concatenation of `parts`.
    pub fn of(parts: &[&[u8]]) -> Self {
        if let Some(hash) = INSTALLED.get() {
            return Self(hash(parts));
        }
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// The first eight hex digits, for logs.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| {
            format!("expected 64 hex digits, got {} characters", text.chars().count())
        })?;
        Ok(Self(bytes))
    }
}

impl Encode for Digest {
    fn encode(&self, w: &mut Writer) {
        w.raw(&self.0);
    }
}

impl Decode for Digest {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.array("digest").map(Self)
    }
}
