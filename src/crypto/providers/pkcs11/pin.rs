//! The PIN: where it comes from, and that a refused one is not tried again.
//!
//! ```text
//! file         owned by this user or root, mode 0400 (0600), read at each login, wiped after it
//! credential   $CREDENTIALS_DIRECTORY/<name>, as systemd hands it over
//! ```
//!
//! Never an argument, never an environment variable, never a log line. A refused PIN leaves a
//! record of the file's identity (not of its content) in the signer's directory: a service manager
//! that starts the process again and again must not lock the token. systemd makes a credential's file
//! anew at each start, so it has no identity: its record holds until somebody removes it.

use std::fs;
use std::fs::Metadata;
use std::io;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use cryptoki::types::AuthPin;
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use crate::crypto::providers::pkcs11::error::TokenError;
use crate::types::limits;

/// Where a PIN is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinSource {
    /// In a file of its own.
    File(PathBuf),
    /// A credential of the service manager.
    Credential(String),
}

impl PinSource {
    fn place(&self, token: &str) -> Result<PathBuf, TokenError> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(directory) => Ok(Path::new(&directory).join(name)),
                None => Err(TokenError::PinFile {
                    token: token.to_owned(),
                    path: PathBuf::from(name),
                    reason: "no credentials were handed over; start with LoadCredential= in a \
                             systemd unit, or name a file with `pin`"
                        .to_owned(),
                }),
            },
        }
    }

    /// Reads the PIN, unless this very file was refused before.
    pub(super) fn read(&self, token: &str, memory: Option<&Path>) -> Result<AuthPin, TokenError> {
        let path = self.place(token)?;
        let failed = |error: io::Error| TokenError::pin_file(token, &path, &error);
        let mut file = fs::File::open(&path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        self.check_mode(token, &path, &found)?;
        if let Some(marker) = memory.map(|memory| marker(memory, token))
            && fs::read_to_string(&marker).is_ok_and(|text| text.trim() == self.identity(&found))
        {
            let reason = match self {
                Self::File(_) => format!(
                    "its PIN in {} was refused before and the file is still the same",
                    path.display()
                ),
                Self::Credential(name) => {
                    format!("its PIN, the credential {name}, was refused before")
                }
            };
            let fix = format!("correct the PIN and {}", self.remedy(token, memory));
            return Err(TokenError::Pin { token: token.to_owned(), reason, fix });
        }
        let mut text = Zeroizing::new(String::with_capacity(limits::PIN_BYTES_MAX + 2));
        let limit = limits::PIN_BYTES_MAX as u64 + 2;
        Read::by_ref(&mut file).take(limit).read_to_string(&mut text).map_err(failed)?;
        let pin = text.trim_end_matches(['\n', '\r']);
        if pin.is_empty() || pin.len() > limits::PIN_BYTES_MAX {
            let reason = format!("a PIN has 1 to {} bytes", limits::PIN_BYTES_MAX);
            return Err(TokenError::PinFile { token: token.to_owned(), path, reason });
        }
        Ok(AuthPin::from(pin.to_owned()))
    }

    /// Remembers that the token refused what this file holds.
    pub(super) fn remember_refused(&self, token: &str, memory: Option<&Path>) {
        let Some(memory) = memory else { return };
        let written = self
            .place(token)
            .map_err(|error| io::Error::other(error.to_string()))
            .and_then(fs::metadata)
            .and_then(|found| fs::write(marker(memory, token), self.identity(&found)));
        if let Err(error) = written {
            tracing::warn!(%error, token, "cannot remember that the PIN was refused");
        }
    }

    /// What an operator does with a corrected PIN, so that it is tried.
    pub(super) fn remedy(&self, token: &str, memory: Option<&Path>) -> String {
        match (self, memory) {
            (Self::Credential(_), Some(memory)) => {
                format!("remove {}", marker(memory, token).display())
            }
            _ => "write its file anew".to_owned(),
        }
    }

    /// Tells this file from a later one of the same name; nothing about its content.
    fn identity(&self, found: &Metadata) -> String {
        match self {
            Self::Credential(_) => "credential".to_owned(),
            Self::File(_) => {
                let (seconds, nanos) = (found.mtime(), found.mtime_nsec());
                format!("{}:{}:{seconds}.{nanos:09}", found.dev(), found.ino())
            }
        }
    }

    fn check_mode(&self, token: &str, path: &Path, found: &Metadata) -> Result<(), TokenError> {
        let refuse = |reason: String| {
            Err(TokenError::PinFile { token: token.to_owned(), path: path.to_owned(), reason })
        };
        let mode = found.mode() & 0o777;
        // systemd opens a credential to the service's user by an access list, which shows as group.
        let closed = match self {
            Self::File(_) => mode & 0o077 == 0,
            Self::Credential(_) => mode & 0o007 == 0,
        };
        if !closed {
            return refuse(format!("others can read it (mode {mode:03o}); `chmod 400` it"));
        }
        if found.uid() != geteuid().as_raw() && found.uid() != 0 {
            return refuse(format!("it belongs to user {}; give it to this user", found.uid()));
        }
        Ok(())
    }
}

fn marker(memory: &Path, token: &str) -> PathBuf {
    memory.join(format!("{token}.pin-refused"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pin");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    /// A file that others can read, an empty and an endless one are refused, and no text of a
    /// refusal holds the PIN.
    #[test]
    fn unsafe_files_are_refused() {
        for (text, mode, words) in [
            ("canary-31337\n", 0o644, "others can read"),
            ("\n", 0o400, "1 to"),
            (&"9".repeat(300), 0o400, "1 to"),
        ] {
            let (_directory, path) = file(text, mode);
            let error = PinSource::File(path).read("t", None).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("31337"), "{error}");
        }
        let (_directory, path) = file("1234\n", 0o400);
        PinSource::File(path).read("t", None).unwrap();
    }

    /// A refused PIN is refused again without asking the token, until the file changes.
    #[test]
    fn a_refused_pin_is_remembered_until_the_file_changes() {
        let (directory, path) = file("1234\n", 0o600);
        let (source, memory) = (PinSource::File(path.clone()), Some(directory.path()));
        source.read("t", memory).unwrap();
        source.remember_refused("t", memory);
        let error = source.read("t", memory).err().unwrap();
        assert!(error.is_final(), "{error}");
        fs::remove_file(&path).unwrap();
        fs::write(directory.path().join("other"), "").unwrap();
        fs::write(&path, "12345\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        source.read("t", memory).unwrap();
    }
}
