//! Signatures of the simulator: a keyed mixing function instead of public-key cryptography.
//!
//! Nobody inside the simulation can forge one, because only this module knows the secret and a
//! persona is handed signatures for its own identity alone. Outside it has no strength at all.

use std::cell::Cell;

use crate::consensus::Envelope;
use crate::consensus::Plugin;
use crate::types::ids::ChainId;
use crate::types::ids::ReplicaId;
use crate::types::signature::Signature;
use crate::types::vote::Slot;
use crate::types::vote_signature::VoteSignature;

/// The signing keys of all replicas.
#[derive(Clone, Debug)]
pub struct Keys {
    secret: u64,
}

/// A message on its way, checked at most once however many replicas receive it.
pub struct Wire {
    /// The message.
    pub envelope: Envelope,
    /// The slot its sender named, for the trace and for personas.
    pub slot: Option<Slot>,
    valid: Cell<Option<bool>>,
}

impl Keys {
    /// Keys derived from the seed.
    pub fn new(seed: u64) -> Self {
        Self { secret: mix(seed, LANES[2]) }
    }

    /// The signature of `replica` under `text`.
    pub fn sign(&self, replica: ReplicaId, text: &[u8]) -> VoteSignature {
        let mut bytes = [0; 64];
        for (lane, part) in LANES.iter().zip(bytes.chunks_exact_mut(8)) {
            part.copy_from_slice(&self.lane(*lane, replica, text).to_be_bytes());
        }
        Signature(bytes).into()
    }

    /// Whether `signature` is that of `replica` under `text`.
    pub fn verify(&self, replica: ReplicaId, text: &[u8], signature: &VoteSignature) -> bool {
        self.sign(replica, text) == *signature
    }

    /// Checks all signatures a message carries, as the driver does before a core sees it.
    pub fn check(&self, plugin: &Plugin, chain: &ChainId, replicas: usize, wire: &Wire) -> bool {
        if let Some(valid) = wire.valid.get() {
            return valid;
        }
        let known = |id: ReplicaId| usize::from(id.0) < replicas;
        let valid = known(wire.envelope.sender)
            && (plugin.claims)(chain, &wire.envelope).is_ok_and(|claims| {
                claims
                    .iter()
                    .all(|c| known(c.replica) && self.verify(c.replica, &c.text, &c.signature))
            });
        wire.valid.set(Some(valid));
        valid
    }

    fn lane(&self, lane: u64, replica: ReplicaId, text: &[u8]) -> u64 {
        let mut state = mix(self.secret ^ lane, u64::from(replica.0) + 1);
        for chunk in text.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            state = mix(state, u64::from_be_bytes(word));
        }
        mix(state, u64::try_from(text.len()).expect("lengths fit 64 bits"))
    }
}

impl Wire {
    /// A message not yet checked.
    pub fn new(envelope: Envelope, slot: Option<Slot>) -> Self {
        Self { envelope, slot, valid: Cell::new(None) }
    }
}

/// Folds the 128-bit product of state and word, as in wyhash.
pub fn mix(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ 0x9e37_79b9_7f4a_7c15) * u128::from(word ^ LANES[1]);
    let bytes = product.to_be_bytes();
    let half = |range: &[u8]| u64::from_be_bytes(range.try_into().expect("eight bytes"));
    (half(&bytes[..8]) ^ half(&bytes[8..])).wrapping_add(state.rotate_left(23))
}

const LANES: [u64; 3] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3];
