//! What can go wrong with a token, and where on the ladder of recovery each error starts.
//!
//! | class | return values | rungs, each once per signature |
//! | --- | --- | --- |
//! | session | SESSION_*, OPERATION_*, cancelled | new session, new session, module |
//! | busy | FUNCTION_FAILED, DEVICE_ERROR, GENERAL_ERROR, memory, vendor | pause and new session, module |
//! | full | SESSION_COUNT | fewer sessions; the last one: pause and new session, module |
//! | login | USER_NOT_LOGGED_IN, key invisible | log in again, module |
//! | key | KEY_HANDLE_INVALID, OBJECT_HANDLE_INVALID, wrong signature | find the key again, module |
//! | gone | DEVICE_REMOVED, TOKEN_NOT_PRESENT, CRYPTOKI_NOT_INITIALIZED, no such token or key | module |
//! | PIN | PIN_* | none: the token is not used any more |
//! | other | everything else | none: this signature fails |
//!
//! Module: finalise and initialise, then log in and find the key again. After the last rung the
//! standby tokens are asked, then the signature is refused.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use cryptoki::error::Error as Pkcs11Error;
use cryptoki::error::RvError;

/// Why a token or its key cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// The library cannot be loaded.
    #[error(
        "the PKCS#11 module {path} cannot be used: {reason}; name the vendor's library, as in \
         /usr/lib/softhsm/libsofthsm2.so"
    )]
    Module { path: PathBuf, reason: String },
    /// The library was loaded and cannot be initialised.
    #[error("the PKCS#11 module {path} does not start: {reason}; {fix}")]
    Start { path: PathBuf, reason: String, fix: &'static str },
    /// Others could replace the library.
    #[error(
        "the PKCS#11 module {path} can be changed by others ({fault}); it must belong to root or \
         this user: `chmod go-w {path}`"
    )]
    Exposed { path: PathBuf, fault: String },
    /// Others could put another library in its place.
    #[error(
        "the PKCS#11 module {path} is in the folder {folder}, whose files others can replace \
         ({fault}); the folder must belong to root or this user: `chmod go-w {folder}`"
    )]
    ExposedFolder { path: PathBuf, folder: PathBuf, fault: String },
    /// The library writes PINs down.
    #[error(
        "the PKCS#11 module {path} is a spy: it writes every PIN in clear to its trace; name the \
         vendor's library itself"
    )]
    Spy { path: PathBuf },
    /// No such token.
    #[error(
        "the module {path} has no token with {select}, it has {present}; connect the token or what \
         serves it, or correct how it is selected"
    )]
    NoToken { path: PathBuf, select: String, present: String },
    /// Several such tokens.
    #[error(
        "the module {path} has several tokens with {select}; select by serial or slot, it has \
         {present}"
    )]
    ManyTokens { path: PathBuf, select: String, present: String },
    /// The PIN cannot be read.
    #[error("the PIN of token {token} in {path}: {reason}")]
    PinFile { token: String, path: PathBuf, reason: String },
    /// The token refused the PIN, or would lock.
    #[error(
        "token {token}: {reason}, and nothing is tried again, since every try brings a lock nearer; \
         {fix}, then start again"
    )]
    Pin { token: String, reason: String, fix: String },
    /// No such key.
    #[error(
        "token {token} has no private key with {select}; it has {present}. Make one: obelisk \
         crypto keygen"
    )]
    KeyMissing { token: String, select: String, present: String },
    /// Several such keys.
    #[error(
        "token {token} has {count} private keys with {select}; give each key its own id and delete \
         the others"
    )]
    KeyTwice { token: String, select: String, count: usize },
    /// A key where a new one was to be made.
    #[error("token {token} has a key with {select} already; choose another id")]
    KeyExists { token: String, select: String },
    /// The token made no key.
    #[error(
        "token {token} made no key: {reason}; it may be full{free}: delete objects that nobody needs, \
         or give it more room"
    )]
    NotMade { token: String, reason: String, free: String },
    /// The key's attributes do not keep it safe.
    #[error(
        "the key with {select} on token {token} is not safe: {faults}; make a new one with \
         `obelisk crypto keygen` and enrol it"
    )]
    KeyUnsafe { token: String, select: String, faults: String },
    /// Another key than before.
    #[error(
        "the key with {select} on token {token} is another one than before or than its standby; \
         nothing is signed with it. Put the enrolled key back"
    )]
    KeyChanged { token: String, select: String },
    /// A key of another kind.
    #[error(
        "the key with {select} on token {token} cannot be used: {reason}; make a P-256 or Ed25519 \
         key with `obelisk crypto keygen`"
    )]
    KeyKind { token: String, select: String, reason: String },
    /// More sessions than the token has.
    #[error(
        "token {token} has {limit} sessions in all and {wanted} are asked for, one of them for the \
         login; set sessions = {fitting} or less"
    )]
    Sessions { token: String, limit: u64, wanted: u64, fitting: u64 },
    /// The token has no session for this process.
    #[error(
        "token {token} gives no session: other users of it hold them all; end one of them, or set \
         sessions to what is left for this process"
    )]
    Full { token: String },
    /// The token does not offer the way this house signs.
    #[error(
        "token {token} does not offer {mechanism}, so it cannot sign with {algorithm} here; \
         {hint}"
    )]
    Mechanism {
        token: String,
        algorithm: &'static str,
        mechanism: &'static str,
        hint: &'static str,
    },
    /// A call failed on every rung.
    #[error("token {token}: {reason}")]
    Call { token: String, reason: String },
    /// The token's signature does not verify.
    #[error(
        "token {token} returned a signature that does not verify, twice; it is not released. Run \
         `obelisk crypto test`"
    )]
    WrongSignature { token: String },
    /// No answer within the deadline.
    #[error("token {token} did not sign within {ms} ms")]
    Late { token: String, ms: u128 },
    /// The queue in front of the sessions is full.
    #[error("token {token} has too many signatures waiting")]
    Busy { token: String },
}

impl TokenError {
    /// Whether trying again without an operator can only do harm.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Pin { .. })
    }

    /// Whether it may pass by itself: a token that is away, a device that is busy. What is no such
    /// error only an operator can mend.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Start { .. }
                | Self::NoToken { .. }
                | Self::Full { .. }
                | Self::Call { .. }
                | Self::Late { .. }
                | Self::Busy { .. }
        )
    }

    /// Whether a module that is initialised anew may show what it does not show now.
    pub(super) fn is_of_the_module(&self) -> bool {
        matches!(self, Self::NoToken { .. } | Self::Call { .. })
    }

    /// A failed C_Initialize. openCryptoki asks twice for its group pkcs11: the process must have it
    /// (else CKR_FUNCTION_FAILED), and the database of groups must list the user (else
    /// CKR_HOST_MEMORY, which also says that its daemon does not run). Tried with 3.8.1.
    pub(super) fn start(path: &Path, error: &Pkcs11Error) -> Self {
        let is_theirs = path.to_string_lossy().to_lowercase().contains("opencryptoki");
        let fix = match error {
            Pkcs11Error::Pkcs11(RvError::FunctionFailed, _) if is_theirs => OPENCRYPTOKI_PROCESS,
            Pkcs11Error::Pkcs11(RvError::HostMemory, _) if is_theirs => OPENCRYPTOKI_USER,
            _ => START_FIX,
        };
        Self::Start { path: path.to_owned(), reason: words(error), fix }
    }

    pub(super) fn pin_file(token: &str, path: &Path, error: &io::Error) -> Self {
        let (token, path) = (token.to_owned(), path.to_owned());
        let reason = format!("{error}; write the PIN into it, mode 0400");
        Self::PinFile { token, path, reason }
    }
}

const OPENCRYPTOKI_PROCESS: &str = "the process lacks openCryptoki's group: `usermod -aG pkcs11 USER`, \
                                    then log in anew or restart the service, in a unit with \
                                    SupplementaryGroups=pkcs11, as in token-crypto-express.conf";
const OPENCRYPTOKI_USER: &str = "start openCryptoki's daemon, `systemctl start pkcsslotd`. Where it \
                                 runs, the database of groups lacks this user, and \
                                 SupplementaryGroups= is not enough: `usermod -aG pkcs11 USER`";
const START_FIX: &str = "look at what the vendor's library needs: its configuration, its daemon, the \
                         groups of this user";

/// A step of recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// Drop the session, open another.
    Session,
    /// The same after a pause: the device may be busy.
    Pause,
    /// Log in again.
    Login,
    /// Find the key again and compare its public half.
    Key,
    /// Finalise and initialise the module.
    Module,
}

impl Rung {
    /// The word in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Pause => "pause",
            Self::Login => "login",
            Self::Key => "key",
            Self::Module => "module",
        }
    }
}

/// What failed during one attempt.
#[derive(Debug)]
pub(super) enum Fault {
    /// A call.
    Call(Pkcs11Error),
    /// The signature does not verify, or has another length.
    Wrong,
    /// The key is invisible, since the login is lost.
    LoggedOut,
    /// Something typed already.
    Typed(TokenError),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(error) => f.write_str(&words(error)),
            Self::Wrong => f.write_str("the signature does not verify"),
            Self::LoggedOut => f.write_str("the key is not shown: the login is lost"),
            Self::Typed(error) => error.fmt(f),
        }
    }
}

impl From<Pkcs11Error> for Fault {
    fn from(error: Pkcs11Error) -> Self {
        Self::Call(error)
    }
}

impl From<TokenError> for Fault {
    fn from(error: TokenError) -> Self {
        Self::Typed(error)
    }
}

/// Whether the token refused another session.
pub(super) fn is_full(error: &Pkcs11Error) -> bool {
    matches!(error, Pkcs11Error::Pkcs11(RvError::SessionCount, _))
}

/// The rungs for a fault, in order.
pub(super) fn rungs(fault: &Fault) -> &'static [Rung] {
    let value = match fault {
        Fault::Call(Pkcs11Error::Pkcs11(value, _)) => value,
        Fault::Wrong => return &[Rung::Key],
        Fault::LoggedOut => return &[Rung::Login, Rung::Module],
        // They were there at the start: a module may show them again only once initialised anew.
        Fault::Typed(TokenError::NoToken { .. } | TokenError::KeyMissing { .. }) => {
            return &[Rung::Module];
        }
        // The pool is down to one session and does not get that one: see `seats`.
        Fault::Typed(TokenError::Full { .. }) => return &[Rung::Pause, Rung::Module],
        Fault::Call(_) | Fault::Typed(_) => return &[],
    };
    match value {
        RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::OperationActive
        | RvError::OperationNotInitialized
        | RvError::FunctionCanceled
        | RvError::Cancel => &[Rung::Session, Rung::Pause, Rung::Module],
        RvError::UserNotLoggedIn => &[Rung::Login, Rung::Module],
        RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid | RvError::KeyChanged => {
            &[Rung::Key, Rung::Module]
        }
        RvError::DeviceRemoved
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::SlotIdInvalid
        | RvError::CryptokiNotInitialized => &[Rung::Module],
        RvError::FunctionFailed
        | RvError::DeviceError
        | RvError::DeviceMemory
        | RvError::HostMemory
        | RvError::GeneralError
        | RvError::FunctionRejected
        | RvError::VendorDefined(_)
        | RvError::UnknownErrorCode(_) => &[Rung::Pause, Rung::Module],
        _ => &[],
    }
}

/// The next rung for a fault, given those already taken for this signature; `None` at the top.
pub(super) fn next_rung(fault: &Fault, taken: &[Rung]) -> Option<Rung> {
    rungs(fault).iter().copied().find(|rung| !taken.contains(rung))
}

/// A fault that no rung mended.
pub(super) fn typed(fault: Fault, token: &str) -> TokenError {
    let token = token.to_owned();
    match fault {
        Fault::Call(error) => TokenError::Call { token, reason: words(&error) },
        Fault::Wrong => TokenError::WrongSignature { token },
        Fault::LoggedOut => TokenError::Call {
            token,
            reason: "its login is lost and does not come back".to_owned(),
        },
        Fault::Typed(error) => error,
    }
}

/// A binding's error in the standard's names, as in `CKR_DEVICE_REMOVED from C_Sign`: what vendors'
/// manuals and their support know. The binding prints a paragraph of the standard.
pub(super) fn words(error: &Pkcs11Error) -> String {
    let Pkcs11Error::Pkcs11(value, function) = error else { return error.to_string() };
    let name = match value {
        RvError::VendorDefined(value) | RvError::UnknownErrorCode(value) => format!("{value:#x}"),
        value => {
            let mut name = "CKR".to_owned();
            for letter in format!("{value:?}").chars() {
                if letter.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            name
        }
    };
    format!("{name} from C_{function:?}")
}

/// Whether a login's failure counts against the PIN.
pub(super) fn is_pin_fault(error: &Pkcs11Error) -> bool {
    matches!(
        error,
        Pkcs11Error::Pkcs11(
            RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked
                | RvError::PinTooWeak
                | RvError::UserPinNotInitialized,
            _
        )
    )
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    /// Every class climbs its own rungs, each once, and ends.
    #[test]
    fn ladders_are_bounded_and_ordered() {
        for (value, expected) in [
            (RvError::SessionHandleInvalid, &[Rung::Session, Rung::Pause, Rung::Module][..]),
            (RvError::DeviceError, &[Rung::Pause, Rung::Module]),
            (RvError::UserNotLoggedIn, &[Rung::Login, Rung::Module]),
            (RvError::KeyHandleInvalid, &[Rung::Key, Rung::Module]),
            (RvError::DeviceRemoved, &[Rung::Module]),
            (RvError::VendorDefined(0x8000_0001), &[Rung::Pause, Rung::Module]),
            (RvError::PinIncorrect, &[]),
            (RvError::MechanismInvalid, &[]),
        ] {
            let mut taken = Vec::new();
            let fault = Fault::Call(Pkcs11Error::Pkcs11(value, Function::Sign));
            while let Some(rung) = next_rung(&fault, &taken) {
                taken.push(rung);
            }
            assert_eq!(taken, expected, "{value:?}");
        }
        assert_eq!(next_rung(&Fault::Wrong, &[Rung::Key]), None);
        let full = Fault::Typed(TokenError::Full { token: "t".into() });
        assert_eq!(rungs(&full), [Rung::Pause, Rung::Module]);
    }

    /// openCryptoki's missing group is told from its missing daemon, another module's trouble from both.
    #[test]
    fn a_module_that_does_not_start_has_a_fix() {
        let fault = |value| Pkcs11Error::Pkcs11(value, Function::Initialize);
        let (theirs, other) =
            ("/usr/lib/opencryptoki/libopencryptoki.so.0", "/usr/lib/libtoken.so");
        for (path, value, words) in [
            (theirs, RvError::FunctionFailed, "SupplementaryGroups=pkcs11"),
            (theirs, RvError::HostMemory, "usermod -aG pkcs11 USER"),
            (theirs, RvError::HostMemory, "start pkcsslotd"),
            (theirs, RvError::GeneralError, "vendor's library"),
            (other, RvError::FunctionFailed, "vendor's library"),
        ] {
            let text = TokenError::start(Path::new(path), &fault(value)).to_string();
            assert!(text.contains("does not start: CKR_"), "{text}");
            assert!(text.contains(words) && text.matches("; ").count() == 1, "{text}");
        }
    }

    /// Return values have the standard's names, without its prose.
    #[test]
    fn return_values_have_their_names() {
        for (value, text) in [
            (RvError::DeviceRemoved, "CKR_DEVICE_REMOVED from C_Sign"),
            (RvError::CryptokiNotInitialized, "CKR_CRYPTOKI_NOT_INITIALIZED from C_Sign"),
            (RvError::PinLenRange, "CKR_PIN_LEN_RANGE from C_Sign"),
            (RvError::VendorDefined(0x8000_0001), "0x80000001 from C_Sign"),
        ] {
            let fault = Fault::Call(Pkcs11Error::Pkcs11(value, Function::Sign));
            assert_eq!(fault.to_string(), text);
        }
    }

    /// Each return value about the PIN stops, none about sessions does.
    #[test]
    fn pin_faults_are_told_from_others() {
        let fault = |value| Pkcs11Error::Pkcs11(value, Function::Login);
        assert!(is_pin_fault(&fault(RvError::PinIncorrect)));
        assert!(is_pin_fault(&fault(RvError::PinLocked)));
        assert!(!is_pin_fault(&fault(RvError::DeviceError)));
        assert!(!is_pin_fault(&fault(RvError::UserAlreadyLoggedIn)));
    }
}
