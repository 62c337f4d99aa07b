//! A validator's key under its guard, in this process.
//!
//! ```text
//! requests -> guard (one durable record) -> by mode
//!     direct      the key signs each text
//!     strict      the key signs the root of each bundle of texts
//!     delegated   a session key signs each text; the key signs one session ahead, apart
//! ```
//!
//! Used inside the node where no separate signer process runs (`signer = "embedded"`: demo, tests,
//! small installations; direct alone), and by `obelisk signer` for each of its validators. Safe to
//! share between threads: the guard works under a lock, signing itself runs outside it.
//!
//! In `delegated` a thread of its own has the next session certified as soon as the newest one has
//! begun, so that a token that is away costs nothing until the range ahead is used up as well.

use std::path::Path;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::Weak;
use std::time::Duration;

use crate::crypto::SigningKey;
use crate::signer::SignError;
use crate::signer::SignRequest;
use crate::signer::Signer;
use crate::signer::guard::GuardError;
use crate::signer::guard::SlotGuard;
use crate::signer::guard::cleared;
use crate::signer::guard::cleared::Cleared;
use crate::signer::guard::cleared::ClearedToSign;
use crate::signer::guard::cleared::Signed;
use crate::signer::guard::format::State;
use crate::signer::guard::standing::Answer;
use crate::signer::guard::standing::Opening;
use crate::signer::guard::standing::RecordCall;
use crate::signer::sessions::SessionError;
use crate::signer::sessions::SessionPlan;
use crate::signer::sessions::Sessions;
use crate::types::ids::ChainId;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::signature::PublicKey;
use crate::types::vote_signature::Bound;
use crate::types::vote_signature::VoteSignature;

/// How a validator's key signs votes.
#[derive(Clone)]
pub enum Mode {
    /// Each text.
    Direct,
    /// The roots of bundles of texts.
    Strict,
    /// Session keys, which sign each text.
    Delegated(SessionPlan),
}

/// Why a signer does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its guard.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Its session keys.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The system refused a thread.
    #[error("cannot start the thread that has sessions certified; raise the limit on tasks")]
    Thread(#[source] std::io::Error),
}

/// How a guard stands, for people.
#[derive(Clone, Copy, Debug)]
pub struct GuardState {
    /// See `SlotGuard::create`.
    pub fencing_epoch: u64,
    /// Nothing is signed below it.
    pub floor: SequenceNumber,
    /// The newest sequence number signed for.
    pub newest: SequenceNumber,
    /// Whether it signs, as the log says.
    pub state: State,
    /// Whether it does: it was compared since this process opened it.
    pub signs: bool,
}

/// The slot guard with a key of this process.
pub struct EmbeddedSigner {
    inner: Arc<Inner>,
}

struct Inner {
    chain: ChainId,
    opening: Opening,
    guard: Mutex<SlotGuard>,
    key: Arc<dyn SigningKey>,
    signs: Signs,
}

enum Signs {
    Direct,
    Strict,
    Delegated(Box<Delegated>),
}

/// What the thread that has sessions certified is called for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    None,
    Look,
    End,
}

struct Delegated {
    sessions: Mutex<Sessions>,
    /// Held while the token certifies; never together with the other locks by anyone else.
    certifying: Mutex<()>,
    /// Why the newest session is not certified.
    trouble: Mutex<Option<String>>,
    call: Mutex<Call>,
    wake: Condvar,
}

impl EmbeddedSigner {
    /// Joins a guard and its key, which signs each text itself.
    pub fn new(guard: SlotGuard, key: Arc<dyn SigningKey>) -> Result<Self, SignError> {
        if !guard.is_for(key.public_key()) {
            let reason = "the slot guard was made for another key".to_owned();
            return Err(SignError::Key { reason });
        }
        let (chain, opening) = (guard.chain(), guard.opening());
        let (guard, signs) = (Mutex::new(guard), Signs::Direct);
        let inner = Inner { chain, opening, guard, key, signs };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens the guard's log at `path`, or makes it where `has_signed` is false: see
    /// `SlotGuard::open_or_create`.
    pub fn start(
        mode: Mode,
        path: &Path,
        chain: ChainId,
        key: Arc<dyn SigningKey>,
        has_signed: bool,
    ) -> Result<Self, StartError> {
        let guard = SlotGuard::open_or_create(path, chain, key.public_key(), has_signed)?;
        let signs = match mode {
            Mode::Direct => Signs::Direct,
            Mode::Strict => Signs::Strict,
            Mode::Delegated(plan) => Signs::Delegated(Box::new(Delegated {
                sessions: Mutex::new(Sessions::open(plan, chain, key.as_ref())?),
                certifying: Mutex::default(),
                trouble: Mutex::default(),
                call: Mutex::new(Call::None),
                wake: Condvar::new(),
            })),
        };
        let opening = guard.opening();
        let inner = Arc::new(Inner { chain, opening, guard: Mutex::new(guard), key, signs });
        if matches!(inner.signs, Signs::Delegated(_)) {
            let ahead = Arc::downgrade(&inner);
            std::thread::Builder::new()
                .name("sessions".into())
                .spawn(move || certify_ahead(&ahead))
                .map_err(StartError::Thread)?;
        }
        Ok(Self { inner })
    }

    /// What tells the guard's log from others: identity and fencing epoch.
    pub fn guard_identity(&self) -> Result<([u8; 16], u64), SignError> {
        let guard = self.inner.lock_guard()?;
        Ok((guard.identity(), guard.fencing_epoch()))
    }

    /// How the guard stands, for people.
    pub fn guard_state(&self) -> Result<GuardState, SignError> {
        let guard = self.inner.lock_guard()?;
        Ok(GuardState {
            fencing_epoch: guard.fencing_epoch(),
            floor: guard.floor(),
            newest: guard.newest(),
            state: guard.state(),
            signs: guard.signs(),
        })
    }

    /// Why nothing is signed any more, where the guard's log failed: the process must stop.
    pub fn failure(&self) -> Option<String> {
        match self.inner.lock_guard() {
            Ok(guard) => guard.failure().map(str::to_owned),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Session ranges and whether each is certified; none in other modes.
    pub fn sessions(&self) -> Vec<(SequenceNumber, SequenceNumber, bool)> {
        match &self.inner.signs {
            Signs::Delegated(delegated) => lock(&delegated.sessions).ranges(),
            Signs::Direct | Signs::Strict => Vec::new(),
        }
    }
}

impl Signer for EmbeddedSigner {
    fn sign(&self, requests: &[SignRequest]) -> Signed {
        let cleared = match self.inner.lock_guard() {
            Ok(mut guard) => guard.clear(requests),
            Err(_) => return requests.iter().map(|_| Err(interrupted())).collect(),
        };
        let Inner { chain, key, signs, .. } = &*self.inner;
        match signs {
            Signs::Direct => cleared::sign_each(cleared, key.as_ref()),
            Signs::Strict => cleared::sign_bundles(cleared, chain, key.as_ref()),
            Signs::Delegated(delegated) => self.inner.sign_by_session(delegated, cleared),
        }
    }

    fn public_key(&self) -> &PublicKey {
        self.inner.key.public_key()
    }

    fn bundles(&self) -> bool {
        matches!(self.inner.signs, Signs::Strict)
    }

    fn trouble(&self) -> Option<String> {
        match &self.inner.signs {
            Signs::Delegated(delegated) => lock(&delegated.trouble).clone(),
            Signs::Direct | Signs::Strict => None,
        }
    }

    fn opening(&self) -> Opening {
        self.inner.opening
    }

    fn record(&self, opening: Opening, call: &RecordCall) -> Result<Answer, SignError> {
        let answer = self.inner.lock_guard()?.record(opening, call);
        if let Signs::Delegated(delegated) = &self.inner.signs {
            delegated.call(Call::Look);
        }
        answer
    }

    fn forget_below(&self, sequence: SequenceNumber) -> Result<(), SignError> {
        self.inner.lock_guard()?.forget_below(sequence)
    }
}

impl Inner {
    fn lock_guard(&self) -> Result<MutexGuard<'_, SlotGuard>, SignError> {
        self.guard.lock().map_err(|_| interrupted())
    }

    fn sign_by_session(&self, delegated: &Delegated, cleared: Cleared) -> Signed {
        let signed = cleared
            .into_iter()
            .map(|one| one.and_then(|one| self.sign_in_session(delegated, one)))
            .collect();
        delegated.call(Call::Look);
        signed
    }

    fn sign_in_session(
        &self,
        delegated: &Delegated,
        one: ClearedToSign,
    ) -> Result<VoteSignature, SignError> {
        let bound = one.slot().map_or(Bound::Free, |slot| slot.bound());
        let chosen = || {
            let sessions = lock(&delegated.sessions);
            let session = sessions.signing(bound)?;
            Some((session.certificate.clone()?, session.key.clone()))
        };
        let found = match chosen() {
            Some(found) => Some(found),
            None => {
                let (newest, floor) = {
                    let guard = self.lock_guard()?;
                    (guard.newest(), guard.floor())
                };
                let first = {
                    let sessions = lock(&delegated.sessions);
                    match bound {
                        Bound::Sequence(sequence) => sessions.first_for(sequence, floor),
                        Bound::View | Bound::Free => {
                            sessions.waiting().or_else(|| sessions.first_for(newest, floor))
                        }
                    }
                };
                match (first, one.slot()) {
                    (Some(first), _) => self.certify(delegated, first)?,
                    // Between two sessions, or below them all: no key may sign there any more.
                    (None, Some(slot)) => return Err(SignError::Forgotten { slot, floor }),
                    (None, None) => {}
                }
                chosen()
            }
        };
        let (certificate, key) = found.ok_or_else(|| SignError::Key {
            reason: "no session key is certified for this sequence number".to_owned(),
        })?;
        let signature = one.sign(key.as_ref())?;
        Ok(VoteSignature::Session { certificate, signature })
    }

    /// Has the token certify the session that begins at `first`, or one shortly behind it where the
    /// key for that place was lost.
    fn certify(&self, delegated: &Delegated, first: SequenceNumber) -> Result<(), SignError> {
        let _one_at_a_time = lock(&delegated.certifying);
        let mut first = first;
        for _ in 0..limits::SESSION_ATTEMPTS_MAX {
            {
                let sessions = lock(&delegated.sessions);
                if sessions.signing(Bound::Sequence(first)).is_some() {
                    return Ok(());
                }
            }
            let terms = lock(&delegated.sessions).prepare(first)?;
            let cleared = self.lock_guard()?.clear_session(&terms);
            let cleared = match cleared {
                Ok(cleared) => cleared,
                Err(SignError::Conflict { slot }) => {
                    tracing::warn!(%first, "the session key certified here before is lost");
                    lock(&delegated.sessions).abandon(&terms);
                    first = SequenceNumber(slot.sequence.0 + 1);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // The slow part, outside every lock that signing takes.
            let signature = cleared.sign(self.key.as_ref())?;
            let last = terms.last;
            lock(&delegated.sessions).certify(terms, signature)?;
            tracing::info!(%first, %last, "a session key is certified");
            return Ok(());
        }
        let reason = format!("{} sessions in a row are lost", limits::SESSION_ATTEMPTS_MAX);
        Err(SignError::Key { reason })
    }
}

impl Delegated {
    /// Calls the thread that has sessions certified; its end is never taken back.
    fn call(&self, call: Call) {
        let mut present = lock(&self.call);
        *present = (*present).max(call);
        drop(present);
        self.wake.notify_one();
    }

    /// Waits for a call of at least that kind, or for the pause to end.
    fn wait(&self, least: Call, pause: Duration) -> Call {
        let call = lock(&self.call);
        let waited = self.wake.wait_timeout_while(call, pause, |call| *call < least);
        let (mut call, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::replace(&mut *call, Call::None)
    }
}

/// Certifies the next session whenever the newest one has begun; ends with the signer.
fn certify_ahead(signer: &Weak<Inner>) {
    let mut pause = LOOK_PAUSE;
    loop {
        let Some(inner) = signer.upgrade() else { return };
        let Signs::Delegated(delegated) = &inner.signs else { return };
        let Ok((newest_vote, signs)) =
            inner.lock_guard().map(|guard| (guard.newest(), guard.signs()))
        else {
            return;
        };
        // A session's certificate fills a slot: it waits as votes do.
        let due = if signs {
            let mut sessions = lock(&delegated.sessions);
            sessions.delete_past(newest_vote);
            sessions.next_due(newest_vote)
        } else {
            None
        };
        match due.map(|first| inner.certify(delegated, first)) {
            Some(Err(error)) => {
                let reason = format!("the next session key is not certified: {error}");
                let told = lock(&delegated.trouble).replace(reason.clone());
                if told.as_deref() != Some(&reason) {
                    tracing::error!(reason, "votes go on until the present session ends");
                }
                if delegated.wait(Call::End, pause) == Call::End {
                    return;
                }
                pause = (pause * 2).min(LOOK_PAUSE_MAX);
            }
            Some(Ok(())) => {
                if lock(&delegated.trouble).take().is_some() {
                    tracing::info!("the token certifies sessions again");
                }
                pause = LOOK_PAUSE;
            }
            None if delegated.wait(Call::Look, LOOK_PAUSE_MAX) == Call::End => return,
            None => {}
        }
    }
}

impl Drop for EmbeddedSigner {
    fn drop(&mut self) {
        if let Signs::Delegated(delegated) = &self.inner.signs {
            delegated.call(Call::End);
        }
    }
}

/// A lock whose holders leave nothing half-done behind if they panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A thread that panicked inside the guard leaves its memory in an unknown state.
fn interrupted() -> SignError {
    let reason = "a thread stopped inside the guard; stop this process and start again".to_owned();
    SignError::Guard { reason }
}

const LOOK_PAUSE: Duration = Duration::from_millis(500);
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
