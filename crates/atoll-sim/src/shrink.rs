//! Makes a failing schedule small: delta debugging over its faults, then its requests, its devices
//! and the length of its answers.

use std::ops::Range;

use crate::schedule::{Schedule, What};

/// The smallest schedule found that still `fails`; `schedule` itself must.
pub fn shrink(schedule: &Schedule, fails: impl Fn(&Schedule) -> bool) -> Schedule {
    let mut small = schedule.clone();
    loop {
        let before = small.clone();
        small = without(small, &fails, |s| s.faults.len(), without_faults);
        small = without(small, &fails, |s| s.requests.len(), without_requests);
        small = without(small, &fails, |s| s.devices.len(), without_devices);
        for i in 0..small.requests.len() {
            let mut shorter = small.clone();
            while shorter.requests[i].max_tokens > 1 {
                shorter.requests[i].max_tokens /= 2;
                if !fails(&shorter) {
                    break;
                }
                small.clone_from(&shorter);
            }
        }
        if small == before {
            return small;
        }
    }
}

/// Leaves out pieces of a list, large ones first, as long as what is left fails.
fn without(
    mut small: Schedule,
    fails: &impl Fn(&Schedule) -> bool,
    len: impl Fn(&Schedule) -> usize,
    leave_out: impl Fn(&Schedule, Range<usize>) -> Option<Schedule>,
) -> Schedule {
    let mut piece = len(&small);
    while piece > 0 {
        let mut start = 0;
        while start < len(&small) {
            let end = (start + piece).min(len(&small));
            match leave_out(&small, start..end).filter(fails) {
                Some(smaller) => small = smaller,
                None => start = end,
            }
        }
        piece /= 2;
    }
    small
}

fn without_faults(schedule: &Schedule, range: Range<usize>) -> Option<Schedule> {
    let mut smaller = schedule.clone();
    smaller.faults.drain(range);
    Some(smaller)
}

/// Faults name requests by their number, so that those after the range get others.
fn without_requests(schedule: &Schedule, range: Range<usize>) -> Option<Schedule> {
    let mut smaller = schedule.clone();
    let (start, end) = (range.start as u64, range.end as u64);
    smaller.faults.retain_mut(|fault| match &mut fault.what {
        What::Cancel { request } if *request >= end => {
            *request -= end - start;
            true
        }
        What::Cancel { request } => *request < start,
        What::Leave { .. }
        | What::Kill { .. }
        | What::Unplug { .. }
        | What::Pause { .. }
        | What::Slow { .. }
        | What::Mute { .. }
        | What::Cut { .. }
        | What::Partition { .. }
        | What::Break { .. }
        | What::Loss { .. }
        | What::Duplicate { .. }
        | What::Reorder { .. }
        | What::Delay { .. }
        | What::BitFlip { .. }
        | What::ClockStep { .. }
        | What::MemoryRefusal { .. }
        | What::DiskFull { .. }
        | What::CorruptShard { .. }
        | What::Bandwidth { .. }
        | What::Lie { .. }
        | What::StalePlan { .. } => true,
    });
    smaller.requests.drain(range);
    Some(smaller)
}

/// Nodes go from the end only, and only those that no fault names.
fn without_devices(schedule: &Schedule, range: Range<usize>) -> Option<Schedule> {
    let n = range.start;
    let is_last = range.end == schedule.devices.len();
    let is_named = schedule.faults.iter().any(|fault| fault.what.nodes().any(|node| node >= n));
    if !is_last || n < 2 || is_named {
        return None;
    }
    let mut smaller = schedule.clone();
    smaller.devices.truncate(n);
    smaller.core.retain(|node| *node < n);
    Some(smaller)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_goes_and_what_does_stays() {
        let schedule = Schedule::chaos(3, 16);
        let strikes = schedule.faults.iter().filter(|f| f.what.nodes().next().is_some());
        let wanted: Vec<_> = strikes.step_by(4).take(2).cloned().collect();
        let prompt = schedule.requests[1].prompt.clone();
        let fails = |s: &Schedule| {
            wanted.iter().all(|fault| s.faults.contains(fault))
                && s.requests.iter().any(|asked| asked.prompt == prompt && asked.max_tokens >= 8)
        };
        let small = shrink(&schedule, fails);
        assert_eq!(small.faults, wanted);
        assert_eq!(small.requests.len(), 1);
        assert_eq!(small.requests[0].max_tokens, 10, "160 halved four times; 5 do not fail");
        assert!(small.devices.len() <= schedule.devices.len());
        assert!(fails(&small));
    }
}
