//! `obelisk crypto`: what each provider can do on this machine, and which one does it; keys on
//! tokens.

#[cfg(feature = "pkcs11")]
mod token;

use clap::Subcommand;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Cell;
use crate::crypto::calibration;
use crate::crypto::choice::Effort;
use crate::crypto::choice::Route;
use crate::crypto::known_answers::Operation;
use crate::crypto::profile::Profile;
use crate::crypto::routing::Crypto;
use crate::crypto::routing::Routing;
use crate::crypto::routing::RoutingError;
use crate::types::signature::Algorithm;

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
    /// Write the key card of a key that is on a token already, or add a standby token to a card
    #[cfg(feature = "pkcs11")]
    Card(token::Card),
    /// Judge the attributes of all keys on a token
    #[cfg(feature = "pkcs11")]
    Audit(token::Place),
    /// Sign with a key on a token and verify
    #[cfg(feature = "pkcs11")]
    Test(token::Key),
    /// Measure every provider by operation and size, show what `auto` chooses; with --module:
    /// signatures per second of a key on a token, by number of sessions
    Bench {
        #[cfg(feature = "pkcs11")]
        #[command(flatten)]
        token: token::Bench,
    },
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        #[cfg(feature = "pkcs11")]
        Command::List { module: Some(module) } => token::list(&module, context),
        Command::List { .. } => list(context),
        #[cfg(feature = "pkcs11")]
        Command::Keygen(keygen) => token::keygen(&keygen, context),
        #[cfg(feature = "pkcs11")]
        Command::Card(card) => token::card(&card, context),
        #[cfg(feature = "pkcs11")]
        Command::Audit(place) => token::audit(&place, context),
        #[cfg(feature = "pkcs11")]
        Command::Test(key) => token::test(&key, context),
        #[cfg(feature = "pkcs11")]
        Command::Bench { token } if token.is_asked() => token::bench(token, context),
        Command::Bench { .. } => bench(context),
    }
}

/// One row per pair; `auto` is what a node without a profile would choose now.
fn list(context: &Context) -> Result<(), Failure> {
    let crypto = Crypto::new(&Routing::default()).map_err(broken)?;
    let columns = ["operation", "algorithm", "provider", "known answers", "ns", "chosen"];
    let mut rows: Vec<Vec<Cell>> = crypto.report().iter().map(row).collect();
    rows.extend(tables(&crypto, false));
    context.output.table(&columns, &rows, "this build has no crypto provider");
    Ok(())
}

/// The row of the tables of P-256 keys, where a provider keeps them.
fn tables(crypto: &Crypto, with_size: bool) -> Option<Vec<Cell>> {
    let (tabling, verify) = (crypto.tabling(), Operation::Verify(Algorithm::EcdsaP256));
    let mut cells = vec![Cell::text_of(verify.name()), Cell::text_of(verify.algorithm())];
    if with_size {
        cells.push(Cell::text_of(calibration::classes(verify)[1]));
    }
    cells.extend([
        Cell::Text(format!("{} tables", tabling.provider?)),
        Cell::Text(answers(tabling.quarantined)),
        Cell::maybe(tabling.time.map(Cell::Number)),
        Cell::Flag(tabling.used),
    ]);
    Some(cells)
}

fn row(route: &Route) -> Vec<Cell> {
    let main = usize::from(route.operation == Operation::Hash);
    vec![
        Cell::text_of(route.operation.name()),
        Cell::text_of(route.operation.algorithm()),
        Cell::text_of(route.provider),
        Cell::Text(answers(route.quarantined)),
        Cell::maybe(route.times[main].map(Cell::Number)),
        Cell::Flag(route.chosen),
    ]
}

fn answers(quarantined: Option<&str>) -> String {
    match quarantined {
        None => "passed".to_owned(),
        Some(answer) => format!("FAILED: {answer}"),
    }
}

/// Every pair in every class, and what `auto` chooses from the figures.
fn bench(context: &Context) -> Result<(), Failure> {
    let crypto = Crypto::with_profile(&Routing::default(), Profile::default(), Effort::Whole)
        .map_err(broken)?;
    let columns = ["operation", "algorithm", "size", "provider", "known answers", "ns", "chosen"];
    let mut rows = Vec::new();
    for route in crypto.report() {
        for (class, name) in calibration::classes(route.operation).into_iter().enumerate() {
            rows.push(vec![
                Cell::text_of(route.operation.name()),
                Cell::text_of(route.operation.algorithm()),
                Cell::text_of(name),
                Cell::text_of(route.provider),
                Cell::Text(answers(route.quarantined)),
                Cell::maybe(route.times[class].map(Cell::Number)),
                Cell::Flag(route.classes[class]),
            ]);
        }
    }
    let (batching, verify) = (crypto.batching(), Operation::Verify(Algorithm::Ed25519));
    for (class, name) in calibration::classes(verify).into_iter().enumerate().skip(1) {
        let size: usize = name.parse().unwrap_or_default();
        rows.push(vec![
            Cell::text_of(verify.name()),
            Cell::text_of(verify.algorithm()),
            Cell::text_of(name),
            Cell::text_of("one equation"),
            Cell::text_of("passed"),
            Cell::maybe(batching.times[class].map(Cell::Number)),
            Cell::Flag(size >= batching.from),
        ]);
    }
    rows.extend(tables(&crypto, true));
    context.output.table(&columns, &rows, "this build has no crypto provider");
    Ok(())
}

fn broken(error: RoutingError) -> Failure {
    Failure::of(Exit::Internal, &error, "test this machine's memory")
}
