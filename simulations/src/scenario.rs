//! Plays scenarios.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use atoll_sim::scenario::ScenarioError;
use atoll_sim::{Report, Scenario, run};
use clap::Args;
use serde_json::{Value, json};

/// What the codes mean.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 all is as expected, 1 an expectation or an \
    invariant broke, 2 the scenario cannot be used, 3 there is no such file, 6 no devices hold \
    the model.";

/// Plays a scenario and holds what comes of it against what it expects.
#[derive(Args)]
pub(crate) struct Play {
    /// A file of `simulations/scenarios/`, or one of your own.
    file: PathBuf,
    /// Which run of it.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

impl Play {
    /// Plays it; what went wrong goes to stderr.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let file = self.file.display();
        let mut errors = std::io::stderr();
        let text = match std::fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) => {
                writeln!(errors, "cannot read {file}: {error}")?;
                return Ok(ExitCode::from(3));
            }
        };
        let (scenario, report) = match play(&text, self.seed) {
            Ok(played) => played,
            Err(error) => {
                writeln!(errors, "cannot use {file}: {error}")?;
                return Ok(ExitCode::from(exit_code(&error)));
            }
        };
        let (value, wrong) = told(&scenario, &report, self.seed);
        let text = if self.json { value.to_string() } else { format!("{value:#}") };
        writeln!(std::io::stdout(), "{text}").context("writing the result")?;
        for what in &wrong {
            writeln!(errors, "{what}")?;
        }
        Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Plays a scenario's text.
fn play(text: &str, seed: u64) -> Result<(Scenario, Report), ScenarioError> {
    let scenario = Scenario::parse(text)?;
    let report = run(&scenario.schedule(seed)?);
    Ok((scenario, report))
}

const fn exit_code(error: &ScenarioError) -> u8 {
    match error {
        ScenarioError::NoPlan(_) => 6,
        ScenarioError::Malformed(_)
        | ScenarioError::Impossible { .. }
        | ScenarioError::Unknown { .. }
        | ScenarioError::TooMany { .. } => 2,
    }
}

/// What a run showed, and what of it should not have been.
fn told(scenario: &Scenario, report: &Report, seed: u64) -> (Value, Vec<String>) {
    let (figures, missed) = scenario.judge(report);
    let broken = report.violations.iter().map(|(name, what)| format!("{name} {what}"));
    let wrong: Vec<_> = broken.chain(missed.iter().cloned()).collect();
    let value = json!({
        "schema": "atoll.sim-run/1", "scenario": scenario.name, "seed": seed,
        "simulated_s": scenario.lasts_s, "devices": scenario.names().len(),
        "events": report.events, "faults": report.faults, "bytes": report.bytes,
        "figures": figures, "failed_causes": report.failed,
        "violations": report.violations.len(), "missed": missed,
        "trace": format!("{:016x}", report.trace), "passed": wrong.is_empty(),
    });
    (value, wrong)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn files() -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files = std::fs::read_dir(folder).expect("the scenarios are here");
        let mut files: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
        files.sort();
        files
    }

    #[test]
    fn scenarios_come_out_as_they_expect() -> Result<()> {
        let mut played = 0;
        for path in files() {
            let text = std::fs::read_to_string(&path)?;
            let scenario = Scenario::parse(&text)?;
            scenario.schedule(0)?;
            let name = path.file_stem().and_then(|name| name.to_str());
            assert_eq!(name, Some(scenario.name.as_str()));
            // The others are played by hand: minutes in a build without optimization.
            if scenario.names().len() > 100 {
                continue;
            }
            for seed in 0..2 {
                let report = run(&scenario.schedule(seed)?);
                let (value, wrong) = told(&scenario, &report, seed);
                assert_eq!(wrong, Vec::<String>::new(), "{value:#}");
            }
            played += 1;
        }
        assert!(played >= 8, "{played} scenarios were played");
        Ok(())
    }

    #[test]
    fn an_expectation_that_is_not_met_is_told_by_name() -> Result<()> {
        let path = files().into_iter().find(|path| path.ends_with("home-8.toml"));
        let text = std::fs::read_to_string(path.context("home-8 is a scenario")?)?;
        let at = text.find("[expect]").context("it expects something")?;
        let text = format!("{}[expect]\ntokens_per_s_min = 1e6\n", &text[..at]);
        let (scenario, report) = play(&text, 0)?;
        let (value, wrong) = told(&scenario, &report, 0);
        assert_eq!(value["passed"], false);
        assert!(wrong.len() == 1 && wrong[0].contains("≥ 1000000"), "{wrong:?}");
        Ok(())
    }
}
