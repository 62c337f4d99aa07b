//! The ways of a vote signature: encodings, ranges of sessions, paths of bundles.

use super::*;
use crate::types::merkle;
use crate::types::signature::Algorithm;

fn key(n: u8) -> PublicKey {
    PublicKey::new(Algorithm::Ed25519, &[n; 32]).unwrap()
}

fn terms() -> SessionTerms {
    let (first, last) = (SequenceNumber(100), SequenceNumber(199));
    SessionTerms { epoch: Epoch(0), first, last, key: key(9) }
}

fn session() -> VoteSignature {
    let certificate = SessionCertificate { terms: terms(), signature: Signature([3; 64]) };
    VoteSignature::Session { certificate: Arc::new(certificate), signature: Signature([4; 64]) }
}

fn authority<'a>(chain: &'a ChainId, key: &'a PublicKey, stable: u64) -> Authority<'a> {
    Authority { chain, epoch: Epoch(0), key, stable: SequenceNumber(stable) }
}

/// Every kind survives its encoding; cut anywhere, with a byte more or of an unknown kind it is
/// refused, and so is a bundle deeper than the limit.
#[test]
fn vote_signatures_have_one_encoding() {
    let leaves: Vec<Digest> = (0..64u8).map(|n| Digest::of(&[&[n]])).collect();
    let path = Arc::new(Path::among(&leaves, 5));
    let bundle = VoteSignature::Bundle { path, signature: Signature([2; 64]) };
    for one in [Signature([1; 64]).into(), session(), bundle] {
        let bytes = one.to_bytes();
        assert!(bytes.len() <= VoteSignature::BYTES_MAX);
        assert_eq!(VoteSignature::from_bytes(&bytes).unwrap(), one);
        for len in 0..bytes.len() {
            VoteSignature::from_bytes(&bytes.slice(..len)).unwrap_err();
        }
        VoteSignature::from_bytes(&Bytes::from([&bytes[..], &[0]].concat())).unwrap_err();
        VoteSignature::from_bytes(&Bytes::from([&[7], &bytes[1..]].concat())).unwrap_err();
    }
    let deep = Path { index: 0, count: 128, siblings: vec![Digest::ZERO; 7] };
    let deep = VoteSignature::Bundle { path: Arc::new(deep), signature: Signature([2; 64]) };
    VoteSignature::from_bytes(&deep.to_bytes()).unwrap_err();
    let backwards = SessionTerms { last: SequenceNumber(1), ..terms() };
    SessionTerms::from_bytes(&backwards.to_bytes()).unwrap_err();
}

/// A session signs inside its range and epoch only; view changes hold until the checker is past it.
#[test]
fn a_session_ends_with_its_range() {
    let (chain, root) = (ChainId(Digest([1; 32])), key(1));
    let text = Bytes::from_static(b"vote");
    let check = |stable, bound| session().checks(&authority(&chain, &root, stable), &text, bound);
    let at = |n| Bound::Sequence(SequenceNumber(n));
    let checks = check(0, at(100)).unwrap();
    assert_eq!((&checks.own.key, &checks.own.text), (&key(9), &text));
    let certified = checks.session.clone().unwrap();
    assert_eq!((&certified.key, &certified.text), (&root, &terms().text(&chain)));
    assert_eq!(checks.all().count(), 2);
    check(0, at(199)).unwrap();
    check(0, at(99)).unwrap_err();
    check(0, at(200)).unwrap_err();
    check(199, Bound::View).unwrap();
    check(200, Bound::View).unwrap_err();
    check(900, Bound::Free).unwrap();
    let later = Authority { epoch: Epoch(1), ..authority(&chain, &root, 0) };
    session().checks(&later, &text, at(150)).unwrap_err();
}

/// The signature of a bundle is checked under the root that the text itself leads to.
#[test]
fn a_bundle_leads_from_the_text_to_the_signed_root() {
    let (chain, root_key) = (ChainId(Digest([1; 32])), key(1));
    let texts: Vec<Bytes> = (0..5u8).map(|n| Bytes::from(vec![n; 9])).collect();
    let leaves: Vec<Digest> = texts.iter().map(|text| Digest::of(&[text])).collect();
    let signed = bundle_text(&chain, &merkle::root(&leaves));
    let by = authority(&chain, &root_key, 0);
    for (index, text) in texts.iter().enumerate() {
        let path = Arc::new(Path::among(&leaves, index));
        let one = VoteSignature::Bundle { path, signature: Signature([2; 64]) };
        let own = one.checks(&by, text, Bound::Free).unwrap().own;
        assert_eq!((&own.key, &own.text), (&root_key, &signed));
        let other = one.checks(&by, &texts[(index + 1) % 5], Bound::Free).unwrap().own;
        assert_ne!(other.text, signed);
    }
}
