//! Random numbers that can be asked for again.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A splitmix64 generator that knows how to be replayed.
pub(crate) struct Random {
    state: u64,
    seed: u64,
    test: &'static str,
}

impl Random {
    /// Seeded from `ATOLL_SEED`, otherwise from the clock; printed with the test's name, the line
    /// that replays it.
    pub(crate) fn from_environment(test: &'static str) -> Self {
        let seed = std::env::var("ATOLL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            u64::from(since.subsec_nanos())
        });
        Self { state: seed, seed, test }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

impl fmt::Display for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, test, .. } = self;
        write!(f, "replay: ATOLL_SEED={seed} cargo test --release -p atoll-tests {test}")
    }
}
