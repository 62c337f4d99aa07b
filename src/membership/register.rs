//! The register of a membership service: who may enrol, who did, and everything that was refused,
//! in one file that only grows.
//!
//! ```text
//! register.log   one line per act, JSON:  {"previous":"<hex>","at_ms":..,"act":{"registered":{..}}}
//!                previous: SHA-256 of the line before, zeros in the first; a changed or missing
//!                line breaks the chain and the file is refused
//! ```
//!
//! The file is both the state and the audit log. Each act is on disk before anybody hears of it: a
//! certificate leaves only after the line that holds it. So a crash between issuing and answering
//! loses nothing: the same request gets the same certificates again.
//!
//! The command line and the service may use one register at the same time. Each act takes the
//! file's lock, reads what the other wrote, decides, appends, syncs. A line without its end is what
//! a crash left of an act that nobody heard of; it is cut off. After a failed write the register
//! refuses everything until it is opened anew.
//!
//! Invariants: one secret yields certificates for one pair of keys, ever; a secret is kept as a
//! salted digest; a wrong secret is answered like an unknown name, and counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

use crate::membership::authority::Authority;
use crate::membership::authority::AuthorityError;
use crate::membership::authority::Enrolment;
use crate::membership::authority::Terms;
use crate::membership::authority::TlsSubject;
use crate::membership::enrolment::Applicant;
use crate::membership::enrolment::Secret;
use crate::membership::identity;
use crate::membership::identity::Role;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::limits;

/// The open file and what it says.
pub struct Register {
    path: PathBuf,
    file: File,
    /// Bytes read so far, whole lines.
    read: u64,
    /// Digest of the last line.
    last: Digest,
    /// A write failed: what is on disk is not known.
    broken: bool,
    entries: BTreeMap<(String, String), Entry>,
}

/// Who may enrol, as the registrar said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Role, by its word.
    pub role: String,
    /// Name within organisation and role.
    pub name: String,
    /// Attributes of the enrolment certificate.
    pub attributes: BTreeMap<String, String>,
    /// Host names and addresses of the TLS certificate.
    pub hosts: Vec<String>,
    /// Validity of the certificates, days.
    pub days: u32,
    /// The secret is good until then, milliseconds since 1970.
    pub expires_ms: u64,
}

/// What the register knows of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The latest registration.
    pub registration: Registration,
    /// Wrong secrets since, and other keys after the first.
    pub refused: u32,
    /// Certificates that came of it.
    pub issued: Option<Issued>,
    /// Certificates that came of earlier registrations of the name.
    pub former: Vec<Issued>,
    salt: Vec<u8>,
    digest: Digest,
}

/// Certificates, and the keys they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Enrolment certificate, DER.
    pub enrolment: Bytes,
    /// TLS certificate, DER.
    pub tls: Bytes,
    keys: Digest,
}

/// Where a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The secret may be used.
    Waiting,
    /// The secret came too late.
    Expired,
    /// Too many wrong secrets.
    Locked,
    /// Certificates were issued.
    Enrolled,
}

/// Why an act was refused.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The file system.
    #[error("cannot {doing} the register {path}; check disk and permissions, then start again")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The chain of lines is broken.
    #[error(
        "the line at byte {at} of the register {path} is not what was written: {reason}; restore \
         the file from a backup, and find out who changed it"
    )]
    Changed { path: PathBuf, at: u64, reason: String },
    /// An earlier write failed.
    #[error("the register {path} could not be written before; start the service again")]
    Broken { path: PathBuf },
    /// The file is as long as it may get.
    #[error("the register {path} is full; found another one, and keep this one as a record")]
    Full { path: PathBuf },
    /// What the registrar asked for is not possible.
    #[error("cannot register this: {reason}")]
    Registration { reason: String },
    /// No such name, or not its secret: nobody may learn which.
    #[error(
        "no such name is registered, or this is not its secret; ask the registrar of the \
         organisation"
    )]
    Unknown,
    /// Too late.
    #[error("the secret has expired; ask the registrar to register the name again")]
    Expired,
    /// Too many wrong secrets.
    #[error("the secret was tried too often; ask the registrar to register the name again")]
    Locked,
    /// Certificates were issued for other keys.
    #[error(
        "the secret was used before, for other keys; if that was somebody else, have those \
         certificates revoked, and ask the registrar to register the name again"
    )]
    Used,
    /// The authority refused.
    #[error("the authority cannot issue the certificates")]
    Authority(#[from] AuthorityError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    previous: String,
    at_ms: u64,
    act: Act,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Act {
    Registered {
        registration: Registration,
        salt: String,
        digest: String,
    },
    Refused {
        role: String,
        name: String,
        reason: String,
        from: String,
    },
    Issued {
        role: String,
        name: String,
        keys: String,
        enrolment: String,
        tls: String,
        from: String,
    },
}

impl Register {
    /// Makes a new, empty register.
    pub fn create(path: &Path) -> Result<Self, RegisterError> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        made.and_then(|file| file.sync_all()).map_err(failed("create", path))?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed("create", path))?;
        Self::open(path)
    }

    /// Opens a register and reads all of it.
    pub fn open(path: &Path) -> Result<Self, RegisterError> {
        let file = OpenOptions::new().read(true).append(true).open(path);
        let mut register = Self {
            path: path.to_owned(),
            file: file.map_err(failed("open", path))?,
            read: 0,
            last: Digest::ZERO,
            broken: false,
            entries: BTreeMap::new(),
        };
        register.locked(|_| Ok(()))?;
        Ok(register)
    }

    /// Lets somebody enrol: gives the one-time secret, which is shown once and not kept. A name
    /// that is known already needs `again`: its former secret is void then, and certificates that
    /// it has stay valid until they are revoked.
    pub fn register(
        &mut self,
        registration: Registration,
        again: bool,
        now_ms: u64,
    ) -> Result<Secret, RegisterError> {
        check(&registration)?;
        let random = |error: getrandom::Error| RegisterError::Registration {
            reason: format!("no randomness: {error}"),
        };
        let secret = Secret::draw().map_err(random)?;
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(random)?;
        self.locked(|register| {
            let key = (registration.role.clone(), registration.name.clone());
            if register.entries.contains_key(&key) && !again {
                let reason = format!("{}/{} is registered already; say --again", key.0, key.1);
                return Err(RegisterError::Registration { reason });
            }
            if register.entries.len() >= limits::REGISTRATIONS_MAX {
                return Err(RegisterError::Full { path: register.path.clone() });
            }
            let digest = secret.digest(&salt).to_string();
            let salt = hex::encode(salt);
            register.append(Act::Registered { registration, salt, digest }, now_ms)
        })?;
        Ok(secret)
    }

    /// Issues the certificates of an applicant whose possession of both keys is proven, or gives
    /// again those that it got before. `from` says where the request came from, for the record.
    pub fn enrol(
        &mut self,
        applicant: &Applicant,
        secret: &Secret,
        authority: &Authority,
        from: &str,
        now_ms: u64,
    ) -> Result<Issued, RegisterError> {
        self.locked(|register| register.enrol_locked(applicant, secret, authority, from, now_ms))
    }

    /// Everything registered, by role and name.
    pub fn entries(&mut self) -> Result<Vec<Entry>, RegisterError> {
        self.locked(|register| Ok(register.entries.values().cloned().collect()))
    }

    fn enrol_locked(
        &mut self,
        applicant: &Applicant,
        secret: &Secret,
        authority: &Authority,
        from: &str,
        now_ms: u64,
    ) -> Result<Issued, RegisterError> {
        let key = (applicant.role.name().to_owned(), applicant.name.clone());
        let entry = self.entries.get(&key).cloned().ok_or(RegisterError::Unknown)?;
        if secret.digest(&entry.salt) != entry.digest {
            return self.refuse(&entry, "wrong secret", from, now_ms, RegisterError::Unknown);
        }
        let keys = keys_of(applicant);
        if let Some(issued) = entry.issued.clone() {
            if issued.keys == keys {
                return Ok(issued);
            }
            return self.refuse(&entry, "other keys", from, now_ms, RegisterError::Used);
        }
        match entry.standing(now_ms) {
            Standing::Locked => return Err(RegisterError::Locked),
            Standing::Expired => return Err(RegisterError::Expired),
            Standing::Waiting | Standing::Enrolled => {}
        }
        let (enrolment, tls) = issue(&entry.registration, applicant, authority, now_ms)?;
        let (role, name) = key.clone();
        let (enrolment, tls) = (hex::encode(enrolment), hex::encode(tls));
        let (keys, from) = (keys.to_string(), from.to_owned());
        self.append(Act::Issued { role, name, keys, enrolment, tls, from }, now_ms)?;
        let entry = self.entries.get(&key);
        entry.and_then(|entry| entry.issued.clone()).ok_or(RegisterError::Unknown)
    }

    /// Writes a refusal down, as long as the name is not locked: whoever guesses cannot fill the
    /// disk.
    fn refuse<T>(
        &mut self,
        entry: &Entry,
        reason: &str,
        from: &str,
        now_ms: u64,
        answer: RegisterError,
    ) -> Result<T, RegisterError> {
        if entry.refused < limits::ENROLMENT_TRIES_MAX {
            let (role, name) = (entry.registration.role.clone(), entry.registration.name.clone());
            let (reason, from) = (reason.to_owned(), from.to_owned());
            self.append(Act::Refused { role, name, reason, from }, now_ms)?;
        }
        Err(answer)
    }

    /// Runs an act alone on the file, on all that was written before.
    fn locked<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, RegisterError>,
    ) -> Result<T, RegisterError> {
        if self.broken {
            return Err(RegisterError::Broken { path: self.path.clone() });
        }
        self.file.lock().map_err(failed("lock", &self.path))?;
        let done = self.catch_up().and_then(|()| act(self));
        self.file.unlock().map_err(failed("unlock", &self.path))?;
        done
    }

    /// Reads what was appended since the last look.
    fn catch_up(&mut self) -> Result<(), RegisterError> {
        let path = self.path.clone();
        let mut text = Vec::new();
        let limit = limits::REGISTER_BYTES_MAX;
        let read = self
            .file
            .seek(SeekFrom::Start(self.read))
            .and_then(|_| (&self.file).take(limit + 1).read_to_end(&mut text));
        read.map_err(failed("read", &path))?;
        if self.read + text.len() as u64 > limit {
            return Err(RegisterError::Full { path });
        }
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in text[..whole].split_inclusive(|byte| *byte == b'\n') {
            self.take(&line[..line.len() - 1])?;
            self.read += line.len() as u64;
        }
        if whole < text.len() {
            tracing::warn!(path = ?path, "the register ends in half a line; it is cut off");
            let cut = self.file.set_len(self.read).and_then(|()| self.file.sync_all());
            cut.map_err(failed("cut", &path))?;
        }
        Ok(())
    }

    /// Appends an act, durable when this returns, and takes it in.
    fn append(&mut self, act: Act, at_ms: u64) -> Result<(), RegisterError> {
        let line = Line { previous: self.last.to_string(), at_ms, act };
        let text = serde_json::to_string(&line).map_err(|error| RegisterError::Registration {
            reason: format!("it cannot be written down: {error}"),
        })?;
        let length = text.len() as u64 + 1;
        if self.read + length > limits::REGISTER_BYTES_MAX {
            return Err(RegisterError::Full { path: self.path.clone() });
        }
        let written = self.file.write_all(format!("{text}\n").as_bytes());
        if let Err(source) = written.and_then(|()| self.file.sync_all()) {
            self.broken = true;
            return Err(failed("write", &self.path)(source));
        }
        self.take(text.as_bytes())?;
        self.read += length;
        Ok(())
    }

    /// Takes in one line, its end left off.
    fn take(&mut self, text: &[u8]) -> Result<(), RegisterError> {
        let (path, at) = (self.path.clone(), self.read);
        let changed = |reason: String| RegisterError::Changed { path: path.clone(), at, reason };
        let line: Line = serde_json::from_slice(text).map_err(|e| changed(e.to_string()))?;
        if line.previous != self.last.to_string() {
            return Err(changed("the line before it is another one".to_owned()));
        }
        let known = self.apply(line.act, line.at_ms);
        known.ok_or_else(|| changed("it speaks of nothing registered".to_owned()))?;
        self.last = Digest::of(&[text]);
        Ok(())
    }

    fn apply(&mut self, act: Act, at_ms: u64) -> Option<()> {
        match act {
            Act::Registered { registration, salt, digest } => {
                let key = (registration.role.clone(), registration.name.clone());
                let (salt, digest) = (hex::decode(salt).ok()?, digest_of(&digest)?);
                let before = self.entries.remove(&key);
                let former = before.map_or_else(Vec::new, |entry| {
                    entry.former.into_iter().chain(entry.issued).collect()
                });
                let (refused, issued) = (0, None);
                let entry = Entry { registration, refused, issued, former, salt, digest };
                self.entries.insert(key, entry);
            }
            Act::Refused { role, name, .. } => {
                let entry = self.entries.get_mut(&(role, name))?;
                entry.refused = entry.refused.saturating_add(1);
            }
            Act::Issued { role, name, keys, enrolment, tls, .. } => {
                let entry = self.entries.get_mut(&(role, name))?;
                let (enrolment, tls) = (hex::decode(enrolment).ok()?, hex::decode(tls).ok()?);
                let (enrolment, tls) = (enrolment.into(), tls.into());
                entry.issued = Some(Issued { at_ms, enrolment, tls, keys: digest_of(&keys)? });
            }
        }
        Some(())
    }
}

impl Entry {
    /// Where the name stands at a time.
    pub fn standing(&self, now_ms: u64) -> Standing {
        match () {
            () if self.issued.is_some() => Standing::Enrolled,
            () if self.refused >= limits::ENROLMENT_TRIES_MAX => Standing::Locked,
            () if now_ms > self.registration.expires_ms => Standing::Expired,
            () => Standing::Waiting,
        }
    }
}

impl Standing {
    /// The word in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Expired => "expired",
            Self::Locked => "locked",
            Self::Enrolled => "enrolled",
        }
    }
}

impl std::fmt::Debug for Register {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Register").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What could never be issued is refused when it is registered, not when somebody enrols.
fn check(registration: &Registration) -> Result<(), RegisterError> {
    let refuse = |reason: String| Err(RegisterError::Registration { reason });
    let Some(role) = Role::from_name(&registration.role) else {
        return refuse(format!("{:?} is no role", registration.role));
    };
    let name = &registration.name;
    if !identity::is_name(name) {
        return refuse(format!("{name:?} is no name; use 1 to 64 of a-z, 0-9, '-' and '.'"));
    }
    if (role, name.as_str()) == SERVICE {
        return refuse(format!("client/{name} is the service itself; choose another name"));
    }
    if registration.hosts.len() > limits::CERTIFICATE_HOSTS_MAX {
        return refuse(format!("more than {} hosts", limits::CERTIFICATE_HOSTS_MAX));
    }
    let attributes: Vec<_> = registration.attributes.clone().into_iter().collect();
    match identity::encode_attributes(&attributes) {
        Ok(_) => Ok(()),
        Err(error) => refuse(error.to_string()),
    }
}

fn issue(
    registration: &Registration,
    applicant: &Applicant,
    authority: &Authority,
    now_ms: u64,
) -> Result<(Bytes, Bytes), AuthorityError> {
    let (role, name) = (applicant.role, applicant.name.as_str());
    let attributes: Vec<_> = registration.attributes.clone().into_iter().collect();
    let key = &applicant.enrolment_key;
    let enrolment = Enrolment { name, role, attributes: &attributes, key };
    let tls = TlsSubject { name, role, hosts: &registration.hosts, key: &applicant.tls_key };
    let from_ms = now_ms.saturating_sub(BACKDATED_MS);
    Ok((
        authority.enrol(&enrolment, &Terms::new(from_ms, registration.days)?)?,
        authority.issue_tls(&tls, &Terms::new(from_ms, registration.days)?)?,
    ))
}

fn keys_of(applicant: &Applicant) -> Digest {
    Digest::of(&[&applicant.enrolment_key.to_bytes(), &applicant.tls_key.to_bytes()])
}

fn digest_of(text: &str) -> Option<Digest> {
    Some(Digest(hex::decode(text).ok()?.try_into().ok()?))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegisterError {
    let path = path.to_owned();
    move |source| RegisterError::Io { doing, path, source }
}

/// Role and name of the membership service's own TLS certificate: the least of all roles, and
/// nobody else may have the name.
pub const SERVICE: (Role, &str) = (Role::Client, "ca");
/// Certificates are valid from one hour before now: clocks differ.
pub const BACKDATED_MS: u64 = 60 * 60 * 1000;
const SALT_BYTES: usize = 16;

#[cfg(test)]
mod tests;
