//! Many seeds over a few threads, each seed run twice.

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use atoll_sim::{Schedule, Sum, run};
use serde_json::{Value, json};

/// What a swarm showed.
pub(crate) struct Outcome {
    pub(crate) sum: Sum,
    pub(crate) failures: Vec<Failure>,
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

/// Runs the seeds of `range`, each twice: the same events, or the simulator is not a proof.
pub(crate) fn run_seeds(
    range: Range<u64>,
    jobs: usize,
    schedule: impl Fn(u64) -> Schedule + Sync,
) -> Outcome {
    let began = Instant::now();
    let next = AtomicU64::new(range.start);
    let gathered = Mutex::new((Sum::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= range.end {
                        return;
                    }
                    let schedule = schedule(seed);
                    let (first, second) = (run(&schedule), run(&schedule));
                    let differ = (first != second).then(|| "two runs differ".to_owned());
                    let broken =
                        first.violations.iter().map(|(name, what)| format!("{name} {what}"));
                    let failures = differ.into_iter().chain(broken);
                    let failures: Vec<_> = failures.map(|what| Failure { seed, what }).collect();
                    let mut gathered =
                        gathered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    gathered.0.add(&first);
                    gathered.1.extend(failures);
                }
            });
        }
    });
    let (sum, mut failures) =
        gathered.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failures.sort_by_key(|failure: &Failure| failure.seed);
    Outcome { sum, failures, seconds: began.elapsed().as_secs_f64() }
}

impl Outcome {
    /// For machines.
    pub(crate) fn json(&self) -> Value {
        let (sum, total) = (&self.sum, &self.sum.total);
        json!({
            "schema": "atoll.sim/1", "seeds": sum.seeds, "runs_per_seed": 2,
            "events": total.events, "faults": total.faults, "tokens": total.tokens,
            "completed": total.completed, "failed": total.failed.values().sum::<u64>(),
            "failed_causes": total.failed, "violations": self.failures.len(),
            "gap_us_p50": sum.gap_us(500), "gap_us_p99": sum.gap_us(990),
            "gap_us_max": sum.gap_us(1000), "seconds": self.seconds,
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string_pretty(&self.json()).unwrap_or_default()
    }
}
