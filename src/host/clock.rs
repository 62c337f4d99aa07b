//! The machine's wall clock. It dates what is shown and checks certificates; it never decides
//! safety: execution reads block time, timers run on monotonic time.

use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// Milliseconds since 1970; 0 before.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment of this process's past, milliseconds since 1970 as the clock stands now.
pub fn ms_of(moment: Instant) -> u64 {
    let ago = u64::try_from(moment.elapsed().as_millis()).unwrap_or(u64::MAX);
    now_ms().saturating_sub(ago)
}
