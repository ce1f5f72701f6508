//! Pictures of one run: a timeline as SVG, and a page of its own about a scenario.
//!
//! A [`Record`] listens while the run is played; [`timeline`] and [`page`] draw what it heard. Both
//! are text that needs nothing beside itself: no script, no style or font from elsewhere.

mod chart;
mod page;
mod record;
mod svg;
mod tables;
mod timeline;
mod topology;

use std::ops::Range;

use crate::report::Report;
use crate::schedule::Schedule;
use crate::study::Study;

pub use self::page::page;
pub use self::record::Record;
pub use self::timeline::timeline;

/// A run that was listened to.
#[derive(Debug)]
pub struct Explained {
    /// What was played.
    pub schedule: Schedule,
    /// The name of each node.
    pub names: Vec<String>,
    /// What it showed.
    pub report: Report,
    /// What happened when.
    pub record: Record,
}

impl Explained {
    /// Plays a schedule and listens. Nodes without a name are called by their number.
    #[must_use]
    pub fn play(schedule: Schedule, mut names: Vec<String>) -> Self {
        let mut record = Record::of(&schedule);
        let report = Study::of(&schedule).claim(&mut record).run();
        names.extend((names.len()..schedule.devices.len()).map(|i| format!("n{i}")));
        Self { schedule, names, report, record }
    }

    /// All of it, µs.
    #[must_use]
    pub const fn whole_us(&self) -> Range<u64> {
        0..self.schedule.end_us
    }

    /// The nodes that had a part in it, in order: the origin, who held or computed something, and
    /// who was struck.
    fn involved(&self) -> Vec<usize> {
        let struck = self.record.struck.iter().flat_map(|(_, what)| what.nodes());
        let struck: std::collections::BTreeSet<usize> = struck.collect();
        let held = |node: usize| !self.record.held(node).is_empty();
        let all = 0..self.names.len();
        all.filter(|&node| node == 0 || held(node) || struck.contains(&node)).collect()
    }
}

/// Waits between two tokens that stand out: four times the median of the answer's, 0.3 s at least.
fn gaps(token_us: &[u64]) -> Vec<Range<u64>> {
    let pairs: Vec<_> = token_us.iter().zip(token_us.iter().skip(1)).collect();
    let mut waits: Vec<u64> = pairs.iter().map(|(from, to)| *to - *from).collect();
    waits.sort_unstable();
    let usual = waits.get(waits.len() / 2).copied().unwrap_or(0);
    let least = (4 * usual).max(300_000);
    let long = pairs.into_iter().filter(|(from, to)| *to - *from >= least);
    long.map(|(from, to)| *from..*to).collect()
}

/// Seconds with as many places as they deserve.
fn seconds(us: u64) -> String {
    let s = us as f64 / 1e6;
    if s < 10.0 { format!("{s:.2} s") } else { format!("{s:.1} s") }
}

#[cfg(test)]
mod tests;
