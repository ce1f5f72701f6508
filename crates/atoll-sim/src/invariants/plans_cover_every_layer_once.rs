//! I6: a plan in force covers every layer once, is newer than the last, and its parts are loaded.

use atoll_proto::{Event, PlanEpoch};

use super::{Invariant, Seen};
use crate::schedule::Schedule;

pub(super) struct Claim {
    layers: u16,
    latest: PlanEpoch,
}

impl Claim {
    pub(super) fn new(schedule: &Schedule) -> Self {
        Self { layers: schedule.model.layers, latest: PlanEpoch::default() }
    }
}

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "plans_cover_every_layer_once"
    }

    fn see(&mut self, _: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Told { event: Event::PlanReady { plan }, loaded, .. } = seen else {
            return None;
        };
        let earlier = std::mem::replace(&mut self.latest, plan.epoch);
        let epoch = plan.epoch.0;
        if !plan.covers(usize::from(self.layers)) {
            return Some(format!("plan {epoch} is no cover: {:?}", plan.stages));
        }
        if plan.epoch <= earlier {
            return Some(format!("plan {epoch} follows plan {}", earlier.0));
        }
        let absent = loaded.iter().position(|loaded| *loaded == Some(false));
        absent.map(|hop| format!("plan {epoch} is said to be ready, stage {hop} is not loaded"))
    }
}
