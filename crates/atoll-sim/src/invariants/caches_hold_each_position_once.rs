//! I3: a KV cache takes every position once, in order: a job begins where the cache ends.

use super::{Invariant, Seen};

pub(super) struct Claim;

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "caches_hold_each_position_once"
    }

    fn see(&mut self, _: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Job { job, kv_len, .. } = seen else { return None };
        (job.from_pos != *kv_len)
            .then(|| format!("a job from position {} meets a cache of {kv_len}", job.from_pos))
    }
}
