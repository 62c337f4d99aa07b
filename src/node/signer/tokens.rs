//! The tokens of a signer's configuration, opened.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::crypto::SigningKey;
use crate::crypto::providers::pkcs11::KeySelect;
use crate::crypto::providers::pkcs11::Select;
use crate::crypto::providers::pkcs11::TokenConfig;
use crate::crypto::providers::pkcs11::error::TokenError;
use crate::crypto::providers::pkcs11::key::Fatal;
use crate::crypto::providers::pkcs11::key::Tokens;
use crate::crypto::providers::pkcs11::pin::PinSource;
use crate::node::signer::config::KeySection;
use crate::node::signer::config::PlaceSection;
use crate::node::signer::config::TokenSection;
use crate::types::signature::PublicKey;

/// Loads the modules and prepares the tokens; nothing is asked of them. `memory`: see `TokenConfig`.
pub fn open(
    sections: &[TokenSection],
    memory: Option<&Path>,
    fatal: Fatal,
) -> Result<Tokens, TokenError> {
    let mut tokens = Tokens::new(fatal);
    for section in sections {
        tokens.add(config(section, memory))?;
    }
    Ok(tokens)
}

/// The key of a section that names a token; its standbys must hold the same key. With `known` it is
/// there even while none of them answers.
pub fn key(
    section: &KeySection,
    tokens: &Tokens,
    known: Option<PublicKey>,
) -> Result<Arc<dyn SigningKey>, TokenError> {
    let first = section.place();
    let places: Vec<_> = std::iter::once(&first)
        .chain(&section.standby)
        .map(|place| (place.token.clone(), select(place)))
        .collect();
    Ok(Arc::new(tokens.key(&places, known)?))
}

/// How a place selects its key. The configuration was checked: the id is hexadecimal.
pub fn select(place: &PlaceSection) -> KeySelect {
    KeySelect {
        id: (!place.id.is_empty()).then(|| hex::decode(&place.id).unwrap_or_default()),
        label: (!place.label.is_empty()).then(|| place.label.clone()),
        imported: place.imported,
    }
}

/// A token as the provider takes it.
pub fn config(section: &TokenSection, memory: Option<&Path>) -> TokenConfig {
    let select = match (section.slot, section.serial.as_str()) {
        (Some(slot), _) => Select::Slot(slot),
        (None, "") => Select::Label(section.label.clone()),
        (None, serial) => Select::Serial(serial.to_owned()),
    };
    let pin = match section.credential.as_str() {
        "" => PinSource::File(section.pin.clone()),
        name => PinSource::Credential(name.to_owned()),
    };
    let defaults = TokenConfig::new(&section.name, section.module.clone(), select, pin);
    TokenConfig {
        sessions: section.sessions,
        deadline: Duration::from_millis(section.deadline_ms),
        memory: memory.map(PathBuf::from),
        ..defaults
    }
}
