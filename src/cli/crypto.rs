//! `obelisk crypto`: what each provider can do on this machine, and which one does it; keys on
//! tokens.

#[cfg(feature = "pkcs11")]
mod token;

use clap::Subcommand;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Cell;
use crate::crypto::routing::Crypto;
use crate::crypto::routing::Route;
use crate::crypto::routing::Routing;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the known answers and the calibration, show what `auto` chooses here
    List {
        /// Show the tokens of this PKCS#11 library instead
        #[cfg(feature = "pkcs11")]
        #[arg(long, value_name = "FILE")]
        module: Option<std::path::PathBuf>,
    },
    /// Make a key pair on a token, write its key card
    #[cfg(feature = "pkcs11")]
    Keygen(token::Keygen),
    /// Judge the attributes of all keys on a token
    #[cfg(feature = "pkcs11")]
    Audit(token::Place),
    /// Sign with a key on a token and verify
    #[cfg(feature = "pkcs11")]
    Test(token::Key),
    /// Signatures per second of a key on a token, by number of sessions
    #[cfg(feature = "pkcs11")]
    Bench(token::Bench),
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        #[cfg(feature = "pkcs11")]
        Command::List { module: Some(module) } => token::list(&module, context),
        Command::List { .. } => list(context),
        #[cfg(feature = "pkcs11")]
        Command::Keygen(keygen) => token::keygen(&keygen, context),
        #[cfg(feature = "pkcs11")]
        Command::Audit(place) => token::audit(&place, context),
        #[cfg(feature = "pkcs11")]
        Command::Test(key) => token::test(&key, context),
        #[cfg(feature = "pkcs11")]
        Command::Bench(bench) => token::bench(&bench, context),
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let crypto = Crypto::new(&Routing::default())
        .map_err(|error| Failure::of(Exit::Internal, &error, "test this machine's memory"))?;
    let columns = ["operation", "algorithm", "provider", "known answers", "ns", "chosen"];
    let rows: Vec<Vec<Cell>> = crypto.report().iter().map(row).collect();
    context.output.table(&columns, &rows, "this build has no crypto provider");
    Ok(())
}

fn row(route: &Route) -> Vec<Cell> {
    let answers = match route.quarantined {
        None => "passed".to_owned(),
        Some(answer) => format!("FAILED: {answer}"),
    };
    vec![
        Cell::text_of(route.operation.name()),
        Cell::text_of(route.operation.algorithm()),
        Cell::text_of(route.provider),
        Cell::Text(answers),
        Cell::maybe(route.nanoseconds.map(Cell::Number)),
        Cell::Flag(route.chosen),
    ]
}
