//! Many seeds over a few threads, some of them run twice.

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use atoll_sim::{Report, Schedule, Sum, run};
use serde_json::{Value, json};

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
/// simulator is not a proof.
pub(crate) fn run_seeds(
    range: Range<u64>,
    (jobs, repeat_every): (usize, u64),
    schedule: impl Fn(u64) -> Schedule + Sync,
) -> Outcome {
    let began = Instant::now();
    let next = AtomicU64::new(range.start);
    let gathered = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= range.end {
                        return;
                    }
                    let schedule = schedule(seed);
                    let first = run(&schedule);
                    let is_repeated = seed.is_multiple_of(repeat_every);
                    let differ = (is_repeated && first != run(&schedule))
                        .then(|| "two runs differ".to_owned());
                    let broken =
                        first.violations.iter().map(|(name, what)| format!("{name} {what}"));
                    let failures = differ.into_iter().chain(broken);
                    let failures: Vec<_> = failures.map(|what| Failure { seed, what }).collect();
                    let mut gathered =
                        gathered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    gathered.add(&first);
                    gathered.repeated += u64::from(is_repeated);
                    gathered.failures.extend(failures);
                }
            });
        }
    });
    let mut outcome = gathered.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
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
            run_seeds(4..14, (jobs, repeat_every), kind)
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
}
