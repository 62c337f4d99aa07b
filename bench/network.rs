//! What a message between two nodes costs: CPU microseconds of both sides together, over loopback,
//! mutual TLS 1.3 included. Votes are measured one at a time (each waits for the one before: the
//! dearest case) and in bursts, batches as a validator sends them: 300 transactions of 360 bytes.
//!
//! `cargo bench --bench network -- [messages]`. CPU time moves little with the load of the machine,
//! wall time does.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use obelisk::consensus::Envelope;
use obelisk::crypto::SigningKey;
use obelisk::crypto::routing::Crypto;
use obelisk::membership::authority::Authority;
use obelisk::membership::authority::Terms;
use obelisk::membership::authority::TlsSubject;
use obelisk::membership::identity::Role;
use obelisk::network::Inbox;
use obelisk::network::Message;
use obelisk::network::Peer;
use obelisk::network::Transport;
use obelisk::network::grpc::Config;
use obelisk::network::grpc::Grpc;
use obelisk::network::peers::PeerAddress;
use obelisk::network::recognise::Identify;
use obelisk::network::tls::Credentials;
use obelisk::network::tls::Roots;
use obelisk::telemetry::metrics::Metrics;
use obelisk::telemetry::process;
use obelisk::types::digest::Digest;
use obelisk::types::ids::ChainId;
use obelisk::types::ids::ReplicaId;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::Signature;

const BATCH_TXS: usize = 300;
const TX_BYTES: usize = 360;

#[derive(Default)]
struct Counter(Mutex<u64>, Condvar);

impl Counter {
    fn wait(&self, count: u64) {
        let arrived = self.0.lock().expect("no panics inside");
        drop(self.1.wait_while(arrived, |arrived| *arrived < count).expect("no panics inside"));
    }
}

impl Inbox for Counter {
    fn on_message(&self, _from: &Peer, _message: Message) {
        *self.0.lock().expect("no panics inside") += 1;
        self.1.notify_all();
    }

    fn on_connected(&self, _peer: &Peer) {}
}

fn main() {
    let messages = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(20_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let seat = |id: u16| Peer {
        organisation: "org".to_owned(),
        name: format!("v{id}"),
        replica: Some(ReplicaId(id)),
    };
    let authority = Authority::found("org", key().1, &terms(60)).expect("a root");
    // The bench has two nodes: each knows the other, by its own seat.
    let node = |me: u16, listener, peers| {
        let identify: Identify = Arc::new(move |_| Ok(seat(1 - me)));
        start(&authority, me, listener, peers, identify, &runtime)
    };
    let (receiver, arrived) = node(1, Some(listener), vec![]);
    let (sender, _) = node(0, None, vec![PeerAddress { peer: seat(1), address }]);
    let vote = Message::Consensus(Envelope {
        sender: ReplicaId(0),
        body: Bytes::from(vec![5; 200]),
        signature: Signature([7; 64]),
    });
    let batch = Message::Batch(Bytes::from(vec![5; BATCH_TXS * TX_BYTES]));
    sender.send(ReplicaId(1), vote.clone());
    arrived.wait(1);
    let bench = Bench { sender, arrived };
    bench.run("network::vote/pace=single", messages, 1, &vote, 1);
    bench.run("network::vote/pace=burst_of_64", messages, 64, &vote, 1);
    bench.run("network::batch/per=transaction", messages / 10, 8, &batch, BATCH_TXS as u64);
    drop(receiver);
}

struct Bench {
    sender: Arc<Grpc>,
    arrived: Arc<Counter>,
}

impl Bench {
    fn run(&self, name: &str, messages: u64, burst: u64, message: &Message, units: u64) {
        let before = *self.arrived.0.lock().expect("no panics inside");
        let (cpu, wall) = (process::cpu(), Instant::now());
        let mut sent = 0;
        while sent < messages {
            for _ in 0..burst {
                self.sender.send(ReplicaId(1), message.clone());
            }
            sent += burst;
            self.arrived.wait(before + sent);
        }
        let total = (sent * units) as f64;
        let cpu = (process::cpu() - cpu).as_secs_f64() * 1e6 / total;
        let wall = wall.elapsed().as_secs_f64() * 1e6 / total;
        println!("{name:40} {cpu:8.2} us CPU {wall:8.2} us wall");
    }
}

fn start(
    authority: &Authority,
    me: u16,
    listener: Option<std::net::TcpListener>,
    peers: Vec<PeerAddress>,
    identify: Identify,
    runtime: &tokio::runtime::Runtime,
) -> (Arc<Grpc>, Arc<Counter>) {
    let (pkcs8, key) = key();
    let name = format!("v{me}");
    let role = Role::Validator;
    let subject = TlsSubject { name: &name, role, hosts: &[], key: key.public_key() };
    let chain = [authority.issue_tls(&subject, &terms(30)).expect("a certificate")];
    let config = Config {
        chain: ChainId(Digest::of(&[b"bench"])),
        listener,
        peers,
        credentials: Arc::new(Credentials::new(&chain, &pkcs8).expect("usable")),
        roots: Roots::new([&authority.root().der]).expect("a root"),
        identify,
        metrics: Arc::new(Metrics::new()),
        runtime: runtime.handle().clone(),
    };
    let inbox = Arc::new(Counter::default());
    let grpc = Grpc::new(config).expect("a bound socket");
    grpc.start(inbox.clone()).expect("not started before");
    (grpc, inbox)
}

fn key() -> (Vec<u8>, Arc<dyn SigningKey>) {
    let crypto = Crypto::portable();
    let pkcs8 = crypto.generate(Algorithm::EcdsaP256).expect("randomness");
    let key = crypto.load(Algorithm::EcdsaP256, &pkcs8).expect("just made");
    (pkcs8.to_vec(), key)
}

fn terms(days: u32) -> Terms {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    Terms::new(now as u64 - 3_600_000, days).expect("randomness")
}
