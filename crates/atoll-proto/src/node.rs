//! The node: one door in, one door out, and the sub-machines behind it.

use crate::assignment::Assignments;
use crate::deployment::Deployment;
use crate::effects::{Effects, JobIds};
use crate::ids::{ModelId, NodeId, Time};
use crate::io::{Command, Event, Input, Output, RequestError};
use crate::limits::{Limits, MODEL_NAME_BYTES_MAX, clip};
use crate::membership::{Lost, Membership};
use crate::message::Message;
use crate::plan::Profile;
use crate::planted::Planted;
use crate::session::origin::{Doubt, Origin, Said};
use crate::session::stages::Stages;

mod rounds;
mod view;

/// What makes a node this one.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its key.
    pub id: NodeId,
    /// Its name for people, cut to 64 bytes.
    pub name: String,
    /// What it takes on at most.
    pub limits: Limits,
}

/// The whole protocol of one node. It only routes: `membership` knows who is here, `deployment`
/// and `assignment` the two sides of plans, `session` the two sides of sequences.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    planted: Planted,
    left: bool,
    job_ids: JobIds,
    membership: Membership,
    deployment: Deployment,
    assignments: Assignments,
    origin: Origin,
    stages: Stages,
}

impl Node {
    /// A node that knows nobody.
    #[must_use]
    pub fn new(config: NodeConfig) -> Self {
        Self::with_planted(config, Planted::default())
    }

    /// A node with a bug planted in it: see [`crate::planted`].
    #[must_use]
    pub fn with_planted(config: NodeConfig, planted: Planted) -> Self {
        let id = config.id;
        Self {
            membership: Membership::new(id, config.name.clone()),
            deployment: Deployment::new(id),
            assignments: Assignments::new(id),
            origin: Origin::new(id),
            stages: Stages::new(id),
            job_ids: JobIds::default(),
            left: false,
            planted,
            config,
        }
    }

    /// Applies `input` at `now` and returns the effects to carry out, in order.
    #[must_use]
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Output> {
        let mut fx = Effects::new(now, self.planted);
        if self.left {
            if let Input::Command(Command::Generate(request)) = input {
                let error = RequestError::Cancelled;
                fx.emit(Event::Failed { request: request.id, error });
            }
            return fx.outputs;
        }
        let limits = self.config.limits.clone();
        self.route(&mut fx, &limits, input);
        self.watch(&fx);
        self.doubt(&mut fx, &limits);
        self.survey(&mut fx, &limits);
        let plans = (&self.deployment, &self.membership);
        self.origin.settle(&mut fx, &mut self.job_ids, &limits, plans);
        fx.outputs
    }

    /// When `handle` must next be called with `Input::Tick`, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if self.left {
            return None;
        }
        let deadlines = [
            self.membership.deadline(),
            self.deployment.deadline(),
            self.assignments.deadline(),
            self.origin.deadline(),
            self.stages.deadline(&self.config.limits),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn route(&mut self, fx: &mut Effects, limits: &Limits, input: Input) {
        match input {
            Input::Tick => self.tick(fx, limits),
            Input::Command(command) => self.command(fx, limits, command),
            Input::Discovered { peer } => self.membership.discovered(fx, limits, peer),
            Input::Connected { peer } => self.membership.connected(fx, limits, peer),
            Input::Disconnected { peer, cause } => {
                if let Some(lost) = self.membership.disconnected(fx, limits, peer, cause) {
                    self.lost(fx, limits, &lost);
                }
            }
            Input::Received { from, message } => self.received(fx, limits, from, message),
            Input::PrepareProgress { model, plan_epoch, bytes_done, bytes_total } => {
                let (at, bytes) = ((model, plan_epoch), (bytes_done, bytes_total));
                self.deployment.progress(fx, limits, self.config.id, at, bytes);
                self.assignments.progress(fx, at, bytes);
            }
            Input::Prepared { model, plan_epoch, result } => {
                let (at, members) = ((model, plan_epoch), &self.membership);
                if self.deployment.served(model).is_some() {
                    self.deployment.prepared(fx, members, limits, self.config.id, at, result);
                } else {
                    self.assignments.prepared(fx, members, limits, at, result);
                }
            }
            Input::Computed { job, result, compute_us } => {
                let job = (job, compute_us);
                if self.origin.runs(job.0) {
                    self.origin.computed(fx, &mut self.job_ids, limits, job, result);
                } else {
                    self.stages.computed(fx, limits, job, result);
                }
            }
        }
    }

    /// What requests found wrong with nodes changes plans.
    fn doubt(&mut self, fx: &mut Effects, limits: &Limits) {
        for suspect in self.membership.take_suspects() {
            self.deployment.silent(fx, &self.membership, limits, suspect);
        }
        for Doubt { model, node, cause } in self.origin.take_doubts() {
            let members = &self.membership;
            match cause {
                Some(cause) => {
                    tracing::warn!(%model, %node, cause, "a stage is suspected");
                    self.deployment.suspect(fx, members, limits, (model, node), cause);
                }
                None => self.deployment.unready(fx, members, limits, (model, node)),
            }
        }
    }

    fn tick(&mut self, fx: &mut Effects, limits: &Limits) {
        let near = || self.deployment.holders().chain(self.assignments.owners()).collect();
        for lost in self.membership.tick(fx, limits, near) {
            self.lost(fx, limits, &lost);
        }
        self.deployment.tick(fx, &self.membership, limits);
        self.assignments.tick(fx, &self.membership);
        self.stages.tick(fx, limits);
        self.origin.tick(fx, &mut self.job_ids, limits);
    }

    fn command(&mut self, fx: &mut Effects, limits: &Limits, command: Command) {
        match command {
            Command::Serve { mut model, policy } => {
                model.name = clip(model.name, MODEL_NAME_BYTES_MAX);
                self.deployment.serve(fx, &self.membership, limits, (model, policy));
            }
            Command::Unserve { model } => self.unserve(fx, model),
            Command::Generate(request) => {
                if self.stages.sessions().contains_key(&request.session) {
                    let error = RequestError::Duplicate;
                    fx.emit(Event::Failed { request: request.id, error });
                } else {
                    self.origin.generate(fx, limits, &self.deployment, request);
                }
            }
            Command::Cancel { request } => self.origin.cancel(fx, request),
            Command::Measured(profile) => {
                self.membership.measured(fx, profile);
                self.deployment.retry(fx, &self.membership, limits);
            }
            Command::Leave => self.leave(fx),
        }
    }

    fn received(&mut self, fx: &mut Effects, limits: &Limits, from: NodeId, message: Message) {
        tracing::trace!(%from, kind = message.kind(), "received");
        if let Message::Hello { name, profile } = message {
            self.hello(fx, limits, from, name, profile);
            return;
        }
        if !self.membership.hears(fx, limits, from, &message) {
            tracing::debug!(%from, kind = message.kind(), "not a member, not heard");
            return;
        }
        match message {
            Message::Hello { .. }
            | Message::Heartbeat { .. }
            | Message::Presence(_)
            | Message::Survey(_) => {}
            Message::Leave => {
                if let Some(lost) = self.membership.left(fx, from) {
                    self.lost(fx, limits, &lost);
                }
            }
            Message::Assign(_)
            | Message::AssignProgress { .. }
            | Message::Assigned { .. }
            | Message::Keep { .. }
            | Message::Unassign { .. } => self.plan_message(fx, limits, from, message),
            Message::Open(_)
            | Message::Opened { .. }
            | Message::Frame(_)
            | Message::Passed { .. }
            | Message::Nack { .. }
            | Message::Reject { .. }
            | Message::Close { .. } => self.session_message(fx, limits, from, message),
        }
    }

    fn hello(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        from: NodeId,
        name: String,
        profile: Profile,
    ) {
        if self.membership.hello(fx, limits, from, name, profile) {
            self.deployment.joined(from);
            self.assignments.joined(fx, &self.membership, from);
        }
        self.deployment.retry(fx, &self.membership, limits);
    }

    fn plan_message(&mut self, fx: &mut Effects, limits: &Limits, from: NodeId, message: Message) {
        let members = &self.membership;
        match message {
            Message::Assign(assign) => {
                let serves = self.deployment.served(assign.model.id).is_some();
                let own = (!serves).then(|| self.deployment.own_bytes());
                let old = self.assignments.assign(fx, members, limits, from, *assign, own);
                if let Some(model) = old {
                    self.stages.drop_model(fx, model);
                }
            }
            Message::AssignProgress { model, plan_epoch, bytes_done, bytes_total } => {
                let (at, bytes) = ((model, plan_epoch), (bytes_done, bytes_total));
                self.deployment.progress(fx, limits, from, at, bytes);
            }
            Message::Assigned { model, plan_epoch, result } => {
                self.deployment.prepared(fx, members, limits, from, (model, plan_epoch), result);
            }
            Message::Unassign { model } => {
                if self.assignments.unassign(fx, from, model) {
                    self.stages.drop_model(fx, model);
                }
            }
            Message::Keep { model, layers } => {
                if let Some(old) = self.assignments.keep(fx, from, (model, layers)) {
                    self.stages.drop_part(fx, model, old);
                }
            }
            Message::Hello { .. }
            | Message::Heartbeat { .. }
            | Message::Presence(_)
            | Message::Survey(_)
            | Message::Leave
            | Message::Open(_)
            | Message::Opened { .. }
            | Message::Frame(_)
            | Message::Passed { .. }
            | Message::Nack { .. }
            | Message::Reject { .. }
            | Message::Close { .. } => {}
        }
    }

    fn session_message(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        from: NodeId,
        message: Message,
    ) {
        let ids = &mut self.job_ids;
        match message {
            Message::Open(open) => {
                // Nobody would ever hear that an origin is lost which is lost already.
                let is_here = self.membership.members().contains_key(&open.origin);
                if is_here && !self.origin.active().contains_key(&open.session) {
                    let profile = self.membership.profile();
                    let taken = self.assignments.weight_bytes();
                    let taken = taken.saturating_add(self.deployment.own_bytes());
                    let room = profile.memory_bytes.saturating_sub(taken);
                    let room = (room, profile.weight_bytes_per_s);
                    self.stages.open(fx, limits, &self.assignments, (from, open), room);
                }
            }
            Message::Frame(frame) => {
                if self.origin.active().contains_key(&frame.session) {
                    let at = (from, (frame.session, frame.epoch));
                    self.origin.received(fx, ids, limits, at, Said::Row(Box::new(frame)));
                } else {
                    self.stages.frame(fx, limits, ids, from, frame);
                }
            }
            Message::Opened { session, epoch, hop } => {
                let at = (from, (session, epoch));
                self.origin.received(fx, ids, limits, at, Said::Opened(hop));
            }
            Message::Passed { session, epoch, to_pos, hops } => {
                let at = (from, (session, epoch));
                self.origin.received(fx, ids, limits, at, Said::Passed(to_pos, hops));
            }
            Message::Nack { session, epoch, len } => {
                let at = (from, (session, epoch));
                self.origin.received(fx, ids, limits, at, Said::Nack(len));
                self.stages.nack(fx, limits, from, (session, epoch, len));
            }
            Message::Reject { session, epoch, why, cause } => {
                let at = (from, (session, epoch));
                self.origin.received(fx, ids, limits, at, Said::Reject(why, cause));
            }
            Message::Close { session } => self.stages.close(fx, from, session),
            Message::Hello { .. }
            | Message::Heartbeat { .. }
            | Message::Presence(_)
            | Message::Survey(_)
            | Message::Leave
            | Message::Assign(_)
            | Message::AssignProgress { .. }
            | Message::Assigned { .. }
            | Message::Keep { .. }
            | Message::Unassign { .. } => {}
        }
    }

    fn lost(&mut self, fx: &mut Effects, limits: &Limits, lost: &Lost) {
        self.stages.lost(fx, lost.peer);
        self.assignments.owner_lost(fx, limits, lost.peer);
        self.deployment.lost(fx, &self.membership, limits, lost);
    }

    fn unserve(&mut self, fx: &mut Effects, model: ModelId) {
        self.origin.unserved(fx, model);
        self.deployment.unserve(fx, model);
    }

    fn leave(&mut self, fx: &mut Effects) {
        self.origin.leave(fx);
        self.stages.drop_all(fx);
        for model in self.deployment.all().keys().copied().collect::<Vec<_>>() {
            self.deployment.unserve(fx, model);
        }
        for &peer in self.membership.members().keys() {
            fx.send(peer, Message::Leave);
        }
        self.left = true;
    }
}
