//! A signer in another process, asked over its local socket.
//!
//! ```text
//! sign -> bounded queue -> link threads: connect, open the guard, one frame out, one frame in
//! ```
//!
//! One connection, or several where the signer says that the key is slow.
//!
//! Fails closed: without an answer there is no signature. A request waits at most its deadline, the
//! first ones of an outage included, so that a restart of the signer costs latency alone. While the
//! signer stays away, requests fail at once and the link thread keeps trying with growing pauses;
//! the loss and the return are logged once each. An answer that is lost leaves the outcome unknown:
//! the slot stays taken in the guard, and asking again for the same text is always safe.
//!
//! Whoever answers after a loss may be another process with another record. Its guard signs nothing
//! before it was compared (`guard::standing`), which `opening` tells to whoever compares.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crossbeam_channel::Receiver;
use crossbeam_channel::RecvTimeoutError;
use crossbeam_channel::Sender;
use crossbeam_channel::TrySendError;
use crossbeam_channel::bounded;

use crate::crypto::CryptoError;
use crate::crypto::SigningKey;
use crate::signer::SignError;
use crate::signer::SignRequest;
use crate::signer::Signer;
use crate::signer::guard::cleared::Signed;
use crate::signer::guard::standing::Answer;
use crate::signer::guard::standing::Opening;
use crate::signer::guard::standing::RecordCall;
use crate::signer::keyring;
use crate::signer::socket;
use crate::signer::wire;
use crate::signer::wire::Ask;
use crate::signer::wire::Reply;
use crate::signer::wire::Request;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// Where the signer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its socket.
    pub socket: PathBuf,
    /// The user id it runs under.
    pub user: u32,
    /// Time one request may take.
    pub deadline: Duration,
}

/// Why no signer is used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It refused to open the key.
    #[error("the signer at {socket} refused: {reason}")]
    Refused { socket: PathBuf, reason: String },
    /// It did not answer in time.
    #[error("no answer from the signer at {socket} within {seconds} s: {reason}")]
    Absent { socket: PathBuf, seconds: u64, reason: String },
    /// The system refused the link's thread.
    #[error("cannot start the thread of the signer's link; raise the limit on tasks")]
    Thread(#[source] io::Error),
}

/// A validator's key in another process, under its guard.
pub struct RemoteSigner {
    key: PublicKey,
    link: Link,
    /// Why the last text was not signed, where the key was to blame.
    failed: Mutex<Option<String>>,
}

/// A TLS key in another process.
pub struct RemoteKey {
    key: PublicKey,
    link: Link,
}

/// The way to one key.
struct Link {
    name: Digest,
    place: Place,
    jobs: Sender<Job>,
    waiting: Receiver<Job>,
    what: What,
    state: Arc<Mutex<State>>,
}

/// How the link stands, told by its thread.
#[derive(Debug, Default)]
struct State {
    /// Since when there is no connection; `None` while there is one.
    down_since: Option<Instant>,
    reason: String,
    /// The signer answered and said no.
    refused: bool,
    opened: bool,
    /// What the signer said of its key.
    ways: Ways,
    /// The opening of the guard that the newest connection found.
    opening: Opening,
    /// What it said an operator should look at.
    warnings: Vec<String>,
    /// When it was last asked for that.
    warned: Option<Instant>,
}

/// How a key is well asked: `Signer::parallel` and `Signer::bundles`.
#[derive(Clone, Copy, Debug, Default)]
struct Ways {
    parallel: usize,
    bundles: bool,
}

struct Job {
    ask: Ask,
    until: Instant,
    answer: Sender<Result<Reply, String>>,
}

/// What opens the key on every new connection.
#[derive(Clone, Copy)]
enum What {
    Guard { chain: ChainId, has_signed: bool },
    Nothing,
}

impl RemoteSigner {
    /// Opens `key`'s guard in the signer; waits for a signer that is still starting. `has_signed`:
    /// see `SlotGuard::open_or_create`.
    pub fn open(
        place: Place,
        chain: ChainId,
        key: PublicKey,
        has_signed: bool,
    ) -> Result<Self, RemoteError> {
        let link = Link::start(place, &key, What::Guard { chain, has_signed })?;
        link.wait_open(Duration::from_millis(limits::SIGNER_START_MS))?;
        for _ in 1..link.parallel() {
            link.connect_another()?;
        }
        Ok(Self { key, link, failed: Mutex::new(None) })
    }
}

impl Signer for RemoteSigner {
    fn sign(&self, requests: &[SignRequest]) -> Signed {
        if requests.is_empty() {
            return Vec::new();
        }
        let mut signed = Vec::with_capacity(requests.len());
        for lot in lots(requests) {
            let ask = Ask::Sign { key: self.link.name, requests: lot.to_vec() };
            let results = match self.link.ask(ask) {
                Ok(Reply::Signed(results)) if results.len() == lot.len() => results,
                Ok(other) => lot.iter().map(|_| Err(key_error(&unexpected(&other)))).collect(),
                Err(reason) => lot.iter().map(|_| Err(key_error(&reason))).collect(),
            };
            signed.extend(results.into_iter().map(|result| match result {
                // The signer stops over it and comes back; this process has no reason to stop.
                Err(SignError::Guard { reason }) => Err(SignError::Key { reason }),
                result => result,
            }));
        }
        let failed = signed.iter().find_map(|result| match result {
            Err(error @ SignError::Key { .. }) => Some(error.to_string()),
            _ => None,
        });
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        signed
    }

    fn parallel(&self) -> usize {
        self.link.parallel()
    }

    fn bundles(&self) -> bool {
        lock(&self.link.state).ways.bundles
    }

    fn trouble(&self) -> Option<String> {
        let state = lock(&self.link.state);
        let down = state.down_since.is_some().then(|| state.reason.clone());
        drop(state);
        down.or_else(|| self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn warnings(&self) -> Vec<String> {
        lock(&self.link.state).warnings.clone()
    }

    fn public_key(&self) -> &PublicKey {
        &self.key
    }

    fn opening(&self) -> Opening {
        lock(&self.link.state).opening
    }

    fn record(&self, opening: Opening, call: &RecordCall) -> Result<Answer, SignError> {
        let ask = Ask::Record { key: self.link.name, opening, call: call.clone() };
        match self.link.ask(ask) {
            Ok(Reply::Record(answer)) => {
                // What the record refused before it was fenced or settled is past.
                if !matches!(call, RecordCall::Examine(_)) {
                    *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                Ok(answer)
            }
            Ok(other) => Err(key_error(&unexpected(&other))),
            Err(reason) => Err(key_error(&reason)),
        }
    }

    fn forget_below(&self, sequence: SequenceNumber) -> Result<(), SignError> {
        match self.link.ask(Ask::Forget { key: self.link.name, sequence }) {
            Ok(Reply::Forgotten) => Ok(()),
            Ok(other) => Err(key_error(&unexpected(&other))),
            Err(reason) => Err(key_error(&reason)),
        }
    }
}

impl RemoteKey {
    /// A TLS key that the signer holds, tried on a handshake that is nobody's; waits for a signer that
    /// is still starting.
    pub fn open(place: Place, key: PublicKey) -> Result<Self, RemoteError> {
        let socket = place.socket.clone();
        let link = Link::start(place, &key, What::Nothing)?;
        link.wait_open(Duration::from_millis(limits::SIGNER_START_MS))?;
        let key = Self { key, link };
        match key.sign(keyring::HANDSHAKE_START) {
            Ok(_) => Ok(key),
            Err(error) => Err(RemoteError::Refused { socket, reason: error.to_string() }),
        }
    }
}

impl SigningKey for RemoteKey {
    fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError> {
        let text = bytes::Bytes::copy_from_slice(message);
        let failed = |reason| CryptoError::Sign { provider: "signer", reason };
        match self.link.ask(Ask::Transport { key: self.link.name, text }) {
            Ok(Reply::Signature(signature)) => Ok(signature),
            Ok(other) => Err(failed(unexpected(&other))),
            Err(reason) => Err(failed(reason)),
        }
    }

    fn public_key(&self) -> &PublicKey {
        &self.key
    }
}

/// Asks a signer for its status document, JSON.
pub fn status(place: &Place) -> Result<String, RemoteError> {
    let socket = place.socket.clone();
    let absent = |reason: String| {
        let (socket, seconds) = (place.socket.clone(), place.deadline.as_secs());
        RemoteError::Absent { socket, seconds, reason }
    };
    let stream =
        socket::connect(&place.socket, place.user).map_err(|error| absent(error.to_string()))?;
    let reply = exchange(&stream, Ask::Status, place.deadline);
    match reply.map_err(|error| absent(error.to_string()))? {
        Reply::Status(json) => Ok(String::from_utf8_lossy(&json).into_owned()),
        Reply::Refused(reason) => Err(RemoteError::Refused { socket, reason }),
        other => Err(RemoteError::Refused { socket, reason: unexpected(&other) }),
    }
}

impl Link {
    fn start(place: Place, key: &PublicKey, what: What) -> Result<Self, RemoteError> {
        let (jobs, waiting) = bounded(limits::SIGNER_REQUESTS_WAITING_MAX);
        let down = State { down_since: Some(Instant::now()), ..State::default() };
        let state = Arc::new(Mutex::new(down));
        let link = Self { name: wire::name_of(key), place, jobs, waiting, what, state };
        link.connect_another()?;
        Ok(link)
    }

    /// One more connection with a thread of its own; all take from one queue.
    fn connect_another(&self) -> Result<(), RemoteError> {
        let (name, what, waiting) = (self.name, self.what, self.waiting.clone());
        let (place, state) = (self.place.clone(), self.state.clone());
        let found = Opening::default();
        let thread = LinkThread { name, place, what, found, state };
        std::thread::Builder::new()
            .name("signer link".into())
            .spawn(move || thread.run(&waiting))
            .map_err(RemoteError::Thread)?;
        Ok(())
    }

    fn parallel(&self) -> usize {
        lock(&self.state).ways.parallel.clamp(1, limits::SIGNER_PARALLEL_MAX)
    }

    fn wait_open(&self, patience: Duration) -> Result<(), RemoteError> {
        let end = Instant::now() + patience;
        loop {
            let socket = self.place.socket.clone();
            {
                let state = lock(&self.state);
                if state.opened {
                    return Ok(());
                }
                let reason = state.reason.clone();
                if state.refused {
                    return Err(RemoteError::Refused { socket, reason });
                }
                if Instant::now() >= end {
                    let seconds = patience.as_secs();
                    return Err(RemoteError::Absent { socket, seconds, reason });
                }
            }
            std::thread::sleep(FIRST_PAUSE);
        }
    }

    /// One question, one answer, within the deadline.
    fn ask(&self, ask: Ask) -> Result<Reply, String> {
        {
            let state = lock(&self.state);
            if state.down_since.is_some_and(|since| since.elapsed() > self.place.deadline) {
                return Err(state.reason.clone());
            }
        }
        let until = Instant::now() + self.place.deadline;
        let (answer, answered) = bounded(1);
        match self.jobs.try_send(Job { ask, until, answer }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err("too many requests wait for it".to_owned()),
            Err(TrySendError::Disconnected(_)) => return Err("its link has ended".to_owned()),
        }
        // The link thread answers by `until`; the margin covers its own wake-up.
        match answered.recv_deadline(until + MARGIN) {
            Ok(answer) => answer,
            Err(_) => Err("it did not answer in time".to_owned()),
        }
    }
}

/// Owns the connection.
struct LinkThread {
    name: Digest,
    place: Place,
    what: What,
    /// The opening of the guard that this connection found.
    found: Opening,
    state: Arc<Mutex<State>>,
}

impl LinkThread {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut unsent: Option<Job> = None;
        loop {
            let Some(stream) = self.connect(jobs, &mut unsent) else { return };
            loop {
                if self.is_warning_due()
                    && let Err(error) = self.ask_warnings(&stream)
                {
                    self.lost(&error.to_string(), false);
                    break;
                }
                let job = match unsent.take() {
                    Some(job) => job,
                    None => match jobs.recv_timeout(WARNINGS_PAUSE) {
                        Ok(job) => job,
                        Err(RecvTimeoutError::Timeout) => continue,
                        Err(RecvTimeoutError::Disconnected) => return,
                    },
                };
                let left = job.until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    self.tell(&job, Err("its deadline passed".to_owned()));
                    continue;
                }
                // All connections go to the process that was found last.
                if self.found != lock(&self.state).opening {
                    unsent = Some(job);
                    break;
                }
                match exchange(&stream, job.ask.clone(), left) {
                    Ok(Reply::Refused(reason)) => self.tell(&job, Err(reason)),
                    Ok(reply) => self.tell(&job, Ok(reply)),
                    Err(error) => {
                        // Asking again for the same text is safe; the next connection does.
                        self.lost(&error.to_string(), false);
                        unsent = Some(job);
                        break;
                    }
                }
            }
        }
    }

    /// Connects and opens the key, however long it takes; answers requests whose time runs out.
    /// `None` once nobody asks any more.
    fn connect(&mut self, jobs: &Receiver<Job>, unsent: &mut Option<Job>) -> Option<UnixStream> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.attempt() {
                Ok((stream, ways)) => {
                    self.connected(ways);
                    return Some(stream);
                }
                Err((reason, refused)) => self.lost(&reason, refused),
            }
            let end = Instant::now() + pause;
            pause = (pause * 2).min(Duration::from_millis(limits::SIGNER_RECONNECT_MS_MAX));
            loop {
                let expired = unsent.as_ref().is_some_and(|job| job.until <= Instant::now());
                if expired && let Some(job) = unsent.take() {
                    self.tell(&job, Err(lock(&self.state).reason.clone()));
                }
                let wake = unsent.as_ref().map_or(end, |job| job.until.min(end));
                if Instant::now() >= end {
                    break;
                }
                if unsent.is_some() {
                    std::thread::sleep(wake.saturating_duration_since(Instant::now()));
                    continue;
                }
                match jobs.recv_deadline(wake) {
                    Ok(job) => *unsent = Some(job),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
        }
    }

    /// Whether this thread is the one that asks for warnings now; TLS keys have none of their own.
    fn is_warning_due(&self) -> bool {
        if matches!(self.what, What::Nothing) {
            return false;
        }
        let mut state = lock(&self.state);
        let due = state.warned.is_none_or(|warned| warned.elapsed() >= WARNINGS_PAUSE);
        if due {
            state.warned = Some(Instant::now());
        }
        due
    }

    fn ask_warnings(&self, stream: &UnixStream) -> io::Result<()> {
        let ask = Ask::Warnings { key: self.name };
        let Reply::Warnings(warnings) = exchange(stream, ask, self.place.deadline)? else {
            return Ok(());
        };
        let mut state = lock(&self.state);
        match (state.warnings.is_empty(), warnings.is_empty()) {
            (true, false) => tracing::warn!(warnings = warnings.join("; "), "the signer warns"),
            (false, true) => tracing::info!("the signer warns no more"),
            _ => {}
        }
        state.warnings = warnings;
        Ok(())
    }

    fn attempt(&mut self) -> Result<(UnixStream, Ways), (String, bool)> {
        let stream = socket::connect(&self.place.socket, self.place.user)
            .map_err(|error| (error.to_string(), false))?;
        let What::Guard { chain, has_signed } = self.what else {
            return Ok((stream, Ways::default()));
        };
        let ask = Ask::Open { key: self.name, chain, has_signed };
        match exchange(&stream, ask, self.place.deadline) {
            Ok(Reply::Opened { opening, parallel, bundles, .. }) => {
                // From now on a missing guard is a lost one.
                self.what = What::Guard { chain, has_signed: true };
                self.found = opening;
                Ok((stream, Ways { parallel: parallel.into(), bundles }))
            }
            Ok(Reply::Refused(reason)) => Err((reason, true)),
            Ok(other) => Err((unexpected(&other), true)),
            Err(error) => Err((error.to_string(), false)),
        }
    }

    fn connected(&self, ways: Ways) {
        let mut state = lock(&self.state);
        if state.opened {
            tracing::info!(socket = %self.place.socket.display(), "the signer is back");
        }
        let opening = self.found;
        *state = State { opened: true, ways, opening, ..State::default() };
    }

    fn lost(&self, reason: &str, refused: bool) {
        let mut state = lock(&self.state);
        let text = format!("the signer at {}: {reason}", self.place.socket.display());
        // Once for the loss, and once more where the signer is back and says no.
        if state.opened && (state.down_since.is_none() || (refused && !state.refused)) {
            tracing::error!(reason = text, "nothing is signed until the signer is back");
        }
        state.down_since.get_or_insert_with(Instant::now);
        (state.reason, state.refused) = (text, refused);
        state.warnings.clear();
    }

    fn tell(&self, job: &Job, answer: Result<Reply, String>) {
        // A caller that no longer waits needs no answer.
        let _ = job.answer.try_send(answer);
    }
}

/// One frame out, one frame in.
fn exchange(stream: &UnixStream, ask: Ask, within: Duration) -> io::Result<Reply> {
    let deadline_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX).max(1);
    let within = within.max(Duration::from_millis(1));
    stream.set_write_timeout(Some(within))?;
    stream.set_read_timeout(Some(within))?;
    let request = Request { deadline_ms, ask };
    wire::write_frame(&mut &*stream, &request.to_bytes())?;
    let frame = wire::read_frame(&mut &*stream).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::other("it did not answer in time"),
        _ => error,
    })?;
    let frame = frame.ok_or_else(|| io::Error::other("it closed the connection"))?;
    Reply::from_bytes(&frame).map_err(|error| io::Error::other(error.to_string()))
}

/// Requests in lots that fit one frame: one large text, or many small ones.
fn lots(requests: &[SignRequest]) -> impl Iterator<Item = &[SignRequest]> {
    let mut rest = requests;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let fits = rest.iter().take(limits::SIGNER_TEXTS_MAX).take_while(|request| {
            bytes += request.text.len() + SLOT_BYTES;
            bytes <= limits::CONSENSUS_MESSAGE_BYTES_MAX
        });
        let (lot, after) = rest.split_at(fits.count().max(1));
        rest = after;
        Some(lot)
    })
}

fn key_error(reason: &str) -> SignError {
    SignError::Key { reason: reason.to_owned() }
}

fn unexpected(reply: &Reply) -> String {
    match reply {
        Reply::Refused(reason) => reason.clone(),
        _ => "it gave an answer to another question".to_owned(),
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const WARNINGS_PAUSE: Duration = Duration::from_millis(limits::SIGNER_WARNINGS_MS);
const MARGIN: Duration = Duration::from_millis(100);
/// Slot, its flag and the text's length in a frame, with some room.
const SLOT_BYTES: usize = 64;
