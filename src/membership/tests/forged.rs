//! Certificates that the organisation's own key signed and that are refused all the same.

use rcgen::BasicConstraints;
use rcgen::CustomExtension;

use super::*;
use crate::membership::der;

/// Aim: the forge's pattern itself is good, so that each test below has one fault only.
#[test]
fn the_pattern_is_accepted() {
    let identity = Forge::new().identify(&Forge::leaf()).unwrap();
    assert_eq!(identity.uri(), "obelisk://org1/client/alice");
}

/// Aim: exactly one well-formed identity URI, and the common name is never an identity.
#[test]
fn a_wrong_alternative_name_is_refused() {
    let forge = Forge::new();
    let good = "obelisk://org1/client/alice";
    let long = format!("obelisk://org1/client/{}", "a".repeat(65));
    let lists = [
        vec![],
        vec![uri(good), uri("obelisk://org1/admin/alice")],
        vec![uri(good), uri("https://bank.example/")],
        vec![uri("https://org1/client/alice")],
        vec![uri("obelisk://org1/client")],
        vec![uri("obelisk://org1/client/alice/x")],
        vec![uri("obelisk://org1/root/alice")],
        vec![uri("obelisk://org1/Client/alice")],
        vec![uri("obelisk://org1/client/Alice")],
        vec![uri("obelisk://org1/client/alice\0.evil")],
        vec![uri("obelisk://org1/client/al%69ce")],
        vec![uri("obelisk://org1/client/")],
        vec![uri("obelisk://org1/client/..")],
        vec![uri("obelisk:///client/alice")],
        vec![uri(&long)],
        vec![uri("obelisk://org1")],
        vec![SanType::DnsName("alice".try_into().unwrap())],
        vec![uri(good), SanType::DnsName("alice".try_into().unwrap())],
        vec![uri(good), SanType::Rfc822Name("a@b".try_into().unwrap())],
    ];
    for names in lists {
        let mut params = Forge::leaf();
        params.distinguished_name = name("org1", good);
        params.subject_alt_names = names.clone();
        let refused = forge.identify(&params);
        assert!(matches!(refused, Err(MembershipError::Name { .. })), "{names:?}: {refused:?}");
    }
}

/// Aim: no member is a CA, and a key is used for one purpose.
#[test]
fn wrong_constraints_and_usages_are_refused() {
    let forge = Forge::new();
    let enrolment = ExtendedKeyUsagePurpose::Other(certificate::ENROLMENT_USAGE.to_vec());
    let spoil: [fn(&mut CertificateParams); 5] = [
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
        |p| p.key_usages = vec![],
        |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
        |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement],
    ];
    let usages = [
        vec![],
        vec![ExtendedKeyUsagePurpose::ServerAuth],
        vec![ExtendedKeyUsagePurpose::ClientAuth],
        vec![ExtendedKeyUsagePurpose::Any],
        vec![enrolment.clone(), ExtendedKeyUsagePurpose::ClientAuth],
        vec![enrolment, ExtendedKeyUsagePurpose::Any],
        vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::CodeSigning,
        ],
    ];
    let spoilt = spoil.iter().map(|spoil| {
        let mut params = Forge::leaf();
        spoil(&mut params);
        params
    });
    let misused = usages.into_iter().map(|usages| {
        let mut params = Forge::leaf();
        params.extended_key_usages = usages;
        params
    });
    for params in spoilt.chain(misused) {
        let refused = forge.identify(&params);
        assert!(matches!(refused, Err(MembershipError::Extension { .. })), "{refused:?}");
    }
}

/// Aim: a critical extension that is not understood refuses the certificate, another does not; an
/// extension that is there twice always does.
#[test]
fn unknown_critical_and_repeated_extensions_are_refused() {
    let forge = Forge::new();
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    let mut params = Forge::leaf();
    params.custom_extensions = vec![extension.clone()];
    assert!(forge.identify(&params).is_ok());
    params.custom_extensions.push(extension.clone());
    assert!(forge.identify(&params).is_err());
    extension.set_criticality(true);
    params.custom_extensions = vec![extension];
    let refused = forge.identify(&params);
    assert!(matches!(refused, Err(MembershipError::Extension { .. })), "{refused:?}");
}

/// Aim: attributes have one encoding, sorted and bounded.
#[test]
fn malformed_attributes_are_refused() {
    let forge = Forge::new();
    let text = |t: &str| der::value(der::UTF8_STRING, t.as_bytes());
    let pair = |n: &str, v: &str| der::value(der::SEQUENCE, &[text(n), text(v)].concat());
    let list = |pairs: &[Vec<u8>]| der::value(der::SEQUENCE, &pairs.concat());
    let many: Vec<_> = (0..33).map(|n| pair(&format!("a{n:02}"), "")).collect();
    let contents = [
        vec![],
        vec![0x30],
        vec![0x30, 0x81, 0],
        list(&[text("a")]),
        list(&[pair("b", ""), pair("a", "")]),
        list(&[pair("a", ""), pair("a", "")]),
        list(&[pair("A", "")]),
        list(&[pair("a", "\u{1}")]),
        list(&[pair("a", &"v".repeat(257))]),
        list(&[der::value(der::SEQUENCE, &[text("a"), vec![0x0C, 1, 0xFF]].concat())]),
        list(&[der::value(der::SEQUENCE, &[text("a"), text("b"), text("c")].concat())]),
        [list(&[pair("a", "")]), vec![0]].concat(),
        list(&many),
    ];
    for content in contents {
        let mut params = Forge::leaf();
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &certificate::ATTRIBUTES_EXTENSION,
            content.clone(),
        )];
        let refused = forge.identify(&params);
        assert!(
            matches!(refused, Err(MembershipError::Attributes { .. })),
            "{content:02x?}: {refused:?}"
        );
    }
}

/// Aim: keys of other kinds are refused by name.
#[test]
fn other_keys_are_refused() {
    for der in [
        &include_bytes!("../../../tests/vectors/membership/rsa-1024.der")[..],
        include_bytes!("../../../tests/vectors/membership/p-384.der"),
    ] {
        let refused = certificate::parse(der).unwrap_err();
        assert!(matches!(refused, MembershipError::Key { .. }), "{refused}");
    }
}

/// Aim: an oversize certificate is refused before it is parsed.
#[test]
fn an_oversize_certificate_is_refused() {
    let forge = Forge::new();
    let mut params = Forge::leaf();
    params.custom_extensions =
        vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], der::value(0x04, &[0; 9000]))];
    let refused = forge.identify(&params);
    assert!(matches!(refused, Err(MembershipError::Oversize { .. })), "{refused:?}");
}
