//! A node to talk to, and how to talk to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use obelisk::api::Service;
use obelisk::api::grpc::proto::node_client::NodeClient;
use obelisk::api::listen::Identity;
use obelisk::api::listen::Listening;
use obelisk::api::listen::Sockets;
use obelisk::client::connection::Client;
use obelisk::client::connection::Located;
use obelisk::client::identity::ClientIdentity;
use obelisk::client::invocation::Invocation;
use obelisk::client::trust::Network;
use obelisk::crypto::routing::Crypto;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::consortium::MemberSpec;
use obelisk::membership::consortium::Spec;
use obelisk::membership::identity::Role;
use obelisk::membership::msp::KeyPair;
use obelisk::membership::msp::Msp;
use obelisk::network::connection;
use obelisk::network::connection::Traffic;
use obelisk::network::memory::Hub;
use obelisk::network::tls;
use obelisk::network::tls::Credentials;
use obelisk::network::tls::Roots;
use obelisk::pipeline::start::Pipeline;
use obelisk::telemetry::metrics::Metrics;
use obelisk::types::genesis::Organisation;
use obelisk::types::signature::Algorithm;
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::transport::Endpoint;
use tonic::transport::Uri;

use crate::validator_fixture::validator;

/// A running node.
pub struct TestNode {
    folder: TempDir,
    pub consortium: Consortium,
    pub crypto: Arc<Crypto>,
    pub network: Network,
    pub listening: Option<Listening>,
    pub service: Service,
    pipeline: Option<Pipeline>,
    hub: Arc<Hub>,
}

/// An answer over HTTP.
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

impl TestNode {
    /// Starts a node of a new network; to be called within a runtime.
    pub fn start(open: bool) -> Self {
        Self::start_with("noops", open)
    }

    /// The same with a row of the consensus table; a checkpoint every two sequence numbers.
    pub fn start_with(consensus: &str, open: bool) -> Self {
        Self::start_of(consensus, open, Vec::new())
    }

    /// The same with more organisations, whose authorities are elsewhere.
    pub fn start_of(consensus: &str, open: bool, more: Vec<Organisation>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let crypto = Arc::new(Crypto::portable());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now_ms = u64::try_from(now.as_millis()).unwrap();
        let mut spec = Spec::local("api-test", 1, Algorithm::Ed25519, now_ms);
        spec.consensus = consensus.to_owned();
        (spec.parameters.checkpoint_interval, spec.parameters.window) = (2, 8);
        let hosts = spec.organisations[0].members[0].hosts.clone();
        spec.organisations[0].members = Role::ALL
            .map(|role| MemberSpec {
                name: role.name().to_owned(),
                role,
                hosts: hosts.clone(),
                attributes: BTreeMap::new(),
                key: None,
            })
            .to_vec();
        let net = folder.path().join("net");
        let mut consortium = Consortium::make(&net, &spec, &crypto).unwrap();
        consortium.genesis.organisations.extend(more);
        let genesis = Arc::new(consortium.genesis.clone());
        let network = Network::new(genesis.clone(), crypto.clone()).unwrap();
        let hub = Hub::of_validators(1);
        let pipeline = validator(&consortium, &crypto, &hub, &folder.path().join("node"));
        let service = Service::new(pipeline.handle.clone(), open);
        let pipeline = Some(pipeline);
        let listening = None;
        let mut node =
            Self { folder, consortium, crypto, network, listening, service, pipeline, hub };
        node.listen(TcpListener::bind("127.0.0.1:0").unwrap());
        node
    }

    /// Opens the interfaces, gRPC on this socket.
    pub fn listen(&mut self, grpc: TcpListener) {
        let tls = self.pair(Role::Validator);
        let roots = Roots::new(self.consortium.genesis.organisations.iter().map(|o| &o.root));
        let credentials =
            Credentials::new(std::slice::from_ref(&tls.certificate), tls.pkcs8().unwrap()).unwrap();
        let identity = Identity { credentials: Arc::new(credentials), roots: roots.unwrap() };
        let any = || Some(TcpListener::bind("127.0.0.1:0").unwrap());
        let sockets = Sockets { rest: any(), rest_plain: any(), grpc: Some(grpc) };
        let runtime = tokio::runtime::Handle::current();
        self.listening =
            Some(Listening::start(&self.service, sockets, &identity, &runtime).unwrap());
    }

    /// Closes the interfaces; the node goes on.
    pub async fn close(&mut self) {
        self.listening.take().unwrap().stop().await;
    }

    pub fn open(&self) -> &Listening {
        self.listening.as_ref().unwrap()
    }

    /// Where the node keeps evidence.
    pub fn evidence_folder(&self) -> PathBuf {
        self.folder.path().join("node/consensus/evidence")
    }

    pub fn msp(&self, role: Role) -> Msp {
        Msp::load(&self.consortium.of_role(role).next().unwrap().folder).unwrap()
    }

    /// TLS certificate and key of a member.
    pub fn pair(&self, role: Role) -> KeyPair {
        self.msp(role).tls.unwrap()
    }

    pub fn identity(&self, role: Role) -> ClientIdentity {
        ClientIdentity::from_pair(&self.msp(role).enrolment, &self.crypto).unwrap()
    }

    /// A gRPC client that connects as this member, or as nobody.
    pub fn client(&self, role: Option<Role>) -> Client {
        let pair = role.map(|role| self.pair(role));
        let address = self.open().grpc().unwrap().to_string();
        Client::new(&address, &self.network, pair.as_ref()).unwrap()
    }

    /// One REST request over TLS as this member, or as nobody.
    pub async fn rest(&self, role: Option<Role>, method: &str, path: &str, body: &str) -> Answer {
        let media = "application/json";
        self.rest_bytes(role, method, path, media, Bytes::copy_from_slice(body.as_bytes())).await
    }

    pub async fn rest_bytes(
        &self,
        role: Option<Role>,
        method: &str,
        path: &str,
        media: &str,
        body: Bytes,
    ) -> Answer {
        let address = self.open().rest().unwrap();
        let pair = role.map(|role| self.pair(role));
        let dialled = self.dial(pair.as_ref(), address, "http/1.1").await.unwrap();
        exchange(dialled, method, path, media, body).await
    }

    /// A TLS connection with this certificate, or none.
    pub async fn dial(
        &self,
        pair: Option<&KeyPair>,
        address: SocketAddr,
        protocol: &str,
    ) -> std::io::Result<connection::Connection> {
        let roots = Roots::new(self.consortium.genesis.organisations.iter().map(|o| &o.root));
        let credentials = pair.map(|pair| {
            Arc::new(
                Credentials::new(std::slice::from_ref(&pair.certificate), pair.pkcs8().unwrap())
                    .unwrap(),
            )
        });
        let config = tls::client_config(
            credentials,
            &roots.unwrap(),
            Arc::new(|_: &[u8]| Ok(())),
            &[protocol],
        );
        let (traffic, metrics) = (Arc::new(Traffic::default()), Arc::new(Metrics::new()));
        connection::dial(&address.to_string(), config.unwrap(), traffic, metrics).await
    }

    /// The gRPC service over one connection that is not made again when it ends.
    pub async fn grpc_once(
        &self,
        pair: Option<&KeyPair>,
    ) -> Result<NodeClient<Channel>, tonic::transport::Error> {
        let dialled = self.dial(pair, self.open().grpc().unwrap(), "h2").await.unwrap();
        let dialled = Mutex::new(Some(TokioIo::new(dialled)));
        let connector = tower::service_fn(move |_: Uri| {
            let taken = dialled.lock().unwrap().take();
            std::future::ready(taken.ok_or_else(|| std::io::Error::other("it ended")))
        });
        let endpoint = Endpoint::from_static("http://node");
        Ok(NodeClient::new(endpoint.connect_with_connector(connector).await?))
    }

    /// Where plain REST listens.
    pub fn plain(&self) -> SocketAddr {
        self.open().rest_plain().unwrap()
    }

    /// Deploys the test's contract as `kv` and waits for it.
    pub async fn deploy(&self) -> Located {
        let client = self.client(Some(Role::Admin));
        let deploy =
            Invocation::new("lifecycle", "deploy").arg("kv").arg("1").arg("wasm").arg(contract());
        client.invoke(&self.identity(Role::Admin), &deploy, WAIT).await.unwrap()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.hub.transport(0).shutdown();
        if let Some(pipeline) = self.pipeline.take() {
            pipeline.stop();
        }
    }
}

/// One request on a fresh connection.
pub async fn exchange<S>(socket: S, method: &str, path: &str, media: &str, body: Bytes) -> Answer
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, conversation) = http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(conversation);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header(CONTENT_TYPE, media)
        .body(Full::new(body))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

/// A contract whose functions go by their first letter: `put` writes key = value and emits `name`,
/// `get` returns the value, `wipe` deletes it, `refuse` refuses, anything else traps.
pub fn contract() -> Vec<u8> {
    let text = r#"(module
        (import "obelisk" "input" (func $input (param i32 i32) (result i32)))
        (import "obelisk" "get" (func $get (param i32 i32 i32 i32) (result i32)))
        (import "obelisk" "put" (func $put (param i32 i32 i32 i32)))
        (import "obelisk" "delete" (func $delete (param i32 i32)))
        (import "obelisk" "emit" (func $emit (param i32 i32 i32 i32)))
        (import "obelisk" "return_value" (func $return (param i32 i32)))
        (import "obelisk" "refuse" (func $refuse (param i32 i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "key-value-name")
        (func (export "obelisk_invoke") (local $letter i32) (local $n i32)
            (drop (call $input (i32.const 1024) (i32.const 4096)))
            (local.set $letter (i32.load8_u (i32.const 1026)))
            (if (i32.eq (local.get $letter) (i32.const 112)) (then
                (call $put (i32.const 0) (i32.const 3) (i32.const 4) (i32.const 5))
                (call $emit (i32.const 10) (i32.const 4) (i32.const 0) (i32.const 3))
                (return)))
            (if (i32.eq (local.get $letter) (i32.const 103)) (then
                (local.set $n (call $get (i32.const 0) (i32.const 3) (i32.const 100) (i32.const 50)))
                (if (i32.gt_s (local.get $n) (i32.const 0)) (then
                    (call $return (i32.const 100) (local.get $n))))
                (return)))
            (if (i32.eq (local.get $letter) (i32.const 119)) (then
                (call $delete (i32.const 0) (i32.const 3))
                (return)))
            (if (i32.eq (local.get $letter) (i32.const 114)) (then
                (call $refuse (i32.const 4) (i32.const 5))))
            unreachable))"#;
    wat::parse_str(text).expect("the contract parses")
}

/// Longest wait for a commit in these tests; never reached on a working node.
pub const WAIT: Duration = Duration::from_secs(30);
