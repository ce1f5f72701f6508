//! A part of a model that is loaded beside the one that is held, and takes its place when the
//! owner says so: until then sessions go on.

use super::{Assignment, Assignments, PartState, assigned};
use crate::effects::Effects;
use crate::ids::{ModelId, NodeId};
use crate::io::Output;
use crate::limits::Limits;
use crate::membership::Membership;
use crate::message::Assign;
use crate::plan::LayerRange;

impl Assignments {
    /// Whether what `from` assigns is to stand beside another part that is held for it.
    pub(super) fn is_beside(&self, from: NodeId, assign: &Assign) -> bool {
        let held = self.held.get(&assign.plan.model).filter(|held| held.plan.owner == from);
        assign.is_beside
            && held.is_some_and(|held| {
                Some(held.layers) != assign.plan.layers_of(self.me)
                    && held.orphaned_until.is_none()
                    && held.model == assign.model
            })
    }

    pub(super) fn assign_beside(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        from: NodeId,
        Assign { plan, model, part, holders, is_beside }: Assign,
        own_bytes: Option<u64>,
    ) {
        let (id, plan_epoch) = (plan.model, plan.epoch);
        if let Some(coming) = self.coming.get(&id).filter(|coming| coming.plan.epoch >= plan_epoch)
        {
            return if coming.plan == plan {
                coming.tell(fx)
            };
        }
        self.give_up(fx, from, id);
        let Some(held) = self.held.get(&id) else { return };
        // Weights of both, and the caches of whichever has larger ones.
        let positions = plan.context.into();
        let bytes = |layers| (model.part_bytes(layers, 0), model.part_bytes(layers, positions));
        let (weights, all) = bytes(held.layers);
        let more = part.layers.map_or(0, |layers| {
            let (new_weights, new_all) = bytes(layers);
            weights.max((all + new_weights).saturating_sub(new_all))
        });
        let room = members.profile().memory_bytes;
        let room = own_bytes.map(|own| (own.saturating_add(more), room));
        match self.accept(limits, from, (&plan, &model, part), room) {
            Err(cause) => {
                tracing::info!(model = %id, %from, cause, "assignment beside another refused");
                fx.send(from, assigned(id, plan_epoch, Err(cause)));
            }
            Ok(layers) => {
                tracing::info!(model = %id, ?plan_epoch, %layers, "part assigned beside another");
                fx.push(Output::Prepare { model: id, plan_epoch, part, holders, is_beside });
                let (state, orphaned_until) = (PartState::Preparing, None);
                let neighbours = plan.neighbours(layers);
                let coming = Assignment { plan, model, layers, neighbours, state, orphaned_until };
                self.coming.insert(id, coming);
            }
        }
    }

    /// What was to come of a model, by its owner, comes no more.
    pub(super) fn give_up(&mut self, fx: &mut Effects, owner: NodeId, model: ModelId) {
        let held = self.held.get(&model).filter(|held| held.plan.owner == owner);
        if let Some(layers) = held.map(|held| held.layers)
            && self.coming.remove(&model).is_some()
        {
            fx.push(Output::Keep { model, layers: Some(layers) });
        }
    }

    /// The owner wants one of the parts kept, and no other. `Some`: the layers of the part that
    /// was held until now, whose sessions end. A range that is not held changes nothing.
    pub(crate) fn keep(
        &mut self,
        fx: &mut Effects,
        from: NodeId,
        (model, layers): (ModelId, LayerRange),
    ) -> Option<LayerRange> {
        let held = self.held.get(&model).filter(|held| held.plan.owner == from)?;
        let old = held.layers;
        if old == layers {
            self.give_up(fx, from, model);
            return None;
        }
        let coming = self.coming.get(&model)?;
        if coming.layers != layers || coming.state != PartState::Ready {
            return None;
        }
        self.held.insert(model, self.coming.remove(&model)?);
        fx.push(Output::Keep { model, layers: Some(layers) });
        Some(old)
    }
}
