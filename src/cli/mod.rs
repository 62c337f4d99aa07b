//! Floor 7: the command line. One file per group of commands; a running node is reached only
//! through `client`.
//!
//! ```text
//! arguments -> clap (this file) -> <group>.rs -> Output (text or JSON) -> exit code
//!                                     |
//!                                     +-> link.rs -> client -> a node's gRPC service
//! ```
//!
//! Exit codes: 0 done, 1 refused by the network, a contract or a check, 2 wrong request or file,
//! 3 no node answered, 4 not there, 5 warnings only (doctor), 70 a part of the program failed, 78 a
//! PIN was refused (trying again brings a lock nearer). Every failure is one `error:` and one
//! `fix:` line on standard error, or one JSON object with `--json`. A panic is a defect: it prints
//! one line and aborts, so that no half-broken process goes on signing.
//!
//! Adding a group is one file, one `mod` line and one variant of `Command`.

pub mod argument;
mod bench;
mod block;
mod ca;
pub mod chaincode;
mod crypto;
mod demo;
mod doctor;
mod enrol;
pub mod failure;
mod generate;
mod host;
mod ledger;
pub mod link;
mod member;
pub mod network;
mod node;
pub mod output;
pub mod profile;
mod signer;
mod sim;
mod state;
mod tx;

use std::ffi::OsString;
use std::panic;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::CommandFactory;
use clap::Parser;
use clap::Subcommand;
use clap::error::ContextKind;
use clap::error::ContextValue;
use clap::error::ErrorKind;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::profile::Profile;

/// A validating peer for permissioned ledgers, and the tools around it.
#[derive(Debug, Parser)]
#[command(name = "obelisk", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Print JSON, errors too
    #[arg(long, global = true, display_order = 100)]
    json: bool,
    /// Folder with a client.toml, or such a file: which network, which nodes, who signs
    #[arg(long, global = true, value_name = "DIR", display_order = 101)]
    network: Option<PathBuf>,
    /// Folder of the identity that signs, instead of the profile's
    #[arg(long, global = true, value_name = "FOLDER", display_order = 102)]
    identity: Option<PathBuf>,
    /// Ask this node, host:port of its gRPC address, instead of the profile's
    #[arg(long, global = true, value_name = "ADDRESS", display_order = 103)]
    node: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Node(node::Arguments),
    /// Run the process that holds keys
    Signer(signer::Arguments),
    /// Run an organisation's membership service, register members
    #[command(subcommand)]
    Ca(ca::Command),
    /// Make a network, look at it
    #[command(subcommand)]
    Network(network::Command),
    /// Deploy contracts, call them
    #[command(subcommand)]
    Chaincode(chaincode::Command),
    /// Transactions, receipts, proofs
    #[command(subcommand)]
    Tx(tx::Command),
    /// Blocks
    #[command(subcommand)]
    Block(block::Command),
    /// Events of contracts
    #[command(subcommand)]
    Events(block::EventsCommand),
    /// Keys and values of contracts
    #[command(subcommand)]
    State(state::Command),
    /// Certificates of members
    #[command(subcommand)]
    Member(member::Command),
    /// A node's data directory, offline
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// A consortium on this machine, and a letter of credit that lives on it
    Demo(demo::Arguments),
    /// Crypto providers of this build on this machine
    #[command(subcommand)]
    Crypto(crypto::Command),
    /// Check machine, configuration, keys, disk and peers; name what is wrong and the fix
    Doctor(doctor::Arguments),
    /// This machine: what it offers, what a node takes of it
    #[command(subcommand)]
    Host(host::Command),
    /// Measure a network
    #[command(subcommand)]
    Bench(bench::Command),
    /// Run seeds of the simulator
    Sim(sim::Arguments),
    /// Write man pages and shell completions, for packages
    #[command(hide = true)]
    Generate(generate::Arguments),
}

impl Command {
    fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Node(arguments) => node::run(arguments, context),
            Self::Signer(arguments) => signer::run(arguments, context),
            Self::Ca(command) => ca::run(command, context),
            Self::Network(command) => network::run(command, context),
            Self::Chaincode(command) => chaincode::run(command, context),
            Self::Tx(command) => tx::run(command, context),
            Self::Block(command) => block::run(command, context),
            Self::Events(command) => block::run_events(command, context),
            Self::State(command) => state::run(command, context),
            Self::Member(command) => member::run(command, context),
            Self::Ledger(command) => ledger::run(command, context),
            Self::Demo(arguments) => demo::run(arguments, context),
            Self::Crypto(command) => crypto::run(command, context),
            Self::Doctor(arguments) => doctor::run(arguments, context),
            Self::Generate(arguments) => generate::run(&arguments),
            Self::Host(command) => host::run(command, context),
            Self::Bench(command) => bench::run(command, context),
            Self::Sim(arguments) => sim::run(arguments, context),
        }
    }
}

/// What every command gets: the global flags and where to print.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where answers go.
    pub output: Output,
    global: Global,
}

impl Context {
    /// Names no network, for tests of one command.
    #[cfg(test)]
    pub fn quiet(output: Output) -> Self {
        let global = Global { json: true, network: None, identity: None, node: None };
        Self { output, global }
    }

    /// The client profile, with what the flags put in its place.
    pub fn profile(&self) -> Result<Profile, Failure> {
        let named = std::env::var_os(NETWORK_VARIABLE).filter(|value| !value.is_empty());
        let Some(place) = self.global.network.clone().or_else(|| named.map(PathBuf::from)) else {
            let fix = format!("name the network's folder with --network DIR or {NETWORK_VARIABLE}");
            return Err(Failure::usage("no network is named", fix));
        };
        let mut profile = Profile::load(&place)?;
        if let Some(identity) = &self.global.identity {
            profile.identity.clone_from(identity);
            profile.admin = None;
        }
        if let Some(node) = &self.global.node {
            profile.grpc = vec![node.clone()];
        }
        Ok(profile)
    }
}

/// Parses, runs, prints what failed.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    panic::set_hook(Box::new(|info| {
        let text = info.to_string().replace('\n', " ");
        eprintln!("obelisk: a defect, please report it: {text}");
        std::process::abort();
    }));
    // Behind `--` everything is a contract's.
    let flags = arguments.iter().take_while(|argument| *argument != "--");
    let json = flags.into_iter().any(|argument| argument == "--json");
    let done = match Cli::try_parse_from(arguments) {
        Ok(cli) => {
            let output = Output::new(cli.global.json);
            cli.command.run(&Context { output, global: cli.global })
        }
        Err(error) if !error.use_stderr() => {
            // A closed pipe is all that can go wrong while help is printed.
            let _ = error.print();
            Ok(())
        }
        Err(error) => Err(misuse(&error)),
    };
    let Err(failure) = done else { return ExitCode::SUCCESS };
    match json {
        true => eprintln!("{}", failure.to_json()),
        false => eprintln!("{failure}"),
    }
    ExitCode::from(failure.exit as u8)
}

/// The whole tree of commands, for tests and documentation.
pub fn tree() -> clap::Command {
    Cli::command()
}

/// clap's refusal in this house's form: one cause, one fix.
fn misuse(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: "));
    let help = match usage {
        Some(usage) => format!("write it as: {usage}"),
        None => "see `obelisk --help`".to_owned(),
    };
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let cause = "the command is not complete";
        return Failure::usage(cause, format!("{help}\n\n{}", text.trim_end()));
    }
    let first = text.lines().take_while(|line| !line.trim().is_empty());
    let cause = first.map(str::trim).collect::<Vec<_>>().join(" ");
    let cause = cause.strip_prefix("error: ").unwrap_or(&cause).to_owned();
    let fix = suggested(error);
    match usage.and_then(|usage| literal(error, usage)) {
        None => Failure::usage(cause, fix.unwrap_or(help)),
        Some(literal) => {
            let fix = fix.map(|fix| format!("{fix} If not, ")).unwrap_or_default();
            Failure::usage(cause, fix + &literal)
        }
    }
}

/// Where a command takes any number of arguments, one that looks like a flag may be meant as it
/// stands.
fn literal(error: &clap::Error, usage: &str) -> Option<String> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    let open = error.kind() == ErrorKind::UnknownArgument && usage.ends_with("...");
    open.then(|| format!("put `--` before the arguments that are meant as they stand: -- {word}"))
}

/// What clap thinks was meant.
fn suggested(error: &clap::Error) -> Option<String> {
    [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue]
        .into_iter()
        .find_map(|kind| match error.get(kind)? {
            ContextValue::String(word) => Some(format!("did you mean {word}?")),
            ContextValue::Strings(words) if !words.is_empty() => {
                Some(format!("did you mean {}?", words.join(" or ")))
            }
            _ => None,
        })
}

/// Names the network where `--network` does not.
pub const NETWORK_VARIABLE: &str = "OBELISK_NETWORK";

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused by the network or a check, 2 wrong request \
                          or file,\n            3 no node answered, 4 not found, 5 warnings of the \
                          doctor, 70 internal,\n            78 refused for good: do not try again";
