//! Plants each known bug and counts the seeds until an invariant breaks.

use std::collections::BTreeSet;

use atoll_sim::planted::{Bug, Planted};
use atoll_sim::{Schedule, run, run_planted};

/// Searches per bug, each from a seed of its own: the median is over these.
const SEARCHES: u64 = 5;

/// What the searches for one bug gave.
pub(crate) struct Row {
    pub(crate) bug: Bug,
    /// Seeds that each search took, sorted; `None` last: not found.
    pub(crate) seeds: Vec<Option<u64>>,
    /// Which invariants saw it.
    pub(crate) seen_by: BTreeSet<&'static str>,
}

impl Row {
    /// The median of the searches, if most found it.
    pub(crate) fn median(&self) -> Option<u64> {
        self.seeds.get(self.seeds.len() / 2).copied().flatten()
    }
}

/// Searches for a bug within `seeds_max` seeds at a time.
pub(crate) fn search(bug: Bug, seeds_max: u64, schedule: impl Fn(u64) -> Schedule) -> Row {
    let mut seen_by = BTreeSet::new();
    let mut find = |search: u64| {
        (0..seeds_max).find_map(|tried| {
            let schedule = schedule(search * 1_000_000 + tried);
            let mut report = run_planted(&schedule, Planted::bug(bug));
            if !report.violations.is_empty() && !run(&schedule).violations.is_empty() {
                // It is not this bug that was seen.
                report.violations.clear();
            }
            seen_by.extend(report.violations.iter().map(|(name, _)| *name));
            (!report.violations.is_empty()).then_some(tried + 1)
        })
    };
    let mut seeds: Vec<_> = (0..SEARCHES).map(&mut find).collect();
    seeds.sort_by_key(|seeds| seeds.unwrap_or(u64::MAX));
    Row { bug, seeds, seen_by }
}
