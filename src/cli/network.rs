//! `obelisk network`: makes a network, shows its genesis document, asks its nodes.

pub mod create;
mod found;
pub mod ports;

use std::path::PathBuf;

use clap::Subcommand;

use crate::api::grpc::proto::StatusReply;
use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::link;
use crate::cli::link::Link;
use crate::cli::link::Who;
use crate::cli::output::Cell;
use crate::membership::consortium;
use crate::node::config::SignerMode;
use crate::types::digest::Digest;
use crate::types::genesis::Genesis;
use crate::types::signature::Algorithm;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make keys, certificates, genesis document, configurations and client profiles
    Create {
        /// New folder that takes everything
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Organisations with one validator each
        #[arg(long, value_name = "N", default_value_t = 4)]
        validators: usize,
        /// Algorithm of the members' keys
        #[arg(long, value_name = "NAME", default_value = "ed25519", value_parser = algorithm)]
        algorithm: Algorithm,
        /// First port; each validator takes up to four of its ten
        #[arg(long, value_name = "PORT", default_value_t = 7050)]
        base_port: u16,
        /// Name of the network
        #[arg(long, default_value = "obelisk")]
        name: String,
        /// Consensus: a row of the plug-in table
        #[arg(long, value_name = "PLUGIN", default_value = "pbft")]
        consensus: String,
        /// Address that nodes listen on and that certificates name
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
        host: String,
        /// Where validators' keys are used: embedded in the node, or in a process of its own
        #[arg(long, value_name = "MODE", default_value = "embedded", value_parser = signer_mode)]
        signer: SignerMode,
        /// Key card of a validator whose key is on a token, as in org1=card.toml; repeatable
        #[arg(long = "validator-key", value_name = "ORG=CARD", value_parser = card)]
        cards: Vec<(String, PathBuf)>,
    },
    /// Make a genesis document from the roots of organisations with authorities of their own
    Found(found::Found),
    /// Ask every node of the profile where it stands
    Status,
    /// The links of one node to its peers
    Peers,
    /// Print a genesis document readably
    Show {
        /// The genesis document
        #[arg(long, value_name = "FILE")]
        genesis: PathBuf,
    },
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Create {
            out,
            validators,
            algorithm,
            base_port,
            name,
            consensus,
            host,
            signer,
            cards,
        } => {
            let plan = create::Plan {
                out,
                validators,
                algorithm,
                base_port,
                name,
                consensus,
                host,
                signer,
                cards,
            };
            create(&plan, context)
        }
        Command::Found(found) => found::run(&found, context),
        Command::Status => status(context),
        Command::Peers => peers(context),
        Command::Show { genesis } => show(&genesis, context),
    }
}

fn create(plan: &create::Plan, context: &Context) -> Result<(), Failure> {
    let made = create::make(plan)?;
    let texts = |paths: &[PathBuf]| {
        Cell::List(paths.iter().map(|path| Cell::Text(path.display().to_string())).collect())
    };
    context.output.object(&[
        ("network", Cell::text_of(&made.genesis.network)),
        ("chain", Cell::Id(made.genesis.chain_id().0)),
        ("consensus", Cell::text_of(&made.genesis.consensus)),
        ("genesis", Cell::Text(made.genesis_path.display().to_string())),
        ("profile", Cell::Text(made.profile.display().to_string())),
        ("nodes", texts(&made.nodes)),
    ]);
    if let Some(node) = made.nodes.first() {
        if plan.signer == SignerMode::Process || !plan.cards.is_empty() {
            let signer = node.with_file_name("signer.toml");
            context.output.note(&format!(
                "\nStart each signer first:  obelisk signer --config {}",
                signer.display()
            ));
        }
        context.output.note(&format!(
            "\nStart each node with:  obelisk node --config {}\nThen ask:  obelisk network \
             status --network {}",
            node.display(),
            plan.out.display()
        ));
    }
    Ok(())
}

fn show(path: &std::path::Path, context: &Context) -> Result<(), Failure> {
    let genesis = consortium::read_genesis(path)
        .map_err(|error| Failure::of(Exit::Usage, &error, "check the path"))?;
    let replicas = genesis.replicas.iter();
    let replicas = replicas.map(|(id, replica)| {
        let (organisation, name) = (&replica.organisation, &replica.name);
        Cell::Text(format!("{id} {organisation}/{name} {}", replica.key.algorithm().name()))
    });
    let organisations = genesis.organisations.iter();
    let organisations = organisations.map(|organisation| {
        let print = Digest::of(&[&organisation.root]);
        Cell::Text(format!("{} root {}", organisation.name, print))
    });
    let parameters = &genesis.parameters;
    context.output.object(&[
        ("network", Cell::text_of(&genesis.network)),
        ("chain", Cell::Id(genesis.chain_id().0)),
        ("made", Cell::Time(genesis.time_ms)),
        ("consensus", Cell::text_of(&genesis.consensus)),
        ("quorum", Cell::Number(quorum(&genesis))),
        ("validators", Cell::List(replicas.collect())),
        ("organisations", Cell::List(organisations.collect())),
        ("checkpoint interval", Cell::Number(parameters.checkpoint_interval)),
        ("window", Cell::Number(parameters.window)),
        ("block batches max", Cell::Number(parameters.block_batches_max.into())),
        ("fuel max", Cell::Number(parameters.fuel_max)),
        ("block time skew ms", Cell::Number(parameters.block_time_skew_ms)),
    ]);
    Ok(())
}

fn status(context: &Context) -> Result<(), Failure> {
    let link = Link::prepare(context, Who::Client)?;
    let mut rows = Vec::new();
    let mut answered = false;
    for address in &link.profile().grpc {
        let client = link.client_of(address)?;
        let status = link.attempt(client.status());
        answered |= status.is_ok();
        rows.push(match status {
            Ok(status) => status_row(address, &status),
            Err(error) => {
                let mut row = vec![Cell::None; STATUS.len()];
                row[0] = Cell::text_of(address);
                row[STATUS.len() - 1] = Cell::Text(link::client_failure(&error).cause);
                row
            }
        });
    }
    context.output.table(&STATUS, &rows, "the profile names no node");
    match answered {
        true => Ok(()),
        false => {
            let cause = "no node of the profile answers";
            Err(Failure::new(Exit::Unreachable, cause, "start the nodes, or check the addresses"))
        }
    }
}

fn status_row(address: &str, status: &StatusReply) -> Vec<Cell> {
    let digest = |bytes: &[u8]| match <[u8; 32]>::try_from(bytes) {
        Ok(bytes) => Cell::Hash(Digest(bytes)),
        Err(_) => Cell::None,
    };
    let connected = status.peers.iter().filter(|peer| peer.connected).count() as u64;
    let state = match (status.ready, status.reasons.is_empty()) {
        (true, _) => "ready".to_owned(),
        (false, true) => "not ready".to_owned(),
        (false, false) => format!("not ready: {}", status.reasons.join(", ")),
    };
    vec![
        Cell::text_of(address),
        Cell::maybe(status.seat.map(|seat| Cell::Number(seat.into()))),
        Cell::Number(status.height),
        Cell::Number(status.view),
        Cell::maybe(status.primary.map(|primary| Cell::Number(primary.into()))),
        Cell::Number(status.sequence),
        Cell::Number(status.stable_checkpoint),
        Cell::Number(connected),
        digest(&status.block_hash),
        digest(&status.state_root),
        Cell::Text(super::output::tame(&state)),
    ]
}

fn peers(context: &Context) -> Result<(), Failure> {
    let link = Link::open(context, Who::Client)?;
    let status = link.wait(link.client().status())?;
    let rows: Vec<Vec<Cell>> = status
        .peers
        .iter()
        .map(|peer| {
            vec![
                Cell::Text(format!("{}/{}", peer.organisation, peer.name)),
                Cell::text_of(&peer.address),
                Cell::text_of(if peer.validator { "validator" } else { "observer" }),
                Cell::Flag(peer.connected),
                Cell::Number(peer.bytes_sent),
                Cell::Number(peer.bytes_received),
                Cell::Number(peer.dropped),
            ]
        })
        .collect();
    let columns = ["peer", "address", "role", "connected", "sent", "received", "dropped"];
    context.output.table(&columns, &rows, "this node has no peers");
    Ok(())
}

fn quorum(genesis: &Genesis) -> u64 {
    genesis.replicas.quorum() as u64
}

fn card(text: &str) -> Result<(String, PathBuf), String> {
    let (organisation, path) = text.split_once('=').ok_or("write ORG=CARD")?;
    Ok((organisation.to_owned(), PathBuf::from(path)))
}

fn signer_mode(text: &str) -> Result<SignerMode, String> {
    match text {
        "embedded" => Ok(SignerMode::Embedded),
        "process" => Ok(SignerMode::Process),
        _ => Err("known are embedded and process".to_owned()),
    }
}

/// An algorithm by name.
pub fn algorithm(text: &str) -> Result<Algorithm, String> {
    let known = || Algorithm::ALL.map(Algorithm::name).join(" or ");
    Algorithm::from_name(text).ok_or_else(|| format!("known are {}", known()))
}

const STATUS: [&str; 11] = [
    "node",
    "seat",
    "height",
    "view",
    "primary",
    "sequence",
    "checkpoint",
    "peers",
    "block",
    "state root",
    "state",
];
