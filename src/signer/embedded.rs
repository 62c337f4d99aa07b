//! A signer inside the node's process: the slot guard and a software key.
//!
//! Used where no separate signer process runs (`signer = "embedded"`: demo, tests, small
//! installations). Safe to share between threads: the guard works under a lock, signing itself runs
//! outside it.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use crate::crypto::SigningKey;
use crate::signer::SignError;
use crate::signer::SignRequest;
use crate::signer::Signer;
use crate::signer::guard::ClearedToSign;
use crate::signer::guard::GuardError;
use crate::signer::guard::SlotGuard;
use crate::types::ids::ChainId;
use crate::types::ids::SequenceNumber;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// The slot guard with a key of this process.
pub struct EmbeddedSigner {
    guard: Mutex<SlotGuard>,
    key: Arc<dyn SigningKey>,
}

impl EmbeddedSigner {
    /// Joins a guard and its key.
    pub fn new(guard: SlotGuard, key: Arc<dyn SigningKey>) -> Result<Self, SignError> {
        if !guard.is_for(key.public_key()) {
            let reason = "the slot guard was made for another key".to_owned();
            return Err(SignError::Key { reason });
        }
        Ok(Self { guard: Mutex::new(guard), key })
    }

    /// Opens the guard's log at `path`, or makes it where `has_signed` is false: see
    /// `SlotGuard::open_or_create`.
    pub fn start(
        path: &Path,
        chain: ChainId,
        key: Arc<dyn SigningKey>,
        has_signed: bool,
    ) -> Result<Self, GuardError> {
        let guard = SlotGuard::open_or_create(path, chain, key.public_key(), has_signed)?;
        Ok(Self { guard: Mutex::new(guard), key })
    }

    /// What tells the guard's log from others: identity and fencing epoch.
    pub fn guard_identity(&self) -> Result<([u8; 16], u64), SignError> {
        let guard = self.guard.lock().map_err(|_| interrupted())?;
        Ok((guard.identity(), guard.fencing_epoch()))
    }

    /// Why nothing is signed any more, where the guard's log failed: the process must stop.
    pub fn failure(&self) -> Option<String> {
        match self.guard.lock() {
            Ok(guard) => guard.failure().map(str::to_owned),
            Err(_) => Some(interrupted().to_string()),
        }
    }
}

impl Signer for EmbeddedSigner {
    fn sign(&self, requests: &[SignRequest]) -> Vec<Result<Signature, SignError>> {
        let cleared = match self.guard.lock() {
            Ok(mut guard) => guard.clear(requests),
            Err(_) => return requests.iter().map(|_| Err(interrupted())).collect(),
        };
        ClearedToSign::sign_all(cleared, self.key.as_ref())
    }

    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    fn forget_below(&self, sequence: SequenceNumber) -> Result<(), SignError> {
        self.guard.lock().map_err(|_| interrupted())?.forget_below(sequence)
    }
}

/// A thread that panicked inside the guard leaves its memory in an unknown state.
fn interrupted() -> SignError {
    let reason = "a thread stopped inside the guard; stop this process and start again".to_owned();
    SignError::Guard { reason }
}
