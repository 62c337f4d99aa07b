//! The account of a run: what stands in each block, who did it, what it meant. Read from the chain
//! with its certificates checked, not from memory.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::api::grpc::proto::StatusReply;
use crate::cli::demo::network;
use crate::cli::demo::place::Place;
use crate::cli::demo::story::Meanings;
use crate::cli::demo::watch::Watch;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::link::client_failure;
use crate::cli::output;
use crate::membership::identity::Role;
use crate::membership::msp;
use crate::types::block::Block;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::ids::Height;
use crate::types::receipt::BlockResult;
use crate::types::receipt::Status;

/// One block of the account.
#[derive(Debug)]
pub struct Page {
    height: u64,
    view: u64,
    time_ms: u64,
    hash: Digest,
    state_root: Digest,
    signatures: usize,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    who: String,
    call: String,
    status: Status,
    error: String,
    meaning: Option<String>,
}

/// Reads and checks the blocks from `from` to `to` from validator number `i`, from 0.
pub fn read(
    place: &Place,
    watch: &Watch,
    i: usize,
    heights: std::ops::RangeInclusive<u64>,
    meanings: &Meanings,
) -> Result<Vec<Page>, Failure> {
    let names = names(place);
    let organisation = &place.marker.organisations[i];
    let client = watch.client(place, i, organisation, Role::Client)?;
    let (from, to) = (*heights.start(), *heights.end());
    let mut blocks = client.blocks(Height(from));
    let mut pages = Vec::new();
    while from + (pages.len() as u64) <= to {
        let next = async { tokio::time::timeout(BLOCK_WITHIN, blocks.next()).await };
        let Ok(next) = watch.wait(next) else {
            let cause = format!("validator {} does not send block {}", i + 1, blocks.height());
            return Err(Failure::new(Exit::Internal, cause, "see its log, node.log"));
        };
        let (block, result) = next.map_err(|error| client_failure(&error))?;
        pages.push(page(&block, &result, &names, meanings));
    }
    Ok(pages)
}

/// As people read it.
pub fn text(pages: &[Page], validators: usize) -> String {
    let mut lines = Vec::new();
    for page in pages {
        let time = output::time(page.time_ms);
        let clock = time.split(['T', '.']).nth(1).unwrap_or_default().to_owned();
        lines.push(format!(
            "block {:<4} view {}  {clock}Z  state {}  signed by {} of {validators}",
            page.height,
            page.view,
            short(&page.state_root),
            page.signatures,
        ));
        for line in &page.lines {
            let outcome = match line.status {
                Status::Ok => "ok".to_owned(),
                status => format!("{}: {}", status.name(), output::tame(&line.error)),
            };
            lines.push(format!("  {:<22} {:<32} {outcome}", line.who, line.call));
            if let Some(meaning) = &line.meaning {
                lines.push(format!("    {meaning}"));
            }
        }
    }
    lines.join("\n")
}

/// As scripts read it.
pub fn json(pages: &[Page]) -> Value {
    let line = |line: &Line| {
        json!({
            "by": line.who, "call": line.call, "status": line.status.name(),
            "error": line.error, "meaning": line.meaning,
        })
    };
    let page = |page: &Page| {
        json!({
            "height": page.height, "view": page.view, "time_ms": page.time_ms,
            "hash": page.hash.to_string(), "state_root": page.state_root.to_string(),
            "signatures": page.signatures,
            "transactions": page.lines.iter().map(line).collect::<Vec<_>>(),
        })
    };
    pages.iter().map(page).collect()
}

/// Refuses validators that stand at one height with different blocks or states.
pub fn agreed(statuses: &[Option<StatusReply>]) -> Result<&StatusReply, Failure> {
    let mut running = statuses.iter().flatten();
    let Some(first) = running.next() else {
        let fix = "start them with `obelisk demo`";
        return Err(Failure::new(Exit::Unreachable, "no validator answers", fix));
    };
    let same = |other: &StatusReply| {
        (other.height, &other.block_hash, &other.state_root)
            == (first.height, &first.block_hash, &first.state_root)
    };
    if running.all(same) {
        return Ok(first);
    }
    let cause =
        format!("the validators hold different blocks or states at height {}", first.height);
    let fix = "this must not happen: keep the demo's folder and report it";
    Err(Failure::new(Exit::Internal, cause, fix))
}

/// The first digits of a hash, as everywhere in tables.
pub fn short(digest: &Digest) -> String {
    hex::encode(&digest.0[..6])
}

fn page(
    block: &Block,
    result: &BlockResult,
    names: &BTreeMap<CertificateId, String>,
    meanings: &Meanings,
) -> Page {
    let transactions = block.batches.iter().flat_map(|batch| batch.transactions());
    let lines = transactions.zip(&result.receipts).map(|(transaction, receipt)| {
        let payload = transaction.payload();
        let creator = names.get(&payload.creator).cloned();
        Line {
            who: creator.unwrap_or_else(|| payload.creator.0.to_string()),
            call: output::tame(&format!("{}.{}", payload.chaincode, payload.function)),
            status: receipt.status,
            error: receipt.error.clone(),
            meaning: meanings.get(&transaction.id()).cloned(),
        }
    });
    Page {
        height: block.header.height.0,
        view: block.header.view.0,
        time_ms: block.header.time_ms,
        hash: result.hash.0,
        state_root: result.state_root,
        signatures: block.certificate.signatures.len(),
        lines: lines.collect(),
    }
}

/// Who is who, by the digest of the certificate that transactions name.
fn names(place: &Place) -> BTreeMap<CertificateId, String> {
    let mut names = BTreeMap::new();
    for organisation in &place.marker.organisations {
        for role in [Role::Client, Role::Admin] {
            let folder = network::member(place, organisation, role);
            // Who cannot be read is shown by the digest of the certificate.
            if let Ok(certificate) = msp::read_certificate(&folder.join("cert.pem")) {
                let id = CertificateId(Digest::of(&[&certificate]));
                names.insert(id, format!("{organisation}/{}", role.name()));
            }
        }
    }
    names
}

const BLOCK_WITHIN: Duration = Duration::from_secs(30);
