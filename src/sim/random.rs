//! Random streams of the simulator: one seed, one independent ChaCha8 stream per subsystem.
//!
//! A stream is keyed by SHA-256 of seed and name, so a draw added in one subsystem shifts no other
//! one, and the sequence is the same on every architecture. No floating point: probabilities are
//! in permille.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use rand_chacha::rand_core::SeedableRng;

use crate::types::digest::Digest;

/// Random numbers of one subsystem.
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of that name under `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        let key = Digest::of(&[b"obelisk.sim.1", &seed.to_be_bytes(), name.as_bytes()]);
        Self(ChaCha8Rng::from_seed(key.0))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.number() % end }
    }

    /// A number from `min` to `max`, both included.
    pub fn between(&mut self, min: u64, max: u64) -> u64 {
        min + self.below(max.saturating_sub(min).saturating_add(1))
    }

    /// A position below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).expect("positions fit 64 bits");
        usize::try_from(self.below(len)).expect("below a usize")
    }

    /// True in `permille` of 1000 cases.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// 32 random bytes.
    pub fn digest(&mut self) -> Digest {
        let mut bytes = [0; 32];
        self.0.fill_bytes(&mut bytes);
        Digest(bytes)
    }

    /// `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// One of the items; `None` of an empty list.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.index(items.len())) }
    }
}
