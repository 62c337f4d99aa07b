//! Floor 0: the words of the ledger and their bytes.
//!
//! Every other module speaks in these types. Nothing here does IO, reads a clock or holds a key.
//!
//! ```text
//! Transaction -> Batch -> Proposal -> BlockHeader + QuorumCertificate = Block -> BlockResult (Receipts)
//! ```
//!
//! Invariants:
//! * Whatever is hashed, signed or stored is written by `codec`: fixed widths, big-endian, one
//!   encoding per value.
//! * What is signed is carried as the exact bytes that were signed, and begins with a domain tag
//!   and the chain id.
//! * Every length read from outside is checked against `limits` before memory is taken.

pub mod batch;
pub mod block;
pub mod certificate;
pub mod codec;
pub mod digest;
pub mod evidence;
pub mod genesis;
pub mod ids;
pub mod limits;
pub mod merkle;
pub mod proposal;
pub mod quorum;
pub mod receipt;
pub mod replica_set;
pub mod signature;
pub mod transaction;
pub mod verified;
pub mod vote;
pub mod vote_signature;
