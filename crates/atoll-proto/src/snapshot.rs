//! A node's state for people: what `status` and the simulator look at.

use crate::ids::{Epoch, ModelId, NodeId, SessionId, Time};
use crate::plan::{LayerRange, Plan, PlanError, Profile};
use crate::planner::LinkFigures;

/// What a node knows and does at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Members, this node not among them.
    pub peers: Vec<Peer>,
    /// Models that this node serves.
    pub served: Vec<ServedModel>,
    /// Parts that this node holds for other owners.
    pub held: Vec<HeldPart>,
    /// Requests of this node that have not started.
    pub requests_waiting: usize,
    /// Sessions that this node is the origin of.
    pub sessions: Vec<SessionId>,
    /// Sessions that this node is a stage of.
    pub stage_sessions: Vec<StageView>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// Its chosen name.
    pub name: String,
    /// What it can carry.
    pub profile: Profile,
    /// When it was last heard.
    pub last_heard: Time,
    /// It is silent, and others do not hear it either.
    pub is_suspected: bool,
}

/// A served model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedModel {
    /// Which.
    pub model: ModelId,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: ServedState,
}

/// How far a served model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServedState {
    /// More members are needed.
    Waiting,
    /// Stages fetch and load; those that have not finished, with bytes done and needed.
    Preparing(Plan, Vec<(NodeId, u64, u64)>),
    /// In force.
    Ready(Plan),
    /// Cannot be placed.
    Failed(PlanError),
}

/// What tokens of a plan in force should take, by what is known of its nodes and links, and what
/// those of the latest session took that was alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Positions in the cache for which a token is predicted.
    pub positions: u32,
    /// A token's way around the ring, µs.
    pub token_us: u64,
    /// The median of the latest that were looked at, µs.
    pub measured_token_us: Option<u64>,
    /// Tokens of a prompt for which the first token is predicted.
    pub prompt_tokens: u32,
    /// From such a prompt to its first token, µs.
    pub first_token_us: u64,
    /// What each node computes for a token, the owner first, then in ring order.
    pub nodes: Vec<NodeTiming>,
}

/// What a node computes for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeTiming {
    /// Which.
    pub node: NodeId,
    /// What it should take, µs.
    pub predicted_us: u64,
    /// The median of the latest that were looked at, µs.
    pub measured_us: Option<u64>,
}

/// What is known of the link from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// From here.
    pub from: NodeId,
    /// To there.
    pub to: NodeId,
    /// What was measured, by this node or by one of the two.
    pub figures: LinkFigures,
}

/// A part held for another node's plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPart {
    /// Of which model.
    pub model: ModelId,
    /// Its name.
    pub name: String,
    /// The plan's owner.
    pub owner: NodeId,
    /// Which layers.
    pub layers: LayerRange,
    /// Whether it is loaded and its owner knows.
    pub ready: bool,
}

/// A session at a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageView {
    /// Which.
    pub session: SessionId,
    /// In which epoch.
    pub epoch: Epoch,
    /// Positions taken into the KV cache.
    pub len: u32,
    /// Bytes that the KV cache may grow to.
    pub kv_bytes: u64,
}
