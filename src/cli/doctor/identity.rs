//! Checks of the identity folder: certificates, keys and who may read them.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::cli::doctor::config;
use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope;
use crate::cli::doctor::scope::Scope;
use crate::cli::doctor::signer;
use crate::membership::certificate;
use crate::membership::identity::Purpose;
use crate::membership::identity::Role;
use crate::membership::msp::KeyPair;
use crate::node::config::NodeRole;
use crate::node::config::SignerMode;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "identity.folder", about: "is the identity complete and readable", run: folder },
    Check { id: "identity.key-mode", about: "can only the owner read the keys", run: key_mode },
    Check { id: "identity.owner", about: "does the folder belong to the node's user", run: owner },
    Check { id: "identity.chain", about: "does the network vouch for the certificate", run: chain },
    Check { id: "identity.validity", about: "how long is the certificate valid", run: validity },
    Check { id: "identity.key", about: "does the key fit the certificate", run: key },
    Check { id: "identity.role", about: "does the certificate's role fit node.role", run: role },
    Check { id: "identity.seat", about: "does the genesis document name this key", run: seat },
    Check { id: "identity.custody", about: "where does the signing key live", run: custody },
    Check {
        id: "tls.chain",
        about: "does the network vouch for the TLS certificate",
        run: tls_chain,
    },
    Check { id: "tls.validity", about: "how long is the TLS certificate valid", run: tls_validity },
    Check { id: "tls.key", about: "does the TLS key fit its certificate", run: tls_key },
    Check { id: "tls.names", about: "does it name the hosts that clients call", run: tls_names },
    Check {
        id: "roots.validity",
        about: "how long are the organisations' roots valid",
        run: roots,
    },
];

fn folder(scope: &Scope) -> Answer {
    let config = scope.config()?;
    match scope.msp() {
        Ok(msp) => Ok(Finding::ok(format!(
            "{}, {} roots{}",
            config.node.identity.display(),
            msp.roots.len(),
            if msp.tls.is_some() { ", TLS" } else { "" }
        ))),
        Err(finding) => Ok(finding.clone()),
    }
}

fn key_files(scope: &Scope) -> Result<Vec<std::path::PathBuf>, Finding> {
    let identity = &scope.config()?.node.identity;
    let files = ["key.pem", "tls/key.pem"].map(|name| identity.join(name));
    Ok(files.into_iter().filter(|path| path.exists()).collect())
}

fn key_mode(scope: &Scope) -> Answer {
    let files = key_files(scope)?;
    if files.is_empty() {
        return Err(Finding::skipped("there is no key file"));
    }
    for path in &files {
        let metadata = path.metadata().map_err(|error| Finding::skipped(error.to_string()))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Ok(Finding::error(
                format!("{} has mode {mode:o}: others can read the key", path.display()),
                format!("chmod 600 {}", path.display()),
            ));
        }
    }
    Ok(Finding::ok(format!("{} files, mode 600 or less", files.len())))
}

fn owner(scope: &Scope) -> Answer {
    let config = scope.config()?;
    let unreadable = |error: std::io::Error| Finding::skipped(error.to_string());
    let identity = scope::owner(&config.node.identity).map_err(unreadable)?;
    let data = match config.node.data.exists() {
        true => scope::owner(&config.node.data).map_err(unreadable)?,
        false => scope.probes.user,
    };
    Ok(match identity == data || identity == 0 {
        true => Finding::ok(format!("user {identity}")),
        false => Finding::warning(
            format!("the identity belongs to user {identity}, the data to user {data}"),
            format!("chown -R {data} {}", config.node.identity.display()),
        ),
    })
}

fn chain(scope: &Scope) -> Answer {
    let identity = scope.vouched(&scope.members()?.enrolment, Purpose::Enrolment)?;
    Ok(Finding::ok(identity.uri()))
}

fn days_left(scope: &Scope, not_before_ms: u64, not_after_ms: u64, what: &str) -> Finding {
    let now = scope.probes.now_ms;
    let fix = "obelisk member issue makes a new one; ask the organisation's authority";
    if now < not_before_ms {
        let text = format!("{what} is not valid yet: is the clock right?");
        return Finding::error(text, "timedatectl; then see clock.synchronised");
    }
    let Some(left) = not_after_ms.checked_sub(now) else {
        return Finding::error(format!("{what} has expired"), fix);
    };
    let days = left / DAY_MS;
    match days {
        0..=7 => Finding::error(format!("{what} expires in {days} days"), fix),
        8..=30 => Finding::warning(format!("{what} expires in {days} days"), fix),
        _ => Finding::ok(format!("{days} days left")),
    }
}

fn pair_validity(scope: &Scope, pair: &KeyPair, what: &str) -> Answer {
    let identity = pair.identity();
    let identity = identity.map_err(|error| Finding::refused(&error, "enrol the node again"))?;
    Ok(days_left(scope, identity.not_before_ms, identity.not_after_ms, what))
}

fn validity(scope: &Scope) -> Answer {
    pair_validity(scope, &scope.members()?.enrolment, "the certificate")
}

fn pair_key(scope: &Scope, pair: &KeyPair, with_signer: bool) -> Answer {
    if pair.key.is_none() && with_signer {
        return Ok(Finding::ok("the signer holds it"));
    }
    let key = pair.signing_key(&scope.crypto);
    let key =
        key.map_err(|error| Finding::refused(&error, "put the key of this certificate back"))?;
    Ok(Finding::ok(format!("{} key fits", key.public_key().algorithm().name())))
}

fn key(scope: &Scope) -> Answer {
    let with_signer = scope.config()?.signer.mode == SignerMode::Process;
    pair_key(scope, &scope.members()?.enrolment, with_signer)
}

fn role(scope: &Scope) -> Answer {
    let config = scope.config()?;
    let identity = scope.members()?.enrolment.identity();
    let identity = identity.map_err(|error| Finding::refused(&error, "enrol the node again"))?;
    let fits = match config.node.role {
        NodeRole::Validator => identity.role == Role::Validator,
        NodeRole::Observer => matches!(identity.role, Role::Observer | Role::Validator),
    };
    Ok(match fits {
        true => Finding::ok(identity.role.name()),
        false => Finding::error(
            format!("the certificate is a {}'s: peers refuse it", identity.role.name()),
            "use an identity of the role that node.role names, or change node.role",
        ),
    })
}

fn seat(scope: &Scope) -> Answer {
    let (config, genesis) = (scope.config()?, scope.genesis()?);
    if config.node.role == NodeRole::Observer {
        return Err(Finding::skipped("an observer has no seat"));
    }
    let identity = scope.members()?.enrolment.identity();
    let identity = identity.map_err(|error| Finding::refused(&error, "enrol the node again"))?;
    let (organisation, name) = (&identity.organisation, &identity.name);
    let Some(seat) = genesis.replicas.find(organisation, name) else {
        return Ok(Finding::error(
            format!("{organisation}/{name} is no validator of {}", genesis.network),
            "set node.role = \"observer\", or use a validator's identity",
        ));
    };
    let named = genesis.replicas.get(seat).is_some_and(|replica| replica.key == identity.key);
    Ok(match named {
        true => Finding::ok(format!("seat {seat}")),
        false => Finding::error(
            format!("the genesis document names another key for {organisation}/{name}"),
            "use the identity that was made with this network",
        ),
    })
}

fn custody(scope: &Scope) -> Answer {
    let config = scope.config()?;
    let here = config.node.identity.join("key.pem").exists();
    Ok(match (config.signer.mode, here) {
        (SignerMode::Process, false) => Finding::ok("with the signer"),
        (SignerMode::Process, true) => Finding::warning(
            "with the signer, and a copy lies in the identity folder",
            format!("shred -u {}", config.node.identity.join("key.pem").display()),
        ),
        (SignerMode::Embedded, _) if scope.members()?.enrolment.card().is_some() => Finding::error(
            "on a token, and this node signs itself: it cannot",
            "set signer.mode = \"process\" and name the card in signer.toml (docs/signer.md)",
        ),
        (SignerMode::Embedded, _) => Finding::advice(
            "a file on this disk: whoever copies the disk has the key",
            "let `obelisk signer` keep it, in a token where there is one (docs/signer.md)",
        ),
    })
}

fn tls(scope: &Scope) -> Result<&KeyPair, Finding> {
    let fix = "issue the identity again with a TLS certificate: obelisk member issue";
    let missing = || Finding::error("the identity has no TLS certificate: no peer accepts it", fix);
    scope.members()?.tls.as_ref().ok_or_else(missing)
}

fn tls_chain(scope: &Scope) -> Answer {
    let identity = scope.vouched(tls(scope)?, Purpose::Tls)?;
    Ok(Finding::ok(identity.uri()))
}

fn tls_validity(scope: &Scope) -> Answer {
    pair_validity(scope, tls(scope)?, "the TLS certificate")
}

fn tls_key(scope: &Scope) -> Answer {
    let pair = tls(scope)?;
    if !scope.config()?.signer.tls {
        return pair_key(scope, pair, false);
    }
    let identity = pair.identity();
    let identity = identity.map_err(|error| Finding::refused(&error, "enrol the node again"))?;
    signer::holds(scope, &identity.key)
}

/// Peers know each other by identity; clients that are not of this house go by the host's name.
fn tls_names(scope: &Scope) -> Answer {
    let (config, pair) = (scope.config()?, tls(scope)?);
    let refused = || Finding::error("the TLS certificate cannot be read", "enrol the node again");
    let (_, parsed) = X509Certificate::from_der(&pair.certificate).map_err(|_| refused())?;
    let names = parsed.subject_alternative_name().map_err(|_| refused())?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let named = |host: &str| {
        let address = host.parse::<IpAddr>().ok();
        names.iter().any(|name| match (name, address) {
            (GeneralName::DNSName(dns), None) => dns.eq_ignore_ascii_case(host),
            (GeneralName::IPAddress(bytes), Some(IpAddr::V4(wanted))) => *bytes == wanted.octets(),
            (GeneralName::IPAddress(bytes), Some(IpAddr::V6(wanted))) => *bytes == wanted.octets(),
            _ => false,
        })
    };
    let called = [&config.api.rest, &config.api.grpc];
    let hosts = called.into_iter().filter_map(|address| Some(config::split(address)?.0));
    let wildcard = |host: &str| host.parse::<IpAddr>().is_ok_and(|a| a.is_unspecified());
    let missing: Vec<&str> = hosts.filter(|host| !wildcard(host) && !named(host)).collect();
    Ok(match missing.first() {
        None => Finding::ok("it does"),
        Some(host) => Finding::warning(
            format!("{host} is not in it: browsers and curl refuse the REST interface"),
            format!("issue it again with obelisk member issue --host {host}"),
        ),
    })
}

fn roots(scope: &Scope) -> Answer {
    let genesis = scope.genesis()?;
    let mut worst: Option<Finding> = None;
    for organisation in &genesis.organisations {
        let parsed = certificate::parse(&organisation.root)
            .map_err(|error| Finding::refused(&error, "copy the genesis document again"))?;
        let what = format!("the root of {}", organisation.name);
        let found = days_left(scope, parsed.not_before_ms, parsed.not_after_ms, &what);
        if worst.as_ref().is_none_or(|worst| found.outcome > worst.outcome) {
            worst = Some(found);
        }
    }
    worst.ok_or_else(|| Finding::skipped("the genesis document names no organisation"))
}

/// True where nobody but owner and group may write there.
pub(super) fn is_guarded(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o002 == 0)
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
