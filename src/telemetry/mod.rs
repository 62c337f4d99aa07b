//! Floor 1: what a node tells its operator about itself: metrics, and the log.
//!
//! Telemetry never decides anything and never fails its caller.

#[cfg(feature = "cli")]
pub mod log;
pub mod metrics;
pub mod process;
pub mod progress;
pub mod signer;
