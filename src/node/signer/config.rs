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
//! mode = "direct"               # or "delegated", "strict"
//!
//! [[tls]]
//! name = "org1/validator/tls"
//! key = { token = "hsm", id = "02" }   # or { card = "validator/key.toml" }, an identity folder's
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

use crate::crypto::routing::Crypto;
use crate::node::config::ConfigError;
use crate::node::config::LogSection;
use crate::node::config::parsed;
use crate::node::config::text_of;
use crate::node::signer::card::KeyCard;
use crate::types::limits;
use crate::types::signature::Algorithm;

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
    /// Tokens that keys are on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token: Vec<TokenSection>,
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
    /// How its key signs: `direct`, `delegated` or `strict`; empty: `delegated` for a key on a
    /// token, `direct` for one in a file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// Sequence numbers of one session, where the mode is `delegated`.
    #[serde(default = "session_sequences", skip_serializing_if = "is_usual_session")]
    pub session_sequences: u64,
    /// Algorithm of the session keys.
    #[serde(default = "session_algorithm", skip_serializing_if = "is_usual_algorithm")]
    pub session_algorithm: String,
    /// The key.
    pub key: KeySection,
}

/// The ways of `ValidatorSection::mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningMode {
    /// The key signs each vote.
    Direct,
    /// The key certifies session keys, which sign.
    Delegated,
    /// The key signs bundles of votes.
    Strict,
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

/// Where a key is: in a file, or on a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeySection {
    /// A PKCS#8 file, mode 0600.
    #[serde(skip_serializing_if = "is_default")]
    pub file: PathBuf,
    /// A key card, which says the rest and brings its tokens; replaced by them when it is read.
    #[serde(skip_serializing_if = "is_default")]
    pub card: PathBuf,
    /// Name of a `[[token]]`.
    #[serde(skip_serializing_if = "is_default")]
    pub token: String,
    /// Identifier of the key on the token (CKA_ID), hexadecimal.
    #[serde(skip_serializing_if = "is_default")]
    pub id: String,
    /// Label of the key on the token (CKA_LABEL).
    #[serde(skip_serializing_if = "is_default")]
    pub label: String,
    /// A key that was not made on the token is accepted.
    #[serde(skip_serializing_if = "is_default")]
    pub imported: bool,
    /// Tokens with the same key, asked in this order where the first fails.
    #[serde(skip_serializing_if = "is_default")]
    pub standby: Vec<PlaceSection>,
}

/// A key on one token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlaceSection {
    /// Name of a `[[token]]`.
    pub token: String,
    /// CKA_ID, hexadecimal.
    #[serde(skip_serializing_if = "is_default")]
    pub id: String,
    /// CKA_LABEL.
    #[serde(skip_serializing_if = "is_default")]
    pub label: String,
    /// A key that was not made on the token is accepted.
    #[serde(skip_serializing_if = "is_default")]
    pub imported: bool,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenSection {
    /// Name, for `key` and messages.
    pub name: String,
    /// The vendor's PKCS#11 library.
    pub module: PathBuf,
    /// The token's label; or its serial number; or its slot.
    #[serde(skip_serializing_if = "is_default")]
    pub label: String,
    /// The token's serial number.
    #[serde(skip_serializing_if = "is_default")]
    pub serial: String,
    /// The token's slot.
    #[serde(skip_serializing_if = "is_default")]
    pub slot: Option<u64>,
    /// File that holds the user PIN, mode 0400.
    #[serde(skip_serializing_if = "is_default")]
    pub pin: PathBuf,
    /// Credential of systemd that holds the user PIN, instead of `pin`.
    #[serde(skip_serializing_if = "is_default")]
    pub credential: String,
    /// Sessions that sign in parallel.
    pub sessions: usize,
    /// Time one signature may take, recovery included, milliseconds.
    pub deadline_ms: u64,
}

impl Default for TokenSection {
    fn default() -> Self {
        Self {
            name: String::new(),
            module: PathBuf::new(),
            label: String::new(),
            serial: String::new(),
            slot: None,
            pin: PathBuf::new(),
            credential: String::new(),
            sessions: limits::TOKEN_SESSIONS,
            deadline_ms: limits::TOKEN_DEADLINE_MS,
        }
    }
}

impl KeySection {
    /// A key in a file.
    pub fn in_file(file: PathBuf) -> Self {
        Self { file, ..Self::default() }
    }

    /// A key on a token, by CKA_ID.
    pub fn on_token(token: &str, id: &str) -> Self {
        Self { token: token.to_owned(), id: id.to_owned(), ..Self::default() }
    }

    /// The first place of a key on tokens.
    pub fn place(&self) -> PlaceSection {
        PlaceSection {
            token: self.token.clone(),
            id: self.id.clone(),
            label: self.label.clone(),
            imported: self.imported,
        }
    }

    /// Whether it is on a token.
    pub fn is_on_token(&self) -> bool {
        !self.token.is_empty()
    }

    /// Puts what a card says in its place, and the card's tokens among the others.
    fn read_card(&mut self, tokens: &mut Vec<TokenSection>) -> Result<(), ConfigError> {
        if self.card.as_os_str().is_empty() {
            return Ok(());
        }
        let path = std::mem::take(&mut self.card);
        if *self != Self::default() {
            let reason = "a card says where its key is; name nothing beside it".to_owned();
            return Err(ConfigError::Value { path, key: "key.card", reason });
        }
        let read = KeyCard::load(&path, &Crypto::portable());
        let (card, _) = read.map_err(|error| match error {
            ConfigError::Read { path, source } => {
                let reason =
                    format!("cannot read it: {source}; name a card, as a folder's key.toml");
                ConfigError::Value { path, key: "key.card", reason }
            }
            error => error,
        })?;
        *self = card.key;
        for token in card.token {
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        Ok(())
    }

    pub(super) fn check(&self, tokens: &[TokenSection]) -> Result<(), String> {
        if self.is_on_token() != self.file.as_os_str().is_empty() {
            return Err("name a file, a card, or a token and an id".to_owned());
        }
        if !self.is_on_token() {
            return match *self {
                Self { ref id, ref label, imported: false, ref standby, .. }
                    if id.is_empty() && label.is_empty() && standby.is_empty() =>
                {
                    Ok(())
                }
                _ => Err("id, label, imported and standby are for keys on tokens".to_owned()),
            };
        }
        for place in std::iter::once(&self.place()).chain(&self.standby) {
            if !tokens.iter().any(|token| token.name == place.token) {
                return Err(format!("no [[token]] is called {:?}", place.token));
            }
            if place.id.is_empty() && place.label.is_empty() {
                return Err("a key on a token needs its id, its label or both".to_owned());
            }
            if hex::decode(&place.id).is_err() {
                return Err(format!("{:?} is not hexadecimal, as in 01", place.id));
            }
        }
        Ok(())
    }
}

impl ValidatorSection {
    /// A key that signs in the way that suits its place.
    pub fn new(name: String, genesis: PathBuf, key: KeySection) -> Self {
        Self {
            name,
            genesis,
            mode: String::new(),
            session_sequences: session_sequences(),
            session_algorithm: session_algorithm(),
            key,
        }
    }

    /// How its key signs; the section was checked.
    pub fn signing_mode(&self) -> SigningMode {
        match self.mode.as_str() {
            "direct" => SigningMode::Direct,
            "delegated" => SigningMode::Delegated,
            "strict" => SigningMode::Strict,
            _ if self.key.is_on_token() => SigningMode::Delegated,
            _ => SigningMode::Direct,
        }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if !matches!(self.mode.as_str(), "" | "direct" | "delegated" | "strict") {
            let reason = format!("{:?} is none of direct, delegated and strict", self.mode);
            return Err(("validator.mode", reason));
        }
        let lengths = limits::SESSION_SEQUENCES_MIN..=limits::SESSION_SEQUENCES_MAX;
        if !lengths.contains(&self.session_sequences) {
            let reason = format!("must be {} to {}", lengths.start(), lengths.end());
            return Err(("validator.session_sequences", reason));
        }
        if Algorithm::from_name(&self.session_algorithm).is_none() {
            let reason = format!("{:?} is neither ed25519 nor p256", self.session_algorithm);
            return Err(("validator.session_algorithm", reason));
        }
        Ok(())
    }
}

impl TokenSection {
    /// Refuses tokens that cannot be meant, and two of one name.
    pub(super) fn check_all(tokens: &[Self]) -> Result<(), (&'static str, String)> {
        for (i, token) in tokens.iter().enumerate() {
            token.check()?;
            if tokens[..i].iter().any(|other| other.name == token.name) {
                return Err(("token.name", format!("two tokens are called {:?}", token.name)));
            }
        }
        Ok(())
    }

    /// Whether both say the same token, whatever they call it.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.module, &self.label, &self.serial, self.slot)
            == (&other.module, &other.label, &other.serial, other.slot)
    }

    /// The PIN comes from a systemd credential: `name` for the first of several tokens, `name-2` for
    /// the next.
    pub fn use_credential(&mut self, name: &str, index: usize) {
        self.pin = PathBuf::new();
        self.credential = match index {
            0 => name.to_owned(),
            index => format!("{name}-{}", index + 1),
        };
    }

    /// Its relative paths are relative to the folder `base`.
    pub(super) fn rebase(&mut self, base: &Path) {
        for place in [&mut self.module, &mut self.pin] {
            rebase(place, base);
        }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return Err(("token.name", format!("{:?} is no plain word", self.name)));
        }
        if self.module.as_os_str().is_empty() {
            return Err(("token.module", "is empty; name the vendor's library".to_owned()));
        }
        let named = [!self.label.is_empty(), !self.serial.is_empty(), self.slot.is_some()];
        if named.iter().filter(|named| **named).count() != 1 {
            return Err(("token.label", "name one of label, serial and slot".to_owned()));
        }
        if self.pin.as_os_str().is_empty() == self.credential.is_empty() {
            return Err(("token.pin", "name a PIN file, or a credential".to_owned()));
        }
        if !(1..=limits::TOKEN_SESSIONS_MAX).contains(&self.sessions) {
            let reason = format!("must be 1 to {}", limits::TOKEN_SESSIONS_MAX);
            return Err(("token.sessions", reason));
        }
        if !(1..=DEADLINE_MS_MAX).contains(&self.deadline_ms) {
            return Err(("token.deadline_ms", format!("must be 1 to {DEADLINE_MS_MAX}")));
        }
        Ok(())
    }
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
        Self::parse(&text_of(path)?, path)
    }

    /// Parses and checks the text of the file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = parsed(text, path)?;
        let base = path.parent().unwrap_or_else(|| Path::new(""));
        let mut places = vec![&mut config.signer.socket, &mut config.signer.data];
        let mut keys: Vec<_> = config.tls.iter_mut().map(|section| &mut section.key).collect();
        for section in &mut config.validator {
            places.push(&mut section.genesis);
            keys.push(&mut section.key);
        }
        for place in places {
            rebase(place, base);
        }
        for token in &mut config.token {
            token.rebase(base);
        }
        for key in keys {
            rebase(&mut key.file, base);
            rebase(&mut key.card, base);
            key.read_card(&mut config.token)?;
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
            section.check().or_else(|(key, reason)| refuse(key, reason))?;
            if self.validator[..i].iter().any(|other| other.name == *name) {
                return refuse("validator.name", format!("two validators are called {name:?}"));
            }
        }
        TokenSection::check_all(&self.token).or_else(|(key, reason)| refuse(key, reason))?;
        let keys = self.validator.iter().map(|section| &section.key);
        for key in keys.chain(self.tls.iter().map(|section| &section.key)) {
            key.check(&self.token).or_else(|reason| refuse("key", reason))?;
        }
        if !(2..=limits::SIGNER_WORKERS_MAX).contains(&self.signer.workers) {
            let most = limits::SIGNER_WORKERS_MAX;
            return refuse("signer.workers", format!("must be 2 to {most}"));
        }
        if !matches!(self.log.format.as_str(), "text" | "json") {
            return refuse("log.format", format!("{:?} is neither text nor json", self.log.format));
        }
        Ok(())
    }
}

fn rebase(place: &mut PathBuf, base: &Path) {
    if place.is_relative() && !place.as_os_str().is_empty() {
        *place = base.join(&*place);
    }
}

fn session_sequences() -> u64 {
    limits::SESSION_SEQUENCES
}

fn is_usual_session(length: &u64) -> bool {
    *length == session_sequences()
}

fn session_algorithm() -> String {
    Algorithm::Ed25519.name().to_owned()
}

fn is_usual_algorithm(name: &str) -> bool {
    name == Algorithm::Ed25519.name()
}

fn workers() -> usize {
    4
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A signature that takes longer is of no use to anybody.
const DEADLINE_MS_MAX: u64 = 60_000;

#[cfg(test)]
mod tests;
