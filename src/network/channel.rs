//! One open channel, whichever side dialled: what flows out of a queue and into the inbox.
//!
//! `Outbound` turns a queue into the frames of one direction: hello first, then as many messages
//! per frame as wait, so that the cost per message falls as load grows. `receive` is the other
//! direction: it checks every frame, pauses where the peer exceeds its rate (flow control slows the
//! sender) and hands messages to the inbox in order. The first frame that breaks the protocol ends
//! the channel.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Instant;

use futures_util::Stream;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tonic::Status;
use tonic::Streaming;

use crate::network::Class;
use crate::network::Inbox;
use crate::network::Peer;
use crate::network::frame;
use crate::network::frame::FrameError;
use crate::network::frame::Outgoing;
use crate::network::frame::wire;
use crate::network::quota::Queue;
use crate::network::quota::RateMeter;
use crate::types::ids::ChainId;
use crate::types::limits;

/// Why a channel ended.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The connection could not be opened.
    #[error("cannot connect to {address}")]
    Dial {
        /// Host and port.
        address: String,
        /// The cause: unreachable, or the handshake failed on either side's check.
        source: std::io::Error,
    },
    /// HTTP/2 could not be set up.
    #[error("cannot open a channel")]
    Open(#[source] tonic::transport::Error),
    /// The peer ended the channel, or the connection broke.
    #[error("channel ended: {0}")]
    Ended(String),
    /// The peer broke the protocol, or belongs elsewhere.
    #[error("frame refused")]
    Frame(#[from] FrameError),
    /// Nothing came within the time for a handshake.
    #[error("no hello within 10 s")]
    Silent,
}

impl From<Status> for ChannelError {
    fn from(status: Status) -> Self {
        Self::Ended(status.message().to_owned())
    }
}

/// Frames of one direction, from a queue.
pub struct Outbound {
    hello: Option<wire::Frame>,
    /// The dialler keeps its messages until the peer's hello was accepted.
    gate: Option<oneshot::Receiver<()>>,
    queue: Arc<Queue<Outgoing>>,
    /// Why our side ended the channel, told to the peer last.
    parting: Arc<Mutex<Option<Status>>>,
}

impl Outbound {
    /// A direction that opens with our hello.
    pub fn new(
        chain: &ChainId,
        class: Class,
        queue: Arc<Queue<Outgoing>>,
        gate: Option<oneshot::Receiver<()>>,
        parting: Arc<Mutex<Option<Status>>>,
    ) -> Self {
        Self { hello: Some(frame::hello(chain, class)), gate, queue, parting }
    }
}

impl Stream for Outbound {
    type Item = Result<wire::Frame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(Ok(hello)));
        }
        if let Some(gate) = &mut self.gate {
            if ready!(Pin::new(gate).poll(cx)).is_err() {
                return Poll::Ready(None);
            }
            self.gate = None;
        }
        let messages_max = limits::FRAME_MESSAGES_MAX;
        match ready!(self.queue.poll_take(cx, messages_max, limits::FRAME_GATHERED_BYTES)) {
            Some(messages) => Poll::Ready(Some(Ok(frame::messages(messages)))),
            None => {
                let parting = self.parting.lock().expect("no holder of this lock panics").take();
                Poll::Ready(parting.map(Err))
            }
        }
    }
}

/// Receives until the channel ends or `stop` turns true; the error says why it ended.
pub async fn receive(
    mut frames: Streaming<wire::Frame>,
    peer: &Peer,
    class: Class,
    inbox: &dyn Inbox,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), ChannelError> {
    let start = Instant::now();
    let mut bytes_meter = RateMeter::new(limits::INBOUND_BYTES_PER_S_MAX, start);
    let mut messages_meter = RateMeter::new(limits::INBOUND_MESSAGES_PER_S_MAX, start);
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.message() => frame?,
            _ = stop.wait_for(|stopped| *stopped) => return Ok(()),
        };
        let Some(frame) = frame else {
            return Err(ChannelError::Ended("the peer closed it".to_owned()));
        };
        let bytes = prost::Message::encoded_len(&frame) as u64;
        let messages = frame::accept_messages(frame, class)?;
        let now = Instant::now();
        let pause =
            bytes_meter.book(bytes, now).max(messages_meter.book(messages.len() as u64, now));
        for message in messages {
            inbox.on_message(peer, message);
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// The text of an error with all its causes.
pub fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
