//! I7: no more jobs of one session wait at a device than a stage may take in.

use atoll_proto::Limits;

use super::{Invariant, Seen};

pub(super) struct Claim;

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "queues_are_bounded"
    }

    fn see(&mut self, _: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Job { waiting, .. } = seen else { return None };
        let max = Limits::default().stage_jobs_max;
        (*waiting > max).then(|| format!("{waiting} jobs of one session wait, {max} may"))
    }
}
