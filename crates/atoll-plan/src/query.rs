//! What is asked of a plan.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::PlanError;
use crate::fleet::Fleet;
use crate::model::Model;

/// Stages of one plan: a ring longer than this is slower than any part of it.
pub const STAGES_MAX: usize = 64;

/// Layers that must be on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Which layers.
    pub layers: Range<usize>,
    /// On which node.
    pub node: usize,
}

/// For what a plan is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// The least time per token of one session that is alone.
    #[default]
    Latency,
    /// The least time per token of each of [`Policy::sessions`] at once, and so the most tokens
    /// per second of all of them.
    Throughput,
}

/// What a plan must heed, and for what it is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Positions per session that memory is kept for.
    pub context: u64,
    /// Sessions at once that memory is kept for, at least 1.
    pub sessions: u64,
    /// For what it is judged.
    pub objective: Objective,
    /// Positions in the cache when the time per token is predicted.
    pub positions: u64,
    /// Tokens of the prompt for which the first token's time is predicted, at least 1.
    pub prompt_tokens: u64,
    /// Prompt tokens of one frame, at least 1.
    pub chunk_rows: u64,
    /// Nodes not to be used; the owner keeps embedding and head even so.
    pub excluded: BTreeSet<usize>,
    /// Layers bound to nodes.
    pub pins: Vec<Pin>,
    /// Whether the owner's stage, if it has one, must be the first.
    pub is_owner_first: bool,
    /// The most that variants and codecs may cost together, in millionths of a nat.
    pub loss_max: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            context: 2048,
            sessions: 1,
            objective: Objective::Latency,
            positions: 512,
            prompt_tokens: 512,
            chunk_rows: 128,
            excluded: BTreeSet::new(),
            pins: Vec::new(),
            is_owner_first: false,
            loss_max: 0,
        }
    }
}

/// A fleet, a model, and what is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Who could hold layers.
    pub fleet: &'a Fleet,
    /// What is to be held.
    pub model: &'a Model,
    /// Under which conditions.
    pub policy: &'a Policy,
}

impl Query<'_> {
    /// KV cache bytes of one layer for the whole context of all sessions; saturates.
    #[must_use]
    pub const fn kv_layer_bytes(&self) -> u64 {
        let policy = self.policy;
        let positions = policy.context.saturating_mul(policy.sessions);
        self.model.kv_bytes_per_position.saturating_mul(positions)
    }

    /// Bytes that a node has for layers: the owner keeps embedding and head.
    #[must_use]
    pub fn layer_memory_bytes(&self, node: usize) -> u64 {
        let memory_bytes = self.fleet.nodes()[node].memory_bytes;
        let ends_bytes = if node == self.fleet.owner() { self.model.ends_bytes } else { 0 };
        memory_bytes.saturating_sub(ends_bytes)
    }

    /// Whether a layer may be on a node, as far as pins and exclusions say.
    #[must_use]
    pub fn allows(&self, node: usize, layer: usize) -> bool {
        let mut pins = self.policy.pins.iter().filter(|pin| pin.layers.contains(&layer));
        !self.policy.excluded.contains(&node) && pins.all(|pin| pin.node == node)
    }

    /// Whether a node's stage may begin with a layer, wherever it is allowed.
    #[must_use]
    pub fn may_begin(&self, node: usize, layer: usize) -> bool {
        layer == 0 || node != self.fleet.owner() || !self.policy.is_owner_first
    }

    pub(crate) fn check(&self) -> Result<(), PlanError> {
        self.model.check()?;
        let n = self.fleet.nodes().len();
        let n_layers = self.model.layers.len();
        let pinned = self.policy.pins.iter().map(|pin| pin.node);
        let named = pinned.chain(self.policy.excluded.iter().copied());
        if let Some(node) = named.into_iter().find(|&node| node >= n) {
            return Err(PlanError::UnknownNode { name: format!("number {node}") });
        }
        for (i, pin) in self.policy.pins.iter().enumerate() {
            let Range { start, end } = pin.layers;
            let layers = || format!("{start}..{end}");
            if start >= end || end > n_layers {
                return Err(PlanError::PinnedLayers { layers: layers(), n_layers });
            }
            let name = |node: usize| self.fleet.nodes()[node].name.clone();
            if self.policy.excluded.contains(&pin.node) {
                return Err(PlanError::PinExcluded { layers: layers(), node: name(pin.node) });
            }
            let other = self.policy.pins[..i].iter().find(|other| {
                let apart = other.layers.end <= start || end <= other.layers.start;
                !apart && other.node != pin.node
            });
            if let Some(other) = other {
                let (layers, nodes) = (layers(), [name(other.node), name(pin.node)]);
                return Err(PlanError::PinsConflict { layers, nodes });
            }
        }
        let owner = &self.fleet.nodes()[self.fleet.owner()];
        if owner.memory_bytes < self.model.ends_bytes {
            return Err(PlanError::OwnerTooSmall {
                node: owner.name.clone(),
                needed_bytes: self.model.ends_bytes,
                memory_bytes: owner.memory_bytes,
            });
        }
        Ok(())
    }
}
