//! `obelisk ca serve`: the membership service, put together from its configuration.
//!
//! ```text
//! ca.toml -> authority (root, key) + register -> own TLS certificate -> listener, until a signal
//! ```
//!
//! Its TLS key lives in memory alone: a key and a certificate of a few days are made at the start
//! and again every day. Callers know the service by its identity, `obelisk://<organisation>/client/ca`
//! (the least role, and a name that nobody else can register), under the organisation's root.

pub mod authority;
pub mod config;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::api::ca::MembershipService;
use crate::api::rest::server;
use crate::crypto::routing::Crypto;
use crate::crypto::routing::Routing;
use crate::host::clock::now_ms;
use crate::host::kernel;
use crate::host::tree::Tree;
use crate::membership::authority::Authority;
use crate::membership::authority::Terms;
use crate::membership::authority::TlsSubject;
use crate::membership::register;
use crate::membership::register::Register;
use crate::network::connection;
use crate::network::sessions::Sessions;
use crate::network::tls;
use crate::network::tls::Callers;
use crate::network::tls::Check;
use crate::network::tls::Credentials;
use crate::network::tls::Roots;
use crate::node::ca::config::CaConfig;
use crate::node::lifecycle;
use crate::node::service::Notifier;
use crate::telemetry::metrics::Metrics;
use crate::types::limits;
use crate::types::signature::Algorithm;

/// Why a membership service did not start; the text names cause and fix.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct CaStartError {
    text: String,
    /// Trying again makes it worse: a wrong PIN.
    pub is_final: bool,
    /// Trying again may help: a token is away.
    pub may_pass: bool,
}

/// Serves until a signal. `ready` gets organisation and address once the socket is open. Until then
/// `notifier` asks the service manager for time: how long a token takes is the token's affair, as
/// it is for a signer.
pub fn run(
    config: &CaConfig,
    notifier: Notifier,
    ready: impl FnOnce(&str, SocketAddr),
) -> Result<(), CaStartError> {
    // Before anything else: the key must not end in a core file.
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)
        .map_err(|errno| failed(format!("cannot forbid core files: {errno}")))?;
    kernel::check(&Tree::machine()).map_err(refused)?;
    let crypto = Arc::new(Crypto::new(&Routing::default()).map_err(refused)?);
    crypto.install_hash();
    notifier.progress().at("opening the authority's key");
    let authority = Arc::new(open_authority(config, &crypto)?);
    let register = Register::open(&config.ca.register).map_err(refused)?;
    let (certificate, key) = tls_identity(&authority, &crypto)?;
    let credentials = Arc::new(Credentials::new(&[certificate], &key).map_err(refused)?);
    let roots = Roots::new([&authority.root().der]).map_err(refused)?;
    // Nobody needs a certificate here; one that is shown must be the organisation's, no more.
    let check: Check = Arc::new(|_| Ok(()));
    let own = credentials.clone();
    let tls = tls::server_config(own, &roots, Callers::Any, check.clone(), &["http/1.1"]);
    let tls = tls.map_err(refused)?;
    let service = MembershipService::new(authority.clone(), register, crypto.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(limits::ENROLMENTS_MAX)
        .enable_all()
        .build()
        .map_err(refused)?;
    runtime.block_on(async {
        let listen = &config.ca.listen;
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(|error| {
            failed(format!("cannot listen on {listen}: {error}; correct ca.listen"))
        })?;
        let address = listener.local_addr().map_err(refused)?;
        let (stop, stopped) = watch::channel(false);
        let metrics = Arc::new(Metrics::new());
        let sessions = Sessions::new(check, metrics.clone());
        let connections = connection::accept(listener, tls, sessions, metrics, stopped.clone());
        let serving = tokio::spawn(server::serve_router(service.router(), connections, stopped));
        tokio::spawn(renew(credentials, authority.clone(), crypto));
        ready(&authority.root().organisation, address);
        notifier.ready();
        lifecycle::terminated().await;
        tracing::info!("stopping");
        stop.send_replace(true);
        // What is under way and not answered then is asked for again: the same answer.
        let _ = tokio::time::timeout(STOP_WITHIN, serving).await;
        Ok(())
    })
}

/// A new TLS certificate every day.
async fn renew(credentials: Arc<Credentials>, authority: Arc<Authority>, crypto: Arc<Crypto>) {
    loop {
        tokio::time::sleep(Duration::from_millis(limits::SERVICE_TLS_RENEWED_MS)).await;
        let renewed = tls_identity(&authority, &crypto).and_then(|(certificate, key)| {
            credentials.replace(&[certificate], &key).map_err(refused)
        });
        if let Err(error) = renewed {
            tracing::error!(%error, "the service's own TLS certificate was not renewed");
        }
    }
}

type TlsIdentity = (Bytes, Zeroizing<Vec<u8>>);

fn tls_identity(authority: &Authority, crypto: &Crypto) -> Result<TlsIdentity, CaStartError> {
    let pkcs8 = crypto.generate(Algorithm::EcdsaP256).map_err(refused)?;
    let key = crypto.load(Algorithm::EcdsaP256, &pkcs8).map_err(refused)?;
    let (role, name) = register::SERVICE;
    let subject = TlsSubject { name, role, hosts: &[], key: key.public_key() };
    let from_ms = now_ms().saturating_sub(register::BACKDATED_MS);
    let terms = Terms::new(from_ms, limits::SERVICE_TLS_DAYS).map_err(refused)?;
    Ok((authority.issue_tls(&subject, &terms).map_err(refused)?, pkcs8))
}

/// A refused PIN is remembered beside the register.
fn open_authority(config: &CaConfig, crypto: &Crypto) -> Result<Authority, CaStartError> {
    let memory = config.ca.register.parent().unwrap_or(Path::new("."));
    authority::open(&config.ca.authority, memory, crypto).map_err(|error| {
        let (is_final, may_pass) = (error.is_final(), error.may_pass());
        CaStartError { is_final, may_pass, ..refused(error) }
    })
}

fn refused(error: impl std::error::Error) -> CaStartError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    failed(text)
}

fn failed(text: String) -> CaStartError {
    CaStartError { text, is_final: false, may_pass: false }
}

/// Threads that speak TLS; issuing has threads of its own.
const WORKERS: usize = 2;
const STOP_WITHIN: Duration = Duration::from_secs(5);
