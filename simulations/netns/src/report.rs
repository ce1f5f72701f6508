//! What a run showed, and whether this machine could show it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::host::IDLE_MIN;

/// Figures of a run, its faults, and what the machine had left.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was run, and with which seed.
    pub what: String,
    /// What must not have happened.
    pub faults: Vec<String>,
    /// Limits of time that were missed: faults only if the machine had time.
    pub late: Vec<String>,
    /// By name, in milliseconds.
    pub gaps: BTreeMap<String, Vec<Duration>>,
    /// Other figures.
    pub figures: Map<String, Value>,
    /// Share of the machine's time that nothing used.
    pub idle: f64,
}

impl Report {
    /// Whether the machine had time left: otherwise times say little.
    #[must_use]
    pub fn valid(&self) -> bool {
        self.idle >= IDLE_MIN
    }

    /// Whether all held that must.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.faults.is_empty() && (self.late.is_empty() || !self.valid())
    }

    /// Holds a kind's gaps against limits in milliseconds for the median and the 99th percentile.
    pub fn limit(&mut self, kind: &str, median_ms: u64, p99_ms: u64) {
        let Some(gaps) = self.gaps.get(kind) else { return };
        for (name, share, limit) in [("median", 500, median_ms), ("p99", 990, p99_ms)] {
            let gap = quantile(gaps, share);
            if gap > Duration::from_millis(limit) {
                self.late.push(format!("{kind}: gap {name} {gap:.2?}, at most {limit} ms"));
            }
        }
    }

    /// One object, schema `atoll.netns/1`.
    #[must_use]
    pub fn json(&self) -> Value {
        let gap = |gaps: &Vec<Duration>| {
            let ms = |share| quantile(gaps, share).as_secs_f64() * 1e3;
            json!({
                "n": gaps.len(), "gap_ms_p50": ms(500), "gap_ms_p99": ms(990),
                "gap_ms_max": ms(1000),
            })
        };
        let gaps: Map<_, _> = self.gaps.iter().map(|(k, v)| (k.clone(), gap(v))).collect();
        json!({
            "schema": "atoll.netns/1", "what": self.what, "passed": self.passed(),
            "valid": self.valid(), "host_idle": self.idle, "faults": self.faults,
            "late": self.late, "gaps": gaps, "figures": self.figures,
        })
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.json()).unwrap_or_default();
        if !self.valid() {
            let idle = self.idle * 100.0;
            text += &format!("\nINVALID for times: this machine was idle {idle:.0} % of the time");
        }
        text
    }
}

/// The value that `per_mille` of the values do not exceed (nearest rank); 0 of none.
fn quantile(values: &[Duration], per_mille: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1) - 1;
    sorted.get(rank).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(idle: f64) -> Report {
        let gaps = (1..=100).map(Duration::from_millis).collect();
        Report { gaps: [("killed".to_owned(), gaps)].into(), idle, ..Report::default() }
    }

    #[test]
    fn late_gaps_fail_only_on_a_machine_that_had_time() {
        let mut quiet = report(0.5);
        quiet.limit("killed", 50, 99);
        assert!(quiet.passed(), "{:?}", quiet.late);
        quiet.limit("killed", 49, 98);
        assert_eq!(quiet.late.len(), 2);
        assert!(!quiet.passed());
        let mut busy = report(0.05);
        busy.limit("killed", 49, 98);
        assert!(busy.passed() && !busy.valid() && busy.text().contains("INVALID"));
        busy.faults.push("a wrong token".to_owned());
        assert!(!busy.passed(), "a fault is a fault on any machine");
    }
}
