//! The owner's side of a plan: make it, have it prepared, keep it, make it again.

use std::collections::BTreeMap;

use crate::effects::Effects;
use crate::ids::{ModelId, NodeId, PlanEpoch, Time};
use crate::io::{Event, Output, Part};
use crate::limits::{CAUSE_BYTES_MAX, Limits, clip};
use crate::membership::{Lost, Membership};
use crate::message::Message;
use crate::plan::{ModelInfo, Plan, PlanError, PlanPolicy, Stage};
use crate::planner::{self, Candidate};
use crate::planted::Bug;

/// The models that this node serves.
#[derive(Debug)]
pub(crate) struct Deployment {
    me: NodeId,
    served: BTreeMap<ModelId, Served>,
}

/// One served model.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) model: ModelInfo,
    pub(crate) policy: PlanPolicy,
    pub(crate) state: PlanState,
    /// Epoch of the latest plan.
    epoch: PlanEpoch,
    /// Nodes that hold a part of the latest plan, this one perhaps among them.
    placed: Vec<Stage>,
    /// Nodes that could not prepare their part, and why.
    excluded: BTreeMap<NodeId, String>,
    /// The loss that broke the latest plan.
    lost: Option<Lost>,
}

/// How far a served model is.
#[derive(Debug)]
pub(crate) enum PlanState {
    /// The members do not hold it; more may come.
    Waiting {
        /// Until when.
        until: Time,
    },
    /// The stages fetch and load.
    Preparing {
        /// What is being prepared.
        plan: Plan,
        /// Who is not ready yet.
        pending: BTreeMap<NodeId, Preparation>,
    },
    /// In force.
    Ready(Plan),
    /// Not to be placed with these members.
    Failed(PlanError),
}

/// One node on its way to being ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preparation {
    pub(crate) bytes_done: u64,
    pub(crate) bytes_total: u64,
    stalls_at: Time,
}

impl Deployment {
    pub(crate) const fn new(me: NodeId) -> Self {
        Self { me, served: BTreeMap::new() }
    }

    pub(crate) fn served(&self, model: ModelId) -> Option<&Served> {
        self.served.get(&model)
    }

    pub(crate) const fn all(&self) -> &BTreeMap<ModelId, Served> {
        &self.served
    }

    /// Bytes that this node's own parts of served models take.
    pub(crate) fn own_bytes(&self) -> u64 {
        self.served.values().map(|served| served.bytes_on(self.me, self.me)).sum()
    }

    pub(crate) fn serve(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        (model, policy): (ModelInfo, PlanPolicy),
    ) {
        let id = model.id;
        let until = fx.now.after_us(policy.wait_us);
        if let Some(served) = self.served.get_mut(&id) {
            if served.policy == policy && served.model == model {
                match &mut served.state {
                    PlanState::Ready(plan) => fx.emit(Event::PlanReady { plan: plan.clone() }),
                    PlanState::Waiting { until: old } => *old = until,
                    PlanState::Preparing { .. } => {}
                    PlanState::Failed(_) => served.state = PlanState::Waiting { until },
                }
            } else {
                served.model = model;
                served.policy = policy;
                served.state = PlanState::Waiting { until };
            }
            served.excluded.clear();
        } else {
            let served = Served {
                model,
                policy,
                state: PlanState::Waiting { until },
                epoch: PlanEpoch(0),
                placed: Vec::new(),
                excluded: BTreeMap::new(),
                lost: None,
            };
            self.served.insert(id, served);
        }
        self.retry(fx, members, limits);
    }

    pub(crate) fn unserve(&mut self, fx: &mut Effects, model: ModelId) -> bool {
        let Some(served) = self.served.remove(&model) else { return false };
        for node in served.nodes().filter(|&node| node != self.me) {
            fx.send(node, Message::Unassign { model });
        }
        if served.epoch > PlanEpoch(0) {
            fx.push(Output::Unload { model });
        }
        true
    }

    /// Tries to place what waits or failed, since members or their profiles have changed or time
    /// has passed.
    pub(crate) fn retry(&mut self, fx: &mut Effects, members: &Membership, limits: &Limits) {
        let open = |served: &Served| match served.state {
            PlanState::Waiting { .. } | PlanState::Failed(_) => true,
            PlanState::Preparing { .. } | PlanState::Ready(_) => false,
        };
        let ids = self.served.iter().filter(|(_, served)| open(served)).map(|(id, _)| *id);
        for id in ids.collect::<Vec<_>>() {
            self.place(fx, members, limits, id);
        }
    }

    /// A peer has (again) said its first hello: what kept it from preparing may be gone.
    pub(crate) fn joined(&mut self, peer: NodeId) {
        for served in self.served.values_mut() {
            served.excluded.remove(&peer);
        }
    }

    pub(crate) fn lost(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        lost: &Lost,
    ) {
        for served in self.served.values_mut() {
            let plan = match &served.state {
                PlanState::Preparing { plan, .. } | PlanState::Ready(plan) => plan,
                PlanState::Waiting { .. } | PlanState::Failed(_) => continue,
            };
            if plan.hop_of(lost.peer).is_some() {
                served.lost = Some(lost.clone());
                let until = fx.now.after_us(served.policy.wait_us);
                served.state = PlanState::Waiting { until };
            }
        }
        self.retry(fx, members, limits);
    }

    /// A node of a plan reports how far it is.
    pub(crate) fn progress(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        node: NodeId,
        (model, epoch): (ModelId, PlanEpoch),
        (bytes_done, bytes_total): (u64, u64),
    ) {
        let Some(served) = self.served.get_mut(&model) else { return };
        let PlanState::Preparing { plan, pending } = &mut served.state else { return };
        let Some(preparation) = pending.get_mut(&node) else { return };
        if plan.epoch != epoch {
            return;
        }
        if bytes_done > preparation.bytes_done {
            preparation.stalls_at = fx.now.after_us(limits.prepare_stall_us);
        }
        preparation.bytes_done = preparation.bytes_done.max(bytes_done);
        preparation.bytes_total = bytes_total;
        fx.emit(Event::PlanProgress { plan: plan.clone(), node, bytes_done, bytes_total });
    }

    /// A node of a plan is ready, or cannot be.
    pub(crate) fn prepared(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        node: NodeId,
        (model, epoch): (ModelId, PlanEpoch),
        result: Result<(), String>,
    ) {
        let Some(served) = self.served.get_mut(&model) else { return };
        let PlanState::Preparing { plan, pending } = &mut served.state else { return };
        if plan.epoch != epoch || !pending.contains_key(&node) {
            return;
        }
        match result {
            Ok(()) => {
                pending.remove(&node);
                if pending.is_empty() || fx.planted.has(Bug::ReadyTooEarly) {
                    tracing::info!(%model, ?epoch, stages = plan.stages.len(), "plan ready");
                    fx.emit(Event::PlanReady { plan: plan.clone() });
                    served.lost = None;
                    served.state = PlanState::Ready(plan.clone());
                }
            }
            Err(cause) => self.exclude(fx, members, limits, (model, node), cause),
        }
    }

    pub(crate) fn tick(&mut self, fx: &mut Effects, members: &Membership, limits: &Limits) {
        let mut stalled = Vec::new();
        let mut due = Vec::new();
        for (&id, served) in &self.served {
            match &served.state {
                PlanState::Waiting { until } if *until <= fx.now => due.push(id),
                PlanState::Preparing { pending, .. } => stalled.extend(
                    pending
                        .iter()
                        .filter(|(_, preparation)| preparation.stalls_at <= fx.now)
                        .map(|(&node, _)| (id, node)),
                ),
                PlanState::Waiting { .. } | PlanState::Ready(_) | PlanState::Failed(_) => {}
            }
        }
        for id in due {
            self.place(fx, members, limits, id);
        }
        for stalled in stalled {
            let cause = format!("no progress within {} µs", limits.prepare_stall_us);
            self.exclude(fx, members, limits, stalled, cause);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let times = self.served.values().filter_map(|served| match &served.state {
            PlanState::Waiting { until } => Some(*until),
            PlanState::Preparing { pending, .. } => pending.values().map(|p| p.stalls_at).min(),
            PlanState::Ready(_) | PlanState::Failed(_) => None,
        });
        times.min()
    }

    /// Plans again without a node that could not prepare its part.
    fn exclude(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        (model, node): (ModelId, NodeId),
        cause: String,
    ) {
        let Some(served) = self.served.get_mut(&model) else { return };
        let cause = clip(cause, CAUSE_BYTES_MAX);
        tracing::warn!(%model, %node, cause, "a node could not prepare its part");
        served.excluded.insert(node, cause);
        served.state = PlanState::Waiting { until: fx.now };
        self.place(fx, members, limits, model);
    }

    fn place(&mut self, fx: &mut Effects, members: &Membership, limits: &Limits, id: ModelId) {
        let free = |node: NodeId, memory_bytes: u64| {
            let others = self.served.iter().filter(|(other, _)| **other != id);
            let taken: u64 = others.map(|(_, served)| served.bytes_on(node, self.me)).sum();
            memory_bytes.saturating_sub(taken)
        };
        let Some(served) = self.served.get(&id) else { return };
        let owner = Candidate {
            node: self.me,
            memory_bytes: free(self.me, members.profile().memory_bytes),
            weight_bytes_per_s: members.profile().weight_bytes_per_s,
        };
        let usable =
            members.members().iter().filter(|(peer, _)| !served.excluded.contains_key(peer));
        let others: Vec<_> = usable
            .map(|(&node, member)| Candidate {
                node,
                memory_bytes: free(node, member.profile.memory_bytes),
                weight_bytes_per_s: member.profile.weight_bytes_per_s,
            })
            .collect();
        let placed = match served.excluded.get(&self.me) {
            Some(cause) => Err(PlanError::Prepare { node: self.me, cause: cause.clone() }),
            None => planner::place(&served.model, &served.policy, owner, &others),
        };
        match placed {
            Ok(stages) => self.assign(fx, limits, id, stages),
            Err(error) => self.not_placed(fx, id, error),
        }
    }

    fn not_placed(&mut self, fx: &mut Effects, id: ModelId, error: PlanError) {
        let Some(served) = self.served.get_mut(&id) else { return };
        let PlanState::Waiting { until } = served.state else { return };
        if until > fx.now {
            return;
        }
        let error = match (served.excluded.iter().next(), served.lost.take()) {
            (Some((&node, cause)), _) => PlanError::Prepare { node, cause: cause.clone() },
            (None, Some(Lost { peer, cause })) => {
                PlanError::NodeLost { node: peer, cause: format!("{cause}; without it {error}") }
            }
            (None, None) => error,
        };
        tracing::warn!(model = %id, %error, "no plan");
        fx.emit(Event::PlanFailed { model: id, error: error.clone() });
        served.state = PlanState::Failed(error);
    }

    fn assign(&mut self, fx: &mut Effects, limits: &Limits, id: ModelId, stages: Vec<Stage>) {
        let me = self.me;
        let Some(served) = self.served.get_mut(&id) else { return };
        for node in served.nodes().filter(|&node| node != me) {
            if !stages.iter().any(|stage| stage.node == node) {
                fx.send(node, Message::Unassign { model: id });
            }
        }
        served.epoch.0 = served.epoch.0.saturating_add(1);
        let plan = Plan {
            model: id,
            epoch: served.epoch,
            owner: me,
            stages,
            context: planner::context(&served.model, &served.policy),
        };
        let stalls_at = fx.now.after_us(limits.prepare_stall_us);
        let preparation = Preparation { bytes_done: 0, bytes_total: 0, stalls_at };
        let mut pending = BTreeMap::from([(me, preparation)]);
        let own = plan.stages.iter().find(|stage| stage.node == me).map(|stage| stage.layers);
        fx.push(Output::Prepare {
            model: id,
            plan_epoch: plan.epoch,
            part: Part { layers: own, embed: true, head: true },
            holders: Vec::new(),
        });
        for stage in plan.stages.iter().filter(|stage| stage.node != me) {
            pending.insert(stage.node, preparation);
            let part = Part { layers: Some(stage.layers), embed: false, head: false };
            let (plan, model) = (plan.clone(), served.model.clone());
            let message = Message::Assign { plan, model, part, holders: vec![me] };
            fx.send(stage.node, message);
        }
        tracing::info!(model = %id, epoch = plan.epoch.0, stages = plan.stages.len(), "plan made");
        served.placed.clone_from(&plan.stages);
        served.state = PlanState::Preparing { plan, pending };
    }
}

impl Served {
    /// Nodes of the latest plan.
    fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.placed.iter().map(|stage| stage.node)
    }

    /// Bytes that the latest plan takes on `node`.
    fn bytes_on(&self, node: NodeId, owner: NodeId) -> u64 {
        let ends = if node == owner && self.epoch > PlanEpoch(0) {
            self.model.embed_bytes.saturating_add(self.model.head_bytes)
        } else {
            0
        };
        let stage = self.placed.iter().find(|stage| stage.node == node);
        let positions = u64::from(planner::context(&self.model, &self.policy))
            .saturating_mul(self.policy.sessions.max(1).into());
        let layers = stage.map_or(0, |stage| self.model.part_bytes(stage.layers, positions));
        ends.saturating_add(layers)
    }
}
