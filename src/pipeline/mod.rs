//! Floor 4: the transaction's way, one file per station.
//!
//! ```text
//! client -> api -> admit -> mempool -> order -> execute -> commit -> publish -> client
//!          bytes  Verified<Transaction>  Batch  Ordered   Executed   Block     Event
//! ```
//!
//! Each station takes the type its left neighbour returns and has a bounded queue in front; the
//! type is the trust level. `catch_up` feeds `execute` with blocks that others committed. `handle`
//! is what the outside holds.

pub mod admit;
pub mod catch_up;
pub mod commit;
pub mod execute;
pub mod handle;
pub mod intake;
pub mod measured;
pub mod mempool;
pub mod order;
pub mod publish;
pub mod refusal;
pub mod start;
pub mod verification;
