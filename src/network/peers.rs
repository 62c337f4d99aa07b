//! The validators this node dials: one link per peer, one connection and queue per traffic class.
//!
//! ```text
//! send -> Lane.queue -> Outbound -> HTTP/2 -> TLS -> peer
//!         (survives reconnects)     (one connection at a time, dialled again for ever)
//! ```
//!
//! A lane redials with exponential pauses between `REDIAL_MS_MIN` and `REDIAL_MS_MAX`, jittered so
//! that a restarted network does not dial in step; success resets the pause. Each cause of failure
//! is logged once, not per attempt. While a peer is away its queue shrinks to
//! `PEER_QUEUE_OFFLINE_BYTES_MAX`.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;
use rustls::ClientConfig;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Endpoint;

use crate::network::Class;
use crate::network::Inbox;
use crate::network::Peer;
use crate::network::channel;
use crate::network::channel::ChannelError;
use crate::network::channel::Outbound;
use crate::network::connection;
use crate::network::connection::Traffic;
use crate::network::frame;
use crate::network::frame::FrameError;
use crate::network::frame::Outgoing;
use crate::network::frame::wire::peering_client::PeeringClient;
use crate::network::quota::Queue;
use crate::network::sessions::Sessions;
use crate::telemetry::metrics::Metrics;
use crate::types::ids::ChainId;
use crate::types::limits;

/// A validator and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Who must answer there.
    pub peer: Peer,
    /// Host and port.
    pub address: String,
}

/// Everything about one dialled peer.
pub struct Link {
    /// Who and where.
    pub target: PeerAddress,
    /// For votes.
    pub vote: Lane,
    /// For batches and blocks.
    pub data: Lane,
    /// Bytes over all connections, past ones included.
    pub traffic: Arc<Traffic>,
}

/// One traffic class of a link.
pub struct Lane {
    queue: Arc<Queue<Outgoing>>,
    connected: AtomicBool,
}

/// What all lanes share.
pub struct Dialling {
    /// Chain of this node.
    pub chain: ChainId,
    /// Receives what comes back.
    pub inbox: Arc<dyn Inbox>,
    /// Where connections are entered, to end with their certificates.
    pub sessions: Arc<Sessions>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Turns true at shutdown.
    pub stop: watch::Receiver<bool>,
}

impl Link {
    /// A link that is not yet connected; its queues already take messages. Drops count in
    /// `dropped_in_all` too.
    pub fn new(target: PeerAddress, dropped_in_all: &Counter) -> Self {
        Self {
            target,
            vote: Lane::new(dropped_in_all),
            data: Lane::new(dropped_in_all),
            traffic: Arc::default(),
        }
    }

    /// Queues a message.
    pub fn push(&self, message: Outgoing) {
        let bytes = message.bytes;
        self.lane(message.class).queue.push(message, bytes);
    }

    /// The lane of a class.
    pub fn lane(&self, class: Class) -> &Lane {
        match class {
            Class::Vote => &self.vote,
            Class::Data => &self.data,
        }
    }

    /// Messages dropped on both lanes since start.
    pub fn dropped(&self) -> u64 {
        self.vote.queue.dropped() + self.data.queue.dropped()
    }

    /// Ends both queues.
    pub fn close(&self) {
        self.vote.queue.close();
        self.data.queue.close();
    }
}

impl Lane {
    fn new(dropped_in_all: &Counter) -> Self {
        let bytes_max = limits::PEER_QUEUE_OFFLINE_BYTES_MAX;
        let queue = Arc::new(Queue::new(bytes_max, dropped_in_all.clone()));
        Self { queue, connected: AtomicBool::new(false) }
    }

    /// True while its connection stands.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
        self.queue.set_bytes_max(if connected {
            limits::PEER_QUEUE_BYTES_MAX
        } else {
            limits::PEER_QUEUE_OFFLINE_BYTES_MAX
        });
    }
}

/// Keeps one lane of a link connected until shutdown.
pub async fn keep_connected(
    link: Arc<Link>,
    class: Class,
    tls: Arc<ClientConfig>,
    dialling: Arc<Dialling>,
) {
    let name = format!("{}/{}", link.target.peer.organisation, link.target.peer.name);
    let mut stop = dialling.stop.clone();
    let mut pause_ms = limits::REDIAL_MS_MIN;
    let mut last_failure = String::new();
    loop {
        let mut greeted = false;
        let ended = tokio::select! {
            ended = run(&link, class, Arc::clone(&tls), &dialling, &mut greeted) => ended,
            _ = stop.wait_for(|stopped| *stopped) => return,
        };
        link.lane(class).set_connected(false);
        if greeted {
            pause_ms = limits::REDIAL_MS_MIN;
            last_failure.clear();
        }
        let Err(error) = ended else { return };
        let failure = channel::explain(&error);
        if failure != last_failure {
            tracing::warn!(peer = ?name, ?class, ?failure, "no connection; dialling again");
            last_failure = failure;
        }
        let jittered = jittered(pause_ms);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(jittered)) => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
        pause_ms = (pause_ms * 2).min(limits::REDIAL_MS_MAX);
    }
}

async fn run(
    link: &Link,
    class: Class,
    tls: Arc<ClientConfig>,
    dialling: &Dialling,
    greeted: &mut bool,
) -> Result<(), ChannelError> {
    let lane = link.lane(class);
    let mut client = open(link, tls, &dialling.sessions, &dialling.metrics).await?;
    let (open_gate, gate) = oneshot::channel();
    let queue = Arc::clone(&lane.queue);
    let parting = Arc::new(Mutex::new(None));
    let outbound = Outbound::new(&dialling.chain, class, queue, Some(gate), parting);
    // A direction towards a server cannot carry a status: `parting` stays empty here.
    let requests = futures_util::StreamExt::filter_map(outbound, async |frame| frame.ok());
    let hello_within = Duration::from_millis(limits::HANDSHAKE_MS_MAX);
    let greeting = async {
        let mut frames = client.channel(requests).await?.into_inner();
        let first = frames.message().await?;
        let first = first.ok_or(FrameError::HelloOutOfPlace("is missing"))?;
        Ok::<_, ChannelError>((frame::accept_hello(&first, &dialling.chain)?, frames))
    };
    let (theirs, frames) =
        timeout(hello_within, greeting).await.map_err(|_| ChannelError::Silent)??;
    if theirs != class {
        return Err(FrameError::WrongClass { expected: class, found: theirs }.into());
    }
    // Fails only where the connection broke meanwhile, which `receive` reports.
    let _ = open_gate.send(());
    lane.set_connected(true);
    *greeted = true;
    let peer = &link.target.peer;
    tracing::info!(peer = ?format!("{}/{}", peer.organisation, peer.name), ?class, "connected");
    if class == Class::Vote {
        dialling.inbox.on_connected(peer);
    }
    let mut stop = dialling.stop.clone();
    channel::receive(frames, peer, class, dialling.inbox.as_ref(), &mut stop).await
}

/// Opens a connection to the link's peer and the gRPC client on it.
pub(super) async fn open(
    link: &Link,
    tls: Arc<ClientConfig>,
    sessions: &Arc<Sessions>,
    metrics: &Arc<Metrics>,
) -> Result<PeeringClient<tonic::transport::Channel>, ChannelError> {
    let address = &link.target.address;
    let traffic = Arc::clone(&link.traffic);
    let connection = connection::dial(address, tls, traffic, Arc::clone(metrics))
        .await
        .and_then(|connection| connection.enter(sessions))
        .map_err(|source| ChannelError::Dial { address: address.clone(), source })?;
    // The one connection; when it ends the channel ends, and `keep_connected` dials anew.
    let connection = Arc::new(Mutex::new(Some(TokioIo::new(connection))));
    let connector = tower::service_fn(move |_| {
        let taken = connection.lock().expect("no holder of this lock panics").take();
        std::future::ready(taken.ok_or_else(|| std::io::Error::other("the connection ended")))
    });
    // The address is only a label here: the connection exists already.
    let channel = Endpoint::from_static("http://peer")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_WITHIN)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(ChannelError::Open)?;
    Ok(PeeringClient::new(channel)
        .max_decoding_message_size(limits::FRAME_BYTES_MAX)
        .max_encoding_message_size(limits::FRAME_BYTES_MAX))
}

/// Between half and all of `pause_ms`; without randomness all of it.
fn jittered(pause_ms: u64) -> u64 {
    let random = getrandom::u64().unwrap_or(u64::MAX);
    pause_ms / 2 + random % (pause_ms / 2 + 1)
}

/// HTTP/2 window of a stream: a link of 100 ms round trip still carries 80 MB/s.
pub const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// HTTP/2 window of a connection, which carries one stream.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Largest HTTP/2 frame: a gathered frame is one HTTP/2 frame.
pub const HTTP2_FRAME_BYTES: u32 = 512 * 1024;
/// Pings on a quiet connection find out that a peer is gone.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
/// A ping must be answered within this time; generous, since a busy peer answers late.
pub const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(20);
