//! Signatures of everything that comes from outside: the one place, beside admission, where
//! `Verified` is made.
//!
//! * consensus messages: every claim the plug-in lists, nested ones included; one bad one refuses
//!   the message;
//! * batches: every transaction under the certificate of its creator, which the batch carries, and
//!   no more of them than the plug-in orders at a time;
//! * blocks of others: the quorum certificate over the header's hash.
//!
//! A signature of a consensus message that held once is not checked again (`Known`).

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use lru::LruCache;

use crate::consensus::Claim;
use crate::consensus::Envelope;
use crate::consensus::Plugin;
use crate::crypto::prepared::PreparedKey;
use crate::crypto::routing::Verdicts;
use crate::crypto::verify_pool::Done;
use crate::crypto::verify_pool::OwnedCheck;
use crate::crypto::verify_pool::PoolError;
use crate::crypto::verify_pool::VerifyPool;
use crate::crypto::verify_pool::verify_group;
use crate::membership::directory::Directory;
use crate::membership::identity::Identity;
use crate::pipeline::refusal::Refusal;
use crate::types::batch::Batch;
use crate::types::block::Block;
use crate::types::block::Tip;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::ids::ChainId;
use crate::types::ids::SequenceNumber;
use crate::types::limits;
use crate::types::replica_set::ReplicaSet;
use crate::types::transaction::Transaction;
use crate::types::verified::Verified;
use crate::types::vote_signature::SignatureCheck;

/// A lane of the pool.
pub type Submit = fn(&VerifyPool, Vec<OwnedCheck>, Done) -> Result<(), PoolError>;

/// Why a peer's batch is not taken.
pub enum BatchFault {
    /// The pool's lane is full.
    Busy,
    /// A batch that no correct validator makes.
    Invalid(String),
}

/// Signatures of consensus messages that were found valid, the last used. The votes in certificates
/// were mostly received one by one before, a session's certificate comes with each of its votes, and
/// who waits for a view sends the same message again and again: where a check is slow, doing it once
/// is what lets a view change come to its end.
#[derive(Debug)]
pub struct Known(Mutex<LruCache<Digest, ()>>);

impl Default for Known {
    fn default() -> Self {
        let most = NonZeroUsize::new(limits::SIGNATURES_KNOWN_MAX).expect("a constant above zero");
        Self(Mutex::new(LruCache::new(most)))
    }
}

impl Known {
    /// Those of `checks` that are not known to hold, each once, under its name.
    fn unknown(
        &self,
        checks: impl Iterator<Item = SignatureCheck>,
    ) -> Vec<(Digest, SignatureCheck)> {
        let named: Vec<_> = checks.map(|check| (name_of(&check), check)).collect();
        let mut known = self.lock();
        let mut seen = HashSet::with_capacity(named.len());
        let new = |(name, _): &(Digest, _)| known.get(name).is_none() && seen.insert(*name);
        named.into_iter().filter(new).collect()
    }

    fn keep(&self, names: impl Iterator<Item = Digest>) {
        let mut known = self.lock();
        for name in names {
            known.put(name, ());
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Digest, ()>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// Names key, text and signature: the algorithm fixes the lengths of the first and the last.
fn name_of(check: &SignatureCheck) -> Digest {
    let algorithm = [check.key.algorithm() as u8];
    Digest::of(&[&algorithm, check.key.as_bytes(), &check.text, &check.signature.0])
}

/// Checks signatures against the network's identities.
pub struct Verification {
    /// The network.
    pub chain: ChainId,
    /// The replicas whose votes count.
    pub replicas: Arc<ReplicaSet>,
    /// The consensus plug-in, which knows what its messages claim.
    pub plugin: &'static Plugin,
    /// Identities of creators.
    pub directory: Arc<Directory>,
    /// Threads that check.
    pub pool: Arc<VerifyPool>,
    /// Signatures that hold.
    pub known: Known,
    /// Last stable checkpoint of this node, told by the consensus driver.
    pub stable: Arc<AtomicU64>,
}

impl Verification {
    /// The key of an identity, parsed.
    pub fn key(&self, identity: &Identity) -> Arc<PreparedKey> {
        self.pool.crypto().key(&identity.key)
    }

    /// Checks a group on a lane of the pool; the answer comes from one of its threads, or at once
    /// and as an error when the pool's queue is full.
    pub fn check(
        &self,
        submit: Submit,
        group: Vec<OwnedCheck>,
        done: impl FnOnce(Result<Verdicts, Refusal>) + Send + 'static,
    ) {
        let done = Arc::new(Mutex::new(Some(done)));
        let answer = done.clone();
        let take = |slot: &Mutex<Option<_>>| slot.lock().expect("taken once, without panic").take();
        let submitted = submit(
            &self.pool,
            group,
            Box::new(move |verdicts| {
                if let Some(done) = take(&answer) {
                    done(Ok(verdicts));
                }
            }),
        );
        if submitted.is_err()
            && let Some(done) = take(&done)
        {
            let retry_after_ms = limits::BUSY_RETRY_MS;
            done(Err(Refusal::Busy { what: "the queue of signature checks", retry_after_ms }));
        }
    }

    /// A consensus message whose every signature holds.
    pub fn envelope(&self, envelope: Envelope) -> Result<Verified<Envelope>, String> {
        let claims = (self.plugin.claims)(&self.chain, &envelope).map_err(|e| e.to_string())?;
        self.claims(claims)?;
        Ok(Verified::by_checked_signatures(envelope))
    }

    /// Checks that a fetched block extends `tip` and is final.
    pub fn block(&self, tip: &Tip, block: &Block) -> Result<(), String> {
        let header = &block.header;
        let follows = header.chain == self.chain
            && header.height.0 == tip.height.0 + 1
            && header.previous == tip.hash
            && header.sequence > tip.sequence
            && header.time_ms > tip.time_ms;
        if !follows {
            return Err(format!("block {} does not extend our chain", header.height));
        }
        let certificate = &block.certificate;
        certificate.check_shape(&self.replicas).map_err(|e| e.to_string())?;
        self.claims(Claim::of_certificate(&self.chain, certificate).collect())
    }

    /// Checks a peer's batch on the pool and hands it on from one of its threads.
    pub fn batch(
        &self,
        batch: Batch,
        done: impl FnOnce(Result<Verified<Arc<Batch>>, BatchFault>) + Send + 'static,
    ) {
        let group = match self.batch_signatures(&batch) {
            Ok(group) => group,
            Err(reason) => return done(Err(BatchFault::Invalid(reason))),
        };
        self.check(VerifyPool::submit_urgent, group, move |verdicts| {
            done(match verdicts {
                Err(_) => Err(BatchFault::Busy),
                Ok(verdicts) => match verdicts.invalid().first() {
                    Some(at) => Err(BatchFault::Invalid(format!(
                        "transaction {at} of the batch has a bad signature"
                    ))),
                    None => Ok(Verified::by_checked_signatures(Arc::new(batch))),
                },
            });
        });
    }

    fn batch_signatures(&self, batch: &Batch) -> Result<Vec<OwnedCheck>, String> {
        if self.replicas.get(batch.author()).is_none() {
            return Err(format!("author {} is no replica", batch.author()));
        }
        let (transactions, most) = (batch.transactions().len(), self.plugin.sequence_txs_max);
        if transactions > most {
            let name = self.plugin.name;
            return Err(format!(
                "{transactions} transactions, where {name} orders {most} at a time"
            ));
        }
        let mut creators: Vec<(CertificateId, Arc<PreparedKey>)> = Vec::new();
        for der in batch.certificates() {
            let identity = self.directory.identify(der).map_err(|e| e.to_string())?;
            creators.push((identity.certificate, self.key(&identity)));
        }
        creators.sort_by_key(|(id, _)| *id);
        let mut group = Vec::with_capacity(batch.transactions().len());
        for tx in batch.transactions() {
            if tx.payload().chain != self.chain {
                return Err("a transaction of another chain".into());
            }
            let creator = tx.payload().creator;
            let at = creators
                .binary_search_by_key(&creator, |(id, _)| *id)
                .map_err(|_| "a creator's certificate is missing".to_owned())?;
            group.push(transaction(tx, &creators[at].1));
        }
        Ok(group)
    }

    fn claims(&self, claims: Vec<Claim>) -> Result<(), String> {
        let stable = SequenceNumber(self.stable.load(Ordering::Relaxed));
        let mut checks = Vec::with_capacity(claims.len());
        for claim in claims {
            let needed = claim
                .checks(&self.chain, &self.replicas, stable)
                .map_err(|error| format!("replica {}: {error}", claim.replica))?;
            checks.push(needed.own);
            checks.extend(needed.session);
        }
        let (names, checks): (Vec<_>, Vec<_>) =
            self.known.unknown(checks.into_iter()).into_iter().unzip();
        let checks: Vec<OwnedCheck> = checks.into_iter().map(|check| self.owned(check)).collect();
        if !verify_group(self.pool.crypto(), &checks).all_valid() {
            return Err("a signature does not hold".into());
        }
        self.known.keep(names.into_iter());
        Ok(())
    }

    fn owned(&self, check: SignatureCheck) -> OwnedCheck {
        let key = self.pool.crypto().key(&check.key);
        OwnedCheck { key, message: check.text, signature: check.signature }
    }
}

/// The check of a transaction under its creator's key.
pub fn transaction(tx: &Transaction, key: &Arc<PreparedKey>) -> OwnedCheck {
    OwnedCheck { key: key.clone(), message: tx.signed_bytes().clone(), signature: *tx.signature() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::signature::Algorithm;
    use crate::types::signature::PublicKey;
    use crate::types::signature::Signature;

    fn check(key: u8, text: &'static [u8], signature: u8) -> SignatureCheck {
        let key = PublicKey::new(Algorithm::Ed25519, &[key; 32]).unwrap();
        let (text, signature) = (Bytes::from_static(text), Signature([signature; 64]));
        SignatureCheck { key, text, signature }
    }

    fn unknown(known: &Known, checks: &[SignatureCheck]) -> Vec<Digest> {
        known.unknown(checks.iter().cloned()).into_iter().map(|(name, _)| name).collect()
    }

    /// Known is what was kept, byte for byte: another key, text or signature is not.
    #[test]
    fn only_what_was_kept_is_known() {
        let known = Known::default();
        let one = check(1, b"text", 2);
        let names = unknown(&known, &[one.clone(), one.clone()]);
        assert_eq!(names.len(), 1, "asked twice, checked once");
        assert_eq!(unknown(&known, std::slice::from_ref(&one)), names, "asking keeps nothing");
        known.keep(names.into_iter());
        assert!(unknown(&known, &[one]).is_empty());
        let others = [check(3, b"text", 2), check(1, b"tex", 2), check(1, b"text", 3)];
        assert_eq!(unknown(&known, &others).len(), 3);
    }

    /// However many are kept, memory has its limit, and the last used stay.
    #[test]
    fn the_last_used_are_known() {
        let known = Known::default();
        let first = check(1, b"first", 1);
        known.keep(unknown(&known, std::slice::from_ref(&first)).into_iter());
        for i in 0..limits::SIGNATURES_KNOWN_MAX as u64 {
            if i % 1000 == 0 {
                assert!(unknown(&known, std::slice::from_ref(&first)).is_empty());
            }
            known.keep(std::iter::once(Digest::of(&[&i.to_be_bytes()])));
        }
        assert_eq!(known.lock().len(), limits::SIGNATURES_KNOWN_MAX);
        assert!(unknown(&known, &[first]).is_empty());
    }
}
