//! Serves the router over accepted TLS connections, or over plain TCP on loopback.
//!
//! HTTP/1.1 only. A connection that sends no complete request head in time is closed, idle ones
//! included. Heads and bodies are bounded; one connection's garbage ends that connection alone.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::Stream;
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::api;
use crate::api::Service;
use crate::api::auth;
use crate::api::rest;
use crate::network::connection;
use crate::types::limits;

/// Serves accepted TLS connections until `stop` turns true.
pub async fn serve(
    service: Service,
    connections: impl Stream<Item = io::Result<connection::Connection>> + Unpin,
    stop: watch::Receiver<bool>,
) {
    serve_router(rest::router(service), connections, stop).await;
}

/// The same for any router.
pub async fn serve_router(
    router: Router,
    mut connections: impl Stream<Item = io::Result<connection::Connection>> + Unpin,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = connections.next() => accepted,
            () = api::stopped(&mut stop) => return,
        };
        let connection = match accepted {
            Some(Ok(connection)) => connection,
            Some(Err(error)) => {
                tracing::debug!(%error, "REST connection lost in the handshake");
                continue;
            }
            None => return,
        };
        let certificate = connection.caller().certificate.clone();
        let who = auth::Connection { certificate, address: Some(connection.caller().address) };
        tokio::spawn(converse(connection, router.clone(), who, stop.clone()));
    }
}

/// Why a plain listener was refused.
#[derive(Debug, thiserror::Error)]
pub enum PlainError {
    /// Only this machine may speak without TLS.
    #[error("REST without TLS is served on loopback only, not on {0}; use TLS or 127.0.0.1")]
    NotLoopback(std::net::SocketAddr),
    /// The socket.
    #[error("the REST listener is unusable")]
    Listener(#[source] io::Error),
}

/// Serves plain HTTP on a loopback socket until `stop` turns true; refuses any other socket. All
/// callers are anonymous. To be called within a runtime.
pub fn plain(
    service: Service,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()> + Send + 'static, PlainError> {
    let address = listener.local_addr().map_err(PlainError::Listener)?;
    if !address.ip().is_loopback() {
        return Err(PlainError::NotLoopback(address));
    }
    listener.set_nonblocking(true).map_err(PlainError::Listener)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(PlainError::Listener)?;
    Ok(accept_plain(rest::router(service), listener, stop))
}

async fn accept_plain(
    router: Router,
    listener: tokio::net::TcpListener,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
            Some((slot, listener.accept().await))
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            () = api::stopped(&mut stop) => return,
        };
        let Some((slot, accepted)) = accepted else { return };
        match accepted {
            Ok((socket, _)) => {
                let who = auth::Connection::default();
                let talk = converse(socket, router.clone(), who, stop.clone());
                tokio::spawn(async move {
                    let _slot = slot;
                    talk.await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "REST accept failed; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse<S>(
    socket: S,
    router: Router,
    who: auth::Connection,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serve = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(who.clone());
        router.clone().oneshot(request)
    });
    let talk = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits::REQUEST_HEAD_MS_MAX))
        .max_buf_size(limits::REQUEST_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), serve);
    let mut talk = std::pin::pin!(talk);
    let ended = tokio::select! {
        ended = talk.as_mut() => ended,
        () = api::stopped(&mut stop) => {
            // The request under way is answered, then the connection closes.
            talk.as_mut().graceful_shutdown();
            talk.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "REST connection ended early");
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
