//! Checks of ports, names and peers.

use std::net::TcpListener;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cli::doctor::config;
use crate::cli::doctor::finding::Answer;
use crate::cli::doctor::finding::Check;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::scope;
use crate::cli::doctor::scope::Scope;
use crate::crypto::Check as SignatureCheck;
use crate::membership::directory::Directory;
use crate::network::Peer;
use crate::network::recognise;
use crate::network::tls;
use crate::node::config::PeerSection;
use crate::types::limits;

pub(super) const CHECKS: &[Check] = &[
    Check { id: "network.ports", about: "are the node's ports free, or its own", run: ports },
    Check { id: "network.names", about: "are the names of all peers known", run: names },
    Check { id: "network.peers", about: "do the peers answer as who they should be", run: peers },
    Check { id: "network.mtu", about: "do packets have their usual size", run: mtu },
    Check { id: "network.backlog", about: "may enough connections wait", run: backlog },
    Check { id: "network.idle", about: "do idle connections keep their speed", run: idle },
];

fn ports(scope: &Scope) -> Answer {
    let config = scope.config()?;
    let running = scope::held(&config.node.data);
    let mut taken = Vec::new();
    let listeners = config::listeners(config);
    for (key, address) in &listeners {
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => taken.push(*key),
            Err(error) => {
                return Ok(Finding::error(
                    format!("{key}: cannot listen on {address}: {error}"),
                    "use an address of this machine, and a port above 1023",
                ));
            }
        }
    }
    Ok(match (taken.len(), running) {
        (0, false) => Finding::ok("free"),
        (0, true) => Finding::warning(
            "a node holds the data directory and none of these ports",
            "restart the node: its configuration was changed after its start",
        ),
        (_, true) => Finding::ok("held by the node that runs on this data"),
        (_, false) => Finding::error(
            format!("{} taken by another program", taken.join(", ")),
            "ss -tlnp shows which; stop it, or choose other ports",
        ),
    })
}

fn names(scope: &Scope) -> Answer {
    let config = scope.config()?;
    let unknown = |peer: &&PeerSection| {
        peer.address.to_socket_addrs().map_or(true, |mut addresses| addresses.next().is_none())
    };
    let unknown: Vec<&str> =
        config.network.peers.iter().filter(unknown).map(|p| p.address.as_str()).collect();
    Ok(match unknown.is_empty() {
        true => Finding::ok(format!("{} addresses", config.network.peers.len())),
        false => Finding::error(
            format!("{} cannot be resolved", unknown.join(", ")),
            "correct network.peers, or add the name to DNS or /etc/hosts",
        ),
    })
}

fn peers(scope: &Scope) -> Answer {
    let (config, genesis) = (scope.config()?, scope.genesis()?);
    let msp = scope.members()?;
    let Some(pair) = &msp.tls else {
        return Err(Finding::skipped("there is no TLS certificate: see tls.chain"));
    };
    let Some(key) = &pair.key else {
        return Err(Finding::skipped("the signer holds the TLS key: see signer.answers"));
    };
    if config.network.peers.is_empty() {
        return Ok(Finding::ok("there are none"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Finding::skipped(error.to_string()))?;
    let refused = |error: &dyn std::error::Error| Finding::refused(error, "see tls.chain");
    let chain = std::slice::from_ref(&pair.certificate);
    let credentials = tls::Credentials::new(chain, key).map_err(|e| refused(&e))?;
    let credentials = Arc::new(credentials);
    let roots = genesis.organisations.iter().map(|organisation| &organisation.root);
    let roots = tls::Roots::new(roots).map_err(|error| refused(&error))?;
    let crypto = scope.crypto.clone();
    let verify = Arc::new(move |check: &SignatureCheck<'_>| crypto.verify(check));
    let directory = Directory::new(genesis, verify).map_err(|error| refused(&error))?;
    let replicas = Arc::new(genesis.replicas.clone());
    let identify = recognise::peers(Arc::new(directory), move || replicas.clone());
    let ask = Ask { credentials, roots, identify };
    let asked = config.network.peers.iter().map(|peer| ask.peer(peer));
    let answers = runtime.block_on(futures_util::future::join_all(asked));
    let silent: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
    let (silent_count, all) = (silent.len(), genesis.replicas.len());
    let fix = "start them, or correct network.peers and the firewall between";
    Ok(if silent.is_empty() {
        Finding::ok(format!("{} shook hands", config.network.peers.len()))
    } else if all - silent_count < genesis.replicas.quorum() {
        Finding::error(format!("no quorum: {}", silent.join("; ")), fix)
    } else {
        Finding::warning(silent.join("; "), fix)
    })
}

struct Ask {
    credentials: Arc<tls::Credentials>,
    roots: tls::Roots,
    identify: recognise::Identify,
}

impl Ask {
    /// A TLS handshake; the peer must show the identity that the configuration names.
    async fn peer(&self, section: &PeerSection) -> Result<(), String> {
        let who = format!("{}/{}", section.organisation, section.name);
        let limit = Duration::from_millis(limits::HANDSHAKE_MS_MAX / 2);
        match tokio::time::timeout(limit, self.shake_hands(section)).await {
            Ok(Ok(peer)) => {
                let found = format!("{}/{}", peer.organisation, peer.name);
                match found == who {
                    true => Ok(()),
                    false => Err(format!("at {} answers {found}, not {who}", section.address)),
                }
            }
            Ok(Err(reason)) => Err(format!("{who} at {}: {reason}", section.address)),
            Err(_) => Err(format!("{who} at {}: no answer in {limit:?}", section.address)),
        }
    }

    async fn shake_hands(&self, section: &PeerSection) -> Result<Peer, String> {
        let seen = Arc::new(Mutex::new(None));
        let (identify, sight) = (self.identify.clone(), seen.clone());
        let check: tls::Check = Arc::new(move |der| {
            let peer = identify(der)?;
            *sight.lock().expect("no holder of this lock panics") = Some(peer);
            Ok(())
        });
        let credentials = Some(self.credentials.clone());
        let config = tls::client_config(credentials, &self.roots, check, &["h2"]);
        let config = config.map_err(|error| error.to_string())?;
        let stream = TcpStream::connect(&section.address).await.map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(config);
        let done = connector.connect(tls::server_name(), stream).await;
        done.map_err(|error| format!("TLS: {error}"))?;
        let peer = seen.lock().expect("no holder of this lock panics").take();
        peer.ok_or_else(|| "it showed no certificate".to_owned())
    }
}

fn mtu(scope: &Scope) -> Answer {
    let links = scope.tree.names("sys/class/net").into_iter().filter(|name| name != "lo");
    let small: Vec<String> = links
        .filter_map(|name| {
            let mtu = scope.tree.number(&format!("sys/class/net/{name}/mtu"))?;
            (mtu < 1500).then(|| format!("{name}: {mtu}"))
        })
        .collect();
    Ok(match small.is_empty() {
        true => Finding::ok("1500 bytes or more on every interface"),
        false => Finding::advice(
            format!(
                "{}: more packets per batch; where peers differ, large frames get lost",
                small.join(", ")
            ),
            "ip link set dev NAME mtu 1500, where all links to the peers carry that",
        ),
    })
}

fn backlog(scope: &Scope) -> Answer {
    match scope.tree.number("proc/sys/net/core/somaxconn") {
        None => Err(Finding::skipped("the kernel does not say")),
        Some(value) if value < limits::CONNECTIONS_MAX as u64 => Ok(Finding::warning(
            format!("{value}: connections are refused when many arrive at once"),
            format!("sysctl -w net.core.somaxconn={}", limits::CONNECTIONS_MAX),
        )),
        Some(value) => Ok(Finding::ok(value.to_string())),
    }
}

fn idle(scope: &Scope) -> Answer {
    match scope.tree.number("proc/sys/net/ipv4/tcp_slow_start_after_idle") {
        None => Err(Finding::skipped("the kernel does not say")),
        Some(0) => Ok(Finding::ok("they do")),
        Some(_) => Ok(Finding::advice(
            "no: after a pause the first batch takes more round trips",
            "sysctl -w net.ipv4.tcp_slow_start_after_idle=0",
        )),
    }
}
