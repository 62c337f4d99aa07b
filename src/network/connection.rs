//! TCP and TLS connections, with every byte counted: what listeners accept and diallers open.
//!
//! ```text
//! TcpListener -> accept loop -> handshake (own task, timeout, at most HANDSHAKES_MAX at once)
//!             -> Connection (caller's certificate, address, traffic) -> gRPC or REST server
//! ```
//!
//! Garbage, scans and slow handshakes cost one slot for a bounded time and disturb nobody: when all
//! slots are taken the oldest handshake gives way, so that a crowd of silent callers keeps no peer
//! out. At most `CONNECTIONS_MAX` connections stand per listener; further ones are closed at once.
//! The accept loop survives every error of `accept` (a full file table included) with a short
//! pause.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use rustls::ClientConfig;
use rustls::ServerConfig;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::TlsConnector;
use tokio_rustls::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::network::sessions::Session;
use crate::network::sessions::Sessions;
use crate::network::tls;
use crate::telemetry::metrics::Metrics;
use crate::types::limits;

/// Bytes over one connection or link, TLS overhead included.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes sent.
    pub sent: AtomicU64,
    /// Bytes received.
    pub received: AtomicU64,
}

impl Traffic {
    /// Adds what another counter holds.
    pub fn absorb(&self, other: &Self) {
        self.sent.fetch_add(other.sent.load(Ordering::Relaxed), Ordering::Relaxed);
        self.received.fetch_add(other.received.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Leaf certificate, DER, chain and identity checked; `None` for an anonymous caller.
    pub certificate: Option<Bytes>,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Bytes over this connection.
    pub traffic: Arc<Traffic>,
}

/// An established TLS connection.
pub struct Connection {
    stream: TlsStream<Metered>,
    caller: Caller,
    /// Place among the connections that end when their certificate stops counting.
    session: Option<Session>,
    /// Slot of the listener, given back when the connection ends.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Who is at the other end.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The same connection, which ends when its certificate stops counting.
    pub fn enter(mut self, sessions: &Arc<Sessions>) -> io::Result<Self> {
        self.session = match &self.caller.certificate {
            None => None,
            Some(certificate) => Some(sessions.enter(certificate, self.caller.address)?),
        };
        Ok(self)
    }

    fn check(&self, cx: &mut Context<'_>) -> io::Result<()> {
        self.session.as_ref().map_or(Ok(()), |session| session.check(cx))
    }
}

/// Accepts TLS connections on a bound socket until `stop` turns true; the stream yields those whose
/// handshake succeeded.
pub fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
) -> ReceiverStream<io::Result<Connection>> {
    let (to_server, connections) = mpsc::channel(ACCEPTED_MAX);
    let door = Door { acceptor: TlsAcceptor::from(config), sessions, metrics };
    tokio::spawn(accept_loop(listener, door, stop, to_server));
    ReceiverStream::new(connections)
}

/// What a new connection passes.
#[derive(Clone)]
struct Door {
    acceptor: TlsAcceptor,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
}

async fn accept_loop(
    listener: TcpListener,
    door: Door,
    mut stop: watch::Receiver<bool>,
    to_server: mpsc::Sender<io::Result<Connection>>,
) {
    let connections = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    let mut handshakes: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stopped| *stopped) => break,
            accepted = listener.accept() => accepted,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        handshakes.retain(|handshake| !handshake.is_finished());
        while handshakes.len() >= limits::HANDSHAKES_MAX {
            let Some(oldest) = handshakes.pop_front() else { break };
            oldest.abort();
        }
        let Ok(slot) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::warn!(%address, "all connections of this listener are taken; refused one");
            continue;
        };
        let shaking = shake_hands(socket, address, door.clone(), slot);
        let to_server = to_server.clone();
        handshakes.push_back(tokio::spawn(async move {
            match shaking.await {
                // A send fails only while the server shuts down.
                Ok(connection) => drop(to_server.send(Ok(connection)).await),
                Err(error) => tracing::info!(%address, %error, "connection refused"),
            }
        }));
    }
    for handshake in handshakes {
        handshake.abort();
    }
}

async fn shake_hands(
    socket: TcpStream,
    address: SocketAddr,
    door: Door,
    permit: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    socket.set_nodelay(true)?;
    let traffic = Arc::new(Traffic::default());
    let metered = Metered { socket, traffic: Arc::clone(&traffic), metrics: door.metrics };
    let stream = within_handshake_time(door.acceptor.accept(metered)).await?;
    let certificate = leaf(stream.get_ref().1.peer_certificates());
    let caller = Caller { certificate, address, traffic };
    let stream = TlsStream::Server(stream);
    Connection { stream, caller, session: None, _permit: Some(permit) }.enter(&door.sessions)
}

/// Opens a TLS connection to `address` (host:port), counting bytes in `traffic`.
pub async fn dial(
    address: &str,
    config: Arc<ClientConfig>,
    traffic: Arc<Traffic>,
    metrics: Arc<Metrics>,
) -> io::Result<Connection> {
    let socket = within_handshake_time(TcpStream::connect(address)).await?;
    socket.set_nodelay(true)?;
    let address = socket.peer_addr()?;
    let metered = Metered { socket, traffic: Arc::clone(&traffic), metrics };
    let connector = TlsConnector::from(config);
    let stream = within_handshake_time(connector.connect(tls::server_name(), metered)).await?;
    let certificate = leaf(stream.get_ref().1.peer_certificates());
    let caller = Caller { certificate, address, traffic };
    Ok(Connection { stream: TlsStream::Client(stream), caller, session: None, _permit: None })
}

fn leaf(chain: Option<&[rustls::pki_types::CertificateDer<'static>]>) -> Option<Bytes> {
    chain.and_then(<[_]>::first).map(|der| Bytes::copy_from_slice(der))
}

async fn within_handshake_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(Duration::from_millis(limits::HANDSHAKE_MS_MAX), step).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s")),
    }
}

/// A socket whose bytes are counted.
struct Metered {
    socket: TcpStream,
    traffic: Arc<Traffic>,
    metrics: Arc<Metrics>,
}

impl Metered {
    fn count_sent(&self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = result {
            let bytes = *bytes as u64;
            self.traffic.sent.fetch_add(bytes, Ordering::Relaxed);
            self.metrics.network_bytes_sent.inc_by(bytes);
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        let bytes = (buf.filled().len() - before) as u64;
        if bytes > 0 {
            self.traffic.received.fetch_add(bytes, Ordering::Relaxed);
            self.metrics.network_bytes_received.inc_by(bytes);
        }
        result
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.count_sent(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.count_sent(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Pause after `accept` failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Accepted connections waiting for the server.
const ACCEPTED_MAX: usize = 16;
