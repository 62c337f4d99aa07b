//! A `Transport` inside one process, for tests of everything above the network.
//!
//! ```text
//! send -> bounded queue per receiver and class -> its thread -> Inbox
//! ```
//!
//! The `Hub` holds every node's queues and can cut the way between two nodes in one or both
//! directions. Order holds per sender, receiver and class; a full queue drops its oldest message
//! and counts it, as the real network does. Nodes may stop and start again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;
use crossbeam_channel::TrySendError;
use crossbeam_channel::bounded;

use crate::network::Class;
use crate::network::Inbox;
use crate::network::Message;
use crate::network::Peer;
use crate::network::PeerStatus;
use crate::network::Transport;
use crate::types::codec::Encode;
use crate::types::ids::ReplicaId;
use crate::types::limits;

/// Connects the nodes of one process.
pub struct Hub {
    members: Vec<Member>,
    /// Directed ways that are cut: (from, to), by index.
    cuts: Mutex<BTreeSet<(usize, usize)>>,
}

struct Member {
    peer: Peer,
    running: Mutex<Option<Running>>,
    sent: AtomicU64,
    received: AtomicU64,
    /// Messages to this member that were dropped: it was full, stopped or cut off.
    dropped: AtomicU64,
}

struct Running {
    vote: Lane,
    data: Lane,
    threads: Vec<JoinHandle<()>>,
}

/// The receiver is kept to drop the oldest message of a full queue.
#[derive(Clone)]
struct Lane {
    to: Sender<Item>,
    from: Receiver<Item>,
}

enum Item {
    Connected(Peer),
    Message(Peer, Message),
    Stop,
}

/// One node's side of the hub.
pub struct MemoryTransport {
    hub: Arc<Hub>,
    me: usize,
}

impl Hub {
    /// A hub for these nodes; validators carry their seat in `replica`.
    pub fn new(peers: Vec<Peer>) -> Arc<Self> {
        let members = peers.into_iter().map(Member::new).collect();
        Arc::new(Self { members, cuts: Mutex::default() })
    }

    /// A hub for `n` validators named `v0` to `v{n-1}` of the organisation `org`.
    pub fn of_validators(n: u16) -> Arc<Self> {
        let peer = |i: u16| Peer {
            organisation: "org".to_owned(),
            name: format!("v{i}"),
            replica: Some(ReplicaId(i)),
        };
        Self::new((0..n).map(peer).collect())
    }

    /// The transport of the node at this position.
    pub fn transport(self: &Arc<Self>, me: usize) -> Arc<MemoryTransport> {
        assert!(me < self.members.len(), "the hub has no node at this position");
        Arc::new(MemoryTransport { hub: Arc::clone(self), me })
    }

    /// Loses whatever `from` sends to `to` from now on.
    pub fn cut(&self, from: usize, to: usize) {
        locked(&self.cuts).insert((from, to));
    }

    /// Cuts a node off from all others, both ways.
    pub fn isolate(&self, node: usize) {
        for other in (0..self.members.len()).filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Ends every cut and tells running nodes that their links came up.
    pub fn heal(&self) {
        let cuts = std::mem::take(&mut *locked(&self.cuts));
        for (from, to) in cuts {
            self.members[from].deliver(Item::Connected(self.members[to].peer.clone()));
        }
    }

    fn pass(&self, from: usize, to: usize, message: Message) {
        let member = &self.members[to];
        let bytes = size(&message);
        self.members[from].sent.fetch_add(bytes, Ordering::Relaxed);
        if locked(&self.cuts).contains(&(from, to)) {
            member.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        member.received.fetch_add(bytes, Ordering::Relaxed);
        member.deliver(Item::Message(self.members[from].peer.clone(), message));
    }
}

impl Member {
    fn new(peer: Peer) -> Self {
        Self {
            peer,
            running: Mutex::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn deliver(&self, item: Item) {
        let class = match &item {
            Item::Message(_, message) => message.class(),
            Item::Connected(_) | Item::Stop => Class::Vote,
        };
        let lane = locked(&self.running).as_ref().map(|running| match class {
            Class::Vote => running.vote.clone(),
            Class::Data => running.data.clone(),
        });
        let dropped = match lane {
            Some(lane) => lane.push(item),
            None => 1,
        };
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
    }
}

impl Lane {
    fn new() -> Self {
        let (to, from) = bounded(limits::PEER_QUEUE_FRAMES_MAX);
        Self { to, from }
    }

    /// Appends an item; returns how many old ones made room.
    fn push(&self, mut item: Item) -> u64 {
        let mut dropped = 0;
        loop {
            match self.to.try_send(item) {
                Ok(()) => return dropped,
                Err(TrySendError::Disconnected(_)) => return dropped + 1,
                Err(TrySendError::Full(back)) => {
                    item = back;
                    if self.from.try_recv().is_ok() {
                        dropped += 1;
                    }
                }
            }
        }
    }

    fn run(&self, inbox: Arc<dyn Inbox>) -> JoinHandle<()> {
        let from = self.from.clone();
        std::thread::spawn(move || {
            while let Ok(item) = from.recv() {
                match item {
                    Item::Connected(peer) => inbox.on_connected(&peer),
                    Item::Message(peer, message) => inbox.on_message(&peer, message),
                    Item::Stop => return,
                }
            }
        })
    }
}

impl MemoryTransport {
    /// Delivers to `inbox` from now on; links to all running nodes come up. A second call without
    /// `shutdown` between changes nothing.
    pub fn start(&self, inbox: Arc<dyn Inbox>) {
        let me = &self.hub.members[self.me];
        {
            let mut running = locked(&me.running);
            if running.is_some() {
                return;
            }
            let (vote, data) = (Lane::new(), Lane::new());
            let threads = vec![vote.run(Arc::clone(&inbox)), data.run(inbox)];
            *running = Some(Running { vote, data, threads });
        }
        for (index, other) in self.hub.members.iter().enumerate() {
            if index != self.me && locked(&other.running).is_some() {
                other.deliver(Item::Connected(me.peer.clone()));
                me.deliver(Item::Connected(other.peer.clone()));
            }
        }
    }

    /// Stops delivering; what waits is lost, as in a crash.
    pub fn shutdown(&self) {
        let running = locked(&self.hub.members[self.me].running).take();
        let Some(running) = running else { return };
        for lane in [&running.vote, &running.data] {
            lane.push(Item::Stop);
        }
        for thread in running.threads {
            // The inbox's owner may stop its node from within the inbox.
            if thread.thread().id() != std::thread::current().id() {
                thread.join().expect("the inbox does not panic");
            }
        }
    }
}

impl Transport for MemoryTransport {
    fn send(&self, to: ReplicaId, message: Message) {
        let seat = |member: &Member| member.peer.replica == Some(to);
        if let Some(index) = self.hub.members.iter().position(seat)
            && index != self.me
        {
            self.hub.pass(self.me, index, message);
        }
    }

    fn broadcast(&self, message: Message) {
        for (index, member) in self.hub.members.iter().enumerate() {
            if index != self.me && member.peer.replica.is_some() {
                self.hub.pass(self.me, index, message.clone());
            }
        }
    }

    fn reply(&self, to: &Peer, message: Message) {
        let same = |m: &Member| m.peer.organisation == to.organisation && m.peer.name == to.name;
        if let Some(index) = self.hub.members.iter().position(same)
            && index != self.me
        {
            self.hub.pass(self.me, index, message);
        }
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let cuts = locked(&self.hub.cuts).clone();
        let others = self.hub.members.iter().enumerate().filter(|(index, _)| *index != self.me);
        others
            .map(|(index, member)| PeerStatus {
                peer: member.peer.clone(),
                address: format!("memory:{index}"),
                connected: locked(&member.running).is_some() && !cuts.contains(&(self.me, index)),
                bytes_sent: member.received.load(Ordering::Relaxed),
                bytes_received: member.sent.load(Ordering::Relaxed),
                dropped: member.dropped.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// There are no certificates here.
    fn recheck(&self) {}
}

impl Drop for Hub {
    fn drop(&mut self) {
        for member in &self.members {
            if let Some(running) = locked(&member.running).take() {
                running.vote.push(Item::Stop);
                running.data.push(Item::Stop);
            }
        }
    }
}

fn size(message: &Message) -> u64 {
    let bytes = match message {
        Message::Consensus(envelope) => envelope.body.len() + envelope.signature.to_bytes().len(),
        Message::Batch(batch) => batch.len(),
        Message::Blocks { blocks, .. } => blocks.iter().map(bytes::Bytes::len).sum(),
        Message::Witness(shown) => shown.iter().map(|e| e.body.len()).sum(),
        Message::BatchRequest(_)
        | Message::Tip { .. }
        | Message::BlocksRequest { .. }
        | Message::WitnessRequest => 0,
    };
    bytes as u64
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

#[cfg(test)]
mod tests;
