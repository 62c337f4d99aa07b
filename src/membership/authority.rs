//! The certificate authority of one organisation: makes its root, enrolment certificates and TLS
//! certificates.
//!
//! One root issues both kinds; the extended key usage keeps them apart (`identity`). A second root
//! for TLS would double what members exchange and keep safe, and protect nothing that the purpose
//! check does not: whoever holds the enrolment root can become any member anyway.
//!
//! The authority asks its key for signatures through `crypto::SigningKey`, so the key may live in a
//! token. Every certificate is read back by the code that nodes use before it is handed out.
//!
//! Time and serial number come from the caller (`Terms`), so certificates of tests are the same on
//! every run.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CustomExtension;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyIdMethod;
use rcgen::KeyUsagePurpose;
use rcgen::SanType;
use rcgen::SerialNumber;

use crate::crypto::CryptoError;
use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::membership::certificate;
use crate::membership::error::MembershipError;
use crate::membership::identity;
use crate::membership::identity::Identity;
use crate::membership::identity::Role;
use crate::membership::identity::Root;
use crate::membership::msp;
use crate::membership::msp::MspError;
use crate::types::digest::Digest;
use crate::types::limits;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;

/// Issues the certificates of one organisation.
pub struct Authority {
    root: Root,
    key: Arc<dyn SigningKey>,
}

/// When a certificate is valid, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// First moment of validity, milliseconds since 1970; cut to whole seconds.
    pub not_before_ms: u64,
    /// Length of validity, days.
    pub days: u32,
    /// Serial number; the top bit is not used.
    pub serial: [u8; 16],
}

/// Who gets an enrolment certificate.
#[derive(Clone, Debug)]
pub struct Enrolment<'a> {
    /// Name within organisation and role.
    pub name: &'a str,
    /// Role.
    pub role: Role,
    /// Attributes, strictly ascending by name.
    pub attributes: &'a [(String, String)],
    /// The member's key.
    pub key: &'a PublicKey,
}

/// Who gets a TLS certificate.
#[derive(Clone, Debug)]
pub struct TlsSubject<'a> {
    /// Name within organisation and role.
    pub name: &'a str,
    /// Role.
    pub role: Role,
    /// Host names and addresses under which the member is reached.
    pub hosts: &'a [String],
    /// The member's TLS key, never its enrolment key.
    pub key: &'a PublicKey,
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// What was asked for would not be accepted by any node.
    #[error("cannot issue this certificate")]
    Refused(#[from] MembershipError),
    /// The authority's folder cannot be read.
    #[error("the authority's folder cannot be used")]
    Folder(#[from] MspError),
    /// The validity is out of range.
    #[error("cannot issue a certificate of {days} days: {reason}; choose a shorter validity")]
    Validity { days: u32, reason: &'static str },
    /// A host is neither a name nor an address.
    #[error("{host:?} is no host name and no IP address; give names like node1.bank.example")]
    Host { host: String },
    /// Certificate and key of the authority do not belong together.
    #[error(
        "the key does not belong to the root certificate of {organisation:?}; put both files back \
         from one backup"
    )]
    Key { organisation: String },
    /// The authority's key or the encoder failed.
    #[error("cannot make the certificate: {reason}")]
    Sign { reason: String },
}

impl Terms {
    /// Terms with a random serial number.
    pub fn new(not_before_ms: u64, days: u32) -> Result<Self, AuthorityError> {
        let mut serial = [0; 16];
        getrandom::fill(&mut serial)
            .map_err(|error| AuthorityError::Sign { reason: error.to_string() })?;
        Ok(Self { not_before_ms, days, serial })
    }

    fn not_after_ms(&self) -> Result<u64, AuthorityError> {
        let refuse = |reason| AuthorityError::Validity { days: self.days, reason };
        if self.days == 0 || self.days > limits::VALIDITY_DAYS_MAX {
            return Err(refuse("1 day to 100 years is possible"));
        }
        if self.not_before_ms > NOT_BEFORE_MS_MAX {
            return Err(refuse("it begins after the year 9000"));
        }
        Ok(self.not_before_ms / 1000 * 1000 + u64::from(self.days) * DAY_MS)
    }
}

impl Authority {
    /// Makes the organisation's self-signed root.
    pub fn found(
        organisation: &str,
        key: Arc<dyn SigningKey>,
        terms: &Terms,
    ) -> Result<Self, AuthorityError> {
        let mut params = root_params(organisation, key.public_key());
        set_terms(&mut params, terms)?;
        params.subject_alt_names = vec![uri(&identity::root_uri(organisation))?];
        let issuing = IssuingKey::new(key.clone());
        let der = params.self_signed(&issuing).map_err(|error| issuing.failed(error))?;
        Self::open(&Bytes::copy_from_slice(der.der()), key)
    }

    /// Goes on with a root made before.
    pub fn open(root: &Bytes, key: Arc<dyn SigningKey>) -> Result<Self, AuthorityError> {
        let root = Root::claimed(&certificate::parse(root)?, root.clone())?;
        if root.key != *key.public_key() {
            return Err(AuthorityError::Key { organisation: root.organisation });
        }
        Ok(Self { root, key })
    }

    /// Reads an authority's folder: `root.pem` and `key.pem`.
    pub fn load(folder: &Path, crypto: &Crypto) -> Result<Self, AuthorityError> {
        let root = msp::read_certificate(&folder.join("root.pem"))?;
        let path = folder.join("key.pem");
        let pkcs8 = msp::read_key(&path)?;
        let algorithm = certificate::parse(&root)?.key.algorithm();
        match crypto.load(algorithm, &pkcs8) {
            Ok(key) => Self::open(&root, key),
            Err(source) => Err(MspError::Key { path, source }.into()),
        }
    }

    /// The organisation's root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Issues an enrolment certificate, DER.
    pub fn enrol(&self, subject: &Enrolment<'_>, terms: &Terms) -> Result<Bytes, AuthorityError> {
        let mut params = self.leaf_params(subject.role, subject.name, subject.key)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::Other(certificate::ENROLMENT_USAGE.to_vec())];
        if !subject.attributes.is_empty() {
            params.custom_extensions.push(CustomExtension::from_oid_content(
                &certificate::ATTRIBUTES_EXTENSION,
                identity::encode_attributes(subject.attributes)?,
            ));
        }
        self.issue(params, subject.key, terms)
    }

    /// Issues a TLS certificate, DER, for server and client side.
    pub fn issue_tls(
        &self,
        subject: &TlsSubject<'_>,
        terms: &Terms,
    ) -> Result<Bytes, AuthorityError> {
        let mut params = self.leaf_params(subject.role, subject.name, subject.key)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        for host in subject.hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        self.issue(params, subject.key, terms)
    }

    fn leaf_params(
        &self,
        role: Role,
        name: &str,
        key: &PublicKey,
    ) -> Result<CertificateParams, AuthorityError> {
        let organisation = &self.root.organisation;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(organisation, Some(role.name()), name);
        params.subject_alt_names = vec![uri(&identity::leaf_uri(organisation, role, name))?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.key_identifier_method = key_identifier(key);
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        key: &PublicKey,
        terms: &Terms,
    ) -> Result<Bytes, AuthorityError> {
        if terms.not_after_ms()? > self.root.not_after_ms {
            let reason = "it would outlive the organisation's root";
            return Err(AuthorityError::Validity { days: terms.days, reason });
        }
        set_terms(&mut params, terms)?;
        let issuing = IssuingKey::new(self.key.clone());
        let issuer = Issuer::new(root_params(&self.root.organisation, &self.root.key), &issuing);
        let issued = params.signed_by(&SubjectKey(key.clone()), &issuer);
        let issued = issued.map_err(|error| issuing.failed(error))?;
        let der = Bytes::copy_from_slice(issued.der());
        let read = certificate::parse(&der)?;
        Identity::claimed(&read, der.clone())?;
        if read.issuer != self.root.subject {
            let reason = "the root was made by another program and names itself differently";
            return Err(AuthorityError::Sign { reason: reason.to_owned() });
        }
        Ok(der)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("root", &self.root).finish_non_exhaustive()
    }
}

/// The authority's key as the encoder sees it. The encoder's error has no place for the cause of a
/// failed signature, so it is kept beside.
pub(super) struct IssuingKey {
    key: Arc<dyn SigningKey>,
    failure: Mutex<Option<CryptoError>>,
}

impl IssuingKey {
    pub(super) fn new(key: Arc<dyn SigningKey>) -> Self {
        Self { key, failure: Mutex::default() }
    }

    fn failed(&self, error: rcgen::Error) -> AuthorityError {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(cause) => AuthorityError::Sign { reason: cause.to_string() },
            None => encoding(error),
        }
    }
}

impl rcgen::PublicKeyData for IssuingKey {
    fn der_bytes(&self) -> &[u8] {
        self.key.public_key().as_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        encoder_algorithm(self.key.public_key())
    }
}

impl rcgen::SigningKey for IssuingKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.key.sign(message).map_err(|error| {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            rcgen::Error::RemoteKeyError
        })?;
        Ok(match self.key.public_key().algorithm() {
            Algorithm::EcdsaP256 => certificate::ecdsa_der(&signature),
            Algorithm::Ed25519 => signature.0.to_vec(),
        })
    }
}

/// A subject's key as the encoder sees it.
pub(super) struct SubjectKey(pub(super) PublicKey);

impl rcgen::PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        encoder_algorithm(&self.0)
    }
}

fn encoder_algorithm(key: &PublicKey) -> &'static rcgen::SignatureAlgorithm {
    match key.algorithm() {
        Algorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Algorithm::Ed25519 => &rcgen::PKCS_ED25519,
    }
}

fn root_params(organisation: &str, key: &PublicKey) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(organisation, None, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = key_identifier(key);
    params
}

fn distinguished_name(organisation: &str, unit: Option<&str>, name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::OrganizationName, organisation);
    if let Some(unit) = unit {
        distinguished.push(DnType::OrganizationalUnitName, unit);
    }
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn key_identifier(key: &PublicKey) -> KeyIdMethod {
    KeyIdMethod::PreSpecified(Digest::of(&[key.as_bytes()]).0[..20].to_vec())
}

fn set_terms(params: &mut CertificateParams, terms: &Terms) -> Result<(), AuthorityError> {
    let at = |ms| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(ms / 1000);
    params.not_after = at(terms.not_after_ms()?);
    params.not_before = at(terms.not_before_ms);
    let mut serial = terms.serial;
    // Positive and of full length, whatever was drawn.
    serial[0] = serial[0] & 0x7F | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

fn uri(text: &str) -> Result<SanType, AuthorityError> {
    text.try_into().map(SanType::URI).map_err(encoding)
}

fn host_name(host: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err(AuthorityError::Host { host: host.to_owned() });
    }
    host.try_into().map(SanType::DnsName).map_err(encoding)
}

fn encoding(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Sign { reason: error.to_string() }
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// The first of January 9000: with the longest validity, years keep four digits.
const NOT_BEFORE_MS_MAX: u64 = 221_845_392_000_000;
