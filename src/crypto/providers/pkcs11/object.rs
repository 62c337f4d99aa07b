//! Key objects: finding them, reading the public half, judging their attributes, making new ones.
//!
//! | curve | CKA_EC_PARAMS | CKA_EC_POINT, told by length |
//! | --- | --- | --- |
//! | P-256 | OID 1.2.840.10045.3.1.7 | 65, OCTET STRING 67, BIT STRING 68, compressed 33 |
//! | Ed25519 | OID 1.3.101.112, an older OID, PrintableString | 32, OCTET STRING 34, BIT STRING 35 |
//!
//! PKCS #11 2.40, 3.0 and 3.1 differ in the form of the Edwards point, and tokens take any of them.

use cryptoki::error::Error as Pkcs11Error;
use cryptoki::error::RvError;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::object::AttributeType;
use cryptoki::object::KeyType;
use cryptoki::object::ObjectClass;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use p256::elliptic_curve::sec1::ToEncodedPoint;

use crate::crypto::keys::Secret;
use crate::crypto::providers::pkcs11::KeySelect;
use crate::crypto::providers::pkcs11::error::Fault;
use crate::crypto::providers::pkcs11::error::TokenError;
use crate::crypto::providers::pkcs11::error::words;
use crate::crypto::providers::pkcs11::token::Token;
use crate::types::limits;
use crate::types::signature::Algorithm;
use crate::types::signature::PublicKey;

/// A private key on a token.
#[derive(Clone, Debug)]
pub struct Found {
    pub(super) handle: ObjectHandle,
    /// CKA_ID.
    pub id: Vec<u8>,
    /// CKA_LABEL.
    pub label: String,
    /// The public half.
    pub public: PublicKey,
    /// One row per attribute that matters.
    pub audit: Vec<Finding>,
}

/// A private key of a token, as an audit lists it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// CKA_ID.
    pub id: Vec<u8>,
    /// CKA_LABEL.
    pub label: String,
    /// What it is: an algorithm of this house, or another kind.
    pub kind: String,
    /// One row per attribute that matters.
    pub audit: Vec<Finding>,
    /// Of a kind that this house uses: its attributes matter.
    pub judged: bool,
    /// Why it cannot be used here, where it cannot.
    pub unusable: Option<String>,
    /// Private keys with this id; one is right.
    pub same_id: usize,
}

/// One attribute of a key, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// As PKCS #11 calls it.
    pub attribute: &'static str,
    /// What the token says; `None` where it says nothing.
    pub value: Option<bool>,
    /// What it must be.
    pub wanted: bool,
    /// Whether the key may be used.
    pub accepted: bool,
}

/// An attribute that matters: name, type, wanted value, and whether silence is acceptable.
type Rule = (&'static str, AttributeType, bool, bool);

const RULES: [Rule; 12] = [
    ("CKA_TOKEN", AttributeType::Token, true, false),
    ("CKA_PRIVATE", AttributeType::Private, true, false),
    ("CKA_SENSITIVE", AttributeType::Sensitive, true, false),
    ("CKA_EXTRACTABLE", AttributeType::Extractable, false, false),
    ("CKA_SIGN", AttributeType::Sign, true, false),
    ("CKA_DECRYPT", AttributeType::Decrypt, false, true),
    ("CKA_UNWRAP", AttributeType::Unwrap, false, true),
    ("CKA_DERIVE", AttributeType::Derive, false, true),
    ("CKA_SIGN_RECOVER", AttributeType::SignRecover, false, true),
    ("CKA_LOCAL", AttributeType::Local, true, false),
    ("CKA_ALWAYS_SENSITIVE", AttributeType::AlwaysSensitive, true, false),
    ("CKA_NEVER_EXTRACTABLE", AttributeType::NeverExtractable, true, false),
];

/// What an imported key cannot have.
const OF_GENERATED_KEYS: [&str; 3] = ["CKA_LOCAL", "CKA_ALWAYS_SENSITIVE", "CKA_NEVER_EXTRACTABLE"];

/// The one private key that is selected. Missing, duplicated and foreign kinds are typed errors;
/// attributes are judged, not enforced: see `require_safe`.
pub(super) fn find(session: &Session, token: &str, select: &KeySelect) -> Result<Found, Fault> {
    let handles = session.find_objects(&template(ObjectClass::PRIVATE_KEY, select))?;
    let handle = match handles[..] {
        [handle] => handle,
        [] => {
            return Err(TokenError::KeyMissing {
                token: token.to_owned(),
                select: select.to_string(),
                present: present(session)?,
            }
            .into());
        }
        _ => {
            let (token, select, count) = (token.to_owned(), select.to_string(), handles.len());
            return Err(TokenError::KeyTwice { token, select, count }.into());
        }
    };
    describe(session, token, select, handle)
}

/// The handle of the selected key, where its public half is still the expected one.
pub(super) fn refind(
    session: &Session,
    token: &str,
    select: &KeySelect,
    public: &PublicKey,
) -> Result<ObjectHandle, Fault> {
    let found = find(session, token, select)?;
    if found.public != *public {
        let (token, select) = (token.to_owned(), select.to_string());
        return Err(TokenError::KeyChanged { token, select }.into());
    }
    Ok(found.handle)
}

/// Every private key, of whatever kind.
pub(super) fn list(session: &Session, token: &str) -> Result<Vec<Listed>, Fault> {
    let handles = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)])?;
    let mut listed: Vec<Listed> = Vec::new();
    for handle in handles.into_iter().take(limits::TOKEN_KEYS_LISTED_MAX) {
        let (id, label) = names(session, handle)?;
        let select =
            KeySelect { id: Some(id.clone()), label: Some(label.clone()), imported: false };
        let (kind, judged, unusable) = match describe(session, token, &select, handle) {
            Ok(key) => (key.public.algorithm().name().to_owned(), true, None),
            Err(Fault::Typed(TokenError::KeyKind { reason, .. })) => {
                (kind(session, handle), false, Some(reason))
            }
            Err(Fault::Typed(TokenError::KeyTwice { count, .. })) => {
                let reason = format!("the token has {count} public keys with its id");
                (kind(session, handle), true, Some(reason))
            }
            Err(fault) => return Err(fault),
        };
        let audit = audit(session, handle)?;
        listed.push(Listed { id, label, kind, audit, judged, unusable, same_id: 1 });
    }
    let ids: Vec<Vec<u8>> = listed.iter().map(|key| key.id.clone()).collect();
    for key in &mut listed {
        key.same_id = ids.iter().filter(|id| **id == key.id).count();
    }
    Ok(listed)
}

/// Refuses a key that could leave the token or do more than sign.
pub(super) fn require_safe(
    found: &Found,
    token: &str,
    select: &KeySelect,
) -> Result<(), TokenError> {
    judge(&found.audit, token, select)
}

fn judge(audit: &[Finding], token: &str, select: &KeySelect) -> Result<(), TokenError> {
    let bad = |finding: &&Finding| {
        let excused = select.imported && OF_GENERATED_KEYS.contains(&finding.attribute);
        !finding.accepted && !excused
    };
    let faults: Vec<String> = audit
        .iter()
        .filter(bad)
        .map(|finding| match finding.value {
            Some(value) => format!("{} is {value}", finding.attribute),
            None => format!("{} is not stated", finding.attribute),
        })
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    let (token, select) = (token.to_owned(), select.to_string());
    Err(TokenError::KeyUnsafe { token, select, faults: faults.join(", ") })
}

/// Makes a key pair that signs and never leaves the token.
pub(super) fn generate(
    session: &Session,
    on: &Token,
    algorithm: Algorithm,
    select: &KeySelect,
) -> Result<Found, Fault> {
    let token = &on.config.name;
    require_absent(session, token, select)?;
    let (mechanism, params) = match algorithm {
        Algorithm::EcdsaP256 => (Mechanism::EccKeyPairGen, P256_OID),
        Algorithm::Ed25519 => (Mechanism::EccEdwardsKeyPairGen, ED25519_OID),
    };
    let mut public = vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::EcParams(params.to_vec()),
    ];
    public.extend(select_attributes(select));
    let mut whole = public.clone();
    whole.extend([Attribute::Verify(true), Attribute::Encrypt(false), Attribute::Wrap(false)]);
    let private = private_template(select);
    match session.generate_key_pair(&mechanism, &whole, &private) {
        Ok(_) => {}
        Err(error) if is_template_fault(&error) => {
            // Some tokens refuse to be told what a key may not do, and tpm2-pkcs11 takes VERIFY of
            // the public half for DECRYPT of the private one. The audit reads what came out.
            require_absent(session, token, select)?;
            let allowed: Vec<_> = private.into_iter().filter(|one| !is_denial(one)).collect();
            let made = session.generate_key_pair(&mechanism, &public, &allowed);
            made.map_err(|error| not_made(on, &error))?;
        }
        Err(error) => return Err(not_made(on, &error)),
    }
    find(session, token, select)
}

/// A use that a template forbids.
fn is_denial(attribute: &Attribute) -> bool {
    matches!(
        attribute,
        Attribute::Decrypt(false)
            | Attribute::Unwrap(false)
            | Attribute::Derive(false)
            | Attribute::SignRecover(false)
    )
}

/// Whether a token may have refused the attributes rather than the key; tpm2-pkcs11 calls it a
/// general error.
fn is_template_fault(error: &Pkcs11Error) -> bool {
    matches!(
        error,
        Pkcs11Error::Pkcs11(
            RvError::TemplateInconsistent
                | RvError::TemplateIncomplete
                | RvError::AttributeTypeInvalid
                | RvError::AttributeValueInvalid
                | RvError::GeneralError,
            _
        )
    )
}

/// Puts a key of a file onto the token: it was outside, and the token says so for ever.
pub(super) fn import(
    session: &Session,
    on: &Token,
    secret: &Secret,
    select: &KeySelect,
) -> Result<Found, Fault> {
    let token = &on.config.name;
    require_absent(session, token, select)?;
    let (kind, params) = match secret.algorithm {
        Algorithm::EcdsaP256 => (KeyType::EC, P256_OID),
        Algorithm::Ed25519 => (KeyType::EC_EDWARDS, ED25519_OID),
    };
    let point = secret.public.as_bytes();
    let mut wrapped = vec![0x04, u8::try_from(point.len()).expect("a point has 32 or 65 bytes")];
    wrapped.extend_from_slice(point);
    let mut public = vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(kind),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(params.to_vec()),
        Attribute::EcPoint(wrapped),
    ];
    public.extend(select_attributes(select));
    let mut private = private_template(select);
    private.extend([
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(kind),
        Attribute::EcParams(params.to_vec()),
        Attribute::Value(secret.bytes.to_vec()),
    ]);
    let made = session.create_object(&private);
    if let Some(Attribute::Value(value)) = private.last_mut() {
        zeroize::Zeroize::zeroize(value);
    }
    made.and_then(|_| session.create_object(&public)).map_err(|error| not_made(on, &error))?;
    find(session, token, select)
}

/// A full token has many words for it, and few of them mean that.
fn not_made(on: &Token, error: &Pkcs11Error) -> Fault {
    match error {
        Pkcs11Error::Pkcs11(
            RvError::DeviceMemory
            | RvError::DeviceError
            | RvError::GeneralError
            | RvError::FunctionFailed
            | RvError::HostMemory
            | RvError::VendorDefined(_)
            | RvError::UnknownErrorCode(_),
            _,
        ) => {
            let free = on.free_private().map(|free| format!(", it states {free} bytes free"));
            let (token, reason) = (on.config.name.clone(), words(error));
            TokenError::NotMade { token, reason, free: free.unwrap_or_default() }.into()
        }
        error => TokenError::Call { token: on.config.name.clone(), reason: words(error) }.into(),
    }
}

fn private_template(select: &KeySelect) -> Vec<Attribute> {
    let mut private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::SignRecover(false),
    ];
    private.extend(select_attributes(select));
    private
}

fn require_absent(session: &Session, token: &str, select: &KeySelect) -> Result<(), Fault> {
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        if !session.find_objects(&template(class, select))?.is_empty() {
            let (token, select) = (token.to_owned(), select.to_string());
            return Err(TokenError::KeyExists { token, select }.into());
        }
    }
    Ok(())
}

fn template(class: ObjectClass, select: &KeySelect) -> Vec<Attribute> {
    let mut template = vec![Attribute::Class(class)];
    template.extend(select_attributes(select));
    template
}

fn select_attributes(select: &KeySelect) -> Vec<Attribute> {
    let id = select.id.clone().map(Attribute::Id);
    let label = select.label.clone().map(|label| Attribute::Label(label.into_bytes()));
    id.into_iter().chain(label).collect()
}

fn names(session: &Session, handle: ObjectHandle) -> Result<(Vec<u8>, String), Fault> {
    let (mut id, mut label) = (Vec::new(), String::new());
    for attribute in session.get_attributes(handle, &[AttributeType::Id, AttributeType::Label])? {
        match attribute {
            Attribute::Id(value) => id = value,
            Attribute::Label(value) => label = String::from_utf8_lossy(&value).into_owned(),
            _ => {}
        }
    }
    Ok((id, label))
}

fn present(session: &Session) -> Result<String, Fault> {
    let handles = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)])?;
    let mut found = Vec::new();
    for handle in handles.iter().take(NAMED_MAX) {
        let (id, label) = names(session, *handle)?;
        found.push(format!("id {} label {label:?}", hex::encode(id)));
    }
    if handles.len() > NAMED_MAX {
        found.push(format!("{} more", handles.len() - NAMED_MAX));
    }
    Ok(if found.is_empty() { "none".to_owned() } else { found.join(", ") })
}

fn describe(
    session: &Session,
    token: &str,
    select: &KeySelect,
    handle: ObjectHandle,
) -> Result<Found, Fault> {
    let kind = |reason: &str| TokenError::KeyKind {
        token: token.to_owned(),
        select: select.to_string(),
        reason: reason.to_owned(),
    };
    let (id, label) = names(session, handle)?;
    let of_curves = [KeyType::EC, KeyType::EC_EDWARDS];
    if key_type(session, handle)?.is_some_and(|kind| !of_curves.contains(&kind)) {
        return Err(kind(&format!("it is a key of kind {}", self::kind(session, handle))).into());
    }
    let (mut params, mut point) = (None, None);
    collect(session, handle, &mut params, &mut point)?;
    if point.is_none() || params.is_none() {
        // Most tokens keep the point in the public object only.
        let public = session.find_objects(&template(
            ObjectClass::PUBLIC_KEY,
            &KeySelect { id: Some(id.clone()), label: None, imported: false },
        ))?;
        match public[..] {
            [public] => collect(session, public, &mut params, &mut point)?,
            [] => return Err(kind("the token has no public key with its id").into()),
            _ => {
                let (token, count) = (token.to_owned(), public.len());
                let select = format!("{select} (public)");
                return Err(TokenError::KeyTwice { token, select, count }.into());
            }
        }
    }
    let algorithm = params.as_deref().and_then(algorithm);
    let algorithm = algorithm.ok_or_else(|| kind("its curve is neither P-256 nor Ed25519"))?;
    let public = point.as_deref().and_then(|point| public_key(algorithm, point));
    let public = public.ok_or_else(|| kind("its public point has an unknown form"))?;
    let audit = audit(session, handle)?;
    Ok(Found { handle, id, label, public, audit })
}

fn key_type(session: &Session, handle: ObjectHandle) -> Result<Option<KeyType>, Pkcs11Error> {
    let found = session.get_attributes(handle, &[AttributeType::KeyType])?;
    Ok(found.into_iter().find_map(|attribute| match attribute {
        Attribute::KeyType(kind) => Some(kind),
        _ => None,
    }))
}

/// CKA_KEY_TYPE in words, without the standard's prefix.
fn kind(session: &Session, handle: ObjectHandle) -> String {
    match key_type(session, handle) {
        Ok(Some(kind)) => kind.to_string().trim_start_matches("CKK_").to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn collect(
    session: &Session,
    handle: ObjectHandle,
    params: &mut Option<Vec<u8>>,
    point: &mut Option<Vec<u8>>,
) -> Result<(), Pkcs11Error> {
    let types = [AttributeType::EcParams, AttributeType::EcPoint];
    for attribute in session.get_attributes(handle, &types)? {
        match attribute {
            Attribute::EcParams(value) if !value.is_empty() => *params = Some(value),
            Attribute::EcPoint(value) if !value.is_empty() => *point = Some(value),
            _ => {}
        }
    }
    Ok(())
}

fn audit(session: &Session, handle: ObjectHandle) -> Result<Vec<Finding>, Pkcs11Error> {
    let mut findings = Vec::new();
    for (attribute, kind, wanted, silence) in RULES {
        let value = match session.get_attributes(handle, &[kind])?.first() {
            Some(
                Attribute::Token(value)
                | Attribute::Private(value)
                | Attribute::Sensitive(value)
                | Attribute::Extractable(value)
                | Attribute::Sign(value)
                | Attribute::Decrypt(value)
                | Attribute::Unwrap(value)
                | Attribute::Derive(value)
                | Attribute::SignRecover(value)
                | Attribute::Local(value)
                | Attribute::AlwaysSensitive(value)
                | Attribute::NeverExtractable(value),
            ) => Some(*value),
            _ => None,
        };
        let accepted = value.map_or(silence, |value| value == wanted);
        findings.push(Finding { attribute, value, wanted, accepted });
    }
    Ok(findings)
}

/// The algorithm that curve parameters name.
fn algorithm(params: &[u8]) -> Option<Algorithm> {
    match params {
        P256_OID => Some(Algorithm::EcdsaP256),
        ED25519_OID | ED25519_OLD_OID => Some(Algorithm::Ed25519),
        [0x13, length, name @ ..] if usize::from(*length) == name.len() => {
            (name == b"edwards25519").then_some(Algorithm::Ed25519)
        }
        _ => None,
    }
}

/// A public key from any of the encodings of its point.
pub fn public_key(algorithm: Algorithm, point: &[u8]) -> Option<PublicKey> {
    let raw = match (algorithm, point) {
        (Algorithm::EcdsaP256, [0x04, 0x41, raw @ ..]) if raw.len() == 65 => raw,
        (Algorithm::EcdsaP256, [0x03, 0x42, 0x00, raw @ ..]) if raw.len() == 65 => raw,
        (Algorithm::EcdsaP256, [0x04, 0x21, raw @ ..]) if raw.len() == 33 => raw,
        (Algorithm::Ed25519, [0x04, 0x20, raw @ ..]) if raw.len() == 32 => raw,
        (Algorithm::Ed25519, [0x03, 0x21, 0x00, raw @ ..]) if raw.len() == 32 => raw,
        (_, raw) => raw,
    };
    match algorithm {
        Algorithm::EcdsaP256 => {
            // Refuses points off the curve and expands compressed ones.
            let key = p256::PublicKey::from_sec1_bytes(raw).ok()?;
            PublicKey::new(algorithm, key.to_encoded_point(false).as_bytes()).ok()
        }
        Algorithm::Ed25519 => PublicKey::new(algorithm, raw).ok(),
    }
}

const P256_OID: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ED25519_OID: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
const ED25519_OLD_OID: &[u8] = &[0x06, 0x09, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];
/// Keys named in an error.
const NAMED_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// Each encoding of a point gives the same key; cut, longer and off-curve ones give none.
    #[test]
    fn points_in_every_encoding_are_one_key() {
        for algorithm in Algorithm::ALL {
            let key = Secret::random(algorithm).unwrap().public;
            let raw = key.as_bytes();
            let length = u8::try_from(raw.len()).unwrap();
            let octets = [&[0x04, length], raw].concat();
            let bits = [&[0x03, length + 1, 0x00], raw].concat();
            for form in [raw, &octets, &bits] {
                assert_eq!(public_key(algorithm, form).as_ref(), Some(&key));
                assert_eq!(public_key(algorithm, &form[..form.len() - 1]), None);
                assert_eq!(public_key(algorithm, &[form, &[0]].concat()), None);
            }
        }
        let key = Secret::random(Algorithm::EcdsaP256).unwrap().public;
        let parsed = p256::PublicKey::from_sec1_bytes(key.as_bytes()).unwrap();
        let short = parsed.to_encoded_point(true);
        let wrapped = [&[0x04, 0x21], short.as_bytes()].concat();
        assert_eq!(public_key(Algorithm::EcdsaP256, short.as_bytes()).as_ref(), Some(&key));
        assert_eq!(public_key(Algorithm::EcdsaP256, &wrapped).as_ref(), Some(&key));
        let mut off = key.as_bytes().to_vec();
        off[64] ^= 1;
        assert_eq!(public_key(Algorithm::EcdsaP256, &off), None);
    }

    /// Curves are told apart by any of their names; others are refused.
    #[test]
    fn curves_are_told_by_their_parameters() {
        assert_eq!(algorithm(P256_OID), Some(Algorithm::EcdsaP256));
        for params in [ED25519_OID, ED25519_OLD_OID, b"\x13\x0cedwards25519"] {
            assert_eq!(algorithm(params), Some(Algorithm::Ed25519));
        }
        let secp256k1 = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a];
        for params in [&secp256k1[..], b"", b"\x13\x0ccurve25519xx", &P256_OID[1..]] {
            assert_eq!(algorithm(params), None);
        }
    }

    /// Every attribute that could let the key out makes it unsafe; an imported key is excused from
    /// where it was born, and from nothing else.
    #[test]
    fn each_unsafe_attribute_is_named() {
        let good = RULES.map(|(attribute, _, wanted, _)| Finding {
            attribute,
            value: Some(wanted),
            wanted,
            accepted: true,
        });
        let select = KeySelect::id(&[1]);
        for (i, (attribute, ..)) in RULES.iter().enumerate() {
            let mut audit = good.to_vec();
            audit[i].value = audit[i].value.map(|value| !value);
            audit[i].accepted = false;
            let text = faults(&audit, &select);
            assert!(text.contains(attribute), "{text}");
            let imported = KeySelect { imported: true, ..select.clone() };
            let excused = OF_GENERATED_KEYS.contains(attribute);
            assert_eq!(faults(&audit, &imported).is_empty(), excused, "{attribute}");
        }
        assert_eq!(faults(&good, &select), "");
    }

    fn faults(audit: &[Finding], select: &KeySelect) -> String {
        match judge(audit, "t", select) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }
}
