//! `/chain`: where the chain ends, and its blocks.

use serde::Serialize;

use crate::api::action::Action;
use crate::api::action::Answer;
use crate::api::action::Kind;
use crate::api::failure::Failure;
use crate::api::rest::json;
use crate::api::rest::json::BlockBody;
use crate::api::rest::json::GenesisBody;
use crate::api::rest::json::ResultBody;
use crate::api::rest::route::Reply;
use crate::api::rest::route::Request;
use crate::api::rest::route::Route;
use crate::api::rest::route::Schema;
use crate::api::rest::route::Verb;
use crate::api::rest::route::always;
use crate::api::rest::route::sometimes;
use crate::types::codec::Encode;
use crate::types::ids::Height;

/// The rows.
pub const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/chain",
        kind: Kind::Ledger,
        summary: "Where the chain ends.",
        query: &[],
        body: None,
        answer: &CHAIN,
        run: |request| Box::pin(chain(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/chain/checkpoint",
        kind: Kind::Ledger,
        summary: "The newest checkpoint: roots of state and receipts, signed by a quorum.",
        query: &[],
        body: None,
        answer: &CHECKPOINT,
        run: |request| Box::pin(checkpoint(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/chain/blocks/{height}",
        kind: Kind::Ledger,
        summary: "A block; 0 gives the genesis document. Deploy packages are left out.",
        query: &[],
        body: None,
        answer: &BLOCK,
        run: |request| Box::pin(block(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/chain/blocks/{height}/result",
        kind: Kind::Ledger,
        summary: "The receipts and roots of a block.",
        query: &[],
        body: None,
        answer: &RESULT,
        run: |request| Box::pin(result(request)),
    },
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChainBody {
    // First, without spaces: clients of 2016 search the text for it.
    height: u64,
    current_block_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_block_hash: Option<String>,
    block_hash: String,
    chain: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckpointBody {
    height: u64,
    sequence: u64,
    block_hash: String,
    state_root: String,
    receipts_root: String,
    signers: Vec<u16>,
    proof: String,
}

async fn chain(request: Request) -> Result<Reply, Failure> {
    let Answer::Chain(tip) = request.perform(Action::Chain).await? else {
        return Err(Failure::internal("not a chain tip"));
    };
    Reply::json(&ChainBody {
        height: tip.height.0,
        current_block_hash: json::base64(&tip.hash.0.0),
        previous_block_hash: tip.previous.map(|hash| json::base64(&hash.0.0)),
        block_hash: tip.hash.to_string(),
        chain: tip.chain.to_string(),
    })
}

async fn checkpoint(request: Request) -> Result<Reply, Failure> {
    let Answer::Checkpoint(found) = request.perform(Action::Checkpoint).await? else {
        return Err(Failure::internal("not a checkpoint"));
    };
    Reply::json(&CheckpointBody {
        height: found.height.0,
        sequence: found.certificate.vote.slot.sequence.0,
        block_hash: found.hash.to_string(),
        state_root: found.state_root.to_string(),
        receipts_root: found.receipts_root.to_string(),
        signers: found.certificate.signatures.iter().map(|(id, _)| id.0).collect(),
        proof: json::base64(&found.to_bytes()),
    })
}

async fn block(request: Request) -> Result<Reply, Failure> {
    match request.perform(Action::Block(request.height()?)).await? {
        Answer::Block { block, result } => Reply::json(&BlockBody::of(&block, &result)),
        Answer::Genesis(genesis) => Reply::json(&GenesisBody::from(&*genesis)),
        _ => Err(Failure::internal("not a block")),
    }
}

async fn result(request: Request) -> Result<Reply, Failure> {
    let height = request.height()?;
    if height == Height(0) {
        return Err(Failure::not_found("genesis has no result").hint("results begin at block 1"));
    }
    match request.perform(Action::Result(height)).await? {
        Answer::Result(result) => Reply::json(&ResultBody::from(&*result)),
        _ => Err(Failure::internal("not a result")),
    }
}

/// Answer of `/chain`.
pub const CHAIN: Schema = Schema {
    name: "Chain",
    doc: "The end of the chain.",
    fields: &[
        always("height", "integer", "Height of the newest block; 0 before the first."),
        always("currentBlockHash", "base64", "Hash of the newest block; the chain id at 0."),
        sometimes("previousBlockHash", "base64", "Hash of the block below; none at height 0."),
        always("blockHash", "hex", "Hash of the newest block."),
        always("chain", "hex", "Chain id: SHA-256 of the genesis document."),
    ],
};

/// A checkpoint.
pub const CHECKPOINT: Schema = Schema {
    name: "Checkpoint",
    doc: "Roots that a quorum signed.",
    fields: &[
        always("height", "integer", "Height of the newest block it covers."),
        always("sequence", "integer", "Sequence number of the checkpoint."),
        always("blockHash", "hex", "Hash of the block."),
        always("stateRoot", "hex", "State root after the block."),
        always("receiptsRoot", "hex", "Merkle root of the block's receipts."),
        always("signers", "[integer]", "Seats whose signatures the certificate holds."),
        always("proof", "base64", "Encoded checkpoint proof, for offline checks."),
    ],
};

/// A block.
pub const BLOCK: Schema = Schema {
    name: "Block",
    doc: "A block with the roots of its result.",
    fields: &[
        always("transactions", "[Transaction]", "In execution order."),
        always("stateHash", "base64", "State root after the block."),
        always("previousBlockHash", "base64", "Hash of the block below."),
        always("consensusMetadata", "base64", "Protobuf with the sequence number, as in 2016."),
        always("nonHashData", "NonHashData", "Events, as in 2016."),
        always("height", "integer", "Height."),
        always("blockHash", "hex", "Hash of the header."),
        always("timestamp", "Timestamp", "Block time."),
        always("view", "integer", "View in which the content was proposed."),
        always("sequence", "integer", "Sequence number."),
        always("transactionRoot", "hex", "Merkle root of the transactions."),
        always("receiptsRoot", "hex", "Merkle root of the receipts."),
        always("stateRoot", "hex", "State root after the block."),
        always("batches", "[hex]", "Identities of the batches."),
        always("certificate", "base64", "Encoded quorum certificate over the header."),
        always("signers", "[integer]", "Seats whose signatures the certificate holds."),
    ],
};

/// Receipts and roots.
pub const RESULT: Schema = Schema {
    name: "BlockResult",
    doc: "What became of a block's transactions.",
    fields: &[
        always("height", "integer", "Height."),
        always("blockHash", "hex", "Hash of the block."),
        always("receiptsRoot", "hex", "Merkle root of the receipts."),
        always("stateRoot", "hex", "State root after the block."),
        always("receipts", "[Receipt]", "One per transaction, in block order."),
    ],
};

/// Schemas that others refer to by name.
pub const SHARED: &[&Schema] = &[
    &Schema {
        name: "Timestamp",
        doc: "A point in time since 1970.",
        fields: &[
            always("seconds", "integer", "Whole seconds."),
            always("nanos", "integer", "Nanoseconds beyond them."),
        ],
    },
    &Schema {
        name: "NonHashData",
        doc: "What 2016 kept outside the block hash.",
        fields: &[always("chaincodeEvents", "[ChaincodeEvent]", "Events, in order.")],
    },
    &Schema {
        name: "ChaincodeEvent",
        doc: "An event of a contract.",
        fields: &[
            always("chaincodeID", "string", "Name of the contract."),
            always("txID", "hex", "Transaction."),
            always("eventName", "string", "Name, chosen by the contract."),
            always("payload", "base64", "Content."),
        ],
    },
];
