//! Every route against every role. The expectation is written out here by hand: a change of the
//! permission table must be made in two places.

use obelisk::api::action::Kind;
use obelisk::api::rest;
use obelisk::membership::identity::Role;

use super::fixture::TestNode;

/// What a caller meets: in, or turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Door {
    Open,
    Unauthenticated,
    Unauthorised,
}

/// May this caller use a route of this kind? `None` is a caller without a certificate.
fn expected(kind: Kind, role: Option<Role>, open: bool) -> Door {
    let anonymous_may = match kind {
        Kind::Health | Kind::Registrar | Kind::Envelope => true,
        Kind::Query => false,
        _ => open,
    };
    match role {
        None if anonymous_may => Door::Open,
        None => Door::Unauthenticated,
        Some(Role::Observer | Role::Auditor) if kind == Kind::Submit => Door::Unauthorised,
        Some(_) => Door::Open,
    }
}

fn example(path: &str) -> String {
    path.replace("{height}", "1")
        .replace("{id}", &"0".repeat(64))
        .replace("{chaincode}", "kv")
        .replace("{key}", "key")
        .replace("{user}", "jim")
}

async fn check(open: bool) {
    let node = TestNode::start(open);
    let callers = Role::ALL.into_iter().map(Some).chain([None]);
    for role in callers {
        for route in rest::routes() {
            let (verb, path) = (route.verb.name(), example(route.path));
            let answer = node.rest(role, verb, &path, "{}").await;
            let found = match answer.status {
                401 => Door::Unauthenticated,
                403 => Door::Unauthorised,
                _ => Door::Open,
            };
            let wanted = expected(route.kind, role, open);
            assert_eq!(found, wanted, "{verb} {path} as {role:?}, open = {open}");
            if found != Door::Open {
                let error = &answer.json()["error"];
                let word = error["code"].as_str().unwrap();
                assert!(["unauthenticated", "unauthorised"].contains(&word), "{error}");
                assert!(!error["hint"].as_str().unwrap().is_empty());
            }
        }
    }
}

/// On a closed node, callers without a certificate reach health and the registrar's notice only,
/// and readers' roles cannot submit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_node_every_route_against_every_role() {
    check(false).await;
}

/// On an open node, callers without a certificate read and submit, but cannot query: a contract
/// must see who asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_node_every_route_against_every_role() {
    check(true).await;
}
