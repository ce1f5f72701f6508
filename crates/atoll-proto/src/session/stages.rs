//! All sessions that this node is a stage of.

use std::collections::{BTreeMap, VecDeque};

use crate::assignment::Assignments;
use crate::effects::{Effects, JobIds};
use crate::ids::{Epoch, JobId, ModelId, NodeId, SessionId, Time};
use crate::io::{Computed, Output};
use crate::limits::{CAUSE_BYTES_MAX, Limits, TOMBSTONES_MAX, clip};
use crate::message::{Frame, Message, Open};
use crate::planted::Bug;
use crate::session::stage::{Refusal, StageSession};

/// The sessions held for other origins.
#[derive(Debug)]
pub(crate) struct Stages {
    me: NodeId,
    sessions: BTreeMap<SessionId, StageSession>,
    jobs: BTreeMap<JobId, SessionId>,
    /// Sessions closed lately, by their origin: their openings may still be under way.
    closed: VecDeque<(NodeId, SessionId)>,
}

impl Stages {
    pub(crate) const fn new(me: NodeId) -> Self {
        Self { me, sessions: BTreeMap::new(), jobs: BTreeMap::new(), closed: VecDeque::new() }
    }

    pub(crate) const fn sessions(&self) -> &BTreeMap<SessionId, StageSession> {
        &self.sessions
    }

    /// A session is opened. `room`: what its KV cache and those of the others may take, bytes, and
    /// this node's speed, weight bytes per second.
    pub(crate) fn open(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        held: &Assignments,
        (from, open): (NodeId, Open),
        room: (u64, u64),
    ) {
        let (session, origin, epoch) = (open.session, open.origin, open.epoch);
        if self.closed.contains(&(origin, session)) {
            return;
        }
        if let Some(known) = self.sessions.get(&session)
            && (known.open.origin != origin || known.open.epoch >= epoch)
        {
            return;
        }
        let taken = self.sessions.values().map(|session| session.kv_bytes);
        let free = taken.fold(room.0, u64::saturating_sub);
        match self.accept(limits, held, (from, &open), (free, room.1)) {
            Err(cause) => reject(fx, origin, (session, epoch), cause),
            Ok(shape) => {
                tracing::debug!(?session, ?epoch, "session opened");
                if self.release(fx, session) {
                    tracing::debug!(?session, "an older epoch ends");
                }
                let new = StageSession::new(self.me, fx.now, open, shape);
                if new.next() != origin {
                    let onward = Open { hop: new.open.hop + 1, ..new.open.clone() };
                    fx.send(new.next(), Message::Open(onward));
                }
                self.sessions.insert(session, new);
            }
        }
    }

    /// Row width, KV bytes and predicted µs per row of the session, if it may be opened.
    fn accept(
        &self,
        limits: &Limits,
        held: &Assignments,
        (from, open): (NodeId, &Open),
        (free, weight_bytes_per_s): (u64, u64),
    ) -> Result<(u32, u64, u64), Refusal> {
        let assignment = held.ready(open.model).ok_or("the model is not ready here")?;
        let plan = &assignment.plan;
        let hop = usize::from(open.hop);
        if open.origin != plan.owner || open.stages != plan.stages {
            return Err("the session's ring is not the plan in force".into());
        }
        let previous = hop.checked_sub(1).map(|before| plan.stages[before].node);
        if plan.hop_of(self.me) != Some(hop) || from != previous.unwrap_or(open.origin) {
            return Err("the opening did not come along its ring".into());
        }
        if open.positions_max == 0 || open.positions_max > plan.context {
            let (asked, context) = (open.positions_max, plan.context);
            return Err(format!("{asked} positions, the plan has room for {context}"));
        }
        let others = self.sessions.len() - usize::from(self.sessions.contains_key(&open.session));
        if others >= limits.stage_sessions_max {
            let max = limits.stage_sessions_max;
            return Err(format!("{max} sessions are held, which is the limit"));
        }
        let kv_bytes = u64::from(assignment.model.kv_bytes_per_position)
            .saturating_mul(open.positions_max.into())
            .saturating_mul(assignment.layers.len() as u64);
        let own = self.sessions.get(&open.session).map_or(0, |session| session.kv_bytes);
        let free = free.saturating_add(own);
        if kv_bytes > free {
            return Err(format!("the KV cache needs {kv_bytes} bytes, {free} are free"));
        }
        let row_us = assignment.model.row_us(assignment.layers, weight_bytes_per_s);
        Ok((assignment.model.row_values, kv_bytes, row_us))
    }

    /// A frame for this stage. One from the wrong place in the ring is dropped.
    pub(crate) fn frame(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        ids: &mut JobIds,
        from: NodeId,
        frame: Frame,
    ) {
        let (id, epoch) = (frame.session, frame.epoch);
        let n = self.sessions.len();
        let Some(session) = self.sessions.get_mut(&id) else {
            if !self.closed.iter().any(|(_, closed)| *closed == id) {
                reject(fx, from, (id, epoch), "the session is not open here".into());
            }
            return;
        };
        if from != session.previous() || frame.hop != session.open.hop {
            tracing::debug!(?id, %from, "frame from beside the ring");
            return;
        }
        if frame.model != session.open.model {
            reject(fx, from, (id, epoch), "the session is of another model".into());
            return;
        }
        if epoch < session.open.epoch && !fx.planted.has(Bug::NoEpochCheck) {
            tracing::debug!(?id, ?epoch, "frame of an older epoch");
            return;
        }
        if epoch > session.open.epoch {
            for job in session.adopt(fx.now, epoch) {
                self.jobs.remove(&job);
            }
        }
        match session.frame(fx, limits, ids, frame) {
            Ok(None) => {}
            Ok(Some(job)) => {
                self.jobs.insert(job, id);
                if session.compute_until.is_none() {
                    session.compute_until = Some(fx.now.after_us(session.patience_us(limits, n)));
                }
            }
            Err(cause) => self.refuse(fx, id, cause),
        }
    }

    /// A job ended. `false`: it was none of ours.
    pub(crate) fn computed(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        job: (JobId, u64),
        result: Result<Computed, String>,
    ) {
        let Some(id) = self.jobs.remove(&job.0) else { return };
        let n = self.sessions.len();
        let log_bytes_max = limits.output_log_bytes_max / n.max(1);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match session.computed(fx, job, result, log_bytes_max) {
            Ok(()) => {
                if session.jobs().next().is_some() {
                    session.compute_until = Some(fx.now.after_us(session.patience_us(limits, n)));
                }
            }
            Err(cause) => self.refuse(fx, id, cause),
        }
    }

    pub(crate) fn nack(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        from: NodeId,
        (id, epoch, len): (SessionId, Epoch, u32),
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.next() == from
            && session.open.epoch == epoch
            && let Err(cause) = session.nacked(fx, limits, len)
        {
            self.refuse(fx, id, cause);
        }
    }

    /// The next node refuses the session: its origin must know.
    pub(crate) fn rejected(
        &self,
        fx: &mut Effects,
        from: NodeId,
        (id, epoch): (SessionId, Epoch),
        cause: &str,
    ) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.next() == from && session.open.epoch == epoch && from != session.open.origin {
            reject(fx, session.open.origin, (id, epoch), format!("node {from}: {cause}"));
        }
    }

    pub(crate) fn close(&mut self, fx: &mut Effects, from: NodeId, id: SessionId) {
        if self.sessions.get(&id).is_none_or(|session| session.open.origin == from) {
            self.release(fx, id);
            if self.closed.len() >= TOMBSTONES_MAX {
                self.closed.pop_front();
            }
            self.closed.push_back((from, id));
        }
    }

    /// A peer is gone: nobody will close the sessions that it opened.
    pub(crate) fn lost(&mut self, fx: &mut Effects, peer: NodeId) {
        self.release_where(fx, |session| session.open.origin == peer);
    }

    /// A peer is here (again).
    pub(crate) fn joined(&mut self, fx: &mut Effects, peer: NodeId) {
        for session in self.sessions.values_mut().filter(|session| session.next() == peer) {
            session.next_joined(fx);
        }
    }

    /// The part of a model that was held is gone or replaced.
    pub(crate) fn drop_model(&mut self, fx: &mut Effects, model: ModelId) {
        self.release_where(fx, |session| session.open.model == model);
    }

    pub(crate) fn drop_all(&mut self, fx: &mut Effects) {
        self.release_where(fx, |_| true);
    }

    pub(crate) fn tick(&mut self, fx: &mut Effects, limits: &Limits) {
        let now = fx.now;
        let hung = |session: &StageSession| session.compute_until.is_some_and(|at| at <= now);
        let idle = |session: &StageSession| {
            session.last_active.after_us(limits.session_idle_us) <= now && !hung(session)
        };
        for (cause, hit) in [
            (format!("no result of computing within {} µs", limits.hop_timeout_us), true),
            (format!("nothing heard for {} µs", limits.session_idle_us), false),
        ] {
            let due = self.sessions.iter().filter(
                |(_, session)| {
                    if hit { hung(session) } else { idle(session) }
                },
            );
            for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.refuse(fx, id, cause.clone());
            }
        }
    }

    pub(crate) fn deadline(&self, limits: &Limits) -> Option<Time> {
        let times = self.sessions.values().map(|session| {
            let idle = session.last_active.after_us(limits.session_idle_us);
            session.compute_until.map_or(idle, |until| until.min(idle))
        });
        times.min()
    }

    /// Ends a session from this side, telling its origin why.
    fn refuse(&mut self, fx: &mut Effects, id: SessionId, cause: Refusal) {
        if let Some(session) = self.sessions.get(&id) {
            tracing::warn!(?id, cause, "session refused");
            reject(fx, session.open.origin, (id, session.open.epoch), cause);
            self.release(fx, id);
        }
    }

    fn release_where(&mut self, fx: &mut Effects, hit: impl Fn(&StageSession) -> bool) {
        let due = self.sessions.iter().filter(|(_, session)| hit(session));
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.release(fx, id);
        }
    }

    fn release(&mut self, fx: &mut Effects, id: SessionId) -> bool {
        let Some(session) = self.sessions.remove(&id) else { return false };
        for job in session.jobs() {
            self.jobs.remove(&job);
        }
        fx.push(Output::Release { session: id });
        true
    }
}

fn reject(fx: &mut Effects, to: NodeId, (session, epoch): (SessionId, Epoch), cause: Refusal) {
    let cause = clip(cause, CAUSE_BYTES_MAX);
    fx.send(to, Message::Reject { session, epoch, cause });
}
