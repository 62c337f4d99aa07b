//! A consortium of two organisations on loopback, with real certificates, for tests.

use std::net::TcpListener;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use tokio::runtime::Runtime;

use super::*;
use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::membership::authority::Authority;
use crate::membership::authority::Terms;
use crate::membership::authority::TlsSubject;
use crate::membership::directory::Directory;
use crate::membership::identity::Role;
use crate::network::recognise;
use crate::network::tests::Network;
use crate::network::tests::Recorder;
use crate::network::tls_provider::TlsProvider;
use crate::types::genesis::ChainParameters;
use crate::types::genesis::Genesis;
use crate::types::genesis::Organisation;
use crate::types::ids::Epoch;
use crate::types::replica_set::Replica;
use crate::types::replica_set::ReplicaSet;
use crate::types::signature::Algorithm;

pub(crate) struct Consortium {
    pub authorities: Vec<Authority>,
    pub genesis: Genesis,
    pub identify: Identify,
    pub runtime: Runtime,
    /// TLS of the members of org0, and of org1.
    pub tls: [TlsProvider; 2],
}

/// A started node.
pub(crate) struct Node {
    pub grpc: Arc<Grpc>,
    pub inbox: Arc<Recorder>,
    pub metrics: Arc<Metrics>,
}

pub(crate) fn new_key() -> (Vec<u8>, Arc<dyn SigningKey>) {
    let crypto = Crypto::portable();
    let pkcs8 = crypto.generate(Algorithm::EcdsaP256).unwrap();
    let key = crypto.load(Algorithm::EcdsaP256, &pkcs8).unwrap();
    (pkcs8.to_vec(), key)
}

pub(crate) fn authority(organisation: &str) -> Authority {
    Authority::found(organisation, new_key().1, &terms(60)).unwrap()
}

/// TLS certificate chain and key, as the node would read them.
pub(crate) fn tls_of(authority: &Authority, role: Role, name: &str) -> (Vec<Bytes>, Vec<u8>) {
    let (pkcs8, key) = new_key();
    let subject = TlsSubject { name, role, hosts: &[], key: key.public_key() };
    (vec![authority.issue_tls(&subject, &terms(30)).unwrap()], pkcs8)
}

fn terms(days: u32) -> Terms {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    Terms::new(u64::try_from(now).unwrap() - 3_600_000, days).unwrap()
}

pub(crate) fn name_of(replica: u16) -> (String, String) {
    (format!("org{}", replica % 2), format!("v{replica}"))
}

pub(crate) fn peer_of(replica: u16) -> Peer {
    let (organisation, name) = name_of(replica);
    Peer { organisation, name, replica: Some(ReplicaId(replica)) }
}

impl Consortium {
    pub fn new(n: u16) -> Self {
        let authorities = vec![authority("org0"), authority("org1")];
        let members = (0..n).map(|i| {
            let (organisation, name) = name_of(i);
            Replica { organisation, name, key: new_key().1.public_key().clone() }
        });
        let genesis = Genesis {
            network: "test".to_owned(),
            time_ms: 1,
            consensus: "pbft".to_owned(),
            parameters: ChainParameters::default(),
            replicas: ReplicaSet::new(Epoch(0), members.collect()).unwrap(),
            organisations: authorities
                .iter()
                .map(|a| Organisation {
                    name: a.root().organisation.clone(),
                    root: a.root().der.clone(),
                })
                .collect(),
        };
        let crypto = Crypto::portable();
        let verify = Arc::new(move |check: &crate::crypto::Check<'_>| crypto.verify(check));
        let directory = Arc::new(Directory::new(&genesis, verify).unwrap());
        let replicas = Arc::new(genesis.replicas.clone());
        let identify = recognise::peers(directory, move || Arc::clone(&replicas));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let tls = [TlsProvider::auto(), TlsProvider::auto()];
        Self { authorities, genesis, identify, runtime, tls }
    }

    /// One for each pair of libraries that this build can run TLS on.
    pub fn over_each_tls(n: u16) -> impl Iterator<Item = Self> {
        let pairs =
            TlsProvider::all().flat_map(|a| TlsProvider::all().map(move |b| [a.clone(), b]));
        pairs.map(move |tls| Self { tls, ..Self::new(n) })
    }

    /// The roots as the members of org1 see them, who dial in most tests.
    pub fn roots(&self) -> Roots {
        self.roots_of("org1")
    }

    pub fn roots_of(&self, organisation: &str) -> Roots {
        let roots = Roots::new(self.authorities.iter().map(|a| &a.root().der)).unwrap();
        roots.over(self.tls_of(organisation))
    }

    pub fn tls_of(&self, organisation: &str) -> TlsProvider {
        self.tls[usize::from(organisation == "org1")].clone()
    }

    pub fn credentials(&self, role: Role, organisation: &str, name: &str) -> Arc<Credentials> {
        let mut authorities = self.authorities.iter();
        let authority = authorities.find(|a| a.root().organisation == organisation).unwrap();
        let (chain, key) = tls_of(authority, role, name);
        Arc::new(Credentials::over(self.tls_of(organisation), &chain, &key).unwrap())
    }

    pub fn config(
        &self,
        credentials: Arc<Credentials>,
        listener: Option<TcpListener>,
        peers: Vec<PeerAddress>,
    ) -> Config {
        Config {
            chain: self.genesis.chain_id(),
            listener,
            peers,
            credentials,
            roots: self.roots(),
            identify: Arc::clone(&self.identify),
            metrics: Arc::new(Metrics::new()),
            runtime: self.runtime.handle().clone(),
        }
    }

    pub fn validator(
        &self,
        replica: u16,
        listener: Option<TcpListener>,
        peers: Vec<PeerAddress>,
    ) -> Node {
        let (organisation, name) = name_of(replica);
        let credentials = self.credentials(Role::Validator, &organisation, &name);
        let config = self.config(credentials, listener, peers);
        Node::start(Config { roots: self.roots_of(&organisation), ..config })
    }
}

impl Node {
    pub fn start(config: Config) -> Self {
        let metrics = Arc::clone(&config.metrics);
        let inbox = Arc::new(Recorder::default());
        let grpc = Grpc::new(config).unwrap();
        grpc.start(inbox.clone()).unwrap();
        Self { grpc, inbox, metrics }
    }
}

pub(crate) fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

pub(crate) fn at(replica: u16, address: &str) -> PeerAddress {
    PeerAddress { peer: peer_of(replica), address: address.to_owned() }
}

/// `n` validators that all dial each other, and an observer.
pub(crate) fn connected(n: u16) -> Network {
    let consortium = Consortium::new(n);
    let (listeners, addresses): (Vec<_>, Vec<_>) = (0..n).map(|_| listener()).unzip();
    let others = |me: Option<u16>| -> Vec<PeerAddress> {
        let ids = (0..n).filter(|id| Some(*id) != me);
        ids.map(|id| at(id, &addresses[usize::from(id)])).collect()
    };
    let mut nodes: Vec<(Arc<dyn Transport>, Arc<Recorder>)> = Vec::new();
    for (id, listener) in (0..n).zip(listeners) {
        let node = consortium.validator(id, Some(listener), others(Some(id)));
        nodes.push((node.grpc, node.inbox));
    }
    let credentials = consortium.credentials(Role::Observer, "org1", "watcher");
    let observer = Node::start(consortium.config(credentials, None, others(None)));
    let (organisation, name) = ("org1".to_owned(), "watcher".to_owned());
    let observer_peer = Peer { organisation, name, replica: None };
    let observer = (observer.grpc as Arc<dyn Transport>, observer.inbox);
    Network { nodes, observer, observer_peer, _ground: Box::new(consortium) }
}
