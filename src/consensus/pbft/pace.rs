//! Floor 2: PBFT's timers: when to suspect the primary, when to send again, when to fill an idle
//! network, how far apart proposals are.
//!
//! | timer | armed while | fires |
//! | --- | --- | --- |
//! | Request | something known is not delivered; again at each delivery | suspect the primary |
//! | ViewChange | a quorum demands this view or higher, not begun yet | demand the next view |
//! | Retransmit | something is unfinished | a tick: status, fetches, catch-up, fairness |
//! | NullRequest | primary of an active view; again at each proposal | propose a null request |
//! | NullRequest | backup in an active view | status where nothing was delivered since it last fired |
//! | Proposal | primary with proposals in flight; again at each proposal | propose what waits |
//!
//! The Request and ViewChange waits double with each view that fails, up to `timeout_ms_max`, and
//! shrink again after progress. Request alone would let a primary live that leaves out one batch,
//! or that proposes just often enough; two rules counted in ticks replace it too: the oldest batch
//! was overtaken by much younger ones, or the pipe stood empty too often while batches waited.
//!
//! The primary proposes at once where nothing is in flight. Else it begins the next proposal when the
//! waiting work fills one, or a distance after the last (Nagle, RFC 896, asks the same of small
//! packets). The distance grows with what is in flight: the k-th of m keeps (k/m)^2 of
//! `proposal_spacing_ms`, a quarter at least. A long round, of far sites or a slow token, overlaps with
//! a few others soon, and a busy pipe gathers larger blocks.
//!
//! A replica does not suspect while it hears too few others to form a quorum (it is cut off), while
//! it is behind, or while its own execution or the watermark holds the pipe.
//!
//! Source: Castro and Liskov 1999, section 4.5.2; for the second rule's reason, Clement et al.,
//! "Making Byzantine Fault Tolerant Systems Tolerate Byzantine Faults", NSDI 2009.

use std::collections::BTreeSet;

use crate::consensus;
use crate::consensus::Effect;
use crate::consensus::Timer;
use crate::consensus::pbft::Pbft;
use crate::consensus::pbft::batches::Pending;
use crate::types::ids::ReplicaId;
use crate::types::ids::SequenceNumber;
use crate::types::ids::View;
use crate::types::limits;

/// What the timers remember.
#[derive(Debug)]
pub struct Pace {
    /// Retransmission ticks so far.
    pub tick: u64,
    /// Statuses sent so far: rotates who is asked.
    pub asked: u64,
    /// Replicas heard since the Request timer last fired.
    pub heard: BTreeSet<ReplicaId>,
    /// False where the null request timer must begin again: something was proposed, or the view is
    /// another.
    null_due: bool,
    /// True from a proposal until the spacing has passed.
    fresh: bool,
    /// True where the spacing must begin again: something was proposed.
    restart_spacing: bool,
    armed: BTreeSet<Timer>,
    waiting_for_view: Option<View>,
    failures: u32,
    streak: u32,
    progress: bool,
    restart_request: bool,
    tip_at_silence: SequenceNumber,
    tip_at_tick: SequenceNumber,
    low_at_tick: SequenceNumber,
    stalled_ticks: u64,
    demanding: u64,
    empty_pipe: u64,
    newest_delivered: u64,
}

impl Pace {
    /// At rest.
    pub fn new(tip: SequenceNumber) -> Self {
        Self {
            tick: 0,
            asked: 0,
            heard: BTreeSet::new(),
            null_due: true,
            fresh: false,
            restart_spacing: false,
            armed: BTreeSet::new(),
            waiting_for_view: None,
            failures: 0,
            streak: 0,
            progress: true,
            restart_request: false,
            tip_at_silence: tip,
            tip_at_tick: tip,
            low_at_tick: SequenceNumber(0),
            stalled_ticks: 0,
            demanding: 0,
            empty_pipe: 0,
            newest_delivered: 0,
        }
    }

    /// A sequence number was delivered.
    pub fn on_delivered(&mut self) {
        self.progress = true;
        self.restart_request = true;
        self.streak += 1;
        if self.streak >= DELIVERIES_PER_DECAY {
            self.streak = 0;
            self.failures = self.failures.saturating_sub(1);
        }
    }

    /// A batch in custody was delivered.
    pub fn on_batch_delivered(&mut self, pending: Option<Pending>) {
        if let Some(pending) = pending {
            self.newest_delivered = self.newest_delivered.max(pending.tick);
        }
    }

    /// This replica proposed; `spaced` where the next proposal keeps a distance.
    pub fn on_proposed(&mut self, spaced: bool) {
        self.null_due = false;
        self.fresh = spaced;
        self.restart_spacing = spaced;
    }

    /// A view began: its primary starts with a clean record.
    pub fn on_new_view(&mut self) {
        self.null_due = false;
        self.fresh = false;
        self.restart_request = true;
        self.empty_pipe = 0;
        self.newest_delivered = 0;
        self.heard.clear();
    }

    /// A view failed before it delivered anything: the next one gets twice the time.
    fn on_view_failed(&mut self) {
        if !self.progress {
            self.failures = (self.failures + 1).min(FAILURES_MAX);
        }
        self.progress = false;
        self.streak = 0;
        self.empty_pipe = 0;
    }
}

impl Pbft {
    /// A timer ran out.
    pub(super) fn on_timer(&mut self, timer: Timer, effects: &mut Vec<Effect>) {
        self.pace.armed.remove(&timer);
        match timer {
            Timer::Request => self.on_request_timeout(effects),
            Timer::ViewChange => {
                self.pace.waiting_for_view = None;
                if !self.view_active {
                    self.demand_next_view(effects);
                }
            }
            Timer::Retransmit => self.on_tick(effects),
            Timer::NullRequest => {
                self.pace.null_due = false;
                match self.is_active_primary() {
                    true => self.propose_null(effects),
                    false => self.ask_in_silence(effects),
                }
            }
            Timer::Proposal => self.pace.fresh = false,
            Timer::Plugin(_) => {}
        }
    }

    /// Arms and disarms timers after each input, by what is now the case.
    pub(super) fn settle_timers(&mut self, effects: &mut Vec<Effect>) {
        let waits = self.view_active && (!self.batches.is_empty() || self.has_undelivered());
        let restart = std::mem::take(&mut self.pace.restart_request);
        let request_ms = self.grown(self.tuning.request_timeout_ms);
        self.settle(Timer::Request, waits, restart, request_ms, effects);

        let demanded = !self.view_active && self.view_change_has_quorum();
        let other_view = self.pace.waiting_for_view != Some(self.view);
        let view_ms = self.grown(self.tuning.view_change_timeout_ms);
        self.settle(Timer::ViewChange, demanded, other_view, view_ms, effects);
        self.pace.waiting_for_view = demanded.then_some(self.view);

        let unfinished = waits || self.is_unfinished();
        self.settle(Timer::Retransmit, unfinished, false, self.tuning.retransmit_ms, effects);

        let null_ms = self.tuning.null_request_ms;
        let fills = self.view_active && null_ms > 0;
        let restart = !std::mem::replace(&mut self.pace.null_due, true);
        let primary = self.is_active_primary();
        let patience = if primary { 1 } else { SILENT_NULL_REQUESTS };
        let null_ms = null_ms.saturating_mul(patience);
        self.settle(Timer::NullRequest, fills, restart, null_ms, effects);

        let spaced = primary && self.keeps_distance();
        let restart = std::mem::take(&mut self.pace.restart_spacing);
        self.settle(Timer::Proposal, spaced, restart, self.distance_ms(), effects);
    }

    /// From a proposal to the next that is not full, by how many will be in flight.
    fn distance_ms(&self) -> u64 {
        let most = self.tuning.in_flight_max.max(1);
        let with_next = (self.proposed.0.saturating_sub(self.tip.sequence.0) + 1).min(most);
        consensus::distance(self.tuning.proposal_spacing_ms, with_next, most)
    }

    /// True while the last proposal is in flight and younger than the distance.
    pub(super) fn keeps_distance(&self) -> bool {
        self.pace.fresh && self.proposed > self.tip.sequence
    }

    fn settle(
        &mut self,
        timer: Timer,
        wanted: bool,
        restart: bool,
        after_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let armed = self.pace.armed.contains(&timer);
        if wanted && (!armed || restart) {
            self.pace.armed.insert(timer);
            effects.push(Effect::Arm { timer, after_ms: after_ms.max(1) });
        } else if !wanted && armed {
            self.pace.armed.remove(&timer);
            effects.push(Effect::Disarm(timer));
        }
    }

    fn on_request_timeout(&mut self, effects: &mut Vec<Effect>) {
        let connected = self.hears_quorum();
        self.pace.heard.clear();
        let blameless = self.is_behind() || self.is_held_back();
        if self.view_active && connected && !blameless {
            self.demand_next_view(effects);
        }
    }

    pub(super) fn demand_next_view(&mut self, effects: &mut Vec<Effect>) {
        let Some(next) = self.view.next() else { return };
        self.pace.on_view_failed();
        self.start_view_change(next, effects);
    }

    fn on_tick(&mut self, effects: &mut Vec<Effect>) {
        self.pace.tick += 1;
        let tip = self.tip.sequence;
        let stalled = tip == self.pace.tip_at_tick;
        self.pace.stalled_ticks = if stalled { self.pace.stalled_ticks + 1 } else { 0 };
        let unproven = self.checkpoints.own_above(self.log.low()).next().is_some()
            && self.log.low() == self.pace.low_at_tick;
        self.pace.tip_at_tick = tip;
        self.pace.low_at_tick = self.log.low();
        self.pace.demanding = if self.view_active { 0 } else { self.pace.demanding + 1 };
        if repeats(self.pace.demanding) {
            self.repeat_view_change(effects);
        }
        self.fetch_missing(effects);
        if self.pace.stalled_ticks >= STALLED_TICKS_BEFORE_CATCH_UP {
            self.catch_up(effects);
            self.doubt_lone_claims();
        }
        if self.pace.stalled_ticks >= STALLED_TICKS_BEFORE_SKIP {
            self.skip_nulls(effects);
        }
        let oldest = self.batches.in_order().next().map(|p| p.tick);
        let waiting = oldest.is_some_and(|tick| tick + 2 < self.pace.tick);
        let behind = self.is_behind() || self.is_in_a_past_view();
        if stalled || unproven || waiting || behind || !self.view_active {
            self.send_status(effects);
        }
        if self.view_active && self.primary_is_unfair(oldest) && self.hears_quorum() {
            self.demand_next_view(effects);
        }
        if let Some(view) = self.lone_view() {
            self.start_view_change(view, effects);
        }
    }

    /// Backup: nothing was delivered for several times the primary's null request wait. The others may
    /// have gone to another view, whose primary is silent too; nobody would speak first.
    fn ask_in_silence(&mut self, effects: &mut Vec<Effect>) {
        let tip = self.tip.sequence;
        if std::mem::replace(&mut self.pace.tip_at_silence, tip) == tip {
            self.send_status(effects);
        }
    }

    /// The two rules for a primary that makes progress, but not for all or not enough.
    fn primary_is_unfair(&mut self, oldest: Option<u64>) -> bool {
        let retransmit_ms = self.tuning.retransmit_ms.max(1);
        let patience = self.grown(self.tuning.request_timeout_ms).div_ceil(retransmit_ms).max(2);
        let (Some(oldest), false) = (oldest, self.is_behind() || self.is_held_back()) else {
            self.pace.empty_pipe = self.pace.empty_pipe.saturating_sub(1);
            return false;
        };
        let empty = oldest < self.pace.tick.saturating_sub(1) && !self.has_undelivered();
        self.pace.empty_pipe = match empty {
            true => self.pace.empty_pipe + 1,
            false => self.pace.empty_pipe.saturating_sub(1),
        };
        let overtaken = self.pace.newest_delivered >= oldest + patience
            && self.pace.tick >= oldest + 2 * patience;
        overtaken || self.pace.empty_pipe >= 2 * patience
    }

    /// The view in which another replica has been waiting alone for long. It promised to take part
    /// in no lower one, so it is lost to this view; the network is better off with it. The wait
    /// doubles each time, so that a liar cannot keep the view moving.
    fn lone_view(&mut self) -> Option<View> {
        if !self.view_active {
            return None;
        }
        let reach = View(self.view.0.saturating_add(self.replicas.len() as u64));
        let ahead = |view: View| view > self.view && view <= reach;
        let waiting = self.view_changes.iter().filter(|(_, (_, m))| ahead(m.view));
        let mut joined = None;
        for (id, (_, message)) in waiting {
            let (ticks, times) = self.lone.entry(*id).or_default();
            *ticks += 1;
            if *ticks >= LONE_TICKS_MIN << *times {
                *ticks = 0;
                *times = (*times + 1).min(LONE_DOUBLINGS_MAX);
                joined = joined.max(Some(message.view));
            }
        }
        joined
    }

    /// Sends the own view-change again, as it was signed.
    fn repeat_view_change(&self, effects: &mut Vec<Effect>) {
        match self.view_changes.get(&self.me).filter(|(_, m)| m.view == self.view) {
            Some((envelope, _)) => {
                let others = self.others(self.replicas.iter().map(|(id, _)| id));
                effects.extend(
                    others.into_iter().map(|to| Effect::Forward { to, message: envelope.clone() }),
                );
            }
            None => {
                let own = self.own_view_change.clone();
                effects.extend(own.map(|body| Effect::Broadcast(self.view_change_draft(body))));
            }
        }
    }

    /// Assigned, and not delivered.
    fn has_undelivered(&self) -> bool {
        self.log.above(self.tip.sequence).any(|(_, e)| e.assignment.is_some())
    }

    /// Anything that a retransmission may help.
    fn is_unfinished(&self) -> bool {
        let tip = self.tip.sequence;
        let weak = self.replicas.weak_quorum();
        !self.view_active
            || self.is_behind()
            || self.is_in_a_past_view()
            || !self.finals.is_empty()
            || self.view_changes.values().any(|(_, m)| m.view > self.view)
            || self.checkpoints.own_above(self.log.low()).next().is_some()
            || !self.believed_ahead().is_empty()
            || self.early.iter().any(|((_, n), early)| *n > tip && early.view == self.view)
            || self.log.above(tip).any(|(_, e)| e.prepares.len() >= weak || e.commits.len() >= weak)
    }

    /// True while this replica's execution or the high watermark, not the primary, holds the pipe.
    fn is_held_back(&self) -> bool {
        let tip = self.tip.sequence.0;
        tip - self.executed.0.min(tip) >= limits::ORDERED_BLOCKS_MAX as u64 / 2
            || tip >= self.log.high().0
    }

    fn hears_quorum(&self) -> bool {
        let mut heard = self.pace.heard.clone();
        heard.insert(self.me);
        heard.len() >= self.replicas.quorum()
    }

    fn grown(&self, base_ms: u64) -> u64 {
        let cap = self.tuning.timeout_ms_max.max(base_ms);
        base_ms.saturating_mul(1 << self.pace.failures).min(cap)
    }
}

/// A view-change is sent again at every tick at first, then ever more rarely: a replica alone in
/// its view must not keep the others checking certificates.
fn repeats(ticks: u64) -> bool {
    (1..=8).contains(&ticks) || (ticks > 8 && ticks.is_multiple_of(8))
}

/// Null requests of its primary that a backup misses before it asks the others.
const SILENT_NULL_REQUESTS: u64 = 3;
/// Deliveries in a row after which the waits shrink by half.
const DELIVERIES_PER_DECAY: u32 = 8;
/// Doublings are counted up to here; the cap of the configuration is reached long before.
const FAILURES_MAX: u32 = 20;
/// Ticks without delivery after which null requests are skipped: fetched blocks come first.
const STALLED_TICKS_BEFORE_SKIP: u64 = 6;
/// Ticks that a replica waits alone in a higher view before it is joined, the first time.
const LONE_TICKS_MIN: u64 = 32;
/// Doublings of that wait.
const LONE_DOUBLINGS_MAX: u32 = 16;
/// Ticks without delivery after which blocks are asked for where others are ahead.
const STALLED_TICKS_BEFORE_CATCH_UP: u64 = 2;
