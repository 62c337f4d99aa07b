//! An authority outside this house: root and member made with openssl alone, once with a high s in
//! every signature and once with a low one (`tests/vectors/membership/foreign.sh`).

use std::path::Path;
use std::path::PathBuf;

use super::*;
use crate::membership::identity::Purpose;
use crate::membership::msp;
use crate::membership::pem;

const CERTIFICATES: [&str; 3] = ["root.pem", "cert.pem", "tls/cert.pem"];

fn folder(s: &str) -> PathBuf {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/membership");
    vectors.join(format!("foreign-{s}"))
}

/// The bytes as openssl left them.
fn raw(path: &Path) -> Bytes {
    let text = std::fs::read_to_string(path).unwrap();
    Bytes::copy_from_slice(&pem::decode(pem::CERTIFICATE, &text).unwrap())
}

/// Aim: certificates that openssl made are usable, whichever s they carry; what is kept has low s,
/// and what a handshake shows has the same id.
#[test]
fn certificates_of_openssl_are_usable_with_either_s() {
    for (s, high) in [("high", true), ("low", false)] {
        let folder = folder(s);
        for file in CERTIFICATES {
            let der = raw(&folder.join(file));
            let read = certificate::parse(&der).unwrap();
            let found = certificate::has_high_s(read.signature_algorithm, &read.signature);
            assert_eq!(found, high, "{s}: {file}");
            let kept = msp::read_certificate(&folder.join(file)).unwrap();
            assert_eq!(kept != der, high, "{s}: {file}");
        }
        let name = format!("foreign-{s}");
        let root = msp::read_certificate(&folder.join("root.pem")).unwrap();
        let directory = Directory::new(&genesis(&[(&name, &root)]), verify()).unwrap();
        for (file, purpose) in [("cert.pem", Purpose::Enrolment), ("tls/cert.pem", Purpose::Tls)] {
            let kept = msp::read_certificate(&folder.join(file)).unwrap();
            let member = directory.identify(&kept).unwrap();
            assert_eq!(member.uri(), format!("obelisk://{name}/client/alice"));
            member.check_purpose(purpose).unwrap();
            let shown = directory.identify_shown(&raw(&folder.join(file))).unwrap();
            assert_eq!(shown.certificate, member.certificate, "{s}: {file}");
        }
    }
}

/// Aim: where ids count (blocks, the genesis document), high s stays refused, and the error says
/// what to do.
#[test]
fn high_s_is_refused_where_ids_count() {
    let folder = folder("high");
    let (root, kept) =
        (raw(&folder.join("root.pem")), msp::read_certificate(&folder.join("root.pem")));
    let refused = Directory::new(&genesis(&[("foreign-high", &root)]), verify()).unwrap_err();
    assert!(
        matches!(&refused, MembershipError::Root { source, .. } if **source == MembershipError::HighS)
    );
    let directory =
        Directory::new(&genesis(&[("foreign-high", &kept.unwrap())]), verify()).unwrap();
    let refused = directory.identify(&raw(&folder.join("cert.pem"))).unwrap_err();
    assert!(refused.to_string().contains("low s"), "{refused}");
}
