//! The signer's waiting room: two lanes, consensus before transport, both bounded.
//!
//! A full lane is an answer to the caller, never growth. Transport work may occupy at most half of
//! the workers (at least one), so that a storm of TLS handshakes cannot hold every session of a
//! slow token while a vote waits.

use std::collections::VecDeque;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::types::limits;

/// Whose work comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes and everything about them.
    Consensus,
    /// TLS handshakes.
    Transport,
}

/// The queue between connections and workers.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    transport_workers_max: usize,
}

struct State<T> {
    consensus: VecDeque<T>,
    transport: VecDeque<T>,
    transport_working: usize,
    closed: bool,
}

impl Lane {
    /// The word in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consensus => "consensus",
            Self::Transport => "transport",
        }
    }
}

impl<T> Queue<T> {
    /// A queue served by `workers` threads.
    pub fn new(workers: usize) -> Self {
        let state = State {
            consensus: VecDeque::new(),
            transport: VecDeque::new(),
            transport_working: 0,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            transport_workers_max: (workers / 2).max(1),
        }
    }

    /// Adds work; gives it back where the lane is full or the queue is closed.
    pub fn push(&self, lane: Lane, work: T) -> Result<(), T> {
        let mut state = self.lock();
        let full = state.lane(lane).len() >= limits::SIGNER_QUEUE_MAX;
        if full || state.closed {
            return Err(work);
        }
        state.lane(lane).push_back(work);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The next work, waiting for it; `None` once the queue is closed. Transport work must be
    /// followed by `transport_done`.
    pub fn pop(&self) -> Option<(Lane, T)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(work) = state.consensus.pop_front() {
                return Some((Lane::Consensus, work));
            }
            if state.transport_working < self.transport_workers_max
                && let Some(work) = state.transport.pop_front()
            {
                state.transport_working += 1;
                return Some((Lane::Transport, work));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A worker is through with transport work.
    pub fn transport_done(&self) {
        self.lock().transport_working -= 1;
        self.changed.notify_one();
    }

    /// Waiting work of a lane.
    pub fn depth(&self, lane: Lane) -> usize {
        self.lock().lane(lane).len()
    }

    /// Ends every worker; waiting work is dropped.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.consensus.clear();
        state.transport.clear();
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing inside can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn lane(&mut self, lane: Lane) -> &mut VecDeque<T> {
        match lane {
            Lane::Consensus => &mut self.consensus,
            Lane::Transport => &mut self.transport,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Consensus overtakes transport; transport never takes every worker.
    #[test]
    fn consensus_overtakes_and_transport_leaves_room() {
        let queue = Queue::new(2);
        for n in 0..3 {
            queue.push(Lane::Transport, n).unwrap();
        }
        queue.push(Lane::Consensus, 10).unwrap();
        assert_eq!(queue.pop(), Some((Lane::Consensus, 10)));
        assert_eq!(queue.pop(), Some((Lane::Transport, 0)));
        queue.push(Lane::Consensus, 11).unwrap();
        // One of two workers is at transport work: the other gets consensus work only.
        assert_eq!(queue.pop(), Some((Lane::Consensus, 11)));
        queue.transport_done();
        assert_eq!(queue.pop(), Some((Lane::Transport, 1)));
    }

    /// A full lane gives the work back, the other lane still takes some; closed, none does.
    #[test]
    fn a_full_lane_gives_work_back() {
        let queue = Queue::new(1);
        for n in 0..limits::SIGNER_QUEUE_MAX {
            queue.push(Lane::Transport, n).unwrap();
        }
        assert_eq!(queue.push(Lane::Transport, 7), Err(7));
        queue.push(Lane::Consensus, 1).unwrap();
        queue.close();
        assert_eq!(queue.push(Lane::Consensus, 1), Err(1));
        assert_eq!(queue.pop(), None);
    }
}
