//! Devices that hold so many layers, and the plans that come into force over them.

use atoll_sim::proto::Event;
use atoll_sim::proto::plan::Stage;
use atoll_sim::{Invariant, Seen};

/// Bytes of a layer of SmolLM2 with two sessions' caches, and of what the owner holds beside.
const LAYER_BYTES: u64 = 2_216_960 + 2 * 768 * 2_048;
const ENDS_BYTES: u64 = 30_083_456;

/// Plans in force and when they came to be so, s: nodes by their place in the scenario, with how
/// many layers each holds.
#[derive(Default)]
pub(crate) struct Plans(pub(crate) Vec<(f64, Vec<(usize, usize)>)>);

impl Invariant for Plans {
    fn name(&self) -> &'static str {
        "plans"
    }

    fn see(&mut self, now: u64, seen: &Seen<'_>) -> Option<String> {
        if let Seen::Told { event: Event::PlanReady { plan }, .. } = seen {
            let number = |node: &[u8; 32]| usize::from(node[7]);
            let stage = |stage: &Stage| (number(&stage.node.0), stage.layers.len());
            self.0.push((now as f64 / 1e6, plan.stages.iter().map(stage).collect()));
        }
        None
    }
}

/// A device with room for so many layers and, if it is the owner, for embedding and head so many
/// times; `more`: further lines about it.
pub(crate) fn device(name: &str, profile: &str, (layers, ends): (u64, u64), more: &str) -> String {
    let memory_bytes = layers * LAYER_BYTES + ends * ENDS_BYTES + 1_000;
    format!(
        "[[device]]\nname = \"{name}\"\nprofile = \"{profile}\"\nmemory_bytes = {memory_bytes}\n\
         {more}\n"
    )
}
