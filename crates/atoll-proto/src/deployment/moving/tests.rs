use super::*;
use crate::deployment::tests::{ID, ME, members, model};
use crate::plan::{LayerRange, PlanPolicy, Profile};
use crate::planted::Planted;

const POLICY: PlanPolicy =
    PlanPolicy { stages: None, context: 10, sessions: 2, spares: 0, wait_us: 0, rule: None };

fn node(name: u8) -> NodeId {
    NodeId([name; 32])
}

fn stage(name: u8, start: u16, end: u16) -> Stage {
    Stage { node: node(name), layers: LayerRange { start, end } }
}

/// A deployment of which these stages are in force, and another plan is coming.
struct Moving {
    fx: Effects,
    limits: Limits,
    members: Membership,
    deployment: Deployment,
}

impl Moving {
    fn new(stages: &[Stage], coming: &[Stage]) -> Self {
        let limits = Limits::default();
        let mut fx = Effects::new(Time(0), Planted::default());
        let members = members(&mut fx, &limits, &[2, 3, 4]);
        let mut deployment = Deployment::new(ME);
        deployment.served.insert(ID, Served::new(model(), POLICY, Time(0)));
        let mut it = Self { fx, limits, members, deployment };
        it.deployment.assign(&mut it.fx, &it.limits, ID, stages.to_vec());
        it.all_ready();
        it.fx.outputs.clear();
        it.deployment.move_to(&mut it.fx, &it.limits, ID, coming.to_vec());
        it
    }

    fn served(&self) -> &Served {
        &self.deployment.served[&ID]
    }

    fn stages(&self) -> &[Stage] {
        let PlanState::Ready(plan) = &self.served().state else { panic!("no plan in force") };
        &plan.stages
    }

    fn ready(&mut self, name: NodeId, result: Result<(), String>) {
        let served = &self.deployment.served[&ID];
        let coming = served.coming.as_ref().and_then(|coming| coming.asked.get(&name));
        let epoch = coming.or_else(|| served.asked.get(&name)).expect("it was asked").epoch;
        let (members, limits) = (&self.members, &self.limits);
        self.deployment.prepared(&mut self.fx, members, limits, name, (ID, epoch), result);
    }

    fn all_ready(&mut self) {
        for name in self.served().asked.keys().copied().collect::<Vec<_>>() {
            self.ready(name, Ok(()));
        }
    }

    /// Messages since this was last asked: to whom, and of which kind.
    fn sent(&mut self) -> Vec<(u8, &'static str)> {
        let outputs = std::mem::take(&mut self.fx.outputs).into_iter();
        let mut sent = Vec::new();
        for output in outputs {
            if let Output::Send { to, message } = output {
                sent.push((to.0[0], message.kind()));
            }
        }
        sent
    }
}

#[test]
fn the_old_plan_is_in_force_until_all_of_the_new_one_is_there() {
    let (old, new) = ([stage(1, 0, 1), stage(2, 1, 4)], [stage(1, 0, 2), stage(3, 2, 4)]);
    let mut it = Moving::new(&old, &new);
    let is_beside = it.fx.outputs.iter().any(|output| {
        matches!(output, Output::Prepare { is_beside: true, part, .. }
            if part.layers == Some(new[0].layers))
    });
    assert!(is_beside, "this node's own part, beside the old one: {:?}", it.fx.outputs);
    assert_eq!(it.sent(), [(3, "assign")]);
    it.ready(node(3), Ok(()));
    assert!(it.sent().is_empty() && it.stages() == old);
    it.ready(ME, Ok(()));
    assert_eq!(it.stages(), new);
    let kept = Output::Keep { model: ID, layers: Some(new[0].layers) };
    assert!(it.fx.outputs.contains(&kept), "{:?}", it.fx.outputs);
    assert_eq!(it.sent(), [(2, "unassign"), (3, "keep")]);
    let held: Vec<_> = it.served().held.keys().copied().collect();
    assert_eq!(held, [ME, node(3)]);
}

#[test]
fn who_keeps_its_range_is_asked_only_for_other_neighbours() {
    let old = [stage(1, 0, 1), stage(2, 1, 2), stage(3, 2, 4)];
    let mut it = Moving::new(&old, &[stage(1, 0, 1), stage(2, 1, 2), stage(4, 2, 4)]);
    assert_eq!(it.sent(), [(2, "assign"), (4, "assign")], "node 2 has to meet node 4");
    let mut it = Moving::new(&old, &[stage(1, 0, 1), stage(2, 1, 2), stage(3, 2, 4)]);
    assert!(it.served().coming.is_none() && it.sent() == [(2, "keep"), (3, "keep")]);
}

#[test]
fn a_plan_whose_parts_do_not_come_is_given_up() {
    let old = [stage(1, 0, 1), stage(2, 1, 4)];
    let new = [stage(1, 0, 1), stage(2, 1, 2), stage(3, 2, 4)];
    let given_up = |it: &mut Moving, words: &[(u8, &'static str)]| {
        assert!(it.served().coming.is_none() && it.deployment.deadline().is_none());
        assert_eq!(it.sent(), words);
        assert_eq!(it.stages(), old);
        assert!(it.served().watch.hold_until >= Time(GIVEN_UP_US), "not again at once");
    };
    let mut refused = Moving::new(&old, &new);
    refused.sent();
    refused.ready(node(3), Err("no room".into()));
    given_up(&mut refused, &[(2, "keep"), (3, "unassign")]);

    let mut stalled = Moving::new(&old, &new);
    stalled.sent();
    stalled.fx.now = stalled.deployment.deadline().expect("it does not wait for ever");
    let (members, limits) = (&stalled.members, &stalled.limits);
    stalled.deployment.tick(&mut stalled.fx, members, limits);
    given_up(&mut stalled, &[(2, "keep"), (3, "unassign")]);

    let mut lost = Moving::new(&old, &new);
    lost.sent();
    let gone = crate::membership::Lost { peer: node(3), cause: "gone".into() };
    lost.deployment.lost(&mut lost.fx, &lost.members, &lost.limits, &gone);
    given_up(&mut lost, &[(2, "keep"), (3, "unassign")]);
}

#[test]
fn both_parts_need_room() {
    let old = [stage(1, 0, 1), stage(2, 1, 4)];
    let mut it = Moving::new(&old, &old);
    let mut fits = |memory_bytes: u64| {
        let profile = Profile { memory_bytes, ..super::super::tests::profile() };
        it.members.hello(&mut it.fx, &it.limits, node(2), "peer".into(), profile);
        it.deployment.fits_beside(&it.members, ID, &[stage(1, 0, 2), stage(2, 2, 4)])
    };
    // Layers of 100 bytes with 20 positions of a byte each: 300 and 200 of weights, 60 of caches.
    assert!(fits(560) && !fits(559));
}

#[test]
fn a_look_is_due_only_while_a_plan_is_in_force() {
    let old = [stage(1, 0, 1), stage(2, 1, 4)];
    let mut it = Moving::new(&old, &old);
    let served = it.deployment.served.get_mut(&ID).expect("it is served");
    served.watch.look_at = Some(Time(9));
    assert_eq!(it.deployment.deadline(), Some(Time(9)));
    it.fx.now = Time(9);
    it.deployment.tick(&mut it.fx, &it.members, &it.limits);
    assert!(it.deployment.deadline().is_none_or(|at| at > Time(9)), "it would tick for ever");
    let served = it.deployment.served.get_mut(&ID).expect("it is served");
    served.watch.look_at = Some(Time(3));
    let PlanState::Ready(plan) = &served.state else { panic!("no plan in force") };
    served.state = PlanState::Preparing(plan.clone());
    assert!(it.deployment.deadline().is_none_or(|at| at > Time(3)), "nobody would look");
}

#[test]
fn what_a_node_loads_as_a_spare_is_given_up_for_its_stage() {
    let old = [stage(1, 0, 1), stage(2, 1, 4)];
    let mut it = Moving::new(&old, &old);
    it.deployment.served.get_mut(&ID).expect("it is served").policy.spares = 1;
    it.deployment.seek_spares(&mut it.fx, &it.members, &it.limits, ID);
    let spare = it.served().spares[0].node;
    assert!(it.served().asked.contains_key(&spare));
    let new = [stage(1, 0, 1), Stage { node: spare, layers: LayerRange { start: 1, end: 4 } }];
    it.deployment.move_to(&mut it.fx, &it.limits, ID, new.to_vec());
    assert!(it.served().asked.is_empty() && it.served().spares.is_empty());
    it.sent();
    it.ready(spare, Ok(()));
    assert_eq!(it.stages(), new);
    assert_eq!(it.sent()[0], (2, "unassign"));
}
