//! `/network/...`: who this node knows and whether it is connected, and who broke the protocol.

use serde::Serialize;

use crate::api::action::AccusationEntry;
use crate::api::action::Action;
use crate::api::action::Answer;
use crate::api::action::Kind;
use crate::api::failure::Failure;
use crate::api::rest::json;
use crate::api::rest::route::Reply;
use crate::api::rest::route::Request;
use crate::api::rest::route::Route;
use crate::api::rest::route::Schema;
use crate::api::rest::route::Verb;
use crate::api::rest::route::always;
use crate::network::PeerStatus;

/// The rows.
pub const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/network/peers",
        kind: Kind::Status,
        summary: "The nodes this one knows, itself left out.",
        query: &[],
        body: None,
        answer: &PEERS,
        run: |request| Box::pin(peers(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/network/accusations",
        kind: Kind::Ledger,
        summary: "Evidence that validators broke the protocol, for judging offline.",
        query: &[],
        body: None,
        answer: &ACCUSATIONS,
        run: |request| Box::pin(accusations(request)),
    },
];

#[derive(Serialize)]
struct PeersBody {
    peers: Vec<PeerBody>,
}

/// A peer in the shape of 2016, with what is known of the link.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerBody {
    #[serde(rename = "ID")]
    id: PeerId,
    address: String,
    #[serde(rename = "type")]
    kind: u8,
    organisation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seat: Option<u16>,
    connected: bool,
    bytes_sent: u64,
    bytes_received: u64,
    dropped: u64,
}

#[derive(Serialize)]
struct PeerId {
    name: String,
}

impl From<&PeerStatus> for PeerBody {
    fn from(status: &PeerStatus) -> Self {
        Self {
            id: PeerId { name: status.peer.name.clone() },
            address: status.address.clone(),
            kind: if status.peer.replica.is_some() { VALIDATOR } else { NON_VALIDATOR },
            organisation: status.peer.organisation.clone(),
            seat: status.peer.replica.map(|id| id.0),
            connected: status.connected,
            bytes_sent: status.bytes_sent,
            bytes_received: status.bytes_received,
            dropped: status.dropped,
        }
    }
}

async fn peers(request: Request) -> Result<Reply, Failure> {
    match request.perform(Action::Status).await? {
        Answer::Status(status) => {
            Reply::json(&PeersBody { peers: status.peers.iter().map(PeerBody::from).collect() })
        }
        _ => Err(Failure::internal("not a status")),
    }
}

#[derive(Serialize)]
struct AccusationsBody {
    accusations: Vec<AccusationBody>,
}

#[derive(Serialize)]
struct AccusationBody {
    culprit: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    offence: Option<&'static str>,
    evidence: String,
}

impl From<&AccusationEntry> for AccusationBody {
    fn from(entry: &AccusationEntry) -> Self {
        let evidence = json::base64(&entry.evidence);
        Self { culprit: entry.culprit.0, offence: entry.offence, evidence }
    }
}

async fn accusations(request: Request) -> Result<Reply, Failure> {
    match request.perform(Action::Accusations).await? {
        Answer::Accusations(found) => {
            let accusations = found.iter().map(AccusationBody::from).collect();
            Reply::json(&AccusationsBody { accusations })
        }
        _ => Err(Failure::internal("not accusations")),
    }
}

const VALIDATOR: u8 = 1;
const NON_VALIDATOR: u8 = 2;

/// Known peers.
pub const PEERS: Schema = Schema {
    name: "Peers",
    doc: "Known peers.",
    fields: &[always("peers", "[Peer]", "In the order of the configuration.")],
};

/// Evidence.
pub const ACCUSATIONS: Schema = Schema {
    name: "Accusations",
    doc: "Evidence that this node keeps.",
    fields: &[always("accusations", "[Accusation]", "Culprit by culprit; none on an observer.")],
};

/// Schemas that others refer to by name.
pub const SHARED: &[&Schema] = &[
    &Schema {
        name: "Peer",
        doc: "A peer and the link to it.",
        fields: &[
            always("ID", "PeerId", "Its name."),
            always("address", "string", "Address dialled."),
            always("type", "integer", "1 validator, 2 not."),
            always("organisation", "string", "Organisation."),
            super::route::sometimes("seat", "integer", "Seat in the replica set."),
            always("connected", "boolean", "Whether the link stands."),
            always("bytesSent", "integer", "Since start."),
            always("bytesReceived", "integer", "Since start."),
            always("dropped", "integer", "Messages dropped because a queue was full."),
        ],
    },
    &Schema {
        name: "Accusation",
        doc: "A piece of evidence against a validator.",
        fields: &[
            always("culprit", "integer", "Seat of the accused."),
            super::route::sometimes("offence", "string", "What the messages show, in words."),
            always("evidence", "base64", "Encoded evidence, for offline checks."),
        ],
    },
    &Schema {
        name: "PeerId",
        doc: "Name of a peer.",
        fields: &[always("name", "string", "Name within the organisation.")],
    },
];
