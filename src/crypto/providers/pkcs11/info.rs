//! What a token says about itself, read without judging it.
//!
//! The binding parses the token's clock as well and gives nothing at all where that string is
//! malformed (openCryptoki's software token); a clock is of no use here, so the function is then
//! called past the binding. Not always: some libraries (p11-kit's client) give every caller of
//! C_GetFunctionList a module of its own, which nobody has initialised. Texts are padded with
//! spaces by the standard and with NULs by some tokens, and what follows a NUL is nobody's name.

use std::path::Path;

use cryptoki::context::Pkcs11;
use cryptoki::error::Error as Pkcs11Error;
use cryptoki::slot::Limit;
use cryptoki::slot::Slot;
use cryptoki::slot::TokenInfo;
use cryptoki_sys::CK_EFFECTIVELY_INFINITE;
use cryptoki_sys::CK_FUNCTION_LIST;
use cryptoki_sys::CK_FUNCTION_LIST_PTR;
use cryptoki_sys::CK_RV;
use cryptoki_sys::CK_TOKEN_INFO;
use cryptoki_sys::CK_ULONG;
use cryptoki_sys::CK_UNAVAILABLE_INFORMATION;
use cryptoki_sys::CKF_TOKEN_INITIALIZED;
use cryptoki_sys::CKF_USER_PIN_FINAL_TRY;
use cryptoki_sys::CKF_USER_PIN_LOCKED;
use cryptoki_sys::CKR_OK;
use libloading::os::unix::Library;
use libloading::os::unix::RTLD_NOW;

use crate::crypto::providers::pkcs11::error::words;

/// The parts of CK_TOKEN_INFO that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Info {
    pub label: String,
    pub serial: String,
    pub model: String,
    pub version: String,
    pub initialised: bool,
    pub pin_locked: bool,
    pub pin_final_try: bool,
    /// Sessions that one application may have, where the token states a number.
    pub sessions_max: Option<u64>,
    /// Bytes free for private objects, where the token states a number.
    pub free_private: Option<u64>,
}

/// Describes the token in a slot of the library at `path`, which is loaded and initialised.
pub(super) fn token_info(path: &Path, context: &Pkcs11, slot: Slot) -> Result<Info, String> {
    match context.get_token_info(slot) {
        Ok(info) => Ok(Info::from(&info)),
        Err(error @ Pkcs11Error::Pkcs11(..)) => Err(words(&error)),
        // The token answered; the binding does not like what it said.
        Err(_) => Functions::of_loaded(path)?.token_info(slot),
    }
}

/// The functions of a library that is loaded already.
struct Functions {
    /// Keeps them where they are.
    _library: Library,
    list: CK_FUNCTION_LIST_PTR,
}

impl Functions {
    fn of_loaded(path: &Path) -> Result<Self, String> {
        type Get = unsafe extern "C" fn(*mut CK_FUNCTION_LIST_PTR) -> CK_RV;
        let mut list = std::ptr::null_mut();
        // SAFETY: with RTLD_NOLOAD no code of the library runs; the symbol has this type in every
        // module (PKCS #11, 5.4) and fills the place it is given.
        let library = unsafe {
            let library = Library::open(Some(path), RTLD_NOW | nix::libc::RTLD_NOLOAD)
                .map_err(|error| error.to_string())?;
            let get =
                library.get::<Get>(b"C_GetFunctionList\0").map_err(|error| error.to_string())?;
            if get(&mut list) != CKR_OK || list.is_null() {
                return Err("it does not give its functions".to_owned());
            }
            library
        };
        Ok(Self { _library: library, list })
    }

    /// C_GetTokenInfo.
    fn token_info(&self, slot: Slot) -> Result<Info, String> {
        let mut info = CK_TOKEN_INFO::default();
        // SAFETY: the list lives as long as the library; the function fills the structure.
        let value = unsafe {
            let list: &CK_FUNCTION_LIST = &*self.list;
            let ask = list.C_GetTokenInfo.ok_or("it has no C_GetTokenInfo")?;
            ask(slot.into(), &mut info)
        };
        match value {
            CKR_OK => Ok(Info::from(&info)),
            value => Err(format!("C_GetTokenInfo answers {value:#x}")),
        }
    }
}

impl From<&TokenInfo> for Info {
    fn from(info: &TokenInfo) -> Self {
        let sessions = [info.max_session_count(), info.max_rw_session_count()];
        let stated = |limit| match limit {
            Limit::Max(limit) => Some(limit),
            Limit::Infinite | Limit::Unavailable => None,
        };
        Self {
            label: text(info.label().as_bytes()),
            serial: text(info.serial_number().as_bytes()),
            model: text(info.model().as_bytes()),
            version: info.firmware_version().to_string(),
            initialised: info.token_initialized(),
            pin_locked: info.user_pin_locked(),
            pin_final_try: info.user_pin_final_try(),
            sessions_max: sessions.into_iter().filter_map(stated).min(),
            free_private: info.free_private_memory().map(|free| free as u64),
        }
    }
}

impl From<&CK_TOKEN_INFO> for Info {
    fn from(info: &CK_TOKEN_INFO) -> Self {
        let sessions = [info.ulMaxSessionCount, info.ulMaxRwSessionCount];
        let version = info.firmwareVersion;
        Self {
            label: text(&info.label),
            serial: text(&info.serialNumber),
            model: text(&info.model),
            version: format!("{}.{}", version.major, version.minor),
            initialised: info.flags & CKF_TOKEN_INITIALIZED != 0,
            pin_locked: info.flags & CKF_USER_PIN_LOCKED != 0,
            pin_final_try: info.flags & CKF_USER_PIN_FINAL_TRY != 0,
            sessions_max: sessions.into_iter().filter_map(stated).min(),
            free_private: match info.ulFreePrivateMemory {
                CK_UNAVAILABLE_INFORMATION => None,
                free => stated(free),
            },
        }
    }
}

/// A limit that is a number: neither "effectively infinite" nor "not available".
fn stated(limit: CK_ULONG) -> Option<u64> {
    #[allow(clippy::useless_conversion, reason = "CK_ULONG has 32 bits on some targets")]
    match limit {
        CK_EFFECTIVELY_INFINITE | CK_UNAVAILABLE_INFORMATION => None,
        limit => Some(limit.into()),
    }
}

/// A padded text field.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).trim_matches(' ').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded<const N: usize>(text: &[u8], pad: u8) -> [u8; N] {
        let mut field = [pad; N];
        field[..text.len()].copy_from_slice(text);
        field
    }

    /// Aim: names come out whole, whatever pads them.
    #[test]
    fn names_are_read_whatever_pads_them() {
        for pad in [b' ', 0] {
            let field: [u8; 32] = padded(b"obelisk", pad);
            assert_eq!(text(&field), "obelisk");
        }
        assert_eq!(text(b"tpm\0left over from before      "), "tpm");
        assert_eq!(text(b"  two words \0\0"), "two words");
        assert_eq!(text(&[b'x'; 16]), "x".repeat(16));
        assert_eq!(text(&[0; 16]), "");
        assert_eq!(text(b"\xff\xfeab"), "\u{fffd}\u{fffd}ab");
    }

    /// Aim: only a number that the token states is a limit, and the smaller of the two counts; the
    /// clock plays no part.
    #[test]
    fn only_stated_limits_are_limits() {
        let limit = |all, rw| {
            let info = CK_TOKEN_INFO {
                ulMaxSessionCount: all,
                ulMaxRwSessionCount: rw,
                utcTime: *b"\0garbage\xff 2026??",
                ..CK_TOKEN_INFO::default()
            };
            Info::from(&info).sessions_max
        };
        let (infinite, unknown) = (CK_EFFECTIVELY_INFINITE, CK_UNAVAILABLE_INFORMATION);
        for none in [(infinite, infinite), (unknown, unknown), (infinite, unknown)] {
            assert_eq!(limit(none.0, none.1), None);
        }
        assert_eq!(limit(16, unknown), Some(16));
        assert_eq!(limit(infinite, 8), Some(8));
        assert_eq!(limit(1024, 16), Some(16));
    }
}
