//! What a run showed, and many together.

use std::collections::BTreeMap;

use atoll_proto::RequestId;
use serde::Serialize;

use crate::Detection;
use crate::schedule::Schedule;

/// What one run of a schedule showed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// What came of each request, in the schedule's order.
    pub answers: Vec<Answer>,
}

/// What came of a request, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// When it was made, µs.
    pub asked_us: u64,
    /// When each token was emitted, µs.
    pub token_us: Vec<u64>,
    /// When it ended, µs; absent: it did not.
    pub ended_us: Option<u64>,
    /// Why it ended early, if it did.
    pub error: Option<String>,
}

impl Answer {
    /// From the request to the first token, µs.
    #[must_use]
    pub fn first_us(&self) -> Option<u64> {
        Some(self.token_us.first()? - self.asked_us)
    }

    /// The longest wait between two tokens of which the second came after `since`, counted from
    /// there, µs.
    #[must_use]
    pub fn gap_us(&self, since: u64) -> u64 {
        let pairs = self.token_us.iter().zip(self.token_us.iter().skip(1));
        pairs.map(|(from, to)| to.saturating_sub(*from.max(&since))).max().unwrap_or(0)
    }

    /// Tokens after the first, per second; absent with fewer than two.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "microseconds of one answer")]
    pub fn tokens_per_s(&self) -> Option<f64> {
        let us = self.token_us.last()?.saturating_sub(*self.token_us.first()?);
        let n = self.token_us.len() - 1;
        (us > 0).then(|| n as f64 * 1e6 / us as f64)
    }
}

impl Report {
    /// Nothing has been seen yet.
    pub(crate) fn of(schedule: &Schedule) -> Self {
        let answer = |asked_us| Answer { asked_us, ..Answer::default() };
        let asked = schedule.requests.iter().map(|asked| asked.at_us);
        Self { answers: asked.map(answer).collect(), ..Self::default() }
    }

    /// A line for each request, with a heading: times in seconds, empty where there is none.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut text =
            "request,asked_s,first_token_s,ended_s,tokens,tokens_per_s,longest_gap_s,error\n"
                .to_owned();
        let s = |us: Option<u64>| us.map_or(String::new(), |us| (us as f64 / 1e6).to_string());
        for (i, answer) in self.answers.iter().enumerate() {
            let speed = answer.tokens_per_s().map_or(String::new(), |speed| speed.to_string());
            let error = answer.error.as_deref().unwrap_or_default().replace('"', "\"\"");
            let error = if error.is_empty() { error } else { format!("\"{error}\"") };
            let (asked, first) = (s(Some(answer.asked_us)), s(answer.first_us()));
            let (ended, n) = (s(answer.ended_us), answer.token_us.len());
            let gap = s(Some(answer.gap_us(0)).filter(|_| n > 1));
            text += &format!("{i},{asked},{first},{ended},{n},{speed},{gap},{error}\n");
        }
        text
    }

    pub(crate) fn answer(&mut self, request: RequestId) -> Option<&mut Answer> {
        self.answers.get_mut(usize::try_from(request.0).ok()?)
    }
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
