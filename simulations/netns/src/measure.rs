//! What real nodes in namespaces do in a scenario, for `atoll sim calibrate` to predict: the engine
//! is timed alone first, and a crossing of a perfect link.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_sim::Scenario;
use atoll_sim::calibration::{Figures, Measured, ROUNDS, median, struck_at};
use atoll_sim::cost::Model;
use atoll_sim::schedule::Schedule;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::control::Request;
use crate::host::{CpuTime, IDLE_MIN};
use crate::measured;
use crate::mesh::{Mesh, Room, Site};
use crate::{Emulator, LinkChange, echo};

const ANSWER_LIMIT: Duration = Duration::from_secs(90);
const WAIT_S: u64 = 20;
/// A processor that was idle for so long is as slow as after any longer time.
const IDLE_MAX: Duration = Duration::from_millis(40);
/// Name of the profile that is measured.
const MEASURED: &str = "measured";

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

/// What was measured.
#[derive(Debug)]
pub struct Found {
    measured: Vec<Measured>,
    idle: f64,
}

impl Found {
    /// Whether the machine had time left: otherwise what was measured says little.
    #[must_use]
    pub fn valid(&self) -> bool {
        self.idle >= IDLE_MIN
    }

    /// One object, schema `atoll.measured/1`, as `atoll sim calibrate` reads it.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "schema": "atoll.measured/1", "valid": self.valid(), "host_idle": self.idle,
            "measured": self.measured,
        })
    }

    /// The figures, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let line = |one: &Measured| format!("{}: {:?}", one.scenario.name, one.figures);
        let mut lines: Vec<_> = self.measured.iter().map(line).collect();
        let idle = self.idle * 100.0;
        lines.push(format!("idle {idle:.0} %; --json is what `atoll sim calibrate` takes"));
        if !self.valid() {
            lines.push("INVALID: this machine had no time left".to_owned());
        }
        lines.join("\n")
    }
}

/// Measures scenario by scenario; progress goes to `say`.
///
/// # Errors
/// If a scenario cannot be used or real nodes cannot be started.
pub fn measure(options: &Options, mut say: impl FnMut(&str)) -> Result<Found> {
    ensure!(!options.scenarios.is_empty(), "no scenario was given");
    let began = CpuTime::now()?;
    let Options { site, .. } = options;
    let model = measured::model(&site.atoll, &site.model, site.context)?;
    let node_us = crossing_us(options, &mut say)?;
    let times = |pause| measured::times(&site.atoll, &site.model, pause);
    let busy = times(Duration::ZERO)?;
    say(&format!("the engine alone, never idle: {busy:?}"));
    let mut found = Found { measured: Vec::new(), idle: 0.0 };
    for (path, text) in &options.scenarios {
        let of = || format!("{}", path.display());
        let mut scenario = Scenario::parse(text).with_context(of)?;
        for line in &mut scenario.devices {
            line.memory_bytes.get_or_insert(1 << 31);
            MEASURED.clone_into(&mut line.profile);
        }
        scenario.model_profile.insert(scenario.model.clone(), model.clone());
        scenario.device_profile.insert(MEASURED.to_owned(), measured::profile(&model, busy));
        scenario.windows_stay = windows_stay();
        let pause = turn_after(&scenario, site.seed, busy.token_s(), node_us).with_context(of)?;
        // Before and after: a machine that is shared with others is not equally fast for long.
        let before = times(pause)?;
        let (figures, late_us) = with_nodes(&scenario, site, &model, &mut say).with_context(of)?;
        let after = times(pause)?;
        let profile = measured::profile(&model, before.mean(after));
        say(&format!("{}: after {pause:?} each: {before:?}, {after:?}", scenario.name));
        say(&format!("{}: measured {figures:?}", scenario.name));
        scenario.device_profile.insert(MEASURED.to_owned(), profile);
        let (seed, crossing_us) = (site.seed, node_us + late_us);
        found.measured.push(Measured { scenario, seed, crossing_us, valid: true, figures });
    }
    found.idle = CpuTime::now()?.idle_since(began);
    let valid = found.valid();
    found.measured.iter_mut().for_each(|one| one.valid = valid);
    Ok(found)
}

fn with_nodes(
    scenario: &Scenario,
    site: &Site,
    model: &Model,
    say: &mut impl FnMut(&str),
) -> Result<(Figures, f64)> {
    let schedule = scenario.schedule(site.seed)?;
    let asked = schedule.requests.first().context("it asks for nothing")?;
    let stage = scenario.killed_stage().context("it has no fault `kill` of a `stage`")?;
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
    let told = way(&schedule, 0, 1)?;
    let [delay, jitter, rate] = [told.delay_us, told.jitter_us, told.rate_bits_per_s];
    let [delay, jitter, rate] = [delay, jitter, rate].map(Option::unwrap_or_default);
    let late_us = echo::one_way_us(&lan.namespaces)? - echo::told_us(delay, jitter, rate);
    say(&format!("{}: links are {late_us:.0} µs later than they were told", scenario.name));
    let cpu = scenario.devices.iter().flat_map(|line| vec![line.cpu; line.count]);
    let rooms = schedule.devices.iter().zip(cpu);
    let rooms =
        rooms.map(|(device, cpu)| Room { memory_bytes: device.memory_bytes, cpu, is_even: false });
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
    let figures = Figures {
        tokens_per_s: median(speeds),
        first_token_s: median(firsts),
        recovery_gap_s: median(gaps),
    };
    Ok((figures, late_us))
}

/// How long a stage is idle between two tokens: until the others and all crossings had theirs.
fn turn_after(scenario: &Scenario, seed: u64, token_s: f64, node_us: f64) -> Result<Duration> {
    let schedule = scenario.schedule(seed)?;
    let stages = usize::from(schedule.placement.stages).clamp(1, schedule.devices.len());
    let link_us = (0..stages).map(|from| {
        let told = way(&schedule, from, (from + 1) % stages)?;
        Ok(told.delay_us.unwrap_or_default() as f64 + node_us)
    });
    let links_us = if stages > 1 { link_us.sum::<Result<f64>>()? } else { 0.0 };
    let others_s = token_s * (stages - 1) as f64 / stages as f64;
    let turn = Duration::try_from_secs_f64(others_s + links_us / 1e6)?;
    Ok(turn.clamp(Duration::from_millis(1), IDLE_MAX))
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

/// What one crossing adds at the nodes to computing and to the link, by a ring of two on perfect
/// links: what a link itself takes is taken off again, so that each scenario can add its own.
fn crossing_us(options: &Options, say: &mut impl FnMut(&str)) -> Result<f64> {
    let mut site = options.site.clone();
    site.model.clone_from(&options.crossing_model);
    (site.hosts, site.stages) = (2, 2);
    site.folder = site.folder.join("crossing");
    let prompt = measured::prompt(&site.atoll, &site.model, 16)?;
    let lan = Emulator::start(&site.program, site.hosts, site.seed)?;
    let link_us = echo::one_way_us(&lan.namespaces)?;
    let rooms = vec![Room { memory_bytes: 1 << 31, cpu: None, is_even: false }; 2];
    let mesh = Mesh::with_rooms(site, WAIT_S, &lan.namespaces, rooms)?;
    for _ in 0..2 {
        let lines = mesh.ask_tokens(&prompt, 128, ANSWER_LIMIT);
        let answer = Answer::hear(&lines, ANSWER_LIMIT, 0, || Ok(Instant::now()))?;
        ensure!(answer.error.is_none(), "on perfect links: {answer:?}");
        sleep(Duration::from_millis(100));
    }
    let status = mesh.status(0)?;
    let us = status["ring"]["hop_us_median"].as_f64();
    let us =
        us.with_context(|| format!("the node says nothing of its ring: {}", status["ring"]))?;
    say(&format!("a crossing of a perfect link adds {us:.0} µs, {link_us:.0} of them the link's"));
    Ok(us - link_us)
}
