//! Nodes that load their parts, and what they say of it.

use super::{Deployment, PlanState};
use crate::effects::Effects;
use crate::ids::{ModelId, NodeId, PlanEpoch, Time};
use crate::io::Event;
use crate::limits::Limits;
use crate::membership::Membership;
use crate::plan::LayerRange;

/// One node on its way to being ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preparation {
    pub(super) layers: Option<LayerRange>,
    /// The nodes beside it in the ring, as it was told: it is ready when it has met them.
    pub(super) neighbours: [NodeId; 2],
    pub(super) epoch: PlanEpoch,
    pub(crate) bytes_done: u64,
    pub(crate) bytes_total: u64,
    pub(super) stalls_at: Time,
}

impl Deployment {
    /// A node of a plan reports how far it is.
    pub(crate) fn progress(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        node: NodeId,
        (model, epoch): (ModelId, PlanEpoch),
        (bytes_done, bytes_total): (u64, u64),
    ) {
        let Some(served) = self.served.get_mut(&model) else { return };
        let coming = served.coming.as_mut().map(|coming| &mut coming.asked);
        let mut asked = [Some(&mut served.asked), coming].into_iter().flatten();
        let asked = asked.find_map(|asked| asked.get_mut(&node).filter(|to| to.epoch == epoch));
        let Some(asked) = asked else { return };
        if bytes_done > asked.bytes_done {
            asked.stalls_at = fx.now.after_us(limits.prepare_stall_us);
        }
        asked.bytes_done = asked.bytes_done.max(bytes_done);
        asked.bytes_total = bytes_total;
        if let PlanState::Preparing(plan) = &served.state {
            fx.emit(Event::PlanProgress { plan: plan.clone(), node, bytes_done, bytes_total });
        }
    }

    /// A node of a plan is ready, or cannot be.
    pub(crate) fn prepared(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        node: NodeId,
        (model, epoch): (ModelId, PlanEpoch),
        result: Result<(), String>,
    ) {
        let Some(served) = self.served.get_mut(&model) else { return };
        if served.is_coming(node, epoch) {
            if served.came(fx, self.me, node, result) {
                self.seek_spares(fx, members, limits, model);
                self.loaded(fx.now, members, model);
            }
            return;
        }
        let Some(asked) = served.asked.get(&node).filter(|asked| asked.epoch == epoch) else {
            return;
        };
        let layers = asked.layers;
        served.asked.remove(&node);
        match result {
            Ok(()) => {
                served.held.insert(node, layers);
                served.settle(fx, self.me);
                if matches!(served.state, PlanState::Ready(_)) {
                    self.seek_spares(fx, members, limits, model);
                }
                self.loaded(fx.now, members, model);
            }
            Err(cause) => self.exclude(fx, members, limits, (model, node), cause),
        }
    }
}
