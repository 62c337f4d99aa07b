//! Syncs the write-ahead log on a thread of its own, so that its wait and the signer's overlap.

use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;
use crossbeam_channel::bounded;

use crate::pipeline::order::wal::PendingSync;
use crate::pipeline::order::wal::WalError;

/// The thread and its two channels, each of one place.
pub struct Syncer {
    work: Sender<PendingSync>,
    done: Receiver<Result<(), WalError>>,
}

impl Syncer {
    /// Starts the thread; it ends when the syncer is dropped.
    pub fn start() -> Self {
        let (work, pending) = bounded::<PendingSync>(1);
        let (results, done) = bounded(1);
        std::thread::Builder::new()
            .name("wal".into())
            .spawn(move || {
                for sync in pending {
                    if results.send(sync.complete()).is_err() {
                        return;
                    }
                }
            })
            .expect("the system can start a thread at start-up");
        Self { work, done }
    }

    /// Makes `pending` durable while `other` runs; returns when both are through.
    pub fn sync_while<T>(
        &mut self,
        pending: PendingSync,
        other: impl FnOnce() -> T,
    ) -> Result<T, WalError> {
        self.work.send(pending).expect("the thread lives as long as its syncer");
        let value = other();
        self.done.recv().expect("the thread answers every sync")?;
        Ok(value)
    }
}
