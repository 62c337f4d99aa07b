//! Any bytes: no panic, and no second form of a good certificate.

use proptest::prelude::*;

use super::*;
use crate::membership::der;
use crate::types::signature::Signature;

fn good() -> (Directory, Bytes) {
    let forge = Forge::new();
    (directory(&[&forge.authority]), forge.sign(&Forge::leaf()))
}

/// Aim: cut anywhere, continued, or with any byte changed, a certificate is refused.
#[test]
fn every_change_of_a_certificate_is_refused() {
    let (directory, der) = good();
    for at in 0..der.len() {
        assert!(directory.identify(&der.slice(..at)).is_err(), "cut at {at}");
        let mut changed = der.to_vec();
        changed[at] ^= 1 << (at % 8);
        assert!(directory.identify(&changed.into()).is_err(), "changed byte {at}");
    }
    assert!(directory.identify(&[&der[..], &[0]].concat().into()).is_err());
    assert!(directory.identify(&der).is_ok());
}

/// The same certificate with the other value of s.
pub(super) fn mirrored(der: &[u8]) -> Bytes {
    let certificate = certificate::parse(der).unwrap();
    let (r, s) =
        p256::ecdsa::Signature::from_slice(&certificate.signature.0).unwrap().split_scalars();
    let mirrored = p256::ecdsa::Signature::from_scalars(*r, -*s).unwrap();
    let mirrored = mirrored.to_bytes().to_vec().try_into().unwrap();
    let value = certificate::ecdsa_der(&Signature(mirrored));
    let bits = der::value(der::BIT_STRING, &[&[0], &value[..]].concat());
    let identifier = &der[4 + certificate.signed.len()..][..12];
    let body = [certificate.signed, identifier, &bits].concat();
    Bytes::from(der::value(der::SEQUENCE, &body))
}

/// Aim: the mirrored ECDSA signature, as valid by the equation, would give the certificate a
/// second id; where ids count it is refused, and shown in a handshake it is the same member under
/// the same id, so that no revocation can be evaded.
#[test]
fn a_mirrored_signature_gives_no_second_id() {
    let (directory, der) = good();
    let forged = mirrored(&der);
    assert!(certificate::parse(&forged).is_ok());
    assert_eq!(directory.identify(&forged), Err(MembershipError::HighS));
    assert_eq!(certificate::canonical(&forged), der);
    assert_eq!(certificate::canonical(&der), der);
    let (member, same) = (directory.identify(&der).unwrap(), directory.identify_shown(&forged));
    assert_eq!(member, same.unwrap());
    directory.revoke("org2", member.certificate);
    assert_eq!(directory.check_standing(&member, T0), Ok(()), "another organisation's word");
    directory.revoke("org1", member.certificate);
    let shown = directory.identify_shown(&forged).unwrap();
    let refused = directory.check_standing(&shown, T0);
    assert!(matches!(refused, Err(MembershipError::Revoked { .. })), "{refused:?}");
}

/// Where, which byte, and whether to set, remove or insert.
fn edit() -> impl Strategy<Value = (prop::sample::Index, u8, u8)> {
    (any::<prop::sample::Index>(), any::<u8>(), 0..3u8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Aim: bytes changed, removed and put in at random never panic.
    #[test]
    fn mutated_certificates_never_panic(
        edits in proptest::collection::vec(edit(), 1..8),
    ) {
        static DER: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
        let mut der = DER.get_or_init(|| good().1).to_vec();
        for (index, byte, edit) in edits {
            let at = index.index(der.len());
            match edit {
                0 => der[at] = byte,
                1 => drop(der.remove(at)),
                _ => der.insert(at, byte),
            }
        }
        let kept = certificate::canonical(&der);
        prop_assert_eq!(certificate::canonical(&kept), kept);
        if let Ok(read) = certificate::parse(&der) {
            let _ = Identity::claimed(&read, Bytes::copy_from_slice(&der));
        }
    }

    /// Aim: arbitrary bytes never panic.
    #[test]
    fn arbitrary_bytes_never_panic(der in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = certificate::parse(&der);
    }
}
