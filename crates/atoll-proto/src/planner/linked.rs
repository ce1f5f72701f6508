//! Placement by the time that a token takes, links included: the fleet and the model as
//! `atoll-plan` wants them, and its plan as stages.
//!
//! What is not known is assumed ([`planned_links`]): a link to the owner that was never measured
//! takes as long as the longest of the owner's that were, one between two others as long as the way
//! over the owner, and each carries as little as the thinnest of all.

use atoll_plan::fleet::STAGE_NS;
use atoll_plan::{
    Codec, Fleet, Layer, Link, Model, Node, Placement, Policy, Prediction, Query, Variant,
};
use atoll_plan::{cost, fleet, plan};

use super::{At, Candidate, Need, Predicted, context, sorted};
use crate::ids::NodeId;
use crate::limits::SURVEYED_MAX;
use crate::plan::{LayerRange, ModelInfo, PlanPolicy, Stage};

/// Positions in the cache for which a token's time is predicted, at most.
const POSITIONS_MAX: u64 = 512;
/// Bytes of one value of a row on the wire.
const VALUE_BYTES: u64 = 4;
/// Bytes of a model or a node beyond which figures are absurd: a pebibyte.
const BYTES_MAX: u64 = 1 << 50;
/// Other nodes are to save so much of a token's time before a model leaves an owner that holds it
/// all, percent: speeds are measured no better, and a part has to be sent before it is of use.
const GAIN_PERCENT: u64 = 10;

/// What is known of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFigures {
    /// There and back again, µs.
    pub rtt_us: Option<u32>,
    /// What it carries one way.
    pub bytes_per_s: Option<u64>,
}

/// What is known of the link from the first node to the second.
pub type KnownLinks<'a> = &'a dyn Fn(NodeId, NodeId) -> LinkFigures;

/// Of many nodes those that are planned with, at most [`SURVEYED_MAX`], in the order of their ids:
/// the fastest and the largest.
pub(crate) fn considered(others: &[Candidate]) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = others.to_vec();
    if all.len() > SURVEYED_MAX {
        let by_speed = sorted(others, |node| (node.weight_bytes_per_s, node.memory_bytes));
        let by_room = sorted(others, |node| (node.memory_bytes, node.weight_bytes_per_s));
        all.clear();
        for node in by_speed.into_iter().zip(by_room).flat_map(|(fast, large)| [fast, large]) {
            if all.len() < SURVEYED_MAX && !all.contains(&node) {
                all.push(node);
            }
        }
    }
    all.sort_by_key(|node| node.node);
    all
}

/// The stages with the least time per token that `atoll-plan` finds. The owner's memory is what it
/// has beside embedding and head.
///
/// # Errors
/// Why there are none, in words.
pub(super) fn by_time(
    (model, policy, need): (&ModelInfo, &PlanPolicy, &Need),
    owner: Candidate,
    others: &[Candidate],
    known: KnownLinks<'_>,
) -> Result<Vec<Stage>, String> {
    if need.total_bytes() > BYTES_MAX {
        return Err("its size is absurd".to_owned());
    }
    let nodes: Vec<Candidate> = std::iter::once(owner).chain(considered(others)).collect();
    let fleet = fleet(model, need, &nodes, known).map_err(|error| error.to_string())?;
    let asked = asked(model, policy);
    let model = planned_model(model, need);
    let query = Query { fleet: &fleet, model: &model, policy: &asked };
    let found = plan(&query).map_err(|error| error.to_string())?;
    let placement = match alone(&query, need.n_layers()) {
        Some((alone, ns)) if gain_percent(ns, found.prediction.token_ns) < GAIN_PERCENT => alone,
        Some(_) | None => found.placement,
    };
    let stages = placement.stages.into_iter().map(|stage| {
        let start = u16::try_from(stage.layers.start).ok()?;
        let end = u16::try_from(stage.layers.end).ok()?;
        Some(Stage { node: nodes[stage.node].node, layers: LayerRange { start, end } })
    });
    stages.collect::<Option<_>>().ok_or_else(|| "the model has too many layers".to_owned())
}

/// A token's time over these stages, ns; `None` where they cannot be, or a stage's node is not one
/// of these.
pub(super) fn token_ns(
    asked @ (model, policy, _): (&ModelInfo, &PlanPolicy, &Need),
    nodes: &[Candidate],
    known: KnownLinks<'_>,
    stages: &[Stage],
) -> Option<u64> {
    Some(priced(asked, nodes, known, stages, &self::asked(model, policy))?.token_ns)
}

/// What a plan with these stages should take; as [`token_ns`].
pub(super) fn predict(
    asked @ (model, policy, _): (&ModelInfo, &PlanPolicy, &Need),
    nodes: &[Candidate],
    known: KnownLinks<'_>,
    (stages, at): (&[Stage], At),
) -> Option<Predicted> {
    let (positions, prompt_tokens) = (at.positions.into(), at.prompt_tokens.into());
    let policy = Policy { positions, prompt_tokens, ..self::asked(model, policy) };
    let found = priced(asked, nodes, known, stages, &policy)?;
    let compute_us = nodes.iter().enumerate().map(|(i, node)| {
        let stages = stages.iter().zip(&found.stage_ns);
        let own = stages.filter(|(stage, _)| stage.node == node.node);
        let layers_ns: u64 = own.map(|(_, ns)| ns.saturating_sub(STAGE_NS)).sum();
        let ends_ns = if i == 0 { found.ends_ns } else { 0 };
        layers_ns.saturating_add(ends_ns) / 1000
    });
    Some(Predicted {
        token_us: found.token_ns / 1000,
        first_token_us: found.first_token_ns / 1000,
        compute_us: compute_us.collect(),
    })
}

/// The price of these stages, as [`token_ns`].
fn priced(
    (model, _, need): (&ModelInfo, &PlanPolicy, &Need),
    nodes: &[Candidate],
    known: KnownLinks<'_>,
    stages: &[Stage],
    policy: &Policy,
) -> Option<Prediction> {
    let fleet = fleet(model, need, nodes, known).ok()?;
    let model = planned_model(model, need);
    let query = Query { fleet: &fleet, model: &model, policy };
    cost::predict(&query, &placement(nodes, stages)?)
}

/// Stages as `atoll-plan` has them; `None` where one is on none of `nodes`.
fn placement(nodes: &[Candidate], stages: &[Stage]) -> Option<Placement> {
    let placed = stages.iter().map(|stage| {
        let node = nodes.iter().position(|node| node.node == stage.node)?;
        let layers = usize::from(stage.layers.start)..usize::from(stage.layers.end);
        let variants = vec![0; stage.layers.len()];
        Some(atoll_plan::Stage { node, layers, variants })
    });
    let codecs = vec![0; stages.len() + 1];
    Some(Placement { stages: placed.collect::<Option<_>>()?, codecs })
}

/// What is asked of a plan.
fn asked(model: &ModelInfo, policy: &PlanPolicy) -> Policy {
    let positions = u64::from(context(model, policy));
    Policy {
        context: positions,
        sessions: policy.sessions.max(1).into(),
        positions: positions.min(POSITIONS_MAX),
        is_owner_first: true,
        ..Policy::default()
    }
}

/// All layers on the owner, if it has room for them, and a token's time then, ns.
fn alone(query: &Query<'_>, n_layers: usize) -> Option<(Placement, u64)> {
    let (node, variants) = (query.fleet.owner(), vec![0; n_layers]);
    let stages = vec![atoll_plan::Stage { node, layers: 0..n_layers, variants }];
    let alone = Placement { stages, codecs: vec![0; 2] };
    alone.check(query).ok()?;
    let token_ns = cost::predict(query, &alone)?.token_ns;
    Some((alone, token_ns))
}

/// What `after` saves of `before`, percent.
fn gain_percent(before: u64, after: u64) -> u64 {
    let gain = u128::from(before.saturating_sub(after)) * 100 / u128::from(before.max(1));
    u64::try_from(gain).unwrap_or(0)
}

/// The links between any two of `n` nodes, the first of which is the owner, by what is `known` of
/// them. A link that was never measured is as slow as the slowest that was, and no better than
/// [`Link::UNKNOWN`]: what is not known is not to be preferred to what is.
pub fn planned_links(
    n: usize,
    known: &dyn Fn(usize, usize) -> LinkFigures,
) -> Vec<(usize, usize, Link)> {
    let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).filter(|(a, b)| a != b);
    let bytes_per_s = pairs.clone().filter_map(|(from, to)| known(from, to).bytes_per_s);
    let bytes_per_s = bytes_per_s.fold(Link::UNKNOWN.bytes_per_s, u64::min);
    let latency_ns = (1..n).filter_map(|node| one_way_ns(known(0, node)));
    let latency_ns = latency_ns.fold(Link::UNKNOWN.latency_ns, u64::max);
    let to_owner = |node: usize| one_way_ns(known(0, node)).unwrap_or(latency_ns);
    let link = |(from, to)| {
        let link = known(from, to);
        let latency_ns = match (from, to) {
            (0, node) | (node, 0) => to_owner(node),
            (a, b) => one_way_ns(link).unwrap_or_else(|| to_owner(a) + to_owner(b)),
        };
        let bytes_per_s = link.bytes_per_s.unwrap_or(bytes_per_s).max(1);
        (from, to, Link { latency_ns, bytes_per_s })
    };
    pairs.map(link).collect()
}

fn one_way_ns(link: LinkFigures) -> Option<u64> {
    link.rtt_us.map(|us| u64::from(us) * 1000 / 2)
}

/// The nodes, the owner first, and a link between any two.
fn fleet(
    model: &ModelInfo,
    need: &Need,
    nodes: &[Candidate],
    known: KnownLinks<'_>,
) -> Result<Fleet, atoll_plan::PlanError> {
    let kv_bytes_per_1024 = u64::from(model.kv_bytes_per_position) * 1024;
    let profile = |(i, node): (usize, &Candidate)| Node {
        layer_ns: bytes_ns(mean_bytes(need), node.weight_bytes_per_s),
        kv_ns_per_1024: bytes_ns(kv_bytes_per_1024, node.weight_bytes_per_s),
        prefill_layer_ns: match node.prefill_bytes_per_s {
            0 => bytes_ns(mean_bytes(need), node.weight_bytes_per_s),
            rows_together => bytes_ns(mean_bytes(need), rows_together),
        },
        stage_ns: STAGE_NS,
        head_ns: bytes_ns(model.embed_bytes.max(model.head_bytes), node.weight_bytes_per_s),
        ..Node::new(&i.to_string(), node.memory_bytes.min(BYTES_MAX))
    };
    let mut fleet = Fleet::new(nodes.iter().enumerate().map(profile).collect(), 0)?;
    let known = |from: usize, to: usize| known(nodes[from].node, nodes[to].node);
    for (from, to, link) in planned_links(nodes.len(), &known) {
        fleet.connect(from, to, link)?;
    }
    Ok(fleet)
}

/// Embedding and head are off the owner's memory already.
fn planned_model(model: &ModelInfo, need: &Need) -> Model {
    let mean = u128::from(mean_bytes(need).max(1));
    let layer = |&bytes: &u64| {
        let permille = u128::from(bytes) * 1000 / mean;
        let time_permille = u64::try_from(permille).unwrap_or(u64::MAX);
        let name = "full".to_owned();
        Layer { variants: vec![Variant { name, bytes, time_permille, loss: 0 }] }
    };
    Model {
        name: model.name.clone(),
        layers: model.layer_bytes.iter().map(layer).collect(),
        ends_bytes: 0,
        kv_bytes_per_position: model.kv_bytes_per_position.into(),
        codecs: vec![Codec {
            name: "f32".to_owned(),
            row_bytes: u64::from(model.row_values) * VALUE_BYTES,
            loss: 0,
        }],
    }
}

/// Bytes of a layer, the mean.
fn mean_bytes(need: &Need) -> u64 {
    need.weight(0, need.n_layers()) / (need.n_layers() as u64).max(1)
}

/// How long so many bytes take at that speed, ns.
fn bytes_ns(bytes: u64, bytes_per_s: u64) -> u64 {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX).min(fleet::TIME_NS_MAX)
}

#[cfg(test)]
mod tests;
