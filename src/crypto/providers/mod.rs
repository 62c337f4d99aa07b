//! The software providers, one file each: what the library does and nothing else. Key files,
//! low-s and the rule of validity are shared (`crypto::keys`, `crypto::validity`).
//!
//! Each file names the library's own checks that the rule relies on; the conformance suite holds
//! all of them to it. `pkcs11` is no software provider: it keeps keys in tokens and signs, nothing
//! else.

use crate::crypto::Check;
use crate::crypto::LibraryKey;
use crate::types::signature::PublicKey;

pub mod portable;

#[cfg(feature = "aws-lc")]
pub mod aws_lc;
#[cfg(feature = "openssl")]
pub mod openssl;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
#[cfg(feature = "ring")]
pub mod ring;

/// One check with a key used once.
fn verify_once(prepare: fn(&PublicKey) -> Option<LibraryKey>, check: &Check<'_>) -> bool {
    prepare(check.key).is_some_and(|key| key(check.message, check.signature))
}
