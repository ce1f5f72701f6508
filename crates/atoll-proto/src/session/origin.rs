//! All requests of this node: waiting for a plan or a place, then under way.

use std::collections::{BTreeMap, VecDeque};

use crate::deployment::{Deployment, PlanState, Served};
use crate::effects::{Effects, JobIds};
use crate::ids::{Epoch, JobId, ModelId, NodeId, RequestId, SessionId, Time};
use crate::io::{Computed, Event, FinishReason, Output, Request, RequestError};
use crate::limits::Limits;
use crate::membership::{Lost, Membership};
use crate::message::{Frame, Message};
use crate::plan::Plan;
use crate::planner;
use crate::planted::Bug;
use crate::session::active::{Active, Step, Tools, length};

/// The requests that this node is the origin of.
#[derive(Debug)]
pub(crate) struct Origin {
    me: NodeId,
    /// Not started, in order of arrival, each with its deadline.
    waiting: VecDeque<(Request, Time)>,
    active: BTreeMap<SessionId, Active>,
    jobs: BTreeMap<JobId, SessionId>,
}

impl Origin {
    pub(crate) const fn new(me: NodeId) -> Self {
        Self { me, waiting: VecDeque::new(), active: BTreeMap::new(), jobs: BTreeMap::new() }
    }

    pub(crate) const fn active(&self) -> &BTreeMap<SessionId, Active> {
        &self.active
    }

    /// Requests that have not started.
    pub(crate) fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn generate(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        deployment: &Deployment,
        request: Request,
    ) {
        let id = request.id;
        match self.accept(limits, deployment, &request) {
            Err(error) => fail(fx, id, error),
            Ok(()) if request.max_tokens == 0 => {
                fx.emit(Event::Finished { request: id, reason: FinishReason::Length });
            }
            Ok(()) => {
                let deadline = fx.now.after_us(request.deadline_us);
                self.waiting.push_back((request, deadline));
            }
        }
    }

    fn accept(
        &self,
        limits: &Limits,
        deployment: &Deployment,
        request: &Request,
    ) -> Result<(), RequestError> {
        let served =
            deployment.served(request.model).ok_or(RequestError::UnknownModel(request.model))?;
        let same = |other: &Request| other.id == request.id || other.session == request.session;
        let mut all =
            self.waiting.iter().map(|(r, _)| r).chain(self.active.values().map(|a| &a.request));
        let context = planner::context(&served.model, &served.policy);
        let prompt = length(&request.prompt);
        if request.prompt.is_empty() {
            Err(RequestError::EmptyPrompt)
        } else if prompt > context {
            Err(RequestError::PromptTooLong { prompt, context })
        } else if all.any(same) {
            Err(RequestError::Duplicate)
        } else if self.waiting.len() + self.active.len() >= limits.requests_max {
            let max = u32::try_from(limits.requests_max).unwrap_or(u32::MAX);
            Err(RequestError::TooMany(max))
        } else {
            Ok(())
        }
    }

    /// Starts what can start, and ends what can no longer, since plans or places have changed.
    pub(crate) fn settle(
        &mut self,
        fx: &mut Effects,
        ids: &mut JobIds,
        limits: &Limits,
        (deployment, members): (&Deployment, &Membership),
    ) {
        let stale = self.active.iter().filter(|(_, active)| {
            !in_force(deployment, &active.plan) && !fx.planted.has(Bug::LossIgnored)
        });
        for id in stale.map(|(id, _)| *id).collect::<Vec<_>>() {
            let cause = "the model was placed anew".into();
            self.end(fx, id, Err(RequestError::StageFailed { node: self.me, cause }));
        }
        for (request, deadline) in std::mem::take(&mut self.waiting) {
            let Some(served) = deployment.served(request.model) else {
                fail(fx, request.id, RequestError::UnknownModel(request.model));
                continue;
            };
            match &served.state {
                PlanState::Failed(error) => {
                    fail(fx, request.id, RequestError::NoPlan(error.clone()));
                }
                PlanState::Ready(plan) if self.has_place(served) => {
                    let row_us = ring_row_us(served, plan, self.me, members);
                    self.start(fx, ids, limits, (request, deadline), (plan.clone(), row_us));
                }
                PlanState::Ready(_) | PlanState::Waiting { .. } | PlanState::Preparing { .. } => {
                    self.waiting.push_back((request, deadline))
                }
            }
        }
    }

    /// Whether the plan's memory has room for one more session.
    fn has_place(&self, served: &Served) -> bool {
        let running = self.active.values().filter(|a| a.request.model == served.model.id).count();
        running < usize::from(served.policy.sessions.max(1))
    }

    fn start(
        &mut self,
        fx: &mut Effects,
        ids: &mut JobIds,
        limits: &Limits,
        (request, deadline): (Request, Time),
        (plan, row_us): (Plan, u64),
    ) {
        let session = request.session;
        tracing::debug!(request = request.id.0, ?session, stages = plan.stages.len(), "started");
        self.active.insert(session, Active::new(self.me, deadline, request, plan, row_us));
        self.with(fx, ids, limits, session, |active, tools| {
            active.begin(tools);
            Step::Running
        });
    }

    /// Runs one step of a request, then files its new jobs or its end.
    fn with(
        &mut self,
        fx: &mut Effects,
        ids: &mut JobIds,
        limits: &Limits,
        id: SessionId,
        step: impl FnOnce(&mut Active, &mut Tools<'_>) -> Step,
    ) {
        let n_active = self.active.len();
        let Some(active) = self.active.get_mut(&id) else { return };
        let outcome = step(active, &mut Tools { fx, ids, limits, n_active });
        self.jobs.extend(active.jobs().map(|job| (job, id)));
        match outcome {
            Step::Running => {}
            Step::Finished(reason) => self.end(fx, id, Ok(reason)),
            Step::Broken(cause) => {
                self.end(fx, id, Err(RequestError::StageFailed { node: self.me, cause }));
            }
        }
    }

    /// Whether the job is one of a request of this node.
    pub(crate) fn runs(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    pub(crate) fn computed(
        &mut self,
        fx: &mut Effects,
        ids: &mut JobIds,
        limits: &Limits,
        job: (JobId, u64),
        result: Result<Computed, String>,
    ) {
        let Some(id) = self.jobs.remove(&job.0) else { return };
        let log_bytes_max = limits.output_log_bytes_max / self.active.len().max(1);
        self.with(fx, ids, limits, id, |active, tools| {
            active.computed(tools, job, result, log_bytes_max)
        });
    }

    /// A frame has come around the ring.
    pub(crate) fn frame(
        &mut self,
        fx: &mut Effects,
        ids: &mut JobIds,
        limits: &Limits,
        (from, frame): (NodeId, Frame),
    ) {
        let (id, hop) = (frame.session, usize::from(frame.hop));
        if self.heeds(fx, from, (id, frame.epoch)) == Some(hop) {
            self.with(fx, ids, limits, id, |active, tools| {
                active.came_around(tools, frame);
                Step::Running
            });
        }
    }

    /// The number of stages, if `from` is the last of them and speaks of the current epoch.
    fn heeds(&self, fx: &Effects, from: NodeId, at: (SessionId, Epoch)) -> Option<usize> {
        let active = self.active.get(&at.0)?;
        let current = active.epoch == at.1 || fx.planted.has(Bug::NoEpochCheck);
        let last = active.plan.stages.last().is_some_and(|stage| stage.node == from);
        (current && last).then_some(active.plan.stages.len())
    }

    pub(crate) fn passed(
        &mut self,
        fx: &mut Effects,
        ids: &mut JobIds,
        limits: &Limits,
        (from, id, epoch, to_pos): (NodeId, SessionId, Epoch, u32),
    ) {
        if self.heeds(fx, from, (id, epoch)).is_some() {
            self.with(fx, ids, limits, id, |active, tools| {
                active.passed(tools, to_pos);
                Step::Running
            });
        }
    }

    pub(crate) fn nack(
        &mut self,
        fx: &mut Effects,
        ids: &mut JobIds,
        limits: &Limits,
        (from, id, epoch, len): (NodeId, SessionId, Epoch, u32),
    ) {
        let Some(active) = self.active.get(&id) else { return };
        if active.epoch == epoch && active.remote().next().is_some_and(|(_, node)| node == from) {
            self.with(fx, ids, limits, id, |active, tools| match active.nacked(tools, len) {
                Some(()) => Step::Running,
                None => Step::Broken(format!("what was sent from position {len} on is gone")),
            });
        }
    }

    /// A stage cannot go on with a session.
    pub(crate) fn rejected(
        &mut self,
        fx: &mut Effects,
        (node, id, epoch): (NodeId, SessionId, Epoch),
        cause: String,
    ) {
        let heeded = self
            .active
            .get(&id)
            .is_some_and(|active| active.epoch == epoch && active.plan.hop_of(node).is_some());
        if heeded {
            self.end(fx, id, Err(RequestError::StageFailed { node, cause }));
        }
    }

    pub(crate) fn cancel(&mut self, fx: &mut Effects, request: RequestId) {
        if fx.planted.has(Bug::LostCancel) {
            return;
        }
        if let Some(at) = self.waiting.iter().position(|(waiting, _)| waiting.id == request) {
            self.waiting.remove(at);
            fail(fx, request, RequestError::Cancelled);
        }
        let active = self.active.iter().find(|(_, active)| active.request.id == request);
        if let Some(id) = active.map(|(id, _)| *id) {
            self.end(fx, id, Err(RequestError::Cancelled));
        }
    }

    /// A peer is gone: requests that run on it end, naming it.
    pub(crate) fn lost(&mut self, fx: &mut Effects, lost: &Lost) {
        if fx.planted.has(Bug::LossIgnored) {
            return;
        }
        let hit = self.active.iter().filter_map(|(id, active)| {
            let stage = active.plan.stages.iter().find(|stage| stage.node == lost.peer)?;
            Some((*id, stage.layers))
        });
        for (id, layers) in hit.collect::<Vec<_>>() {
            let (node, cause) = (lost.peer, lost.cause.clone());
            self.end(fx, id, Err(RequestError::NodeLost { node, layers, cause }));
        }
    }

    /// A peer is here (again): what was under way to it goes once more.
    pub(crate) fn joined(&self, fx: &mut Effects, peer: NodeId) {
        for active in self.active.values() {
            active.next_joined(fx, peer);
        }
    }

    /// A model is no longer served.
    pub(crate) fn unserved(&mut self, fx: &mut Effects, model: ModelId) {
        let hit = self.active.iter().filter(|(_, active)| active.request.model == model);
        for id in hit.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end(fx, id, Err(RequestError::UnknownModel(model)));
        }
    }

    pub(crate) fn leave(&mut self, fx: &mut Effects) {
        for (request, _) in std::mem::take(&mut self.waiting) {
            fail(fx, request.id, RequestError::Cancelled);
        }
        for id in self.active.keys().copied().collect::<Vec<_>>() {
            self.end(fx, id, Err(RequestError::Cancelled));
        }
    }

    pub(crate) fn tick(
        &mut self,
        fx: &mut Effects,
        ids: &mut JobIds,
        limits: &Limits,
        members: &Membership,
    ) {
        let now = fx.now;
        for (request, deadline) in std::mem::take(&mut self.waiting) {
            if deadline <= now {
                let after_us = request.deadline_us;
                fail(fx, request.id, RequestError::DeadlineExceeded { after_us });
            } else {
                self.waiting.push_back((request, deadline));
            }
        }
        let over = self.active.iter().filter(|(_, active)| active.deadline <= now);
        for id in over.map(|(id, _)| *id).collect::<Vec<_>>() {
            let after_us = self.active[&id].request.deadline_us;
            self.end(fx, id, Err(RequestError::DeadlineExceeded { after_us }));
        }
        let late = |active: &Active| active.ring_deadline.is_some_and(|at| at <= now);
        let late = self.active.iter().filter(|(_, active)| late(active));
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.jobs.retain(|_, session| *session != id);
            let mut again = false;
            self.with(fx, ids, limits, id, |active, tools| {
                again = active.replay(tools);
                Step::Running
            });
            if !again {
                let stages = self.active[&id].plan.stages.iter().map(|stage| stage.node);
                let node = members.quietest(stages).unwrap_or(self.me);
                let cause = "the ring gave nothing back in time; this node was quiet longest";
                let error = RequestError::StageFailed { node, cause: cause.into() };
                self.end(fx, id, Err(error));
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let waiting = self.waiting.iter().map(|(_, deadline)| *deadline);
        let active = self.active.values().map(|active| {
            active.ring_deadline.map_or(active.deadline, |ring| ring.min(active.deadline))
        });
        waiting.chain(active).min()
    }

    /// The end of a session: everywhere, at once.
    fn end(
        &mut self,
        fx: &mut Effects,
        id: SessionId,
        outcome: Result<FinishReason, RequestError>,
    ) {
        let Some(active) = self.active.remove(&id) else { return };
        let request = active.request.id;
        self.jobs.retain(|_, session| *session != id);
        if !fx.planted.has(Bug::LostClose) {
            for (_, node) in active.remote() {
                fx.send(node, Message::Close { session: id });
            }
        }
        fx.push(Output::Release { session: id });
        tracing::debug!(request = request.0, ?outcome, "ended");
        match outcome {
            Ok(reason) => fx.emit(Event::Finished { request, reason }),
            Err(error) => fail(fx, request, error),
        }
    }
}

fn fail(fx: &mut Effects, request: RequestId, error: RequestError) {
    fx.emit(Event::Failed { request, error });
}

fn in_force(deployment: &Deployment, plan: &Plan) -> bool {
    deployment.served(plan.model).is_some_and(|served| match &served.state {
        PlanState::Ready(current) => current.epoch == plan.epoch,
        PlanState::Waiting { .. } | PlanState::Preparing { .. } | PlanState::Failed(_) => false,
    })
}

/// Predicted time of one position around the whole ring, µs.
fn ring_row_us(served: &Served, plan: &Plan, me: NodeId, members: &Membership) -> u64 {
    let speed = |node: NodeId| {
        let own = (node == me).then(|| members.profile().weight_bytes_per_s);
        let theirs = members.member(node).map(|member| member.profile.weight_bytes_per_s);
        own.or(theirs).unwrap_or(0)
    };
    let stages = plan.stages.iter();
    stages.fold(0_u64, |sum, stage| {
        sum.saturating_add(served.model.row_us(stage.layers, speed(stage.node)))
    })
}
