//! I8b: a request fails only for a cause that the schedule gave it.

use atoll_proto::{Event, RequestError, RequestId};

use super::{Invariant, Seen};
use crate::schedule::{Schedule, What};

pub(super) struct Claim {
    leavers: usize,
}

impl Claim {
    pub(super) fn new(schedule: &Schedule) -> Self {
        let leaves = |fault: &&crate::schedule::Fault| matches!(fault.what, What::Leave { .. });
        Self { leavers: schedule.faults.iter().filter(leaves).count() }
    }

    fn is_rightful(&self, _: RequestId, error: &RequestError) -> bool {
        matches!(error, RequestError::NodeLost { .. }) && self.leavers > 0
    }
}

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "errors_are_rightful"
    }

    fn see(&mut self, _: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Told { event: Event::Failed { request, error }, .. } = seen else {
            return None;
        };
        (!self.is_rightful(*request, error)).then(|| format!("request {}: {error}", request.0))
    }
}
