//! When nothing disturbs a run: no fault strikes or is being recovered from, and whatever is alive
//! could hold the model.

use atoll_proto::planner::{Candidate, place};

use crate::schedule::{Device, Schedule};
use crate::world::{id, model, policy};

/// In this time after a fault has ended the nodes must be as before it, µs: a peer is suspected
/// within two seconds, and then its part is loaded elsewhere.
const RECOVERY_US: u64 = 6_000_000;

/// The times at which something disturbs.
pub(super) struct Quiet {
    /// Sorted by their start; they may overlap.
    disturbed: Vec<(u64, u64)>,
}

impl Quiet {
    pub(super) fn new(schedule: &Schedule) -> Self {
        let heal_us = schedule.heal_us;
        let begun = schedule.devices.iter().map(|device| device.joins_us).max().unwrap_or(0);
        let recovery_us = RECOVERY_US + schedule.slack_us;
        let begun = begun.max(schedule.placement.at_us) + recovery_us;
        let mut disturbed = vec![(0, begun), (heal_us, heal_us + recovery_us)];
        if schedule.link.wifi.is_some() {
            disturbed.push((0, heal_us));
        }
        let own = schedule.disturbed_us.iter();
        disturbed.extend(own.map(|within| (within.start, within.end.saturating_add(recovery_us))));
        let mut gone = 0;
        for fault in &schedule.faults {
            let until =
                fault.at_us.saturating_add(fault.what.lasts_us()).saturating_add(recovery_us);
            disturbed.push((fault.at_us, until));
            gone += usize::from(fault.what.takes_away().is_some());
            if !can_hold(schedule, schedule.devices.len().saturating_sub(gone)) {
                disturbed.push((fault.at_us, heal_us));
            }
        }
        if !core_holds(schedule) {
            disturbed.push((heal_us, u64::MAX));
        }
        disturbed.sort_unstable();
        Self { disturbed }
    }

    /// How much of this time was quiet, µs.
    pub(super) fn us_within(&self, from: u64, to: u64) -> u64 {
        let mut quiet = 0;
        let mut at = from;
        for &(start, end) in &self.disturbed {
            quiet += start.min(to).saturating_sub(at);
            at = at.max(end);
        }
        quiet + to.saturating_sub(at)
    }
}

/// Whether those that are mended can hold the model without the ones that could not load a part.
pub(super) fn core_holds(schedule: &Schedule) -> bool {
    let refused = schedule.faults.iter().filter(|fault| fault.what.refuses());
    can_hold(schedule, schedule.core.len().saturating_sub(refused.count()))
}

/// Whether the origin and any others, so many in all, can hold the model as it is wanted: shown by
/// the smallest.
pub(super) fn can_hold(schedule: &Schedule, n: usize) -> bool {
    let candidate = |(i, device): (usize, &Device)| Candidate {
        node: id(i),
        memory_bytes: device.memory_bytes,
        weight_bytes_per_s: device.weight_bytes_per_s,
        prefill_bytes_per_s: 0,
    };
    let mut all = schedule.devices.iter().enumerate().map(candidate);
    let Some(origin) = all.next() else { return false };
    let mut others: Vec<_> = all.collect();
    others.sort_by_key(|other| other.memory_bytes);
    others.truncate(n.saturating_sub(1));
    place(&model(schedule), &policy(schedule), origin, &others).is_ok()
}
