//! Floor 2: PBFT, practical Byzantine fault tolerance: a quorum of replicas agrees on one order
//! while at most f = floor((n-1)/3) of them lie. Below four replicas f is 0: development only.
//!
//! | message | body | slot | sent when |
//! | --- | --- | --- | --- |
//! | pre-prepare | view, proposal | view, n | the primary has batches and room in the pipe |
//! | prepare | vote, proposal digest | view, n | the assignment is accepted, all bodies are here |
//! | commit | vote, block hash | view, n | n is prepared, and all below it |
//! | checkpoint | vote, state digest | 0, n | n was executed, n a multiple of the interval |
//! | view-change | stable proof, prepared certificates | view, 0 | the primary is suspected |
//! | new-view | a quorum of view-changes, assignments | view, 0 | the next primary has them |
//! | status | where a replica stands | none | something is unfinished |
//! | stable, committed | certificates | none | an answer to a status |
//!
//! 1. The primary assigns batches to the next sequence number n <= H (`normal::propose`).
//! 2. A backup accepts assignments in order of n, gets missing bodies, records its vote, prepares.
//! 3. A quorum of prepares makes n prepared; its certificate is recorded before the commit vote.
//! 4. A quorum of commits makes n final; it is delivered once n-1 is.
//! 5. Execution reports back; every interval a checkpoint is voted, and a quorum moves h
//!    (`checkpoint`).
//! 6. Who waits too long demands the next view (`pace`, `view_change`); its primary assigns again
//!    what was prepared, with the same content, and null requests in the gaps.
//! 7. Who misses something says where it stands and gets it (`catch_up`).
//! 8. After a restart the log gives back every vote that counts (`recovery`).
//!
//! Deviations from the paper:
//! * Prepare votes agree on the proposal, commit votes sign the block hash, which binds the chain
//!   below. So commits are cast without gaps, and one commit certificate proves a whole prefix.
//! * The primary votes prepare as backups do; a prepared certificate is a quorum of equal votes.
//! * Pre-prepares are accepted in order of sequence number, and block time never runs backwards.
//! * Replicas, not clients, hold requests in custody: a batch every replica knows is timed by every
//!   replica.
//! * A replica that hears no quorum does not suspect: cut off, it stays in its view and comes back
//!   as a laggard instead of alone in a higher view.
//! * A replica that waits alone in a higher view for long is joined there, ever more rarely.
//! * A demand for a view that the guard refuses, because a crash lost the record of an earlier one,
//!   is given up for a demand for the next view: the demand on record never left.
//! * The primary of a view that others left hears from them where they stand; who sees f+1 others
//!   in a higher view asks for its new-view.
//! * A later null request's certificate lets a laggard skip the null requests below it: it binds
//!   the hash of the last block.
//! * Where view-changes bring back two proposals with one batch, the upper one becomes a null
//!   request: it cannot have been committed.
//! * Status and committed messages replace the client's retransmission.
//!
//! Sources: Castro and Liskov, "Practical Byzantine Fault Tolerance", OSDI 1999, and "... and
//! Proactive Recovery", ACM TOCS 20(4), 2002.

mod batches;
mod catch_up;
mod checkpoint;
mod evidence;
mod log;
mod message;
mod normal;
mod pace;
mod recovery;
mod view_change;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::Core;
use crate::consensus::CoreStatus;
use crate::consensus::Delivered;
use crate::consensus::Draft;
use crate::consensus::Effect;
use crate::consensus::Envelope;
use crate::consensus::Evidence;
use crate::consensus::FaultModel;
use crate::consensus::Input;
use crate::consensus::Plugin;
use crate::consensus::Setup;
use crate::consensus::Tuning;
use crate::consensus::pbft::batches::Batches;
use crate::consensus::pbft::checkpoint::Checkpoints;
use crate::consensus::pbft::log::Log;
use crate::consensus::pbft::message::Message;
use crate::consensus::pbft::message::ViewChange;
use crate::consensus::pbft::pace::Pace;
use crate::types::block::Tip;
use crate::types::certificate::QuorumCertificate;
use crate::types::codec::Encode;
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
use crate::types::vote::Phase;
use crate::types::vote::Slot;
use crate::types::vote::Vote;

/// The row of the plug-in table: many transactions for one sequence number.
pub const PLUGIN: Plugin = Plugin {
    name: "pbft",
    summary: "Byzantine agreement in three message delays; f = floor((n-1)/3), so none below four",
    faults: FaultModel::Byzantine,
    replicas_min: 1,
    sequence_txs_max: limits::SEQUENCE_TXS_MAX,
    build: |setup| Box::new(Pbft::new(setup, limits::SEQUENCE_TXS_MAX)),
    claims: message::claims,
    slot: message::slot,
    offence: evidence::offence,
};

/// The same core with one transaction for each sequence number, as the protocol was published.
pub const CLASSIC: Plugin = Plugin {
    name: "classic",
    summary: "pbft with one transaction for each sequence number, for comparison",
    sequence_txs_max: 1,
    build: |setup| Box::new(Pbft::new(setup, 1)),
    ..PLUGIN
};

/// A PBFT replica.
#[derive(Debug)]
pub struct Pbft {
    chain: ChainId,
    me: ReplicaId,
    replicas: Arc<ReplicaSet>,
    parameters: ChainParameters,
    tuning: Tuning,
    /// Transactions of one sequence number, at most.
    sequence_txs_max: usize,
    /// Sequence numbers between the watermarks.
    window: u64,
    /// The driver's clock, milliseconds since 1970.
    clock_ms: u64,
    /// The view taken part in, or demanded where it is not active.
    view: View,
    view_active: bool,
    /// End of what was delivered.
    tip: Tip,
    /// Last sequence number whose execution is durable here; never above the tip.
    executed: SequenceNumber,
    log: Log,
    batches: Batches,
    checkpoints: Checkpoints,
    /// Pre-prepares whose turn has not come, at most one of each replica and sequence number.
    early: BTreeMap<(ReplicaId, SequenceNumber), Early>,
    /// Committed proposals that others sent, within one window above the tip.
    finals: BTreeMap<SequenceNumber, Final>,
    /// The last null request delivered.
    last_null: Option<Delivered>,
    /// Certificate of the last null request executed: what a restart needs in place of a block.
    executed_null: Option<QuorumCertificate>,
    /// A later null request that proves that no block lies between the tip and it.
    null_ahead: Option<Delivered>,
    /// Last sequence number this replica assigned, or the new-view did, in the view.
    proposed: SequenceNumber,
    /// The highest view-change of each replica for a view that has not begun.
    view_changes: BTreeMap<ReplicaId, (Envelope, ViewChange)>,
    /// Body of the own view-change while the view is not active.
    own_view_change: Option<Bytes>,
    /// What began the view; none in view 0.
    new_view: Option<Envelope>,
    /// Last sequence number that the new-view assigned.
    new_view_top: Option<SequenceNumber>,
    /// View for which this replica sent a new-view.
    composed: Option<View>,
    /// Highest sequence number each other replica says it delivered.
    ahead: BTreeMap<ReplicaId, SequenceNumber>,
    /// Highest view each other replica was seen to take part in.
    views: BTreeMap<ReplicaId, View>,
    /// For each replica alone in a higher view: ticks it waits, and times it was joined.
    lone: BTreeMap<ReplicaId, (u64, u32)>,
    /// Catch-ups that each such word led to since the last delivery.
    doubts: BTreeMap<ReplicaId, u32>,
    /// Offences already reported.
    accused: BTreeSet<(ReplicaId, &'static str)>,
    pace: Pace,
}

/// A pre-prepare that waits for its turn or its view.
#[derive(Debug)]
struct Early {
    view: View,
    proposal: Proposal,
    envelope: Envelope,
}

/// A committed proposal that another replica sent.
#[derive(Debug)]
struct Final {
    delivered: Delivered,
    missing: BTreeSet<BatchId>,
    fetches: u32,
}

impl Pbft {
    /// A replica as its ledger and its log left it.
    pub fn new(setup: Setup, sequence_txs_max: usize) -> Self {
        let window = log::fitting_window(&setup.parameters, &setup.replicas);
        let tip = setup.tip;
        let mut replica = Self {
            chain: setup.chain,
            me: setup.me,
            replicas: setup.replicas,
            parameters: setup.parameters,
            tuning: setup.tuning,
            sequence_txs_max,
            window,
            clock_ms: 0,
            view: View(0),
            view_active: true,
            tip,
            executed: tip.sequence,
            log: Log::new(SequenceNumber(0), window),
            batches: Batches::default(),
            checkpoints: Checkpoints::default(),
            early: BTreeMap::new(),
            finals: BTreeMap::new(),
            last_null: None,
            executed_null: None,
            null_ahead: None,
            proposed: SequenceNumber(0),
            view_changes: BTreeMap::new(),
            own_view_change: None,
            new_view: None,
            new_view_top: None,
            composed: None,
            ahead: BTreeMap::new(),
            views: BTreeMap::new(),
            lone: BTreeMap::new(),
            doubts: BTreeMap::new(),
            accused: BTreeSet::new(),
            pace: Pace::new(tip.sequence),
        };
        replica.replay(&setup.log);
        replica.recall_checkpoint(tip.sequence, setup.checkpoint);
        replica
    }

    fn on_message(&mut self, envelope: Envelope, effects: &mut Vec<Effect>) {
        let sender = envelope.sender;
        if self.replicas.get(sender).is_none() {
            return;
        }
        let Ok((epoch, message)) = Message::from_body(&envelope.body) else { return };
        if epoch != self.replicas.epoch() {
            return;
        }
        self.pace.heard.insert(sender);
        match message {
            Message::PrePrepare { view, proposal } => {
                self.note_view(sender, view);
                self.on_pre_prepare(envelope, view, proposal, effects);
            }
            Message::Vote(vote) if vote.slot.phase == Phase::Checkpoint => {
                self.on_checkpoint_vote(&envelope, vote, effects);
            }
            Message::Vote(vote) => {
                self.note_view(sender, vote.slot.view);
                self.on_agreement_vote(&envelope, vote, effects);
            }
            Message::ViewChange(message) => self.on_view_change(envelope, message, effects),
            Message::NewView(message) => self.on_new_view(envelope, &message, effects),
            Message::Status(status) => self.on_status(sender, &status, effects),
            Message::Stable(certificate) => self.on_stable(certificate, effects),
            Message::Committed { proposal, certificate } => {
                self.on_committed(proposal, certificate, effects);
            }
        }
    }

    /// Reports an offence, once per replica and kind.
    fn accuse(
        &mut self,
        culprit: ReplicaId,
        offence: &'static str,
        messages: Vec<Envelope>,
        effects: &mut Vec<Effect>,
    ) {
        if self.accused.insert((culprit, offence)) {
            effects.push(Effect::Accuse(Evidence { culprit, offence, messages }));
        }
    }

    fn window(&self) -> u64 {
        self.window
    }

    /// True for the primary of a view that has begun.
    fn is_active_primary(&self) -> bool {
        self.view_active && self.replicas.primary(self.view) == self.me
    }

    fn slot(&self, phase: Phase, view: View, sequence: SequenceNumber) -> Slot {
        slot(self.replicas.epoch(), phase, view, sequence)
    }

    fn draft(&self, slot: Option<Slot>, message: &Message) -> Draft {
        Draft { slot, body: message.to_body(self.replicas.epoch()) }
    }
}

impl Core for Pbft {
    fn step(&mut self, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Clock(clock_ms) => {
                self.clock_ms = clock_ms;
                return;
            }
            Input::Start => self.on_start(effects),
            Input::BatchAvailable(reference) => self.on_batch_available(reference),
            Input::Message(message) => self.on_message(message.into_inner(), effects),
            Input::Refused(slot) => self.on_refused(slot, effects),
            Input::TimerFired(timer) => self.on_timer(timer, effects),
            Input::Executed(executed) => self.on_executed(executed, effects),
            Input::Restored { tip, checkpoint } => self.on_restored(tip, checkpoint, effects),
            Input::BatchesCommitted(batches) => self.on_batches_committed(batches),
        }
        self.progress(effects);
        self.settle_timers(effects);
    }

    fn status(&self) -> CoreStatus {
        CoreStatus {
            view: self.view,
            view_active: self.view_active,
            delivered: self.tip.sequence,
            stable: self.log.low(),
            pending_batches: self.batches.len(),
            proof: None,
        }
    }

    fn checkpoint(&self) -> Option<QuorumCertificate> {
        self.checkpoints.stable.clone()
    }
}

fn slot(epoch: Epoch, phase: Phase, view: View, sequence: SequenceNumber) -> Slot {
    Slot { epoch, view, sequence, phase }
}

/// A vote before signing: its body is the vote, its slot is the vote's.
fn vote_draft(vote: Vote) -> Draft {
    Draft { slot: Some(vote.slot), body: vote.to_bytes() }
}

#[cfg(test)]
mod tests;
