//! TLS 1.3 between processes: who may speak is decided here, before any message.
//!
//! ```text
//! dialler  -- certificate chain to a member's root, then `check` on the server's identity -->
//! listener <- certificate chain to a member's root, then `check` on the caller's identity --
//! ```
//!
//! Trust roots are the organisations' root certificates of the genesis document. A server is not
//! recognised by a DNS name but by its identity: the check names exactly the peer that was meant.
//! The chain, the key's signature over the handshake and the validity times are checked by rustls
//! and webpki; nothing here relaxes them. Sessions are never resumed, so that every connection
//! passes the checks of the day. A refusal ends the handshake with an alert and a text that names
//! the cause. RFC 8446; rustls 0.23 over one of the libraries of `tls_provider`.

use std::fmt;
use std::sync::Arc;
use std::sync::RwLock;

use bytes::Bytes;
use rustls::CertificateError;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::DistinguishedName;
use rustls::Error as RustlsError;
use rustls::OtherError;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::server::ClientHello;
use rustls::server::NoServerSessionStorage;
use rustls::server::ParsedCertificate;
use rustls::server::ResolvesServerCert;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerified;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::sign::SigningKey;
use rustls::version::TLS13;

use crate::network::tls_provider::TlsProvider;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A root certificate that is none.
    #[error("organisation root certificate {index} is unusable; check the genesis document")]
    Root {
        /// Position in the list given.
        index: usize,
        /// The cause.
        source: RustlsError,
    },
    /// Key and certificate do not fit or do not parse.
    #[error("the TLS key or certificate of this node is unusable; enrol it again")]
    Credentials(#[source] RustlsError),
    /// No such library.
    #[error("TLS cannot run on {name:?} in this build; choose auto or one of: {known}")]
    Provider {
        /// As configured.
        name: String,
        /// The rows of this build.
        known: String,
    },
    /// No roots at all, or a provider without TLS 1.3.
    #[error("TLS setup failed: {0}")]
    Setup(String),
}

/// Decides on an identity: the leaf certificate, DER, whose chain to some member's root is already
/// proven. Must itself refuse a certificate that claims another organisation than its root's. The
/// error is shown to operators.
pub type Check = Arc<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

/// Whether callers of a listener must show a certificate. One that is shown is always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Peers: no certificate, no connection.
    Authenticated,
    /// Client interfaces: the interface decides what an unknown caller may ask.
    Any,
}

/// This process's TLS certificates and key; may be replaced while connections stand.
pub struct Credentials {
    current: RwLock<Arc<CertifiedKey>>,
    provider: TlsProvider,
}

impl Credentials {
    /// A certificate chain, leaf first, DER, with its key in PKCS #8 (or SEC 1) DER.
    pub fn new(chain: &[Bytes], key: &[u8]) -> Result<Self, TlsError> {
        Self::over(TlsProvider::auto(), chain, key)
    }

    /// The same with a library that was chosen: it signs the handshakes.
    pub fn over(provider: TlsProvider, chain: &[Bytes], key: &[u8]) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(certified_key(&provider, chain, key)?));
        Ok(Self { current, provider })
    }

    /// The same with a key that lives elsewhere, for instance in a token behind the signer. The
    /// caller vouches that it belongs to the leaf.
    pub fn with_key(chain: &[Bytes], key: Arc<dyn SigningKey>) -> Self {
        let current = RwLock::new(Arc::new(CertifiedKey::new(ders(chain), key)));
        Self { current, provider: TlsProvider::auto() }
    }

    /// New connections use this chain and key from now on: renewal without restart.
    pub fn replace(&self, chain: &[Bytes], key: &[u8]) -> Result<(), TlsError> {
        let renewed = Arc::new(certified_key(&self.provider, chain, key)?);
        *self.current.write().expect("no holder of this lock panics") = renewed;
        Ok(())
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().expect("no holder of this lock panics"))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The members' root certificates, and the library that checks chains to them and encrypts.
#[derive(Clone, Debug)]
pub struct Roots {
    store: Arc<RootCertStore>,
    provider: TlsProvider,
}

impl Roots {
    /// From the organisations' root certificates, DER; at least one.
    pub fn new<'a>(roots: impl IntoIterator<Item = &'a Bytes>) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for (index, root) in roots.into_iter().enumerate() {
            store
                .add(CertificateDer::from(root.to_vec()))
                .map_err(|source| TlsError::Root { index, source })?;
        }
        if store.is_empty() {
            return Err(TlsError::Setup("no root certificates were given".to_owned()));
        }
        Ok(Self { store: Arc::new(store), provider: TlsProvider::auto() })
    }

    /// The same with a library that was chosen; `new` takes that of `auto`.
    pub fn over(self, provider: TlsProvider) -> Self {
        Self { provider, ..self }
    }
}

/// TLS for a listener. `protocols` are the ALPN names, most wanted first.
pub fn server_config(
    credentials: Arc<Credentials>,
    roots: &Roots,
    callers: Callers,
    check: Check,
    protocols: &[&str],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = roots.provider.rustls();
    let builder = WebPkiClientVerifier::builder_with_provider(
        Arc::clone(&roots.store),
        Arc::clone(&provider),
    )
    .clear_root_hint_subjects();
    let chains = match callers {
        Callers::Authenticated => builder,
        Callers::Any => builder.allow_unauthenticated(),
    }
    .build()
    .map_err(|error| TlsError::Setup(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .with_client_cert_verifier(Arc::new(CallerVerifier { chains, check }))
        .with_cert_resolver(credentials);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = alpn(protocols);
    Ok(Arc::new(config))
}

/// TLS for dialling a server whose identity `check` accepts; `None` as credentials stays anonymous.
pub fn client_config(
    credentials: Option<Arc<Credentials>>,
    roots: &Roots,
    check: Check,
    protocols: &[&str],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = roots.provider.rustls();
    let verifier =
        ServerVerifier { roots: Arc::clone(&roots.store), provider: Arc::clone(&provider), check };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match credentials {
        Some(credentials) => builder.with_client_cert_resolver(credentials),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = alpn(protocols);
    Ok(Arc::new(config))
}

/// The name rustls asks for; neither sent (no SNI) nor checked (identities are).
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("obelisk").expect("a valid DNS label")
}

/// Checks chain, times, usage and handshake signature as webpki does, then the identity.
#[derive(Clone)]
struct ServerVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    check: Check,
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerVerifier")
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        (self.check)(leaf).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        Err(RustlsError::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// webpki's checks of a caller's chain, then the identity.
struct CallerVerifier {
    chains: Arc<dyn ClientCertVerifier>,
    check: Check,
}

impl fmt::Debug for CallerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerVerifier")
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chains.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chains.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, RustlsError> {
        let verified = self.chains.verify_client_cert(leaf, intermediates, now)?;
        (self.check)(leaf).map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        Err(RustlsError::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        self.chains.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// An identity that the chain proves and the check refuses.
#[derive(Debug, thiserror::Error)]
#[error("identity refused: {0}")]
struct IdentityRefused(String);

fn refused(reason: String) -> RustlsError {
    let reason = OtherError(Arc::new(IdentityRefused(reason)));
    RustlsError::InvalidCertificate(CertificateError::Other(reason))
}

fn certified_key(
    provider: &TlsProvider,
    chain: &[Bytes],
    key: &[u8],
) -> Result<CertifiedKey, TlsError> {
    let key = PrivateKeyDer::try_from(key.to_vec())
        .map_err(|reason| TlsError::Credentials(RustlsError::General(reason.to_owned())))?;
    CertifiedKey::from_der(ders(chain), key, &provider.rustls()).map_err(TlsError::Credentials)
}

fn ders(chain: &[Bytes]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
}

fn alpn(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols.iter().map(|name| name.as_bytes().to_vec()).collect()
}
