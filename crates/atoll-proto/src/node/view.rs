//! A node's state for people.

use super::Node;
use crate::assignment::PartState;
use crate::deployment::PlanState;
use crate::ids::{ModelId, NodeId, Time};
use crate::planner::{LinkFigures, Offer};
use crate::snapshot::{
    HeldPart, LinkView, Peer, ServedModel, ServedState, Snapshot, StageView, Timing,
};

/// Far more than an owner has measured for a plan.
const LINKED_MAX: usize = 64;

impl Node {
    /// What tokens of the model that this node serves should take, and took; `None` without a plan
    /// in force.
    #[must_use]
    pub fn timing(&self, model: ModelId) -> Option<Timing> {
        self.deployment.timing(&self.membership, model)
    }

    /// The nodes that a model which is to be served here could be placed on now; `None` if it is
    /// not.
    #[must_use]
    pub fn offer(&self, now: Time, model: ModelId) -> Option<Offer> {
        self.deployment.offer(now, &self.membership, model)
    }

    /// What is known of the links between this node and the members to which it has measured its
    /// own, at most 64 of them, and between those.
    #[must_use]
    pub fn links(&self) -> Vec<LinkView> {
        let measured = self.membership.measured_links().take(LINKED_MAX);
        let nodes: Vec<NodeId> = std::iter::once(self.config.id).chain(measured).collect();
        let pairs = nodes.iter().flat_map(|from| nodes.iter().map(move |to| (*from, *to)));
        let views = pairs.filter(|(from, to)| from != to).map(|(from, to)| LinkView {
            from,
            to,
            figures: self.membership.link(from, to),
        });
        views.filter(|view| view.figures != LinkFigures::default()).collect()
    }

    /// What the node knows and does now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let peers = self.membership.members().iter().map(|(&node, member)| Peer {
            node,
            name: member.name.clone(),
            profile: member.profile.clone(),
            last_heard: member.last_heard,
            is_suspected: self.membership.suspects(node),
        });
        let served = self.deployment.all().iter().map(|(&model, served)| ServedModel {
            model,
            name: served.model.name.clone(),
            state: match &served.state {
                PlanState::Waiting { .. } => ServedState::Waiting,
                PlanState::Preparing(plan) => {
                    let pending = served.pending().map(|(n, p)| (n, p.bytes_done, p.bytes_total));
                    ServedState::Preparing(plan.clone(), pending.collect())
                }
                PlanState::Ready(plan) => ServedState::Ready(plan.clone()),
                PlanState::Failed(error) => ServedState::Failed(error.clone()),
            },
        });
        let held = self.assignments.all().iter().map(|(&model, held)| HeldPart {
            model,
            name: held.model.name.clone(),
            owner: held.plan.owner,
            layers: held.layers,
            ready: held.state == PartState::Ready,
        });
        let stage_sessions = self.stages.sessions().iter().map(|(&session, held)| StageView {
            session,
            epoch: held.open.epoch,
            len: held.len,
            kv_bytes: held.kv_bytes(),
        });
        Snapshot {
            peers: peers.collect(),
            served: served.collect(),
            held: held.collect(),
            requests_waiting: self.origin.n_waiting(),
            sessions: self.origin.active().keys().copied().collect(),
            stage_sessions: stage_sessions.collect(),
        }
    }
}
