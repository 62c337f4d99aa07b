//! A key in a token as the rest of the house uses it: a `SigningKey`, with standby tokens.
//!
//! `Tokens` holds what one process uses: each module is loaded once, each token has one pool. A key
//! is audited before it signs anything, and a standby must hold the very same key. A token that is away
//! at the start is left out until the watch has seen the key there.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use crossbeam_channel::RecvTimeoutError;
use crossbeam_channel::bounded;
use cryptoki::session::Session;

use crate::crypto::CryptoError;
use crate::crypto::KeyPlace;
use crate::crypto::SigningKey;
use crate::crypto::keys::Secret;
use crate::crypto::providers::pkcs11::KeySelect;
use crate::crypto::providers::pkcs11::NAME;
use crate::crypto::providers::pkcs11::TokenConfig;
use crate::crypto::providers::pkcs11::error::Fault;
use crate::crypto::providers::pkcs11::error::TokenError;
use crate::crypto::providers::pkcs11::module;
use crate::crypto::providers::pkcs11::module::Module;
use crate::crypto::providers::pkcs11::object;
use crate::crypto::providers::pkcs11::object::Found;
use crate::crypto::providers::pkcs11::object::Listed;
use crate::crypto::providers::pkcs11::pool::Pool;
use crate::crypto::providers::pkcs11::pool::Target;
use crate::crypto::providers::pkcs11::token;
use crate::crypto::providers::pkcs11::token::Token;
use crate::crypto::providers::pkcs11::token::TokenInfo;
use crate::crypto::providers::pkcs11::watch;
use crate::crypto::providers::pkcs11::watch::Wanted;
use crate::types::limits;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

pub use crate::crypto::providers::pkcs11::pool::Counts;
pub use crate::crypto::providers::pkcs11::pool::Fatal;
pub use crate::crypto::providers::pkcs11::presence::Away;
pub use crate::crypto::providers::pkcs11::seats::Sessions;

/// The modules and tokens of a process.
pub struct Tokens {
    modules: BTreeMap<PathBuf, Arc<Module>>,
    pools: BTreeMap<String, Arc<Pool>>,
    fatal: Fatal,
}

/// A key in one or several tokens.
pub struct TokenKey {
    public: PublicKey,
    /// The token that signs, then its standbys.
    places: Vec<Place>,
}

struct Place {
    pool: Arc<Pool>,
    wanted: Arc<Wanted>,
}

/// What a token did and how it stands.
#[derive(Clone, Debug)]
pub struct TokenStatus {
    /// Its name.
    pub name: String,
    /// What it did.
    pub counts: Counts,
    /// Why it is not used any more: a PIN was refused.
    pub stopped: Option<TokenError>,
    /// Since when it is away, and why.
    pub away: Option<Away>,
}

impl Tokens {
    /// No token yet. `fatal` ends the process.
    pub fn new(fatal: Fatal) -> Self {
        Self { modules: BTreeMap::new(), pools: BTreeMap::new(), fatal }
    }

    /// Loads a module, once.
    pub fn module(&mut self, path: &Path) -> Result<Arc<Module>, TokenError> {
        // Two names of one file are one library.
        let place = std::fs::canonicalize(path).map_err(|error| TokenError::Module {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        module::check_folders(path)?;
        if let Some(module) = self.modules.get(&place) {
            return Ok(module.clone());
        }
        let module = Arc::new(Module::load(&place)?);
        self.modules.insert(place, module.clone());
        Ok(module)
    }

    /// Adds a token and starts its sessions' threads. Nothing is asked of it yet.
    pub fn add(&mut self, config: TokenConfig) -> Result<(), TokenError> {
        let module = self.module(&config.module)?;
        let name = config.name.clone();
        let pool = Pool::start(Arc::new(Token::new(config, module)), self.fatal.clone())?;
        self.pools.insert(name, Arc::new(pool));
        Ok(())
    }

    /// Has the key found and audited on each of the tokens; all must hold the same one. A token that
    /// is away is looked for again and again, and is used once the key was seen there: one place is
    /// enough to begin with, or the public half `known` from an earlier start.
    pub fn key(
        &self,
        places: &[(String, KeySelect)],
        known: Option<PublicKey>,
    ) -> Result<TokenKey, TokenError> {
        let public = Arc::new(OnceLock::new());
        let mut held = Vec::new();
        for (name, select) in places {
            let pool = self.pool(name)?;
            let wanted = Arc::new(Wanted::new(select.clone(), public.clone()));
            pool.want(wanted.clone())?;
            held.push(Place { pool, wanted });
        }
        let began = Instant::now();
        let mut first = None;
        for place in &held {
            let enough = known.is_some() || public.get().is_some();
            let patience = if enough { ANSWER_KNOWN } else { ANSWER };
            match place.wanted.first_look(began + patience) {
                Some(Ok(())) => {}
                Some(Err(error)) if !error.may_pass() => return Err(error),
                Some(Err(error)) => drop(first.get_or_insert(error)),
                None => drop(first.get_or_insert(place.no_answer(patience))),
            }
        }
        let none = || first.unwrap_or_else(|| no_token("", "no token is named"));
        // Seen meanwhile, or known: whichever comes first is the one that all places must have.
        let known = known.or_else(|| public.get().cloned()).ok_or_else(none)?;
        let public = public.get_or_init(|| known).clone();
        Ok(TokenKey { public, places: held })
    }

    /// Every private key of a token, with its audit.
    pub fn list(&self, name: &str) -> Result<Vec<Listed>, TokenError> {
        with_session(&*self.pool(name)?, |session| object::list(session, name))
    }

    /// The tokens of a module; nothing is logged in.
    pub fn shown(&mut self, module: &Path) -> Result<Vec<TokenInfo>, TokenError> {
        let module = self.module(module)?;
        bounded_by(&self.fatal, &module, || token::list(&module))
    }

    /// Makes a key pair with safe attributes and audits it.
    pub fn generate(
        &self,
        name: &str,
        algorithm: Algorithm,
        select: &KeySelect,
    ) -> Result<Found, TokenError> {
        let pool = self.pool(name)?;
        let found = with_session(&pool, |session| {
            pool.token().check_mechanism(algorithm)?;
            object::generate(session, pool.token(), algorithm, select)
        })?;
        object::require_safe(&found, name, select)?;
        Ok(found)
    }

    /// Puts a key from outside onto a token: asked for, never done by itself.
    pub fn import(
        &self,
        name: &str,
        secret: &Secret,
        select: &KeySelect,
    ) -> Result<Found, TokenError> {
        let pool = self.pool(name)?;
        with_session(&pool, |session| object::import(session, pool.token(), secret, select))
    }

    /// What each token did and how it stands, by name.
    pub fn status(&self) -> Vec<TokenStatus> {
        let pools = self.pools.iter();
        pools
            .map(|(name, pool)| TokenStatus {
                name: name.clone(),
                counts: pool.counts(),
                stopped: pool.token().stopped(),
                away: pool.away(),
            })
            .collect()
    }

    fn pool(&self, name: &str) -> Result<Arc<Pool>, TokenError> {
        self.pools.get(name).cloned().ok_or_else(|| no_token(name, "no such token is configured"))
    }
}

impl Drop for Tokens {
    /// Ends the sessions' threads, then finalises the modules.
    fn drop(&mut self) {
        self.pools.clear();
        self.modules.values().for_each(|module| module.end());
    }
}

impl SigningKey for TokenKey {
    fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError> {
        self.sign_many(&[message]).remove(0)
    }

    fn sign_many(&self, messages: &[&[u8]]) -> Vec<Result<Signature, CryptoError>> {
        let mut results: Vec<Option<Result<Signature, TokenError>>> = vec![None; messages.len()];
        for place in &self.places {
            let open: Vec<usize> =
                (0..messages.len()).filter(|i| !matches!(results[*i], Some(Ok(_)))).collect();
            let target = place.target();
            let begin = |i: &usize| {
                let target = target.as_ref().map_err(Clone::clone)?;
                place.pool.begin(target, messages[*i])
            };
            let pending: Vec<_> = open.iter().map(begin).collect();
            for (i, pending) in open.into_iter().zip(pending) {
                let result = pending.and_then(|pending| place.pool.finish(&pending));
                // The first token's words are kept: it is the one to repair.
                if result.is_ok() || results[i].is_none() {
                    results[i] = Some(result);
                }
            }
        }
        let failed =
            |error: TokenError| CryptoError::Sign { provider: NAME, reason: error.to_string() };
        let none = || Err(no_token("", "the key has no token"));
        results.into_iter().map(|one| one.unwrap_or_else(none).map_err(failed)).collect()
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn places(&self) -> Vec<KeyPlace> {
        self.places.iter().map(Place::describe).collect()
    }
}

impl Place {
    /// The key as it is used here, or why it is not.
    fn target(&self) -> Result<Arc<Target>, TokenError> {
        self.wanted
            .target()
            .map_err(|trouble| trouble.unwrap_or_else(|| self.no_answer(ANSWER_KNOWN)))
    }

    fn no_answer(&self, patience: Duration) -> TokenError {
        let module = self.pool.token().module.path().display();
        let reason = format!("its module {module} did not answer within {} s", patience.as_secs());
        TokenError::Call { token: self.pool.token().config.name.clone(), reason }
    }

    fn describe(&self) -> KeyPlace {
        let name = &self.pool.token().config.name;
        let (used, away) = (self.target(), self.pool.away());
        let trouble = match (&used, self.pool.token().stopped(), away) {
            (_, Some(stopped), _) => Some(stopped.to_string()),
            (_, None, Some(away)) => {
                let seconds = away.since.elapsed().as_secs();
                Some(format!("token {name} is away for {seconds} s: {}", away.reason))
            }
            (Err(error), None, None) => Some(error.to_string()),
            (Ok(_), None, None) => None,
        };
        KeyPlace {
            token: name.clone(),
            key: self.wanted.select().to_string(),
            confirmed: used.is_ok(),
            trouble,
        }
    }
}

/// Runs a question of a tool with a session of its own.
fn with_session<T>(
    pool: &Pool,
    question: impl FnOnce(&Session) -> Result<T, Fault>,
) -> Result<T, TokenError> {
    bounded_by(pool.fatal(), &pool.token().module, || watch::ask(pool.token(), question))
}

/// Ends the process where a module does not come back from a question of a tool.
fn bounded_by<T>(fatal: &Fatal, module: &Module, question: impl FnOnce() -> T) -> T {
    let (asked, answered) = bounded::<()>(0);
    let (fatal, path) = (fatal.clone(), module.path().display().to_string());
    let timer = std::thread::Builder::new().name("token timer".into()).spawn(move || {
        if answered.recv_timeout(ANSWER) == Err(RecvTimeoutError::Timeout) {
            fatal(format!(
                "the PKCS#11 module {path} did not answer within {} s",
                ANSWER.as_secs()
            ));
        }
    });
    if let Err(error) = timer {
        tracing::warn!(%error, "no thread to time a module's answer");
    }
    let answer = question();
    drop(asked);
    answer
}

fn no_token(token: &str, reason: &str) -> TokenError {
    TokenError::Call { token: token.to_owned(), reason: reason.to_owned() }
}

const ANSWER: Duration = Duration::from_millis(limits::TOKEN_ANSWER_MS);
const ANSWER_KNOWN: Duration = Duration::from_millis(limits::TOKEN_ANSWER_KNOWN_MS);
