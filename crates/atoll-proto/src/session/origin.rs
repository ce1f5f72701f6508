//! All requests of this node: waiting, then under way.

use std::collections::BTreeMap;

use crate::deployment::{Deployment, PlanState, Served};
use crate::effects::{Effects, JobIds};
use crate::ids::{Epoch, JobId, ModelId, NodeId, RequestId, SessionId, Time};
use crate::io::{Computed, Event, FinishReason, HopTime, Output, Request, RequestError};
use crate::limits::Limits;
use crate::membership::Membership;
use crate::message::{Frame, Message, Refused};
use crate::plan::{Plan, PlanError};
use crate::planner;
use crate::planted::Bug;
use crate::session::active::Active;
use crate::session::queue::{Admission, Fate, Queue, fail};
use crate::session::step::{Step, Tools};

/// The requests that this node is the origin of.
#[derive(Debug)]
pub(crate) struct Origin {
    me: NodeId,
    waiting: Queue,
    active: BTreeMap<SessionId, Active>,
    jobs: BTreeMap<JobId, SessionId>,
    /// What requests found wrong with nodes since it was last asked.
    doubts: Vec<Doubt>,
}

/// Something that a request found wrong with a node that holds a part for it.
#[derive(Debug)]
pub(crate) struct Doubt {
    pub(crate) model: ModelId,
    pub(crate) node: NodeId,
    /// It does not do its work, for this cause; `None`: it does not hold the part.
    pub(crate) cause: Option<String>,
}

impl Origin {
    pub(crate) fn new(me: NodeId) -> Self {
        let (waiting, doubts) = (Queue::default(), Vec::new());
        Self { me, waiting, active: BTreeMap::new(), jobs: BTreeMap::new(), doubts }
    }

    pub(crate) const fn active(&self) -> &BTreeMap<SessionId, Active> {
        &self.active
    }

    /// Requests that have not started.
    pub(crate) fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What requests found wrong with nodes.
    pub(crate) fn take_doubts(&mut self) -> Vec<Doubt> {
        std::mem::take(&mut self.doubts)
    }

    pub(crate) fn generate(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        deployment: &Deployment,
        request: Request,
    ) {
        let served = deployment.served(request.model);
        let active: Vec<_> = self.active.values().map(|active| &active.request).collect();
        let admission = Admission {
            context: served.map(|served| planner::context(&served.model, &served.policy)),
            active: &active,
            requests_max: limits.requests_max,
        };
        self.waiting.push(fx, request, &admission);
    }

    /// Lets what runs follow its plan, starts what can start, and ends what can no longer, since
    /// plans or places have changed.
    pub(crate) fn settle(
        &mut self,
        fx: &mut Effects,
        ids: &mut JobIds,
        limits: &Limits,
        (deployment, members): (&Deployment, &Membership),
    ) {
        let moved = self.active.iter().filter(|(_, active)| {
            let served = deployment.served(active.request.model);
            served.is_some_and(|served| !active.follows(&served.state))
        });
        for id in moved.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.follow(fx, ids, limits, (deployment, members), id);
        }
        if self.waiting.len() == 0 {
            return;
        }
        self.waiting.sift(fx, |request| match deployment.served(request.model) {
            None => Fate::Fail(RequestError::UnknownModel(request.model)),
            Some(Served { state: PlanState::Failed(error), .. }) => {
                Fate::Fail(RequestError::NoPlan(error.clone()))
            }
            Some(_) => Fate::Wait,
        });
        for model in self.waiting.models().collect::<Vec<_>>() {
            let Some(served) = deployment.served(model) else { continue };
            let PlanState::Ready(plan) = &served.state else { continue };
            if self.has_place(served)
                && let Some((request, deadline)) = self.waiting.pop(model)
            {
                let row_us = ring_row_us(served, plan, members);
                let session = request.session;
                tracing::debug!(request = request.id.0, ?session, "started");
                let active = Active::new(self.me, deadline, request, (plan.clone(), row_us));
                self.active.insert(session, active);
                self.with(fx, ids, limits, session, |active, tools| {
                    active.begin(tools);
                    Step::Running
                });
            }
        }
    }

    /// Lets a request follow its model's plan.
    fn follow(
        &mut self,
        fx: &mut Effects,
        ids: &mut JobIds,
        limits: &Limits,
        (deployment, members): (&Deployment, &Membership),
        id: SessionId,
    ) {
        let Some(active) = self.active.get_mut(&id) else { return };
        let Some(served) = deployment.served(active.request.model) else { return };
        if fx.planted.has(Bug::LossIgnored) {
            return;
        }
        match &served.state {
            PlanState::Ready(plan) => {
                let row_us = ring_row_us(served, plan, members);
                self.with(fx, ids, limits, id, |active, tools| {
                    active.take_up(tools, plan.clone(), row_us);
                    Step::Running
                });
            }
            PlanState::Waiting { .. } => active.park(fx, None),
            PlanState::Preparing(plan) => active.park(fx, Some(plan)),
            PlanState::Failed(error) => {
                let error = lost_stage(error, &active.ring.plan);
                self.end(fx, id, Err(error));
            }
        }
    }

    /// Whether the plan's memory has room for one more session.
    fn has_place(&self, served: &Served) -> bool {
        let running = self.active.values().filter(|a| a.request.model == served.model.id).count();
        running < usize::from(served.policy.sessions.max(1))
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
        let model = active.request.model;
        self.jobs.extend(active.jobs().map(|job| (job, id)));
        match outcome {
            Step::Running => {}
            Step::Finished(reason) => self.end(fx, id, Ok(reason)),
            Step::Failed(error) => self.end(fx, id, Err(error)),
            Step::Suspects(node, cause) => {
                self.doubts.push(Doubt { model, node, cause: Some(cause) });
            }
            Step::Unready(node) => self.doubts.push(Doubt { model, node, cause: None }),
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
        let bytes_max = limits.boundary_bytes_max / self.active.len().max(1);
        self.with(fx, ids, limits, id, |active, tools| {
            active.computed(tools, job, result, bytes_max)
        });
    }

    /// What a stage says of a session of this node.
    pub(crate) fn received(
        &mut self,
        fx: &mut Effects,
        ids: &mut JobIds,
        limits: &Limits,
        (from, (id, epoch)): (NodeId, (SessionId, Epoch)),
        said: Said,
    ) {
        let Some(active) = self.active.get(&id) else { return };
        let ring = &active.ring;
        let current = ring.epoch == epoch || fx.planted.has(Bug::NoEpochCheck);
        let last = ring.plan.stages.last().is_some_and(|stage| stage.node == from);
        let along = match &said {
            Said::Row(frame) => last && usize::from(frame.hop) == ring.plan.stages.len(),
            Said::Passed(..) => last,
            Said::Nack(_) => ring.remote().next().is_some_and(|(_, node)| node == from),
            Said::Opened(_) | Said::Reject(..) => ring.plan.hop_of(from).is_some(),
        };
        if !current || !along {
            tracing::debug!(?id, %from, ?epoch, "word of another epoch or from beside the ring");
            return;
        }
        self.with(fx, ids, limits, id, |active, tools| {
            match said {
                Said::Row(frame) => active.came_around(tools, *frame),
                Said::Passed(to_pos, hops) => active.passed(tools, to_pos, hops),
                Said::Nack(len) => active.nacked(tools, len),
                Said::Opened(hop) => active.ring.opened(from, hop),
                Said::Reject(why, cause) => return active.rejected(tools, from, (why, cause)),
            }
            Step::Running
        });
    }

    pub(crate) fn cancel(&mut self, fx: &mut Effects, request: RequestId) {
        if fx.planted.has(Bug::LostCancel) {
            return;
        }
        self.waiting.cancel(fx, request);
        let active = self.active.iter().find(|(_, active)| active.request.id == request);
        if let Some(id) = active.map(|(id, _)| *id) {
            self.end(fx, id, Err(RequestError::Cancelled));
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
        self.waiting.sift(fx, |_| Fate::Fail(RequestError::Cancelled));
        for id in self.active.keys().copied().collect::<Vec<_>>() {
            self.end(fx, id, Err(RequestError::Cancelled));
        }
    }

    pub(crate) fn tick(&mut self, fx: &mut Effects, ids: &mut JobIds, limits: &Limits) {
        let now = fx.now;
        self.waiting.tick(fx);
        let over = self.active.iter().filter(|(_, active)| active.deadline <= now);
        for id in over.map(|(id, _)| *id).collect::<Vec<_>>() {
            let after_us = self.active[&id].request.deadline_us;
            self.end(fx, id, Err(RequestError::DeadlineExceeded { after_us }));
        }
        let late = |active: &Active| active.ring.deadline.is_some_and(|at| at <= now);
        let late = self.active.iter().filter(|(_, active)| late(active));
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.with(fx, ids, limits, id, |active, tools| active.late(tools));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let active = self.active.values().map(|active| {
            active.ring.deadline.map_or(active.deadline, |ring| ring.min(active.deadline))
        });
        self.waiting.deadline().into_iter().chain(active).min()
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
            for (_, node) in active.ring.remote() {
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

/// What a stage can say of a session to its origin.
pub(crate) enum Said {
    /// A row has come around.
    Row(Box<Frame>),
    /// A chunk has.
    Passed(u32, Vec<HopTime>),
    /// Its cache ends here.
    Nack(u32),
    /// It takes up the epoch, as this stage.
    Opened(u16),
    /// It cannot go on.
    Reject(Refused, String),
}

/// The error of a request whose plan is not to be mended.
fn lost_stage(error: &PlanError, plan: &Plan) -> RequestError {
    let PlanError::NodeLost { node, cause } = error else {
        return RequestError::NoPlan(error.clone());
    };
    let stage = plan.stages.iter().find(|stage| stage.node == *node);
    stage.map_or_else(
        || RequestError::NoPlan(error.clone()),
        |stage| RequestError::NodeLost { node: *node, layers: stage.layers, cause: cause.clone() },
    )
}

/// Predicted time of one position around the whole ring, µs.
fn ring_row_us(served: &Served, plan: &Plan, members: &Membership) -> u64 {
    let speed = |node: NodeId| members.profile_of(node).map_or(0, |it| it.weight_bytes_per_s);
    let stages = plan.stages.iter();
    stages.fold(0_u64, |sum, stage| {
        sum.saturating_add(served.model.row_us(stage.layers, speed(stage.node)))
    })
}

#[cfg(test)]
mod tests;
