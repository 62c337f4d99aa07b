//! Frozen certificates: what an older version issued stays readable, and issuing is a function of
//! its inputs.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::membership::authority::Enrolment;
use crate::membership::authority::TlsSubject;
use crate::membership::identity::Role;
use crate::types::digest::Digest;

fn fixed_key(algorithm: Algorithm, seed: u8) -> Arc<dyn SigningKey> {
    let secret = match algorithm {
        Algorithm::Ed25519 => crate::crypto::keys::Secret::of_seed([seed; 32].into()),
        Algorithm::EcdsaP256 => {
            let key = p256::SecretKey::from_slice(&[seed; 32]).unwrap();
            crate::crypto::keys::Secret::of_p256(&key)
        }
    };
    Crypto::portable().load(algorithm, &secret.to_pkcs8()).unwrap()
}

/// Root, enrolment and TLS certificate made from fixed inputs.
fn issued(algorithm: Algorithm) -> [(String, Bytes); 3] {
    let authority = Authority::found("org1", fixed_key(algorithm, 1), &terms(3652)).unwrap();
    let (key, tls_key) = (fixed_key(algorithm, 2), fixed_key(Algorithm::EcdsaP256, 3));
    let attributes = [("desk".to_owned(), "trade".to_owned())];
    let enrolment = Enrolment {
        name: "alice",
        role: Role::Client,
        attributes: &attributes,
        key: key.public_key(),
    };
    let hosts = ["node1.bank.example".to_owned(), "10.0.0.1".to_owned()];
    let tls =
        TlsSubject { name: "v1", role: Role::Validator, hosts: &hosts, key: tls_key.public_key() };
    let file = |kind| format!("{kind}-{}.der", algorithm.name());
    [
        (file("root"), authority.root().der.clone()),
        (file("enrolment"), authority.enrol(&enrolment, &terms(365)).unwrap()),
        (file("tls"), authority.issue_tls(&tls, &terms(365)).unwrap()),
    ]
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/membership").join(file)
}

/// Aim: the certificates on file are issued again byte for byte and are identified as ever. To
/// freeze new ones: `OBELISK_FREEZE=1 cargo test frozen_certificates`.
#[test]
fn frozen_certificates_are_unchanged() {
    for algorithm in Algorithm::ALL {
        let certificates = issued(algorithm);
        for (file, der) in &certificates {
            if std::env::var_os("OBELISK_FREEZE").is_some() {
                fs::write(path(file), der).unwrap();
            }
            let frozen = fs::read(path(file)).unwrap();
            assert_eq!(hex::encode(&frozen), hex::encode(der), "{file}");
        }
        let root = &certificates[0].1;
        let directory = Directory::new(&genesis(&[("org1", root)]), verify()).unwrap();
        let alice = directory.identify(&certificates[1].1).unwrap();
        assert_eq!(alice.uri(), "obelisk://org1/client/alice");
        assert_eq!(alice.attribute("desk"), Some("trade"));
        assert_eq!(alice.certificate.0, Digest::of(&[&certificates[1].1]));
        assert_eq!(
            directory.identify(&certificates[2].1).unwrap().uri(),
            "obelisk://org1/validator/v1"
        );
    }
}
