//! The threads that sign with a token: one session each, the ladder, verification before release.
//!
//! ```text
//! job -> bounded queue -> worker: session, handle, C_Sign -> low s -> verify -> answer
//!                            | fault: the next rung (`error`), each once, until the deadline
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
use crossbeam_channel::select;
use cryptoki::error::Error as Pkcs11Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::EddsaParams;
use cryptoki::mechanism::eddsa::EddsaSignatureScheme;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use crate::crypto::keys;
use crate::crypto::prepared::PreparedKey;
use crate::crypto::providers::pkcs11::KeySelect;
use crate::crypto::providers::pkcs11::error::Fault;
use crate::crypto::providers::pkcs11::error::Rung;
use crate::crypto::providers::pkcs11::error::TokenError;
use crate::crypto::providers::pkcs11::error::next_rung;
use crate::crypto::providers::pkcs11::error::typed;
use crate::crypto::providers::pkcs11::module::GateError;
use crate::crypto::providers::pkcs11::module::Inside;
use crate::crypto::providers::pkcs11::object;
use crate::crypto::providers::pkcs11::seats::Seat;
use crate::crypto::providers::pkcs11::seats::Seats;
use crate::crypto::providers::pkcs11::seats::Sessions;
use crate::crypto::providers::pkcs11::token;
use crate::crypto::providers::pkcs11::token::Token;
use crate::crypto::validity;
use crate::types::digest::Digest;
use crate::types::limits;
use crate::types::signature::Algorithm;
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
    /// Number of the next worker.
    next: AtomicU64,
}

struct Shared {
    token: Arc<Token>,
    seats: Arc<Seats>,
    /// Jobs of workers that got no session.
    returned: (Sender<Job>, Receiver<Job>),
    counts: Mutex<Counts>,
    /// Workers that were left behind and have not come back.
    lost: Mutex<BTreeSet<u64>>,
    /// Workers that have not ended.
    living: Mutex<usize>,
    ended: Condvar,
    /// When a fault was last logged: an outage is many faults and one story.
    told: Mutex<Option<Instant>>,
    fatal: Fatal,
}

/// A key of a token, as workers use it.
pub(super) struct Target {
    pub select: KeySelect,
    pub public: PublicKey,
    pub prepared: PreparedKey,
}

struct Job {
    target: Arc<Target>,
    message: Vec<u8>,
    until: Instant,
    /// The worker that took it.
    taken: Arc<Mutex<Option<u64>>>,
    answer: Sender<Result<Signature, TokenError>>,
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
        let shared = Shared { token, seats, returned, counts, lost, living, ended, told, fatal };
        let shared = Arc::new(shared);
        let pool = Self { shared, jobs: Some(jobs), waiting, next: AtomicU64::new(0) };
        for _ in 0..sessions {
            pool.spawn(None)?;
        }
        Ok(pool)
    }

    pub(super) fn token(&self) -> &Token {
        &self.shared.token
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
        if let Some(worker) = *lock(&pending.taken) {
            self.leave_behind(worker);
        }
        Err(TokenError::Late { token: config.name.clone(), ms: config.deadline.as_millis() })
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
        let worker = Worker { number, shared, waiting, desk: None };
        let name = &self.shared.token.config.name;
        *lock(&self.shared.living) += 1;
        let spawned = std::thread::Builder::new().name("token".into()).spawn(move || match probe {
            None => worker.run(),
            Some(seat) => worker.run_probe(seat),
        });
        if spawned.is_err() {
            *lock(&self.shared.living) -= 1;
        }
        spawned.map(drop).map_err(|error| TokenError::Call {
            token: name.clone(),
            reason: format!("no thread for a session: {error}; raise the limit on tasks"),
        })
    }
}

impl Shared {
    fn may_tell(&self) -> bool {
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
        let end = Instant::now() + END_PATIENCE;
        let mut living = lock(&self.shared.living);
        while *living > lock(&self.shared.lost).len() && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            let waited = self.shared.ended.wait_timeout(living, left);
            living = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// One thread.
struct Worker {
    number: u64,
    shared: Arc<Shared>,
    waiting: Receiver<Job>,
    desk: Option<Desk>,
}

/// What became of a job's worker.
enum Served {
    Done,
    /// It ends.
    Left,
}

/// A session and what was found through it.
struct Desk {
    session: Session,
    seat: Seat,
    generation: u64,
    keys: BTreeMap<String, ObjectHandle>,
}

impl Worker {
    fn run(mut self) {
        let (shared, waiting) = (self.shared.clone(), self.waiting.clone());
        loop {
            let job = select! {
                recv(shared.returned.1) -> job => job,
                recv(waiting) -> job => job,
                default(IDLE) => {
                    self.probe();
                    continue;
                }
            };
            // The channel is closed: the pool ends.
            let Ok(job) = job else { break };
            match self.serve(job) {
                Served::Done => {}
                Served::Left => break,
            }
        }
        self.end();
    }

    /// Asks for a session first; without one there is nothing to stay for.
    fn run_probe(mut self, seat: Seat) {
        let shared = self.shared.clone();
        if let Ok(inside) = shared.token.module.enter(Instant::now() + BUSY_PAUSE)
            && let Ok(session) = shared.token.session(&inside)
        {
            let (generation, keys) = (inside.generation, BTreeMap::new());
            self.desk = Some(Desk { session, seat, generation, keys });
        } else {
            shared.seats.probe_failed();
            return self.end();
        }
        let sessions = shared.seats.grown();
        let name = &shared.token.config.name;
        tracing::info!(token = name, size = sessions.size, "the token gives a session more");
        self.run();
    }

    fn end(mut self) {
        self.drop_session();
        *lock(&self.shared.living) -= 1;
        self.shared.ended.notify_all();
    }

    /// Answers a job, or hands it back where there is no session for it.
    fn serve(&mut self, job: Job) -> Served {
        *lock(&job.taken) = Some(self.number);
        let result = match job.until <= Instant::now() {
            true => Err(TokenError::Late {
                token: self.shared.token.config.name.clone(),
                ms: self.shared.token.config.deadline.as_millis(),
            }),
            false => self.climb(&job),
        };
        let given_up = lock(&self.shared.lost).contains(&self.number);
        if matches!(result, Err(TokenError::Full { .. })) && !given_up && self.shared.seats.leave()
        {
            *lock(&job.taken) = None;
            // The queue is as long as the one in front: a full one means that its caller is gone.
            let _ = self.shared.returned.0.try_send(job);
            return Served::Left;
        }
        {
            let mut counts = lock(&self.shared.counts);
            match &result {
                Ok(_) => counts.signed += 1,
                Err(_) => counts.failed += 1,
            }
        }
        // A caller that gave up needs no answer.
        let _ = job.answer.try_send(result);
        match lock(&self.shared.lost).remove(&self.number) {
            // Given up while it was inside: another has its place.
            true => {
                if let Some(desk) = &mut self.desk {
                    desk.seat.given_up = true;
                }
                Served::Left
            }
            false => Served::Done,
        }
    }

    /// Attempts and rungs in turn, until a signature, the top of the ladder or the deadline.
    fn climb(&mut self, job: &Job) -> Result<Signature, TokenError> {
        let mut taken = Vec::new();
        loop {
            let fault = match self.attempt(job) {
                Ok(signature) => {
                    self.shared.token.module.works();
                    return Ok(signature);
                }
                Err(fault) => fault,
            };
            let name = &self.shared.token.config.name;
            // While others have sessions, the job is theirs.
            let full = matches!(fault, Fault::Typed(TokenError::Full { .. }));
            if full && self.shared.seats.others() {
                return Err(typed(fault, name));
            }
            let rung = next_rung(&fault, &taken).filter(|_| Instant::now() < job.until);
            let Some(rung) = rung else { return Err(typed(fault, name)) };
            if self.shared.may_tell() {
                tracing::warn!(token = name, fault = ?fault, rung = rung.name(), "a token failed");
            }
            *lock(&self.shared.counts).rungs.entry(rung.name()).or_default() += 1;
            taken.push(rung);
            self.step(rung, job)?;
        }
    }

    fn step(&mut self, rung: Rung, job: &Job) -> Result<(), TokenError> {
        let shared = self.shared.clone();
        let token = &shared.token;
        match rung {
            Rung::Session => self.drop_session(),
            Rung::Pause => {
                self.drop_session();
                std::thread::sleep(BUSY_PAUSE);
            }
            Rung::Login => {
                let inside = token.module.enter(job.until);
                let _inside = inside.map_err(|error| self.gate(error))?;
                // A login that fails for another reason than the PIN is the module's business.
                if let Err(Fault::Typed(error)) = token.log_in_again() {
                    return Err(error);
                }
                if let Some(desk) = &mut self.desk {
                    desk.keys.clear();
                }
            }
            Rung::Key => {
                if let Some(desk) = &mut self.desk {
                    desk.keys.clear();
                }
            }
            Rung::Module => {
                let seen = self.desk.as_ref().map(|desk| desk.generation);
                let seen = match seen {
                    Some(seen) => seen,
                    None => {
                        let inside = token.module.enter(job.until);
                        inside.map_err(|error| self.gate(error))?.generation
                    }
                };
                // Its handle means nothing after this.
                self.desk = None;
                token.module.reinitialise(seen, job.until).map_err(|error| self.gate(error))?;
            }
        }
        Ok(())
    }

    fn attempt(&mut self, job: &Job) -> Result<Signature, Fault> {
        let shared = self.shared.clone();
        let token = &shared.token;
        let inside = match token.module.enter(job.until) {
            Ok(inside) => inside,
            Err(error) => return Err(self.gate(error).into()),
        };
        if self.desk.as_ref().is_some_and(|desk| desk.generation != inside.generation) {
            self.desk = None;
        }
        let desk = match &mut self.desk {
            Some(desk) => desk,
            None => {
                let (session, seat) = self.open(&inside)?;
                let (generation, keys) = (inside.generation, BTreeMap::new());
                self.desk.insert(Desk { session, seat, generation, keys })
            }
        };
        let target = &job.target;
        let place = target.select.to_string();
        let handle = match desk.keys.get(&place) {
            Some(handle) => *handle,
            None => {
                let name = &token.config.name;
                let found = object::refind(&desk.session, name, &target.select, &target.public);
                let handle = match found {
                    Err(Fault::Typed(TokenError::KeyMissing { .. }))
                        if !token::is_logged_in(&desk.session)? =>
                    {
                        return Err(Fault::LoggedOut);
                    }
                    found => found?,
                };
                desk.keys.insert(place, handle);
                handle
            }
        };
        let bytes = sign(&desk.session, handle, target.public.algorithm(), &job.message)?;
        let mut signature = keys::signature_of(&bytes).map_err(|_| Fault::Wrong)?;
        if target.public.algorithm() == Algorithm::EcdsaP256 {
            validity::normalise_s(&mut signature);
        }
        // A broken device, a wrong handle and a bit flip on the way all end here.
        match target.prepared.verify(&job.message, &signature).valid {
            true => Ok(signature),
            false => Err(Fault::Wrong),
        }
    }

    /// Opens a session in a seat of the pool.
    fn open(&self, inside: &Inside<'_>) -> Result<(Session, Seat), Fault> {
        let (token, seats) = (&self.shared.token, &self.shared.seats);
        let name = &token.config.name;
        let Some(seat) = seats.take() else {
            return Err(TokenError::Full { token: name.clone() }.into());
        };
        match token.session(inside) {
            Err(Fault::Typed(error @ TokenError::Full { .. })) => {
                let Sessions { size, wanted, refused } = seats.refused(seat);
                if self.shared.may_tell() {
                    tracing::warn!(
                        token = name,
                        size,
                        wanted,
                        refused,
                        "fewer sessions than asked"
                    );
                }
                Err(error.into())
            }
            opened => Ok((opened?, seat)),
        }
    }

    /// Keeps idle device sessions alive and notices dead ones before a vote does.
    fn probe(&mut self) {
        let Some(desk) = &self.desk else { return };
        let Ok(inside) = self.shared.token.module.enter(Instant::now() + BUSY_PAUSE) else {
            return;
        };
        let dead = desk.generation != inside.generation || desk.session.get_session_info().is_err();
        drop(inside);
        if dead {
            self.drop_session();
        }
    }

    /// Closes the session, where it is of the module's present generation.
    fn drop_session(&mut self) {
        let Some(desk) = self.desk.take() else { return };
        if let Ok(inside) = self.shared.token.module.enter(Instant::now() + BUSY_PAUSE)
            && inside.generation == desk.generation
        {
            // A dead session cannot be closed; nothing is lost.
            let _ = desk.session.close();
        }
    }

    fn gate(&self, error: GateError) -> TokenError {
        let token = self.shared.token.config.name.clone();
        let path = self.shared.token.module.path().display();
        match error {
            GateError::Resting => {
                let reason = "its module failed and rests before the next attempt".to_owned();
                TokenError::Call { token, reason }
            }
            GateError::Refused(reason) => TokenError::Call { token, reason },
            GateError::Stuck => {
                let reason = format!(
                    "a call into the module {path} does not return, so that it cannot be \
                     initialised anew; only a new process helps"
                );
                (self.shared.fatal)(reason.clone());
                TokenError::Call { token, reason }
            }
        }
    }
}

fn sign(
    session: &Session,
    handle: ObjectHandle,
    algorithm: Algorithm,
    message: &[u8],
) -> Result<Vec<u8>, Pkcs11Error> {
    match algorithm {
        // The digest is ours and has 32 bytes: tokens sign longer ones without a word.
        Algorithm::EcdsaP256 => session.sign(&Mechanism::Ecdsa, handle, &Digest::of(&[message]).0),
        Algorithm::Ed25519 => {
            let pure = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
            session.sign(&pure, handle, message)
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Some devices end a session that was idle for 30 s.
const IDLE: Duration = Duration::from_secs(15);
const BUSY_PAUSE: Duration = Duration::from_millis(20);
const TELL_PAUSE: Duration = Duration::from_secs(1);
const END_PATIENCE: Duration = Duration::from_secs(2);
const MARGIN: Duration = Duration::from_millis(50);
