//! Wires every part of a node, top to bottom: identity, crypto, storage, ledger, contracts,
//! network, pipeline, API.
//!
//! Each part gets plain values and the parts below it. Whatever is refused here is refused before
//! a port is open.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle as Runtime;

use crate::api::Service;
use crate::api::listen::Identity as TlsIdentity;
use crate::api::listen::Listening;
use crate::api::listen::Sockets;
use crate::chaincode::contracts::Contracts;
use crate::chaincode::contracts::Options;
use crate::consensus;
use crate::consensus::Plugin;
use crate::crypto::Check;
use crate::crypto::choice::Effort;
use crate::crypto::profile::Profile;
use crate::crypto::routing::Crypto;
use crate::crypto::verify_pool::PoolConfig;
use crate::crypto::verify_pool::VerifyPool;
use crate::ledger::Ledger;
use crate::membership::consortium::read_genesis;
use crate::membership::directory::Directory;
use crate::membership::msp::Msp;
use crate::network::Peer;
use crate::network::Transport;
use crate::network::grpc::Config as GrpcConfig;
use crate::network::grpc::Grpc;
use crate::network::peers::PeerAddress;
use crate::network::recognise;
use crate::network::tls::Credentials;
use crate::network::tls::Roots;
use crate::network::tls_key::TlsKey;
use crate::network::tls_provider::TlsProvider;
use crate::node::config::ApiSection;
use crate::node::config::Config;
use crate::node::config::NodeRole;
use crate::node::config::SignerMode;
use crate::node::placement::Placement;
use crate::node::users;
use crate::pipeline::handle::Handle;
use crate::pipeline::order::wal::Wal;
use crate::pipeline::start::Fatal;
use crate::pipeline::start::Parts;
use crate::pipeline::start::Pipeline;
use crate::pipeline::start::Seat;
use crate::signer::Signer;
use crate::signer::embedded::EmbeddedSigner;
use crate::signer::embedded::Mode;
use crate::signer::remote::Place;
use crate::signer::remote::RemoteKey;
use crate::signer::remote::RemoteSigner;
use crate::storage;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::progress::Progress;
use crate::types::genesis::Genesis;
use crate::types::ids::ChainId;
use crate::types::ids::Height;

/// Why a node did not start; the text names cause and fix.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration, or a file that it names, has to change first.
    #[error("{0}")]
    Refused(String),
    /// Something around the node: another try may find it otherwise.
    #[error("{0}")]
    Failed(String),
}

/// A running node.
pub struct Node {
    pipeline: Pipeline,
    network: Arc<Grpc>,
    listening: Listening,
    runtime: Runtime,
}

impl Node {
    /// Starts every part; listening begins last.
    pub fn start(
        config: &Config,
        placement: &Placement,
        runtime: &Runtime,
        fatal: Fatal,
        progress: &Arc<Progress>,
    ) -> Result<Self, StartError> {
        progress.at("trying the crypto providers");
        let genesis = Arc::new(read_genesis(&config.node.genesis).map_err(refused)?);
        let plugin = plugin(&genesis)?;
        let crypto = Arc::new(providers(config, &placement.host.processor)?);
        crypto.install_hash();
        let msp = Msp::load(&config.node.identity).map_err(refused)?;
        let metrics = Arc::new(Metrics::new());
        let verify = crypto.clone();
        let check = Arc::new(move |check: &Check<'_>| verify.verify(check));
        let directory = Arc::new(Directory::new(&genesis, check).map_err(refused)?);
        let ledger = Arc::new(open_ledger(config, placement, &genesis, progress)?);
        progress.at("asking for the validator's key");
        let seat = seat(config, &genesis, &msp, &crypto, &ledger)?;
        let tls = tls_identity(config, &genesis, &msp, &metrics)?;
        let network = network(config, &genesis, &msp, &tls, &directory, &metrics, runtime)?;
        let sockets = sockets(&config.api)?;
        let pool = PoolConfig { threads: placement.verify_threads(config), cores: Vec::new() };
        let pool = Arc::new(VerifyPool::start(crypto, &pool).map_err(failed)?);
        let options = Options { parameters: genesis.parameters, ..Options::default() };
        let contracts = Arc::new(Contracts::new(options).map_err(StartError::Failed)?);
        let pipeline = Pipeline::start(Parts {
            genesis,
            plugin,
            seat,
            ledger,
            directory: directory.clone(),
            contracts,
            pool,
            transport: network.clone() as Arc<dyn Transport>,
            metrics,
            progress: progress.clone(),
            fatal,
        })
        .map_err(failed)?;
        network.start(pipeline.inbox.clone()).map_err(failed)?;
        let service = Service::new(pipeline.handle.clone(), config.api.open);
        let listening = Listening::start(&service, sockets, &tls, runtime).map_err(failed)?;
        Ok(Self { pipeline, network, listening, runtime: runtime.clone() })
    }

    /// What the outside holds of the node.
    pub fn handle(&self) -> &Handle {
        &self.pipeline.handle
    }

    /// Stops listeners, links and stations, in that order.
    pub fn stop(self) {
        let Self { pipeline, network, listening, runtime } = self;
        runtime.block_on(async {
            listening.stop().await;
            network.shutdown().await;
        });
        drop(network);
        pipeline.stop();
    }

    /// Open interfaces, with the ports the system chose where the configuration said 0.
    pub fn listening(&self) -> &Listening {
        &self.listening
    }
}

fn refused(error: impl std::error::Error) -> StartError {
    StartError::Refused(with_causes(&error))
}

fn failed(error: impl std::error::Error) -> StartError {
    StartError::Failed(with_causes(&error))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

fn plugin(genesis: &Genesis) -> Result<&'static Plugin, StartError> {
    let name = &genesis.consensus;
    let plugin = consensus::plugin(name).ok_or_else(|| {
        let known: Vec<&str> = consensus::PLUGINS.iter().map(|p| p.name).collect();
        let known = known.join(", ");
        StartError::Refused(format!(
            "the genesis document asks for consensus {name:?}; known: {known}"
        ))
    })?;
    let (n, least) = (genesis.replicas.len(), plugin.replicas_min);
    if n < least {
        let text = format!("consensus {name} needs {least} replicas, the network has {n}");
        return Err(StartError::Refused(text));
    }
    Ok(plugin)
}

/// The crypto providers, chosen in favour of what was chosen at the last start. The profile only
/// saves a change of mind: one that cannot be kept is a warning.
fn providers(config: &Config, processor: &str) -> Result<Crypto, StartError> {
    let path = config.node.data.join("crypto-profile.toml");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let profile = Profile::parse(&before, processor);
    let crypto =
        Crypto::with_profile(&config.routing(), profile, Effort::Start).map_err(refused)?;
    let text = crypto.profile().to_toml();
    if text != before
        && let Err(error) =
            std::fs::create_dir_all(&config.node.data).and_then(|()| std::fs::write(&path, text))
    {
        tracing::warn!(path = %path.display(), %error, "the choice of crypto is not kept");
    }
    Ok(crypto)
}

fn open_ledger(
    config: &Config,
    placement: &Placement,
    genesis: &Genesis,
    progress: &Progress,
) -> Result<Ledger, StartError> {
    let data = &config.node.data;
    progress.at(format!("opening the store in {}", data.display()));
    std::fs::create_dir_all(data).map_err(|error| unusable(data, &error))?;
    let store = storage::store(&config.storage.engine).ok_or_else(|| {
        let known: Vec<&str> = storage::STORES.iter().map(|s| s.name).collect();
        let (engine, known) = (&config.storage.engine, known.join(", "));
        StartError::Refused(format!(
            "storage.engine: {engine:?} is unknown; this build has {known}"
        ))
    })?;
    let kv = (store.open)(&data.join("state"), &placement.storage()).map_err(failed)?;
    Ledger::open_telling(&data.join("ledger"), genesis, kv, progress).map_err(failed)
}

fn seat(
    config: &Config,
    genesis: &Genesis,
    msp: &Msp,
    crypto: &Crypto,
    ledger: &Ledger,
) -> Result<Option<Seat>, StartError> {
    if config.node.role == NodeRole::Observer {
        return Ok(None);
    }
    let identity = msp.enrolment.identity().map_err(refused)?;
    let (organisation, name) = (&identity.organisation, &identity.name);
    let me = genesis.replicas.find(organisation, name).ok_or_else(|| {
        StartError::Refused(format!(
            "{organisation}/{name} is no validator of the network {}; set node.role = \"observer\" \
             or use a validator's identity",
            genesis.network
        ))
    })?;
    if genesis.replicas.get(me).is_none_or(|replica| replica.key != identity.key) {
        return Err(StartError::Refused(format!(
            "the key of {organisation}/{name} is not the one the genesis document names; use the \
             identity folder that was made with this network"
        )));
    }
    let directory = config.node.data.join("consensus");
    std::fs::create_dir_all(&directory).map_err(|error| unusable(&directory, &error))?;
    let has_signed = has_signed(&config.node.data, ledger.tip().height);
    let chain = genesis.chain_id();
    let signer: Arc<dyn Signer> = match config.signer.mode {
        SignerMode::Embedded => embedded(config, chain, msp, crypto, has_signed)?,
        SignerMode::Process => {
            let place = signer_place(config)?;
            let key = identity.key;
            Arc::new(RemoteSigner::open(place, chain, key, has_signed).map_err(failed)?)
        }
    };
    Ok(Some(Seat { me, signer, directory, tuning: config.tuning() }))
}

/// Whether a validator's own data says that its key has signed: then its record must be there. It
/// has once there is a log of consensus, and where its ledger was copied from another place.
pub fn has_signed(data: &Path, height: Height) -> bool {
    height.0 > 0 || Wal::exists(&data.join("consensus"))
}

/// The guard and the key of the identity's folder, in this process.
fn embedded(
    config: &Config,
    chain: ChainId,
    msp: &Msp,
    crypto: &Crypto,
    has_signed: bool,
) -> Result<Arc<dyn Signer>, StartError> {
    let key = msp.enrolment.signing_key(crypto).map_err(refused)?;
    let guard = config.node.data.join("guard");
    std::fs::create_dir_all(&guard).map_err(|error| unusable(&guard, &error))?;
    let signer =
        EmbeddedSigner::start(Mode::Direct, &guard.join("slots.log"), chain, key, has_signed);
    Ok(Arc::new(signer.map_err(failed)?))
}

fn unusable(folder: &Path, error: &std::io::Error) -> StartError {
    let folder = folder.display();
    let fix = "node.data must name a folder that this process may write";
    StartError::Refused(format!("cannot make {folder}: {error}; {fix}"))
}

/// Where the signer process is.
fn signer_place(config: &Config) -> Result<Place, StartError> {
    let section = &config.signer;
    let user = users::id_of(&section.user)
        .map_err(|reason| StartError::Refused(format!("signer.user: {reason}")))?;
    let deadline = Duration::from_millis(section.deadline_ms);
    Ok(Place { socket: section.socket.clone(), user, deadline })
}

fn network(
    config: &Config,
    genesis: &Genesis,
    msp: &Msp,
    tls: &TlsIdentity,
    directory: &Arc<Directory>,
    metrics: &Arc<Metrics>,
    runtime: &Runtime,
) -> Result<Arc<Grpc>, StartError> {
    let own = msp.enrolment.identity().map_err(refused)?;
    let mut peers = Vec::new();
    for section in &config.network.peers {
        let (organisation, name) = (section.organisation.clone(), section.name.clone());
        if (&organisation, &name) == (&own.organisation, &own.name) {
            continue;
        }
        let replica = genesis.replicas.find(&organisation, &name).ok_or_else(|| {
            StartError::Refused(format!("network.peers: {organisation}/{name} is no validator"))
        })?;
        let peer = Peer { organisation, name, replica: Some(replica) };
        peers.push(PeerAddress { peer, address: section.address.clone() });
    }
    let listener = listen("network.listen", &config.network.listen)?;
    let replicas = Arc::new(genesis.replicas.clone());
    let config = GrpcConfig {
        chain: genesis.chain_id(),
        listener: Some(listener),
        peers,
        credentials: tls.credentials.clone(),
        roots: tls.roots.clone(),
        identify: recognise::peers(directory.clone(), move || replicas.clone()),
        metrics: metrics.clone(),
        runtime: runtime.clone(),
    };
    Grpc::new(config).map_err(failed)
}

fn tls_identity(
    config: &Config,
    genesis: &Genesis,
    msp: &Msp,
    metrics: &Arc<Metrics>,
) -> Result<TlsIdentity, StartError> {
    let tls = msp.tls.as_ref().ok_or_else(|| {
        let folder = config.node.identity.display();
        StartError::Refused(format!("{folder} has no tls folder; a node needs a TLS certificate"))
    })?;
    let provider = TlsProvider::named(&config.crypto.tls).map_err(refused)?;
    let chain = std::slice::from_ref(&tls.certificate);
    let credentials = match config.signer.tls {
        false => {
            let key = tls.pkcs8().map_err(refused)?;
            Credentials::over(provider.clone(), chain, key).map_err(refused)?
        }
        true => {
            let key = tls.identity().map_err(refused)?.key;
            let key = RemoteKey::open(signer_place(config)?, key).map_err(|error| {
                StartError::Failed(format!(
                    "signer.tls: {error}; give the signer this node's TLS key in a [[tls]] section, \
                     or set signer.tls = false"
                ))
            })?;
            Credentials::with_key(chain, Arc::new(TlsKey::new(Arc::new(key), metrics.clone())))
        }
    };
    let credentials = Arc::new(credentials);
    let roots = Roots::new(genesis.organisations.iter().map(|o| &o.root)).map_err(refused)?;
    let roots = roots.over(provider);
    Ok(TlsIdentity { credentials, roots })
}

fn sockets(section: &ApiSection) -> Result<Sockets, StartError> {
    let open = |key, address: &str| match address {
        "" => Ok(None),
        address => listen(key, address).map(Some),
    };
    Ok(Sockets {
        rest: open("api.rest", &section.rest)?,
        rest_plain: open("api.rest_plain", &section.rest_plain)?,
        grpc: open("api.grpc", &section.grpc)?,
    })
}

fn listen(key: &str, address: &str) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).map_err(|error| {
        StartError::Failed(format!(
            "{key}: cannot listen on {address}: {error}; is another node running?"
        ))
    })?;
    Ok(listener)
}
