//! Keys in PKCS#11 tokens: custody, never acceleration.
//!
//! ```text
//! error    every failure, typed; which rung of the ladder an error starts on
//! pin      from a file or a systemd credential; refused once, it is not tried again
//! module   the loaded library: initialised once, finalised only when no call is inside
//! token    one slot: the anchor session that keeps the login, sessions for workers
//! info     what a token says about itself, read without judging it
//! object   key objects: finding, the public point in all its encodings, attributes, making
//! pool     the threads of a token, what they did, and those that do not come back
//! worker   a thread with one session: the ladder, verification before release
//! watch    looks whether a token is there, finds the keys that are wanted of it, again and again
//! presence whether a token is there, and since when not
//! seats    how many sessions a pool has: fewer where the token refuses, more again later
//! key      a `SigningKey`: its token and its standbys
//! ```
//!
//! A call into a module cannot be cancelled. A thread that does not come back within its deadline
//! is left behind and replaced; more of them than the limit end the process, which is why tokens
//! belong into the signer's process. Keys fail closed: no rung leads to a software key.
//!
//! Source: PKCS #11 2.40 and 3.0 (OASIS); binding: `cryptoki` (docs/decisions/0007).

pub mod error;
mod info;
pub mod key;
pub mod module;
pub mod object;
pub mod pin;
mod pool;
mod presence;
mod seats;
pub mod token;
mod watch;
mod worker;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::crypto::providers::pkcs11::pin::PinSource;
use crate::types::limits;

/// Name in messages.
pub const NAME: &str = "pkcs11";

/// A token and how it is used.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// Name in configuration and messages.
    pub name: String,
    /// The vendor's library.
    pub module: PathBuf,
    /// Which of its tokens.
    pub select: Select,
    /// The user PIN.
    pub pin: PinSource,
    /// Sessions that sign in parallel.
    pub sessions: usize,
    /// Time one signature may take, all rungs of the ladder included.
    pub deadline: Duration,
    /// Directory that remembers a refused PIN over restarts.
    pub memory: Option<PathBuf>,
}

/// How a token is told from others of its module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// By its label.
    Label(String),
    /// By its serial number.
    Serial(String),
    /// By the slot's number, where label and serial are not readable.
    Slot(u64),
}

/// How a key is told from others of its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySelect {
    /// CKA_ID.
    pub id: Option<Vec<u8>>,
    /// CKA_LABEL.
    pub label: Option<String>,
    /// A key that was not generated on the token is accepted.
    pub imported: bool,
}

impl TokenConfig {
    /// A token with the usual sessions and deadline.
    pub fn new(name: &str, module: PathBuf, select: Select, pin: PinSource) -> Self {
        Self {
            name: name.to_owned(),
            module,
            select,
            pin,
            sessions: limits::TOKEN_SESSIONS,
            deadline: Duration::from_millis(limits::TOKEN_DEADLINE_MS),
            memory: None,
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => write!(f, "label {label:?}"),
            Self::Serial(serial) => write!(f, "serial {serial:?}"),
            Self::Slot(slot) => write!(f, "slot {slot}"),
        }
    }
}

impl KeySelect {
    /// By CKA_ID.
    pub fn id(id: &[u8]) -> Self {
        Self { id: Some(id.to_vec()), label: None, imported: false }
    }
}

impl fmt::Display for KeySelect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.id, &self.label) {
            (Some(id), None) => write!(f, "id {}", hex::encode(id)),
            (None, Some(label)) => write!(f, "label {label:?}"),
            (Some(id), Some(label)) => write!(f, "id {} and label {label:?}", hex::encode(id)),
            (None, None) => write!(f, "no id and no label"),
        }
    }
}
