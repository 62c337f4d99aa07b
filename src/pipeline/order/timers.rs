//! Timers of the consensus core: one setting per timer, on the monotonic clock.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::consensus::Timer;

/// Armed timers and their deadlines.
#[derive(Default)]
pub struct Timers(BTreeMap<Timer, Instant>);

impl Timers {
    /// Sets or replaces a timer.
    pub fn arm(&mut self, timer: Timer, after_ms: u64, now: Instant) {
        self.0.insert(timer, now + Duration::from_millis(after_ms));
    }

    /// Forgets a timer.
    pub fn disarm(&mut self, timer: Timer) {
        self.0.remove(&timer);
    }

    /// Takes the earliest timer that is due.
    pub fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let (timer, _) = self.0.iter().filter(|(_, at)| **at <= now).min_by_key(|(_, at)| **at)?;
        let timer = *timer;
        self.0.remove(&timer);
        Some(timer)
    }

    /// Time until the earliest deadline, at most `limit`.
    pub fn until_next(&self, now: Instant, limit: Duration) -> Duration {
        self.0
            .values()
            .map(|at| at.saturating_duration_since(now))
            .min()
            .map_or(limit, |wait| wait.min(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Due timers come earliest first, once; arming again replaces the deadline.
    #[test]
    fn due_timers_come_once_and_arming_replaces() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.arm(Timer::Request, 20, start);
        timers.arm(Timer::Retransmit, 10, start);
        timers.arm(Timer::Request, 30, start);
        assert_eq!(timers.until_next(start, Duration::from_secs(1)), Duration::from_millis(10));
        let later = start + Duration::from_millis(25);
        assert_eq!(timers.take_due(later), Some(Timer::Retransmit));
        assert_eq!(timers.take_due(later), None);
        timers.disarm(Timer::Request);
        assert_eq!(timers.take_due(start + Duration::from_secs(9)), None);
    }
}
