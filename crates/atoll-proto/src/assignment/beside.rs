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
        let positions = plan.context.into();
        let alone = part.layers.map_or(0, |layers| model.part_bytes(layers, positions));
        let both = model.beside_bytes([Some(held.layers), part.layers], positions);
        let more = both.saturating_sub(alone);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::tests::{ID, ME, members, model};
    use crate::ids::{PlanEpoch, Time};
    use crate::io::Part;
    use crate::plan::{Plan, Stage};
    use crate::planted::Planted;

    const OWNER: NodeId = NodeId([2; 32]);

    fn range(start: u16, end: u16) -> LayerRange {
        LayerRange { start, end }
    }

    /// This node is to hold `layers`, the owner the rest of four.
    fn assign(epoch: u32, layers: LayerRange, is_beside: bool) -> Assign {
        let rest = range(0, layers.start);
        let own = Stage { node: ME, layers };
        let stages = vec![Stage { node: OWNER, layers: rest }, own];
        let (epoch, spares) = (PlanEpoch(epoch), Vec::new());
        let plan = Plan { model: ID, epoch, owner: OWNER, stages, spares, context: 10 };
        let part = Part { layers: Some(layers), embed: false, head: false };
        Assign { plan, model: model(), part, holders: vec![OWNER], is_beside }
    }

    struct Held {
        fx: Effects,
        limits: Limits,
        members: Membership,
        it: Assignments,
    }

    impl Held {
        /// Holds layers 2 and 3 and is to hold those from 1 on.
        fn new() -> Self {
            let limits = Limits::default();
            let mut fx = Effects::new(Time(5), Planted::default());
            let members = members(&mut fx, &limits, &[2]);
            let mut held = Self { fx, limits, members, it: Assignments::new(ME) };
            held.assign(assign(1, range(2, 4), false));
            held.prepared(1);
            held.assign(assign(2, range(1, 4), true));
            held
        }

        fn assign(&mut self, assign: Assign) {
            let (members, limits) = (&self.members, &self.limits);
            let old = self.it.assign(&mut self.fx, members, limits, OWNER, assign, Some(0));
            assert_eq!(old, None, "no session ends");
        }

        fn prepared(&mut self, epoch: u32) {
            let (members, limits) = (&self.members, &self.limits);
            let at = (ID, PlanEpoch(epoch));
            self.it.prepared(&mut self.fx, members, limits, at, Ok(()));
        }

        fn ready(&self, layers: LayerRange) -> bool {
            self.it.ready(ID, layers).is_some_and(|part| part.layers == layers)
        }

        fn keep(&mut self, layers: LayerRange) -> Option<LayerRange> {
            self.it.keep(&mut self.fx, OWNER, (ID, layers))
        }
    }

    #[test]
    fn both_parts_serve_until_one_is_kept() {
        let (old, new) = (range(2, 4), range(1, 4));
        let mut held = Held::new();
        assert!(held.ready(old) && !held.ready(new));
        assert_eq!(held.keep(new), None, "it is not there yet");
        held.prepared(2);
        assert!(held.ready(old) && held.ready(new));
        assert_eq!(held.it.keep(&mut held.fx, ME, (ID, new)), None, "not its owner's word");
        assert_eq!(held.keep(range(0, 4)), None, "nothing of the kind is held");
        assert!(held.ready(old) && held.ready(new));
        assert_eq!(held.keep(new), Some(old));
        assert!(!held.ready(old) && held.ready(new));
        let kept = Output::Keep { model: ID, layers: Some(new) };
        assert_eq!(held.fx.outputs.last(), Some(&kept));
    }

    #[test]
    fn what_was_to_come_is_given_up() {
        let (old, new) = (range(2, 4), range(1, 4));
        let kept = Output::Keep { model: ID, layers: Some(old) };
        let is_given_up = |held: &Held| {
            held.it.coming.is_empty() && held.ready(old) && held.fx.outputs.contains(&kept)
        };
        let mut held = Held::new();
        held.prepared(2);
        assert_eq!(held.keep(old), None);
        assert!(is_given_up(&held) && !held.ready(new));
        let mut held = Held::new();
        held.it.owner_lost(&mut held.fx, &held.limits, OWNER);
        assert!(is_given_up(&held), "with its owner");
        let mut held = Held::new();
        held.assign(assign(3, old, false));
        assert!(is_given_up(&held), "by another plan");
    }

    #[test]
    fn both_parts_need_room() {
        let mut held = Held::new();
        let memory = |held: &mut Held, memory_bytes: u64| {
            let profile = crate::plan::Profile { memory_bytes, ..Default::default() };
            held.members.measured(&mut held.fx, profile);
        };
        // 200 and 300 bytes of weights, 30 of the larger one's caches.
        memory(&mut held, 529);
        held.assign(assign(4, range(1, 4), true));
        assert!(held.it.coming.is_empty() && held.ready(range(2, 4)));
        memory(&mut held, 530);
        held.assign(assign(5, range(1, 4), true));
        assert!(held.it.coming.len() == 1 && held.ready(range(2, 4)));
    }
}
