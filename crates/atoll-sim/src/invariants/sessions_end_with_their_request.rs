//! I8d: where nothing disturbs, every stage lets a session go within a second of its request's end.

use super::quiet::Quiet;
use super::{Invariant, Seen};
use crate::schedule::Schedule;

/// Before which nothing may have disturbed, µs: a stage that was left behind is closed in vain.
const CALM_BEFORE_US: u64 = 4_000_000;

pub(super) struct Claim {
    quiet: Quiet,
}

impl Claim {
    pub(super) fn new(schedule: &Schedule) -> Self {
        Self { quiet: Quiet::new(schedule) }
    }
}

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "sessions_end_with_their_request"
    }

    fn see(&mut self, now: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Outlived { node, request } = seen else { return None };
        let calm = self.quiet.us_within(now.saturating_sub(CALM_BEFORE_US), now);
        (calm == CALM_BEFORE_US)
            .then(|| format!("node {node} still holds the session of request {}", request.0))
    }
}
