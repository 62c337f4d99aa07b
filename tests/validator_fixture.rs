//! The first validator of a consortium as a running pipeline: contracts, consensus and ledger as a
//! node has them, over a store in memory and links in memory.

use std::path::Path;
use std::sync::Arc;

use obelisk::chaincode::contracts::Contracts;
use obelisk::chaincode::contracts::Options;
use obelisk::consensus;
use obelisk::consensus::Tuning;
use obelisk::crypto::Check;
use obelisk::crypto::routing::Crypto;
use obelisk::crypto::verify_pool::PoolConfig;
use obelisk::crypto::verify_pool::VerifyPool;
use obelisk::ledger::Ledger;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::directory::Directory;
use obelisk::membership::identity::Role;
use obelisk::membership::msp::Msp;
use obelisk::network::memory::Hub;
use obelisk::pipeline::start::Parts;
use obelisk::pipeline::start::Pipeline;
use obelisk::pipeline::start::Seat;
use obelisk::signer::embedded::EmbeddedSigner;
use obelisk::signer::embedded::Mode;
use obelisk::storage::memory::MemoryKv;
use obelisk::telemetry::metrics::Metrics;
use obelisk::types::ids::ReplicaId;

/// Starts it, with its ledger, log and guard below `folder`. A station that fails panics.
pub fn validator(
    consortium: &Consortium,
    crypto: &Arc<Crypto>,
    hub: &Arc<Hub>,
    folder: &Path,
) -> Pipeline {
    let genesis = Arc::new(consortium.genesis.clone());
    std::fs::create_dir_all(folder.join("consensus")).unwrap();
    let verify = crypto.clone();
    let verify = Arc::new(move |check: &Check<'_>| verify.verify(check));
    let kv = Arc::new(MemoryKv::new());
    let ledger = Ledger::open(&folder.join("ledger"), &genesis, kv).unwrap();
    let validator = Msp::load(&consortium.of_role(Role::Validator).next().unwrap().folder).unwrap();
    let key = validator.enrolment.signing_key(crypto).unwrap();
    let guard = folder.join("slots.log");
    let signer =
        EmbeddedSigner::start(Mode::Direct, &guard, genesis.chain_id(), key, false).unwrap();
    let options = Options { parameters: genesis.parameters, ..Options::default() };
    let pool = PoolConfig { threads: 1, cores: Vec::new() };
    let transport = hub.transport(0);
    let pipeline = Pipeline::start(Parts {
        plugin: consensus::plugin(&genesis.consensus).unwrap(),
        seat: Some(Seat {
            me: ReplicaId(0),
            signer: Arc::new(signer),
            directory: folder.join("consensus"),
            tuning: Tuning::default(),
        }),
        ledger: Arc::new(ledger),
        directory: Arc::new(Directory::new(&genesis, verify).unwrap()),
        contracts: Arc::new(Contracts::new(options).unwrap()),
        pool: Arc::new(VerifyPool::start(crypto.clone(), &pool).unwrap()),
        transport: transport.clone(),
        metrics: Arc::new(Metrics::new()),
        progress: Arc::default(),
        fatal: Arc::new(|reason| panic!("a station failed: {reason}")),
        genesis,
    })
    .unwrap();
    transport.start(pipeline.inbox.clone());
    pipeline
}
