//! I8: every request ends once, with all its tokens or an error, by its deadline, or at once when
//! its client goes.

use std::collections::BTreeMap;

use atoll_proto::{Event, RequestId};

use super::{Invariant, Seen};
use crate::schedule::{Fault, Schedule, What};

/// A deadline is met by a timer that may be so late, µs.
const LATE_US: u64 = 10_000;

pub(super) struct Claim {
    /// And takes its requests with it.
    origin_dies: bool,
    /// Of each request: from when, until when, and how many tokens.
    asked: Vec<(u64, u64, u32)>,
    tokens: BTreeMap<RequestId, u32>,
    ended: BTreeMap<RequestId, u64>,
}

impl Claim {
    pub(super) fn new(schedule: &Schedule) -> Self {
        let origin_dies = |fault: &Fault| matches!(fault.what, What::Kill { node: 0, .. });
        let origin_dies = schedule.faults.iter().any(origin_dies);
        let asked = schedule.requests.iter();
        let asked = asked.map(|asked| {
            (asked.at_us, asked.at_us.saturating_add(asked.deadline_us), asked.max_tokens)
        });
        let asked = asked.collect();
        Self { origin_dies, asked, tokens: BTreeMap::new(), ended: BTreeMap::new() }
    }

    fn end(&mut self, now: u64, request: RequestId) -> Option<String> {
        let (_, until, _) = *self.asked.get(usize::try_from(request.0).ok()?)?;
        if self.ended.insert(request, now).is_some() {
            return Some(format!("request {} ended twice", request.0));
        }
        (now > until + LATE_US).then(|| format!("request {} ended after {until} µs", request.0))
    }
}

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "every_request_ends"
    }

    fn see(&mut self, now: u64, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Told { event: Event::Token { request, .. }, .. } => {
                *self.tokens.entry(*request).or_default() += 1;
                let ended = self.ended.contains_key(request);
                ended.then(|| format!("request {}: a token after its end", request.0))
            }
            Seen::Told { event: Event::Finished { request, .. }, .. } => {
                let got = self.tokens.get(request).copied().unwrap_or(0);
                let wanted = self.asked.get(usize::try_from(request.0).ok()?)?.2;
                let short = (got < wanted)
                    .then(|| format!("request {}: {got} of {wanted} tokens", request.0));
                self.end(now, *request).or(short)
            }
            Seen::Told { event: Event::Failed { request, .. }, .. } => self.end(now, *request),
            Seen::Cancelled { request } => {
                let (from, _, _) = *self.asked.get(usize::try_from(request.0).ok()?)?;
                let open = from < now && !self.ended.contains_key(request);
                open.then(|| format!("request {} goes on without its client", request.0))
            }
            Seen::End if self.origin_dies => None,
            Seen::End => {
                let all = (0_u64..).map(RequestId).take(self.asked.len());
                let open: Vec<_> = all.filter(|id| !self.ended.contains_key(id)).collect();
                (!open.is_empty()).then(|| format!("requests {open:?} never ended"))
            }
            Seen::Told { .. }
            | Seen::Job { .. }
            | Seen::Opened { .. }
            | Seen::Outlived { .. }
            | Seen::Memory { .. }
            | Seen::Uplink { .. }
            | Seen::Struck { .. }
            | Seen::Gone { .. }
            | Seen::Back { .. }
            | Seen::Left { .. } => None,
        }
    }
}
