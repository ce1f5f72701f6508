//! The stage's side of a plan: the parts that this node holds for others.

use std::collections::BTreeMap;

use crate::effects::Effects;
use crate::ids::{ModelId, NodeId, PlanEpoch, Time};
use crate::io::{Output, Part};
use crate::limits::{CAUSE_BYTES_MAX, Limits, clip};
use crate::membership::Membership;
use crate::message::{Assign, Message};
use crate::plan::{LayerRange, ModelInfo, Plan};

mod beside;

/// The parts held for other nodes' plans.
#[derive(Debug)]
pub(crate) struct Assignments {
    me: NodeId,
    held: BTreeMap<ModelId, Assignment>,
    /// Parts of models of which another is held, in whose place they are to come.
    coming: BTreeMap<ModelId, Assignment>,
}

/// One part.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) plan: Plan,
    pub(crate) model: ModelInfo,
    pub(crate) layers: LayerRange,
    /// The nodes beside this one in the ring.
    neighbours: [NodeId; 2],
    pub(crate) state: PartState,
    /// The owner is gone: the part is kept until then, should it come back.
    orphaned_until: Option<Time>,
}

/// How far a part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PartState {
    /// Fetching and loading.
    Preparing,
    /// Loaded; a neighbour in the ring is not connected yet.
    Connecting {
        /// Until when we wait for it.
        until: Time,
    },
    /// The owner knows that we are ready.
    Ready,
    /// The owner knows that we are not.
    Failed(String),
}

impl Assignments {
    pub(crate) const fn new(me: NodeId) -> Self {
        Self { me, held: BTreeMap::new(), coming: BTreeMap::new() }
    }

    pub(crate) const fn all(&self) -> &BTreeMap<ModelId, Assignment> {
        &self.held
    }

    /// A part of `model` that is loaded and its owner knows: that with these layers, if there is.
    pub(crate) fn ready(&self, model: ModelId, layers: LayerRange) -> Option<&Assignment> {
        let parts = [self.coming.get(&model), self.held.get(&model)].into_iter().flatten();
        let ready = parts.filter(|part| part.state == PartState::Ready);
        ready.max_by_key(|part| part.layers == layers)
    }

    /// Whom this node holds parts for.
    pub(crate) fn owners(&self) -> impl Iterator<Item = NodeId> {
        self.all_parts().map(|held| held.plan.owner)
    }

    fn all_parts(&self) -> impl Iterator<Item = &Assignment> {
        self.held.values().chain(self.coming.values())
    }

    fn all_parts_mut(&mut self) -> impl Iterator<Item = &mut Assignment> {
        self.held.values_mut().chain(self.coming.values_mut())
    }

    /// The part of a plan.
    fn of_plan(&mut self, model: ModelId, epoch: PlanEpoch) -> Option<&mut Assignment> {
        self.all_parts_mut().find(|part| part.plan.model == model && part.plan.epoch == epoch)
    }

    /// Weight bytes held for others.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.all_parts().map(|held| held.model.part_bytes(held.layers, 0)).sum()
    }

    /// An owner assigns a part. `Some(model)`: sessions of an older plan of it end.
    pub(crate) fn assign(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        from: NodeId,
        assign: Assign,
        own_bytes: Option<u64>,
    ) -> Option<ModelId> {
        if self.is_beside(from, &assign) {
            self.assign_beside(fx, members, limits, from, assign, own_bytes);
            return None;
        }
        let Assign { plan, model, part, holders, is_beside: _ } = assign;
        let (id, epoch) = (plan.model, plan.epoch);
        self.give_up(fx, from, id);
        let mut known = self.held.get_mut(&id).filter(|held| held.plan.owner == from);
        if let Some(held) = known.as_mut().filter(|held| held.orphaned_until.is_none())
            && held.plan.epoch >= epoch
        {
            if held.plan == plan {
                held.tell(fx);
            }
            return None;
        }
        if let Some(held) = known
            && Some(held.layers) == plan.layers_of(self.me)
            && held.model == model
            && !matches!(held.state, PartState::Failed(_))
        {
            // The same part under a newer plan: nothing is loaded anew.
            let preparing = held.state == PartState::Preparing;
            held.neighbours = plan.neighbours(held.layers);
            (held.plan, held.orphaned_until) = (plan, None);
            if preparing {
                let plan_epoch = epoch;
                let is_beside = false;
                fx.push(Output::Prepare { model: id, plan_epoch, part, holders, is_beside });
            } else {
                held.loaded(fx, members, limits);
            }
            return None;
        }
        let room = members.profile().memory_bytes;
        match self.accept(limits, from, (&plan, &model, part), own_bytes.map(|own| (own, room))) {
            Err(cause) => {
                tracing::warn!(model = %id, %from, cause, "assignment refused");
                fx.send(from, assigned(id, epoch, Err(cause)));
                None
            }
            Ok(layers) => {
                tracing::info!(model = %id, ?epoch, %layers, "part assigned");
                let (plan_epoch, is_beside) = (epoch, false);
                fx.push(Output::Prepare { model: id, plan_epoch, part, holders, is_beside });
                let (state, orphaned_until) = (PartState::Preparing, None);
                let neighbours = plan.neighbours(layers);
                let held = Assignment { plan, model, layers, neighbours, state, orphaned_until };
                self.held.insert(id, held).map(|_| id)
            }
        }
    }

    /// The range, if this node can take the part. `room`: bytes of this node's
    /// own served models and of all its memory; `None`: it serves this model itself.
    fn accept(
        &self,
        limits: &Limits,
        from: NodeId,
        (plan, model, part): (&Plan, &ModelInfo, Part),
        room: Option<(u64, u64)>,
    ) -> Result<LayerRange, String> {
        let Some((own_bytes, memory_bytes)) = room else {
            return Err("this node serves the model itself".into());
        };
        if plan.owner != from || plan.model != model.id || !plan.covers(model.layer_bytes.len()) {
            return Err("the plan is not its sender's or does not place each layer once".into());
        }
        let layers = plan.layers_of(self.me).ok_or("this node is not in the plan")?;
        if part != (Part { layers: Some(layers), embed: false, head: false }) {
            return Err("the part is not this node's in the plan".into());
        }
        let others = self.held.iter().filter(|(id, _)| **id != model.id);
        if let Some(held) = self.held.get(&model.id).filter(|held| held.plan.owner != from) {
            let (layers, owner) = (held.layers, held.plan.owner);
            return Err(format!("it holds layers {layers} of the model for node {owner}"));
        } else if others.clone().count() >= limits.assignments_max {
            let max = limits.assignments_max;
            return Err(format!("it holds parts of {max} models, which is the limit"));
        }
        let taken = others.fold(own_bytes, |sum, (_, held)| {
            sum.saturating_add(held.model.part_bytes(held.layers, held.plan.context.into()))
        });
        let needed = model.part_bytes(layers, plan.context.into());
        let free = memory_bytes.saturating_sub(taken);
        if needed > free {
            return Err(format!("the part needs {needed} bytes, {free} are free"));
        }
        Ok(layers)
    }

    pub(crate) fn unassign(&mut self, fx: &mut Effects, from: NodeId, model: ModelId) -> bool {
        let ours = self.held.get(&model).is_some_and(|held| held.plan.owner == from);
        if ours {
            self.held.remove(&model);
            self.coming.remove(&model);
            fx.push(Output::Unload { model });
        }
        ours
    }

    /// An owner is gone; what it had us load is kept for a while.
    pub(crate) fn owner_lost(&mut self, fx: &mut Effects, limits: &Limits, owner: NodeId) {
        let coming = self.coming.iter().filter(|(_, coming)| coming.plan.owner == owner);
        for model in coming.map(|(model, _)| *model).collect::<Vec<_>>() {
            self.give_up(fx, owner, model);
        }
        for held in self.held.values_mut().filter(|held| held.plan.owner == owner) {
            held.orphaned_until = Some(fx.now.after_us(limits.orphan_us));
        }
    }

    pub(crate) fn progress(
        &self,
        fx: &mut Effects,
        (model, plan_epoch): (ModelId, PlanEpoch),
        (bytes_done, bytes_total): (u64, u64),
    ) {
        let mut parts = self.all_parts();
        let held = parts.find(|part| part.plan.model == model && part.plan.epoch == plan_epoch);
        if let Some(held) = held {
            let message = Message::AssignProgress { model, plan_epoch, bytes_done, bytes_total };
            fx.send(held.plan.owner, message);
        }
    }

    pub(crate) fn prepared(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        (model, plan_epoch): (ModelId, PlanEpoch),
        result: Result<(), String>,
    ) {
        let Some(held) = self.of_plan(model, plan_epoch) else { return };
        if held.state != PartState::Preparing {
            return;
        }
        match result {
            Ok(()) => held.loaded(fx, members, limits),
            Err(cause) => {
                held.state = PartState::Failed(clip(cause, CAUSE_BYTES_MAX));
                held.tell(fx);
            }
        }
    }

    /// A peer joined: it may be beside us in a ring.
    pub(crate) fn joined(&mut self, fx: &mut Effects, members: &Membership, peer: NodeId) {
        for held in self.all_parts_mut().filter(|held| held.neighbours.contains(&peer)) {
            if matches!(held.state, PartState::Connecting { .. }) && held.connected(members) {
                held.state = PartState::Ready;
                held.tell(fx);
            }
        }
    }

    /// Gives up neighbours that do not come and owners that do not come back.
    pub(crate) fn tick(&mut self, fx: &mut Effects, members: &Membership) {
        for held in self.all_parts_mut() {
            if let PartState::Connecting { until } = held.state
                && until <= fx.now
            {
                let absent = held.neighbours.iter().find(|&&node| !held.is_here(members, node));
                let names = absent.map_or(String::new(), ToString::to_string);
                let cause = format!("the node beside it in the ring, {names}, is not there");
                held.state = PartState::Failed(cause);
                held.tell(fx);
            }
        }
        self.held.retain(|&model, held| {
            let over = held.orphaned_until.is_some_and(|until| until <= fx.now);
            if over {
                fx.push(Output::Unload { model });
            }
            !over
        });
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let times = self.all_parts().flat_map(|held| {
            let connecting = match held.state {
                PartState::Connecting { until } => Some(until),
                PartState::Preparing | PartState::Ready | PartState::Failed(_) => None,
            };
            connecting.into_iter().chain(held.orphaned_until)
        });
        times.min()
    }
}

impl Assignment {
    /// The part is loaded: ready as soon as its neighbours are connected.
    fn loaded(&mut self, fx: &mut Effects, members: &Membership, limits: &Limits) {
        self.state = PartState::Ready;
        for peer in self.neighbours {
            if self.is_here(members, peer) {
                continue;
            }
            fx.push(Output::Dial { peer });
            let until = fx.now.after_us(limits.neighbour_wait_us);
            self.state = PartState::Connecting { until };
        }
        self.tell(fx);
    }

    fn connected(&self, members: &Membership) -> bool {
        self.neighbours.iter().all(|&node| self.is_here(members, node))
    }

    fn is_here(&self, members: &Membership, node: NodeId) -> bool {
        node == self.plan.owner || members.member(node).is_some()
    }

    /// Tells the owner the outcome, if there is one.
    fn tell(&self, fx: &mut Effects) {
        let result = match &self.state {
            PartState::Ready => Ok(()),
            PartState::Failed(cause) => Err(cause.clone()),
            PartState::Preparing | PartState::Connecting { .. } => return,
        };
        fx.send(self.plan.owner, assigned(self.plan.model, self.plan.epoch, result));
    }
}

const fn assigned(model: ModelId, plan_epoch: PlanEpoch, result: Result<(), String>) -> Message {
    Message::Assigned { model, plan_epoch, result }
}
