use super::*;
use crate::plan::Profile;
use crate::planted::Planted;

pub(crate) const ME: NodeId = NodeId([1; 32]);
pub(crate) const OTHER: NodeId = NodeId([2; 32]);
pub(crate) const ID: ModelId = ModelId([9; 32]);

pub(crate) fn model() -> ModelInfo {
    ModelInfo {
        id: ID,
        name: "m".into(),
        layer_bytes: vec![100; 4],
        embed_bytes: 50,
        head_bytes: 10,
        kv_bytes_per_position: 1,
        row_values: 8,
        context_max: 64,
    }
}

fn plan(deployment: &Deployment) -> &Plan {
    let state = &deployment.served(ID).expect("it is served").state;
    let PlanState::Ready(plan) = state else { panic!("no plan in force: {state:?}") };
    plan
}

fn nodes(stages: &[Stage]) -> Vec<u8> {
    stages.iter().map(|stage| stage.node.0[0]).collect()
}

/// This node, and others that have said hello.
pub(crate) fn members(fx: &mut Effects, limits: &Limits, others: &[u8]) -> Membership {
    let mut members = Membership::new(ME, "me".into());
    members.measured(fx, profile());
    others.iter().for_each(|&peer| hello(fx, limits, &mut members, peer));
    members
}

/// A plan in force: three layers at another node, one and the ends here.
pub(crate) fn in_force(context: u32) -> Served {
    let policy =
        PlanPolicy { stages: None, context, sessions: 1, spares: 0, wait_us: 0, rule: None };
    let stage = |node, start, end| Stage { node, layers: LayerRange { start, end } };
    let stages = vec![stage(ME, 0, 1), stage(OTHER, 1, 4)];
    let (epoch, spares) = (PlanEpoch(1), Vec::new());
    let plan = Plan { model: ID, epoch, owner: ME, stages: stages.clone(), spares, context };
    let mut served = Served::new(model(), policy, Time(0));
    (served.state, served.stages) = (PlanState::Ready(plan), stages);
    served
}

pub(crate) fn profile() -> Profile {
    Profile { memory_bytes: 9000, weight_bytes_per_s: 10, prefill_bytes_per_s: 40 }
}

pub(crate) fn hello(fx: &mut Effects, limits: &Limits, members: &mut Membership, peer: u8) {
    members.hello(fx, limits, NodeId([peer; 32]), "peer".into(), profile());
}

/// A node says that it is ready.
fn prepared(deployment: &mut Deployment, fx: &mut Effects, members: &Membership, node: NodeId) {
    let epoch = deployment.served[&ID].asked[&node].epoch;
    deployment.prepared(fx, members, &Limits::default(), node, (ID, epoch), Ok(()));
}

#[test]
fn a_suspected_node_is_a_spare_again_when_its_time_is_over() {
    let limits = Limits::default();
    let fx = &mut Effects::new(Time(0), Planted::default());
    let members = members(fx, &limits, &[2, 3, 4]);
    let mut deployment = Deployment::new(ME);
    let policy =
        PlanPolicy { stages: Some(2), context: 10, sessions: 2, spares: 1, wait_us: 0, rule: None };
    deployment.serve(fx, &members, &limits, (model(), policy));
    let ready = |deployment: &mut Deployment, fx: &mut Effects, node: NodeId| {
        prepared(deployment, fx, &members, node);
    };
    let stage = deployment.served[&ID].stages[1].node;
    ready(&mut deployment, fx, ME);
    ready(&mut deployment, fx, stage);
    let spare = plan(&deployment).spares[0].node;
    ready(&mut deployment, fx, spare);

    fx.now = Time(1_000_000);
    deployment.suspect(fx, &members, &limits, (ID, stage), "silent".into());
    assert_eq!(nodes(&plan(&deployment).stages), [1, spare.0[0]]);
    let unable = plan(&deployment).spares[0].node;
    assert!(unable != stage && unable != spare);
    let epoch = deployment.served[&ID].asked[&unable].epoch;
    let no_room = Err("no room".into());
    deployment.prepared(fx, &members, &limits, unable, (ID, epoch), no_room);
    assert_eq!(nodes(&plan(&deployment).spares), [] as [u8; 0], "nobody else is left");

    let end = fx.now.after_us(limits.suspicion_us);
    assert_eq!(deployment.deadline(), Some(end));
    fx.now = Time(end.0 - 1);
    deployment.tick(fx, &members, &limits);
    assert_eq!(nodes(&plan(&deployment).spares), [] as [u8; 0], "its time is not over");
    fx.now = end;
    deployment.tick(fx, &members, &limits);
    assert_eq!(nodes(&plan(&deployment).spares), [stage.0[0]]);
    ready(&mut deployment, fx, stage);
    assert_eq!(deployment.deadline(), None, "who could not prepare is not waited for");
}

/// One node more than stages; each stage in turn falls silent and is heard again later. Those that
/// serve again at need are as good as others when the next one falls silent.
#[test]
fn stages_that_fall_silent_in_turn_are_all_replaced() {
    let limits = Limits::default();
    let fx = &mut Effects::new(Time(0), Planted::default());
    let others = [2, 3, 4];
    let mut members = members(fx, &limits, &others);
    let mut deployment = Deployment::new(ME);
    let policy =
        PlanPolicy { stages: Some(3), context: 10, sessions: 2, spares: 0, wait_us: 0, rule: None };
    deployment.serve(fx, &members, &limits, (model(), policy));
    for round in 0..12 {
        for node in deployment.served[&ID].asked.keys().copied().collect::<Vec<_>>() {
            prepared(&mut deployment, fx, &members, node);
        }
        let stages = nodes(&plan(&deployment).stages);
        let victim = *stages.iter().filter(|&&node| node != 1).nth(round % 2).expect("one of two");
        fx.now = fx.now.after_us(1_000_000);
        for peer in others.into_iter().filter(|peer| *peer != victim) {
            hello(fx, &limits, &mut members, peer);
        }
        fx.now = fx.now.after_us(1_000_000);
        let silent = (ID, NodeId([victim; 32]));
        deployment.suspect(fx, &members, &limits, silent, "it is silent".into());
        let stages = nodes(&deployment.served[&ID].stages);
        assert!(!stages.contains(&victim), "round {round}: {victim} is still one of {stages:?}");
    }
}
