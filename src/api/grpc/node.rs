//! Each call of the service: decode, ask as an `Action`, encode the `Answer`.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;

use crate::api::Service;
use crate::api::action::AccusationEntry;
use crate::api::action::Action;
use crate::api::action::Answer;
use crate::api::action::StateEvidence;
use crate::api::auth::Caller;
use crate::api::auth::Connection;
use crate::api::failure::Failure;
use crate::api::grpc::follow;
use crate::api::grpc::proto;
use crate::api::grpc::submission;
use crate::api::scan::Asked;
use crate::api::status::Summary;
use crate::network::connection;
use crate::pipeline::handle::NodeStatus;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::transaction::Transaction;

/// The service over one node.
pub struct NodeService {
    service: Service,
    stop: watch::Receiver<bool>,
}

impl NodeService {
    /// Ends its streams when `stop` turns true.
    pub fn new(service: Service, stop: watch::Receiver<bool>) -> Self {
        Self { service, stop }
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Failure> {
        let connection = request.extensions().get::<connection::Caller>();
        let certificate = connection.and_then(|c| c.certificate.clone());
        self.service.caller(&Connection { certificate, address: None })
    }

    async fn ask<T>(&self, request: &Request<T>, action: Action) -> Result<Answer, Failure> {
        self.service.perform(&self.caller(request)?, action).await
    }
}

/// Stream type of all answering streams.
pub type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl proto::node_server::Node for NodeService {
    async fn submit(
        &self,
        mut request: Request<proto::SubmitRequest>,
    ) -> Result<Response<proto::SubmitReply>, Status> {
        let message = std::mem::take(request.get_mut());
        let transaction = transaction(&message.transaction)?;
        let certificate = certificate(message.certificate)?;
        match self
            .ask(&request, Action::Submit { transaction: Box::new(transaction), certificate })
            .await?
        {
            Answer::Submitted(id) => Ok(Response::new(proto::SubmitReply { id: digest(&id.0) })),
            _ => Err(unexpected()),
        }
    }

    type SubmitStreamStream = Answers<proto::SubmitOutcomes>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<proto::SubmitMany>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let caller = self.caller(&request)?;
        let Answer::Chain(tip) = self.service.perform(&caller, Action::Chain).await? else {
            return Err(unexpected());
        };
        // Before the first transaction: no commit can be missed.
        let follow = Action::Follow(Height(tip.height.0.saturating_add(1)));
        let Answer::Follow(blocks) = self.service.perform(&caller, follow).await? else {
            return Err(unexpected());
        };
        let (service, stop) = (self.service.clone(), self.stop.clone());
        let stream = submission::start(service, caller, request.into_inner(), blocks, stop);
        Ok(Response::new(stream))
    }

    async fn receipt(
        &self,
        request: Request<proto::ReceiptRequest>,
    ) -> Result<Response<proto::ReceiptReply>, Status> {
        let id = tx_id(&request.get_ref().id)?;
        let wait = Duration::from_millis(request.get_ref().wait_ms);
        match self.ask(&request, Action::Receipt { id, wait }).await? {
            Answer::Receipt(found) => Ok(Response::new(proto::ReceiptReply {
                height: found.height.0,
                index: found.index,
                receipt: found.receipt.to_bytes(),
            })),
            _ => Err(unexpected()),
        }
    }

    async fn query(
        &self,
        mut request: Request<proto::QueryRequest>,
    ) -> Result<Response<proto::QueryReply>, Status> {
        let proto::QueryRequest { chaincode, function, args } = std::mem::take(request.get_mut());
        check_name("chaincode", &chaincode)?;
        check_name("function", &function)?;
        if args.len() > limits::ARGS_MAX {
            let text = format!("{} args, at most {} are taken", args.len(), limits::ARGS_MAX);
            return Err(Failure::malformed(text).into());
        }
        match self.ask(&request, Action::Query { chaincode, function, args }).await? {
            Answer::Value { height, value } => {
                Ok(Response::new(proto::QueryReply { value, height: height.0 }))
            }
            _ => Err(unexpected()),
        }
    }

    type BlocksStream = Answers<proto::CommittedBlock>;

    async fn blocks(
        &self,
        request: Request<proto::BlocksRequest>,
    ) -> Result<Response<Self::BlocksStream>, Status> {
        let from = Height(request.get_ref().from);
        match self.ask(&request, Action::Follow(from)).await? {
            Answer::Follow(blocks) => Ok(Response::new(follow::blocks(blocks, self.stop.clone()))),
            _ => Err(unexpected()),
        }
    }

    type EventsStream = Answers<proto::BlockEvents>;

    async fn events(
        &self,
        request: Request<proto::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let wanted = request.get_ref().clone();
        check_name("chaincode", &wanted.chaincode)?;
        match self.ask(&request, Action::Follow(Height(wanted.from))).await? {
            Answer::Follow(blocks) => {
                Ok(Response::new(follow::events(blocks, wanted, self.stop.clone())))
            }
            _ => Err(unexpected()),
        }
    }

    async fn state(
        &self,
        mut request: Request<proto::StateRequest>,
    ) -> Result<Response<proto::StateReply>, Status> {
        let proto::StateRequest { chaincode, key, proof } = std::mem::take(request.get_mut());
        check_name("chaincode", &chaincode)?;
        check_key(&key)?;
        match self.ask(&request, Action::State { chaincode, key, proof }).await? {
            Answer::State(found) => Ok(Response::new(proto::StateReply {
                height: found.height.0,
                found: found.value.is_some(),
                value: found.value.unwrap_or_default(),
                proof: found.proof.map(state_proof),
            })),
            _ => Err(unexpected()),
        }
    }

    async fn scan(
        &self,
        mut request: Request<proto::ScanRequest>,
    ) -> Result<Response<proto::ScanReply>, Status> {
        let proto::ScanRequest { chaincode, prefix, start, end, from, limit, height } =
            std::mem::take(request.get_mut());
        let limit = limit.map(u64::from);
        let scan = Asked { chaincode, prefix, start, end, from, limit, height }.check()?;
        match self.ask(&request, Action::Scan(Box::new(scan))).await? {
            Answer::Page(page) => {
                let entry = |(key, value)| proto::StateEntry { key, value };
                Ok(Response::new(proto::ScanReply {
                    height: page.height.0,
                    entries: page.entries.into_iter().map(entry).collect(),
                    next: page.next.unwrap_or_default(),
                }))
            }
            _ => Err(unexpected()),
        }
    }

    async fn history(
        &self,
        mut request: Request<proto::HistoryRequest>,
    ) -> Result<Response<proto::HistoryReply>, Status> {
        let proto::HistoryRequest { chaincode, key, limit } = std::mem::take(request.get_mut());
        check_name("chaincode", &chaincode)?;
        check_key(&key)?;
        let limit = match usize::try_from(limit).unwrap_or(usize::MAX) {
            0 => limits::SCAN_ENTRIES_MAX,
            limit => limit.min(limits::SCAN_ENTRIES_MAX),
        };
        match self.ask(&request, Action::History { chaincode, key, limit }).await? {
            Answer::History(past) => {
                let entry = |p: crate::api::action::PastValue| proto::HistoryEntry {
                    height: p.height.0,
                    index: p.index,
                    deleted: p.deleted,
                };
                let entries = past.into_iter().map(entry).collect();
                Ok(Response::new(proto::HistoryReply { entries }))
            }
            _ => Err(unexpected()),
        }
    }

    async fn transaction_proof(
        &self,
        request: Request<proto::TransactionProofRequest>,
    ) -> Result<Response<proto::TransactionProofReply>, Status> {
        let id = tx_id(&request.get_ref().id)?;
        match self.ask(&request, Action::Proof(id)).await? {
            Answer::Proof(found) => Ok(Response::new(proto::TransactionProofReply {
                transaction: found.transaction.to_bytes(),
                index: found.index,
                receipt: found.receipt.to_bytes(),
                receipts_root: digest(&found.receipts_root),
            })),
            _ => Err(unexpected()),
        }
    }

    async fn checkpoint(
        &self,
        request: Request<proto::CheckpointRequest>,
    ) -> Result<Response<proto::CheckpointReply>, Status> {
        match self.ask(&request, Action::Checkpoint).await? {
            Answer::Checkpoint(found) => {
                Ok(Response::new(proto::CheckpointReply { checkpoint: found.to_bytes() }))
            }
            _ => Err(unexpected()),
        }
    }

    async fn status(
        &self,
        request: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusReply>, Status> {
        match self.ask(&request, Action::Status).await? {
            Answer::Status(found) => Ok(Response::new(status(&found))),
            _ => Err(unexpected()),
        }
    }

    async fn accusations(
        &self,
        request: Request<proto::AccusationsRequest>,
    ) -> Result<Response<proto::AccusationsReply>, Status> {
        match self.ask(&request, Action::Accusations).await? {
            Answer::Accusations(found) => {
                let entry = |entry: AccusationEntry| proto::Accusation {
                    culprit: u32::from(entry.culprit.0),
                    offence: entry.offence.unwrap_or_default().to_owned(),
                    evidence: entry.evidence,
                };
                let accusations = found.into_iter().map(entry).collect();
                Ok(Response::new(proto::AccusationsReply { accusations }))
            }
            _ => Err(unexpected()),
        }
    }
}

/// An encoded transaction.
pub fn transaction(bytes: &Bytes) -> Result<Transaction, Failure> {
    Transaction::from_bytes(bytes).map_err(|error| {
        Failure::malformed(format!("transaction: {error}"))
            .hint("send payload length, payload and signature as docs/formats.md describes")
    })
}

/// A certificate; empty means none.
pub fn certificate(der: Bytes) -> Result<Option<Bytes>, Failure> {
    match der.len() {
        0 => Ok(None),
        len if len > limits::CERTIFICATE_BYTES_MAX => {
            Err(Failure::new("too-large", format!("certificate of {len} bytes")))
        }
        _ => Ok(Some(der)),
    }
}

fn tx_id(bytes: &Bytes) -> Result<TxId, Failure> {
    let id = <[u8; 32]>::try_from(&bytes[..]).map_err(|_| {
        Failure::malformed(format!("a transaction id has 32 bytes, not {}", bytes.len()))
    })?;
    Ok(TxId(Digest(id)))
}

fn check_name(field: &str, name: &str) -> Result<(), Failure> {
    match name.len() > limits::NAME_BYTES_MAX {
        true => {
            let text = format!("{field}: at most {} bytes", limits::NAME_BYTES_MAX);
            Err(Failure::malformed(text))
        }
        false => Ok(()),
    }
}

fn check_key(key: &Bytes) -> Result<(), Failure> {
    match key.len() > limits::STATE_KEY_BYTES_MAX {
        true => {
            let text = format!("key: at most {} bytes", limits::STATE_KEY_BYTES_MAX);
            Err(Failure::malformed(text))
        }
        false => Ok(()),
    }
}

fn state_proof(evidence: StateEvidence) -> proto::StateProof {
    proto::StateProof {
        state_root: digest(&evidence.state_root),
        proof: evidence.proof,
        checkpoint: evidence.checkpoint.map(|c| c.to_bytes()).unwrap_or_default(),
        block_hash: digest(&evidence.hash.0),
        receipts_root: digest(&evidence.receipts_root),
    }
}

fn status(found: &NodeStatus) -> proto::StatusReply {
    let summary = Summary::from(found);
    let peer = |p: &crate::network::PeerStatus| proto::PeerState {
        organisation: p.peer.organisation.clone(),
        name: p.peer.name.clone(),
        address: p.address.clone(),
        validator: p.peer.replica.is_some(),
        connected: p.connected,
        bytes_sent: p.bytes_sent,
        bytes_received: p.bytes_received,
        dropped: p.dropped,
    };
    let queue = |q: crate::api::status::Queue| proto::QueueDepth {
        name: q.name.to_owned(),
        depth: q.depth as u64,
        limit: q.limit as u64,
    };
    proto::StatusReply {
        network: summary.network,
        chain: digest(&found.chain.0),
        height: summary.height,
        block_hash: digest(&found.block_hash.0),
        state_root: digest(&found.state_root),
        view: summary.view,
        primary: summary.primary.map(u32::from),
        view_active: summary.view_active,
        stable_checkpoint: summary.stable_checkpoint,
        ready: summary.ready,
        reasons: summary.reasons,
        peers: found.peers.iter().map(peer).collect(),
        queues: summary.queues.into_iter().map(queue).collect(),
        version: summary.version.to_owned(),
        seat: summary.seat.map(u32::from),
        sequence: summary.sequence,
    }
}

fn digest(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(&digest.0)
}

fn unexpected() -> Status {
    Failure::internal("the answer is not of the question's kind").into()
}
