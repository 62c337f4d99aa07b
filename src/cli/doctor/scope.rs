//! What the checks look at, gathered once: the machine, the configuration and what it names, and
//! the probes that measure. Tests replace the machine by a recorded one and the probes by
//! constants.

use std::cell::OnceCell;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::doctor::finding::Finding;
use crate::crypto::Check as SignatureCheck;
use crate::crypto::choice::Route;
use crate::crypto::routing::Crypto;
use crate::crypto::routing::Routing;
use crate::crypto::routing::RoutingError;
use crate::host::detect;
use crate::host::detect::Host;
use crate::host::pinning;
use crate::host::topology::Topology;
use crate::host::tree::Tree;
use crate::ledger::Ledger;
use crate::ledger::LedgerError;
use crate::membership::consortium;
use crate::membership::directory::Directory;
use crate::membership::identity::Identity;
use crate::membership::identity::Purpose;
use crate::membership::msp::KeyPair;
use crate::membership::msp::Msp;
use crate::node::config::Config;
use crate::node::config::ConfigError;
use crate::node::config::HostSection;
use crate::node::placement::Placement;
use crate::signer::remote;
use crate::signer::remote::RemoteError;
use crate::storage;
use crate::types::genesis::Genesis;

/// Free room of a file system.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Files that may still be made, and in all; 0 where the file system does not count them.
    pub free_files: u64,
    /// See `free_files`.
    pub total_files: u64,
}

/// How far two clocks ran apart during a sample.
#[derive(Clone, Copy, Debug)]
pub struct Drift {
    /// The monotonic clock went backwards.
    pub backwards: bool,
    /// Difference of wall clock and monotonic clock over the sample.
    pub apart: Duration,
}

/// What is measured; a recorded machine has none of it.
pub struct Probes {
    /// Times of appending 4 KiB and syncing it, in a directory.
    pub syncs: fn(&Path) -> io::Result<Vec<Duration>>,
    /// Room of a directory's file system.
    pub space: fn(&Path) -> io::Result<Space>,
    /// Name of a directory's file system.
    pub file_system: fn(&Path) -> io::Result<&'static str>,
    /// The clocks.
    pub drift: fn() -> Drift,
    /// Whether a file there can be opened past the page cache.
    pub direct_io: fn(&Path) -> io::Result<()>,
    /// What the signer says of itself, JSON.
    pub signer: fn(&remote::Place) -> Result<String, RemoteError>,
    /// The user that asks.
    pub user: u32,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

/// All that checks look at.
pub struct Scope {
    /// The machine.
    pub tree: Tree,
    /// What was found there.
    pub host: Host,
    /// What libcrypto says of the processor.
    pub cpu_info: Option<String>,
    /// What a node would take.
    pub placement: Placement,
    /// The configuration file, where one is named.
    pub path: Option<PathBuf>,
    /// What it says; `None` where none is named.
    pub config: Option<Result<Config, ConfigError>>,
    /// Measurements.
    pub probes: Probes,
    /// What can be left out of a build, and whether this one has it.
    pub features: &'static [(&'static str, bool)],
    pub(super) crypto: Arc<Crypto>,
    pub(super) routes: OnceCell<Result<Vec<Route>, RoutingError>>,
    genesis: OnceCell<Result<Genesis, String>>,
    msp: OnceCell<Result<Msp, Finding>>,
    pub(super) ledger: OnceCell<Result<Heights, LedgerError>>,
    pub(super) signer: OnceCell<Result<serde_json::Value, Finding>>,
}

/// Where a ledger stands.
#[derive(Clone, Copy, Debug)]
pub struct Heights {
    /// Blocks in the segment files.
    pub stored: u64,
    /// Blocks in the state.
    pub applied: u64,
    /// Time of the last block, milliseconds since 1970.
    pub time_ms: u64,
    /// Sequence number of the last block.
    pub sequence: u64,
    /// The same where its certificate has a vote of this node's key.
    pub voted: Option<u64>,
}

impl Scope {
    /// Gathers what is read once.
    pub fn new(
        tree: Tree,
        path: Option<PathBuf>,
        cpu_info: Option<String>,
        probes: Probes,
    ) -> Self {
        let config = path.as_ref().map(|path| Config::load(path));
        let known = config.as_ref().and_then(|config| config.as_ref().ok());
        let host = detect::detect_tree(&tree, cpu_info.as_deref());
        let topology = match tree.is_machine() {
            true => Topology::of_machine(),
            false => Topology::of_tree(&tree),
        };
        let section = known.map_or_else(HostSection::default, |config| config.host.clone());
        let home = known.and_then(|config| pinning::node_of_disk(&tree, &config.node.data));
        let placement = Placement::new(&section, host.clone(), &topology, home);
        Self {
            tree,
            host,
            cpu_info,
            placement,
            path,
            config,
            probes,
            features: FEATURES,
            crypto: Arc::new(Crypto::portable()),
            routes: OnceCell::new(),
            genesis: OnceCell::new(),
            msp: OnceCell::new(),
            ledger: OnceCell::new(),
            signer: OnceCell::new(),
        }
    }

    /// The configuration, or why there is nothing to ask.
    pub fn config(&self) -> Result<&Config, Finding> {
        match &self.config {
            Some(Ok(config)) => Ok(config),
            Some(Err(_)) => Err(Finding::skipped("the configuration is refused: see config.file")),
            None => Err(Finding::skipped("no configuration is named: add --config FILE")),
        }
    }

    /// Providers after their known answers.
    pub fn routes(&self) -> &Result<Vec<Route>, RoutingError> {
        self.routes
            .get_or_init(|| Crypto::new(&Routing::default()).map(|crypto| crypto.report().to_vec()))
    }

    /// The genesis document, or why there is nothing to ask.
    pub fn genesis(&self) -> Result<&Genesis, Finding> {
        self.genesis_or_reason()?
            .as_ref()
            .map_err(|_| Finding::skipped("the genesis document is refused: see config.genesis"))
    }

    /// The genesis document, or what is wrong with it.
    pub fn genesis_or_reason(&self) -> Result<&Result<Genesis, String>, Finding> {
        let config = self.config()?;
        Ok(self.genesis.get_or_init(|| {
            consortium::read_genesis(&config.node.genesis).map_err(|error| {
                Finding::refused(&error, "copy the network's genesis document again").reason
            })
        }))
    }

    /// The identity folder, or what is wrong with it.
    pub fn msp(&self) -> Result<&Msp, &Finding> {
        let read = || {
            let config = self.config()?;
            Msp::load(&config.node.identity).map_err(|error| {
                Finding::refused(&error, "`obelisk member show FOLDER` describes the folder")
            })
        };
        self.msp.get_or_init(read).as_ref()
    }

    /// The identity folder for checks that stand behind `identity.folder`.
    pub fn members(&self) -> Result<&Msp, Finding> {
        self.config()?;
        self.msp().map_err(|_| Finding::skipped("the identity is refused: see identity.folder"))
    }

    /// The member that a certificate makes, as the network's roots vouch for it.
    pub fn vouched(&self, pair: &KeyPair, purpose: Purpose) -> Result<Arc<Identity>, Finding> {
        let genesis = self.genesis()?;
        let crypto = self.crypto.clone();
        let verify = Arc::new(move |check: &SignatureCheck<'_>| crypto.verify(check));
        let fix = "enrol the node again with the organisation's authority: obelisk member issue";
        let directory = Directory::new(genesis, verify).map_err(|e| Finding::refused(&e, fix))?;
        let identity =
            directory.identify(&pair.certificate).map_err(|e| Finding::refused(&e, fix))?;
        identity.check_purpose(purpose).map_err(|e| Finding::refused(&e, fix))?;
        Ok(identity)
    }

    /// Where the ledger stands: opened once, as the node opens it, with every check that implies.
    pub fn ledger(&self) -> Result<&Result<Heights, LedgerError>, Finding> {
        let (config, genesis) = (self.config()?, self.genesis()?);
        let data = &config.node.data;
        if !data.join("ledger/segments").is_dir() {
            return Err(Finding::skipped("this node has no ledger yet"));
        }
        let owner = owner(data).map_err(|error| Finding::skipped(error.to_string()))?;
        if owner != self.probes.user {
            return Err(Finding::skipped(format!(
                "the ledger belongs to user {owner}; run the doctor as that user to open it"
            )));
        }
        let Some(store) = storage::store(&config.storage.engine) else {
            return Err(Finding::skipped("the store is unknown: see config.store"));
        };
        Ok(self.ledger.get_or_init(|| {
            let kv = (store.open)(&data.join("state"), &self.placement.storage());
            // While a node runs, its store is locked as its ledger is.
            let kv = kv.map_err(|error| match held(data) {
                true => LedgerError::InUse { path: data.join("ledger") },
                false => LedgerError::Storage(error),
            })?;
            let ledger = Ledger::open(&data.join("ledger"), genesis, kv)?;
            let tip = ledger.tip();
            let voted = self.voted(genesis, &ledger)?.then_some(tip.sequence.0);
            Ok(Heights {
                stored: ledger.stored_height().0,
                applied: tip.height.0,
                time_ms: tip.time_ms,
                sequence: tip.sequence.0,
                voted,
            })
        }))
    }

    /// Whether the certificate of the last block has a vote of this node's key.
    fn voted(&self, genesis: &Genesis, ledger: &Ledger) -> Result<bool, LedgerError> {
        let own = self.msp().ok().and_then(|msp| msp.enrolment.identity().ok());
        let me = own.and_then(|own| genesis.replicas.find(&own.organisation, &own.name));
        let block = ledger.block(ledger.tip().height)?;
        let signatures = block.iter().flat_map(|block| &block.certificate.signatures);
        Ok(signatures.into_iter().any(|(replica, _)| Some(*replica) == me))
    }
}

/// The features of this build, as `Cargo.toml` names them; the command line itself is one.
pub const FEATURES: &[(&str, bool)] = &[
    ("rocksdb", cfg!(feature = "rocksdb")),
    ("wasm", cfg!(feature = "wasm")),
    ("aws-lc", cfg!(feature = "aws-lc")),
    ("openssl", cfg!(feature = "openssl")),
    ("ring", cfg!(feature = "ring")),
    ("pkcs11", cfg!(feature = "pkcs11")),
    ("hwloc", cfg!(feature = "hwloc")),
    ("grpc", cfg!(feature = "grpc")),
    ("rest", cfg!(feature = "rest")),
];

/// The user that owns a path.
pub fn owner(path: &Path) -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt;

    Ok(std::fs::metadata(path)?.uid())
}

/// True where a running node holds the ledger's lock.
pub fn held(data: &Path) -> bool {
    use nix::fcntl::Flock;
    use nix::fcntl::FlockArg;

    let Ok(file) = std::fs::OpenOptions::new().write(true).open(data.join("ledger/lock")) else {
        return false;
    };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()
}
