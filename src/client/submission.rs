//! Many transactions over one stream, answered by number: the way for load.
//!
//! The two halves are independent, so one task can send while another counts. Read the answers
//! while sending: a node stops reading a stream whose answers pile up. When the stream breaks,
//! whatever was not answered may or may not commit; send the same transactions again on a new
//! stream (an id executes at most once; "duplicate" then means that the first attempt got through).

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::api::grpc::proto;
use crate::client::connection::Client;
use crate::client::error::ClientError;
use crate::types::limits;

/// Answers of one message: numbers in the order sent on the stream, from 0.
pub use crate::api::grpc::proto::SubmitOutcomes;

/// The sending half. Dropping it ends the stream once everything is answered.
pub struct Sender {
    messages: mpsc::Sender<proto::SubmitMany>,
    address: String,
    next_number: u64,
}

/// The answering half.
pub struct Outcomes {
    stream: Streaming<SubmitOutcomes>,
    client: Client,
}

impl Client {
    /// Opens a submitting stream.
    pub async fn submission(&self) -> Result<(Sender, Outcomes), ClientError> {
        let (messages, receiver) = mpsc::channel(MESSAGES_UNSENT_MAX);
        let stream = self.node.clone().submit_stream(ReceiverStream::new(receiver)).await;
        let stream = self.done(stream)?;
        let address = self.address().to_owned();
        let sender = Sender { messages, address, next_number: 0 };
        Ok((sender, Outcomes { stream, client: self.clone() }))
    }
}

impl Sender {
    /// Sends encoded transactions, with certificates the node may not know; each certificate is
    /// needed once per stream. Returns the number of the first. Waits while the node is not
    /// reading.
    pub async fn send(
        &mut self,
        transactions: Vec<Bytes>,
        certificates: Vec<Bytes>,
    ) -> Result<u64, ClientError> {
        let first = self.next_number;
        let mut certificates = Some(certificates);
        let mut rest = transactions;
        loop {
            let after = rest.split_off(rest.len().min(limits::SUBMIT_TXS_MAX));
            self.next_number += rest.len() as u64;
            let certificates = certificates.take().unwrap_or_default();
            let message = proto::SubmitMany { transactions: rest, certificates };
            self.messages.send(message).await.map_err(|_| ClientError::Unreachable {
                address: self.address.clone(),
                reason: "the stream has ended; its answers say why".to_owned(),
            })?;
            if after.is_empty() {
                return Ok(first);
            }
            rest = after;
        }
    }
}

impl Outcomes {
    /// The next answers; `None` when everything sent was answered and the sender is gone.
    pub async fn next(&mut self) -> Result<Option<SubmitOutcomes>, ClientError> {
        self.stream.message().await.map_err(|status| self.client.failed(&status))
    }
}

const MESSAGES_UNSENT_MAX: usize = 4;
