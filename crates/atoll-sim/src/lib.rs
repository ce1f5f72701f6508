//! Many [`Node`]s on a seeded discrete-event network, with a hash in place of a model.
//!
//! No clock, no thread, no socket: the same seed gives the same events. Read [`run`] first.

mod hash_model;
mod world;

pub use hash_model::oracle;
pub use world::{Report, run};

/// SplitMix64: one generator per purpose, forked by label.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of one purpose of one seed.
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self(hash_model::mix(&[seed, purpose]))
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash_model::mix(&[self.0]) % end
    }
}

#[cfg(doc)]
use atoll_proto::Node;
