//! `obelisk network found`: a genesis document from the roots of organisations that have their own.
//!
//! Each founder can run it on the same certificates with the time of the first: the same document
//! comes out, so nobody has to believe the one who made it.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::member;
use crate::cli::network::create;
use crate::cli::output::Cell;
use crate::crypto::Check;
use crate::crypto::routing::Crypto;
use crate::host::clock::now_ms;
use crate::membership::founding;
use crate::membership::founding::Founding;
use crate::membership::founding::Named;
use crate::membership::msp;
use crate::types::codec::Encode;
use crate::types::genesis::ChainParameters;

#[derive(Args, Debug)]
pub struct Found {
    /// New file for the genesis document
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Root certificate of an organisation (`obelisk ca init` makes one); one per organisation
    #[arg(long = "root", value_name = "FILE", required = true)]
    roots: Vec<PathBuf>,
    /// Enrolment certificate of a validator, the cert.pem of its identity; repeatable
    #[arg(long = "validator", value_name = "FILE", required = true)]
    validators: Vec<PathBuf>,
    /// Name of the network
    #[arg(long)]
    name: String,
    /// Consensus: a row of the plug-in table
    #[arg(long, value_name = "PLUGIN", default_value = "pbft")]
    consensus: String,
    /// The genesis time, milliseconds since 1970, to make a document again; else now
    #[arg(long = "time-ms", value_name = "TIME")]
    time_ms: Option<u64>,
}

pub fn run(found: &Found, context: &Context) -> Result<(), Failure> {
    create::check_consensus(&found.consensus, found.validators.len())?;
    let crypto = Crypto::portable();
    let founding = Founding {
        network: found.name.clone(),
        time_ms: found.time_ms.unwrap_or_else(now_ms),
        consensus: found.consensus.clone(),
        parameters: ChainParameters::default(),
    };
    let (roots, validators) = (named(&found.roots)?, named(&found.validators)?);
    let verify = Arc::new(move |check: &Check<'_>| crypto.verify(check)) as _;
    let genesis = founding::found(&founding, &roots, &validators, &verify).map_err(|error| {
        Failure::of(Exit::Usage, &error, "`obelisk member show FILE` says what a certificate is")
    })?;
    msp::write_new(&found.out, &genesis.to_bytes(), 0o644)
        .map_err(|error| Failure::of(Exit::Usage, &error, "choose a new file with --out"))?;
    let seats = genesis.replicas.iter();
    let seats = seats.map(|(id, r)| Cell::Text(format!("{id} {}/{}", r.organisation, r.name)));
    let names = genesis.organisations.iter().map(|o| Cell::text_of(&o.name)).collect();
    context.output.object(&[
        ("network", Cell::text_of(&genesis.network)),
        ("chain", Cell::Id(genesis.chain_id().0)),
        ("time ms", Cell::Number(genesis.time_ms)),
        ("organisations", Cell::List(names)),
        ("validators", Cell::List(seats.collect())),
        ("genesis", Cell::Text(found.out.display().to_string())),
    ]);
    context.output.note(&format!(
        "\nEvery founder can make the same document with --time-ms {} and compare the chain.",
        genesis.time_ms
    ));
    Ok(())
}

fn named(files: &[PathBuf]) -> Result<Vec<Named>, Failure> {
    files.iter().map(|file| Ok((file.display().to_string(), read(file)?))).collect()
}

fn read(file: &Path) -> Result<Bytes, Failure> {
    msp::read_certificate(file).map_err(|error| member::msp_failure(&error))
}
