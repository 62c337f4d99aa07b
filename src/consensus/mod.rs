//! Floor 2: consensus plug-ins behind one seam, `Core`.
//!
//! A core decides the order of proposals and nothing else. It does no IO, knows no clock, no
//! randomness, no keys, no threads, and iterates over no unordered map: the same inputs give the
//! same effects, byte for byte.
//!
//! ```text
//!            Input                                   Effect
//!  driver ---------->  core.step(input, effects)  ----------> driver (pipeline/order)
//!    ^   loopback: own messages come back, signed               |
//!    +----------------------------------------------------------+
//! ```
//!
//! The contract:
//! 1. The driver verifies every signature of a message before the core sees it (`Verified`), the
//!    ones nested in certificates included: the plug-in's `claims` function lists them.
//! 2. All `Persist` records of a step, and the signer's record of every slot, are durable before
//!    any message of that step leaves. A failed write stops the process.
//! 3. Own messages return through the loopback as inputs, signed, and are counted like those of
//!    others. A core never counts a message before it came back.
//! 4. `Deliver` is contiguous in sequence numbers, final, and carries its quorum certificate. The
//!    one exception: a null request may skip null requests below it that nobody holds any more; its
//!    certificate binds the last block's hash, so no block is skipped.
//! 5. After a restart the driver builds the core anew from the ledger's tip and the records that
//!    were persisted since the last `Compact`, in order, then announces every batch it still holds
//!    with `BatchAvailable`.
//! 6. A draft whose slot the guard holds another text for is not sent: the core hears `Refused`.
//! 7. A core bounds all its tables by the window and the number of replicas; a message outside is
//!    dropped.

pub mod evidence;
pub mod noops;
pub mod pbft;

use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::evidence::Judge;
use crate::types::batch::BatchRef;
use crate::types::block::Tip;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::genesis::ChainParameters;
use crate::types::ids::BatchId;
use crate::types::ids::ChainId;
use crate::types::ids::Epoch;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::proposal::Proposal;
use crate::types::replica_set::ReplicaSet;
use crate::types::verified::Verified;
use crate::types::vote;
use crate::types::vote::Slot;
use crate::types::vote_signature::Authority;
use crate::types::vote_signature::Bound;
use crate::types::vote_signature::Checks;
use crate::types::vote_signature::SignatureCheck;
use crate::types::vote_signature::VoteSignature;

/// A deterministic, synchronous consensus state machine.
pub trait Core: Send {
    /// Consumes one input and appends what the world must do, in order.
    fn step(&mut self, input: Input, effects: &mut Vec<Effect>);

    /// Where the replica stands, for status and metrics.
    fn status(&self) -> CoreStatus;

    /// Proof of the last stable checkpoint, where the plug-in has checkpoints and one exists.
    fn checkpoint(&self) -> Option<QuorumCertificate> {
        None
    }
}

/// What may happen to a core.
#[derive(Clone, Debug)]
pub enum Input {
    /// First input after building: arm timers, send again what the log shows as unfinished.
    Start,
    /// The body of a batch is held here and valid. May repeat; a repeat means nothing.
    BatchAvailable(BatchRef),
    /// A message whose signatures, nested ones included, were checked. Own messages arrive here
    /// too.
    Message(Verified<Envelope>),
    /// The guard holds another text for this slot, or has forgotten it: the draft was not signed
    /// and never will be. It happens after a crash that kept the guard's record and lost the
    /// core's; the text on record was then never sent, and nobody knows it any more.
    Refused(Slot),
    /// A timer ran out. A timer that was disarmed or armed again meanwhile does not fire.
    TimerFired(Timer),
    /// The driver's clock, milliseconds since 1970, given before other inputs; used for proposals
    /// and their bounds only.
    Clock(u64),
    /// A delivered proposal was executed here and its block is durable here.
    Executed(Executed),
    /// Blocks up to `tip` were fetched from others, verified and executed; nothing below matters
    /// any more. `checkpoint` is what the checkpoint vote for `tip.sequence` would sign.
    Restored { tip: Tip, checkpoint: Digest },
    /// These batches are in blocks that were fetched from others; given before `Restored`. Nobody
    /// needs to order them any more.
    BatchesCommitted(Vec<BatchId>),
}

/// What a core may ask of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append a record to the write-ahead log; durable before any message of this step leaves.
    Persist(LogRecord),
    /// The log may be replaced by these records: nothing older is needed.
    Compact(Vec<LogRecord>),
    /// Sign and send to one replica.
    Send { to: ReplicaId, message: Draft },
    /// Sign and send to all, self included (through the loopback).
    Broadcast(Draft),
    /// A vote that probably follows: a slow key may sign it meanwhile. Its signature must not leave
    /// before `Broadcast` comes with the same draft; until then it is no vote.
    Foresee(Draft),
    /// Send to one replica a message that is already signed, as it is (relay and retransmission).
    Forward { to: ReplicaId, message: Envelope },
    /// Fire `timer` after this many milliseconds; replaces an earlier setting of the same timer.
    Arm { timer: Timer, after_ms: u64 },
    /// Forget the timer.
    Disarm(Timer),
    /// The next sequence number is final.
    Deliver(Delivered),
    /// Ask these replicas for the body of a batch; answered by `BatchAvailable`. Asked again by the
    /// core if it stays away.
    FetchBatch { id: BatchId, from: Vec<ReplicaId> },
    /// This replica is behind: others committed up to `sequence`. Answered by `Restored`. The
    /// driver keeps trying until it is at least there; the core may repeat the effect, and may
    /// deliver some of these sequence numbers itself meanwhile: what is already executed here is
    /// not executed again.
    CatchUp { sequence: SequenceNumber, from: Vec<ReplicaId> },
    /// A replica broke the protocol provably; kept and exportable.
    Accuse(Evidence),
    /// A quorum computed another state after `sequence` than this replica did (`own`). The core
    /// votes for no commit and no checkpoint until `Restored` brings a state at or above
    /// `sequence`; the driver says so loudly and rebuilds from others.
    Diverged { sequence: SequenceNumber, own: Digest, certificate: QuorumCertificate },
}

/// A message before signing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What the signer's guard locks; `None` for messages that may differ for one slot (status,
    /// fetch).
    pub slot: Option<Slot>,
    /// The plug-in's bytes. The signed text is `vote::signed_text(chain, body)`.
    pub body: Bytes,
}

/// A signed message. Each plug-in decodes its own bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Who signed it; the driver also checks it against the connection where it comes straight
    /// from there.
    pub sender: ReplicaId,
    /// The plug-in's bytes.
    pub body: Bytes,
    /// Over `vote::signed_text(chain, body)`.
    pub signature: VoteSignature,
}

/// A record of the write-ahead log: the plug-in's bytes, opaque to the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord(pub Bytes);

/// A final proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The content; null requests are delivered too, so that sequence numbers stay contiguous.
    pub proposal: Proposal,
    /// A quorum of commit votes over the block hash (or the null digest).
    pub certificate: QuorumCertificate,
}

/// What execution tells the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The proposal that was executed.
    pub sequence: SequenceNumber,
    /// What a checkpoint vote for this sequence number signs (`receipt::checkpoint_digest`).
    pub checkpoint: Digest,
}

/// Timers of a core. Each has one setting at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A known batch is not committed in time: suspect the primary.
    Request,
    /// A demanded view does not start in time.
    ViewChange,
    /// Send again what others may have missed.
    Retransmit,
    /// Nothing to order: propose a null request so that an idle network stays checkable.
    NullRequest,
    /// The newest proposal has been out for the spacing: the next may go beside it.
    Proposal,
    /// Free for a plug-in's own purposes.
    Plugin(u8),
}

/// Proof that a replica broke the protocol: two signed statements that no correct replica makes
/// together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Who did it.
    pub culprit: ReplicaId,
    /// What it did, in a few words.
    pub offence: &'static str,
    /// The signed messages that prove it.
    pub messages: Vec<Envelope>,
}

/// Where a replica stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreStatus {
    /// Current view.
    pub view: View,
    /// False while a view change is under way.
    pub view_active: bool,
    /// Last delivered sequence number.
    pub delivered: SequenceNumber,
    /// Last stable checkpoint.
    pub stable: SequenceNumber,
    /// Batches known and not yet delivered.
    pub pending_batches: usize,
    /// Proof of that checkpoint; kept by the driver, a core leaves it out.
    pub proof: Option<Arc<QuorumCertificate>>,
}

/// Timings and depths a node may choose for itself; none affects safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// A known batch must commit within this time, milliseconds.
    pub request_timeout_ms: u64,
    /// First wait for a new view; doubles per failed view.
    pub view_change_timeout_ms: u64,
    /// Cap of all growing timeouts.
    pub timeout_ms_max: u64,
    /// Between retransmissions while something is unfinished.
    pub retransmit_ms: u64,
    /// Idle time after which the primary proposes a null request; 0 switches them off.
    pub null_request_ms: u64,
    /// Sequence numbers the primary keeps in flight.
    pub in_flight_max: u64,
    /// While a proposal is in flight, the primary begins another this much later than the last, or
    /// when the work that waits fills one; milliseconds, 0 begins at once.
    pub proposal_spacing_ms: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            request_timeout_ms: 2_000,
            view_change_timeout_ms: 2_000,
            timeout_ms_max: 16_000,
            retransmit_ms: 500,
            null_request_ms: 5_000,
            in_flight_max: limits::PROPOSALS_IN_FLIGHT,
            proposal_spacing_ms: limits::PROPOSAL_SPACING_MS,
        }
    }
}

/// From the one before to the k-th of `most` under way: (k / most)^2 of the spacing, a quarter at least,
/// in the spacing's unit.
pub fn distance(spacing: u64, kth: u64, most: u64) -> u64 {
    let grown = spacing.saturating_mul(kth.saturating_mul(kth)) / most.saturating_mul(most).max(1);
    grown.max(spacing / 4)
}

/// Everything a core is built from.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The network.
    pub chain: ChainId,
    /// This replica.
    pub me: ReplicaId,
    /// The replicas of the epoch.
    pub replicas: Arc<ReplicaSet>,
    /// Shared parameters.
    pub parameters: ChainParameters,
    /// This node's timings.
    pub tuning: Tuning,
    /// End of the chain that is executed and durable here.
    pub tip: Tip,
    /// What a checkpoint vote for `tip.sequence` signs.
    pub checkpoint: Digest,
    /// Records persisted since the last `Compact`, in order; stale ones are ignored.
    pub log: Vec<LogRecord>,
}

/// A signature inside a message that the driver must check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who is said to have signed.
    pub replica: ReplicaId,
    /// The exact text.
    pub text: Bytes,
    /// What the text speaks for.
    pub bound: Bound,
    /// The signature.
    pub signature: VoteSignature,
}

impl Claim {
    /// The signatures of a quorum certificate.
    pub fn of_certificate<'a>(
        chain: &ChainId,
        certificate: &'a QuorumCertificate,
    ) -> impl Iterator<Item = Self> + 'a {
        let text = vote::signed_text(chain, &certificate.vote.to_bytes());
        let bound = certificate.vote.slot.bound();
        certificate.signatures.iter().map(move |(replica, signature)| Self {
            replica: *replica,
            text: text.clone(),
            bound,
            signature: signature.clone(),
        })
    }

    /// The plain signatures that must hold, for a checker whose last stable checkpoint is `stable`.
    pub fn checks(
        &self,
        chain: &ChainId,
        replicas: &ReplicaSet,
        stable: SequenceNumber,
    ) -> Result<Checks, DecodeError> {
        let replica = replicas.get(self.replica);
        let replica = replica
            .ok_or(DecodeError::Invalid { field: "signer", reason: "not in the replica set" })?;
        let authority = Authority { chain, epoch: replicas.epoch(), key: &replica.key, stable };
        self.signature.checks(&authority, &self.text, self.bound)
    }

    /// Whether every plain signature holds by `verify`.
    pub fn holds(
        &self,
        chain: &ChainId,
        replicas: &ReplicaSet,
        verify: impl Fn(&SignatureCheck) -> bool,
    ) -> bool {
        // A checker that follows no chain has no stable checkpoint.
        let checks = self.checks(chain, replicas, SequenceNumber(0));
        checks.is_ok_and(|checks| checks.all().all(verify))
    }
}

/// Faults a plug-in survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultModel {
    /// None: development only.
    None,
    /// Replicas may stop.
    Crash,
    /// Replicas may lie.
    Byzantine,
}

/// A row of the plug-in table.
pub struct Plugin {
    /// Name in the genesis document.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Faults survived.
    pub faults: FaultModel,
    /// Least number of replicas.
    pub replicas_min: usize,
    /// Transactions of one sequence number, at most. A batch with more is none of this network:
    /// validators close smaller ones, and refuse a larger one as they refuse a bad signature.
    pub sequence_txs_max: usize,
    /// Builds a core; the caller has checked `replicas_min`.
    pub build: fn(Setup) -> Box<dyn Core>,
    /// Lists every signature a message carries, its own first. An error means the bytes are
    /// malformed: the driver drops the message and counts it against the connection it came
    /// from.
    pub claims: fn(&ChainId, &Envelope) -> Result<Vec<Claim>, DecodeError>,
    /// The slot that a message of that epoch fills: that of the draft it was signed as. None for
    /// messages that fill none, and for malformed bytes.
    pub slot: fn(Epoch, &Envelope) -> Option<Slot>,
    /// What messages prove against a replica, provided that every signature in them holds; none
    /// where they prove nothing. A function of its inputs alone, with no replica behind it.
    pub offence: fn(&Judge<'_>, ReplicaId, &[Envelope]) -> Option<&'static str>,
}

/// All consensus plug-ins.
pub const PLUGINS: &[Plugin] = &[pbft::PLUGIN, pbft::CLASSIC, noops::ROW];

/// The row of that name.
pub fn plugin(name: &str) -> Option<&'static Plugin> {
    PLUGINS.iter().find(|p| p.name == name)
}

impl Encode for Envelope {
    fn encode(&self, w: &mut Writer) {
        self.sender.encode(w);
        w.bytes(&self.body);
        self.signature.encode(w);
    }
}

impl Decode for Envelope {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            sender: ReplicaId::decode(r)?,
            body: r.bytes("consensus message", limits::CONSENSUS_MESSAGE_BYTES_MAX)?,
            signature: VoteSignature::decode(r)?,
        })
    }
}
