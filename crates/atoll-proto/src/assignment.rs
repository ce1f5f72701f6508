//! The stage's side of a plan: the parts that this node holds for others.

use std::collections::BTreeMap;

use crate::effects::Effects;
use crate::ids::{ModelId, NodeId, PlanEpoch, Time};
use crate::io::{Output, Part};
use crate::limits::{CAUSE_BYTES_MAX, Limits, clip};
use crate::membership::Membership;
use crate::message::Message;
use crate::plan::{LayerRange, ModelInfo, Plan};

/// The parts held for other nodes' plans.
#[derive(Debug)]
pub(crate) struct Assignments {
    me: NodeId,
    held: BTreeMap<ModelId, Assignment>,
}

/// One part.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) plan: Plan,
    pub(crate) model: ModelInfo,
    pub(crate) layers: LayerRange,
    /// The node after this one in the ring, the owner after the last.
    pub(crate) next: NodeId,
    pub(crate) state: PartState,
}

/// How far a part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PartState {
    /// Fetching and loading.
    Preparing,
    /// Loaded; the next node of the ring is not connected yet.
    Connecting {
        /// Until when we wait for it.
        until: Time,
    },
    /// The owner knows that we are ready.
    Ready,
    /// The owner knows that we are not.
    Failed(String),
}

/// What an owner asks: plan, model, part, holders.
pub(crate) type Asked = (Plan, ModelInfo, Part, Vec<NodeId>);

impl Assignments {
    pub(crate) const fn new(me: NodeId) -> Self {
        Self { me, held: BTreeMap::new() }
    }

    pub(crate) const fn all(&self) -> &BTreeMap<ModelId, Assignment> {
        &self.held
    }

    /// The part of `model`, if it is loaded and its owner knows.
    pub(crate) fn ready(&self, model: ModelId) -> Option<&Assignment> {
        self.held.get(&model).filter(|assignment| assignment.state == PartState::Ready)
    }

    /// Weight bytes held for others.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.held.values().map(|held| held.model.part_bytes(held.layers, 0)).sum()
    }

    /// An owner assigns a part. `Some(model)`: sessions of an older plan of it end.
    pub(crate) fn assign(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        from: NodeId,
        (plan, model, part, holders): Asked,
        own_bytes: Option<u64>,
    ) -> Option<ModelId> {
        let (id, epoch) = (plan.model, plan.epoch);
        if let Some(held) = self.held.get(&id)
            && held.plan.owner == from
            && held.plan.epoch >= epoch
        {
            if held.plan == plan {
                held.tell(fx);
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
            Ok((layers, next)) => {
                tracing::info!(model = %id, ?epoch, %layers, "part assigned");
                fx.push(Output::Prepare { model: id, plan_epoch: epoch, part, holders });
                let state = PartState::Preparing;
                let held = Assignment { plan, model, layers, next, state };
                self.held.insert(id, held).map(|_| id)
            }
        }
    }

    /// The range and the next node, if this node can take the part. `room`: bytes of this node's
    /// own served models and of all its memory; `None`: it serves this model itself.
    fn accept(
        &self,
        limits: &Limits,
        from: NodeId,
        (plan, model, part): (&Plan, &ModelInfo, Part),
        room: Option<(u64, u64)>,
    ) -> Result<(LayerRange, NodeId), String> {
        let Some((own_bytes, memory_bytes)) = room else {
            return Err("this node serves the model itself".into());
        };
        if plan.owner != from || plan.model != model.id || !plan.covers(model.layer_bytes.len()) {
            return Err("the plan is not its sender's or does not place each layer once".into());
        }
        let hop = plan.hop_of(self.me).ok_or("this node is not in the plan")?;
        let layers = plan.stages[hop].layers;
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
        let next = plan.stages.get(hop + 1).map_or(plan.owner, |stage| stage.node);
        Ok((layers, next))
    }

    pub(crate) fn unassign(&mut self, fx: &mut Effects, from: NodeId, model: ModelId) -> bool {
        let ours = self.held.get(&model).is_some_and(|held| held.plan.owner == from);
        if ours {
            self.held.remove(&model);
            fx.push(Output::Unload { model });
        }
        ours
    }

    /// Forgets what was held for a lost owner, and returns which models that was.
    pub(crate) fn owner_lost(&mut self, fx: &mut Effects, owner: NodeId) -> Vec<ModelId> {
        let of_owner = self.held.iter().filter(|(_, held)| held.plan.owner == owner);
        let gone: Vec<_> = of_owner.map(|(model, _)| *model).collect();
        for &model in &gone {
            self.held.remove(&model);
            fx.push(Output::Unload { model });
        }
        gone
    }

    pub(crate) fn progress(
        &self,
        fx: &mut Effects,
        (model, plan_epoch): (ModelId, PlanEpoch),
        (bytes_done, bytes_total): (u64, u64),
    ) {
        let held = self.held.get(&model).filter(|held| held.plan.epoch == plan_epoch);
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
        let held = self.held.get_mut(&model);
        let Some(held) = held.filter(|held| held.plan.epoch == plan_epoch) else { return };
        if held.state != PartState::Preparing {
            return;
        }
        held.state = match result {
            Ok(()) if members.member(held.next).is_some() => PartState::Ready,
            Ok(()) => {
                fx.push(Output::Dial { peer: held.next });
                PartState::Connecting { until: fx.now.after_us(limits.neighbour_wait_us) }
            }
            Err(cause) => PartState::Failed(clip(cause, CAUSE_BYTES_MAX)),
        };
        held.tell(fx);
    }

    /// A peer joined: it may be the next node of a ring.
    pub(crate) fn joined(&mut self, fx: &mut Effects, peer: NodeId) {
        for held in self.held.values_mut().filter(|held| held.next == peer) {
            match held.state {
                PartState::Connecting { .. } => {
                    held.state = PartState::Ready;
                    held.tell(fx);
                }
                PartState::Preparing | PartState::Ready | PartState::Failed(_) => {}
            }
        }
    }

    pub(crate) fn tick(&mut self, fx: &mut Effects) {
        for held in self.held.values_mut() {
            match held.state {
                PartState::Connecting { until } if until <= fx.now => {
                    let cause = format!("the next node of the ring, {}, is not there", held.next);
                    held.state = PartState::Failed(cause);
                    held.tell(fx);
                }
                PartState::Connecting { .. }
                | PartState::Preparing
                | PartState::Ready
                | PartState::Failed(_) => {}
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let times = self.held.values().filter_map(|held| match held.state {
            PartState::Connecting { until } => Some(until),
            PartState::Preparing | PartState::Ready | PartState::Failed(_) => None,
        });
        times.min()
    }
}

impl Assignment {
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
