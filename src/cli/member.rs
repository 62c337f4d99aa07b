//! `obelisk member`: describes certificates, issues and revokes identities.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use clap::Subcommand;

use crate::chaincode::builtin::membership as revocations;
use crate::cli::Context;
use crate::cli::argument;
use crate::cli::chaincode;
use crate::cli::enrol;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::link::Who;
use crate::cli::network;
use crate::cli::output::Cell;
use crate::client::invocation::Invocation;
use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::host::clock::now_ms;
use crate::membership::authority::AuthorityError;
use crate::membership::authority::Enrolment;
use crate::membership::authority::Terms;
use crate::membership::authority::TlsSubject;
use crate::membership::certificate;
use crate::membership::consortium;
use crate::membership::identity::Identity;
use crate::membership::identity::Purpose;
use crate::membership::identity::Role;
use crate::membership::identity::Root;
use crate::membership::msp;
use crate::membership::msp::KeyPair;
use crate::membership::msp::Msp;
use crate::membership::msp::MspError;
use crate::membership::pem;
use crate::node::ca::authority;
use crate::node::ca::authority::OpenError;
use crate::node::config::ConfigError;
use crate::node::key;
use crate::node::key::KeyError;
use crate::node::signer::card::KeyCard;
use crate::types::digest::Digest;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Describe an identity folder or a certificate file
    Show {
        /// Identity folder, or PEM certificate
        #[arg(value_name = "FOLDER|CERT")]
        place: PathBuf,
        /// Print the certificate itself, in the form that networks know it by
        #[arg(long)]
        pem: bool,
    },
    /// Make a new identity: keys, enrolment and TLS certificate
    Issue(Issue),
    /// Get certificates from a membership service, with a one-time secret
    Enrol(enrol::Arguments),
    /// Revoke a certificate of the own organisation for ever (role admin)
    Revoke {
        /// Certificate id; `obelisk member show` prints it
        #[arg(value_parser = argument::digest)]
        id: Digest,
        /// Why, for the record
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        wait: chaincode::Wait,
    },
}

/// An enrolment key that is on a token.
#[derive(Args, Debug)]
pub struct OnToken {
    /// Key card of a key on a token (`obelisk crypto keygen`), instead of making a key here; the
    /// TLS key stays in a file
    #[arg(long = "key-card", value_name = "FILE", conflicts_with = "algorithm")]
    pub key_card: Option<PathBuf>,
    /// Whoever uses the folder takes the token's PIN from this systemd credential, not from the
    /// card's file
    #[arg(long, value_name = "NAME", requires = "key_card")]
    pub credential: Option<String>,
}

#[derive(Args, Debug)]
pub struct Issue {
    /// Folder of the organisation's authority (root.pem, key.pem or key.toml)
    #[arg(long, value_name = "FOLDER")]
    ca: PathBuf,
    /// Name of the member, distinct within organisation and role
    #[arg(long)]
    name: String,
    /// Role: client, validator, observer, auditor or admin
    #[arg(long, default_value = "client", value_parser = role)]
    role: Role,
    /// New folder for the identity
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Algorithm of the enrolment key
    #[arg(long, value_name = "NAME", default_value = "ed25519", value_parser = network::algorithm)]
    algorithm: Algorithm,
    #[command(flatten)]
    card: OnToken,
    /// Attribute of the enrolment certificate; may be repeated
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    /// Host name or address for the TLS certificate; may be repeated
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Validity, days
    #[arg(long, default_value_t = 365)]
    days: u32,
    /// Genesis document: puts the roots of all members beside the identity
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Show { place, pem: false } => show(&place, context),
        Command::Show { place, pem: true } => show_pem(&place, context),
        Command::Issue(issue) => self::issue(&issue, context),
        Command::Enrol(arguments) => enrol::run(&arguments, context),
        Command::Revoke { id, reason, wait } => {
            let invocation = Invocation::new(revocations::NAME, "revoke");
            let invocation = invocation.arg(id.to_string()).arg(&reason);
            chaincode::submit(&invocation, wait, Who::Admin, context)
        }
    }
}

fn show(place: &Path, context: &Context) -> Result<(), Failure> {
    if !place.is_dir() {
        let der = msp::read_certificate(place).map_err(|error| msp_failure(&error))?;
        return describe(&der, Vec::new(), context);
    }
    if !place.join("cert.pem").exists() && place.join("root.pem").exists() {
        let der = msp::read_certificate(&place.join("root.pem"));
        return describe(&der.map_err(|error| msp_failure(&error))?, Vec::new(), context);
    }
    let msp = Msp::load(place).map_err(|error| msp_failure(&error))?;
    let crypto = Crypto::portable();
    let key = match msp.enrolment.card() {
        None => {
            msp.enrolment.signing_key(&crypto).map_err(|error| msp_failure(&error))?;
            "fits".to_owned()
        }
        Some(_) => {
            let card = key::card_of_pair(&msp.enrolment, &crypto);
            let card = card.map_err(|error| key_failure(&error, NO_CARD))?;
            let tokens: Vec<_> = card.token.iter().map(|token| token.name.as_str()).collect();
            format!("on the token {}; its card fits", tokens.join(", then on "))
        }
    };
    let (tls, tls_id) = match &msp.tls {
        None => {
            let text = "none: this identity cannot open connections of a node";
            (Cell::text_of(text), Cell::None)
        }
        Some(tls) => {
            tls.signing_key(&crypto).map_err(|error| msp_failure(&error))?;
            let identity = tls.identity().map_err(|error| certificate_failure(&error))?;
            let text = format!("valid until {}", super::output::time(identity.not_after_ms));
            (Cell::Text(text), Cell::Id(identity.certificate.0))
        }
    };
    let roots = msp.roots.keys().map(Cell::text_of).collect();
    let more = vec![
        ("key", Cell::Text(key)),
        ("tls", tls),
        ("tls id", tls_id),
        ("roots", Cell::List(roots)),
    ];
    describe(&msp.enrolment.certificate, more, context)
}

/// The certificate in the form that networks know it by.
fn show_pem(place: &Path, context: &Context) -> Result<(), Failure> {
    let file = match place.is_dir() {
        true => place.join("cert.pem"),
        false => place.to_owned(),
    };
    let der = msp::read_certificate(&file).map_err(|error| msp_failure(&error))?;
    let text = pem::encode(pem::CERTIFICATE, &der);
    match context.output.is_json() {
        true => context.output.object(&[("pem", Cell::text_of(text.as_str()))]),
        false => context.output.note(text.trim_end()),
    }
    Ok(())
}

/// Prints what a certificate says.
pub(super) fn describe(
    der: &Bytes,
    more: Vec<(&str, Cell)>,
    context: &Context,
) -> Result<(), Failure> {
    let parsed = certificate::parse(der).map_err(|error| certificate_failure(&error))?;
    if let Ok(root) = Root::claimed(&parsed, der.clone()) {
        context.output.object(&[
            ("identity", Cell::Text(format!("obelisk://{}", root.organisation))),
            ("id", Cell::Id(Digest::of(&[&root.der]))),
            ("purpose", Cell::text_of("root of an organisation")),
            ("algorithm", Cell::text_of(root.key.algorithm().name())),
            ("valid from", Cell::Time(root.not_before_ms)),
            ("valid until", Cell::Time(root.not_after_ms)),
        ]);
        return Ok(());
    }
    let identity = Identity::claimed(&parsed, der.clone());
    let identity = identity.map_err(|error| certificate_failure(&error))?;
    let purpose = match identity.purpose {
        Purpose::Enrolment => "enrolment: signs transactions or votes",
        Purpose::Tls => "TLS: authenticates connections",
    };
    let attributes = identity.attributes.iter();
    let attributes = attributes.map(|(name, value)| Cell::Text(format!("{name}={value}")));
    let mut fields = vec![
        ("identity", Cell::Text(identity.uri())),
        ("id", Cell::Id(identity.certificate.0)),
        ("purpose", Cell::text_of(purpose)),
        ("algorithm", Cell::text_of(identity.key.algorithm().name())),
        ("valid from", Cell::Time(identity.not_before_ms)),
        ("valid until", Cell::Time(identity.not_after_ms)),
        ("valid now", Cell::Flag(identity.valid_at(now_ms()))),
        ("attributes", Cell::List(attributes.collect())),
    ];
    fields.extend(more);
    context.output.object(&fields);
    Ok(())
}

fn issue(issue: &Issue, context: &Context) -> Result<(), Failure> {
    if issue.out.join("cert.pem").exists() {
        let cause = format!("{} holds an identity already", issue.out.display());
        return Err(Failure::usage(cause, "choose another folder with --out"));
    }
    let crypto = Crypto::portable();
    let authority = authority::open(&issue.ca, &issue.ca, &crypto)
        .map_err(|error| authority_failure(&error, "name the authority's folder with --ca"))?;
    let (enrolment_key, key, card) = enrolment_key(issue, &crypto)?;
    let (tls_key, tls_public) = fresh(Algorithm::EcdsaP256, &crypto)?;
    let mut attributes = issue.attributes.clone();
    attributes.sort();
    let certificates = || {
        let from = now_ms().saturating_sub(BACKDATED_MS);
        let enrolment =
            Enrolment { name: &issue.name, role: issue.role, attributes: &attributes, key: &key };
        let tls = TlsSubject {
            name: &issue.name,
            role: issue.role,
            hosts: &issue.hosts,
            key: tls_public.public_key(),
        };
        Ok((
            authority.enrol(&enrolment, &Terms::new(from, issue.days)?)?,
            authority.issue_tls(&tls, &Terms::new(from, issue.days)?)?,
        ))
    };
    let (enrolment, tls) = certificates().map_err(|error: AuthorityError| {
        Failure::of(Exit::Usage, &error, "correct --name, --attribute, --host or --days")
    })?;
    let root = authority.root().der.clone();
    let roots = roots(issue.genesis.as_deref(), authority.root())?;
    if let Some(card) = card {
        msp::make_folder(&issue.out).map_err(|error| msp_failure(&error))?;
        let card = card.kept(issue.card.credential.as_deref());
        card.store(&issue.out.join(msp::CARD)).map_err(|error| msp_failure(&error))?;
    }
    let pair = |certificate, key| KeyPair { certificate, key, folder: PathBuf::new() };
    let tls = Some(pair(tls, Some(tls_key)));
    Msp { enrolment: pair(enrolment.clone(), enrolment_key), root, roots, tls }
        .store(&issue.out)
        .map_err(|error| msp_failure(&error))?;
    let folder = Cell::Text(issue.out.display().to_string());
    describe(&enrolment, vec![("folder", folder)], context)
}

/// The roots of all members, where a genesis document names them; else the own one.
pub(super) fn roots(
    genesis: Option<&Path>,
    root: &Root,
) -> Result<BTreeMap<String, Bytes>, Failure> {
    let own = (root.organisation.clone(), root.der.clone());
    let Some(path) = genesis else { return Ok(BTreeMap::from([own])) };
    let genesis = consortium::read_genesis(path)
        .map_err(|error| Failure::of(Exit::Usage, &error, "check --genesis"))?;
    if genesis.organisation(&own.0).is_none_or(|known| known.root != own.1) {
        let cause = format!("{} does not know the authority of {}", path.display(), own.0);
        return Err(Failure::usage(cause, "use the authority that this network was made with"));
    }
    Ok(genesis.organisations.into_iter().map(|o| (o.name, o.root)).collect())
}

/// An authority's folder that cannot be used.
pub(super) fn authority_failure(error: &OpenError, fix: &str) -> Failure {
    match error {
        OpenError::Authority(AuthorityError::Folder(error)) => msp_failure(error),
        error if error.is_final() => Failure::of(Exit::Final, error, fix),
        error => Failure::of(Exit::Usage, error, fix),
    }
}

/// A new key, or the public half of one on a token with its card.
fn enrolment_key(issue: &Issue, crypto: &Crypto) -> Result<EnrolmentKey, Failure> {
    let Some(path) = &issue.card.key_card else {
        let (pkcs8, key) = fresh(issue.algorithm, crypto)?;
        return Ok((Some(pkcs8), key.public_key().clone(), None));
    };
    let (card, public) = card(path, crypto)?;
    Ok((None, public, Some(card)))
}

/// A key card that somebody named.
pub(super) fn card(path: &Path, crypto: &Crypto) -> Result<(KeyCard, PublicKey), Failure> {
    KeyCard::load(path, crypto).map_err(|error| match error {
        ConfigError::Read { path, source } => {
            let exit = match source.kind() {
                std::io::ErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Usage,
            };
            Failure::new(
                exit,
                format!("cannot read the key card {}: {source}", path.display()),
                NO_CARD,
            )
        }
        error => Failure::of(Exit::Usage, &error, NO_CARD),
    })
}

/// A key of a folder that cannot be used.
pub(super) fn key_failure(error: &KeyError, fix: &str) -> Failure {
    match error {
        KeyError::Folder(error) => msp_failure(error),
        error if error.is_final() => Failure::of(Exit::Final, error, fix),
        error => Failure::of(Exit::Usage, error, fix),
    }
}

/// PKCS#8 where the key was made here, the public half, the card where it is on a token.
type EnrolmentKey = (Option<zeroize::Zeroizing<Vec<u8>>>, PublicKey, Option<KeyCard>);

type Fresh = (zeroize::Zeroizing<Vec<u8>>, Arc<dyn SigningKey>);

fn fresh(algorithm: Algorithm, crypto: &Crypto) -> Result<Fresh, Failure> {
    let make = || {
        let pkcs8 = crypto.generate(algorithm)?;
        let key = crypto.load(algorithm, &pkcs8)?;
        Ok((pkcs8, key))
    };
    make().map_err(|error: crate::crypto::CryptoError| {
        Failure::of(Exit::Internal, &error, "`obelisk crypto list` shows what works here")
    })
}

/// A folder that cannot be used.
pub(super) fn msp_failure(error: &MspError) -> Failure {
    let exit = match error {
        MspError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Exit::NotFound
        }
        _ => Exit::Usage,
    };
    Failure::of(exit, error, "check the path; `obelisk network create` and `member issue` make one")
}

fn certificate_failure(error: &dyn std::error::Error) -> Failure {
    Failure::of(Exit::Usage, error, "use a certificate that an organisation's authority issued")
}

/// A role by its word.
pub(super) fn role(text: &str) -> Result<Role, String> {
    let known = || Role::ALL.map(Role::name).join(", ");
    Role::from_name(text).ok_or_else(|| format!("known are {}", known()))
}

/// NAME=VALUE.
pub(super) fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

const NO_CARD: &str = "make it with `obelisk crypto keygen`, or `obelisk crypto card`";
/// Certificates are valid from one hour before now: clocks differ.
const BACKDATED_MS: u64 = 60 * 60 * 1000;
