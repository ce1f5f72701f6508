//! A plan's shape, and whether it keeps to what was asked.

use std::ops::Range;

use crate::query::{Query, STAGES_MAX};

/// Layers on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Which node.
    pub node: usize,
    /// Which layers.
    pub layers: Range<usize>,
    /// The variant of each of them.
    pub variants: Vec<usize>,
}

/// Stages in the order of a token's way: from the owner through them and back to the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// In order; no node twice.
    pub stages: Vec<Stage>,
    /// The codec of every hop, one more than stages; 0 for a hop inside one node.
    pub codecs: Vec<usize>,
}

/// Why a placement is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Layers are left out, doubled or out of order, or a list has not its length.
    #[error("the stages do not cover every layer once, in order")]
    Cover,
    /// A node is in two stages, or there are too many.
    #[error("a node is in two stages, or there are more than {STAGES_MAX} of them")]
    Nodes,
    /// A layer is where it must not be.
    #[error("layer {layer} must not be on node {node}")]
    Forbidden {
        /// Which layer.
        layer: usize,
        /// Where.
        node: usize,
    },
    /// Too little memory.
    #[error("node {node} holds {bytes} bytes, {memory_bytes} are free")]
    Memory {
        /// Which node.
        node: usize,
        /// What it would hold.
        bytes: u64,
        /// What it has for layers.
        memory_bytes: u64,
    },
    /// Two nodes in a row without a link.
    #[error("no link from node {from} to node {to}")]
    Unreachable {
        /// From which node.
        from: usize,
        /// To which node.
        to: usize,
    },
    /// Variants and codecs cost more quality than allowed.
    #[error("a loss of {loss} millionths of a nat, {loss_max} are allowed")]
    Loss {
        /// Of this placement.
        loss: u64,
        /// Allowed.
        loss_max: u64,
    },
}

impl Placement {
    /// The nodes of a token's way, the owner first and last.
    #[must_use]
    pub fn ring(&self, owner: usize) -> Vec<usize> {
        let stages = self.stages.iter().map(|stage| stage.node);
        std::iter::once(owner).chain(stages).chain([owner]).collect()
    }

    /// What the variants and codecs cost in quality, in millionths of a nat; saturates.
    #[must_use]
    pub fn loss(&self, query: &Query<'_>) -> u64 {
        let model = query.model;
        let layers = self.stages.iter().flat_map(|stage| {
            let variants = stage.layers.clone().zip(&stage.variants);
            variants.map(|(layer, &variant)| model.layers[layer].variants[variant].loss)
        });
        let ring = self.ring(query.fleet.owner());
        let hops = ring
            .windows(2)
            .zip(&self.codecs)
            .map(|(pair, &codec)| if pair[0] == pair[1] { 0 } else { model.codecs[codec].loss });
        layers.chain(hops).fold(0, u64::saturating_add)
    }

    /// Bytes that a stage holds: weights, and KV caches for every session; saturates.
    #[must_use]
    pub fn stage_bytes(query: &Query<'_>, stage: &Stage) -> u64 {
        let weights = stage
            .layers
            .clone()
            .zip(&stage.variants)
            .map(|(layer, &variant)| query.model.layers[layer].variants[variant].bytes);
        let kv_bytes = query.kv_layer_bytes();
        weights.fold(0, |sum: u64, bytes| sum.saturating_add(bytes).saturating_add(kv_bytes))
    }

    /// Whether this is a plan for `query`.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn check(&self, query: &Query<'_>) -> Result<(), Fault> {
        let mut at = 0;
        for stage in &self.stages {
            let Range { start, end } = stage.layers;
            if start != at || end <= start || stage.variants.len() != end - start {
                return Err(Fault::Cover);
            }
            at = end;
        }
        if at != query.model.layers.len() || self.codecs.len() != self.stages.len() + 1 {
            return Err(Fault::Cover);
        }
        let mut nodes: Vec<usize> = self.stages.iter().map(|stage| stage.node).collect();
        nodes.sort_unstable();
        if nodes.windows(2).any(|pair| pair[0] == pair[1]) || nodes.len() > STAGES_MAX {
            return Err(Fault::Nodes);
        }
        for stage in &self.stages {
            let (node, start) = (stage.node, stage.layers.start);
            let may_hold = |layer: usize| query.allows(node, layer) && query.may_begin(node, start);
            if let Some(layer) = stage.layers.clone().find(|&layer| !may_hold(layer)) {
                return Err(Fault::Forbidden { layer, node });
            }
            let bytes = Self::stage_bytes(query, stage);
            let memory_bytes = query.layer_memory_bytes(node);
            if bytes > memory_bytes {
                return Err(Fault::Memory { node, bytes, memory_bytes });
            }
        }
        for pair in self.ring(query.fleet.owner()).windows(2) {
            if pair[0] != pair[1] && query.fleet.link(pair[0], pair[1]).is_none() {
                return Err(Fault::Unreachable { from: pair[0], to: pair[1] });
            }
        }
        let (loss, loss_max) = (self.loss(query), query.policy.loss_max);
        if loss > loss_max { Err(Fault::Loss { loss, loss_max }) } else { Ok(()) }
    }
}
