//! The key of a folder, wherever it is: in `key.pem`, or on the token that its `key.toml` names.
//!
//! ```text
//! key.toml (card) -> its tokens -> the key and its standbys, found and audited -> SigningKey
//! ```
//!
//! What opens keys here is what a signer opens its own with (`node::signer::tokens`). The token's
//! key must be the one on the card, and the card's the one that the certificate names. A token that
//! fails fails the signature: there is no other key to go on with.

use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "pkcs11")]
use crate::crypto::CryptoError;
#[cfg(feature = "pkcs11")]
use crate::crypto::KeyPlace;
use crate::crypto::SigningKey;
#[cfg(feature = "pkcs11")]
use crate::crypto::providers::pkcs11::error::TokenError;
#[cfg(feature = "pkcs11")]
use crate::crypto::providers::pkcs11::key::Tokens;
use crate::crypto::routing::Crypto;
use crate::membership::msp::KeyPair;
use crate::membership::msp::MspError;
use crate::node::config::ConfigError;
#[cfg(feature = "pkcs11")]
use crate::node::signer;
use crate::node::signer::card::KeyCard;
#[cfg(feature = "pkcs11")]
use crate::node::signer::tokens;
use crate::types::signature::PublicKey;
#[cfg(feature = "pkcs11")]
use crate::types::signature::Signature;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] MspError),
    /// The card.
    #[error(transparent)]
    Card(#[from] ConfigError),
    /// The token refused.
    #[error("{reason}")]
    Token {
        /// Cause and fix.
        reason: String,
        /// Trying again makes it worse: a wrong PIN.
        is_final: bool,
        /// Trying again may help: the token is away.
        may_pass: bool,
    },
    /// The card is another key's.
    #[error("the card {card} is that of another key than {wanted}; put the right card there")]
    Other { card: String, wanted: &'static str },
}

impl KeyError {
    /// Whether trying again makes it worse: a wrong PIN.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Token { is_final: true, .. })
    }

    /// Whether trying again may help: the token is away.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Token { may_pass: true, .. })
    }
}

/// The key of an identity's folder, ready to sign. Where it is on a token, the folder remembers a
/// PIN that was refused: a command that is typed again must not lock the token.
pub fn of_pair(pair: &KeyPair, crypto: &Crypto) -> Result<Arc<dyn SigningKey>, KeyError> {
    match pair.card() {
        None => Ok(pair.signing_key(crypto)?),
        Some(_) => open(&card_of_pair(pair, crypto)?, &pair.folder),
    }
}

/// The card of an identity whose key is on a token; nothing is asked of the token.
pub fn card_of_pair(pair: &KeyPair, crypto: &Crypto) -> Result<KeyCard, KeyError> {
    let Some(path) = pair.card() else {
        return Err(MspError::Elsewhere { path: pair.folder.join("key.pem") }.into());
    };
    let (card, public) = KeyCard::load(&path, crypto)?;
    check_same(&path, &public, &pair.named_key()?, "the certificate beside it names")?;
    Ok(card)
}

/// Refuses a card of another key.
pub fn check_same(
    card: &Path,
    public: &PublicKey,
    wanted: &PublicKey,
    whose: &'static str,
) -> Result<(), KeyError> {
    match public == wanted {
        true => Ok(()),
        false => Err(KeyError::Other { card: card.display().to_string(), wanted: whose }),
    }
}

/// Opens the key of a card. `memory` is the directory that keeps a PIN that was refused from being
/// tried again.
#[cfg(feature = "pkcs11")]
pub fn open(card: &KeyCard, memory: &Path) -> Result<Arc<dyn SigningKey>, KeyError> {
    let refused = |error: TokenError| {
        let (is_final, may_pass) = (error.is_final(), error.may_pass());
        KeyError::Token { reason: error.to_string(), is_final, may_pass }
    };
    let opened =
        tokens::open(&card.token, Some(memory), Arc::new(signer::fatal)).map_err(refused)?;
    let key = tokens::key(&card.key, &opened, None).map_err(refused)?;
    if card.public() != Some(key.public_key().clone()) {
        let token = card.key.token.clone();
        let select = tokens::select(&card.key.place()).to_string();
        return Err(refused(TokenError::KeyChanged { token, select }));
    }
    Ok(Arc::new(OnToken { key, _opened: opened }))
}

/// A key with the tokens that it is on: the modules are finalised when nobody holds the key any
/// more.
#[cfg(feature = "pkcs11")]
struct OnToken {
    key: Arc<dyn SigningKey>,
    _opened: Tokens,
}

#[cfg(feature = "pkcs11")]
impl SigningKey for OnToken {
    fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError> {
        self.key.sign(message)
    }

    fn sign_many(&self, messages: &[&[u8]]) -> Vec<Result<Signature, CryptoError>> {
        self.key.sign_many(messages)
    }

    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    fn places(&self) -> Vec<KeyPlace> {
        self.key.places()
    }
}

/// Refuses: this build knows no tokens.
#[cfg(not(feature = "pkcs11"))]
pub fn open(_: &KeyCard, _: &Path) -> Result<Arc<dyn SigningKey>, KeyError> {
    let reason = crate::node::signer::NO_PKCS11.to_owned();
    Err(KeyError::Token { reason, is_final: false, may_pass: false })
}
