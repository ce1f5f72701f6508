//! One request under way, at its origin: prefill, decode, and replay are the same steps.
//!
//! The log holds the prompt and every emitted token. Whatever of it is not in the ring yet is sent
//! in chunks; the last chunk asks for a token; the token goes to the log. A replay is a new epoch
//! that starts at position 0, forced from the log, so an emitted token can never change.

use std::collections::VecDeque;

use crate::effects::{Effects, JobIds};
use crate::ids::{Epoch, JobId, NodeId, Time};
use crate::io::{
    Activation, Computed, Event, FinishReason, HopTime, Job, JobInput, Output, Part,
    RECENT_TOKENS_MAX, Request, SampleWork,
};
use crate::limits::{HOPS_MAX, Limits};
use crate::message::{Frame, Message, Open};
use crate::plan::Plan;
use crate::planted::Bug;
use crate::session::output_log::OutputLog;
use crate::session::stage::{SLOWER_THAN_PREDICTED, resend, too_soon};

/// A request whose session is open.
#[derive(Debug)]
pub(crate) struct Active {
    me: NodeId,
    pub(crate) request: Request,
    pub(crate) plan: Plan,
    pub(crate) epoch: Epoch,
    /// The emitted log: the prompt, then every token in the order of its event.
    pub(crate) tokens: Vec<u32>,
    positions_max: u32,
    /// Positions given into the ring.
    sent: u32,
    /// Chunks in the ring, oldest first.
    chunks: VecDeque<Chunk>,
    jobs: VecDeque<Running>,
    log: OutputLog,
    /// Prompt positions told to the user.
    told: u32,
    pub(crate) deadline: Time,
    pub(crate) ring_deadline: Option<Time>,
    /// Predicted time of one position around the ring, µs.
    row_us: u64,
    replays: u8,
    answered: Option<Time>,
}

/// Positions on their way around the ring, up to `to`.
#[derive(Debug)]
struct Chunk {
    to: u32,
    rows: u32,
    started: Time,
    hops: Vec<HopTime>,
}

/// A job at this node.
#[derive(Debug)]
struct Running {
    id: JobId,
    from_pos: u32,
    rows: u32,
    kind: JobKind,
    started: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobKind {
    /// Embedding and this node's own layers, if it has any.
    First,
    /// The head, on a row that came around.
    Head,
}

/// How a step left the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It goes on.
    Running,
    /// It has all its tokens.
    Finished(FinishReason),
    /// Computing here failed.
    Broken(String),
}

/// What every step needs.
pub(crate) struct Tools<'a> {
    pub(crate) fx: &'a mut Effects,
    pub(crate) ids: &'a mut JobIds,
    pub(crate) limits: &'a Limits,
    /// Requests under way at this origin.
    pub(crate) n_active: usize,
}

impl Active {
    pub(crate) fn new(
        me: NodeId,
        deadline: Time,
        request: Request,
        plan: Plan,
        row_us: u64,
    ) -> Self {
        let prompt = length(&request.prompt);
        let room = prompt.saturating_add(request.max_tokens.saturating_sub(1));
        let positions_max = room.min(plan.context).max(prompt);
        Self {
            me,
            tokens: request.prompt.clone(),
            request,
            plan,
            epoch: Epoch(0),
            positions_max,
            sent: 0,
            chunks: VecDeque::new(),
            jobs: VecDeque::new(),
            log: OutputLog::default(),
            told: 0,
            deadline,
            ring_deadline: None,
            row_us,
            replays: 0,
            answered: None,
        }
    }

    /// Ids of the jobs that run here.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.iter().map(|job| job.id)
    }

    /// The stages on other nodes, in ring order, with their hop.
    pub(crate) fn remote(&self) -> impl Iterator<Item = (usize, NodeId)> {
        let stages = self.plan.stages.iter().enumerate();
        stages.map(|(hop, stage)| (hop, stage.node)).filter(|(_, node)| *node != self.me)
    }

    /// Opens a new epoch at every stage and starts from position 0.
    pub(crate) fn begin(&mut self, tools: &mut Tools<'_>) {
        self.epoch.0 = self.epoch.0.saturating_add(1);
        self.sent = 0;
        self.chunks.clear();
        self.jobs.clear();
        self.log = OutputLog::default();
        if let Some((hop, to)) = self.remote().next() {
            let open = Open {
                session: self.request.session,
                epoch: self.epoch,
                model: self.request.model,
                origin: self.me,
                stages: self.plan.stages.clone(),
                hop: u16::try_from(hop).expect("a plan has at most 64 stages"),
                positions_max: self.positions_max,
            };
            tools.fx.send(to, Message::Open(open));
        }
        if tools.fx.planted.has(Bug::ReplayLate) && self.epoch > Epoch(1) {
            self.sent = 1;
        }
        self.feed(tools);
    }

    /// The ring gave nothing back in time: once more from the log. `false`: not again.
    pub(crate) fn replay(&mut self, tools: &mut Tools<'_>) -> bool {
        if self.replays >= tools.limits.replays_max {
            return false;
        }
        self.replays += 1;
        tracing::warn!(request = self.request.id.0, epoch = self.epoch.0, "replaying from the log");
        self.ring_deadline = None;
        self.begin(tools);
        true
    }

    /// Gives the ring what it has not seen, within the chunks that may be in flight.
    fn feed(&mut self, tools: &mut Tools<'_>) {
        let stages = self.plan.stages.len();
        let window = (stages + 1).min(tools.limits.chunks_in_flight_max);
        let total = length(&self.tokens);
        while self.sent < total && self.chunks.len() < window {
            let most = self.request.prefill_chunk.clamp(1, tools.limits.chunk_rows_max);
            let rows = most.min(total - self.sent);
            let (from_pos, to) = (self.sent, self.sent + rows);
            self.sent = to;
            self.chunks.push_back(Chunk { to, rows, started: tools.fx.now, hops: Vec::new() });
            self.first_job(tools, from_pos, rows);
        }
        self.arm(tools);
    }

    /// Sets the time by which the ring must have given something back.
    fn arm(&mut self, tools: &Tools<'_>) {
        let rows: u64 = self.chunks.iter().map(|chunk| u64::from(chunk.rows)).sum();
        let predicted_us =
            rows.saturating_mul(self.row_us).saturating_mul(tools.n_active.max(1) as u64);
        // Half as long again as one stage waits for its own computing, so that a hung stage
        // speaks for itself before the origin has to guess.
        let floor_us = tools.limits.hop_timeout_us.saturating_mul(3) / 2;
        let us = floor_us.saturating_add(predicted_us.saturating_mul(SLOWER_THAN_PREDICTED));
        let armed = rows > 0 && !tools.fx.planted.has(Bug::NoRingDeadline);
        self.ring_deadline = armed.then(|| tools.fx.now.after_us(us));
    }

    fn first_job(&mut self, tools: &mut Tools<'_>, from_pos: u32, rows: u32) {
        let alone = self.remote().next().is_none();
        let wants = from_pos + rows == length(&self.tokens);
        let own = self.plan.stages.iter().find(|stage| stage.node == self.me);
        let part = Part { layers: own.map(|stage| stage.layers), embed: true, head: alone };
        let range = from_pos as usize..(from_pos + rows) as usize;
        let input = JobInput::Tokens(self.tokens[range].to_vec());
        let sample = (alone && wants).then(|| self.sample());
        self.compute(tools, JobKind::First, (from_pos, rows), (input, part, sample));
    }

    fn compute(
        &mut self,
        tools: &mut Tools<'_>,
        kind: JobKind,
        (from_pos, rows): (u32, u32),
        (input, part, sample): (JobInput, Part, Option<SampleWork>),
    ) {
        let id = tools.ids.fresh();
        self.jobs.push_back(Running { id, from_pos, rows, kind, started: tools.fx.now });
        tools.fx.push(Output::Compute(Job {
            id,
            session: self.request.session,
            epoch: self.epoch,
            model: self.request.model,
            from_pos,
            positions_max: self.positions_max,
            input,
            part,
            sample,
            last_row_only: false,
        }));
    }

    fn sample(&self) -> SampleWork {
        let recent = self.tokens.len().saturating_sub(RECENT_TOKENS_MAX);
        SampleWork {
            sampling: self.request.sampling.clone(),
            recent: self.tokens[recent..].to_vec(),
            pos: length(&self.tokens),
        }
    }

    /// A job of this session ended here.
    pub(crate) fn computed(
        &mut self,
        tools: &mut Tools<'_>,
        (job, compute_us): (JobId, u64),
        result: Result<Computed, String>,
        log_bytes_max: usize,
    ) -> Step {
        let Some(at) = self.jobs.iter().position(|running| running.id == job) else {
            return Step::Running;
        };
        let running = self.jobs.remove(at).expect("the position was just found");
        let us = |us: u64| u32::try_from(us).unwrap_or(u32::MAX);
        let held_us = us(tools.fx.now.since_us(running.started));
        let hop = HopTime { node: self.me, held_us, compute_us: us(compute_us) };
        let to = running.from_pos + running.rows;
        if let Some(chunk) = self.chunks.iter_mut().find(|chunk| chunk.to == to) {
            chunk.hops.push(hop);
        }
        match (running.kind, result) {
            (_, Err(cause)) => Step::Broken(cause),
            (JobKind::First | JobKind::Head, Ok(Computed::Token { token, detail })) => {
                self.emit(tools, token, detail)
            }
            (JobKind::First, Ok(Computed::Nothing)) => {
                self.passed(tools, to);
                Step::Running
            }
            (JobKind::First, Ok(Computed::Activation(rows))) => {
                self.send_on(tools, &running, rows, log_bytes_max)
            }
            (JobKind::Head, Ok(Computed::Nothing | Computed::Activation(_))) => {
                Step::Broken("the head gave no token".into())
            }
        }
    }

    fn send_on(
        &mut self,
        tools: &mut Tools<'_>,
        running: &Running,
        activation: Activation,
        log_bytes_max: usize,
    ) -> Step {
        let Some((hop, to)) = self.remote().next() else {
            // Alone: what a chunk without a token gives beside its KV cache is of no use.
            self.passed(tools, running.from_pos + running.rows);
            return Step::Running;
        };
        if activation.rows != running.rows {
            return Step::Broken("computing gave another number of rows".into());
        }
        let frame = Message::Frame(Frame {
            session: self.request.session,
            epoch: self.epoch,
            model: self.request.model,
            hop: u16::try_from(hop).expect("a plan has at most 64 stages"),
            from_pos: running.from_pos,
            want_token: running.from_pos + running.rows == length(&self.tokens),
            hops: Vec::new(),
            activation,
        });
        self.log.append(running.from_pos, running.rows, [0; 32]);
        self.log.complete(running.from_pos, frame.clone(), log_bytes_max);
        tools.fx.send(to, frame);
        Step::Running
    }

    /// Every position before `to` is in every stage's KV cache.
    pub(crate) fn passed(&mut self, tools: &mut Tools<'_>, to: u32) {
        let before = self.chunks.len();
        while self.chunks.front().is_some_and(|chunk| chunk.to <= to && to < self.sent_total()) {
            self.chunks.pop_front();
        }
        if self.chunks.len() < before {
            self.tell_prefilled(tools, to);
            self.feed(tools);
        }
    }

    /// The position count whose last chunk brings a token: such a chunk ends with its token only.
    fn sent_total(&self) -> u32 {
        length(&self.tokens)
    }

    fn tell_prefilled(&mut self, tools: &mut Tools<'_>, to: u32) {
        let total = length(&self.request.prompt);
        let done = to.min(total);
        if done > self.told {
            self.told = done;
            let request = self.request.id;
            tools.fx.emit(Event::Prefilled { request, done, total });
        }
    }

    /// A row came around the ring: the head makes a token of it.
    pub(crate) fn came_around(&mut self, tools: &mut Tools<'_>, frame: Frame) {
        let last = length(&self.tokens).saturating_sub(1);
        let busy = self.jobs.iter().any(|job| job.kind == JobKind::Head);
        let due = frame.from_pos == last && self.sent == last + 1 && !busy;
        if !frame.want_token
            || frame.activation.rows != 1
            || (!due && !tools.fx.planted.has(Bug::DoubleSampling))
        {
            tracing::debug!(from_pos = frame.from_pos, "row came around out of turn");
            return;
        }
        let to = frame.from_pos + 1;
        if let Some(chunk) = self.chunks.iter_mut().find(|chunk| chunk.to == to) {
            let room = HOPS_MAX.saturating_sub(chunk.hops.len());
            chunk.hops.extend(frame.hops.into_iter().take(room));
        }
        self.tell_prefilled(tools, to);
        let part = Part { layers: None, embed: false, head: true };
        let input = JobInput::Activation(frame.activation);
        let sample = Some(self.sample());
        self.compute(tools, JobKind::Head, (frame.from_pos, 1), (input, part, sample));
    }

    /// A token was sampled: it is emitted once it is in the log.
    fn emit(&mut self, tools: &mut Tools<'_>, token: u32, detail: Vec<u8>) -> Step {
        let chunk = self.chunks.pop_back();
        self.chunks.clear();
        let (hops, started) =
            chunk.map_or((Vec::new(), tools.fx.now), |chunk| (chunk.hops, chunk.started));
        self.tell_prefilled(tools, length(&self.request.prompt));
        self.tokens.push(token);
        let generated = length(&self.tokens) - length(&self.request.prompt);
        tools.fx.emit(Event::Token {
            request: self.request.id,
            index: generated - 1,
            token,
            detail,
            hops,
            round_us: tools.fx.now.since_us(started),
        });
        if self.request.stop_tokens.contains(&token) {
            return Step::Finished(FinishReason::Stop);
        }
        if generated >= self.request.max_tokens || length(&self.tokens) > self.positions_max {
            return Step::Finished(FinishReason::Length);
        }
        self.feed(tools);
        Step::Running
    }

    /// The first remote stage misses positions from `len` on. `None`: they are no longer kept.
    pub(crate) fn nacked(&mut self, tools: &mut Tools<'_>, len: u32) -> Option<()> {
        let (_, to) = self.remote().next()?;
        if too_soon(tools.fx.now, &mut self.answered, tools.limits) || len >= self.sent {
            return Some(());
        }
        if self.jobs.iter().any(|job| job.kind == JobKind::First && job.from_pos == len) {
            return Some(());
        }
        resend(tools.fx, &self.log, to, len)
    }

    /// The first remote stage is back after a broken connection.
    pub(crate) fn next_joined(&self, fx: &mut Effects, peer: NodeId) {
        if let (Some((_, next)), Some(output)) = (self.remote().next(), self.log.last())
            && next == peer
        {
            fx.send(peer, output.clone());
        }
    }
}

/// Tokens in a slice; a prompt beyond the context was refused, and a context is a `u32`.
pub(crate) fn length(tokens: &[u32]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}
