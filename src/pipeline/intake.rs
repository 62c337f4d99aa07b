//! What peers send, led to its station: votes and batches over their signature checks, the rest to
//! catch-up.
//!
//! Called on network threads, so nothing here waits: a full queue drops and counts, and the
//! protocol sends again.

use std::sync::Arc;

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
use crate::pipeline::order::fencing::Shown;
use crate::pipeline::order::witness::Witnesses;
use crate::pipeline::verification::BatchFault;
use crate::pipeline::verification::Verification;
use crate::telemetry::metrics::Metrics;
use crate::types::batch::Batch;
use crate::types::codec::Decode;
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
    /// What peers saw of this node's key; `None` on an observer.
    pub shown: Option<Sender<Shown>>,
    /// What this node saw of others' keys.
    pub witnesses: Arc<Witnesses>,
    /// Requests and answers of catch-up.
    pub catch_up: Sender<CatchUpInput>,
    /// Counts what is dropped because a queue is full.
    pub metrics: Arc<Metrics>,
}

impl Intake {
    fn offer<T>(&self, queue: Option<&Sender<T>>, item: T) {
        if let Some(queue) = queue
            && queue.try_send(item).is_err()
        {
            self.metrics.messages_dropped.inc();
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
            Message::WitnessRequest => {
                if let Some(envelopes) =
                    from.replica.and_then(|replica| self.witnesses.answer(replica))
                {
                    self.transport.reply(from, Message::Witness(envelopes));
                }
            }
            Message::Witness(envelopes) => {
                if let Some(from) = from.replica {
                    self.offer(self.shown.as_ref(), Shown { from, envelopes });
                }
            }
        }
    }

    fn on_connected(&self, peer: &Peer) {
        let tip = Message::Tip { height: self.ledger.tip().height };
        match peer.replica {
            Some(replica) => {
                self.transport.send(replica, tip);
                if self.shown.is_some() {
                    self.transport.send(replica, Message::WitnessRequest);
                }
            }
            None => self.transport.reply(peer, tip),
        }
    }
}

/// Checks votes one after the other; runs on a thread of its own.
pub fn check_votes(
    queue: &Receiver<(Peer, Envelope)>,
    verification: &Verification,
    witnesses: &Witnesses,
    order: &Sender<OrderInput>,
    metrics: &Metrics,
) {
    for (peer, envelope) in queue {
        match verification.envelope(envelope) {
            Ok(verified) => {
                witnesses.saw(&verified);
                if order.send(OrderInput::Message(verified)).is_err() {
                    return;
                }
            }
            Err(reason) => {
                metrics.messages_refused.inc();
                tracing::warn!(name = peer.name, reason, "consensus message refused");
            }
        }
    }
}

/// Decodes batches and has the signatures of new ones checked; runs on a thread of its own.
///
/// A batch that could only repeat the past is dropped before its signatures cost anything, unless
/// this node asked for it: a proposal may name such a batch all the same, and then every validator
/// needs it.
pub fn check_batches(
    queue: &Receiver<(Peer, Bytes)>,
    verification: &Verification,
    ledger: &Ledger,
    bodies: &Arc<Bodies>,
    order: &Sender<OrderInput>,
    metrics: &Arc<Metrics>,
) {
    for (peer, bytes) in queue {
        let refused = {
            let (metrics, name) = (metrics.clone(), peer.name.clone());
            move |reason: String| {
                metrics.batches_refused.inc();
                tracing::warn!(name, reason, "batch refused");
            }
        };
        let batch = match Batch::from_bytes(&bytes) {
            Ok(batch) => batch,
            Err(error) => {
                refused(error.to_string());
                continue;
            }
        };
        let Some(arriving) = bodies.arrive(batch.id()) else {
            metrics.batches_repeated.inc();
            continue;
        };
        if !bodies.is_asked(&batch.id()) && is_stale(ledger, &batch) {
            metrics.batches_stale.inc();
            continue;
        }
        let (order, metrics) = (order.clone(), metrics.clone());
        verification.batch(batch, move |checked| {
            match checked {
                Ok(batch) => {
                    metrics.batches_received.inc();
                    if order.try_send(OrderInput::Batch(batch)).is_err() {
                        metrics.messages_dropped.inc();
                    }
                }
                // Consensus fetches what a proposal names.
                Err(BatchFault::Busy) => {
                    metrics.messages_dropped.inc();
                }
                Err(BatchFault::Invalid(reason)) => refused(reason),
            }
            drop(arriving);
        });
    }
}

/// True where every transaction is expired or executed here, so that none can do anything. What the
/// ledger cannot answer is not stale.
fn is_stale(ledger: &Ledger, batch: &Batch) -> bool {
    let height = ledger.tip().height;
    batch
        .transactions()
        .iter()
        .all(|tx| tx.payload().valid_until <= height || ledger.contains(&tx.id()).unwrap_or(false))
}
