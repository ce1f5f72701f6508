//! One request under way, at its origin: prefill, decode, and replay are the same steps.
//!
//! The log holds the prompt and every emitted token. Whatever of it is not in the ring yet is sent
//! in chunks; the last chunk asks for a token; the token goes to the log. When a stage is rebuilt
//! from the boundary before it, or everything begins anew at position 0, what is computed is
//! forced from the log, so an emitted token can never change.

use std::collections::VecDeque;

use crate::deployment::PlanState;
use crate::effects::{Effects, Passed};
use crate::ids::{JobId, NodeId, Time};
use crate::io::{
    Computed, Event, FinishReason, HopTime, Job, JobInput, Output, Part, RECENT_TOKENS_MAX,
    Request, RequestError, SampleWork,
};
use crate::message::{Frame, Refused};
use crate::plan::Plan;
use crate::planted::Bug;
use crate::session::ring::{Chunk, Late, Ring};
use crate::session::step::{JobKind, Running, Step, Tools};

/// A request whose session is open.
#[derive(Debug)]
pub(crate) struct Active {
    me: NodeId,
    pub(crate) request: Request,
    pub(crate) ring: Ring,
    /// The emitted log: the prompt, then every token in the order of its event.
    tokens: Vec<u32>,
    positions_max: u32,
    jobs: VecDeque<Running>,
    /// Prompt positions told to the user.
    told: u32,
    pub(crate) deadline: Time,
    /// A stage is gone and no plan is in force.
    parked: bool,
    /// The plan that is in the making has other layers here than the ring: what is loaded is no
    /// longer what the ring needs, and the caches go with it.
    halted: bool,
    /// Refusals and restarts since the last token.
    recoveries: u8,
}

impl Active {
    pub(crate) fn new(
        me: NodeId,
        deadline: Time,
        request: Request,
        (plan, row_us): (Plan, u64),
    ) -> Self {
        let prompt = length(&request.prompt);
        let room = prompt.saturating_add(request.max_tokens.saturating_sub(1));
        let positions_max = room.min(plan.context).max(prompt);
        Self {
            me,
            tokens: request.prompt.clone(),
            request,
            ring: Ring::new(me, plan, row_us),
            positions_max,
            jobs: VecDeque::new(),
            told: 0,
            deadline,
            parked: false,
            halted: false,
            recoveries: 0,
        }
    }

    /// Ids of the jobs that run here.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.iter().map(|job| job.id)
    }

    /// Positions that its tokens take.
    pub(crate) fn positions(&self) -> u32 {
        length(&self.tokens)
    }

    /// Whether this is the plan that the request follows already.
    pub(crate) fn follows(&self, plan: &PlanState) -> bool {
        match plan {
            PlanState::Ready(plan) => plan.epoch == self.ring.plan.epoch,
            PlanState::Waiting { .. } => self.parked,
            PlanState::Preparing(plan) => self.parked && (self.halted || self.holds(plan)),
            PlanState::Failed(_) => false,
        }
    }

    /// Whether a plan has the same layers here as the ring.
    fn holds(&self, plan: &Plan) -> bool {
        plan.layers_of(self.me) == self.ring.plan.layers_of(self.me)
    }

    /// Starts from position 0 at every stage.
    pub(crate) fn begin(&mut self, tools: &mut Tools<'_>) {
        self.ring.empty();
        self.jobs.clear();
        let prompt = self.request.prompt.len();
        if tools.fx.planted.has(Bug::RestartForgetsToken) && self.tokens.len() > prompt {
            self.tokens.pop();
        }
        self.ring.open(tools.fx, &self.request, self.positions_max);
        if tools.fx.planted.has(Bug::RestartLate) && self.ring.epoch.0 > 1 {
            self.ring.sent = 1;
        }
        self.feed(tools);
    }

    /// Opens the ring again; every cache that is there stays.
    fn open_again(&mut self, tools: &mut Tools<'_>) {
        self.ring.raise(tools.fx);
        let (request, epoch) = (self.request.id.0, self.ring.epoch.0);
        tracing::debug!(request, epoch, "ring opened again");
        self.ring.open(tools.fx, &self.request, self.positions_max);
        self.feed(tools);
    }

    /// No plan is in force, though one may be in the making: the request waits for it, and says so
    /// once. As long as its own part stays, what still comes around the old ring is of use.
    pub(crate) fn park(&mut self, fx: &mut Effects, coming: Option<&Plan>) {
        self.halted |= coming.is_some_and(|plan| !self.holds(plan));
        self.ring.deadline = None;
        if !std::mem::replace(&mut self.parked, true) {
            fx.emit(Event::Parked { request: self.request.id });
        }
    }

    /// A plan is in force that is not the one that the ring follows.
    pub(crate) fn take_up(&mut self, tools: &mut Tools<'_>, plan: Plan, row_us: u64) {
        if self.parked && tools.fx.planted.has(Bug::ParkedForever) {
            return;
        }
        let parked = std::mem::take(&mut self.parked);
        let moved = parked || self.ring.plan.stages != plan.stages;
        let halted = std::mem::take(&mut self.halted);
        if !self.ring.take_up(plan, row_us) || halted {
            self.begin(tools);
        } else if moved {
            self.open_again(tools);
        }
    }

    /// The ring gave nothing back in time.
    pub(crate) fn late(&mut self, tools: &mut Tools<'_>) -> Step {
        match self.ring.late(tools.limits) {
            Late::OpenAgain => {
                self.open_again(tools);
                Step::Running
            }
            Late::Suspect(node) => {
                self.ring.arm(tools.fx, tools.limits, tools.n_active);
                Step::Suspects(node, "it left several openings in a row unanswered".into())
            }
        }
    }

    /// A stage cannot go on with this epoch.
    pub(crate) fn rejected(
        &mut self,
        tools: &mut Tools<'_>,
        node: NodeId,
        (why, cause): (Refused, String),
    ) -> Step {
        self.recoveries = self.recoveries.saturating_add(1);
        if why == Refused::Refuses || self.recoveries > tools.limits.recoveries_max {
            return Step::Failed(RequestError::StageFailed { node, cause });
        }
        tracing::debug!(request = self.request.id.0, %node, ?why, cause, "refused");
        match why {
            Refused::Forgotten => {
                self.begin(tools);
                Step::Running
            }
            Refused::Broken => {
                self.open_again(tools);
                Step::Suspects(node, cause)
            }
            Refused::Unready => Step::Unready(node),
            Refused::Refuses => Step::Running,
        }
    }

    /// Gives the ring what it has not seen, within the chunks that may be in flight.
    fn feed(&mut self, tools: &mut Tools<'_>) {
        if self.halted {
            return;
        }
        // Refused twice in a row: one chunk at a time, since the newest is kept at every boundary.
        let most = if self.recoveries > 1 { 1 } else { tools.limits.chunks_in_flight_max };
        let window = (self.ring.plan.stages.len() + 1).min(most);
        let total = length(&self.tokens);
        while self.ring.sent < total && self.ring.chunks.len() < window {
            let most = self.request.prefill_chunk.clamp(1, tools.limits.chunk_rows_max);
            let rows = most.min(total - self.ring.sent);
            let (from_pos, to) = (self.ring.sent, self.ring.sent + rows);
            self.ring.sent = to;
            let (started, hops) = (tools.fx.now, Vec::new());
            self.ring.chunks.push_back(Chunk { to, rows, started, hops });
            self.first_job(tools, from_pos, rows);
        }
        if !self.parked {
            self.ring.arm(tools.fx, tools.limits, tools.n_active);
        }
    }

    fn first_job(&mut self, tools: &mut Tools<'_>, from_pos: u32, rows: u32) {
        let alone = self.ring.remote().next().is_none();
        let wants = from_pos + rows == length(&self.tokens);
        let own = self.ring.plan.stages.iter().find(|stage| stage.node == self.me);
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
            epoch: self.ring.since,
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
        boundary_bytes_max: usize,
    ) -> Step {
        let Some(at) = self.jobs.iter().position(|running| running.id == job) else {
            return Step::Running;
        };
        let running = self.jobs.remove(at).expect("the position was just found");
        let us = |us: u64| u32::try_from(us).unwrap_or(u32::MAX);
        let held_us = us(tools.fx.now.since_us(running.started));
        let hop = HopTime { node: self.me, held_us, compute_us: us(compute_us) };
        let to = running.from_pos + running.rows;
        if let Some(chunk) = self.ring.chunks.iter_mut().find(|chunk| chunk.to == to) {
            chunk.hops.push(hop);
        }
        match (running.kind, result) {
            (_, Err(cause)) => self.broken(cause),
            (JobKind::First | JobKind::Head, Ok(Computed::Token { token, detail })) => {
                self.emit(tools, token, detail)
            }
            (JobKind::First, Ok(Computed::Nothing)) => {
                self.passed(tools, to, Vec::new());
                Step::Running
            }
            (JobKind::First, Ok(Computed::Activation(rows))) => {
                if self.ring.remote().next().is_none() {
                    // Alone: what a chunk without a token gives beside its cache is of no use.
                    self.passed(tools, to, Vec::new());
                } else if rows.rows != running.rows {
                    return self.broken("computing gave another number of rows".into());
                } else {
                    let (at, tokens) = ((running.from_pos, &rows), length(&self.tokens));
                    self.ring.send_on(tools.fx, &self.request, at, tokens, boundary_bytes_max);
                }
                Step::Running
            }
            (JobKind::Head, Ok(Computed::Nothing | Computed::Activation(_))) => {
                self.broken("the head gave no token".into())
            }
        }
    }

    /// Computing here failed, and nobody else can be the origin.
    const fn broken(&self, cause: String) -> Step {
        Step::Failed(RequestError::StageFailed { node: self.me, cause })
    }

    /// Every position before `to` is in every stage's KV cache, which took what `hops` say.
    pub(crate) fn passed(&mut self, tools: &mut Tools<'_>, to: u32, hops: Vec<HopTime>) {
        // The chunk that ends the log ends with its token only.
        let total = length(&self.tokens);
        let mut latest = None;
        while to < total && self.ring.chunks.front().is_some_and(|chunk| chunk.to <= to) {
            latest = self.ring.chunks.pop_front();
        }
        if let Some(mut chunk) = latest {
            if chunk.to == to {
                chunk.take_hops(hops);
                let (request, hops) = (self.request.id, chunk.hops);
                let positions = to - chunk.rows..to;
                tools.fx.passed.push(Passed { request, positions, hops });
            }
            self.ring.moved();
            self.tell_prefilled(tools, to);
            self.feed(tools);
        }
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
        let due = frame.from_pos == last && self.ring.sent == last + 1 && !busy;
        if !frame.want_token
            || frame.activation.rows != 1
            || (!due && !tools.fx.planted.has(Bug::DoubleSampling))
        {
            tracing::debug!(from_pos = frame.from_pos, "row came around out of turn");
            return;
        }
        let to = frame.from_pos + 1;
        if let Some(chunk) = self.ring.chunks.iter_mut().find(|chunk| chunk.to == to) {
            chunk.take_hops(frame.hops);
        }
        self.ring.moved();
        self.tell_prefilled(tools, to);
        let part = Part { layers: None, embed: false, head: true };
        let input = JobInput::Activation(frame.activation);
        let sample = Some(self.sample());
        self.compute(tools, JobKind::Head, (frame.from_pos, 1), (input, part, sample));
    }

    /// A token was sampled: it is emitted once it is in the log.
    fn emit(&mut self, tools: &mut Tools<'_>, token: u32, detail: Vec<u8>) -> Step {
        let chunk = self.ring.chunks.pop_back();
        self.ring.chunks.clear();
        let (hops, started) =
            chunk.map_or((Vec::new(), tools.fx.now), |chunk| (chunk.hops, chunk.started));
        self.tell_prefilled(tools, length(&self.request.prompt));
        let generated = length(&self.tokens) + 1 - length(&self.request.prompt);
        self.tokens.push(if tools.fx.planted.has(Bug::TokenUnlogged) { 0 } else { token });
        self.recoveries = 0;
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

    /// The first remote stage has positions up to `len` and wants what follows.
    pub(crate) fn nacked(&mut self, tools: &mut Tools<'_>, len: u32) {
        let tokens = length(&self.tokens);
        let (fx, limits) = (&mut *tools.fx, tools.limits);
        if self.ring.nacked(fx, limits, &self.request, len, tokens).is_none() {
            tracing::debug!(request = self.request.id.0, len, "rows forgotten, beginning anew");
            self.recoveries = self.recoveries.saturating_add(1);
            self.begin(tools);
        }
    }
}

/// Tokens in a slice; a prompt beyond the context was refused, and a context is a `u32`.
pub(crate) fn length(tokens: &[u32]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}
