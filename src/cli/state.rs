//! `obelisk state`: keys of contracts, their values, proofs and histories.

use bytes::Bytes;
use clap::Subcommand;

use crate::api::scan::Asked;
use crate::cli::Context;
use crate::cli::argument;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::link::Link;
use crate::cli::link::Who;
use crate::cli::output;
use crate::cli::output::Cell;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The value of a key
    Get {
        /// Name of the contract
        chaincode: String,
        /// Key: text, hex:00ff for bytes
        key: String,
        /// Prove the value, or its absence, against the state root
        #[arg(long)]
        proof: bool,
    },
    /// A page of a contract's keys and values, ascending by key
    Scan(Scan),
    /// The writes of a key, newest first
    History {
        /// Name of the contract
        chaincode: String,
        /// Key: text, hex:00ff for bytes
        key: String,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
}

#[derive(Debug, clap::Args)]
pub struct Scan {
    /// Name of the contract
    chaincode: String,
    /// All keys that begin like this: text, hex:00ff for bytes
    #[arg(long, value_name = "KEY", conflicts_with_all = ["start", "end"])]
    prefix: Option<String>,
    /// First key
    #[arg(long, value_name = "KEY")]
    start: Option<String>,
    /// First key behind the range
    #[arg(long, value_name = "KEY")]
    end: Option<String>,
    /// Where to go on: `next` of the page before
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// At most so many entries, 1 to 1024
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// Refuse unless the state stands at this height
    #[arg(long)]
    height: Option<u64>,
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Get { chaincode, key, proof: false } => get(&chaincode, &key, context),
        Command::Get { chaincode, key, proof: true } => prove(&chaincode, &key, context),
        Command::Scan(scan) => self::scan(&scan, context),
        Command::History { chaincode, key, limit } => history(&chaincode, &key, limit, context),
    }
}

fn get(chaincode: &str, key: &str, context: &Context) -> Result<(), Failure> {
    let bytes = argument::bytes(key)?;
    let link = Link::open(context, Who::Client)?;
    let Some(value) = link.wait(link.client().state(chaincode, &bytes))? else {
        return Err(absent(chaincode, key));
    };
    match context.output.is_json() {
        true => context.output.object(&[("value", Cell::Bytes(value.to_vec()))]),
        false => context.output.note(&output::bytes_text(&value)),
    }
    Ok(())
}

fn prove(chaincode: &str, key: &str, context: &Context) -> Result<(), Failure> {
    let bytes = argument::bytes(key)?;
    let link = Link::open(context, Who::Client)?;
    let proven = link.wait(link.client().prove_state(chaincode, &bytes))?;
    let evidence = match &proven.checkpoint {
        Some(checkpoint) => {
            let signers = checkpoint.certificate.signatures.len();
            format!("state root signed by {signers} validators at this height")
        }
        None => "value proven against the root; the root is this node's word until a checkpoint"
            .to_owned(),
    };
    context.output.object(&[
        ("chaincode", Cell::Text(output::tame(chaincode))),
        ("key", Cell::Bytes(bytes.to_vec())),
        ("height", Cell::Number(proven.height.0)),
        ("found", Cell::Flag(proven.value.is_some())),
        ("value", Cell::maybe(proven.value.map(|value| Cell::Bytes(value.to_vec())))),
        ("state root", Cell::Id(proven.state_root)),
        ("signed", Cell::Flag(proven.checkpoint.is_some())),
        ("evidence", Cell::Text(evidence)),
    ]);
    Ok(())
}

fn scan(scan: &Scan, context: &Context) -> Result<(), Failure> {
    let key = |text: &Option<String>| text.as_deref().map_or(Ok(Bytes::new()), argument::bytes);
    let asked = Asked {
        chaincode: scan.chaincode.clone(),
        prefix: key(&scan.prefix)?,
        start: key(&scan.start)?,
        end: key(&scan.end)?,
        from: key(&scan.from)?,
        limit: Some(scan.limit),
        height: scan.height,
    };
    asked.clone().check().map_err(|refused| Failure::usage(refused.message, refused.hint))?;
    let link = Link::open(context, Who::Client)?;
    let page = link.wait(link.client().scan(&asked))?;
    let next = page.next.map(|next| output::bytes_text(&next));
    let entry =
        |(key, value): &(Bytes, Bytes)| [output::bytes_text(key), output::bytes_text(value)];
    if context.output.is_json() {
        let entries = page.entries.iter().map(entry);
        let entries: Vec<_> =
            entries.map(|[key, value]| serde_json::json!({ "key": key, "value": value })).collect();
        let (height, next) = (page.height.0, next.as_deref());
        let page = serde_json::json!({ "height": height, "entries": entries, "next": next });
        context.output.value(&page);
        return Ok(());
    }
    let rows: Vec<Vec<Cell>> =
        page.entries.iter().map(|pair| entry(pair).map(Cell::Text).to_vec()).collect();
    context.output.table(&["key", "value"], &rows, "no key in this range");
    context.output.note(&match next {
        Some(next) => format!("height {}; more with --from {next:?}", page.height),
        None => format!("height {}; no more", page.height),
    });
    Ok(())
}

fn history(chaincode: &str, key: &str, limit: u32, context: &Context) -> Result<(), Failure> {
    let bytes = argument::bytes(key)?;
    let link = Link::open(context, Who::Client)?;
    let writes = link.wait(link.client().history(chaincode, &bytes, limit.max(1)))?;
    if writes.is_empty() {
        return Err(absent(chaincode, key));
    }
    let rows: Vec<Vec<Cell>> = writes
        .iter()
        .map(|(height, index, deleted)| {
            let index = Cell::Number((*index).into());
            vec![Cell::Number(height.0), index, Cell::Flag(*deleted)]
        })
        .collect();
    context.output.table(&["height", "index", "deleted"], &rows, "never written");
    Ok(())
}

fn absent(chaincode: &str, key: &str) -> Failure {
    let cause = format!("{chaincode:?} has no key {key:?}");
    Failure::new(Exit::NotFound, cause, "check both names; a newer block may not be here yet")
}
