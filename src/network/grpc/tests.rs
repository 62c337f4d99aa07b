//! Real TLS over loopback: who gets in, who does not, and what happens when links break. What TLS
//! itself decides is tried with every pair of libraries that it can run on.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::fixture::*;
use super::*;
use crate::membership::identity::Role;
use crate::network::channel::ChannelError;
use crate::network::frame::wire::peering_client::PeeringClient;
use crate::network::tests::batch;
use crate::network::tests::vote;
use crate::types::digest::Digest;

/// Tries to open a channel as these credentials and says how it went.
fn attempt(
    consortium: &Consortium,
    credentials: Option<Arc<Credentials>>,
    roots: &Roots,
    target: PeerAddress,
) -> Result<Streaming<wire::Frame>, String> {
    let check = exactly(target.peer.clone(), Arc::clone(&consortium.identify));
    let tls = tls::client_config(credentials, roots, check, &["h2"]).unwrap();
    let opening = async {
        let mut client = open(&target.address, tls).await?;
        let hello = frame::hello(&consortium.genesis.chain_id(), Class::Vote);
        let hello = tokio_stream::iter([hello]);
        let requests = futures_util::StreamExt::chain(hello, tokio_stream::pending());
        let frames = client.channel(requests).await?.into_inner();
        Ok::<_, ChannelError>(frames)
    };
    consortium.runtime.block_on(opening).map_err(|error| channel::explain(&error))
}

async fn open(
    address: &str,
    tls: Arc<rustls::ClientConfig>,
) -> Result<PeeringClient<tonic::transport::Channel>, ChannelError> {
    let link = Link::new(at(0, address), &Counter::default());
    let metrics = Arc::new(Metrics::new());
    let sessions = Sessions::new(Arc::new(|_| Ok(())), Arc::clone(&metrics));
    peers::open(&link, tls, &sessions, &metrics).await
}

/// A lone validator 0 that listens.
fn server(consortium: &Consortium) -> (Node, String) {
    let (listener, address) = listener();
    (consortium.validator(0, Some(listener), vec![]), address)
}

/// The server still serves: validator 1 connects and is heard.
fn still_serves(consortium: &Consortium, server: &Node, address: &str) {
    let node = consortium.validator(1, None, vec![at(0, address)]);
    node.inbox.wait_connected(1);
    node.grpc.send(ReplicaId(0), vote(42));
    server.inbox.wait(|s| s.messages.iter().any(|(_, m)| *m == vote(42)).then_some(()));
}

/// A peer that restarts is dialled again, and messages sent meanwhile arrive.
#[test]
fn restarted_server_is_dialled_again() {
    let consortium = Consortium::new(2);
    let (first, address) = server(&consortium);
    let dialler = consortium.validator(1, None, vec![at(0, &address)]);
    dialler.inbox.wait_connected(1);
    dialler.grpc.send(ReplicaId(0), vote(1));
    first.inbox.wait_messages(1);
    consortium.runtime.block_on(first.grpc.shutdown());
    drop(first);
    while dialler.grpc.peers()[0].connected {
        std::thread::yield_now();
    }
    dialler.grpc.send(ReplicaId(0), vote(2));
    // Another connection of this machine may have been given the port meanwhile.
    let listener = loop {
        match std::net::TcpListener::bind(&address) {
            Ok(listener) => break listener,
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let second = consortium.validator(0, Some(listener), vec![]);
    assert_eq!(second.inbox.wait_messages(1)[0].1, vote(2));
    dialler.inbox.wait(|s| (s.connected.len() == 2).then_some(()));
}

/// A certificate from an authority outside the genesis document is refused, in both directions.
#[test]
fn unknown_authority_is_refused() {
    for consortium in Consortium::over_each_tls(2) {
        let (node, address) = server(&consortium);
        let stranger = authority("org1");
        let (chain, key) = tls_of(&stranger, Role::Validator, "v1");
        let credentials = Arc::new(Credentials::new(&chain, &key).unwrap());
        let refused = attempt(&consortium, Some(credentials), &consortium.roots(), at(0, &address))
            .unwrap_err();
        assert!(!refused.is_empty());
        let own = consortium.credentials(Role::Validator, "org1", "v1");
        let roots = Roots::new([&stranger.root().der]).unwrap().over(consortium.tls_of("org1"));
        let refused = attempt(&consortium, Some(own), &roots, at(0, &address)).unwrap_err();
        assert!(refused.contains("UnknownIssuer"), "{refused}");
        assert_eq!(node.inbox.count(), 0);
        still_serves(&consortium, &node, &address);
    }
}

/// A member's root does not vouch for another organisation's names.
#[test]
fn authority_cannot_speak_for_another_organisation() {
    for consortium in Consortium::over_each_tls(2) {
        let (_node, address) = server(&consortium);
        // A second authority of that name whose root is not the one of the genesis document, and a
        // member that is not a peer.
        let alice = consortium.credentials(Role::Client, "org1", "alice");
        let refused =
            attempt(&consortium, Some(alice), &consortium.roots(), at(0, &address)).unwrap_err();
        assert!(!refused.is_empty());
    }
}

/// The right authority but another peer than the one meant: the dialler refuses and names both.
#[test]
fn wrong_identity_is_refused() {
    for consortium in Consortium::over_each_tls(3) {
        let (_node, address) = server(&consortium);
        let credentials = consortium.credentials(Role::Validator, "org1", "v1");
        let target = at(2, &address);
        let refused =
            attempt(&consortium, Some(credentials), &consortium.roots(), target).unwrap_err();
        assert!(refused.contains("org0/v2") && refused.contains("org0/v0"), "{refused}");
    }
}

/// Without a client certificate there is no channel.
#[test]
fn no_client_certificate_is_refused() {
    for consortium in Consortium::over_each_tls(2) {
        let (node, address) = server(&consortium);
        let refused = attempt(&consortium, None, &consortium.roots(), at(0, &address)).unwrap_err();
        assert!(!refused.is_empty());
        still_serves(&consortium, &node, &address);
    }
}

/// TLS 1.2 is refused by the listener.
#[cfg(feature = "openssl")]
#[test]
fn tls_1_2_is_refused() {
    for consortium in Consortium::over_each_tls(2) {
        use openssl::ssl::SslConnector;
        use openssl::ssl::SslMethod;
        use openssl::ssl::SslVerifyMode;
        use openssl::ssl::SslVersion;

        let (_node, address) = server(&consortium);
        let connect = |version: SslVersion| {
            let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
            builder.set_verify(SslVerifyMode::NONE);
            builder.set_min_proto_version(Some(SslVersion::TLS1_2)).unwrap();
            builder.set_max_proto_version(Some(version)).unwrap();
            builder.build().connect("obelisk", TcpStream::connect(&address).unwrap())
        };
        let refused = connect(SslVersion::TLS1_2).unwrap_err().to_string();
        assert!(refused.contains("protocol version"), "{refused}");
        assert_eq!(connect(SslVersion::TLS1_3).unwrap().ssl().version_str(), "TLSv1.3");
    }
}

/// A peer of another chain is refused, and the text names both chains.
#[test]
fn other_chain_is_refused() {
    let consortium = Consortium::new(2);
    let (node, address) = server(&consortium);
    let credentials = consortium.credentials(Role::Validator, "org1", "v1");
    let check = exactly(peer_of(0), Arc::clone(&consortium.identify));
    let tls = tls::client_config(Some(credentials), &consortium.roots(), check, &["h2"]).unwrap();
    let (ours, theirs) = (consortium.genesis.chain_id(), ChainId(Digest::of(&[b"other"])));
    let status = consortium.runtime.block_on(async {
        let mut client = open(&address, tls).await.unwrap();
        let hello = frame::hello(&theirs, Class::Vote);
        client.channel(tokio_stream::iter([hello])).await.unwrap_err()
    });
    let text = status.message();
    assert!(text.contains(&ours.to_string()) && text.contains(&theirs.to_string()), "{text}");
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert_eq!(node.inbox.count(), 0);
}

/// Opens a channel as validator 1, sends these frames after the hello, and returns the status with
/// which the server ends it.
fn answer_to(consortium: &Consortium, address: &str, frames: Vec<wire::Frame>) -> Status {
    let credentials = consortium.credentials(Role::Validator, "org1", "v1");
    let check = exactly(peer_of(0), Arc::clone(&consortium.identify));
    let tls = tls::client_config(Some(credentials), &consortium.roots(), check, &["h2"]).unwrap();
    consortium.runtime.block_on(async {
        let client = open(address, tls).await.unwrap();
        let mut client = client.max_encoding_message_size(usize::MAX);
        let hello = frame::hello(&consortium.genesis.chain_id(), Class::Vote);
        let pending = tokio_stream::pending();
        let sent = tokio_stream::iter([hello].into_iter().chain(frames));
        let sent = futures_util::StreamExt::chain(sent, pending);
        let mut answers = client.channel(sent).await.unwrap().into_inner();
        loop {
            match answers.message().await {
                Ok(Some(_hello)) => {}
                Ok(None) => return Status::ok("ended without a reason"),
                Err(status) => return status,
            }
        }
    })
}

/// A frame above the limit ends the channel with a text that names the limit.
#[test]
fn oversized_frame_ends_the_channel() {
    let consortium = Consortium::new(2);
    let (node, address) = server(&consortium);
    let body = Bytes::from(vec![0; limits::FRAME_BYTES_MAX]);
    let message = wire::Message { body: Some(wire::message::Body::Batch(body)) };
    let frame = wire::Frame { hello: None, messages: vec![message] };
    let status = answer_to(&consortium, &address, vec![frame]);
    assert!(status.message().contains(&limits::FRAME_BYTES_MAX.to_string()), "{status:?}");
    assert_eq!(node.inbox.count(), 0);
    still_serves(&consortium, &node, &address);
}

/// A message of unknown kind, and one of the wrong class, end the channel with the reason.
#[test]
fn broken_protocol_ends_the_channel() {
    let consortium = Consortium::new(2);
    let (node, address) = server(&consortium);
    let unknown = wire::Frame { hello: None, messages: vec![wire::Message { body: None }] };
    let status = answer_to(&consortium, &address, vec![unknown]);
    assert!(status.message().contains("unknown kind"), "{status:?}");
    let wrong = frame::messages(vec![batch(1, 10).into()]);
    let status = answer_to(&consortium, &address, vec![wrong]);
    assert!(status.message().contains("class"), "{status:?}");
    still_serves(&consortium, &node, &address);
}

/// A queue towards an absent peer drops the oldest, counts it, and keeps the newest.
#[test]
fn full_queue_drops_and_counts() {
    let consortium = Consortium::new(2);
    let (listener, address) = listener();
    let dialler = consortium.validator(1, None, vec![at(0, &address)]);
    const COUNT: u64 = 50;
    let size = limits::PEER_QUEUE_OFFLINE_BYTES_MAX / 10;
    for number in 0..COUNT {
        dialler.grpc.send(ReplicaId(0), batch(number, size));
    }
    let dropped = dialler.grpc.peers()[0].dropped;
    assert_eq!(dropped, COUNT - 9, "nine and their overhead fit");
    assert_eq!(dialler.metrics.network_messages_dropped.get(), dropped);
    let server = consortium.validator(0, Some(listener), vec![]);
    let got = server.inbox.wait_messages(9);
    assert_eq!(got[0].1, batch(COUNT - 9, size));
    assert_eq!(got[8].1, batch(COUNT - 1, size));
}

/// Garbage, silence and half-open connections on the port disturb nobody.
#[test]
fn garbage_on_the_port_is_survived() {
    let consortium = Consortium::new(2);
    let (node, address) = server(&consortium);
    let mut held = Vec::new();
    for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0x16, 3, 1, 0xff, 0xff], b""] {
        let mut socket = TcpStream::connect(&address).unwrap();
        // The server may hang up first.
        let _ = socket.write_all(junk);
        held.push(socket);
    }
    still_serves(&consortium, &node, &address);
    let mut first = held.remove(0);
    let mut rest = Vec::new();
    // Ends: the server closed it.
    let _ = first.read_to_end(&mut rest);
}

/// A peer that keeps opening connections keeps the newest ones only.
#[test]
fn connections_of_one_peer_are_bounded() {
    let consortium = Consortium::new(2);
    let (node, address) = server(&consortium);
    let credentials = consortium.credentials(Role::Validator, "org1", "v1");
    let mut open = Vec::new();
    for _ in 0..limits::PEER_CONNECTIONS_MAX + 3 {
        let roots = consortium.roots();
        let target = at(0, &address);
        open.push(attempt(&consortium, Some(Arc::clone(&credentials)), &roots, target).unwrap());
    }
    let held = locked(&node.grpc.accepted).get(&peer_of(1)).map_or(0, Vec::len);
    assert_eq!(held, limits::PEER_CONNECTIONS_MAX);
}

/// Knows peers as the consortium does, except this one, from the moment that the flag is set.
fn forgetting(consortium: &Consortium, name: &str) -> (Identify, Arc<AtomicBool>) {
    let (identify, revoked) = (Arc::clone(&consortium.identify), Arc::new(AtomicBool::new(false)));
    let (flag, name) = (Arc::clone(&revoked), name.to_owned());
    let asked: Identify = Arc::new(move |der| match identify(der)? {
        peer if peer.name == name && flag.load(Ordering::SeqCst) => Err("revoked".to_owned()),
        peer => Ok(peer),
    });
    (asked, revoked)
}

/// Waits, then looks for a while whether it stays so.
fn stays(what: &str, holds: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < end, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    for _ in 0..100 {
        assert!(holds(), "not for long: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Callers whose certificate is revoked, a validator and an observer, are cut off and do not come
/// in again; others stay.
#[test]
fn revoked_callers_are_cut_and_kept_out() {
    for (name, role, organisation) in
        [("v1", Role::Validator, "org1"), ("watcher", Role::Observer, "org1")]
    {
        let consortium = Consortium::new(3);
        let (listener, address) = listener();
        let own = consortium.credentials(Role::Validator, "org0", "v0");
        let mut config = consortium.config(own, Some(listener), vec![]);
        let (identify, revoked) = forgetting(&consortium, name);
        config.identify = identify;
        let node = Node::start(config);
        let credentials = consortium.credentials(role, organisation, name);
        let revoked_peer = Node::start(consortium.config(credentials, None, vec![at(0, &address)]));
        let other = consortium.validator(2, None, vec![at(0, &address)]);
        let connected = |node: &Node| node.grpc.peers()[0].connected;
        stays("both are connected", || connected(&revoked_peer) && connected(&other));
        revoked.store(true, Ordering::SeqCst);
        node.grpc.recheck();
        stays("one is out, the other is in", || !connected(&revoked_peer) && connected(&other));
        assert_eq!(node.metrics.connections_cut.get(), 2, "votes and data");
        let here: Vec<String> =
            locked(&node.grpc.accepted).keys().map(|p| p.name.clone()).collect();
        assert_eq!(here, ["v2"]);
    }
}

/// A server whose certificate is revoked is hung up on and not dialled successfully again.
#[test]
fn revoked_servers_are_hung_up_on() {
    let consortium = Consortium::new(2);
    let (_server, address) = server(&consortium);
    let own = consortium.credentials(Role::Validator, "org1", "v1");
    let mut config = consortium.config(own, None, vec![at(0, &address)]);
    let (identify, revoked) = forgetting(&consortium, "v0");
    config.identify = identify;
    let node = Node::start(config);
    stays("connected", || node.grpc.peers()[0].connected);
    revoked.store(true, Ordering::SeqCst);
    node.grpc.recheck();
    stays("hung up", || !node.grpc.peers()[0].connected);
    assert_eq!(node.metrics.connections_cut.get(), 2, "votes and data");
}

/// Bytes on the wire show up in the metrics.
#[test]
fn bytes_are_counted() {
    for consortium in Consortium::over_each_tls(2) {
        let (node, address) = server(&consortium);
        let dialler = consortium.validator(1, None, vec![at(0, &address)]);
        dialler.grpc.send(ReplicaId(0), batch(1, 1_000_000));
        node.inbox.wait_messages(1);
        // The last write may be received before it is counted.
        assert!(dialler.metrics.network_bytes_sent.get() > 900_000);
        assert!(node.metrics.network_bytes_received.get() > 1_000_000);
    }
}

/// A listener for clients lets anonymous callers in and says so; a certificate that is shown must
/// still pass.
#[test]
fn client_listeners_take_anonymous_callers() {
    for consortium in Consortium::over_each_tls(2) {
        let (listener, address) = listener();
        let own = consortium.credentials(Role::Validator, "org0", "v0");
        let check: Check = Arc::new(|_| Ok(()));
        let roots = consortium.roots();
        let tls =
            tls::server_config(own, &roots, Callers::Any, Arc::clone(&check), &["h2"]).unwrap();
        let (stop, stopped) = watch::channel(false);
        let metrics = Arc::new(Metrics::new());
        let mut connections = {
            let _runtime = consortium.runtime.enter();
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let sessions = Sessions::new(Arc::clone(&check), Arc::clone(&metrics));
            connection::accept(listener, tls, sessions, Arc::clone(&metrics), stopped)
        };
        let mut certificate_seen = |credentials: Option<Arc<Credentials>>| {
            let config =
                tls::client_config(credentials, &roots, Arc::clone(&check), &["h2"]).unwrap();
            let dial = connection::dial(&address, config, Arc::default(), Arc::clone(&metrics));
            consortium.runtime.block_on(async {
                let dialled = dial.await.unwrap();
                let accepted = tokio::select! {
                    accepted = futures_util::StreamExt::next(&mut connections) => accepted,
                    () = refused(dialled) => None,
                };
                accepted.map(|a| a.unwrap().caller().certificate.clone())
            })
        };
        assert_eq!(certificate_seen(None), Some(None));
        let alice = consortium.credentials(Role::Client, "org1", "alice");
        assert!(certificate_seen(Some(alice)).unwrap().is_some());
        let (chain, key) = tls_of(&authority("org1"), Role::Client, "alice");
        let forged = Arc::new(Credentials::new(&chain, &key).unwrap());
        assert_eq!(certificate_seen(Some(forged)), None);
        drop(stop);
    }
}

/// Returns when the listener ends the connection; in TLS 1.3 the dialler learns of a refusal only
/// when it reads.
async fn refused(mut dialled: connection::Connection) {
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut dialled, &mut byte).await;
    assert!(!matches!(read, Ok(1..)), "the server says nothing first");
}

/// After a renewal new connections show the new certificate, without a restart.
#[test]
fn credentials_are_renewed_without_restart() {
    for consortium in Consortium::over_each_tls(2) {
        let own = consortium.credentials(Role::Validator, "org0", "v0");
        let (listener, address) = listener();
        let _node = Node::start(consortium.config(Arc::clone(&own), Some(listener), vec![]));
        let shown = || {
            let check: Check = Arc::new(|_| Ok(()));
            let client = consortium.credentials(Role::Validator, "org1", "v1");
            let config =
                tls::client_config(Some(client), &consortium.roots(), check, &["h2"]).unwrap();
            let metrics = Arc::new(Metrics::new());
            let dial = connection::dial(&address, config, Arc::default(), metrics);
            consortium.runtime.block_on(dial).unwrap().caller().certificate.clone()
        };
        let before = shown();
        assert_eq!(before, shown());
        let (chain, key) = tls_of(&consortium.authorities[0], Role::Validator, "v0");
        own.replace(&chain, &key).unwrap();
        assert_eq!(shown(), Some(chain[0].clone()));
        let (_, other_key) = tls_of(&consortium.authorities[0], Role::Validator, "v0");
        assert!(own.replace(&chain, &other_key).is_err(), "key and certificate do not fit");
        assert_eq!(shown(), Some(chain[0].clone()));
    }
}

/// Slow callers cannot keep others out: when all handshake slots are taken the oldest gives way.
#[test]
fn slow_handshakes_give_way() {
    let consortium = Consortium::new(2);
    let (node, address) = server(&consortium);
    let connect = |_| TcpStream::connect(&address).unwrap();
    let _held: Vec<_> = (0..2 * limits::HANDSHAKES_MAX).map(connect).collect();
    still_serves(&consortium, &node, &address);
}
