//! I8b: a request fails only by its client's leave, for want of nodes that could hold the model, or
//! at its deadline if it had no quiet time enough before the mending; one made after it, or whose
//! deadline lies well after it, only by its client's leave.

use atoll_proto::{Event, RequestError, RequestId};

use super::quiet::{Quiet, can_hold, core_holds};
use super::{Invariant, Seen};
use crate::schedule::{Schedule, What};

/// Within so much quiet time any request is done, others in front of it included, and within so
/// much time after the mending any that was made before it, µs.
const WORK_US: u64 = 8_000_000;

pub(super) struct Claim {
    work_us: u64,
    heal_us: u64,
    quiet: Quiet,
    /// Whether what is mended can hold the model.
    core_holds: bool,
    /// The fewest nodes, the origin among them, of which any hold the model.
    enough: usize,
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
            work_us: WORK_US + schedule.slack_us,
            heal_us: schedule.heal_us,
            quiet: Quiet::new(schedule),
            core_holds: core_holds(schedule),
            enough: (1..=schedule.devices.len())
                .find(|&n| can_hold(schedule, n))
                .unwrap_or(usize::MAX),
            asked_us: schedule.requests.iter().map(|asked| asked.at_us).collect(),
            cancelled: cancelled.collect(),
        }
    }

    fn is_rightful(
        &self,
        now: u64,
        request: RequestId,
        error: &RequestError,
        members: usize,
    ) -> bool {
        let asked_us = usize::try_from(request.0).ok().and_then(|i| self.asked_us.get(i));
        let Some(&asked_us) = asked_us else { return false };
        let before = asked_us < self.heal_us;
        match error {
            RequestError::Cancelled => self.cancelled.contains(&request.0),
            RequestError::DeadlineExceeded { .. } => {
                let mended = self.heal_us.saturating_add(self.work_us);
                let in_time = self.core_holds && now >= mended;
                before && !in_time && self.quiet.us_within(asked_us, now) < self.work_us
            }
            RequestError::NodeLost { .. } | RequestError::NoPlan(_) => {
                before && members + 1 < self.enough
            }
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

    fn see(&mut self, now: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Told { event: Event::Failed { request, error }, members, .. } = seen else {
            return None;
        };
        (!self.is_rightful(now, *request, error, *members))
            .then(|| format!("request {}, with {members} members: {error}", request.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patient_request_may_not_miss_a_deadline_after_the_mending() {
        let mut schedule = Schedule::chaos(0, 12);
        schedule.faults.clear();
        schedule.requests[0].at_us = schedule.heal_us - 1_000_000;
        let claim = Claim::new(&schedule);
        let error = RequestError::DeadlineExceeded { after_us: 1 };
        let late =
            |after_us| claim.is_rightful(schedule.heal_us + after_us, RequestId(0), &error, 11);
        assert!(late(1_000_000), "too little of it was quiet");
        assert!(!late(WORK_US), "the core was whole for long enough");
    }
}
