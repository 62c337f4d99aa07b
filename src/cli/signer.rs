//! `obelisk signer`: the process that holds keys, and what it says about itself.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::Subcommand;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Cell;
use crate::node::config::ConfigError;
use crate::node::signer;
use crate::node::signer::SignerStartError;
use crate::node::signer::config::SignerConfig;
use crate::signer::remote;
use crate::signer::remote::Place;
use crate::signer::socket;
use crate::telemetry::log;
use crate::telemetry::log::Format;
use crate::types::limits;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    /// The signer's configuration file
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a running signer which keys it holds and what it did
    Status {
        /// The signer's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print its metrics as OpenMetrics text
        #[arg(long)]
        metrics: bool,
    },
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), Failure> {
    match (arguments.command, arguments.config) {
        (Some(Command::Status { config, metrics }), _) => status(&config, metrics, context),
        (None, Some(config)) => start(&config, context),
        (None, None) => {
            Err(Failure::usage("no configuration is named", "obelisk signer --config FILE"))
        }
    }
}

fn start(path: &Path, context: &Context) -> Result<(), Failure> {
    let config = SignerConfig::load(path).map_err(|error| config_failure(&error, PAGE))?;
    let format = Format::from_name(&config.log.format).unwrap_or_default();
    log::start(&config.log.level, format)
        .map_err(|error| Failure::of(Exit::Usage, &error, "correct log.level"))?;
    let output = context.output;
    let socket = config.signer.socket.display().to_string();
    let ready = |keys: Vec<(String, String)>| {
        let text = format!("the signer is ready on {socket}, keys: {}", keys.len());
        let list = keys.iter().map(|(name, about)| Cell::Text(format!("{name}: {about}")));
        output.line(
            &text,
            &[("socket", Cell::text_of(&socket)), ("keys", Cell::List(list.collect()))],
        );
    };
    signer::run(&config, ready).map_err(|error| {
        let exit = match error {
            SignerStartError::Refused(_) => Exit::Usage,
            SignerStartError::Final(_) => Exit::Final,
        };
        Failure::of(exit, &error, "correct the signer's configuration")
    })
}

fn status(path: &Path, metrics: bool, context: &Context) -> Result<(), Failure> {
    let config = SignerConfig::load(path).map_err(|error| config_failure(&error, PAGE))?;
    let deadline = Duration::from_millis(limits::SIGNER_DEADLINE_MS);
    let place = Place { socket: config.signer.socket, user: socket::own_user(), deadline };
    let fix = "start it: obelisk signer --config FILE";
    let json =
        remote::status(&place).map_err(|error| Failure::of(Exit::Unreachable, &error, fix))?;
    let status: serde_json::Value = serde_json::from_str(&json)
        .map_err(|error| Failure::of(Exit::Internal, &error, "use one release everywhere"))?;
    if context.output.is_json() {
        context.output.value(&status);
        return Ok(());
    }
    let text = |value: &serde_json::Value, key: &str| {
        value.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
    };
    if metrics {
        context.output.note(text(&status, "metrics").trim_end());
        return Ok(());
    }
    let keys = status.get("keys").and_then(|keys| keys.as_array()).cloned().unwrap_or_default();
    let columns = ["name", "purpose", "algorithm", "public key"];
    let rows: Vec<Vec<Cell>> = keys
        .iter()
        .map(|key| {
            ["name", "purpose", "algorithm", "public_key"]
                .map(|field| Cell::Text(text(key, field)))
                .to_vec()
        })
        .collect();
    context.output.table(&columns, &rows, "this signer holds no key");
    let tokens = status.get("tokens").and_then(|tokens| tokens.as_array());
    for token in tokens.into_iter().flatten() {
        let number = |key: &str| token.get(key).and_then(|n| n.as_u64()).unwrap_or_default();
        let name = text(token, "name");
        let (signed, failed) = (number("signed"), number("failed"));
        let stopped = text(token, "stopped");
        let state = if stopped.is_empty() { "in use".to_owned() } else { stopped };
        let (sessions, wanted) = (number("sessions"), number("sessions_wanted"));
        let line = format!(
            "token {name}: {signed} signed, {failed} refused, {sessions} of {wanted} sessions, {state}"
        );
        context.output.note(&line);
    }
    Ok(())
}

/// A refused configuration in this house's form; `page` holds a file to compare with.
pub fn config_failure(error: &ConfigError, page: &str) -> Failure {
    match error {
        ConfigError::Read { path, source } => {
            let exit = match source.kind() {
                std::io::ErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Usage,
            };
            let cause = format!("cannot read the configuration {}: {source}", path.display());
            Failure::new(exit, cause, "name the file with --config")
        }
        error => Failure::usage(error.to_string(), format!("correct the line; {page} has a file")),
    }
}

const PAGE: &str = "docs/signer.md";
