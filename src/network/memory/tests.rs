//! What only the transport in memory can do: cuts, stops, full queues on demand.

use super::*;
use crate::network::tests::Recorder;
use crate::network::tests::vote;

fn start(hub: &Arc<Hub>, index: usize) -> (Arc<MemoryTransport>, Arc<Recorder>) {
    let (transport, recorder) = (hub.transport(index), Arc::new(Recorder::default()));
    transport.start(recorder.clone());
    (transport, recorder)
}

/// A cut loses messages one way and counts them; healing says that the link is up again.
#[test]
fn cuts_lose_and_heal() {
    let hub = Hub::of_validators(2);
    let (a, inbox_a) = start(&hub, 0);
    let (b, inbox_b) = start(&hub, 1);
    hub.cut(0, 1);
    assert!(!a.peers()[0].connected && b.peers()[0].connected);
    a.send(ReplicaId(1), vote(1));
    b.send(ReplicaId(0), vote(2));
    assert_eq!(inbox_a.wait_messages(1)[0].1, vote(2));
    assert_eq!(a.peers()[0].dropped, 1);
    hub.heal();
    a.send(ReplicaId(1), vote(3));
    assert_eq!(inbox_b.wait_messages(1)[0].1, vote(3));
    inbox_a.wait(|s| (s.connected.len() == 2).then_some(()));
}

/// An isolated node hears nothing, also from those it could reach before.
#[test]
fn isolated_node_hears_nothing() {
    let hub = Hub::of_validators(3);
    let nodes: Vec<_> = (0..3).map(|i| start(&hub, i)).collect();
    hub.isolate(2);
    nodes[0].0.broadcast(vote(1));
    nodes[1].1.wait_messages(1);
    assert_eq!(nodes[2].1.count(), 0);
}

/// A node that stopped gets nothing; started again it does, and peers are told.
#[test]
fn nodes_stop_and_start() {
    let hub = Hub::of_validators(2);
    let (a, inbox_a) = start(&hub, 0);
    let (b, _) = start(&hub, 1);
    b.shutdown();
    a.send(ReplicaId(1), vote(1));
    let (_b, inbox_b) = start(&hub, 1);
    inbox_a.wait(|s| (s.connected.len() == 2).then_some(()));
    a.send(ReplicaId(1), vote(2));
    assert_eq!(inbox_b.wait_messages(1)[0].1, vote(2));
}

/// A queue nobody drains drops its oldest messages and counts them.
#[test]
fn full_lane_drops_the_oldest() {
    let lane = Lane::new();
    let peer = hub_peer();
    let mut dropped = 0;
    for number in 0..limits::PEER_QUEUE_FRAMES_MAX as u64 + 3 {
        dropped += lane.push(Item::Message(peer.clone(), vote(number)));
    }
    assert_eq!(dropped, 3);
    let Ok(Item::Message(_, first)) = lane.from.try_recv() else { panic!() };
    assert_eq!(first, vote(3));
}

fn hub_peer() -> Peer {
    Peer { organisation: "org".to_owned(), name: "v0".to_owned(), replica: Some(ReplicaId(0)) }
}
