use super::*;
use crate::deployment::tests::{ME, OTHER, in_force};
use crate::ids::Time;

/// What each says: a layer of 100 bytes takes 1 ms.
const CLAIMED: u64 = 100_000;

fn served() -> Served {
    in_force(10)
}

/// What eight equal rounds show: computing here and there, and what lies between, µs.
fn look(served: &mut Served, at_s: u64, (here, there): (u32, u32), between: u64) -> Option<Drift> {
    let hop = |node, us| HopTime { node, held_us: us, compute_us: us };
    let hops = [hop(ME, here / 2), hop(OTHER, there), hop(ME, here - here / 2)];
    let round_us = u64::from(here + there) + between;
    let mut round = || served.round(Time(at_s * 1_000_000), ME, |_| CLAIMED, (&hops, round_us));
    (0..ROUNDS).fold(None, |seen, _| seen.or(round()))
}

const NONE: Drift = Drift { of_nodes: false, of_links: false };

#[test]
fn what_all_are_wrong_by_is_no_change() {
    // Twice as slow as they say, all of them: here a layer and the embedding, 150 bytes.
    let mut served = served();
    assert_eq!(look(&mut served, 1, (3_000, 6_000), 500), Some(NONE));
    assert_eq!(served.watch.speed(NodeId([3; 32]), CLAIMED), CLAIMED / 2, "nor of others");
    assert_eq!(look(&mut served, 1, (3_000, 6_000), 500), None, "looked at just now");
    assert_eq!(look(&mut served, 3, (3_100, 6_900), 700), Some(NONE));
}

#[test]
fn a_node_that_gets_slower_and_a_way_that_does_are_seen() {
    let mut served = served();
    look(&mut served, 1, (1_500, 3_000), 500);
    let nodes = Drift { of_nodes: true, ..NONE };
    assert_eq!(look(&mut served, 3, (1_500, 15_000), 500), Some(nodes));
    assert_eq!(served.watch.speed(OTHER, CLAIMED), CLAIMED / 5);
    assert_eq!(served.watch.speed(ME, CLAIMED), CLAIMED);
    assert_eq!(look(&mut served, 5, (1_500, 15_000), 500), Some(NONE), "it is known");
    let links = Drift { of_links: true, ..NONE };
    assert_eq!(look(&mut served, 7, (1_500, 15_000), 1_500), Some(links));
    assert_eq!(look(&mut served, 9, (1_500, 15_000), 1_500), Some(NONE));
    // A new plan is looked at from the start.
    let PlanState::Ready(plan) = &mut served.state else { panic!("a plan is in force") };
    plan.epoch = PlanEpoch(2);
    assert_eq!(look(&mut served, 11, (1_500, 15_000), 9_000), Some(NONE));
}

#[test]
fn one_that_keeps_little_of_its_word_is_itself_the_exception() {
    let mut served = served();
    let drift = look(&mut served, 1, (1_500, 30_000), 500);
    assert_eq!(drift, Some(Drift { of_nodes: true, ..NONE }));
    assert_eq!(served.watch.speed(OTHER, CLAIMED), CLAIMED / 10);
    assert_eq!(served.watch.speed(NodeId([3; 32]), CLAIMED), CLAIMED / 2);
}

#[test]
fn a_burst_with_little_work_is_nothing_to_build_on() {
    let mut served = served();
    look(&mut served, 1, (1_500, 3_000), 500);
    // 150 of 400 bytes in a tenth of the time.
    assert_eq!(look(&mut served, 3, (150, 3_000), 500), Some(NONE));
    assert_eq!(served.watch.speed(ME, CLAIMED), CLAIMED);
    let slow = Measured { weight_bytes_per_s: 7, is_much: true, at: Time(4_000_000) };
    let fast = Measured { weight_bytes_per_s: 900, is_much: false, at: Time(5_000_000) };
    served.watch.note(ME, slow);
    served.watch.note(ME, fast);
    assert_eq!(served.watch.speed(ME, CLAIMED), 7, "with much work it was slow");
    served.watch.note(ME, Measured { weight_bytes_per_s: 5, ..fast });
    assert_eq!(served.watch.speed(ME, CLAIMED), 5, "slower now whatever the work");
    served.watch.note(ME, slow);
    served.watch.note(ME, Measured { at: slow.at.after_us(AGE_US), ..fast });
    assert_eq!(served.watch.speed(ME, CLAIMED), 900, "that was long ago");
}

#[test]
fn what_was_measured_of_others_ages() {
    let mut served = served();
    let old = Measured { weight_bytes_per_s: 7, is_much: true, at: Time(1) };
    for node in [OTHER, NodeId([3; 32])] {
        served.watch.note(node, old);
    }
    let stages = served.stages.clone();
    served.watch.age(Time(AGE_US), &stages);
    assert_eq!(served.watch.measured.len(), 2);
    served.watch.age(Time(1 + AGE_US), &stages);
    assert!(served.watch.measured.keys().eq([&OTHER]), "a stage is measured on and on");
}

#[test]
fn rounds_of_another_ring_and_while_parts_are_sent_are_not_looked_at() {
    let mut served = served();
    let strange = [HopTime { node: ME, held_us: 5, compute_us: 5 }; 2];
    for _ in 0..2 * ROUNDS {
        assert_eq!(served.round(Time(1), ME, |_| CLAIMED, (&strange, 20)), None);
    }
    served.state = PlanState::Waiting { until: Time(9) };
    assert_eq!(look(&mut served, 1, (1_500, 3_000), 500), None);
}

#[test]
fn a_plan_of_so_many_stages_shows_what_it_takes_and_stays() {
    let mut served = served();
    served.policy.stages = Some(2);
    assert_eq!(look(&mut served, 1, (1_500, 3_000), 500), None);
    assert_eq!(look(&mut served, 3, (1_500, 30_000), 5_000), None);
    assert_eq!(served.watch.speed(OTHER, CLAIMED), CLAIMED, "nodes are believed as before");
    assert_eq!(served.watch.shown.latest(OTHER), Some((30_000, 36_500)));
}
