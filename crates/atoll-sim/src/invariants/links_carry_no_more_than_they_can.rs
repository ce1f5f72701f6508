//! I10: no uplink carried more than its capacity allows: the simulator's own honesty.

use super::{Invariant, Seen};
use crate::schedule::Schedule;

pub(super) struct Claim {
    /// Of each node.
    bytes_per_s: Vec<u64>,
}

impl Claim {
    pub(super) fn new(schedule: &Schedule) -> Self {
        let link = |device: &crate::schedule::Device| {
            device.link.as_ref().unwrap_or(&schedule.link).uplink_bytes_per_s
        };
        Self { bytes_per_s: schedule.devices.iter().map(link).collect() }
    }
}

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "links_carry_no_more_than_they_can"
    }

    fn see(&mut self, now: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Uplink { node, bytes } = seen else { return None };
        let most = u128::from(self.bytes_per_s[*node]) * u128::from(now) / 1_000_000;
        (u128::from(*bytes) > most)
            .then(|| format!("node {node} sent {bytes} bytes, {most} can have passed"))
    }
}
