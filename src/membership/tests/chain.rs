//! Who may vouch for whom, and what the directory remembers.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use super::*;
use crate::membership::authority::AuthorityError;
use crate::membership::authority::Enrolment;
use crate::membership::authority::TlsSubject;
use crate::membership::identity::Purpose;
use crate::membership::identity::Role;
use crate::types::digest::Digest;
use crate::types::ids::CertificateId;
use crate::types::limits;

fn enrol(authority: &Authority, name: &str, algorithm: Algorithm) -> Bytes {
    let key = new_key(algorithm);
    let subject = Enrolment { name, role: Role::Client, attributes: &[], key: key.public_key() };
    authority.enrol(&subject, &terms(365)).unwrap()
}

/// Aim: every field of an issued certificate comes back, for all pairs of root and member key.
#[test]
fn an_issued_certificate_is_identified() {
    for root in Algorithm::ALL {
        let authority = authority("bank-a.example", root);
        let directory = directory(&[&authority]);
        for algorithm in Algorithm::ALL {
            let key = new_key(algorithm);
            let attributes =
                [("desk".to_owned(), "trade".to_owned()), ("limit".into(), "é".into())];
            let subject = Enrolment {
                name: "alice",
                role: Role::Auditor,
                attributes: &attributes,
                key: key.public_key(),
            };
            let der = authority.enrol(&subject, &terms(365)).unwrap();
            let identity = directory.identify(&der).unwrap();
            assert_eq!(identity.uri(), "obelisk://bank-a.example/auditor/alice");
            assert_eq!(identity.attributes, attributes);
            assert_eq!(identity.attribute("desk"), Some("trade"));
            assert_eq!(identity.attribute("desk2"), None);
            assert_eq!(identity.key, *key.public_key());
            assert_eq!(identity.purpose, Purpose::Enrolment);
            assert_eq!(identity.certificate, CertificateId(Digest::of(&[&der])));
            assert_eq!(identity.der, der);
            assert_eq!((identity.not_before_ms, identity.not_after_ms), (T0, T0 + 365 * DAY));
        }
    }
}

/// Aim: time is judged by the identity, at both ends to the second, never by the directory.
#[test]
fn an_expired_certificate_is_identified_and_refused_by_time() {
    let authority = authority("org1", Algorithm::Ed25519);
    let identity =
        directory(&[&authority]).identify(&enrol(&authority, "a", Algorithm::Ed25519)).unwrap();
    for (now, valid) in
        [(T0 - 1, false), (T0, true), (T0 + 365 * DAY, true), (T0 + 365 * DAY + 1, false)]
    {
        assert_eq!(identity.valid_at(now), valid, "at {now}");
        assert_eq!(identity.check_valid_at(now).is_ok(), valid);
    }
    let expired = identity.check_valid_at(T0 + 400 * DAY).unwrap_err().to_string();
    assert!(expired.contains("obelisk://org1/client/a is expired"), "{expired}");
}

/// Aim: a TLS certificate is no enrolment certificate, and the other way round.
#[test]
fn purposes_are_kept_apart() {
    let authority = authority("org1", Algorithm::EcdsaP256);
    let directory = directory(&[&authority]);
    let key = new_key(Algorithm::EcdsaP256);
    let hosts = ["node1.bank.example".to_owned(), "10.0.0.1".to_owned(), "::1".to_owned()];
    let subject =
        TlsSubject { name: "v", role: Role::Validator, hosts: &hosts, key: key.public_key() };
    let tls = directory.identify(&authority.issue_tls(&subject, &terms(90)).unwrap()).unwrap();
    assert_eq!((tls.purpose, tls.role), (Purpose::Tls, Role::Validator));
    assert!(tls.check_purpose(Purpose::Tls).is_ok());
    assert!(matches!(tls.check_purpose(Purpose::Enrolment), Err(MembershipError::Purpose { .. })));
    let client = directory.identify(&enrol(&authority, "c", Algorithm::Ed25519)).unwrap();
    assert!(client.check_purpose(Purpose::Tls).is_err());
}

/// Aim: only the root of the organisation that a certificate names can vouch for it.
#[test]
fn another_organisations_root_vouches_for_nobody_else() {
    let forge = Forge::new();
    let org2 = authority("org2", Algorithm::EcdsaP256);
    let directory = directory(&[&forge.authority, &org2]);
    let mut params = Forge::leaf();
    params.subject_alt_names = vec![uri("obelisk://org2/admin/mallory")];
    // org1 signs for org2: under its own name, and under org2's.
    for issuer in ["org1", "org2"] {
        let refused = directory.identify(&forge.sign_as(name(issuer, "root"), &params));
        assert!(matches!(refused, Err(MembershipError::Issuer { .. })), "{refused:?}");
    }
    params.subject_alt_names = vec![uri("obelisk://org3/admin/mallory")];
    let unknown = directory.identify(&forge.sign(&params));
    assert!(matches!(unknown, Err(MembershipError::UnknownOrganisation { .. })));
    let impostor = authority("org1", Algorithm::EcdsaP256);
    let refused = directory.identify(&enrol(&impostor, "a", Algorithm::Ed25519));
    assert!(matches!(refused, Err(MembershipError::Issuer { .. })));
}

/// Aim: a root is no member, and a member's certificate is no root.
#[test]
fn roots_and_members_are_not_exchanged() {
    let authority = authority("org1", Algorithm::Ed25519);
    let refused = directory(&[&authority]).identify(&authority.root().der);
    assert!(matches!(refused, Err(MembershipError::Extension { .. })));
    let leaf = enrol(&authority, "a", Algorithm::Ed25519);
    let refused = Directory::new(&genesis(&[("org1", &leaf)]), verify());
    assert!(matches!(refused, Err(MembershipError::Root { .. })));
}

/// Aim: a genesis document with a doubtful set of roots makes no directory.
#[test]
fn doubtful_roots_are_refused() {
    let (a, b) = (authority("org1", Algorithm::Ed25519), authority("org1", Algorithm::Ed25519));
    let (a, b) = (&a.root().der, &b.root().der);
    let twice = Directory::new(&genesis(&[("org1", a), ("org1", b)]), verify());
    assert!(matches!(twice, Err(MembershipError::Duplicate { .. })));
    let renamed = Directory::new(&genesis(&[("org2", a)]), verify());
    assert!(matches!(renamed, Err(MembershipError::Root { .. })));
    let key = new_key(Algorithm::Ed25519);
    let one_key = ["org1", "org2"].map(|o| Authority::found(o, key.clone(), &terms(9)).unwrap());
    let shared = [("org1", &one_key[0].root().der), ("org2", &one_key[1].root().der)];
    let shared = Directory::new(&genesis(&shared), verify());
    assert!(matches!(shared, Err(MembershipError::Duplicate { .. })));
    let mut unsigned = a.to_vec();
    *unsigned.last_mut().unwrap() ^= 1;
    let unsigned = Directory::new(&genesis(&[("org1", &unsigned.into())]), verify());
    assert!(matches!(unsigned, Err(MembershipError::Root { .. })));
}

/// Aim: a certificate is checked once, whatever the answer, and the tables stay bounded.
#[test]
fn answers_are_remembered_and_bounded() {
    let authority = authority("org1", Algorithm::Ed25519);
    let impostor = super::authority("org1", Algorithm::Ed25519);
    let checks = Arc::new(AtomicUsize::new(0));
    let (inner, counted) = (verify(), checks.clone());
    let counting: Verify = Arc::new(move |check| {
        counted.fetch_add(1, Ordering::Relaxed);
        inner(check)
    });
    let directory = Directory::new(&genesis(&[("org1", &authority.root().der)]), counting).unwrap();
    let (good, bad) =
        (enrol(&authority, "a", Algorithm::Ed25519), enrol(&impostor, "a", Algorithm::Ed25519));
    let id = CertificateId(Digest::of(&[&good]));
    assert!(directory.known(&id).is_none());
    let before = checks.load(Ordering::Relaxed);
    for _ in 0..3 {
        assert!(directory.identify(&good).is_ok());
        assert!(directory.identify(&bad).is_err());
    }
    assert_eq!(checks.load(Ordering::Relaxed) - before, 2);
    assert_eq!(directory.known(&id).unwrap().name, "a");
    for n in 0..2 * limits::REFUSED_CACHE_MAX {
        assert!(directory.identify(&Bytes::from(n.to_be_bytes().to_vec())).is_err());
    }
    let (known, refused) = directory.remembered();
    assert_eq!(known, 1);
    assert!(refused <= limits::REFUSED_CACHE_MAX);
    assert!(directory.known(&id).is_some());
}

/// Aim: the authority refuses to issue what no node would accept.
#[test]
fn the_authority_refuses_bad_requests() {
    let authority = authority("org1", Algorithm::Ed25519);
    let key = new_key(Algorithm::Ed25519);
    let enrol = |name: &str, attributes: &[(&str, &str)], days| {
        let attributes: Vec<_> =
            attributes.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let subject =
            Enrolment { name, role: Role::Client, attributes: &attributes, key: key.public_key() };
        authority.enrol(&subject, &terms(days))
    };
    for name in ["", "Alice", "a b", "a/b", "..", "ä", &"a".repeat(65)] {
        assert!(enrol(name, &[], 1).is_err(), "{name:?}");
    }
    let long = "x".repeat(257);
    for attributes in
        [&[("b", ""), ("a", "")][..], &[("a", ""), ("a", "")], &[("a", &long)], &[("a", "\0")]]
    {
        let refused = enrol("a", attributes, 1);
        assert!(matches!(
            refused,
            Err(AuthorityError::Refused(MembershipError::Attributes { .. }))
        ));
    }
    for days in [0, 3653, u32::MAX] {
        let refused = enrol("a", &[], days);
        assert!(matches!(refused, Err(AuthorityError::Validity { .. })));
    }
    for host in ["", "a b", "a..b", "-\n", &"a".repeat(64)] {
        let hosts = [host.to_owned()];
        let subject =
            TlsSubject { name: "v", role: Role::Validator, hosts: &hosts, key: key.public_key() };
        let refused = authority.issue_tls(&subject, &terms(1));
        assert!(matches!(refused, Err(AuthorityError::Host { .. })), "{host:?}");
    }
    let root = authority.root().der.clone();
    let refused = Authority::open(&root, new_key(Algorithm::Ed25519));
    assert!(matches!(refused, Err(AuthorityError::Key { .. })));
}
