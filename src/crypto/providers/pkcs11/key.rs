//! A key in a token as the rest of the house uses it: a `SigningKey`, with standby tokens.
//!
//! `Tokens` holds what one process uses: each module is loaded once, each token has one pool. A key
//! is audited before it signs anything, and a standby must hold the very same key.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::crypto::CryptoError;
use crate::crypto::PROVIDERS;
use crate::crypto::SigningKey;
use crate::crypto::keys::Secret;
use crate::crypto::prepared::PreparedKey;
use crate::crypto::providers::pkcs11::KeySelect;
use crate::crypto::providers::pkcs11::NAME;
use crate::crypto::providers::pkcs11::TokenConfig;
use crate::crypto::providers::pkcs11::error::Fault;
use crate::crypto::providers::pkcs11::error::TokenError;
use crate::crypto::providers::pkcs11::error::typed;
use crate::crypto::providers::pkcs11::module::GateError;
use crate::crypto::providers::pkcs11::module::Module;
use crate::crypto::providers::pkcs11::object;
use crate::crypto::providers::pkcs11::object::Found;
use crate::crypto::providers::pkcs11::pool::Pool;
use crate::crypto::providers::pkcs11::pool::Target;
use crate::crypto::providers::pkcs11::token::Token;
use crate::types::limits;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

pub use crate::crypto::providers::pkcs11::pool::Counts;
pub use crate::crypto::providers::pkcs11::pool::Fatal;
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
    target: Arc<Target>,
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

    /// Finds and audits the key on each of the tokens; all must hold the same one.
    pub fn key(&self, places: &[(String, KeySelect)]) -> Result<TokenKey, TokenError> {
        let mut key: Option<TokenKey> = None;
        for (name, select) in places {
            let pool = self.pool(name)?;
            let found = with_session(&pool, |session| {
                pool.token().check_sessions()?;
                let found = object::find(session, name, select)?;
                pool.token().check_mechanism(found.public.algorithm())?;
                Ok(found)
            })?;
            object::require_safe(&found, name, select)?;
            let target = Target {
                select: select.clone(),
                prepared: PreparedKey::new(checker(), &found.public),
                public: found.public.clone(),
            };
            let place = Place { pool, target: Arc::new(target) };
            match &mut key {
                None => key = Some(TokenKey { public: found.public, places: vec![place] }),
                Some(key) if key.public == found.public => key.places.push(place),
                Some(_) => {
                    let (token, select) = (name.clone(), select.to_string());
                    return Err(TokenError::KeyChanged { token, select });
                }
            }
        }
        key.ok_or_else(|| no_token("", "no token is named"))
    }

    /// Every key of a token that this house could use, with its audit.
    pub fn list(&self, name: &str) -> Result<Vec<Found>, TokenError> {
        with_session(&*self.pool(name)?, |session| object::list(session, name))
    }

    /// The selected key, with its audit.
    pub fn find(&self, name: &str, select: &KeySelect) -> Result<Found, TokenError> {
        with_session(&*self.pool(name)?, |session| object::find(session, name, select))
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
            object::generate(session, name, algorithm, select)
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
        with_session(&pool, |session| object::import(session, name, secret, select))
    }

    /// What each token did, and why it is not used any more, by name.
    pub fn status(&self) -> Vec<(String, Counts, Option<TokenError>)> {
        let pools = self.pools.iter();
        pools.map(|(name, pool)| (name.clone(), pool.counts(), pool.token().stopped())).collect()
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
            let pending: Vec<_> =
                open.iter().map(|i| place.pool.begin(&place.target, messages[*i])).collect();
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
}

/// Runs a question of start-up or of a tool with a session of its own. A module that fails here is
/// not climbed for: the operator is present.
fn with_session<T>(
    pool: &Pool,
    ask: impl FnOnce(&cryptoki::session::Session) -> Result<T, Fault>,
) -> Result<T, TokenError> {
    let token = pool.token();
    let name = &token.config.name;
    let until = Instant::now() + Duration::from_millis(limits::TOKEN_START_MS);
    let inside = token.module.enter(until).map_err(|error| {
        let reason = match error {
            GateError::Stuck => "its module does not answer".to_owned(),
            GateError::Resting => "its module failed".to_owned(),
            GateError::Refused(reason) => reason,
        };
        TokenError::Call { token: name.clone(), reason }
    })?;
    let session = loop {
        match token.session(&inside) {
            // Sessions of a process that has just ended may live a little longer than it.
            Err(Fault::Typed(TokenError::Full { .. })) if Instant::now() < until => {
                std::thread::sleep(FULL_PAUSE);
            }
            session => break session.map_err(|fault| typed(fault, name))?,
        }
    };
    let result = ask(&session);
    // Nothing is lost with a session that cannot be closed.
    let _ = session.close();
    result.map_err(|fault| typed(fault, name))
}

/// What checks signatures before they are released: the fastest software there is.
fn checker() -> &'static crate::crypto::Provider {
    crate::crypto::provider("aws-lc").unwrap_or(&PROVIDERS[0])
}

fn no_token(token: &str, reason: &str) -> TokenError {
    TokenError::Call { token: token.to_owned(), reason: reason.to_owned() }
}

const FULL_PAUSE: Duration = Duration::from_millis(250);
