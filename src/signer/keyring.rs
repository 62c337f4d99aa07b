//! The keys of a signer process, and what may be done with each.
//!
//! A validator's key signs consensus texts of its chain, under its own slot guard. A transport key
//! signs the handshakes of one TLS certificate and nothing that looks like a consensus text or a
//! transaction: TLS 1.3 texts begin with 64 spaces. No key does both.
//!
//! A guard's log that exists is opened at start. One that does not is made when the node asks for
//! its key the first time, and only where the node's own data says that the key never signed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use crate::crypto::KeyPlace;
use crate::crypto::SigningKey;
use crate::signer::SignError;
use crate::signer::SignRequest;
use crate::signer::Signer;
use crate::signer::embedded::EmbeddedSigner;
use crate::signer::embedded::GuardState;
use crate::signer::embedded::Mode;
use crate::signer::embedded::StartError;
use crate::signer::wire;
use crate::signer::wire::Ask;
use crate::signer::wire::Reply;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::SequenceNumber;

/// A key as the configuration names it.
pub struct Held {
    /// Name for people.
    pub name: String,
    /// The key.
    pub key: Arc<dyn SigningKey>,
    /// What it is for.
    pub purpose: Purpose,
    /// Requests for it that may well be under way at once.
    pub parallel: usize,
}

/// What a key may sign.
#[derive(Clone)]
pub enum Purpose {
    /// Consensus texts of one chain; `guard` is the log's path, `mode` how the key signs.
    Consensus { chain: ChainId, guard: PathBuf, mode: Mode },
    /// TLS handshakes.
    Transport,
}

/// Why keys cannot be held together.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// One key under two names.
    #[error(
        "{first} and {second} are the same key; each validator and each TLS identity needs its own"
    )]
    Twice { first: String, second: String },
    /// A guard cannot be opened.
    #[error("{name} cannot be used")]
    Guard { name: String, source: Box<StartError> },
}

/// All keys of one process.
pub struct Keyring {
    entries: BTreeMap<Digest, Entry>,
}

struct Entry {
    held: Held,
    /// Opened at start or at the first `open`.
    signer: Mutex<Option<Arc<EmbeddedSigner>>>,
}

impl Keyring {
    /// Takes the keys and opens the guards that exist.
    pub fn new(keys: Vec<Held>) -> Result<Self, KeyringError> {
        let mut entries: BTreeMap<Digest, Entry> = BTreeMap::new();
        for held in keys {
            let name = wire::name_of(held.key.public_key());
            if let Some(other) = entries.get(&name) {
                let (first, second) = (other.held.name.clone(), held.name);
                return Err(KeyringError::Twice { first, second });
            }
            let entry = Entry { held, signer: Mutex::new(None) };
            if let Purpose::Consensus { guard, .. } = &entry.held.purpose
                && guard.exists()
            {
                entry.open(true).map_err(|source| KeyringError::Guard {
                    name: entry.held.name.clone(),
                    source: Box::new(source),
                })?;
            }
            entries.insert(name, entry);
        }
        Ok(Self { entries })
    }

    /// The keys, for people.
    pub fn keys(&self) -> impl Iterator<Item = &Held> {
        self.entries.values().map(|entry| &entry.held)
    }

    /// The session keys of a validator that is open, and why none is certified ahead; for people.
    pub fn sessions(
        &self,
        key: &Digest,
    ) -> (Vec<(SequenceNumber, SequenceNumber, bool)>, Option<String>) {
        let signer = self.entries.get(key).and_then(|entry| entry.signer().ok());
        signer.map_or_else(Default::default, |signer| (signer.sessions(), signer.trouble()))
    }

    /// How a validator's guard stands, where it is open; for people.
    pub fn guard_state(&self, key: &Digest) -> Option<GuardState> {
        self.entries.get(key)?.signer().ok()?.guard_state().ok()
    }

    /// Answers a question about keys; `None` for questions that are not.
    pub fn answer(&self, ask: &Ask) -> Option<Reply> {
        let (Ask::Open { key, .. }
        | Ask::Sign { key, .. }
        | Ask::Forget { key, .. }
        | Ask::Record { key, .. }
        | Ask::Warnings { key }
        | Ask::Transport { key, .. }) = ask
        else {
            return None;
        };
        let Some(entry) = self.entries.get(key) else {
            let text = format!("this signer does not hold the key {}", hex::encode(&key.0[..8]));
            return Some(Reply::Refused(text));
        };
        let answered = match ask {
            Ask::Open { chain, has_signed, .. } => entry.answer_open(*chain, *has_signed),
            Ask::Sign { requests, .. } => entry.answer_sign(requests),
            Ask::Forget { sequence, .. } => entry.signer().and_then(|signer| {
                signer.forget_below(*sequence).map_err(|error| error.to_string())?;
                Ok(Reply::Forgotten)
            }),
            Ask::Record { opening, call, .. } => entry.signer().and_then(|signer| {
                let answer = signer.record(*opening, call);
                answer.map(Reply::Record).map_err(|error| error.to_string())
            }),
            Ask::Transport { text, .. } => entry.answer_transport(text),
            Ask::Warnings { .. } => Ok(Reply::Warnings(entry.warnings())),
            Ask::Status => return None,
        };
        Some(answered.unwrap_or_else(Reply::Refused))
    }

    /// Why the process must stop: a guard whose log failed.
    pub fn failure(&self) -> Option<String> {
        self.entries.values().find_map(|entry| {
            let signer = entry.signer.lock().ok()?.clone()?;
            signer.failure()
        })
    }
}

impl Entry {
    fn open(&self, has_signed: bool) -> Result<Arc<EmbeddedSigner>, StartError> {
        let mut signer = self.signer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(signer) = &*signer {
            return Ok(signer.clone());
        }
        let Purpose::Consensus { chain, guard, mode } = &self.held.purpose else {
            unreachable!("only validators' keys are opened");
        };
        let key = self.held.key.clone();
        let opened = EmbeddedSigner::start(mode.clone(), guard, *chain, key, has_signed)?;
        let opened = Arc::new(opened);
        *signer = Some(opened.clone());
        Ok(opened)
    }

    fn answer_open(&self, asked: ChainId, has_signed: bool) -> Result<Reply, String> {
        let name = &self.held.name;
        let Purpose::Consensus { chain, .. } = &self.held.purpose else {
            return Err(format!("{name} is a TLS key and signs no votes"));
        };
        if *chain != asked {
            return Err(format!(
                "{name} signs for another chain; give signer and node the same genesis document"
            ));
        }
        let signer = self.open(has_signed).map_err(|error| {
            let mut text = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                text = format!("{text}: {source}");
            }
            text
        })?;
        let (identity, fencing_epoch) =
            signer.guard_identity().map_err(|error| error.to_string())?;
        let parallel = u16::try_from(self.held.parallel).unwrap_or(u16::MAX);
        let opening = signer.opening();
        let bundles = signer.bundles();
        Ok(Reply::Opened { identity, fencing_epoch, opening, parallel, bundles })
    }

    fn answer_sign(&self, requests: &[SignRequest]) -> Result<Reply, String> {
        Ok(Reply::Signed(self.signer()?.sign(requests)))
    }

    fn answer_transport(&self, text: &[u8]) -> Result<Reply, String> {
        let name = &self.held.name;
        if !matches!(self.held.purpose, Purpose::Transport) {
            return Err(format!("{name} is a validator's key and signs no TLS handshake"));
        }
        if !text.starts_with(HANDSHAKE_START) {
            return Err(format!("{name} signs texts of TLS 1.3 handshakes alone"));
        }
        self.held.key.sign(text).map(Reply::Signature).map_err(|error| error.to_string())
    }

    /// What an operator should look at: tokens that are away, a session that is not certified.
    fn warnings(&self) -> Vec<String> {
        let places = self.held.key.places().into_iter().filter_map(|place| {
            let (name, KeyPlace { token, key, trouble, .. }) = (&self.held.name, place);
            Some(format!("{name}, the key with {key} on token {token}: {}", trouble?))
        });
        places.chain(self.signer().ok().and_then(|signer| signer.trouble())).collect()
    }

    fn signer(&self) -> Result<Arc<EmbeddedSigner>, String> {
        let signer = self.signer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = &self.held.name;
        signer.clone().ok_or_else(|| format!("{name} is not open; the node opens it first"))
    }
}

/// The kind of refusal, for metrics.
pub fn refusal(error: &SignError) -> &'static str {
    match error {
        SignError::Conflict { .. } => "conflict",
        SignError::Forgotten { .. } => "forgotten",
        SignError::Mislabelled { .. } => "mislabelled",
        SignError::Guard { .. } => "guard",
        SignError::Key { .. } => "key",
    }
}

/// RFC 8446, 4.4.3: what both sides' CertificateVerify texts begin with.
pub(super) const HANDSHAKE_START: &[u8] = &[0x20; 64];

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::crypto::providers::portable;
    use crate::types::signature::Algorithm;

    fn key() -> Arc<dyn SigningKey> {
        let pkcs8 = (portable::PROVIDER.generate)(Algorithm::Ed25519).unwrap();
        (portable::PROVIDER.load)(Algorithm::Ed25519, &pkcs8).unwrap()
    }

    fn chain() -> ChainId {
        ChainId(Digest([9; 32]))
    }

    fn refused(keyring: &Keyring, ask: &Ask) -> String {
        match keyring.answer(ask).unwrap() {
            Reply::Refused(reason) => reason,
            other => panic!("answered {other:?}"),
        }
    }

    /// A validator's key signs no handshake, a TLS key no vote and no other text; unknown keys and
    /// other chains are refused.
    #[test]
    fn each_key_does_one_thing() {
        let directory = tempfile::tempdir().unwrap();
        let (vote, tls) = (key(), key());
        let guard = directory.path().join("slots.log");
        let names = (wire::name_of(vote.public_key()), wire::name_of(tls.public_key()));
        let purpose = Purpose::Consensus { chain: chain(), guard, mode: Mode::Direct };
        let keyring = Keyring::new(vec![
            Held { name: "vote".into(), key: vote, purpose, parallel: 1 },
            Held { name: "tls".into(), key: tls, purpose: Purpose::Transport, parallel: 1 },
        ])
        .unwrap();
        let open = |key, chain| Ask::Open { key, chain, has_signed: false };
        let text = Bytes::from([HANDSHAKE_START, b"TLS 1.3, server CertificateVerify\0"].concat());
        let sign = |key| Ask::Sign { key, requests: Vec::new() };
        assert!(refused(&keyring, &sign(names.0)).contains("not open"));
        assert!(refused(&keyring, &open(names.1, chain())).contains("TLS key"));
        let other = ChainId(Digest([1; 32]));
        assert!(refused(&keyring, &open(names.0, other)).contains("another chain"));
        assert!(refused(&keyring, &open(Digest([0; 32]), chain())).contains("does not hold"));
        let opened = keyring.answer(&open(names.0, chain()));
        assert!(matches!(opened, Some(Reply::Opened { .. })));
        let transport = |key, text: &Bytes| Ask::Transport { key, text: text.clone() };
        assert!(refused(&keyring, &transport(names.0, &text)).contains("no TLS handshake"));
        assert!(refused(&keyring, &transport(names.1, &text.slice(1..))).contains("handshakes"));
        let signed = keyring.answer(&transport(names.1, &text));
        assert!(matches!(signed, Some(Reply::Signature(_))));
    }

    /// A missing log of a key that has signed is refused, and one key cannot stand twice.
    #[test]
    fn lost_logs_and_twins_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let key = key();
        let name = wire::name_of(key.public_key());
        let guard = directory.path().join("slots.log");
        let purpose = Purpose::Consensus { chain: chain(), guard, mode: Mode::Direct };
        let held =
            || Held { name: "a".into(), key: key.clone(), purpose: purpose.clone(), parallel: 1 };
        assert!(matches!(Keyring::new(vec![held(), held()]), Err(KeyringError::Twice { .. })));
        let keyring = Keyring::new(vec![held()]).unwrap();
        let open = Ask::Open { key: name, chain: chain(), has_signed: true };
        assert!(refused(&keyring, &open).contains("is missing"));
    }
}
