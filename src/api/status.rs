//! How a node stands, in the words of its interfaces.

use serde::Serialize;

use crate::pipeline::handle::NodeStatus;
use crate::types::limits;

/// Where a node stands, without its links.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Name of the network.
    pub network: String,
    /// Chain id, hex.
    pub chain: String,
    /// Version of the program.
    pub version: &'static str,
    /// Seat in the replica set; none on an observer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seat: Option<u16>,
    /// Height of the newest durable block.
    pub height: u64,
    /// Its hash, hex.
    pub block_hash: String,
    /// Root of the world state, hex.
    pub state_root: String,
    /// Current view.
    pub view: u64,
    /// False during a view change.
    pub view_active: bool,
    /// Seat of the view's primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<u16>,
    /// Last delivered sequence number.
    pub sequence: u64,
    /// Sequence number of the last stable checkpoint.
    pub stable_checkpoint: u64,
    /// Whether the node takes transactions.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What waits where.
    pub queues: Vec<Queue>,
}

/// A bounded queue.
#[derive(Clone, Debug, Serialize)]
pub struct Queue {
    /// Which.
    pub name: &'static str,
    /// Entries or bytes now.
    pub depth: usize,
    /// At most.
    pub limit: usize,
}

impl From<&NodeStatus> for Summary {
    fn from(status: &NodeStatus) -> Self {
        let queue = |name, depth, limit| Queue { name, depth, limit };
        Self {
            network: status.network.clone(),
            chain: status.chain.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            seat: status.replica.map(|id| id.0),
            height: status.height.0,
            block_hash: status.block_hash.to_string(),
            state_root: status.state_root.to_string(),
            view: status.core.view.0,
            view_active: status.core.view_active,
            primary: status.primary.map(|id| id.0),
            sequence: status.core.delivered.0,
            stable_checkpoint: status.core.stable.0,
            ready: status.not_ready.is_empty(),
            reasons: status.not_ready.clone(),
            queues: vec![
                queue("mempool_transactions", status.mempool, limits::MEMPOOL_TXS_MAX),
                queue(
                    "pending_batch_bytes",
                    status.pending_batch_bytes,
                    limits::PENDING_BATCH_BYTES_MAX,
                ),
            ],
        }
    }
}
