//! Every scenario comes out as it expects, and what broke once breaks no more.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use atoll_sim::explain::{Explained, page};
use atoll_sim::{Regression, Scenario, run};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(folder).expect("the folder is here");
    let mut files: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    files.sort();
    files
}

#[test]
fn scenarios_come_out_as_they_expect() -> Result<()> {
    let mut played = 0;
    for path in files("scenarios") {
        let scenario = Scenario::parse(&std::fs::read_to_string(&path)?)?;
        let first = scenario.schedule(0)?;
        let name = path.file_stem().and_then(|name| name.to_str());
        assert_eq!(name, Some(scenario.name.as_str()));
        // The others are played by hand: minutes in a build without optimization.
        if scenario.names().len() > 100 {
            continue;
        }
        for schedule in [first, scenario.schedule(1)?] {
            let report = run(&schedule);
            let (figures, missed) = scenario.judge(&report);
            assert_eq!(missed, Vec::<String>::new(), "{name:?}: {figures:#?}");
            assert_eq!(report.violations, [], "{name:?}");
        }
        played += 1;
    }
    assert!(played >= 8, "{played} scenarios were played");
    Ok(())
}

#[test]
fn a_scenario_with_many_devices_fits_a_page() -> Result<()> {
    let path = files("scenarios").into_iter().find(|path| path.ends_with("school-64.toml"));
    let scenario = Scenario::parse(&std::fs::read_to_string(path.context("it is there")?)?)?;
    let run = Explained::play(scenario.schedule(0)?, scenario.names());
    let html = page(&scenario, &run);
    assert!(html.len() < 2 << 20, "{} bytes", html.len());
    assert!(html.contains("had no part in it"));
    Ok(())
}

#[test]
fn an_expectation_that_is_not_met_is_told_by_name() -> Result<()> {
    let path = files("scenarios").into_iter().find(|path| path.ends_with("home-8.toml"));
    let text = std::fs::read_to_string(path.context("home-8 is a scenario")?)?;
    let at = text.find("[expect]").context("it expects something")?;
    let text = format!("{}[expect]\ntokens_per_s_min = 1e6\n", &text[..at]);
    let scenario = Scenario::parse(&text)?;
    let (_, missed) = scenario.judge(&run(&scenario.schedule(0)?));
    assert!(missed.len() == 1 && missed[0].contains("≥ 1000000"), "{missed:?}");
    Ok(())
}

#[test]
fn what_broke_once_breaks_no_more() -> Result<()> {
    let mut n = 0;
    for path in files("regressions") {
        let text = std::fs::read_to_string(&path)?;
        let read: Regression = serde_json::from_str(&text)?;
        let report = read.replay();
        assert_eq!(report.violations, [], "{}", path.display());
        assert_eq!(report, read.replay(), "{}", path.display());
        n += 1;
    }
    assert!(n > 0, "there are none");
    Ok(())
}
