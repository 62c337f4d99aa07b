//! Checks of the process that holds the keys.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope::Scope;
use crate::node::config::SignerMode;
use crate::node::config::SignerSection;
use crate::node::users;
use crate::signer::remote;
use crate::signer::socket;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "signer.user", about: "is the signer's user known", run: user },
    Check { id: "signer.socket", about: "is its socket there and closed to others", run: guarded },
    Check { id: "signer.answers", about: "does it answer, and what does it say", run: answers },
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

fn answers(scope: &Scope) -> Answer {
    let section = section(scope)?;
    let place = remote::Place {
        socket: section.socket.clone(),
        user: id(section).map_err(|_| Finding::skipped("see signer.user"))?,
        deadline: Duration::from_millis(section.deadline_ms),
    };
    let fix = "journalctl -u obelisk-signer@NAME says why it does not";
    let status = remote::status(&place).map_err(|error| Finding::refused(&error, fix))?;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
    let count = |list: &str| status[list].as_array().map_or(0, Vec::len);
    Ok(match count("keys") {
        0 => Finding::error(
            "it answers and holds no key",
            "name a key in the signer's configuration",
        ),
        keys => Finding::ok(format!("{keys} keys, {} tokens", count("tokens"))),
    })
}
