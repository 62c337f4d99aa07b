//! A consortium of real nodes: TLS, gRPC, PBFT, RocksDB or memory, on loopback, in one process.
//!
//! `Cluster` makes the folders as an operator would (`membership::consortium`), writes each node's
//! configuration, and starts and stops nodes; the tests speak to them through the client library.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use obelisk::client::connection::Client;
use obelisk::client::identity::ClientIdentity;
use obelisk::client::invocation::Invocation;
use obelisk::client::trust::Network;
use obelisk::crypto::routing::Crypto;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::consortium::Member;
use obelisk::membership::consortium::Spec;
use obelisk::membership::identity::Role;
use obelisk::membership::msp::Msp;
use obelisk::node::assembly::Node;
use obelisk::node::config::Config;
use obelisk::node::placement::Placement;
use obelisk::telemetry::progress::Progress;
use obelisk::types::ids::Height;
use obelisk::types::receipt::Status;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::PublicKey;
use tokio::runtime::Runtime;

use super::ports::Ports;

/// Nodes of one network in a temporary directory.
pub struct Cluster {
    pub directory: tempfile::TempDir,
    pub consortium: Consortium,
    pub runtime: Runtime,
    pub network: Network,
    ports: Ports,
    nodes: Vec<Option<Node>>,
    /// What every node's configuration says besides, beginning in its table `crypto`.
    pub more: String,
}

impl Cluster {
    /// Makes and starts a network of `validators`.
    pub fn start(validators: usize, algorithm: Algorithm, consensus: &str) -> Self {
        Self::start_with(validators, algorithm, consensus, &[], |_, _| String::new())
    }

    /// The same; the first validators have these keys, which are elsewhere. `prepare` gets the
    /// consortium before nodes start and returns what every node's configuration says besides.
    pub fn start_with(
        validators: usize,
        algorithm: Algorithm,
        consensus: &str,
        keys: &[PublicKey],
        prepare: impl FnOnce(&Consortium, &std::path::Path) -> String,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let crypto = Arc::new(Crypto::portable());
        let mut spec = Spec::local("test", validators, algorithm, 1_700_000_000_000);
        spec.consensus = consensus.into();
        spec.time_ms = obelisk::host::clock::now_ms() - 1000;
        let members = spec.organisations.iter_mut().flat_map(|o| &mut o.members);
        let validators_first = members.filter(|member| member.role == Role::Validator);
        for (member, key) in validators_first.zip(keys) {
            member.key = Some(key.clone());
        }
        let consortium = Consortium::make(directory.path(), &spec, &crypto).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let genesis = Arc::new(consortium.genesis.clone());
        let network = Network::new(genesis, crypto).unwrap();
        let ports = Ports::reserve();
        let nodes = (0..validators).map(|_| None).collect();
        let more = prepare(&consortium, directory.path());
        let mut cluster = Self { directory, consortium, runtime, network, ports, nodes, more };
        (0..validators).for_each(|i| cluster.start_node(i));
        cluster
    }

    /// Starts node `i` over its data.
    pub fn start_node(&mut self, i: usize) {
        self.start_node_telling(i, &Arc::default());
    }

    fn start_node_telling(&mut self, i: usize, progress: &Arc<Progress>) {
        let config = self.config(i);
        let fatal = Arc::new(move |reason: String| panic!("node {i} failed: {reason}"));
        let placement = Placement::of_machine(&config.host, &config.node.data);
        let runtime = self.runtime.handle();
        let node = Node::start(&config, &placement, runtime, fatal, progress).unwrap();
        self.nodes[i] = Some(node);
    }

    /// Stops node `i`.
    pub fn stop_node(&mut self, i: usize) {
        self.nodes[i].take().expect("it runs").stop();
    }

    /// A running node.
    pub fn node(&self, i: usize) -> &Node {
        self.nodes[i].as_ref().expect("it runs")
    }

    /// Ports of node `i`: for peers, gRPC, plain REST.
    fn ports_of(&self, i: usize) -> [u16; 3] {
        let first = self.ports.first() + 3 * u16::try_from(i).unwrap();
        std::array::from_fn(|k| first + u16::try_from(k).unwrap())
    }

    /// Members of a role.
    pub fn members(&self, role: Role) -> Vec<Member> {
        self.consortium.of_role(role).cloned().collect()
    }

    /// Configuration of node `i`, as its file would say.
    pub fn config(&self, i: usize) -> Config {
        let validators = self.members(Role::Validator);
        let peers: String = validators
            .iter()
            .enumerate()
            .filter(|(j, _)| *j != i)
            .map(|(j, m)| {
                let (o, n, p) = (&m.organisation, &m.name, self.ports_of(j)[0]);
                format!("[[network.peers]]\norganisation = \"{o}\"\nname = \"{n}\"\naddress = \"127.0.0.1:{p}\"\n")
            })
            .collect();
        let [peer, grpc, rest] = self.ports_of(i);
        let engine = if cfg!(feature = "rocksdb") { "rocksdb" } else { "memory" };
        let text = format!(
            "[node]\nrole = \"validator\"\ndata = \"data{i}\"\nidentity = {:?}\ngenesis = {:?}\n\
             [network]\nlisten = \"127.0.0.1:{peer}\"\n{peers}\
             [api]\nrest = \"\"\nrest_plain = \"127.0.0.1:{rest}\"\ngrpc = \"127.0.0.1:{grpc}\"\nopen = true\n\
             [storage]\nengine = \"{engine}\"\n[crypto]\nverify_threads = 1\n{}",
            validators[i].folder, self.consortium.genesis_path, self.more,
        );
        Config::parse(&text, &self.directory.path().join("node.toml")).unwrap()
    }

    /// A client's identity: client of organisation `i`.
    pub fn identity(&self, role: Role, i: usize) -> ClientIdentity {
        let folder: PathBuf = self.members(role)[i].folder.clone();
        ClientIdentity::load(&folder, self.network.crypto()).unwrap()
    }

    /// A connection to node `i` as a member of organisation `i`.
    pub fn client(&self, i: usize) -> Client {
        let msp = Msp::load(&self.members(Role::Client)[i].folder).unwrap();
        let address = format!("127.0.0.1:{}", self.ports_of(i)[1]);
        let _runtime = self.runtime.enter();
        Client::new(&address, &self.network, msp.tls.as_ref()).unwrap()
    }

    /// Waits until the running nodes stand at one height of at least `least`, with one hash.
    pub fn converge(&self, least: Height) -> Height {
        let end = Instant::now() + PATIENCE;
        loop {
            let tips: Vec<_> =
                self.nodes.iter().flatten().map(|n| n.handle().ledger().tip()).collect();
            if tips.iter().all(|t| t.hash == tips[0].hash && t.height >= least) {
                return tips[0].height;
            }
            assert!(Instant::now() < end, "the nodes do not converge: {tips:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Submits one call through node `i` and waits for its receipt.
    pub fn invoke(
        &self,
        i: usize,
        invocation: &Invocation,
    ) -> obelisk::client::connection::Located {
        let (client, identity) = (self.client(i), self.identity(Role::Client, i));
        self.runtime.block_on(client.invoke(&identity, invocation, PATIENCE)).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().filter_map(Option::take) {
            node.stop();
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

/// A call that any client may make and that changes nothing.
fn harmless() -> Invocation {
    Invocation::new("configure", "show")
}

/// Transactions given to each of four validators end in the same chain on all.
#[test]
fn four_validators_order_execute_and_store_the_same_chain() {
    let cluster = Cluster::start(4, Algorithm::EcdsaP256, "pbft");
    let mut last = Height(0);
    for i in 0..4 {
        let located = cluster.invoke(i, &harmless());
        assert_eq!(located.receipt.status, Status::Ok, "{}", located.receipt.error);
        last = last.max(located.height);
    }
    cluster.converge(last);
}

/// Three of four go on without the fourth; started again, it catches up to the same chain.
#[test]
fn three_of_four_go_on_and_the_fourth_catches_up() {
    let mut cluster = Cluster::start(4, Algorithm::Ed25519, "pbft");
    cluster.invoke(0, &harmless());
    cluster.stop_node(3);
    let mut last = Height(0);
    for _ in 0..5 {
        last = cluster.invoke(1, &harmless()).height;
    }
    cluster.start_node(3);
    cluster.converge(last);
    cluster.stop_node(0);
    let located = cluster.invoke(3, &harmless());
    assert_eq!(located.receipt.status, Status::Ok);
}

/// All nodes stopped and started again keep the chain and go on.
#[test]
fn all_stopped_and_started_again_keep_the_chain() {
    let mut cluster = Cluster::start(4, Algorithm::EcdsaP256, "pbft");
    let height = cluster.invoke(2, &harmless()).height;
    let height = cluster.converge(height);
    let hash = cluster.node(0).handle().ledger().tip().hash;
    (0..4).for_each(|i| cluster.stop_node(i));
    (0..4).for_each(|i| cluster.start_node(i));
    assert_eq!(cluster.node(3).handle().ledger().tip().hash, hash);
    let next = cluster.invoke(2, &harmless()).height;
    assert!(next > height);
    cluster.converge(next);
}

/// A start that executes stored blocks says which one it is at.
#[test]
fn a_start_over_stored_blocks_tells_how_far_it_is() {
    let mut cluster = Cluster::start(1, Algorithm::EcdsaP256, "noops");
    let height = (0..3).map(|_| cluster.invoke(0, &harmless()).height).last().unwrap();
    cluster.stop_node(0);
    let state = cluster.directory.path().join("data0/state");
    if state.exists() {
        std::fs::remove_dir_all(state).unwrap();
    }
    let progress = Arc::new(Progress::default());
    cluster.start_node_telling(0, &progress);
    assert_eq!(progress.step(), format!("executing stored block {height} of {height}"));
}

/// The row `classic` over real nodes: transactions that arrive together at every validator end in
/// blocks of one each.
#[test]
fn classic_makes_a_block_of_each_transaction() {
    let cluster = Cluster::start(4, Algorithm::Ed25519, "classic");
    let identities: Vec<_> = (0..4).map(|i| cluster.identity(Role::Client, i)).collect();
    let clients: Vec<_> = (0..4).map(|i| cluster.client(i)).collect();
    let call = harmless();
    let ids: Vec<usize> = (0..40).map(|i| i % 4).collect();
    let calls = ids.iter().map(|i| clients[*i].invoke(&identities[*i], &call, PATIENCE));
    let located = cluster.runtime.block_on(futures_util::future::join_all(calls));
    let heights: Vec<Height> = located.into_iter().map(|l| l.unwrap().height).collect();
    let distinct: std::collections::BTreeSet<_> = heights.iter().copied().collect();
    assert_eq!(distinct.len(), heights.len(), "no two share a block: {heights:?}");
    let top = cluster.converge(*distinct.last().unwrap());
    let ledger = cluster.node(3).handle().ledger();
    for height in 1..=top.0 {
        let block = ledger.block(Height(height)).unwrap().unwrap();
        let txs: usize = block.batches.iter().map(|b| b.transactions().len()).sum();
        assert_eq!(txs, 1, "block {height}");
    }
}
