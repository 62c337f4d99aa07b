//! One connection to one node: every call of the service.
//!
//! The connection is made at the first call and again whenever it broke; a call that met the break
//! fails with `Unreachable`. `submit_and_wait` and the streams of `follow` try again by themselves.
//! The server is recognised by its identity: a validator or observer of a member organisation.

use std::error::Error;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tonic::Request;
use tonic::Status;
use tonic::transport::Channel;
use tonic::transport::Endpoint;
use tonic::transport::Uri;

use crate::api::grpc::CODE_METADATA;
use crate::api::grpc::HINT_METADATA;
use crate::api::grpc::RETRY_METADATA;
use crate::api::grpc::proto;
use crate::api::grpc::proto::node_client::NodeClient;
use crate::api::scan::Asked;
use crate::client::error::ClientError;
use crate::client::identity::ClientIdentity;
use crate::client::invocation::Invocation;
use crate::client::trust::Network;
use crate::ledger::StatePage;
use crate::ledger::read_write_set::StateKey;
use crate::ledger::state_tree::StateProof;
use crate::membership::identity::Role;
use crate::membership::msp::KeyPair;
use crate::network::connection;
use crate::network::connection::Traffic;
use crate::network::tls;
use crate::network::tls::Credentials;
use crate::network::tls::Roots;
use crate::telemetry::metrics::Metrics;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::digest::Digest;
use crate::types::evidence::CheckpointProof;
use crate::types::evidence::ReceiptProof;
use crate::types::evidence::TransactionProof;
use crate::types::ids::BlockHash;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::receipt::Receipt;
use crate::types::transaction::Transaction;

/// A connection to a node; clones share it.
#[derive(Clone)]
pub struct Client {
    pub(super) node: NodeClient<Channel>,
    pub(super) shared: Arc<Shared>,
}

/// What clones share.
pub(super) struct Shared {
    pub(super) address: String,
    pub(super) network: Network,
    tip: Mutex<Option<(Instant, Height)>>,
}

/// A receipt and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its block.
    pub height: Height,
    /// Position in the block, from 0.
    pub index: u32,
    /// The receipt.
    pub receipt: Receipt,
}

/// A transaction that was proven to be in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenTransaction {
    /// The evidence, checked.
    pub proof: TransactionProof,
    /// Hash of its block.
    pub hash: BlockHash,
    /// Position in the block, from 0.
    pub index: u32,
    /// The receipt; its path leads to `receipts_root`, which only a checkpoint at this height
    /// would prove.
    pub receipt: ReceiptProof,
    /// Root of the block's receipts, by the node's word.
    pub receipts_root: Digest,
}

/// A value, or its absence, that was proven against a state root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenValue {
    /// Height the answer speaks about.
    pub height: Height,
    /// The value.
    pub value: Option<Bytes>,
    /// Root of the world state there.
    pub state_root: Digest,
    /// Checkpoint votes over the root, checked; none where no checkpoint covers the height: then
    /// the root is the node's word.
    pub checkpoint: Option<CheckpointProof>,
}

impl Client {
    /// A client of the node at `address` (host:port). `tls` is the caller's TLS certificate and
    /// key; without it the node treats the caller as anonymous. Connects at the first call.
    pub fn new(
        address: &str,
        network: &Network,
        tls: Option<&KeyPair>,
    ) -> Result<Self, ClientError> {
        let config = tls_config(network, tls)?;
        let (traffic, metrics) = (Arc::new(Traffic::default()), Arc::new(Metrics::new()));
        let target: Arc<str> = address.into();
        let connector = tower::service_fn(move |_: Uri| {
            let (target, config) = (target.clone(), config.clone());
            let (traffic, metrics) = (traffic.clone(), metrics.clone());
            async move { connection::dial(&target, config, traffic, metrics).await.map(TokioIo::new) }
        });
        // The name is not looked at: the connector knows where to go and whom to expect.
        let channel = Endpoint::from_static("http://node.obelisk")
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_WITHIN)
            .connect_with_connector_lazy(connector);
        let node = NodeClient::new(channel)
            .max_decoding_message_size(limits::API_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::API_MESSAGE_BYTES_MAX);
        let (address, network) = (address.to_owned(), network.clone());
        Ok(Self { node, shared: Arc::new(Shared { address, network, tip: Mutex::new(None) }) })
    }

    /// As `new`, and asks for the status at once, so that a wrong address shows now.
    pub async fn connect(
        address: &str,
        network: &Network,
        tls: Option<&KeyPair>,
    ) -> Result<Self, ClientError> {
        let client = Self::new(address, network, tls)?;
        let status = client.status().await?;
        if status.chain[..] != network.chain().0.0 {
            let what = format!("it serves the chain {}", hex::encode(&status.chain));
            return Err(ClientError::answer(address, what));
        }
        Ok(client)
    }

    /// Where the node stands.
    pub async fn status(&self) -> Result<proto::StatusReply, ClientError> {
        let request = timed(proto::StatusRequest {}, CALL_WITHIN);
        let status = self.done(self.node.clone().status(request).await)?;
        let mut tip = self.shared.tip.lock().expect("no holder of this lock panics");
        *tip = Some((Instant::now(), Height(status.height)));
        Ok(status)
    }

    /// Height of the newest block as it was at most `TIP_FRESH_FOR` ago.
    pub async fn tip(&self) -> Result<Height, ClientError> {
        let known = *self.shared.tip.lock().expect("no holder of this lock panics");
        match known {
            Some((at, height)) if at.elapsed() < TIP_FRESH_FOR => Ok(height),
            _ => Ok(Height(self.status().await?.height)),
        }
    }

    /// Signs an invocation for this network.
    pub async fn sign(
        &self,
        identity: &ClientIdentity,
        invocation: &Invocation,
    ) -> Result<Transaction, ClientError> {
        let tip = self.tip().await?;
        Ok(invocation.sign(identity, self.shared.network.chain(), tip)?)
    }

    /// Signs, submits and waits for the committed receipt.
    pub async fn invoke(
        &self,
        identity: &ClientIdentity,
        invocation: &Invocation,
        wait: Duration,
    ) -> Result<Located, ClientError> {
        let transaction = self.sign(identity, invocation).await?;
        self.submit_and_wait(&transaction, Some(identity.certificate()), wait).await
    }

    /// Hands a transaction in; the answer means "accepted", not "committed".
    pub async fn submit(
        &self,
        transaction: &Transaction,
        certificate: Option<&Bytes>,
    ) -> Result<TxId, ClientError> {
        let message = proto::SubmitRequest {
            transaction: transaction.to_bytes(),
            certificate: certificate.cloned().unwrap_or_default(),
        };
        let reply = self.node.clone().submit(timed(message, CALL_WITHIN)).await;
        let id = self.digest("transaction id", &self.done(reply)?.id)?;
        match TxId(id) == transaction.id() {
            true => Ok(TxId(id)),
            false => Err(ClientError::answer(&self.shared.address, "another transaction's id")),
        }
    }

    /// Hands a transaction in and waits until it is committed. A lost connection or a busy node is
    /// tried again until `wait` is over; that is safe, since an id executes at most once.
    pub async fn submit_and_wait(
        &self,
        transaction: &Transaction,
        certificate: Option<&Bytes>,
        wait: Duration,
    ) -> Result<Located, ClientError> {
        let end = Instant::now() + wait;
        let mut pause = RETRY_FIRST;
        loop {
            let error = match self.submit_once(transaction, certificate, end).await {
                Ok(located) => return Ok(located),
                Err(error) => error,
            };
            let left = end.saturating_duration_since(Instant::now());
            if !error.is_transient() {
                return Err(error);
            }
            if left <= pause {
                // The last cause says more than "timed out".
                return Err(error);
            }
            if let ClientError::Refused { retry_after_ms, .. } = &error {
                pause = pause.max(Duration::from_millis(*retry_after_ms));
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    async fn submit_once(
        &self,
        transaction: &Transaction,
        certificate: Option<&Bytes>,
        end: Instant,
    ) -> Result<Located, ClientError> {
        match self.submit(transaction, certificate).await {
            Ok(_) => {}
            // An earlier attempt got through.
            Err(error) if error.code() == "duplicate" => {}
            Err(error) => return Err(error),
        }
        let left = end.saturating_duration_since(Instant::now());
        self.receipt(transaction.id(), left).await
    }

    /// The receipt of a transaction, waiting for it at most this long. A node waits for a limited
    /// time, so it is asked until the whole of `wait` is over.
    pub async fn receipt(&self, id: TxId, wait: Duration) -> Result<Located, ClientError> {
        let step = Duration::from_millis(limits::RECEIPT_WAIT_MS_MAX);
        in_steps(wait, step, |part| self.receipt_once(id, part)).await
    }

    async fn receipt_once(&self, id: TxId, wait: Duration) -> Result<Located, ClientError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let message = proto::ReceiptRequest { id: id.to_bytes(), wait_ms };
        let request = timed(message, wait + CALL_WITHIN);
        let reply = match self.done(self.node.clone().receipt(request).await) {
            Err(error) if error.code() == "timed-out" => {
                return Err(ClientError::TimedOut(wait_ms));
            }
            reply => reply?,
        };
        let receipt = self.decoded(&reply.receipt)?;
        Ok(Located { height: Height(reply.height), index: reply.index, receipt })
    }

    /// Calls a contract on the node's last committed state; nothing is written.
    pub async fn query(&self, invocation: &Invocation) -> Result<Bytes, ClientError> {
        let message = proto::QueryRequest {
            chaincode: invocation.chaincode().to_owned(),
            function: invocation.function().to_owned(),
            args: invocation.arguments().to_vec(),
        };
        let reply = self.node.clone().query(timed(message, CALL_WITHIN)).await;
        Ok(self.done(reply)?.value)
    }

    /// A key's value by the node's word.
    pub async fn state(&self, chaincode: &str, key: &[u8]) -> Result<Option<Bytes>, ClientError> {
        let reply = self.state_reply(chaincode, key, false).await?;
        Ok(reply.found.then_some(reply.value))
    }

    /// A key's value or absence, proven against a state root, and the root against a checkpoint
    /// where one covers it.
    pub async fn prove_state(
        &self,
        chaincode: &str,
        key: &[u8],
    ) -> Result<ProvenValue, ClientError> {
        let reply = self.state_reply(chaincode, key, true).await?;
        let Some(evidence) = reply.proof else {
            return Err(ClientError::answer(&self.shared.address, "the proof is missing"));
        };
        let state_root = self.digest("state root", &evidence.state_root)?;
        let proof: StateProof = self.decoded(&evidence.proof)?;
        let wanted = StateKey { namespace: chaincode.to_owned(), key: Bytes::copy_from_slice(key) };
        let value = self.shared.network.verifier().check_state(&proof, &wanted, state_root)?;
        let checkpoint: Option<CheckpointProof> = match evidence.checkpoint.is_empty() {
            true => None,
            false => Some(self.decoded(&evidence.checkpoint)?),
        };
        let height = Height(reply.height);
        if let Some(checkpoint) = &checkpoint {
            self.shared.network.verifier().check_checkpoint(checkpoint)?;
            if checkpoint.state_root != state_root || checkpoint.height != height {
                let what = "the checkpoint is of another height";
                return Err(ClientError::answer(&self.shared.address, what));
            }
        }
        Ok(ProvenValue { height, value, state_root, checkpoint })
    }

    /// Evidence that a transaction is in its block, checked.
    pub async fn prove_transaction(&self, id: TxId) -> Result<ProvenTransaction, ClientError> {
        let message = proto::TransactionProofRequest { id: id.to_bytes() };
        let reply = self.node.clone().transaction_proof(timed(message, CALL_WITHIN)).await;
        let reply = self.done(reply)?;
        let proof: TransactionProof = self.decoded(&reply.transaction)?;
        if proof.transaction.id() != id {
            return Err(ClientError::answer(&self.shared.address, "another transaction's proof"));
        }
        let hash = self.shared.network.verifier().check_transaction(&proof)?;
        let receipt: ReceiptProof = self.decoded(&reply.receipt)?;
        let receipts_root = self.digest("receipts root", &reply.receipts_root)?;
        self.shared.network.verifier().check_receipt_root(&receipt, id, receipts_root)?;
        Ok(ProvenTransaction { proof, hash, index: reply.index, receipt, receipts_root })
    }

    /// The newest checkpoint, checked: roots that a quorum signed.
    pub async fn checkpoint(&self) -> Result<CheckpointProof, ClientError> {
        let request = timed(proto::CheckpointRequest {}, CALL_WITHIN);
        let reply = self.done(self.node.clone().checkpoint(request).await)?;
        let proof: CheckpointProof = self.decoded(&reply.checkpoint)?;
        self.shared.network.verifier().check_checkpoint(&proof)?;
        Ok(proof)
    }

    /// Evidence that the node keeps against validators, encoded; `consensus::evidence::Judge`
    /// judges it.
    pub async fn accusations(&self) -> Result<Vec<Bytes>, ClientError> {
        let request = timed(proto::AccusationsRequest {}, CALL_WITHIN);
        let reply = self.done(self.node.clone().accusations(request).await)?;
        Ok(reply.accusations.into_iter().map(|entry| entry.evidence).collect())
    }

    /// A page of a contract's state, by the node's word. Give `next` of a page as `from` of the
    /// following one, and its height where all pages must be of one height.
    pub async fn scan(&self, asked: &Asked) -> Result<StatePage, ClientError> {
        let Asked { chaincode, prefix, start, end, from, limit, height } = asked.clone();
        let limit = limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
        let message = proto::ScanRequest { chaincode, prefix, start, end, from, limit, height };
        let reply = self.done(self.node.clone().scan(timed(message, CALL_WITHIN)).await)?;
        let entries = reply.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        let next = (!reply.next.is_empty()).then_some(reply.next);
        Ok(StatePage { height: Height(reply.height), entries, next })
    }

    /// Writes of a key, newest first: height, position in the block, deleted.
    pub async fn history(
        &self,
        chaincode: &str,
        key: &[u8],
        limit: u32,
    ) -> Result<Vec<(Height, u32, bool)>, ClientError> {
        let (chaincode, key) = (chaincode.to_owned(), Bytes::copy_from_slice(key));
        let message = proto::HistoryRequest { chaincode, key, limit };
        let reply = self.done(self.node.clone().history(timed(message, CALL_WITHIN)).await)?;
        Ok(reply.entries.iter().map(|e| (Height(e.height), e.index, e.deleted)).collect())
    }

    /// The address given.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    async fn state_reply(
        &self,
        chaincode: &str,
        key: &[u8],
        proof: bool,
    ) -> Result<proto::StateReply, ClientError> {
        let (chaincode, key) = (chaincode.to_owned(), Bytes::copy_from_slice(key));
        let message = proto::StateRequest { chaincode, key, proof };
        self.done(self.node.clone().state(timed(message, CALL_WITHIN)).await)
    }

    pub(super) fn done<T>(
        &self,
        reply: Result<tonic::Response<T>, Status>,
    ) -> Result<T, ClientError> {
        reply.map(tonic::Response::into_inner).map_err(|status| self.failed(&status))
    }

    pub(super) fn failed(&self, status: &Status) -> ClientError {
        let text = |name| {
            let value = status.metadata().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        if let Some(code) = text(CODE_METADATA) {
            let retry_after_ms = text(RETRY_METADATA).and_then(|ms| ms.parse().ok()).unwrap_or(0);
            let hint = text(HINT_METADATA).unwrap_or_default();
            let message = status.message().to_owned();
            return ClientError::Refused { code, message, hint, retry_after_ms };
        }
        let mut reason = status.message().to_owned();
        let mut cause = status.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            cause = error.source();
        }
        ClientError::Unreachable { address: self.shared.address.clone(), reason }
    }

    pub(super) fn decoded<T: Decode>(&self, bytes: &Bytes) -> Result<T, ClientError> {
        T::from_bytes(bytes)
            .map_err(|error: DecodeError| ClientError::undecodable(&self.shared.address, &error))
    }

    fn digest(&self, what: &str, bytes: &Bytes) -> Result<Digest, ClientError> {
        <[u8; 32]>::try_from(&bytes[..]).map(Digest).map_err(|_| {
            ClientError::answer(&self.shared.address, format!("a {what} of {} bytes", bytes.len()))
        })
    }
}

fn tls_config(
    network: &Network,
    tls: Option<&KeyPair>,
) -> Result<Arc<rustls::ClientConfig>, ClientError> {
    let credentials = match tls {
        None => None,
        Some(pair) => {
            let chain = std::slice::from_ref(&pair.certificate);
            Some(Arc::new(Credentials::new(chain, pair.pkcs8()?)?))
        }
    };
    let roots = Roots::new(network.genesis().organisations.iter().map(|o| &o.root))?;
    let directory = network.directory().clone();
    let check = Arc::new(move |der: &[u8]| {
        let found = directory.identify_shown(der).map_err(|error| error.to_string())?;
        match found.role {
            Role::Validator | Role::Observer => Ok(()),
            role => Err(format!("the server is a {}, not a node", role.name())),
        }
    });
    Ok(tls::client_config(credentials, &roots, check, &["h2"])?)
}

/// Asks with waits of at most `step` until something but "timed out" is answered, or `wait` is
/// over.
async fn in_steps<T, F>(
    wait: Duration,
    step: Duration,
    mut ask: impl FnMut(Duration) -> F,
) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let end = Instant::now() + wait;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // What has no wait at all is another question: is it there now?
        let part = if wait.is_zero() { wait } else { left.min(step).max(WAIT_LEAST) };
        match ask(part).await {
            // A node with a shorter limit than ours answers early: not at once again.
            Err(ClientError::TimedOut(_)) if Instant::now() + RETRY_FIRST < end => {
                tokio::time::sleep(RETRY_FIRST).await;
            }
            Err(ClientError::TimedOut(_)) => {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                return Err(ClientError::TimedOut(wait_ms));
            }
            answer => return answer,
        }
    }
}

fn timed<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}

const CALL_WITHIN: Duration = Duration::from_secs(30);
const TIP_FRESH_FOR: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// The smallest wait that can be asked for.
const WAIT_LEAST: Duration = Duration::from_millis(1);
const RETRY_LAST: Duration = Duration::from_secs(2);
const WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(answers: u32, wait: Duration) -> (Result<u32, ClientError>, Vec<Duration>) {
        let mut parts = Vec::new();
        let answer = in_steps(wait, Duration::from_millis(40), |part| {
            parts.push(part);
            let count = u32::try_from(parts.len()).unwrap();
            async move {
                tokio::time::sleep(part).await;
                if count < answers { Err(ClientError::TimedOut(40)) } else { Ok(count) }
            }
        });
        (answer.await, parts)
    }

    /// A wait that is longer than a node's goes on in steps of that; the first answer ends it.
    #[tokio::test]
    async fn long_waits_are_asked_in_steps() {
        let (answer, parts) = asked(3, Duration::from_secs(60)).await;
        assert_eq!((answer.unwrap(), parts.len()), (3, 3));
        assert!(parts.iter().all(|part| *part == Duration::from_millis(40)), "{parts:?}");
    }

    /// Without an answer it ends with the whole wait in its words, and no step is longer than what
    /// is left.
    #[tokio::test]
    async fn waits_end_at_their_own_deadline() {
        let wait = Duration::from_millis(300);
        let (answer, parts) = asked(u32::MAX, wait).await;
        assert!(matches!(answer, Err(ClientError::TimedOut(300))), "{answer:?}");
        assert!(parts.len() > 1, "{parts:?}");
        assert!(parts.iter().sum::<Duration>() <= wait + WAIT_LEAST, "{parts:?}");
    }

    /// A wait that is over before the first question is one still: a node that is asked without a
    /// wait answers "not found" instead of "timed out".
    #[tokio::test]
    async fn a_wait_is_never_asked_without_one() {
        let (answer, parts) = asked(u32::MAX, Duration::from_nanos(1)).await;
        assert!(matches!(answer, Err(ClientError::TimedOut(_))), "{answer:?}");
        assert_eq!(parts, [WAIT_LEAST]);
        assert_eq!(asked(1, Duration::ZERO).await.1, [Duration::ZERO]);
    }
}
