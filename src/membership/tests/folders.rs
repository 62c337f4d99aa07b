//! Identities and whole networks on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::membership::consortium;
use crate::membership::consortium::Consortium;
use crate::membership::consortium::ConsortiumError;
use crate::membership::consortium::Spec;
use crate::membership::identity::Purpose;
use crate::membership::identity::Role;
use crate::membership::msp::Msp;
use crate::membership::msp::MspError;

fn make(algorithm: Algorithm) -> (TempDir, Consortium) {
    let folder = TempDir::new().unwrap();
    let spec = Spec::local("test", 4, algorithm, T0);
    let made = Consortium::make(folder.path(), &spec, &Crypto::portable()).unwrap();
    (folder, made)
}

/// Aim: a made network is whole: every folder loads, every certificate is identified, every key
/// fits, and the validators' keys are those of the genesis document.
#[test]
fn a_made_consortium_is_usable() {
    let crypto = Crypto::portable();
    for algorithm in Algorithm::ALL {
        let (folder, made) = make(algorithm);
        let genesis = consortium::read_genesis(&made.genesis_path).unwrap();
        assert_eq!(genesis, made.genesis);
        assert_eq!(genesis.replicas.len(), 4);
        let directory = Directory::new(&genesis, verify()).unwrap();
        assert_eq!(made.members.len(), 12);
        for member in &made.members {
            let msp = Msp::load(&member.folder).unwrap();
            let identity = directory.identify(&msp.enrolment.certificate).unwrap();
            assert_eq!(
                (&identity.organisation, identity.role, &identity.name),
                (&member.organisation, member.role, &member.name)
            );
            assert!(identity.valid_at(T0));
            assert_eq!(identity.key.algorithm(), algorithm);
            let key = msp.enrolment.signing_key(&crypto).unwrap();
            assert_eq!(msp.roots.len(), 4);
            assert_eq!(msp.root, msp.roots[&member.organisation]);
            let tls = msp.tls.unwrap();
            let tls_identity = directory.identify(&tls.certificate).unwrap();
            assert_eq!(tls_identity.purpose, Purpose::Tls);
            assert_eq!(tls_identity.uri(), identity.uri());
            tls.signing_key(&crypto).unwrap();
            if member.role == Role::Validator {
                let seat = genesis.replicas.find(&member.organisation, &member.name).unwrap();
                assert_eq!(genesis.replicas.get(seat).unwrap().key, *key.public_key());
            }
        }
        let again = Consortium::make(
            folder.path(),
            &Spec::local("test", 4, algorithm, T0),
            &Crypto::portable(),
        );
        assert!(matches!(again, Err(ConsortiumError::Folder(MspError::Exists { .. }))));
    }
}

/// Aim: a description that contradicts itself is refused before anything is written.
#[test]
fn a_wrong_description_is_refused() {
    let spoil: [fn(&mut Spec); 5] = [
        |s| s.network.clear(),
        |s| s.organisations[1].name = "org1".into(),
        |s| s.organisations[0].name = "../up".into(),
        |s| s.organisations[0].members[0].name = "a b".into(),
        |s| s.organisations[0].members[1] = s.organisations[0].members[0].clone(),
    ];
    for spoil in spoil {
        let folder = TempDir::new().unwrap();
        let mut spec = Spec::local("test", 2, Algorithm::Ed25519, T0);
        spoil(&mut spec);
        let refused = Consortium::make(folder.path(), &spec, &Crypto::portable());
        assert!(matches!(refused, Err(ConsortiumError::Spec { .. })), "{refused:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// Aim: keys are written for their owner alone, and one that others can read is refused.
#[test]
fn an_exposed_key_is_refused() {
    let (_folder, made) = make(Algorithm::Ed25519);
    let folder = &made.members[0].folder;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder), 0o700);
    for key in [folder.join("key.pem"), folder.join("tls/key.pem")] {
        assert_eq!(mode(&key), 0o600);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Msp::load(folder).unwrap_err();
        assert!(matches!(refused, MspError::Exposed { mode: 0o640, .. }));
        assert!(refused.to_string().contains("chmod 600"));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
        Msp::load(folder).unwrap();
    }
}

/// Aim: missing, exchanged and damaged files are refused, each with the path.
#[test]
fn a_damaged_folder_is_refused() {
    let (_folder, made) = make(Algorithm::Ed25519);
    let (a, b) = (&made.members[0].folder, &made.members[3].folder);
    fs::copy(b.join("key.pem"), a.join("key.pem")).unwrap();
    let exchanged = Msp::load(a).unwrap().enrolment.signing_key(&Crypto::portable()).err().unwrap();
    assert!(matches!(exchanged, MspError::Mismatch { .. }));
    fs::copy(a.join("key.pem"), a.join("cert.pem")).unwrap();
    assert!(matches!(Msp::load(a), Err(MspError::Pem { .. })));
    fs::write(a.join("cert.pem"), "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----")
        .unwrap();
    assert!(matches!(Msp::load(a), Err(MspError::Certificate { .. })));
    fs::write(a.join("cert.pem"), vec![b'x'; 100_000]).unwrap();
    assert!(matches!(Msp::load(a), Err(MspError::Oversize { .. })));
    fs::remove_file(a.join("cert.pem")).unwrap();
    assert!(matches!(Msp::load(a), Err(MspError::Io { .. })));
    fs::write(&made.genesis_path, b"nothing").unwrap();
    let refused = consortium::read_genesis(&made.genesis_path);
    assert!(matches!(refused, Err(ConsortiumError::Genesis { .. })));
}
