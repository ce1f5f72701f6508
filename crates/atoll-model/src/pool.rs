//! How many threads compute, and how work is dealt to them.
//!
//! Results never depend on the number of threads: work is dealt in whole tiles or whole rows, and
//! no floating-point sum is ever split between two tasks (promise P1).

use atoll_kernels::{Isa, Kernels};

use crate::error::ModelError;

/// What computes: the kernels of one instruction set, and the threads that run them.
#[derive(Debug)]
pub struct Compute {
    /// Slice-level maths of the chosen instruction set.
    pub kernels: Kernels,
    /// Threads.
    pub pool: Pool,
}

impl Compute {
    /// Makes the kernels of `isa` and a pool of `threads` threads (see [`Pool::new`]).
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn new(isa: Isa, threads: usize) -> Result<Self, ModelError> {
        Ok(Self { kernels: Kernels::new(isa), pool: Pool::new(threads)? })
    }
}

/// A bounded set of compute threads, shared by any number of stages and sessions.
///
/// One thread means that everything runs inline in the caller, without any synchronisation.
#[derive(Debug)]
pub struct Pool {
    threads: usize,
    workers: Option<rayon::ThreadPool>,
}

impl Pool {
    /// Makes a pool of `threads` threads, at least one and at most as many as the machine has.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] when the system refuses to start the threads.
    pub fn new(threads: usize) -> Result<Self, ModelError> {
        let threads = threads.clamp(1, Self::available());
        let workers = match threads {
            1 => None,
            _ => Some(start_workers(threads)?),
        };
        Ok(Self { threads, workers })
    }

    /// The number of threads the machine offers to this process.
    #[must_use]
    pub fn available() -> usize {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    /// The number of threads that compute.
    #[must_use]
    pub const fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` on one of the pool's threads, so that the [`Pool::for_each`] calls inside it
    /// start without a hand-over.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.workers {
            None => work(),
            Some(workers) => workers.install(work),
        }
    }

    /// Applies `work` to every task; the order is free, so tasks must be independent.
    pub fn for_each<T: Send>(&self, tasks: Vec<T>, work: impl Fn(T) + Sync + Send) {
        use rayon::prelude::*;
        match &self.workers {
            Some(workers) if tasks.len() > 1 => {
                workers.install(|| tasks.into_par_iter().with_max_len(1).for_each(work));
            }
            Some(_) | None => tasks.into_iter().for_each(work),
        }
    }
}

fn start_workers(threads: usize) -> Result<rayon::ThreadPool, ModelError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("atoll-compute-{index}"))
        .build()
        .map_err(|error| ModelError::InvalidInput { what: "thread count", why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [0, 1, 2, 3, 1000] {
            let pool = Pool::new(threads).expect("threads start");
            assert!((1..=Pool::available()).contains(&pool.threads()));
            let sum = AtomicUsize::new(0);
            pool.run(|| {
                pool.for_each((1..=100).collect(), |task: usize| {
                    sum.fetch_add(task, Ordering::Relaxed);
                });
            });
            assert_eq!(sum.into_inner(), 5050);
        }
    }
}
