//! What must come of a scenario, and what came of it.

use serde::{Deserialize, Serialize};

use crate::Report;

/// What must come of a scenario, beside that no invariant breaks. What is left out may be anything.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// At least so many requests are answered in full; absent: all.
    pub answered_min: Option<u64>,
    /// No longer from any request to its first token, s.
    pub first_token_s_max: Option<f64>,
    /// No longer between two tokens of any answer, s.
    pub gap_s_max: Option<f64>,
    /// The median answer comes at least so fast.
    pub tokens_per_s_min: Option<f64>,
    /// And at most so fast: a model of costs that forgets one shows here.
    pub tokens_per_s_max: Option<f64>,
}

/// What a run showed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Requests made.
    pub requests: u64,
    /// Requests answered in full.
    pub answered: u64,
    /// Tokens emitted.
    pub tokens: u64,
    /// From a request to its first token, the median, s.
    pub first_token_s_p50: f64,
    /// The longest.
    pub first_token_s_max: f64,
    /// The longest wait between two tokens of an answer, the median over answers, s.
    pub gap_s_p50: f64,
    /// The longest of all.
    pub gap_s_max: f64,
    /// Tokens after the first per second, the median over answers.
    pub tokens_per_s_p50: f64,
}

impl Figures {
    pub(super) fn of(report: &Report) -> Self {
        let seconds = |us: u64| us as f64 / 1e6;
        let answers = || report.answers.iter();
        let first = sorted(answers().filter_map(|a| a.first_us()).map(seconds));
        let begun = answers().filter(|answer| answer.token_us.len() > 1);
        let gaps = sorted(begun.map(|answer| seconds(answer.gap_us(0))));
        let speeds = sorted(answers().filter_map(|answer| answer.tokens_per_s()));
        Self {
            requests: report.answers.len() as u64,
            answered: report.completed,
            tokens: report.tokens,
            first_token_s_p50: median(&first),
            first_token_s_max: first.last().copied().unwrap_or(0.0),
            gap_s_p50: median(&gaps),
            gap_s_max: gaps.last().copied().unwrap_or(0.0),
            tokens_per_s_p50: median(&speeds),
        }
    }
}

impl Expect {
    /// Each expectation that the figures do not meet, in words.
    pub(super) fn missed(&self, figures: &Figures) -> Vec<String> {
        let mut missed = Vec::new();
        let mut hold = |holds: bool, what: &str, is: f64, wanted: String| {
            if !holds {
                missed.push(format!("{what} is {is:.3}; {wanted} is expected"));
            }
        };
        let answered_min = self.answered_min.unwrap_or(figures.requests);
        let answered = figures.answered;
        hold(answered >= answered_min, "answered", answered as f64, format!("≥ {answered_min}"));
        for (what, is, most) in [
            ("first_token_s_max", figures.first_token_s_max, self.first_token_s_max),
            ("gap_s_max", figures.gap_s_max, self.gap_s_max),
            ("tokens_per_s_p50", figures.tokens_per_s_p50, self.tokens_per_s_max),
        ] {
            if let Some(most) = most {
                hold(is <= most, what, is, format!("≤ {most}"));
            }
        }
        if let Some(least) = self.tokens_per_s_min {
            let is = figures.tokens_per_s_p50;
            hold(is >= least, "tokens_per_s_p50", is, format!("≥ {least}"));
        }
        missed
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
