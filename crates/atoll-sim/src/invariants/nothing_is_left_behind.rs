//! I8c: once all requests have ended, no node holds a session or its KV cache.

use super::{Invariant, Seen};

pub(super) struct Claim;

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "nothing_is_left_behind"
    }

    fn see(&mut self, _: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Left { node, what } = seen else { return None };
        Some(format!("node {node} still holds {what}"))
    }
}
