//! The genesis document: what all members of a network agree on before the first block.
//!
//! ```text
//! "obelisk.genesis.1" | network string | time u64 ms | consensus string | parameters | replica set
//! | organisations u32 x (name string | root certificate bytes)
//! ```
//!
//! The chain id is SHA-256 of these bytes, so a changed document is another chain. The file on disk
//! holds exactly these bytes; `obelisk network show` prints them readably.

use bytes::Bytes;

use crate::types::codec::Decode;
use crate::types::codec::DecodeError;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::digest::Digest;
use crate::types::ids::ChainId;
use crate::types::limits;
use crate::types::replica_set::ReplicaSet;

const TAG: &[u8] = b"obelisk.genesis.1";

/// Parameters that every validator must share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainParameters {
    /// Sequence numbers between checkpoints.
    pub checkpoint_interval: u64,
    /// Sequence numbers between low and high watermark; a multiple of the interval.
    pub window: u64,
    /// Batches of one block.
    pub block_batches_max: u32,
    /// Fuel of one transaction.
    pub fuel_max: u64,
    /// Largest distance of a proposed block time from a backup's clock, milliseconds. Liveness
    /// only.
    pub block_time_skew_ms: u64,
}

impl Default for ChainParameters {
    fn default() -> Self {
        Self {
            checkpoint_interval: 16,
            window: 64,
            block_batches_max: 32,
            fuel_max: 50_000_000,
            block_time_skew_ms: 60_000,
        }
    }
}

/// A member organisation and the root that vouches for its identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organisation {
    /// Name, as in its certificates.
    pub name: String,
    /// Self-signed root certificate, DER.
    pub root: Bytes,
}

/// The genesis document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// Name of the network, for people.
    pub network: String,
    /// When it was made, milliseconds since 1970; block times are later.
    pub time_ms: u64,
    /// Row of the consensus plug-in table.
    pub consensus: String,
    /// Shared parameters.
    pub parameters: ChainParameters,
    /// Validators of epoch 0.
    pub replicas: ReplicaSet,
    /// Members.
    pub organisations: Vec<Organisation>,
}

impl Genesis {
    /// SHA-256 of the document.
    pub fn chain_id(&self) -> ChainId {
        ChainId(Digest::of(&[&self.to_bytes()]))
    }

    /// The organisation of that name.
    pub fn organisation(&self, name: &str) -> Option<&Organisation> {
        self.organisations.iter().find(|o| o.name == name)
    }
}

impl Encode for ChainParameters {
    fn encode(&self, w: &mut Writer) {
        w.u64(self.checkpoint_interval);
        w.u64(self.window);
        w.u32(self.block_batches_max);
        w.u64(self.fuel_max);
        w.u64(self.block_time_skew_ms);
    }
}

impl Decode for ChainParameters {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let parameters = Self {
            checkpoint_interval: r.u64("checkpoint interval")?,
            window: r.u64("window")?,
            block_batches_max: r.u32("block batches")?,
            fuel_max: r.u64("fuel")?,
            block_time_skew_ms: r.u64("block time skew")?,
        };
        let field = "parameters";
        if parameters.checkpoint_interval == 0 || parameters.window > limits::WINDOW_MAX {
            return Err(DecodeError::Invalid {
                field,
                reason: "checkpoint interval 0 or window above 256",
            });
        }
        if parameters.window / 2 < parameters.checkpoint_interval
            || !parameters.window.is_multiple_of(parameters.checkpoint_interval)
        {
            return Err(DecodeError::Invalid {
                field,
                reason: "window is not at least two checkpoint intervals",
            });
        }
        if parameters.block_batches_max == 0
            || parameters.block_batches_max as usize > limits::BLOCK_BATCHES_MAX
        {
            return Err(DecodeError::Invalid {
                field,
                reason: "batches of a block must be 1 to 64",
            });
        }
        Ok(parameters)
    }
}

impl Encode for Organisation {
    fn encode(&self, w: &mut Writer) {
        w.string(&self.name);
        w.bytes(&self.root);
    }
}

impl Decode for Organisation {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: r.string("organisation", limits::NAME_BYTES_MAX)?,
            root: r.bytes("root certificate", limits::CERTIFICATE_BYTES_MAX)?,
        })
    }
}

impl Encode for Genesis {
    fn encode(&self, w: &mut Writer) {
        w.raw(TAG);
        w.string(&self.network);
        w.u64(self.time_ms);
        w.string(&self.consensus);
        self.parameters.encode(w);
        self.replicas.encode(w);
        w.list(&self.organisations);
    }
}

impl Decode for Genesis {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if r.raw("genesis tag", TAG.len())? != TAG {
            return Err(DecodeError::Invalid {
                field: "genesis",
                reason: "not an obelisk genesis document, version 1",
            });
        }
        Ok(Self {
            network: r.string("network", limits::NAME_BYTES_MAX)?,
            time_ms: r.u64("genesis time")?,
            consensus: r.string("consensus", limits::NAME_BYTES_MAX)?,
            parameters: ChainParameters::decode(r)?,
            replicas: ReplicaSet::decode(r)?,
            organisations: r.list("organisations", limits::ORGANISATIONS_MAX)?,
        })
    }
}
