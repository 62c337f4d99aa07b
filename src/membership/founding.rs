//! Organisations with authorities of their own found a network: their roots and the enrolment
//! certificates of their validators become a genesis document. Nothing in it is secret.
//!
//! ```text
//! roots (one per organisation), validators' certificates -> checked -> Genesis, in one order
//! ```
//!
//! Invariants: the same certificates, name and time give the same bytes, in whatever order they are
//! named, so that each founder can make the document itself and compare the chain id. Every root
//! signed itself, every validator is vouched for by its organisation's root, all are valid at the
//! genesis time, no key stands for two.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::membership::certificate;
use crate::membership::directory;
use crate::membership::directory::Directory;
use crate::membership::directory::Verify;
use crate::membership::error::MembershipError;
use crate::membership::identity;
use crate::membership::identity::Identity;
use crate::membership::identity::Purpose;
use crate::membership::identity::Role;
use crate::membership::identity::Root;
use crate::types::codec::DecodeError;
use crate::types::genesis::ChainParameters;
use crate::types::genesis::Genesis;
use crate::types::genesis::Organisation;
use crate::types::ids::Epoch;
use crate::types::limits;
use crate::types::replica_set::Replica;
use crate::types::replica_set::ReplicaSet;

/// What founders agree on besides their certificates.
#[derive(Clone, Debug)]
pub struct Founding {
    /// Name of the network.
    pub network: String,
    /// The genesis time, milliseconds since 1970.
    pub time_ms: u64,
    /// Row of the consensus plug-in table.
    pub consensus: String,
    /// Shared parameters.
    pub parameters: ChainParameters,
}

/// Why these certificates found no network.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// A name of the network that is no name.
    #[error("{0:?} is no name of a network; use 1 to 64 of a-z, 0-9, '-' and '.'")]
    Network(String),
    /// A root, or a validator's certificate.
    #[error("{file} cannot found a network")]
    Certificate { file: String, source: MembershipError },
    /// Two roots of one organisation.
    #[error("{file} is a second root of {organisation:?}; name one root per organisation")]
    TwoRoots { file: String, organisation: String },
    /// A validator whose organisation brought no root.
    #[error("{file} belongs to {organisation:?}, whose root is not named; name it with --root")]
    NoRoot { file: String, organisation: String },
    /// A certificate for something else.
    #[error("{file} is {what}; name the cert.pem of a validator's identity")]
    NoValidator { file: String, what: String },
    /// Not valid at the genesis time.
    #[error(
        "{file} is not valid at the genesis time {time_ms} ms; issue it again, or correct the time"
    )]
    Validity { file: String, time_ms: u64 },
    /// Two for one seat.
    #[error("the validators do not make a set; name each once, with a key of its own")]
    Set(#[from] DecodeError),
    /// Two roots with one key.
    #[error("the roots cannot stand together")]
    Roots(#[source] MembershipError),
    /// More than a document holds.
    #[error("{0} organisations are more than a network has; at most {max}", max = limits::ORGANISATIONS_MAX)]
    TooMany(usize),
}

/// A certificate, DER, and the file it came from, for messages.
pub type Named = (String, Bytes);

/// Makes the genesis document.
pub fn found(
    founding: &Founding,
    roots: &[Named],
    validators: &[Named],
    verify: &Verify,
) -> Result<Genesis, FoundingError> {
    if !identity::is_name(&founding.network) {
        return Err(FoundingError::Network(founding.network.clone()));
    }
    if roots.len() > limits::ORGANISATIONS_MAX {
        return Err(FoundingError::TooMany(roots.len()));
    }
    let time_ms = founding.time_ms;
    let known = read_roots(roots, time_ms, verify)?;
    let mut replicas = validators
        .iter()
        .map(|validator| replica(validator, &known, time_ms, verify))
        .collect::<Result<Vec<_>, _>>()?;
    replicas.sort_by(|a, b| (&a.organisation, &a.name).cmp(&(&b.organisation, &b.name)));
    let organisations =
        known.into_iter().map(|(name, root)| Organisation { name, root: root.der }).collect();
    let genesis = Genesis {
        network: founding.network.clone(),
        time_ms,
        consensus: founding.consensus.clone(),
        parameters: founding.parameters,
        replicas: ReplicaSet::new(Epoch(0), replicas)?,
        organisations,
    };
    // What every node will ask of it.
    Directory::new(&genesis, verify.clone()).map_err(FoundingError::Roots)?;
    Ok(genesis)
}

fn read_roots(
    roots: &[Named],
    time_ms: u64,
    verify: &Verify,
) -> Result<BTreeMap<String, Root>, FoundingError> {
    let mut known = BTreeMap::new();
    for (file, der) in roots {
        let refused = |source| FoundingError::Certificate { file: file.clone(), source };
        let claimed = certificate::parse(der).and_then(|read| Root::claimed(&read, der.clone()));
        let name = claimed.map_err(refused)?.organisation;
        let root = directory::read_root(&name, der, verify).map_err(refused)?;
        if !(root.not_before_ms..=root.not_after_ms).contains(&time_ms) {
            return Err(FoundingError::Validity { file: file.clone(), time_ms });
        }
        if known.insert(name.clone(), root).is_some() {
            return Err(FoundingError::TwoRoots { file: file.clone(), organisation: name });
        }
    }
    Ok(known)
}

fn replica(
    (file, der): &Named,
    roots: &BTreeMap<String, Root>,
    time_ms: u64,
    verify: &Verify,
) -> Result<Replica, FoundingError> {
    let file = file.clone();
    let claimed = certificate::parse(der).and_then(|read| Identity::claimed(&read, der.clone()));
    let claimed = match claimed {
        Ok(claimed) => claimed,
        Err(source) => return Err(FoundingError::Certificate { file, source }),
    };
    let Some(root) = roots.get(&claimed.organisation) else {
        let organisation = claimed.organisation;
        return Err(FoundingError::NoRoot { file, organisation });
    };
    let member = match directory::identify_under(root, der, verify) {
        Ok(member) => member,
        Err(source) => return Err(FoundingError::Certificate { file, source }),
    };
    if member.role != Role::Validator || member.purpose != Purpose::Enrolment {
        let what = match member.purpose {
            Purpose::Tls => "a TLS certificate".to_owned(),
            Purpose::Enrolment => format!("the certificate of the {}", member.role.name()),
        };
        return Err(FoundingError::NoValidator { file, what });
    }
    if !member.valid_at(time_ms) {
        return Err(FoundingError::Validity { file, time_ms });
    }
    let Identity { organisation, name, key, .. } = member;
    Ok(Replica { organisation, name, key })
}
