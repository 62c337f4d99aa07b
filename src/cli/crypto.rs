//! `obelisk crypto`: what each provider can do on this machine, and which one does it.

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
    List,
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::List => list(context),
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
