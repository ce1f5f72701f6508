//! What a run showed, and many together.

use std::collections::BTreeMap;

use crate::Detection;

/// What one run of a schedule showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inputs handled by nodes.
    pub events: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Tokens emitted.
    pub tokens: u64,
    /// Requests with all their tokens.
    pub completed: u64,
    /// Requests that ended with an error, by its cause.
    pub failed: BTreeMap<String, u64>,
    /// The longest wait between two tokens of each request, µs.
    pub gaps_us: Vec<u64>,
    /// What members found out about those that were gone, and about those that were not.
    pub detection: Detection,
    /// Messages put on links.
    pub messages: u64,
    /// Bytes put on links.
    pub bytes: u64,
    /// Invariants that broke: name, then what was seen.
    pub violations: Vec<(&'static str, String)>,
    /// Digest over every input and output in order.
    pub trace: u64,
}

/// What many runs showed together.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Runs.
    pub seeds: u64,
    /// Their reports in one: figures added, lists joined, and so their traces, whatever the order
    /// in which they came.
    pub total: Report,
}

impl Sum {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        let total = &mut self.total;
        self.seeds += 1;
        total.events += report.events;
        total.faults += report.faults;
        total.tokens += report.tokens;
        total.completed += report.completed;
        total.messages += report.messages;
        total.bytes += report.bytes;
        total.detection.add(&report.detection);
        total.trace = total.trace.wrapping_add(report.trace);
        total.gaps_us.extend(&report.gaps_us);
        total.violations.extend(report.violations.iter().cloned());
        for (cause, n) in &report.failed {
            *total.failed.entry(cause.clone()).or_default() += n;
        }
    }

    /// The gap that `permille` of all requests do not exceed, µs.
    #[must_use]
    pub fn gap_us(&self, permille: usize) -> u64 {
        let mut gaps = self.total.gaps_us.clone();
        gaps.sort_unstable();
        let at = (gaps.len() * permille / 1000).min(gaps.len().saturating_sub(1));
        gaps.get(at).copied().unwrap_or(0)
    }
}
