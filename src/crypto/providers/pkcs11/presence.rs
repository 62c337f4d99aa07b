//! Whether a token is there: what its signatures and the looks of its watch say about it.
//!
//! ```text
//! a signature failed on every rung   away, until one succeeds, or none failed for a minute and a look
//!                                    of the watch succeeds
//! a look of the watch failed         away, until a look or a signature succeeds
//! a look does not return             away, since it began
//! ```
//!
//! An outage is told once when it begins and once when it ends, however many calls fail in it.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::crypto::providers::pkcs11::error::TokenError;
use crate::types::limits;

/// A token that is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Away {
    /// Since when.
    pub since: Instant,
    /// Why, in words.
    pub reason: String,
}

/// What is known of one token's presence.
pub(super) struct Presence {
    /// Name in messages.
    token: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    away: Option<Away>,
    /// When a signature last failed: a look that succeeds does not say that one would succeed now.
    failed: Option<Instant>,
    /// When the look began that is under way.
    looking: Option<Instant>,
    /// When the watch's turn began that is under way, the search for keys included.
    turn: Option<Instant>,
}

impl Presence {
    pub(super) fn new(token: &str) -> Self {
        Self { token: token.to_owned(), state: Mutex::default() }
    }

    /// A signature failed for good.
    pub(super) fn did_not_sign(&self, error: &TokenError) {
        let mut state = self.lock();
        self.missed(&mut state, error);
        state.failed = Some(Instant::now());
    }

    /// A signature came through.
    pub(super) fn signed(&self) {
        self.returned(&mut self.lock());
    }

    /// A turn of the watch begins, with a look.
    pub(super) fn looks(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        (state.looking, state.turn) = (Some(now), Some(now));
    }

    /// The turn has ended.
    pub(super) fn rests(&self) {
        self.lock().turn = None;
    }

    /// How long the turn takes already that is under way.
    pub(super) fn turn_takes(&self) -> Duration {
        self.lock().turn.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// The look has ended.
    pub(super) fn looked(&self, found: &Result<(), TokenError>) {
        let mut state = self.lock();
        state.looking = None;
        match found {
            Err(error) => self.missed(&mut state, error),
            Ok(()) if state.failed.is_none_or(|failed| failed.elapsed() >= FORGOTTEN) => {
                self.returned(&mut state);
            }
            Ok(()) => {}
        }
    }

    /// Since when the token is away, and why.
    pub(super) fn away(&self) -> Option<Away> {
        let mut state = self.lock();
        if let Some(since) = state.looking
            && since.elapsed() >= ANSWER
            && state.away.is_none()
        {
            let reason = "a call into its module does not return".to_owned();
            tracing::error!(token = self.token, reason, "a token is away");
            state.away = Some(Away { since, reason });
        }
        state.away.clone()
    }

    /// How long the look takes already that is under way.
    pub(super) fn looking_for(&self) -> Duration {
        self.lock().looking.map_or(Duration::ZERO, |began| began.elapsed())
    }

    fn missed(&self, state: &mut State, error: &TokenError) {
        let reason = error.to_string();
        match &mut state.away {
            // The newest reason is the one to mend.
            Some(away) => away.reason = reason,
            None => {
                tracing::error!(token = self.token, reason, "a token is away");
                state.away = Some(Away { since: Instant::now(), reason });
            }
        }
    }

    fn returned(&self, state: &mut State) {
        state.failed = None;
        if let Some(away) = state.away.take() {
            let seconds = away.since.elapsed().as_secs();
            tracing::warn!(token = self.token, seconds, "a token that was away is back");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys that sign votes or certificates are asked again much sooner.
const FORGOTTEN: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_millis(limits::TOKEN_ANSWER_MS);

#[cfg(test)]
mod tests {
    use super::*;

    fn late() -> TokenError {
        TokenError::Late { token: "t".into(), ms: 1 }
    }

    /// Aim: an outage keeps its beginning and takes the newest reason; a look ends one that a look
    /// began, a signature ends any.
    #[test]
    fn an_outage_has_one_beginning_and_the_right_end() {
        let presence = Presence::new("t");
        assert_eq!(presence.away(), None);
        presence.looked(&Err(late()));
        let first = presence.away().unwrap();
        presence.looked(&Err(TokenError::Busy { token: "t".into() }));
        let second = presence.away().unwrap();
        assert_eq!(first.since, second.since);
        assert!(second.reason.contains("too many"), "{second:?}");
        presence.looked(&Ok(()));
        assert_eq!(presence.away(), None);
        presence.did_not_sign(&late());
        presence.looked(&Ok(()));
        assert!(presence.away().is_some(), "it is shown, and does not sign");
        presence.signed();
        assert_eq!(presence.away(), None);
    }
}
