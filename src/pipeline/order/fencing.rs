//! Whether this validator may vote: what it and its peers saw of its key, against its record.
//!
//! ```text
//!    .---- at the start; whenever another process has opened the record (from any stage)
//!    v
//! starting --- own votes and those that f+1 peers show are on record ---> voting
//!     |                                                              |
//!     |  a vote is shown that is not on record                       |  the same
//!     v                                                              v
//! fenced: the record refuses all below (newest vote shown + 2 windows), new identity, epoch + 1;
//!     |   in silence until nothing new was shown for FENCE_HOLD_MS and f+1 peers say so again
//!     +---> voting; an unknown vote after that: another signer uses the key ---> stopped
//! ```
//!
//! A record may lack votes because it was restored from a backup, or lost, or because another
//! signer uses the key. A signer that was started again may have another record than before, so
//! what was compared counts for one opening of the record (`Signer::opening`). While fenced, this
//! node signs nothing that fills a slot; so newer votes of its key mean a live other one, and the
//! silence lasts for as long as it lives. `obelisk signer renew` ends `stopped`.
//!
//! Place: a thread beside the consensus driver, which holds back its votes while `Gate` is closed.
//! That only saves questions: the guard itself signs no slot before `settle`, which ends `starting`
//! and the silence, and which it takes for its own opening alone. So a vote on its way to a signer
//! that was replaced meanwhile is refused there, and asked again. Progress does not depend on all
//! this: a quorum needs more than f others, and each of them answers.
//!
//! Invariants:
//! * The gate opens, and the guard is settled, only after answers; without peers (n = 1) after the
//!   own votes alone: those this process got signed or was shown, and those in its last block's
//!   certificate.
//! * Own votes are compared when the gate is closed and no round is inside any more. Each was noted
//!   before it left its round, so none that this process sent is missing.
//! * What a peer shows counts only where this replica's key signed it, so a peer can withhold and
//!   not invent. Nothing here waits for one peer.
//!
//! Failure: a signer that is away leaves the gate as it is. What peers showed is kept among the own
//! votes, and asked again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::Instant;

use crossbeam_channel::Receiver;
use crossbeam_channel::RecvTimeoutError;

use crate::consensus::CoreStatus;
use crate::consensus::Envelope;
use crate::network::Message;
use crate::network::Transport;
use crate::pipeline::order::witness::Witnesses;
use crate::pipeline::verification::Verification;
use crate::signer::SignError;
use crate::signer::Signer;
use crate::signer::guard::format::Floor;
use crate::signer::guard::standing::Opening;
use crate::signer::guard::standing::RecordCall;
use crate::signer::guard::standing::Standing;
use crate::telemetry::metrics::Metrics;
use crate::types::digest::Digest;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;
use crate::types::vote;
use crate::types::vote::Slot;

/// Whether votes may be signed; open where nobody closes it.
#[derive(Debug, Default)]
pub struct Gate(Mutex<Passage>);

#[derive(Debug, Default)]
struct Passage {
    /// Why it is closed.
    closed: Option<String>,
    /// Rounds with votes that entered and have not left.
    inside: usize,
    /// The record's floor: votes below it are refused.
    floor: SequenceNumber,
}

impl Gate {
    /// True where votes may be signed.
    pub fn is_open(&self) -> bool {
        self.lock().closed.is_none()
    }

    /// Enters with a round of votes where it is open; then `leave` must follow.
    pub fn enter(&self) -> bool {
        let mut passage = self.lock();
        let is_open = passage.closed.is_none();
        passage.inside += usize::from(is_open);
        is_open
    }

    /// The votes of a round that entered are signed, or are not, and are noted.
    pub fn leave(&self) {
        self.lock().inside -= 1;
    }

    /// Why a network that delivered up to `delivered` gets no votes, for people.
    pub fn reason(&self, delivered: SequenceNumber) -> Option<String> {
        let passage = self.lock();
        let below = delivered.0.saturating_add(1) < passage.floor.0;
        passage.closed.clone().or_else(|| {
            below.then(|| {
                format!(
                    "votes begin again at sequence number {}, the fence of this key's record; \
                     the network is at {delivered}",
                    passage.floor
                )
            })
        })
    }

    /// Nothing is signed until `open`.
    pub fn close(&self, reason: String) {
        self.lock().closed = Some(reason);
    }

    fn open(&self) {
        self.lock().closed = None;
    }

    /// Closed, and whatever entered before has left.
    pub fn is_empty(&self) -> bool {
        let passage = self.lock();
        passage.closed.is_some() && passage.inside == 0
    }

    fn lock(&self) -> MutexGuard<'_, Passage> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// What the thread consumes: a peer's answer.
pub struct Shown {
    /// The peer.
    pub from: ReplicaId,
    /// What it saw of this replica's key; not checked.
    pub envelopes: Vec<Envelope>,
}

/// Parts of the thread.
pub struct Parts {
    /// This replica.
    pub me: ReplicaId,
    /// Checks what peers show.
    pub verification: Arc<Verification>,
    /// What this node saw itself.
    pub witnesses: Arc<Witnesses>,
    /// The record.
    pub signer: Arc<dyn Signer>,
    /// Links to the others.
    pub transport: Arc<dyn Transport>,
    /// Held closed while votes may not be signed.
    pub gate: Arc<Gate>,
    /// Where the core stands.
    pub core: Arc<Mutex<CoreStatus>>,
    /// Sequence numbers of the chain's window.
    pub window: u64,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// The running thread.
pub struct Fencing {
    parts: Parts,
    stage: Stage,
    /// The opening of the record that the stage is about.
    opening: Opening,
    /// Peers that answered since the stage, or its silence, began; and whose answers were looked at
    /// by the signer.
    answered: BTreeSet<ReplicaId>,
    asked: Option<Instant>,
    /// The record was fenced since it was opened.
    was_fenced: bool,
    /// The votes that this node itself knows of were looked at.
    own_looked_at: bool,
}

enum Stage {
    Starting,
    Voting,
    Fenced { began: Instant, silent_since: Instant, newest: Newest, is_live: bool },
    Stopped,
}

/// The newest vote shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Newest {
    sequence: SequenceNumber,
    view: View,
}

impl Newest {
    fn of(shown: &[(Slot, Digest)]) -> Self {
        let sequence = shown.iter().map(|(slot, _)| slot.sequence).max().unwrap_or_default();
        let view = shown.iter().map(|(slot, _)| slot.view).max().unwrap_or_default();
        Self { sequence, view }
    }

    fn with(self, other: Self) -> Self {
        Self { sequence: self.sequence.max(other.sequence), view: self.view.max(other.view) }
    }
}

impl Fencing {
    /// A thread over its parts; the gate is closed from now on.
    pub fn new(parts: Parts) -> Self {
        let fencing = Self {
            opening: parts.signer.opening(),
            parts,
            stage: Stage::Starting,
            answered: BTreeSet::new(),
            asked: None,
            was_fenced: false,
            own_looked_at: false,
        };
        fencing.tell();
        fencing
    }

    /// Runs until the senders are gone.
    pub fn run(mut self, inputs: &Receiver<Shown>) {
        loop {
            self.notice();
            if !self.own_looked_at && self.parts.gate.is_empty() {
                let own = self.parts.witnesses.of(self.parts.me);
                self.own_looked_at = self.look_at(own).is_ok();
            }
            self.advance();
            self.ask();
            match inputs.recv_timeout(TICK) {
                Ok(Shown { from, envelopes }) => match self.look_at(envelopes) {
                    Ok(()) if self.own_looked_at => {
                        self.answered.insert(from);
                    }
                    Ok(()) => {}
                    // What was shown is among the own votes now.
                    Err(_) => self.own_looked_at = false,
                },
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Begins anew where another process has opened the record: it may be another record.
    fn notice(&mut self) {
        let opening = self.parts.signer.opening();
        if opening == self.opening {
            return;
        }
        tracing::info!("the signer was started again: its record is compared before it signs");
        (self.opening, self.stage) = (opening, Stage::Starting);
        self.answered.clear();
        (self.asked, self.was_fenced, self.own_looked_at) = (None, false, false);
        self.tell();
    }

    /// Tells the record that the stage is about.
    fn record(&self, call: &RecordCall) -> Result<Standing, SignError> {
        let answer = self.parts.signer.record(self.opening, call)?;
        self.parts.gate.lock().floor = answer.floor;
        Ok(answer.standing)
    }

    /// Asks the peers that are connected, when it is time.
    fn ask(&mut self) {
        let pause = Duration::from_millis(match self.stage {
            Stage::Starting => limits::WITNESS_RETRY_MS,
            Stage::Fenced { .. } => limits::WITNESS_RETRY_MS * 10,
            Stage::Voting | Stage::Stopped => limits::WITNESS_INTERVAL_MS,
        });
        if self.asked.is_some_and(|asked| asked.elapsed() < pause) {
            return;
        }
        self.asked = Some(Instant::now());
        for link in self.parts.transport.peers() {
            if let (true, Some(replica)) = (link.connected, link.peer.replica) {
                self.parts.transport.send(replica, Message::WitnessRequest);
            }
        }
    }

    /// Has the signer look at what was shown.
    fn look_at(&mut self, envelopes: Vec<Envelope>) -> Result<(), SignError> {
        let shown = self.signed_by_me(envelopes);
        let newest = Newest::of(&shown);
        match self.record(&RecordCall::Examine(shown))? {
            Standing::Complete => self.hear(newest),
            Standing::Incomplete => self.on_incomplete(newest)?,
            Standing::Stopped => self.stop(),
        }
        Ok(())
    }

    /// The slots and texts that this replica's key signed, among what a peer shows.
    fn signed_by_me(&self, envelopes: Vec<Envelope>) -> Vec<(Slot, Digest)> {
        let verification = &self.parts.verification;
        let mut shown = Vec::new();
        for envelope in envelopes.into_iter().take(limits::WITNESS_ENVELOPES_MAX) {
            let slot = (verification.plugin.slot)(verification.replicas.epoch(), &envelope);
            let (Some(slot), true) = (slot, envelope.sender == self.parts.me) else { continue };
            let text = vote::signed_text(&verification.chain, &envelope.body);
            if let Ok(envelope) = verification.envelope(envelope) {
                self.parts.witnesses.signed(slot, &envelope);
                shown.push((slot, Digest::of(&[&text])));
            }
        }
        shown
    }

    /// Nothing unknown was shown; while fenced, a newer vote is somebody else's.
    fn hear(&mut self, shown: Newest) {
        if let Stage::Fenced { began, silent_since, newest, is_live } = &mut self.stage {
            let heard = newest.with(shown);
            if heard != *newest {
                *is_live |= began.elapsed() > SETTLING;
                (*silent_since, *newest) = (Instant::now(), heard);
                self.answered.clear();
                self.tell();
            }
        }
    }

    fn on_incomplete(&mut self, shown: Newest) -> Result<(), SignError> {
        match self.stage {
            Stage::Fenced { newest, .. } => {
                if newest.with(shown) != newest {
                    let floor = self.floor(newest.with(shown));
                    self.record(&RecordCall::Fence(floor))?;
                }
                self.hear(shown);
                return Ok(());
            }
            Stage::Voting if self.was_fenced => {
                self.parts.gate.close(STOPPED.to_owned());
                self.record(&RecordCall::Stop)?;
                self.stop();
                return Ok(());
            }
            // A stopped record is incomplete after an operator's word.
            Stage::Starting | Stage::Voting | Stage::Stopped => {}
        }
        self.parts.gate.close(FENCED.to_owned());
        let delivered = self.parts.core.lock().expect("no holder panics").delivered;
        let newest = shown.with(Newest { sequence: delivered, view: View(0) });
        let floor = self.floor(newest);
        self.record(&RecordCall::Fence(floor))?;
        self.parts.metrics.fences.inc();
        tracing::error!(
            newest = newest.sequence.0,
            floor = floor.sequence.0,
            "this key has signed what its record does not hold: the record is an old copy, or \
             another signer uses the key. Nothing is signed below the floor any more"
        );
        let began = Instant::now();
        self.stage = Stage::Fenced { began, silent_since: began, newest, is_live: false };
        self.answered.clear();
        self.was_fenced = true;
        self.tell();
        Ok(())
    }

    /// What may have been signed. Where the others cannot go on alone they would never pass two
    /// windows: there, each of them shows what it saw.
    fn floor(&self, newest: Newest) -> Floor {
        let replicas = &self.parts.verification.replicas;
        let margin = match replicas.len() > replicas.quorum() {
            true => limits::FENCE_WINDOWS * self.parts.window,
            false => 1,
        };
        Floor {
            sequence: SequenceNumber(newest.sequence.0.saturating_add(margin)),
            epoch: replicas.epoch(),
            view: View(newest.view.0.saturating_add(1)),
        }
    }

    fn stop(&mut self) {
        if !matches!(self.stage, Stage::Stopped) {
            self.stage = Stage::Stopped;
            self.tell();
            tracing::error!("{STOPPED}");
        }
    }

    /// Lets votes go when enough peers have answered.
    fn advance(&mut self) {
        let needed = self.needed();
        let is_enough = self.answered.len() >= needed && self.own_looked_at;
        match &self.stage {
            Stage::Starting if is_enough && self.settles() => {
                self.stage = Stage::Voting;
                self.parts.gate.open();
            }
            Stage::Starting => self.tell(),
            Stage::Fenced { silent_since, .. } => {
                let hold = Duration::from_millis(limits::FENCE_HOLD_MS);
                if needed > 0 && silent_since.elapsed() < hold {
                    // Those who answer after the silence count.
                    self.answered.clear();
                } else if is_enough && self.settles() {
                    tracing::warn!("nothing more was shown: this validator votes again");
                    self.stage = Stage::Voting;
                    self.parts.gate.open();
                }
            }
            Stage::Voting | Stage::Stopped => self.answered.clear(),
        }
    }

    fn settles(&self) -> bool {
        self.record(&RecordCall::Settle).is_ok_and(|standing| standing == Standing::Complete)
    }

    /// One correct peer among them, and never more than there are.
    fn needed(&self) -> usize {
        let replicas = &self.parts.verification.replicas;
        replicas.weak_quorum().min(replicas.len().saturating_sub(1))
    }

    /// Closes the gate with the stage's reason.
    fn tell(&self) {
        self.parts.gate.close(match &self.stage {
            Stage::Voting => return,
            Stage::Starting => {
                let (heard, needed) = (self.answered.len(), self.needed());
                format!("waiting for peers to say what this key has signed ({heard} of {needed})")
            }
            Stage::Fenced { is_live: false, .. } => FENCED.to_owned(),
            Stage::Fenced { is_live: true, .. } => LIVE.to_owned(),
            Stage::Stopped => STOPPED.to_owned(),
        });
    }
}

const TICK: Duration = Duration::from_millis(20);
/// Peers answer what they know already within this time of the fence.
const SETTLING: Duration = Duration::from_secs(3);
const FENCED: &str = "this key has signed what its record does not hold (an old copy, or another \
                      signer): nothing is signed until peers have shown what they saw";
const LIVE: &str = "another signer uses this key now: nothing is signed here while it does";
const STOPPED: &str = "another signer uses this key: nothing is signed here until that one is \
                       stopped and `obelisk signer renew` says so";
