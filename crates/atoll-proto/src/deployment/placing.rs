//! Which nodes: the planner's for a new plan, others in the place of lost ones for a broken plan,
//! and spares beside a plan in force.

use super::{Deployment, PlanState, Preparation};
use crate::effects::Effects;
use crate::ids::{ModelId, NodeId, Time};
use crate::io::{Event, Output, Part};
use crate::limits::Limits;
use crate::membership::{Lost, Membership};
use crate::message::{Assign, Message};
use crate::plan::{LayerRange, ModelInfo, Plan, PlanError, PlanPolicy, Stage};
use crate::planner::{self, Candidate, Offer};
use crate::planted::Bug;

impl Deployment {
    /// A node is gone from a plan: its range goes to a spare, else to any node that can take it,
    /// else everything is planned again.
    pub(super) fn mend(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        id: ModelId,
        node: NodeId,
    ) {
        let Some(served) = self.served.get_mut(&id) else { return };
        let holds = served.stages.iter().any(|stage| stage.node == node);
        match served.state {
            PlanState::Preparing(_) | PlanState::Ready(_) if holds => {
                let until = fx.now.after_us(served.policy.wait_us);
                served.state = PlanState::Waiting { until };
                self.place(fx, members, limits, id);
            }
            PlanState::Ready(_) => self.seek_spares(fx, members, limits, id),
            PlanState::Waiting { .. } | PlanState::Preparing(_) | PlanState::Failed(_) => {}
        }
    }

    pub(super) fn place(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        id: ModelId,
    ) {
        let placed = match self.mended(fx.now, members, id) {
            Some(stages) => Ok(stages),
            None if !self.knows_links(fx.now, members, id) => return,
            None => self.planned(fx.now, members, id),
        };
        match placed {
            Ok(stages) => self.assign(fx, limits, id, stages),
            Err(error) => self.not_placed(fx, id, error),
        }
        self.seek_spares(fx, members, limits, id);
    }

    /// The latest plan with other nodes where its own are gone; the boundaries stay, so that
    /// sessions can go on.
    pub(super) fn mended(
        &self,
        now: Time,
        members: &Membership,
        id: ModelId,
    ) -> Option<Vec<Stage>> {
        let served = self.served.get(&id)?;
        let is_silent = |stage: &Stage| members.suspects(stage.node);
        let is_whole = served.lost.is_none() && served.excluded.is_empty();
        if served.stages.is_empty() || is_whole && !served.stages.iter().any(is_silent) {
            return None;
        }
        let sound = self.candidates(now, members, id, false);
        // Whoever serves at need keeps its stage: it is as good as whoever would serve at need.
        let usable = self.candidates(now, members, id, true);
        let here = |stage: &Stage| {
            stage.node == self.me || usable.iter().any(|node| node.node == stage.node)
        };
        let with = |candidates: &[Candidate]| {
            let mut stages = served.stages.clone();
            for hop in 0..stages.len() {
                if !here(&stages[hop]) {
                    let layers = stages[hop].layers;
                    stages[hop].node = self.substitute(candidates, id, &stages, layers)?;
                }
            }
            Some(stages)
        };
        with(&sound).or_else(|| with(&usable))
    }

    /// The best node for `layers` that is no stage: it holds them, loads them, or is the fastest
    /// of those that have room.
    pub(super) fn substitute(
        &self,
        candidates: &[Candidate],
        id: ModelId,
        stages: &[Stage],
        layers: LayerRange,
    ) -> Option<NodeId> {
        let served = self.served.get(&id)?;
        let needed = served.model.part_bytes(layers, served.positions());
        let free = candidates.iter().filter(|node| {
            let busy = stages.iter().any(|stage| stage.node == node.node);
            !busy && node.memory_bytes >= needed
        });
        let rank = |node: &&Candidate| {
            let holds = served.held.get(&node.node) == Some(&Some(layers));
            let asked = served.asked.get(&node.node);
            let loads = asked.is_some_and(|asked| asked.layers == Some(layers));
            let spare = served.spares.iter().any(|spare| spare.node == node.node);
            (holds, loads, !spare, node.weight_bytes_per_s, std::cmp::Reverse(node.node))
        };
        free.max_by_key(rank).map(|node| node.node)
    }

    fn planned(
        &self,
        now: Time,
        members: &Membership,
        id: ModelId,
    ) -> Result<Vec<Stage>, PlanError> {
        let served = &self.served[&id];
        if let Some(excluded) = served.excluded.get(&self.me) {
            let cause = excluded.cause.clone();
            return Err(PlanError::Prepare { node: self.me, cause });
        }
        let owner = self.owner(members, id);
        let (model, policy) = (&served.model, &served.policy);
        let mut others = self.candidates(now, members, id, false);
        let known = |from, to| members.link(from, to);
        let sound = planner::place_linked(model, policy, owner, &others, &known);
        sound
            .or_else(|error| {
                others = self.candidates(now, members, id, true);
                let placed = planner::place_linked(model, policy, owner, &others, &known);
                placed.map_err(|_| error)
            })
            .or_else(|error| {
                // After a loss a plan of fewer stages is better than none.
                let stages = if served.lost.is_some() { policy.stages.unwrap_or(0) } else { 0 };
                let fewer = (1..stages).rev().find_map(|stages| {
                    let policy = PlanPolicy { stages: Some(stages), ..policy.clone() };
                    planner::place(model, &policy, owner, &others).ok()
                });
                fewer.ok_or(error)
            })
    }

    /// Who could hold a model now; `None` if it is not to be served.
    pub(crate) fn offer(&self, now: Time, members: &Membership, id: ModelId) -> Option<Offer> {
        self.served.get(&id)?;
        let others = self.candidates(now, members, id, false);
        Some(Offer { owner: self.owner(members, id), others })
    }

    /// The members that may be used for a model (`at_need`: while there are no better ones), this
    /// node not among them.
    pub(super) fn candidates(
        &self,
        now: Time,
        members: &Membership,
        id: ModelId,
        at_need: bool,
    ) -> Vec<Candidate> {
        let Some(served) = self.served.get(&id) else { return Vec::new() };
        let usable = members.members().iter().filter(|(peer, member)| {
            let excluded = served.excluded.get(peer);
            !members.suspects(**peer)
                && !excluded.is_some_and(|excluded| excluded.holds(now, member.last_heard, at_need))
        });
        let candidate = |(&node, member): (&NodeId, &crate::membership::Member)| Candidate {
            node,
            memory_bytes: self.free(id, node, member.profile.memory_bytes),
            weight_bytes_per_s: served.watch.speed(node, member.profile.weight_bytes_per_s),
            prefill_bytes_per_s: member.profile.prefill_bytes_per_s,
        };
        usable.map(candidate).collect()
    }

    /// This node, as one that a model may be placed on.
    pub(super) fn owner(&self, members: &Membership, id: ModelId) -> Candidate {
        let (node, profile) = (self.me, members.profile());
        let claimed = profile.weight_bytes_per_s;
        let served = self.served.get(&id);
        Candidate {
            node,
            memory_bytes: self.free(id, node, profile.memory_bytes),
            weight_bytes_per_s: served.map_or(claimed, |s| s.watch.speed(node, claimed)),
            prefill_bytes_per_s: profile.prefill_bytes_per_s,
        }
    }

    /// What a node has left beside the other models that are served here.
    pub(super) fn free(&self, id: ModelId, node: NodeId, memory_bytes: u64) -> u64 {
        let others = self.served.iter().filter(|(other, _)| **other != id);
        let taken: u64 = others.map(|(_, served)| served.bytes_on(node, self.me)).sum();
        memory_bytes.saturating_sub(taken)
    }

    fn not_placed(&mut self, fx: &mut Effects, id: ModelId, error: PlanError) {
        let Some(served) = self.served.get_mut(&id) else { return };
        let PlanState::Waiting { until } = served.state else { return };
        if until > fx.now {
            return;
        }
        let error = match (served.excluded.iter().next(), served.lost.take()) {
            (_, Some(Lost { peer, cause })) => {
                PlanError::NodeLost { node: peer, cause: format!("{cause}; without it {error}") }
            }
            (Some((&node, excluded)), None) => {
                PlanError::Prepare { node, cause: excluded.cause.clone() }
            }
            (None, None) => error,
        };
        tracing::warn!(model = %id, %error, "no plan");
        fx.emit(Event::PlanFailed { model: id, error: error.clone() });
        served.state = PlanState::Failed(error);
    }

    /// Puts a plan of these stages under way; who holds its range already is not asked again.
    pub(super) fn assign(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        id: ModelId,
        stages: Vec<Stage>,
    ) {
        let me = self.me;
        let Some(served) = self.served.get_mut(&id) else { return };
        served.give_up(fx, me, "another has to come first");
        let own = stages.iter().find(|stage| stage.node == me).map(|stage| stage.layers);
        served.spares.retain(|spare| {
            let is_stage = stages.iter().any(|stage| stage.node == spare.node);
            !is_stage && stages.iter().any(|stage| stage.layers == spare.layers)
        });
        let kept = |node| stages.iter().chain(&served.spares).any(|stage| stage.node == node);
        for node in served.nodes().filter(|&node| node != me).collect::<Vec<_>>() {
            if !kept(node) {
                fx.send(node, Message::Unassign { model: id });
                served.held.remove(&node);
                served.asked.remove(&node);
            }
        }
        served.place_by = None;
        served.watch.sent_since = Some(fx.now);
        served.epoch.0 = served.epoch.0.saturating_add(1);
        let plan = Plan {
            model: id,
            epoch: served.epoch,
            owner: me,
            stages,
            spares: served.spares.clone(),
            context: planner::context(&served.model, &served.policy),
        };
        tracing::info!(model = %id, epoch = plan.epoch.0, stages = plan.stages.len(), "plan made");
        let asked = |layers| asked(fx.now, limits, &plan, layers);
        if served.held.get(&me) != Some(&own) {
            served.held.remove(&me);
            served.asked.insert(me, asked(own));
            fx.outputs.push(prepare_own(&plan, own, false));
        }
        // Who loads its range already goes on, but not waiting for a neighbour that is gone.
        for stage in plan.stages.iter().chain(&plan.spares).filter(|stage| stage.node != me) {
            let layers = Some(stage.layers);
            let now_asked = asked(layers);
            let loads = served.asked.get(&stage.node).is_some_and(|asked| {
                asked.layers == layers && asked.neighbours == now_asked.neighbours
            });
            if served.held.get(&stage.node) == Some(&layers) || loads {
                continue;
            }
            served.held.remove(&stage.node);
            served.asked.insert(stage.node, now_asked);
            fx.outputs.push(ask(&plan, &served.model, stage, false));
        }
        served.stages.clone_from(&plan.stages);
        served.state = PlanState::Preparing(plan);
        served.settle(fx, me);
    }

    /// Has the range of every stage loaded by one node more, as far as nodes and their memory go.
    pub(super) fn seek_spares(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        id: ModelId,
    ) {
        let candidates = self.candidates(fx.now, members, id, false);
        let Some(served) = self.served.get(&id) else { return };
        let PlanState::Ready(plan) = &served.state else { return };
        if served.policy.spares == 0 || served.coming.is_some() {
            return;
        }
        let mut spares = served.spares.clone();
        let first = spares.len();
        let remote = plan.stages.iter().filter(|stage| stage.node != self.me);
        for layers in remote.map(|stage| stage.layers) {
            if spares.iter().any(|spare| spare.layers == layers) {
                continue;
            }
            let taken: Vec<_> = plan.stages.iter().chain(&spares).copied().collect();
            if let Some(node) = self.substitute(&candidates, id, &taken, layers) {
                spares.push(Stage { node, layers });
            }
        }
        let mut plan = plan.clone();
        let Some(served) = self.served.get_mut(&id) else { return };
        if plan.spares == spares {
            return;
        }
        served.epoch.0 = served.epoch.0.saturating_add(1);
        (plan.epoch, plan.spares) = (served.epoch, spares.clone());
        if spares.len() > first {
            served.watch.sent_since.get_or_insert(fx.now);
        }
        for spare in &spares[first..] {
            let layers = Some(spare.layers);
            served.asked.insert(spare.node, asked(fx.now, limits, &plan, layers));
            if fx.planted.has(Bug::SpareUnloaded) {
                served.held.insert(spare.node, layers);
            }
            fx.outputs.push(ask(&plan, &served.model, spare, false));
        }
        served.spares = spares;
        served.state = PlanState::Ready(plan);
    }
}

pub(super) fn asked(
    now: Time,
    limits: &Limits,
    plan: &Plan,
    layers: Option<LayerRange>,
) -> Preparation {
    let stalls_at = now.after_us(limits.prepare_stall_us);
    let neighbours = layers.map_or([plan.owner; 2], |layers| plan.neighbours(layers));
    let epoch = plan.epoch;
    Preparation { layers, neighbours, epoch, bytes_done: 0, bytes_total: 0, stalls_at }
}

/// What the owner of a plan loads itself; `is_beside`: and what it holds stays.
pub(super) fn prepare_own(plan: &Plan, own: Option<LayerRange>, is_beside: bool) -> Output {
    let part = Part { layers: own, embed: true, head: true };
    let (model, plan_epoch, holders) = (plan.model, plan.epoch, Vec::new());
    Output::Prepare { model, plan_epoch, part, holders, is_beside }
}

/// `is_beside`: what it holds stays until it is told otherwise.
pub(super) fn ask(plan: &Plan, model: &ModelInfo, stage: &Stage, is_beside: bool) -> Output {
    let part = Part { layers: Some(stage.layers), embed: false, head: false };
    let (plan, model, holders) = (plan.clone(), model.clone(), vec![plan.owner]);
    let assign = Box::new(Assign { plan, model, part, holders, is_beside });
    Output::Send { to: stage.node, message: Message::Assign(assign) }
}
