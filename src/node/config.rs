//! The configuration file of a node: TOML, every key known, every mistake named with its fix.
//!
//! Relative paths are relative to the file. What is shared by the network stands in the genesis
//! document, not here; nothing here can make two validators disagree.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::consensus::Tuning;
use crate::crypto::routing::Routing;
use crate::types::limits;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; name it with --config")]
    Read { path: PathBuf, source: std::io::Error },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{path}: {reason}")]
    Syntax { path: PathBuf, reason: String },
    /// A value outside its range.
    #[error("{path}: {key}: {reason}")]
    Value { path: PathBuf, key: &'static str, reason: String },
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Orders, executes, stores, votes.
    Validator,
    /// Follows with certificates, serves queries and events, never votes.
    Observer,
}

/// A node's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node itself.
    pub node: NodeSection,
    /// Links to the other validators.
    pub network: NetworkSection,
    /// Listeners for clients.
    #[serde(default)]
    pub api: ApiSection,
    /// Where the validator's key is.
    #[serde(default)]
    pub signer: SignerSection,
    /// Crypto providers.
    #[serde(default)]
    pub crypto: CryptoSection,
    /// Timings of consensus.
    #[serde(default)]
    pub consensus: ConsensusSection,
    /// The store.
    #[serde(default)]
    pub storage: StorageSection,
    /// What the node takes of the machine.
    #[serde(default)]
    pub host: HostSection,
    /// The log.
    #[serde(default)]
    pub log: LogSection,
}

/// The node itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// What the node does.
    pub role: NodeRole,
    /// Directory of ledger, logs of consensus and guard; one node only.
    pub data: PathBuf,
    /// Folder of the identity: certificates and keys.
    pub identity: PathBuf,
    /// The network's genesis document.
    pub genesis: PathBuf,
}

/// Links to the other validators.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSection {
    /// Address for peers, host:port.
    pub listen: String,
    /// The other validators.
    #[serde(default)]
    pub peers: Vec<PeerSection>,
}

/// One other validator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerSection {
    /// Its organisation.
    pub organisation: String,
    /// Its name.
    pub name: String,
    /// Where it listens for peers, host:port.
    pub address: String,
}

/// Listeners for clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiSection {
    /// REST over TLS, host:port; empty leaves it out.
    pub rest: String,
    /// REST without TLS, host:port on loopback; empty leaves it out. Its callers are anonymous.
    pub rest_plain: String,
    /// gRPC over TLS, host:port; empty leaves it out.
    pub grpc: String,
    /// Callers without a certificate may read and hand in signed transactions.
    pub open: bool,
}

/// Where keys are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignerMode {
    /// In this process, from the identity's folder.
    Embedded,
    /// In the process `obelisk signer`.
    Process,
}

/// Where the validator's key is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SignerSection {
    /// In this process or in another.
    pub mode: SignerMode,
    /// The signer's socket, in mode `process`.
    pub socket: PathBuf,
    /// The user the signer runs under, by name or number; empty is this process's user.
    pub user: String,
    /// Time one request to the signer may take, milliseconds.
    pub deadline_ms: u64,
    /// The signer holds the TLS key too.
    pub tls: bool,
}

/// Crypto providers: `auto`, or a row of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CryptoSection {
    /// SHA-256.
    pub hash: String,
    /// Checks of signatures.
    pub verify: String,
    /// Signatures.
    pub sign: String,
    /// TLS: handshakes and records.
    pub tls: String,
    /// Threads that check signatures; 0 chooses by the cores present.
    pub verify_threads: usize,
}

/// Timings of consensus; none affects safety.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsensusSection {
    /// A known batch must commit within this time, milliseconds.
    pub request_timeout_ms: u64,
    /// First wait for a new view, milliseconds.
    pub view_change_timeout_ms: u64,
    /// Cap of growing timeouts, milliseconds.
    pub timeout_ms_max: u64,
    /// Between retransmissions, milliseconds.
    pub retransmit_ms: u64,
    /// Idle time before a null request, milliseconds; 0 switches them off.
    pub null_request_ms: u64,
    /// Sequence numbers in flight.
    pub in_flight_max: u64,
    /// Distance of two proposals while one is in flight and little waits, milliseconds; 0 begins
    /// the next at once.
    pub proposal_spacing_ms: u64,
}

/// The store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    /// Row of the table of stores.
    pub engine: String,
}

/// What the node takes of the machine; `obelisk host show` prints what follows from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSection {
    /// Nodes that share this machine; threads and memory are divided by it.
    pub nodes: usize,
    /// Memory for all nodes of this machine, MiB; 0 takes what the machine or the container
    /// offers.
    pub memory_mib: u64,
    /// Bind the parts of the node to cores, where there are enough.
    pub pin: bool,
}

/// The log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// Levels, as in `info` or `info,obelisk::network=debug`.
    pub level: String,
    /// `text` or `json`.
    pub format: String,
}

impl Default for ApiSection {
    fn default() -> Self {
        Self {
            rest: "127.0.0.1:7050".into(),
            rest_plain: String::new(),
            grpc: "127.0.0.1:7053".into(),
            open: false,
        }
    }
}

impl Default for SignerSection {
    fn default() -> Self {
        Self {
            mode: SignerMode::Embedded,
            socket: PathBuf::new(),
            user: String::new(),
            deadline_ms: limits::SIGNER_DEADLINE_MS,
            tls: false,
        }
    }
}

impl Default for CryptoSection {
    fn default() -> Self {
        let auto = || "auto".to_owned();
        Self { hash: auto(), verify: auto(), sign: auto(), tls: auto(), verify_threads: 0 }
    }
}

impl Default for ConsensusSection {
    fn default() -> Self {
        let tuning = Tuning::default();
        Self {
            request_timeout_ms: tuning.request_timeout_ms,
            view_change_timeout_ms: tuning.view_change_timeout_ms,
            timeout_ms_max: tuning.timeout_ms_max,
            retransmit_ms: tuning.retransmit_ms,
            null_request_ms: tuning.null_request_ms,
            in_flight_max: tuning.in_flight_max,
            proposal_spacing_ms: tuning.proposal_spacing_ms,
        }
    }
}

impl Default for StorageSection {
    fn default() -> Self {
        Self { engine: "rocksdb".into() }
    }
}

impl Default for HostSection {
    fn default() -> Self {
        Self { nodes: 1, memory_mib: 0, pin: true }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".into(), format: "text".into() }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&text_of(path)?, path)
    }

    /// Parses and checks the text of the file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = parsed(text, path)?;
        let base = path.parent().unwrap_or_else(|| Path::new(""));
        for place in [&mut config.node.data, &mut config.node.identity, &mut config.node.genesis] {
            if place.is_relative() {
                *place = base.join(&*place);
            }
        }
        let socket = &mut config.signer.socket;
        if socket.is_relative() && !socket.as_os_str().is_empty() {
            *socket = base.join(&*socket);
        }
        config.check(path)?;
        Ok(config)
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every section is a table of plain values")
    }

    /// Timings as the core takes them.
    pub fn tuning(&self) -> Tuning {
        let section = &self.consensus;
        Tuning {
            request_timeout_ms: section.request_timeout_ms,
            view_change_timeout_ms: section.view_change_timeout_ms,
            timeout_ms_max: section.timeout_ms_max,
            retransmit_ms: section.retransmit_ms,
            null_request_ms: section.null_request_ms,
            in_flight_max: section.in_flight_max,
            proposal_spacing_ms: section.proposal_spacing_ms,
        }
    }

    /// Which provider does what.
    pub fn routing(&self) -> Routing {
        let section = &self.crypto;
        Routing {
            verify_p256: section.verify.clone(),
            verify_ed25519: section.verify.clone(),
            sign_p256: section.sign.clone(),
            sign_ed25519: section.sign.clone(),
            hash: section.hash.clone(),
        }
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let refuse =
            |key, reason: String| Err(ConfigError::Value { path: path.to_owned(), key, reason });
        let addresses = [
            ("network.listen", &self.network.listen),
            ("api.rest", &self.api.rest),
            ("api.rest_plain", &self.api.rest_plain),
            ("api.grpc", &self.api.grpc),
        ];
        let addresses = addresses.into_iter().filter(|(_, address)| !address.is_empty());
        let peers = self.network.peers.iter().map(|peer| ("network.peers.address", &peer.address));
        for (key, address) in addresses.chain(peers) {
            if !is_address(address) {
                return refuse(key, format!("{address:?} is not host:port, as in 127.0.0.1:7051"));
            }
        }
        if self.network.listen.is_empty() {
            return refuse("network.listen", "is empty; peers must reach this node".into());
        }
        let section = &self.consensus;
        for (key, value) in [
            ("consensus.request_timeout_ms", section.request_timeout_ms),
            ("consensus.view_change_timeout_ms", section.view_change_timeout_ms),
            ("consensus.retransmit_ms", section.retransmit_ms),
            ("consensus.in_flight_max", section.in_flight_max),
            ("host.nodes", self.host.nodes as u64),
        ] {
            if value == 0 {
                return refuse(key, "must be above 0".into());
            }
        }
        let (nodes, threads) = (self.host.nodes, self.crypto.verify_threads);
        for (key, value, most) in [
            ("host.nodes", nodes, limits::HOST_NODES_MAX),
            ("crypto.verify_threads", threads, limits::VERIFY_THREADS_MAX),
        ] {
            if value > most {
                return refuse(key, format!("must be at most {most}"));
            }
        }
        if (1..limits::HOST_MEMORY_MIB_MIN).contains(&self.host.memory_mib) {
            let least = limits::HOST_MEMORY_MIB_MIN;
            let reason = format!("must be {least} or more, or 0 for what the machine offers");
            return refuse("host.memory_mib", reason);
        }
        if section.proposal_spacing_ms > limits::PROPOSAL_SPACING_MS_MAX {
            let reason = format!("must be at most {}", limits::PROPOSAL_SPACING_MS_MAX);
            return refuse("consensus.proposal_spacing_ms", reason);
        }
        if section.timeout_ms_max < section.request_timeout_ms.max(section.view_change_timeout_ms) {
            let reason = "must not be below request_timeout_ms and view_change_timeout_ms".into();
            return refuse("consensus.timeout_ms_max", reason);
        }
        if self.signer.mode == SignerMode::Process && self.signer.socket.as_os_str().is_empty() {
            let reason = "is empty; name the socket of the signer's configuration".into();
            return refuse("signer.socket", reason);
        }
        if self.signer.tls && self.signer.mode == SignerMode::Embedded {
            return refuse("signer.tls", "needs signer.mode = \"process\"".into());
        }
        if !(1..=SIGNER_DEADLINE_MS_MAX).contains(&self.signer.deadline_ms) {
            let reason = format!("must be 1 to {SIGNER_DEADLINE_MS_MAX}");
            return refuse("signer.deadline_ms", reason);
        }
        if !matches!(self.log.format.as_str(), "text" | "json") {
            return refuse("log.format", format!("{:?} is neither text nor json", self.log.format));
        }
        Ok(())
    }
}

/// Whether a text is host:port.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.is_empty() && port.parse::<u16>().is_ok()
}

/// The text of a configuration file.
pub(crate) fn text_of(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// The sections of a configuration file, unchecked.
pub(crate) fn parsed<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let reason = with_suggestion(&error);
        ConfigError::Syntax { path: path.to_owned(), reason }
    })
}

/// The parser's message, with the nearest known key where one was unknown.
fn with_suggestion(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let text = text.trim_end();
    let quoted: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let unknown = text.contains("unknown field") || text.contains("unknown variant");
    let (true, Some((found, expected))) = (unknown, quoted.split_first()) else {
        return text.to_owned();
    };
    let nearest = expected.iter().min_by_key(|known| distance(found, known));
    match nearest {
        Some(known) if distance(found, known) <= known.len().div_ceil(2) => {
            format!("{text}\ndid you mean `{known}`?")
        }
        _ => text.to_owned(),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A vote that takes a minute is of no use to anybody.
const SIGNER_DEADLINE_MS_MAX: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
        [node]
        role = \"validator\"
        data = \"data\"
        identity = \"msp\"
        genesis = \"genesis.bin\"
        [network]
        listen = \"127.0.0.1:7051\"
    ";

    fn refusal(text: &str) -> String {
        Config::parse(text, Path::new("/etc/obelisk/node.toml")).unwrap_err().to_string()
    }

    /// A minimal file takes the defaults, and paths are relative to it.
    #[test]
    fn minimal_file_takes_defaults_and_relative_paths() {
        let config = Config::parse(GOOD, Path::new("/etc/obelisk/node.toml")).unwrap();
        assert_eq!(config.node.data, Path::new("/etc/obelisk/data"));
        assert_eq!(config.tuning(), Tuning::default());
        let again = Config::parse(&config.to_toml(), Path::new("/elsewhere/node.toml")).unwrap();
        assert_eq!(again.node.data, config.node.data);
    }

    /// An unknown key is refused with line, key and the nearest known one.
    #[test]
    fn unknown_key_is_refused_with_a_suggestion() {
        let text = refusal(&format!("{GOOD}\n[storage]\nengin = \"memory\"\n"));
        assert!(text.contains("engin") && text.contains("did you mean `engine`?"), "{text}");
        let text = refusal(&GOOD.replace("validator", "validater"));
        assert!(text.contains("did you mean `validator`?"), "{text}");
    }

    /// The operating guide's table has a row for every key, with its default.
    #[test]
    fn every_key_is_in_the_operating_guide() {
        let text = include_str!("../../docs/operating.md");
        let mut told = std::collections::BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.split(" | ").collect();
            for key in cells[0].trim_start_matches("| ").split(", ") {
                told.insert(key.trim_matches('`'), cells[1].trim_matches('`'));
            }
        }
        let with_signer = format!("{GOOD}[signer]\nmode = \"process\"\nsocket = \"signer.sock\"");
        let config = Config::parse(&with_signer, Path::new("/etc/node.toml")).unwrap();
        let sections: toml::Table = toml::from_str(&config.to_toml()).unwrap();
        for (section, keys) in sections {
            for (key, value) in keys.as_table().unwrap() {
                let name = format!("{section}.{key}");
                let default =
                    *told.get(name.as_str()).unwrap_or_else(|| panic!("no row of {name}"));
                let value = value.to_string().trim_matches('"').to_owned();
                let given = ["node.", "network."].iter().any(|own| name.starts_with(own))
                    || ["signer.mode", "signer.socket"].contains(&name.as_str());
                let unset = ["none", "this process's"].contains(&default) && value.is_empty();
                assert!(
                    given || unset || default == value,
                    "{name}: {value}, the guide: {default}"
                );
            }
        }
    }

    /// Values outside their range name the key and the fix.
    #[test]
    fn values_out_of_range_name_key_and_fix() {
        let text = refusal(&GOOD.replace("127.0.0.1:7051", "7051"));
        assert!(text.contains("network.listen") && text.contains("host:port"), "{text}");
        let text = refusal(&format!("{GOOD}\n[consensus]\nin_flight_max = 0\n"));
        assert!(text.contains("consensus.in_flight_max"), "{text}");
        let text = refusal(&format!("{GOOD}\n[log]\nformat = \"xml\"\n"));
        assert!(text.contains("neither text nor json"), "{text}");
        let text = refusal(&format!("{GOOD}\n[signer]\nmode = \"process\"\n"));
        assert!(text.contains("signer.socket"), "{text}");
        for line in
            ["[host]\nmemory_mib = 1", "[host]\nnodes = 5000", "[crypto]\nverify_threads = 257"]
        {
            let text = refusal(&format!("{GOOD}\n{line}\n"));
            let key = line.split_once('\n').unwrap().1.split_once(' ').unwrap().0;
            assert!(text.contains(key) && text.contains("must be "), "{text}");
        }
    }
}
