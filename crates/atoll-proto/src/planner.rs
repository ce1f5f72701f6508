//! Where the layers of a model go.
//!
//! [`place`] shares them out by measured speed within memory and knows no links: it makes plans of
//! a fixed number of stages. All others are made by the time that a token takes, links included, by
//! `atoll-plan`; where that finds nothing, [`place`] does what it can. Pure functions of their
//! arguments, in integers, so that every machine plans alike.

use crate::ids::NodeId;
use crate::limits::STAGES_MAX;
use crate::plan::{LayerRange, ModelInfo, PlaceRule, PlanError, PlanPolicy, Stage};

mod lighter;
mod linked;

pub use self::lighter::{NarrowStep, Offer, lighter};
pub(crate) use self::linked::considered;
pub use self::linked::{KnownLinks, LinkFigures, planned_links};

/// A node that could hold layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Bytes free for this model.
    pub memory_bytes: u64,
    /// Weight bytes taken through one token per second; 0: not measured, counts as very slow.
    pub weight_bytes_per_s: u64,
    /// The same for each row of a prompt's chunk; 0: not measured, counts as one alone.
    pub prefill_bytes_per_s: u64,
}

/// For what a plan is predicted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    /// Positions in the cache when a token is computed.
    pub(crate) positions: u32,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: u32,
}

/// What a plan should take.
#[derive(Debug)]
pub(crate) struct Predicted {
    /// One token, µs.
    pub(crate) token_us: u64,
    /// From the prompt to the first token, µs.
    pub(crate) first_token_us: u64,
    /// Computing for one token at each of the nodes, µs.
    pub(crate) compute_us: Vec<u64>,
}

/// Positions per session that a plan of `model` under `policy` has room for.
#[must_use]
pub fn context(model: &ModelInfo, policy: &PlanPolicy) -> u32 {
    policy.context.min(model.context_max)
}

/// Bytes of all layers with their caches, of embedding and of head.
pub(crate) fn needed_bytes(model: &ModelInfo, policy: &PlanPolicy) -> u64 {
    Need::new(model, policy).total_bytes()
}

/// Places `model` on `owner` and as many of `others` as the policy wants. The owner always holds
/// embedding and head and, if it has room for a layer, the first stage.
///
/// # Errors
/// [`PlanError`] with the figures of what is missing.
pub fn place(
    model: &ModelInfo,
    policy: &PlanPolicy,
    owner: Candidate,
    others: &[Candidate],
) -> Result<Vec<Stage>, PlanError> {
    let need = Need::new(model, policy);
    let offered_bytes = owner.memory_bytes;
    let no_room = || PlanError::NoRoom {
        needed_bytes: need.total_bytes(),
        available_bytes: others
            .iter()
            .fold(offered_bytes, |sum, node| sum.saturating_add(node.memory_bytes)),
        nodes: count(others.len() + 1),
    };
    let owner =
        Candidate { memory_bytes: owner.memory_bytes.saturating_sub(need.owner_bytes), ..owner };
    if let Some(PlaceRule(rule)) = policy.rule {
        let policy = PlanPolicy { rule: None, ..policy.clone() };
        let stages = rule(model, &policy, owner, others)?;
        need.check(&stages, owner, others)?;
        return Ok(stages);
    }
    let by_room = sorted(others, |node| (node.memory_bytes, node.weight_bytes_per_s));
    if let Some(wanted) = policy.stages {
        let wanted = usize::from(wanted.max(1));
        if wanted > others.len() + 1 {
            let found = count(others.len() + 1);
            return Err(PlanError::TooFewNodes { wanted: count(wanted), found });
        }
        if wanted > need.n_layers() {
            let layers = count(need.n_layers());
            return Err(PlanError::TooFewLayers { wanted: count(wanted), layers });
        }
        let by_speed = sorted(others, |node| (node.weight_bytes_per_s, node.memory_bytes));
        return [by_speed, by_room]
            .iter()
            .find_map(|others| need.split(&with_owner(owner, others, wanted)))
            .ok_or_else(no_room);
    }
    let stages_max = STAGES_MAX.min(others.len() + 1);
    (1..=stages_max)
        .find_map(|n| {
            need.split(&with_owner(owner, &by_room, n))
                .or_else(|| need.split(by_room.get(..n).unwrap_or(&[])))
        })
        .ok_or_else(no_room)
}

/// Places `model` by the time that a token takes where the policy leaves the number of stages open,
/// and otherwise as [`place`] does. `known`: what is known of the links between the nodes.
///
/// # Errors
/// As [`place`].
pub fn place_linked(
    model: &ModelInfo,
    policy: &PlanPolicy,
    owner: Candidate,
    others: &[Candidate],
    known: KnownLinks<'_>,
) -> Result<Vec<Stage>, PlanError> {
    if !policy.is_by_time() {
        return place(model, policy, owner, others);
    }
    let need = Need::new(model, policy);
    let memory_bytes = owner.memory_bytes.saturating_sub(need.owner_bytes);
    let beside = Candidate { memory_bytes, ..owner };
    let found = linked::by_time((model, policy, &need), beside, others, known);
    let found = found.and_then(|stages| {
        let checked = need.check(&stages, beside, others);
        checked.map(|()| stages).map_err(|error| error.to_string())
    });
    found.or_else(|why| {
        let placed = place(model, policy, owner, others)?;
        tracing::info!(model = %model.id, why, "placed by speed and memory, not by time");
        Ok(placed)
    })
}

/// How long a token takes over these stages, ns, with what is known of nodes and links; `None`
/// where that cannot be said.
pub(crate) fn token_ns(
    (model, policy): (&ModelInfo, &PlanPolicy),
    (owner, others): (Candidate, &[Candidate]),
    known: KnownLinks<'_>,
    stages: &[Stage],
) -> Option<u64> {
    let need = Need::new(model, policy);
    let is_stage = |node: &&Candidate| stages.iter().any(|stage| stage.node == node.node);
    let stage_nodes = others.iter().filter(is_stage).copied();
    let nodes: Vec<Candidate> = std::iter::once(owner).chain(stage_nodes).collect();
    linked::token_ns((model, policy, &need), &nodes, known, stages)
}

/// What a plan with these stages should take; `nodes` are the owner, then those of the stages.
/// `None` where it cannot be said.
pub(crate) fn predict(
    (model, policy): (&ModelInfo, &PlanPolicy),
    nodes: &[Candidate],
    known: KnownLinks<'_>,
    (stages, at): (&[Stage], At),
) -> Option<Predicted> {
    let need = Need::new(model, policy);
    linked::predict((model, policy, &need), nodes, known, (stages, at))
}

fn with_owner(owner: Candidate, others: &[Candidate], n: usize) -> Vec<Candidate> {
    std::iter::once(owner).chain(others.iter().copied()).take(n).collect()
}

fn sorted(nodes: &[Candidate], key: impl Fn(&Candidate) -> (u64, u64)) -> Vec<Candidate> {
    let mut nodes = nodes.to_vec();
    nodes.sort_by_key(|node| (std::cmp::Reverse(key(node)), node.node));
    nodes
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// What the model asks of memory and time, as prefix sums over its layers.
struct Need {
    /// Embedding and head, bytes.
    owner_bytes: u64,
    /// Weights of layers `0..i`, bytes.
    weights: Vec<u64>,
    /// KV cache of one layer for the whole context and all sessions, bytes.
    kv_layer_bytes: u64,
}

impl Need {
    fn new(model: &ModelInfo, policy: &PlanPolicy) -> Self {
        let mut sum = 0_u64;
        let mut weights = vec![0];
        weights.extend(model.layer_bytes.iter().map(|&bytes| {
            sum = sum.saturating_add(bytes);
            sum
        }));
        let kv_layer_bytes = u64::from(model.kv_bytes_per_position)
            .saturating_mul(u64::from(context(model, policy)))
            .saturating_mul(u64::from(policy.sessions.max(1)));
        let owner_bytes = model.embed_bytes.saturating_add(model.head_bytes);
        Self { owner_bytes, weights, kv_layer_bytes }
    }

    const fn n_layers(&self) -> usize {
        self.weights.len() - 1
    }

    fn total_bytes(&self) -> u64 {
        self.memory(0, self.n_layers()).saturating_add(self.owner_bytes)
    }

    fn weight(&self, start: usize, end: usize) -> u64 {
        self.weights[end] - self.weights[start]
    }

    fn memory(&self, start: usize, end: usize) -> u64 {
        let kv = self.kv_layer_bytes.saturating_mul((end - start) as u64);
        self.weight(start, end).saturating_add(kv)
    }

    /// Whether a rule's stages hold each layer once, in order, each within its node's memory.
    fn check(
        &self,
        stages: &[Stage],
        owner: Candidate,
        others: &[Candidate],
    ) -> Result<(), PlanError> {
        let wrong = |node: NodeId, why: &str| {
            let cause = format!("the placement rule is wrong: {why}");
            Err(PlanError::Prepare { node, cause })
        };
        let mut next = 0;
        for (i, Stage { node, layers }) in stages.iter().enumerate() {
            let (start, end) = (usize::from(layers.start), usize::from(layers.end));
            let mut known = others.iter().chain([&owner]);
            let Some(candidate) = known.find(|candidate| candidate.node == *node) else {
                return wrong(*node, "this node was not offered");
            };
            if start != next || end <= start || end > self.n_layers() {
                return wrong(*node, "layers are not placed once each and in order");
            }
            if stages[..i].iter().any(|earlier| earlier.node == *node) {
                return wrong(*node, "this node has two stages");
            }
            if self.memory(start, end) > candidate.memory_bytes {
                return wrong(*node, "these layers do not fit there");
            }
            next = end;
        }
        if next < self.n_layers() || stages.len() > STAGES_MAX {
            return wrong(owner.node, "layers are missing, or there are too many stages");
        }
        Ok(())
    }

    /// Layers for these nodes in this order, at least one each, so that the slowest stage is as
    /// fast as it can be: then layers follow speed. `None`: no way within memory.
    fn split(&self, nodes: &[Candidate]) -> Option<Vec<Stage>> {
        let n_layers = self.n_layers();
        if nodes.is_empty() || nodes.len() > n_layers || nodes.len() > STAGES_MAX {
            return None;
        }
        // best[i][l]: the slowest stage's time when nodes 0..=i hold layers 0..l, and where the
        // last of them starts.
        let mut best: Vec<Vec<Option<(u128, usize)>>> = Vec::with_capacity(nodes.len());
        for (i, node) in nodes.iter().enumerate() {
            let mut row = vec![None; n_layers + 1];
            for (end, cell) in row.iter_mut().enumerate().skip(i + 1) {
                for start in (i..end).rev() {
                    if self.memory(start, end) > node.memory_bytes {
                        break;
                    }
                    let before = match best.last() {
                        None if start == 0 => 0,
                        None => continue,
                        Some(previous) => match previous[start] {
                            Some((time, _)) => time,
                            None => continue,
                        },
                    };
                    let time = before.max(stage_time(self.weight(start, end), node));
                    if cell.is_none_or(|(least, _)| time < least) {
                        *cell = Some((time, start));
                    }
                }
            }
            best.push(row);
        }
        let mut end = n_layers;
        let mut stages = Vec::with_capacity(nodes.len());
        for (row, node) in best.iter().zip(nodes).rev() {
            let (_, start) = row[end]?;
            let layers =
                LayerRange { start: u16::try_from(start).ok()?, end: u16::try_from(end).ok()? };
            stages.push(Stage { node: node.node, layers });
            end = start;
        }
        stages.reverse();
        Some(stages)
    }
}

/// Picoseconds of one token in one stage.
fn stage_time(weight_bytes: u64, node: &Candidate) -> u128 {
    u128::from(weight_bytes) * 1_000_000_000_000 / u128::from(node.weight_bytes_per_s.max(1))
}

#[cfg(test)]
mod tests;
