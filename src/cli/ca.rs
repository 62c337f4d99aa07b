//! `obelisk ca`: an organisation's membership service, and the registrar's commands.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::member;
use crate::cli::output;
use crate::cli::output::Cell;
use crate::cli::signer::config_failure;
use crate::crypto::routing::Crypto;
use crate::host::clock::now_ms;
use crate::membership::authority::Authority;
use crate::membership::consortium;
use crate::membership::identity::Role;
use crate::membership::msp;
use crate::membership::msp::MspError;
use crate::membership::register::Entry;
use crate::membership::register::Issued;
use crate::membership::register::Register;
use crate::membership::register::RegisterError;
use crate::membership::register::Registration;
use crate::node::ca;
use crate::node::ca::authority;
use crate::node::ca::config::CaConfig;
use crate::node::service::Notifier;
use crate::telemetry::log;
use crate::telemetry::log::Format;
use crate::types::digest::Digest;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a membership service: authority, register, configuration
    Init(Init),
    /// Let somebody enrol: prints a one-time secret
    Register(Registering),
    /// Serve enrolments until a signal
    Serve(Place),
    /// Who is registered, and who has enrolled
    List(Place),
    /// Certificates that were issued to a name, and the commands that revoke them
    RevokeInfo {
        /// Name of the member
        name: String,
        /// Role: client, validator, observer, auditor or admin
        #[arg(long, default_value = "client", value_parser = member::role)]
        role: Role,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args, Debug)]
pub struct Place {
    /// The service's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args, Debug)]
pub struct Init {
    /// New folder: authority, register and, unless --config says another place, ca.toml
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Make a new authority for this organisation
    #[arg(long, value_name = "NAME", required_unless_present = "authority")]
    organisation: Option<String>,
    /// Use the authority in this folder (root.pem, key.pem or key.toml) instead; it stays where it is
    #[arg(long, value_name = "FOLDER", conflicts_with = "organisation")]
    authority: Option<PathBuf>,
    /// Key card of a key on a token (`obelisk crypto keygen`) that signs as the new authority
    #[arg(long = "key-card", value_name = "FILE", requires = "organisation")]
    card: Option<PathBuf>,
    /// The service takes the token's PIN from this systemd credential, not from the card's file
    #[arg(long, value_name = "NAME", requires = "card")]
    credential: Option<String>,
    /// Address to listen on, host:port
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7054")]
    listen: String,
    /// Validity of a new root, days
    #[arg(long, default_value_t = 3652, conflicts_with = "authority")]
    days: u32,
    /// Where to write the configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Registering {
    /// Name of the member, distinct within organisation and role
    name: String,
    /// Role: client, validator, observer, auditor or admin
    #[arg(long, value_parser = member::role)]
    role: Role,
    /// Attribute of the enrolment certificate; may be repeated
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = member::attribute)]
    attributes: Vec<(String, String)>,
    /// Host name or address for the TLS certificate; may be repeated
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Validity of the certificates, days, instead of the configuration's
    #[arg(long)]
    days: Option<u32>,
    /// The name is registered already: a new secret, for a renewal or after a lock
    #[arg(long)]
    again: bool,
    /// Write the secret into this new file, mode 600, instead of printing it
    #[arg(long = "secret-out", value_name = "FILE")]
    secret_out: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

pub fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Init(init) => self::init(&init, context),
        Command::Register(arguments) => register(arguments, context),
        Command::Serve(place) => serve(&place.config, context),
        Command::List(place) => list(&place.config, context),
        Command::RevokeInfo { name, role, place } => {
            revoke_info(&name, role, &place.config, context)
        }
    }
}

fn init(init: &Init, context: &Context) -> Result<(), Failure> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| {
            let cause = format!("{} is no usable path: {error}", path.display());
            Failure::usage(cause, "name another path")
        })
    };
    let out = absolute(&init.out)?;
    let config = match &init.config {
        Some(path) => absolute(path)?,
        None => out.join("ca.toml"),
    };
    let folder = match &init.authority {
        Some(folder) => absolute(folder)?,
        None => out.join("authority"),
    };
    let made = CaConfig::new(folder.clone(), out.join("register.log"), init.listen.clone());
    made.check(&config).map_err(|error| config_failure(&error, PAGE))?;
    if config.exists() {
        return Err(msp_failure(&MspError::Exists { path: config }));
    }
    let authority = made_or_found(init, &folder)?;
    msp::make_folder(&out).map_err(|error| msp_failure(&error))?;
    Register::create(&made.ca.register).map_err(|error| register_failure(&error))?;
    // Last: a folder without it is an attempt that did not finish.
    msp::write_new(&config, made.to_toml().as_bytes(), 0o644)
        .map_err(|error| msp_failure(&error))?;
    context.output.object(&[
        ("organisation", Cell::text_of(&authority.root().organisation)),
        ("root", Cell::Text(folder.join("root.pem").display().to_string())),
        ("configuration", Cell::Text(config.display().to_string())),
        ("next", Cell::Text(format!("obelisk ca serve --config {}", config.display()))),
    ]);
    Ok(())
}

/// The new authority, or the one that exists.
fn made_or_found(init: &Init, folder: &Path) -> Result<Authority, Failure> {
    let crypto = Crypto::portable();
    let Some(name) = &init.organisation else {
        return authority::open(folder, folder, &crypto)
            .map_err(|error| member::authority_failure(&error, "name its folder"));
    };
    let fix = "correct --organisation or --out";
    let Some(path) = &init.card else {
        return consortium::found(folder, name, now_ms(), init.days, &crypto)
            .map_err(|error| Failure::of(Exit::Usage, &error, fix));
    };
    let (card, _) = member::card(path, &crypto)?;
    let credential = init.credential.as_deref();
    consortium::root_terms(now_ms(), init.days)
        .map_err(authority::OpenError::from)
        .and_then(|terms| authority::found(folder, name, &card, credential, &terms))
        .map_err(|error| member::authority_failure(&error, fix))
}

fn register(arguments: Registering, context: &Context) -> Result<(), Failure> {
    let config = load(&arguments.place.config)?;
    let now = now_ms();
    let given = arguments.attributes.len();
    let attributes: BTreeMap<_, _> = arguments.attributes.into_iter().collect();
    if attributes.len() < given {
        return Err(Failure::usage("an attribute is given twice", "give each name once"));
    }
    let registration = Registration {
        role: arguments.role.name().to_owned(),
        name: arguments.name,
        attributes,
        hosts: arguments.hosts,
        days: arguments.days.unwrap_or(config.ca.days),
        expires_ms: now.saturating_add(config.ca.secret_seconds.saturating_mul(1000)),
    };
    if let Some(path) = arguments.secret_out.as_ref().filter(|path| path.exists()) {
        return Err(msp_failure(&MspError::Exists { path: path.clone() }));
    }
    let mut register = open(&config)?;
    let secret = register
        .register(registration.clone(), arguments.again, now)
        .map_err(|error| register_failure(&error))?;
    let shown = match &arguments.secret_out {
        None => Cell::Text(secret.shown().to_string()),
        Some(path) => {
            msp::write_new(path, secret.shown().as_bytes(), 0o600)
                .map_err(|error| msp_failure(&error))?;
            Cell::Text(format!("in {}", path.display()))
        }
    };
    context.output.object(&[
        ("registered", Cell::Text(format!("{}/{}", registration.role, registration.name))),
        ("secret", shown),
        ("good until", Cell::Time(registration.expires_ms)),
    ]);
    Ok(())
}

fn serve(path: &Path, context: &Context) -> Result<(), Failure> {
    let notifier = Notifier::start()
        .map_err(|error| Failure::of(Exit::Internal, &error, "raise the limit on tasks"))?;
    let config = load(path)?;
    let format = Format::from_name(&config.log.format).unwrap_or_default();
    log::start(&config.log.level, format)
        .map_err(|error| Failure::of(Exit::Usage, &error, "correct log.level"))?;
    let output = context.output;
    let ready = |organisation: &str, address: std::net::SocketAddr| {
        let text = format!("the membership service of {organisation} is ready on {address}");
        let address = Cell::Text(address.to_string());
        output.line(&text, &[("organisation", Cell::text_of(organisation)), ("address", address)]);
    };
    ca::run(&config, notifier, ready).map_err(|error| {
        let exit = match (error.is_final, error.may_pass) {
            (true, _) => Exit::Final,
            (false, true) => Exit::Internal,
            (false, false) => Exit::Usage,
        };
        Failure::of(exit, &error, "correct the configuration")
    })
}

fn list(path: &Path, context: &Context) -> Result<(), Failure> {
    let now = now_ms();
    let rows: Vec<Vec<Cell>> = entries(path)?
        .into_iter()
        .map(|entry| {
            let id = entry.issued.as_ref().map(|issued| Cell::Id(Digest::of(&[&issued.enrolment])));
            let secret = match entry.issued {
                Some(_) => Cell::None,
                None => Cell::Time(entry.registration.expires_ms),
            };
            vec![
                Cell::Text(format!("{}/{}", entry.registration.role, entry.registration.name)),
                Cell::text_of(entry.standing(now).name()),
                secret,
                Cell::Number(u64::from(entry.refused)),
                Cell::maybe(id),
            ]
        })
        .collect();
    let columns = ["member", "state", "secret good until", "refused", "enrolment certificate"];
    context.output.table(
        &columns,
        &rows,
        "nobody is registered: obelisk ca register NAME --role R",
    );
    Ok(())
}

fn revoke_info(name: &str, role: Role, path: &Path, context: &Context) -> Result<(), Failure> {
    let found = entries(path)?
        .into_iter()
        .find(|e| e.registration.name == name && e.registration.role == role.name());
    let Some(entry) = found else {
        let cause = format!("{}/{name} is not registered", role.name());
        return Err(Failure::new(Exit::NotFound, cause, "see `obelisk ca list`"));
    };
    let row = |issued: &Issued, kind: &str, der: &[u8]| {
        let id = Digest::of(&[der]);
        let command = format!("obelisk member revoke {id} --reason ... --network DIR");
        vec![
            Cell::text_of(kind),
            Cell::Id(id),
            Cell::Text(output::time(issued.at_ms)),
            Cell::Text(command),
        ]
    };
    let rows: Vec<_> = entry
        .former
        .iter()
        .chain(&entry.issued)
        .flat_map(|i| [row(i, "enrolment", &i.enrolment), row(i, "TLS", &i.tls)])
        .collect();
    let columns = ["certificate", "id", "issued", "an admin revokes it with"];
    context.output.table(&columns, &rows, "nothing was issued to this name");
    Ok(())
}

fn entries(path: &Path) -> Result<Vec<Entry>, Failure> {
    open(&load(path)?)?.entries().map_err(|error| register_failure(&error))
}

fn load(path: &Path) -> Result<CaConfig, Failure> {
    CaConfig::load(path).map_err(|error| config_failure(&error, PAGE))
}

fn open(config: &CaConfig) -> Result<Register, Failure> {
    Register::open(&config.ca.register).map_err(|error| register_failure(&error))
}

fn register_failure(error: &RegisterError) -> Failure {
    let exit = match error {
        RegisterError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Exit::NotFound
        }
        RegisterError::Registration { .. } => Exit::Usage,
        _ => Exit::Internal,
    };
    Failure::of(exit, error, "correct the command; `obelisk ca list` shows who is registered")
}

fn msp_failure(error: &MspError) -> Failure {
    Failure::of(Exit::Usage, error, "name another path")
}

const PAGE: &str = "docs/membership.md";
