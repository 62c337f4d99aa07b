//! All that the outside may ask, in one enum, and who may ask it, in one table.
//!
//! REST and gRPC both turn a request into an `Action` and an `Answer` into bytes; neither can reach
//! the node in another way. What is not in `PERMISSIONS` is refused. The table is tested as a
//! matrix: every action against every role.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::api::auth::Caller;
use crate::api::scan::Scan;
use crate::ledger::LedgerError;
use crate::ledger::StatePage;
use crate::membership::identity::Role;
use crate::pipeline::handle::NodeStatus;
use crate::pipeline::publish::Committed;
use crate::pipeline::publish::Located;
use crate::pipeline::publish::Subscription;
use crate::pipeline::refusal::Refusal;
use crate::types::block::Block;
use crate::types::digest::Digest;
use crate::types::evidence::CheckpointProof;
use crate::types::evidence::ReceiptProof;
use crate::types::evidence::TransactionProof;
use crate::types::genesis::Genesis;
use crate::types::ids::BlockHash;
use crate::types::ids::ChainId;
use crate::types::ids::Height;
use crate::types::ids::ReplicaId;
use crate::types::ids::TxId;
use crate::types::receipt::BlockResult;
use crate::types::transaction::Transaction;

/// A question or a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// The end of the chain.
    Chain,
    /// The last stable checkpoint.
    Checkpoint,
    /// A block.
    Block(Height),
    /// A block's receipts and roots.
    Result(Height),
    /// A committed transaction.
    Transaction(TxId),
    /// A transaction's receipt, waiting for it at most this long.
    Receipt { id: TxId, wait: Duration },
    /// Evidence that a transaction is in its block.
    Proof(TxId),
    /// Admit a transaction.
    Submit { transaction: Box<Transaction>, certificate: Option<Bytes> },
    /// Admit many.
    SubmitMany(Vec<(Transaction, Option<Bytes>)>),
    /// Call a contract without writing.
    Query { chaincode: String, function: String, args: Vec<Bytes> },
    /// A key's value.
    State { chaincode: String, key: Bytes, proof: bool },
    /// A page of a contract's state.
    Scan(Box<Scan>),
    /// A key's past values, newest first.
    History { chaincode: String, key: Bytes, limit: usize },
    /// Follow the chain from a height.
    Follow(Height),
    /// Where the node stands.
    Status,
    /// The genesis document.
    Genesis,
    /// Evidence kept against replicas that broke the protocol.
    Accusations,
    /// Is the process alive?
    Alive,
    /// Does the node serve its purpose?
    Ready,
    /// The node's metrics.
    Metrics,
    /// The custodial logins of 2016.
    Registrar,
}

/// What comes back. One variant per kind of answer.
pub enum Answer {
    /// To `Chain`.
    Chain(ChainTip),
    /// To `Checkpoint`.
    Checkpoint(Arc<CheckpointProof>),
    /// To `Block`: the block and, of a newer block, its result. Height 0 has no block.
    Block { block: Arc<Block>, result: Arc<BlockResult> },
    /// To `Block` at height 0 and `Genesis`.
    Genesis(Arc<Genesis>),
    /// To `Result`.
    Result(Arc<BlockResult>),
    /// To `Transaction`.
    Transaction(Box<CommittedTransaction>),
    /// To `Receipt`.
    Receipt(Located),
    /// To `Proof`.
    Proof(Box<Evidence>),
    /// To `Submit`.
    Submitted(TxId),
    /// To `SubmitMany`, in the order asked.
    SubmittedMany(Vec<Result<TxId, Refusal>>),
    /// To `Query`: the value, and the height of the state it was read from.
    Value { height: Height, value: Bytes },
    /// To `State`.
    State(Box<StateValue>),
    /// To `Scan`.
    Page(Box<StatePage>),
    /// To `History`.
    History(Vec<PastValue>),
    /// To `Follow`.
    Follow(Follower),
    /// To `Accusations`: culprit by culprit.
    Accusations(Vec<AccusationEntry>),
    /// To `Status`.
    Status(Box<NodeStatus>),
    /// To `Alive`.
    Alive,
    /// To `Ready`: why not, empty when it is; and what is wrong although it may be.
    Ready { reasons: Vec<String>, warnings: Vec<String> },
    /// To `Metrics`: Prometheus text.
    Metrics(String),
}

/// A subscription with its place in the node's list of subscribers.
pub struct Follower {
    subscription: Subscription,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    pub(super) fn new(subscription: Subscription, place: OwnedSemaphorePermit) -> Self {
        Self { subscription, _place: place }
    }

    /// The next block, as soon as it is durable; `None` when the node stops. May be dropped while
    /// it waits: nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Arc<Committed>>, LedgerError> {
        self.subscription.next().await
    }
}

/// The end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainTip {
    /// The network.
    pub chain: ChainId,
    /// Height of the newest block; 0 before the first.
    pub height: Height,
    /// Its hash; the chain id at height 0.
    pub hash: BlockHash,
    /// Hash of the block below; none at height 0.
    pub previous: Option<BlockHash>,
}

/// A transaction in its place.
#[derive(Clone, Debug)]
pub struct CommittedTransaction {
    /// The transaction.
    pub transaction: Transaction,
    /// The creator's certificate, DER.
    pub certificate: Option<Bytes>,
    /// Its block.
    pub height: Height,
    /// Position in the block, from 0.
    pub index: u32,
    /// Time of the block, milliseconds since 1970.
    pub block_time_ms: u64,
}

/// Evidence that a transaction is in its block, and its receipt among the block's receipts.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The transaction's.
    pub transaction: TransactionProof,
    /// Position in the block, from 0.
    pub index: u32,
    /// The receipt's.
    pub receipt: ReceiptProof,
    /// Where the receipt's path leads.
    pub receipts_root: Digest,
}

/// A key's value.
#[derive(Clone, Debug)]
pub struct StateValue {
    /// Height the answer speaks about.
    pub height: Height,
    /// The value, where there is one.
    pub value: Option<Bytes>,
    /// Evidence, where asked for.
    pub proof: Option<StateEvidence>,
}

/// Evidence of a key's value or absence.
#[derive(Clone, Debug)]
pub struct StateEvidence {
    /// Root of the world state at the answer's height.
    pub state_root: Digest,
    /// Hash of the block at that height.
    pub hash: BlockHash,
    /// Root of its receipts.
    pub receipts_root: Digest,
    /// Encoded proof of the state tree.
    pub proof: Bytes,
    /// Checkpoint votes over that root, where a checkpoint covers the height.
    pub checkpoint: Option<Arc<CheckpointProof>>,
}

/// A piece of evidence that this node keeps.
#[derive(Clone, Debug)]
pub struct AccusationEntry {
    /// Seat of the accused replica.
    pub culprit: ReplicaId,
    /// What it did, in words; none where this build cannot read the piece.
    pub offence: Option<&'static str>,
    /// The evidence, encoded: judged offline against the genesis document.
    pub evidence: Bytes,
}

/// One past value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastValue {
    /// Block that wrote it.
    pub height: Height,
    /// Position of the writing transaction, from 0.
    pub index: u32,
    /// True where the transaction deleted the key.
    pub deleted: bool,
}

/// An action without its parameters: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `Chain`, `Checkpoint`, `Block`, `Result`, `Transaction`, `Receipt`, `Proof`, `Genesis`,
    /// `Accusations`.
    Ledger,
    /// `State`, `Scan`, `History`.
    State,
    /// `Query`.
    Query,
    /// `Submit`, `SubmitMany`.
    Submit,
    /// `Follow`.
    Follow,
    /// `Status`.
    Status,
    /// `Metrics`.
    Metrics,
    /// `Alive`, `Ready`.
    Health,
    /// `Registrar`.
    Registrar,
    /// No action: a route whose body says which action it is about.
    Envelope,
}

/// What callers without an identity may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Always allowed.
    Always,
    /// Allowed where the operator opened the node to callers without a certificate.
    WhenOpen,
    /// Needs an identity.
    Never,
}

/// One row: who may do it.
#[derive(Debug)]
pub struct Permission {
    /// What.
    pub kind: Kind,
    /// Members of these roles.
    pub roles: &'static [Role],
    /// Callers without an identity.
    pub anonymous: Anonymous,
}

const EVERY_ROLE: &[Role] = &Role::ALL;

/// Who may do what. A kind without a row is refused to everyone.
pub const PERMISSIONS: &[Permission] = &[
    Permission { kind: Kind::Ledger, roles: EVERY_ROLE, anonymous: Anonymous::WhenOpen },
    Permission { kind: Kind::State, roles: EVERY_ROLE, anonymous: Anonymous::WhenOpen },
    // A contract sees its caller, so there must be one.
    Permission { kind: Kind::Query, roles: EVERY_ROLE, anonymous: Anonymous::Never },
    // The signature inside is the authority for what the transaction does; the role of the
    // connection only says who may take up the node's time. Observers and auditors only read.
    Permission {
        kind: Kind::Submit,
        roles: &[Role::Client, Role::Admin, Role::Validator],
        anonymous: Anonymous::WhenOpen,
    },
    Permission { kind: Kind::Follow, roles: EVERY_ROLE, anonymous: Anonymous::WhenOpen },
    Permission { kind: Kind::Status, roles: EVERY_ROLE, anonymous: Anonymous::WhenOpen },
    Permission { kind: Kind::Metrics, roles: EVERY_ROLE, anonymous: Anonymous::WhenOpen },
    Permission { kind: Kind::Health, roles: EVERY_ROLE, anonymous: Anonymous::Always },
    Permission { kind: Kind::Registrar, roles: EVERY_ROLE, anonymous: Anonymous::Always },
    // Old clients expect an answer in the form of the envelope, a refusal included.
    Permission { kind: Kind::Envelope, roles: EVERY_ROLE, anonymous: Anonymous::Always },
];

impl Action {
    /// The row of the table it falls under.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Chain
            | Self::Checkpoint
            | Self::Block(_)
            | Self::Result(_)
            | Self::Transaction(_)
            | Self::Receipt { .. }
            | Self::Proof(_)
            | Self::Genesis
            | Self::Accusations => Kind::Ledger,
            Self::State { .. } | Self::Scan(_) | Self::History { .. } => Kind::State,
            Self::Query { .. } => Kind::Query,
            Self::Submit { .. } | Self::SubmitMany(_) => Kind::Submit,
            Self::Follow(_) => Kind::Follow,
            Self::Status => Kind::Status,
            Self::Metrics => Kind::Metrics,
            Self::Alive | Self::Ready => Kind::Health,
            Self::Registrar => Kind::Registrar,
        }
    }
}

impl Kind {
    /// All kinds, for tests and documents.
    pub const ALL: [Self; 10] = [
        Self::Ledger,
        Self::State,
        Self::Query,
        Self::Submit,
        Self::Follow,
        Self::Status,
        Self::Metrics,
        Self::Health,
        Self::Registrar,
        Self::Envelope,
    ];

    /// Whether `caller` may do this; `open` says whether the operator opened the node.
    pub fn allows(self, caller: &Caller, open: bool) -> bool {
        let Some(row) = PERMISSIONS.iter().find(|p| p.kind == self) else { return false };
        match caller {
            Caller::Member(member) => row.roles.contains(&member.role),
            Caller::Anonymous => match row.anonymous {
                Anonymous::Always => true,
                Anonymous::WhenOpen => open,
                Anonymous::Never => false,
            },
        }
    }
}
