//! What the membership tests share: two organisations with authorities, and a forge that makes
//! certificates no authority of this house would issue.

mod bytes;
mod chain;
mod folders;
mod foreign;
mod forged;
mod vectors;

use std::sync::Arc;

use ::bytes::Bytes;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyIdMethod;
use rcgen::KeyUsagePurpose;
use rcgen::SanType;

use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::membership::authority::Authority;
use crate::membership::authority::IssuingKey;
use crate::membership::authority::SubjectKey;
use crate::membership::authority::Terms;
use crate::membership::certificate;
use crate::membership::directory::Directory;
use crate::membership::directory::Verify;
use crate::membership::error::MembershipError;
use crate::membership::identity::Identity;
use crate::types::genesis::ChainParameters;
use crate::types::genesis::Genesis;
use crate::types::genesis::Organisation;
use crate::types::ids::Epoch;
use crate::types::replica_set::Replica;
use crate::types::replica_set::ReplicaSet;
use crate::types::signature::Algorithm;

/// 2026-01-01.
const T0: u64 = 1_767_225_600_000;
const DAY: u64 = 86_400_000;

fn terms(days: u32) -> Terms {
    Terms { not_before_ms: T0, days, serial: [0x11; 16] }
}

fn verify() -> Verify {
    let crypto = Crypto::portable();
    Arc::new(move |check| crypto.verify(check))
}

fn new_key(algorithm: Algorithm) -> Arc<dyn SigningKey> {
    let crypto = Crypto::portable();
    let pkcs8 = crypto.generate(algorithm).unwrap();
    crypto.load(algorithm, &pkcs8).unwrap()
}

fn authority(organisation: &str, algorithm: Algorithm) -> Authority {
    Authority::found(organisation, new_key(algorithm), &terms(3652)).unwrap()
}

fn genesis(roots: &[(&str, &Bytes)]) -> Genesis {
    let key = new_key(Algorithm::Ed25519).public_key().clone();
    let replica = Replica { organisation: "org1".into(), name: "v".into(), key };
    Genesis {
        network: "test".into(),
        time_ms: T0,
        consensus: "pbft".into(),
        parameters: ChainParameters::default(),
        replicas: ReplicaSet::new(Epoch(0), vec![replica]).unwrap(),
        organisations: roots
            .iter()
            .map(|(name, root)| Organisation { name: (*name).into(), root: (*root).clone() })
            .collect(),
    }
}

fn directory(authorities: &[&Authority]) -> Directory {
    let roots: Vec<_> =
        authorities.iter().map(|a| (a.root().organisation.as_str(), &a.root().der)).collect();
    Directory::new(&genesis(&roots), verify()).unwrap()
}

/// An organisation whose key the test holds, so that it can sign anything.
struct Forge {
    key: Arc<dyn SigningKey>,
    authority: Authority,
}

impl Forge {
    fn new() -> Self {
        let key = new_key(Algorithm::EcdsaP256);
        let authority = Authority::found("org1", key.clone(), &terms(3652)).unwrap();
        Self { key, authority }
    }

    /// Parameters of a good enrolment certificate, to be spoilt.
    fn leaf() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("org1", "anybody");
        params.subject_alt_names = vec![uri("obelisk://org1/client/alice")];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::Other(certificate::ENROLMENT_USAGE.to_vec())];
        params.serial_number = Some(vec![0x42; 16].into());
        params
    }

    /// Signs with the organisation's key under the given issuer name.
    fn sign_as(&self, issuer: DistinguishedName, params: &CertificateParams) -> Bytes {
        let mut root = CertificateParams::default();
        root.distinguished_name = issuer;
        root.key_identifier_method = KeyIdMethod::PreSpecified(vec![1; 20]);
        let issuer = Issuer::new(root, IssuingKey::new(self.key.clone()));
        let subject = SubjectKey(new_key(Algorithm::Ed25519).public_key().clone());
        Bytes::copy_from_slice(params.signed_by(&subject, &issuer).unwrap().der())
    }

    fn sign(&self, params: &CertificateParams) -> Bytes {
        self.sign_as(name("org1", "root"), params)
    }

    fn identify(&self, params: &CertificateParams) -> Result<Arc<Identity>, MembershipError> {
        directory(&[&self.authority]).identify(&self.sign(params))
    }
}

fn name(organisation: &str, common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organisation);
    name.push(DnType::CommonName, common);
    name
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}
