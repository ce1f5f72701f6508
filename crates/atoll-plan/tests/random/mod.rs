//! Random instances: the same on every machine.

use atoll_plan::{Fleet, Model, Policy, Query};

/// What is to be planned.
pub(crate) struct Instance {
    pub(crate) fleet: Fleet,
    pub(crate) model: Model,
    pub(crate) policy: Policy,
}

impl Instance {
    pub(crate) fn query(&self) -> Query<'_> {
        Query { fleet: &self.fleet, model: &self.model, policy: &self.policy }
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("it is below a usize")
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
