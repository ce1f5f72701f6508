//! One scenario at both levels: what the simulator predicts from what was measured of one engine
//! alone, beside what real nodes in namespaces then do.

use std::fmt::Write;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_sim::cost::Model;
use atoll_sim::scenario::{DeviceProfile, FaultKind};
use atoll_sim::schedule::{Fault, Schedule, What};
use atoll_sim::{Scenario, run};
use serde::Serialize;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::control::Request;
use crate::host::{CpuTime, IDLE_MIN};
use crate::measured;
use crate::mesh::{Mesh, Room, Site};
use crate::{Emulator, LinkChange};

/// Undisturbed answers, and answers in which a stage is killed.
const ROUNDS: usize = 3;
const ANSWER_LIMIT: Duration = Duration::from_secs(90);
const WAIT_S: u64 = 20;
/// Errors that are allowed, the median over all figures and the worst.
const ERROR_MEDIAN_MAX: f64 = 0.15;
const ERROR_WORST_MAX: f64 = 0.30;

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// On what; how many hosts and stages follows from each scenario.
    pub site: Site,
    /// Scenarios and their texts.
    pub scenarios: Vec<(PathBuf, String)>,
    /// Model with which the cost of a crossing is measured.
    pub crossing_model: PathBuf,
}

/// The three figures of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Figures {
    tokens_per_s: f64,
    first_token_s: f64,
    recovery_gap_s: f64,
}

impl Figures {
    /// Of each figure: its name and how far the prediction is off, as a share of what was measured.
    fn errors(self, measured: Self) -> [(&'static str, f64); 3] {
        let off = |predicted: f64, measured: f64| {
            (predicted - measured).abs() / measured.max(f64::MIN_POSITIVE)
        };
        [
            ("tokens_per_s", off(self.tokens_per_s, measured.tokens_per_s)),
            ("first_token_s", off(self.first_token_s, measured.first_token_s)),
            ("recovery_gap_s", off(self.recovery_gap_s, measured.recovery_gap_s)),
        ]
    }
}

/// What all scenarios showed.
#[derive(Debug)]
pub struct Calibration {
    rows: Vec<(String, Figures, Figures)>,
    profiles: Vec<Value>,
    crossing_us: f64,
    idle: f64,
}

impl Calibration {
    /// All errors, sorted.
    fn errors(&self) -> Vec<f64> {
        let rows = self.rows.iter();
        let all = rows.flat_map(|(_, predicted, measured)| predicted.errors(*measured));
        let mut errors: Vec<_> = all.map(|(_, error)| error).collect();
        errors.sort_by(f64::total_cmp);
        errors
    }

    fn summary(&self) -> (f64, f64) {
        let errors = self.errors();
        let (median, worst) = (errors.get(errors.len() / 2), errors.last());
        (median.copied().unwrap_or(1.0), worst.copied().unwrap_or(1.0))
    }

    /// Whether the machine had time left: otherwise what was measured says little.
    #[must_use]
    pub fn valid(&self) -> bool {
        self.idle >= IDLE_MIN
    }

    /// Whether the predictions are as near as they are to be.
    #[must_use]
    pub fn passed(&self) -> bool {
        let (median, worst) = self.summary();
        self.valid() && median <= ERROR_MEDIAN_MAX && worst <= ERROR_WORST_MAX
    }

    /// One object, schema `atoll.calibrate/1`.
    #[must_use]
    pub fn json(&self) -> Value {
        let row = |(name, predicted, measured): &(String, Figures, Figures)| {
            json!({
                "scenario": name, "predicted": predicted, "measured": measured,
                "errors": predicted.errors(*measured).into_iter()
                    .collect::<std::collections::BTreeMap<_, _>>(),
            })
        };
        let (median, worst) = self.summary();
        json!({
            "schema": "atoll.calibrate/1", "passed": self.passed(), "valid": self.valid(),
            "host_idle": self.idle, "error_median": median, "error_worst": worst,
            "crossing_us": self.crossing_us, "profiles": self.profiles,
            "scenarios": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// A table for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = "| scenario | figure | predicted | measured | error |\n".to_owned();
        text += "|---|---|---|---|---|\n";
        for (name, predicted, measured) in &self.rows {
            let values = |f: &Figures| [f.tokens_per_s, f.first_token_s, f.recovery_gap_s];
            let pairs = values(predicted).into_iter().zip(values(measured));
            for ((figure, error), (p, m)) in predicted.errors(*measured).into_iter().zip(pairs) {
                let percent = error * 100.0;
                // Writing to a string cannot fail.
                let _ = writeln!(text, "| {name} | {figure} | {p:.3} | {m:.3} | {percent:.0} % |");
            }
        }
        let (median, worst) = self.summary();
        let [median, worst, idle] = [median, worst, self.idle].map(|share| share * 100.0);
        let _ = write!(text, "median error {median:.0} %, worst {worst:.0} %, idle {idle:.0} %");
        text + if self.valid() { "" } else { "\nINVALID: this machine had no time left" }
    }
}

/// Measures, predicts, then runs, scenario by scenario; progress goes to `say`.
///
/// # Errors
/// If a scenario cannot be used or real nodes cannot be started.
pub fn calibrate(options: &Options, mut say: impl FnMut(&str)) -> Result<Calibration> {
    ensure!(!options.scenarios.is_empty(), "no scenario was given");
    let began = CpuTime::now()?;
    let Options { site, .. } = options;
    let model = measured::model(&site.atoll, &site.model, site.context)?;
    let crossing_us = crossing_us(options)?;
    say(&format!("a crossing of a perfect link adds {crossing_us:.0} µs"));
    let mut known: Vec<(Option<f64>, DeviceProfile)> = Vec::new();
    let mut all = Calibration { rows: Vec::new(), profiles: Vec::new(), crossing_us, idle: 0.0 };
    for (path, text) in &options.scenarios {
        let of = || format!("{}", path.display());
        let mut scenario = Scenario::parse(text).with_context(of)?;
        for line in &mut scenario.devices {
            let profile = match known.iter().find(|(cpu, _)| *cpu == line.cpu) {
                Some((_, profile)) => profile.clone(),
                None => {
                    let profile = measured::device(&site.atoll, &site.model, &model, line.cpu)?;
                    say(&format!("{:?} of a core: {:?}", line.cpu, profile.speed()));
                    let speed = profile.speed();
                    all.profiles.push(json!({ "cpu": line.cpu, "speed": speed }));
                    known.push((line.cpu, profile.clone()));
                    profile
                }
            };
            let name = format!("measured-{:?}", line.cpu);
            line.memory_bytes.get_or_insert(1 << 31);
            line.profile.clone_from(&name);
            scenario.device_profile.insert(name, profile);
        }
        scenario.model_profile.insert(scenario.model.clone(), model.clone());
        scenario.windows_stay = windows_stay();
        let predicted = predict(&scenario, site.seed, crossing_us).with_context(of)?;
        say(&format!("{}: predicted {predicted:?}", scenario.name));
        let found = measure(&scenario, site, &model, &mut say).with_context(of)?;
        say(&format!("{}: measured {found:?}", scenario.name));
        all.rows.push((scenario.name, predicted, found));
    }
    all.idle = CpuTime::now()?.idle_since(began);
    Ok(all)
}

/// The positions in an answer at which a stage is killed, one a round.
fn struck_at(round: usize, tokens: usize) -> usize {
    (round + 1) * tokens / (ROUNDS + 1)
}

/// The stage that the scenario kills.
fn victim(scenario: &Scenario) -> Result<usize> {
    let kill = scenario.faults.iter().find(|fault| fault.what == FaultKind::Kill);
    let stage = kill.and_then(|fault| fault.stage);
    stage.context("a scenario to calibrate with has a fault `kill` with a `stage`")
}

fn predict(scenario: &Scenario, seed: u64, crossing_us: f64) -> Result<Figures> {
    let mut schedule = scenario.schedule(seed)?;
    let asked = schedule.requests.first().context("it asks for nothing")?.clone();
    let stage = victim(scenario)?;
    // The first warms the connections up, as with real nodes.
    let at_us = asked.at_us + (schedule.end_us - asked.at_us) / 2;
    (schedule.requests, schedule.faults) = (vec![asked.clone(), asked], Vec::new());
    schedule.requests[1].at_us = at_us;
    for device in &mut schedule.devices {
        let link = device.link.as_mut().context("a scenario's devices have links")?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few 100")]
        let half_us = (crossing_us / 2.0).round() as u64;
        link.latency_us += half_us;
    }
    let heard = |schedule: &Schedule| {
        let mut report = run(schedule);
        let broken = &report.violations;
        ensure!(broken.is_empty() && report.completed == 2, "in the simulator: {report:?}");
        Ok(report.answers.remove(1))
    };
    let calm = heard(&schedule)?;
    let mut gaps = Vec::new();
    for round in 0..ROUNDS {
        let at = struck_at(round, calm.token_us.len());
        // Between two tokens.
        let at_us = (calm.token_us[at - 1] + calm.token_us[at]) / 2;
        let what = What::Kill { node: 1, back_us: None };
        schedule.faults = vec![Fault { at_us, what, stage: Some(stage) }];
        gaps.push(heard(&schedule)?.gap_us(at_us) as f64 / 1e6);
    }
    Ok(Figures {
        tokens_per_s: calm.tokens_per_s().context("one token is no speed")?,
        first_token_s: calm.first_us().context("there is no token")? as f64 / 1e6,
        recovery_gap_s: median(gaps),
    })
}

fn measure(
    scenario: &Scenario,
    site: &Site,
    model: &Model,
    say: &mut impl FnMut(&str),
) -> Result<Figures> {
    let schedule = scenario.schedule(site.seed)?;
    let asked = schedule.requests.first().context("it asks for nothing")?;
    let stage = victim(scenario)?;
    let mut site = site.clone();
    site.hosts = schedule.devices.len();
    site.stages = usize::from(schedule.placement.stages);
    site.folder = site.folder.join(&scenario.name);
    let prompt = measured::prompt(&site.atoll, &site.model, asked.prompt.len())?;
    let mut lan = Emulator::start(&site.program, site.hosts, site.seed)?;
    for from in 0..site.hosts {
        for to in (0..site.hosts).filter(|to| *to != from) {
            let link = way(&schedule, from, to)?;
            lan.ask(&Request::Set { from: Some(from), to: Some(to), link })?;
        }
    }
    let cpu = scenario.devices.iter().flat_map(|line| vec![line.cpu; line.count]);
    let rooms = schedule.devices.iter().zip(cpu);
    let rooms = rooms.map(|(device, cpu)| Room { memory_bytes: device.memory_bytes, cpu });
    let rooms = rooms.collect();
    let mut mesh = Mesh::with_rooms(site, WAIT_S, &lan.namespaces, rooms)?;
    say(&format!("{}: {} layers as {}", scenario.name, model.layers, mesh.status(0)?["plan"]));
    let n = asked.max_tokens as usize;
    let hear = |mesh: &mut Mesh, at: usize, stage: Option<usize>| {
        let lines = mesh.ask_tokens(&prompt, asked.max_tokens, ANSWER_LIMIT);
        Answer::hear(&lines, ANSWER_LIMIT, at, || {
            let began = Instant::now();
            if let Some(stage) = stage {
                let stages = mesh.stages()?;
                mesh.kill(stages[stage % stages.len().max(1)])?;
            }
            Ok(began)
        })
    };
    // One that warms everything up and is not counted.
    hear(&mut mesh, 0, None)?;
    let (mut firsts, mut speeds, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
    let mut text = None;
    for _ in 0..ROUNDS {
        let calm = hear(&mut mesh, 0, None)?;
        ensure!(calm.error.is_none() && calm.came.len() >= n / 2, "undisturbed: {calm:?}");
        firsts.push(calm.came[0].as_secs_f64());
        let last = calm.came[calm.came.len() - 1];
        speeds.push((n - 1) as f64 / (last - calm.came[0]).as_secs_f64());
        text = Some(calm.text);
    }
    say(&format!("{}: {}", scenario.name, mesh.status(0)?["ring"]));
    for round in 0..ROUNDS {
        mesh.mend(true)?;
        let answer = hear(&mut mesh, struck_at(round, n), Some(stage))?;
        let fault = answer.fault(text.as_deref().unwrap_or_default());
        ensure!(fault.is_none(), "killed: {fault:?}");
        gaps.push(answer.gap.as_secs_f64());
    }
    say(&format!("{}: {firsts:.4?} s, {speeds:.2?}/s, {gaps:.4?} s", scenario.name));
    Ok(Figures {
        tokens_per_s: median(speeds),
        first_token_s: median(firsts),
        recovery_gap_s: median(gaps),
    })
}

/// The link of `linkd` for the way from one device to another.
fn way(schedule: &Schedule, from: usize, to: usize) -> Result<LinkChange> {
    let link = |node: usize| schedule.devices[node].link.as_ref().context("a device has a link");
    let (near, far) = (link(from)?, link(to)?);
    let bytes_per_s = near.uplink_bytes_per_s.min(far.uplink_bytes_per_s);
    Ok(LinkChange {
        rate_bits_per_s: Some(bytes_per_s * 8),
        delay_us: Some(near.latency_us + far.latency_us),
        jitter_us: Some(near.jitter_us + far.jitter_us),
        ..LinkChange::default()
    })
}

/// Whether this machine's transport keeps a window open while nothing is sent.
fn windows_stay() -> bool {
    let control = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    control.is_ok_and(|control| control.trim() == "bbr")
}

/// What one crossing adds to computing on perfect links, by a ring of two with a small model.
fn crossing_us(options: &Options) -> Result<f64> {
    let mut site = options.site.clone();
    site.model.clone_from(&options.crossing_model);
    (site.hosts, site.stages) = (2, 2);
    site.folder = site.folder.join("crossing");
    let prompt = measured::prompt(&site.atoll, &site.model, 16)?;
    let lan = Emulator::start(&site.program, site.hosts, site.seed)?;
    let rooms = vec![Room { memory_bytes: 1 << 31, cpu: None }; 2];
    let mesh = Mesh::with_rooms(site, WAIT_S, &lan.namespaces, rooms)?;
    for _ in 0..2 {
        let lines = mesh.ask_tokens(&prompt, 128, ANSWER_LIMIT);
        let answer = Answer::hear(&lines, ANSWER_LIMIT, 0, || Ok(Instant::now()))?;
        ensure!(answer.error.is_none(), "on perfect links: {answer:?}");
        sleep(Duration::from_millis(100));
    }
    let status = mesh.status(0)?;
    let us = status["ring"]["hop_us_median"].as_f64();
    us.with_context(|| format!("the node says nothing of its ring: {}", status["ring"]))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(tokens_per_s: f64, first_token_s: f64, recovery_gap_s: f64) -> Figures {
        Figures { tokens_per_s, first_token_s, recovery_gap_s }
    }

    #[test]
    fn errors_are_shares_of_what_was_measured() {
        let mut all = Calibration {
            rows: vec![("a".to_owned(), figures(90.0, 0.12, 0.5), figures(100.0, 0.1, 0.4))],
            profiles: Vec::new(),
            crossing_us: 0.0,
            idle: 0.5,
        };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
        let (median, worst) = all.summary();
        near(median, 0.2);
        near(worst, 0.25);
        assert!(!all.passed(), "the median is above 15 %");
        all.rows[0].1.first_token_s = 0.114;
        assert!(all.passed(), "{}", all.text());
        all.rows[0].1.recovery_gap_s = 0.53;
        assert!(!all.passed(), "the worst is above 30 %");
        all.rows[0].1.recovery_gap_s = 0.4;
        all.idle = 0.01;
        assert!(!all.passed() && all.text().contains("INVALID"));
    }

    #[test]
    fn a_stage_is_killed_within_the_answer() {
        let at: Vec<_> = (0..ROUNDS).map(|round| struck_at(round, 80)).collect();
        assert_eq!(at, [20, 40, 60]);
    }
}
