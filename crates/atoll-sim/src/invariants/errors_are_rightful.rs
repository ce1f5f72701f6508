//! I8b: a request fails only by its own deadline, by its client's leave, or for want of nodes; one
//! that comes after the mending does not fail.

use atoll_proto::{Event, RequestError, RequestId};

use super::{Invariant, Seen};
use crate::schedule::{Schedule, What};

/// With so many members the model can be placed.
const MEMBERS_ENOUGH: usize = 4;

pub(super) struct Claim {
    heal_us: u64,
    /// When each request was made.
    asked_us: Vec<u64>,
    cancelled: Vec<u64>,
}

impl Claim {
    pub(super) fn new(schedule: &Schedule) -> Self {
        let cancelled = schedule.faults.iter().filter_map(|fault| {
            if let What::Cancel { request } = fault.what { Some(request) } else { None }
        });
        Self {
            heal_us: schedule.heal_us,
            asked_us: schedule.requests.iter().map(|asked| asked.at_us).collect(),
            cancelled: cancelled.collect(),
        }
    }

    fn is_rightful(&self, request: RequestId, error: &RequestError, members: usize) -> bool {
        let asked_us = usize::try_from(request.0).ok().and_then(|i| self.asked_us.get(i));
        if asked_us.is_none_or(|asked_us| *asked_us >= self.heal_us) {
            return false;
        }
        match error {
            RequestError::DeadlineExceeded { .. } => true,
            RequestError::Cancelled => self.cancelled.contains(&request.0),
            RequestError::NodeLost { .. } | RequestError::NoPlan(_) => members < MEMBERS_ENOUGH,
            RequestError::UnknownModel(_)
            | RequestError::EmptyPrompt
            | RequestError::PromptTooLong { .. }
            | RequestError::Duplicate
            | RequestError::TooMany(_)
            | RequestError::StageFailed { .. } => false,
        }
    }
}

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "errors_are_rightful"
    }

    fn see(&mut self, _: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Told { event: Event::Failed { request, error }, members, .. } = seen else {
            return None;
        };
        (!self.is_rightful(*request, error, *members))
            .then(|| format!("request {}, with {members} members: {error}", request.0))
    }
}
