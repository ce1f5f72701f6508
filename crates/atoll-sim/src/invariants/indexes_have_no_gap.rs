//! I2: the tokens of a request are numbered from 0, none twice, none left out.

use std::collections::BTreeMap;

use atoll_proto::{Event, RequestId};

use super::{Invariant, Seen};

#[derive(Default)]
pub(super) struct Claim {
    next: BTreeMap<RequestId, u32>,
}

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "indexes_have_no_gap"
    }

    fn see(&mut self, _: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Told { event: Event::Token { request, index, .. }, .. } = seen else {
            return None;
        };
        let next = self.next.entry(*request).or_default();
        let expected = std::mem::replace(next, index + 1);
        (expected != *index)
            .then(|| format!("request {}: index {index} follows, not {expected}", request.0))
    }
}
