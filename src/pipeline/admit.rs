//! Station 1: decides whether a client's transaction may enter.
//!
//! Cheap checks first, in this order, each with its refusal: size, chain, window of validity,
//! duplicate, creator's certificate (chain, time, revocation, role), a place in the mempool, and
//! last the signature, checked in groups by the pool of verification threads. What passes is `Verified` and
//! in the mempool. Nothing is stored for what does not.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use bytes::Bytes;
use lru::LruCache;

use crate::crypto::prepared::PreparedKey;
use crate::crypto::verify_pool::VerifyPool;
use crate::host::clock::now_ms;
use crate::ledger::Ledger;
use crate::membership::certificate;
use crate::membership::directory::Directory;
use crate::membership::error::MembershipError;
use crate::membership::identity::Identity;
use crate::pipeline::execute;
use crate::pipeline::mempool::Admitted;
use crate::pipeline::mempool::Mempool;
use crate::pipeline::refusal::Refusal;
use crate::pipeline::verification;
use crate::pipeline::verification::Verification;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::transaction::Transaction;
use crate::types::verified::Verified;

/// One answer per transaction, in the order submitted.
pub type Answers = Vec<Result<TxId, Refusal>>;

/// The admit station.
pub struct Admission {
    chain: ChainId,
    ledger: Arc<Ledger>,
    directory: Arc<Directory>,
    mempool: Arc<Mempool>,
    verification: Arc<Verification>,
    creators: Mutex<LruCache<CertificateId, Creator>>,
}

/// A creator seen lately.
#[derive(Clone)]
struct Creator {
    identity: Arc<Identity>,
    key: Arc<PreparedKey>,
    /// Certificate.
    der: Bytes,
}

impl Admission {
    /// A station in front of `mempool`.
    pub fn new(
        chain: ChainId,
        ledger: Arc<Ledger>,
        directory: Arc<Directory>,
        mempool: Arc<Mempool>,
        verification: Arc<Verification>,
    ) -> Self {
        let room = NonZeroUsize::new(limits::CERTIFICATES_CACHED_MAX).unwrap_or(NonZeroUsize::MIN);
        let creators = Mutex::new(LruCache::new(room));
        Self { chain, ledger, directory, mempool, verification, creators }
    }

    /// Checks transactions and answers once their signatures are checked, from a verification
    /// thread.
    pub fn admit(
        &self,
        txs: Vec<(Transaction, Option<Bytes>)>,
        done: impl FnOnce(Answers) + Send + 'static,
    ) {
        let now_ms = now_ms();
        let height = self.ledger.tip().height;
        let mut answers: Answers = Vec::with_capacity(txs.len());
        let mut group = Vec::with_capacity(txs.len());
        let mut checks = Vec::with_capacity(txs.len());
        for (tx, certificate) in txs {
            let id = tx.id();
            match self.precheck(&tx, certificate, height, now_ms) {
                Err(refusal) => answers.push(Err(refusal)),
                Ok(creator) => {
                    checks.push(verification::transaction(&tx, &creator.key));
                    group.push((answers.len(), Admitted { tx, certificate: creator.der }));
                    answers.push(Ok(id));
                }
            }
        }
        if group.is_empty() {
            return done(answers);
        }
        let mempool = self.mempool.clone();
        self.verification.check(VerifyPool::submit, checks, move |verdicts| {
            let mut admitted = Vec::with_capacity(group.len());
            for (at, (place, one)) in group.into_iter().enumerate() {
                let refusal = match &verdicts {
                    Ok(verdicts) if verdicts.is_valid(at) => None,
                    Ok(_) => Some(Refusal::BadSignature),
                    Err(busy) => Some(busy.clone()),
                };
                match refusal {
                    None => admitted.push(Verified::by_checked_signatures(one)),
                    Some(refusal) => {
                        mempool.release(&one.tx.id());
                        answers[place] = Err(refusal);
                    }
                }
            }
            mempool.push(admitted);
            done(answers);
        });
    }

    fn precheck(
        &self,
        tx: &Transaction,
        certificate: Option<Bytes>,
        height: Height,
        now_ms: u64,
    ) -> Result<Creator, Refusal> {
        let payload = tx.payload();
        if payload.chain != self.chain {
            return Err(Refusal::WrongChain { found: payload.chain, expected: self.chain });
        }
        let until = payload.valid_until;
        if until <= height {
            return Err(Refusal::Expired { valid_until: until, height });
        }
        let limit = Height(height.0.saturating_add(limits::VALIDITY_BLOCKS_MAX));
        if until > limit {
            return Err(Refusal::TooFarAhead { valid_until: until, limit });
        }
        if self.ledger.contains(&tx.id()).map_err(|e| Refusal::Internal(e.to_string()))? {
            return Err(Refusal::Duplicate(tx.id()));
        }
        let creator = self.creator(&payload.creator, certificate)?;
        let identity = &creator.identity;
        let standing = self.directory.check_standing(identity, now_ms);
        standing.map_err(|error| Refusal::BadCertificate(error.to_string()))?;
        if !execute::may_submit(identity) {
            let (role, kind) = (identity.role.name(), identity.purpose.described());
            let text = format!(
                "role {role} with {kind} may not submit; use a client's or an admin's enrolment \
                 certificate"
            );
            return Err(Refusal::Unauthorised(text));
        }
        self.mempool.reserve(tx)?;
        Ok(creator)
    }

    fn creator(&self, id: &CertificateId, certificate: Option<Bytes>) -> Result<Creator, Refusal> {
        if let Some(creator) = self.lock().get(id) {
            return Ok(creator.clone());
        }
        let der = match certificate.as_deref().map(certificate::canonical) {
            Some(der) if Digest::of(&[&der]) == id.0 => der,
            Some(_) if certificate.as_ref().is_some_and(|der| Digest::of(&[der]) == id.0) => {
                return Err(Refusal::BadCertificate(MembershipError::HighS.to_string()));
            }
            Some(_) => {
                let text = "it is not the one the transaction names as its creator".to_owned();
                return Err(Refusal::BadCertificate(text));
            }
            None => {
                let known = self.ledger.certificate(id);
                known
                    .map_err(|e| Refusal::Internal(e.to_string()))?
                    .ok_or(Refusal::UnknownCreator)?
            }
        };
        let identified = self.directory.identify(&der);
        let identity = identified.map_err(|error| Refusal::BadCertificate(error.to_string()))?;
        let key = self.verification.key(&identity);
        let creator = Creator { identity, key, der };
        self.lock().put(*id, creator.clone());
        Ok(creator)
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<CertificateId, Creator>> {
        self.creators.lock().expect("no holder of this lock panics")
    }
}
