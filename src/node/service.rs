//! What a node and a membership service tell the service manager that started them (`NOTIFY_SOCKET`;
//! without it nothing is sent), and the upkeep of a node's threads' places.
//!
//! ```text
//! starting   STATUS (the step) and EXTEND_TIMEOUT_USEC, from before the configuration is read: a
//!            slow machine, a long ledger or a slow token is no hang
//! serving    READY once, then STATUS (height, view, role) and WATCHDOG while consensus turns
//! stopping   STOPPING
//! ```
//!
//! A membership service says READY once, and nothing more.
//!
//! The watchdog is fed by the consensus thread: `WATCHDOG=1` is sent only if that thread finished a
//! round since the last time. A thread that hangs on a lock or a dead disk stops feeding, and
//! systemd kills and restarts the process, which loses nothing that was promised. The messages come
//! from the main process, as `NotifyAccess=main` asks.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Receiver;
use crossbeam_channel::RecvTimeoutError;
use crossbeam_channel::Sender;
use crossbeam_channel::bounded;
use sd_notify::NotifyState;

use crate::host::pinning::Plan;
use crate::pipeline::handle::Handle;
use crate::telemetry::progress::Progress;
use crate::types::limits;

/// The thread `service`.
pub struct Notifier {
    progress: Arc<Progress>,
    phases: Sender<Phase>,
    thread: Option<JoinHandle<()>>,
}

enum Phase {
    Ready,
    Serving(Box<Handle>, Plan),
    Stopping,
}

/// Whether the consensus thread turned since the last look.
#[derive(Debug, Default)]
struct Pulse {
    last: Option<u64>,
}

impl Pulse {
    /// `rounds` is `None` where there is no such thread: then the caller's own turn counts.
    fn beats(&mut self, rounds: Option<u64>) -> bool {
        let beats = rounds.is_none() || rounds != self.last;
        self.last = rounds;
        beats
    }
}

impl Notifier {
    /// Starts telling; the first thing a process does that may take long.
    pub fn start() -> io::Result<Self> {
        let (phases, received) = bounded(2);
        let progress = Arc::new(Progress::default());
        progress.at("reading configuration and identity");
        let shown = progress.clone();
        let thread = std::thread::Builder::new()
            .name("service".into())
            .spawn(move || run(&received, &shown))?;
        Ok(Self { progress, phases, thread: Some(thread) })
    }

    /// Where the steps of the start are written.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// A membership service serves from now on.
    pub fn ready(self) {
        self.end(Phase::Ready);
    }

    /// The node serves from now on.
    pub fn serving(&self, handle: Handle, plan: Plan) {
        let _ = self.phases.send(Phase::Serving(Box::new(handle), plan));
    }

    /// The node stops from now on; the thread lets go of it.
    pub fn stopping(self) {
        self.end(Phase::Stopping);
    }

    fn end(mut self, last: Phase) {
        let _ = self.phases.send(last);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(phases: &Receiver<Phase>, progress: &Progress) {
    let served = loop {
        let extension = u32::try_from(limits::START_STEP_MS.saturating_mul(1000));
        tell(&[
            NotifyState::Status(&progress.step()),
            NotifyState::ExtendTimeoutUsec(extension.unwrap_or(u32::MAX)),
        ]);
        match phases.recv_timeout(Duration::from_millis(limits::START_TOLD_MS)) {
            Ok(Phase::Serving(handle, plan)) => break Some((handle, plan)),
            Ok(Phase::Stopping) => break None,
            Ok(Phase::Ready) => {
                return tell(&[NotifyState::Ready, NotifyState::Status("enrols members")]);
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The start failed; the process ends with its reason.
            Err(RecvTimeoutError::Disconnected) => return,
        }
    };
    if let Some((handle, plan)) = served {
        serve(phases, &handle, &plan);
    }
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn serve(phases: &Receiver<Phase>, handle: &Handle, plan: &Plan) {
    let longest = Duration::from_millis(limits::SERVICE_TURN_MS_MAX);
    // A third of what systemd allows: two late turns are forgiven.
    let turn = sd_notify::watchdog_enabled().map_or(longest, |allowed| longest.min(allowed / 3));
    let mut pulse = Pulse::default();
    let mut states = vec![NotifyState::Ready];
    loop {
        place(plan);
        let status = status(handle);
        states.push(NotifyState::Status(&status));
        if pulse.beats(handle.rounds()) {
            states.push(NotifyState::Watchdog);
        } else {
            tracing::error!("the consensus thread did not turn: the watchdog is not fed");
        }
        tell(&states);
        states = Vec::new();
        match phases.recv_timeout(turn) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Threads that RocksDB or the network runtime started since the last turn get their place.
fn place(plan: &Plan) {
    if !plan.is_pinned() {
        return;
    }
    let placed = plan.apply();
    for thread in placed.iter().filter(|thread| plan.missed(thread).is_some()) {
        tracing::warn!(thread = thread.name, on = ?thread.processors, "a thread is misplaced");
    }
}

fn status(handle: &Handle) -> String {
    let status = handle.status();
    let role = match (status.replica, status.primary) {
        (None, _) => "observer",
        (Some(me), Some(primary)) if me == primary => "primary",
        (Some(_), _) => "backup",
    };
    let mut text = format!("{role}, height {}, view {}", status.height, status.core.view);
    // An observer's only reason is that it is one.
    if status.replica.is_some() && !status.not_ready.is_empty() {
        text = format!("{text}; waiting: {}", status.not_ready.join(", "));
    }
    text
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager does not hear this process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A consensus thread that stands still does not feed the watchdog; where there is none, the
    /// service thread's own turn counts.
    #[test]
    fn only_a_turning_consensus_thread_feeds_the_watchdog() {
        let mut pulse = Pulse::default();
        assert!(pulse.beats(Some(1)));
        assert!(pulse.beats(Some(7)));
        assert!(!pulse.beats(Some(7)));
        assert!(!pulse.beats(Some(7)));
        assert!(pulse.beats(Some(8)));
        let mut observer = Pulse::default();
        assert!(observer.beats(None) && observer.beats(None));
    }
}
