//! `atoll sim`: many nodes on a seeded network, none of them real. What is simulated, judged and
//! drawn stands in `atoll-sim`; here are files, threads, clocks and exit codes.

mod bench;
mod files;
mod swarm;

use atoll_sim::calibration::{Calibration, ERROR_MEDIAN_MAX, ERROR_WORST_MAX};
use atoll_sim::explain::{Explained, page, timeline};
use atoll_sim::{Regression, Report, Scenario, Schedule, run as play};
use serde_json::{Map, Value, json};

use crate::args::{CalibrateArgs, ExplainArgs, ReplayArgs, ShrinkArgs, SimCommand, SimRunArgs};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::settings::Settings;

/// Of all that `atoll sim` prints.
const SCHEMA: &str = "atoll.sim/3";

pub(crate) fn run(settings: &Settings, command: SimCommand) -> Result<(), Failure> {
    match command {
        SimCommand::Run(args) => run_scenario(settings, &args),
        SimCommand::Swarm(args) => swarm::run(settings, &args),
        SimCommand::Shrink(args) => shrink(settings, &args),
        SimCommand::Replay(args) => replay(settings, &args),
        SimCommand::Bench(args) => bench::run(settings, &args),
        SimCommand::Calibrate(args) => calibrate(settings, &args),
        SimCommand::Explain(args) => explain(settings, &args),
    }
}

/// What every run shows.
fn shown(command: &str, seeds: u64, report: &Report) -> Map<String, Value> {
    let value = json!({
        "schema": SCHEMA, "command": command, "seeds": seeds, "events": report.events,
        "faults": report.faults, "tokens": report.tokens, "completed": report.completed,
        "failed": report.failed.values().sum::<u64>(), "failed_causes": report.failed,
        "violations": report.violations.len(), "trace": format!("{:016x}", report.trace),
    });
    let Value::Object(shown) = value else { return Map::new() };
    shown
}

/// Prints what was found; fails with what should not have been.
fn tell(settings: &Settings, found: Map<String, Value>, wrong: &[String]) -> Result<(), Failure> {
    let found = Value::Object(found);
    if settings.json {
        output::json(&found)?
    } else {
        output::line_out(&format!("{found:#}"))?
    }
    let Some(first) = wrong.first() else { return Ok(()) };
    wrong.iter().skip(1).for_each(|line| output::note(line));
    let more = wrong.len() - 1;
    let more = if more > 0 { format!(" and {more} more, above") } else { String::new() };
    Err(Failure::new(Exit::Failure, format!("{first}{more}")).told())
}

fn broken(report: &Report) -> Vec<String> {
    report.violations.iter().map(|(name, what)| format!("{name} {what}")).collect()
}

fn run_scenario(settings: &Settings, args: &SimRunArgs) -> Result<(), Failure> {
    let scenario = files::scenario(&args.file)?;
    let schedule = scenario.schedule(args.seed).map_err(|error| files::unfit(&args.file, error))?;
    let report = match &args.html {
        Some(path) => {
            let explained = Explained::play(schedule, scenario.names());
            files::write(path, &page(&scenario, &explained))?;
            explained.report
        }
        None => play(&schedule),
    };
    if let Some(path) = &args.csv {
        files::write(path, &report.csv())?;
    }
    let (figures, missed) = scenario.judge(&report);
    let wrong: Vec<_> = broken(&report).into_iter().chain(missed.iter().cloned()).collect();
    let mut found = shown("run", 1, &report);
    found.extend(object(json!({
        "scenario": scenario.name, "seed": args.seed, "simulated_s": scenario.lasts_s,
        "devices": scenario.names().len(), "bytes": report.bytes, "figures": figures,
        "missed": missed, "passed": wrong.is_empty(),
    })));
    tell(settings, found, &wrong)
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(object) = value { object } else { Map::new() }
}

fn shrink(settings: &Settings, args: &ShrinkArgs) -> Result<(), Failure> {
    let (seed, kind, nodes) = (args.seed, args.of.kind, args.of.nodes);
    let small = Regression::of(&kind.schedule(seed, nodes)).ok_or_else(|| {
        Failure::new(Exit::Failure, format!("seed {seed} breaks no invariant"))
            .because(format!("--kind {kind} --nodes {nodes} was run to its end"))
            .hint("atoll sim swarm names seeds that do, with their kind and nodes")
    })?;
    let text = serde_json::to_string_pretty(&small).expect("our own structs serialize") + "\n";
    files::write(&args.out, &text)?;
    let mut found = shown("shrink", 1, &small.replay());
    found.extend(object(json!({
        "invariant": small.invariant, "seen": small.seen, "out": args.out,
        "faults_left": small.schedule.faults.len(),
        "requests_left": small.schedule.requests.len(),
    })));
    tell(settings, found, &[])
}

fn replay(settings: &Settings, args: &ReplayArgs) -> Result<(), Failure> {
    let mut sum = atoll_sim::Sum::default();
    let mut wrong = Vec::new();
    for path in &args.files {
        let report = files::regression(path)?.replay();
        let named = |what| format!("{}: {what}", path.display());
        wrong.extend(broken(&report).into_iter().map(named));
        sum.add(&report);
    }
    tell(settings, shown("replay", sum.seeds, &sum.total), &wrong)
}

fn calibrate(settings: &Settings, args: &CalibrateArgs) -> Result<(), Failure> {
    let mut all = Vec::new();
    for path in &args.files {
        all.extend(files::measured(path)?);
    }
    let found = Calibration::of(&all)
        .map_err(|error| Failure::usage("cannot predict what was measured").because(error))?;
    if settings.json {
        let mut told = object(json!({ "schema": SCHEMA, "command": "calibrate" }));
        told.extend(object(json!(found)));
        output::json(&told)?;
    } else {
        output::line_out(&found.text())?;
    }
    if found.passed {
        return Ok(());
    }
    let what = "the predictions are further off than is allowed";
    let [median, worst] = [ERROR_MEDIAN_MAX, ERROR_WORST_MAX].map(|share| share * 100.0);
    let cause =
        format!("{median} % at the median and {worst} % at most are, of valid measurements");
    Err(Failure::new(Exit::Failure, what).because(cause).told())
}

fn explain(settings: &Settings, args: &ExplainArgs) -> Result<(), Failure> {
    let (schedule, names) = explained(args)?;
    let run = Explained::play(schedule, names);
    let whole = run.whole_us();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let us = |s: f64| (s * 1e6) as u64;
    let from = args.from.map_or(whole.start, us);
    let to = args.to.map_or(whole.end, us).min(whole.end);
    if from >= to {
        let cause = format!("the run has {} s", whole.end as f64 / 1e6);
        return Err(Failure::usage("--from is not before --to and the end").because(cause));
    }
    let svg = timeline(&run, from..to);
    let Some(path) = &args.svg else {
        if settings.json {
            let mut found = shown("explain", 1, &run.report);
            found.insert("svg".to_owned(), svg.into());
            return tell(settings, found, &[]);
        }
        return output::write_out(&svg);
    };
    files::write(path, &svg)?;
    tell(settings, shown("explain", 1, &run.report), &[])
}

/// What is to be drawn, and the names of its nodes.
fn explained(args: &ExplainArgs) -> Result<(Schedule, Vec<String>), Failure> {
    let Some(path) = &args.file else {
        return Ok((args.of.kind.schedule(args.seed, args.of.nodes), Vec::new()));
    };
    if path.extension().is_some_and(|extension| extension == "json") {
        return Ok((files::regression(path)?.schedule, Vec::new()));
    }
    let scenario: Scenario = files::scenario(path)?;
    let schedule = scenario.schedule(args.seed).map_err(|error| files::unfit(path, error))?;
    Ok((schedule, scenario.names()))
}
