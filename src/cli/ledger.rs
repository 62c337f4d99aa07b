//! `obelisk ledger`: reads a node's data directory without a node and trusts nothing in it.
//!
//! Only the genesis document says whose signatures count. The directory is locked while blocks are
//! read, so a running node and this never meet; evidence is read beside a running node.

use std::fs::OpenOptions;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use clap::Subcommand;
use nix::fcntl::Flock;
use nix::fcntl::FlockArg;

use crate::cli::Context;
use crate::cli::argument;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Cell;
use crate::client::verify::Verifier;
use crate::consensus::Claim;
use crate::consensus::evidence::Judge;
use crate::crypto::Check;
use crate::crypto::routing::Crypto;
use crate::ledger::segments::SegmentSizes;
use crate::ledger::segments::Segments;
use crate::membership::consortium;
use crate::pipeline::order::evidence;
use crate::types::block::Block;
use crate::types::block::Tip;
use crate::types::codec::Decode;
use crate::types::digest::Digest;
use crate::types::genesis::Genesis;
use crate::types::ids::Height;
use crate::types::merkle;
use crate::types::receipt::BlockResult;
use crate::types::receipt::Receipt;
use crate::types::transaction::Transaction;
use crate::types::vote_signature::SignatureCheck;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check every block: checksums, chain links, transactions, signatures of quorums, receipts
    Verify(Place),
    /// Show where a stopped node's ledger ends
    Show(Place),
    /// Judge evidence that validators broke the protocol: a node's, or one file's
    Evidence(Exhibits),
}

#[derive(Args, Debug)]
pub struct Exhibits {
    /// Data directory of a node, running or not
    #[arg(long, value_name = "DIR", required_unless_present = "file")]
    data: Option<PathBuf>,
    /// One piece of evidence
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    file: Option<PathBuf>,
    /// The network's genesis document
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
}

#[derive(Args, Debug)]
pub struct Place {
    /// The node's data directory (node.data of its configuration)
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The network's genesis document
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
}

/// Block files, locked.
struct Opened {
    genesis: Genesis,
    segments: Segments,
    _lock: Flock<std::fs::File>,
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Verify(place) => verify(&place, context),
        Command::Show(place) => show(&place, context),
        Command::Evidence(exhibits) => judge_evidence(&exhibits, context),
    }
}

fn open(place: &Place) -> Result<Opened, Failure> {
    let genesis = consortium::read_genesis(&place.genesis)
        .map_err(|error| Failure::of(Exit::Usage, &error, "check --genesis"))?;
    let dir = place.data.join("ledger");
    let segments = dir.join("segments");
    if !segments.is_dir() {
        let cause = format!("there is no ledger in {}", place.data.display());
        let fix = "name the directory that node.data of the configuration names";
        return Err(Failure::new(Exit::NotFound, cause, fix));
    }
    let lock = lock(&dir)?;
    let sizes = SegmentSizes { verified_bytes: u64::MAX, ..SegmentSizes::default() };
    let segments = Segments::open(&segments, genesis.chain_id(), sizes)
        .map_err(|error| Failure::of(Exit::Refused, &error, RESTORE))?;
    Ok(Opened { genesis, segments, _lock: lock })
}

fn lock(dir: &Path) -> Result<Flock<std::fs::File>, Failure> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| argument::unreadable(&path, &error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        let cause = format!("{} is in use by a running node", dir.display());
        Failure::new(Exit::Refused, cause, "stop the node first, or verify a copy")
    })
}

fn verify(place: &Place, context: &Context) -> Result<(), Failure> {
    let Opened { genesis, segments, _lock } = open(place)?;
    let crypto = Crypto::portable();
    let check = Arc::new(move |check: &Check<'_>| crypto.verify(check));
    let verifier = Verifier::new(&genesis, check);
    let chain = genesis.chain_id();
    let mut tip = Tip::genesis(chain, genesis.time_ms);
    let (mut transactions, mut failed, mut signatures) = (0, 0, 0);
    let mut state_root = Digest::ZERO;
    for height in (1..=segments.tip().0).map(Height) {
        let bad = |reason: String| {
            let cause = format!("block {height} does not hold: {reason}");
            Failure::new(Exit::Refused, cause, RESTORE)
        };
        let (block, result) = read(&segments, height)?;
        let header = &block.header;
        if header.height != height || header.previous != tip.hash {
            return Err(bad(format!("it does not follow block {}", tip.height)));
        }
        if header.time_ms <= tip.time_ms || header.sequence <= tip.sequence {
            return Err(bad("its time or sequence number does not grow".to_owned()));
        }
        let hash = verifier
            .check_block(&block)
            .map_err(|error| bad(Failure::of(Exit::Refused, &error, RESTORE).cause))?;
        if (result.height, result.hash) != (height, hash) {
            return Err(bad("its result belongs to another block".to_owned()));
        }
        check_receipts(&block, &result).map_err(bad)?;
        transactions += result.receipts.len() as u64;
        failed += result.receipts.iter().filter(|r| r.status as u8 != 0).count() as u64;
        signatures += block.certificate.signatures.len() as u64;
        state_root = result.state_root;
        tip = header.tip();
    }
    context.output.object(&[
        ("verdict", Cell::text_of("every block holds")),
        ("network", Cell::text_of(&genesis.network)),
        ("chain", Cell::Id(chain.0)),
        ("height", Cell::Number(tip.height.0)),
        ("block hash", Cell::Id(tip.hash.0)),
        ("state root", Cell::Id(state_root)),
        ("transactions", Cell::Number(transactions)),
        ("failed", Cell::Number(failed)),
        ("signatures checked", Cell::Number(signatures)),
    ]);
    Ok(())
}

fn read(segments: &Segments, height: Height) -> Result<(Block, BlockResult), Failure> {
    let damaged = |error: &dyn std::error::Error| Failure::of(Exit::Refused, error, RESTORE);
    let stored = segments.read(height).map_err(|error| damaged(&error))?.ok_or_else(|| {
        Failure::new(Exit::Refused, format!("block {height} is missing"), RESTORE)
    })?;
    let block = Block::from_bytes(&stored.block).map_err(|error| damaged(&error))?;
    let result = BlockResult::from_bytes(&stored.result).map_err(|error| damaged(&error))?;
    Ok((block, result))
}

/// One receipt per transaction, in order, under the recorded root.
fn check_receipts(block: &Block, result: &BlockResult) -> Result<(), String> {
    let ordered = block.batches.iter().flat_map(|batch| batch.transactions());
    if !ordered.map(Transaction::id).eq(result.receipts.iter().map(|receipt| receipt.tx)) {
        return Err("its receipts are not those of its transactions".to_owned());
    }
    let digests: Vec<Digest> = result.receipts.iter().map(Receipt::digest).collect();
    match merkle::root(&digests) == result.receipts_root {
        true => Ok(()),
        false => Err("its receipts do not lead to the recorded receipts root".to_owned()),
    }
}

fn show(place: &Place, context: &Context) -> Result<(), Failure> {
    let Opened { genesis, segments, _lock } = open(place)?;
    let height = segments.tip();
    let mut fields = vec![
        ("network", Cell::text_of(&genesis.network)),
        ("chain", Cell::Id(genesis.chain_id().0)),
        ("height", Cell::Number(height.0)),
    ];
    if height.0 > 0 {
        let (block, result) = read(&segments, height)?;
        fields.extend([
            ("block hash", Cell::Id(block.header.hash().0)),
            ("block time", Cell::Time(block.header.time_ms)),
            ("view", Cell::Number(block.header.view.0)),
            ("sequence", Cell::Number(block.header.sequence.0)),
            ("state root", Cell::Id(result.state_root)),
        ]);
    }
    context.output.object(&fields);
    Ok(())
}

/// Judges every piece; one that does not hold is a refusal, after all were shown.
fn judge_evidence(exhibits: &Exhibits, context: &Context) -> Result<(), Failure> {
    let genesis = consortium::read_genesis(&exhibits.genesis)
        .map_err(|error| Failure::of(Exit::Usage, &error, "check --genesis"))?;
    let judge = Judge::of(&genesis)
        .map_err(|error| Failure::of(Exit::Usage, &error, "use a build that has it"))?;
    let crypto = Crypto::portable();
    let verify = |claim: &Claim| {
        let holds = |check: &SignatureCheck| crypto.verify(&Check::from(check));
        claim.holds(&judge.chain, &judge.replicas, holds)
    };
    let mut rows = Vec::new();
    let mut refused = 0;
    for bytes in pieces(exhibits)? {
        let digest = Cell::Id(Digest::of(&[&bytes]));
        match judge.judge(&bytes, verify) {
            Ok(found) => {
                let replica = genesis.replicas.get(found.culprit).expect("a judge knows it");
                let who = format!("{} ({}/{})", found.culprit, replica.organisation, replica.name);
                let verdict = Cell::text_of("holds");
                rows.push(vec![verdict, Cell::text_of(who), Cell::text_of(found.offence), digest]);
            }
            Err(error) => {
                refused += 1;
                let cause = Failure::of(Exit::Refused, &error, REFUSED_EVIDENCE).cause;
                let nobody = Cell::text_of("nobody");
                rows.push(vec![Cell::text_of("refused"), nobody, Cell::text_of(cause), digest]);
            }
        }
    }
    let columns = ["verdict", "replica", "what", "sha256"];
    context.output.table(
        &columns,
        &rows,
        "there is no evidence: nobody was seen to break the protocol",
    );
    match refused {
        0 => Ok(()),
        count => {
            let cause = format!("{count} of {} pieces of evidence do not hold", rows.len());
            Err(Failure::new(Exit::Refused, cause, REFUSED_EVIDENCE))
        }
    }
}

fn pieces(exhibits: &Exhibits) -> Result<Vec<Bytes>, Failure> {
    if let Some(path) = &exhibits.file {
        return Ok(vec![argument::proof_file(path)?]);
    }
    let data = exhibits.data.as_deref().expect("one of both is required");
    let folder = data.join("consensus").join(evidence::FOLDER);
    if !folder.is_dir() {
        let cause = format!("{} keeps no evidence: no validator's data directory", data.display());
        let fix = "name the directory that node.data of a validator's configuration names";
        return Err(Failure::new(Exit::NotFound, cause, fix));
    }
    evidence::read(&folder).map_err(|error| argument::unreadable(&folder, &error))
}

const REFUSED_EVIDENCE: &str = "trust nothing it says; ask another node for its evidence";
const RESTORE: &str = "move the data directory away and let the node fetch its blocks again";
