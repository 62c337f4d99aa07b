//! `obelisk crypto ...` on tokens: what is there, making keys, judging and trying them.
//!
//! The PIN comes from a file, never from an argument: arguments are seen by every user of a host.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use zeroize::Zeroizing;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::member;
use crate::cli::network;
use crate::cli::output::Cell;
use crate::crypto::SigningKey;
use crate::crypto::keys::Secret;
use crate::crypto::providers::pkcs11::error::TokenError;
use crate::crypto::providers::pkcs11::key::Tokens;
use crate::crypto::providers::pkcs11::object::Finding;
use crate::crypto::providers::pkcs11::object::Listed;
use crate::crypto::routing::Crypto;
use crate::membership::msp;
use crate::membership::msp::MspError;
use crate::node::signer;
use crate::node::signer::card::KeyCard;
use crate::node::signer::config::KeySection;
use crate::node::signer::config::TokenSection;
use crate::node::signer::tokens;
use crate::types::limits;
use crate::types::signature::Algorithm;

/// Which token.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// The vendor's PKCS#11 library
    #[arg(long, value_name = "FILE")]
    module: PathBuf,
    /// Label of the token
    #[arg(long, value_name = "LABEL", required_unless_present_any = ["serial", "slot"])]
    token: Option<String>,
    /// Serial number of the token, instead of its label
    #[arg(long, value_name = "SERIAL", conflicts_with = "token")]
    serial: Option<String>,
    /// Slot of the token, instead of its label
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["token", "serial"])]
    slot: Option<u64>,
    /// File that holds the user PIN, mode 0400
    #[arg(long, value_name = "FILE")]
    pin: PathBuf,
}

/// A key to make.
#[derive(Args, Debug)]
pub struct Keygen {
    #[command(flatten)]
    place: Place,
    /// Identifier of the key on the token (CKA_ID), hexadecimal
    #[arg(long, value_name = "HEX", value_parser = id)]
    id: String,
    /// Algorithm: p256 or ed25519
    #[arg(long, value_name = "NAME", default_value = "p256", value_parser = network::algorithm)]
    algorithm: Algorithm,
    /// New file for the key card, which enrols the key
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Put the key of this PKCS#8 PEM file onto the token instead of making one there; the key was
    /// outside, and the signer takes it only where its configuration says imported = true
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
}

/// A key to look at or to try.
#[derive(Args, Debug)]
pub struct Key {
    #[command(flatten)]
    place: Place,
    /// Identifier of the key on the token (CKA_ID), hexadecimal
    #[arg(long, value_name = "HEX", value_parser = id)]
    id: String,
    /// Accept a key that was not made on the token
    #[arg(long)]
    imported: bool,
}

/// A key that is on a token already, as a copy on a second token is.
#[derive(Args, Debug)]
pub struct Card {
    #[command(flatten)]
    key: Key,
    /// New file for the key card
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write this card again, with the token as a standby: it holds the same key, and is asked where
    /// the card's own token fails
    #[arg(long = "standby-of", value_name = "CARD")]
    standby_of: Option<PathBuf>,
}

/// A key to measure, where a module is named, and for how long.
#[derive(Args, Debug)]
pub struct Bench {
    /// Measure a key on a token of this PKCS#11 library instead of this build's own providers
    #[arg(long, value_name = "FILE", requires_all = ["pin", "id"])]
    module: Option<PathBuf>,
    /// Label of the token
    #[arg(long, value_name = "LABEL", requires = "module")]
    token: Option<String>,
    /// Serial number of the token, instead of its label
    #[arg(long, value_name = "SERIAL", requires = "module", conflicts_with = "token")]
    serial: Option<String>,
    /// Slot of the token, instead of its label
    #[arg(long, value_name = "NUMBER", requires = "module", conflicts_with_all = ["token", "serial"])]
    slot: Option<u64>,
    /// File that holds the user PIN, mode 0400
    #[arg(long, value_name = "FILE", requires = "module")]
    pin: Option<PathBuf>,
    /// Identifier of the key on the token (CKA_ID), hexadecimal
    #[arg(long, value_name = "HEX", requires = "module", value_parser = id)]
    id: Option<String>,
    /// Accept a key that was not made on the token
    #[arg(long, requires = "module")]
    imported: bool,
    /// Signatures per row
    #[arg(long, value_name = "N", default_value_t = 500)]
    signatures: usize,
}

/// The tokens of a module; nothing is logged in.
pub fn list(module: &Path, context: &Context) -> Result<(), Failure> {
    let mut opened = Tokens::new(Arc::new(fatal));
    let found = opened.shown(module).map_err(|error| failure(&error))?;
    let columns = ["slot", "label", "serial", "model", "firmware", "signs with", "note"];
    let rows: Vec<Vec<Cell>> = found
        .into_iter()
        .map(|info| {
            vec![
                Cell::Number(info.slot),
                Cell::Text(super::super::output::tame(&info.label)),
                Cell::Text(super::super::output::tame(&info.serial)),
                Cell::Text(super::super::output::tame(&info.model)),
                Cell::Text(info.version),
                Cell::maybe(info.algorithms.map(|offered| Cell::Text(signs_with(&offered)))),
                Cell::maybe(info.unreadable.map(Cell::Text)),
            ]
        })
        .collect();
    context.output.table(&columns, &rows, "the module has no initialised token");
    Ok(())
}

/// What a token can be used for here, in words.
fn signs_with(offered: &[Algorithm]) -> String {
    match offered {
        [] => "nothing used here: neither raw ECDSA nor EdDSA".to_owned(),
        offered => offered.iter().map(|one| one.name()).collect::<Vec<_>>().join(", "),
    }
}

pub fn keygen(arguments: &Keygen, context: &Context) -> Result<(), Failure> {
    let out = CardFile::open(&arguments.out)?;
    let section = arguments.place.section(limits::TOKEN_SESSIONS)?;
    let opened = open(&section)?;
    let name = section.name.clone();
    let mut key = KeySection::on_token(&name, &arguments.id);
    key.imported = arguments.import.is_some();
    let select = tokens::select(&key.place());
    let found = match &arguments.import {
        None => opened.generate(&name, arguments.algorithm, &select),
        Some(file) => {
            let secret = secret(file)?;
            opened.import(&name, &secret, &select)
        }
    }
    .map_err(|error| failure(&error))?;
    let carded = tokens::key(&key, &opened, None)
        .map_err(|error| failure(&error))
        .and_then(|signing| signed(&*signing, key, section))
        .and_then(|card| out.store(&card));
    carded.map_err(|failure| Failure {
        cause: format!("{}. The key is on the token", failure.cause),
        fix: format!("`obelisk crypto card` writes the card of the key; {}", failure.fix),
        ..failure
    })?;
    context.output.object(&[
        ("token", Cell::Text(name)),
        ("id", Cell::Text(hex::encode(&found.id))),
        ("algorithm", Cell::text_of(found.public.algorithm().name())),
        ("public key", Cell::Text(hex::encode(found.public.as_bytes()))),
        (
            "made",
            Cell::text_of(if arguments.import.is_some() { "outside" } else { "on the token" }),
        ),
        ("key card", Cell::Text(arguments.out.display().to_string())),
    ]);
    Ok(())
}

/// The card of a key that is there; or another card, to which this token is the standby.
pub fn card(arguments: &Card, context: &Context) -> Result<(), Failure> {
    let out = CardFile::open(&arguments.out)?;
    let before = match &arguments.standby_of {
        None => None,
        Some(path) => Some(member::card(path, &Crypto::portable())?),
    };
    let section = arguments.key.place.section(limits::TOKEN_SESSIONS)?;
    let opened = open(&section)?;
    let signing = arguments.key.signing(&section, &opened)?;
    let public = signing.public_key().clone();
    let mut card = signed(&*signing, arguments.key.section(&section), section)?;
    if let Some((mut first, wanted)) = before {
        if public != wanted {
            let cause =
                format!("the key on token {} is another one than the card's", card.key.token);
            let fix = "name the id of its copy; a standby holds the very same key";
            return Err(Failure::new(Exit::Refused, cause, fix));
        }
        if first.token.iter().any(|known| known.is_same(&card.token[0])) {
            let cause = format!("the token {} is on the card already", card.key.token);
            return Err(Failure::usage(cause, "name another token, which holds a copy of the key"));
        }
        first.add_standby(&card);
        card = first;
    }
    out.store(&card)?;
    let tokens = card.token.iter().map(|token| Cell::text_of(&token.name)).collect();
    context.output.object(&[
        ("tokens", Cell::List(tokens)),
        ("algorithm", Cell::text_of(public.algorithm().name())),
        ("public key", Cell::Text(hex::encode(public.as_bytes()))),
        ("key card", Cell::Text(arguments.out.display().to_string())),
    ]);
    Ok(())
}

/// The file of a card, made before the token is asked for anything: a key whose card cannot be written
/// is of no use. Dropped without its card, it is removed.
struct CardFile<'a> {
    path: &'a Path,
}

impl<'a> CardFile<'a> {
    fn open(path: &'a Path) -> Result<Self, Failure> {
        msp::write_new(path, b"", 0o644).map_err(|error| elsewhere(&error))?;
        Ok(Self { path })
    }

    fn store(self, card: &KeyCard) -> Result<(), Failure> {
        // Empty, and this process's own.
        let _ = fs::remove_file(self.path);
        let stored = card.store(self.path).map_err(|error| elsewhere(&error));
        if stored.is_ok() {
            std::mem::forget(self);
        }
        stored
    }
}

impl Drop for CardFile<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path);
    }
}

fn elsewhere(error: &MspError) -> Failure {
    Failure::of(Exit::Usage, error, "choose another file with --out")
}

fn signed(
    key: &dyn SigningKey,
    place: KeySection,
    token: TokenSection,
) -> Result<KeyCard, Failure> {
    KeyCard::new(key, place, token).map_err(|error| {
        Failure::of(Exit::Internal, &error, "`obelisk crypto test` shows what the token does")
    })
}

/// Every attribute that matters, of every private key. Keys of other kinds are listed and not judged:
/// nothing here uses them.
pub fn audit(place: &Place, context: &Context) -> Result<(), Failure> {
    let section = place.section(1)?;
    let found = open(&section)?.list(&section.name).map_err(|error| failure(&error))?;
    let columns = ["id", "label", "algorithm", "attribute", "value", "wanted", "accepted", "note"];
    let rows: Vec<Vec<Cell>> = found.iter().flat_map(audited).collect();
    context.output.table(&columns, &rows, "the token holds no private key");
    let unsafe_one =
        |key: &&Listed| key.judged && key.audit.iter().any(|finding| !finding.accepted);
    let (bad, twice) = (
        found.iter().filter(unsafe_one).count(),
        found.iter().filter(|key| key.same_id > 1).count(),
    );
    if bad > 0 {
        let cause = format!("{bad} of {} keys are not safe", found.len());
        let fix = "make new ones with `obelisk crypto keygen`, enrol them, delete the others";
        return Err(Failure::new(Exit::Refused, cause, fix));
    }
    if twice > 0 {
        let cause = format!("{twice} of {} keys share their id with another", found.len());
        let fix =
            "give each key its own id with the vendor's tool, or delete those that nobody needs";
        return Err(Failure::new(Exit::Refused, cause, fix));
    }
    Ok(())
}

fn audited(key: &Listed) -> Vec<Vec<Cell>> {
    let mut notes = Vec::new();
    if key.same_id > 1 {
        notes.push(format!("{} private keys have this id", key.same_id));
    }
    notes.extend(key.unusable.as_ref().map(|reason| format!("not used here: {reason}")));
    let note = notes.join("; ");
    let row = |finding: &Finding| {
        vec![
            Cell::Text(hex::encode(&key.id)),
            Cell::Text(super::super::output::tame(&key.label)),
            Cell::Text(key.kind.clone()),
            Cell::text_of(finding.attribute),
            Cell::maybe(finding.value.map(Cell::Flag)),
            Cell::Flag(finding.wanted),
            Cell::Flag(finding.accepted),
            Cell::Text(note.clone()),
        ]
    };
    key.audit.iter().map(row).collect()
}

/// Signs through the whole way of the signer: audit, sessions, low s, verification.
pub fn test(key: &Key, context: &Context) -> Result<(), Failure> {
    let section = key.place.section(limits::TOKEN_SESSIONS)?;
    let opened = open(&section)?;
    let signing = key.signing(&section, &opened)?;
    let messages: Vec<Vec<u8>> = (0..TEST_SIGNATURES).map(|n| vec![n as u8; n * 37]).collect();
    let texts: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let failed = signing.sign_many(&texts).into_iter().find_map(Result::err);
    if let Some(error) = failed {
        let fix = "look at the token with the vendor's tool; `obelisk crypto audit` shows its keys";
        return Err(Failure::of(Exit::Refused, &error, fix));
    }
    context.output.object(&[
        ("token", Cell::Text(section.name.clone())),
        ("algorithm", Cell::text_of(signing.public_key().algorithm().name())),
        ("public key", Cell::Text(hex::encode(signing.public_key().as_bytes()))),
        ("attributes", Cell::text_of("safe")),
        ("signatures verified", Cell::Number(TEST_SIGNATURES as u64)),
    ]);
    Ok(())
}

/// Signatures per second over the number of sessions.
pub fn bench(bench: Bench, context: &Context) -> Result<(), Failure> {
    let Bench { module, token, serial, slot, pin, id, imported, signatures } = bench;
    let (Some(module), Some(pin), Some(id)) = (module, pin, id) else {
        return Err(Failure::usage("no token is named", "name --module, --token, --pin and --id"));
    };
    if token.is_none() && serial.is_none() && slot.is_none() {
        return Err(Failure::usage("no token is named", "name --token, --serial or --slot"));
    }
    let key = Key { place: Place { module, token, serial, slot, pin }, id, imported };
    let mut rows = Vec::new();
    for sessions in BENCH_SESSIONS {
        let section = key.place.section(sessions)?;
        let opened = open(&section)?;
        let signing = key.signing(&section, &opened)?;
        let message = [7; 100];
        let lot = vec![&message[..]; sessions * 4];
        signing.sign_many(&lot);
        let (start, mut done) = (Instant::now(), 0);
        while done < signatures.max(1) {
            for result in signing.sign_many(&lot) {
                result.map_err(|error| {
                    Failure::of(Exit::Refused, &error, "`obelisk crypto test` first")
                })?;
                done += 1;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = done as f64 / seconds;
        rows.push(vec![
            Cell::Number(sessions as u64),
            Cell::Number(done as u64),
            Cell::Number(rate as u64),
            Cell::Number((1e6 * sessions as f64 / rate) as u64),
        ]);
    }
    let columns = ["sessions", "signatures", "per second", "us each"];
    context.output.table(&columns, &rows, "nothing was measured");
    Ok(())
}

impl Bench {
    /// Whether a token is to be measured.
    pub fn is_asked(&self) -> bool {
        self.module.is_some()
    }
}

impl Place {
    /// As a signer's configuration would say it, with whole paths.
    fn section(&self, sessions: usize) -> Result<TokenSection, Failure> {
        let whole = |path: &PathBuf| {
            std::fs::canonicalize(path).map_err(|error| {
                let exit = match error.kind() {
                    std::io::ErrorKind::NotFound => Exit::NotFound,
                    _ => Exit::Usage,
                };
                Failure::new(
                    exit,
                    format!("cannot read {}: {error}", path.display()),
                    "check the path",
                )
            })
        };
        let name = self.token.clone().or(self.serial.clone());
        Ok(TokenSection {
            name: name.unwrap_or_else(|| format!("slot-{}", self.slot.unwrap_or_default())),
            module: whole(&self.module)?,
            label: self.token.clone().unwrap_or_default(),
            serial: self.serial.clone().unwrap_or_default(),
            slot: self.slot,
            pin: whole(&self.pin)?,
            sessions,
            ..TokenSection::default()
        })
    }
}

impl Key {
    fn signing(
        &self,
        section: &TokenSection,
        opened: &Tokens,
    ) -> Result<Arc<dyn SigningKey>, Failure> {
        tokens::key(&self.section(section), opened, None).map_err(|error| failure(&error))
    }

    /// As a signer's configuration would say it.
    fn section(&self, token: &TokenSection) -> KeySection {
        let imported = self.imported;
        KeySection { imported, ..KeySection::on_token(&token.name, &self.id) }
    }
}

fn open(section: &TokenSection) -> Result<Tokens, Failure> {
    let fatal = Arc::new(fatal);
    tokens::open(std::slice::from_ref(section), None, fatal).map_err(|error| failure(&error))
}

fn secret(file: &Path) -> Result<Secret, Failure> {
    let pkcs8: Zeroizing<Vec<u8>> = msp::read_key(file)
        .map_err(|error| Failure::of(Exit::Usage, &error, "name a PKCS#8 PEM file"))?;
    let [p256, ed25519] = Algorithm::ALL.map(|algorithm| Secret::parse(algorithm, &pkcs8));
    p256.or(ed25519).map_err(|error| Failure::of(Exit::Usage, &error, "name a PKCS#8 PEM file"))
}

/// A token's refusal in this house's form.
pub fn failure(error: &TokenError) -> Failure {
    let exit = match error {
        _ if error.is_final() => Exit::Final,
        TokenError::KeyMissing { .. } | TokenError::NoToken { .. } => Exit::NotFound,
        TokenError::KeyUnsafe { .. }
        | TokenError::KeyChanged { .. }
        | TokenError::Mechanism { .. } => Exit::Refused,
        TokenError::Call { .. }
        | TokenError::NotMade { .. }
        | TokenError::Start { .. }
        | TokenError::Full { .. }
        | TokenError::Late { .. }
        | TokenError::WrongSignature { .. } => Exit::Internal,
        _ => Exit::Usage,
    };
    Failure::of(exit, error, "look at the token with the vendor's tool")
}

fn fatal(reason: String) {
    eprintln!("error: {reason}\nfix: restart what serves the token, then try again");
    signer::end_at_once(Exit::Internal as i32)
}

fn id(text: &str) -> Result<String, String> {
    match hex::decode(text) {
        Ok(bytes) if (1..=ID_BYTES_MAX).contains(&bytes.len()) => Ok(hex::encode(bytes)),
        _ => Err(format!("write 1 to {ID_BYTES_MAX} bytes in hexadecimal, as in 01")),
    }
}

const ID_BYTES_MAX: usize = 64;
const TEST_SIGNATURES: usize = 16;
const BENCH_SESSIONS: [usize; 4] = [1, 2, 4, 8];
