//! What one peer may make this node hold: the bounded queue towards it and the rate taken from it.
//!
//! `Queue` is filled by any thread without blocking and drained by the one writer of a connection.
//! When full, the oldest items make room and are counted: a newer vote or batch is worth more than
//! an older one, and the protocol sends again what was lost. `RateMeter` is a token bucket that
//! never refuses: it says how long to pause, and the pause reaches the sender as back pressure.
//! Invariant: bytes held never exceed the queue's limit; one item larger than the limit is dropped.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use futures_util::task::AtomicWaker;
use prometheus_client::metrics::counter::Counter;

use crate::types::limits;

/// A bounded queue that drops its oldest items when full.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    waker: AtomicWaker,
}

struct State<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    bytes_max: usize,
    dropped: u64,
    /// Counts the drops of all queues together.
    dropped_in_all: Counter,
    closed: bool,
}

impl<T> Queue<T> {
    /// An empty queue that may hold `bytes_max` bytes; drops count in `dropped_in_all` too.
    pub fn new(bytes_max: usize, dropped_in_all: Counter) -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                bytes: 0,
                bytes_max,
                dropped: 0,
                dropped_in_all,
                closed: false,
            }),
            waker: AtomicWaker::new(),
        }
    }

    /// Appends an item that counts as `bytes`; the oldest items make room.
    pub fn push(&self, item: T, bytes: usize) {
        let mut state = self.lock();
        if state.closed {
            state.drop_one();
            return;
        }
        state.items.push_back((item, bytes));
        state.bytes += bytes;
        state.trim();
        drop(state);
        self.waker.wake();
    }

    /// Changes the byte limit; the oldest items make room.
    pub fn set_bytes_max(&self, bytes_max: usize) {
        let mut state = self.lock();
        state.bytes_max = bytes_max;
        state.trim();
    }

    /// Takes items in order, up to `items_max` and about `bytes_max` (at least one). `None` once
    /// the queue is closed and empty. Only one task may poll at a time.
    pub fn poll_take(
        &self,
        cx: &mut Context<'_>,
        items_max: usize,
        bytes_max: usize,
    ) -> Poll<Option<Vec<T>>> {
        if let Some(ready) = self.take(items_max, bytes_max) {
            return Poll::Ready(ready);
        }
        self.waker.register(cx.waker());
        match self.take(items_max, bytes_max) {
            Some(ready) => Poll::Ready(ready),
            None => Poll::Pending,
        }
    }

    /// Ends the queue: what it holds may still be taken, later items are dropped and counted.
    pub fn close(&self) {
        self.lock().closed = true;
        self.waker.wake();
    }

    /// Items dropped since start.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Items held.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take(&self, items_max: usize, bytes_max: usize) -> Option<Option<Vec<T>>> {
        let mut state = self.lock();
        if state.items.is_empty() {
            return state.closed.then_some(None);
        }
        let mut taken = Vec::new();
        let mut total = 0_usize;
        while taken.len() < items_max {
            let Some((_, bytes)) = state.items.front() else { break };
            if !taken.is_empty() && total + *bytes > bytes_max {
                break;
            }
            let (item, bytes) = state.items.pop_front().expect("the front was seen");
            state.bytes -= bytes;
            total += bytes;
            taken.push(item);
        }
        Some(Some(taken))
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl<T> State<T> {
    fn trim(&mut self) {
        while self.bytes > self.bytes_max || self.items.len() > limits::PEER_QUEUE_FRAMES_MAX {
            let Some((_, bytes)) = self.items.pop_front() else { return };
            self.bytes -= bytes;
            self.drop_one();
        }
    }

    fn drop_one(&mut self) {
        self.dropped += 1;
        self.dropped_in_all.inc();
    }
}

/// A token bucket that holds one second of the rate.
#[derive(Debug)]
pub struct RateMeter {
    per_s: u64,
    tokens: f64,
    at: Instant,
}

impl RateMeter {
    /// A full bucket for `per_s` units a second; `per_s` is at least 1.
    pub fn new(per_s: u64, now: Instant) -> Self {
        let per_s = per_s.max(1);
        Self { per_s, tokens: per_s as f64, at: now }
    }

    /// Books `units` and says how long to pause before taking more; zero within the rate.
    pub fn book(&mut self, units: u64, now: Instant) -> Duration {
        let rate = self.per_s as f64;
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + elapsed * rate).min(rate) - units as f64;
        if self.tokens >= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64((-self.tokens / rate).min(PAUSE_S_MAX))
        }
    }
}

/// One pause is never longer than this, seconds; the debt stays booked.
const PAUSE_S_MAX: f64 = 5.0;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn take_all(queue: &Queue<u32>) -> Vec<u32> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match queue.poll_take(&mut cx, usize::MAX, usize::MAX) {
            Poll::Ready(Some(items)) => items,
            _ => Vec::new(),
        }
    }

    /// A full queue keeps the newest items and counts what it dropped.
    #[test]
    fn full_queue_drops_the_oldest() {
        let in_all = Counter::default();
        let queue = Queue::new(100, in_all.clone());
        for i in 0..10 {
            queue.push(i, 30);
        }
        assert_eq!(queue.dropped(), 7);
        assert_eq!(take_all(&queue), [7, 8, 9]);
        for i in 0..limits::PEER_QUEUE_FRAMES_MAX as u32 + 5 {
            queue.push(i, 0);
        }
        assert_eq!((queue.dropped(), in_all.get()), (12, 12));
        assert_eq!(queue.len(), limits::PEER_QUEUE_FRAMES_MAX);
    }

    /// An item above the byte limit is dropped and leaves the queue usable.
    #[test]
    fn oversized_item_is_dropped() {
        let queue = Queue::new(100, Counter::default());
        queue.push(1, 101);
        queue.push(2, 1);
        assert_eq!((queue.dropped(), take_all(&queue)), (1, vec![2]));
    }

    /// Taking stops at the byte budget but always makes progress.
    #[test]
    fn take_respects_the_budget() {
        let queue = Queue::new(1000, Counter::default());
        for (i, bytes) in [(1, 300), (2, 50), (3, 60)] {
            queue.push(i, bytes);
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(queue.poll_take(&mut cx, 10, 100), Poll::Ready(Some(vec![1])));
        assert_eq!(queue.poll_take(&mut cx, 10, 100), Poll::Ready(Some(vec![2])));
        assert_eq!(queue.poll_take(&mut cx, 10, 100), Poll::Ready(Some(vec![3])));
        assert_eq!(queue.poll_take(&mut cx, 10, 100), Poll::Pending);
        queue.push(4, 1);
        queue.push(5, 1);
        assert_eq!(queue.poll_take(&mut cx, 1, 100), Poll::Ready(Some(vec![4])));
    }

    /// A closed queue hands out the rest, then ends; later items count as dropped.
    #[test]
    fn close_ends_the_queue() {
        let queue = Queue::new(100, Counter::default());
        queue.push(1, 1);
        queue.close();
        queue.push(2, 1);
        assert_eq!(queue.dropped(), 1);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(queue.poll_take(&mut cx, 10, 10), Poll::Ready(Some(vec![1])));
        assert_eq!(queue.poll_take(&mut cx, 10, 10), Poll::Ready(None));
    }

    /// A smaller limit for a lost peer trims at once.
    #[test]
    fn smaller_limit_trims() {
        let queue = Queue::new(100, Counter::default());
        for i in 0..10 {
            queue.push(i, 10);
        }
        queue.set_bytes_max(20);
        assert_eq!(take_all(&queue), [8, 9]);
        assert_eq!(queue.dropped(), 8);
    }

    /// A push from another thread wakes the task that waits.
    #[test]
    fn push_wakes_the_taker() {
        let queue = Arc::new(Queue::new(100, Counter::default()));
        let pusher = Arc::clone(&queue);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let taken = runtime.block_on(async {
            let thread = std::thread::spawn(move || pusher.push(7, 1));
            let taken = std::future::poll_fn(|cx| queue.poll_take(cx, 10, 10)).await;
            thread.join().unwrap();
            taken
        });
        assert_eq!(taken, Some(vec![7]));
    }

    /// Within the rate there is no pause; above it the pause makes up for the excess.
    #[test]
    fn rate_meter_pauses_above_the_rate() {
        let start = Instant::now();
        let mut meter = RateMeter::new(1000, start);
        assert_eq!(meter.book(1000, start), Duration::ZERO);
        assert_eq!(meter.book(500, start), Duration::from_millis(500));
        let later = start + Duration::from_secs(10);
        assert_eq!(meter.book(1000, later), Duration::ZERO);
        assert_eq!(meter.book(u64::MAX, later), Duration::from_secs_f64(PAUSE_S_MAX));
    }
}
