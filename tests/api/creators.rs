//! Who may create a transaction: the purpose and the role of a certificate, at the door; and
//! members whose authority is outside this house.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use obelisk::api::grpc::proto;
use obelisk::client::connection::Client;
use obelisk::client::error::ClientError;
use obelisk::client::identity::ClientIdentity;
use obelisk::client::invocation::Invocation;
use obelisk::membership::certificate;
use obelisk::membership::identity::Role;
use obelisk::membership::msp;
use obelisk::membership::msp::KeyPair;
use obelisk::membership::pem;
use obelisk::types::digest::Digest;
use obelisk::types::genesis::Organisation;
use obelisk::types::receipt::Status;

use super::fixture::TestNode;
use super::fixture::WAIT;

/// A TLS certificate of any role, and the enrolment certificate of a validator, an observer or an
/// auditor, create no transaction; nothing is stored, whoever hands it in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_enrolment_certificates_of_clients_and_admins_create_transactions() {
    let node = TestNode::start(false);
    node.deploy().await;
    let (client, put) = (node.client(Some(Role::Client)), Invocation::new("kv", "put"));
    for role in Role::ALL {
        let msp = node.msp(role);
        for (pair, purpose) in
            [(&msp.enrolment, "an enrolment certificate"), (&msp.tls.unwrap(), "a TLS certificate")]
        {
            let who = ClientIdentity::from_pair(pair, &node.crypto).unwrap();
            let outcome = client.invoke(&who, &put, WAIT).await;
            let enrolled = purpose == "an enrolment certificate";
            if enrolled && [Role::Client, Role::Admin].contains(&role) {
                assert_eq!(outcome.unwrap().receipt.status, Status::Ok, "{role:?}");
                continue;
            }
            let Err(ClientError::Refused { code, message, .. }) = outcome else {
                panic!("{role:?} with {purpose}: {outcome:?}");
            };
            assert_eq!(code, "unauthorised", "{role:?} with {purpose}: {message}");
            assert!(message.contains(purpose) && message.contains(role.name()), "{message}");
        }
    }
    assert_eq!(client.status().await.unwrap().height, 3, "one deployed, a client's, an admin's");
}

/// A folder of `tests/vectors/membership` with its certificate as openssl left it.
fn foreign(folder: &Path) -> KeyPair {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(folder.join("key.pem"), key.path()).unwrap();
    std::fs::set_permissions(key.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = std::fs::read_to_string(folder.join("cert.pem")).unwrap();
    let certificate = pem::decode(pem::CERTIFICATE, &text).unwrap().to_vec().into();
    let key = Some(msp::read_key(key.path()).unwrap());
    KeyPair { certificate, key, folder: folder.to_owned() }
}

/// Members of authorities that openssl made connect and transact, whichever s their certificates
/// carry; what the ledger keeps is the form with low s, and a revocation of that id cuts a
/// connection made with the other form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_foreign_authorities_transact_and_are_revoked() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/membership");
    let names = ["foreign-high", "foreign-low"];
    let organisation = |name: &str| {
        let root = msp::read_certificate(&vectors.join(name).join("root.pem")).unwrap();
        Organisation { name: name.to_owned(), root }
    };
    let node = TestNode::start_of("noops", false, names.map(organisation).to_vec());
    node.deploy().await;
    for name in names {
        let [enrolment, tls, admin] =
            ["", "tls", "admin"].map(|part| foreign(&vectors.join(name).join(part)));
        let who = ClientIdentity::from_pair(&enrolment, &node.crypto).unwrap();
        assert_eq!(who.certificate() != &enrolment.certificate, name == "foreign-high");
        let address = node.open().grpc().unwrap().to_string();
        let client = Client::new(&address, &node.network, Some(&tls)).unwrap();
        let put = Invocation::new("kv", "put");
        let done = client.invoke(&who, &put, WAIT).await.unwrap();
        assert_eq!(done.receipt.status, Status::Ok, "{name}");
        let mut live = node.grpc_once(Some(&tls)).await.unwrap();
        let from = proto::BlocksRequest { from: 1 };
        let mut blocks = live.blocks(from).await.unwrap().into_inner();
        let id = Digest::of(&[&certificate::canonical(&tls.certificate)]).to_string();
        let revoke = Invocation::new("membership", "revoke").arg(id).arg("left");
        let admin = ClientIdentity::from_pair(&admin, &node.crypto).unwrap();
        // Whoever hands it in: the signature inside decides.
        let carrier = node.client(Some(Role::Client));
        let done = carrier.invoke(&admin, &revoke, WAIT).await.unwrap();
        assert_eq!(done.receipt.status, Status::Ok, "{name}: {}", done.receipt.error);
        let ended = async { while let Ok(Some(_)) = blocks.message().await {} };
        tokio::time::timeout(WAIT, ended).await.expect("cut");
        assert!(client.status().await.is_err(), "{name}: kept out");
    }
}
