//! The register's promises: one secret, one pair of keys; durable before told; a chain of lines.

use std::fs;
use std::sync::Arc;

use super::*;
use crate::crypto::SigningKey;
use crate::crypto::routing::Crypto;
use crate::membership::certificate;
use crate::membership::identity::Identity;
use crate::membership::identity::Purpose;
use crate::types::signature::Algorithm;

const NOW: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;

struct Fixture {
    folder: tempfile::TempDir,
    crypto: Crypto,
    authority: Authority,
}

impl Fixture {
    fn new() -> Self {
        let crypto = Crypto::portable();
        let key = key(&crypto);
        let terms = Terms::new(NOW - 2 * HOUR, 3652).unwrap();
        let authority = Authority::found("bank", key, &terms).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), crypto, authority }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("register.log")
    }

    fn applicant(&self, name: &str) -> Applicant {
        Applicant {
            organisation: "bank".into(),
            role: Role::Client,
            name: name.into(),
            enrolment_key: key(&self.crypto).public_key().clone(),
            tls_key: key(&self.crypto).public_key().clone(),
        }
    }

    fn enrol(
        &self,
        register: &mut Register,
        applicant: &Applicant,
        secret: &Secret,
        now: u64,
    ) -> Result<Issued, RegisterError> {
        register.enrol(applicant, secret, &self.authority, "192.0.2.1", now)
    }
}

fn key(crypto: &Crypto) -> Arc<dyn SigningKey> {
    let pkcs8 = crypto.generate(Algorithm::EcdsaP256).unwrap();
    crypto.load(Algorithm::EcdsaP256, &pkcs8).unwrap()
}

fn registration(name: &str) -> Registration {
    Registration {
        role: "client".into(),
        name: name.into(),
        attributes: BTreeMap::from([("unit".into(), "trade".into())]),
        hosts: vec!["alice.bank.example".into()],
        days: 30,
        expires_ms: NOW + HOUR,
    }
}

/// A secret gives both certificates once; the same keys get the same ones again, also from a
/// register that was opened after a crash, other keys never.
#[test]
fn one_secret_gives_one_pair_of_certificates() {
    let fixture = Fixture::new();
    let mut register = Register::create(&fixture.path()).unwrap();
    let secret = register.register(registration("alice"), false, NOW).unwrap();
    let applicant = fixture.applicant("alice");
    let first = fixture.enrol(&mut register, &applicant, &secret, NOW).unwrap();
    let identity =
        |der: &Bytes| Identity::claimed(&certificate::parse(der).unwrap(), der.clone()).unwrap();
    let (enrolment, tls) = (identity(&first.enrolment), identity(&first.tls));
    assert_eq!(enrolment.uri(), "obelisk://bank/client/alice");
    assert_eq!((enrolment.purpose, tls.purpose), (Purpose::Enrolment, Purpose::Tls));
    assert_eq!((&enrolment.key, &tls.key), (&applicant.enrolment_key, &applicant.tls_key));
    assert_eq!(enrolment.attribute("unit"), Some("trade"));
    // The answer was lost: asked again, after a restart, when the secret has expired.
    let mut reopened = Register::open(&fixture.path()).unwrap();
    let again = fixture.enrol(&mut reopened, &applicant, &secret, NOW + 2 * HOUR).unwrap();
    assert_eq!(again, first);
    let thief = fixture.applicant("alice");
    let refused = fixture.enrol(&mut reopened, &thief, &secret, NOW).unwrap_err();
    assert!(matches!(refused, RegisterError::Used), "{refused}");
    assert_eq!(fixture.enrol(&mut register, &applicant, &secret, NOW).unwrap(), first);
}

/// Wrong secrets and unknown names get one answer; too many lock the name, and cannot fill the
/// disk.
#[test]
fn guessing_is_counted_and_locks_the_name() {
    let fixture = Fixture::new();
    let mut register = Register::create(&fixture.path()).unwrap();
    let secret = register.register(registration("alice"), false, NOW).unwrap();
    let wrong = Secret::draw().unwrap();
    let applicant = fixture.applicant("alice");
    let nobody = fixture.enrol(&mut register, &fixture.applicant("bob"), &wrong, NOW).unwrap_err();
    for _ in 0..limits::ENROLMENT_TRIES_MAX {
        let refused = fixture.enrol(&mut register, &applicant, &wrong, NOW).unwrap_err();
        assert_eq!(refused.to_string(), nobody.to_string());
    }
    let length = fs::metadata(fixture.path()).unwrap().len();
    let refused = fixture.enrol(&mut register, &applicant, &wrong, NOW).unwrap_err();
    assert!(matches!(refused, RegisterError::Unknown));
    assert_eq!(fs::metadata(fixture.path()).unwrap().len(), length);
    let locked = fixture.enrol(&mut register, &applicant, &secret, NOW).unwrap_err();
    assert!(matches!(locked, RegisterError::Locked), "{locked}");
    assert_eq!(register.entries().unwrap()[0].standing(NOW), Standing::Locked);
    // Registered again: the new secret works, the former one does not.
    assert!(register.register(registration("alice"), false, NOW).is_err());
    let fresh = register.register(registration("alice"), true, NOW).unwrap();
    assert!(fixture.enrol(&mut register, &applicant, &secret, NOW).is_err());
    let issued = fixture.enrol(&mut register, &applicant, &fresh, NOW).unwrap();
    // And again, as for a renewal: what was issued before is still known.
    register.register(registration("alice"), true, NOW).unwrap();
    let entry = register.entries().unwrap().remove(0);
    assert_eq!((entry.standing(NOW), entry.former), (Standing::Waiting, vec![issued]));
}

/// An expired secret issues nothing.
#[test]
fn an_expired_secret_is_refused() {
    let fixture = Fixture::new();
    let mut register = Register::create(&fixture.path()).unwrap();
    let secret = register.register(registration("alice"), false, NOW).unwrap();
    let applicant = fixture.applicant("alice");
    let late = fixture.enrol(&mut register, &applicant, &secret, NOW + HOUR + 1).unwrap_err();
    assert!(matches!(late, RegisterError::Expired), "{late}");
    assert!(register.entries().unwrap()[0].issued.is_none());
}

/// Two processes on one file see each other's acts; neither issues twice.
#[test]
fn two_processes_share_one_register() {
    let fixture = Fixture::new();
    let mut office = Register::create(&fixture.path()).unwrap();
    let mut service = Register::open(&fixture.path()).unwrap();
    let secret = office.register(registration("alice"), false, NOW).unwrap();
    let applicant = fixture.applicant("alice");
    let issued = fixture.enrol(&mut service, &applicant, &secret, NOW).unwrap();
    assert_eq!(office.entries().unwrap()[0].issued.as_ref(), Some(&issued));
}

/// Half a line at the end is cut off; a changed, missing or foreign line refuses the file; the
/// secret is not in it.
#[test]
fn the_chain_of_lines_shows_every_change() {
    let fixture = Fixture::new();
    let path = fixture.path();
    let mut register = Register::create(&path).unwrap();
    let secret = register.register(registration("alice"), false, NOW).unwrap();
    register.register(registration("bob"), false, NOW).unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    assert!(!whole.contains(&secret.shown().replace('-', "")));
    fs::write(&path, format!("{whole}{{\"previous\":\"00")).unwrap();
    assert_eq!(Register::open(&path).unwrap().entries().unwrap().len(), 2);
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    let lines: Vec<&str> = whole.lines().collect();
    for changed in [
        whole.replacen("alice", "alicf", 1),
        format!("{}\n", lines[1]),
        format!("{whole}{}\n", lines[1]),
        format!("{whole}not JSON\n"),
    ] {
        fs::write(&path, &changed).unwrap();
        let refused = Register::open(&path).unwrap_err();
        assert!(matches!(refused, RegisterError::Changed { .. }), "{refused}");
    }
}

/// What no node would accept is refused when it is registered.
#[test]
fn impossible_registrations_are_refused() {
    let fixture = Fixture::new();
    let mut register = Register::create(&fixture.path()).unwrap();
    for bad in [
        Registration { role: "king".into(), ..registration("a") },
        Registration { name: "../a".into(), ..registration("a") },
        Registration { name: "ca".into(), ..registration("a") },
        Registration { hosts: vec!["h".into(); 17], ..registration("a") },
        Registration { attributes: BTreeMap::from([("A".into(), "".into())]), ..registration("a") },
    ] {
        let refused = register.register(bad.clone(), false, NOW).unwrap_err();
        assert!(matches!(refused, RegisterError::Registration { .. }), "{bad:?}: {refused}");
    }
    assert_eq!(fs::metadata(fixture.path()).unwrap().len(), 0);
}
