//! `obelisk member enrol`: keys made here, certificates from the organisation's membership service.
//!
//! ```text
//! key.pem, tls/key.pem (made, synced) -> request -> root.pem roots/ tls/cert.pem cert.pem (last)
//! ```
//!
//! With `--key-card` the enrolment key is on a token: it signs the request there, and the folder has
//! `key.toml`, a copy of the card, in place of `key.pem`. Keys and card are on disk before the
//! service is asked. A run that broke off is run again: it finds its keys, sends the same request,
//! and gets the same certificates.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use zeroize::Zeroizing;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::member;
use crate::cli::network;
use crate::cli::output::Cell;
use crate::client::enrolment::Authority;
use crate::client::error::ClientError;
use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::membership::certificate;
use crate::membership::enrolment::Applicant;
use crate::membership::enrolment::Secret;
use crate::membership::identity::Role;
use crate::membership::identity::Root;
use crate::membership::msp;
use crate::membership::msp::MspError;
use crate::node;
use crate::node::key::KeyError;
use crate::types::signature::Algorithm;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Address of the membership service, host:port or https://host:port
    #[arg(long, value_name = "URL")]
    ca: String,
    /// Root certificate of the organisation, from a place that can be trusted
    #[arg(long = "ca-cert", value_name = "FILE")]
    root: PathBuf,
    /// Name that was registered
    #[arg(long)]
    name: String,
    /// Role that was registered
    #[arg(long, default_value = "client", value_parser = member::role)]
    role: Role,
    /// File that holds the one-time secret, mode 600
    #[arg(long = "secret-file", value_name = "FILE")]
    secret: PathBuf,
    /// New folder for the identity
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Algorithm of the enrolment key
    #[arg(long, value_name = "NAME", default_value = "ed25519", value_parser = network::algorithm)]
    algorithm: Algorithm,
    #[command(flatten)]
    card: member::OnToken,
    /// Genesis document: puts the roots of all members beside the identity
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let out = &arguments.out;
    if out.join("cert.pem").exists() {
        let cause = format!("{} holds an identity already", out.display());
        return Err(Failure::usage(cause, "choose another folder with --out"));
    }
    let crypto = Arc::new(Crypto::portable());
    let root = root(&arguments.root)?;
    let roots = member::roots(arguments.genesis.as_deref(), &root)?;
    let secret = secret(&arguments.secret)?;
    let tls_folder = out.join("tls");
    msp::make_folder(&tls_folder).map_err(|error| member::msp_failure(&error))?;
    let enrolment = enrolment_key(arguments, &crypto)?;
    let tls = key(&tls_folder.join("key.pem"), Algorithm::EcdsaP256, &crypto)?;
    let applicant = Applicant {
        organisation: root.organisation.clone(),
        role: arguments.role,
        name: arguments.name.clone(),
        enrolment_key: enrolment.public_key().clone(),
        tls_key: tls.public_key().clone(),
    };
    let proof = applicant.sign(&enrolment, &tls).map_err(|error| {
        Failure::of(Exit::Internal, &error, "`obelisk crypto list` and `test` show what works here")
    })?;
    let address = arguments.ca.trim_start_matches("https://").trim_end_matches('/');
    let authority = Authority { address, root: &root, crypto };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot start: {error}"), "check the limits")
    })?;
    let enrolled = runtime.block_on(authority.enrol(&applicant, &secret, &proof));
    let enrolled = enrolled.map_err(|error| client_failure(&error))?;
    store(out, &root.der, &roots, &enrolled.tls, &enrolled.enrolment)
        .map_err(|error| member::msp_failure(&error))?;
    let folder = Cell::Text(out.display().to_string());
    member::describe(&enrolled.enrolment, vec![("folder", folder)], context)
}

fn root(path: &Path) -> Result<Root, Failure> {
    let der = msp::read_certificate(path).map_err(|error| member::msp_failure(&error))?;
    let read = certificate::parse(&der).and_then(|parsed| Root::claimed(&parsed, der.clone()));
    read.map_err(|error| {
        Failure::of(Exit::Usage, &error, "name the organisation's root.pem with --ca-cert")
    })
}

fn secret(path: &Path) -> Result<Secret, Failure> {
    let unreadable = |error: std::io::Error| {
        let cause = format!("cannot read the secret {}: {error}", path.display());
        Failure::new(Exit::NotFound, cause, "name its file with --secret-file")
    };
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let cause = format!("the secret {} can be read by others", path.display());
        return Err(Failure::usage(cause, format!("run `chmod 600 {}`", path.display())));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
    Secret::read(&text).ok_or_else(|| {
        let cause = format!("{} holds no secret", path.display());
        Failure::usage(cause, "put the 32 hex digits that `obelisk ca register` printed into it")
    })
}

/// In a file, or on the token that the card of this or of an earlier attempt names.
fn enrolment_key(arguments: &Arguments, crypto: &Crypto) -> Result<Arc<dyn SigningKey>, Failure> {
    let out = &arguments.out;
    let refused = |error: KeyError| member::key_failure(&error, "choose another folder with --out");
    let kept = msp::card_of(out).map_err(|error| member::msp_failure(&error))?;
    let Some(named) = arguments.card.key_card.as_ref().or(kept.as_ref()) else {
        return key(&out.join("key.pem"), arguments.algorithm, crypto);
    };
    let (card, public) = member::card(named, crypto)?;
    if out.join("key.pem").exists() {
        let cause = format!("{} holds the key of an attempt without a card", out.display());
        return Err(Failure::usage(cause, "choose another folder with --out"));
    }
    if let Some(kept) = &kept {
        let (_, before) = member::card(kept, crypto)?;
        node::key::check_same(named, &public, &before, "an attempt before used")
            .map_err(refused)?;
    }
    // First: a PIN that is refused is remembered in the folder.
    let opened = node::key::open(&card, out).map_err(refused)?;
    if kept.is_none() {
        let stored = card.kept(arguments.card.credential.as_deref()).store(&out.join(msp::CARD));
        stored.map_err(|error| member::msp_failure(&error))?;
    }
    Ok(opened)
}

/// The key of an attempt that broke off, or a new one.
fn key(path: &Path, algorithm: Algorithm, crypto: &Crypto) -> Result<Arc<dyn SigningKey>, Failure> {
    let unusable = |error: &dyn std::error::Error| {
        let fix = "choose another folder with --out";
        Failure::of(Exit::Usage, error, fix)
    };
    if path.exists() {
        let pkcs8 = msp::read_key(path).map_err(|error| member::msp_failure(&error))?;
        return crypto.load(algorithm, &pkcs8).map_err(|error| unusable(&error));
    }
    let pkcs8 = crypto.generate(algorithm).map_err(|error| unusable(&error))?;
    msp::write_key(path, &pkcs8).map_err(|error| member::msp_failure(&error))?;
    crypto.load(algorithm, &pkcs8).map_err(|error| unusable(&error))
}

/// The enrolment certificate comes last: with it the folder is an identity.
fn store(
    out: &Path,
    root: &Bytes,
    roots: &BTreeMap<String, Bytes>,
    tls: &Bytes,
    enrolment: &Bytes,
) -> Result<(), MspError> {
    msp::make_folder(&out.join("roots"))?;
    put(&out.join("root.pem"), root)?;
    for (organisation, root) in roots {
        put(&out.join("roots").join(format!("{organisation}.pem")), root)?;
    }
    put(&out.join("tls/cert.pem"), tls)?;
    put(&out.join("cert.pem"), enrolment)
}

/// Writes a certificate, unless an attempt that broke off wrote the same.
fn put(path: &Path, der: &Bytes) -> Result<(), MspError> {
    match msp::write_certificate(path, der) {
        Err(MspError::Exists { .. }) if msp::read_certificate(path).is_ok_and(|d| d == *der) => {
            Ok(())
        }
        written => written,
    }
}

fn client_failure(error: &ClientError) -> Failure {
    let exit = match error {
        ClientError::Refused { .. } => Exit::Refused,
        ClientError::Unreachable { .. } => Exit::Unreachable,
        _ => Exit::Internal,
    };
    Failure::of(exit, error, "check --ca and --ca-cert")
}
