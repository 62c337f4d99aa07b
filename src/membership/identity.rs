//! What a certificate says about its owner, and what its owner may use it for.
//!
//! ```text
//! leaf   URI obelisk://<organisation>/<role>/<name>    CA false, digitalSignature
//!        enrolment: EKU enrolment, no other name       signs transactions or votes
//!        TLS: EKU server + client, hosts beside        authenticates connections
//! root   URI obelisk://<organisation>                  CA true, path length 0, keyCertSign
//! ```
//!
//! Enrolment and TLS certificates come from the same root and are told apart by the extended key
//! usage, both ways: a TLS key cannot sign transactions, an enrolment key cannot open connections.

use std::fmt;

use bytes::Bytes;

use crate::membership::certificate;
use crate::membership::certificate::AlternativeName;
use crate::membership::certificate::Certificate;
use crate::membership::certificate::Extensions;
use crate::membership::certificate::Usage;
use crate::membership::der;
use crate::membership::error::MembershipError;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::limits;
use crate::types::signature::PublicKey;

/// What a member does in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Signs transactions.
    Client,
    /// Orders, executes and votes.
    Validator,
    /// Follows and serves queries, never votes.
    Observer,
    /// Reads what was opened to it, and the act is recorded.
    Auditor,
    /// Configures the network for its organisation.
    Admin,
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Signing transactions or consensus messages.
    Enrolment,
    /// Authenticating a connection, as server and as client.
    Tls,
}

/// A member as its certificate describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Organisation.
    pub organisation: String,
    /// Name within the organisation and role.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Attributes, strictly ascending by name.
    pub attributes: Vec<(String, String)>,
    /// The key that the certificate vouches for.
    pub key: PublicKey,
    /// SHA-256 of the certificate.
    pub certificate: CertificateId,
    /// The certificate, DER.
    pub der: Bytes,
    /// First moment of validity, milliseconds since 1970.
    pub not_before_ms: u64,
    /// Last moment of validity, milliseconds since 1970.
    pub not_after_ms: u64,
    /// What it may be used for.
    pub purpose: Purpose,
}

/// Root of an organisation: vouches for its members' certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The organisation that the certificate itself names.
    pub organisation: String,
    /// Key that signs the organisation's certificates.
    pub key: PublicKey,
    /// Subject, DER: the issuer of those certificates.
    pub subject: Bytes,
    /// The certificate, DER.
    pub der: Bytes,
    /// First moment of validity, milliseconds since 1970.
    pub not_before_ms: u64,
    /// Last moment of validity, milliseconds since 1970.
    pub not_after_ms: u64,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] =
        [Self::Client, Self::Validator, Self::Observer, Self::Auditor, Self::Admin];

    /// The word in identities, configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Validator => "validator",
            Self::Observer => "observer",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl Purpose {
    /// The kind of certificate, for messages.
    pub fn described(self) -> &'static str {
        match self {
            Self::Enrolment => "an enrolment certificate",
            Self::Tls => "a TLS certificate",
        }
    }
}

impl Identity {
    /// Reads the identity that a leaf certificate claims. Nobody has checked yet who signed it:
    /// `Directory::identify` does.
    pub fn claimed(certificate: &Certificate<'_>, der: Bytes) -> Result<Self, MembershipError> {
        let extensions = &certificate.extensions;
        check_leaf(extensions)?;
        let purpose = purpose(extensions)?;
        let uri = sole_uri(extensions, purpose == Purpose::Tls)?;
        let (organisation, role, name) = parse_leaf_uri(uri)?;
        Ok(Self {
            organisation: organisation.to_owned(),
            name: name.to_owned(),
            role,
            attributes: match extensions.attributes {
                None => Vec::new(),
                Some(bytes) => decode_attributes(bytes)?,
            },
            key: certificate.key.clone(),
            certificate: CertificateId(Digest::of(&[&der])),
            der,
            not_before_ms: certificate.not_before_ms,
            not_after_ms: certificate.not_after_ms,
            purpose,
        })
    }

    /// The identity as written in the certificate.
    pub fn uri(&self) -> String {
        leaf_uri(&self.organisation, self.role, &self.name)
    }

    /// Whether the certificate is valid at a time, milliseconds since 1970: block time in
    /// execution, the clock at admission.
    pub fn valid_at(&self, now_ms: u64) -> bool {
        (self.not_before_ms..=self.not_after_ms).contains(&now_ms)
    }

    /// `valid_at`, with the refusal to answer.
    pub fn check_valid_at(&self, now_ms: u64) -> Result<(), MembershipError> {
        if self.valid_at(now_ms) {
            return Ok(());
        }
        Err(MembershipError::Expired {
            subject: self.uri(),
            state: if now_ms < self.not_before_ms { "not yet valid" } else { "expired" },
            now_ms,
            not_before_ms: self.not_before_ms,
            not_after_ms: self.not_after_ms,
        })
    }

    /// Refuses a certificate made for another use.
    pub fn check_purpose(&self, wanted: Purpose) -> Result<(), MembershipError> {
        if self.purpose == wanted {
            return Ok(());
        }
        Err(MembershipError::Purpose {
            subject: self.uri(),
            found: self.purpose.described(),
            wanted: wanted.described(),
        })
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        Some(&self.attributes[found].1)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri())
    }
}

impl Root {
    /// Reads a root certificate. Its own signature is checked by `Directory::new`.
    pub fn claimed(certificate: &Certificate<'_>, der: Bytes) -> Result<Self, MembershipError> {
        let extensions = &certificate.extensions;
        let refuse = |extension, reason| Err(MembershipError::Extension { extension, reason });
        if extensions.constraints != Some((true, Some(0))) {
            return refuse("basic constraints", "a root is a CA with path length 0");
        }
        if extensions.key_usage.is_none_or(|usage| usage & certificate::KEY_CERT_SIGN == 0) {
            return refuse("key usage", "a root signs certificates");
        }
        if certificate.issuer != certificate.subject {
            return refuse("issuer", "a root is issued by itself");
        }
        let uri = sole_uri(extensions, false)?;
        let organisation = uri
            .strip_prefix(SCHEME)
            .filter(|name| is_name(name))
            .ok_or(MembershipError::Name { reason: "a root's URI is obelisk://<organisation>" })?;
        Ok(Self {
            organisation: organisation.to_owned(),
            key: certificate.key.clone(),
            subject: Bytes::copy_from_slice(certificate.subject),
            der,
            not_before_ms: certificate.not_before_ms,
            not_after_ms: certificate.not_after_ms,
        })
    }
}

/// Whether a text can be the name of an organisation, a member or an attribute: 1 to 64 of a-z,
/// 0-9, '-' and '.', which needs no escaping in URIs, files and host names.
pub fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    // Names become folder names: "." and ".." must not be among them.
    (1..=limits::NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('.')
}

/// The URI of a member.
pub fn leaf_uri(organisation: &str, role: Role, name: &str) -> String {
    format!("{SCHEME}{organisation}/{}/{name}", role.name())
}

/// The URI of an organisation's root.
pub fn root_uri(organisation: &str) -> String {
    format!("{SCHEME}{organisation}")
}

/// Content of the attributes extension. The names must be strictly ascending.
pub fn encode_attributes(attributes: &[(String, String)]) -> Result<Vec<u8>, MembershipError> {
    check_attributes(attributes)?;
    let pairs: Vec<u8> = attributes
        .iter()
        .flat_map(|(name, value)| {
            let name = der::value(der::UTF8_STRING, name.as_bytes());
            let value = der::value(der::UTF8_STRING, value.as_bytes());
            der::value(der::SEQUENCE, &[name, value].concat())
        })
        .collect();
    Ok(der::value(der::SEQUENCE, &pairs))
}

fn decode_attributes(bytes: &[u8]) -> Result<Vec<(String, String)>, MembershipError> {
    let refuse = |reason| MembershipError::Attributes { reason };
    let broken = || refuse("not SEQUENCE OF SEQUENCE { name, value } in DER");
    let mut input = bytes;
    let mut pairs = der::take(&mut input, der::SEQUENCE).ok_or_else(broken)?;
    let mut attributes = Vec::new();
    while !pairs.is_empty() {
        if attributes.len() == limits::ATTRIBUTES_MAX {
            return Err(refuse("more than 32"));
        }
        let mut pair = der::take(&mut pairs, der::SEQUENCE).ok_or_else(broken)?;
        let mut text = || {
            let bytes = der::take(&mut pair, der::UTF8_STRING)?;
            std::str::from_utf8(bytes).ok().map(str::to_owned)
        };
        let (name, value) = (text().ok_or_else(broken)?, text().ok_or_else(broken)?);
        if !pair.is_empty() {
            return Err(broken());
        }
        attributes.push((name, value));
    }
    if !input.is_empty() {
        return Err(broken());
    }
    check_attributes(&attributes)?;
    Ok(attributes)
}

fn check_attributes(attributes: &[(String, String)]) -> Result<(), MembershipError> {
    let refuse = |reason| Err(MembershipError::Attributes { reason });
    if attributes.len() > limits::ATTRIBUTES_MAX {
        return refuse("more than 32");
    }
    if attributes.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return refuse("names are not strictly ascending");
    }
    if !attributes.iter().all(|(name, _)| is_name(name)) {
        return refuse("a name is not 1 to 64 of a-z, 0-9, '-' and '.'");
    }
    let too_long = |value: &str| value.len() > limits::ATTRIBUTE_VALUE_BYTES_MAX;
    if attributes.iter().any(|(_, value)| too_long(value) || value.chars().any(char::is_control)) {
        return refuse("a value is longer than 256 bytes or holds control characters");
    }
    Ok(())
}

fn check_leaf(extensions: &Extensions<'_>) -> Result<(), MembershipError> {
    let refuse = |extension, reason| Err(MembershipError::Extension { extension, reason });
    if extensions.constraints.is_some_and(|(ca, _)| ca) {
        return refuse("basic constraints", "a member's certificate is no CA");
    }
    if extensions.key_usage != Some(certificate::DIGITAL_SIGNATURE) {
        return refuse("key usage", "it must be digital signature alone");
    }
    Ok(())
}

fn purpose(extensions: &Extensions<'_>) -> Result<Purpose, MembershipError> {
    let mut usages = extensions.extended_usage.clone().unwrap_or_default();
    usages.sort_unstable();
    match usages[..] {
        [Usage::Enrolment] => Ok(Purpose::Enrolment),
        [Usage::Server, Usage::Client] => Ok(Purpose::Tls),
        _ => Err(MembershipError::Extension {
            extension: "extended key usage",
            reason: "it must be enrolment alone, or TLS server and client",
        }),
    }
}

/// The one URI; hosts may stand beside it where allowed.
fn sole_uri<'a>(extensions: &Extensions<'a>, hosts: bool) -> Result<&'a str, MembershipError> {
    let refuse = |reason| Err(MembershipError::Name { reason });
    let names = extensions.names.as_deref().unwrap_or_default();
    if names.len() > limits::CERTIFICATE_HOSTS_MAX + 1 {
        return refuse("more than 16 hosts");
    }
    let mut sole = None;
    for name in names {
        match name {
            AlternativeName::Uri(uri) if sole.is_none() => sole = Some(*uri),
            AlternativeName::Uri(_) => return refuse("more than one URI"),
            AlternativeName::Host if hosts => {}
            AlternativeName::Host => return refuse("hosts belong into a TLS certificate"),
            AlternativeName::Other => return refuse("a name that is no URI and no host"),
        }
    }
    sole.ok_or(MembershipError::Name { reason: "no URI" })
}

fn parse_leaf_uri(uri: &str) -> Result<(&str, Role, &str), MembershipError> {
    let refuse = |reason| MembershipError::Name { reason };
    let path = uri.strip_prefix(SCHEME).ok_or(refuse("its URI is not of scheme obelisk"))?;
    let parts: Vec<&str> = path.splitn(4, '/').collect();
    let [organisation, role, name] = parts[..] else {
        return Err(refuse("its URI has not three parts"));
    };
    if !is_name(organisation) || !is_name(name) {
        return Err(refuse("a part holds other characters or has another length"));
    }
    let role = Role::from_name(role).ok_or(refuse("its role is unknown"))?;
    Ok((organisation, role, name))
}

const SCHEME: &str = "obelisk://";
