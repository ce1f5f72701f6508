//! From the plan in force to a better one: its parts are loaded beside those that are held, and
//! only when all are ready does it take their place. Until then, and if it comes to nothing,
//! sessions go on as before; afterwards they begin again from their own logs.

use std::collections::{BTreeMap, BTreeSet};

use super::placing::{ask, asked, prepare_own};
use super::{Deployment, PlanState, Preparation, Served};
use crate::effects::Effects;
use crate::ids::{ModelId, NodeId, PlanEpoch, Time};
use crate::io::{Event, Output};
use crate::limits::Limits;
use crate::membership::Membership;
use crate::message::Message;
use crate::plan::{Plan, Stage};

/// Time between two moves of a model at least, µs: what a move brought shows before the next.
const BETWEEN_US: u64 = 10_000_000;
/// After a plan that came to nothing, µs.
const GIVEN_UP_US: u64 = 30_000_000;

/// A plan on its way.
#[derive(Debug)]
pub(crate) struct Move {
    pub(super) plan: Plan,
    /// Nodes that hold their parts of it.
    ready: BTreeSet<NodeId>,
    /// Nodes that are loading them.
    pub(super) asked: BTreeMap<NodeId, Preparation>,
}

impl Deployment {
    /// Has other stages than those in force prepared.
    pub(super) fn move_to(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        id: ModelId,
        stages: Vec<Stage>,
    ) {
        let me = self.me;
        let Some(served) = self.served.get_mut(&id) else { return };
        let PlanState::Ready(old) = &served.state else { return };
        let old = old.clone();
        served.epoch.0 = served.epoch.0.saturating_add(1);
        let (epoch, spares) = (served.epoch, Vec::new());
        let plan = Plan { epoch, stages, spares, ..old.clone() };
        tracing::info!(model = %id, epoch = epoch.0, stages = plan.stages.len(), "plan coming");
        let mut coming = Move { plan, ready: BTreeSet::new(), asked: BTreeMap::new() };
        let plan = &coming.plan;
        let own = plan.layers_of(me);
        if served.held.get(&me) == Some(&own) {
            coming.ready.insert(me);
        } else {
            coming.asked.insert(me, asked(fx.now, limits, plan, own));
            fx.outputs.push(prepare_own(plan, own, true));
        }
        for stage in plan.stages.iter().filter(|stage| stage.node != me) {
            // What it was loading as a spare is given up for this.
            if served.asked.remove(&stage.node).is_some() {
                served.spares.retain(|spare| spare.node != stage.node);
            }
            let layers = Some(stage.layers);
            let has_met = old.neighbours(stage.layers) == plan.neighbours(stage.layers);
            if served.held.get(&stage.node) == Some(&layers) && has_met {
                coming.ready.insert(stage.node);
            } else {
                coming.asked.insert(stage.node, asked(fx.now, limits, plan, layers));
                fx.outputs.push(ask(plan, &served.model, stage, true));
            }
        }
        served.coming = Some(coming);
        served.watch.sent_since = Some(fx.now);
        served.take_place(fx, me);
    }

    /// Whether every node of these stages has room for its part beside what it holds.
    pub(super) fn fits_beside(&self, members: &Membership, id: ModelId, stages: &[Stage]) -> bool {
        let Some(served) = self.served.get(&id) else { return false };
        let positions = served.positions();
        let layers_of = |node: NodeId| stages.iter().find(|stage| stage.node == node);
        let fits = |node: NodeId, memory_bytes: u64, ends: u64| {
            let held = served.held.get(&node).copied();
            let new = layers_of(node).map(|stage| stage.layers);
            let Some(held) = held.filter(|held| *held != new) else { return true };
            let all = served.model.beside_bytes([held, new], positions);
            all.saturating_add(ends) <= self.free(id, node, memory_bytes)
        };
        let ends = served.model.embed_bytes.saturating_add(served.model.head_bytes);
        let own = members.profile().memory_bytes;
        let others = stages.iter().filter(|stage| stage.node != self.me);
        fits(self.me, own, ends.saturating_mul(2))
            && others.map(|stage| stage.node).all(|node| {
                members.member(node).is_some_and(|it| fits(node, it.profile.memory_bytes, 0))
            })
    }
}

impl Served {
    /// Whether a node is preparing its part of a coming plan.
    pub(super) fn is_coming(&self, node: NodeId, epoch: PlanEpoch) -> bool {
        let asked = self.coming.as_ref().and_then(|coming| coming.asked.get(&node));
        asked.is_some_and(|asked| asked.epoch == epoch)
    }

    /// A node has its part of the coming plan, or will not have it. Whether the plan is now in
    /// force.
    pub(super) fn came(
        &mut self,
        fx: &mut Effects,
        me: NodeId,
        node: NodeId,
        result: Result<(), String>,
    ) -> bool {
        if let Err(cause) = result {
            self.give_up(fx, me, &cause);
            return false;
        }
        if let Some(coming) = &mut self.coming {
            coming.asked.remove(&node);
            coming.ready.insert(node);
        }
        self.take_place(fx, me)
    }

    /// Puts the coming plan in force, if all its parts are there.
    fn take_place(&mut self, fx: &mut Effects, me: NodeId) -> bool {
        let Some(Move { plan, .. }) = self.coming.take_if(|coming| coming.asked.is_empty()) else {
            return false;
        };
        let model = plan.model;
        let own = plan.layers_of(me);
        for node in self.held.keys().chain(self.asked.keys()).copied().collect::<BTreeSet<_>>() {
            if node != me && plan.hop_of(node).is_none() {
                fx.send(node, Message::Unassign { model });
            }
        }
        (self.held, self.asked) = (BTreeMap::from([(me, own)]), BTreeMap::new());
        for &Stage { node, layers } in plan.stages.iter().filter(|stage| stage.node != me) {
            fx.send(node, Message::Keep { model, layers });
            self.held.insert(node, Some(layers));
        }
        fx.push(Output::Keep { model, layers: own });
        self.spares.clear();
        self.stages.clone_from(&plan.stages);
        self.watch.hold_until = fx.now.after_us(BETWEEN_US);
        tracing::info!(%model, epoch = plan.epoch.0, "plan moved to");
        fx.emit(Event::PlanReady { plan: plan.clone() });
        self.state = PlanState::Ready(plan);
        true
    }

    /// The coming plan, if there is one, comes to nothing.
    pub(super) fn give_up(&mut self, fx: &mut Effects, me: NodeId, cause: &str) {
        let Some(Move { plan, .. }) = self.coming.take() else { return };
        let model = plan.model;
        tracing::info!(%model, epoch = plan.epoch.0, cause, "a coming plan is given up");
        for node in plan.stages.iter().map(|stage| stage.node).filter(|node| *node != me) {
            fx.send(
                node,
                match self.held.get(&node) {
                    Some(&Some(layers)) => Message::Keep { model, layers },
                    Some(None) | None => Message::Unassign { model },
                },
            );
        }
        if let Some(&layers) = self.held.get(&me) {
            fx.push(Output::Keep { model, layers });
        }
        self.watch.hold_until = fx.now.after_us(GIVEN_UP_US);
    }

    /// Gives a coming plan up whose parts do not come.
    pub(super) fn stalls(&mut self, fx: &mut Effects, me: NodeId) {
        let asked = self.coming.iter().flat_map(|coming| coming.asked.values());
        if asked.map(|asked| asked.stalls_at).min().is_some_and(|at: Time| at <= fx.now) {
            self.give_up(fx, me, "a part of it does not come");
        }
    }
}

#[cfg(test)]
mod tests;
