//! Each kind of fault does what it says.

use atoll_sim::schedule::{Fault, What};
use atoll_sim::{Hands, Report, Schedule, Study, run};

/// When the model is first placed in [`calm`], µs.
const PLACED_US: u64 = 1_500_000;

fn calm() -> Schedule {
    let mut schedule = Schedule::joins_and_leaves(1, 8);
    schedule.faults.clear();
    schedule.core = (0..8).collect();
    for device in &mut schedule.devices {
        device.joins_us = 0;
    }
    schedule
}

/// The ring shortly before the requests come, and what came of it all.
fn ring_after(faults: Vec<Fault>) -> (Vec<usize>, Report) {
    let schedule = Schedule { faults, ..calm() };
    let mut ring = Vec::new();
    let look = |hands: &mut Hands<'_, '_>| {
        ring = hands.ring();
        None
    };
    let report = Study::of(&schedule).fault(1_990_000..1_990_001, look).run();
    assert_eq!(report.violations, []);
    (ring, report)
}

fn at(at_us: u64, what: What) -> Vec<Fault> {
    vec![Fault { at_us, what, stage: None }]
}

#[test]
fn who_cannot_load_a_part_gets_none() {
    let (ring, _) = ring_after(Vec::new());
    assert_eq!(ring.len(), 4, "{ring:?}");
    let node = ring[2];
    let early = PLACED_US - 100_000;
    for what in [
        What::MemoryRefusal { node, for_us: 3_000_000 },
        What::DiskFull { node, for_us: 3_000_000 },
    ] {
        let (without, report) = ring_after(at(early, what.clone()));
        assert!(!without.contains(&node) && without.len() == 4, "{what:?}: {without:?}");
        assert_eq!(report.completed, 4, "{what:?}");
    }
}

#[test]
fn a_corrupt_part_is_fetched_once_more() {
    // Who asks before the part is there waits for it.
    let waits = |faults: Vec<Fault>| {
        let mut schedule = Schedule { faults, ..calm() };
        schedule.requests[0].at_us = PLACED_US + 1_000;
        let report = run(&schedule);
        assert_eq!((report.violations.len(), report.completed), (0, 4));
        report.answers[0].first_us()
    };
    let (ring, _) = ring_after(Vec::new());
    let corrupt = |node: &usize| Fault {
        at_us: PLACED_US - 1_000,
        what: What::CorruptShard { node: *node },
        stage: None,
    };
    let (plain, late) = (waits(Vec::new()), waits(ring.iter().map(corrupt).collect()));
    assert!(late > plain.map(|us| us + 20_000), "{late:?} {plain:?}");
}

#[test]
fn a_slow_uplink_makes_tokens_slow() {
    let speed = |report: &Report| report.answers[0].tokens_per_s().unwrap_or(0.0);
    let (ring, plain) = ring_after(Vec::new());
    let what = What::Bandwidth { node: ring[1], permille: 1, for_us: 4_000_000 };
    let (_, slow) = ring_after(at(1_900_000, what));
    assert!(speed(&slow) < 0.9 * speed(&plain), "{} {}", speed(&slow), speed(&plain));
    assert_eq!(slow.completed, 4);
}

#[test]
fn who_says_that_it_is_fast_is_believed_and_used() {
    let (plain, _) = ring_after(Vec::new());
    let node = (1..8).find(|node| !plain.contains(node)).expect("four of eight are left");
    let (lied, report) = ring_after(at(1_000_000, What::Lie { node, percent: 10_000 }));
    assert!(lied.contains(&node), "{lied:?}");
    assert_eq!(report.completed, 4);
}

#[test]
fn clocks_that_jump_and_old_plans_change_no_answer() {
    let (ring, plain) = ring_after(Vec::new());
    for what in
        [What::ClockStep { node: ring[1], ahead_us: 15_000_000 }, What::StalePlan { node: ring[2] }]
    {
        let (_, report) = ring_after(at(2_500_000, what.clone()));
        assert_eq!(report.completed, 4, "{what:?}");
        assert_ne!(report.trace, plain.trace, "{what:?} was not noticed at all");
    }
}
