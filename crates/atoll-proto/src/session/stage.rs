//! One session at one stage: the rule of what a frame does to a KV cache.
//!
//! Another epoch: dropped. First position equal to the length: append, compute, pass on. Rows that
//! are there already: left out; if none is new and all is computed, the last output goes once more.
//! Beyond the length: nack. An opening of a newer epoch with the same start keeps the cache, one
//! with a newer start empties it. So each position is appended exactly once per start, whatever
//! repeats, overtakes or gets lost on the way.

use std::collections::VecDeque;

use crate::effects::{Effects, JobIds};
use crate::ids::{JobId, NodeId, Time};
use crate::io::{Activation, Computed, HopTime, Job, JobInput, Output, Part};
use crate::limits::{HOPS_MAX, Limits};
use crate::message::{Frame, Message, Open, Refused};
use crate::plan::LayerRange;
use crate::planted::Bug;
use crate::session::boundary::{Boundary, answered_lately, resend, without_first};

/// A prediction may be so many times too good before a node counts as hung: slow is not dead.
pub(crate) const SLOWER_THAN_PREDICTED: u64 = 4;

/// A session held for its origin.
#[derive(Debug)]
pub(crate) struct StageSession {
    me: NodeId,
    pub(crate) open: Open,
    /// Positions in the KV cache, those being computed included.
    pub(crate) len: u32,
    shape: Shape,
    jobs: VecDeque<Running>,
    /// What went on to the next stage.
    boundary: Boundary,
    /// What the last stage told the origin last.
    answer: Option<Answer>,
    /// What the next stage has, as it said in this epoch: it wants nothing before it.
    next_len: u32,
    /// One past the newest position that the origin wants a token after.
    wanted: u32,
    /// The cache is being rebuilt from the boundary before it.
    catching_up: bool,
    pub(crate) last_active: Time,
    /// The oldest job's limit.
    pub(crate) compute_until: Option<Time>,
    nacked: Option<Time>,
    /// The last nack heard, and when it was answered.
    answered: Option<(u32, Time)>,
}

/// What follows from the session's model and this node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Values of an activation row.
    pub(crate) row_values: u32,
    /// Bytes that the KV cache may grow to.
    pub(crate) kv_bytes: u64,
    /// Predicted time of one position in this stage, µs.
    pub(crate) row_us: u64,
}

/// A job being computed.
#[derive(Debug)]
struct Running {
    id: JobId,
    from_pos: u32,
    rows: u32,
    want_token: bool,
    hops: Vec<HopTime>,
    received: Time,
}

/// What the last stage told the origin.
#[derive(Clone, Debug)]
struct Answer {
    /// Positions in every stage's cache.
    end: u32,
    hops: Vec<HopTime>,
    /// The last position's row, if a token is wanted after it.
    row: Option<Activation>,
}

/// Why a session cannot go on at this stage.
pub(crate) type Refusal = (Refused, String);

impl StageSession {
    pub(crate) fn new(me: NodeId, now: Time, open: Open, shape: Shape) -> Self {
        Self {
            me,
            catching_up: open.epoch > open.since,
            open,
            len: 0,
            shape,
            jobs: VecDeque::new(),
            boundary: Boundary::new(),
            answer: None,
            next_len: 0,
            wanted: 0,
            last_active: now,
            compute_until: None,
            nacked: None,
            answered: None,
        }
    }

    /// Takes up a newer epoch whose ring may have other nodes; the cache stays.
    pub(crate) fn reopen(&mut self, fx: &mut Effects, open: Open) {
        self.open = open;
        self.next_len = 0;
        (self.nacked, self.answered) = (None, None);
        self.last_active = fx.now;
        if fx.planted.has(Bug::ReopenForgetsLength) {
            self.len = 0;
        }
    }

    /// What follows an opening: the origin hears of it, the stage before hears what is here, and
    /// the origin what it may have missed.
    pub(crate) fn opened(&self, fx: &mut Effects) {
        let Open { session, epoch, hop, .. } = self.open;
        fx.send(self.open.origin, Message::Opened { session, epoch, hop });
        if self.open.epoch > self.open.since {
            self.tell_len(fx);
        }
        self.answer_again(fx);
    }

    pub(crate) const fn kv_bytes(&self) -> u64 {
        self.shape.kv_bytes
    }

    /// Ids of the jobs that run.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.iter().map(|job| job.id)
    }

    /// The node before this one in the ring.
    pub(crate) fn previous(&self) -> NodeId {
        match usize::from(self.open.hop).checked_sub(1) {
            Some(hop) => self.open.stages[hop].node,
            None => self.open.origin,
        }
    }

    /// The node after this one in the ring.
    pub(crate) fn next(&self) -> NodeId {
        let next = usize::from(self.open.hop) + 1;
        self.open.stages.get(next).map_or(self.open.origin, |stage| stage.node)
    }

    const fn is_last(&self) -> bool {
        self.open.hop as usize + 1 == self.open.stages.len()
    }

    pub(crate) fn layers(&self) -> LayerRange {
        self.open.stages[usize::from(self.open.hop)].layers
    }

    /// A frame of the session's epoch arrived. `Ok(Some(job))`: a job was started.
    pub(crate) fn frame(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        ids: &mut JobIds,
        mut frame: Frame,
    ) -> Result<Option<JobId>, Refusal> {
        self.last_active = fx.now;
        let end = self.check(limits, &frame)?;
        if frame.from_pos > self.len && !fx.planted.has(Bug::NoNack) {
            self.nack(fx, limits);
            return Ok(None);
        }
        let repeated = end <= self.len && !fx.planted.has(Bug::NoDedupe);
        if repeated {
            if end == self.len && self.jobs.is_empty() {
                self.output_again(fx, frame.from_pos);
            }
            return Ok(None);
        }
        if self.jobs.len() >= limits.stage_jobs_max {
            // Whoever sends so far ahead will be asked again.
            return Ok(None);
        }
        if frame.from_pos < self.len && !fx.planted.has(Bug::NoDedupe) {
            let skip = self.len - frame.from_pos;
            if !fx.planted.has(Bug::OverlapKept) {
                frame.activation = without_first(frame.activation, skip);
                frame.from_pos = self.len;
            }
        }
        self.len = if fx.planted.has(Bug::LenOffByOne) { end + 1 } else { end };
        self.nacked = None;
        if frame.want_token {
            self.wanted = end;
            self.catching_up = false;
        }
        Ok(Some(self.compute(fx, ids, frame)))
    }

    /// One past the frame's last position, if the frame fits the session.
    fn check(&self, limits: &Limits, frame: &Frame) -> Result<u32, Refusal> {
        let Activation { dtype, rows, cols, ref data } = frame.activation;
        let refuses = |cause| (Refused::Refuses, cause);
        let max = self.open.positions_max;
        let end = frame.from_pos.checked_add(rows).filter(|&end| end <= max);
        let end = end.filter(|_| rows > 0 && rows <= limits.chunk_rows_max).ok_or_else(|| {
            refuses(format!("{rows} rows from {} do not fit {max} positions", frame.from_pos))
        })?;
        let values = self.shape.row_values;
        if cols != values || data.len() != rows as usize * cols as usize * dtype.bytes() {
            return Err(refuses(format!("rows of {cols} values where the model has {values}")));
        }
        Ok(end)
    }

    /// How long the oldest job may take while `sessions` share the node, µs.
    pub(crate) fn patience_us(&self, limits: &Limits, sessions: usize) -> u64 {
        let rows = self.jobs.front().map_or(0, |job| u64::from(job.rows));
        let predicted_us = rows.saturating_mul(self.shape.row_us).saturating_mul(sessions as u64);
        limits.hop_timeout_us.saturating_add(predicted_us.saturating_mul(SLOWER_THAN_PREDICTED))
    }

    fn compute(&mut self, fx: &mut Effects, ids: &mut JobIds, frame: Frame) -> JobId {
        let id = ids.fresh();
        self.jobs.push_back(Running {
            id,
            from_pos: frame.from_pos,
            rows: frame.activation.rows,
            want_token: frame.want_token,
            hops: frame.hops,
            received: fx.now,
        });
        fx.push(Output::Compute(Job {
            id,
            session: self.open.session,
            epoch: self.open.since,
            model: self.open.model,
            from_pos: frame.from_pos,
            positions_max: self.open.positions_max,
            input: JobInput::Activation(frame.activation),
            part: Part { layers: Some(self.layers()), embed: false, head: false },
            sample: None,
            last_row_only: self.is_last(),
        }));
        id
    }

    /// A job of this session ended: passes its output on.
    pub(crate) fn computed(
        &mut self,
        fx: &mut Effects,
        (job, compute_us): (JobId, u64),
        result: Result<Computed, String>,
        boundary_bytes_max: usize,
    ) -> Result<(), Refusal> {
        let broken = |cause| (Refused::Broken, cause);
        self.last_active = fx.now;
        let Some(at) = self.jobs.iter().position(|running| running.id == job) else {
            return Ok(());
        };
        let mut running = self.jobs.remove(at).expect("the position was just found");
        self.compute_until = None;
        let expected = if self.is_last() { 1 } else { running.rows };
        let rows = match result.map_err(broken)? {
            Computed::Activation(rows) if rows.rows == expected => rows,
            Computed::Activation(_) | Computed::Token { .. } | Computed::Nothing => {
                return Err(broken(format!("computing did not give {expected} rows")));
            }
        };
        if running.hops.len() < HOPS_MAX {
            let us = |us: u64| u32::try_from(us).unwrap_or(u32::MAX);
            let held_us = us(fx.now.since_us(running.received));
            running.hops.push(HopTime { node: self.me, held_us, compute_us: us(compute_us) });
        }
        if self.is_last() {
            let end = running.from_pos + running.rows;
            let row = running.want_token.then_some(rows);
            self.answer = Some(Answer { end, hops: running.hops, row });
            self.answer_again(fx);
        } else {
            self.boundary.append(running.from_pos, &rows, boundary_bytes_max);
            let skip = self.next_len.saturating_sub(running.from_pos);
            if skip < running.rows {
                let frame = self.to_next(running, skip, without_first(rows, skip));
                fx.send(self.next(), frame);
            }
        }
        let more = self.catching_up && self.jobs.is_empty();
        if more {
            self.tell_len(fx);
        }
        Ok(())
    }

    fn to_origin(&self, Answer { end, hops, row }: Answer) -> Message {
        let Open { session, epoch, model, .. } = self.open;
        match row {
            None => Message::Passed { session, epoch, to_pos: end, hops },
            Some(activation) => Message::Frame(Frame {
                session,
                epoch,
                model,
                hop: self.open.hop + 1,
                from_pos: end - 1,
                want_token: true,
                hops,
                activation,
            }),
        }
    }

    fn to_next(&self, running: Running, skip: u32, activation: Activation) -> Message {
        Message::Frame(Frame {
            session: self.open.session,
            epoch: self.open.epoch,
            model: self.open.model,
            hop: self.open.hop + 1,
            from_pos: running.from_pos + skip,
            want_token: running.want_token,
            hops: running.hops,
            activation,
        })
    }

    /// What positions from `from_pos` on gave goes once more.
    fn output_again(&self, fx: &mut Effects, from_pos: u32) {
        self.answer_again(fx);
        if !self.is_last() {
            // What is forgotten was asked for by nobody.
            let _ = self.resend(fx, from_pos, u32::MAX, 1);
        }
    }

    fn answer_again(&self, fx: &mut Effects) {
        if let Some(answer) = &self.answer {
            fx.send(self.next(), self.to_origin(answer.clone()));
        }
    }

    /// The next stage misses positions from `len` on.
    pub(crate) fn nacked(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        len: u32,
    ) -> Result<(), Refusal> {
        self.next_len = len;
        if answered_lately(fx.now, &mut self.answered, limits, len) || self.is_last() {
            return Ok(());
        }
        self.last_active = fx.now;
        let frames = limits.chunks_in_flight_max;
        self.resend(fx, len, limits.chunk_rows_max, frames).ok_or_else(|| {
            (Refused::Forgotten, format!("what was sent from position {len} on is not kept"))
        })
    }

    /// Sends what the next stage misses, in at most `frames` frames. `None`: it is forgotten.
    fn resend(&self, fx: &mut Effects, len: u32, rows_max: u32, frames: usize) -> Option<()> {
        let (open, next) = (&self.open, self.next());
        let wants = |end| end == self.wanted;
        resend(fx, &self.boundary, (len, rows_max, frames), next, |from_pos, activation| Frame {
            session: open.session,
            epoch: open.epoch,
            model: open.model,
            hop: open.hop + 1,
            from_pos,
            want_token: wants(from_pos + activation.rows),
            hops: Vec::new(),
            activation,
        })
    }

    fn nack(&mut self, fx: &mut Effects, limits: &Limits) {
        if self.nacked.is_none_or(|at| fx.now.since_us(at) >= limits.nack_interval_us) {
            self.nacked = Some(fx.now);
            self.tell_len(fx);
        }
    }

    fn tell_len(&self, fx: &mut Effects) {
        let Open { session, epoch, .. } = self.open;
        fx.send(self.previous(), Message::Nack { session, epoch, len: self.len });
    }
}
