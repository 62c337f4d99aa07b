//! A validator whose TLS certificate is revoked, on a network of real nodes.

use std::time::Duration;
use std::time::Instant;

use obelisk::client::invocation::Invocation;
use obelisk::membership::identity::Role;
use obelisk::membership::msp::Msp;
use obelisk::types::receipt::Status;
use obelisk::types::signature::Algorithm;

use crate::cluster::Cluster;

/// Whether node `i` has a link with the validator of organisation `org{j + 1}`.
fn linked(cluster: &Cluster, i: usize, j: usize) -> bool {
    let organisation = format!("org{}", j + 1);
    let peers = cluster.node(i).handle().status().peers;
    peers.iter().any(|peer| peer.peer.organisation == organisation && peer.connected)
}

/// Waits until the condition holds, then sees it hold for a while: longer than the pauses between
/// two attempts to connect.
fn stays(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        assert!(holds(), "not for long: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every node cuts its links with the revoked validator and accepts no new ones, the rest go on,
/// and a node that restarts knows the revocation from its state.
#[test]
fn links_of_a_revoked_validator_are_cut_for_good() {
    let mut cluster = Cluster::start(4, Algorithm::Ed25519, "pbft");
    let all = |cluster: &Cluster| (0..3).all(|i| (0..4).all(|j| i == j || linked(cluster, i, j)));
    stays("everybody is linked", || all(&cluster));
    let msp = Msp::load(&cluster.members(Role::Validator)[3].folder).unwrap();
    let id = msp.tls.unwrap().identity().unwrap().certificate;
    let revoke = Invocation::new("membership", "revoke").arg(id.to_string()).arg("stolen");
    let (client, admin) = (cluster.client(0), cluster.identity(Role::Admin, 3));
    let wait = Duration::from_secs(60);
    let done = cluster.runtime.block_on(client.invoke(&admin, &revoke, wait)).unwrap();
    assert_eq!(done.receipt.status, Status::Ok, "{}", done.receipt.error);
    let others = |cluster: &Cluster| {
        (0..3).all(|i| !linked(cluster, i, 3) && (0..3).all(|j| i == j || linked(cluster, i, j)))
    };
    stays("three are linked, one is out", || others(&cluster));
    assert!((0..3).all(|j| !linked(&cluster, 3, j)), "nor does it hold a link itself");
    let harmless = Invocation::new("lifecycle", "retire").arg("nothing");
    assert!(cluster.invoke(0, &harmless).height > done.height, "the rest go on");
    cluster.stop_node(1);
    cluster.start_node(1);
    stays("after a restart too", || others(&cluster));
    assert!(cluster.invoke(1, &harmless).height > done.height);
}
