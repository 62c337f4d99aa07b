//! X.509 (RFC 5280) bytes as a structure, read strictly: what is left open by the standard or
//! forgiven by parsers is refused, so that every node reads a certificate alike.
//!
//! One certificate has one encoding: everything outside the signed part is read by a reader that
//! knows one form of each value, and whoever verifies requires ECDSA's low s. So nobody without the
//! CA's key can turn a certificate into another one with another `CertificateId`. Other authorities
//! let s fall as it may: what comes in by a file or a handshake is brought into this form first
//! (`canonical`), so that it has the same id wherever it is met (docs/decisions/0008).
//!
//! Nothing is verified here; `directory` checks who signed.

use bytes::Bytes;
use x509_parser::asn1_rs::FromDer;
use x509_parser::certificate::Validity;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::oid;
use x509_parser::extensions::ExtendedKeyUsage;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::ParsedExtension;
use x509_parser::extensions::X509Extension;
use x509_parser::oid_registry::Oid;
use x509_parser::x509::SubjectPublicKeyInfo;
use x509_parser::x509::X509Version;

use crate::crypto::validity;
use crate::membership::der;
use crate::membership::error::MembershipError;
use crate::types::limits;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;
use crate::types::signature::Signature;

/// What a certificate states, before anybody asked who signed it.
#[derive(Debug)]
pub struct Certificate<'a> {
    /// The part that is signed.
    pub signed: &'a [u8],
    /// Issuer's distinguished name, DER.
    pub issuer: &'a [u8],
    /// Subject's distinguished name, DER.
    pub subject: &'a [u8],
    /// The subject's key.
    pub key: PublicKey,
    /// First moment of validity, milliseconds since 1970.
    pub not_before_ms: u64,
    /// Last moment of validity, milliseconds since 1970.
    pub not_after_ms: u64,
    /// Algorithm of the signature.
    pub signature_algorithm: Algorithm,
    /// The issuer's signature over `signed`.
    pub signature: Signature,
    /// The extensions that are understood.
    pub extensions: Extensions<'a>,
}

/// The extensions that this house reads. Others are refused where critical, else passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    /// Basic constraints: CA flag and path length.
    pub constraints: Option<(bool, Option<u32>)>,
    /// Key usage bits (RFC 5280, 4.2.1.3; bit 0 is the lowest).
    pub key_usage: Option<u16>,
    /// Extended key usages.
    pub extended_usage: Option<Vec<Usage>>,
    /// Subject alternative names.
    pub names: Option<Vec<AlternativeName<'a>>>,
    /// Content of the attributes extension.
    pub attributes: Option<&'a [u8]>,
}

/// Extended key usages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
    /// Enrolment: signs transactions or votes (`ENROLMENT_USAGE`).
    Enrolment,
    /// Any other.
    Other,
}

/// Subject alternative names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlternativeName<'a> {
    /// A URI.
    Uri(&'a str),
    /// A host name or an address: what TLS clients outside this house compare.
    Host,
    /// Any other.
    Other,
}

/// Extension: attributes, `SEQUENCE OF SEQUENCE { name UTF8String, value UTF8String }`. The arc is
/// 1.3.6.1.4.1.32473.16: the enterprise number is the one that RFC 5612 sets aside for
/// documentation, until the project has its own.
pub const ATTRIBUTES_EXTENSION: [u64; 9] = [1, 3, 6, 1, 4, 1, 32473, 16, 1];
/// Extended key usage: enrolment.
pub const ENROLMENT_USAGE: [u64; 9] = [1, 3, 6, 1, 4, 1, 32473, 16, 2];

/// Key usage bit: digital signature.
pub const DIGITAL_SIGNATURE: u16 = 1;
/// Key usage bit: signs certificates.
pub const KEY_CERT_SIGN: u16 = 1 << 5;

/// Reads a certificate.
pub fn parse(bytes: &[u8]) -> Result<Certificate<'_>, MembershipError> {
    if bytes.len() > limits::CERTIFICATE_BYTES_MAX {
        let (found, limit) = (bytes.len(), limits::CERTIFICATE_BYTES_MAX);
        return Err(MembershipError::Oversize { found, limit });
    }
    let malformed = |reason| MembershipError::Malformed { reason };
    let (signed, signature_algorithm, signature) = envelope(bytes)?;
    let (_, x509) =
        X509Certificate::from_der(bytes).map_err(|_| malformed("the structure cannot be read"))?;
    let tbs = &x509.tbs_certificate;
    if tbs.as_ref() != signed {
        return Err(malformed("bytes follow the last field"));
    }
    if tbs.version != X509Version::V3 || tbs.issuer_uid.is_some() || tbs.subject_uid.is_some() {
        return Err(malformed("the version is not 3, or unique identifiers are present"));
    }
    let serial = tbs.raw_serial();
    if serial.is_empty() || serial.len() > SERIAL_BYTES_MAX || serial[0] & 0x80 != 0 {
        return Err(malformed("the serial number is not a positive number of at most 20 bytes"));
    }
    if tbs.signature != x509.signature_algorithm {
        return Err(malformed("it states two signature algorithms"));
    }
    let (not_before_ms, not_after_ms) = validity(&tbs.validity)?;
    Ok(Certificate {
        signed,
        issuer: tbs.issuer.as_raw(),
        subject: tbs.subject.as_raw(),
        key: public_key(&tbs.subject_pki)?,
        not_before_ms,
        not_after_ms,
        signature_algorithm,
        signature,
        extensions: extensions(tbs.extensions())?,
    })
}

/// The certificate with the low of the two values of s that its issuer's ECDSA signature may have;
/// the signature stays good. Anything else, broken bytes too, comes back as it is.
pub fn canonical(bytes: &[u8]) -> Bytes {
    match envelope(bytes) {
        Ok((signed, algorithm, mut signature)) if has_high_s(algorithm, &signature) => {
            validity::normalise_s(&mut signature);
            let bits = [&[0], &ecdsa_der(&signature)[..]].concat();
            let bits = der::value(der::BIT_STRING, &bits);
            let body = [signed, ECDSA_SHA256_DER, &bits].concat();
            Bytes::from(der::value(der::SEQUENCE, &body))
        }
        _ => Bytes::copy_from_slice(bytes),
    }
}

/// Whether s is in the upper half of its range: the form of a certificate that no ledger holds.
pub fn has_high_s(algorithm: Algorithm, signature: &Signature) -> bool {
    let mut low = *signature;
    let possible = signature.0[32..] < validity::P256_ORDER[..];
    if algorithm == Algorithm::EcdsaP256 && possible {
        validity::normalise_s(&mut low);
    }
    low != *signature
}

/// `SEQUENCE { r INTEGER, s INTEGER }` of a raw signature (RFC 3279, 2.2.3).
pub fn ecdsa_der(signature: &Signature) -> Vec<u8> {
    let (r, s) = signature.0.split_at(32);
    der::value(der::SEQUENCE, &[der::unsigned(r), der::unsigned(s)].concat())
}

/// Splits a certificate into signed part, algorithm and signature, each in its one encoding.
fn envelope(bytes: &[u8]) -> Result<(&[u8], Algorithm, Signature), MembershipError> {
    let malformed = |reason| MembershipError::Malformed { reason };
    let broken = || malformed("it is not SEQUENCE { signed part, algorithm, signature } in DER");
    let mut input = bytes;
    let body = der::take(&mut input, der::SEQUENCE).ok_or_else(broken)?;
    if !input.is_empty() {
        return Err(malformed("bytes follow its end"));
    }
    let mut rest = body;
    der::take(&mut rest, der::SEQUENCE).ok_or_else(broken)?;
    let signed = &body[..body.len() - rest.len()];
    let (algorithm, mut rest) = if let Some(rest) = rest.strip_prefix(ECDSA_SHA256_DER) {
        (Algorithm::EcdsaP256, rest)
    } else if let Some(rest) = rest.strip_prefix(ED25519_DER) {
        (Algorithm::Ed25519, rest)
    } else {
        return Err(malformed("it is not signed with ECDSA-SHA256 or Ed25519"));
    };
    let bits = der::take(&mut rest, der::BIT_STRING).ok_or_else(broken)?;
    let value = bits.strip_prefix(&[0]).filter(|_| rest.is_empty()).ok_or_else(broken)?;
    let signature = match algorithm {
        Algorithm::EcdsaP256 => ecdsa_raw(value),
        Algorithm::Ed25519 => value.try_into().ok().map(Signature),
    };
    let signature = signature.ok_or(malformed("its signature is not in its one encoding"))?;
    Ok((signed, algorithm, signature))
}

fn ecdsa_raw(value: &[u8]) -> Option<Signature> {
    let mut input = value;
    let mut numbers = der::take(&mut input, der::SEQUENCE)?;
    let (r, s) = (der::take_unsigned_32(&mut numbers)?, der::take_unsigned_32(&mut numbers)?);
    let mut raw = [0; 64];
    raw[..32].copy_from_slice(&r);
    raw[32..].copy_from_slice(&s);
    (input.is_empty() && numbers.is_empty()).then_some(Signature(raw))
}

fn validity(validity: &Validity) -> Result<(u64, u64), MembershipError> {
    let ms = |seconds: i64| u64::try_from(seconds).ok().and_then(|s| s.checked_mul(1000));
    match (ms(validity.not_before.timestamp()), ms(validity.not_after.timestamp())) {
        (Some(from), Some(to)) if from <= to => Ok((from, to)),
        _ => Err(MembershipError::Malformed { reason: "its validity ends before it begins" }),
    }
}

fn public_key(info: &SubjectPublicKeyInfo<'_>) -> Result<PublicKey, MembershipError> {
    let refuse = |reason| MembershipError::Key { reason };
    let parameters = info.algorithm.parameters.as_ref();
    let algorithm = if info.algorithm.algorithm == oid!(1.2.840.10045.2.1) {
        match parameters.map(|p| p.as_oid()) {
            Some(Ok(curve)) if curve == oid!(1.2.840.10045.3.1.7) => Algorithm::EcdsaP256,
            _ => return Err(refuse("an elliptic curve other than P-256")),
        }
    } else if info.algorithm.algorithm == oid!(1.3.101.112) && parameters.is_none() {
        Algorithm::Ed25519
    } else {
        return Err(refuse("neither P-256 nor Ed25519 (RSA is not used)"));
    };
    let bits = &info.subject_public_key;
    if bits.unused_bits != 0 || (algorithm == Algorithm::EcdsaP256 && bits.data.first() != Some(&4))
    {
        return Err(refuse("not an uncompressed point"));
    }
    PublicKey::new(algorithm, &bits.data).map_err(|_| refuse("wrong length for its algorithm"))
}

fn extensions<'a>(found: &[X509Extension<'a>]) -> Result<Extensions<'a>, MembershipError> {
    let mut out = Extensions::default();
    let attributes = Oid::from(&ATTRIBUTES_EXTENSION).expect("a well-formed constant");
    for (i, extension) in found.iter().enumerate() {
        let refuse = |extension, reason| Err(MembershipError::Extension { extension, reason });
        if found[..i].iter().any(|before| before.oid == extension.oid) {
            return refuse("extensions", "one of them is there twice");
        }
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(c) => {
                out.constraints = Some((c.ca, c.path_len_constraint));
            }
            ParsedExtension::KeyUsage(usage) => out.key_usage = Some(usage.flags),
            ParsedExtension::ExtendedKeyUsage(usage) => out.extended_usage = Some(usages(usage)),
            ParsedExtension::SubjectAlternativeName(san) => {
                out.names = Some(san.general_names.iter().map(alternative_name).collect());
            }
            ParsedExtension::ParseError { .. } => return refuse("extensions", "one is malformed"),
            ParsedExtension::SubjectKeyIdentifier(_)
            | ParsedExtension::AuthorityKeyIdentifier(_) => {}
            _ if extension.oid == attributes => out.attributes = Some(extension.value),
            _ if extension.critical => {
                return refuse("extensions", "one is critical and not understood here");
            }
            _ => {}
        }
    }
    Ok(out)
}

fn usages(found: &ExtendedKeyUsage<'_>) -> Vec<Usage> {
    let enrolment = Oid::from(&ENROLMENT_USAGE).expect("a well-formed constant");
    let others = [
        found.any,
        found.code_signing,
        found.email_protection,
        found.time_stamping,
        found.ocsp_signing,
    ];
    let mut usages = Vec::new();
    if found.server_auth {
        usages.push(Usage::Server);
    }
    if found.client_auth {
        usages.push(Usage::Client);
    }
    for other in &found.other {
        usages.push(if *other == enrolment { Usage::Enrolment } else { Usage::Other });
    }
    usages.extend(others.iter().filter(|present| **present).map(|_| Usage::Other));
    usages
}

fn alternative_name<'a>(name: &GeneralName<'a>) -> AlternativeName<'a> {
    match name {
        GeneralName::URI(uri) => AlternativeName::Uri(uri),
        GeneralName::DNSName(_) | GeneralName::IPAddress(_) => AlternativeName::Host,
        _ => AlternativeName::Other,
    }
}

/// RFC 5280, 4.1.2.2.
const SERIAL_BYTES_MAX: usize = 20;
/// `AlgorithmIdentifier` of ecdsa-with-SHA256 (RFC 5758, 3.2).
const ECDSA_SHA256_DER: &[u8] =
    &[0x30, 0x0A, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02];
/// `AlgorithmIdentifier` of Ed25519 (RFC 8410, 3).
const ED25519_DER: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70];
