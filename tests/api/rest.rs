//! REST: what works, what is refused and in which words.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use obelisk::api::openapi;
use obelisk::api::rest;
use obelisk::api::rest::route::Schema;
use obelisk::client::invocation::Invocation;
use obelisk::ledger::read_write_set::StateKey;
use obelisk::ledger::state_tree::StateProof;
use obelisk::membership::identity::Role;
use obelisk::types::codec::Decode;
use obelisk::types::codec::Encode;
use obelisk::types::digest::Digest;
use obelisk::types::evidence::TransactionProof;
use obelisk::types::ids::Height;
use obelisk::types::limits;
use obelisk::types::transaction::Transaction;
use serde_json::Value;
use serde_json::json;

use super::fixture::Answer;
use super::fixture::TestNode;
use super::fixture::exchange;

fn encoded(transaction: &Transaction) -> String {
    STANDARD.encode(transaction.to_bytes())
}

fn bytes(text: &Value) -> Bytes {
    Bytes::from(STANDARD.decode(text.as_str().unwrap()).unwrap())
}

impl TestNode {
    fn signed(&self, role: Role, function: &str) -> Transaction {
        let chain = self.network.chain();
        Invocation::new("kv", function).sign(&self.identity(role), chain, Height(0)).unwrap()
    }

    /// Submits over REST and waits; returns the answer's receipt.
    async fn committed(&self, transaction: &Transaction) -> Value {
        let certificate = STANDARD.encode(self.identity(Role::Client).certificate());
        let body = json!({ "transaction": encoded(transaction), "certificate": certificate });
        let answer = self
            .rest(Some(Role::Client), "POST", "/transactions?wait=30000", &body.to_string())
            .await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["receipt"].clone()
    }

    async fn fetched(&self, path: &str) -> Value {
        let answer = self.rest(Some(Role::Client), "GET", path, "").await;
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.json());
        let route = rest::routes()
            .find(|r| matches(r.path, path.split('?').next().unwrap()))
            .expect("a route");
        fits(route.answer, &answer.json());
        answer.json()
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<_>, Vec<_>) =
        (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len()
        && pattern.iter().zip(&path).all(|(p, s)| p == s || p.starts_with('{'))
}

/// The answer has every required member of its schema, and none that the schema does not know.
fn fits(schema: &Schema, value: &Value) {
    let object = value.as_object().unwrap_or_else(|| panic!("{}: {value}", schema.name));
    for name in object.keys() {
        assert!(schema.fields.iter().any(|f| f.name == name), "{} has no {name}", schema.name);
    }
    for field in schema.fields {
        let Some(member) = object.get(field.name) else {
            assert!(!field.required, "{} lacks {}", schema.name, field.name);
            continue;
        };
        let item = field.kind.trim_start_matches('[').trim_end_matches(']');
        let inner = openapi::schemas_in_use().into_iter().find(|s| s.name == item);
        match (inner, field.kind.starts_with('[')) {
            (None, _) => {}
            (Some(inner), false) => fits(inner, member),
            (Some(inner), true) => {
                member.as_array().unwrap().iter().for_each(|item| fits(inner, item));
            }
        }
    }
}

/// Deploy, write, read, prove: every reading route answers in its documented shape, the proofs hold
/// under the genesis document alone, and what one route says another confirms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn life_of_a_transaction() {
    let node = TestNode::start(false);
    let genesis = node.fetched("/chain").await;
    assert_eq!((genesis["height"].as_u64(), genesis.get("previousBlockHash")), (Some(0), None));
    node.deploy().await;
    let tx = node.signed(Role::Client, "put");
    let receipt = node.committed(&tx).await;
    assert_eq!(receipt["status"], "ok");
    let (id, height) = (tx.id().to_string(), receipt["height"].as_u64().unwrap());

    let found = node.fetched(&format!("/transactions/{id}")).await;
    assert_eq!(bytes(&found["payload"]), tx.signed_bytes());
    assert_eq!(bytes(&found["cert"]), node.identity(Role::Client).certificate());
    let again = node.fetched(&format!("/transactions/{id}/receipt")).await;
    assert_eq!(again["events"][0]["name"], "name");

    let proof = node.fetched(&format!("/transactions/{id}/proof")).await;
    let evidence = TransactionProof::from_bytes(&bytes(&proof["proof"])).unwrap();
    let hash = node.network.verifier().check_transaction(&evidence).unwrap();
    let block = node.fetched(&format!("/chain/blocks/{height}")).await;
    assert_eq!(block["blockHash"], hash.to_string());
    assert_eq!(block["transactions"][0]["txid"], id);
    assert_eq!(block["nonHashData"]["chaincodeEvents"][0]["eventName"], "name");
    let result = node.fetched(&format!("/chain/blocks/{height}/result")).await;
    assert_eq!(result["receiptsRoot"], proof["receiptsRoot"]);

    let state = node.fetched("/state/kv/key?proof=true").await;
    assert_eq!((&state["text"], state["found"].as_bool()), (&json!("value"), Some(true)));
    let tree = StateProof::from_bytes(&bytes(&state["proof"]["proof"])).unwrap();
    let root: Digest = state["proof"]["stateRoot"].as_str().unwrap().parse().unwrap();
    let key = StateKey { namespace: "kv".to_owned(), key: Bytes::from_static(b"key") };
    let value = node.network.verifier().check_state(&tree, &key, root).unwrap();
    assert_eq!(value.unwrap(), "value");
    let hex = node.fetched("/state/kv/6b6579?encoding=hex").await;
    assert_eq!(hex["value"], state["value"]);

    node.committed(&node.signed(Role::Client, "wipe")).await;
    let absent = node.fetched("/state/kv/key?proof=true").await;
    assert_eq!(absent["found"], false);
    let history = node.fetched("/state/kv/key/history").await;
    assert_eq!(history["entries"][0]["deleted"], true);
    assert_eq!(history["entries"][1]["height"], height);
    let short = node.fetched("/state/kv/key/history?limit=1").await;
    assert_eq!(short["entries"].as_array().unwrap().len(), 1);

    let chain = node.fetched("/chain").await;
    let newest = node.fetched(&format!("/chain/blocks/{}", chain["height"])).await;
    assert_eq!(newest["previousBlockHash"], chain["previousBlockHash"]);
    let status = node.fetched("/status").await;
    assert_eq!(status["height"], chain["height"]);
    node.fetched("/network/peers").await;
    node.fetched("/healthz").await;
    node.fetched("/readyz").await;
    let first = node.rest(Some(Role::Client), "GET", "/chain/blocks/0", "").await.json();
    assert_eq!(first["blockHash"], genesis["chain"]);
    let metrics = node.rest(Some(Role::Client), "GET", "/metrics", "").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert_eq!(metrics.headers["x-content-type-options"], "nosniff");
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} is missing in:\n{text}"))[name.len()..]
            .trim()
            .parse()
            .unwrap()
    };
    let height = chain["height"].as_f64().unwrap();
    for name in
        ["transactions_admitted_total", "transactions_committed_total", "commit_seconds_count"]
    {
        assert!(value(&format!("obelisk_{name}")) >= 3.0, "{name}:\n{text}");
    }
    for name in ["signatures_checked_total", "signatures_made_total", "batches_authored_total"] {
        assert!(value(&format!("obelisk_{name}")) > 0.0, "{name}:\n{text}");
    }
    for name in ["blocks_committed_total", "ledger_height", "execute_seconds_count"] {
        assert_eq!(value(&format!("obelisk_{name}")), height, "{name}");
    }
}

/// A failed transaction keeps its receipt with the contract's own words; raw bytes are taken as
/// well as JSON, and without `wait` the answer is 202.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_and_raw_transactions() {
    let node = TestNode::start(false);
    node.deploy().await;
    let receipt = node.committed(&node.signed(Role::Client, "refuse")).await;
    assert_eq!((&receipt["status"], &receipt["error"]), (&json!("refused"), &json!("value")));
    let receipt = node.committed(&node.signed(Role::Client, "explode")).await;
    assert_eq!(receipt["status"], "trap");

    let tx = node.signed(Role::Client, "put");
    let media = "application/octet-stream";
    let sent =
        node.rest_bytes(Some(Role::Client), "POST", "/transactions", media, tx.to_bytes()).await;
    assert_eq!((sent.status, sent.json()["txid"].as_str()), (202, Some(&*tx.id().to_string())));
    let receipt = node.fetched(&format!("/transactions/{}/receipt?wait=30000", tx.id())).await;
    assert_eq!(receipt["status"], "ok");
}

/// JSON-RPC as in 2016: deploy and invoke with signed transactions, query with the old parameters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaincode_calls_of_2016() {
    let node = TestNode::start(false);
    let admin = node.identity(Role::Admin);
    let deploy = Invocation::new("lifecycle", "deploy")
        .arg("kv")
        .arg("1")
        .arg("wasm")
        .arg(super::fixture::contract())
        .sign(&admin, node.network.chain(), Height(0))
        .unwrap();
    let certificate = STANDARD.encode(admin.certificate());
    let params = json!({ "signedTransaction": encoded(&deploy), "certificate": certificate });
    let call = json!({ "jsonrpc": "2.0", "method": "deploy", "params": params, "id": 7 });
    let answer = node.rest(Some(Role::Admin), "POST", "/chaincode", &call.to_string()).await;
    let wanted = json!({ "status": "OK", "message": deploy.id().to_string() });
    assert_eq!((answer.status, &answer.json()["result"]), (200, &wanted), "{}", answer.json());
    node.fetched(&format!("/transactions/{}/receipt?wait=30000", deploy.id())).await;
    node.committed(&node.signed(Role::Client, "put")).await;

    let ctor = json!({ "function": "get", "args": ["a"] });
    let params = json!({ "type": 1, "chaincodeID": { "name": "kv" }, "ctorMsg": ctor });
    let mut call = json!({ "jsonrpc": "2.0", "method": "query", "params": params, "id": "q" });
    let ask = async |call: &Value| {
        node.rest(Some(Role::Client), "POST", "/chaincode", &call.to_string()).await
    };
    let answer = ask(&call).await.json();
    assert_eq!((&answer["result"]["message"], &answer["id"]), (&json!("value"), &json!("q")));
    call["params"]["ctorMsg"] = json!({ "args": ["get"] });
    assert_eq!(ask(&call).await.json()["result"]["message"], "value");
    call["params"]["secureContext"] = json!("client");
    assert_eq!(ask(&call).await.json()["result"]["message"], "value");
    call["params"]["secureContext"] = json!("lukas");
    assert_eq!(ask(&call).await.json()["error"]["code"], -32602);
    call["params"]["secureContext"] = json!("");
    call["params"]["ctorMsg"] = json!({ "args": ["put"] });
    let refused = ask(&call).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (200, &json!(-32003)));
    call.as_object_mut().unwrap().remove("id");
    let silent = ask(&call).await;
    assert_eq!((silent.status, silent.body.len()), (200, 0), "a notification is not answered");
}

/// What is asked wrongly, one line per case: who, method, path, body. The answers stand in
/// `tests/vectors/api-refusals.txt`; OBELISK_UPDATE_GOLDEN=1 writes it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_in_golden_words() {
    let node = TestNode::start(false);
    node.deploy().await;
    let mut text = String::new();
    for (method, path, body) in bad_requests(&node) {
        let answer = node.rest(Some(Role::Client), method, &path, &body).await;
        // Signed bytes and certificates differ from run to run behind their first characters.
        let length = if path == "/transactions" { 40 } else { 130 };
        let shown: String = body.chars().take(length).collect();
        writeln!(text, "{method} {path} {shown}\n    {} {}", answer.status, line(&answer)).unwrap();
    }
    let answer = node.rest(None, "GET", "/chain", "").await;
    writeln!(text, "GET /chain without a certificate\n    {} {}", answer.status, line(&answer))
        .unwrap();
    let answer = node.rest(Some(Role::Observer), "POST", "/transactions", "{}").await;
    writeln!(text, "POST /transactions as an observer\n    {} {}", answer.status, line(&answer))
        .unwrap();
    let chain = node.network.chain().to_string();
    let text = text.replace(&chain, "<chain>");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/api-refusals.txt");
    if std::env::var_os("OBELISK_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    for (found, wanted) in text.lines().zip(golden.lines()) {
        assert_eq!(found, wanted, "see {}", path.display());
    }
    assert_eq!(text.lines().count(), golden.lines().count());
    assert_eq!(node.fetched("/chain").await["height"], 1, "nothing was stored");
}

fn line(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).trim().to_owned()
}

fn bad_requests(node: &TestNode) -> Vec<(&'static str, String, String)> {
    let zeros = "0".repeat(64);
    let get = |path: &str| ("GET", path.to_owned(), String::new());
    let post = |path: &str, body: &str| ("POST", path.to_owned(), body.to_owned());
    let submit = |value: Value| ("POST", "/transactions".to_owned(), value.to_string());
    let rpc = |body: Value| ("POST", "/chaincode".to_owned(), body.to_string());
    let query = |params: Value| {
        rpc(json!({ "jsonrpc": "2.0", "method": "query", "params": params, "id": 1 }))
    };
    vec![
        get("/nowhere"),
        ("DELETE", "/chain".to_owned(), String::new()),
        get("/chain?depth=3"),
        get("/chain/blocks/twelve"),
        get("/chain/blocks/-1"),
        get("/chain/blocks/99999999999999999999"),
        get("/chain/blocks/12"),
        get("/chain/blocks/0/result"),
        get("/transactions/abc"),
        get(&format!("/transactions/{zeros}")),
        get(&format!("/transactions/{zeros}/proof")),
        get(&format!("/transactions/{zeros}/receipt")),
        get(&format!("/transactions/{zeros}/receipt?wait=soon")),
        get("/state/kv/nothing"),
        get("/state/kv/%FF"),
        get("/state/kv/xyz?encoding=hex"),
        get("/state/kv/key?encoding=morse"),
        get("/state/kv/key?proof=maybe"),
        get(&format!("/state/{}/key", "x".repeat(65))),
        get("/state/kv/key/history?limit=many"),
        post("/transactions", ""),
        post("/transactions", "[]"),
        post("/transactions", "{\"transaction\":\"AAAA\",\"speed\":1}"),
        post("/transactions", "{\"transaction\":\"not base64\"}"),
        post("/transactions", "{\"transaction\":\"AAAA\"}"),
        submit(json!({ "transaction": encoded(&foreign(node)) })),
        submit(json!({ "transaction": encoded(&node.signed(Role::Client, "put")) })),
        submit(json!({ "transaction": encoded(&forged(node)), "certificate": pem(node) })),
        submit(json!({
            "transaction": encoded(&node.signed(Role::Client, "put")),
            "certificate": "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----",
        })),
        post("/registrar", "{\"enrollId\":\"jim\",\"enrollSecret\":\"6avZQLwcUe9b\"}"),
        get("/registrar/jim"),
        post("/chaincode", ""),
        post("/chaincode", "{"),
        post("/chaincode", "[]"),
        rpc(json!({ "jsonrpc": "1.0", "method": "query", "params": {}, "id": 1 })),
        rpc(json!({ "jsonrpc": "2.0", "params": {}, "id": 1 })),
        rpc(json!({ "jsonrpc": "2.0", "method": "fly", "params": {}, "id": 1 })),
        rpc(json!({ "jsonrpc": "2.0", "method": "query", "id": 1 })),
        rpc(json!({ "jsonrpc": "2.0", "method": "invoke", "params": {}, "id": 1 })),
        query(json!({})),
        query(json!({ "chaincodeID": { "name": "kv" } })),
        query(json!({ "chaincodeID": { "name": "kv" }, "ctorMsg": { "args": [] } })),
        query(json!({ "chaincodeID": { "name": "no" }, "ctorMsg": { "args": ["get"] } })),
        query(json!({ "chaincodeID": { "name": "kv" }, "ctorMsg": { "args": ["refuse"] } })),
    ]
}

/// Signed for another network.
fn foreign(node: &TestNode) -> Transaction {
    let chain = obelisk::types::ids::ChainId::default();
    let call = Invocation::new("kv", "put");
    call.sign(&node.identity(Role::Client), chain, Height(0)).unwrap()
}

/// A payload with somebody else's signature.
fn forged(node: &TestNode) -> Transaction {
    let (one, other) = (node.signed(Role::Client, "put"), node.signed(Role::Client, "put"));
    Transaction::parse(one.signed_bytes().clone(), *other.signature()).unwrap()
}

fn pem(node: &TestNode) -> String {
    let der = STANDARD.encode(node.identity(Role::Client).certificate());
    format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n")
}

/// A body above the limit is refused with 413 while it arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_bodies_are_refused() {
    let node = TestNode::start(true);
    let body = Bytes::from(vec![b'a'; limits::REST_BODY_BYTES_MAX + 1]);
    let socket = tokio::net::TcpStream::connect(node.plain()).await.unwrap();
    let answer = exchange(socket, "POST", "/transactions", "application/json", body).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (413, &json!("too-large")));
}

/// Garbage, half requests and endless heads end their own connection; the next caller is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_only_its_own_connection() {
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    let node = TestNode::start(true);
    let endless = vec![b'A'; limits::REQUEST_HEAD_BYTES_MAX * 2];
    let cases: [&[u8]; 5] = [
        b"\x16\x03\x01\x00\x05hello",
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        &endless,
        b"G",
    ];
    for garbage in cases {
        let mut socket = tokio::net::TcpStream::connect(node.plain()).await.unwrap();
        // A server that has closed already is as good as one that reads to the end.
        let _ = socket.write_all(garbage).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    let socket = tokio::net::TcpStream::connect(node.plain()).await.unwrap();
    let answer = exchange(socket, "GET", "/chain", "", Bytes::new()).await;
    assert_eq!(answer.status, 200);
}

/// REST without TLS refuses a socket that other machines reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_rest_stays_on_loopback() {
    let node = TestNode::start(true);
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let everywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let refused = rest::server::plain(node.service.clone(), everywhere, stopped);
    let text = refused.map(drop).unwrap_err().to_string();
    assert!(text.contains("loopback only"), "{text}");
}
