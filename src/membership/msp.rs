//! The folder that holds one identity, in the shape that Fabric users know as an MSP.
//!
//! ```text
//! <folder>/                      0700
//!   cert.pem                     enrolment certificate
//!   key.pem                      its private key, PKCS#8, 0600; absent where the signer holds it
//!   key.toml                     instead of key.pem: the card of a key on a token (`node::signer::card`)
//!   root.pem                     root of the own organisation
//!   roots/<organisation>.pem     roots of all members, for tools; nodes trust the genesis document
//!   tls/cert.pem  tls/key.pem    TLS certificate and key, where the member connects
//! ```
//!
//! A private key that others can read is refused. Keys are written with their final mode, so there
//! is no moment in which they are readable. Nothing is overwritten: an identity is renewed into a
//! new folder. A folder with both a key and a card is refused: which of them signs would be a guess.

use std::collections::BTreeMap;
use std::fs;
use std::fs::DirBuilder;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::crypto::CryptoError;
use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::membership::certificate;
use crate::membership::error::MembershipError;
use crate::membership::identity;
use crate::membership::identity::Identity;
use crate::membership::pem;
use crate::membership::pem::PemError;
use crate::types::limits;
use crate::types::signature::PublicKey;

/// Name of the card of a key on a token, in place of `key.pem`.
pub const CARD: &str = "key.toml";

/// One identity with its keys.
#[derive(Clone, Debug)]
pub struct Msp {
    /// Enrolment certificate and key.
    pub enrolment: KeyPair,
    /// Root of the own organisation, DER.
    pub root: Bytes,
    /// Roots of all members by organisation, DER.
    pub roots: BTreeMap<String, Bytes>,
    /// TLS certificate and key.
    pub tls: Option<KeyPair>,
}

/// A certificate with the private key of its subject.
#[derive(Clone)]
pub struct KeyPair {
    /// DER.
    pub certificate: Bytes,
    /// PKCS#8 DER; `None` where the key lives elsewhere: in a token, or with the signer.
    pub key: Option<Zeroizing<Vec<u8>>>,
    /// The folder it was read from, for error messages; empty for a new one.
    pub folder: PathBuf,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MspError {
    /// The file system refused.
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// A file that should not be there yet.
    #[error("{path} exists already and is not overwritten; choose another folder, or move it away")]
    Exists { path: PathBuf },
    /// Others could take the key.
    #[error(
        "the private key {path} can be read by others (mode {mode:03o}); run `chmod 600 {path}`, \
         and replace the key if somebody may have copied it"
    )]
    Exposed { path: PathBuf, mode: u32 },
    /// Larger than such a file can be.
    #[error("{path} is larger than any certificate or key; it is another file")]
    Oversize { path: PathBuf },
    /// Not the PEM that belongs there.
    #[error("{path} is not what belongs there; restore it, or issue the identity again")]
    Pem { path: PathBuf, source: PemError },
    /// Not a certificate of this house.
    #[error("the certificate {path} is not usable")]
    Certificate { path: PathBuf, source: MembershipError },
    /// The key cannot be loaded.
    #[error("the private key {path} is not usable")]
    Key { path: PathBuf, source: CryptoError },
    /// The key is not in the folder.
    #[error(
        "{path} is not there: the private key lives elsewhere, in a token or with the signer; set \
         signer.mode = \"process\" for a validator, or name a folder with its key"
    )]
    Elsewhere { path: PathBuf },
    /// The key is on a token.
    #[error(
        "the private key of {folder} is on a token, as its {CARD} says; let `obelisk signer` hold \
         it and set signer.mode = \"process\", or name a folder with its key in a file"
    )]
    OnToken { folder: PathBuf },
    /// Two keys.
    #[error(
        "{folder} holds both key.pem and {CARD}; remove the one that is not the key of the \
         certificate beside it"
    )]
    Both { folder: PathBuf },
    /// The key belongs to another certificate.
    #[error("the private key {path} does not belong to the certificate beside it; restore both")]
    Mismatch { path: PathBuf },
}

impl Msp {
    /// Reads a folder and checks that its certificates can be read; who signed them is the
    /// directory's question.
    pub fn load(folder: &Path) -> Result<Self, MspError> {
        let enrolment = KeyPair::load(folder)?;
        let tls = folder.join("tls");
        let tls = if tls.exists() { Some(KeyPair::load(&tls)?) } else { None };
        let mut roots = BTreeMap::new();
        let roots_folder = folder.join("roots");
        let listed = match fs::read_dir(&roots_folder) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        for entry in listed.map_err(io_error("read", &roots_folder))? {
            let path = entry.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if path.extension().is_some_and(|e| e == "pem") && identity::is_name(name) {
                roots.insert(name.to_owned(), read_certificate(&path)?);
            }
        }
        let root = read_certificate(&folder.join("root.pem"))?;
        Ok(Self { enrolment, root, roots, tls })
    }

    /// Writes a new folder.
    pub fn store(&self, folder: &Path) -> Result<(), MspError> {
        make_folder(folder)?;
        self.enrolment.store(folder)?;
        write_certificate(&folder.join("root.pem"), &self.root)?;
        make_folder(&folder.join("roots"))?;
        for (organisation, root) in &self.roots {
            write_certificate(&folder.join("roots").join(format!("{organisation}.pem")), root)?;
        }
        if let Some(tls) = &self.tls {
            make_folder(&folder.join("tls"))?;
            tls.store(&folder.join("tls"))?;
        }
        Ok(())
    }
}

impl KeyPair {
    /// Reads `cert.pem` and, where it is there, `key.pem` of a folder.
    pub fn load(folder: &Path) -> Result<Self, MspError> {
        card_of(folder)?;
        let certificate = read_certificate(&folder.join("cert.pem"))?;
        let path = folder.join("key.pem");
        let key = if path.exists() { Some(read_key(&path)?) } else { None };
        Ok(Self { certificate, key, folder: folder.to_owned() })
    }

    /// Writes `cert.pem` and, where the key is here, `key.pem` into a folder.
    pub fn store(&self, folder: &Path) -> Result<(), MspError> {
        if let Some(key) = &self.key {
            write_key(&folder.join("key.pem"), key)?;
        }
        write_certificate(&folder.join("cert.pem"), &self.certificate)
    }

    /// What the certificate claims; nobody has checked who signed it.
    pub fn identity(&self) -> Result<Identity, MembershipError> {
        Identity::claimed(&certificate::parse(&self.certificate)?, self.certificate.clone())
    }

    /// The card of its key, where that is on a token.
    pub fn card(&self) -> Option<PathBuf> {
        let card = self.folder.join(CARD);
        (self.key.is_none() && card.exists()).then_some(card)
    }

    /// The key, PKCS#8 DER; refuses where it lives elsewhere.
    pub fn pkcs8(&self) -> Result<&[u8], MspError> {
        self.key.as_deref().map(Vec::as_slice).ok_or_else(|| match self.card() {
            Some(_) => MspError::OnToken { folder: self.folder.clone() },
            None => MspError::Elsewhere { path: self.folder.join("key.pem") },
        })
    }

    /// The public key that the certificate names.
    pub fn named_key(&self) -> Result<PublicKey, MspError> {
        match certificate::parse(&self.certificate) {
            Ok(certificate) => Ok(certificate.key),
            Err(source) => {
                Err(MspError::Certificate { path: self.folder.join("cert.pem"), source })
            }
        }
    }

    /// The key, ready to sign; it must be the one that the certificate names.
    pub fn signing_key(&self, crypto: &Crypto) -> Result<Arc<dyn SigningKey>, MspError> {
        let path = self.folder.join("key.pem");
        let pkcs8 = self.pkcs8()?;
        let named = self.named_key()?;
        let key = match crypto.load(named.algorithm(), pkcs8) {
            Ok(key) => key,
            Err(source) => return Err(MspError::Key { path, source }),
        };
        if *key.public_key() != named {
            return Err(MspError::Mismatch { path });
        }
        Ok(key)
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").field("certificate", &self.certificate.len()).finish()
    }
}

/// The card of the key of a folder, where it is on a token; refuses a folder with two keys.
pub fn card_of(folder: &Path) -> Result<Option<PathBuf>, MspError> {
    let card = folder.join(CARD);
    match (card.exists(), folder.join("key.pem").exists()) {
        (true, true) => Err(MspError::Both { folder: folder.to_owned() }),
        (here, _) => Ok(here.then_some(card)),
    }
}

/// Reads a certificate file and checks that it is X.509 of this house's kind. What comes out is the
/// canonical form, also of a certificate that another authority made.
pub fn read_certificate(path: &Path) -> Result<Bytes, MspError> {
    let text = read_text(path)?;
    let der = pem::decode(pem::CERTIFICATE, &text).map_err(pem_error(path))?;
    let der = certificate::canonical(&der);
    match certificate::parse(&der) {
        Ok(_) => Ok(der),
        Err(source) => Err(MspError::Certificate { path: path.to_owned(), source }),
    }
}

/// Reads a private key file, PKCS#8 DER out; refuses one that others can read.
pub fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, MspError> {
    let mode = fs::metadata(path).map_err(io_error("read", path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(MspError::Exposed { path: path.to_owned(), mode });
    }
    let text = read_text(path)?;
    pem::decode(pem::PRIVATE_KEY, &text).map_err(pem_error(path))
}

/// Writes a new certificate file.
pub fn write_certificate(path: &Path, der: &[u8]) -> Result<(), MspError> {
    write_new(path, pem::encode(pem::CERTIFICATE, der).as_bytes(), 0o644)
}

/// Writes a new private key file that only its owner can read.
pub fn write_key(path: &Path, pkcs8: &[u8]) -> Result<(), MspError> {
    write_new(path, pem::encode(pem::PRIVATE_KEY, pkcs8).as_bytes(), 0o600)
}

/// Makes a folder that only its owner can enter, and its parents.
pub fn make_folder(path: &Path) -> Result<(), MspError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
}

/// Writes a new file, on the disk when this returns.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), MspError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(MspError::Exists { path: path.to_owned() });
        }
        opened => opened.map_err(io_error("create", path))?,
    };
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error("write", path))
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, MspError> {
    let file = fs::File::open(path).map_err(io_error("read", path))?;
    let mut text = Zeroizing::new(String::with_capacity(4096));
    let limit = limits::PEM_BYTES_MAX as u64;
    file.take(limit + 1).read_to_string(&mut text).map_err(io_error("read", path))?;
    if text.len() as u64 > limit {
        return Err(MspError::Oversize { path: path.to_owned() });
    }
    Ok(text)
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MspError {
    let path = path.to_owned();
    move |source| MspError::Io { doing, path, source }
}

fn pem_error(path: &Path) -> impl FnOnce(PemError) -> MspError {
    let path = path.to_owned();
    move |source| MspError::Pem { path, source }
}
