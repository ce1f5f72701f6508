//! Nodes and links that change in the middle of an answer: the answer goes on, letter by letter the
//! same, over a plan that suits what there is now.
//!
//! Three nodes that could each hold the whole model: the owner, which is slow, and two others.
//! What the plan should reach is measured, too, on nodes and links that were so from the start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::control::Request;
use crate::host::CpuTime;
use crate::mesh::{Mesh, Room, Site};
use crate::report::Report;
use crate::{Emulator, LinkChange, http, measured};

const ANSWER_LIMIT: Duration = Duration::from_secs(180);
const WAIT_S: u64 = 30;
/// What the issue that asked for this wants: s, and of what would be best.
const IN_FORCE_S: f64 = 10.0;
const OF_BEST: f64 = 0.9;
/// Time between two looks at the plan.
const LOOK: Duration = Duration::from_millis(50);
const PROMPT: &str = "Once upon a time, in a village by the sea, there lived";
/// A link as in a house, and one at a tenth of it, bits per second.
const RATES: [u64; 2] = [100_000_000, 10_000_000];
const DELAY_US: u64 = 200;

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// On what; of three hosts.
    pub site: Site,
    /// Tokens of each answer.
    pub tokens: u32,
    /// All changes, or this one.
    pub only: Option<Change>,
}

/// What happens in the middle of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Change {
    /// The stage's node gets a fifth of its share of the processor.
    Throttled,
    /// The links to and from the stage's node carry a tenth.
    LinkCut,
    /// A node comes that is faster, with nothing on its disk.
    Newcomer,
}

/// When and where a run changed what.
struct Seen {
    answer: Answer,
    struck: Instant,
    victim: usize,
    /// Plans and when they were first seen.
    plans: Vec<(Instant, Value)>,
}

impl Change {
    const ALL: [Self; 3] = [Self::Throttled, Self::LinkCut, Self::Newcomer];

    /// Shares of a core of the three nodes at first.
    const fn shares(self) -> [f64; 3] {
        match self {
            Self::Throttled | Self::LinkCut => [0.3, 0.8, 0.8],
            Self::Newcomer => [0.3, 0.5, 0.9],
        }
    }

    /// Does it to a stage's node, or with node 2, the newcomer.
    fn strike(self, mesh: &mut Mesh, lan: &mut Emulator, victim: usize) -> Result<()> {
        match self {
            Self::Throttled => mesh.set_cpu(victim, self.shares()[victim] / 5.0),
            Self::LinkCut => {
                for (from, to) in [(Some(victim), None), (None, Some(victim))] {
                    let link = LinkChange { rate_bits_per_s: Some(RATES[1]), ..house() };
                    lan.ask(&Request::Set { from, to, link })?;
                }
                Ok(())
            }
            Self::Newcomer => mesh.revive(2),
        }
    }
}

fn house() -> LinkChange {
    let (rate, delay) = (Some(RATES[0]), Some(DELAY_US));
    LinkChange { rate_bits_per_s: rate, delay_us: delay, ..LinkChange::default() }
}

/// Runs the changes one after the other; progress goes to `say`.
///
/// # Errors
/// If real nodes cannot be started or asked.
pub fn run(options: &Options, mut say: impl FnMut(&str)) -> Result<Report> {
    let began = CpuTime::now()?;
    let seed = options.site.seed;
    let mut report = Report { what: format!("adapt, seed {seed}"), ..Report::default() };
    for change in Change::ALL.into_iter().filter(|it| options.only.is_none_or(|only| only == *it)) {
        let struck = one(options, change, None).with_context(|| format!("{change:?}"))?;
        let best = one(options, change, Some(struck.victim));
        let best = best.with_context(|| format!("{change:?}, before"))?;
        judge(&mut report, change, &struck, &best, &mut say)?;
    }
    report.idle = CpuTime::now()?.idle_since(began);
    Ok(report)
}

/// One answer; the change comes in its middle, or before it to the node that is named.
fn one(options: &Options, change: Change, before: Option<usize>) -> Result<Seen> {
    let when = if before.is_none() { "in" } else { "before" };
    let mut site = options.site.clone();
    (site.hosts, site.stages) = (3, 0);
    site.context = u64::from(options.tokens) + 64;
    site.folder = site.folder.join(format!("{change:?}-{when}"));
    let model = measured::model(&site.atoll, &site.model, site.context)?;
    let layers = u64::from(model.layers) * model.layer_bytes;
    // Room for all of it twice, and for the caches.
    let memory_bytes = 2 * (layers + model.embed_bytes + model.head_bytes) + (8 << 30);
    let mut lan = Emulator::start(&site.program, site.hosts, site.seed)?;
    lan.ask(&Request::Set { from: None, to: None, link: house() })?;
    let room = |cpu: f64| Room { memory_bytes, cpu: Some(cpu), is_even: false };
    let rooms = change.shares().map(room).into();
    let mut mesh = Mesh::with_rooms(site, WAIT_S, &lan.namespaces, rooms)?;
    if change == Change::Newcomer {
        mesh.kill(2)?;
        mesh.wipe(2)?;
        wait_for(&mesh, |stages| stages == [1])?;
    }
    if let Some(victim) = before {
        change.strike(&mut mesh, &mut lan, victim)?;
        if change == Change::Newcomer {
            mesh.mend(false)?;
        }
    }
    // Warms everything up, and lets the owner see how fast nodes are.
    let warm = mesh.ask(PROMPT, 100, ANSWER_LIMIT);
    let warm = Answer::hear(&warm, ANSWER_LIMIT, 0, || Ok(Instant::now()))?;
    ensure!(warm.error.is_none(), "warming up: {warm:?}");
    // Spares are loaded and links measured; what was changed before is seen and settled.
    sleep(Duration::from_secs(if before.is_none() { 8 } else { 20 }));
    if before.is_some() {
        let again = mesh.ask(PROMPT, 100, ANSWER_LIMIT);
        Answer::hear(&again, ANSWER_LIMIT, 0, || Ok(Instant::now()))?;
        sleep(Duration::from_secs(12));
    }
    let stages = mesh.stages()?;
    let victim = before.or_else(|| stages.first().copied());
    let victim = victim.context("the owner is alone, and nothing can happen to a stage")?;
    let looking = Looking::begin(&mesh);
    let lines = mesh.ask(PROMPT, options.tokens, ANSWER_LIMIT);
    let mut struck = Instant::now();
    let at = options.tokens as usize / 4;
    let answer = Answer::hear(&lines, ANSWER_LIMIT, at, || {
        struck = Instant::now();
        if before.is_none() {
            change.strike(&mut mesh, &mut lan, victim)?;
        }
        Ok(struck)
    })?;
    Ok(Seen { answer, struck, victim, plans: looking.end()? })
}

fn wait_for(mesh: &Mesh, is_so: impl Fn(&[usize]) -> bool) -> Result<()> {
    let start = Instant::now();
    while !mesh.stages().is_ok_and(|stages| is_so(&stages)) {
        ensure!(start.elapsed() < Duration::from_secs(60), "the plan is {:?}", mesh.stages());
        sleep(LOOK);
    }
    Ok(())
}

/// Looks at the owner's plan while an answer is heard.
struct Looking {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Instant, Value)>>,
}

impl Looking {
    fn begin(mesh: &Mesh) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (ends, namespace) = (Arc::clone(&is_over), mesh.namespace(0).to_owned());
        let thread = spawn(move || {
            let mut plans: Vec<(Instant, Value)> = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                if let Ok(mut status) = http::status(&namespace) {
                    let stages = status["plan"]["stages"].take();
                    if stages.is_array() && plans.last().is_none_or(|(_, last)| *last != stages) {
                        plans.push((Instant::now(), stages));
                    }
                }
                sleep(LOOK);
            }
            plans
        });
        Self { is_over, thread }
    }

    fn end(self) -> Result<Vec<(Instant, Value)>> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("looking at the plan panicked"))
    }
}

fn judge(
    report: &mut Report,
    change: Change,
    struck: &Seen,
    best: &Seen,
    say: &mut impl FnMut(&str),
) -> Result<()> {
    let name = format!("{change:?}");
    if let Some(fault) = struck.answer.fault(&best.answer.text) {
        report.faults.push(format!("{name}: {fault}"));
    }
    let last = |seen: &Seen| seen.plans.last().cloned().context("no plan was seen");
    let ((_, plan), (_, best_plan)) = (last(struck)?, last(best)?);
    let news = struck.plans.iter().map(|(at, _)| at.checked_duration_since(struck.struck));
    let news: Vec<f64> = news.flatten().map(|after| after.as_secs_f64()).collect();
    match news.first() {
        None => report.faults.push(format!("{name}: the plan stayed {plan}")),
        Some(&s) if s > IN_FORCE_S => {
            report.late.push(format!("{name}: in force after {s:.1} s, not {IN_FORCE_S}"));
        }
        Some(_) => {}
    }
    let (reached, wanted) = (late_speed(&struck.answer)?, late_speed(&best.answer)?);
    if reached < OF_BEST * wanted {
        report.late.push(format!("{name}: {reached:.1} tokens/s, {wanted:.1} would be best"));
    }
    report.gaps.entry(name.clone()).or_default().push(struck.answer.gap);
    let figures = json!({
        "in_force_s": news, "gap_s": struck.answer.gap.as_secs_f64(),
        "tokens_per_s": reached, "best_tokens_per_s": wanted, "of_best": reached / wanted,
        "plan": plan, "best_plan": best_plan,
    });
    say(&format!("{name}: {figures}"));
    report.figures.insert(name, figures);
    Ok(())
}

/// Tokens per second by the median time between two of the last quarter of an answer.
fn late_speed(answer: &Answer) -> Result<f64> {
    let late = &answer.came[answer.came.len() * 3 / 4..];
    let mut waits: Vec<_> = late.windows(2).map(|pair| pair[1] - pair[0]).collect();
    waits.sort_unstable();
    let median = waits.get(waits.len() / 2).context("little was said")?;
    Ok(1.0 / median.as_secs_f64())
}
