//! An authority's folder, whose key is beside the root or on a token.
//!
//! ```text
//! <folder>/root.pem       the organisation's root
//! <folder>/key.pem        its key, PKCS#8, mode 0600; or
//! <folder>/key.toml       the card of its key: which token, which key on it, where its PIN comes from
//! ```
//!
//! The card is the one that `obelisk crypto keygen` writes. The token's key is found and audited as
//! a validator's is (`crypto::providers::pkcs11`), and its public half must be the root's. A token
//! that fails fails the request: nothing is issued by another key.

use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "pkcs11")]
use crate::crypto::CryptoError;
use crate::crypto::SigningKey;
#[cfg(feature = "pkcs11")]
use crate::crypto::providers::pkcs11::error::TokenError;
#[cfg(feature = "pkcs11")]
use crate::crypto::providers::pkcs11::key::Tokens;
use crate::crypto::routing::Crypto;
use crate::membership::authority::Authority;
use crate::membership::authority::AuthorityError;
use crate::membership::authority::Terms;
use crate::membership::msp;
use crate::membership::msp::MspError;
use crate::node::config::ConfigError;
#[cfg(feature = "pkcs11")]
use crate::node::signer::EXIT_FAILED;
use crate::node::signer::card::KeyCard;
#[cfg(feature = "pkcs11")]
use crate::node::signer::tokens;
#[cfg(feature = "pkcs11")]
use crate::types::signature::PublicKey;
#[cfg(feature = "pkcs11")]
use crate::types::signature::Signature;

/// Why an authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder, or what is asked of the authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The card.
    #[error(transparent)]
    Card(#[from] ConfigError),
    /// The token refused.
    #[error("the authority's token: {reason}")]
    Token {
        /// Cause and fix.
        reason: String,
        /// Trying again makes it worse: a wrong PIN.
        is_final: bool,
    },
    /// Two keys.
    #[error("{folder} holds both key.pem and key.toml; remove the one that is not the root's key")]
    Both { folder: String },
}

/// Opens the authority of a folder. `memory` keeps PINs that were refused from being tried again
/// (`TokenConfig`).
pub fn open(folder: &Path, memory: Option<&Path>, crypto: &Crypto) -> Result<Authority, OpenError> {
    let card = folder.join(CARD);
    match (card.exists(), folder.join("key.pem").exists()) {
        (true, true) => Err(OpenError::Both { folder: folder.display().to_string() }),
        (false, _) => Ok(Authority::load(folder, crypto)?),
        (true, false) => {
            let (card, _) = KeyCard::load(&card, crypto)?;
            let root =
                msp::read_certificate(&folder.join("root.pem")).map_err(AuthorityError::Folder)?;
            Ok(Authority::open(&root, key(&card, memory)?)?)
        }
    }
}

/// Makes the root of an organisation with the key of a card, and its folder. With `credential` the
/// service takes the PIN from that systemd credential instead of the card's file.
pub fn found(
    folder: &Path,
    organisation: &str,
    card: &KeyCard,
    credential: Option<&str>,
    terms: &Terms,
) -> Result<Authority, OpenError> {
    let authority = Authority::found(organisation, key(card, None)?, terms)?;
    let mut kept = card.clone();
    if let Some(name) = credential {
        kept.token.pin = Default::default();
        name.clone_into(&mut kept.token.credential);
    }
    let store = || {
        msp::make_folder(folder)?;
        kept.store(&folder.join(CARD))?;
        msp::write_certificate(&folder.join("root.pem"), &authority.root().der)
    };
    store().map_err(|error: MspError| AuthorityError::Folder(error))?;
    Ok(authority)
}

#[cfg(feature = "pkcs11")]
fn key(card: &KeyCard, memory: Option<&Path>) -> Result<Arc<dyn SigningKey>, OpenError> {
    let fatal = |reason: String| {
        eprintln!("error: {reason}\nfix: restart what serves the token");
        std::process::exit(EXIT_FAILED);
    };
    let refused = |error: TokenError| {
        let (reason, is_final) = (error.to_string(), error.is_final());
        OpenError::Token { reason, is_final }
    };
    let section = std::slice::from_ref(&card.token);
    let opened = tokens::open(section, memory, Arc::new(fatal)).map_err(refused)?;
    let key = tokens::key(&card.key, &opened).map_err(refused)?;
    Ok(Arc::new(OnToken { key, _opened: opened }))
}

/// A key with the token that it is on: the module is finalised when nobody holds the key any more.
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

    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }
}

#[cfg(not(feature = "pkcs11"))]
fn key(_: &KeyCard, _: Option<&Path>) -> Result<Arc<dyn SigningKey>, OpenError> {
    let reason = "this build knows no tokens; build it with the feature pkcs11".to_owned();
    Err(OpenError::Token { reason, is_final: false })
}

/// Name of the card in an authority's folder.
const CARD: &str = "key.toml";
