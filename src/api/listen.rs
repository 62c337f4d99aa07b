//! Opens the listeners for clients and serves them until told to stop.
//!
//! TLS callers may stay anonymous (what they may ask then is the permission table's business); a
//! certificate that is shown must be a member's, valid now, not revoked, and made for connections.
//! When one is revoked, every connection made with it ends at once, whatever is under way on it.

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api;
use crate::api::Service;
use crate::api::auth;
use crate::api::grpc;
use crate::api::rest::server;
use crate::api::rest::server::PlainError;
use crate::network::connection;
use crate::network::sessions::Sessions;
use crate::network::tls;
use crate::network::tls::Callers;
use crate::network::tls::Check;
use crate::network::tls::Credentials;
use crate::network::tls::Roots;
use crate::network::tls::TlsError;

/// Why the interfaces did not open.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// TLS.
    #[error("TLS for clients cannot be set up")]
    Tls(#[from] TlsError),
    /// A socket.
    #[error("the listener for {interface} is unusable; is the address taken?")]
    Socket { interface: &'static str, source: io::Error },
    /// A plain listener that is not on loopback.
    #[error(transparent)]
    Plain(#[from] PlainError),
}

/// Bound sockets; `None` leaves an interface out.
#[derive(Debug, Default)]
pub struct Sockets {
    /// REST over TLS.
    pub rest: Option<TcpListener>,
    /// REST without TLS, loopback only; its callers are anonymous.
    pub rest_plain: Option<TcpListener>,
    /// gRPC over TLS.
    pub grpc: Option<TcpListener>,
}

/// The node's side of TLS.
#[derive(Clone)]
pub struct Identity {
    /// The node's TLS certificate and key.
    pub credentials: Arc<Credentials>,
    /// Roots of the members.
    pub roots: Roots,
}

/// Open interfaces.
pub struct Listening {
    rest: Option<SocketAddr>,
    rest_plain: Option<SocketAddr>,
    grpc: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Listening {
    /// Serves `service` on the sockets.
    pub fn start(
        service: &Service,
        sockets: Sockets,
        identity: &Identity,
        runtime: &Runtime,
    ) -> Result<Self, ListenError> {
        let _runtime = runtime.enter();
        let (stop, stopped) = watch::channel(false);
        let address = |socket: &Option<TcpListener>| socket.as_ref()?.local_addr().ok();
        let mut listening = Self {
            rest: address(&sockets.rest),
            rest_plain: address(&sockets.rest_plain),
            grpc: address(&sockets.grpc),
            stop,
            tasks: Vec::new(),
        };
        let (check, metrics) = (standing(service), service.handle.metrics().clone());
        let sessions = Sessions::new(check.clone(), metrics.clone());
        let cutting = cut_revoked(service.handle.revocations(), sessions.clone(), stopped.clone());
        listening.tasks.push(runtime.spawn(cutting));
        let accept = |socket, tls| {
            connection::accept(socket, tls, sessions.clone(), metrics.clone(), stopped.clone())
        };
        if let Some(socket) = sockets.rest {
            let socket = usable(socket, "REST")?;
            let connections = accept(socket, server_tls(identity, &check, "http/1.1")?);
            let (service, stopped) = (service.clone(), stopped.clone());
            listening.tasks.push(runtime.spawn(server::serve(service, connections, stopped)));
        }
        if let Some(socket) = sockets.rest_plain {
            let serve = server::plain(service.clone(), socket, stopped.clone())?;
            listening.tasks.push(runtime.spawn(serve));
        }
        if let Some(socket) = sockets.grpc {
            let socket = usable(socket, "gRPC")?;
            let connections = accept(socket, server_tls(identity, &check, "h2")?);
            let (service, stopped) = (service.clone(), stopped.clone());
            listening.tasks.push(runtime.spawn(async move {
                if let Err(error) = grpc::serve(service, connections, stopped).await {
                    tracing::error!(%error, "the gRPC listener for clients ended");
                }
            }));
        }
        Ok(listening)
    }

    /// Where REST over TLS listens.
    pub fn rest(&self) -> Option<SocketAddr> {
        self.rest
    }

    /// Where REST without TLS listens.
    pub fn rest_plain(&self) -> Option<SocketAddr> {
        self.rest_plain
    }

    /// Where gRPC listens.
    pub fn grpc(&self) -> Option<SocketAddr> {
        self.grpc
    }

    /// Ends streams, answers what is under way, closes the listeners; gives up waiting after a
    /// while, so that a silent client cannot keep the node from stopping.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        for mut task in self.tasks {
            if tokio::time::timeout(STOP_WITHIN, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

fn usable(
    socket: TcpListener,
    interface: &'static str,
) -> Result<tokio::net::TcpListener, ListenError> {
    socket
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpListener::from_std(socket))
        .map_err(|source| ListenError::Socket { interface, source })
}

/// Whether a certificate counts now.
fn standing(service: &Service) -> Check {
    let directory = service.handle.directory().clone();
    Arc::new(move |der: &[u8]| {
        let certificate = Some(Bytes::copy_from_slice(der));
        auth::Connection { certificate, address: None }.caller(&directory).map(drop)
    })
}

fn server_tls(
    identity: &Identity,
    check: &Check,
    protocol: &str,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let (credentials, check) = (identity.credentials.clone(), check.clone());
    tls::server_config(credentials, &identity.roots, Callers::Any, check, &[protocol])
}

/// Ends the connections of revoked certificates, until told to stop.
async fn cut_revoked(
    mut revocations: watch::Receiver<usize>,
    sessions: Arc<Sessions>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            changed = revocations.changed() => match changed {
                Ok(()) => sessions.recheck(),
                // The pipeline is gone: nothing is revoked any more.
                Err(_) => return,
            },
            () = api::stopped(&mut stop) => return,
        }
    }
}

const STOP_WITHIN: Duration = Duration::from_secs(5);
