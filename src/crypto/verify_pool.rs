//! A bounded pool of threads that check groups of signatures.
//!
//! ```text
//! submit(group, done) -------> bulk lane  --+
//!                                           +-> verify-0 .. verify-n take chunks -> done(verdicts)
//! submit_urgent(group, done) -> urgent lane-+
//! ```
//!
//! A group is what its caller wants answered at once, usually a batch of transactions. Threads take
//! chunks of the oldest group until nothing of it is left, so one group is spread over all idle
//! threads and the order of groups is kept. Messages are shared bytes, keys are prepared; a check
//! costs no copy and a chunk one short lock. Whoever finishes the last chunk calls `done`. The
//! urgent lane has its own limit and three turns of four: batches that proposals name do not wait
//! behind new work from clients, and clients are not starved either.
//!
//! Full lane: an error to the caller, nothing is taken. Dropping the pool finishes what was taken
//! and joins the threads. A panic in a callback stops the pool: later submissions are refused,
//! groups still waiting are dropped with their callbacks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::thread::JoinHandle;

use bytes::Bytes;
use nix::sched::CpuSet;
use nix::sched::sched_setaffinity;
use nix::unistd::Pid;

use crate::crypto::prepared::PreparedCheck;
use crate::crypto::prepared::PreparedKey;
use crate::crypto::routing::Crypto;
use crate::crypto::routing::Verdicts;
use crate::types::limits;
use crate::types::signature::Algorithm;
use crate::types::signature::Signature;

/// One signature to check, owned: three reference counts and 64 bytes.
#[derive(Clone, Debug)]
pub struct OwnedCheck {
    /// Key, from `Crypto::key`.
    pub key: Arc<PreparedKey>,
    /// Message.
    pub message: Bytes,
    /// Signature.
    pub signature: Signature,
}

/// Called once with the verdicts of a group, on a pool thread: must be short and must not block.
pub type Done = Box<dyn FnOnce(Verdicts) + Send>;

/// Why a group was not taken, or the pool not started.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The queue is full.
    #[error("busy: {waiting} signature checks are waiting; retry when some are done")]
    Full { waiting: usize },
    /// More checks than the queue can ever hold.
    #[error("a group of {len} checks is above the limit of {limit}; split it")]
    TooLarge { len: usize, limit: usize },
    /// The pool has stopped.
    #[error("the verification pool has stopped; see the log for the cause")]
    Stopped,
    /// The configuration asks for no or too many threads.
    #[error("{threads} verification threads: expected 1 to {limit}")]
    Threads { threads: usize, limit: usize },
    /// The system gives no thread.
    #[error("cannot start verification thread {index}: {reason}")]
    Spawn { index: usize, reason: String },
}

/// How the pool runs. Plain values: the host decides, assembly hands them in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolConfig {
    /// Number of threads.
    pub threads: usize,
    /// Cores to bind to: thread `i` gets `cores[i % len]`. Empty: the system schedules.
    pub cores: Vec<usize>,
}

/// The pool.
pub struct VerifyPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    crypto: Arc<Crypto>,
    threads: usize,
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Urgent, bulk.
    lanes: [Lane; 2],
    /// Chunks taken; says whose turn it is.
    turns: usize,
    closed: bool,
}

#[derive(Default)]
struct Lane {
    /// Groups with chunks that nobody took yet; oldest first.
    groups: VecDeque<Arc<Group>>,
    /// Checks submitted and not yet done.
    waiting: usize,
}

const URGENT: usize = 0;
const BULK: usize = 1;
/// One chunk in this many is a bulk one while both lanes have work.
const BULK_EVERY: usize = 4;

struct Group {
    lane: usize,
    checks: Vec<OwnedCheck>,
    chunk: usize,
    progress: Mutex<Progress>,
}

struct Progress {
    /// Next check that nobody took. Changed only under the queue's lock.
    next: usize,
    /// Checks not yet done.
    remaining: usize,
    invalid: Vec<usize>,
    done: Option<Done>,
}

impl VerifyPool {
    /// Starts the threads `verify-0`, `verify-1`, ...
    pub fn start(crypto: Arc<Crypto>, config: &PoolConfig) -> Result<Self, PoolError> {
        let (threads, limit) = (config.threads, limits::VERIFY_THREADS_MAX);
        if threads == 0 || threads > limit {
            return Err(PoolError::Threads { threads, limit });
        }
        let queue = Mutex::new(Queue::default());
        let shared = Arc::new(Shared { crypto, threads, queue, work: Condvar::new() });
        let mut pool = Self { shared, threads: Vec::with_capacity(threads) };
        for index in 0..threads {
            let shared = pool.shared.clone();
            let core = config.cores.get(index % config.cores.len().max(1)).copied();
            let handle = thread::Builder::new()
                .name(format!("verify-{index}"))
                .spawn(move || {
                    bind(index, core);
                    shared.run();
                })
                .map_err(|e| PoolError::Spawn { index, reason: e.to_string() })?;
            pool.threads.push(handle);
        }
        Ok(pool)
    }

    /// Takes a group; `done` gets its verdicts, in the order of `checks`. An empty group is done
    /// before this returns.
    pub fn submit(&self, checks: Vec<OwnedCheck>, done: Done) -> Result<(), PoolError> {
        self.submit_to(BULK, checks, done)
    }

    /// As `submit`, on the lane that is preferred: what consensus waits for.
    pub fn submit_urgent(&self, checks: Vec<OwnedCheck>, done: Done) -> Result<(), PoolError> {
        self.submit_to(URGENT, checks, done)
    }

    /// Checks submitted and not yet done.
    pub fn waiting(&self) -> usize {
        lock(&self.shared.queue).lanes.iter().map(|lane| lane.waiting).sum()
    }

    /// The providers behind the pool.
    pub fn crypto(&self) -> &Arc<Crypto> {
        &self.shared.crypto
    }

    fn submit_to(&self, lane: usize, checks: Vec<OwnedCheck>, done: Done) -> Result<(), PoolError> {
        let (len, limit) = (checks.len(), limits::VERIFY_QUEUE_CHECKS_MAX);
        if len > limit {
            return Err(PoolError::TooLarge { len, limit });
        }
        if len == 0 {
            done(Verdicts::default());
            return Ok(());
        }
        let chunk = chunk_len(&checks, self.shared.threads);
        let progress = Progress { next: 0, remaining: len, invalid: Vec::new(), done: Some(done) };
        let group = Arc::new(Group { lane, checks, chunk, progress: Mutex::new(progress) });
        let mut queue = lock(&self.shared.queue);
        if queue.closed {
            return Err(PoolError::Stopped);
        }
        let lane = &mut queue.lanes[lane];
        if lane.waiting + len > limit {
            return Err(PoolError::Full { waiting: lane.waiting });
        }
        lane.waiting += len;
        lane.groups.push_back(group);
        drop(queue);
        if len > chunk {
            self.shared.work.notify_all();
        } else {
            self.shared.work.notify_one();
        }
        Ok(())
    }
}

impl Drop for VerifyPool {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.work.notify_all();
        for handle in self.threads.drain(..) {
            // The last owner may be a callback on a pool thread, which cannot join itself.
            if handle.thread().id() != thread::current().id() {
                let _ = handle.join();
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        let _closer = CloseOnPanic(self);
        while let Some((group, from, to)) = self.take() {
            let verdicts = verify_group(&self.crypto, &group.checks[from..to]);
            self.finish(&group, from, &verdicts);
        }
    }

    /// The next chunk of the oldest group of the lane whose turn it is; `None` when closed and
    /// empty.
    fn take(&self) -> Option<(Arc<Group>, usize, usize)> {
        let mut queue = lock(&self.queue);
        loop {
            let first = if queue.turns % BULK_EVERY == BULK_EVERY - 1 { BULK } else { URGENT };
            let with_work = |lane: &usize| !queue.lanes[*lane].groups.is_empty();
            if let Some(lane) = [first, 1 - first].into_iter().find(with_work) {
                queue.turns = queue.turns.wrapping_add(1);
                let lane = &mut queue.lanes[lane];
                let group = lane.groups[0].clone();
                let mut progress = lock(&group.progress);
                let from = progress.next;
                let to = (from + group.chunk).min(group.checks.len());
                progress.next = to;
                drop(progress);
                if to == group.checks.len() {
                    lane.groups.pop_front();
                }
                return Some((group, from, to));
            }
            if queue.closed {
                return None;
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, group: &Group, from: usize, verdicts: &Verdicts) {
        let mut progress = lock(&group.progress);
        progress.invalid.extend(verdicts.invalid().iter().map(|place| from + place));
        progress.remaining -= verdicts.len();
        let last = progress.remaining == 0;
        let invalid = if last { std::mem::take(&mut progress.invalid) } else { Vec::new() };
        let done = if last { progress.done.take() } else { None };
        drop(progress);
        lock(&self.queue).lanes[group.lane].waiting -= verdicts.len();
        if let Some(done) = done {
            done(Verdicts::new(group.checks.len(), invalid));
        }
    }
}

/// Refuses further groups when a callback panicked: a pool with fewer threads than configured must
/// not go unnoticed.
struct CloseOnPanic<'a>(&'a Shared);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut queue = lock(&self.0.queue);
            queue.closed = true;
            // Their callers see their callbacks dropped instead of waiting for ever.
            let unanswered = queue.lanes.each_mut().map(|lane| std::mem::take(&mut lane.groups));
            drop(queue);
            drop(unanswered);
            tracing::error!("a verification thread panicked; the pool takes no more groups");
        }
    }
}

/// Checks a group in the calling thread, for callers without a pool.
pub fn verify_group(crypto: &Crypto, checks: &[OwnedCheck]) -> Verdicts {
    let views: Vec<PreparedCheck<'_>> = checks
        .iter()
        .map(|c| PreparedCheck { key: &c.key, message: &c.message, signature: &c.signature })
        .collect();
    crypto.verify_group(&views)
}

/// Chunks of a group: small for P-256, so that threads finish together; large for Ed25519, whose
/// batches get cheaper per signature with size.
fn chunk_len(checks: &[OwnedCheck], threads: usize) -> usize {
    let ed25519 = checks.iter().filter(|c| c.key.algorithm() == Algorithm::Ed25519).count();
    if 2 * ed25519 >= checks.len() {
        checks.len().div_ceil(threads).clamp(64, 256)
    } else {
        checks.len().div_ceil(4 * threads).clamp(4, 32)
    }
}

/// Binds the calling thread to a core. A refusal costs speed only, so it is logged and ignored.
fn bind(index: usize, core: Option<usize>) {
    let Some(core) = core else {
        return;
    };
    let mut set = CpuSet::new();
    if let Err(reason) = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)) {
        tracing::warn!(thread = index, core, %reason, "verification thread is not on its core");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
