//! The real `Transport`: gRPC streams over mutual TLS 1.3.
//!
//! ```text
//! send, broadcast -> Link (peers)  -> dialled connection  -> peer's listener -> its Inbox
//! reply           -> Accepted      -> accepted connection -> the peer that dialled us
//! ```
//!
//! The server side accepts whoever a member's root vouches for and `identify` knows; it registers
//! each open channel so that replies find their way, and holds at most `PEER_CONNECTIONS_MAX` per
//! peer: a new one closes the oldest. The node that is built from this needs an inbox that needs
//! the transport: `Grpc::new` makes queues that already take messages, `start` opens the network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use tonic::transport::Server;

use crate::network::Class;
use crate::network::Inbox;
use crate::network::Message;
use crate::network::Peer;
use crate::network::PeerStatus;
use crate::network::Transport;
use crate::network::channel;
use crate::network::channel::Outbound;
use crate::network::connection;
use crate::network::connection::Caller;
use crate::network::connection::Traffic;
use crate::network::frame;
use crate::network::frame::Outgoing;
use crate::network::frame::wire;
use crate::network::frame::wire::peering_server::Peering;
use crate::network::frame::wire::peering_server::PeeringServer;
use crate::network::peers;
use crate::network::peers::Dialling;
use crate::network::peers::Link;
use crate::network::peers::PeerAddress;
use crate::network::quota::Queue;
use crate::network::recognise::Identify;
use crate::network::sessions::Sessions;
use crate::network::tls;
use crate::network::tls::Callers;
use crate::network::tls::Check;
use crate::network::tls::Credentials;
use crate::network::tls::Roots;
use crate::network::tls::TlsError;
use crate::telemetry::metrics::Metrics;
use crate::types::ids::ChainId;
use crate::types::ids::ReplicaId;
use crate::types::limits;

/// Why the network could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// TLS setup.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The listening socket.
    #[error("the listening socket is unusable")]
    Listen(#[source] std::io::Error),
    /// `start` was called before.
    #[error("the network is already started")]
    Started,
}

/// What the transport is built from.
pub struct Config {
    /// Chain of this node.
    pub chain: ChainId,
    /// Bound socket for peers; `None` for a node that only dials.
    pub listener: Option<std::net::TcpListener>,
    /// Validators to dial, this node excluded.
    pub peers: Vec<PeerAddress>,
    /// TLS certificate and key.
    pub credentials: Arc<Credentials>,
    /// Members' roots.
    pub roots: Roots,
    /// Recognises peers.
    pub identify: Identify,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where all tasks run.
    pub runtime: Handle,
}

/// Peers over gRPC.
pub struct Grpc {
    links: Vec<Arc<Link>>,
    accepted: Arc<Mutex<AcceptedTable>>,
    sessions: Arc<Sessions>,
    unstarted: Mutex<Option<Config>>,
    runtime: Handle,
    address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// A channel that a peer opened.
struct Accepted {
    id: u64,
    peer: Peer,
    class: Class,
    address: SocketAddr,
    queue: Arc<Queue<Outgoing>>,
    traffic: Arc<Traffic>,
    task: Option<AbortHandle>,
}

type AcceptedTable = BTreeMap<Peer, Vec<Accepted>>;

impl Grpc {
    /// Links with empty queues; nothing is dialled or accepted before `start`.
    pub fn new(config: Config) -> Result<Arc<Self>, NetworkError> {
        let address = match &config.listener {
            Some(listener) => Some(listener.local_addr().map_err(NetworkError::Listen)?),
            None => None,
        };
        let dropped = &config.metrics.network_messages_dropped;
        let links = config.peers.iter().cloned();
        let links = links.map(|target| Arc::new(Link::new(target, dropped))).collect();
        let (stop, _) = watch::channel(false);
        Ok(Arc::new(Self {
            links,
            accepted: Arc::default(),
            sessions: Sessions::new(anyone(&config.identify), Arc::clone(&config.metrics)),
            runtime: config.runtime.clone(),
            unstarted: Mutex::new(Some(config)),
            address,
            stop,
            tasks: Mutex::default(),
        }))
    }

    /// Dials every peer and accepts connections; messages go to `inbox`.
    pub fn start(&self, inbox: Arc<dyn Inbox>) -> Result<(), NetworkError> {
        let config = locked(&self.unstarted).take().ok_or(NetworkError::Started)?;
        let _runtime = self.runtime.enter();
        if let Some(listener) = config.listener {
            let check = anyone(&config.identify);
            let credentials = Arc::clone(&config.credentials);
            let callers = Callers::Authenticated;
            let tls = tls::server_config(credentials, &config.roots, callers, check, &["h2"])?;
            listener.set_nonblocking(true).map_err(NetworkError::Listen)?;
            let listener =
                tokio::net::TcpListener::from_std(listener).map_err(NetworkError::Listen)?;
            let connections = connection::accept(
                listener,
                tls,
                Arc::clone(&self.sessions),
                Arc::clone(&config.metrics),
                self.stop.subscribe(),
            );
            let service = Service {
                chain: config.chain,
                identify: Arc::clone(&config.identify),
                inbox: Arc::clone(&inbox),
                accepted: Arc::clone(&self.accepted),
                links: self.links.clone(),
                stop: self.stop.subscribe(),
                next_id: AtomicU64::new(0),
                dropped: config.metrics.network_messages_dropped.clone(),
            };
            self.spawn(serve(service, connections, self.stop.subscribe()));
        }
        let dialling = Arc::new(Dialling {
            chain: config.chain,
            inbox,
            sessions: Arc::clone(&self.sessions),
            metrics: config.metrics,
            stop: self.stop.subscribe(),
        });
        for link in &self.links {
            let check = exactly(link.target.peer.clone(), Arc::clone(&config.identify));
            let credentials = Some(Arc::clone(&config.credentials));
            let tls = tls::client_config(credentials, &config.roots, check, &["h2"])?;
            for class in [Class::Vote, Class::Data] {
                let (link, tls) = (Arc::clone(link), Arc::clone(&tls));
                self.spawn(peers::keep_connected(link, class, tls, Arc::clone(&dialling)));
            }
        }
        Ok(())
    }

    /// Where peers connect, once bound.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Closes everything and waits for the tasks, at most two seconds.
    pub async fn shutdown(&self) {
        self.signal_stop();
        let tasks = std::mem::take(&mut *locked(&self.tasks));
        for mut task in tasks {
            if timeout(SHUTDOWN_WITHIN, &mut task).await.is_err() {
                task.abort();
            }
        }
    }

    fn signal_stop(&self) {
        self.stop.send_replace(true);
        for link in &self.links {
            link.close();
        }
        for accepted in locked(&self.accepted).values().flatten() {
            accepted.close();
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        locked(&self.tasks).push(self.runtime.spawn(task));
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.signal_stop();
    }
}

impl Transport for Grpc {
    fn send(&self, to: ReplicaId, message: Message) {
        match self.links.iter().find(|link| link.target.peer.replica == Some(to)) {
            Some(link) => link.push(message.into()),
            None => tracing::debug!(replica = %to, "no link to this replica; message dropped"),
        }
    }

    fn broadcast(&self, message: Message) {
        let message = Outgoing::from(message);
        for link in self.links.iter().filter(|link| link.target.peer.replica.is_some()) {
            link.push(message.clone());
        }
    }

    fn reply(&self, to: &Peer, message: Message) {
        let message = Outgoing::from(message);
        let bytes = message.bytes;
        let accepted = locked(&self.accepted);
        let mut channels = accepted.get(to).into_iter().flatten();
        if let Some(newest) = channels.rfind(|a| a.class == message.class) {
            newest.queue.push(message, bytes);
            return;
        }
        drop(accepted);
        if let Some(link) = self.links.iter().find(|link| link.target.peer == *to) {
            link.push(message);
        }
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let accepted = locked(&self.accepted);
        let mut statuses: Vec<PeerStatus> = Vec::with_capacity(self.links.len());
        for link in &self.links {
            let mut status = PeerStatus {
                peer: link.target.peer.clone(),
                address: link.target.address.clone(),
                connected: link.vote.connected(),
                bytes_sent: link.traffic.sent.load(Ordering::Relaxed),
                bytes_received: link.traffic.received.load(Ordering::Relaxed),
                dropped: link.dropped(),
            };
            for channel in accepted.get(&link.target.peer).into_iter().flatten() {
                channel.add_to(&mut status);
            }
            statuses.push(status);
        }
        for (peer, channels) in accepted.iter() {
            let known = self.links.iter().any(|link| link.target.peer == *peer);
            let Some(first) = channels.first().filter(|_| !known) else { continue };
            let mut status = PeerStatus {
                peer: peer.clone(),
                address: first.address.to_string(),
                connected: channels.iter().any(|c| c.class == Class::Vote),
                bytes_sent: 0,
                bytes_received: 0,
                dropped: 0,
            };
            channels.iter().for_each(|c| c.add_to(&mut status));
            statuses.push(status);
        }
        statuses
    }

    fn recheck(&self) {
        self.sessions.recheck();
    }
}

impl Accepted {
    fn close(&self) {
        self.queue.close();
        if let Some(task) = &self.task {
            task.abort();
        }
    }

    fn add_to(&self, status: &mut PeerStatus) {
        status.bytes_sent += self.traffic.sent.load(Ordering::Relaxed);
        status.bytes_received += self.traffic.received.load(Ordering::Relaxed);
        status.dropped += self.queue.dropped();
    }
}

/// The server side of `Peering`.
struct Service {
    chain: ChainId,
    identify: Identify,
    inbox: Arc<dyn Inbox>,
    accepted: Arc<Mutex<AcceptedTable>>,
    links: Vec<Arc<Link>>,
    stop: watch::Receiver<bool>,
    next_id: AtomicU64,
    dropped: Counter,
}

#[tonic::async_trait]
impl Peering for Service {
    type ChannelStream = Pin<Box<Outbound>>;

    async fn channel(
        &self,
        request: Request<Streaming<wire::Frame>>,
    ) -> Result<Response<Self::ChannelStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let (caller, certificate) = caller
            .and_then(|caller| Some((caller.clone(), caller.certificate?)))
            .ok_or_else(|| Status::unauthenticated("a peer shows a certificate"))?;
        let peer = (self.identify)(&certificate).map_err(Status::permission_denied)?;
        let mut frames = request.into_inner();
        let within = Duration::from_millis(limits::HANDSHAKE_MS_MAX);
        let first = timeout(within, frames.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??
            .ok_or_else(|| Status::invalid_argument("the channel ended before its hello"))?;
        let class = frame::accept_hello(&first, &self.chain).map_err(|error| {
            let name = format!("{}/{}", peer.organisation, peer.name);
            tracing::warn!(peer = ?name, address = %caller.address, %error, "peer refused");
            Status::failed_precondition(error.to_string())
        })?;
        let queue = Arc::new(Queue::new(limits::PEER_QUEUE_BYTES_MAX, self.dropped.clone()));
        let parting = Arc::new(Mutex::new(None));
        let accepted = Accepted {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            peer: peer.clone(),
            class,
            address: caller.address,
            queue: Arc::clone(&queue),
            traffic: Arc::clone(&caller.traffic),
            task: None,
        };
        let registration = self.register(accepted);
        let receiving = Receiving {
            peer,
            class,
            inbox: Arc::clone(&self.inbox),
            stop: self.stop.clone(),
            parting: Arc::clone(&parting),
            registration,
        };
        receiving.spawn(frames);
        let outbound = Outbound::new(&self.chain, class, queue, None, parting);
        Ok(Response::new(Box::pin(outbound)))
    }
}

impl Service {
    fn register(&self, accepted: Accepted) -> Registration {
        let mut table = locked(&self.accepted);
        let peer = accepted.peer.clone();
        let id = accepted.id;
        let traffic = Arc::clone(&accepted.traffic);
        let channels = table.entry(peer.clone()).or_default();
        if channels.len() >= limits::PEER_CONNECTIONS_MAX {
            channels.remove(0).close();
        }
        channels.push(accepted);
        let link = self.links.iter().find(|link| link.target.peer == peer).cloned();
        Registration { table: Arc::clone(&self.accepted), peer, id, link, traffic }
    }
}

/// A channel's row in the table; leaves it when dropped, however the channel ended.
struct Registration {
    table: Arc<Mutex<AcceptedTable>>,
    peer: Peer,
    id: u64,
    link: Option<Arc<Link>>,
    traffic: Arc<Traffic>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut table = locked(&self.table);
        if let Some(channels) = table.get_mut(&self.peer) {
            for channel in channels.iter().filter(|c| c.id == self.id) {
                channel.queue.close();
            }
            channels.retain(|c| c.id != self.id);
            if channels.is_empty() {
                table.remove(&self.peer);
            }
        }
        if let Some(link) = &self.link {
            link.traffic.absorb(&self.traffic);
        }
    }
}

/// The task that reads an accepted channel.
struct Receiving {
    peer: Peer,
    class: Class,
    inbox: Arc<dyn Inbox>,
    stop: watch::Receiver<bool>,
    parting: Arc<Mutex<Option<Status>>>,
    registration: Registration,
}

impl Receiving {
    fn spawn(mut self, frames: Streaming<wire::Frame>) {
        let table = Arc::clone(&self.registration.table);
        let (peer, id) = (self.peer.clone(), self.registration.id);
        let registration = self.registration;
        let task = tokio::spawn(async move {
            let _registration = registration;
            // An observer is answered on this connection only: it has no link that comes up.
            if self.peer.replica.is_none() && self.class == Class::Vote {
                self.inbox.on_connected(&self.peer);
            }
            let (peer, class) = (&self.peer, self.class);
            let inbox = self.inbox.as_ref();
            if let Err(error) = channel::receive(frames, peer, class, inbox, &mut self.stop).await {
                let reason = channel::explain(&error);
                let name = format!("{}/{}", peer.organisation, peer.name);
                tracing::info!(peer = ?name, ?class, ?reason, "channel of a peer ended");
                *locked(&self.parting) = Some(Status::invalid_argument(reason));
            }
        });
        let mut table = locked(&table);
        let channels = table.get_mut(&peer).into_iter().flatten();
        for channel in channels.filter(|c| c.id == id) {
            channel.task = Some(task.abort_handle());
        }
    }
}

async fn serve(
    service: Service,
    connections: impl futures_util::Stream<Item = std::io::Result<connection::Connection>>
    + Send
    + Unpin
    + 'static,
    mut stop: watch::Receiver<bool>,
) {
    let service = PeeringServer::new(service)
        .max_decoding_message_size(limits::FRAME_BYTES_MAX)
        .max_encoding_message_size(limits::FRAME_BYTES_MAX);
    let served = Server::builder()
        .initial_stream_window_size(peers::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(peers::CONNECTION_WINDOW_BYTES)
        .max_frame_size(peers::HTTP2_FRAME_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(peers::KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(peers::KEEP_ALIVE_WITHIN))
        .add_service(service)
        .serve_with_incoming_shutdown(connections, async move {
            // An error means that the transport itself is gone: stop as well.
            let _ = stop.wait_for(|stopped| *stopped).await;
        })
        .await;
    if let Err(error) = served {
        tracing::error!(error = %channel::explain(&error), "the listener for peers ended");
    }
}

/// Accepts every peer.
fn anyone(identify: &Identify) -> Check {
    let identify = Arc::clone(identify);
    Arc::new(move |der| identify(der).map(drop))
}

/// Accepts exactly the peer that was meant to be dialled.
fn exactly(expected: Peer, identify: Identify) -> Check {
    Arc::new(move |der| {
        let found = identify(der)?;
        if found == expected {
            return Ok(());
        }
        Err(format!(
            "expected {} at this address, found {}; check the peer's address",
            named(&expected),
            named(&found)
        ))
    })
}

fn named(peer: &Peer) -> String {
    match peer.replica {
        Some(replica) => format!("{}/{} (replica {replica})", peer.organisation, peer.name),
        None => format!("{}/{} (no replica)", peer.organisation, peer.name),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

/// Streams of one connection: the channel, and one more while a broken one is torn down.
const STREAMS_MAX: u32 = 2;
/// Headers of a call, bytes.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Tasks that have not ended by then are aborted.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
