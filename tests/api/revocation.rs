//! A revoked certificate: what stands is cut, what comes is refused, others notice nothing.

use std::time::Duration;

use bytes::Bytes;
use obelisk::api::grpc::proto;
use obelisk::client::connection::Located;
use obelisk::client::invocation::Invocation;
use obelisk::membership::identity::Role;
use obelisk::membership::msp::KeyPair;
use obelisk::types::receipt::Status;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::fixture::TestNode;
use super::fixture::WAIT;
use super::fixture::exchange;

/// A cut wakes who waits on the connection; this leaves room for a busy machine.
const CUT_WITHIN: Duration = Duration::from_secs(5);

impl TestNode {
    async fn revoke(&self, pair: &KeyPair) -> Located {
        let id = pair.identity().unwrap().certificate.to_string();
        let revoke = Invocation::new("membership", "revoke").arg(id).arg("key lost");
        let admin = self.client(Some(Role::Admin));
        let located = admin.invoke(&self.identity(Role::Admin), &revoke, WAIT).await.unwrap();
        assert_eq!(located.receipt.status, Status::Ok, "{}", located.receipt.error);
        located
    }

    async fn cut_so_far(&self) -> u64 {
        let text = self.rest(Some(Role::Auditor), "GET", "/metrics", "").await.body;
        let text = String::from_utf8(text.to_vec()).unwrap();
        let line = text.lines().find(|l| l.starts_with("obelisk_connections_cut_total ")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// Streams of blocks and of submissions, an idle REST connection and one that waits for an answer
/// end at once when their certificate is revoked; new connections are refused; another member's
/// stream goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_loses_its_live_connections() {
    let node = TestNode::start(false);
    node.deploy().await;
    let (lost, other) = (node.pair(Role::Client), node.pair(Role::Auditor));
    let mut caller = node.grpc_once(Some(&lost)).await.unwrap();
    let from = || proto::BlocksRequest { from: 1 };
    let mut blocks = caller.blocks(from()).await.unwrap().into_inner();
    let (_submitting, requests) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut outcomes = caller.submit_stream(requests).await.unwrap().into_inner();
    let mut watcher = node.grpc_once(Some(&other)).await.unwrap();
    let mut watched = watcher.blocks(from()).await.unwrap().into_inner();
    for stream in [&mut blocks, &mut watched] {
        assert!(stream.message().await.unwrap().is_some(), "the deployment's block");
    }
    let rest = node.open().rest().unwrap();
    let mut idle = node.dial(Some(&lost), rest, "http/1.1").await.unwrap();
    let waiting = node.dial(Some(&lost), rest, "http/1.1").await.unwrap();
    let path = format!("/transactions/{}/receipt?wait=30000", "0".repeat(64));
    let waiting =
        tokio::spawn(async move { exchange(waiting, "GET", &path, "", Bytes::new()).await.status });
    assert_eq!(node.cut_so_far().await, 0);
    // So that the request is under way when the revocation comes.
    tokio::time::sleep(Duration::from_millis(300)).await;

    node.revoke(&lost).await;
    let ended = timeout(CUT_WITHIN, async { while let Ok(Some(_)) = blocks.message().await {} });
    ended.await.expect("the stream of blocks is cut");
    let ended = timeout(CUT_WITHIN, outcomes.message()).await.expect("the submission is cut");
    assert!(!matches!(ended, Ok(Some(_))));
    let read = timeout(CUT_WITHIN, idle.read_u8()).await.expect("the idle connection is cut");
    assert!(read.is_err());
    let answered = timeout(CUT_WITHIN, waiting).await.expect("the waiting request is cut");
    assert!(answered.is_err(), "answered {answered:?} instead of being cut");

    assert!(watched.message().await.unwrap().is_some(), "the revocation's block");
    assert_eq!(node.cut_so_far().await, 3, "one gRPC connection, two of REST");
    let again = node.client(Some(Role::Client)).status().await.unwrap_err();
    assert!(!again.to_string().is_empty());
    if let Ok(mut dialled) = node.dial(Some(&lost), rest, "http/1.1").await {
        // In TLS 1.3 the dialler learns of a refusal when it reads.
        assert!(timeout(CUT_WITHIN, dialled.read_u8()).await.expect("an alert").is_err());
    }
    assert_eq!(node.client(Some(Role::Auditor)).status().await.unwrap().height, 2);
}

/// A revoked enrolment certificate creates no transaction any more: refused at the door, before it
/// takes a place in a block. The member's TLS certificate is another one and still connects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_creator_is_refused_at_admission() {
    let node = TestNode::start(false);
    node.deploy().await;
    let (client, who) = (node.client(Some(Role::Client)), node.identity(Role::Client));
    let put = Invocation::new("kv", "put");
    client.invoke(&who, &put, WAIT).await.unwrap();
    node.revoke(&node.msp(Role::Client).enrolment).await;
    let refused = client.invoke(&who, &put, WAIT).await.unwrap_err();
    assert_eq!(refused.code(), "bad-certificate");
    assert!(refused.to_string().contains("revoked"), "{refused}");
    assert_eq!(client.status().await.unwrap().height, 3, "nothing more was stored");
}
