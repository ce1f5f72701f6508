//! What real nodes in namespaces do in a scenario, for `atoll sim calibrate` to predict: the engine
//! is timed alone first, and a crossing of a perfect link.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_sim::Scenario;
use atoll_sim::calibration::{Figures, Measured, ROUNDS, median, struck_at};
use atoll_sim::cost::Model;
use atoll_sim::scenario::DeviceProfile;
use atoll_sim::schedule::Schedule;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::control::Request;
use crate::host::{CpuTime, IDLE_MIN};
use crate::measured;
use crate::mesh::{Mesh, Room, Site};
use crate::{Emulator, LinkChange};

const ANSWER_LIMIT: Duration = Duration::from_secs(90);
const WAIT_S: u64 = 20;

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
    let crossing_us = crossing_us(options)?;
    say(&format!("a crossing of a perfect link adds {crossing_us:.0} µs"));
    let mut known: Vec<(Option<f64>, DeviceProfile)> = Vec::new();
    let mut found = Found { measured: Vec::new(), idle: 0.0 };
    for (path, text) in &options.scenarios {
        let of = || format!("{}", path.display());
        let mut scenario = Scenario::parse(text).with_context(of)?;
        for line in &mut scenario.devices {
            let profile = match known.iter().find(|(cpu, _)| *cpu == line.cpu) {
                Some((_, profile)) => profile.clone(),
                None => {
                    let profile = measured::device(&site.atoll, &site.model, &model, line.cpu)?;
                    say(&format!("{:?} of a core: {:?}", line.cpu, profile.speed()));
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
        let figures = with_nodes(&scenario, site, &model, &mut say).with_context(of)?;
        say(&format!("{}: measured {figures:?}", scenario.name));
        let seed = site.seed;
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
) -> Result<Figures> {
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
