//! `obelisk signer`: the process that holds keys, and what it says about itself.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::Subcommand;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Cell;
use crate::host::clock;
use crate::node::config::Config;
use crate::node::config::ConfigError;
use crate::node::signer;
use crate::node::signer::SignerStartError;
use crate::node::signer::config::SignerConfig;
use crate::node::users;
use crate::signer::guard::format::State;
use crate::signer::guard::hand_over;
use crate::signer::guard::standing;
use crate::signer::remote;
use crate::signer::remote::Place;
use crate::signer::socket;
use crate::telemetry::log;
use crate::telemetry::log::Format;
use crate::types::ids::ChainId;
use crate::types::limits;
use crate::types::signature::PublicKey;

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
    /// Hand a validator's record over: retire it here and write it to a file
    Export {
        #[command(flatten)]
        of: OfValidator,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Take a record over that was exported elsewhere
    Import {
        #[command(flatten)]
        of: OfValidator,
        /// The exported file
        file: PathBuf,
    },
    /// Say that no other signer uses the key: begin a lost record anew, or end a stop
    Renew {
        #[command(flatten)]
        of: OfValidator,
    },
}

#[derive(Args, Debug)]
pub struct OfValidator {
    /// The signer's configuration file, or that of a node that signs itself; neither may run
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The validator, as the file calls it
    #[arg(long, value_name = "ORGANISATION/NAME")]
    validator: String,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), Failure> {
    match (arguments.command, arguments.config) {
        (Some(Command::Status { config, metrics }), _) => status(&config, metrics, context),
        (Some(Command::Export { of, out }), _) => export(&of, &out, context),
        (Some(Command::Import { of, file }), _) => import(&of, &file, context),
        (Some(Command::Renew { of }), _) => renew(&of, context),
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
    signer::run(&config, ready).map_err(|error| not_started(&error))
}

/// A signer's refusal in this house's form. A token that is away may come back.
fn not_started(error: &SignerStartError) -> Failure {
    let exit = match error {
        SignerStartError::Refused(_) => Exit::Usage,
        SignerStartError::Later(_) => Exit::Internal,
        SignerStartError::Final(_) => Exit::Final,
    };
    let fix = match error {
        SignerStartError::Later(_) => "start it again once the token is back",
        SignerStartError::Refused(_) | SignerStartError::Final(_) => {
            "correct the signer's configuration"
        }
    };
    Failure::of(exit, error, fix)
}

fn guard_of(of: &OfValidator) -> Result<(PathBuf, ChainId, PublicKey), Failure> {
    // A node's file is no signer's, and the other way round: unknown keys are refused.
    let found = match Config::load(&of.config) {
        Ok(config) => {
            check_owner(&config.node.data)?;
            signer::own_guard_of(&config, &of.validator)
        }
        Err(_) => {
            let config = SignerConfig::load(&of.config)
                .map_err(|error| config_failure(&error, "docs/signer.md"))?;
            check_owner(&config.signer.data)?;
            signer::guard_of(&config, &of.validator)
        }
    };
    found.map_err(|error| not_started(&error))
}

/// A log that root writes would shut out the signer whose folder it is in.
fn check_owner(data: &Path) -> Result<(), Failure> {
    let owner = data.ancestors().find_map(|place| std::fs::metadata(place).ok());
    let owner = owner.map_or(0, |found| found.uid());
    if owner == 0 || owner == socket::own_user() {
        return Ok(());
    }
    let (owner, caller) = (users::name_of(owner), users::name_of(socket::own_user()));
    let cause = format!(
        "{} belongs to the user {owner}; what {caller} writes there would shut its signer out",
        data.display()
    );
    Err(Failure::usage(cause, format!("sudo -u {owner} obelisk signer ...")))
}

fn export(of: &OfValidator, out: &Path, context: &Context) -> Result<(), Failure> {
    let (guard, chain, key) = guard_of(of)?;
    let record = hand_over::export(&guard, chain, &key, out)
        .map_err(|error| Failure::of(Exit::Usage, &error, "docs/signer.md, moving a record"))?;
    let text = format!(
        "{}: {} slots are in {}; {} is retired and signs no more",
        of.validator,
        record.slots.len(),
        out.display(),
        guard.display()
    );
    context.output.line(&text, &[("file", Cell::text_of(out.display().to_string()))]);
    Ok(())
}

fn import(of: &OfValidator, file: &Path, context: &Context) -> Result<(), Failure> {
    let (guard, chain, key) = guard_of(of)?;
    let made = hand_over::import(&guard, chain, &key, file)
        .map_err(|error| Failure::of(Exit::Usage, &error, "docs/signer.md, moving a record"))?;
    let epoch = made.fencing_epoch();
    let text =
        format!("{}: {} holds its record, fencing epoch {epoch}", of.validator, guard.display());
    context.output.line(&text, &[("guard", Cell::text_of(guard.display().to_string()))]);
    Ok(())
}

fn renew(of: &OfValidator, context: &Context) -> Result<(), Failure> {
    let (guard, chain, key) = guard_of(of)?;
    standing::renew(&guard, chain, &key)
        .map_err(|error| Failure::of(Exit::Usage, &error, "docs/signer.md, losing a record"))?;
    let text = format!("{}: it signs once its peers have shown what they saw", of.validator);
    context.output.line(&text, &[("guard", Cell::text_of(guard.display().to_string()))]);
    Ok(())
}

fn status(path: &Path, metrics: bool, context: &Context) -> Result<(), Failure> {
    let config = SignerConfig::load(path).map_err(|error| config_failure(&error, PAGE))?;
    let deadline = Duration::from_millis(limits::SIGNER_DEADLINE_MS);
    let user = asked(&config, path)?;
    let place = Place { socket: config.signer.socket, user, deadline };
    let fix = "it is there and does not answer: journalctl -u obelisk-signer@NAME says what it \
               does; restart it if it hangs";
    let json =
        remote::status(&place).map_err(|error| Failure::of(Exit::Unreachable, &error, fix))?;
    let status: serde_json::Value = serde_json::from_str(&json)
        .map_err(|error| Failure::of(Exit::Internal, &error, "use one release everywhere"))?;
    if context.output.is_json() {
        context.output.value(&status);
        return Ok(());
    }
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
    for key in &keys {
        let Some(guard) = key.get("guard").filter(|guard| guard.is_object()) else { continue };
        let number = |name: &str| guard.get(name).and_then(|n| n.as_u64()).unwrap_or_default();
        let (epoch, floor) = (number("fencing_epoch"), number("floor"));
        let (name, mut state) = (text(key, "name"), text(guard, "state"));
        if state == State::InUse.name() && guard.get("signs") == Some(&false.into()) {
            state += ", and waits for its node to compare it";
        }
        let line = format!("record of {name}: {state}, fencing epoch {epoch}, floor {floor}");
        context.output.note(&line);
    }
    show_tokens(&keys, &status, context);
    Ok(())
}

/// Places of keys that do not sign, and how each token stands.
fn show_tokens(keys: &[serde_json::Value], status: &serde_json::Value, context: &Context) {
    for key in keys {
        let places = key.get("places").and_then(|places| places.as_array());
        let troubled = |place: &&serde_json::Value| !text(place, "trouble").is_empty();
        for place in places.into_iter().flatten().filter(troubled) {
            let (name, select, token) =
                (text(key, "name"), text(place, "key"), text(place, "token"));
            let trouble = text(place, "trouble");
            let line =
                format!("warning: {name}, the key with {select} on token {token}: {trouble}");
            context.output.note(&line);
        }
        let trouble = text(key, "trouble");
        if !trouble.is_empty() {
            context.output.note(&format!("warning: {}: {trouble}", text(key, "name")));
        }
    }
    let tokens = status.get("tokens").and_then(|tokens| tokens.as_array());
    for token in tokens.into_iter().flatten() {
        let number = |key: &str| token.get(key).and_then(|n| n.as_u64()).unwrap_or_default();
        let name = text(token, "name");
        let (signed, failed) = (number("signed"), number("failed"));
        let (stopped, away) = (text(token, "stopped"), text(token, "away_reason"));
        let since = number("away_since_ms");
        let state = match (stopped.is_empty(), away.is_empty()) {
            (false, _) => stopped,
            (true, true) => "in use".to_owned(),
            (true, false) => {
                let seconds = clock::now_ms().saturating_sub(since) / 1000;
                format!("away for {seconds} s: {away}")
            }
        };
        let (sessions, wanted) = (number("sessions"), number("sessions_wanted"));
        let line = format!(
            "token {name}: {signed} signed, {failed} refused, {sessions} of {wanted} sessions, {state}"
        );
        context.output.note(&line);
    }
}

fn text(value: &serde_json::Value, key: &str) -> String {
    value.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
}

/// The user whose signer has the socket. Refuses to ask as somebody it does not answer.
fn asked(config: &SignerConfig, path: &Path) -> Result<u32, Failure> {
    let (caller, socket) = (socket::own_user(), &config.signer.socket);
    let owner = match std::fs::symlink_metadata(socket) {
        Ok(found) => found.uid(),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let cause = format!(
                "user {} may not look into the directory of the signer's socket {}",
                users::name_of(caller),
                socket.display()
            );
            let fix = "run it as the signer's user: sudo -u USER obelisk signer status ...";
            return Err(Failure::usage(cause, fix));
        }
        // Not there: what follows says so.
        Err(_) => return Ok(caller),
    };
    let kept = std::fs::metadata(&config.signer.data).ok().map(|data| data.uid());
    if kept.is_some_and(|kept| kept != owner) {
        return Err(moved(socket, owner));
    }
    let listed = config.signer.users.iter().filter_map(|name| users::id_of(name).ok());
    let answered: Vec<u32> = std::iter::once(owner).chain(listed).collect();
    if answered.contains(&caller) {
        return Ok(owner);
    }
    Err(wrong_user(caller, &answered, path))
}

/// The words for a socket that is no longer its signer's: who is answered cannot be told by it.
fn moved(socket: &Path, owner: u32) -> Failure {
    let cause = format!(
        "the signer's socket {} belongs to the user {}, the signer's data to another one: somebody \
         changed its owner",
        socket.display(),
        users::name_of(owner)
    );
    Failure::usage(cause, "restart the signer, which makes its socket anew")
}

/// The words for a caller whom the signer does not answer; the first of `answered` owns the socket.
fn wrong_user(caller: u32, answered: &[u32], path: &Path) -> Failure {
    let mut names: Vec<String> = answered.iter().map(|user| users::name_of(*user)).collect();
    let owner = names[0].clone();
    names.sort();
    names.dedup();
    let caller = users::name_of(caller);
    let cause = format!(
        "this signer answers the users {} only, as the kernel states them; this is {caller}",
        names.join(", ")
    );
    let path = path.display();
    let fix = format!(
        "sudo -u {owner} obelisk signer status --config {path}  (or list {caller} under \
         signer.users and restart the signer)"
    );
    Failure::usage(cause, fix)
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
            if source.kind() == std::io::ErrorKind::PermissionDenied {
                let fix = "run it as a user who may read it: sudo -u USER obelisk ...";
                return Failure::new(exit, cause, fix);
            }
            Failure::new(exit, cause, "name the file with --config")
        }
        error => Failure::usage(error.to_string(), format!("correct the line; {page} has a file")),
    }
}

const PAGE: &str = "docs/signer.md";

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is answered and the command that works are named.
    #[test]
    fn the_wrong_user_is_told_the_right_one() {
        let failure = wrong_user(4_000_000_001, &[0, 4_000_000_002, 0], Path::new("/etc/s.toml"));
        assert_eq!(
            failure.to_string(),
            "error: this signer answers the users 4000000002, root only, as the kernel states \
             them; this is 4000000001\nfix: sudo -u root obelisk signer status --config \
             /etc/s.toml  (or list 4000000001 under signer.users and restart the signer)"
        );
        assert_eq!(failure.exit, Exit::Usage);
    }

    /// A socket that changed hands says nothing of whom its signer answers.
    #[test]
    fn a_socket_of_another_owner_is_told_as_such() {
        let failure = moved(Path::new("/run/s"), 4_000_000_001);
        assert!(failure.cause.contains("/run/s belongs to the user 4000000001"), "{failure}");
        assert!(failure.fix.contains("restart the signer"), "{failure}");
    }
}
