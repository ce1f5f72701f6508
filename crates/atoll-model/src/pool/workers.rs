//! Persistent threads that help one caller at a time through short loops.
//!
//! A *job* is a number of independent tasks; the caller takes part. Every thread has a run of them,
//! as long as the others', and takes it in ascending order, so that it reads memory in one stream;
//! whoever is through with its run takes from the runs of others. A worker that is busy elsewhere
//! when a job is over has simply not helped: the caller waits only for workers that have entered
//! the job, so nothing collapses when there are more runnable threads than cores.
#![expect(unsafe_code, reason = "a job borrows from its caller, persistent threads cannot")]

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{hint, io, ptr, thread};

/// Looks at the gate between which a worker does not give its core away.
const SPINS: usize = 200;
/// How long an idle worker looks at the gate before it sleeps: longer than what lies between two
/// products or two tokens, far shorter than a wait for another machine.
const AWAKE_MAX: Duration = Duration::from_micros(150);

/// In the gate: threads inside the job.
const INSIDE: u64 = 0xffff;
/// In the gate: the job may be entered.
const OPEN: u64 = 1 << 16;
/// In the gate: the workers shall end.
const STOP: u64 = 1 << 17;
/// In the gate: one step of the job's number.
const NEXT_JOB: u64 = 1 << 18;

/// Threads beside the caller's.
#[derive(Debug)]
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held by the caller whose job runs.
    caller: Mutex<()>,
}

type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// Tasks `0..n`, on the stack of its caller.
struct Job<'a> {
    n: usize,
    work: &'a Work<'a>,
}

/// A value on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

#[derive(Debug)]
struct Shared {
    /// [`INSIDE`], [`OPEN`], [`STOP`], and above them the number of the job.
    gate: Apart<AtomicU64>,
    /// Of every thread's run, the caller's first, the first task that nobody has taken.
    next: Vec<Apart<AtomicUsize>>,
    /// Points to the caller's [`Job`] while the gate is open or a thread inside.
    job: AtomicPtr<Job<'static>>,
    /// A task of the job has panicked.
    panicked: AtomicBool,
    sleeping: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

impl Workers {
    /// Starts `n` threads.
    pub(super) fn start(n: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(n + 1));
        let mut workers = Self { shared, threads: Vec::new(), caller: Mutex::new(()) };
        for index in 1..=n {
            let shared = Arc::clone(&workers.shared);
            let builder = thread::Builder::new().name(format!("atoll-compute-{index}"));
            workers.threads.push(builder.spawn(move || shared.serve(index))?);
        }
        Ok(workers)
    }

    /// Runs `work` on `0..n`, here and on the workers, and returns when all are done. While
    /// another thread's job runs, this one runs here alone.
    ///
    /// # Panics
    /// If a task does.
    pub(super) fn run(&self, n: usize, work: &Work<'_>) {
        let _caller: MutexGuard<'_, ()> = match self.caller.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..n).for_each(work),
        };
        let job = Job { n, work };
        let opened = Opened::new(&self.shared, &job);
        self.shared.take_tasks(&job, 0);
        drop(opened);
        if self.shared.panicked.swap(false, Relaxed) {
            resume_unwind(Box::new("a compute task panicked"));
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.gate.0.fetch_or(STOP, SeqCst);
        self.shared.ring();
        for thread in self.threads.drain(..) {
            // A worker catches the panics of its tasks; there is nothing more to learn here.
            let _ = thread.join();
        }
    }
}

/// A job that workers may enter. Dropping it, which a panic does too, closes the gate and waits
/// until the last thread is out.
struct Opened<'a>(&'a Shared);

impl<'a> Opened<'a> {
    fn new(shared: &'a Shared, job: &Job<'_>) -> Self {
        for (thread, next) in shared.next.iter().enumerate() {
            next.0.store(shared.run(thread, job.n).start, Relaxed);
        }
        shared.job.store(ptr::from_ref(job).cast_mut().cast(), Relaxed);
        let gate = shared.gate.0.load(Relaxed);
        debug_assert_eq!(gate & (INSIDE | OPEN), 0, "the last job is over");
        shared.gate.0.store(gate.wrapping_add(NEXT_JOB) | OPEN, SeqCst);
        if shared.sleeping.load(SeqCst) > 0 {
            shared.ring();
        }
        Self(shared)
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let mut gate = self.0.gate.0.fetch_and(!OPEN, Acquire) & !OPEN;
        let mut looks = 0;
        while gate & INSIDE != 0 {
            looks += 1;
            rest(looks);
            gate = self.0.gate.0.load(Acquire);
        }
    }
}

impl Shared {
    fn new(threads: usize) -> Self {
        Self {
            gate: Apart::default(),
            next: std::iter::repeat_with(Apart::default).take(threads).collect(),
            job: AtomicPtr::default(),
            panicked: AtomicBool::default(),
            sleeping: AtomicUsize::default(),
            bed: Mutex::default(),
            bell: Condvar::default(),
        }
    }

    /// Which of `n` tasks are `thread`'s.
    fn run(&self, thread: usize, n: usize) -> Range<usize> {
        let threads = self.next.len();
        // Not `n * thread`, which could be more than there are numbers.
        let first = |thread| n / threads * thread + n % threads * thread / threads;
        first(thread)..first(thread + 1)
    }

    /// Takes tasks until none is left, those of `thread` first.
    fn take_tasks(&self, job: &Job<'_>, thread: usize) {
        let threads = self.next.len();
        for thread in (thread..threads).chain(0..thread) {
            let end = self.run(thread, job.n).end;
            loop {
                let index = self.next[thread].0.fetch_add(1, Relaxed);
                if index >= end {
                    break;
                }
                (job.work)(index);
            }
        }
    }

    /// A worker's life.
    fn serve(&self, thread: usize) {
        let mut seen = 0;
        loop {
            let gate = self.wait_for_other_than(seen);
            if gate & STOP != 0 {
                return;
            }
            seen = gate / NEXT_JOB;
            self.enter(seen, thread);
        }
    }

    /// Helps with the job of that number, if it is still open.
    fn enter(&self, number: u64, thread: usize) {
        let mut gate = self.gate.0.load(Relaxed);
        loop {
            if gate & OPEN == 0 || gate / NEXT_JOB != number {
                return;
            }
            match self.gate.0.compare_exchange_weak(gate, gate + 1, Acquire, Relaxed) {
                Ok(_) => break,
                Err(other) => gate = other,
            }
        }
        let job = self.job.load(Relaxed);
        // SAFETY: the caller's `Opened` keeps the job alive: it stored the pointer before it
        // opened the gate of this number, and does not end while this thread counts as inside.
        let job: &Job<'_> = unsafe { &*job };
        if catch_unwind(AssertUnwindSafe(|| self.take_tasks(job, thread))).is_err() {
            self.panicked.store(true, Relaxed);
        }
        self.gate.0.fetch_sub(1, Release);
    }

    /// Waits until the gate shows a job other than number `seen`, or the end.
    fn wait_for_other_than(&self, seen: u64) -> u64 {
        let is_news = |gate: u64| gate / NEXT_JOB != seen || gate & STOP != 0;
        let (mut looks, mut since) = (0, None);
        loop {
            let gate = self.gate.0.load(Relaxed);
            if is_news(gate) {
                return gate;
            }
            looks += 1;
            rest(looks);
            if looks > SPINS && looks % 16 == 0 {
                let since = *since.get_or_insert_with(Instant::now);
                if since.elapsed() > AWAKE_MAX {
                    return self.sleep_until(is_news);
                }
            }
        }
    }

    fn sleep_until(&self, is_news: impl Fn(u64) -> bool) -> u64 {
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_add(1, SeqCst);
        let gate = loop {
            let gate = self.gate.0.load(SeqCst);
            if is_news(gate) {
                break gate;
            }
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleeping.fetch_sub(1, SeqCst);
        gate
    }

    /// Wakes whoever sleeps.
    fn ring(&self) {
        drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.notify_all();
    }
}

/// Waits a moment, the `looks`th in a row: first on the core, then giving it away.
fn rest(looks: usize) {
    if looks < SPINS { hint::spin_loop() } else { thread::yield_now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_begins_with_a_run_of_their_own() {
        let workers = Workers::start(1).expect("a thread starts");
        let caller = thread::current().id();
        let (order, deadline) = (Mutex::new(Vec::new()), Instant::now() + Duration::from_secs(30));
        let taken = |is_worker: bool| {
            order.lock().expect("no panic").iter().any(|&(by_worker, _)| by_worker == is_worker)
        };
        workers.run(40, &|index| {
            let is_worker = thread::current().id() != caller;
            order.lock().expect("no panic").push((is_worker, index));
            // Nobody goes on before the other has begun, so that nobody takes another's first.
            while !taken(!is_worker) && Instant::now() < deadline {
                thread::yield_now();
            }
        });
        let order = order.into_inner().expect("no panic");
        let of = |by_worker| -> Vec<usize> {
            order.iter().filter(|(by, _)| *by == by_worker).map(|(_, index)| *index).collect()
        };
        for (mine, first) in [(of(false), 0), (of(true), 20)] {
            assert_eq!(mine[0], first, "{order:?}");
            let run = mine.iter().take_while(|&&index| index / 20 == first / 20);
            assert!(run.is_sorted(), "{order:?}");
        }
        assert_eq!(order.len(), 40);
    }

    quickcheck::quickcheck! {
        fn runs_follow_one_another(threads: u8, n: usize) -> bool {
            let shared = Shared::new(usize::from(threads).max(1));
            let threads = shared.next.len();
            let runs: Vec<_> = (0..threads).map(|thread| shared.run(thread, n)).collect();
            runs[0].start == 0
                && runs[threads - 1].end == n
                && runs.windows(2).all(|pair| pair[0].end == pair[1].start)
                && runs.iter().all(|run| run.len().abs_diff(n / threads) <= 1)
        }
    }
}
