//! I5: weights and KV caches of a device never take more than its memory.

use super::{Invariant, Seen};

pub(super) struct Claim;

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "memory_is_not_exceeded"
    }

    fn see(&mut self, _: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Memory { node, used_bytes, memory_bytes } = seen else { return None };
        (used_bytes > memory_bytes)
            .then(|| format!("node {node} holds {used_bytes} of {memory_bytes} bytes"))
    }
}
