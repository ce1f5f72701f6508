//! What real nodes did in a scenario, beside what a run of it predicts.

use serde::{Deserialize, Serialize};

use crate::report::Report;
use crate::scenario::{FaultKind, Scenario, ScenarioError};
use crate::schedule::{Fault, Schedule, What};
use crate::world::run;

/// Answers that are left alone, and answers in the midst of which a stage is killed.
pub const ROUNDS: usize = 3;
/// Error that is allowed, as a share of what was measured: the median over all figures.
pub const ERROR_MEDIAN_MAX: f64 = 0.15;
/// The same: the worst of all.
pub const ERROR_WORST_MAX: f64 = 0.30;

/// The three figures of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Tokens after the first, per second.
    pub tokens_per_s: f64,
    /// From the request to the first token, s.
    pub first_token_s: f64,
    /// The longest wait for a token after a stage was killed, s.
    pub recovery_gap_s: f64,
}

/// What real nodes did.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The scenario; its profiles are what the engine alone was timed at.
    pub scenario: Scenario,
    /// With which seed.
    pub seed: u64,
    /// What one crossing from node to node adds to computing and to the link, µs.
    pub crossing_us: f64,
    /// The machine had time left meanwhile; otherwise the figures say little.
    pub valid: bool,
    /// What was measured: medians of [`ROUNDS`] answers each.
    pub figures: Figures,
}

/// Both beside each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// What the run says.
    pub predicted: Figures,
    /// What real nodes did.
    pub measured: Figures,
    /// How far each figure is off, as a share of what was measured.
    pub errors: Figures,
    /// Of the measurement.
    pub valid: bool,
}

/// All scenarios together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// By scenario.
    pub scenarios: Vec<Row>,
    /// The median over all figures.
    pub error_median: f64,
    /// The worst of all.
    pub error_worst: f64,
    /// Whether all measurements are valid.
    pub valid: bool,
    /// Whether both errors are within what is allowed, and all is valid.
    pub passed: bool,
}

/// Why nothing can be predicted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalibrationError {
    /// The scenario itself.
    #[error("{scenario}: {error}")]
    Scenario {
        /// Its name.
        scenario: String,
        /// What is wrong with it.
        error: ScenarioError,
    },
    /// It is not made for this.
    #[error("{scenario}: {why}")]
    Unfit {
        /// Its name.
        scenario: String,
        /// What it lacks.
        why: String,
    },
}

impl Figures {
    /// How far `self` is off from what was measured.
    #[must_use]
    pub fn errors(self, measured: Self) -> Self {
        let off = |predicted: f64, measured: f64| {
            (predicted - measured).abs() / measured.max(f64::MIN_POSITIVE)
        };
        Self {
            tokens_per_s: off(self.tokens_per_s, measured.tokens_per_s),
            first_token_s: off(self.first_token_s, measured.first_token_s),
            recovery_gap_s: off(self.recovery_gap_s, measured.recovery_gap_s),
        }
    }

    /// By name.
    #[must_use]
    pub const fn named(self) -> [(&'static str, f64); 3] {
        [
            ("tokens_per_s", self.tokens_per_s),
            ("first_token_s", self.first_token_s),
            ("recovery_gap_s", self.recovery_gap_s),
        ]
    }
}

impl Calibration {
    /// Predicts each scenario and holds it against what was measured.
    ///
    /// # Errors
    /// [`CalibrationError`] if a scenario cannot be run, or has no request or no killed stage.
    pub fn of(all: &[Measured]) -> Result<Self, CalibrationError> {
        let row = |measured: &Measured| {
            let predicted = measured.predict()?;
            Ok(Row {
                scenario: measured.scenario.name.clone(),
                predicted,
                measured: measured.figures,
                errors: predicted.errors(measured.figures),
                valid: measured.valid,
            })
        };
        Ok(Self::judged(all.iter().map(row).collect::<Result<_, _>>()?))
    }

    fn judged(scenarios: Vec<Row>) -> Self {
        let errors = scenarios.iter().flat_map(|row| row.errors.named());
        let mut errors: Vec<_> = errors.map(|(_, error)| error).collect();
        errors.sort_by(f64::total_cmp);
        let error_median = errors.get(errors.len() / 2).copied().unwrap_or(1.0);
        let error_worst = errors.last().copied().unwrap_or(1.0);
        let valid = scenarios.iter().all(|row| row.valid);
        let near = error_median <= ERROR_MEDIAN_MAX && error_worst <= ERROR_WORST_MAX;
        Self { scenarios, error_median, error_worst, valid, passed: valid && near }
    }

    /// A table for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec!["| scenario | figure | predicted | measured | error |".to_owned()];
        lines.push("|---|---|---|---|---|".to_owned());
        for row in &self.scenarios {
            let pairs = row.predicted.named().into_iter().zip(row.measured.named());
            for (((figure, p), (_, m)), (_, error)) in pairs.zip(row.errors.named()) {
                let (name, percent) = (&row.scenario, error * 100.0);
                lines.push(format!("| {name} | {figure} | {p:.3} | {m:.3} | {percent:.0} % |"));
            }
        }
        let [median, worst] = [self.error_median, self.error_worst].map(|share| share * 100.0);
        lines.push(format!("median error {median:.0} %, worst {worst:.0} %"));
        if !self.valid {
            lines.push("INVALID: the machine had no time left".to_owned());
        }
        lines.join("\n")
    }
}

/// The position in an answer of so many tokens at which a round's stage is killed.
#[must_use]
pub const fn struck_at(round: usize, tokens: usize) -> usize {
    (round + 1) * tokens / (ROUNDS + 1)
}

/// The middle one.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Scenario {
    /// The stage that is killed in it, for a calibration.
    #[must_use]
    pub fn killed_stage(&self) -> Option<usize> {
        self.faults.iter().find(|fault| fault.what == FaultKind::Kill)?.stage
    }
}

impl Measured {
    /// What a run says of the same.
    ///
    /// # Errors
    /// As [`Calibration::of`].
    pub fn predict(&self) -> Result<Figures, CalibrationError> {
        let name = || self.scenario.name.clone();
        let unfit = |why: &str| CalibrationError::Unfit { scenario: name(), why: why.to_owned() };
        let schedule = self.scenario.schedule(self.seed);
        let mut schedule =
            schedule.map_err(|error| CalibrationError::Scenario { scenario: name(), error })?;
        let asked = schedule.requests.first().cloned().ok_or_else(|| unfit("it asks nothing"))?;
        let stage = self.scenario.killed_stage();
        let stage = stage.ok_or_else(|| unfit("it has no fault `kill` of a `stage`"))?;
        // The first warms the connections up, as with real nodes.
        let at_us = asked.at_us + (schedule.end_us - asked.at_us) / 2;
        (schedule.requests, schedule.faults) = (vec![asked.clone(), asked], Vec::new());
        // Nobody goes before the strike: the mending after the scenario's own faults spares all.
        schedule.core = (0..schedule.devices.len()).collect();
        schedule.requests[1].at_us = at_us;
        for link in schedule.devices.iter_mut().filter_map(|device| device.link.as_mut()) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limited")]
            let half_us = (self.crossing_us / 2.0).round().clamp(0.0, 1e9) as u64;
            link.latency_us += half_us;
        }
        let heard = |schedule: &Schedule| {
            let mut report: Report = run(schedule);
            let broken = !report.violations.is_empty() || report.completed != 2;
            if broken {
                let why = format!("in the simulator: {:?} {:?}", report.violations, report.failed);
                return Err(unfit(&why));
            }
            Ok(report.answers.remove(1))
        };
        let calm = heard(&schedule)?;
        let mut gaps = Vec::new();
        for round in 0..ROUNDS {
            let at = struck_at(round, calm.token_us.len()).max(1);
            // Between two tokens.
            let pair = calm.token_us.get(at - 1).zip(calm.token_us.get(at));
            let (from, to) = pair.ok_or_else(|| unfit("its answer is too short"))?;
            let (at_us, what) = ((from + to) / 2, What::Kill { node: 1, back_us: None });
            schedule.faults = vec![Fault { at_us, what, stage: Some(stage) }];
            gaps.push(heard(&schedule)?.gap_us(at_us) as f64 / 1e6);
        }
        let speed = calm.tokens_per_s().ok_or_else(|| unfit("one token is no speed"))?;
        let first_us = calm.first_us().ok_or_else(|| unfit("there is no token"))?;
        let first_token_s = first_us as f64 / 1e6;
        Ok(Figures { tokens_per_s: speed, first_token_s, recovery_gap_s: median(gaps) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(tokens_per_s: f64, first_token_s: f64, recovery_gap_s: f64) -> Figures {
        Figures { tokens_per_s, first_token_s, recovery_gap_s }
    }

    #[test]
    fn errors_are_shares_of_what_was_measured() {
        let judged = |predicted: Figures, valid: bool| {
            let measured = figures(100.0, 0.1, 0.4);
            let errors = predicted.errors(measured);
            let scenario = "a".to_owned();
            Calibration::judged(vec![Row { scenario, predicted, measured, errors, valid }])
        };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
        let far = judged(figures(90.0, 0.12, 0.5), true);
        near(far.error_median, 0.2);
        near(far.error_worst, 0.25);
        assert!(!far.passed, "the median is above 15 %");
        let close = judged(figures(90.0, 0.114, 0.5), true);
        assert!(close.passed, "{}", close.text());
        assert!(!judged(figures(90.0, 0.114, 0.53), true).passed, "the worst is above 30 %");
        let invalid = judged(figures(90.0, 0.114, 0.5), false);
        assert!(!invalid.passed && invalid.text().contains("INVALID"));
    }

    #[test]
    fn a_stage_is_killed_within_the_answer() {
        let at: Vec<_> = (0..ROUNDS).map(|round| struck_at(round, 80)).collect();
        assert_eq!(at, [20, 40, 60]);
    }

    #[test]
    fn a_spare_that_was_there_is_there_when_a_stage_is_killed() {
        let text = include_str!("../../../simulations/scenarios/calibrate-lan-2.toml");
        let mut scenario = Scenario::parse(text).expect("it can be read");
        // Whoever has to load a part of 30 layers takes at least a second for it.
        let slow = scenario.device_profile.get_mut("here").expect("it is there");
        slow.load_bytes_per_s = 50_000_000;
        let figures = figures(1.0, 1.0, 1.0);
        let measured = Measured { scenario, seed: 1, crossing_us: 0.0, valid: true, figures };
        let predicted = measured.predict().expect("it can be run");
        assert!(predicted.recovery_gap_s < 0.5, "{predicted:?}");
    }

    #[test]
    fn a_slower_crossing_makes_the_prediction_slower() {
        let text = include_str!("../../../simulations/scenarios/calibrate-ring-4.toml");
        let scenario = Scenario::parse(text).expect("it can be read");
        let figures = figures(1.0, 1.0, 1.0);
        let of = |crossing_us: f64| {
            let scenario = scenario.clone();
            Measured { scenario, seed: 1, crossing_us, valid: true, figures }
        };
        let [none, some] = [0.0, 2_000.0].map(|us| of(us).predict().expect("it can be run"));
        let more_s = some.tokens_per_s.recip() - none.tokens_per_s.recip();
        assert!((0.006..0.010).contains(&more_s), "four crossings of 2 ms more: {more_s} s");
        let mut unfit = of(0.0);
        unfit.scenario.faults.clear();
        assert!(unfit.predict().expect_err("no stage is killed").to_string().contains("kill"));
    }
}
