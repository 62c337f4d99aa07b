//! What peers send, led to its station: votes and batches over their signature checks, the rest to
//! catch-up.
//!
//! Called on network threads, so nothing here waits: a full queue drops and counts, and the
//! protocol sends again.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;

use crate::consensus::Envelope;
use crate::ledger::Ledger;
use crate::network::Inbox;
use crate::network::Message;
use crate::network::Peer;
use crate::network::Transport;
use crate::pipeline::catch_up::CatchUpInput;
use crate::pipeline::order::OrderInput;
use crate::pipeline::order::bodies::Bodies;
use crate::pipeline::verification::Verification;
use crate::types::codec::Encode;

/// The receiving end of the network.
pub struct Intake {
    /// Links, to answer requests for bodies.
    pub transport: Arc<dyn Transport>,
    /// Where our chain ends.
    pub ledger: Arc<Ledger>,
    /// Bodies to serve.
    pub bodies: Arc<Bodies>,
    /// Votes to check; `None` on an observer.
    pub votes: Option<Sender<(Peer, Envelope)>>,
    /// Batches to check; `None` on an observer.
    pub batches: Option<Sender<(Peer, Bytes)>>,
    /// Requests and answers of catch-up.
    pub catch_up: Sender<CatchUpInput>,
    /// Messages dropped because a queue was full.
    pub dropped: Arc<AtomicU64>,
}

impl Intake {
    fn offer<T>(&self, queue: Option<&Sender<T>>, item: T) {
        if let Some(queue) = queue
            && queue.try_send(item).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Inbox for Intake {
    fn on_message(&self, from: &Peer, message: Message) {
        let peer = from.clone();
        match message {
            Message::Consensus(envelope) => self.offer(self.votes.as_ref(), (peer, envelope)),
            Message::Batch(bytes) => self.offer(self.batches.as_ref(), (peer, bytes)),
            Message::BatchRequest(id) => {
                if let (Some(replica), Some(batch)) = (from.replica, self.bodies.body(&id)) {
                    self.transport.send(replica, Message::Batch(batch.to_bytes()));
                }
            }
            Message::Tip { height } => {
                self.offer(Some(&self.catch_up), CatchUpInput::Tip { peer, height });
            }
            Message::BlocksRequest { from } => {
                self.offer(Some(&self.catch_up), CatchUpInput::Request { peer, from });
            }
            Message::Blocks { blocks, .. } => {
                self.offer(Some(&self.catch_up), CatchUpInput::Blocks { peer, blocks });
            }
        }
    }

    fn on_connected(&self, peer: &Peer) {
        let tip = Message::Tip { height: self.ledger.tip().height };
        match peer.replica {
            Some(replica) => self.transport.send(replica, tip),
            None => self.transport.reply(peer, tip),
        }
    }
}

/// Checks votes one after the other; runs on a thread of its own.
pub fn check_votes(
    queue: &Receiver<(Peer, Envelope)>,
    verification: &Verification,
    order: &Sender<OrderInput>,
) {
    for (peer, envelope) in queue {
        match verification.envelope(envelope) {
            Ok(verified) => {
                if order.send(OrderInput::Message(verified)).is_err() {
                    return;
                }
            }
            Err(reason) => tracing::warn!(name = peer.name, reason, "consensus message refused"),
        }
    }
}

/// Decodes batches and has their signatures checked; runs on a thread of its own.
pub fn check_batches(
    queue: &Receiver<(Peer, Bytes)>,
    verification: &Verification,
    order: &Sender<OrderInput>,
) {
    for (peer, bytes) in queue {
        let order = order.clone();
        verification.batch(&bytes, move |checked| match checked {
            Ok(batch) => {
                // Dropped when consensus has too much to do; it fetches what a proposal names.
                let _ = order.try_send(OrderInput::Batch(batch));
            }
            Err(reason) => tracing::warn!(name = peer.name, reason, "batch refused"),
        });
    }
}
