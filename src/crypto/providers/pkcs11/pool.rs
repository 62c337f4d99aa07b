//! The threads of a token: workers that sign (`worker`), and the watch that looks whether it is there.
//!
//! ```text
//! job -> bounded queue -> worker -> answer
//!                            | no session: the job goes back, to a worker that has one
//! caller waits; nothing by the deadline: the worker is left behind, another takes its place
//! ```
//!
//! A left-behind worker ends by itself when its call returns. Above the limit of them, and where a
//! reinitialisation waits for one in vain, the process must end.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;
use crossbeam_channel::TrySendError;
use crossbeam_channel::bounded;

use crate::crypto::prepared::PreparedKey;
use crate::crypto::providers::pkcs11::KeySelect;
use crate::crypto::providers::pkcs11::error::TokenError;
use crate::crypto::providers::pkcs11::presence::Away;
use crate::crypto::providers::pkcs11::presence::Presence;
use crate::crypto::providers::pkcs11::seats::Seat;
use crate::crypto::providers::pkcs11::seats::Seats;
use crate::crypto::providers::pkcs11::seats::Sessions;
use crate::crypto::providers::pkcs11::token::Token;
use crate::crypto::providers::pkcs11::watch::Wanted;
use crate::crypto::providers::pkcs11::watch::Watch;
use crate::crypto::providers::pkcs11::worker::Worker;
use crate::types::limits;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// Ends the process with a reason: a new one is the last rung.
pub type Fatal = Arc<dyn Fn(String) + Send + Sync>;

/// What a token did, for status and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Signatures released.
    pub signed: u64,
    /// Signatures refused.
    pub failed: u64,
    /// Rungs taken, by name.
    pub rungs: BTreeMap<&'static str, u64>,
    /// Workers left behind.
    pub left_behind: u64,
    /// Sessions, as they are and as configured.
    pub sessions: Sessions,
}

/// The workers of one token.
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// `None` once the pool ends.
    jobs: Option<Sender<Job>>,
    /// For workers that take the place of lost ones.
    waiting: Receiver<Job>,
    /// Calls for the watch, which ends with them; none while no key is wanted.
    watch: Mutex<Option<Sender<()>>>,
    wanted: Arc<Mutex<Vec<Arc<Wanted>>>>,
    /// Number of the next worker.
    next: AtomicU64,
}

pub(super) struct Shared {
    pub(super) token: Arc<Token>,
    pub(super) presence: Arc<Presence>,
    pub(super) seats: Arc<Seats>,
    /// Jobs of workers that got no session.
    pub(super) returned: (Sender<Job>, Receiver<Job>),
    pub(super) counts: Mutex<Counts>,
    /// Workers that were left behind and have not come back.
    pub(super) lost: Mutex<BTreeSet<u64>>,
    /// Workers that have not ended.
    pub(super) living: Mutex<usize>,
    pub(super) ended: Condvar,
    /// When a fault was last logged: an outage is many faults and one story.
    pub(super) told: Mutex<Option<Instant>>,
    pub(super) fatal: Fatal,
}

/// A key of a token, as workers use it.
pub(super) struct Target {
    pub select: KeySelect,
    pub public: PublicKey,
    pub prepared: PreparedKey,
}

pub(super) struct Job {
    pub(super) target: Arc<Target>,
    pub(super) message: Vec<u8>,
    pub(super) until: Instant,
    /// The worker that took it.
    pub(super) taken: Arc<Mutex<Option<u64>>>,
    pub(super) answer: Sender<Result<Signature, TokenError>>,
}

/// A signature that is being made.
pub(super) struct Pending {
    until: Instant,
    taken: Arc<Mutex<Option<u64>>>,
    answer: Receiver<Result<Signature, TokenError>>,
}

impl Pool {
    pub(super) fn start(token: Arc<Token>, fatal: Fatal) -> Result<Self, TokenError> {
        let (jobs, waiting) = bounded(limits::TOKEN_JOBS_MAX);
        let counts = Mutex::default();
        let sessions = token.config.sessions.clamp(1, limits::TOKEN_SESSIONS_MAX);
        let (lost, living, ended) = (Mutex::default(), Mutex::default(), Condvar::new());
        let told = Mutex::default();
        let (seats, returned) = (Seats::new(sessions), bounded(limits::TOKEN_JOBS_MAX));
        let presence = Arc::new(Presence::new(&token.config.name));
        let shared =
            Shared { token, presence, seats, returned, counts, lost, living, ended, told, fatal };
        let (shared, jobs, next) = (Arc::new(shared), Some(jobs), AtomicU64::new(0));
        let (watch, wanted) = (Mutex::default(), Arc::default());
        let pool = Self { shared, jobs, waiting, watch, wanted, next };
        for _ in 0..sessions {
            pool.spawn(None)?;
        }
        Ok(pool)
    }

    pub(super) fn token(&self) -> &Token {
        &self.shared.token
    }

    /// Has the watch look for a key.
    pub(super) fn want(&self, wanted: Arc<Wanted>) -> Result<(), TokenError> {
        lock(&self.wanted).push(wanted);
        let mut watch = lock(&self.watch);
        if let Some(calls) = &*watch {
            // A call that waits already is as good.
            let _ = calls.try_send(());
            return Ok(());
        }
        let (calls, called) = bounded(1);
        let shared = self.shared.clone();
        let (token, presence) = (shared.token.clone(), shared.presence.clone());
        let looks = Watch { token, presence, wanted: self.wanted.clone() };
        self.thread("token watch", move || {
            looks.run(&called);
            shared.leave();
        })?;
        *watch = Some(calls);
        Ok(())
    }

    /// Since when the token is away, and why.
    pub(super) fn away(&self) -> Option<Away> {
        let presence = &self.shared.presence;
        if presence.turn_takes() >= Duration::from_millis(limits::TOKEN_HANG_MS_MAX) {
            let module = self.shared.token.module.path().display();
            (self.shared.fatal)(format!(
                "a call into the module {module} has not returned for {} minutes; only a new \
                 process helps",
                limits::TOKEN_HANG_MS_MAX / 60_000
            ));
        }
        presence.away()
    }

    pub(super) fn fatal(&self) -> &Fatal {
        &self.shared.fatal
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { sessions: self.shared.seats.sessions(), ..lock(&self.shared.counts).clone() }
    }

    /// Hands a message to the workers.
    pub(super) fn begin(
        &self,
        target: &Arc<Target>,
        message: &[u8],
    ) -> Result<Pending, TokenError> {
        let name = || self.shared.token.config.name.clone();
        if let Some(stopped) = self.shared.token.stopped() {
            return Err(stopped);
        }
        // A worker would only hang behind the watch, and end the process.
        if self.shared.presence.looking_for() > self.shared.token.config.deadline {
            let reason = "a call into its module does not return".to_owned();
            return Err(TokenError::Call { token: name(), reason });
        }
        if self.shared.seats.probe_is_due()
            && let Err(error) = self.spawn(Some(self.shared.seats.take_probe()))
        {
            tracing::warn!(%error, "a session more is not asked for");
        }
        let until = Instant::now() + self.shared.token.config.deadline;
        let (sender, answer) = bounded(1);
        let taken = Arc::new(Mutex::new(None));
        let job = Job {
            target: target.clone(),
            message: message.to_vec(),
            until,
            taken: taken.clone(),
            answer: sender,
        };
        let Some(jobs) = &self.jobs else {
            let reason = "it was closed".to_owned();
            return Err(TokenError::Call { token: name(), reason });
        };
        match jobs.try_send(job) {
            Ok(()) => Ok(Pending { until, taken, answer }),
            Err(TrySendError::Full(_)) => Err(TokenError::Busy { token: name() }),
            Err(TrySendError::Disconnected(_)) => {
                let reason = "none of its threads is left".to_owned();
                Err(TokenError::Call { token: name(), reason })
            }
        }
    }

    /// Waits for a signature.
    pub(super) fn finish(&self, pending: &Pending) -> Result<Signature, TokenError> {
        if let Ok(answer) = pending.answer.recv_deadline(pending.until + MARGIN) {
            return answer;
        }
        let config = &self.shared.token.config;
        let late = TokenError::Late { token: config.name.clone(), ms: config.deadline.as_millis() };
        if let Some(worker) = *lock(&pending.taken) {
            self.leave_behind(worker);
            self.shared.presence.did_not_sign(&late);
        }
        Err(late)
    }

    /// Gives a worker up that does not come back from the module.
    fn leave_behind(&self, worker: u64) {
        let shared = &self.shared;
        let count = {
            let mut lost = lock(&shared.lost);
            if !lost.insert(worker) {
                return;
            }
            lost.len()
        };
        lock(&shared.counts).left_behind += 1;
        shared.seats.lost();
        let name = &shared.token.config.name;
        tracing::error!(token = name, count, "a call into the module does not return");
        if count > limits::TOKEN_WORKERS_LOST_MAX {
            let module = shared.token.module.path().display();
            (shared.fatal)(format!(
                "{count} calls into the module {module} of token {name} did not return; only a new \
                 process helps"
            ));
        }
        if let Err(error) = self.spawn(None) {
            tracing::error!(%error, "a lost session is not replaced");
        }
    }

    /// Starts a worker; with a seat it is a probe, which opens its session before anything else.
    fn spawn(&self, probe: Option<Seat>) -> Result<(), TokenError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (shared, waiting) = (self.shared.clone(), self.waiting.clone());
        let worker = Worker::new(number, shared, waiting);
        self.thread("token", move || match probe {
            None => worker.run(),
            Some(seat) => worker.run_probe(seat),
        })
    }

    /// A thread that the pool's end waits for; it says `Shared::leave` last.
    fn thread(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), TokenError> {
        *lock(&self.shared.living) += 1;
        let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
        if spawned.is_err() {
            *lock(&self.shared.living) -= 1;
        }
        spawned.map(drop).map_err(|error| TokenError::Call {
            token: self.shared.token.config.name.clone(),
            reason: format!("no thread for a session: {error}; raise the limit on tasks"),
        })
    }
}

impl Shared {
    /// A thread ends.
    pub(super) fn leave(&self) {
        *lock(&self.living) -= 1;
        self.ended.notify_all();
    }

    pub(super) fn may_tell(&self) -> bool {
        let mut told = lock(&self.told);
        let may = told.is_none_or(|told| told.elapsed() >= TELL_PAUSE);
        if may {
            *told = Some(Instant::now());
        }
        may
    }
}

impl Drop for Pool {
    /// Waits for the workers: a library that is unloaded or finalised under a call crashes.
    fn drop(&mut self) {
        self.jobs = None;
        *lock(&self.watch) = None;
        let end = Instant::now() + END_PATIENCE;
        let mut living = lock(&self.shared.living);
        while *living > lock(&self.shared.lost).len() && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            let waited = self.shared.ended.wait_timeout(living, left);
            living = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const TELL_PAUSE: Duration = Duration::from_secs(1);
const END_PATIENCE: Duration = Duration::from_secs(2);
const MARGIN: Duration = Duration::from_millis(50);
