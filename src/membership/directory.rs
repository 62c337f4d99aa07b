//! From a certificate to the member, on every transaction's way: chain of length one to the
//! organisation's root in the genesis document, checked once per certificate and then remembered.
//!
//! ```text
//! DER -> SHA-256 -> known? -> Arc<Identity>
//!                -> refused before? -> the same refusal
//!                -> parse, issuer = root of the named organisation, signature -> remember
//! ```
//!
//! Beside it stands what the chain has revoked, as far as this node has stored it. It decides on
//! connections and on admission (`check_standing`), where a node may differ from others for a
//! moment; execution asks the state itself.
//!
//! Invariants: the answer of `identify` for given bytes depends on the genesis document alone; time
//! is not looked at (`Identity::valid_at`). What is remembered changes speed only: both tables are
//! bounded, split over shards by certificate id, and an eviction costs one more check. Refusals have
//! a table of their own, so that a flood of bad certificates evicts no good one.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;

use bytes::Bytes;
use lru::LruCache;

use crate::crypto::Check;
use crate::membership::certificate;
use crate::membership::certificate::Certificate;
use crate::membership::error::MembershipError;
use crate::membership::identity::Identity;
use crate::membership::identity::Root;
use crate::types::digest::Digest;
use crate::types::genesis::Genesis;
use crate::types::ids::CertificateId;
use crate::types::limits;
use crate::types::signature::PublicKey;

/// Checks one signature by the protocol's rule of validity (`crypto::validity`).
pub type Verify = Arc<dyn Fn(&Check<'_>) -> bool + Send + Sync>;

/// The members of a network, by certificate.
pub struct Directory {
    roots: BTreeMap<String, Root>,
    verify: Verify,
    shards: Vec<Mutex<Shard>>,
    /// Organisations that revoked a certificate of this id: a copy of the state.
    revoked: RwLock<BTreeMap<CertificateId, BTreeSet<String>>>,
}

struct Shard {
    known: LruCache<CertificateId, Arc<Identity>>,
    refused: LruCache<CertificateId, MembershipError>,
}

impl Directory {
    /// Reads and checks the organisations' roots.
    pub fn new(genesis: &Genesis, verify: Verify) -> Result<Self, MembershipError> {
        let mut roots: BTreeMap<String, Root> = BTreeMap::new();
        for organisation in &genesis.organisations {
            let name = &organisation.name;
            let root = read_root(name, &organisation.root, &verify).map_err(|source| {
                let (organisation, source) = (name.clone(), Box::new(source));
                MembershipError::Root { organisation, source }
            })?;
            if let Some(other) = roots.values().find(|other| other.key == root.key) {
                let what = format!("the root key of {:?} and {name:?}", other.organisation);
                return Err(MembershipError::Duplicate { what });
            }
            if roots.insert(name.clone(), root).is_some() {
                let what = format!("the organisation {name:?}");
                return Err(MembershipError::Duplicate { what });
            }
        }
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect();
        Ok(Self { roots, verify, shards, revoked: RwLock::default() })
    }

    /// Notes that `organisation` has revoked its certificate `id`.
    pub fn revoke(&self, organisation: &str, id: CertificateId) {
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        revoked.entry(id).or_default().insert(organisation.to_owned());
    }

    /// Whether a member may connect, stay connected or hand in transactions at this time: its
    /// certificate is valid and not revoked.
    pub fn check_standing(&self, member: &Identity, now_ms: u64) -> Result<(), MembershipError> {
        member.check_valid_at(now_ms)?;
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        match revoked.get(&member.certificate) {
            Some(by) if by.contains(&member.organisation) => {
                Err(MembershipError::Revoked { subject: member.uri() })
            }
            _ => Ok(()),
        }
    }

    /// The member whose certificate this is. Equal bytes give equal answers on every node.
    pub fn identify(&self, der: &Bytes) -> Result<Arc<Identity>, MembershipError> {
        let id = CertificateId(Digest::of(&[der]));
        {
            let mut shard = self.shard(&id);
            if let Some(identity) = shard.known.get(&id) {
                return Ok(identity.clone());
            }
            if let Some(refusal) = shard.refused.get(&id) {
                return Err(refusal.clone());
            }
        }
        // Outside the lock: two threads may check one new certificate twice, nobody waits for it.
        let found = self.check(der).map(Arc::new);
        let mut shard = self.shard(&id);
        match &found {
            Ok(identity) => drop(shard.known.put(id, identity.clone())),
            Err(refusal) => drop(shard.refused.put(id, refusal.clone())),
        }
        found
    }

    /// The member whose certificate was shown in a handshake, whatever s its authority left in it.
    /// Its id is that of the canonical form, so one revocation meets both.
    pub fn identify_shown(&self, der: &[u8]) -> Result<Arc<Identity>, MembershipError> {
        self.identify(&certificate::canonical(der))
    }

    /// The member of a certificate that was identified before and is still remembered. For speed
    /// and for answers only: no decision that validators must share may depend on it.
    pub fn known(&self, id: &CertificateId) -> Option<Arc<Identity>> {
        self.shard(id).known.get(id).cloned()
    }

    /// The root of an organisation.
    pub fn root(&self, organisation: &str) -> Option<&Root> {
        self.roots.get(organisation)
    }

    /// All roots, by organisation.
    pub fn roots(&self) -> impl Iterator<Item = &Root> {
        self.roots.values()
    }

    /// Certificates remembered: accepted and refused.
    pub fn remembered(&self) -> (usize, usize) {
        self.shards.iter().fold((0, 0), |(known, refused), shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (known + shard.known.len(), refused + shard.refused.len())
        })
    }

    fn check(&self, der: &Bytes) -> Result<Identity, MembershipError> {
        let certificate = certificate::parse(der)?;
        // A copy of its own: `der` may be a slice of a whole batch.
        let identity = Identity::claimed(&certificate, Bytes::copy_from_slice(der))?;
        let organisation = &identity.organisation;
        let Some(root) = self.roots.get(organisation) else {
            let organisation = organisation.clone();
            return Err(MembershipError::UnknownOrganisation { organisation });
        };
        check_issuer(&certificate, root, &self.verify)?;
        Ok(identity)
    }

    fn shard(&self, id: &CertificateId) -> MutexGuard<'_, Shard> {
        let place = usize::from(id.0.0[0]) % SHARDS;
        // A panic elsewhere leaves the tables whole: every change of them is one call.
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn new() -> Self {
        let share = |max: usize| NonZeroUsize::new(max / SHARDS).unwrap_or(NonZeroUsize::MIN);
        Self {
            known: LruCache::new(share(limits::IDENTITY_CACHE_MAX)),
            refused: LruCache::new(share(limits::REFUSED_CACHE_MAX)),
        }
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory")
            .field("organisations", &self.roots.keys())
            .finish_non_exhaustive()
    }
}

/// The member whose certificate this is, where there is no genesis document yet: issued by this
/// root. For who asks an authority.
pub fn identify_under(
    root: &Root,
    der: &Bytes,
    verify: &Verify,
) -> Result<Identity, MembershipError> {
    let certificate = certificate::parse(der)?;
    let identity = Identity::claimed(&certificate, Bytes::copy_from_slice(der))?;
    if identity.organisation != root.organisation {
        let organisation = identity.organisation;
        return Err(MembershipError::UnknownOrganisation { organisation });
    }
    check_issuer(&certificate, root, verify)?;
    Ok(identity)
}

fn check_issuer(
    certificate: &Certificate<'_>,
    root: &Root,
    verify: &Verify,
) -> Result<(), MembershipError> {
    let organisation = || root.organisation.clone();
    let refuse = |reason| Err(MembershipError::Issuer { organisation: organisation(), reason });
    if certificate.issuer != root.subject {
        return refuse("another issuer is named in it");
    }
    check_form(certificate)?;
    if !signed_by(certificate, &root.key, verify) {
        return refuse("the organisation's root did not sign it");
    }
    Ok(())
}

/// Reads a root, checks that it is the named organisation's and that it signed itself.
pub fn read_root(name: &str, der: &Bytes, verify: &Verify) -> Result<Root, MembershipError> {
    let certificate = certificate::parse(der)?;
    let root = Root::claimed(&certificate, Bytes::copy_from_slice(der))?;
    let refuse = |reason| {
        let organisation = root.organisation.clone();
        Err(MembershipError::Issuer { organisation, reason })
    };
    if root.organisation != name {
        return refuse("it is listed as the root of another organisation");
    }
    check_form(&certificate)?;
    if !signed_by(&certificate, &root.key, verify) {
        return refuse("its own key did not sign it");
    }
    Ok(root)
}

/// Refuses the form that would give a certificate a second id.
fn check_form(certificate: &Certificate<'_>) -> Result<(), MembershipError> {
    match certificate::has_high_s(certificate.signature_algorithm, &certificate.signature) {
        true => Err(MembershipError::HighS),
        false => Ok(()),
    }
}

fn signed_by(certificate: &Certificate<'_>, key: &PublicKey, verify: &Verify) -> bool {
    let message = certificate.signed;
    certificate.signature_algorithm == key.algorithm()
        && verify(&Check { key, message, signature: &certificate.signature })
}

/// Shards of the tables: enough that the threads of one node rarely meet.
const SHARDS: usize = 32;
