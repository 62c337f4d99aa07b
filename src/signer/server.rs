//! The signer process's service: connections, queue, workers.
//!
//! ```text
//! accept -> peer's user listed? -> connection thread: read frame -> queue (two lanes, bounded)
//!                                                         ^              |
//!                                     write frame <- answer <- worker: guard, key
//! ```
//!
//! A connection has one request under way; the answer is written before the next is read. A request
//! whose deadline passed while it waited is answered so and not begun. A guard whose log fails ends
//! the process (`fatal`): what is durable is found again at the next start.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;

use crate::signer::SignError;
use crate::signer::keyring::Keyring;
use crate::signer::keyring::refusal;
use crate::signer::queue::Lane;
use crate::signer::queue::Queue;
use crate::signer::socket;
use crate::signer::socket::Listening;
use crate::signer::wire;
use crate::signer::wire::Ask;
use crate::signer::wire::Reply;
use crate::signer::wire::Request;
use crate::telemetry::signer::SignerMetrics;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::limits;

/// What the service is made of.
pub struct Parts {
    /// The keys.
    pub keyring: Keyring,
    /// User ids that may ask.
    pub users: Vec<u32>,
    /// Threads that answer.
    pub workers: usize,
    /// Counters.
    pub metrics: Arc<SignerMetrics>,
    /// The status document, JSON.
    pub status: Arc<dyn Fn(&Keyring) -> String + Send + Sync>,
    /// Ends the process with a reason.
    pub fatal: Arc<dyn Fn(String) + Send + Sync>,
}

struct Shared {
    parts: Parts,
    queue: Queue<Work>,
    connections: AtomicUsize,
    /// What was last logged of each kind of refusal, and when: votes are asked again many times
    /// during an outage, and hundreds lie below a fence.
    told: Mutex<BTreeMap<&'static str, (Instant, String)>>,
}

struct Work {
    ask: Ask,
    arrived: Instant,
    deadline: Duration,
    answer: mpsc::SyncSender<Reply>,
}

/// Serves until the process ends. Returns only where the system refuses threads or connections.
pub fn serve(listening: Listening, parts: Parts) -> io::Result<()> {
    let workers = parts.workers.clamp(2, limits::SIGNER_WORKERS_MAX);
    let queue = Queue::new(workers);
    let (connections, told) = (AtomicUsize::new(0), Mutex::default());
    let shared = Arc::new(Shared { parts, queue, connections, told });
    for _ in 0..workers {
        let shared = shared.clone();
        std::thread::Builder::new().name("sign".into()).spawn(move || work(&shared))?;
    }
    loop {
        let stream = match listening.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        admit(&shared, stream);
    }
}

fn admit(shared: &Arc<Shared>, stream: UnixStream) {
    let metrics = &shared.parts.metrics;
    match socket::peer_user(&stream) {
        Ok(user) if shared.parts.users.contains(&user) => {}
        Ok(user) => {
            metrics.callers_refused.inc();
            tracing::warn!(user, "refused a connection: this user may not ask the signer");
            let reason = format!("user {user} may not ask this signer; list it under users");
            let _ = wire::write_frame(&mut &stream, &Reply::Refused(reason).to_bytes());
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "refused a connection: its user is not known");
            return;
        }
    }
    if shared.connections.fetch_add(1, Ordering::Relaxed) >= limits::SIGNER_CONNECTIONS_MAX {
        shared.connections.fetch_sub(1, Ordering::Relaxed);
        let _ = wire::write_frame(&mut &stream, &busy().to_bytes());
        return;
    }
    metrics.connections.inc();
    let owned = shared.clone();
    let spawned = std::thread::Builder::new().name("connection".into()).spawn(move || {
        if let Err(error) = converse(&owned, &stream) {
            tracing::info!(%error, "a connection ended");
        }
        owned.connections.fetch_sub(1, Ordering::Relaxed);
        owned.parts.metrics.connections.dec();
    });
    if let Err(error) = spawned {
        shared.connections.fetch_sub(1, Ordering::Relaxed);
        metrics.connections.dec();
        tracing::error!(%error, "no thread for a connection; raise the limit on tasks");
    }
}

/// One frame in, one frame out, until the other side goes.
fn converse(shared: &Shared, stream: &UnixStream) -> io::Result<()> {
    // A caller that does not take its answer must not hold the connection for ever.
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    while let Some(frame) = wire::read_frame(&mut &*stream)? {
        let arrived = Instant::now();
        let request = Request::from_bytes(&frame);
        let reply = match request {
            Ok(request) => ask(shared, request, arrived),
            Err(error) => {
                shared.parts.metrics.refuse("malformed");
                let reason = format!("the request is malformed: {error}");
                wire::write_frame(&mut &*stream, &Reply::Refused(reason).to_bytes())?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
            }
        };
        wire::write_frame(&mut &*stream, &reply.to_bytes())?;
    }
    Ok(())
}

fn ask(shared: &Shared, request: Request, arrived: Instant) -> Reply {
    let lane = match request.ask {
        Ask::Status => {
            let text = (shared.parts.status)(&shared.parts.keyring);
            return Reply::Status(Bytes::from(text));
        }
        // Neither a key nor a guard is asked: no need to wait for those that are.
        ask @ Ask::Warnings { .. } => {
            let reply = shared.parts.keyring.answer(&ask);
            return reply
                .unwrap_or_else(|| Reply::Refused("not a question about a key".to_owned()));
        }
        Ask::Transport { .. } => Lane::Transport,
        Ask::Open { .. } | Ask::Sign { .. } | Ask::Forget { .. } | Ask::Record { .. } => {
            Lane::Consensus
        }
    };
    let metrics = &shared.parts.metrics;
    let (answer, answered) = mpsc::sync_channel(1);
    let deadline = Duration::from_millis(request.deadline_ms.into());
    let work = Work { ask: request.ask, arrived, deadline, answer };
    if shared.queue.push(lane, work).is_err() {
        metrics.refuse("busy");
        return busy();
    }
    metrics.depth(lane.name(), shared.queue.depth(lane));
    // The worker always answers, unless it panicked: then the channel is closed.
    let reply = answered.recv().unwrap_or_else(|_| {
        (shared.parts.fatal)("a worker stopped in the middle of a request".to_owned());
        Reply::Refused("the signer stops".to_owned())
    });
    metrics.answered(lane.name(), arrived.elapsed());
    reply
}

fn work(shared: &Shared) {
    while let Some((lane, work)) = shared.queue.pop() {
        let metrics = &shared.parts.metrics;
        metrics.depth(lane.name(), shared.queue.depth(lane));
        let reply = match work.arrived.elapsed() > work.deadline {
            true => {
                metrics.refuse("deadline");
                Reply::Refused("the deadline passed before the work could begin".to_owned())
            }
            false => {
                let reply = shared.parts.keyring.answer(&work.ask);
                reply.unwrap_or_else(|| Reply::Refused("not a question about a key".to_owned()))
            }
        };
        if lane == Lane::Transport {
            shared.queue.transport_done();
        }
        count(shared, lane, &reply);
        if let Some(reason) = shared.parts.keyring.failure() {
            (shared.parts.fatal)(reason);
        }
        // A caller that is gone needs no answer.
        let _ = work.answer.send(reply);
    }
}

fn count(shared: &Shared, lane: Lane, reply: &Reply) {
    let metrics = &shared.parts.metrics;
    match reply {
        Reply::Signed(results) => {
            metrics.signed(lane.name(), results.iter().filter(|result| result.is_ok()).count());
            results.iter().filter_map(|result| result.as_ref().err()).for_each(|error| {
                let kind = refusal(error);
                metrics.refuse(kind);
                let told = match error {
                    // The slot differs each time.
                    SignError::Forgotten { .. } => shared.may_tell(kind, kind),
                    SignError::Key { .. } => shared.may_tell(kind, &error.to_string()),
                    _ => true,
                };
                if told {
                    tracing::warn!(%error, "not signed");
                }
            });
        }
        Reply::Signature(_) => metrics.signed(lane.name(), 1),
        Reply::Refused(reason) => {
            metrics.refuse("request");
            if shared.may_tell("request", reason) {
                tracing::warn!(reason, "refused a request");
            }
        }
        Reply::Opened { .. }
        | Reply::Forgotten
        | Reply::Status(_)
        | Reply::Record(_)
        | Reply::Warnings(_) => {}
    }
}

impl Shared {
    fn may_tell(&self, kind: &'static str, text: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let repeated =
            told.get(kind).is_some_and(|(at, last)| last == text && at.elapsed() < TELL_PAUSE);
        if !repeated {
            told.insert(kind, (Instant::now(), text.to_owned()));
        }
        !repeated
    }
}

fn busy() -> Reply {
    Reply::Refused("the signer is busy; ask again".to_owned())
}

const TELL_PAUSE: Duration = Duration::from_secs(10);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
