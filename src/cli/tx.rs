//! `obelisk tx`: transactions, their receipts and their proofs.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use crate::cli::Context;
use crate::cli::argument;
use crate::cli::chaincode;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::link;
use crate::cli::link::Link;
use crate::cli::link::Who;
use crate::cli::output;
use crate::cli::output::Cell;
use crate::client::verify::Verifier;
use crate::crypto::Check;
use crate::crypto::routing::Crypto;
use crate::membership::consortium;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::evidence::TransactionProof;
use crate::types::ids::BlockHash;
use crate::types::ids::TxId;
use crate::types::transaction::Transaction;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a committed transaction; its place in the chain is proven first
    Show {
        /// Transaction id
        #[arg(value_parser = argument::digest)]
        id: Digest,
    },
    /// Show what became of a transaction
    Receipt {
        /// Transaction id
        #[arg(value_parser = argument::digest)]
        id: Digest,
        /// Wait for the commit
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        timeout: chaincode::Wait,
    },
    /// Get the proof that a transaction is in the chain
    Proof {
        /// Transaction id
        #[arg(value_parser = argument::digest)]
        id: Digest,
        /// Write the proof to this new file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Check a proof offline: path, header, signatures of a quorum
    Verify {
        /// File that `tx proof --out` wrote
        #[arg(long, value_name = "FILE")]
        proof: PathBuf,
        /// The network's genesis document
        #[arg(long, value_name = "FILE")]
        genesis: PathBuf,
    },
    /// Submit a signed, encoded transaction and wait for its receipt
    Submit {
        /// File with the transaction's bytes, as docs/formats.md describes them
        file: PathBuf,
        #[command(flatten)]
        timeout: chaincode::Wait,
    },
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Show { id } => show(TxId(id), context),
        Command::Receipt { id, wait, timeout } => {
            let wait = if wait { timeout.duration() } else { Duration::ZERO };
            let link = Link::open(context, Who::Client)?;
            let located = link.wait(link.client().receipt(TxId(id), wait))?;
            context.output.object(&chaincode::receipt(TxId(id), &located));
            Ok(())
        }
        Command::Proof { id, out } => proof(TxId(id), out.as_deref(), context),
        Command::Verify { proof, genesis } => verify(&proof, &genesis, context),
        Command::Submit { file, timeout } => submit(&file, timeout, context),
    }
}

fn show(id: TxId, context: &Context) -> Result<(), Failure> {
    let link = Link::open(context, Who::Client)?;
    let proven = link.wait(link.client().prove_transaction(id))?;
    let mut fields = described(&proven.proof, proven.hash);
    fields.push(("status", Cell::text_of(proven.receipt.receipt.status.name())));
    context.output.object(&fields);
    Ok(())
}

fn proof(id: TxId, out: Option<&Path>, context: &Context) -> Result<(), Failure> {
    let link = Link::open(context, Who::Client)?;
    let proven = link.wait(link.client().prove_transaction(id))?;
    let bytes = proven.proof.to_bytes();
    let mut fields = vec![
        ("transaction", Cell::Id(id.0)),
        ("block", Cell::Number(proven.proof.header.height.0)),
        ("bytes", Cell::Number(bytes.len() as u64)),
    ];
    match out {
        Some(path) => {
            write_new(path, &bytes)?;
            fields.push(("file", Cell::Text(path.display().to_string())));
        }
        None => fields.push(("proof", Cell::Text(hex::encode(&bytes)))),
    }
    context.output.object(&fields);
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, bytes));
    written.map_err(|error| {
        let cause = format!("cannot write {}: {error}", path.display());
        Failure::usage(cause, "choose a new file with --out")
    })
}

fn verify(path: &Path, genesis: &Path, context: &Context) -> Result<(), Failure> {
    let genesis = consortium::read_genesis(genesis)
        .map_err(|error| Failure::of(Exit::Usage, &error, "check --genesis"))?;
    let bytes = argument::proof_file(path)?;
    let proof = TransactionProof::from_bytes(&bytes).map_err(|error| {
        let failure = Failure::of(Exit::Usage, &error, "");
        let cause = format!("{} is no transaction proof: {}", path.display(), failure.cause);
        Failure::usage(cause, "give a file that `obelisk tx proof --out FILE` wrote")
    })?;
    let crypto = Crypto::portable();
    let verify = std::sync::Arc::new(move |check: &Check<'_>| crypto.verify(check));
    let hash = Verifier::new(&genesis, verify).check_transaction(&proof).map_err(|error| {
        let fix = "do not rely on it; ask another node for the proof";
        let mut failure = Failure::of(Exit::Refused, &error, fix);
        failure.cause = format!("the proof does not hold: {}", failure.cause);
        failure
    })?;
    let mut fields = vec![("verdict", Cell::text_of("the proof holds"))];
    fields.extend(described(&proof, hash));
    context.output.object(&fields);
    Ok(())
}

fn submit(path: &Path, timeout: chaincode::Wait, context: &Context) -> Result<(), Failure> {
    let bytes = argument::file(path)?;
    let transaction = Transaction::from_bytes(&bytes).map_err(|error| {
        let failure = Failure::of(Exit::Usage, &error, "");
        let cause = format!("{} is no encoded transaction: {}", path.display(), failure.cause);
        Failure::usage(cause, "docs/formats.md describes the bytes; SDKs write them")
    })?;
    let link = Link::open(context, Who::Client)?;
    let identity = link.identity()?;
    // The node learns the creator's certificate where it is ours.
    let own = transaction.payload().creator == identity.id();
    let certificate = own.then(|| identity.certificate());
    let client = link.client();
    let submitted = client.submit_and_wait(&transaction, certificate, timeout.duration());
    let located = link.wait(submitted)?;
    context.output.object(&chaincode::receipt(transaction.id(), &located));
    link::receipt_failure(&located).map_or(Ok(()), Err)
}

fn described(proof: &TransactionProof, hash: BlockHash) -> Vec<(&'static str, Cell)> {
    let payload = proof.transaction.payload();
    let args = payload.args.iter().map(|argument| Cell::Bytes(shortened(argument)));
    let signers = proof.certificate.signatures.iter();
    let signers: Vec<String> = signers.map(|(replica, _)| replica.to_string()).collect();
    vec![
        ("transaction", Cell::Id(proof.transaction.id().0)),
        ("chaincode", Cell::Text(output::tame(&payload.chaincode))),
        ("function", Cell::Text(output::tame(&payload.function))),
        ("arguments", Cell::List(args.collect())),
        ("creator", Cell::Id(payload.creator.0)),
        ("valid until", Cell::Number(payload.valid_until.0)),
        ("client time", Cell::Time(payload.client_time_ms)),
        ("block", Cell::Number(proof.header.height.0)),
        ("block hash", Cell::Id(hash.0)),
        ("block time", Cell::Time(proof.header.time_ms)),
        ("signed by replicas", Cell::Text(signers.join(" "))),
    ]
}

/// A package would fill the screen; its first bytes say what it is.
fn shortened(argument: &[u8]) -> Vec<u8> {
    match argument.len() > SHOWN_BYTES_MAX {
        true => format!("{} bytes", argument.len()).into_bytes(),
        false => argument.to_vec(),
    }
}

const SHOWN_BYTES_MAX: usize = 4096;
