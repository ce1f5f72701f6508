//! What a node tells whoever listens: names instead of keys.

use std::collections::BTreeMap;

use atoll_proto::plan::{Plan, PlanError};
use atoll_proto::{Event, ModelId, NodeId};
use serde::{Deserialize, Serialize};

use crate::identity;
use crate::net::swarm::Search;

/// What nodes call themselves.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<NodeId, String>);

impl Names {
    pub(crate) fn insert(&mut self, node: NodeId, name: String) {
        self.0.insert(node, name);
    }

    /// A node's name, or its id as libp2p writes it.
    pub(crate) fn of(&self, node: NodeId) -> String {
        self.0.get(&node).cloned().unwrap_or_else(|| id_text(node))
    }
}

/// A node's id as libp2p writes it: `12D3Koo…`.
pub(crate) fn id_text(node: NodeId) -> String {
    identity::peer_id(&node).map_or_else(|| node.to_string(), |peer| peer.to_string())
}

/// One stage of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageView {
    /// The node's name.
    pub node: String,
    /// Its layers: first, and one past the last.
    pub layers: [u16; 2],
}

/// A plan's stages, with names.
pub(crate) fn stages_of(plan: &Plan, names: &Names) -> Vec<StageView> {
    plan.stages
        .iter()
        .map(|stage| StageView {
            node: names.of(stage.node),
            layers: [stage.layers.start, stage.layers.end],
        })
        .collect()
}

/// News of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum NodeEvent {
    /// A member said hello.
    PeerJoined {
        /// Its chosen name.
        name: String,
        /// Its id.
        id: String,
    },
    /// A member left or was lost.
    PeerLeft {
        /// Its chosen name.
        name: String,
        /// Its id.
        id: String,
        /// How we know.
        cause: String,
    },
    /// A file is being cut into blobs and stored.
    Import {
        /// The model's name.
        model: String,
        /// Bytes stored.
        bytes_done: u64,
        /// Bytes to store.
        bytes_total: u64,
    },
    /// A node is fetching or loading its part of a model.
    Progress {
        /// The node's name.
        node: String,
        /// The model's id.
        model: String,
        /// Bytes it has.
        bytes_done: u64,
        /// Bytes it needs.
        bytes_total: u64,
    },
    /// A model can be used.
    PlanReady {
        /// The model's id.
        model: String,
        /// Who holds what.
        stages: Vec<StageView>,
        /// Positions per session.
        context: u32,
    },
    /// A model cannot be placed (any more).
    PlanFailed {
        /// The model's id.
        model: String,
        /// What is missing.
        error: String,
    },
    /// Nobody has been met for some seconds.
    Alone {
        /// What was tried and heard.
        search: Search,
    },
    /// The node cannot go on.
    Fatal {
        /// Why.
        error: String,
    },
}

impl NodeEvent {
    /// The core's news in words; none for the events of a request.
    pub(crate) fn of(event: &Event, names: &Names) -> Option<Self> {
        let text = |model: &ModelId| model.to_string();
        let event = match event {
            Event::PeerJoined { peer, name } => {
                Self::PeerJoined { name: name.clone(), id: id_text(*peer) }
            }
            Event::PeerLeft { peer, cause } => {
                Self::PeerLeft { name: names.of(*peer), id: id_text(*peer), cause: cause.clone() }
            }
            Event::PlanProgress { plan, node, bytes_done, bytes_total } => Self::Progress {
                node: names.of(*node),
                model: text(&plan.model),
                bytes_done: *bytes_done,
                bytes_total: *bytes_total,
            },
            Event::PlanReady { plan } => Self::PlanReady {
                model: text(&plan.model),
                stages: stages_of(plan, names),
                context: plan.context,
            },
            Event::PlanFailed { model, error } => {
                Self::PlanFailed { model: text(model), error: words(error, names) }
            }
            Event::PeerSuspected { .. }
            | Event::Prefilled { .. }
            | Event::Token { .. }
            | Event::Parked { .. }
            | Event::Finished { .. }
            | Event::Failed { .. } => return None,
        };
        Some(event)
    }
}

/// A plan's error with names where it has keys.
fn words(error: &PlanError, names: &Names) -> String {
    let named = |text: String, node: &NodeId| text.replace(&node.to_string(), &names.of(*node));
    match error {
        PlanError::Prepare { node, .. } | PlanError::NodeLost { node, .. } => {
            named(error.to_string(), node)
        }
        PlanError::NoRoom { .. }
        | PlanError::TooFewNodes { .. }
        | PlanError::TooFewLayers { .. } => error.to_string(),
    }
}
