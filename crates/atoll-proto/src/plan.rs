//! Who holds which layers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{ModelId, NodeId, PlanEpoch};
use crate::planner::Candidate;

/// Layers `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LayerRange {
    /// First layer.
    pub start: u16,
    /// One past the last layer.
    pub end: u16,
}

impl LayerRange {
    /// How many layers; 0 for a range that ends before it starts.
    #[must_use]
    pub fn len(self) -> usize {
        usize::from(self.end.saturating_sub(self.start))
    }

    /// Whether there is no layer in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for LayerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// What planning needs to know of a model; follows from its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The manifest's hash.
    pub id: ModelId,
    /// For people.
    pub name: String,
    /// Weight bytes of each layer.
    pub layer_bytes: Vec<u64>,
    /// Bytes of the token embedding.
    pub embed_bytes: u64,
    /// Bytes of the head beyond the embedding (0 or little when tied).
    pub head_bytes: u64,
    /// KV cache bytes of one position in one layer.
    pub kv_bytes_per_position: u32,
    /// Values of one activation row.
    pub row_values: u32,
    /// Longest context that the model was made for.
    pub context_max: u32,
}

impl ModelInfo {
    /// Bytes of the weights of `layers` and of `positions` in their KV caches, saturating.
    #[must_use]
    pub fn part_bytes(&self, layers: LayerRange, positions: u64) -> u64 {
        let range = usize::from(layers.start)..usize::from(layers.end);
        let weights = self.layer_bytes.get(range).unwrap_or(&[]);
        let kv = u64::from(self.kv_bytes_per_position)
            .saturating_mul(positions)
            .saturating_mul(layers.len() as u64);
        weights.iter().fold(kv, |sum, &bytes| sum.saturating_add(bytes))
    }
}

impl ModelInfo {
    /// Bytes that a node needs while it holds one range and another beside it: the weights of both,
    /// and the caches of so many positions of whichever has larger ones; saturating.
    pub(crate) fn beside_bytes(&self, ranges: [Option<LayerRange>; 2], positions: u64) -> u64 {
        let bytes = |positions: u64| {
            ranges.map(|range| range.map_or(0, |range| self.part_bytes(range, positions)))
        };
        let (weights, all) = (bytes(0), bytes(positions));
        let caches = [0, 1].map(|i| all[i] - weights[i]);
        weights[0].saturating_add(weights[1]).saturating_add(caches[0].max(caches[1]))
    }

    /// Predicted time of one position through `layers`, µs; an unmeasured speed counts as slow.
    #[must_use]
    pub fn row_us(&self, layers: LayerRange, weight_bytes_per_s: u64) -> u64 {
        /// What is assumed of a node that has not measured itself.
        const UNMEASURED_BYTES_PER_S: u64 = 100_000_000;
        let speed =
            if weight_bytes_per_s == 0 { UNMEASURED_BYTES_PER_S } else { weight_bytes_per_s };
        let us = u128::from(self.part_bytes(layers, 0)) * 1_000_000 / u128::from(speed);
        u64::try_from(us).unwrap_or(u64::MAX)
    }
}

/// What a node can carry, as it measured itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Memory that Atoll may use.
    pub memory_bytes: u64,
    /// Weight bytes that its kernels take through a token per second.
    pub weight_bytes_per_s: u64,
    /// The same for each row of a prompt's chunk, of which many go through together; 0: not
    /// measured.
    pub prefill_bytes_per_s: u64,
}

/// How a model is to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanPolicy {
    /// Exactly so many stages on so many nodes; `None`: as many as take the least time per token.
    pub stages: Option<u16>,
    /// Positions per session to leave room for.
    pub context: u32,
    /// Sessions at once to leave room for.
    pub sessions: u16,
    /// Nodes that hold each stage's range beside its own, where nodes and memory allow: 0 or 1.
    pub spares: u16,
    /// How long to wait for enough nodes before `Event::PlanFailed`.
    pub wait_us: u64,
    /// A rule of one's own in place of [`crate::planner`]'s.
    pub rule: Option<PlaceRule>,
}

impl PlanPolicy {
    /// Whether stages are as many, and where, as take the least time per token.
    pub(crate) const fn is_by_time(&self) -> bool {
        self.stages.is_none() && self.rule.is_none()
    }
}

/// Where each layer goes, given the model, the policy, the owner and the other nodes that there
/// are: the arguments and result of [`crate::planner::place`], which checks what it gives. Equal
/// rules are the same function.
#[derive(Clone, Copy, Debug)]
pub struct PlaceRule(pub Place);

/// The shape of [`crate::planner::place`].
pub type Place =
    fn(&ModelInfo, &PlanPolicy, Candidate, &[Candidate]) -> Result<Vec<Stage>, PlanError>;

impl PartialEq for PlaceRule {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for PlaceRule {}

/// One contiguous range of layers on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Where.
    pub node: NodeId,
    /// What.
    pub layers: LayerRange,
}

/// A placement of a whole model: each layer exactly once, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Of which model.
    pub model: ModelId,
    /// Its version at the owner.
    pub epoch: PlanEpoch,
    /// The node that serves the model. Holds embedding and head, and is the origin of its sessions.
    pub owner: NodeId,
    /// In ring order.
    pub stages: Vec<Stage>,
    /// Nodes that hold, or load, the range of a stage too and can take its place.
    pub spares: Vec<Stage>,
    /// Positions per session that every stage has room for.
    pub context: u32,
}

impl Plan {
    /// The position of `node` in the ring.
    #[must_use]
    pub fn hop_of(&self, node: NodeId) -> Option<usize> {
        self.stages.iter().position(|stage| stage.node == node)
    }

    /// What `node` holds, as a stage or as a spare.
    #[must_use]
    pub fn layers_of(&self, node: NodeId) -> Option<LayerRange> {
        let mut all = self.stages.iter().chain(&self.spares);
        all.find(|stage| stage.node == node).map(|stage| stage.layers)
    }

    /// The nodes before and after whoever holds `layers` in the ring; the owner closes it.
    #[must_use]
    pub fn neighbours(&self, layers: LayerRange) -> [NodeId; 2] {
        let hop = self.stages.iter().position(|stage| stage.layers == layers);
        let node = |hop: Option<usize>| hop.and_then(|hop| self.stages.get(hop));
        let owner = |stage: Option<&Stage>| stage.map_or(self.owner, |stage| stage.node);
        let before = hop.and_then(|hop| hop.checked_sub(1));
        [owner(node(before)), owner(node(hop.map(|hop| hop + 1)))]
    }

    /// Whether both plans cut the model at the same boundaries.
    #[must_use]
    pub fn same_boundaries(&self, other: &Self) -> bool {
        let layers = |plan: &Self| plan.stages.iter().map(|s| s.layers).collect::<Vec<_>>();
        self.model == other.model && layers(self) == layers(other)
    }

    /// Whether `n_layers` layers are placed exactly once, in order, on distinct nodes.
    #[must_use]
    pub fn covers(&self, n_layers: usize) -> bool {
        let mut next = 0;
        for (i, stage) in self.stages.iter().enumerate() {
            let repeated = self.stages[..i].iter().any(|earlier| earlier.node == stage.node);
            if stage.layers.start != next || stage.layers.is_empty() || repeated {
                return false;
            }
            next = stage.layers.end;
        }
        usize::from(next) == n_layers && !self.stages.is_empty()
    }
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// All nodes together are too small.
    #[error(
        "the model needs {needed_bytes} bytes, all {nodes} nodes together have {available_bytes}"
    )]
    NoRoom {
        /// Weights and KV cache.
        needed_bytes: u64,
        /// What the members offer.
        available_bytes: u64,
        /// How many members, this node included.
        nodes: u32,
    },
    /// Fewer members than the policy asks for.
    #[error("{wanted} nodes are needed, {found} are here")]
    TooFewNodes {
        /// Asked for.
        wanted: u32,
        /// Present, this node included.
        found: u32,
    },
    /// More stages asked for than the model has layers.
    #[error("{wanted} stages are wanted, the model has {layers} layers")]
    TooFewLayers {
        /// Asked for.
        wanted: u32,
        /// Present.
        layers: u32,
    },
    /// A node could not fetch or load its part.
    #[error("node {node} could not prepare its part: {cause}")]
    Prepare {
        /// Which node.
        node: NodeId,
        /// In its words.
        cause: String,
    },
    /// A node of the plan was lost and no other plan was found.
    #[error("node {node} was lost: {cause}")]
    NodeLost {
        /// Which node.
        node: NodeId,
        /// How we know.
        cause: String,
    },
}
