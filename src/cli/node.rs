//! `obelisk node`: runs a node, or says what would run.

mod install;

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use clap::Subcommand;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Cell;
use crate::consensus;
use crate::crypto::routing::Crypto;
use crate::host::clock::now_ms;
use crate::membership::consortium;
use crate::membership::directory::Directory;
use crate::membership::identity::Identity;
use crate::membership::identity::Purpose;
use crate::membership::msp::KeyPair;
use crate::membership::msp::Msp;
use crate::network::tls_provider::TlsProvider;
use crate::node::assembly::StartError;
use crate::node::config::Config;
use crate::node::config::ConfigError;
use crate::node::config::NodeRole;
use crate::node::config::SignerMode;
use crate::node::service::Notifier;
use crate::node::users;
use crate::storage;
use crate::telemetry::log;
use crate::telemetry::log::Format;
use crate::types::genesis::Genesis;
use crate::types::ids::ReplicaId;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    /// The node's configuration file
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check configuration, identity and genesis; print what would start
    Check {
        /// The node's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Put a validator that was made elsewhere where the systemd units look
    Install(install::Install),
}

/// A configuration that fits its genesis document and its identity.
struct Examined {
    config: Config,
    genesis: Genesis,
    identity: Arc<Identity>,
    seat: Option<ReplicaId>,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), Failure> {
    match (arguments.command, arguments.config) {
        (Some(Command::Check { config }), _) => check(&config, context),
        (Some(Command::Install(install)), _) => install::run(&install, context),
        (None, Some(config)) => start(&config, context),
        (None, None) => {
            Err(Failure::usage("no configuration is named", "obelisk node --config FILE"))
        }
    }
}

fn start(path: &Path, context: &Context) -> Result<(), Failure> {
    let notifier = Notifier::start()
        .map_err(|error| Failure::of(Exit::Internal, &error, "raise the limit on tasks"))?;
    let examined = examine(path)?;
    let section = &examined.config.log;
    let format = Format::from_name(&section.format).unwrap_or_default();
    log::start(&section.level, format)
        .map_err(|error| Failure::of(Exit::Usage, &error, "correct log.level"))?;
    let output = context.output;
    let ready = |_: &crate::node::assembly::Node| {
        output.line(&served(&examined), &described(&examined));
    };
    let doctor = format!("obelisk doctor --config {}", path.display());
    crate::node::lifecycle::run(&examined.config, notifier, ready).map_err(|error| {
        let exit = match error {
            StartError::Refused(_) => Exit::Usage,
            StartError::Failed(_) => Exit::Internal,
        };
        Failure::of(exit, &error, &doctor)
    })
}

fn check(path: &Path, context: &Context) -> Result<(), Failure> {
    let examined = examine(path)?;
    let config = &examined.config;
    // Looking for these takes a while, and a start does it anyway.
    Crypto::new(&config.routing())
        .map_err(|error| Failure::of(Exit::Usage, &error, "correct the section [crypto]"))?;
    TlsProvider::named(&config.crypto.tls)
        .map_err(|error| Failure::of(Exit::Usage, &error, "correct crypto.tls"))?;
    users::id_of(&config.signer.user).map_err(|reason| {
        Failure::usage(format!("signer.user: {reason}"), "correct signer.user")
    })?;
    context.output.object(&described(&examined));
    Ok(())
}

/// All that can be refused before anything is opened for writing.
fn examine(path: &Path) -> Result<Examined, Failure> {
    let config = Config::load(path).map_err(|error| config_failure(&error))?;
    log::check_levels(&config.log.level)
        .map_err(|error| Failure::of(Exit::Usage, &error, "correct log.level"))?;
    let engine = &config.storage.engine;
    if storage::store(engine).is_none() {
        let known: Vec<&str> = storage::STORES.iter().map(|row| row.name).collect();
        let cause = format!("{}: storage.engine: {engine:?} is not in this build", path.display());
        return Err(Failure::usage(cause, format!("choose one of {}", known.join(", "))));
    }
    let genesis = consortium::read_genesis(&config.node.genesis)
        .map_err(|error| Failure::of(Exit::Usage, &error, "check node.genesis"))?;
    check_plugin(&genesis)?;
    let crypto = Arc::new(Crypto::portable());
    let msp = Msp::load(&config.node.identity)
        .map_err(|error| Failure::of(Exit::Usage, &error, IDENTITY_FIX))?;
    let elsewhere = config.signer.mode == SignerMode::Process;
    let identity = vouched(&genesis, &crypto, &msp.enrolment, Purpose::Enrolment)?;
    if !elsewhere && config.node.role == NodeRole::Validator {
        check_key(&crypto, &msp.enrolment)?;
    }
    let Some(tls) = &msp.tls else {
        let cause = format!("{} has no tls folder", config.node.identity.display());
        return Err(Failure::usage(cause, "issue the identity again, with a TLS certificate"));
    };
    vouched(&genesis, &crypto, tls, Purpose::Tls)?;
    if !config.signer.tls {
        check_key(&crypto, tls)?;
    }
    let seat = seat(&config, &genesis, &identity)?;
    Ok(Examined { config, genesis, identity, seat })
}

fn config_failure(error: &ConfigError) -> Failure {
    let fix = match error {
        ConfigError::Read { .. } => "name the file with --config",
        ConfigError::Syntax { .. } => "correct the line; docs/operating.md lists every key",
        ConfigError::Value { .. } => "correct the value",
    };
    match error {
        ConfigError::Read { path, source } => {
            let exit = match source.kind() {
                std::io::ErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Usage,
            };
            let cause = format!("cannot read the configuration {}: {source}", path.display());
            Failure::new(exit, cause, fix)
        }
        error => Failure::usage(error.to_string(), fix),
    }
}

fn check_plugin(genesis: &Genesis) -> Result<(), Failure> {
    let name = &genesis.consensus;
    let Some(plugin) = consensus::plugin(name) else {
        let known: Vec<&str> = consensus::PLUGINS.iter().map(|row| row.name).collect();
        let cause = format!("the genesis document asks for consensus {name:?}, unknown here");
        let fix = format!("use a build that has it; this one has {}", known.join(", "));
        return Err(Failure::usage(cause, fix));
    };
    let (n, least) = (genesis.replicas.len(), plugin.replicas_min);
    if n < least {
        let cause = format!("consensus {name} needs {least} replicas, the network has {n}");
        return Err(Failure::usage(cause, "make a network with more validators"));
    }
    Ok(())
}

/// The member whose certificate and key these are, as the network's roots vouch for it.
fn vouched(
    genesis: &Genesis,
    crypto: &Arc<Crypto>,
    pair: &KeyPair,
    purpose: Purpose,
) -> Result<Arc<Identity>, Failure> {
    let usage = |error: &dyn std::error::Error| Failure::of(Exit::Usage, error, IDENTITY_FIX);
    let checker = crypto.clone();
    let verify = Arc::new(move |check: &crate::crypto::Check<'_>| checker.verify(check));
    let directory = Directory::new(genesis, verify).map_err(|error| usage(&error))?;
    let identity = directory.identify(&pair.certificate).map_err(|error| usage(&error))?;
    identity.check_purpose(purpose).map_err(|error| usage(&error))?;
    identity.check_valid_at(now_ms()).map_err(|error| usage(&error))?;
    Ok(identity)
}

fn check_key(crypto: &Crypto, pair: &KeyPair) -> Result<(), Failure> {
    let checked = pair.signing_key(crypto).map(drop);
    checked.map_err(|error| Failure::of(Exit::Usage, &error, IDENTITY_FIX))
}

fn seat(
    config: &Config,
    genesis: &Genesis,
    identity: &Identity,
) -> Result<Option<ReplicaId>, Failure> {
    if config.node.role == NodeRole::Observer {
        return Ok(None);
    }
    let (organisation, name) = (&identity.organisation, &identity.name);
    let found = genesis.replicas.find(organisation, name);
    let Some(seat) = found else {
        let network = &genesis.network;
        let cause = format!("{organisation}/{name} is no validator of the network {network}");
        let fix = "set node.role = \"observer\", or use a validator's identity";
        return Err(Failure::usage(cause, fix));
    };
    if genesis.replicas.get(seat).is_none_or(|replica| replica.key != identity.key) {
        let cause = format!("the genesis document names another key for {organisation}/{name}");
        return Err(Failure::usage(cause, "use the identity that was made with this network"));
    }
    Ok(Some(seat))
}

fn described(examined: &Examined) -> Vec<(&'static str, Cell)> {
    let Examined { config, genesis, identity, seat } = examined;
    let peers = config.network.peers.iter();
    let peers = peers.map(|p| Cell::Text(format!("{}/{} {}", p.organisation, p.name, p.address)));
    let place = |path: &Path| Cell::Text(path.display().to_string());
    vec![
        ("network", Cell::text_of(&genesis.network)),
        ("chain", Cell::Id(genesis.chain_id().0)),
        ("consensus", Cell::text_of(&genesis.consensus)),
        ("identity", Cell::Text(identity.uri())),
        ("seat", Cell::maybe(seat.map(|seat| Cell::Number(seat.0.into())))),
        (
            "signer",
            match config.signer.mode {
                SignerMode::Embedded => Cell::text_of("embedded"),
                SignerMode::Process => place(&config.signer.socket),
            },
        ),
        ("data", place(&config.node.data)),
        ("storage", Cell::text_of(&config.storage.engine)),
        ("peers listen", Cell::text_of(&config.network.listen)),
        ("rest", Cell::text_of(&config.api.rest)),
        ("grpc", Cell::text_of(&config.api.grpc)),
        ("peers", Cell::List(peers.collect())),
    ]
}

fn served(examined: &Examined) -> String {
    let Examined { config, genesis, identity, seat } = examined;
    let role = if seat.is_some() { "validator" } else { "observer" };
    format!(
        "{role} {}/{} of {} is ready: REST {}, gRPC {}",
        identity.organisation, identity.name, genesis.network, config.api.rest, config.api.grpc
    )
}

const IDENTITY_FIX: &str = "check the identity folder; `obelisk member show FOLDER` describes it";
