//! `/status`, `/healthz`, `/readyz`, `/metrics`: for operators and their machines.

use serde::Serialize;

use crate::api::action::Action;
use crate::api::action::Answer;
use crate::api::action::Kind;
use crate::api::failure::Failure;
use crate::api::rest::network::PeerBody;
use crate::api::rest::route::Reply;
use crate::api::rest::route::Request;
use crate::api::rest::route::Route;
use crate::api::rest::route::Schema;
use crate::api::rest::route::Verb;
use crate::api::rest::route::always;
use crate::api::rest::route::sometimes;
use crate::api::status::Summary;
use crate::telemetry::metrics;

/// The rows.
pub const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/status",
        kind: Kind::Status,
        summary: "Where the node stands.",
        query: &[],
        body: None,
        answer: &STATUS,
        run: |request| Box::pin(status(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/healthz",
        kind: Kind::Health,
        summary: "200 while the process serves requests.",
        query: &[],
        body: None,
        answer: &HEALTH,
        run: |request| Box::pin(healthz(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/readyz",
        kind: Kind::Health,
        summary: "200 when the node takes transactions, else 503 with the reasons.",
        query: &[],
        body: None,
        answer: &READINESS,
        run: |request| Box::pin(readyz(request)),
    },
    Route {
        verb: Verb::Get,
        path: "/metrics",
        kind: Kind::Metrics,
        summary: "All metrics as OpenMetrics text.",
        query: &[],
        body: None,
        answer: &METRICS,
        run: |request| Box::pin(metrics(request)),
    },
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusBody {
    #[serde(flatten)]
    summary: Summary,
    peers: Vec<PeerBody>,
}

#[derive(Serialize)]
struct HealthBody {
    status: &'static str,
}

#[derive(Serialize)]
struct ReadinessBody {
    ready: bool,
    reasons: Vec<String>,
    warnings: Vec<String>,
}

async fn status(request: Request) -> Result<Reply, Failure> {
    match request.perform(Action::Status).await? {
        Answer::Status(status) => Reply::json(&StatusBody {
            peers: status.peers.iter().map(PeerBody::from).collect(),
            summary: Summary::from(&*status),
        }),
        _ => Err(Failure::internal("not a status")),
    }
}

async fn healthz(request: Request) -> Result<Reply, Failure> {
    request.perform(Action::Alive).await?;
    Reply::json(&HealthBody { status: "OK" })
}

async fn readyz(request: Request) -> Result<Reply, Failure> {
    match request.perform(Action::Ready).await? {
        Answer::Ready { reasons, warnings } => {
            let (ready, status) = if reasons.is_empty() { (true, 200) } else { (false, 503) };
            Reply::json_with_status(status, &ReadinessBody { ready, reasons, warnings })
        }
        _ => Err(Failure::internal("not a readiness")),
    }
}

async fn metrics(request: Request) -> Result<Reply, Failure> {
    match request.perform(Action::Metrics).await? {
        Answer::Metrics(text) => Ok(Reply::text(metrics::CONTENT_TYPE, text)),
        _ => Err(Failure::internal("not metrics")),
    }
}

/// Status.
pub const STATUS: Schema = Schema {
    name: "Status",
    doc: "Where the node stands.",
    fields: &[
        always("network", "string", "Name of the network."),
        always("chain", "hex", "Chain id."),
        always("version", "string", "Version of the program."),
        sometimes("seat", "integer", "Seat in the replica set; none on an observer."),
        always("height", "integer", "Height of the newest durable block."),
        always("blockHash", "hex", "Its hash."),
        always("stateRoot", "hex", "Root of the world state."),
        always("view", "integer", "Current view."),
        always("viewActive", "boolean", "False during a view change."),
        sometimes("primary", "integer", "Seat of the view's primary."),
        always("sequence", "integer", "Last delivered sequence number."),
        always("stableCheckpoint", "integer", "Sequence number of the last stable checkpoint."),
        always("ready", "boolean", "Whether the node takes transactions."),
        always("reasons", "[string]", "Why not."),
        always("queues", "[Queue]", "What waits where."),
        always("peers", "[Peer]", "Links."),
    ],
};

/// Liveness.
pub const HEALTH: Schema = Schema {
    name: "Health",
    doc: "The process serves requests.",
    fields: &[always("status", "string", "OK.")],
};

/// Readiness.
pub const READINESS: Schema = Schema {
    name: "Readiness",
    doc: "Whether the node takes transactions.",
    fields: &[
        always("ready", "boolean", "True when it does."),
        always("reasons", "[string]", "Why not."),
        always(
            "warnings",
            "[string]",
            "What is wrong although it does, such as a crypto provider in quarantine.",
        ),
    ],
};

/// Metrics are text, not JSON.
pub const METRICS: Schema = Schema { name: "Metrics", doc: "OpenMetrics text.", fields: &[] };

/// Schemas that others refer to by name.
pub const SHARED: &[&Schema] = &[&Schema {
    name: "Queue",
    doc: "A bounded queue.",
    fields: &[
        always("name", "string", "Which."),
        always("depth", "integer", "Entries or bytes now."),
        always("limit", "integer", "At most."),
    ],
}];
