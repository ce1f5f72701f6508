//! The jobs that wait, and which of them run next, together.
//!
//! A session's jobs keep their order. Steps (one row each) of the same part of the same model run
//! together, so that the weights are read once for all. Where steps and chunks of prompts wait,
//! they take turns: neither starves the other.

use std::collections::{BTreeSet, VecDeque};

use atoll_proto::SessionId;
use atoll_proto::io::{Job, JobInput};

/// Steps that run together at most: above it the products are bound by arithmetic, and more rows
/// would only make everyone wait.
const TOGETHER_MAX: usize = 32;

/// Jobs in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    jobs: VecDeque<Job>,
    /// Whether what ran last were steps.
    steps_ran: bool,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    /// Drops a session's jobs.
    pub(super) fn drop_session(&mut self, session: SessionId) {
        self.jobs.retain(|job| job.session != session);
    }

    /// Takes out what runs next: one chunk, or steps of different sessions; none if nothing waits.
    pub(super) fn next(&mut self) -> Vec<Job> {
        let mut seen = BTreeSet::new();
        let first_of_session = |job: &Job| seen.insert(job.session);
        let firsts: Vec<bool> = self.jobs.iter().map(first_of_session).collect();
        let find = |steps: bool| {
            let mut jobs = self.jobs.iter().zip(&firsts);
            jobs.position(|(job, &is_first)| is_first && is_step(job) == steps)
        };
        let leader = match (find(true), find(false)) {
            (Some(step), Some(chunk)) => Some(if self.steps_ran { chunk } else { step }),
            (step, chunk) => step.or(chunk),
        };
        let Some(leader) = leader else { return Vec::new() };
        self.steps_ran = is_step(&self.jobs[leader]);
        let (model, part) = (self.jobs[leader].model, self.jobs[leader].part);
        let mut n_taken = 0;
        let mut is_taken = |at: usize, job: &Job| {
            let joins = self.steps_ran && is_step(job) && (job.model, job.part) == (model, part);
            let is_taken =
                at == leader || (joins && firsts[at] && at > leader && n_taken < TOGETHER_MAX);
            n_taken += usize::from(is_taken);
            is_taken
        };
        let mut taken = Vec::new();
        for (at, job) in std::mem::take(&mut self.jobs).into_iter().enumerate() {
            let to = is_taken(at, &job);
            if to { taken.push(job) } else { self.jobs.push_back(job) }
        }
        taken
    }
}

/// Whether a job is of one row.
fn is_step(job: &Job) -> bool {
    match &job.input {
        JobInput::Tokens(tokens) => tokens.len() == 1,
        JobInput::Activation(activation) => activation.rows == 1,
    }
}

#[cfg(test)]
mod tests {
    use atoll_proto::io::{Part, SampleWork};
    use atoll_proto::{Epoch, JobId, ModelId};

    use super::*;

    /// Job `id` of session `session`, of `rows` rows.
    fn job(id: u64, session: u64, rows: usize) -> Job {
        Job {
            id: JobId(id),
            session: session_id(session),
            epoch: Epoch(1),
            model: ModelId([1; 32]),
            from_pos: 0,
            positions_max: 8,
            input: JobInput::Tokens(vec![1; rows]),
            part: Part { layers: None, embed: true, head: true },
            sample: None::<SampleWork>,
            last_row_only: false,
        }
    }

    fn session_id(n: u64) -> SessionId {
        SessionId(n.into())
    }

    /// Puts in `jobs`, (id, session, rows), and takes out everything.
    fn check(jobs: &[(u64, u64, usize)], expected: &[&[u64]]) {
        let mut waiting = Waiting::default();
        jobs.iter().for_each(|&(id, session, rows)| waiting.push(job(id, session, rows)));
        let mut taken: Vec<Vec<u64>> = Vec::new();
        while !waiting.is_empty() {
            taken.push(waiting.next().iter().map(|job| job.id.0).collect());
        }
        assert_eq!(taken, expected);
        assert!(waiting.next().is_empty());
    }

    #[test]
    fn steps_of_different_sessions_run_together() {
        check(&[(1, 1, 1), (2, 2, 1), (3, 3, 1)], &[&[1, 2, 3]]);
        check(&[(1, 1, 5), (2, 2, 5)], &[&[1], &[2]]);
        // A session's second job waits for its first.
        check(&[(1, 1, 1), (2, 1, 1), (3, 2, 1)], &[&[1, 3], &[2]]);
        check(&[(1, 1, 5), (2, 1, 1), (3, 2, 1)], &[&[3], &[1], &[2]]);
    }

    #[test]
    fn chunks_and_steps_take_turns() {
        let chunks = [(1, 1, 9), (2, 1, 9), (3, 1, 9)];
        let jobs = [chunks.as_slice(), &[(4, 2, 1), (5, 3, 1), (6, 2, 1)]].concat();
        check(&jobs, &[&[4, 5], &[1], &[6], &[2], &[3]]);
    }

    #[test]
    fn other_models_and_parts_run_on_their_own() {
        let mut waiting = Waiting::default();
        waiting.push(job(1, 1, 1));
        waiting.push(Job { model: ModelId([2; 32]), ..job(2, 2, 1) });
        waiting.push(Job { part: Part { head: false, ..job(0, 0, 1).part }, ..job(3, 3, 1) });
        waiting.push(job(4, 4, 1));
        let taken = |waiting: &mut Waiting| -> Vec<u64> {
            waiting.next().iter().map(|job| job.id.0).collect()
        };
        assert_eq!(taken(&mut waiting), [1, 4]);
        assert_eq!(taken(&mut waiting), [2]);
        assert_eq!(taken(&mut waiting), [3]);
    }

    #[test]
    fn no_more_run_together_than_may() {
        let mut waiting = Waiting::default();
        (0..40).for_each(|n| waiting.push(job(n, n, 1)));
        assert_eq!(waiting.next().len(), TOGETHER_MAX);
        waiting.drop_session(session_id(35));
        assert_eq!(waiting.next().len(), 40 - TOGETHER_MAX - 1);
    }
}
