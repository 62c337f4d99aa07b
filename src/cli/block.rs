//! `obelisk block` and `obelisk events`: the chain as it is and as it grows. Every block is checked
//! against the genesis document before it is printed; events are the node's word.

use clap::Subcommand;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::link::Link;
use crate::cli::link::Who;
use crate::cli::output;
use crate::cli::output::Cell;
use crate::types::block::Block;
use crate::types::ids::Height;
use crate::types::receipt::BlockResult;
use crate::types::receipt::Status;
use crate::types::transaction::Transaction;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show one block with its transactions
    Show {
        /// Height, or `latest`
        #[arg(value_name = "HEIGHT|latest", value_parser = at)]
        height: At,
    },
    /// List blocks, newest last
    List {
        /// First height [default: so that the newest are shown]
        #[arg(long, value_name = "HEIGHT")]
        from: Option<u64>,
        /// Number of blocks
        #[arg(long, default_value_t = 20)]
        count: u64,
    },
    /// Print each block as it is committed
    Follow {
        /// First height [default: the next block]
        #[arg(long, value_name = "HEIGHT")]
        from: Option<u64>,
        /// Stop after so many blocks
        #[arg(long)]
        count: Option<u64>,
    },
}

/// Events of contracts.
#[derive(Debug, Subcommand)]
pub enum EventsCommand {
    /// Print events as they are committed
    Follow {
        /// First height [default: the next block]
        #[arg(long, value_name = "HEIGHT")]
        from: Option<u64>,
        /// Only events of this contract
        #[arg(long, default_value = "", hide_default_value = true)]
        chaincode: String,
        /// Only events of this name
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// Stop after so many events
        #[arg(long)]
        count: Option<u64>,
    },
}

/// A height as it is asked for.
#[derive(Clone, Copy, Debug)]
pub enum At {
    Height(u64),
    Latest,
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Show { height } => show(height, context),
        Command::List { from, count } => list(from, count, context),
        Command::Follow { from, count } => follow(from, count, context),
    }
}

fn show(at: At, context: &Context) -> Result<(), Failure> {
    let link = Link::open(context, Who::Client)?;
    let tip = tip(&link)?;
    let height = match at {
        At::Latest => tip,
        At::Height(height) => height,
    };
    if height == 0 || height > tip {
        let cause = format!("there is no block {height}; the chain ends at {tip}");
        return Err(Failure::new(Exit::NotFound, cause, "choose a height from 1 to the end"));
    }
    let mut blocks = link.client().blocks(Height(height));
    let (block, result) = link.wait(blocks.next())?;
    let header = &block.header;
    let signers = block.certificate.signatures.iter();
    let signers: Vec<String> = signers.map(|(replica, _)| replica.to_string()).collect();
    let transactions = block.batches.iter().flat_map(|batch| batch.transactions());
    let transactions = transactions.zip(&result.receipts).map(|(transaction, receipt)| {
        Cell::Text(format!(
            "{} {} {}",
            transaction.id(),
            called(transaction),
            receipt.status.name()
        ))
    });
    context.output.object(&[
        ("height", Cell::Number(height)),
        ("hash", Cell::Id(result.hash.0)),
        ("previous", Cell::Id(header.previous.0)),
        ("time", Cell::Time(header.time_ms)),
        ("view", Cell::Number(header.view.0)),
        ("sequence", Cell::Number(header.sequence.0)),
        ("state root", Cell::Id(result.state_root)),
        ("receipts root", Cell::Id(result.receipts_root)),
        ("signed by replicas", Cell::Text(signers.join(" "))),
        ("transactions", Cell::List(transactions.collect())),
    ]);
    Ok(())
}

fn list(from: Option<u64>, count: u64, context: &Context) -> Result<(), Failure> {
    let link = Link::open(context, Who::Client)?;
    let tip = tip(&link)?;
    let from = from.unwrap_or_else(|| tip.saturating_sub(count.saturating_sub(1))).max(1);
    let end = from.saturating_add(count).min(tip.saturating_add(1));
    let mut blocks = link.client().blocks(Height(from));
    let mut rows = Vec::new();
    for _ in from..end {
        let (block, result) = link.wait(blocks.next())?;
        rows.push(row(&block, &result).into_iter().map(|(_, cell)| cell).collect());
    }
    context.output.table(&COLUMNS, &rows, "the chain has no such blocks yet");
    Ok(())
}

fn follow(from: Option<u64>, count: Option<u64>, context: &Context) -> Result<(), Failure> {
    let link = Link::open(context, Who::Client)?;
    let from = match from {
        Some(from) => from,
        None => tip(&link)?.saturating_add(1),
    };
    let mut blocks = link.client().blocks(Height(from));
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let (block, result) = link.wait(blocks.next())?;
        let fields = row(&block, &result);
        let header = &block.header;
        let text = format!(
            "{}  block {}  {}  {} transactions  view {}  {}",
            output::time(header.time_ms),
            header.height,
            result.hash.0.short(),
            header.transactions,
            header.view,
            verdict(&result)
        );
        context.output.line(text.trim_end(), &fields);
        left -= 1;
    }
    Ok(())
}

/// Runs `obelisk events`.
pub fn run_events(command: EventsCommand, context: &Context) -> Result<(), Failure> {
    let EventsCommand::Follow { from, chaincode, name, count } = command;
    let link = Link::open(context, Who::Client)?;
    let from = match from {
        Some(from) => from,
        None => tip(&link)?.saturating_add(1),
    };
    let mut events = link.client().events(Height(from), &chaincode, &name);
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let block = link.wait(events.next())?;
        for event in block.events {
            let id: Cell = match <[u8; 32]>::try_from(&event.tx[..]) {
                Ok(bytes) => Cell::Id(crate::types::digest::Digest(bytes)),
                Err(_) => Cell::None,
            };
            let payload = output::bytes_text(&event.payload);
            let (chaincode, name) = (output::tame(&event.chaincode), output::tame(&event.name));
            let text = format!("block {}  {chaincode}.{name}  {payload}", block.height);
            context.output.line(
                &text,
                &[
                    ("height", Cell::Number(block.height)),
                    ("transaction", id),
                    ("index", Cell::Number(event.index.into())),
                    ("chaincode", Cell::Text(chaincode)),
                    ("name", Cell::Text(name)),
                    ("payload", Cell::Text(payload)),
                ],
            );
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    Ok(())
}

fn tip(link: &Link) -> Result<u64, Failure> {
    Ok(link.wait(link.client().tip())?.0)
}

fn row(block: &Block, result: &BlockResult) -> Vec<(&'static str, Cell)> {
    let header = &block.header;
    let cells = [
        Cell::Number(header.height.0),
        Cell::Hash(result.hash.0),
        Cell::Time(header.time_ms),
        Cell::Number(header.view.0),
        Cell::Number(header.transactions.into()),
        Cell::Number(failed(result)),
        Cell::Hash(result.state_root),
    ];
    COLUMNS.into_iter().zip(cells).collect()
}

fn failed(result: &BlockResult) -> u64 {
    result.receipts.iter().filter(|receipt| receipt.status != Status::Ok).count() as u64
}

fn verdict(result: &BlockResult) -> String {
    match failed(result) {
        0 => String::new(),
        failed => format!("{failed} failed"),
    }
}

fn called(transaction: &Transaction) -> String {
    let payload = transaction.payload();
    output::tame(&format!("{}.{}", payload.chaincode, payload.function))
}

fn at(text: &str) -> Result<At, String> {
    match text {
        "latest" => Ok(At::Latest),
        digits => digits.parse().map(At::Height).map_err(|_| "write a height or `latest`".into()),
    }
}

const COLUMNS: [&str; 7] =
    ["height", "hash", "time", "view", "transactions", "failed", "state root"];
