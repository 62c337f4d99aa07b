//! An authority's folder, whose key is beside the root or on a token.
//!
//! ```text
//! <folder>/root.pem       the organisation's root
//! <folder>/key.pem        its key, PKCS#8, mode 0600; or
//! <folder>/key.toml       the card of its key: which token and standbys, which key on each, the PINs
//! ```
//!
//! The card is the one that `obelisk crypto keygen` writes. The token's key is found and audited as
//! a validator's is (`node::key`), and its public half must be the root's. A token that fails, with
//! its standbys, fails the request: nothing is issued by another key.

use std::path::Path;

use crate::crypto::routing::Crypto;
use crate::membership::authority::Authority;
use crate::membership::authority::AuthorityError;
use crate::membership::authority::Terms;
use crate::membership::msp;
use crate::membership::msp::MspError;
use crate::node::key;
use crate::node::key::KeyError;
use crate::node::signer::card::KeyCard;

/// Why an authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder, or what is asked of the authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Its key.
    #[error("the authority's key: {0}")]
    Key(KeyError),
}

impl OpenError {
    /// Whether trying again makes it worse: a wrong PIN.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Key(error) if error.is_final())
    }

    /// Whether trying again may help: the key's token is away.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Key(error) if error.may_pass())
    }
}

impl From<KeyError> for OpenError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

/// Opens the authority of a folder. `memory` keeps PINs that were refused from being tried again
/// (`TokenConfig`).
pub fn open(folder: &Path, memory: &Path, crypto: &Crypto) -> Result<Authority, OpenError> {
    let Some(card) = msp::card_of(folder).map_err(AuthorityError::Folder)? else {
        return Ok(Authority::load(folder, crypto)?);
    };
    let (card, _) = KeyCard::load(&card, crypto).map_err(KeyError::Card)?;
    let root = msp::read_certificate(&folder.join("root.pem")).map_err(AuthorityError::Folder)?;
    Ok(Authority::open(&root, key::open(&card, memory)?)?)
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
    msp::make_folder(folder).map_err(AuthorityError::Folder)?;
    let authority = Authority::found(organisation, key::open(card, folder)?, terms)?;
    let store = || {
        card.kept(credential).store(&folder.join(msp::CARD))?;
        msp::write_certificate(&folder.join("root.pem"), &authority.root().der)
    };
    store().map_err(|error: MspError| AuthorityError::Folder(error))?;
    Ok(authority)
}
