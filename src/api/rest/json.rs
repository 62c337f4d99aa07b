//! How ledger values look in JSON.
//!
//! Chain objects keep the member names of 2016 (lower camel case, bytes as standard base64, times
//! as seconds and nanos); members that did not exist then follow after them, digests as hex.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

use crate::api::action::CommittedTransaction;
use crate::api::failure::Failure;
use crate::types::block::Block;
use crate::types::codec::Encode;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::genesis::Genesis;
use crate::types::receipt::BlockResult;
use crate::types::receipt::Event;
use crate::types::receipt::Receipt;
use crate::types::transaction::Transaction;

/// A failure.
#[derive(Serialize)]
pub struct ErrorBody<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    code: &'a str,
    message: &'a str,
    hint: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    retry_after_ms: u64,
}

impl<'a> From<&'a Failure> for ErrorBody<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self {
            error: ErrorFields {
                code: failure.code.word,
                message: &failure.message,
                hint: &failure.hint,
                retry_after_ms: failure.retry_after_ms,
            },
        }
    }
}

/// A point in time, as protobuf's JSON of 2016 had it.
#[derive(Serialize)]
pub struct Timestamp {
    seconds: u64,
    nanos: u32,
}

impl Timestamp {
    /// From milliseconds since 1970.
    pub fn from_ms(ms: u64) -> Self {
        let nanos = u32::try_from(ms % 1000).expect("below 1000") * 1_000_000;
        Self { seconds: ms / 1000, nanos }
    }
}

/// A transaction.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TransactionBody {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(rename = "chaincodeID")]
    chaincode_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    txid: String,
    timestamp: Timestamp,
    nonce: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert: Option<String>,
    signature: String,
    chaincode: String,
    function: String,
    args: Vec<String>,
    creator: String,
    valid_until: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_time: Option<Timestamp>,
}

impl TransactionBody {
    /// A transaction with everything it carries.
    pub fn full(transaction: &Transaction, certificate: Option<&Bytes>) -> Self {
        let payload = transaction.payload();
        Self {
            kind: if is_deploy(transaction) { DEPLOY } else { INVOKE },
            chaincode_id: base64(&chaincode_id(&payload.chaincode)),
            payload: Some(base64(transaction.signed_bytes())),
            txid: transaction.id().to_string(),
            timestamp: Timestamp::from_ms(payload.client_time_ms),
            nonce: base64(&payload.nonce),
            cert: certificate.map(|der| base64(der)),
            signature: base64(&transaction.signature().0),
            chaincode: payload.chaincode.clone(),
            function: payload.function.clone(),
            args: payload.args.iter().map(|arg| base64(arg)).collect(),
            creator: payload.creator.to_string(),
            valid_until: payload.valid_until.0,
            height: None,
            index: None,
            block_time: None,
        }
    }

    /// A transaction in a block: the package of a deploy is left out, as in 2016.
    fn in_block(transaction: &Transaction) -> Self {
        let mut body = Self::full(transaction, None);
        if body.kind == DEPLOY {
            body.payload = None;
            body.args.truncate(DEPLOY_ARGS_SHOWN);
        }
        body
    }

    /// A transaction with its place.
    pub fn committed(found: &CommittedTransaction) -> Self {
        Self {
            height: Some(found.height.0),
            index: Some(found.index),
            block_time: Some(Timestamp::from_ms(found.block_time_ms)),
            ..Self::full(&found.transaction, found.certificate.as_ref())
        }
    }
}

/// A block.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockBody {
    transactions: Vec<TransactionBody>,
    state_hash: String,
    previous_block_hash: String,
    consensus_metadata: String,
    non_hash_data: NonHashData,
    height: u64,
    block_hash: String,
    timestamp: Timestamp,
    view: u64,
    sequence: u64,
    transaction_root: String,
    receipts_root: String,
    state_root: String,
    batches: Vec<String>,
    certificate: String,
    signers: Vec<u16>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NonHashData {
    chaincode_events: Vec<EventBody>,
}

/// An event of 2016: one per transaction then, any number now.
#[derive(Serialize)]
struct EventBody {
    #[serde(rename = "chaincodeID")]
    chaincode_id: String,
    #[serde(rename = "txID")]
    tx_id: String,
    #[serde(rename = "eventName")]
    event_name: String,
    payload: String,
}

impl BlockBody {
    /// A block with the roots of its result.
    pub fn of(block: &Block, result: &BlockResult) -> Self {
        let header = &block.header;
        let transactions = || block.batches.iter().flat_map(|b| b.transactions());
        let events = transactions()
            .zip(&result.receipts)
            .flat_map(|(tx, receipt)| receipt.events.iter().map(move |e| event(tx, e)));
        Self {
            transactions: transactions().map(TransactionBody::in_block).collect(),
            state_hash: base64(&result.state_root.0),
            previous_block_hash: base64(&header.previous.0.0),
            consensus_metadata: base64(&sequence_metadata(header.sequence.0)),
            non_hash_data: NonHashData { chaincode_events: events.collect() },
            height: header.height.0,
            block_hash: result.hash.to_string(),
            timestamp: Timestamp::from_ms(header.time_ms),
            view: header.view.0,
            sequence: header.sequence.0,
            transaction_root: header.transaction_root.to_string(),
            receipts_root: result.receipts_root.to_string(),
            state_root: result.state_root.to_string(),
            batches: header.batches.iter().map(ToString::to_string).collect(),
            certificate: base64(&block.certificate.to_bytes()),
            signers: block.certificate.signatures.iter().map(|(id, _)| id.0).collect(),
        }
    }
}

/// The genesis document, in place of a block 0.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GenesisBody {
    height: u64,
    block_hash: String,
    network: String,
    timestamp: Timestamp,
    consensus: String,
    checkpoint_interval: u64,
    validators: Vec<Member>,
    organisations: Vec<String>,
    document: String,
}

#[derive(Serialize)]
struct Member {
    organisation: String,
    name: String,
    key: String,
}

impl From<&Genesis> for GenesisBody {
    fn from(genesis: &Genesis) -> Self {
        let member = |replica: &crate::types::replica_set::Replica| Member {
            organisation: replica.organisation.clone(),
            name: replica.name.clone(),
            key: hex::encode(replica.key.as_bytes()),
        };
        Self {
            height: 0,
            block_hash: genesis.chain_id().to_string(),
            network: genesis.network.clone(),
            timestamp: Timestamp::from_ms(genesis.time_ms),
            consensus: genesis.consensus.clone(),
            checkpoint_interval: genesis.parameters.checkpoint_interval,
            validators: genesis.replicas.iter().map(|(_, replica)| member(replica)).collect(),
            organisations: genesis.organisations.iter().map(|o| o.name.clone()).collect(),
            document: base64(&genesis.to_bytes()),
        }
    }
}

/// A receipt.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptBody {
    txid: String,
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    events: Vec<NamedPayload>,
    write_set: String,
    fuel: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
}

#[derive(Serialize)]
struct NamedPayload {
    name: String,
    payload: String,
}

impl From<&Receipt> for ReceiptBody {
    fn from(receipt: &Receipt) -> Self {
        let named = |e: &Event| NamedPayload { name: e.name.clone(), payload: base64(&e.payload) };
        Self {
            txid: receipt.tx.to_string(),
            status: receipt.status.name(),
            error: receipt.error.clone(),
            value: base64(&receipt.value),
            text: text(&receipt.value),
            events: receipt.events.iter().map(named).collect(),
            write_set: receipt.write_set.to_string(),
            fuel: receipt.fuel,
            height: None,
            index: None,
        }
    }
}

impl ReceiptBody {
    /// The receipt with its place.
    pub fn at(self, height: u64, index: u32) -> Self {
        Self { height: Some(height), index: Some(index), ..self }
    }
}

/// The result of a block.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultBody {
    height: u64,
    block_hash: String,
    receipts_root: String,
    state_root: String,
    receipts: Vec<ReceiptBody>,
}

impl From<&BlockResult> for ResultBody {
    fn from(result: &BlockResult) -> Self {
        Self {
            height: result.height.0,
            block_hash: result.hash.to_string(),
            receipts_root: result.receipts_root.to_string(),
            state_root: result.state_root.to_string(),
            receipts: result.receipts.iter().map(ReceiptBody::from).collect(),
        }
    }
}

/// A Merkle path.
#[derive(Serialize)]
pub struct PathBody {
    index: u32,
    count: u32,
    siblings: Vec<String>,
}

impl From<&crate::types::merkle::Path> for PathBody {
    fn from(path: &crate::types::merkle::Path) -> Self {
        let siblings = path.siblings.iter().map(Digest::to_string).collect();
        Self { index: path.index, count: path.count, siblings }
    }
}

/// Standard base64, padded.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a base64 text, or why not.
pub fn from_base64(field: &str, text: &str) -> Result<Bytes, Failure> {
    STANDARD.decode(text.trim()).map(Bytes::from).map_err(|error| {
        Failure::malformed(format!("{field}: {error}")).hint("use standard base64 with padding")
    })
}

/// The bytes as text where they are text.
pub fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn event(transaction: &Transaction, event: &Event) -> EventBody {
    EventBody {
        chaincode_id: transaction.payload().chaincode.clone(),
        tx_id: transaction.id().to_string(),
        event_name: event.name.clone(),
        payload: base64(&event.payload),
    }
}

fn is_deploy(transaction: &Transaction) -> bool {
    let payload = transaction.payload();
    payload.chaincode == "lifecycle" && matches!(payload.function.as_str(), "deploy" | "upgrade")
}

/// Protobuf `ChaincodeID { string name = 2; }`.
fn chaincode_id(name: &str) -> Bytes {
    let mut w = Writer::default();
    w.u8(0x12);
    w.u8(u8::try_from(name.len()).expect("names are at most 64 bytes"));
    w.raw(name.as_bytes());
    w.finish()
}

/// Protobuf `Metadata { uint64 seqNo = 1; }`.
fn sequence_metadata(sequence: u64) -> Bytes {
    let mut w = Writer::default();
    w.u8(0x08);
    let mut rest = sequence;
    while rest >= 0x80 {
        w.u8(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
        rest >>= 7;
    }
    w.u8(u8::try_from(rest).expect("seven bits"));
    w.finish()
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Name, version and kind; the package follows.
const DEPLOY_ARGS_SHOWN: usize = 3;
const DEPLOY: u8 = 1;
const INVOKE: u8 = 2;
