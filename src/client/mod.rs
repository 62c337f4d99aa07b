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
//!
//! With a node (feature `grpc`):
#![cfg_attr(feature = "grpc", doc = "```no_run")]
#![cfg_attr(not(feature = "grpc"), doc = "```ignore")]
//! use std::path::Path;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use obelisk::client::connection::Client;
//! use obelisk::client::identity::ClientIdentity;
//! use obelisk::client::invocation::Invocation;
//! use obelisk::client::trust::Network;
//! use obelisk::crypto::routing::Crypto;
//! use obelisk::membership::consortium::read_genesis;
//! use obelisk::membership::msp::Msp;
//! use obelisk::types::ids::Height;
//!
//! # async fn pay() -> Result<(), Box<dyn std::error::Error>> {
//! let crypto = Arc::new(Crypto::portable());
//! let genesis = Arc::new(read_genesis(Path::new("net/genesis.bin"))?);
//! let network = Network::new(genesis, crypto.clone())?;
//! let msp = Msp::load(Path::new("net/org1/client/client"))?;
//! let who = ClientIdentity::from_pair(&msp.enrolment, &crypto)?;
//! let client = Client::connect("127.0.0.1:7051", &network, msp.tls.as_ref()).await?;
//! let pay = Invocation::new("asset", "transfer").arg("alice").arg("bob").arg("25");
//! let found = client.invoke(&who, &pay, Duration::from_secs(30)).await?;
//! let proven = client.prove_transaction(found.receipt.tx).await?;
//! println!("block {} of {}", proven.hash, proven.proof.header.height);
//! let mut blocks = client.blocks(Height(1));
//! let (block, result) = blocks.next().await?;
//! # let _ = (block, result);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "grpc")]
pub mod connection;
#[cfg(feature = "rest")]
pub mod enrolment;
pub mod error;
#[cfg(feature = "grpc")]
pub mod follow;
pub mod identity;
pub mod invocation;
#[cfg(feature = "grpc")]
pub mod submission;
pub mod trust;
pub mod verify;
