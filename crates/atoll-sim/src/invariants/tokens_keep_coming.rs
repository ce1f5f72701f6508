//! I8e: a request that has begun waits for its next token no longer than a while of quiet time.

use std::collections::BTreeMap;

use atoll_proto::{Event, RequestId};

use super::quiet::Quiet;
use super::{Invariant, Seen};
use crate::schedule::Schedule;

/// Longest wait between two tokens while nothing disturbs, µs: some openings of a ring, each with
/// more patience than the one before it.
const WAIT_US: u64 = 5_000_000;

pub(super) struct Claim {
    wait_us: u64,
    quiet: Quiet,
    /// When each request last gave a token.
    last: BTreeMap<RequestId, u64>,
}

impl Claim {
    pub(super) fn new(schedule: &Schedule) -> Self {
        let wait_us = WAIT_US + schedule.slack_us;
        Self { wait_us, quiet: Quiet::new(schedule), last: BTreeMap::new() }
    }
}

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "tokens_keep_coming"
    }

    fn see(&mut self, now: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Told { event: Event::Token { request, .. }, .. } = seen else { return None };
        let last = self.last.insert(*request, now)?;
        // Most tokens follow at once.
        let waited = if now - last > self.wait_us { self.quiet.us_within(last, now) } else { 0 };
        (waited > self.wait_us)
            .then(|| format!("request {} waited {waited} quiet µs for a token", request.0))
    }
}
