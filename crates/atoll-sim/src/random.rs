//! One generator per purpose, so that taking one fault away moves no other.

use crate::hash_model::mix;

/// SplitMix64, forked by label.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of one purpose of one seed.
    #[must_use]
    pub fn new(seed: u64, purpose: &str) -> Self {
        let label = purpose.bytes().fold(0_u64, |label, byte| mix(&[label, byte.into()]));
        Self(mix(&[seed, label]))
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(&[self.0]) % end
    }

    /// A number from `range`, which is not empty.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// An index of a list of `len`, which is not 0.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }
}
