use quickcheck::quickcheck;

use super::*;
use crate::ids::ModelId;
use crate::plan::Plan;

pub(super) fn model(layers: usize) -> ModelInfo {
    ModelInfo {
        id: ModelId([1; 32]),
        name: "m".into(),
        layer_bytes: vec![100; layers],
        embed_bytes: 50,
        head_bytes: 10,
        kv_bytes_per_position: 1,
        row_values: 8,
        context_max: 64,
    }
}

pub(super) const fn policy(stages: Option<u16>) -> PlanPolicy {
    PlanPolicy { stages, context: 10, sessions: 2, spares: 0, wait_us: 0, rule: None }
}

pub(super) const fn candidate(byte: u8, memory_bytes: u64, weight_bytes_per_s: u64) -> Candidate {
    let node = NodeId([byte; 32]);
    Candidate { node, memory_bytes, weight_bytes_per_s, prefill_bytes_per_s: 0 }
}

fn lengths(stages: &[Stage]) -> Vec<usize> {
    stages.iter().map(|stage| stage.layers.len()).collect()
}

fn check(
    stages: Option<u16>,
    owner: Candidate,
    others: &[Candidate],
    expected: Result<Vec<usize>, PlanError>,
) {
    let placed = place(&model(12), &policy(stages), owner, others);
    assert_eq!(placed.map(|stages| lengths(&stages)), expected);
}

#[test]
fn one_node_if_it_fits_else_as_few_as_hold_it() {
    let (big, small) = (candidate(1, 2000, 10), candidate(1, 1000, 10));
    check(None, big, &[candidate(2, 9000, 99)], Ok(vec![12]));
    check(None, small, &[candidate(2, 900, 10), candidate(3, 100, 10)], Ok(vec![6, 6]));
    let missing = PlanError::NoRoom { needed_bytes: 1500, available_bytes: 1100, nodes: 2 };
    check(None, small, &[candidate(2, 100, 10)], Err(missing));
    // An owner too small for embedding and head offers no more than it has.
    let missing = PlanError::NoRoom { needed_bytes: 1500, available_bytes: 40, nodes: 2 };
    check(None, candidate(1, 30, 10), &[candidate(2, 10, 10)], Err(missing));
}

#[test]
fn exactly_as_many_stages_as_asked_in_proportion_to_speed() {
    let others = [candidate(2, 9000, 20), candidate(3, 9000, 30)];
    // The owner stays first; of the others the faster one comes first.
    check(Some(3), candidate(1, 9000, 10), &others, Ok(vec![2, 6, 4]));
    let few = PlanError::TooFewNodes { wanted: 4, found: 3 };
    check(Some(4), candidate(1, 9000, 10), &others, Err(few));
    let many: Vec<_> = (2..20).map(|i| candidate(i, 9000, 1)).collect();
    let layers = PlanError::TooFewLayers { wanted: 13, layers: 12 };
    check(Some(13), candidate(1, 9000, 10), &many, Err(layers));
}

#[test]
fn absurd_figures_do_not_overflow() {
    let huge = ModelInfo {
        layer_bytes: vec![u64::MAX; 3],
        embed_bytes: u64::MAX,
        kv_bytes_per_position: u32::MAX,
        context_max: u32::MAX,
        ..model(3)
    };
    let policy = PlanPolicy { context: u32::MAX, sessions: u16::MAX, ..policy(Some(2)) };
    let owner = candidate(1, u64::MAX, u64::MAX);
    let placed = place(&huge, &policy, owner, &[candidate(2, u64::MAX, 0)]);
    assert!(placed.is_err());
}

quickcheck! {
    fn every_plan_fits(layers: u8, nodes: Vec<(u16, u16)>, stages: u8) -> bool {
        let model = model(usize::from(layers % 40) + 1);
        let stages = u16::from(stages % 5);
        let policy = policy((stages > 0).then_some(stages));
        let others: Vec<_> = (2..50).zip(&nodes)
            .map(|(i, (memory, speed))| candidate(i, (*memory).into(), (*speed).into()))
            .collect();
        let owner = candidate(1, 2500, 100);
        let Ok(placed) = place(&model, &policy, owner, &others) else { return true };
        let fits = placed.iter().all(|stage| {
            let all = others.iter().chain([&owner]);
            let room = all.filter(|node| node.node == stage.node).map(|node| node.memory_bytes);
            let ends = if stage.node == owner.node { 60 } else { 0 };
            model.part_bytes(stage.layers, 20) + ends <= room.sum()
        });
        let plan = Plan {
            model: model.id,
            epoch: crate::ids::PlanEpoch(1),
            owner: owner.node,
            stages: placed,
            spares: Vec::new(),
            context: 10,
        };
        fits && plan.covers(model.layer_bytes.len())
            && (stages == 0 || plan.stages.len() == usize::from(stages))
    }
}
