//! How many threads compute, and how work is dealt to them.
//!
//! Results never depend on the number of threads: work is dealt in whole tiles or whole rows, and
//! no floating-point sum is ever split between two tasks (promise P1).
//!
//! The threads are our own (`workers`). Measured (`cargo bench -p atoll-model --bench pool` and
//! the same loop around the crates) on two cores: eight tasks of 2.5 µs, then 2 µs alone, as in a
//! small model's decoding; two threads would ideally take 12.0 µs, one takes 22.
//!
//! | | 2 threads | 8 threads | why |
//! |---|---|---|---|
//! | ours | 12.4 µs | 12.8 µs | spins briefly, then sleeps; nobody waits for a thread not started |
//! | rayon 1.12 | 13.2 µs | 21.0 µs | a deque per thread; idle threads search and yield |
//! | chili 0.2 | 22.1 µs | 24.1 µs | shares work at a heartbeat, so never anything this short |
//! | forte 1.0 beta | 22.1 µs | 21.7 µs | the same; wants a newer compiler than this workspace |

use std::cell::RefCell;

use atoll_kernels::{Isa, Kernels};

use self::split::{Parts, Split};
use self::workers::Workers;
use crate::error::ModelError;
use crate::kv_cache::KvType;

pub(crate) mod split;
mod workers;

/// Most threads of a pool. More are a slip of the keyboard, not a machine that we know.
pub const THREADS_MAX: usize = 512;

/// What computes: the kernels of one instruction set, and the threads that run them.
#[derive(Debug)]
pub struct Compute {
    /// Slice-level maths of the chosen instruction set.
    pub kernels: Kernels,
    /// Threads.
    pub pool: Pool,
    /// How new caches store keys and values.
    pub kv: KvType,
}

impl Compute {
    /// Makes the kernels of `isa` and a pool of `threads` threads (see [`Pool::new`]).
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn new(isa: Isa, threads: usize) -> Result<Self, ModelError> {
        let (kernels, pool) = (Kernels::new(isa), Pool::new(threads)?);
        Ok(Self { kernels, pool, kv: KvType::default() })
    }

    /// The same with caches of another kind.
    #[must_use]
    pub fn with_kv(self, kv: KvType) -> Self {
        Self { kv, ..self }
    }
}

/// A bounded set of compute threads, shared by any number of stages and sessions.
///
/// The thread that calls is one of them; one thread means that everything runs inline, without
/// any synchronisation. While one caller's work runs, another caller's runs on its own thread.
#[derive(Debug)]
pub struct Pool {
    threads: usize,
    workers: Option<Workers>,
}

impl Pool {
    /// Makes a pool of `threads` threads, but not of more than the machine offers to this process
    /// ([`Pool::available`]).
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] for 0 or more than [`THREADS_MAX`] threads, or when the system
    /// refuses to start them.
    pub fn new(threads: usize) -> Result<Self, ModelError> {
        let bound = if threads > THREADS_MAX { threads } else { Self::available() };
        Self::exactly(threads.min(bound))
    }

    /// As [`Pool::new`], even if the machine offers fewer.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn exactly(threads: usize) -> Result<Self, ModelError> {
        let refused = |why| ModelError::InvalidInput { what: "thread count", why };
        if !(1..=THREADS_MAX).contains(&threads) {
            return Err(refused(format!("{threads} is not between 1 and {THREADS_MAX}")));
        }
        let start = || Workers::start(threads - 1).map_err(|error| refused(error.to_string()));
        let workers = (threads > 1).then(start).transpose()?;
        Ok(Self { threads, workers })
    }

    /// The number of threads that the machine offers to this process: its cores, within the
    /// process's affinity and the CPU quota of its control group (v1 or v2).
    #[must_use]
    pub fn available() -> usize {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    /// The number of threads that compute.
    #[must_use]
    pub const fn threads(&self) -> usize {
        self.threads
    }

    /// Applies `work` to every task; the order is free, so tasks must be independent.
    pub fn for_each<T: Send>(&self, tasks: &mut [T], work: impl Fn(&mut T) + Sync) {
        self.split(Parts::new(tasks, 1), |_, task| task.iter_mut().for_each(&work));
    }

    /// As [`Pool::split`], on the threads only if `is_parallel`.
    pub(crate) fn split_if<S: Split>(
        &self,
        is_parallel: bool,
        parts: S,
        work: impl Fn(usize, S::Part) + Sync,
    ) {
        let workers = self.workers.as_ref().filter(|_| is_parallel);
        Self::split_on(workers, parts, work);
    }

    /// Applies `work` to every part with its index; the order is free.
    pub(crate) fn split<S: Split>(&self, parts: S, work: impl Fn(usize, S::Part) + Sync) {
        Self::split_on(self.workers.as_ref(), parts, work);
    }

    #[expect(unsafe_code, reason = "the one place that takes parts")]
    fn split_on<S: Split>(
        workers: Option<&Workers>,
        parts: S,
        work: impl Fn(usize, S::Part) + Sync,
    ) {
        let task = |index| {
            // SAFETY: the loop below and `Workers::run` give every index once.
            work(index, unsafe { parts.part(index) });
        };
        match workers {
            Some(workers) if parts.n_parts() > 1 => workers.run(parts.n_parts(), &task),
            Some(_) | None => (0..parts.n_parts()).for_each(task),
        }
    }
}

/// Gives `work` room for `len` floats, whatever they are: memory that the thread keeps.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with(|scratch| {
        // Not within one another: a task's room would be taken away.
        let mut scratch = scratch.borrow_mut();
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        work(&mut scratch[..len])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8, 40] {
            let pool = Pool::exactly(threads).expect("threads start");
            assert_eq!(pool.threads(), threads);
            for n in [0, 1, 2, 5, 100] {
                let mut counts = vec![0; n];
                for _ in 0..50 {
                    pool.for_each(&mut counts, |count| *count += 1);
                }
                assert!(counts.iter().all(|&count| count == 50), "{threads} {n} {counts:?}");
            }
        }
    }

    #[test]
    fn only_counts_that_make_sense_are_taken() {
        for threads in [0, THREADS_MAX + 1, 10_000, usize::MAX] {
            let message = Pool::new(threads).expect_err("refused").to_string();
            assert!(message.contains(&format!("{threads} is not between 1 and 512")), "{message}");
        }
        assert_eq!(Pool::new(THREADS_MAX).expect("bounded").threads(), Pool::available());
    }

    #[test]
    fn callers_side_by_side_and_within_tasks_get_all_their_work_done() {
        let pool = Pool::exactly(3).expect("threads start");
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.for_each(&mut [1; 10], |one| {
                            pool.for_each(&mut [*one; 3], |one| {
                                sum.fetch_add(*one, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 100 * 10 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_works_on() {
        let pool = Pool::exactly(3).expect("threads start");
        for _ in 0..20 {
            let mut tasks: Vec<usize> = (0..50).collect();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(&mut tasks, |task| assert_ne!(*task, 17, "the seventeenth"));
            }));
            assert!(outcome.is_err());
            let mut counts = [0; 50];
            pool.for_each(&mut counts, |count| *count += 1);
            assert_eq!(counts, [1; 50]);
        }
    }
}
