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
use sha2::block_api::compress256;

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

/// Texts up to this length are short ones, bytes.
const SHORT_BYTES_MAX: usize = 256;
/// Texts up to this length are of middle size, bytes.
const MIDDLE_BYTES_MAX: usize = 8 * 1024;

static INSTALLED: OnceLock<[HashFn; 3]> = OnceLock::new();

/// Replaces the hash implementation for the life of the process: for short, middle and long texts.
/// Returns false where one was installed before.
pub fn install(hashes: [HashFn; 3]) -> bool {
    INSTALLED.set(hashes).is_ok()
}

impl Digest {
    /// The digest that stands for "nothing": 32 zero bytes.
    pub const ZERO: Self = Self([0; 32]);

    /// SHA-256 of the concatenation of `parts`.
    pub fn of(parts: &[&[u8]]) -> Self {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if let Some([short, middle, long]) = INSTALLED.get() {
            return Self(match len {
                _ if len <= SHORT_BYTES_MAX => short(parts),
                _ if len <= MIDDLE_BYTES_MAX => middle(parts),
                _ => long(parts),
            });
        }
        if len <= TWO_BLOCKS_BYTES_MAX {
            return Self(two_blocks(parts, len));
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

/// SHA-256 of at most two blocks, padded in place (FIPS 180-4, 5.1.1): tree nodes and leaves are
/// that short, and this takes a third less time than the streaming interface.
fn two_blocks(parts: &[&[u8]], len: usize) -> [u8; 32] {
    let mut blocks = [[0; BLOCK_BYTES]; 2];
    let bytes = blocks.as_flattened_mut();
    let mut at = 0;
    for part in parts {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    bytes[len] = 0x80;
    let count = if len < BLOCK_BYTES - 8 { 1 } else { 2 };
    let end = count * BLOCK_BYTES;
    bytes[end - 8..end].copy_from_slice(&(8 * len as u64).to_be_bytes());
    let mut state = INITIAL_STATE;
    compress256(&mut state, &blocks[..count]);
    let mut digest = [0; 32];
    for (out, word) in digest.chunks_exact_mut(4).zip(state) {
        out.copy_from_slice(&word.to_be_bytes());
    }
    digest
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

const BLOCK_BYTES: usize = 64;
/// Two blocks without the padding's first byte and length.
const TWO_BLOCKS_BYTES_MAX: usize = 2 * BLOCK_BYTES - 9;
/// FIPS 180-4, 5.3.3.
const INITIAL_STATE: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length up to three blocks, in one part or several, has the digest of the streaming
    /// interface.
    #[test]
    fn short_inputs_have_the_same_digest() {
        let bytes: Vec<u8> = (0..200).collect();
        for len in 0..bytes.len() {
            let want: [u8; 32] = Sha256::digest(&bytes[..len]).into();
            assert_eq!(Digest::of(&[&bytes[..len]]).0, want, "{len}");
            let (a, b) = bytes[..len].split_at(len / 3);
            assert_eq!(Digest::of(&[a, &[], b]).0, want, "{len}");
        }
    }
}
