use super::*;
use crate::deployment::tests::{ID, ME, OTHER, in_force, members, profile};
use crate::effects::Effects;
use crate::ids::{RequestId, Time};
use crate::io::HopTime;
use crate::limits::Limits;
use crate::plan::{LayerRange, Profile};
use crate::planted::Planted;

/// Four layers of 100 bytes: one and the ends (50 bytes) here, three at another node. Both say that
/// they take 1 ms for 100 bytes, and a quarter of it for a row of many.
fn deployment() -> (Deployment, Membership) {
    let fx = &mut Effects::new(Time(0), Planted::default());
    let limits = Limits::default();
    let mut members = members(fx, &limits, &[]);
    let profile =
        Profile { weight_bytes_per_s: 100_000, prefill_bytes_per_s: 400_000, ..profile() };
    members.measured(fx, profile.clone());
    members.hello(fx, &limits, OTHER, "peer".into(), profile);
    let mut deployment = Deployment::new(ME);
    deployment.served.insert(ID, in_force(64));
    (deployment, members)
}

fn took(deployment: &mut Deployment, here: u64, there: u64) {
    took_between(deployment, here, there, 1_000);
}

fn took_between(deployment: &mut Deployment, here: u64, there: u64, between: u64) {
    let served = deployment.served.get_mut(&ID).expect("served");
    served.show(ME, [(ME, here), (OTHER, there)].into(), here + there + between);
}

/// Predicted and measured of both nodes, µs.
fn nodes(timing: &Timing) -> [(u64, Option<u64>); 2] {
    let of = |i: usize| (timing.nodes[i].predicted_us, timing.nodes[i].measured_us);
    [of(0), of(1)]
}

#[test]
fn before_anything_is_done_profiles_are_believed_and_then_what_is_done() {
    let (mut deployment, members) = deployment();
    let timing = |deployment: &Deployment| deployment.timing(&members, ID).expect("in force");
    let first = timing(&deployment);
    // 64 positions of a byte in each layer's cache, as the context allows.
    assert_eq!((first.positions, first.prompt_tokens), (64, 64));
    assert_eq!(nodes(&first), [(1_640 + 500, None), (3 * 1_640, None)]);
    // Two ways of 0.5 ms, two stages of 0.1 ms, and the frames at 100 Mbit/s.
    let frame_us = (160 + 8 * 4) * 1_000_000 / 12_500_000;
    let between_us = 2 * (500 + frame_us) + 200;
    assert!(first.token_us.abs_diff(2_140 + 4_920 + between_us) <= 3, "{first:?}");
    // One chunk of 64 rows, at a quarter of the time each.
    let rows_us = 64 * (4 * 1_640 / 4) * 132 / 164 + 500;
    assert!(first.first_token_us.abs_diff(rows_us + between_us) < 2_000, "{first:?}");

    deployment.served.get_mut(&ID).expect("served").watch.positions = (64, Time(0));
    took(&mut deployment, 2_000, 9_000);
    let then = timing(&deployment);
    assert!(nodes(&then)[0].0.abs_diff(2_000) <= 2 && nodes(&then)[1].0.abs_diff(9_000) <= 9);
    assert_eq!((nodes(&then)[0].1, nodes(&then)[1].1), (Some(2_000), Some(9_000)));
    assert_eq!(then.measured_token_us, Some(12_000));
    // Some slow looks change nothing, and as many as there were others do.
    (1..LATEST).for_each(|_| took(&mut deployment, 2_000, 9_000));
    (0..LATEST / 2).for_each(|_| took(&mut deployment, 2_000, 45_000));
    assert!(nodes(&timing(&deployment))[1].0.abs_diff(9_000) <= 9);
    assert_eq!(nodes(&timing(&deployment))[1].1, Some(45_000));
    took(&mut deployment, 2_000, 45_000);
    assert!(nodes(&timing(&deployment))[1].0.abs_diff(45_000) <= 50);
}

#[test]
fn ways_are_believed_what_they_took_of_tokens() {
    let (mut deployment, members) = deployment();
    deployment.served.get_mut(&ID).expect("served").watch.positions = (64, Time(0));
    let between = |deployment: &Deployment| {
        let timing = deployment.timing(&members, ID).expect("in force");
        timing.token_us - nodes(&timing).map(|(predicted, _)| predicted).iter().sum::<u64>()
    };
    let by_probes = between(&deployment);
    took_between(&mut deployment, 2_000, 9_000, 3 * by_probes);
    assert_eq!(between(&deployment), 3 * by_probes);
    // Few looks at something else change nothing, and as many as there were others do.
    (1..LATEST).for_each(|_| took_between(&mut deployment, 2_000, 9_000, 3 * by_probes));
    (0..LATEST / 2).for_each(|_| took_between(&mut deployment, 2_000, 9_000, 10));
    assert_eq!(between(&deployment), 3 * by_probes);
    took_between(&mut deployment, 2_000, 9_000, 10);
    assert_eq!(between(&deployment), 10);
}

#[test]
fn what_other_stages_did_is_forgotten() {
    let (mut deployment, members) = deployment();
    took(&mut deployment, 2_000, 9_000);
    let served = deployment.served.get_mut(&ID).expect("served");
    let PlanState::Ready(plan) = &mut served.state else { panic!("in force") };
    plan.stages = vec![Stage { node: ME, layers: LayerRange { start: 0, end: 4 } }];
    served.stages.clone_from(&plan.stages);
    let alone = deployment.timing(&members, ID).expect("in force");
    assert_eq!((alone.nodes.len(), alone.measured_token_us), (1, None));
    assert_eq!(alone.nodes[0].measured_us, None);
    // 400 bytes of layers, 256 of caches and 50 of the embedding.
    let served = deployment.served.get_mut(&ID).expect("served");
    served.watch.positions = (64, Time(0));
    served.show(ME, [(ME, 3_000)].into(), 3_100);
    let alone = deployment.timing(&members, ID).expect("in force");
    assert_eq!((alone.nodes[0].measured_us, alone.measured_token_us), (Some(3_000), Some(3_100)));
    assert!(alone.nodes[0].predicted_us.abs_diff(3_000) <= 5, "{alone:?}");
}

#[test]
fn chunks_show_how_fast_many_rows_are() {
    let (mut deployment, members) = deployment();
    let hop = |node, compute_us| HopTime { node, held_us: compute_us, compute_us };
    let passed = |rows: u32, us: u32| Passed {
        request: RequestId(1),
        positions: 0..rows,
        hops: vec![hop(ME, us), hop(OTHER, 3 * us)],
    };
    let first =
        |deployment: &Deployment| deployment.timing(&members, ID).expect("in force").first_token_us;
    let before = first(&deployment);
    deployment.chunk_passed(ID, &passed(CHUNK_ROWS_MIN - 1, 1_000_000));
    deployment.chunk_passed(ID, &passed(64, 0));
    assert_eq!(first(&deployment), before, "few rows, or no time at all, say nothing");
    // 64 rows in 20 and 60 ms.
    deployment.chunk_passed(ID, &passed(64, 20_000));
    assert!(first(&deployment).abs_diff(80_000) < 4_000, "{}", first(&deployment));
    // Another one alike, then one that something was in the way of.
    deployment.chunk_passed(ID, &passed(64, 20_000));
    deployment.chunk_passed(ID, &passed(64, 200_000));
    assert!(first(&deployment).abs_diff(80_000) < 4_000, "{}", first(&deployment));
}
