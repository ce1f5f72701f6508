#![expect(clippy::unwrap_used, reason = "tests")]

use quickcheck::quickcheck;

use super::*;
use crate::ids::ModelId;
use crate::planner::{place, place_linked};

const OWNER: u8 = 1;

/// 12 layers of 1 MB: 10 ms each at 100 MB/s.
fn model() -> ModelInfo {
    ModelInfo {
        id: ModelId([1; 32]),
        name: "m".into(),
        layer_bytes: vec![1_000_000; 12],
        embed_bytes: 5_000,
        head_bytes: 1_000,
        kv_bytes_per_position: 1,
        row_values: 512,
        context_max: 64,
    }
}

const fn policy() -> PlanPolicy {
    PlanPolicy { stages: None, context: 10, sessions: 2, spares: 0, wait_us: 0, rule: None }
}

/// Room for so many layers, and a little; speed in MB/s.
const fn candidate(byte: u8, layers: u64, speed: u64) -> Candidate {
    let memory_bytes = layers * 1_000_020 + 6_000;
    let (node, weight_bytes_per_s) = (NodeId([byte; 32]), speed * 1_000_000);
    Candidate { node, memory_bytes, weight_bytes_per_s, prefill_bytes_per_s: 0 }
}

fn check(
    owner: Candidate,
    others: &[Candidate],
    rtt_us: impl Fn(u8, u8) -> Option<u32>,
    expected: &[(u8, usize)],
) {
    let known = |a: NodeId, b: NodeId| LinkFigures {
        rtt_us: rtt_us(a.0[0].min(b.0[0]), a.0[0].max(b.0[0])),
        bytes_per_s: None,
    };
    check_known(owner, others, &known, expected);
}

fn check_known(
    owner: Candidate,
    others: &[Candidate],
    known: KnownLinks<'_>,
    expected: &[(u8, usize)],
) {
    let placed = place_linked(&model(), &policy(), owner, others, known).unwrap();
    let mut placed: Vec<_> =
        placed.iter().map(|stage| (stage.node.0[0], stage.layers.len())).collect();
    // Without the owner both ways around are equal.
    if placed[0].0 > OWNER && placed[0].0 > placed[placed.len() - 1].0 {
        placed.reverse();
    }
    assert_eq!(placed, expected);
}

#[test]
fn an_owner_that_holds_it_all_gives_it_away_for_a_tenth_of_the_time_alone() {
    let owner = candidate(OWNER, 12, 100);
    let near = |_, _| Some(200);
    check(owner, &[], near, &[(1, 12)]);
    check(owner, &[candidate(2, 12, 100)], near, &[(1, 12)]);
    check(owner, &[candidate(2, 12, 108)], near, &[(1, 12)]);
    check(owner, &[candidate(2, 12, 120)], near, &[(2, 12)]);
    // 120 ms here; 60 ms there, and the way.
    let fast = [candidate(2, 12, 200)];
    check(owner, &fast, |_, _| Some(40_000), &[(2, 12)]);
    check(owner, &fast, |_, _| Some(70_000), &[(1, 12)]);
}

#[test]
fn a_long_way_is_avoided() {
    // The third is the largest and the fastest.
    let others = [candidate(2, 6, 100), candidate(3, 9, 150)];
    let owner = candidate(OWNER, 6, 100);
    check(owner, &others, |_, _| Some(200), &[(1, 3), (3, 9)]);
    check(owner, &others, |_, b| Some(if b == 3 { 300_000 } else { 200 }), &[(1, 6), (2, 6)]);
    // Without a choice it is used all the same.
    check(owner, &others[1..], |_, _| Some(300_000), &[(1, 3), (3, 9)]);
}

#[test]
fn a_thin_link_is_avoided() {
    // A row of 2,048 bytes takes 20 ms into the third, at first, and then out of it.
    let others = [candidate(2, 6, 100), candidate(3, 9, 150)];
    let owner = candidate(OWNER, 6, 100);
    let thin = |from: u8, to: u8| {
        move |a: NodeId, b: NodeId| {
            let is_thin = (from == 0 || a.0[0] == from) && (to == 0 || b.0[0] == to);
            let bytes_per_s = Some(if is_thin { 50_000 } else { 100_000_000 });
            LinkFigures { rtt_us: Some(200), bytes_per_s }
        }
    };
    check_known(owner, &others, &thin(9, 9), &[(1, 3), (3, 9)]);
    check_known(owner, &others, &thin(0, 3), &[(1, 6), (2, 6)]);
    check_known(owner, &others, &thin(3, 0), &[(1, 6), (2, 6)]);
}

#[test]
fn nodes_near_each_other_follow_each_other() {
    // 2 and 3 in the owner's room, 4 and 5 in another; each holds three layers.
    let others: Vec<_> = [2, 4, 3, 5].map(|byte| candidate(byte, 3, 100)).into();
    let rooms = |a, b| Some(if (a > 3) == (b > 3) { 200 } else { 20_000 });
    let owner = candidate(OWNER, 0, 100);
    check(owner, &others, rooms, &[(2, 3), (3, 3), (4, 3), (5, 3)]);
    // Of what lies beyond the owner nothing is known: it is no nearer than over the owner.
    let known = |a, b| if a == OWNER { rooms(a, b) } else { None };
    check(owner, &others, known, &[(2, 3), (3, 3), (4, 3), (5, 3)]);
}

#[test]
fn what_was_not_measured_is_assumed() {
    // Half a millisecond to the fast node and back: worth it for 10 of 12 ms, not for 1.
    let fast = [candidate(2, 12, 6_000)];
    check(candidate(OWNER, 12, 1_000), &fast, |_, _| None, &[(2, 12)]);
    check(candidate(OWNER, 12, 5_000), &fast, |_, _| None, &[(1, 12)]);
}

#[test]
fn what_was_not_measured_is_not_preferred_to_what_was() {
    // The third is hardly slower, and its link is not known; the second's takes 2 ms for a row.
    let (owner, others) = (candidate(OWNER, 6, 100), [candidate(2, 6, 100), candidate(3, 6, 99)]);
    let thin = LinkFigures { rtt_us: Some(4_000), bytes_per_s: Some(1_000_000) };
    let known = |a: NodeId, b: NodeId| {
        if a.0[0] == 3 || b.0[0] == 3 { LinkFigures::default() } else { thin }
    };
    check_known(owner, &others, &known, &[(1, 6), (2, 6)]);
    // A fourth is further away; the rest is as far as over the owner.
    let known = |from: usize, to: usize| match (from, to) {
        (0, 1) => thin,
        (0, 3) => LinkFigures { rtt_us: Some(9_000), bytes_per_s: None },
        _ => LinkFigures::default(),
    };
    let link = |latency_us: u64| Link { latency_ns: latency_us * 1000, bytes_per_s: 1_000_000 };
    let found = planned_links(4, &known);
    for (from, to, latency_us) in [(0, 1, 2_000), (1, 0, 2_000), (0, 2, 4_500), (1, 2, 6_500)] {
        assert!(found.contains(&(from, to, link(latency_us))), "{from} {to}: {found:?}");
    }
    assert_eq!(found.len(), 12);
    let quick = LinkFigures { rtt_us: Some(10), bytes_per_s: Some(1_000_000_000) };
    let found =
        planned_links(3, &|from, to| if from + to == 1 { quick } else { LinkFigures::default() });
    assert!(found.contains(&(0, 2, Link::UNKNOWN)), "{found:?}");
}

#[test]
fn a_rule_and_a_number_of_stages_stand_as_they_are() {
    let (owner, others) = (candidate(OWNER, 12, 100), [candidate(2, 12, 300)]);
    let two = PlanPolicy { stages: Some(2), ..policy() };
    let far = |_, _| LinkFigures { rtt_us: Some(1_000_000), bytes_per_s: Some(1) };
    let linked = place_linked(&model(), &two, owner, &others, &far);
    assert_eq!(linked, place(&model(), &two, owner, &others));
    assert_eq!(linked.unwrap().len(), 2);
}

#[test]
fn of_many_nodes_the_fastest_and_the_largest_are_looked_at() {
    let all: Vec<_> = (2..100).map(|i| candidate(i, i.into(), 200 - u64::from(i))).collect();
    let chosen: Vec<u8> = considered(&all).iter().map(|node| node.node.0[0]).collect();
    let expected: Vec<u8> = (2..10).chain(92..100).collect();
    assert_eq!(chosen, expected);
    assert_eq!(considered(&all[..16]), all[..16]);
    // More than those are needed: the rule by memory takes as many.
    let small: Vec<_> = (2..30).map(|i| candidate(i, 1, 100)).collect();
    let wide = ModelInfo { layer_bytes: vec![1_000_000; 20], ..model() };
    let owner = candidate(OWNER, 1, 100);
    let placed =
        place_linked(&wide, &policy(), owner, &small, &|_, _| LinkFigures::default()).unwrap();
    assert_eq!(placed.len(), 20);
}

#[test]
fn absurd_figures_do_not_overflow() {
    let huge = ModelInfo {
        layer_bytes: vec![u64::MAX, 0, 1],
        embed_bytes: u64::MAX,
        kv_bytes_per_position: u32::MAX,
        ..model()
    };
    let policy = PlanPolicy { context: u32::MAX, sessions: u16::MAX, ..policy() };
    let owner = Candidate { memory_bytes: u64::MAX, ..candidate(OWNER, 0, 0) };
    let other = Candidate { weight_bytes_per_s: u64::MAX, ..owner };
    let other = Candidate { node: NodeId([2; 32]), ..other };
    let far = |_, _| LinkFigures { rtt_us: Some(u32::MAX), bytes_per_s: Some(0) };
    let placed = place_linked(&huge, &policy, owner, &[other], &far);
    assert_eq!(placed, place(&huge, &policy, owner, &[other]));
    let empty = ModelInfo { layer_bytes: vec![0; 3], embed_bytes: 0, ..model() };
    assert!(place_linked(&empty, &policy, owner, &[other], &far).is_ok());
}

/// A fleet of up to eight others, and what is known of its links.
fn fleet_of(
    nodes: &[(u8, u8)],
    rtts_us: &[u16],
) -> (Vec<Candidate>, impl Fn(NodeId, NodeId) -> LinkFigures) {
    let others = (2..)
        .zip(nodes.iter().take(8))
        .map(|(i, (layers, speed))| candidate(i, u64::from(layers % 8), u64::from(*speed) + 1));
    let rtts_us = rtts_us.to_vec();
    let rtt_us = move |a: NodeId, b: NodeId| {
        let (a, b) = (usize::from(a.0[0].min(b.0[0])), usize::from(a.0[0].max(b.0[0])));
        let us = rtts_us.get((a * 7 + b * 3) % rtts_us.len().max(1)).copied();
        let us = us.filter(|us| us % 5 != 0).map(u32::from);
        let bytes_per_s = us.filter(|us| us % 3 != 0).map(|us| u64::from(us) * 1_000);
        LinkFigures { rtt_us: us.map(|us| us * 10), bytes_per_s }
    };
    (others.collect(), rtt_us)
}

quickcheck! {
    fn every_plan_holds_and_there_is_one_where_there_was(
        owner: (u8, u8), nodes: Vec<(u8, u8)>, rtts_us: Vec<u16>
    ) -> bool {
        let (others, rtt_us) = fleet_of(&nodes, &rtts_us);
        let owner = candidate(OWNER, u64::from(owner.0 % 14), u64::from(owner.1) + 1);
        let placed = place_linked(&model(), &policy(), owner, &others, &rtt_us);
        let mut turned = others.clone();
        turned.reverse();
        let again = place_linked(&model(), &policy(), owner, &turned, &rtt_us);
        let need = Need::new(&model(), &policy());
        let beside = Candidate { memory_bytes: owner.memory_bytes - need.owner_bytes, ..owner };
        match &placed {
            Ok(stages) => {
                let mut later = stages.iter().skip(1);
                need.check(stages, beside, &others).is_ok()
                    && again == placed
                    && later.all(|stage| stage.node != owner.node)
            }
            Err(_) => place(&model(), &policy(), owner, &others).is_err(),
        }
    }

    fn no_plan_is_slower_than_the_rules_by_more_than_is_allowed(
        owner: (u8, u8), nodes: Vec<(u8, u8)>, rtts_us: Vec<u16>
    ) -> bool {
        let (others, rtt_us) = fleet_of(&nodes[..nodes.len().min(5)], &rtts_us);
        let owner = candidate(OWNER, u64::from(owner.0 % 14), u64::from(owner.1) + 1);
        let Ok(rule) = place(&model(), &policy(), owner, &others) else { return true };
        let linked = place_linked(&model(), &policy(), owner, &others, &rtt_us).unwrap();
        let need = Need::new(&model(), &policy());
        let beside = Candidate { memory_bytes: owner.memory_bytes - need.owner_bytes, ..owner };
        let nodes: Vec<_> = [beside].into_iter().chain(others).collect();
        let time = |stages: &[Stage]| token_ns(&need, &nodes, &rtt_us, stages);
        time(&linked) / 100 * (100 - GAIN_PERCENT) <= time(&rule)
    }
}

fn token_ns(need: &Need, nodes: &[Candidate], known: KnownLinks<'_>, stages: &[Stage]) -> u64 {
    let fleet = fleet(&model(), need, nodes, known).unwrap();
    let stages = stages.iter().map(|stage| {
        let layers = usize::from(stage.layers.start)..usize::from(stage.layers.end);
        let node = nodes.iter().position(|node| node.node == stage.node).unwrap();
        atoll_plan::Stage { node, variants: vec![0; layers.len()], layers }
    });
    let stages: Vec<_> = stages.collect();
    let placement = Placement { codecs: vec![0; stages.len() + 1], stages };
    let policy = Policy { context: 10, sessions: 2, positions: 10, ..Policy::default() };
    let query = Query { fleet: &fleet, model: &planned_model(&model(), need), policy: &policy };
    cost::predict(&query, &placement).unwrap().token_ns
}
