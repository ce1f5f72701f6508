//! One session at one stage: the rule of what a frame does to a KV cache.
//!
//! Older epoch: dropped. Newer epoch: the KV cache starts again, empty. First position equal to
//! the length: append, compute, pass on. Seen before with the same digest: send its output again.
//! Beyond the length: nack. Anything else: reject. So each position is appended exactly once per
//! epoch, whatever repeats, overtakes or gets lost on the way.

use std::collections::VecDeque;

use crate::effects::{Effects, JobIds};
use crate::ids::{Epoch, JobId, NodeId, Time};
use crate::io::{Activation, Computed, HopTime, Job, JobInput, Output, Part};
use crate::limits::{HOPS_MAX, Limits};
use crate::message::{Frame, Message, Open};
use crate::plan::LayerRange;
use crate::planted::Bug;
use crate::session::output_log::{OutputLog, Seen};

/// A prediction may be so many times too good before a node counts as hung: slow is not dead.
pub(crate) const SLOWER_THAN_PREDICTED: u64 = 4;

/// A session held for its origin.
#[derive(Debug)]
pub(crate) struct StageSession {
    me: NodeId,
    pub(crate) open: Open,
    /// Positions in the KV cache, those being computed included.
    pub(crate) len: u32,
    /// Bytes that the KV cache may grow to.
    pub(crate) kv_bytes: u64,
    /// Values of an activation row.
    row_values: u32,
    /// Predicted time of one position in this stage, µs.
    row_us: u64,
    jobs: VecDeque<Running>,
    log: OutputLog,
    pub(crate) last_active: Time,
    /// The oldest job's limit.
    pub(crate) compute_until: Option<Time>,
    /// When we last sent a nack, and when we last answered one.
    nacked: Option<Time>,
    answered: Option<Time>,
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

/// Why a session cannot go on at this stage.
pub(crate) type Refusal = String;

impl StageSession {
    pub(crate) fn new(
        me: NodeId,
        now: Time,
        open: Open,
        (row_values, kv_bytes, row_us): (u32, u64, u64),
    ) -> Self {
        Self {
            me,
            open,
            len: 0,
            kv_bytes,
            row_values,
            row_us,
            jobs: VecDeque::new(),
            log: OutputLog::default(),
            last_active: now,
            compute_until: None,
            nacked: None,
            answered: None,
        }
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
        self.open.stages.get(self.next_hop()).map_or(self.open.origin, |stage| stage.node)
    }

    fn next_hop(&self) -> usize {
        usize::from(self.open.hop) + 1
    }

    const fn is_last(&self) -> bool {
        self.open.hop as usize + 1 == self.open.stages.len()
    }

    fn layers(&self) -> LayerRange {
        self.open.stages[usize::from(self.open.hop)].layers
    }

    /// Takes up a newer epoch: what the old one computed is void. Returns the jobs to forget.
    pub(crate) fn adopt(&mut self, now: Time, epoch: Epoch) -> Vec<JobId> {
        self.open.epoch = epoch;
        self.len = 0;
        self.log = OutputLog::default();
        self.last_active = now;
        self.compute_until = None;
        self.nacked = None;
        self.jobs.drain(..).map(|job| job.id).collect()
    }

    /// A frame of the session's epoch arrived. `Ok(Some(job))`: a job was started.
    pub(crate) fn frame(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        ids: &mut JobIds,
        frame: Frame,
    ) -> Result<Option<JobId>, Refusal> {
        self.last_active = fx.now;
        let Activation { dtype, rows, cols, ref data } = frame.activation;
        let end = frame.from_pos.checked_add(rows).filter(|&end| end <= self.open.positions_max);
        let Some(end) = end.filter(|_| rows > 0 && rows <= limits.chunk_rows_max) else {
            let max = self.open.positions_max;
            return Err(format!("{rows} rows from {} do not fit {max} positions", frame.from_pos));
        };
        let bytes = rows as usize * cols as usize * dtype.bytes();
        if cols != self.row_values || data.len() != bytes {
            return Err(format!("rows of {cols} values where the model has {}", self.row_values));
        }
        let digest = digest(&frame);
        if frame.from_pos > self.len && !fx.planted.has(Bug::NoNack) {
            self.nack(fx, limits);
            return Ok(None);
        }
        if frame.from_pos < self.len && !fx.planted.has(Bug::NoDedupe) {
            return match self.log.seen(frame.from_pos, rows, &digest) {
                Seen::Computing | Seen::Forgotten => Ok(None),
                Seen::Answered(output) => {
                    fx.send(self.next(), *output);
                    Ok(None)
                }
                Seen::Differs => {
                    Err(format!("positions {}..{end} were taken differently", frame.from_pos))
                }
            };
        }
        if self.jobs.len() >= limits.stage_jobs_max {
            let max = limits.stage_jobs_max;
            return Err(format!("{max} frames of the session wait here, which is the limit"));
        }
        self.log.append(frame.from_pos, rows, digest);
        self.len = if fx.planted.has(Bug::LenOffByOne) { end + 1 } else { end };
        self.nacked = None;
        Ok(Some(self.compute(fx, ids, frame)))
    }

    /// How long the oldest job may take while `sessions` share the node, µs.
    pub(crate) fn patience_us(&self, limits: &Limits, sessions: usize) -> u64 {
        let rows = self.jobs.front().map_or(0, |job| u64::from(job.rows));
        let predicted_us = rows.saturating_mul(self.row_us).saturating_mul(sessions as u64);
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
            epoch: self.open.epoch,
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
        log_bytes_max: usize,
    ) -> Result<(), Refusal> {
        self.last_active = fx.now;
        let Some(at) = self.jobs.iter().position(|running| running.id == job) else {
            return Ok(());
        };
        let mut running = self.jobs.remove(at).expect("the position was just found");
        self.compute_until = None;
        let activation = match result? {
            Computed::Activation(activation) => Some(activation),
            Computed::Nothing => None,
            Computed::Token { .. } => return Err("computing gave a token without a head".into()),
        };
        let us = |us: u64| u32::try_from(us).unwrap_or(u32::MAX);
        if running.hops.len() < HOPS_MAX {
            let held_us = us(fx.now.since_us(running.received));
            running.hops.push(HopTime { node: self.me, held_us, compute_us: us(compute_us) });
        }
        let from_pos = running.from_pos;
        let output = self.output(running, activation)?;
        self.log.complete(from_pos, output.clone(), log_bytes_max);
        fx.send(self.next(), output);
        Ok(())
    }

    fn output(&self, running: Running, rows: Option<Activation>) -> Result<Message, Refusal> {
        let Open { session, epoch, model, .. } = self.open;
        let end = running.from_pos + running.rows;
        if self.is_last() && !running.want_token {
            return Ok(Message::Passed { session, epoch, to_pos: end, hops: running.hops });
        }
        let expected = if self.is_last() { 1 } else { running.rows };
        let activation = rows
            .filter(|activation| activation.rows == expected)
            .ok_or_else(|| format!("computing did not give the {expected} rows it should"))?;
        Ok(Message::Frame(Frame {
            session,
            epoch,
            model,
            hop: self.open.hop + 1,
            from_pos: end - expected,
            want_token: running.want_token,
            hops: running.hops,
            activation,
        }))
    }

    /// The next stage misses positions from `len` on.
    pub(crate) fn nacked(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        len: u32,
    ) -> Result<(), Refusal> {
        if too_soon(fx.now, &mut self.answered, limits) || len >= self.len {
            return Ok(());
        }
        self.last_active = fx.now;
        resend(fx, &self.log, self.next(), len)
            .ok_or_else(|| format!("what was sent from position {len} on is no longer kept"))
    }

    /// The next node is back after a broken connection: what was under way to it is lost.
    pub(crate) fn next_joined(&mut self, fx: &mut Effects) {
        if let Some(output) = self.log.last() {
            fx.send(self.next(), output.clone());
        }
    }

    fn nack(&mut self, fx: &mut Effects, limits: &Limits) {
        if !too_soon(fx.now, &mut self.nacked, limits) {
            let Open { session, epoch, .. } = self.open;
            fx.send(self.previous(), Message::Nack { session, epoch, len: self.len });
        }
    }
}

/// Sends the log's outputs from `len` on to `next`; `None` if they are no longer kept.
pub(crate) fn resend(fx: &mut Effects, log: &OutputLog, next: NodeId, len: u32) -> Option<()> {
    if fx.planted.has(Bug::NackResendsLast) {
        fx.send(next, log.last()?.clone());
        return Some(());
    }
    for output in log.since(len)? {
        fx.send(next, output.clone());
    }
    Some(())
}

/// Whether `last` is less than the nack interval ago; if not, it is set to now.
pub(crate) fn too_soon(now: Time, last: &mut Option<Time>, limits: &Limits) -> bool {
    if last.is_some_and(|at| now.since_us(at) < limits.nack_interval_us) {
        return true;
    }
    *last = Some(now);
    false
}

/// Tells one frame's content from another's.
fn digest(frame: &Frame) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for field in [frame.from_pos, frame.activation.rows, u32::from(frame.want_token)] {
        hasher.update(&field.to_le_bytes());
    }
    hasher.update(&frame.activation.data);
    *hasher.finalize().as_bytes()
}
