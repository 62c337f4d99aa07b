//! Checks of the configuration file and the genesis document it names.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope::Scope;
use crate::consensus;
use crate::node::config::Config;
use crate::node::config::ConfigError;
use crate::node::config::NodeRole;
use crate::storage;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "config.file", about: "is the configuration accepted", run: file },
    Check { id: "config.mode", about: "can only its owner change it", run: mode },
    Check {
        id: "config.genesis",
        about: "is the genesis document readable and of this build",
        run: genesis,
    },
    Check { id: "config.store", about: "does the store survive a restart", run: store },
    Check { id: "config.ports", about: "has every listener a port of its own", run: ports },
    Check { id: "config.plain", about: "is REST without TLS kept on this machine", run: plain },
    Check { id: "config.open", about: "do callers need a certificate", run: open },
    Check { id: "config.peers", about: "are all validators named, once", run: peers },
    Check { id: "config.timeouts", about: "do the timeouts fit each other", run: timeouts },
];

fn file(scope: &Scope) -> Answer {
    match &scope.config {
        None => Err(Finding::skipped("no configuration is named: add --config FILE")),
        Some(Ok(_)) => Ok(Finding::ok("every key is known, every value in its range")),
        Some(Err(error)) => {
            let fix = "correct the line; docs/operating.md lists every key";
            let mut finding = Finding::refused(error, fix);
            finding.reason = finding.reason.lines().collect::<Vec<_>>().join(" ");
            if let ConfigError::Read { source, .. } = error
                && source.kind() == ErrorKind::PermissionDenied
            {
                finding.fix = "run the doctor as the node's user".to_owned();
            }
            Ok(finding)
        }
    }
}

fn mode(scope: &Scope) -> Answer {
    let Some(path) = &scope.path else {
        return Err(Finding::skipped("no configuration is named: add --config FILE"));
    };
    let metadata = std::fs::metadata(path).map_err(|error| Finding::skipped(error.to_string()))?;
    let mode = metadata.permissions().mode() & 0o777;
    Ok(match mode & 0o022 {
        0 => Finding::ok(format!("mode {mode:o}")),
        _ => Finding::error(
            format!("mode {mode:o}: others can turn this node into another"),
            format!("chmod go-w {}", path.display()),
        ),
    })
}

fn genesis(scope: &Scope) -> Answer {
    let genesis = match scope.genesis_or_reason()? {
        Ok(genesis) => genesis,
        Err(reason) => {
            let fix = "copy the network's genesis document again";
            return Ok(Finding::error(reason.clone(), fix));
        }
    };
    if consensus::plugin(&genesis.consensus).is_none() {
        return Ok(Finding::error(
            format!(
                "it asks for consensus {:?}, which this build does not have",
                genesis.consensus
            ),
            "use a build that has it",
        ));
    }
    let (n, f) = (genesis.replicas.len(), genesis.replicas.weak_quorum() - 1);
    Ok(Finding::ok(format!(
        "{}: {n} validators, {f} may fail, chain {}",
        genesis.network,
        hex::encode(&genesis.chain_id().0.0[..6])
    )))
}

fn store(scope: &Scope) -> Answer {
    let config = scope.config()?;
    let engine = &config.storage.engine;
    let Some(row) = storage::store(engine) else {
        let known: Vec<&str> = storage::STORES.iter().map(|row| row.name).collect();
        return Ok(Finding::error(
            format!("{engine:?} is not in this build"),
            format!("set storage.engine to one of {}", known.join(", ")),
        ));
    };
    Ok(match row.durable {
        true => Finding::ok(engine.clone()),
        false => Finding::warning(
            format!("{engine}: the state is rebuilt from all blocks at every start"),
            "set storage.engine = \"rocksdb\"",
        ),
    })
}

/// The listeners of a configuration, by the key that names them.
pub(super) fn listeners(config: &Config) -> Vec<(&'static str, &str)> {
    let all = [
        ("network.listen", config.network.listen.as_str()),
        ("api.rest", config.api.rest.as_str()),
        ("api.rest_plain", config.api.rest_plain.as_str()),
        ("api.grpc", config.api.grpc.as_str()),
    ];
    all.into_iter().filter(|(_, address)| !address.is_empty()).collect()
}

/// Host and port of `host:port`, with brackets of IPv6 removed.
pub(super) fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

fn ports(scope: &Scope) -> Answer {
    let config = scope.config()?;
    let mut seen: BTreeMap<u16, &str> = BTreeMap::new();
    for (key, address) in listeners(config) {
        let Some((_, port)) = split(address).filter(|(_, port)| *port != 0) else { continue };
        if let Some(other) = seen.insert(port, key) {
            return Ok(Finding::error(
                format!("{other} and {key} both use port {port}"),
                format!("give {key} another port"),
            ));
        }
    }
    let ports: Vec<String> = seen.keys().map(u16::to_string).collect();
    Ok(Finding::ok(ports.join(", ")))
}

fn plain(scope: &Scope) -> Answer {
    let address = &scope.config()?.api.rest_plain;
    let Some((host, _)) = split(address) else { return Ok(Finding::ok("off")) };
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
    Ok(match local {
        true => Finding::ok(address.clone()),
        false => Finding::error(
            format!("{address}: anonymous and unencrypted, reachable from other machines"),
            "set api.rest_plain to 127.0.0.1:PORT, or leave it out",
        ),
    })
}

fn open(scope: &Scope) -> Answer {
    Ok(match scope.config()?.api.open {
        true => Finding::advice(
            "api.open: callers without a certificate may read and submit",
            "set api.open = false, unless that is what is wanted",
        ),
        false => Finding::ok("callers show a certificate"),
    })
}

fn peers(scope: &Scope) -> Answer {
    let (config, genesis) = (scope.config()?, scope.genesis()?);
    let own = scope.members()?.enrolment.identity();
    let own = own.map_err(|_| Finding::skipped("the identity is refused: see identity.folder"))?;
    let mut named = BTreeSet::new();
    for peer in &config.network.peers {
        let (organisation, name) = (&peer.organisation, &peer.name);
        if genesis.replicas.find(organisation, name).is_none() {
            return Ok(Finding::error(
                format!("{organisation}/{name} is no validator of {}", genesis.network),
                "remove it from network.peers",
            ));
        }
        if !named.insert((organisation.as_str(), name.as_str())) {
            return Ok(Finding::error(
                format!("{organisation}/{name} is named twice"),
                "remove one of the two network.peers",
            ));
        }
    }
    let missing: Vec<String> = genesis
        .replicas
        .iter()
        .map(|(_, replica)| (replica.organisation.as_str(), replica.name.as_str()))
        .filter(|member| *member != (own.organisation.as_str(), own.name.as_str()))
        .filter(|member| !named.contains(member))
        .map(|(organisation, name)| format!("{organisation}/{name}"))
        .collect();
    let listed = named.len();
    Ok(match missing.is_empty() {
        true => Finding::ok(format!("{listed} others")),
        false => Finding::warning(
            format!("{} of the network is not named: no link to it", missing.join(", ")),
            "add a [[network.peers]] section with its organisation, name and address",
        ),
    })
}

fn timeouts(scope: &Scope) -> Answer {
    let config = scope.config()?;
    let section = &config.consensus;
    if config.node.role == NodeRole::Observer {
        return Err(Finding::skipped("an observer has none"));
    }
    let (request, null) = (section.request_timeout_ms, section.null_request_ms);
    if null > 0 && null * 2 > request.saturating_mul(10) {
        return Ok(Finding::warning(
            format!("null requests come every {null} ms: a dead primary is noticed late"),
            format!("set consensus.null_request_ms to at most {}", request * 5),
        ));
    }
    Ok(match request {
        0..200 => Finding::warning(
            format!("request_timeout_ms = {request}: a slow sync looks like a dead primary"),
            "set consensus.request_timeout_ms to 1000 or more",
        ),
        _ => Finding::ok(format!(
            "request {request} ms, view change {} ms",
            section.view_change_timeout_ms
        )),
    })
}
