//! A loaded PKCS#11 library.
//!
//! ```text
//! call:          enter -> C_... -> leave                    many at once
//! reinitialise:  close the gate, wait until nobody is inside, C_Finalize, C_Initialize, open
//! ```
//!
//! The first call initialises: C_Initialize may fail while a vendor's daemon is down, or hang while a
//! network HSM is away, and what was loaded can be asked again later.
//!
//! PKCS #11 leaves undefined what a call does while another thread finalises, so a finalise waits
//! for all of them; a call that never comes back makes it impossible, and the process must end.
//! Each reinitialisation has a number (generation): handles of an older one are never used or
//! closed, for the module may have given their numbers away again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use cryptoki::context::CInitializeArgs;
use cryptoki::context::CInitializeFlags;
use cryptoki::context::Pkcs11;
use cryptoki::error::Error as Pkcs11Error;
use cryptoki::slot::Slot;
use nix::unistd::geteuid;

use crate::crypto::providers::pkcs11::error::TokenError;
use crate::crypto::providers::pkcs11::error::words;
use crate::crypto::providers::pkcs11::info;
use crate::crypto::providers::pkcs11::info::Info;
use crate::crypto::providers::pkcs11::token::Token;
use crate::types::limits;

/// One library of this process.
pub struct Module {
    path: PathBuf,
    context: Pkcs11,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Calls under way.
    inside: usize,
    /// A reinitialisation waits or runs.
    closed: bool,
    /// Number of the initialisation; even where the last one failed.
    generation: u64,
    initialised: bool,
    /// Finalised for good.
    ended: bool,
    /// Tokens that answered when they were last looked at.
    working: BTreeSet<String>,
    /// Earliest moment of the next reinitialisation, and the pause after it.
    next: Instant,
    pause: Duration,
}

/// A call under way; leaves when dropped.
pub(super) struct Inside<'a> {
    module: &'a Module,
    /// Generation that handles must have.
    pub generation: u64,
}

/// Why the gate did not open.
#[derive(Debug)]
pub(super) enum GateError {
    /// Calls do not come back: only a new process helps.
    Stuck,
    /// Not now: the last attempts failed.
    Resting,
    /// The module refused.
    Refused(Box<TokenError>),
}

impl Module {
    /// Loads a library. One `Module` per library and process.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let refused = |reason: String| TokenError::Module { path: path.to_owned(), reason };
        check_file(path)?;
        let context = Pkcs11::new(path).map_err(|error| refused(words(&error)))?;
        let state = State {
            inside: 0,
            closed: false,
            generation: 0,
            initialised: false,
            ended: false,
            working: BTreeSet::new(),
            next: Instant::now(),
            pause: FIRST_PAUSE,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Ok(Self { path: path.to_owned(), context, state, changed })
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn context(&self) -> &Pkcs11 {
        &self.context
    }

    /// What the token in a slot says about itself.
    pub(super) fn token_info(&self, slot: Slot) -> Result<Info, String> {
        info::token_info(&self.path, &self.context, slot)
    }

    /// Begins a call; waits while the module is being initialised anew.
    pub(super) fn enter(&self, until: Instant) -> Result<Inside<'_>, GateError> {
        let mut state = self.lock();
        loop {
            if !state.closed && state.initialised {
                state.inside += 1;
                return Ok(Inside { module: self, generation: state.generation });
            }
            if !state.closed {
                drop(state);
                let generation = self.lock().generation;
                self.reinitialise(generation, until)?;
                state = self.lock();
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(GateError::Stuck);
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Finalises and initialises, unless somebody did since generation `seen`. The caller must not
    /// be inside.
    pub(super) fn reinitialise(&self, seen: u64, until: Instant) -> Result<(), GateError> {
        let mut state = self.lock();
        while state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(GateError::Stuck);
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.ended {
            let (path, reason) = (self.path.clone(), "it was closed".to_owned());
            return Err(GateError::Refused(Box::new(TokenError::Module { path, reason })));
        }
        if state.generation != seen && state.initialised {
            return Ok(());
        }
        if Instant::now() < state.next {
            return Err(GateError::Resting);
        }
        let again = state.generation > 0;
        state.closed = true;
        while state.inside > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.closed = false;
                self.changed.notify_all();
                return Err(GateError::Stuck);
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        if again {
            // A module that is not initialised any more says so; what counts is what follows.
            let _ = self.context.clone().finalize();
        }
        let done = initialise(&self.context);
        let mut state = self.lock();
        state.generation += 1;
        state.initialised = done.is_ok();
        state.closed = false;
        if again || done.is_err() {
            state.next = Instant::now() + state.pause;
            state.pause = (state.pause * 2).min(Duration::from_millis(limits::TOKEN_REST_MS_MAX));
        }
        self.changed.notify_all();
        if again {
            tracing::debug!(module = %self.path.display(), ok = done.is_ok(), "initialised anew");
        }
        done.map_err(|error| GateError::Refused(Box::new(TokenError::start(&self.path, &error))))
    }

    /// Finalises for good, where no call is under way; with one, the library is left as it is.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        let idle = state.inside == 0 && !state.closed;
        if idle && !state.ended && state.initialised {
            // The process is through with it either way.
            let _ = self.context.clone().finalize();
        }
        (state.ended, state.initialised) = (true, false);
    }

    /// Number of the initialisation.
    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Keeps whether a token of this module answers.
    pub(super) fn works_for(&self, token: &str, answers: bool) {
        let mut state = self.lock();
        match answers {
            true => state.working.insert(token.to_owned()),
            false => state.working.remove(token),
        };
    }

    /// Whether another token of this module answers: what is initialised anew disturbs it.
    pub(super) fn works_for_others(&self, token: &str) -> bool {
        self.lock().working.iter().any(|name| name != token)
    }

    /// A signature came through: the next trouble starts with the short pause again.
    pub(super) fn works(&self) {
        let mut state = self.lock();
        if state.pause != FIRST_PAUSE && Instant::now() >= state.next {
            state.pause = FIRST_PAUSE;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GateError {
    /// For somebody who asked a token.
    pub(super) fn typed(self, token: &Token) -> TokenError {
        let name = token.config.name.clone();
        let call = |reason: String| TokenError::Call { token: name, reason };
        match self {
            Self::Refused(error) => *error,
            Self::Resting => call("its module failed and rests before the next attempt".to_owned()),
            Self::Stuck => {
                let path = token.module.path().display();
                call(format!("a call into its module {path} does not return"))
            }
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.module.lock().inside -= 1;
        self.module.changed.notify_all();
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("path", &self.path).finish_non_exhaustive()
    }
}

fn initialise(context: &Pkcs11) -> Result<(), Pkcs11Error> {
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
}

/// Refuses a library that others can change and one that traces PINs, whatever its name.
fn check_file(path: &Path) -> Result<(), TokenError> {
    let refused = |reason: String| TokenError::Module { path: path.to_owned(), reason };
    let found = fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if !found.is_file() {
        return Err(refused("it is no file".to_owned()));
    }
    let exposed = |fault: String| TokenError::Exposed { path: path.to_owned(), fault };
    if found.mode() & 0o022 != 0 {
        return Err(exposed(format!("mode {:03o}", found.mode() & 0o777)));
    }
    if found.uid() != 0 && found.uid() != geteuid().as_raw() {
        return Err(exposed(format!("it belongs to user {}", found.uid())));
    }
    check_folders(path)?;
    if found.len() <= limits::SPY_SEARCH_BYTES_MAX {
        let bytes = fs::read(path).map_err(|error| refused(error.to_string()))?;
        if bytes.windows(SPY_MARK.len()).any(|window| window == SPY_MARK) {
            return Err(TokenError::Spy { path: path.to_owned() });
        }
    }
    Ok(())
}

/// Refuses a library in a folder whose files others can replace. Where the folder is sticky (/tmp) they
/// replace only their own.
pub(super) fn check_folders(path: &Path) -> Result<(), TokenError> {
    for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
        let failed = |error: std::io::Error| TokenError::Module {
            path: path.to_owned(),
            reason: format!("its folder {}: {error}", folder.display()),
        };
        let found = fs::metadata(folder).map_err(failed)?;
        let exposed = |fault: String| {
            let (path, folder) = (path.to_owned(), folder.to_owned());
            TokenError::ExposedFolder { path, folder, fault }
        };
        if found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0 {
            return Err(exposed(format!("mode {:04o}", found.mode() & 0o7777)));
        }
        if found.uid() != 0 && found.uid() != geteuid().as_raw() {
            return Err(exposed(format!("it belongs to user {}", found.uid())));
        }
    }
    Ok(())
}

/// The variable that opensc's tracing module reads; it is in the library's text.
const SPY_MARK: &[u8] = b"PKCS11SPY";
const FIRST_PAUSE: Duration = Duration::from_millis(100);
