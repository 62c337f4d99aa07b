//! `obelisk chaincode`: deploys contracts, calls them.
//!
//! Deployments go through the built-in contract `lifecycle`, which asks for the role admin.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::Subcommand;

use crate::chaincode::builtin::lifecycle;
use crate::cli::Context;
use crate::cli::argument;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::link;
use crate::cli::link::Link;
use crate::cli::link::Who;
use crate::cli::output;
use crate::cli::output::Cell;
use crate::client::connection::Located;
use crate::client::invocation::Invocation;
use crate::types::ids::TxId;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deploy a contract (role admin)
    Deploy {
        #[command(flatten)]
        package: Package,
        /// Arguments of the contract's `init`
        #[arg(long, value_name = "ARG", num_args = 1.., allow_negative_numbers = true)]
        init: Vec<String>,
    },
    /// Replace a contract's code, keep its state (role admin of the deploying organisation)
    Upgrade(Package),
    /// Stop a contract, keep its state (role admin of the deploying organisation)
    Retire {
        /// Name of the contract
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// All contracts
    List,
    /// One contract
    Show {
        /// Name of the contract
        name: String,
    },
    /// Call a function in a transaction and wait for its receipt
    Invoke {
        #[command(flatten)]
        call: Call,
        #[command(flatten)]
        wait: Wait,
    },
    /// Call a function on the node's committed state; nothing is written
    Query(Call),
}

#[derive(Args, Debug)]
pub struct Package {
    /// Name of the contract: a-z, 0-9, '-' and '_'
    name: String,
    /// The compiled contract
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Version, for people
    #[arg(long)]
    version: String,
    /// Runtime
    #[arg(long, default_value = "wasm")]
    kind: String,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
pub struct Call {
    /// Name of the contract
    name: String,
    /// Function of the contract
    function: String,
    /// Arguments: text, hex:00ff for bytes, @FILE for a file's content; after `--` as they stand
    #[arg(allow_negative_numbers = true)]
    args: Vec<String>,
}

#[derive(Args, Clone, Copy, Debug)]
pub struct Wait {
    /// Wait at most this long for the commit, seconds
    #[arg(long = "timeout", value_name = "SECONDS", default_value_t = 30)]
    seconds: u64,
}

impl Wait {
    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.seconds.min(WAIT_SECONDS_MAX))
    }
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Deploy { package, init } => {
            deploy("deploy", &package, argument::all(&init)?, context)
        }
        Command::Upgrade(package) => deploy("upgrade", &package, Vec::new(), context),
        Command::Retire { name, wait } => {
            let invocation = Invocation::new(lifecycle::NAME, "retire").arg(&name);
            submit(&invocation, wait, Who::Admin, context)
        }
        Command::List => list(context),
        Command::Show { name } => {
            let show = Invocation::new(lifecycle::NAME, "show").arg(&name);
            let link = Link::open(context, Who::Client)?;
            let value = parsed(&link.wait(link.client().query(&show))?)?;
            context.output.object(&fields(&value));
            Ok(())
        }
        Command::Invoke { call, wait } => submit(&invocation(&call)?, wait, Who::Client, context),
        Command::Query(call) => query(&call, context),
    }
}

fn invocation(call: &Call) -> Result<Invocation, Failure> {
    Ok(Invocation::new(&call.name, &call.function).args(argument::all(&call.args)?))
}

fn deploy(
    function: &str,
    package: &Package,
    init: Vec<bytes::Bytes>,
    context: &Context,
) -> Result<(), Failure> {
    let code = argument::file(&package.file)?;
    let invocation = Invocation::new(lifecycle::NAME, function)
        .arg(&package.name)
        .arg(&package.version)
        .arg(&package.kind)
        .arg(&code)
        .args(init);
    submit(&invocation, package.wait, Who::Admin, context)
}

fn query(call: &Call, context: &Context) -> Result<(), Failure> {
    let invocation = invocation(call)?;
    let link = Link::open(context, Who::Client)?;
    let value = link.wait(link.client().query(&invocation))?;
    match context.output.is_json() {
        true => context.output.object(&[("value", Cell::Bytes(value.to_vec()))]),
        false => context.output.note(&output::bytes_text(&value)),
    }
    Ok(())
}

/// Submits, waits, prints the receipt; a failed transaction is a refusal.
pub fn submit(
    invocation: &Invocation,
    wait: Wait,
    who: Who,
    context: &Context,
) -> Result<(), Failure> {
    let link = Link::open(context, who)?;
    let (transaction, located) = link.invoke(invocation, wait.duration())?;
    context.output.object(&receipt(transaction.id(), &located));
    link::receipt_failure(&located).map_or(Ok(()), Err)
}

/// A receipt as people and scripts read it.
pub fn receipt(id: TxId, located: &Located) -> Vec<(&'static str, Cell)> {
    let receipt = &located.receipt;
    let events = receipt.events.iter();
    let events = events.map(|event| {
        let (name, payload) = (output::tame(&event.name), output::bytes_text(&event.payload));
        Cell::Text(format!("{name} {payload}"))
    });
    let mut fields = vec![
        ("transaction", Cell::Id(id.0)),
        ("block", Cell::Number(located.height.0)),
        ("index", Cell::Number(located.index.into())),
        ("status", Cell::text_of(receipt.status.name())),
    ];
    if !receipt.error.is_empty() {
        fields.push(("error", Cell::Text(output::tame(&receipt.error))));
    }
    fields.extend([
        ("value", Cell::Bytes(receipt.value.to_vec())),
        ("events", Cell::List(events.collect())),
        ("fuel", Cell::Number(receipt.fuel)),
    ]);
    fields
}

fn list(context: &Context) -> Result<(), Failure> {
    let link = Link::open(context, Who::Client)?;
    let mut rows = Vec::new();
    let mut last = String::new();
    loop {
        let mut page = Invocation::new(lifecycle::NAME, "list");
        if !last.is_empty() {
            page = page.arg(&last);
        }
        let value = parsed(&link.wait(link.client().query(&page))?)?;
        let lines = value.as_array().map(Vec::as_slice).unwrap_or_default();
        rows.extend(lines.iter().map(|line| COLUMNS.map(|column| cell(&line[column])).to_vec()));
        let name = lines.last().and_then(|line| line["name"].as_str());
        match name {
            Some(name) if lines.len() == lifecycle::LIST_MAX && name > last.as_str() => {
                last = name.to_owned();
            }
            _ => break,
        }
    }
    let nothing = "no contract is deployed; `obelisk chaincode deploy` deploys one";
    context.output.table(&COLUMNS, &rows, nothing);
    Ok(())
}

fn parsed(value: &[u8]) -> Result<serde_json::Value, Failure> {
    serde_json::from_slice(value).map_err(|error| {
        let cause = format!("the node's answer is not JSON: {error}");
        Failure::new(Exit::Internal, cause, "ask another node with --node ADDRESS")
    })
}

fn fields(value: &serde_json::Value) -> Vec<(&str, Cell)> {
    let object = value.as_object();
    object.into_iter().flatten().map(|(name, value)| (name.as_str(), cell(value))).collect()
}

fn cell(value: &serde_json::Value) -> Cell {
    match value {
        serde_json::Value::String(text) => match text.parse() {
            Ok(digest) => Cell::Id(digest),
            Err(_) => Cell::Text(output::tame(text)),
        },
        serde_json::Value::Number(number) => Cell::maybe(number.as_u64().map(Cell::Number)),
        serde_json::Value::Bool(flag) => Cell::Flag(*flag),
        _ => Cell::None,
    }
}

const COLUMNS: [&str; 7] =
    ["name", "version", "kind", "active", "revision", "organisation", "height"];
const WAIT_SECONDS_MAX: u64 = 24 * 60 * 60;
