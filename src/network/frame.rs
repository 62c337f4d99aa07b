//! Frames between peers: `Message` to and from protobuf, and the hello that opens a channel.
//!
//! ```text
//! direction = Frame{hello} Frame{messages}*       gRPC length prefix before each frame
//! ```
//!
//! The canonical encodings of envelopes, batches and blocks travel as they are; protobuf only
//! frames them, and decoding shares the receive buffer. Limits hold before memory is taken: tonic
//! checks the length prefix against `FRAME_BYTES_MAX`, `FrameCodec` walks the frame and counts
//! messages and blocks before prost builds lists of them. Anything unknown is refused, never
//! skipped: the sender runs another version and would count on being understood. A refusal ends the
//! channel with a text that names the cause.

use bytes::Buf;
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;
use tonic::codec::BufferSettings;
use tonic::codec::Codec;
use tonic::codec::DecodeBuf;
use tonic::codec::Decoder;
use tonic::codec::EncodeBuf;
use tonic::codec::Encoder;

use crate::consensus::Envelope;
use crate::network::Class;
use crate::network::Message;
use crate::network::PROTOCOL_VERSION;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::ids::BatchId;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::limits;

/// Generated from `proto/peer.proto`.
pub mod wire {
    #![allow(clippy::default_constructed_unit_structs, reason = "generated")]
    tonic::include_proto!("obelisk.peer.v1");
}

use wire::message::Body;

/// Why a frame or its hello was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not protobuf, or lists above their limits.
    #[error("malformed frame: {0}; the peer runs another version or its data was damaged")]
    Malformed(&'static str),
    /// A message kind this version does not know.
    #[error("message of unknown kind; the peer runs a newer version: upgrade this node")]
    UnknownMessage,
    /// A body that does not decode.
    #[error("{what}: {source}")]
    Body {
        /// Kind of message.
        what: &'static str,
        /// The cause.
        source: DecodeError,
    },
    /// A body above its limit.
    #[error("{what} of {found} bytes is above the limit of {limit}")]
    TooLarge {
        /// Kind of message.
        what: &'static str,
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The first frame had no hello, or a later one had.
    #[error("hello {0}; the peer does not follow the protocol")]
    HelloOutOfPlace(&'static str),
    /// A message on a connection of the other class.
    #[error("a message of class {found:?} on the connection for {expected:?}")]
    WrongClass {
        /// Class of the connection.
        expected: Class,
        /// Class of the message.
        found: Class,
    },
    /// The peer runs another version of the protocol.
    #[error("protocol version differs: ours {ours}, theirs {theirs}; run the same release")]
    OtherProtocol {
        /// Of this node.
        ours: u32,
        /// Of the peer.
        theirs: u32,
    },
    /// The peer belongs to another network.
    #[error("chain differs: ours {ours}, theirs {theirs}; check genesis files and peer addresses")]
    OtherChain {
        /// Chain id of this node.
        ours: String,
        /// Chain id of the peer.
        theirs: String,
    },
}

/// A message in wire form, encoded once and queued for many peers.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// What prost writes; bodies are shared, not copied.
    pub message: wire::Message,
    /// Bytes it takes in a frame, at most a few too many.
    pub bytes: usize,
    /// Where it travels.
    pub class: Class,
}

impl From<Message> for Outgoing {
    fn from(message: Message) -> Self {
        let class = message.class();
        let body = match message {
            Message::Consensus(envelope) => Body::Consensus(envelope.to_bytes()),
            Message::Batch(batch) => Body::Batch(batch),
            Message::BatchRequest(id) => Body::BatchRequest(id.to_bytes()),
            Message::Tip { height } => Body::Tip(height.0),
            Message::BlocksRequest { from } => Body::BlocksRequest(from.0),
            Message::Blocks { from, blocks } => {
                Body::Blocks(wire::Blocks { from: from.0, blocks: fitting(blocks) })
            }
            Message::WitnessRequest => Body::WitnessRequest(wire::WitnessRequest {}),
            Message::Witness(shown) => {
                let envelopes = shown.iter().take(limits::WITNESS_ENVELOPES_MAX);
                let envelopes = fitting(envelopes.map(Encode::to_bytes).collect());
                Body::Witness(wire::Witness { envelopes })
            }
        };
        let bytes = OVERHEAD_BYTES
            + match &body {
                Body::Consensus(b) | Body::Batch(b) | Body::BatchRequest(b) => b.len(),
                Body::Tip(_) | Body::BlocksRequest(_) | Body::WitnessRequest(_) => 0,
                Body::Blocks(b) => listed(&b.blocks),
                Body::Witness(b) => listed(&b.envelopes),
            };
        Self { message: wire::Message { body: Some(body) }, bytes, class }
    }
}

fn listed(items: &[Bytes]) -> usize {
    items.iter().map(|item| item.len() + OVERHEAD_BYTES).sum()
}

/// The longest prefix of blocks that one frame holds: the asker asks again from where it ends.
fn fitting(mut blocks: Vec<Bytes>) -> Vec<Bytes> {
    let mut total = 4 * OVERHEAD_BYTES;
    let fits = blocks
        .iter()
        .take(limits::CATCH_UP_BLOCKS_MAX)
        .take_while(|block| {
            total += block.len() + OVERHEAD_BYTES;
            total <= limits::FRAME_BYTES_MAX
        })
        .count();
    blocks.truncate(fits);
    blocks
}

/// A frame of messages.
pub fn messages(messages: Vec<Outgoing>) -> wire::Frame {
    wire::Frame { hello: None, messages: messages.into_iter().map(|m| m.message).collect() }
}

/// The frame that opens a direction of a channel.
pub fn hello(chain: &ChainId, class: Class) -> wire::Frame {
    let traffic_class = match class {
        Class::Vote => wire::TrafficClass::Vote,
        Class::Data => wire::TrafficClass::Data,
    };
    wire::Frame {
        hello: Some(wire::Hello {
            protocol: PROTOCOL_VERSION,
            chain: chain.to_bytes(),
            traffic_class: traffic_class.into(),
        }),
        messages: Vec::new(),
    }
}

/// Checks the first frame of a direction and says which class the channel carries.
pub fn accept_hello(frame: &wire::Frame, chain: &ChainId) -> Result<Class, FrameError> {
    let hello = frame.hello.as_ref().ok_or(FrameError::HelloOutOfPlace("is missing"))?;
    if hello.protocol != PROTOCOL_VERSION {
        let (ours, theirs) = (PROTOCOL_VERSION, hello.protocol);
        return Err(FrameError::OtherProtocol { ours, theirs });
    }
    let theirs = ChainId(digest("chain id", &hello.chain)?);
    if theirs != *chain {
        let (ours, theirs) = (chain.to_string(), theirs.to_string());
        return Err(FrameError::OtherChain { ours, theirs });
    }
    match wire::TrafficClass::try_from(hello.traffic_class) {
        Ok(wire::TrafficClass::Vote) => Ok(Class::Vote),
        Ok(wire::TrafficClass::Data) => Ok(Class::Data),
        Ok(wire::TrafficClass::Unspecified) | Err(_) => {
            Err(FrameError::Malformed("the hello names no known traffic class"))
        }
    }
}

/// The messages of a frame that follows the hello on a channel of this class.
pub fn accept_messages(frame: wire::Frame, class: Class) -> Result<Vec<Message>, FrameError> {
    if frame.hello.is_some() {
        return Err(FrameError::HelloOutOfPlace("is repeated"));
    }
    let frame_bytes = frame.encoded_len();
    let mut accepted = Vec::with_capacity(frame.messages.len());
    for message in frame.messages {
        let message = accept(message.body.ok_or(FrameError::UnknownMessage)?, frame_bytes)?;
        if message.class() != class {
            let found = message.class();
            return Err(FrameError::WrongClass { expected: class, found });
        }
        accepted.push(message);
    }
    Ok(accepted)
}

fn accept(body: Body, frame_bytes: usize) -> Result<Message, FrameError> {
    Ok(match body {
        Body::Consensus(bytes) => Message::Consensus(envelope(bytes, frame_bytes)?),
        Body::Batch(bytes) => {
            within("batch", bytes.len(), limits::BATCH_BYTES_MAX)?;
            Message::Batch(detached(bytes, frame_bytes))
        }
        Body::BatchRequest(bytes) => Message::BatchRequest(BatchId(digest("batch id", &bytes)?)),
        Body::Tip(height) => Message::Tip { height: Height(height) },
        Body::BlocksRequest(from) => Message::BlocksRequest { from: Height(from) },
        Body::Blocks(blocks) => {
            Message::Blocks { from: Height(blocks.from), blocks: blocks.blocks }
        }
        Body::WitnessRequest(_) => Message::WitnessRequest,
        Body::Witness(witness) => Message::Witness(
            witness
                .envelopes
                .into_iter()
                .map(|bytes| envelope(bytes, frame_bytes))
                .collect::<Result<_, _>>()?,
        ),
    })
}

fn envelope(bytes: Bytes, frame_bytes: usize) -> Result<Envelope, FrameError> {
    Envelope::from_bytes(&detached(bytes, frame_bytes))
        .map_err(|source| FrameError::Body { what: "consensus message", source })
}

/// A body that is a small part of its frame gets memory of its own: whoever keeps a vote for long
/// must not keep the whole receive buffer alive.
fn detached(bytes: Bytes, frame_bytes: usize) -> Bytes {
    if bytes.len() < frame_bytes / 2 || bytes.len() < DETACHED_BYTES {
        Bytes::copy_from_slice(&bytes)
    } else {
        bytes
    }
}

fn within(what: &'static str, found: usize, limit: usize) -> Result<(), FrameError> {
    if found > limit { Err(FrameError::TooLarge { what, found, limit }) } else { Ok(()) }
}

fn digest(what: &'static str, bytes: &Bytes) -> Result<Digest, FrameError> {
    Digest::from_bytes(bytes).map_err(|source| FrameError::Body { what, source })
}

/// Codec of the peer protocol: protobuf, with list lengths checked before lists are built.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = wire::Frame;
    type Decode = wire::Frame;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for FrameCodec {
    type Item = wire::Frame;
    type Error = Status;

    fn encode(&mut self, frame: wire::Frame, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        frame.encode(to).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, limits::FRAME_GATHERED_BYTES)
    }
}

impl Decoder for FrameCodec {
    type Item = wire::Frame;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<wire::Frame>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        decode(bytes).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, limits::FRAME_GATHERED_BYTES)
    }
}

/// Decodes one frame; lists are counted before they are built.
pub fn decode(bytes: Bytes) -> Result<wire::Frame, FrameError> {
    within("frame", bytes.len(), limits::FRAME_BYTES_MAX)?;
    let mut walk = Walk(&bytes);
    let mut messages = 0_usize;
    let mut hellos = 0_usize;
    while let Some((field, inner)) = walk.next_field()? {
        match field {
            FIELD_HELLO => hellos += 1,
            FIELD_MESSAGES => {
                messages += 1;
                count_lists(inner)?;
            }
            _ => return Err(FrameError::Malformed("an unknown field")),
        }
    }
    if messages > limits::FRAME_MESSAGES_MAX || hellos > 1 {
        return Err(FrameError::Malformed("too many messages or hellos"));
    }
    wire::Frame::decode(bytes).map_err(|_| FrameError::Malformed("not the protobuf expected"))
}

fn count_lists(message: &[u8]) -> Result<(), FrameError> {
    let mut walk = Walk(message);
    let mut bodies = 0_usize;
    while let Some((field, inner)) = walk.next_field()? {
        bodies += 1;
        let items_max = match field {
            // One field more than blocks: the height.
            FIELD_BLOCKS => limits::CATCH_UP_BLOCKS_MAX + 1,
            FIELD_WITNESS => limits::WITNESS_ENVELOPES_MAX,
            _ => continue,
        };
        let (mut items, mut walk) = (0, Walk(inner));
        while walk.next_field()?.is_some() {
            items += 1;
        }
        if items > items_max {
            return Err(FrameError::Malformed("too many blocks or votes"));
        }
    }
    if bodies > 1 {
        return Err(FrameError::Malformed("several bodies"));
    }
    Ok(())
}

/// Steps over the fields of a protobuf message (wire types 0 and 2, all that `peer.proto` uses).
struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    fn next_field(&mut self) -> Result<Option<(u64, &'a [u8])>, FrameError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let inner = match key & 7 {
            0 => {
                self.varint()?;
                &self.0[..0]
            }
            2 => {
                let len = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let (inner, rest) =
                    self.0.split_at_checked(len).ok_or(FrameError::Malformed("ends early"))?;
                self.0 = rest;
                inner
            }
            _ => return Err(FrameError::Malformed("an unknown wire type")),
        };
        Ok(Some((key >> 3, inner)))
    }

    fn varint(&mut self) -> Result<u64, FrameError> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let (&byte, rest) =
                self.0.split_first().ok_or(FrameError::Malformed("ends inside a number"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(FrameError::Malformed("a number above 64 bits"))
    }
}

const FIELD_HELLO: u64 = 1;
const FIELD_MESSAGES: u64 = 2;
const FIELD_BLOCKS: u64 = 6;
const FIELD_WITNESS: u64 = 8;
/// Keys and lengths around one body, bytes, generously.
const OVERHEAD_BYTES: usize = 24;
/// Bodies below this are copied out of the receive buffer whatever their share of it.
const DETACHED_BYTES: usize = 1024;
/// First size and step of growth of a channel's buffers.
const BUFFER_BYTES: usize = 32 * 1024;

#[cfg(test)]
mod tests;
