//! `obelisk signer`: the process that holds keys, put together from its configuration.
//!
//! ```text
//! signer.toml -> keys (files, tokens) -> guards -> socket -> serve, until a signal or a failure
//! ```
//!
//! Whatever is refused here is refused before the socket is open. The process has no network: its
//! status and metrics are answers on its own socket. A failure that leaves nothing to sign with
//! (a guard's log that cannot be written, a token that is away and never was there) ends the process
//! with exit code 70, one that only an operator can mend with 2, a refusal that trying again would make
//! worse (a wrong PIN) with 78; service managers restart the first, not the others.
//!
//! A token that is away does not keep the process from starting where its key was seen before
//! (`seen`): session keys sign under the guard, whatever needs the token waits for it.

pub mod card;
pub mod config;
mod seen;
#[cfg(feature = "pkcs11")]
pub mod tokens;

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use sd_notify::NotifyState;
use serde_json::json;

use crate::crypto::KeyPlace;
use crate::crypto::SigningKey;
#[cfg(feature = "pkcs11")]
use crate::crypto::providers::pkcs11::key::TokenStatus;
use crate::crypto::routing::Crypto;
use crate::crypto::routing::Routing;
use crate::host::clock;
use crate::host::kernel;
use crate::host::tree::Tree;
use crate::membership::consortium::read_genesis;
use crate::membership::msp;
use crate::membership::msp::Msp;
use crate::node::config::Config;
use crate::node::config::SignerMode;
use crate::node::signer::config::KeySection;
use crate::node::signer::config::SignerConfig;
use crate::node::signer::config::SigningMode;
use crate::node::users;
use crate::signer::embedded::Mode;
use crate::signer::keyring::Held;
use crate::signer::keyring::Keyring;
use crate::signer::keyring::Purpose;
use crate::signer::server;
use crate::signer::sessions::SessionPlan;
use crate::signer::socket;
use crate::signer::wire;
use crate::telemetry::signer::SignerMetrics;
use crate::types::ids::ChainId;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;

/// Exit code of a signer that stopped because a part of it failed (EX_SOFTWARE of sysexits.h).
pub const EXIT_FAILED: i32 = 70;

/// Why a signer did not start; the text names cause and fix.
#[derive(Debug, thiserror::Error)]
pub enum SignerStartError {
    /// A part refused.
    #[error("{0}")]
    Refused(String),
    /// A token that is away, or a module that does not answer: trying again may help.
    #[error("{0}")]
    Later(String),
    /// A part refused, and trying again makes it worse: a wrong PIN.
    #[error("{0}")]
    Final(String),
}

/// The tokens of this build.
#[cfg(feature = "pkcs11")]
type Tokens = crate::crypto::providers::pkcs11::key::Tokens;
#[cfg(not(feature = "pkcs11"))]
struct Tokens;

/// Starts the signer of a configuration and serves until the process ends. `ready` is called with
/// the keys once the socket is open.
pub fn run(
    config: &SignerConfig,
    ready: impl FnOnce(Vec<(String, String)>),
) -> Result<(), SignerStartError> {
    // Before anything else: no secret of this process may end in a core file.
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)
        .map_err(|errno| SignerStartError::Refused(format!("cannot forbid core files: {errno}")))?;
    kernel::check(&Tree::machine()).map_err(refused)?;
    let crypto = Arc::new(Crypto::new(&Routing::default()).map_err(refused)?);
    crypto.install_hash();
    let group = users::group_id_of(&config.signer.group)
        .map_err(|reason| SignerStartError::Refused(format!("signer.group: {reason}")))?;
    let mut allowed = vec![socket::own_user()];
    for user in &config.signer.users {
        allowed.push(
            users::id_of(user)
                .map_err(|reason| SignerStartError::Refused(format!("signer.users: {reason}")))?,
        );
    }
    msp::make_folder(&config.signer.data).map_err(refused)?;
    let tokens = open_tokens(config)?;
    let keys = keys(config, &crypto, &tokens)?;
    let keyring = Keyring::new(keys).map_err(refused)?;
    let listening = socket::listen(&config.signer.socket, group).map_err(refused)?;
    let metrics = Arc::new(SignerMetrics::default());
    ready(described(&keyring));
    tell_service_manager(&keyring);
    let counters = metrics.clone();
    let parts = server::Parts {
        keyring,
        users: allowed,
        workers: config.signer.workers,
        metrics,
        status: Arc::new(move |keyring| status(keyring, &counters, &tokens)),
        fatal: Arc::new(fatal),
    };
    server::serve(listening, parts).map_err(|error| {
        SignerStartError::Refused(format!("the signer cannot take connections: {error}"))
    })
}

/// Ready: the socket takes connections. Where no service manager waits, nobody is told.
fn tell_service_manager(keyring: &Keyring) {
    let places: Vec<_> = keyring.keys().flat_map(|held| held.key.places()).collect();
    let waiting = places.iter().filter(|place| !place.confirmed).count();
    let status = match waiting {
        0 => "ready".to_owned(),
        waiting => format!("ready; of {} places of keys, {waiting} are away", places.len()),
    };
    let states = [NotifyState::Ready, NotifyState::Status(&status)];
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(%error, "the service manager does not hear this process");
    }
}

/// The guard's log of a validator of that name, for commands that work on it while no signer runs.
pub fn guard_of(
    config: &SignerConfig,
    name: &str,
) -> Result<(PathBuf, ChainId, PublicKey), SignerStartError> {
    let section = config.validator.iter().find(|section| section.name == name);
    let Some(section) = section else {
        let known: Vec<_> = config.validator.iter().map(|section| &section.name[..]).collect();
        let text = format!("no validator is called {name}; the file has {}", known.join(", "));
        return Err(SignerStartError::Refused(text));
    };
    let crypto = Crypto::new(&Routing::default()).map_err(refused)?;
    crypto.install_hash();
    msp::make_folder(&config.signer.data).map_err(refused)?;
    let genesis = read_genesis(&section.genesis).map_err(refused)?;
    let tokens = open_tokens(config)?;
    let guard = guard(config, name);
    let key = load(&section.key, &crypto, &tokens, &guard.with_extension("public"))?;
    Ok((guard, genesis.chain_id(), key.public_key().clone()))
}

/// The same of a node that signs itself.
pub fn own_guard_of(
    config: &Config,
    name: &str,
) -> Result<(PathBuf, ChainId, PublicKey), SignerStartError> {
    if config.signer.mode == SignerMode::Process {
        let text = "this node's votes are signed by a process; name the signer's own configuration";
        return Err(SignerStartError::Refused(text.to_owned()));
    }
    let identity = Msp::load(&config.node.identity).map_err(refused)?;
    let identity = identity.enrolment.identity().map_err(refused)?;
    let own = format!("{}/{}", identity.organisation, identity.name);
    if own != name {
        let text = format!("the node of this configuration is {own}, not {name}");
        return Err(SignerStartError::Refused(text));
    }
    let genesis = read_genesis(&config.node.genesis).map_err(refused)?;
    let guard = config.node.data.join("guard");
    msp::make_folder(&guard).map_err(refused)?;
    Ok((guard.join("slots.log"), genesis.chain_id(), identity.key))
}

fn keys(
    config: &SignerConfig,
    crypto: &Arc<Crypto>,
    tokens: &Tokens,
) -> Result<Vec<Held>, SignerStartError> {
    let mut held = Vec::new();
    for section in &config.validator {
        let genesis = read_genesis(&section.genesis).map_err(refused)?;
        let guard = guard(config, &section.name);
        let key = load(&section.key, crypto, tokens, &guard.with_extension("public"))?;
        if !genesis.replicas.iter().any(|(_, replica)| replica.key == *key.public_key()) {
            return Err(SignerStartError::Refused(format!(
                "validator {}: no validator of the network {} has this key; name the key that was \
                 enrolled, or the network's own genesis document",
                section.name, genesis.network
            )));
        }
        let mode = match section.signing_mode() {
            SigningMode::Direct => Mode::Direct,
            SigningMode::Strict => Mode::Strict,
            SigningMode::Delegated => Mode::Delegated(SessionPlan {
                folder: guard.with_extension("sessions"),
                epoch: genesis.replicas.epoch(),
                length: section.session_sequences,
                algorithm: Algorithm::from_name(&section.session_algorithm)
                    .expect("the configuration was checked"),
                crypto: crypto.clone(),
            }),
        };
        let purpose = Purpose::Consensus { chain: genesis.chain_id(), guard, mode };
        let slow = section.key.is_on_token() && section.signing_mode() != SigningMode::Delegated;
        let parallel = if slow { config.signer.workers } else { 1 };
        held.push(Held { name: section.name.clone(), key, purpose, parallel });
    }
    for section in &config.tls {
        let seen = guard(config, &section.name).with_extension("tls-public");
        let key = load(&section.key, crypto, tokens, &seen)?;
        let (name, purpose) = (section.name.clone(), Purpose::Transport);
        held.push(Held { name, key, purpose, parallel: 1 });
    }
    Ok(held)
}

fn guard(config: &SignerConfig, name: &str) -> PathBuf {
    config.signer.data.join(format!("{}.slots", name.replace('/', "_")))
}

fn load(
    section: &KeySection,
    crypto: &Crypto,
    tokens: &Tokens,
    seen: &Path,
) -> Result<Arc<dyn SigningKey>, SignerStartError> {
    if section.is_on_token() {
        let key = token_key(section, tokens, seen::read(seen))?;
        match key.places().iter().any(|place| place.confirmed) {
            true => seen::keep(seen, key.public_key()),
            false => tracing::error!(
                key = %seen.with_extension("").display(),
                "no token with this key answers: it starts as it was last seen, session keys that are \
                 certified sign, whatever else waits for the token"
            ),
        }
        return Ok(key);
    }
    let file = &section.file;
    let pkcs8 = msp::read_key(file).map_err(refused)?;
    let [p256, ed25519] = Algorithm::ALL.map(|algorithm| crypto.load(algorithm, &pkcs8));
    p256.or(ed25519).map_err(|error| {
        SignerStartError::Refused(format!("the key file {}: {error}", file.display()))
    })
}

#[cfg(feature = "pkcs11")]
fn open_tokens(config: &SignerConfig) -> Result<Tokens, SignerStartError> {
    let memory = Some(config.signer.data.as_path());
    tokens::open(&config.token, memory, Arc::new(fatal)).map_err(token_refused)
}

#[cfg(feature = "pkcs11")]
fn token_key(
    section: &KeySection,
    tokens: &Tokens,
    known: Option<PublicKey>,
) -> Result<Arc<dyn SigningKey>, SignerStartError> {
    tokens::key(section, tokens, known).map_err(token_refused)
}

#[cfg(feature = "pkcs11")]
fn token_refused(error: crate::crypto::providers::pkcs11::error::TokenError) -> SignerStartError {
    match error.is_final() {
        true => SignerStartError::Final(error.to_string()),
        false if error.may_pass() => SignerStartError::Later(error.to_string()),
        false => SignerStartError::Refused(error.to_string()),
    }
}

#[cfg(feature = "pkcs11")]
fn token_status(tokens: &Tokens) -> Vec<serde_json::Value> {
    let describe = |token: TokenStatus| {
        let TokenStatus { name, counts, stopped, away } = token;
        json!({
            "name": name,
            "signed": counts.signed,
            "failed": counts.failed,
            "rungs": counts.rungs,
            "left_behind": counts.left_behind,
            "sessions": counts.sessions.size,
            "sessions_wanted": counts.sessions.wanted,
            "sessions_refused": counts.sessions.refused,
            "stopped": stopped.map(|error| error.to_string()),
            "away_since_ms": away.as_ref().map(|away| clock::ms_of(away.since)),
            "away_reason": away.map(|away| away.reason),
        })
    };
    tokens.status().into_iter().map(describe).collect()
}

#[cfg(not(feature = "pkcs11"))]
fn open_tokens(config: &SignerConfig) -> Result<Tokens, SignerStartError> {
    match config.token.is_empty() {
        true => Ok(Tokens),
        false => Err(SignerStartError::Refused(NO_PKCS11.to_owned())),
    }
}

#[cfg(not(feature = "pkcs11"))]
fn token_key(
    _: &KeySection,
    _: &Tokens,
    _: Option<PublicKey>,
) -> Result<Arc<dyn SigningKey>, SignerStartError> {
    Err(SignerStartError::Refused(NO_PKCS11.to_owned()))
}

#[cfg(not(feature = "pkcs11"))]
fn token_status(_: &Tokens) -> Vec<serde_json::Value> {
    Vec::new()
}

#[cfg(not(feature = "pkcs11"))]
pub(super) const NO_PKCS11: &str = "this build has no PKCS#11; use one with the feature pkcs11";

fn described(keyring: &Keyring) -> Vec<(String, String)> {
    let keys = keyring.keys().map(|held| {
        let purpose = match held.purpose {
            Purpose::Consensus { .. } => "votes",
            Purpose::Transport => "TLS",
        };
        (held.name.clone(), format!("{purpose}, {:?}", held.key.public_key()))
    });
    keys.collect()
}

fn status(keyring: &Keyring, metrics: &SignerMetrics, tokens: &Tokens) -> String {
    let keys: Vec<_> = keyring
        .keys()
        .map(|held| {
            let key = held.key.public_key();
            let purpose = match held.purpose {
                Purpose::Consensus { .. } => "votes",
                Purpose::Transport => "tls",
            };
            let guard = keyring.guard_state(&wire::name_of(key)).map(|guard| {
                json!({
                    "fencing_epoch": guard.fencing_epoch,
                    "floor": guard.floor.0,
                    "newest": guard.newest.0,
                    "state": guard.state.name(),
                    "signs": guard.signs,
                })
            });
            let (sessions, trouble) = keyring.sessions(&wire::name_of(key));
            let sessions: Vec<_> = sessions
                .into_iter()
                .map(|(first, last, certified)| {
                    json!({ "first": first.0, "last": last.0, "certified": certified })
                })
                .collect();
            let places = held.key.places().into_iter().map(|place| {
                let KeyPlace { token, key, confirmed, trouble } = place;
                json!({ "token": token, "key": key, "confirmed": confirmed, "trouble": trouble })
            });
            json!({
                "name": held.name,
                "places": places.collect::<Vec<_>>(),
                "purpose": purpose,
                "algorithm": key.algorithm().name(),
                "public_key": hex::encode(key.as_bytes()),
                "sessions": sessions,
                "guard": guard,
                "trouble": trouble,
            })
        })
        .collect();
    let tokens = token_status(tokens);
    for token in &tokens {
        let number = |key: &str| token[key].as_u64().unwrap_or_default();
        let name = token["name"].as_str().unwrap_or_default();
        metrics.sessions(name, number("sessions"), number("sessions_refused"));
        let since = token["away_since_ms"].as_u64();
        let away = since.map_or(0, |since| clock::now_ms().saturating_sub(since).max(1000) / 1000);
        metrics.away(name, away);
    }
    json!({ "keys": keys, "tokens": tokens, "metrics": metrics.render() }).to_string()
}

/// Ends a process whose token's module does not come back.
pub(super) fn fatal(reason: String) {
    tracing::error!(reason, "the process stops");
    eprintln!("obelisk: {reason}");
    end_at_once(EXIT_FAILED)
}

/// Ends the process without the destructors of loaded libraries: a call may hang in one of them.
pub fn end_at_once(code: i32) -> ! {
    // SAFETY: ends the process and touches nothing of it.
    unsafe { nix::libc::_exit(code) }
}

/// An error with all its causes; what it says to do stays last.
fn refused(error: impl std::error::Error) -> SignerStartError {
    let text = error.to_string();
    let (mut cause, fix) = match text.rsplit_once("; ") {
        Some((cause, fix)) => (cause.to_owned(), Some(fix.to_owned())),
        None => (text.clone(), None),
    };
    let mut source = error.source();
    while let Some(error) = source {
        cause = format!("{cause}: {error}");
        source = error.source();
    }
    SignerStartError::Refused(match fix {
        Some(fix) => format!("{cause}; {fix}"),
        None => cause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cause of a cause stands with it, not behind the fix.
    #[test]
    fn the_fix_stays_last() {
        let error = read_genesis(Path::new("/no-such-folder/genesis.bin")).unwrap_err();
        let text = refused(error).to_string();
        let cause = text.split_once("; ").map_or(text.as_str(), |(cause, _)| cause);
        assert!(cause.contains("No such file"), "{text}");
    }
}
