//! `/network/peers`: who this node knows and whether it is connected.

use serde::Serialize;

use crate::api::action::Action;
use crate::api::action::Answer;
use crate::api::action::Kind;
use crate::api::failure::Failure;
use crate::api::rest::route::Reply;
use crate::api::rest::route::Request;
use crate::api::rest::route::Route;
use crate::api::rest::route::Schema;
use crate::api::rest::route::Verb;
use crate::api::rest::route::always;
use crate::network::PeerStatus;

/// The rows.
pub const ROUTES: &[Route] = &[Route {
    verb: Verb::Get,
    path: "/network/peers",
    kind: Kind::Status,
    summary: "The nodes this one knows, itself left out.",
    query: &[],
    body: None,
    answer: &PEERS,
    run: |request| Box::pin(peers(request)),
}];

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

const VALIDATOR: u8 = 1;
const NON_VALIDATOR: u8 = 2;

/// Known peers.
pub const PEERS: Schema = Schema {
    name: "Peers",
    doc: "Known peers.",
    fields: &[always("peers", "[Peer]", "In the order of the configuration.")],
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
        name: "PeerId",
        doc: "Name of a peer.",
        fields: &[always("name", "string", "Name within the organisation.")],
    },
];
