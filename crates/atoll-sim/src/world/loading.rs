//! Parts that nodes fetch and load, and what keeps them from it.

use atoll_proto::io::Part;
use atoll_proto::{Input, ModelId, PlanEpoch};

use super::World;
use crate::invariants::Seen;

/// What keeps a device from loading parts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loading {
    /// Until when it has no memory for them.
    pub(super) no_memory_until: u64,
    /// Until when its disk is full.
    pub(super) disk_full_until: u64,
    /// The next part comes corrupt.
    pub(super) is_corrupt: bool,
    /// It has refused a part in this life: a plan does without it from then on.
    pub(super) has_refused: bool,
}

impl World<'_> {
    /// A node fetches and loads a part, or says why not.
    pub(super) fn prepare(
        &mut self,
        node: usize,
        (model, plan_epoch): (ModelId, PlanEpoch),
        part: Part,
        is_beside: bool,
    ) {
        let noise = self.noise.below(20_000);
        let (now, slot) = (self.now, &mut self.nodes[node]);
        let load_us = slot.device.load_us(model, part, noise);
        let is_new = part.layers.is_some() && !slot.device.has(model, part.layers);
        let loading = &mut slot.loading;
        let (takes_us, result) = if is_new && loading.no_memory_until > now {
            (1_000, Err("there is no memory for it"))
        } else if is_new && loading.disk_full_until > now {
            (load_us / 2, Err("the disk is full"))
        } else if is_new && std::mem::take(&mut loading.is_corrupt) {
            (2 * load_us, Ok(()))
        } else {
            (load_us, Ok(()))
        };
        loading.has_refused |= result.is_err();
        if result.is_ok() {
            slot.device.prepare(model, part, is_beside);
        }
        let result = result.map_err(str::to_owned);
        self.own(now + takes_us, node, Input::Prepared { model, plan_epoch, result });
    }

    /// What was prepared takes the place of what was loaded.
    pub(super) fn loads(&mut self, node: usize, model: ModelId) {
        let device = &mut self.nodes[node].device;
        device.load(model);
        let (used_bytes, memory_bytes) = (device.used_bytes(), device.memory_bytes);
        self.see(&Seen::Memory { node, used_bytes, memory_bytes });
    }
}
