//! Many seeds over a few threads, some of them run twice.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Instant;

use atoll_sim::{Report, Schedule, Sum, run};
use serde_json::{Value, json};

/// Time between two words on how far it is, s.
const PROGRESS_S: f64 = 10.0;

/// What a swarm showed.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) sum: Sum,
    pub(crate) failures: Vec<Failure>,
    /// Seeds that were run twice.
    repeated: u64,
    /// Fewest faults of a seed.
    faults_min: u64,
    seconds: f64,
    /// Seeds that are being run.
    running: BTreeSet<u64>,
    /// When it was last said how far it is, s.
    told_at: f64,
}

/// A seed that broke something.
pub(crate) struct Failure {
    pub(crate) seed: u64,
    what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

/// Runs the seeds of `range`, and those that `repeat_every` divides twice: the same events, or the
/// simulator is not a proof. Every few seconds `progress` is given what there is so far and the
/// first seed that is not among it.
pub(crate) fn run_seeds(
    range: Range<u64>,
    (jobs, repeat_every): (usize, u64),
    schedule: impl Fn(u64) -> Schedule + Sync,
    progress: impl Fn(&Outcome, u64) + Sync,
) -> Outcome {
    let began = Instant::now();
    let gathered = Mutex::new((range.start, Outcome::default()));
    let lock = || gathered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let mut begun = lock();
                    let seed = begun.0;
                    if seed >= range.end {
                        return;
                    }
                    begun.0 += 1;
                    begun.1.running.insert(seed);
                    drop(begun);
                    let schedule = schedule(seed);
                    let first = run(&schedule);
                    let is_repeated = seed.is_multiple_of(repeat_every);
                    let differ = (is_repeated && first != run(&schedule))
                        .then(|| "two runs differ".to_owned());
                    let broken =
                        first.violations.iter().map(|(name, what)| format!("{name} {what}"));
                    let failures = differ.into_iter().chain(broken);
                    let failures: Vec<_> = failures.map(|what| Failure { seed, what }).collect();
                    let (next, outcome) = &mut *lock();
                    outcome.add(&first);
                    outcome.repeated += u64::from(is_repeated);
                    outcome.failures.extend(failures);
                    outcome.running.remove(&seed);
                    outcome.seconds = began.elapsed().as_secs_f64();
                    if outcome.seconds >= outcome.told_at + PROGRESS_S {
                        outcome.told_at = outcome.seconds;
                        progress(outcome, outcome.next_from(*next));
                    }
                }
            });
        }
    });
    let gathered = gathered.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut outcome = gathered.1;
    outcome.failures.sort_by_key(|failure| failure.seed);
    outcome.seconds = began.elapsed().as_secs_f64();
    outcome
}

impl Outcome {
    fn add(&mut self, report: &Report) {
        let least = if self.sum.seeds == 0 { u64::MAX } else { self.faults_min };
        self.faults_min = least.min(report.faults);
        self.sum.add(report);
    }

    /// The first seed that is not among those counted, if `next` is the first that was not begun.
    fn next_from(&self, next: u64) -> u64 {
        self.running.first().copied().unwrap_or(next)
    }

    /// For machines.
    pub(crate) fn json(&self) -> Value {
        let (sum, total) = (&self.sum, &self.sum.total);
        json!({
            "schema": "atoll.sim/2", "seeds": sum.seeds, "seeds_run_twice": self.repeated,
            "events": total.events, "tokens": total.tokens,
            "faults": total.faults, "faults_per_seed_min": self.faults_min,
            "faults_per_seed_mean": mean(total.faults, sum.seeds as f64),
            "trace": format!("{:016x}", total.trace),
            "completed": total.completed, "failed": total.failed.values().sum::<u64>(),
            "failed_causes": total.failed, "violations": self.failures.len(),
            "gap_us_p50": sum.gap_us(500), "gap_us_p99": sum.gap_us(990),
            "gap_us_max": sum.gap_us(1000), "seconds": self.seconds,
            "seeds_per_s": mean(sum.seeds, self.seconds),
            "events_per_s": mean(total.events, self.seconds).round(),
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string_pretty(&self.json()).unwrap_or_default()
    }
}

/// `sum / n` to one place behind the point.
fn mean(sum: u64, n: f64) -> f64 {
    (sum as f64 / n.max(f64::MIN_POSITIVE) * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_does_not_hang_on_the_threads() {
        let of = |jobs, repeat_every| {
            let kind = |seed| Schedule::chaos(seed, 8);
            run_seeds(4..14, (jobs, repeat_every), kind, |_, _| ())
        };
        let (one, three) = (of(1, 5), of(3, 1));
        assert_eq!((one.repeated, three.repeated), (2, 10));
        assert_eq!(one.sum.total.trace, three.sum.total.trace);
        assert_ne!(one.sum.total.trace, 0);
        assert_eq!(one.sum.seeds, 10);
        let least = (4..14).map(|seed| run(&Schedule::chaos(seed, 8)).faults).min();
        assert_eq!(Some(one.faults_min), least);
        assert!(one.failures.is_empty(), "{}", one.failures[0]);
    }

    #[test]
    fn a_run_that_was_cut_off_goes_on_from_where_it_said() {
        let kind = |seed| Schedule::chaos(seed, 8);
        let mut first = Outcome { running: BTreeSet::from([7, 9]), ..Outcome::default() };
        assert_eq!(first.next_from(12), 7, "8 may be done: it is run again rather than left out");
        first.running.clear();
        assert_eq!(first.next_from(12), 12);
        let whole = run_seeds(0..6, (1, 100), kind, |_, _| ());
        let parts = [0..2, 2..6].map(|range| run_seeds(range, (1, 100), kind, |_, _| ()));
        let traces = parts.iter().map(|part| part.sum.total.trace);
        assert_eq!(whole.sum.total.trace, traces.fold(0, u64::wrapping_add));
    }
}
