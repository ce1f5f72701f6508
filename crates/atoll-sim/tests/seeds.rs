//! A few seeds of each kind of schedule, on every test run.

use std::collections::BTreeMap;

use atoll_sim::{Schedule, Sum, run};

#[test]
fn joins_and_leaves_break_nothing_and_a_seed_repeats_itself() {
    let mut sum = Sum::default();
    for seed in 0..20 {
        let schedule = Schedule::joins_and_leaves(seed, 12);
        let report = run(&schedule);
        assert_eq!(report.violations, [], "seed {seed}");
        assert_eq!(report, run(&schedule), "seed {seed}");
        sum.add(&report);
    }
    let failed: u64 = sum.total.failed.values().sum();
    assert_eq!(sum.total.completed + failed, 80);
    assert!(sum.total.completed >= 60, "{sum:?}");
}

#[test]
fn another_seed_is_another_run() {
    let traces = (0..20).map(|seed| (run(&Schedule::joins_and_leaves(seed, 8)).trace, seed));
    assert_eq!(traces.collect::<BTreeMap<_, _>>().len(), 20);
}

/// In these a node leaves while its neighbours in the ring still load, so that they must hear who
/// takes its place.
#[test]
fn a_node_that_leaves_while_others_load_is_not_waited_for() {
    for seed in [590, 675] {
        let report = run(&Schedule::joins_and_leaves(seed, 50));
        assert_eq!((report.completed, report.failed), (4, BTreeMap::new()), "seed {seed}");
    }
}
