//! What the owner of a model says that its tokens will take, beside what they take: meshes of two
//! to six nodes with shares of the processor, over links of all kinds.
//!
//! Each has room for some layers only, so that the owner has to plan with others; it plans by time.
//! Its predictions are asked for as soon as there is a plan, when it knows what nodes say of
//! themselves and what probes of links showed; and, when a few requests have gone through, right
//! before each request that is measured. What counts of a mesh is the median of what was said over
//! what was, request by request: a machine whose speed changes by the minute changes both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_sim::cost::Model;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::control::Request;
use crate::host::CpuTime;
use crate::http::API;
use crate::mesh::{Mesh, Room, SESSIONS, Site};
use crate::report::Report;
use crate::{Emulator, LinkChange, in_namespace, measured};

const ANSWER_LIMIT: Duration = Duration::from_secs(240);
const WAIT_S: u64 = 30;
const PLAN_LIMIT: Duration = Duration::from_secs(60);
/// Reno, whatever this machine has: it fills a link as CUBIC does, which most systems have, and any
/// namespace may take it.
const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// Tokens of a prompt, as `timing` in the state of a node predicts for, and of an answer.
const PROMPT_TOKENS: usize = 512;
const TOKENS: u32 = 64;
const CONTEXT: u64 = 640;
/// Requests over the same plan before those that are measured.
const WARM: usize = 7;
/// What the issue that asked for this wants of predictions, off by at most: the median and each.
const OFF: [f64; 2] = [0.10, 0.20];

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// On what.
    pub site: Site,
    /// Which of the [meshes](names), or all.
    pub only: Vec<String>,
    /// Requests of each that are measured, each behind a prediction; the median counts.
    pub runs: usize,
    /// Where the plans are drawn, if they are to be.
    pub svg: Option<PathBuf>,
}

/// Nodes, the owner first, and what joins them.
struct Kind {
    name: &'static str,
    /// Of each, thousandths of the model's layers that it has room for, and its share of a core.
    nodes: &'static [(u64, f64)],
    rate_bits_per_s: u64,
    delay_us: u64,
    /// One node whose links are of another rate and delay.
    odd: Option<(usize, u64, u64)>,
}

const MBIT: u64 = 1_000_000;
const MS: u64 = 1_000;

const KINDS: [Kind; 9] = [
    // Each could hold the model, and the links are longer than what others would save.
    Kind {
        name: "one-of-three",
        nodes: &[(1000, 1.0), (1000, 1.0), (1000, 0.5)],
        rate_bits_per_s: 100 * MBIT,
        delay_us: 20 * MS,
        odd: None,
    },
    Kind {
        name: "two-fast",
        nodes: &[(600, 1.0), (600, 1.0)],
        rate_bits_per_s: 1000 * MBIT,
        delay_us: 0,
        odd: None,
    },
    Kind {
        name: "two-uneven",
        nodes: &[(500, 0.5), (700, 1.0)],
        rate_bits_per_s: 100 * MBIT,
        delay_us: MS,
        odd: None,
    },
    Kind {
        name: "three-equal",
        nodes: &[(400, 0.5), (400, 0.5), (400, 0.5)],
        rate_bits_per_s: 100 * MBIT,
        delay_us: MS / 2,
        odd: None,
    },
    Kind {
        name: "three-far",
        nodes: &[(400, 1.0), (400, 0.5), (400, 0.25)],
        rate_bits_per_s: 20 * MBIT,
        delay_us: 40 * MS,
        odd: None,
    },
    Kind {
        name: "three-narrow",
        nodes: &[(400, 0.6), (400, 0.6), (400, 0.6)],
        rate_bits_per_s: 2 * MBIT,
        delay_us: 5 * MS,
        odd: None,
    },
    Kind {
        name: "four",
        nodes: &[(300, 0.5), (300, 0.25), (300, 0.75), (300, 0.4)],
        rate_bits_per_s: 50 * MBIT,
        delay_us: 2 * MS,
        odd: None,
    },
    Kind {
        name: "five-unequal",
        nodes: &[(200, 0.5), (300, 0.25), (400, 1.0), (150, 0.4), (250, 0.3)],
        rate_bits_per_s: 100 * MBIT,
        delay_us: MS,
        odd: Some((4, 10 * MBIT, 15 * MS)),
    },
    Kind {
        name: "six",
        nodes: &[(200, 0.3), (200, 0.3), (200, 0.3), (200, 0.3), (200, 0.3), (200, 0.3)],
        rate_bits_per_s: 30 * MBIT,
        delay_us: 10 * MS,
        odd: None,
    },
];

/// The meshes that there are.
#[must_use]
pub fn names() -> Vec<&'static str> {
    KINDS.iter().map(|kind| kind.name).collect()
}

impl Kind {
    fn rooms(&self, model: &Model) -> Vec<Room> {
        let kv_bytes = u64::from(model.kv_bytes_per_position) * CONTEXT * SESSIONS;
        let room = |(host, &(permille, cpu)): (usize, &(u64, f64))| {
            let layers = (u64::from(model.layers) * permille).div_ceil(1000);
            let ends = if host == 0 { model.embed_bytes + model.head_bytes } else { 0 };
            // A layer may be larger than the mean.
            let memory_bytes = ends + (10 * layers + 5) * (model.layer_bytes + kv_bytes) / 10;
            Room { memory_bytes, cpu: Some(cpu), is_even: true }
        };
        self.nodes.iter().enumerate().map(room).collect()
    }
}

fn link(rate_bits_per_s: u64, delay_us: u64) -> LinkChange {
    let (rate, delay) = (Some(rate_bits_per_s), Some(delay_us));
    LinkChange { rate_bits_per_s: rate, delay_us: delay, ..LinkChange::default() }
}

/// A prediction, and what the request took that began right behind it.
#[derive(Debug)]
struct Pair {
    said: Value,
    /// A token, and the first.
    took_ms: [f64; 2],
}

/// What was said and what was.
#[derive(Debug)]
struct Found {
    stages: Value,
    /// Links as the owner knows them.
    links: Value,
    /// The plan for what nodes say of themselves, explained, if it was drawn.
    explained: Option<String>,
    /// What is said with profiles and probes alone.
    before: Value,
    pairs: Vec<Pair>,
}

/// Runs the meshes one after the other; progress goes to `say`.
///
/// # Errors
/// If real nodes cannot be started or asked, or there is no mesh of a name.
pub fn run(options: &Options, mut say: impl FnMut(&str)) -> Result<Report> {
    for name in &options.only {
        ensure!(names().contains(&name.as_str()), "no mesh is called {name:?}: {:?}", names());
    }
    let began = CpuTime::now()?;
    let seed = options.site.seed;
    let mut report = Report { what: format!("predict, seed {seed}"), ..Report::default() };
    let mut off = [Vec::new(), Vec::new()];
    let kinds = KINDS.iter().filter(|kind| {
        options.only.is_empty() || options.only.iter().any(|only| only == kind.name)
    });
    for kind in kinds {
        let found = one(options, kind, &mut say).with_context(|| kind.name)?;
        let figures = figures(&found, &mut off)?;
        say(&format!("{}: {figures}", kind.name));
        report.figures.insert(kind.name.to_owned(), figures);
    }
    for (what, off) in ["a token", "the first token"].into_iter().zip(off) {
        judge(&mut report, what, off);
    }
    report.idle = CpuTime::now()?.idle_since(began);
    Ok(report)
}

fn one(options: &Options, kind: &Kind, say: &mut impl FnMut(&str)) -> Result<Found> {
    let mut site = options.site.clone();
    (site.hosts, site.stages, site.context) = (kind.nodes.len(), 0, CONTEXT);
    site.folder = site.folder.join(kind.name);
    let model = measured::model(&site.atoll, &site.model, CONTEXT)?;
    let prompt = measured::prompt(&site.atoll, &site.model, PROMPT_TOKENS)?;
    let mut lan = Emulator::start(&site.program, site.hosts, site.seed)?;
    for namespace in &lan.namespaces {
        let set = in_namespace(namespace, || fs::write(CONGESTION, "reno"));
        set?.with_context(|| format!("writing {CONGESTION}"))?;
    }
    everywhere(&site, &lan)?;
    let all = link(kind.rate_bits_per_s, kind.delay_us);
    lan.ask(&Request::Set { from: None, to: None, link: all })?;
    if let Some((odd, rate, delay)) = kind.odd {
        for (from, to) in [(Some(odd), None), (None, Some(odd))] {
            lan.ask(&Request::Set { from, to, link: link(rate, delay) })?;
        }
    }
    let mesh = Mesh::with_rooms(site, WAIT_S, &lan.namespaces, kind.rooms(&model))?;
    // Links are still being measured when they are slow.
    sleep(Duration::from_secs(3));
    let before = timing(&mesh)?;
    let last = settle(&mesh, &prompt)?;
    let links = mesh.status(0)?["links"].take();
    let explained = match &options.svg {
        Some(folder) => Some(draw(&mesh, &options.site, &folder.join(kind.name))?),
        None => None,
    };
    say(&format!("{}: {last}", kind.name));
    let mut found = Found { stages: last, links, explained, before, pairs: vec![] };
    for _ in 0..options.runs.max(1) {
        // What the request before showed is known by then.
        sleep(Duration::from_secs(2));
        let said = timing(&mesh)?;
        let answer = answer(&mesh, &prompt)?;
        let mut waits: Vec<f64> =
            answer.came.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3).collect();
        let first_token_ms = answer.came[0].as_secs_f64() * 1e3;
        found.pairs.push(Pair { said, took_ms: [median(&mut waits)?, first_token_ms] });
    }
    let stages = stages(&mesh)?;
    ensure!(stages == found.stages, "the plan became {stages}, it was {}", found.stages);
    Ok(found)
}

/// Asks until the plan has stayed as it is for some requests.
fn settle(mesh: &Mesh, prompt: &[u32]) -> Result<Value> {
    let (mut last, mut same) = (stages(mesh)?, 0);
    for _ in 0..3 * WARM {
        answer(mesh, prompt)?;
        let now = stages(mesh)?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same == WARM {
            break;
        }
    }
    // What is measured anew is known by then.
    sleep(Duration::from_secs(3));
    Ok(last)
}

/// Lets the owner take the model in, and puts what it then has on its disk on all others': parts
/// would be long on their way over slow links, and nothing of that is measured here.
fn everywhere(site: &Site, lan: &Emulator) -> Result<()> {
    let alone = Site { hosts: 1, ..site.clone() };
    let room = Room { memory_bytes: 64 << 30, cpu: None, is_even: false };
    drop(Mesh::with_rooms(alone, WAIT_S, &lan.namespaces[..1], vec![room])?);
    for host in 1..site.hosts {
        let to = site.folder.join(format!("n{host}/blobs"));
        link_all(&site.folder.join("n0/blobs"), &to)?;
    }
    Ok(())
}

fn link_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let (entry, to) = (entry?.path(), to.to_path_buf());
        let to = to.join(entry.file_name().context("a file has a name")?);
        if entry.is_dir() {
            link_all(&entry, &to)?;
        } else {
            fs::hard_link(&entry, &to).with_context(|| format!("linking {}", to.display()))?;
        }
    }
    Ok(())
}

/// Has the owner's plan explained and drawn, as `atoll plan` does for a mesh that runs.
fn draw(mesh: &Mesh, site: &Site, path: &Path) -> Result<String> {
    let data = tempfile::tempdir()?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", mesh.namespace(0)]).arg(&site.atoll).arg("plan");
    command.arg(&site.model).args(["--api", API, "--explain", "--ctx", &CONTEXT.to_string()]);
    command.args(["--users", &SESSIONS.to_string(), "--svg"]).arg(path.with_extension("svg"));
    command.env("ATOLL_DATA_DIR", data.path()).env("ATOLL_CONFIG", "/dev/null");
    let done = command.output().context("running atoll plan")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "atoll plan: {said}");
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn answer(mesh: &Mesh, prompt: &[u32]) -> Result<Answer> {
    let lines = mesh.ask_tokens(prompt, TOKENS, ANSWER_LIMIT);
    let answer = Answer::hear(&lines, ANSWER_LIMIT, 0, || Ok(Instant::now()))?;
    ensure!(answer.error.is_none() && answer.came.len() > 8, "{answer:?}");
    Ok(answer)
}

fn stages(mesh: &Mesh) -> Result<Value> {
    let mut status = mesh.status(0)?;
    Ok(status["plan"]["stages"].take())
}

/// What is predicted, as soon as a plan is in force: one may be on its way to be another.
fn timing(mesh: &Mesh) -> Result<Value> {
    let end = Instant::now() + PLAN_LIMIT;
    loop {
        let mut status = mesh.status(0)?;
        let timing = status["plan"]["timing"].take();
        if timing.is_object() {
            return Ok(timing);
        }
        ensure!(Instant::now() < end, "nothing is predicted: {status}");
        sleep(Duration::from_millis(200));
    }
}

fn median(values: &mut [f64]) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("nothing was measured")
}

/// What is off is taken down in `off`: tokens, and first tokens.
fn figures(found: &Found, off: &mut [Vec<f64>; 2]) -> Result<Value> {
    let ratio = |said: &Value, key: &str, was: f64| {
        Ok::<_, anyhow::Error>(said[key].as_f64().context("nothing was predicted")? / was)
    };
    let mut figures = json!({
        "stages": found.stages, "links": found.links, "explained": found.explained,
        "predicted_before": found.before,
        "predicted": found.pairs.last().map(|pair| &pair.said),
    });
    for (i, (what, off)) in ["token", "first_token"].into_iter().zip(off).enumerate() {
        let key = format!("{what}_ms");
        let ratios = found.pairs.iter().map(|pair| ratio(&pair.said, &key, pair.took_ms[i]));
        let all: Vec<f64> = ratios.collect::<Result<_>>()?;
        let took: Vec<f64> = found.pairs.iter().map(|pair| pair.took_ms[i]).collect();
        let now = median(&mut all.clone())?;
        off.push((now - 1.0).abs());
        let before = ratio(&found.before, &key, median(&mut took.clone())?)?;
        figures[format!("{what}_predicted")] = json!(now);
        figures[format!("{what}_predicted_each")] = json!(all);
        figures[format!("{what}_predicted_before")] = json!(before);
        figures[key] = json!(took);
    }
    Ok(figures)
}

fn judge(report: &mut Report, what: &str, mut off: Vec<f64>) {
    off.sort_by(f64::total_cmp);
    let (Some(median), Some(worst)) = (off.get(off.len() / 2), off.last()) else { return };
    for (name, off, most) in [("median", median, OFF[0]), ("worst", worst, OFF[1])] {
        if *off > most {
            report.late.push(format!("{what}: {name} off by {off:.3}, at most {most}"));
        }
    }
    let figures = json!({ "off_median": median, "off_worst": worst });
    report.figures.insert(format!("{what}, predicted"), figures);
}
