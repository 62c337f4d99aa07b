//! `/state`: values of keys, with proofs and history, and pages of a contract's keys.

use bytes::Bytes;
use serde::Serialize;

use crate::api::action::Action;
use crate::api::action::Answer;
use crate::api::action::Kind;
use crate::api::failure::Failure;
use crate::api::rest::json;
use crate::api::rest::route::Param;
use crate::api::rest::route::Reply;
use crate::api::rest::route::Request;
use crate::api::rest::route::Route;
use crate::api::rest::route::Schema;
use crate::api::rest::route::Verb;
use crate::api::rest::route::always;
use crate::api::rest::route::sometimes;
use crate::api::scan::Asked;
use crate::types::codec::Encode;
use crate::types::limits;

const ENCODING: Param = Param {
    name: "encoding",
    kind: "string",
    doc: "How the key is written in the path: text (default) or hex.",
};

/// The rows.
pub const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/state/{chaincode}/{key}",
        kind: Kind::State,
        summary: "The value of a key; with `proof`, its value or absence with evidence.",
        query: &[
            Param { name: "proof", kind: "boolean", doc: "Add a proof against the state root." },
            ENCODING,
        ],
        body: None,
        answer: &STATE,
        run: |request| Box::pin(state(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/state/{chaincode}",
        kind: Kind::State,
        summary: "A page of a contract's state, ascending by key, at one height.",
        query: &[
            Param { name: "prefix", kind: "string", doc: "All keys that begin like this." },
            Param { name: "start", kind: "string", doc: "First key." },
            Param { name: "end", kind: "string", doc: "First key behind the range." },
            Param { name: "from", kind: "string", doc: "`next` of the page before, hex." },
            Param { name: "limit", kind: "integer", doc: "1 to 1024 entries; 100 if left out." },
            Param { name: "height", kind: "integer", doc: "Refuse at any other height." },
            Param {
                name: "encoding",
                kind: "string",
                doc: "How prefix, start and end are written: text (default) or hex.",
            },
        ],
        body: None,
        answer: &PAGE,
        run: |request| Box::pin(scan(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/state/{chaincode}/{key}/history",
        kind: Kind::State,
        summary: "Who wrote a key when, newest first.",
        query: &[
            Param { name: "limit", kind: "integer", doc: "At most this many entries." },
            ENCODING,
        ],
        body: None,
        answer: &HISTORY,
        run: |request| Box::pin(history(request)),
    },
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateBody {
    chaincode: String,
    key: String,
    height: u64,
    found: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<StateProofBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateProofBody {
    state_root: String,
    block_hash: String,
    receipts_root: String,
    proof: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
}

#[derive(Serialize)]
struct PageBody {
    chaincode: String,
    height: u64,
    entries: Vec<EntryBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct EntryBody {
    key: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Serialize)]
struct HistoryBody {
    chaincode: String,
    key: String,
    entries: Vec<PastBody>,
}

#[derive(Serialize)]
struct PastBody {
    height: u64,
    index: u32,
    deleted: bool,
}

async fn state(request: Request) -> Result<Reply, Failure> {
    let (chaincode, key) = place(&request)?;
    let proof = request.flag("proof")?;
    let action = Action::State { chaincode: chaincode.clone(), key: key.clone(), proof };
    let Answer::State(found) = request.perform(action).await? else {
        return Err(Failure::internal("not a state value"));
    };
    if found.value.is_none() && !proof {
        let text = format!("no value under {} in {chaincode:?}", request.path("key"));
        return Err(Failure::not_found(text)
            .hint("check contract and key; with proof=true its absence can be proven"));
    }
    let proof = found.proof.map(|evidence| StateProofBody {
        state_root: evidence.state_root.to_string(),
        block_hash: evidence.hash.to_string(),
        receipts_root: evidence.receipts_root.to_string(),
        proof: json::base64(&evidence.proof),
        checkpoint: evidence.checkpoint.map(|c| json::base64(&c.to_bytes())),
    });
    Reply::json(&StateBody {
        chaincode,
        key: json::base64(&key),
        height: found.height.0,
        found: found.value.is_some(),
        value: found.value.as_ref().map(|value| json::base64(value)),
        text: found.value.as_ref().and_then(|value| json::text(value)),
        proof,
    })
}

async fn scan(request: Request) -> Result<Reply, Failure> {
    let given = |name: &str| key(&request, name, request.query(name).unwrap_or_default());
    let from = hex::decode(request.query("from").unwrap_or_default()).map_err(|error| {
        Failure::malformed(format!("from: {error}")).hint("use `next` of the page before")
    })?;
    let asked = Asked {
        chaincode: request.path("chaincode").to_owned(),
        prefix: given("prefix")?,
        start: given("start")?,
        end: given("end")?,
        from: Bytes::from(from),
        limit: request.number("limit")?,
        height: request.number("height")?,
    };
    let chaincode = asked.chaincode.clone();
    let Answer::Page(page) = request.perform(Action::Scan(Box::new(asked.check()?))).await? else {
        return Err(Failure::internal("not a page of state"));
    };
    let entry = |(key, value): &(Bytes, Bytes)| EntryBody {
        key: json::base64(key),
        value: json::base64(value),
        text: json::text(value),
    };
    Reply::json(&PageBody {
        chaincode,
        height: page.height.0,
        entries: page.entries.iter().map(entry).collect(),
        next: page.next.map(hex::encode),
    })
}

async fn history(request: Request) -> Result<Reply, Failure> {
    let (chaincode, key) = place(&request)?;
    let limit = request.number("limit")?.unwrap_or(HISTORY_ENTRIES_DEFAULT);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(limits::SCAN_ENTRIES_MAX);
    let action = Action::History { chaincode: chaincode.clone(), key: key.clone(), limit };
    let Answer::History(past) = request.perform(action).await? else {
        return Err(Failure::internal("not a history"));
    };
    let entries = past
        .into_iter()
        .map(|p| PastBody { height: p.height.0, index: p.index, deleted: p.deleted })
        .collect();
    Reply::json(&HistoryBody { chaincode, key: json::base64(&key), entries })
}

fn place(request: &Request) -> Result<(String, Bytes), Failure> {
    let (chaincode, key) = (request.path("chaincode"), request.path("key"));
    if chaincode.len() > limits::NAME_BYTES_MAX {
        let text = format!("a contract's name has at most {} bytes", limits::NAME_BYTES_MAX);
        return Err(Failure::malformed(text));
    }
    let key = self::key(request, "key", key)?;
    if key.len() > limits::STATE_KEY_BYTES_MAX {
        let text = format!("a key has at most {} bytes", limits::STATE_KEY_BYTES_MAX);
        return Err(Failure::malformed(text));
    }
    Ok((chaincode.to_owned(), key))
}

/// A key, or a part of one, in the encoding that the request names.
fn key(request: &Request, name: &str, text: &str) -> Result<Bytes, Failure> {
    match request.query("encoding") {
        None | Some("text") => Ok(Bytes::copy_from_slice(text.as_bytes())),
        Some("hex") => hex::decode(text).map(Bytes::from).map_err(|error| {
            Failure::malformed(format!("{name}: {error}"))
                .hint(format!("write the {name} as hex digits"))
        }),
        Some(other) => {
            let text = format!("query parameter encoding: {other:?} is not text or hex");
            Err(Failure::malformed(text))
        }
    }
}

const HISTORY_ENTRIES_DEFAULT: u64 = 100;

/// A value.
pub const STATE: Schema = Schema {
    name: "State",
    doc: "The value of a key after the block at `height`.",
    fields: &[
        always("chaincode", "string", "The contract."),
        always("key", "base64", "The key."),
        always("height", "integer", "Height the answer speaks about."),
        always("found", "boolean", "False where the key has no value (with `proof` only)."),
        sometimes("value", "base64", "The value."),
        sometimes("text", "string", "The same as text, where it is UTF-8."),
        sometimes("proof", "StateProof", "With `proof`."),
    ],
};

/// Part of a contract's state.
pub const PAGE: Schema = Schema {
    name: "StatePage",
    doc: "Keys and values after the block at `height`, ascending by key.",
    fields: &[
        always("chaincode", "string", "The contract."),
        always("height", "integer", "Height at which all entries of this page stand."),
        always("entries", "[StateEntry]", "Ascending by key."),
        sometimes("next", "hex", "Where the next page begins: its `from`. None on the last page."),
    ],
};

/// History of a key.
pub const HISTORY: Schema = Schema {
    name: "History",
    doc: "Writes of a key, newest first.",
    fields: &[
        always("chaincode", "string", "The contract."),
        always("key", "base64", "The key."),
        always("entries", "[HistoryEntry]", "Newest first."),
    ],
};

/// Schemas that others refer to by name.
pub const SHARED: &[&Schema] = &[
    &Schema {
        name: "StateProof",
        doc: "Evidence of a key's value or absence.",
        fields: &[
            always("stateRoot", "hex", "State root at the height."),
            always("blockHash", "hex", "Hash of the block at the height."),
            always("receiptsRoot", "hex", "Root of its receipts."),
            always("proof", "base64", "Encoded proof of the state tree."),
            sometimes("checkpoint", "base64", "Encoded checkpoint proof, where one covers it."),
        ],
    },
    &Schema {
        name: "StateEntry",
        doc: "One key and its value.",
        fields: &[
            always("key", "base64", "The key."),
            always("value", "base64", "The value."),
            sometimes("text", "string", "The value as text, where it is UTF-8."),
        ],
    },
    &Schema {
        name: "HistoryEntry",
        doc: "One write.",
        fields: &[
            always("height", "integer", "Block of the write."),
            always("index", "integer", "Position of the transaction, from 0."),
            always("deleted", "boolean", "True where the key was deleted."),
        ],
    },
];
