//! The compute thread: owns the loaded parts of models and the sessions' KV caches, and runs the
//! core's jobs: a session's in order, those of several together where they may be. Its door is a
//! channel; what it has to say goes straight to the core, so that a token waits for no other
//! thread on its way out.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use atoll_model::Stage;
use atoll_proto::io::{Computed, Job, Part};
use atoll_proto::plan::LayerRange;
use atoll_proto::{Input, JobId, ModelId, SessionId};

use self::session::Session;
use self::waiting::Waiting;

mod job;
mod session;
mod waiting;

/// A part of a model, ready to compute.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What of the model it is, in the core's words.
    pub(crate) part: Part,
    /// The weights.
    pub(crate) stage: Stage,
}

/// What the compute thread holds of a model, for status.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) part: Part,
    pub(crate) weight_bytes: u64,
    pub(crate) kv_bytes: u64,
    pub(crate) sessions: u32,
}

/// Where the compute thread writes what it holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldBoard(Arc<Mutex<BTreeMap<ModelId, Held>>>);

impl HeldBoard {
    /// What the thread holds now.
    pub(crate) fn read(&self) -> BTreeMap<ModelId, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, held: BTreeMap<ModelId, Held>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

/// A part for a model's jobs from now on, and what the core is told then.
struct Install {
    model: ModelId,
    loaded: Loaded,
    /// Other parts of the model stay.
    is_beside: bool,
    then: Input,
}

/// What the thread is asked.
enum Work {
    Install(Box<Install>),
    Keep(ModelId, Option<LayerRange>),
    Unload(ModelId),
    Job(Box<Job>),
    Release(SessionId),
    Stop,
}

/// Reaches the compute thread. Dropping it stops the thread after the job at hand.
#[derive(Debug)]
pub(crate) struct Engine {
    // Bounded by the core: it lets no more jobs run than its sessions may have frames under way.
    work: Sender<Work>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread. `report` takes each job's `Input::Computed`.
    pub(crate) fn start(
        board: HeldBoard,
        report: impl Fn(Input) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (work, inbox) = channel();
        let worker = Worker {
            inbox,
            waiting: Waiting::default(),
            models: BTreeMap::new(),
            sessions: BTreeMap::new(),
            board,
            report: Box::new(report),
        };
        let thread = std::thread::Builder::new()
            .name("atoll-engine".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self { work, thread: Some(thread) })
    }

    /// Replaces what was loaded of a model, or what of it had the same layers, then reports `then`.
    pub(crate) fn install(&self, model: ModelId, loaded: Loaded, is_beside: bool, then: Input) {
        self.submit(Work::Install(Box::new(Install { model, loaded, is_beside, then })));
    }

    /// Frees what is loaded of a model but the part with these layers, and the caches of sessions
    /// at other parts.
    pub(crate) fn keep(&self, model: ModelId, layers: Option<LayerRange>) {
        self.submit(Work::Keep(model, layers));
    }

    /// Frees a model's part and its sessions' caches.
    pub(crate) fn unload(&self, model: ModelId) {
        self.submit(Work::Unload(model));
    }

    /// Runs a job after those of its session before it.
    pub(crate) fn compute(&self, job: Job) {
        self.submit(Work::Job(Box::new(job)));
    }

    /// Frees a session's caches and drops its waiting jobs.
    pub(crate) fn release(&self, session: SessionId) {
        self.submit(Work::Release(session));
    }

    fn submit(&self, work: Work) {
        // Fails only when the thread has ended, and then the node is going, too.
        let _ = self.work.send(work);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.submit(Work::Stop);
        let Some(thread) = self.thread.take() else { return };
        // The last owner may be the thread itself, by way of a report.
        if thread.thread().id() != std::thread::current().id() {
            // Jobs catch their own panics; there is nothing more to learn here.
            let _ = thread.join();
        }
    }
}

struct Worker {
    inbox: Receiver<Work>,
    waiting: Waiting,
    /// Parts of a model, the one that was loaded first at the front.
    models: BTreeMap<ModelId, Vec<Loaded>>,
    sessions: BTreeMap<SessionId, Session>,
    board: HeldBoard,
    report: Box<dyn Fn(Input) + Send>,
}

impl Worker {
    fn run(mut self) {
        loop {
            if self.waiting.is_empty() {
                self.post();
                let Ok(work) = self.inbox.recv() else { return };
                if !self.take_in(work) {
                    return;
                }
            }
            // Whatever else has come is looked at first, so that a release spares waiting jobs.
            while let Ok(work) = self.inbox.try_recv() {
                if !self.take_in(work) {
                    return;
                }
            }
            let jobs = self.waiting.next();
            if !jobs.is_empty() {
                self.run_together(jobs);
            }
        }
    }

    /// Whether the thread goes on.
    fn take_in(&mut self, work: Work) -> bool {
        match work {
            Work::Install(install) => {
                let Install { model, loaded, is_beside, then } = *install;
                let layers = loaded.part.layers;
                self.forget(model, |part| is_beside && part != layers);
                self.models.entry(model).or_default().push(loaded);
                (self.report)(then);
            }
            Work::Keep(model, layers) => self.forget(model, |part| part == layers),
            Work::Unload(model) => self.forget(model, |_| false),
            Work::Job(job) => self.waiting.push(*job),
            Work::Release(session) => {
                self.waiting.drop_session(session);
                self.sessions.remove(&session);
            }
            Work::Stop => return false,
        }
        true
    }

    /// Writes on the board what is held. Done when nothing waits, so it delays nobody.
    fn post(&self) {
        let held = |(model, parts): (&ModelId, &Vec<Loaded>)| {
            let weight_bytes = parts.iter().map(|loaded| loaded.stage.weight_bytes() as u64).sum();
            let part = parts.first()?.part;
            let mut held = Held { part, weight_bytes, kv_bytes: 0, sessions: 0 };
            for session in self.sessions.values().filter(|session| session.model == *model) {
                held.kv_bytes += session.kv.bytes() as u64;
                held.sessions += 1;
            }
            Some((*model, held))
        };
        self.board.write(self.models.iter().filter_map(held).collect());
    }

    /// Drops those of a model's parts whose layers are not to stay, with the caches of sessions at
    /// them, and gives their memory back.
    fn forget(&mut self, model: ModelId, stays: impl Fn(Option<LayerRange>) -> bool) {
        self.sessions.retain(|_, session| session.model != model || stays(session.layers));
        let Some(parts) = self.models.get_mut(&model) else { return };
        let before = parts.len();
        parts.retain(|loaded| stays(loaded.part.layers));
        let is_less = parts.len() < before;
        if parts.is_empty() {
            self.models.remove(&model);
        }
        if is_less {
            atoll_model::heap::give_back_now();
        }
    }

    /// Runs jobs that [`Waiting::next`] put together.
    fn run_together(&mut self, jobs: Vec<Job>) {
        let begin = Instant::now();
        let (mut ready, mut sessions) = (Vec::new(), Vec::new());
        for job in jobs {
            match self.take_session(&job) {
                Ok(session) => {
                    ready.push(job);
                    sessions.push(session);
                }
                Err(why) => self.tell(job.id, Err(why), begin),
            }
        }
        let Some(first) = ready.first() else { return };
        let loaded = part_of(&self.models, first).expect("a session was made for it");
        let outcome = catch_unwind(AssertUnwindSafe(|| job::run(loaded, &ready, &mut sessions)));
        match outcome {
            Ok(results) => {
                let ids = ready.iter().map(|job| job.session);
                self.sessions.extend(ids.zip(sessions));
                match results {
                    Ok(results) => {
                        for (job, result) in ready.iter().zip(results) {
                            self.tell(job.id, result, begin);
                        }
                    }
                    // One is at fault; alone each finds out whether it is the one.
                    Err(_) if ready.len() > 1 => {
                        ready.into_iter().for_each(|job| self.run_together(vec![job]));
                    }
                    Err(why) => self.tell(ready[0].id, Err(why), begin),
                }
            }
            // Their caches may be half written and are dropped.
            Err(panic) => {
                let why = format!("computing panicked: {}", panic_words(panic.as_ref()));
                ready.iter().for_each(|job| self.tell(job.id, Err(why.clone()), begin));
            }
        }
    }

    fn tell(&self, job: JobId, result: Result<Computed, String>, begin: Instant) {
        let compute_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        (self.report)(Input::Computed { job, result, compute_us });
    }

    /// Takes out the session of a job, or makes it if the job begins a new epoch.
    fn take_session(&mut self, job: &Job) -> Result<Session, String> {
        let loaded = part_of(&self.models, job)
            .ok_or_else(|| format!("model {} is not loaded here", job.model))?;
        match self.sessions.remove(&job.session) {
            Some(session) if session.epoch > job.epoch => {
                self.sessions.insert(job.session, session);
                Err(format!("epoch {} is over", job.epoch.0))
            }
            Some(session) if session.epoch == job.epoch && session.model == job.model => {
                Ok(session)
            }
            Some(_) | None => Ok(Session::new(job, loaded)),
        }
    }
}

/// The part that a job is for: the one with its layers; a head alone is the same in all. Else any,
/// which says what is wrong.
fn part_of<'a>(models: &'a BTreeMap<ModelId, Vec<Loaded>>, job: &Job) -> Option<&'a Loaded> {
    let parts = models.get(&job.model)?;
    let same = parts.iter().find(|loaded| loaded.part.layers == job.part.layers);
    same.or_else(|| parts.first())
}

fn panic_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no words".to_owned())
}

#[cfg(test)]
mod tests;
