//! `/transactions`: submit, look up, wait, prove.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

use crate::api::action::Action;
use crate::api::action::Answer;
use crate::api::action::Kind;
use crate::api::failure::Failure;
use crate::api::rest::json;
use crate::api::rest::json::PathBody;
use crate::api::rest::json::ReceiptBody;
use crate::api::rest::json::TransactionBody;
use crate::api::rest::route;
use crate::api::rest::route::BYTES;
use crate::api::rest::route::Param;
use crate::api::rest::route::Reply;
use crate::api::rest::route::Request;
use crate::api::rest::route::Route;
use crate::api::rest::route::Schema;
use crate::api::rest::route::Verb;
use crate::api::rest::route::always;
use crate::api::rest::route::sometimes;
use crate::pipeline::publish::Located;
use crate::types::codec::Decode;
use crate::types::codec::Encode;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::transaction::Transaction;

const WAIT: Param = Param {
    name: "wait",
    kind: "integer",
    doc: "Wait for the commit at most this long, milliseconds.",
};

/// The rows.
pub const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Post,
        path: "/transactions",
        kind: Kind::Submit,
        summary: "Submits a signed transaction: JSON, or its encoded bytes as octet-stream. \
                  Answers 202 with the id, or with `wait` 200 with the receipt.",
        query: &[WAIT],
        body: Some(&SUBMISSION),
        answer: &SUBMITTED,
        run: |request| Box::pin(submit(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/transactions/{id}",
        kind: Kind::Ledger,
        summary: "A committed transaction and its place.",
        query: &[],
        body: None,
        answer: &TRANSACTION,
        run: |request| Box::pin(transaction(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/transactions/{id}/receipt",
        kind: Kind::Ledger,
        summary: "What became of a transaction; with `wait`, as soon as it is committed.",
        query: &[WAIT],
        body: None,
        answer: &RECEIPT,
        run: |request| Box::pin(receipt(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/transactions/{id}/proof",
        kind: Kind::Ledger,
        summary: "Evidence that the transaction is in its block, signed by a quorum.",
        query: &[],
        body: None,
        answer: &PROOF,
        run: |request| Box::pin(proof(request)),
    },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Submission {
    transaction: String,
    certificate: Option<String>,
}

#[derive(Serialize)]
struct SubmittedBody {
    txid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<ReceiptBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProofBody {
    txid: String,
    height: u64,
    index: u32,
    block_hash: String,
    transaction_root: String,
    leaf: String,
    in_batch: PathBody,
    in_block: PathBody,
    certificate: String,
    signers: Vec<u16>,
    receipt: ReceiptBody,
    in_result: PathBody,
    receipts_root: String,
    proof: String,
    receipt_proof: String,
}

async fn submit(request: Request) -> Result<Reply, Failure> {
    let (transaction, certificate) = submission(&request.media, &request.body)?;
    let wait = request.number("wait")?;
    let submitted =
        request.perform(Action::Submit { transaction: Box::new(transaction), certificate }).await?;
    let Answer::Submitted(id) = submitted else {
        return Err(Failure::internal("not a transaction id"));
    };
    match wait {
        None => {
            let body = SubmittedBody { txid: id.to_string(), receipt: None };
            Reply::json_with_status(202, &body)
        }
        Some(wait_ms) => {
            let found = located(&request, id, wait_ms).await?;
            let receipt = Some(ReceiptBody::from(&found.receipt).at(found.height.0, found.index));
            Reply::json(&SubmittedBody { txid: id.to_string(), receipt })
        }
    }
}

/// A submitted transaction and its creator's certificate: JSON, or the transaction's bytes alone.
pub fn submission(media: &str, body: &Bytes) -> Result<(Transaction, Option<Bytes>), Failure> {
    if media == BYTES {
        return Ok((parse(body.clone())?, None));
    }
    let body: Submission = route::from_json(body)?;
    Ok((signed("transaction", &body.transaction)?, certificate(body.certificate.as_deref())?))
}

async fn transaction(request: Request) -> Result<Reply, Failure> {
    match request.perform(Action::Transaction(request.tx_id()?)).await? {
        Answer::Transaction(found) => Reply::json(&TransactionBody::committed(&found)),
        _ => Err(Failure::internal("not a transaction")),
    }
}

async fn receipt(request: Request) -> Result<Reply, Failure> {
    let id = request.tx_id()?;
    let found = located(&request, id, request.number("wait")?.unwrap_or(0)).await?;
    Reply::json(&ReceiptBody::from(&found.receipt).at(found.height.0, found.index))
}

async fn located(request: &Request, id: TxId, wait_ms: u64) -> Result<Located, Failure> {
    let action = Action::Receipt { id, wait: Duration::from_millis(wait_ms) };
    match request.perform(action).await? {
        Answer::Receipt(located) => Ok(located),
        _ => Err(Failure::internal("not a receipt")),
    }
}

async fn proof(request: Request) -> Result<Reply, Failure> {
    let Answer::Proof(found) = request.perform(Action::Proof(request.tx_id()?)).await? else {
        return Err(Failure::internal("not a proof"));
    };
    let (tx, receipt) = (&found.transaction, &found.receipt);
    Reply::json(&ProofBody {
        txid: tx.transaction.id().to_string(),
        height: tx.header.height.0,
        index: found.index,
        block_hash: tx.header.hash().to_string(),
        transaction_root: tx.header.transaction_root.to_string(),
        leaf: tx.transaction.leaf().to_string(),
        in_batch: PathBody::from(&tx.in_batch),
        in_block: PathBody::from(&tx.in_block),
        certificate: json::base64(&tx.certificate.to_bytes()),
        signers: tx.certificate.signatures.iter().map(|(id, _)| id.0).collect(),
        receipt: ReceiptBody::from(&receipt.receipt).at(tx.header.height.0, found.index),
        in_result: PathBody::from(&receipt.in_result),
        receipts_root: found.receipts_root.to_string(),
        proof: json::base64(&tx.to_bytes()),
        receipt_proof: json::base64(&receipt.to_bytes()),
    })
}

/// A signed transaction from its base64 form.
pub fn signed(field: &str, text: &str) -> Result<Transaction, Failure> {
    parse(json::from_base64(field, text)?)
}

/// A certificate from PEM or from base64 of its DER.
pub fn certificate(text: Option<&str>) -> Result<Option<Bytes>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let der = match text.contains(PEM_BEGIN) {
        false => json::from_base64("certificate", text)?,
        true => {
            let body: Option<String> = text.split_once(PEM_BEGIN).and_then(|(_, rest)| {
                let (body, _) = rest.split_once(PEM_END)?;
                Some(body.chars().filter(|c| !c.is_whitespace()).collect())
            });
            let bytes = body.and_then(|body| STANDARD.decode(body).ok());
            Bytes::from(bytes.ok_or_else(|| Failure::malformed("certificate: broken PEM"))?)
        }
    };
    if der.len() > limits::CERTIFICATE_BYTES_MAX {
        let text = format!("certificate of {} bytes", der.len());
        let hint = format!("a certificate has at most {} bytes", limits::CERTIFICATE_BYTES_MAX);
        return Err(Failure::new("too-large", text).hint(hint));
    }
    Ok(Some(der))
}

fn parse(bytes: Bytes) -> Result<Transaction, Failure> {
    Transaction::from_bytes(&bytes).map_err(|error| {
        Failure::malformed(format!("transaction: {error}"))
            .hint("send payload length, payload and signature as docs/formats.md describes")
    })
}

const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_END: &str = "-----END CERTIFICATE-----";

/// Body of a submission.
pub const SUBMISSION: Schema = Schema {
    name: "Submission",
    doc: "A signed transaction.",
    fields: &[
        always("transaction", "base64", "Encoded transaction: payload and signature."),
        sometimes(
            "certificate",
            "string",
            "The creator's certificate, PEM or base64 of its DER; needed until the network knows it.",
        ),
    ],
};

/// Answer to a submission.
pub const SUBMITTED: Schema = Schema {
    name: "Submitted",
    doc: "The transaction is on its way, or committed.",
    fields: &[
        always("txid", "hex", "Transaction id."),
        sometimes("receipt", "Receipt", "With `wait`: what became of it."),
    ],
};

/// A transaction.
pub const TRANSACTION: Schema = Schema {
    name: "Transaction",
    doc: "A signed transaction. Within a block, the package of a deploy is left out.",
    fields: &[
        always("type", "integer", "1 deploy or upgrade, 2 invoke."),
        always("chaincodeID", "base64", "Protobuf ChaincodeID with the contract's name."),
        sometimes("payload", "base64", "The signed bytes."),
        always("txid", "hex", "SHA-256 of the payload."),
        always("timestamp", "Timestamp", "The client's clock at signing."),
        always("nonce", "base64", "Chosen by the client."),
        sometimes("cert", "base64", "The creator's certificate, DER."),
        always("signature", "base64", "64 bytes over the payload."),
        always("chaincode", "string", "Name of the contract."),
        always("function", "string", "Function called."),
        always("args", "[base64]", "Arguments."),
        always("creator", "hex", "SHA-256 of the creator's certificate."),
        always("validUntil", "integer", "Last height at which it may execute."),
        sometimes("height", "integer", "Its block."),
        sometimes("index", "integer", "Position in the block, from 0."),
        sometimes("blockTime", "Timestamp", "Time of the block."),
    ],
};

/// A receipt.
pub const RECEIPT: Schema = Schema {
    name: "Receipt",
    doc: "What became of a transaction.",
    fields: &[
        always("txid", "hex", "The transaction."),
        always("status", "string", "ok, refused, trap, out-of-fuel, limit-exceeded, expired ..."),
        sometimes("error", "string", "Why it failed."),
        always("value", "base64", "What the contract returned."),
        sometimes("text", "string", "The same as text, where it is UTF-8."),
        always("events", "[NamedPayload]", "Events of the contract."),
        always("writeSet", "hex", "Digest of the writes; zeros for none."),
        always("fuel", "integer", "Fuel used."),
        sometimes("height", "integer", "Its block."),
        sometimes("index", "integer", "Position in the block, from 0."),
    ],
};

/// A proof.
pub const PROOF: Schema = Schema {
    name: "TransactionProof",
    doc: "From a transaction to the signatures of a quorum; `proof` holds all of it, encoded.",
    fields: &[
        always("txid", "hex", "The transaction."),
        always("height", "integer", "Its block."),
        always("index", "integer", "Position in the block, from 0."),
        always("blockHash", "hex", "Hash of the header: what the commit votes sign."),
        always("transactionRoot", "hex", "Root in the header."),
        always("leaf", "hex", "SHA-256 of transaction id and signature."),
        always("inBatch", "Path", "From the leaf to the root of its batch."),
        always("inBlock", "Path", "From there to the header's root."),
        always("certificate", "base64", "Encoded quorum certificate over the header."),
        always("signers", "[integer]", "Seats whose signatures it holds."),
        always("receipt", "Receipt", "What became of it."),
        always("inResult", "Path", "From the receipt to the receipts root."),
        always("receiptsRoot", "hex", "Root of the block's receipts."),
        always("proof", "base64", "Encoded transaction proof, for offline checks."),
        always("receiptProof", "base64", "Encoded receipt proof."),
    ],
};

/// Schemas that others refer to by name.
pub const SHARED: &[&Schema] = &[
    &Schema {
        name: "NamedPayload",
        doc: "An event.",
        fields: &[
            always("name", "string", "Name, chosen by the contract."),
            always("payload", "base64", "Content."),
        ],
    },
    &Schema {
        name: "Path",
        doc: "A Merkle path (RFC 9162 section 2.1).",
        fields: &[
            always("index", "integer", "Position of the leaf."),
            always("count", "integer", "Leaves of the tree."),
            always("siblings", "[hex]", "From the leaf up."),
        ],
    },
];
