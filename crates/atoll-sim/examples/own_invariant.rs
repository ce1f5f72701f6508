//! A claim of your own, held against every event, and the results as CSV and JSON.

use std::collections::BTreeMap;

use atoll_sim::proto::Event;
use atoll_sim::{Invariant, Schedule, Seen, Study};

/// No stage works on more than so many sessions within one second.
struct Fair {
    sessions_max: usize,
    /// By node: when each session was last worked on, µs.
    seen: BTreeMap<usize, BTreeMap<u128, u64>>,
    tokens: u64,
}

impl Invariant for Fair {
    fn name(&self) -> &'static str {
        "few_sessions_at_once"
    }

    fn see(&mut self, now: u64, seen: &Seen<'_>) -> Option<String> {
        if let Seen::Told { event: Event::Token { .. }, .. } = seen {
            self.tokens += 1;
        }
        let Seen::Job { node, job, .. } = seen else { return None };
        let at_node = self.seen.entry(*node).or_default();
        at_node.insert(job.session.0, now);
        at_node.retain(|_, at| *at + 1_000_000 > now);
        let n = at_node.len();
        (n > self.sessions_max).then(|| format!("node {node} works on {n} sessions"))
    }
}

#[expect(clippy::print_stdout, reason = "an example")]
pub(crate) fn main() {
    let schedule = Schedule::joins_and_leaves(7, 12);
    let mut claim = Fair { sessions_max: 4, seen: BTreeMap::new(), tokens: 0 };
    let report = Study::of(&schedule).claim(&mut claim).run();
    assert_eq!(report.violations, []);
    assert_eq!(claim.tokens, report.tokens);
    let mut strict = Fair { sessions_max: 0, seen: BTreeMap::new(), tokens: 0 };
    let broken = Study::of(&schedule).claim(&mut strict).run();
    assert!(broken.violations.iter().all(|(name, _)| *name == "few_sessions_at_once"));
    assert!(!broken.violations.is_empty());
    let json = serde_json::to_string(&report).expect("a report is plain data");
    println!("{}{} bytes of JSON", report.csv(), json.len());
}
