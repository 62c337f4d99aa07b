//! One token: finding its slot, logging in once, opening sessions.
//!
//! The login belongs to the application, not to a session, and ends with the last session: one
//! anchor session stays open for the token's life. A login that the token refuses is never tried
//! again by this process, and not by the next one either while the PIN's file is the same.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use cryptoki::context::Pkcs11;
use cryptoki::error::Error as Pkcs11Error;
use cryptoki::error::RvError;
use cryptoki::mechanism::MechanismType;
use cryptoki::session::Session;
use cryptoki::session::SessionState;
use cryptoki::session::UserType;
use cryptoki::slot::Slot;

use crate::crypto::providers::pkcs11::Select;
use crate::crypto::providers::pkcs11::TokenConfig;
use crate::crypto::providers::pkcs11::error::Fault;
use crate::crypto::providers::pkcs11::error::TokenError;
use crate::crypto::providers::pkcs11::error::is_full;
use crate::crypto::providers::pkcs11::error::is_pin_fault;
use crate::crypto::providers::pkcs11::error::words;
use crate::crypto::providers::pkcs11::info::Info;
use crate::crypto::providers::pkcs11::module::GateError;
use crate::crypto::providers::pkcs11::module::Inside;
use crate::crypto::providers::pkcs11::module::Module;
use crate::types::limits;
use crate::types::signature::Algorithm;

/// A token of a module.
pub struct Token {
    /// How it is used.
    pub config: TokenConfig,
    pub(super) module: Arc<Module>,
    /// Held through calls of the module, which may not return.
    login: Mutex<Option<Anchor>>,
    /// Why the token is not used any more; never held through a call.
    stopped: Mutex<Option<TokenError>>,
}

/// The session that keeps the login.
struct Anchor {
    session: Session,
    slot: Slot,
    generation: u64,
}

/// A token as its module describes it.
#[derive(Clone, Debug, Default)]
pub struct TokenInfo {
    /// Number of its slot.
    pub slot: u64,
    /// Label, trimmed.
    pub label: String,
    /// Serial number, trimmed.
    pub serial: String,
    /// Model, trimmed.
    pub model: String,
    /// Firmware or library version.
    pub version: String,
    /// Algorithms that it signs with the way this house asks for; `None` where it does not say.
    pub algorithms: Option<Vec<Algorithm>>,
    /// Why nothing of this is known.
    pub unreadable: Option<String>,
}

impl Token {
    /// A token that is not logged in yet.
    pub fn new(config: TokenConfig, module: Arc<Module>) -> Self {
        Self { config, module, login: Mutex::default(), stopped: Mutex::default() }
    }

    /// Why the token is not used any more.
    pub fn stopped(&self) -> Option<TokenError> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens a session; logs in where nobody did since the module was initialised.
    pub(super) fn session(&self, inside: &Inside<'_>) -> Result<Session, Fault> {
        let mut login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stopped) = self.stopped() {
            return Err(stopped.into());
        }
        // An anchor of an older generation is forgotten, never closed: see `module`.
        login.take_if(|anchor| anchor.generation != inside.generation);
        let slot = match &*login {
            Some(anchor) => anchor.slot,
            None => self.anchor(inside, &mut login)?,
        };
        self.open(slot)
    }

    /// Finds the token and opens the session that keeps the login.
    fn anchor(&self, inside: &Inside<'_>, login: &mut Option<Anchor>) -> Result<Slot, Fault> {
        let slot = self.find()?;
        let session = self.open(slot)?;
        self.log_in(&session, slot)?;
        let generation = inside.generation;
        *login = Some(Anchor { session, slot, generation });
        Ok(slot)
    }

    /// A session, or `TokenError::Full` where the token has no more.
    fn open(&self, slot: Slot) -> Result<Session, Fault> {
        match self.module.context().open_rw_session_no_drop(slot) {
            Err(error) if is_full(&error) => {
                Err(TokenError::Full { token: self.config.name.clone() }.into())
            }
            opened => Ok(opened?),
        }
    }

    /// Whether the token answers: the login's session tells its state. A dead one is opened anew.
    pub(super) fn check(&self, inside: &Inside<'_>) -> Result<(), Fault> {
        let mut login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stopped) = self.stopped() {
            return Err(stopped.into());
        }
        login.take_if(|anchor| anchor.generation != inside.generation);
        if login.as_ref().is_some_and(|anchor| is_logged_in(&anchor.session).unwrap_or(false)) {
            return Ok(());
        }
        if let Some(anchor) = login.take() {
            // A dead session cannot be closed; nothing is lost.
            let _ = anchor.session.close();
        }
        self.anchor(inside, &mut login).map(drop)
    }

    /// Logs in again, unless another session did meanwhile: the login is the application's.
    pub(super) fn log_in_again(&self) -> Result<(), Fault> {
        let mut login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stopped) = self.stopped() {
            return Err(stopped.into());
        }
        let Some(anchor) = login.take() else { return Ok(()) };
        if !is_logged_in(&anchor.session)? {
            self.log_in(&anchor.session, anchor.slot)?;
        }
        *login = Some(anchor);
        Ok(())
    }

    fn log_in(&self, session: &Session, slot: Slot) -> Result<(), Fault> {
        let (name, memory) = (&self.config.name, self.config.memory.as_deref());
        let stop = |reason: String, fix: String| {
            let stopped = TokenError::Pin { token: name.clone(), reason, fix };
            tracing::error!(error = %stopped, "a token is not used any more");
            let mut kept = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some(stopped.clone());
            Err(Fault::Typed(stopped))
        };
        // Not every token can say so; one that can is asked before the last try is spent.
        if let Ok(info) = self.module.token_info(slot) {
            if info.pin_locked {
                let fix = format!("{UNLOCK}, write it into its file");
                return stop("its PIN is locked".to_owned(), fix);
            }
            if info.pin_final_try {
                let reason = "one wrong PIN more locks it".to_owned();
                let fix = "log in once with the right PIN and the vendor's tool, which starts the \
                           count anew";
                return stop(reason, fix.to_owned());
            }
        }
        let pin = self.config.pin.read(name, memory)?;
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) if is_pin_fault(&error) => {
                self.config.pin.remember_refused(name, memory);
                let then = self.config.pin.remedy(name, memory);
                let fix = match error {
                    Pkcs11Error::Pkcs11(RvError::PinLocked, _) => {
                        format!("{UNLOCK}, {then} with it")
                    }
                    _ => format!("correct the PIN and {then}"),
                };
                stop(format!("its PIN was refused ({})", words(&error)), fix)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses a configuration that asks for more sessions than the token states it has.
    pub(super) fn check_sessions(&self) -> Result<(), Fault> {
        let slot = self.find()?;
        // A token that cannot describe itself states no limit.
        let Ok(info) = self.module.token_info(slot) else { return Ok(()) };
        let wanted = self.config.sessions as u64 + 1;
        match info.sessions_max {
            Some(limit) if wanted > limit => {
                let (token, fitting) = (self.config.name.clone(), limit.saturating_sub(1));
                Err(TokenError::Sessions { token, limit, wanted, fitting }.into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses an algorithm that the token does not sign with the way this house asks for.
    pub(super) fn check_mechanism(&self, algorithm: Algorithm) -> Result<(), Fault> {
        match offered(self.module.context(), self.find()?) {
            Some(offered) if !offered.contains(&algorithm) => {
                let token = self.config.name.clone();
                let (mechanism, hint) = match algorithm {
                    Algorithm::EcdsaP256 => ("raw ECDSA (CKM_ECDSA)", NO_ECDSA),
                    Algorithm::Ed25519 => ("EdDSA (CKM_EDDSA)", NO_EDDSA),
                };
                let algorithm = algorithm.name();
                Err(TokenError::Mechanism { token, algorithm, mechanism, hint }.into())
            }
            _ => Ok(()),
        }
    }

    /// Bytes that the token states are free for private objects.
    pub(super) fn free_private(&self) -> Option<u64> {
        self.module.token_info(self.find().ok()?).ok()?.free_private
    }

    fn find(&self) -> Result<Slot, Fault> {
        let context = self.module.context();
        if let Select::Slot(number) = self.config.select {
            let slots = context.get_slots_with_token()?;
            if let Some(slot) = slots.into_iter().find(|slot| slot.id() == number) {
                return Ok(slot);
            }
        }
        let tokens = tokens(&self.module)?;
        let mut fitting = tokens.iter().filter(|(_, info)| match &self.config.select {
            Select::Label(label) => info.label == *label,
            Select::Serial(serial) => info.serial == *serial,
            Select::Slot(_) => false,
        });
        let (first, second) = (fitting.next(), fitting.next());
        let path = self.module.path().to_owned();
        let (select, present) = (self.config.select.to_string(), present(&tokens));
        match (first, second) {
            (Some((slot, _)), None) => Ok(*slot),
            (None, _) => Err(TokenError::NoToken { path, select, present }.into()),
            (Some(_), Some(_)) => Err(TokenError::ManyTokens { path, select, present }.into()),
        }
    }
}

/// Whether the user is logged in, as this session sees it. Without a login, private keys are not
/// refused but invisible.
pub(super) fn is_logged_in(session: &Session) -> Result<bool, Pkcs11Error> {
    let state = session.get_session_info()?.session_state();
    Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The tokens of a module.
pub(super) fn list(module: &Module) -> Result<Vec<TokenInfo>, TokenError> {
    let failed = |reason: String| TokenError::Module { path: module.path().to_owned(), reason };
    let until = Instant::now() + Duration::from_millis(limits::TOKEN_START_MS);
    let _inside = module.enter(until).map_err(|error| match error {
        GateError::Refused(error) => *error,
        GateError::Resting | GateError::Stuck => failed("it does not answer".to_owned()),
    })?;
    let listed = tokens(module).map_err(|error| failed(words(&error)))?;
    Ok(listed.into_iter().map(|(_, info)| info).collect())
}

fn tokens(module: &Module) -> Result<Vec<(Slot, TokenInfo)>, Pkcs11Error> {
    let context = module.context();
    let describe = |slot: Slot| {
        let (info, unreadable) = match module.token_info(slot) {
            // Slots that wait for a token to be made have none.
            Ok(info) if !info.initialised => return None,
            Ok(info) => (info, None),
            Err(error) => (Info::default(), Some(error)),
        };
        let Info { label, serial, model, version, .. } = info;
        let (algorithms, slot_number) = (offered(context, slot), slot.id());
        let info =
            TokenInfo { slot: slot_number, label, serial, model, version, algorithms, unreadable };
        Some((slot, info))
    };
    Ok(context.get_slots_with_token()?.into_iter().filter_map(describe).collect())
}

/// The algorithms that a token lists the mechanism for; `None` where it lists nothing at all, which
/// says no more than silence does.
fn offered(context: &Pkcs11, slot: Slot) -> Option<Vec<Algorithm>> {
    let listed = context.get_mechanism_list(slot).ok().filter(|listed| !listed.is_empty())?;
    let mechanism = |algorithm| match algorithm {
        Algorithm::EcdsaP256 => MechanismType::ECDSA,
        Algorithm::Ed25519 => MechanismType::EDDSA,
    };
    let offers = |algorithm: &Algorithm| listed.contains(&mechanism(*algorithm));
    Some(Algorithm::ALL.into_iter().filter(offers).collect())
}

fn present(tokens: &[(Slot, TokenInfo)]) -> String {
    if tokens.is_empty() {
        return "none".to_owned();
    }
    let describe = |(_, info): &(Slot, TokenInfo)| match &info.unreadable {
        None => format!("label {:?} serial {:?} slot {}", info.label, info.serial, info.slot),
        Some(_) => format!("slot {} (not readable)", info.slot),
    };
    tokens.iter().map(describe).collect::<Vec<_>>().join(", ")
}

const UNLOCK: &str = "have the security officer set a new PIN with the vendor's tool";
const NO_ECDSA: &str = "take an Ed25519 key where the token has EdDSA, or a newer release of its \
                        library: openCryptoki has raw ECDSA in 3.27, not in 3.8";
const NO_EDDSA: &str = "take a P-256 key; a token behind p11-kit's remoting has EdDSA and hides it";
