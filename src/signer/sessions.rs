//! Session keys: software keys that sign votes in the stead of a key on a slow token, each for one
//! range of sequence numbers.
//!
//! ```text
//! token key --- certifies, one range ahead ---> session key --- signs votes under the same guard
//! file  "obelisk.session-key.1" | chain 32 | replica key's SHA-256 32 | terms | option signature 64
//!       | u32 private key, PKCS#8 | SHA-256 of all before 32
//! ```
//!
//! Place: in the signer's process, mode `delegated`. A token that is away is needed again only when
//! the present range and the one certified ahead of it are used up.
//!
//! Invariants:
//! * A session's key is on the medium before its certificate exists, so no certificate is ever
//!   wasted and none is out whose key is lost by a crash.
//! * The guard records the certificate's text under its first sequence number before the token
//!   signs it: one session key per first sequence number. Votes of every session go through the
//!   one guard of the validator.
//! * Ranges ascend and do not overlap.
//! * A key whose range lies two windows below the newest vote is deleted: nobody who breaks in
//!   later can sign for the past.
//!
//! Failure: without a session for a sequence number its vote is not signed, and the reason is the
//! token's. A damaged file is refused at the start, with its name.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::crypto::Check;
use crate::crypto::CryptoError;
use crate::crypto::SharedSigningKey;
use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::signer::SignError;
use crate::signer::guard::disk;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::ids::Epoch;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::signature::Algorithm;
use crate::types::signature::Signature;
use crate::types::vote_signature::Bound;
use crate::types::vote_signature::SessionCertificate;
use crate::types::vote_signature::SessionTerms;

/// What session keys are made by.
#[derive(Clone)]
pub struct SessionPlan {
    /// Where their files are; this signer's alone.
    pub folder: PathBuf,
    /// The replica set that the validator's key is in.
    pub epoch: Epoch,
    /// Sequence numbers of one session.
    pub length: u64,
    /// Algorithm of the session keys.
    pub algorithm: Algorithm,
    /// Makes and loads the keys.
    pub crypto: Arc<Crypto>,
}

/// Why session keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The disk refused.
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The bytes are not what was written.
    #[error(
        "the session key {path} is damaged: {reason}. Delete it: the token certifies another, and \
         votes begin again one sequence number later"
    )]
    Damaged { path: PathBuf, reason: String },
}

/// A session key and its certificate.
pub struct Session {
    /// What is certified.
    pub terms: SessionTerms,
    /// The certificate; none until the token has signed it.
    pub certificate: Option<Arc<SessionCertificate>>,
    /// The key.
    pub key: SharedSigningKey,
    secret: Zeroizing<Vec<u8>>,
}

/// The fields of a file.
pub struct Stored {
    /// The network.
    pub chain: ChainId,
    /// SHA-256 of the validator's public key.
    pub owner: Digest,
    /// What is certified.
    pub terms: SessionTerms,
    /// The validator's key's, over the terms; none until the token has signed.
    pub signature: Option<Signature>,
    /// The private key, PKCS#8.
    pub secret: Zeroizing<Vec<u8>>,
}

/// The sessions of one validator, ascending.
pub struct Sessions {
    plan: SessionPlan,
    chain: ChainId,
    owner: Digest,
    held: VecDeque<Session>,
}

impl Sessions {
    /// Reads the sessions of the folder, which is made where it is missing.
    pub fn open(
        plan: SessionPlan,
        chain: ChainId,
        replica: &dyn SigningKey,
    ) -> Result<Self, SessionError> {
        let folder = plan.folder.clone();
        let io_error =
            |doing| move |source| SessionError::Io { doing, path: folder.clone(), source };
        disk::make_folder(&plan.folder).map_err(io_error("make"))?;
        let public = replica.public_key();
        let owner = Digest::of(&[&public.to_bytes()]);
        let mut sessions = Self { plan, chain, owner, held: VecDeque::new() };
        let mut found = Vec::new();
        let folder = sessions.plan.folder.clone();
        let unreadable = |source| SessionError::Io { doing: "list", path: folder.clone(), source };
        for entry in fs::read_dir(&sessions.plan.folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                found.push(path);
            }
        }
        for path in found {
            let session = sessions.read(&path)?;
            let signed = session.certificate.as_ref().is_none_or(|certificate| {
                let text = session.terms.text(&chain);
                let signature = &certificate.signature;
                sessions.plan.crypto.verify(&Check { key: public, message: &text, signature })
            });
            if !signed {
                let reason = "its certificate is not this validator's".to_owned();
                return Err(SessionError::Damaged { path, reason });
            }
            sessions.held.push_back(session);
        }
        sessions.held.make_contiguous().sort_by_key(|session| session.terms.first);
        Ok(sessions)
    }

    /// The certified session that signs a text of that bound, if one is held.
    pub fn signing(&self, bound: Bound) -> Option<&Session> {
        let certified = || self.held.iter().filter(|session| session.certificate.is_some());
        match bound {
            Bound::Sequence(sequence) => certified().find(|session| session.covers(sequence)),
            // Any that is not past; the newest stays acceptable for longest.
            Bound::View | Bound::Free => certified().next_back(),
        }
    }

    /// Where the session for `sequence` begins, if the token may certify one: ranges ascend, so
    /// there is none below the newest.
    pub fn first_for(
        &self,
        sequence: SequenceNumber,
        floor: SequenceNumber,
    ) -> Option<SequenceNumber> {
        let near = sequence.0.saturating_sub(limits::WINDOW_MAX).max(floor.0).max(1);
        let Some(newest) = self.held.back() else {
            return Some(SequenceNumber(near));
        };
        if newest.certificate.is_none() && newest.covers(sequence) {
            return Some(newest.terms.first);
        }
        let next = newest.terms.last.0 + 1;
        (sequence.0 >= next).then(|| {
            SequenceNumber(match near > next + limits::WINDOW_MAX {
                // The network went on without this validator: the range between is never voted in.
                true => near,
                false => next,
            })
        })
    }

    /// Where the session begins that the token has still to certify, if one is prepared.
    pub fn waiting(&self) -> Option<SequenceNumber> {
        let newest = self.held.back().filter(|session| session.certificate.is_none())?;
        Some(newest.terms.first)
    }

    /// Where the next session begins, where the newest one has begun by `newest_vote` and no other
    /// is certified ahead of it.
    pub fn next_due(&self, newest_vote: SequenceNumber) -> Option<SequenceNumber> {
        let newest = self.held.back()?;
        match newest.certificate {
            None => Some(newest.terms.first),
            Some(_) if newest.terms.first <= newest_vote => {
                Some(SequenceNumber(newest.terms.last.0 + 1))
            }
            Some(_) => None,
        }
    }

    /// Makes the session key that begins at `first` and has its file written, or finds the one that
    /// was not certified yet. Returns the terms to certify.
    pub fn prepare(&mut self, first: SequenceNumber) -> Result<SessionTerms, SignError> {
        if let Some(waiting) = self.held.back().filter(|session| session.terms.first == first) {
            return Ok(waiting.terms.clone());
        }
        let crypto = &self.plan.crypto;
        let unusable = |error: CryptoError| SignError::Key {
            reason: format!("a session key cannot be made: {error}"),
        };
        let secret = crypto.generate(self.plan.algorithm).map_err(unusable)?;
        let key = crypto.load(self.plan.algorithm, &secret).map_err(unusable)?;
        let terms = SessionTerms {
            epoch: self.plan.epoch,
            first,
            last: SequenceNumber(first.0.saturating_add(self.plan.length - 1)),
            key: key.public_key().clone(),
        };
        let session = Session { terms: terms.clone(), certificate: None, key, secret };
        self.write(&session)?;
        self.held.push_back(session);
        Ok(terms)
    }

    /// Keeps the token's signature under the terms of the session that `prepare` made.
    pub fn certify(&mut self, terms: SessionTerms, signature: Signature) -> Result<(), SignError> {
        let Some(mut session) = self.held.pop_back_if(|session| session.terms == terms) else {
            let reason = "its terms are not those that were prepared".to_owned();
            return Err(SignError::Key { reason });
        };
        session.certificate = Some(Arc::new(SessionCertificate { terms, signature }));
        let written = self.write(&session);
        self.held.push_back(session);
        written
    }

    /// Drops a session that was never certified: the guard has another key for its place.
    pub fn abandon(&mut self, terms: &SessionTerms) {
        if self.held.pop_back_if(|session| session.terms == *terms).is_some() {
            let _ = fs::remove_file(self.path(terms.first));
        }
    }

    /// Deletes the keys of ranges that lie two windows below the newest vote.
    pub fn delete_past(&mut self, newest_vote: SequenceNumber) {
        let past = |session: &Session| {
            session.terms.last.0.saturating_add(2 * limits::WINDOW_MAX) < newest_vote.0
        };
        while self.held.len() > 1
            && let Some(session) = self.held.pop_front_if(|session| past(session))
        {
            let path = self.path(session.terms.first);
            match fs::remove_file(&path) {
                Ok(()) => {
                    let (first, last) = (session.terms.first, session.terms.last);
                    tracing::info!(%first, %last, "the key of a past session is deleted");
                }
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "a past session key stays on disk");
                }
            }
        }
    }

    /// The sessions, for people: range, and whether the token has certified it.
    pub fn ranges(&self) -> Vec<(SequenceNumber, SequenceNumber, bool)> {
        let range = |s: &Session| (s.terms.first, s.terms.last, s.certificate.is_some());
        self.held.iter().map(range).collect()
    }

    fn path(&self, first: SequenceNumber) -> PathBuf {
        self.plan.folder.join(format!("{:020}.{EXTENSION}", first.0))
    }

    fn write(&self, session: &Session) -> Result<(), SignError> {
        let path = self.path(session.terms.first);
        let bytes = self.to_bytes(session);
        disk::replace(&path, &bytes).map(drop).map_err(|error| SignError::Guard {
            reason: format!("cannot write the session key {}: {error}", path.display()),
        })
    }

    fn to_bytes(&self, session: &Session) -> Zeroizing<Vec<u8>> {
        let signature = session.certificate.as_ref().map(|certificate| certificate.signature);
        let (terms, secret) = (session.terms.clone(), session.secret.clone());
        Stored { chain: self.chain, owner: self.owner, terms, signature, secret }.to_bytes()
    }

    fn read(&self, path: &Path) -> Result<Session, SessionError> {
        let io_error = |source| SessionError::Io { doing: "read", path: path.to_owned(), source };
        let damaged = |reason: String| SessionError::Damaged { path: path.to_owned(), reason };
        let len = fs::metadata(path).map_err(io_error)?.len();
        if len > FILE_BYTES_MAX {
            return Err(damaged(format!("{len} bytes are more than any session key has")));
        }
        let bytes = Zeroizing::new(fs::read(path).map_err(io_error)?);
        let stored = Stored::from_bytes(&bytes).map_err(|error| damaged(error.to_string()))?;
        let Stored { chain, owner, terms, signature, secret } = stored;
        if chain != self.chain || owner != self.owner {
            return Err(damaged("it is another validator's or another network's".to_owned()));
        }
        let key = self.plan.crypto.load(terms.key.algorithm(), &secret);
        let key = key.map_err(|error| damaged(error.to_string()))?;
        if *key.public_key() != terms.key {
            return Err(damaged("it holds another key than it states".to_owned()));
        }
        let certificate = signature
            .map(|signature| Arc::new(SessionCertificate { terms: terms.clone(), signature }));
        Ok(Session { terms, certificate, key, secret })
    }
}

impl Stored {
    /// Reads a file's bytes: checksum, then every field.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let invalid = |reason| DecodeError::Invalid { field: "session key", reason };
        let (body, sum) = bytes.split_last_chunk::<32>().ok_or(invalid("it is cut"))?;
        if Digest::of(&[body]).0 != *sum {
            return Err(invalid("its checksum is wrong"));
        }
        let body = Bytes::copy_from_slice(body);
        let mut r = Reader::new(&body);
        if r.raw("session key tag", FILE_TAG.len())? != FILE_TAG {
            return Err(invalid("not an obelisk session key, version 1"));
        }
        let (chain, owner) = (ChainId::decode(&mut r)?, Digest::decode(&mut r)?);
        let terms = SessionTerms::decode(&mut r)?;
        let signature = r.option("certificate's signature")?;
        let secret = Zeroizing::new(r.bytes("private key", PKCS8_BYTES_MAX)?.to_vec());
        r.end("session key")?;
        Ok(Self { chain, owner, terms, signature, secret })
    }

    /// What is written.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::with_capacity(512);
        w.raw(FILE_TAG);
        self.chain.encode(&mut w);
        self.owner.encode(&mut w);
        self.terms.encode(&mut w);
        w.option(self.signature.as_ref());
        w.bytes(&self.secret);
        let mut bytes = Zeroizing::new(w.finish().to_vec());
        let sum = Digest::of(&[&bytes]);
        bytes.extend_from_slice(&sum.0);
        bytes
    }
}

impl Session {
    fn covers(&self, sequence: SequenceNumber) -> bool {
        (self.terms.first..=self.terms.last).contains(&sequence)
    }
}

const FILE_TAG: &[u8] = b"obelisk.session-key.1";
const EXTENSION: &str = "session";
const PKCS8_BYTES_MAX: usize = 1024;
const FILE_BYTES_MAX: u64 = 4096;
