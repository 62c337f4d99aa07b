//! Floor 5: the client library. Signs locally, talks gRPC over TLS, and believes nothing it can
//! check.
//!
//! ```text
//! ClientIdentity (certificate + key) --sign--> Transaction --Client::submit--> node
//! node --receipt, proof, block, state--> Verifier (genesis) --> what really happened
//! ```
//!
//! * `identity`: who signs, loaded from an MSP folder.
//! * `invocation`: what to ask, and how it becomes a signed transaction.
//! * `verify`: quorum certificates, Merkle paths and state proofs against the genesis document.
//! * `trust`: the network as its genesis document describes it.
//! * `connection`, `submission`, `follow` (feature `grpc`): one connection to a node, many
//!   transactions over one stream, streams that reconnect and resume where they were.
//!
//! The private key never leaves the process: the node receives signed bytes only. Signing and
//! checking work without any network feature:
//!
//! ```
//! use obelisk::client::identity::ClientIdentity;
//! use obelisk::client::invocation::Invocation;
//! use obelisk::types::ids::ChainId;
//! use obelisk::types::ids::Height;
//!
//! # type Failure = Box<dyn std::error::Error>;
//! # fn sign(identity: &ClientIdentity, chain: ChainId, tip: Height) -> Result<(), Failure> {
//! let pay = Invocation::new("asset", "transfer").arg("alice").arg("bob").arg("25");
//! let transaction = pay.sign(identity, chain, tip)?;
//! println!("{} is {} bytes", transaction.id(), transaction.encoded_len());
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "grpc")]
pub mod connection;
pub mod error;
#[cfg(feature = "grpc")]
pub mod follow;
pub mod identity;
pub mod invocation;
#[cfg(feature = "grpc")]
pub mod submission;
pub mod trust;
pub mod verify;
