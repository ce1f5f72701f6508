//! The owner's side of a plan: make it, have it prepared, keep it, mend it.

use std::collections::{BTreeMap, BTreeSet};

use self::excluded::Excluded;
use self::moving::Move;
pub(crate) use self::preparing::Preparation;
use self::watching::Watch;
use crate::effects::Effects;
use crate::ids::{ModelId, NodeId, PlanEpoch, Time};
use crate::io::{Event, Output};
use crate::limits::Limits;
use crate::membership::{Lost, Membership};
use crate::message::Message;
use crate::plan::{LayerRange, ModelInfo, Plan, PlanError, PlanPolicy, Stage};
use crate::planner;
use crate::planted::Bug;

mod excluded;
mod moving;
mod placing;
mod predicting;
mod preparing;
mod reconsidering;
mod surveying;
#[cfg(test)]
pub(crate) mod tests;
mod watching;

/// The models that this node serves.
#[derive(Debug)]
pub(crate) struct Deployment {
    me: NodeId,
    served: BTreeMap<ModelId, Served>,
    /// Nodes between which links are to be measured, for a plan.
    to_survey: BTreeSet<NodeId>,
    /// Of these nodes anew, whatever is known of them.
    in_doubt: BTreeSet<NodeId>,
}

/// One served model.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) model: ModelInfo,
    pub(crate) policy: PlanPolicy,
    pub(crate) state: PlanState,
    /// Epoch of the latest plan.
    epoch: PlanEpoch,
    /// Stages of the latest plan: what is mended when one is lost.
    stages: Vec<Stage>,
    /// Nodes that hold, or are to hold, the range of some stage beside its own node.
    spares: Vec<Stage>,
    /// What nodes have loaded, in their own words; this node's range may be none.
    held: BTreeMap<NodeId, Option<LayerRange>>,
    /// What nodes are loading.
    asked: BTreeMap<NodeId, Preparation>,
    /// Nodes that are not to be used, and why.
    excluded: BTreeMap<NodeId, Excluded>,
    /// The loss that broke the latest plan.
    lost: Option<Lost>,
    /// When the model is placed with what is known of links by then.
    place_by: Option<Time>,
    /// A plan that is to take the place of the one in force.
    coming: Option<Move>,
    /// What rounds showed of nodes and links.
    watch: Watch,
}

/// How far a served model is.
#[derive(Debug)]
pub(crate) enum PlanState {
    /// The members do not hold it; more may come.
    Waiting {
        /// Until when.
        until: Time,
    },
    /// Stages fetch and load.
    Preparing(Plan),
    /// In force.
    Ready(Plan),
    /// Not to be placed with these members.
    Failed(PlanError),
}

impl Deployment {
    pub(crate) const fn new(me: NodeId) -> Self {
        Self { me, served: BTreeMap::new(), to_survey: BTreeSet::new(), in_doubt: BTreeSet::new() }
    }

    pub(crate) fn served(&self, model: ModelId) -> Option<&Served> {
        self.served.get(&model)
    }

    pub(crate) const fn all(&self) -> &BTreeMap<ModelId, Served> {
        &self.served
    }

    /// Nodes that hold parts for this one, or are to.
    pub(crate) fn holders(&self) -> impl Iterator<Item = NodeId> {
        self.served.values().flat_map(Served::nodes)
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
                    PlanState::Preparing(_) => {}
                    PlanState::Failed(_) => served.state = PlanState::Waiting { until },
                }
            } else {
                served.give_up(fx, self.me, "it is to be placed otherwise");
                served.watch = Watch::default();
                served.model = model;
                served.policy = policy;
                served.stages.clear();
                served.state = PlanState::Waiting { until };
            }
            served.excluded.clear();
        } else {
            self.served.insert(id, Served::new(model, policy, until));
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
    /// has passed, and to find spares for what is in force.
    pub(crate) fn retry(&mut self, fx: &mut Effects, members: &Membership, limits: &Limits) {
        for id in self.served.keys().copied().collect::<Vec<_>>() {
            match self.served[&id].state {
                PlanState::Waiting { .. } | PlanState::Failed(_) => {
                    self.place(fx, members, limits, id);
                }
                PlanState::Ready(_) => {
                    self.relieve(fx, members, limits, id);
                    self.seek_spares(fx, members, limits, id);
                    self.reconsider(fx, members, limits, id);
                }
                PlanState::Preparing(_) => {}
            }
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
        for id in self.served.keys().copied().collect::<Vec<_>>() {
            if let Some(served) = self.served.get_mut(&id) {
                served.forget(fx, self.me, lost.peer);
                served.lost = served.lost.take().or_else(|| {
                    let holds = served.stages.iter().any(|stage| stage.node == lost.peer);
                    holds.then(|| lost.clone())
                });
            }
            self.mend(fx, members, limits, id, lost.peer);
        }
    }

    /// A node does not hold the part that it said it held: it is asked again.
    pub(crate) fn unready(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        (model, node): (ModelId, NodeId),
    ) {
        if let Some(served) = self.served.get_mut(&model) {
            served.held.remove(&node);
            self.mend(fx, members, limits, model, node);
        }
    }

    pub(crate) fn tick(&mut self, fx: &mut Effects, members: &Membership, limits: &Limits) {
        let mut stalled = Vec::new();
        let (mut due, mut readmitted, mut in_force) = (Vec::new(), Vec::new(), Vec::new());
        for (&id, served) in &mut self.served {
            served.stalls(fx, self.me);
            let is_ready = matches!(served.state, PlanState::Ready(_));
            if is_ready && served.is_to_be_looked_at(fx.now) {
                in_force.push(id);
            }
            if served.readmit(fx.now) {
                readmitted.push(id);
            }
            let is_over = match served.state {
                PlanState::Waiting { until } => until <= fx.now || !served.excluded.is_empty(),
                PlanState::Preparing(_) | PlanState::Ready(_) | PlanState::Failed(_) => false,
            };
            if is_over || !is_ready && served.place_by.is_some_and(|by| by <= fx.now) {
                due.push(id);
            }
            let late = served.asked.iter().filter(|(_, asked)| asked.stalls_at <= fx.now);
            stalled.extend(late.map(|(&node, _)| (id, node)));
        }
        for id in due {
            self.place(fx, members, limits, id);
        }
        for id in readmitted {
            self.seek_spares(fx, members, limits, id);
        }
        for id in in_force {
            self.reconsider(fx, members, limits, id);
        }
        for stalled in stalled {
            let cause = format!("no progress within {} µs", limits.prepare_stall_us);
            self.exclude(fx, members, limits, stalled, cause);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let times = self.served.values().flat_map(|served| {
            let waiting = match served.state {
                PlanState::Waiting { until } => Some(until),
                PlanState::Ready(_) => {
                    served.next_readmitted().into_iter().chain(served.watch.look_at).min()
                }
                PlanState::Preparing(_) | PlanState::Failed(_) => None,
            };
            let stalls = served.asked.values().map(|asked| asked.stalls_at);
            let coming = served.coming.iter().flat_map(|coming| coming.asked.values());
            let stalls = stalls.chain(coming.map(|asked| asked.stalls_at));
            waiting.into_iter().chain(served.place_by).chain(stalls)
        });
        times.min()
    }
}

impl Served {
    fn new(model: ModelInfo, policy: PlanPolicy, until: Time) -> Self {
        Self {
            model,
            policy,
            state: PlanState::Waiting { until },
            epoch: PlanEpoch(0),
            stages: Vec::new(),
            spares: Vec::new(),
            held: BTreeMap::new(),
            asked: BTreeMap::new(),
            excluded: BTreeMap::new(),
            lost: None,
            place_by: None,
            coming: None,
            watch: Watch::default(),
        }
    }

    /// Stages of the latest plan that are not ready, with how far they are.
    pub(crate) fn pending(&self) -> impl Iterator<Item = (NodeId, Preparation)> {
        let spare = |node: &NodeId| self.spares.iter().any(|spare| spare.node == *node);
        let asked = self.asked.iter().filter(move |(node, _)| !spare(node));
        asked.map(|(&node, &asked)| (node, asked))
    }

    /// Puts the plan in force once all its stages are ready.
    fn settle(&mut self, fx: &mut Effects, me: NodeId) {
        let PlanState::Preparing(plan) = &self.state else { return };
        let mut others = plan.stages.iter().filter(|stage| stage.node != me);
        let ready = self.held.contains_key(&me)
            && others.all(|stage| self.held.get(&stage.node) == Some(&Some(stage.layers)));
        if ready || fx.planted.has(Bug::ReadyTooEarly) {
            let (model, epoch) = (plan.model, plan.epoch);
            tracing::info!(%model, ?epoch, stages = plan.stages.len(), "plan ready");
            let plan = plan.clone();
            fx.emit(Event::PlanReady { plan: plan.clone() });
            self.lost = None;
            self.state = PlanState::Ready(plan);
        }
    }

    /// What a node held or was to hold is gone.
    fn forget(&mut self, fx: &mut Effects, me: NodeId, node: NodeId) {
        if self.coming.as_ref().is_some_and(|coming| coming.plan.hop_of(node).is_some()) {
            self.give_up(fx, me, "a node of it is lost");
        }
        self.watch.forget(node);
        self.held.remove(&node);
        self.asked.remove(&node);
        self.spares.retain(|spare| spare.node != node);
    }

    /// Nodes that hold something or are asked to, the owner perhaps among them.
    fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        let coming = self.coming.iter().flat_map(|coming| &coming.plan.stages);
        let known = self.held.keys().chain(self.asked.keys()).copied();
        let nodes: BTreeSet<NodeId> = known.chain(coming.map(|stage| stage.node)).collect();
        nodes.into_iter()
    }

    /// Bytes that the latest plan takes on `node`.
    fn bytes_on(&self, node: NodeId, owner: NodeId) -> u64 {
        let ends = if node == owner && self.epoch > PlanEpoch(0) {
            self.model.embed_bytes.saturating_add(self.model.head_bytes)
        } else {
            0
        };
        let mut all = self.stages.iter().chain(&self.spares);
        let stage = all.find(|stage| stage.node == node);
        let layers = stage.map_or(0, |stage| self.model.part_bytes(stage.layers, self.positions()));
        let coming = self.coming.as_ref().and_then(|coming| coming.plan.layers_of(node));
        let more = coming.map_or(0, |layers| self.model.part_bytes(layers, 0));
        ends.saturating_add(layers).saturating_add(more)
    }

    /// Positions of all sessions together.
    fn positions(&self) -> u64 {
        u64::from(planner::context(&self.model, &self.policy))
            .saturating_mul(self.policy.sessions.max(1).into())
    }
}
