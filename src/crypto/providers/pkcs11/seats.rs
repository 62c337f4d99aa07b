//! How many sessions a pool has: it shrinks to what the token gives and grows again slowly.
//!
//! ```text
//! wanted   as configured                      limit   what the token gave when it last refused
//! open     sessions that workers hold         workers threads in service
//!
//! CKR_SESSION_COUNT: limit = open (one at least); the worker hands its job back and ends, the last
//! one stays and asks again for each job. A probe asks for one session more: the first after
//! `TOKEN_PROBE_MS`, each in vain after twice the pause, `TOKEN_PROBE_MS_MAX` at most.
//! ```

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::types::limits;

/// The places of a pool's sessions.
pub(super) struct Seats {
    state: Mutex<State>,
}

struct State {
    wanted: usize,
    limit: usize,
    open: usize,
    workers: usize,
    /// Refusals of the token.
    refused: u64,
    /// When one session more is asked for, where there are fewer than wanted.
    probe: Instant,
    pause: Duration,
}

/// One session's place; free again when dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    /// Its place was given away: the thread that holds it was left behind.
    pub given_up: bool,
}

/// What status and metrics show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Sessions that sign in parallel.
    pub size: usize,
    /// As configured.
    pub wanted: usize,
    /// Times the token refused another one.
    pub refused: u64,
}

impl Seats {
    /// All as configured, none open.
    pub(super) fn new(wanted: usize) -> Arc<Self> {
        let (probe, pause) = (Instant::now(), FIRST_PROBE);
        let (limit, workers) = (wanted, wanted);
        let state = State { wanted, limit, open: 0, workers, refused: 0, probe, pause };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// A place for a session that is about to be opened; none where the token has no more.
    pub(super) fn take(self: &Arc<Self>) -> Option<Seat> {
        let mut state = self.lock();
        if state.open >= state.limit {
            return None;
        }
        state.open += 1;
        Some(Seat { seats: self.clone(), given_up: false })
    }

    /// The token gave no session for this seat.
    pub(super) fn refused(&self, seat: Seat) -> Sessions {
        drop(seat);
        let mut state = self.lock();
        state.limit = state.open.max(1).min(state.limit);
        state.refused += 1;
        state.probe = Instant::now() + state.pause;
        state.sessions()
    }

    /// Whether a worker without a session may end: one always stays.
    pub(super) fn leave(&self) -> bool {
        let mut state = self.lock();
        let may = state.workers > 1;
        state.workers -= usize::from(may);
        may
    }

    /// Whether another worker is in service.
    pub(super) fn others(&self) -> bool {
        self.lock().workers > 1
    }

    /// A worker was left behind in a call, with its session; another comes in its place.
    pub(super) fn lost(&self) {
        let mut state = self.lock();
        state.open = state.open.saturating_sub(1);
    }

    /// Whether one session more is to be asked for now; the next question is a pause away.
    pub(super) fn probe_is_due(&self) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        if state.limit >= state.wanted || now < state.probe {
            return false;
        }
        state.probe = now + state.pause;
        true
    }

    /// A place beyond the limit, for a probe.
    pub(super) fn take_probe(self: &Arc<Self>) -> Seat {
        self.lock().open += 1;
        Seat { seats: self.clone(), given_up: false }
    }

    /// The probe got its session: the pool is larger by one.
    pub(super) fn grown(&self) -> Sessions {
        let mut state = self.lock();
        state.limit = (state.limit + 1).min(state.wanted);
        state.workers += 1;
        state.pause = FIRST_PROBE;
        state.probe = Instant::now() + state.pause;
        state.sessions()
    }

    /// The probe came back with nothing.
    pub(super) fn probe_failed(&self) {
        let mut state = self.lock();
        state.pause = (state.pause * 2).min(Duration::from_millis(limits::TOKEN_PROBE_MS_MAX));
        state.probe = Instant::now() + state.pause;
    }

    pub(super) fn sessions(&self) -> Sessions {
        self.lock().sessions()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sessions(&self) -> Sessions {
        Sessions { size: self.limit, wanted: self.wanted, refused: self.refused }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.given_up {
            let mut state = self.seats.lock();
            state.open = state.open.saturating_sub(1);
        }
    }
}

const FIRST_PROBE: Duration = Duration::from_millis(limits::TOKEN_PROBE_MS);

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: a refusal shrinks to what is open, the last worker stays, and nothing is asked again
    /// before the pause.
    #[test]
    fn a_refusal_shrinks_to_what_is_there() {
        let seats = Seats::new(4);
        let held: Vec<Seat> = (0..2).map(|_| seats.take().unwrap()).collect();
        let third = seats.take().unwrap();
        assert_eq!(seats.refused(third), Sessions { size: 2, wanted: 4, refused: 1 });
        assert!(seats.take().is_none());
        assert!(!seats.probe_is_due());
        assert_eq!((0..9).filter(|_| seats.leave()).count(), 3);
        drop(held);
        // What was given back may be opened again, no more.
        let held: Vec<Seat> = (0..2).map(|_| seats.take().unwrap()).collect();
        assert!(seats.take().is_none());
        // Nothing at all still leaves one place to ask for.
        drop(held);
        let only = seats.take().unwrap();
        assert_eq!(seats.refused(only).size, 1);
    }

    /// Aim: a probe that succeeds adds one; probes in vain come less and less often, with an end.
    #[test]
    fn probes_grow_one_by_one_and_rest_longer_in_vain() {
        let seats = Seats::new(3);
        let held = seats.take().unwrap();
        let refused = seats.take().unwrap();
        assert_eq!(seats.refused(refused).size, 1);
        for _ in 0..20 {
            drop(seats.take_probe());
            seats.probe_failed();
            let pause = seats.lock().pause.as_millis();
            assert!(pause <= limits::TOKEN_PROBE_MS_MAX.into());
        }
        assert_eq!(seats.lock().pause.as_millis(), limits::TOKEN_PROBE_MS_MAX.into());
        let probe = seats.take_probe();
        assert_eq!(seats.grown().size, 2);
        assert!(seats.take().is_none());
        drop((probe, held));
        let full = Seats::new(2);
        assert!(!full.probe_is_due(), "a pool that has what it wants asks for nothing");
    }

    /// Aim: a session that hangs in a call does not hold a place that its successor needs, and does
    /// not free one twice when it returns.
    #[test]
    fn a_lost_session_is_counted_once() {
        let seats = Seats::new(1);
        let mut hanging = seats.take().unwrap();
        seats.lost();
        let successor = seats.take().unwrap();
        hanging.given_up = true;
        drop(hanging);
        assert!(seats.take().is_none());
        drop(successor);
        assert!(seats.take().is_some());
    }
}
