//! Makes a whole network on disk from a small description: organisations with their authorities,
//! a folder for each member, and the genesis document that all of them share.
//!
//! ```text
//! <folder>/
//!   genesis.bin                                   the document; its SHA-256 is the chain id
//!   <organisation>/ca/root.pem  ca/key.pem        the authority
//!   <organisation>/<role>/<name>/                 one folder per member (`msp`)
//! ```
//!
//! For demonstration, tests and pilots, where one place may hold all keys. In production each
//! organisation makes its own root and members, and only the roots and the validators' certificates
//! meet in the genesis document.
//!
//! The genesis document is written last: a folder without it is an attempt that did not finish.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::crypto::CryptoError;
use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::membership::authority::Authority;
use crate::membership::authority::AuthorityError;
use crate::membership::authority::Enrolment;
use crate::membership::authority::Terms;
use crate::membership::authority::TlsSubject;
use crate::membership::identity;
use crate::membership::identity::Role;
use crate::membership::msp;
use crate::membership::msp::KeyPair;
use crate::membership::msp::Msp;
use crate::membership::msp::MspError;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::genesis::ChainParameters;
use crate::types::genesis::Genesis;
use crate::types::genesis::Organisation;
use crate::types::ids::Epoch;
use crate::types::limits;
use crate::types::replica_set::Replica;
use crate::types::replica_set::ReplicaSet;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;

/// Description of a network to make.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name of the network.
    pub network: String,
    /// Now, milliseconds since 1970: the genesis time.
    pub time_ms: u64,
    /// Row of the consensus plug-in table.
    pub consensus: String,
    /// Shared parameters.
    pub parameters: ChainParameters,
    /// Algorithm of the members' enrolment keys. Roots and TLS keys are P-256, which browsers and
    /// TLS libraries of all platforms know.
    pub algorithm: Algorithm,
    /// How long roots are valid, days.
    pub root_days: u32,
    /// How long members' certificates are valid, days.
    pub member_days: u32,
    /// Members.
    pub organisations: Vec<OrganisationSpec>,
}

/// One organisation of a network to make.
#[derive(Clone, Debug)]
pub struct OrganisationSpec {
    /// Name.
    pub name: String,
    /// Its members.
    pub members: Vec<MemberSpec>,
}

/// One member of a network to make.
#[derive(Clone, Debug)]
pub struct MemberSpec {
    /// Name, distinct within organisation and role.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Host names and addresses for its TLS certificate.
    pub hosts: Vec<String>,
    /// Attributes of its enrolment certificate.
    pub attributes: BTreeMap<String, String>,
    /// The public half of the enrolment key, where it was made elsewhere; `None` makes one.
    pub key: Option<PublicKey>,
}

/// A network on disk.
#[derive(Clone, Debug)]
pub struct Consortium {
    /// The shared document.
    pub genesis: Genesis,
    /// Where it lies.
    pub genesis_path: PathBuf,
    /// All members, in the order of the description.
    pub members: Vec<Member>,
}

/// Where one member's keys and certificates lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Organisation.
    pub organisation: String,
    /// Name.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Its folder (`Msp::load`).
    pub folder: PathBuf,
}

/// Why no network was made or read.
#[derive(Debug, thiserror::Error)]
pub enum ConsortiumError {
    /// The description contradicts itself.
    #[error("the network's description is wrong: {reason}")]
    Spec { reason: String },
    /// A certificate could not be made.
    #[error("cannot issue a certificate for {subject}")]
    Authority { subject: String, source: AuthorityError },
    /// A key could not be made.
    #[error("cannot make a key for {subject}")]
    Key { subject: String, source: CryptoError },
    /// A folder could not be written.
    #[error("cannot write the network's folders")]
    Folder(#[from] MspError),
    /// The genesis document cannot be read.
    #[error(
        "cannot read the genesis document {path}; every member holds the same file, take it from \
         another one and compare the chain id"
    )]
    Genesis { path: PathBuf, source: GenesisError },
}

/// What is wrong with a genesis document.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// The file cannot be read.
    #[error("reading failed")]
    Io(#[from] io::Error),
    /// The bytes are no genesis document.
    #[error("it is no genesis document")]
    Decode(#[from] DecodeError),
}

impl Spec {
    /// A network of `validators` organisations `org1`, `org2`, .., each with one validator
    /// `validator`, one client `client` and one admin `admin`, all on this host.
    pub fn local(network: &str, validators: usize, algorithm: Algorithm, time_ms: u64) -> Self {
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        let member = |role: Role| MemberSpec {
            name: role.name().to_owned(),
            role,
            hosts: hosts.clone(),
            attributes: BTreeMap::new(),
            key: None,
        };
        let organisation = |n| OrganisationSpec {
            name: format!("org{n}"),
            members: [Role::Validator, Role::Client, Role::Admin].map(member).to_vec(),
        };
        Self {
            network: network.to_owned(),
            time_ms,
            consensus: "pbft".to_owned(),
            parameters: ChainParameters::default(),
            algorithm,
            root_days: 3652,
            member_days: 365,
            organisations: (1..=validators).map(organisation).collect(),
        }
    }

    fn check(&self) -> Result<(), ConsortiumError> {
        let refuse = |reason: String| Err(ConsortiumError::Spec { reason });
        if self.network.is_empty() || self.network.len() > limits::NAME_BYTES_MAX {
            return refuse("the network's name needs 1 to 64 bytes".to_owned());
        }
        if self.organisations.len() > limits::ORGANISATIONS_MAX {
            return refuse(format!("more than {} organisations", limits::ORGANISATIONS_MAX));
        }
        let names = self.organisations.iter().map(|o| &o.name);
        let members = self.organisations.iter().flat_map(|o| o.members.iter().map(|m| &m.name));
        if let Some(bad) = names.chain(members).find(|name| !identity::is_name(name)) {
            return refuse(format!(
                "{bad:?} is no name; use 1 to 64 of a-z, 0-9, '-' and '.', not beginning with '.'"
            ));
        }
        for (i, organisation) in self.organisations.iter().enumerate() {
            if self.organisations[..i].iter().any(|o| o.name == organisation.name) {
                return refuse(format!("two organisations are called {:?}", organisation.name));
            }
            for (j, member) in organisation.members.iter().enumerate() {
                let twin = |m: &MemberSpec| (m.role, &m.name) == (member.role, &member.name);
                if organisation.members[..j].iter().any(twin) {
                    let (role, name) = (member.role.name(), &member.name);
                    return refuse(format!("{} has two members {role}/{name}", organisation.name));
                }
            }
        }
        Ok(())
    }
}

impl Consortium {
    /// Makes all keys, certificates, folders and the genesis document.
    pub fn make(folder: &Path, spec: &Spec, crypto: &Crypto) -> Result<Self, ConsortiumError> {
        spec.check()?;
        let genesis_path = folder.join(GENESIS_FILE);
        if genesis_path.exists() {
            return Err(MspError::Exists { path: genesis_path }.into());
        }
        let authorities = spec
            .organisations
            .iter()
            .map(|organisation| {
                let ca = folder.join(&organisation.name).join("ca");
                found(&ca, &organisation.name, spec.time_ms, spec.root_days, crypto)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let roots: BTreeMap<String, Bytes> = authorities
            .iter()
            .map(|a| (a.root().organisation.clone(), a.root().der.clone()))
            .collect();
        let mut replicas = Vec::new();
        let mut members = Vec::new();
        for (organisation, authority) in spec.organisations.iter().zip(&authorities) {
            for member in &organisation.members {
                let made = Made::new(authority, member, spec, crypto)?;
                if member.role == Role::Validator {
                    replicas.push(Replica {
                        organisation: organisation.name.clone(),
                        name: member.name.clone(),
                        key: made.key.clone(),
                    });
                }
                members.push(made.store(folder, authority, member, &roots)?);
            }
        }
        let replicas = ReplicaSet::new(Epoch(0), replicas)
            .map_err(|error| ConsortiumError::Spec { reason: error.to_string() })?;
        let genesis = Genesis {
            network: spec.network.clone(),
            time_ms: spec.time_ms,
            consensus: spec.consensus.clone(),
            parameters: spec.parameters,
            replicas,
            organisations: roots
                .into_iter()
                .map(|(name, root)| Organisation { name, root })
                .collect(),
        };
        msp::write_new(&genesis_path, &genesis.to_bytes(), 0o644)?;
        Ok(Self { genesis, genesis_path, members })
    }

    /// The members of a role, in the order of the description; for validators that is the order of
    /// the replica set.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.role == role)
    }
}

/// Reads a genesis document.
pub fn read_genesis(path: &Path) -> Result<Genesis, ConsortiumError> {
    let read = || {
        let mut bytes = Vec::new();
        let limit = limits::GENESIS_BYTES_MAX;
        fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            let (field, found) = ("genesis", bytes.len());
            return Err(DecodeError::TooLong { field, found, limit }.into());
        }
        Ok(Genesis::from_bytes(&Bytes::from(bytes))?)
    };
    read().map_err(|source| ConsortiumError::Genesis { path: path.to_owned(), source })
}

/// A member's fresh keys and certificates.
struct Made {
    key: PublicKey,
    enrolment: KeyPair,
    tls: KeyPair,
}

impl Made {
    fn new(
        authority: &Authority,
        member: &MemberSpec,
        spec: &Spec,
        crypto: &Crypto,
    ) -> Result<Self, ConsortiumError> {
        let subject = identity::leaf_uri(&authority.root().organisation, member.role, &member.name);
        let (pkcs8, key) = match &member.key {
            Some(key) => (None, key.clone()),
            None => {
                let (pkcs8, key) = make_key(&subject, spec.algorithm, crypto)?;
                (Some(pkcs8), key.public_key().clone())
            }
        };
        let (tls_pkcs8, tls_key) = make_key(&subject, Algorithm::EcdsaP256, crypto)?;
        let attributes: Vec<_> = member.attributes.clone().into_iter().collect();
        let issue = || {
            let enrolment = Enrolment {
                name: &member.name,
                role: member.role,
                attributes: &attributes,
                key: &key,
            };
            let tls = TlsSubject {
                name: &member.name,
                role: member.role,
                hosts: &member.hosts,
                key: tls_key.public_key(),
            };
            let not_before_ms = spec.time_ms.saturating_sub(BACKDATED_MS);
            Ok((
                authority.enrol(&enrolment, &Terms::new(not_before_ms, spec.member_days)?)?,
                authority.issue_tls(&tls, &Terms::new(not_before_ms, spec.member_days)?)?,
            ))
        };
        let (enrolment, tls) =
            issue().map_err(|source| ConsortiumError::Authority { subject, source })?;
        Ok(Self { key, enrolment: new_pair(enrolment, pkcs8), tls: new_pair(tls, Some(tls_pkcs8)) })
    }

    fn store(
        self,
        folder: &Path,
        authority: &Authority,
        member: &MemberSpec,
        roots: &BTreeMap<String, Bytes>,
    ) -> Result<Member, ConsortiumError> {
        let organisation = authority.root().organisation.clone();
        let folder = folder.join(&organisation).join(member.role.name()).join(&member.name);
        Msp {
            enrolment: self.enrolment,
            root: authority.root().der.clone(),
            roots: roots.clone(),
            tls: Some(self.tls),
        }
        .store(&folder)?;
        Ok(Member { organisation, name: member.name.clone(), role: member.role, folder })
    }
}

fn new_pair(certificate: Bytes, key: Option<Zeroizing<Vec<u8>>>) -> KeyPair {
    KeyPair { certificate, key, folder: PathBuf::new() }
}

/// Makes an organisation's authority and its folder.
pub fn found(
    ca: &Path,
    organisation: &str,
    time_ms: u64,
    days: u32,
    crypto: &Crypto,
) -> Result<Authority, ConsortiumError> {
    let subject = identity::root_uri(organisation);
    let (pkcs8, key) = make_key(&subject, Algorithm::EcdsaP256, crypto)?;
    let authority = root_terms(time_ms, days)
        .and_then(|terms| Authority::found(organisation, key, &terms))
        .map_err(|source| ConsortiumError::Authority { subject, source })?;
    msp::make_folder(ca)?;
    msp::write_key(&ca.join("key.pem"), &pkcs8)?;
    msp::write_certificate(&ca.join("root.pem"), &authority.root().der)?;
    Ok(authority)
}

/// Terms of a new root.
pub fn root_terms(time_ms: u64, days: u32) -> Result<Terms, AuthorityError> {
    Terms::new(time_ms.saturating_sub(BACKDATED_MS), days)
}

type NewKey = (Zeroizing<Vec<u8>>, Arc<dyn SigningKey>);

fn make_key(
    subject: &str,
    algorithm: Algorithm,
    crypto: &Crypto,
) -> Result<NewKey, ConsortiumError> {
    let make = || {
        let pkcs8 = crypto.generate(algorithm)?;
        let key = crypto.load(algorithm, &pkcs8)?;
        Ok((pkcs8, key))
    };
    make().map_err(|source| ConsortiumError::Key { subject: subject.to_owned(), source })
}

/// Name of the genesis document in a network's folder.
pub const GENESIS_FILE: &str = "genesis.bin";
/// Certificates are valid from one hour before the network's time: clocks differ.
const BACKDATED_MS: u64 = 60 * 60 * 1000;
