//! Floor 3: authenticated links between nodes behind one seam, `Transport`.
//!
//! Every node dials every validator it knows: one connection for votes and one for data, so that a
//! large batch never delays a vote. What a node sends goes out on the connections it dialled;
//! answers to a node that is no validator (an observer) go back on the connection it opened.
//! Sending never blocks: a full queue drops by the rule of its class and counts it, the protocol
//! sends again.

pub mod memory;
pub mod quota;
pub mod recognise;

#[cfg(feature = "grpc")]
pub mod channel;
#[cfg(feature = "grpc")]
pub mod connection;
#[cfg(feature = "grpc")]
pub mod frame;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "grpc")]
pub mod peers;
#[cfg(feature = "grpc")]
pub mod sessions;
#[cfg(feature = "grpc")]
pub mod tls;
#[cfg(feature = "grpc")]
pub mod tls_key;
#[cfg(feature = "grpc")]
pub mod tls_provider;

use bytes::Bytes;

use crate::consensus::Envelope;
use crate::types::ids::BatchId;
use crate::types::ids::Height;
use crate::types::ids::ReplicaId;

/// Version of the protocol between peers and of the formats inside its messages; peers that differ
/// do not talk.
pub const PROTOCOL_VERSION: u32 = 1;

/// Who is at the other end, as its TLS certificate says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Organisation.
    pub organisation: String,
    /// Node name.
    pub name: String,
    /// Its seat, when it is a validator of the current epoch.
    pub replica: Option<ReplicaId>,
}

/// What nodes say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A signed consensus message. Class `Vote`.
    Consensus(Envelope),
    /// An encoded batch: fresh from its author, or the answer to a request. Class `Data`.
    Batch(Bytes),
    /// Asks for the body of a batch. Class `Vote`.
    BatchRequest(BatchId),
    /// Where the sender's chain ends; sent on connecting and after each block, at most a few times
    /// a second. Class `Vote`.
    Tip { height: Height },
    /// Asks for blocks from this height up. Class `Vote`.
    BlocksRequest { from: Height },
    /// Encoded blocks, ascending without gaps; empty when the sender has none. Class `Data`.
    Blocks { from: Height, blocks: Vec<Bytes> },
    /// A validator asks what the receiver saw of its key. Class `Vote`.
    WitnessRequest,
    /// The newest votes of the asker that the sender holds, at most `WITNESS_ENVELOPES_MAX`. Class
    /// `Data`.
    Witness(Vec<Envelope>),
}

/// Traffic classes: separate connections and queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Small and urgent.
    Vote,
    /// Bulk.
    Data,
}

impl Message {
    /// The class it travels in.
    pub fn class(&self) -> Class {
        match self {
            Self::Batch(_) | Self::Blocks { .. } | Self::Witness(_) => Class::Data,
            Self::Consensus(_)
            | Self::BatchRequest(_)
            | Self::Tip { .. }
            | Self::BlocksRequest { .. }
            | Self::WitnessRequest => Class::Vote,
        }
    }
}

/// State of one link, for status output and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub peer: Peer,
    /// Address dialled, host:port.
    pub address: String,
    /// True while the votes connection stands.
    pub connected: bool,
    /// Bytes sent and received over all connections since start.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Messages dropped because a queue was full.
    pub dropped: u64,
}

/// Sends messages to peers. Never blocks.
pub trait Transport: Send + Sync {
    /// Queues a message for one validator.
    fn send(&self, to: ReplicaId, message: Message);

    /// Queues a message for every other validator.
    fn broadcast(&self, message: Message);

    /// Answers a peer that may not be a validator, on the connection it opened. Dropped where it is
    /// gone.
    fn reply(&self, to: &Peer, message: Message);

    /// All known links.
    fn peers(&self) -> Vec<PeerStatus>;

    /// Certificates were revoked: ends the links with peers whose certificate counts no longer.
    fn recheck(&self);
}

/// Receives what peers send; called on network threads, must not block.
pub trait Inbox: Send + Sync {
    /// A message from an authenticated peer.
    fn on_message(&self, from: &Peer, message: Message);

    /// A link came up: the moment to say where our chain ends.
    fn on_connected(&self, peer: &Peer);
}

#[cfg(test)]
mod tests;
