//! The machine's wall clock. It dates what is shown and checks certificates; it never decides
//! safety: execution reads block time, timers run on monotonic time.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// Milliseconds since 1970; 0 before.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
