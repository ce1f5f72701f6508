//! Stages end in the middle of answers, round by round, and the answers must not show it.

use std::fmt::{self, Display};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_sim::Random;
use rustix::process::Signal;
use serde_json::json;

use crate::LinkChange;
use crate::answer::Answer;
use crate::control::Request;
use crate::host::CpuTime;
use crate::mesh::{Mesh, Site};
use crate::report::Report;

/// Tokens of an answer.
const TOKENS: usize = 48;
/// How long an answer may take, whatever happens to it.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);
/// What the end of an answer may take beyond the wait for a plan: to notice, and to say so.
const END_SLACK: Duration = Duration::from_secs(15);
/// Seconds that a request waits for a plan.
const WAIT_S: u64 = 20;

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// On what.
    pub site: Site,
    /// Rounds in which something ends.
    pub rounds: usize,
    /// Each link's delay.
    pub delay_us: u64,
    /// Of the rounds that the seed gives, only those of this kind.
    pub only: Option<End>,
    /// Also without spares, and with a newcomer that must fetch its layers.
    pub last: bool,
}

/// How stages end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum End {
    /// One, by SIGKILL, while tokens come.
    Killed,
    /// One, by SIGKILL, while a long prompt is taken in.
    KilledInPrefill,
    /// Two, one behind the other, by SIGKILL.
    TwoKilled,
    /// One, by SIGSTOP, until the answer is over.
    Stopped,
}

impl Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::KilledInPrefill => "killed in prefill",
            Self::TwoKilled => "two killed at once",
            Self::Stopped => "stopped",
        })
    }
}

/// One round, as data.
#[derive(Clone, Copy, Debug)]
struct Round {
    end: End,
    /// Which stage of those there are then, by remainder.
    victim: usize,
    /// The second one's distance from the first.
    other: usize,
    /// Before this piece of the answer, by remainder where it has fewer pieces than tokens, and so
    /// much later.
    at: usize,
    delay: Duration,
}

/// What a seed says will happen.
fn schedule(options: &Options) -> Vec<Round> {
    let mut random = Random::new(options.site.seed, "rounds");
    // Who was stopped is suspected for a while and no spare: these rounds come last.
    let ends = [End::Killed, End::KilledInPrefill, End::TwoKilled, End::Stopped];
    let round = |index: usize| {
        let end = ends[index * ends.len() / options.rounds];
        let prefill = end == End::KilledInPrefill;
        let at = random.index(TOKENS - 2);
        Round {
            end,
            victim: random.index(1000),
            other: random.index(1000),
            at: if prefill { 0 } else { at },
            delay: Duration::from_millis(random.below(if prefill { 400 } else { 60 })),
        }
    };
    let rounds = (0..options.rounds).map(round);
    rounds.filter(|round| options.only.is_none_or(|only| only == round.end)).collect()
}

/// Runs all rounds; progress goes to `say`.
///
/// # Errors
/// If the nodes cannot be started or do not become a mesh again.
pub fn run(options: &Options, mut say: impl FnMut(&str)) -> Result<Report> {
    let Options { site, .. } = options;
    let stages = site.stages;
    ensure!(options.rounds > 0, "--rounds is 0");
    ensure!(stages >= 3, "--stages is {stages}; at least 3, so that two can end at once");
    let began = CpuTime::now()?;
    let mut lan = site.links()?;
    let link = LinkChange { delay_us: Some(options.delay_us), ..LinkChange::default() };
    lan.ask(&Request::Set { from: None, to: None, link })?;
    let mesh = Mesh::start(site.clone(), WAIT_S, &lan.namespaces)?;
    say("the mesh serves");
    let prompts = ["Once upon a time".to_owned(), long_prompt()];
    let mut run = Run { mesh, prompts, wanted: Vec::new(), report: Report::default() };
    run.report.what = format!("rounds --seed {} --rounds {}", site.seed, options.rounds);
    for which in 0..run.prompts.len() {
        let answer = run.hear(which, 0, |_| Ok(Instant::now()))?;
        ensure!(answer.error.is_none(), "undisturbed: {answer:?}");
        // The last piece may be empty, with the reason of the end.
        ensure!(answer.pieces > 2, "undisturbed, an answer of too few pieces: {answer:?}");
        run.wanted.push(answer);
    }
    let rounds = schedule(options);
    for (index, &round) in rounds.iter().enumerate() {
        let said = run.round(round).with_context(|| format!("round {index}: {round:?}"))?;
        say(&format!("{}/{} {said}", index + 1, rounds.len()));
    }
    if options.last {
        run.mesh.mend(true)?;
        say(&run.newcomer()?);
        say(&run.nobody_left()?);
    }
    let mut report = run.report;
    report.limit("killed", 1000, 3000);
    report.limit("killed in prefill", 1000, 3000);
    report.limit("two killed at once", 1000, 3000);
    report.limit("stopped", 5000, 5000);
    report.limit("layers fetched from a peer", 10_000, 10_000);
    report.idle = CpuTime::now()?.idle_since(began);
    Ok(report)
}

/// Some three hundred tokens: its prefill takes long enough to be struck.
fn long_prompt() -> String {
    "The lamp on the hill went out, and the keeper climbed the stairs again. ".repeat(18)
}

struct Run {
    mesh: Mesh,
    prompts: [String; 2],
    /// What each is answered with when nothing happens.
    wanted: Vec<Answer>,
    report: Report,
}

impl Run {
    fn hear(
        &mut self,
        which: usize,
        at: usize,
        strike: impl FnOnce(&mut Mesh) -> Result<Instant>,
    ) -> Result<Answer> {
        let n = u32::try_from(TOKENS)?;
        let lines = self.mesh.ask(&self.prompts[which], n, ANSWER_LIMIT);
        Answer::hear(&lines, ANSWER_LIMIT, at, || strike(&mut self.mesh))
    }

    fn round(&mut self, round: Round) -> Result<String> {
        let stages = self.mesh.stages()?;
        let n = stages.len();
        ensure!(n >= 2, "only {n} stages beside the owner's");
        let first = round.victim % n;
        let mut victims = vec![stages[first]];
        if round.end == End::TwoKilled {
            victims.push(stages[(first + 1 + round.other % (n - 1)) % n]);
        }
        let which = usize::from(round.end == End::KilledInPrefill);
        let at = round.at % (self.wanted[which].pieces - 1);
        let struck = victims.clone();
        let answer = self.hear(which, at, |mesh| {
            sleep(round.delay);
            let began = Instant::now();
            struck.iter().try_for_each(|&host| match round.end {
                End::Stopped => mesh.signal(host, Signal::STOP),
                End::Killed | End::KilledInPrefill | End::TwoKilled => mesh.kill(host),
            })?;
            Ok(began)
        })?;
        let place = format!("{} n{victims:?} before piece {at} + {:?}", round.end, round.delay);
        if let Some(fault) = answer.fault(&self.wanted[which].text) {
            self.report.faults.push(format!("{place}: {fault}"));
        }
        self.report.gaps.entry(round.end.to_string()).or_default().push(answer.gap);
        if round.end == End::Stopped {
            victims.iter().try_for_each(|&host| self.mesh.signal(host, Signal::CONT))?;
        }
        self.mesh.mend(round.end != End::Stopped)?;
        Ok(format!("{place}: gap {:.2?} {}", answer.gap, answer.error.unwrap_or_default()))
    }

    /// No spare, and a node that starts at the strike with nothing on disk.
    fn newcomer(&mut self) -> Result<String> {
        let stages = self.mesh.stages()?;
        let spares: Vec<_> = (1..self.mesh.len()).filter(|host| !stages.contains(host)).collect();
        spares.iter().try_for_each(|&host| self.mesh.kill(host))?;
        let newcomer = spares[0];
        self.mesh.wipe(newcomer)?;
        let answer = self.hear(0, self.wanted[0].pieces / 2, |mesh| {
            let began = Instant::now();
            mesh.kill(stages[0])?;
            mesh.revive(newcomer)?;
            Ok(began)
        })?;
        if let Some(fault) = answer.fault(&self.wanted[0].text) {
            self.report.faults.push(format!("layers fetched from a peer: {fault}"));
        }
        let kind = "layers fetched from a peer".to_owned();
        self.report.gaps.entry(kind).or_default().push(answer.gap);
        self.mesh.mend(true)?;
        Ok(format!("a newcomer fetched its layers: gap {:.2?}", answer.gap))
    }

    /// No node could take the place: the answer ends in time, says why, and keeps what was said.
    fn nobody_left(&mut self) -> Result<String> {
        let stages = self.mesh.stages()?;
        let spares: Vec<_> = (1..self.mesh.len()).filter(|host| !stages.contains(host)).collect();
        spares.iter().try_for_each(|&host| self.mesh.kill(host))?;
        // The owner hears of it, so that what is lost next is lost without a spare.
        sleep(Duration::from_secs(1));
        let at = self.wanted[0].pieces / 2;
        let answer = self.hear(0, at, |mesh| {
            let began = Instant::now();
            mesh.kill(stages[0])?;
            Ok(began)
        })?;
        let limit = Duration::from_secs(WAIT_S) + END_SLACK;
        let kept = self.wanted[0].text.starts_with(&answer.text) && answer.pieces >= at;
        let said = answer.error.clone().unwrap_or_default();
        if !kept || said.is_empty() || said.contains("broke off") || answer.gap > limit {
            self.report.faults.push(format!("no spare: {answer:?}"));
        }
        self.report.figures.insert(
            "no_spare".to_owned(),
            json!({
                "end_s": answer.gap.as_secs_f64(), "pieces_kept": answer.pieces, "error": said,
            }),
        );
        Ok(format!("no spare: ended after {:.1?}: {said}", answer.gap))
    }
}
