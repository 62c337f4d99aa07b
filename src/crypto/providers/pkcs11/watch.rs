//! The watch over one token: looks whether it is there, and finds the keys that are wanted of it.
//!
//! ```text
//! start        a look; whoever wants a key waits for what it found, boundedly
//! each 15 s    the login's session is asked for its state; a dead one is opened anew
//! away         each 5 s: a session, else the module initialised anew and a session
//! there        keys that were not seen since the start are found, audited, compared: then used
//! ```
//!
//! The looks run in a thread of their own, since a call into a module may never return: the start
//! then goes on, or is refused, without it. The module is left alone while another of its tokens
//! works; where that one fails, its ladder initialises the module and shows both anew.
//!
//! Fails closed: a key is not used before this process has seen it on that token, with attributes
//! that keep it safe and with the public half that all its places share.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crossbeam_channel::Receiver;
use crossbeam_channel::RecvTimeoutError;
use cryptoki::session::Session;

use crate::crypto::PROVIDERS;
use crate::crypto::prepared::PreparedKey;
use crate::crypto::providers::pkcs11::KeySelect;
use crate::crypto::providers::pkcs11::error::Fault;
use crate::crypto::providers::pkcs11::error::TokenError;
use crate::crypto::providers::pkcs11::error::typed;
use crate::crypto::providers::pkcs11::module::GateError;
use crate::crypto::providers::pkcs11::object;
use crate::crypto::providers::pkcs11::pool::Target;
use crate::crypto::providers::pkcs11::presence::Presence;
use crate::crypto::providers::pkcs11::token::Token;
use crate::types::limits;
use crate::types::signature::PublicKey;

/// A key that is wanted of a token.
pub(super) struct Wanted {
    select: KeySelect,
    /// The public half, the same at all places of the key; known once one of them was seen.
    public: Arc<OnceLock<PublicKey>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Present once the key was seen: it may sign.
    target: Option<Arc<Target>>,
    /// Why it was not seen at the last look.
    trouble: Option<TokenError>,
}

/// The thread's view of a token.
pub(super) struct Watch {
    pub token: Arc<Token>,
    pub presence: Arc<Presence>,
    pub wanted: Arc<Mutex<Vec<Arc<Wanted>>>>,
}

impl Wanted {
    pub(super) fn new(select: KeySelect, public: Arc<OnceLock<PublicKey>>) -> Self {
        Self { select, public, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn select(&self) -> &KeySelect {
        &self.select
    }

    /// The key as workers use it, or why it is not used.
    pub(super) fn target(&self) -> Result<Arc<Target>, Option<TokenError>> {
        let state = self.lock();
        state.target.clone().ok_or_else(|| state.trouble.clone())
    }

    /// Waits for the first look; `None` where there was none by then.
    pub(super) fn first_look(&self, until: Instant) -> Option<Result<(), TokenError>> {
        let mut state = self.lock();
        loop {
            if state.target.is_some() {
                return Some(Ok(()));
            }
            if let Some(trouble) = &state.trouble {
                return Some(Err(trouble.clone()));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn is_open(&self) -> bool {
        self.lock().target.is_none()
    }

    /// Keeps what a look found. Where the token is not `there`, that was told already.
    fn settle(&self, token: &str, found: Result<Arc<Target>, TokenError>, there: bool) {
        let mut state = self.lock();
        let select = self.select.to_string();
        match found {
            Ok(target) => {
                if state.trouble.take().is_some() {
                    tracing::warn!(token, key = select, "a key was found and is used from now on");
                }
                state.target = Some(target);
            }
            Err(error) => {
                let reason = error.to_string();
                let before = state.trouble.as_ref().map(ToString::to_string);
                if there && before.as_ref() != Some(&reason) {
                    tracing::error!(token, key = select, reason, "a key is not used");
                }
                state.trouble = Some(error);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Looks until nobody holds the other end of `calls` any more; a call brings the next look.
    pub(super) fn run(&self, calls: &Receiver<()>) {
        loop {
            self.presence.looks();
            let there = self.look_for_room();
            self.presence.looked(&there);
            self.token.module.works_for(&self.token.config.name, there.is_ok());
            let mut open = false;
            for wanted in self.wanted().into_iter().filter(|wanted| wanted.is_open()) {
                let found = there.clone().and_then(|()| self.find(&wanted));
                open |= found.is_err();
                wanted.settle(&self.token.config.name, found, there.is_ok());
            }
            self.presence.rests();
            let pause = if there.is_ok() && !open { IDLE } else { AWAY };
            match calls.recv_timeout(pause) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Looks, and where a key is not found yet, waits for a session: those of a process that has just
    /// ended may live a little longer than it.
    fn look_for_room(&self) -> Result<(), TokenError> {
        let until = Instant::now() + Duration::from_millis(limits::TOKEN_START_MS);
        loop {
            let found = self.look();
            let full = matches!(&found, Err(TokenError::Full { .. }));
            let open = self.wanted().iter().any(|wanted| wanted.is_open());
            if !full || !open || Instant::now() >= until {
                return found;
            }
            std::thread::sleep(FULL_PAUSE);
        }
    }

    fn look(&self) -> Result<(), TokenError> {
        let (generation, found) = self.ask();
        let module = &self.token.module;
        let shown_anew = matches!(&found, Err(error) if error.is_of_the_module());
        if !shown_anew || module.works_for_others(&self.token.config.name) {
            return found;
        }
        // What is not shown may be shown once the module is initialised anew.
        match module.reinitialise(generation, Instant::now() + REINITIALISE) {
            Ok(()) => self.ask().1,
            Err(GateError::Resting) => found,
            Err(error) => Err(error.typed(&self.token)),
        }
    }

    /// Whether the token answers, and in which generation of its module that was asked.
    fn ask(&self) -> (u64, Result<(), TokenError>) {
        let module = &self.token.module;
        // Another token of the module may be the one that initialises it, slowly.
        match module.enter(Instant::now() + Duration::from_millis(limits::TOKEN_START_MS)) {
            Ok(inside) => {
                let checked = self.token.check(&inside);
                let name = &self.token.config.name;
                (inside.generation, checked.map_err(|fault| typed(fault, name)))
            }
            Err(error) => (module.generation(), Err(error.typed(&self.token))),
        }
    }

    fn find(&self, wanted: &Wanted) -> Result<Arc<Target>, TokenError> {
        let (name, select) = (&self.token.config.name, &wanted.select);
        let found = ask(&self.token, |session| {
            self.token.check_sessions()?;
            let found = object::find(session, name, select)?;
            self.token.check_mechanism(found.public.algorithm())?;
            Ok(found)
        })?;
        object::require_safe(&found, name, select)?;
        if *wanted.public.get_or_init(|| found.public.clone()) != found.public {
            let (token, select) = (name.clone(), select.to_string());
            return Err(TokenError::KeyChanged { token, select });
        }
        let prepared = PreparedKey::new(checker(), &found.public);
        Ok(Arc::new(Target { select: select.clone(), prepared, public: found.public }))
    }

    fn wanted(&self) -> Vec<Arc<Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs a question with a session of its own. A module that fails here is not climbed for: an
/// operator is present, or the next look asks again.
pub(super) fn ask<T>(
    token: &Token,
    question: impl FnOnce(&Session) -> Result<T, Fault>,
) -> Result<T, TokenError> {
    let name = &token.config.name;
    let until = Instant::now() + Duration::from_millis(limits::TOKEN_START_MS);
    let inside = token.module.enter(until).map_err(|error| error.typed(token))?;
    let session = loop {
        match token.session(&inside) {
            // Sessions of a process that has just ended may live a little longer than it.
            Err(Fault::Typed(TokenError::Full { .. })) if Instant::now() < until => {
                std::thread::sleep(FULL_PAUSE);
            }
            session => break session.map_err(|fault| typed(fault, name))?,
        }
    };
    let result = question(&session);
    // Nothing is lost with a session that cannot be closed.
    let _ = session.close();
    result.map_err(|fault| typed(fault, name))
}

/// What checks signatures before they are released: the fastest software there is.
fn checker() -> &'static crate::crypto::Provider {
    crate::crypto::provider("aws-lc").unwrap_or(&PROVIDERS[0])
}

/// Some devices end a session that was idle for 30 s.
const IDLE: Duration = Duration::from_secs(15);
const AWAY: Duration = Duration::from_millis(limits::TOKEN_AWAY_LOOK_MS);
const REINITIALISE: Duration = Duration::from_secs(2);
const FULL_PAUSE: Duration = Duration::from_millis(250);
