//! Nodes end, stop and lose each other for a long time while requests go on.

use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atoll_sim::Random;
use rustix::process::Signal;
use serde_json::json;

use crate::LinkChange;
use crate::answer::Answer;
use crate::control::Request;
use crate::emulator::Emulator;
use crate::footprint::{Footprint, growth};
use crate::host::CpuTime;
use crate::mesh::{Mesh, Site};
use crate::report::Report;

const TOKENS: u32 = 24;
/// Seconds that a request waits for a plan.
const WAIT_S: u64 = 60;
/// A request without an end by then has none.
const ANSWER_LIMIT: Duration = Duration::from_secs(180);
/// Something happens so often.
const EVERY: Duration = Duration::from_secs(10);
/// How long it may take after the last blow until nothing is open that was not at the start.
const CALM_LIMIT: Duration = Duration::from_secs(60);
/// Connections between two nodes that both may have dialled.
const CONNECTIONS_PER_PEER_MAX: u64 = 2;
const PROMPTS: [&str; 4] =
    ["Once upon a time", "The capital of France is", "Water boils when", "A good friend"];

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// On what.
    pub site: Site,
    /// How long.
    pub duration: Duration,
    /// Requests under way at once.
    pub streams: usize,
}

/// What happens to a member for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Kill,
    Stop,
    Part,
}

/// What happens at a turn, as data.
#[derive(Clone, Debug)]
struct Turn {
    blow: Blow,
    /// Never the owner; the last member is never killed, so that its memory can be followed.
    host: usize,
    lasts: Duration,
    links: Vec<(usize, usize, LinkChange)>,
}

fn turn(random: &mut Random, hosts: usize) -> Turn {
    let blow = [Blow::Kill, Blow::Stop, Blow::Part][random.index(3)];
    let last = if blow == Blow::Kill { hosts - 1 } else { hosts };
    let host = 1 + random.index(last - 1);
    let lasts = Duration::from_millis(random.within(1_000..8_000));
    Turn { blow, host, lasts, links: bad_links(random, hosts) }
}

/// What every link becomes: 5 to 50 ms, and up to 5 % are lost.
fn bad_links(random: &mut Random, hosts: usize) -> Vec<(usize, usize, LinkChange)> {
    let pairs = (0..hosts).flat_map(|f| (0..hosts).map(move |t| (f, t))).filter(|(f, t)| f != t);
    let links = pairs.map(|(from, to)| {
        let link = LinkChange {
            delay_us: Some(random.within(5_000..50_001)),
            jitter_us: Some(random.below(5_000)),
            loss_ppm: Some(random.below(50_001)),
            ..LinkChange::default()
        };
        (from, to, link)
    });
    links.collect()
}

/// Runs for as long as asked; progress goes to `say`.
///
/// # Errors
/// If the nodes cannot be started.
pub fn run(options: &Options, mut say: impl FnMut(&str)) -> Result<Report> {
    let &Options { ref site, streams, .. } = options;
    ensure!((1..=16).contains(&streams), "--streams is {streams}; 1 to 16");
    let began = CpuTime::now()?;
    let mut lan = site.links()?;
    let mut mesh = Mesh::start(site.clone(), WAIT_S, &lan.namespaces)?;
    say("the mesh serves");
    let wanted = PROMPTS.iter().map(|prompt| undisturbed(&mesh, prompt)).collect::<Result<_>>()?;
    let mut soak = Soak {
        wanted,
        asked: 0,
        tokens: 0,
        report: Report::default(),
        calm: followed(&mesh)
            .map(|host| Ok((host, mesh.footprint(host)?)))
            .collect::<Result<_>>()?,
        footprints: BTreeMap::new(),
    };
    soak.report.what = format!("soak --seed {} {:?}", site.seed, options.duration);
    let blows = soak.run(options, &mut lan, &mut mesh, &mut say)?;
    let figures = json!({
        "requests": soak.asked, "pieces": soak.tokens, "blows": blows,
        "seconds": options.duration.as_secs(),
    });
    let mut report = soak.ended();
    report.figures.insert("soak".to_owned(), figures);
    report.idle = CpuTime::now()?.idle_since(began);
    Ok(report)
}

fn undisturbed(mesh: &Mesh, prompt: &str) -> Result<String> {
    let answer = Answer::hear(&mesh.ask(prompt, TOKENS, ANSWER_LIMIT), ANSWER_LIMIT, 0, || {
        Ok(Instant::now())
    })?;
    if let Some(error) = answer.error {
        bail!("undisturbed: {error}");
    }
    Ok(answer.text)
}

/// An answer and which prompt it is to.
type Heard = (usize, Result<Answer>);

struct Soak {
    wanted: Vec<String>,
    asked: usize,
    tokens: usize,
    report: Report,
    /// By host: before anything happened.
    calm: BTreeMap<usize, Footprint>,
    /// By host, in time.
    footprints: BTreeMap<usize, Vec<Footprint>>,
}

impl Soak {
    fn run(
        &mut self,
        options: &Options,
        lan: &mut Emulator,
        mesh: &mut Mesh,
        say: &mut impl FnMut(&str),
    ) -> Result<BTreeMap<String, u32>> {
        let mut random = Random::new(options.site.seed, "soak");
        let mut blows = BTreeMap::new();
        set(lan, &bad_links(&mut random, options.site.hosts))?;
        let (send, heard) = channel();
        let start = Instant::now();
        (0..options.streams).for_each(|stream| ask(mesh, stream, &send));
        let mut next = EVERY;
        let mut under_way = options.streams;
        let mut back: Option<(Duration, Turn)> = None;
        while under_way > 0 {
            let now = start.elapsed();
            let over = now >= options.duration;
            if back.as_ref().is_some_and(|(at, _)| now >= *at)
                && let Some((_, turn)) = back.take()
            {
                undo(&turn, lan, mesh)?;
            }
            if now >= next && !over {
                next += EVERY;
                self.measure(mesh)?;
                let turn = turn(&mut random, options.site.hosts);
                strike(&turn, lan, mesh)?;
                *blows.entry(format!("{:?}", turn.blow)).or_default() += 1;
                let (asked, faults) = (self.asked, self.report.faults.len());
                say(&format!(
                    "{:.0} s: {:?} n{} for {:.1?}; {asked} requests ended, {faults} faults",
                    now.as_secs_f64(),
                    turn.blow,
                    turn.host,
                    turn.lasts
                ));
                back = Some((now + turn.lasts, turn));
            }
            while let Ok((prompt, answer)) = heard.try_recv() {
                self.judge(prompt, answer, now);
                if over {
                    under_way -= 1;
                } else {
                    ask(mesh, prompt + options.streams, &send);
                }
            }
            sleep(Duration::from_millis(20));
        }
        self.measure(mesh)?;
        if let Some((_, turn)) = back {
            undo(&turn, lan, mesh)?;
        }
        lan.ask(&Request::Set { from: None, to: None, link: perfect() })?;
        mesh.mend(false)?;
        self.calms(mesh)?;
        Ok(blows)
    }

    /// When all is well again, nothing stays open that was not before: descriptors that are no
    /// connections are as many as at the start or fewer, and no peer has more connections than two
    /// that dial each other make.
    fn calms(&mut self, mesh: &Mesh) -> Result<()> {
        let peers = mesh.len() as u64 - 1;
        let start = Instant::now();
        for (host, before) in self.calm.clone() {
            loop {
                let now = mesh.footprint(host)?;
                let flat = now.descriptors <= before.descriptors
                    && now.connections <= peers * CONNECTIONS_PER_PEER_MAX;
                if flat || start.elapsed() > CALM_LIMIT {
                    let figure = json!({
                        "descriptors": [before.descriptors, now.descriptors],
                        "connections": [before.connections, now.connections],
                    });
                    if !flat {
                        self.report.faults.push(format!("n{host}: still open: {figure}"));
                    }
                    self.report.figures.insert(format!("n{host}_open"), figure);
                    break;
                }
                sleep(Duration::from_millis(500));
            }
        }
        Ok(())
    }

    fn judge(&mut self, prompt: usize, answer: Result<Answer>, now: Duration) {
        self.asked += 1;
        let fault = match &answer {
            Ok(answer) => answer.fault(&self.wanted[prompt]),
            Err(error) => Some(format!("{error:#}")),
        };
        if let Ok(answer) = answer {
            self.tokens += answer.pieces;
            self.report.gaps.entry("longest of an answer".to_owned()).or_default().push(answer.gap);
        }
        if let Some(fault) = fault {
            self.report.faults.push(format!("{:.1} s: {fault}", now.as_secs_f64()));
        }
    }

    /// Follows the owner and the member that is never killed.
    fn measure(&mut self, mesh: &Mesh) -> Result<()> {
        for host in followed(mesh) {
            let footprint = mesh.footprint(host).with_context(|| format!("n{host} is gone"))?;
            self.footprints.entry(host).or_default().push(footprint);
        }
        Ok(())
    }

    fn ended(mut self) -> Report {
        for (host, all) in &self.footprints {
            let name = format!("n{host}");
            let (figures, faults) = growth(&name, all);
            self.report.figures.insert(name, figures);
            self.report.faults.extend(faults);
        }
        self.report
    }
}

/// The owner, and the member that is never killed.
fn followed(mesh: &Mesh) -> impl Iterator<Item = usize> + use<> {
    [0, mesh.len() - 1].into_iter()
}

const fn perfect() -> LinkChange {
    LinkChange {
        rate_bits_per_s: None,
        queue_bytes: None,
        delay_us: Some(0),
        jitter_us: Some(0),
        loss_ppm: Some(0),
        duplicate_ppm: Some(0),
        reorder_ppm: Some(0),
        up: Some(true),
    }
}

fn ask(mesh: &Mesh, number: usize, heard: &Sender<Heard>) {
    let prompt = number % PROMPTS.len();
    let lines = mesh.ask(PROMPTS[prompt], TOKENS, ANSWER_LIMIT);
    let heard = heard.clone();
    thread::spawn(move || {
        let answer = Answer::hear(&lines, ANSWER_LIMIT, 0, || Ok(Instant::now()));
        // The run may have failed meanwhile.
        let _sent = heard.send((prompt, answer));
    });
}

fn set(lan: &mut Emulator, links: &[(usize, usize, LinkChange)]) -> Result<()> {
    for &(from, to, link) in links {
        lan.ask(&Request::Set { from: Some(from), to: Some(to), link })?;
    }
    Ok(())
}

fn strike(turn: &Turn, lan: &mut Emulator, mesh: &mut Mesh) -> Result<()> {
    set(lan, &turn.links)?;
    match turn.blow {
        Blow::Kill => mesh.kill(turn.host),
        Blow::Stop => mesh.signal(turn.host, Signal::STOP),
        Blow::Part => {
            let others = (0..mesh.len()).filter(|host| *host != turn.host).collect();
            lan.ask(&Request::Partition { groups: vec![others, vec![turn.host]] }).map(|_| ())
        }
    }
}

fn undo(turn: &Turn, lan: &mut Emulator, mesh: &mut Mesh) -> Result<()> {
    match turn.blow {
        Blow::Kill => mesh.revive(turn.host),
        Blow::Stop => mesh.signal(turn.host, Signal::CONT),
        Blow::Part => lan.ask(&Request::Heal).map(|_| ()),
    }
}
