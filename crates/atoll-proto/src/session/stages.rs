//! All sessions that this node is a stage of.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};

use crate::assignment::Assignments;
use crate::effects::{Effects, JobIds};
use crate::ids::{Epoch, JobId, ModelId, NodeId, SessionId, Time};
use crate::io::{Computed, Output};
use crate::limits::{CAUSE_BYTES_MAX, Limits, TOMBSTONES_MAX, clip};
use crate::message::{Frame, Message, Open, Refused};
use crate::plan::LayerRange;
use crate::planted::Bug;
use crate::session::stage::{Refusal, Shape, StageSession};

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
        let (id, origin, epoch) = (open.session, open.origin, open.epoch);
        if self.closed.contains(&(origin, id)) {
            return;
        }
        let known = self.sessions.get(&id);
        if known.is_some_and(|known| known.open.origin != origin || known.open.epoch >= epoch) {
            return;
        }
        let taken = self.sessions.values().map(StageSession::kv_bytes);
        let free = taken.fold(room.0, u64::saturating_sub);
        let shape = match self.accept(limits, held, (from, &open), (free, room.1)) {
            Err(refusal) => return reject(fx, origin, (id, epoch), refusal),
            Ok(shape) => shape,
        };
        tracing::debug!(session = ?id, ?epoch, since = ?open.since, "session opened");
        let stays = known.is_some_and(|known| {
            let layers = open.stages[usize::from(open.hop)].layers;
            let same = known.open.since == open.since || fx.planted.has(Bug::StaleCacheKept);
            same && known.layers() == layers && known.open.model == open.model
        });
        if !stays {
            self.release(fx, id);
        }
        let session = match self.sessions.entry(id) {
            Entry::Occupied(known) => {
                let known = known.into_mut();
                known.reopen(fx, open);
                known
            }
            Entry::Vacant(vacant) => vacant.insert(StageSession::new(self.me, fx.now, open, shape)),
        };
        if session.next() != origin {
            let onward = Open { hop: session.open.hop + 1, ..session.open.clone() };
            fx.send(session.next(), Message::Open(onward));
        }
        session.opened(fx);
    }

    /// What follows from model and node for the session, if it may be opened.
    fn accept(
        &self,
        limits: &Limits,
        held: &Assignments,
        (from, open): (NodeId, &Open),
        (free, weight_bytes_per_s): (u64, u64),
    ) -> Result<Shape, Refusal> {
        let refuses = |cause| (Refused::Refuses, cause);
        let unready = |cause: &str| (Refused::Unready, cause.to_owned());
        let hop = usize::from(open.hop);
        let own = open.stages.get(hop);
        let layers = own.map_or(LayerRange { start: 0, end: 0 }, |own| own.layers);
        let assignment = held.ready(open.model, layers);
        let assignment = assignment.ok_or_else(|| unready("its part is not ready"))?;
        if open.origin != assignment.plan.owner
            || own.is_none_or(|own| (own.node, own.layers) != (self.me, assignment.layers))
        {
            return Err(unready("it holds another part of the model"));
        }
        let previous = hop.checked_sub(1).map_or(open.origin, |before| open.stages[before].node);
        if from != previous {
            return Err(refuses("the opening did not come along its ring".into()));
        }
        let (asked, context) = (open.positions_max, assignment.plan.context);
        if asked == 0 || asked > context {
            return Err(refuses(format!("{asked} positions, the plan has room for {context}")));
        }
        let known = self.sessions.get(&open.session);
        if self.sessions.len() - usize::from(known.is_some()) >= limits.stage_sessions_max {
            let max = limits.stage_sessions_max;
            return Err(refuses(format!("{max} sessions are held, which is the limit")));
        }
        let kv_bytes = u64::from(assignment.model.kv_bytes_per_position)
            .saturating_mul(open.positions_max.into())
            .saturating_mul(assignment.layers.len() as u64);
        let free = free.saturating_add(known.map_or(0, StageSession::kv_bytes));
        if kv_bytes > free {
            return Err(refuses(format!("the KV cache needs {kv_bytes} bytes, {free} are free")));
        }
        let row_us = assignment.model.row_us(assignment.layers, weight_bytes_per_s);
        Ok(Shape { row_values: assignment.model.row_values, kv_bytes, row_us })
    }

    /// A frame for this stage. One from another epoch or the wrong place in the ring is dropped.
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
            // Its opening was lost or refused; the origin, who hears of neither, will open again.
            return;
        };
        let current = epoch == session.open.epoch || fx.planted.has(Bug::NoEpochCheck);
        let along = from == session.previous() && frame.hop == session.open.hop;
        if !current || !(along || fx.planted.has(Bug::NoEpochCheck)) {
            tracing::debug!(?id, %from, ?epoch, "frame of another epoch or from beside the ring");
            return;
        }
        if frame.model != session.open.model {
            let cause = "the session is of another model".to_owned();
            return reject(fx, session.open.origin, (id, epoch), (Refused::Refuses, cause));
        }
        match session.frame(fx, limits, ids, frame) {
            Ok(None) => {}
            Ok(Some(job)) => {
                self.jobs.insert(job, id);
                if session.compute_until.is_none() {
                    session.compute_until = Some(fx.now.after_us(session.patience_us(limits, n)));
                }
            }
            Err(refusal) => self.refuse(fx, id, refusal),
        }
    }

    /// A job ended.
    pub(crate) fn computed(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        job: (JobId, u64),
        result: Result<Computed, String>,
    ) {
        let Some(id) = self.jobs.remove(&job.0) else { return };
        let n = self.sessions.len();
        let bytes_max = limits.boundary_bytes_max / n.max(1);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match session.computed(fx, job, result, bytes_max) {
            Ok(()) => {
                if session.jobs().next().is_some() {
                    session.compute_until = Some(fx.now.after_us(session.patience_us(limits, n)));
                }
            }
            Err(refusal) => self.refuse(fx, id, refusal),
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
        if session.next() != from || session.open.epoch != epoch {
            return;
        }
        if let Err(refusal) = session.nacked(fx, limits, len) {
            // The cache stays until the origin begins anew.
            reject(fx, session.open.origin, (id, epoch), refusal);
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
        if fx.planted.has(Bug::OriginLossIgnored) {
            return;
        }
        self.release_where(fx, |session| session.open.origin == peer);
    }

    /// The part of a model that was held is gone or replaced.
    pub(crate) fn drop_model(&mut self, fx: &mut Effects, model: ModelId) {
        self.release_where(fx, |session| session.open.model == model);
    }

    /// One of the parts of a model that were held is gone, this one.
    pub(crate) fn drop_part(&mut self, fx: &mut Effects, model: ModelId, layers: LayerRange) {
        let is_of = |session: &StageSession| session.layers() == layers;
        self.release_where(fx, |session| session.open.model == model && is_of(session));
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
                self.refuse(fx, id, (Refused::Broken, cause.clone()));
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
    fn refuse(&mut self, fx: &mut Effects, id: SessionId, refusal: Refusal) {
        if let Some(session) = self.sessions.get(&id) {
            tracing::warn!(?id, cause = refusal.1, "session refused");
            reject(fx, session.open.origin, (id, session.open.epoch), refusal);
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

fn reject(
    fx: &mut Effects,
    to: NodeId,
    (session, epoch): (SessionId, Epoch),
    (why, cause): Refusal,
) {
    let cause = clip(cause, CAUSE_BYTES_MAX);
    fx.send(to, Message::Reject { session, epoch, why, cause });
}
