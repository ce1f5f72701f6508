//! Many seeds: which is next, and what they show together. Whoever has threads and a clock drives
//! it: takes seeds, plays each anywhere, and adds what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::Serialize;

use crate::report::{Report, Sum};
use crate::schedule::Schedule;
use crate::world::run;

/// Kinds of schedules that a seed expands to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nodes come and go with a goodbye.
    Calm,
    /// Everything goes wrong for a while.
    Chaos,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Calm, Self::Chaos];

    /// The schedule of a seed.
    #[must_use]
    pub fn schedule(self, seed: u64, n: usize) -> Schedule {
        match self {
            Self::Calm => Schedule::joins_and_leaves(seed, n),
            Self::Chaos => Schedule::chaos(seed, n),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calm => "calm",
            Self::Chaos => "chaos",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kind| kind.to_string() == word);
        known.ok_or_else(|| {
            "calm (nodes come and go) and chaos (everything breaks) are known".into()
        })
    }
}

/// Seeds that are run, and what they have shown so far.
#[derive(Debug)]
pub struct Swarm {
    seeds: Range<u64>,
    /// Every seed that this divides is run twice.
    repeat_every: u64,
    next: u64,
    running: BTreeSet<u64>,
    sum: Sum,
    failures: Vec<Failure>,
    repeated: u64,
    faults_min: u64,
}

/// A seed that was run.
#[derive(Debug)]
pub struct Played {
    seed: u64,
    report: Report,
    /// Whether a second run was the same, if there was one.
    same: Option<bool>,
}

/// A seed that broke something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// What broke, by the invariant's name.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

/// What a swarm has shown.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Seeds run.
    pub seeds: u64,
    /// Those that were run twice, to see that both runs are the same.
    pub seeds_run_twice: u64,
    /// Inputs handled by nodes.
    pub events: u64,
    /// Tokens emitted.
    pub tokens: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Fewest of a seed.
    pub faults_per_seed_min: u64,
    /// The mean.
    pub faults_per_seed_mean: f64,
    /// The sum of all traces: equal for equal seeds, whatever the order.
    pub trace: String,
    /// Requests answered in full.
    pub completed: u64,
    /// Requests that ended with an error.
    pub failed: u64,
    /// By its cause.
    pub failed_causes: BTreeMap<String, u64>,
    /// Invariants that broke, and seeds that differ from themselves.
    pub violations: usize,
    /// The longest wait between two tokens of a request: the median over all, µs.
    pub gap_us_p50: u64,
    /// What 99 of 100 do not exceed, µs.
    pub gap_us_p99: u64,
    /// The longest of all, µs.
    pub gap_us_max: u64,
    /// Time that it took, s, as the driver says.
    pub seconds: f64,
    /// Seeds per second.
    pub seeds_per_s: f64,
    /// Events per second.
    pub events_per_s: f64,
}

impl Swarm {
    /// Nothing is run yet. `repeat_every` 1: all are run twice; 0 counts as 1.
    #[must_use]
    pub fn new(seeds: Range<u64>, repeat_every: u64) -> Self {
        Self {
            next: seeds.start,
            seeds,
            repeat_every: repeat_every.max(1),
            running: BTreeSet::new(),
            sum: Sum::default(),
            failures: Vec::new(),
            repeated: 0,
            faults_min: u64::MAX,
        }
    }

    /// The next seed to play, and whether twice; none if all are taken.
    pub fn take(&mut self) -> Option<(u64, bool)> {
        let seed = self.next;
        if seed >= self.seeds.end {
            return None;
        }
        self.next += 1;
        self.running.insert(seed);
        Some((seed, seed.is_multiple_of(self.repeat_every)))
    }

    /// Takes in a seed that was played.
    pub fn add(&mut self, played: Played) {
        let Played { seed, report, same } = played;
        self.running.remove(&seed);
        self.repeated += u64::from(same.is_some());
        self.faults_min = self.faults_min.min(report.faults);
        if same == Some(false) {
            self.failures.push(Failure { seed, what: "two runs differ".to_owned() });
        }
        let broken = report.violations.iter().map(|(name, what)| format!("{name} {what}"));
        self.failures.extend(broken.map(|what| Failure { seed, what }));
        self.failures.sort_by_key(|failure| failure.seed);
        self.sum.add(&report);
    }

    /// The first seed that is not among those added: a run that was cut off goes on from there.
    #[must_use]
    pub fn next_from(&self) -> u64 {
        self.running.first().copied().unwrap_or(self.next)
    }

    /// What broke, in the order of seeds.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// What there is so far, after so many seconds.
    #[must_use]
    pub fn figures(&self, seconds: f64) -> Figures {
        let (sum, total) = (&self.sum, &self.sum.total);
        let per = |n: u64, of: f64| (n as f64 / of.max(f64::MIN_POSITIVE) * 10.0).round() / 10.0;
        Figures {
            seeds: sum.seeds,
            seeds_run_twice: self.repeated,
            events: total.events,
            tokens: total.tokens,
            faults: total.faults,
            faults_per_seed_min: if sum.seeds == 0 { 0 } else { self.faults_min },
            faults_per_seed_mean: per(total.faults, sum.seeds as f64),
            trace: format!("{:016x}", total.trace),
            completed: total.completed,
            failed: total.failed.values().sum(),
            failed_causes: total.failed.clone(),
            violations: self.failures.len(),
            gap_us_p50: sum.gap_us(500),
            gap_us_p99: sum.gap_us(990),
            gap_us_max: sum.gap_us(1000),
            seconds,
            seeds_per_s: per(sum.seeds, seconds),
            events_per_s: per(total.events, seconds).round(),
        }
    }
}

impl Played {
    /// Plays a seed's schedule, once or twice.
    #[must_use]
    pub fn play(seed: u64, schedule: &Schedule, twice: bool) -> Self {
        let report = run(schedule);
        let same = twice.then(|| report == run(schedule));
        Self { seed, report, same }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(seeds: Range<u64>, repeat_every: u64) -> Swarm {
        let mut swarm = Swarm::new(seeds, repeat_every);
        while let Some((seed, twice)) = swarm.take() {
            swarm.add(Played::play(seed, &Kind::Chaos.schedule(seed, 8), twice));
        }
        swarm
    }

    #[test]
    fn what_is_counted_does_not_hang_on_the_order() {
        let forth = played(4..14, 5).figures(2.0);
        let mut swarm = Swarm::new(4..14, 1);
        let taken: Vec<_> = std::iter::from_fn(|| swarm.take()).collect();
        for (seed, twice) in taken.into_iter().rev() {
            swarm.add(Played::play(seed, &Kind::Chaos.schedule(seed, 8), twice));
        }
        let back = swarm.figures(2.0);
        assert_eq!((forth.seeds_run_twice, back.seeds_run_twice), (2, 10));
        assert_eq!((forth.trace, forth.seeds, forth.seeds_per_s), (back.trace, 10, 5.0));
        assert_eq!(forth.violations, 0, "{:?}", swarm.failures());
        let least = (4..14).map(|seed| run(&Schedule::chaos(seed, 8)).faults).min();
        assert_eq!(Some(forth.faults_per_seed_min), least);
    }

    #[test]
    fn a_run_that_was_cut_off_goes_on_from_where_it_said() {
        let mut swarm = Swarm::new(7..100, 10);
        assert_eq!(
            [swarm.take(), swarm.take(), swarm.take(), swarm.take()].map(Option::unwrap),
            [(7, false), (8, false), (9, false), (10, true)]
        );
        swarm.running.remove(&8);
        assert_eq!(swarm.next_from(), 7, "8 may be done: it is run again rather than left out");
        swarm.running.clear();
        assert_eq!(swarm.next_from(), 11);
        let traces = [0..2, 2..6, 0..6].map(|seeds| played(seeds, 100).sum.total.trace);
        assert_eq!(traces[0].wrapping_add(traces[1]), traces[2]);
    }

    #[test]
    fn what_breaks_is_told_with_its_seed() {
        let mut swarm = Swarm::new(0..3, 1);
        let report =
            Report { violations: vec![("a_claim", "at 5 µs".to_owned())], ..Report::default() };
        swarm.add(Played { seed: 2, report, same: None });
        swarm.add(Played { seed: 1, report: Report::default(), same: Some(false) });
        let told: Vec<_> = swarm.failures().iter().map(ToString::to_string).collect();
        assert_eq!(told, ["seed 1: two runs differ", "seed 2: a_claim at 5 µs"]);
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("stormy".parse::<Kind>().is_err_and(|error| error.contains("calm")));
    }
}
