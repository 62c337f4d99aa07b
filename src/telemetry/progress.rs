//! How far a start has come, in words: written by whoever does the long work, read by what tells
//! the service manager.

use std::sync::Mutex;
use std::sync::PoisonError;

/// The newest step of a start. Empty until the first one.
#[derive(Debug, Default)]
pub struct Progress(Mutex<String>);

impl Progress {
    /// The work stands at this step from now on.
    pub fn at(&self, step: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step.into();
    }

    /// The newest step.
    pub fn step(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
