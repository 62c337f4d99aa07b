//! The configuration file of a signer: TOML, every key known, every mistake named with its fix.
//!
//! ```toml
//! [signer]
//! socket = "signer.sock"        # in a directory that only this user can write
//! users = ["obelisk"]           # who may ask, besides this user; names or numbers
//! group = "obelisk"             # may open the socket; empty: this user alone
//! data = "signer"               # the slot guards' logs
//!
//! [[validator]]
//! name = "org1/validator"
//! genesis = "../genesis.bin"
//! key = { file = "signer/validator.pem" }
//!
//! [[tls]]
//! name = "org1/validator/tls"
//! key = { token = "hsm", id = "02" }
//!
//! [[token]]
//! name = "hsm"
//! module = "/usr/lib/softhsm/libsofthsm2.so"
//! label = "obelisk"             # or serial = "..", or slot = 3
//! pin = "signer/pin"            # mode 0400; or credential = "pin" (systemd)
//! ```
//!
//! Relative paths are relative to the file.

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::node::config::ConfigError;
use crate::node::config::LogSection;
use crate::node::config::with_suggestion;

/// A signer's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerConfig {
    /// The process.
    pub signer: ProcessSection,
    /// Validators' keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validator: Vec<ValidatorSection>,
    /// TLS keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<TlsSection>,
    /// The log.
    #[serde(default)]
    pub log: LogSection,
}

/// The process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSection {
    /// Its socket.
    pub socket: PathBuf,
    /// Users that may ask, besides the signer's own, by name or number.
    #[serde(default)]
    pub users: Vec<String>,
    /// Group that may open the socket; empty: the signer's user alone.
    #[serde(default)]
    pub group: String,
    /// Directory of the slot guards' logs; one signer only.
    pub data: PathBuf,
    /// Threads that answer; each waits for one signature of a token at a time.
    #[serde(default = "workers")]
    pub workers: usize,
}

/// A validator's key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidatorSection {
    /// Organisation and name, as in `org1/validator`; names its guard's log too.
    pub name: String,
    /// The network's genesis document: votes of its chain are signed, no others.
    pub genesis: PathBuf,
    /// The key.
    pub key: KeySection,
}

/// A TLS key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSection {
    /// Name, for messages.
    pub name: String,
    /// The key.
    pub key: KeySection,
}

/// Where a key is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum KeySection {
    /// In a PKCS#8 file, mode 0600.
    File {
        /// The file.
        file: PathBuf,
    },
}

impl ProcessSection {
    /// Socket and guards in one folder, for this user alone.
    pub fn new(folder: &Path) -> Self {
        Self {
            socket: folder.join("signer.sock"),
            users: Vec::new(),
            group: String::new(),
            data: folder.join("guard"),
            workers: workers(),
        }
    }
}

impl SignerConfig {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Parses and checks the text of the file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| {
            let reason = with_suggestion(&error);
            ConfigError::Syntax { path: path.to_owned(), reason }
        })?;
        let base = path.parent().unwrap_or_else(|| Path::new(""));
        let mut places = vec![&mut config.signer.socket, &mut config.signer.data];
        let mut keys: Vec<_> = config.tls.iter_mut().map(|section| &mut section.key).collect();
        for section in &mut config.validator {
            places.push(&mut section.genesis);
            keys.push(&mut section.key);
        }
        for key in keys {
            match key {
                KeySection::File { file } => places.push(file),
            }
        }
        for place in places {
            if place.is_relative() {
                *place = base.join(&*place);
            }
        }
        config.check(path)?;
        Ok(config)
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every section is a table of plain values")
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let refuse =
            |key, reason: String| Err(ConfigError::Value { path: path.to_owned(), key, reason });
        if self.validator.is_empty() && self.tls.is_empty() {
            return refuse("validator", "no key is named; add a [[validator]] table".into());
        }
        for (i, section) in self.validator.iter().enumerate() {
            let name = &section.name;
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-./".contains(c);
            if name.is_empty() || name.contains("..") || !name.chars().all(plain) {
                let reason = format!("{name:?} is not organisation/name");
                return refuse("validator.name", reason);
            }
            if self.validator[..i].iter().any(|other| other.name == *name) {
                return refuse("validator.name", format!("two validators are called {name:?}"));
            }
        }
        if self.signer.workers < 2 {
            return refuse("signer.workers", "must be 2 or more".into());
        }
        if !matches!(self.log.format.as_str(), "text" | "json") {
            return refuse("log.format", format!("{:?} is neither text nor json", self.log.format));
        }
        Ok(())
    }
}

fn workers() -> usize {
    4
}
