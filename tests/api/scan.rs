//! Pages of a contract's state, over REST, gRPC and the client library.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use obelisk::api::scan::Asked;
use obelisk::client::error::ClientError;
use obelisk::client::invocation::Invocation;
use obelisk::ledger::StatePage;
use obelisk::membership::identity::Role;
use obelisk::types::limits;
use serde_json::Value;

use super::fixture::TestNode;
use super::fixture::WAIT;
use super::fixture::contract;

/// A node with contracts `kv`, `kv0` .. `kv4`: their records are the state that is scanned.
async fn node() -> TestNode {
    let node = TestNode::start(false);
    node.deploy().await;
    let client = node.client(Some(Role::Admin));
    for n in 0..5 {
        let name = format!("kv{n}");
        let deploy = Invocation::new("lifecycle", "deploy").arg(name).arg("1").arg("wasm");
        let deploy = deploy.arg(contract());
        client.invoke(&node.identity(Role::Admin), &deploy, WAIT).await.unwrap();
    }
    node
}

fn asked(prefix: &'static str, limit: u64) -> Asked {
    let prefix = Bytes::from_static(prefix.as_bytes());
    Asked { chaincode: "lifecycle".to_owned(), prefix, limit: Some(limit), ..Asked::default() }
}

fn keys(page: &StatePage) -> Vec<String> {
    page.entries.iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

/// Page by page, everything comes once, in order, at the height that was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_cover_a_prefix_without_gaps() {
    let node = node().await;
    let client = node.client(Some(Role::Client));
    let whole = client.scan(&asked("name/", 100)).await.unwrap();
    let names = ["kv", "kv0", "kv1", "kv2", "kv3", "kv4"].map(|name| format!("name/{name}"));
    assert_eq!((keys(&whole), &whole.next, whole.height.0), (names.to_vec(), &None, 6));
    for limit in 1..=6 {
        let mut next = asked("name/", limit);
        next.height = Some(6);
        let mut seen = Vec::new();
        loop {
            let page = client.scan(&next).await.unwrap();
            assert!(page.entries.len() <= usize::try_from(limit).unwrap());
            seen.extend(page.entries);
            match page.next {
                Some(from) => next.from = from,
                None => break,
            }
        }
        assert_eq!(seen, whole.entries, "limit {limit}");
    }
    let range = Asked { start: "name/kv1".into(), end: "name/kv3".into(), ..asked("", 9) };
    assert_eq!(keys(&client.scan(&range).await.unwrap()), ["name/kv1", "name/kv2"]);
    assert_eq!(client.scan(&asked("zzz", 9)).await.unwrap().entries, []);
    let value = client.state("lifecycle", b"name/kv").await.unwrap().unwrap();
    assert_eq!(whole.entries[0].1, value, "a scan and a read agree");
}

/// REST says the same in its own form, and `next` of a page is `from` of the following one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rest_pages_agree_with_grpc() {
    let node = node().await;
    let page = node.client(Some(Role::Client)).scan(&asked("name/", 4)).await.unwrap();
    let get = async |path: &str| -> Value {
        let answer = node.rest(Some(Role::Client), "GET", path, "").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.json());
        answer.json()
    };
    let first = get("/state/lifecycle?prefix=name/&limit=4").await;
    assert_eq!((&first["height"], first["entries"].as_array().unwrap().len()), (&6.into(), 4));
    for ((key, value), entry) in page.entries.iter().zip(first["entries"].as_array().unwrap()) {
        assert_eq!(entry["key"], STANDARD.encode(key));
        assert_eq!(entry["value"], STANDARD.encode(value));
    }
    let next = first["next"].as_str().unwrap();
    assert_eq!(hex::decode(next).unwrap(), page.next.unwrap());
    let rest = format!("/state/lifecycle?prefix=name/&limit=4&from={next}&height=6");
    let rest = get(&rest).await;
    assert_eq!(rest["entries"].as_array().unwrap().len(), 2);
    assert_eq!(rest.get("next"), None);
    let hex = get("/state/lifecycle?encoding=hex&start=6e616d652f&end=6e616d6530&limit=4").await;
    assert_eq!(hex["entries"], first["entries"]);
}

/// Each mistake gets one clear error with its code; the scan of a network that went on is refused
/// where one height was demanded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_scans_are_refused() {
    let node = node().await;
    let client = node.client(Some(Role::Client));
    let most = limits::STATE_PAGE_ENTRIES_MAX as u64;
    let range = |start: &'static str, end: &'static str| Asked {
        start: start.into(),
        end: end.into(),
        ..asked("", 1)
    };
    let no_contract = Asked { chaincode: "nobody".to_owned(), ..asked("", 1) };
    let late = Asked { height: Some(7), ..asked("", 1) };
    for (asked, code, words) in [
        (asked("", 0), "malformed", "limit must be from 1 to 1024"),
        (asked("", most + 1), "malformed", "limit must be from 1 to 1024"),
        (range("b", "a"), "malformed", "behind its end"),
        (no_contract, "unknown-chaincode", "no contract \"nobody\""),
        (late, "height-mismatch", "asked for height 7, the state is at 6"),
    ] {
        match client.scan(&asked).await.unwrap_err() {
            ClientError::Refused { code: found, message, hint, .. } => {
                assert_eq!(found, code, "{asked:?}: {message}");
                assert!(message.contains(words) && !hint.is_empty(), "{message}; {hint}");
            }
            other => panic!("{other}"),
        }
    }
    let still = Asked { height: Some(6), ..asked("name/", 2) };
    let from = client.scan(&still).await.unwrap().next.unwrap();
    let put = Invocation::new("kv", "put");
    client.invoke(&node.identity(Role::Client), &put, WAIT).await.unwrap();
    let moved = client.scan(&Asked { from: from.clone(), ..still.clone() }).await.unwrap_err();
    assert_eq!(moved.code(), "height-mismatch");
    let free = client.scan(&Asked { from, height: None, ..still }).await.unwrap();
    assert_eq!((free.height.0, free.entries.len()), (7, 2), "without the demand it goes on");
}

/// A page of large values ends early, says where to go on, and never skips one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_make_short_pages() {
    let node = TestNode::start(false);
    let client = node.client(Some(Role::Admin));
    for n in 0..4_u8 {
        // A custom section of random bytes makes each package large and different.
        let mut package = contract();
        let filler = vec![n; 700_000];
        package.push(0);
        package.extend(leb128(filler.len() + 2));
        package.extend([1, b'x']);
        package.extend(filler);
        let deploy = Invocation::new("lifecycle", "deploy").arg(format!("big{n}"));
        let deploy = deploy.arg("1").arg("wasm").arg(package);
        client.invoke(&node.identity(Role::Admin), &deploy, WAIT).await.unwrap();
    }
    let first = client.scan(&asked("package/", 100)).await.unwrap();
    assert_eq!(first.entries.len(), 2, "the second passes 1 MiB, a third is not taken");
    let rest = Asked { from: first.next.clone().unwrap(), ..asked("package/", 100) };
    let second = client.scan(&rest).await.unwrap();
    assert_eq!((second.entries.len(), second.next), (2, None));
    assert!(first.entries[1].0 < second.entries[0].0);
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7F).unwrap();
        number >>= 7;
        match number {
            0 => {
                out.push(low);
                return out;
            }
            _ => out.push(low | 0x80),
        }
    }
}
