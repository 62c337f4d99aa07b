//! gRPC through the client library.

use base64::Engine;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use obelisk::api::grpc::proto;
use obelisk::client::connection::Client;
use obelisk::client::error::ClientError;
use obelisk::client::invocation::Invocation;
use obelisk::client::submission::Outcomes;
use obelisk::client::trust::Network;
use obelisk::membership::identity::Role;
use obelisk::types::codec::Encode;
use obelisk::types::ids::Height;
use obelisk::types::ids::TxId;
use obelisk::types::limits;
use obelisk::types::receipt::Status;

use super::fixture::TestNode;
use super::fixture::WAIT;

fn put() -> Invocation {
    Invocation::new("kv", "put")
}

/// Sign, submit, wait, query, read, prove: each answer agrees with the others and holds under the
/// genesis document.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invoke_query_and_prove() {
    let node = TestNode::start(false);
    let deployed = node.deploy().await;
    assert_eq!((deployed.height, deployed.receipt.status), (Height(1), Status::Ok));
    let (client, who) = (node.client(Some(Role::Client)), node.identity(Role::Client));
    let tx = client.sign(&who, &put()).await.unwrap();
    let found = client.submit_and_wait(&tx, Some(who.certificate()), WAIT).await.unwrap();
    assert_eq!((found.height, found.receipt.status), (Height(2), Status::Ok));
    assert_eq!(client.query(&Invocation::new("kv", "get")).await.unwrap(), "value");
    let mut raw = node.grpc_once(Some(&node.pair(Role::Client))).await.unwrap();
    let (chaincode, function) = ("kv".to_owned(), "get".to_owned());
    let query = proto::QueryRequest { chaincode, function, args: Vec::new() };
    let answer = raw.query(query).await.unwrap().into_inner();
    assert_eq!((&answer.value[..], answer.height), (&b"value"[..], 2));
    assert_eq!(client.state("kv", b"key").await.unwrap().unwrap(), "value");
    assert_eq!(client.state("kv", b"none").await.unwrap(), None);
    let proven = client.prove_state("kv", b"key").await.unwrap();
    assert_eq!((proven.value.unwrap(), proven.height), (Bytes::from_static(b"value"), Height(2)));
    let absent = client.prove_state("kv", b"none").await.unwrap();
    assert_eq!((absent.value, absent.state_root), (None, proven.state_root));
    let proof = client.prove_transaction(tx.id()).await.unwrap();
    assert_eq!((proof.proof.header.height, proof.receipt.receipt), (Height(2), found.receipt));
    let history = client.history("kv", b"key", 0).await.unwrap();
    assert_eq!(history, [(Height(2), 0, false)]);
    // The same transaction again: the first attempt's receipt.
    let again = client.submit_and_wait(&tx, None, WAIT).await.unwrap();
    assert_eq!(again.height, Height(2));
    let status = client.status().await.unwrap();
    assert_eq!((status.height, status.network.as_str()), (2, "api-test"));
}

/// Each refusal arrives with its code, message and hint; nothing is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_carry_code_and_hint() {
    let node = TestNode::start(false);
    let (client, who) = (node.client(Some(Role::Client)), node.identity(Role::Client));
    let chain = node.network.chain();
    let tx = put().sign(&who, chain, Height(0)).unwrap();
    let code = |result: Result<TxId, ClientError>| match result.unwrap_err() {
        ClientError::Refused { code, message, hint, .. } => {
            assert!(!message.is_empty() && !hint.is_empty());
            code
        }
        other => panic!("{other}"),
    };
    assert_eq!(code(client.submit(&tx, None).await), "unknown-creator");
    let wrong = node.identity(Role::Admin);
    assert_eq!(code(client.submit(&tx, Some(wrong.certificate())).await), "bad-certificate");
    let early = put().valid_for_blocks(0).sign(&who, chain, Height(0)).unwrap();
    assert_eq!(code(client.submit(&early, Some(who.certificate())).await), "expired");
    let late = put().sign(&who, chain, Height(9999)).unwrap();
    assert_eq!(code(client.submit(&late, Some(who.certificate())).await), "too-far-ahead");
    let observer = node.identity(Role::Observer);
    let theirs = put().sign(&observer, chain, Height(0)).unwrap();
    assert_eq!(code(client.submit(&theirs, Some(observer.certificate())).await), "unauthorised");
    let anonymous = node.client(None);
    assert_eq!(code(anonymous.submit(&tx, None).await), "unauthenticated");
    let reader = node.client(Some(Role::Auditor));
    assert_eq!(code(reader.submit(&tx, None).await), "unauthorised");
    let missing = client.query(&Invocation::new("none", "get")).await.unwrap_err();
    assert_eq!(missing.code(), "unknown-chaincode");
    let absent = client.prove_transaction(tx.id()).await.unwrap_err();
    assert_eq!(absent.code(), "not-found");
    let waited = client.receipt(tx.id(), Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(waited, ClientError::TimedOut(1)), "{waited}");
    let unknown = client.receipt(tx.id(), Duration::ZERO).await.unwrap_err();
    assert_eq!(unknown.code(), "not-found");
    assert_eq!(client.status().await.unwrap().height, 0);
}

/// Fields that cannot be read and messages that are too large get their code and say what is wrong;
/// the connection goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused() {
    let node = TestNode::start(false);
    let mut raw = node.grpc_once(Some(&node.pair(Role::Client))).await.unwrap();
    let code = |status: tonic::Status| {
        let code = status.metadata().get("obelisk-code").expect("a code").to_str().unwrap();
        assert!(!status.message().is_empty() && status.metadata().get("obelisk-hint").is_some());
        code.to_owned()
    };
    let bytes = |len: usize| Bytes::from(vec![7; len]);
    let submit = |transaction, certificate| proto::SubmitRequest { transaction, certificate };
    let refused = raw.submit(submit(bytes(40), Bytes::new())).await.unwrap_err();
    assert_eq!(code(refused), "malformed");
    let refused = raw.submit(submit(Bytes::new(), Bytes::new())).await.unwrap_err();
    assert_eq!(code(refused), "malformed");
    let who = node.identity(Role::Client);
    let tx = put().sign(&who, node.network.chain(), Height(0)).unwrap().to_bytes();
    let large = bytes(limits::CERTIFICATE_BYTES_MAX + 1);
    assert_eq!(code(raw.submit(submit(tx, large)).await.unwrap_err()), "too-large");
    let id = bytes(31);
    let refused = raw.receipt(proto::ReceiptRequest { id, wait_ms: 0 }).await.unwrap_err();
    assert_eq!(code(refused), "malformed");
    let key = bytes(limits::STATE_KEY_BYTES_MAX + 1);
    let state = proto::StateRequest { chaincode: "kv".to_owned(), key, proof: false };
    assert_eq!(code(raw.state(state).await.unwrap_err()), "malformed");
    let args = vec![Bytes::new(); limits::ARGS_MAX + 1];
    let (chaincode, function) = ("kv".to_owned(), "get".to_owned());
    let query = proto::QueryRequest { chaincode, function, args };
    assert_eq!(code(raw.query(query).await.unwrap_err()), "malformed");
    let endless = raw.submit(submit(bytes(limits::API_MESSAGE_BYTES_MAX + 1), Bytes::new())).await;
    assert_eq!(endless.unwrap_err().code(), tonic::Code::OutOfRange);
    assert_eq!(raw.status(proto::StatusRequest {}).await.unwrap().into_inner().height, 0);
}

async fn collect(mut outcomes: Outcomes) -> Vec<proto::SubmitOutcomes> {
    let mut all = Vec::new();
    while let Some(some) = outcomes.next().await.unwrap() {
        all.push(some);
    }
    all
}

/// A thousand transactions over one stream, faulty ones among them: each number is answered exactly
/// once, and with what became of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_number_of_a_stream_is_answered_once() {
    let node = TestNode::start(false);
    node.deploy().await;
    let (client, who) = (node.client(Some(Role::Client)), node.identity(Role::Client));
    let chain = node.network.chain();
    let mut encoded = Vec::new();
    let (mut good, mut failing, mut bad) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for number in 0..1000u64 {
        let function = if number % 10 == 3 { "refuse" } else { "put" };
        let tx = Invocation::new("kv", function).sign(&who, chain, Height(1)).unwrap();
        let bytes = match number % 50 {
            7 => Bytes::from_static(b"garbage"),
            8 => Bytes::clone(&encoded[0]),
            _ => tx.to_bytes(),
        };
        let kind = match (number % 50, function) {
            (7 | 8, _) => &mut bad,
            (_, "refuse") => &mut failing,
            _ => &mut good,
        };
        kind.insert(number);
        encoded.push(bytes);
    }
    let (mut sender, outcomes) = client.submission().await.unwrap();
    let answers = tokio::spawn(collect(outcomes));
    let mut certificates = vec![who.certificate().clone()];
    for part in encoded.chunks(150) {
        sender.send(part.to_vec(), std::mem::take(&mut certificates)).await.unwrap();
    }
    drop(sender);
    let (mut committed, mut failed, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for outcome in answers.await.unwrap() {
        assert!(outcome.height > 1 || outcome.committed.is_empty());
        committed.extend(outcome.committed);
        failed.extend(outcome.failed.into_iter().map(|f| (f.number, f.status)));
        refused.extend(outcome.refused.into_iter().map(|r| (r.number, r.code)));
    }
    assert_eq!(committed.len() + failed.len() + refused.len(), 1000);
    assert_eq!(committed.into_iter().collect::<BTreeSet<_>>(), good);
    assert!(failed.iter().all(|(_, status)| *status == Status::Refused as u32));
    assert_eq!(failed.into_iter().map(|(n, _)| n).collect::<BTreeSet<_>>(), failing);
    for (number, code) in &refused {
        let wanted = if number % 50 == 7 { "malformed" } else { "duplicate" };
        assert_eq!(code, wanted, "number {number}");
    }
    assert_eq!(refused.into_iter().map(|(n, _)| n).collect::<BTreeSet<_>>(), bad);
}

/// Blocks and events start at any height and survive a restart of the listener: no gap, nothing
/// twice, and blocks are checked on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_resume_where_they_were() {
    let mut node = TestNode::start(false);
    node.deploy().await;
    let (client, who) = (node.client(Some(Role::Client)), node.identity(Role::Client));
    for _ in 0..3 {
        client.invoke(&who, &put(), WAIT).await.unwrap();
    }
    let mut blocks = client.blocks(Height(2));
    let mut events = client.events(Height(0), "kv", "name");
    assert_eq!(blocks.next().await.unwrap().0.header.height, Height(2));
    let first = events.next().await.unwrap();
    assert_eq!((first.height, first.events[0].chaincode.as_str()), (2, "kv"));

    let address = node.open().grpc().unwrap();
    node.close().await;
    node.listen(TcpListener::bind(address).unwrap());
    let later = node.client(Some(Role::Client));
    later.invoke(&who, &put(), WAIT).await.unwrap();
    for height in 3..=5 {
        assert_eq!(blocks.next().await.unwrap().0.header.height, Height(height));
        assert_eq!(events.next().await.unwrap().height, height);
    }
    assert_eq!((blocks.height(), events.height()), (Height(6), Height(6)));
}

/// A client does not talk to a server that is no node of its network.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_not_believed() {
    let (node, other) = (TestNode::start(true), TestNode::start(true));
    let address = other.open().grpc().unwrap().to_string();
    let refused = Client::connect(&address, &node.network, None).await.map(drop).unwrap_err();
    assert!(matches!(refused, ClientError::Unreachable { .. }), "{refused}");
    let network = Network::new(other.network.genesis().clone(), other.crypto.clone()).unwrap();
    Client::connect(&address, &network, None).await.map(drop).unwrap();
    let nobody = Client::connect("127.0.0.1:1", &network, None).await.map(drop).unwrap_err();
    assert!(nobody.to_string().contains("is the node running"), "{nobody}");
}

/// Subscribers have a bounded number of places; the one too many hears "busy, retry after", and a
/// place that was given up is free again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_beyond_the_limit_are_told_busy() {
    use obelisk::api::action::Action;
    use obelisk::api::auth::Caller;

    let node = TestNode::start(true);
    let mut held = Vec::new();
    let follow = || node.service.perform(&Caller::Anonymous, Action::Follow(Height(1)));
    for _ in 0..limits::SUBSCRIBERS_MAX {
        held.push(follow().await.unwrap_or_else(|_| panic!("no place")));
    }
    let busy = follow().await.err().expect("no place");
    assert_eq!((busy.code.word, busy.code.http), ("busy", 429));
    assert!(busy.retry_after_ms > 0);
    held.pop();
    assert!(follow().await.is_ok());
}

/// With checkpoints, a state proof leads to a quorum's signatures, and so does a receipt of the
/// checkpoint's block.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_anchor_proofs() {
    let node = TestNode::start_with("pbft", false);
    node.deploy().await;
    let (client, who) = (node.client(Some(Role::Client)), node.identity(Role::Client));
    let (proven, committed) = loop {
        let committed = client.invoke(&who, &put(), WAIT).await.unwrap();
        let proven = client.prove_state("kv", b"key").await.unwrap();
        if proven.checkpoint.is_some() {
            break (proven, committed);
        }
        assert!(committed.height < Height(500), "no checkpoint covers any newest block");
    };
    let anchor = proven.checkpoint.unwrap();
    assert_eq!((anchor.height, anchor.state_root), (proven.height, proven.state_root));
    let newest = client.checkpoint().await.unwrap();
    assert!(newest.height >= anchor.height);
    let transaction = client.prove_transaction(committed.receipt.tx).await.unwrap();
    node.network.verifier().check_receipt(&transaction.receipt, &anchor).unwrap();
    let over_rest = node.rest(Some(Role::Client), "GET", "/chain/checkpoint", "").await;
    assert_eq!(over_rest.json()["signers"], serde_json::json!([0]));
}

/// Evidence that the node keeps is served over both interfaces in the bytes that a judge takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_is_served_as_it_is_kept() {
    let node = TestNode::start_with("pbft", false);
    let client = node.client(Some(Role::Auditor));
    assert!(client.accusations().await.unwrap().is_empty());
    let frozen = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/chain/evidence.bin");
    let bytes = std::fs::read(frozen).unwrap();
    std::fs::write(node.evidence_folder().join("2-00.evidence"), &bytes).unwrap();
    assert_eq!(client.accusations().await.unwrap(), std::slice::from_ref(&bytes));
    let answer = node.rest(Some(Role::Auditor), "GET", "/network/accusations", "").await.json();
    let accusation = &answer["accusations"][0];
    assert_eq!(accusation["culprit"], 2);
    assert_eq!(accusation["offence"], "voted for two digests in one slot");
    let evidence = base64::engine::general_purpose::STANDARD.encode(bytes);
    assert_eq!(accusation["evidence"], evidence);
}
