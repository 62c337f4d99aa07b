//! Checks of the process that holds the keys.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope::Scope;
use crate::node::assembly::has_signed;
use crate::node::config::SignerMode;
use crate::node::config::SignerSection;
use crate::node::users;
use crate::signer::guard::format::State;
use crate::signer::remote;
use crate::signer::socket;
use crate::types::ids::Height;
use crate::types::signature::PublicKey;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "signer.user", about: "is the signer's user known", run: user },
    Check { id: "signer.socket", about: "is its socket there and closed to others", run: guarded },
    Check { id: "signer.answers", about: "does it answer, and what does it say", run: answers },
    Check { id: "signer.records", about: "do its records sign", run: records },
    Check { id: "signer.tokens", about: "are its tokens there", run: tokens },
    Check { id: "signer.sessions", about: "are its session keys certified ahead", run: sessions },
];

fn section(scope: &Scope) -> Result<&SignerSection, Finding> {
    let section = &scope.config()?.signer;
    match section.mode {
        SignerMode::Process => Ok(section),
        SignerMode::Embedded => Err(Finding::skipped("the node signs itself (signer.mode)")),
    }
}

fn id(section: &SignerSection) -> Result<u32, Finding> {
    if section.user.is_empty() {
        return Ok(socket::own_user());
    }
    let fix = "correct signer.user, or make the user: systemd-sysusers obelisk.conf";
    users::id_of(&section.user).map_err(|reason| Finding::error(reason, fix))
}

fn user(scope: &Scope) -> Answer {
    let section = section(scope)?;
    let id = id(section)?;
    Ok(Finding::ok(format!("user {id}")))
}

fn guarded(scope: &Scope) -> Answer {
    let path = &section(scope)?.socket;
    let place = path.display();
    let Ok(metadata) = path.metadata() else {
        let fix = "start the signer: systemctl start obelisk-signer@NAME";
        return Ok(Finding::error(format!("there is no socket {place}"), fix));
    };
    let mode = metadata.permissions().mode() & 0o777;
    Ok(if !metadata.file_type().is_socket() {
        Finding::error(format!("{place} is no socket"), "correct signer.socket")
    } else if mode & 0o007 != 0 {
        Finding::error(
            format!("{place} has mode {mode:o}: every user may open it"),
            format!("chmod o= {place}, and restart the signer"),
        )
    } else {
        Finding::ok(format!("{place}, mode {mode:o}"))
    })
}

/// What it says of itself, asked once.
fn status(scope: &Scope) -> Result<&Value, Finding> {
    let section = section(scope)?;
    let ask = || {
        let place = remote::Place {
            socket: section.socket.clone(),
            user: id(section).map_err(|_| Finding::skipped("see signer.user"))?,
            deadline: Duration::from_millis(section.deadline_ms),
        };
        let fix = "journalctl -u obelisk-signer@NAME says why it does not; restart it if it hangs";
        let status = (scope.probes.signer)(&place);
        let status = status.map_err(|error| Finding::refused(&error, fix))?;
        Ok(serde_json::from_str(&status).unwrap_or_default())
    };
    scope.signer.get_or_init(ask).as_ref().map_err(Clone::clone)
}

fn answers(scope: &Scope) -> Answer {
    let status = status(scope)?;
    Ok(match entries(status, "keys").count() {
        0 => Finding::error(
            "it answers and holds no key",
            "name a key in the signer's configuration",
        ),
        keys => {
            let tokens = entries(status, "tokens").count();
            Finding::ok(format!("{keys} keys, {tokens} tokens"))
        }
    })
}

/// For checks that stand behind `signer.answers`.
fn answered(scope: &Scope) -> Result<&Value, Finding> {
    section(scope)?;
    status(scope).map_err(|_| Finding::skipped("see signer.answers"))
}

/// Whether it holds a TLS key; without it, the node does not start.
pub(super) fn holds(scope: &Scope, public: &PublicKey) -> Answer {
    let (status, wanted) = (answered(scope)?, hex::encode(public.as_bytes()));
    Ok(match entries(status, "keys").any(|key| text(key, "public_key") == wanted) {
        true => Finding::ok("the signer holds it"),
        false => Finding::error(
            "signer.tls is set, and the signer does not hold it",
            "give the signer this key in a [[tls]] section, or set signer.tls = false",
        ),
    })
}

fn records(scope: &Scope) -> Answer {
    let status = answered(scope)?;
    let keys = entries(status, "keys").filter(|key| text(key, "purpose") == "votes");
    worst(keys.map(|key| record(scope, key)), "it signs for no validator")
}

/// How the record of one validator's key stands.
fn record(scope: &Scope, key: &Value) -> Finding {
    let (name, guard) = (text(key, "name"), &key["guard"]);
    if guard.is_null() {
        return unopened(scope, key);
    }
    let number = |field: &str| guard[field].as_u64().unwrap_or_default();
    let (epoch, floor, newest) = (number("fencing_epoch"), number("floor"), number("newest"));
    let state = text(guard, "state");
    if state == State::Stopped.name() || state == State::Retired.name() {
        return Finding::error(
            format!("{name}: {state}"),
            "find and stop the other signer; docs/signer.md says how to go on",
        );
    }
    if state != State::InUse.name() {
        return Finding::warning(
            format!("{name}: {state}: this key has signed what the record did not hold"),
            "let node and signer run: it votes again by itself",
        );
    }
    if guard["signs"] == false {
        return Finding::note(format!(
            "{name}: it signs when its node has compared the record with what its peers saw"
        ));
    }
    if newest < floor {
        return Finding::warning(
            format!("{name}: it was fenced and votes again at sequence number {floor}"),
            "let node and signer run: it votes again when the network is there",
        );
    }
    Finding::ok(format!("{name}: {state}, fencing epoch {epoch}, floor {floor}, newest {newest}"))
}

/// A record that no node has opened yet: nothing is wrong before the key's first vote.
fn unopened(scope: &Scope, key: &Value) -> Finding {
    let name = text(key, "name");
    let own = scope.members().ok().and_then(|msp| msp.enrolment.identity().ok());
    let is_own = own.is_some_and(|own| hex::encode(own.key.as_bytes()) == text(key, "public_key"));
    let signed = || scope.config().is_ok_and(|config| has_signed(&config.node.data, Height(0)));
    match is_own && signed() {
        true => Finding::error(
            format!("{name}: its record is missing, and this key has signed: it could sign twice"),
            "put the file back where it was moved; where it is lost: obelisk signer renew",
        ),
        false => Finding::note(format!("{name}: no record yet: it is made for its node")),
    }
}

fn tokens(scope: &Scope) -> Answer {
    let status = answered(scope)?;
    worst(entries(status, "tokens").map(token), "its keys are files")
}

fn token(token: &Value) -> Finding {
    let name = text(token, "name");
    let number = |field: &str| token[field].as_u64().unwrap_or_default();
    let (sessions, wanted) = (number("sessions"), number("sessions_wanted"));
    if let Some(stopped) = token["stopped"].as_str() {
        return Finding::error(
            format!("{name}: {stopped}"),
            "correct the PIN, write its file anew, and restart the signer",
        );
    }
    if !token["away_since_ms"].is_null() {
        return Finding::error(
            format!("{name}: it is away: {}", text(token, "away_reason")),
            "bring the token back; `obelisk crypto list --module MODULE` shows what is there",
        );
    }
    if sessions < wanted {
        return Finding::warning(
            format!("{name}: {sessions} of {wanted} sessions"),
            "end other users of the token, or ask for fewer: sessions under [[token]]",
        );
    }
    Finding::ok(format!("{name}: {sessions} of {wanted} sessions"))
}

fn sessions(scope: &Scope) -> Answer {
    let status = answered(scope)?;
    let delegated = entries(status, "keys").filter(|key| entries(key, "sessions").next().is_some());
    worst(delegated.map(session), "no key signs by session keys")
}

/// The session keys of one validator.
fn session(key: &Value) -> Finding {
    let name = text(key, "name");
    let certified = entries(key, "sessions").filter(|session| session["certified"] == true);
    let last = certified.filter_map(|session| session["last"].as_u64()).max();
    let fix = "bring the token back: it certifies session keys by itself";
    match (last, key["trouble"].as_str()) {
        (None, trouble) => Finding::error(
            format!("{name}: no session key is certified: {}", trouble.unwrap_or("not yet asked")),
            fix,
        ),
        (Some(last), Some(trouble)) => Finding::warning(
            format!("{name}: {trouble}; votes go on until sequence number {last}"),
            fix,
        ),
        (Some(last), None) => {
            Finding::ok(format!("{name}: certified up to sequence number {last}"))
        }
    }
}

/// The worst of several findings; `none` where there are none.
fn worst(findings: impl Iterator<Item = Finding>, none: &str) -> Answer {
    let worst = findings.max_by_key(|finding| finding.outcome);
    worst.ok_or_else(|| Finding::skipped(none))
}

fn entries<'a>(value: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    value[list].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}
