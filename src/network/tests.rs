//! One suite over every transport, so that what is tested on the one in memory holds on the wire.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use super::memory::Hub;
use super::*;
use crate::types::digest::Digest;
use crate::types::signature::Signature;

/// Keeps what arrives, for tests to wait on.
#[derive(Default)]
pub(crate) struct Recorder {
    state: Mutex<Recorded>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct Recorded {
    pub messages: Vec<(Peer, Message)>,
    pub connected: Vec<Peer>,
}

impl Recorder {
    /// Waits until what was recorded satisfies `done`; a test that waits in vain fails here.
    pub fn wait<R>(&self, mut done: impl FnMut(&Recorded) -> Option<R>) -> R {
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(result) = done(&state) {
                return result;
            }
            let (back, waited) = self.changed.wait_timeout(state, Duration::from_secs(60)).unwrap();
            assert!(!waited.timed_out(), "nothing more arrived for a minute");
            state = back;
        }
    }

    pub fn wait_connected(&self, peers: usize) {
        self.wait(|state| {
            let mut distinct = state.connected.clone();
            distinct.sort();
            distinct.dedup();
            (distinct.len() >= peers).then_some(())
        });
    }

    pub fn wait_messages(&self, count: usize) -> Vec<(Peer, Message)> {
        self.wait(|state| (state.messages.len() >= count).then(|| state.messages.clone()))
    }

    pub fn count(&self) -> usize {
        self.state.lock().unwrap().messages.len()
    }
}

impl Inbox for Recorder {
    fn on_message(&self, from: &Peer, message: Message) {
        self.state.lock().unwrap().messages.push((from.clone(), message));
        self.changed.notify_all();
    }

    fn on_connected(&self, peer: &Peer) {
        self.state.lock().unwrap().connected.push(peer.clone());
        self.changed.notify_all();
    }
}

pub(crate) fn vote(number: u64) -> Message {
    Message::Consensus(Envelope {
        sender: ReplicaId(0),
        body: Bytes::copy_from_slice(&number.to_be_bytes()),
        signature: Signature([7; 64]).into(),
    })
}

pub(crate) fn batch(number: u64, bytes: usize) -> Message {
    let mut body = vec![0; bytes.max(8)];
    body[..8].copy_from_slice(&number.to_be_bytes());
    Message::Batch(Bytes::from(body))
}

/// Some connected validators on one kind of transport, and an observer that is connected to all.
pub(crate) struct Network {
    pub nodes: Vec<(Arc<dyn Transport>, Arc<Recorder>)>,
    pub observer: (Arc<dyn Transport>, Arc<Recorder>),
    pub observer_peer: Peer,
    /// Keeps runtimes and hubs alive.
    pub _ground: Box<dyn std::any::Any>,
}

fn in_memory(n: u16) -> Network {
    let validator = |i: u16| Peer {
        organisation: "org".to_owned(),
        name: format!("v{i}"),
        replica: Some(ReplicaId(i)),
    };
    let observer_peer =
        Peer { organisation: "org".to_owned(), name: "watcher".to_owned(), replica: None };
    let hub = Hub::new((0..n).map(validator).chain([observer_peer.clone()]).collect());
    let start = |index: usize| -> (Arc<dyn Transport>, Arc<Recorder>) {
        let (transport, recorder) = (hub.transport(index), Arc::new(Recorder::default()));
        transport.start(recorder.clone());
        (transport, recorder)
    };
    let mut nodes: Vec<_> = (0..=usize::from(n)).map(start).collect();
    let observer = nodes.pop().unwrap();
    Network { nodes, observer, observer_peer, _ground: Box::new(hub) }
}

fn networks(n: u16) -> Vec<(&'static str, Network)> {
    let mut all = vec![("memory", in_memory(n))];
    #[cfg(feature = "grpc")]
    all.push(("grpc", super::grpc::fixture::connected(n)));
    for (_, network) in &all {
        for (_, recorder) in &network.nodes {
            recorder.wait_connected(usize::from(n) - 1);
        }
        network.observer.1.wait_connected(usize::from(n));
    }
    all.sort_by_key(|(name, _)| *name);
    all
}

/// A message reaches the one validator it is for, with its sender's identity.
#[test]
fn send_reaches_one() {
    for (name, network) in networks(3) {
        network.nodes[0].0.send(ReplicaId(2), vote(1));
        network.nodes[0].0.send(ReplicaId(2), batch(2, 100_000));
        let got = network.nodes[2].1.wait_messages(2);
        assert!(got.iter().all(|(from, _)| from.replica == Some(ReplicaId(0))), "{name}");
        let mut messages: Vec<_> = got.into_iter().map(|(_, m)| m).collect();
        messages.sort_by_key(Message::class);
        assert_eq!(messages, [vote(1), batch(2, 100_000)], "{name}");
        assert_eq!(network.nodes[1].1.count(), 0, "{name}");
        assert_eq!(network.nodes[0].1.count(), 0, "{name}");
    }
}

/// A broadcast reaches every other validator and no observer.
#[test]
fn broadcast_reaches_all_others() {
    for (name, network) in networks(4) {
        network.nodes[1].0.broadcast(vote(9));
        for (index, (_, recorder)) in network.nodes.iter().enumerate() {
            if index != 1 {
                let got = recorder.wait_messages(1);
                assert_eq!((got.len(), &got[0].1), (1, &vote(9)), "{name}");
                assert_eq!(got[0].0.name, network.nodes[0].0.peers()[0].peer.name, "{name}");
            }
        }
        assert_eq!(network.nodes[1].1.count() + network.observer.1.count(), 0, "{name}");
    }
}

/// An observer asks and gets its answer; what it sends carries its own identity.
#[test]
fn observer_is_answered() {
    for (name, network) in networks(2) {
        let ask = Message::BlocksRequest { from: Height(3) };
        network.observer.0.send(ReplicaId(1), ask.clone());
        let (from, message) = network.nodes[1].1.wait_messages(1).remove(0);
        assert_eq!((&from, &message), (&network.observer_peer, &ask), "{name}");
        let blocks = vec![Bytes::from(vec![5; 1_000_000]), Bytes::from_static(b"x")];
        let answer = Message::Blocks { from: Height(3), blocks };
        network.nodes[1].0.reply(&from, answer.clone());
        // The observer's connection of the other class may still be on its way.
        let tip = Message::Tip { height: Height(4) };
        let holds = |got: &Recorded, wanted| got.messages.iter().any(|(_, m)| m == wanted);
        while !network.observer.1.wait(|got| Some(holds(got, &tip))) {
            network.nodes[1].0.reply(&from, tip.clone());
            std::thread::sleep(Duration::from_millis(10));
        }
        let got = network.observer.1.wait(|got| holds(got, &answer).then(|| got.messages.clone()));
        assert!(got.iter().all(|(from, _)| from.replica == Some(ReplicaId(1))), "{name}");
    }
}

/// Ten thousand messages of each class arrive complete and in order.
#[test]
fn order_holds_within_a_class() {
    const COUNT: u64 = 10_000;
    for (name, network) in networks(2) {
        let (sender, receiver) = (&network.nodes[0].0, &network.nodes[1].1);
        for number in 0..COUNT {
            sender.send(ReplicaId(1), vote(number));
            sender.send(ReplicaId(1), batch(number, 64));
            // The queue is shorter than the run: go on only when most of it has arrived.
            if number % 1000 == 999 {
                receiver.wait_messages((2 * number - 1000) as usize);
            }
        }
        let got = receiver.wait_messages(2 * COUNT as usize);
        let numbers = |class: Class| -> Vec<u64> {
            let of_class = got.iter().filter(|(_, m)| m.class() == class);
            of_class
                .map(|(_, message)| match message {
                    Message::Consensus(e) => u64::from_be_bytes(e.body[..8].try_into().unwrap()),
                    Message::Batch(b) => u64::from_be_bytes(b[..8].try_into().unwrap()),
                    _ => panic!(),
                })
                .collect()
        };
        let expected: Vec<u64> = (0..COUNT).collect();
        assert_eq!(numbers(Class::Vote), expected, "{name}");
        assert_eq!(numbers(Class::Data), expected, "{name}");
    }
}

/// Status lists every validator once, connected, with bytes counted.
#[test]
fn status_shows_links() {
    for (name, network) in networks(3) {
        network.nodes[0].0.broadcast(batch(0, 50_000));
        network.nodes[1].1.wait_messages(1);
        network.nodes[2].1.wait_messages(1);
        let statuses = network.nodes[0].0.peers();
        let validators: Vec<_> = statuses.iter().filter(|s| s.peer.replica.is_some()).collect();
        assert_eq!(validators.len(), 2, "{name}");
        for status in validators {
            assert!(status.connected && status.bytes_sent >= 50_000, "{name}: {status:?}");
            assert_eq!(status.dropped, 0, "{name}");
        }
    }
}

/// A message to a replica nobody knows vanishes quietly.
#[test]
fn unknown_receivers_are_ignored() {
    for (_, network) in networks(2) {
        network.nodes[0].0.send(ReplicaId(77), vote(1));
        let nobody = Peer { organisation: "x".to_owned(), name: "y".to_owned(), replica: None };
        network.nodes[0].0.reply(&nobody, Message::BatchRequest(BatchId(Digest::default())));
        network.nodes[0].0.send(ReplicaId(1), vote(2));
        assert_eq!(network.nodes[1].1.wait_messages(1)[0].1, vote(2));
    }
}
