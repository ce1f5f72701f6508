//! The cost model: the one function that says how long a placement takes.
//!
//! Planner, policies that it is compared with, and `atoll plan` all use [`predict`].

use crate::fleet::Link;
use crate::placement::{Placement, Stage};
use crate::query::{Query, STAGES_MAX};

/// What a placement takes, piece by piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// One token of one session: stages, hops and ends together, ns.
    pub token_ns: u64,
    /// Each stage's part of it, ns.
    pub stage_ns: Vec<u64>,
    /// Each hop's part of it, ns; 0 inside one node.
    pub hop_ns: Vec<u64>,
    /// Embedding and head at the owner, ns.
    pub ends_ns: u64,
    /// From a prompt of the policy's length to its first token, ns.
    pub first_token_ns: u64,
}

/// One token through one layer of a node, at the policy's position, ns.
#[must_use]
pub fn layer_ns(query: &Query<'_>, node: usize, layer: usize, variant: usize) -> u64 {
    weights_ns(query, node, layer, variant).saturating_add(read_ns(query, node))
}

/// One token through the weights of one layer, ns.
fn weights_ns(query: &Query<'_>, node: usize, layer: usize, variant: usize) -> u64 {
    let permille = query.model.layers[layer].variants[variant].time_permille;
    query.fleet.nodes()[node].layer_ns * permille / 1000
}

/// Reading one session's cache of one layer, ns.
fn read_ns(query: &Query<'_>, node: usize) -> u64 {
    let profile = &query.fleet.nodes()[node];
    profile.kv_ns_per_1024.saturating_mul(query.policy.positions) / 1024
}

/// A frame with one row from one node to another, ns; 0 inside one node, `None` without a link.
#[must_use]
pub fn hop_ns(query: &Query<'_>, from: usize, to: usize, codec: usize) -> Option<u64> {
    rows_ns(query, (from, to), codec, 1)
}

/// As [`hop_ns`], with `rows` rows.
pub(crate) fn rows_ns(
    query: &Query<'_>,
    (from, to): (usize, usize),
    codec: usize,
    rows: u64,
) -> Option<u64> {
    if from == to {
        return Some(0);
    }
    let bytes = query.model.frame_bytes(codec, rows);
    query.fleet.link(from, to).map(|link| link.frame_ns(bytes))
}

/// Embedding and head of one token at the owner, ns.
#[must_use]
pub fn ends_ns(query: &Query<'_>) -> u64 {
    let owner = &query.fleet.nodes()[query.fleet.owner()];
    owner.embed_ns + owner.head_ns
}

/// What `placement` takes; saturates. `None`: a hop without a link.
///
/// Decoding is a sum: nothing overlaps in one session. The prompt goes in chunks, of which each
/// stage computes one while the stage before it computes the next; a link carries one at a time.
#[must_use]
pub fn predict(query: &Query<'_>, placement: &Placement) -> Option<Prediction> {
    let stage = |stage: &Stage| {
        let layers = stage.layers.clone().zip(&stage.variants);
        let times = layers.map(|(layer, &variant)| layer_ns(query, stage.node, layer, variant));
        times.fold(query.fleet.nodes()[stage.node].stage_ns, u64::saturating_add)
    };
    let stage_ns: Vec<u64> = placement.stages.iter().map(stage).collect();
    let ring = placement.ring(query.fleet.owner());
    let hops = ring.windows(2).zip(&placement.codecs);
    let hop_ns = hops
        .map(|(pair, &codec)| hop_ns(query, pair[0], pair[1], codec))
        .collect::<Option<Vec<u64>>>()?;
    let ends_ns = ends_ns(query);
    let token_ns = stage_ns.iter().chain(&hop_ns).fold(ends_ns, |sum, ns| sum.saturating_add(*ns));
    let first_token_ns = first_token_ns(query, placement)?;
    Some(Prediction { token_ns, stage_ns, hop_ns, ends_ns, first_token_ns })
}

/// A chunk of `rows` prompt tokens from position `from` through a stage, ns.
fn chunk_ns(query: &Query<'_>, stage: &Stage, from: u64, rows: u64) -> u64 {
    let node = &query.fleet.nodes()[stage.node];
    let layers = stage.layers.clone().zip(&stage.variants);
    let permille: u64 = layers
        .map(|(layer, &variant)| query.model.layers[layer].variants[variant].time_permille)
        .sum();
    let weights_ns = u128::from(node.prefill_layer_ns) * u128::from(permille) / 1000;
    // Attention gains as much from many rows as the weights do.
    let (gain, beside) = (node.prefill_layer_ns.max(1), node.layer_ns.max(1));
    let read_ns = u128::from(node.kv_ns_per_1024)
        * u128::from(from + rows / 2)
        * u128::from(gain.min(beside))
        * stage.layers.len() as u128
        / (1024 * u128::from(beside));
    let rows_ns = (weights_ns + read_ns) * u128::from(rows);
    u64::try_from(rows_ns).unwrap_or(u64::MAX).saturating_add(node.stage_ns)
}

/// From the prompt to its first token, ns; `None`: a hop without a link.
#[must_use]
pub fn first_token_ns(query: &Query<'_>, placement: &Placement) -> Option<u64> {
    let owner = &query.fleet.nodes()[query.fleet.owner()];
    let ring = placement.ring(query.fleet.owner());
    let policy = query.policy;
    let chunk_rows = policy.chunk_rows.max(1);
    let prompt_tokens = policy.prompt_tokens.max(1);
    // When each stage, and each link, is free again.
    let mut stage_free_at = vec![0_u64; placement.stages.len()];
    let mut link_free_at = vec![0_u64; placement.stages.len()];
    let mut embedded_at = 0_u64;
    let mut from = 0;
    while from < prompt_tokens {
        let rows = chunk_rows.min(prompt_tokens - from);
        embedded_at = embedded_at.saturating_add(owner.embed_ns.saturating_mul(rows));
        let mut at = embedded_at;
        for (hop, stage) in placement.stages.iter().enumerate() {
            let (u, v) = (ring[hop], ring[hop + 1]);
            if u != v {
                let link = query.fleet.link(u, v)?;
                let bytes = query.model.frame_bytes(placement.codecs[hop], rows);
                // Between two requests a link was idle.
                let took = if from == 0 { Link::first_transfer_ns } else { Link::transfer_ns };
                let sent_at = at.max(link_free_at[hop]).saturating_add(took(link, bytes));
                link_free_at[hop] = sent_at;
                at = sent_at.saturating_add(link.latency_ns);
            }
            let took = chunk_ns(query, stage, from, rows);
            at = at.max(stage_free_at[hop]).saturating_add(took);
            stage_free_at[hop] = at;
        }
        from += rows;
    }
    let done_at = stage_free_at.last().copied().unwrap_or(embedded_at);
    let (u, v) = (ring[ring.len() - 2], ring[ring.len() - 1]);
    let codec = placement.codecs.last().copied().unwrap_or(0);
    Some(done_at.saturating_add(hop_ns(query, u, v, codec)?).saturating_add(owner.head_ns))
}

/// Groups of sessions that are under way at once, at most: as many as a plan has stages.
pub const GROUPS_MAX: u64 = STAGES_MAX as u64;

/// How sessions go around a ring together, and what holds them up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Groups under way, one behind the other.
    pub groups: u64,
    /// Sessions of a group, which are one batch at every stage.
    pub rows: u64,
    /// One group's way around, ns.
    pub way_ns: u64,
    /// What the busiest node or link needs for one group, ns.
    pub busiest_ns: u64,
    /// Which that is.
    pub busiest: Busiest,
    /// Until each session has its next token, ns.
    pub round_ns: u64,
}

/// What has most to do in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busiest {
    /// A node.
    Node(usize),
    /// The link from one node to another.
    Link(usize, usize),
}

/// The shortest round of `users` sessions; `None`: a hop without a link.
///
/// The sessions go around in groups, each group one batch at every stage: more groups keep more
/// stages busy, fewer read the weights less often. The best number of groups counts. A round takes
/// as long as one group's way, or as the busiest node or link needs for all groups.
#[must_use]
pub fn round(query: &Query<'_>, placement: &Placement, users: u64) -> Option<Round> {
    let mut best: Option<Round> = None;
    for (groups, rows) in loads(users) {
        let found = round_of(query, placement, groups, rows)?;
        if best.is_none_or(|best| found.round_ns < best.round_ns) {
            best = Some(found);
        }
    }
    best
}

/// Tokens that `users` sessions get together in 1,000 s; `None`: a hop without a link.
#[must_use]
pub fn tokens_per_1000_s(query: &Query<'_>, placement: &Placement, users: u64) -> Option<u64> {
    let round_ns = round(query, placement, users)?.round_ns.max(1);
    let tokens = u128::from(users.max(1)) * 1_000_000_000_000 / u128::from(round_ns);
    Some(u64::try_from(tokens).unwrap_or(u64::MAX))
}

/// Numbers of groups and sessions in each, of every size of a group the fewest groups.
pub(crate) fn loads(users: u64) -> Vec<(u64, u64)> {
    let users = users.max(1);
    let all = (1..=users.min(GROUPS_MAX)).map(|groups| (groups, users.div_ceil(groups)));
    let mut loads: Vec<(u64, u64)> = all.collect();
    loads.dedup_by_key(|load| load.1);
    loads
}

/// One round of `groups` groups of `rows` sessions each.
fn round_of(query: &Query<'_>, placement: &Placement, groups: u64, rows: u64) -> Option<Round> {
    let owner = query.fleet.owner();
    let ends_ns = batch_ns(query, owner, ends_ns(query), rows);
    let (mut way_ns, mut busiest_ns, mut busiest) = (ends_ns, ends_ns, Busiest::Node(owner));
    for stage in &placement.stages {
        let layers = stage.layers.clone().zip(&stage.variants);
        let times =
            layers.map(|(layer, &variant)| layer_rows_ns(query, stage.node, layer, variant, rows));
        let took = times.fold(query.fleet.nodes()[stage.node].stage_ns, u64::saturating_add);
        let own_ns = if stage.node == owner { ends_ns } else { 0 };
        let busy_ns = took.saturating_add(own_ns);
        if busy_ns > busiest_ns {
            (busiest_ns, busiest) = (busy_ns, Busiest::Node(stage.node));
        }
        way_ns = way_ns.saturating_add(took);
    }
    let ring = placement.ring(owner);
    for (pair, &codec) in ring.windows(2).zip(&placement.codecs) {
        let (from, to) = (pair[0], pair[1]);
        way_ns = way_ns.saturating_add(rows_ns(query, (from, to), codec, rows)?);
        let busy_ns = transfer_ns(query, (from, to), codec, rows);
        if busy_ns > busiest_ns {
            (busiest_ns, busiest) = (busy_ns, Busiest::Link(from, to));
        }
    }
    let round_ns = way_ns.max(busiest_ns.saturating_mul(groups));
    Some(Round { groups, rows, way_ns, busiest_ns, busiest, round_ns })
}

/// How long a frame with `rows` rows takes the link, ns; 0 inside one node or without a link.
pub(crate) fn transfer_ns(
    query: &Query<'_>,
    (from, to): (usize, usize),
    codec: usize,
    rows: u64,
) -> u64 {
    let link = if from == to { None } else { query.fleet.link(from, to) };
    link.map_or(0, |link| link.transfer_ns(query.model.frame_bytes(codec, rows)))
}

/// `rows` sessions in one pass through one layer of a node, at the policy's position, ns.
pub(crate) fn layer_rows_ns(
    query: &Query<'_>,
    node: usize,
    layer: usize,
    variant: usize,
    rows: u64,
) -> u64 {
    let weights_ns = weights_ns(query, node, layer, variant);
    let read_ns = read_ns(query, node).saturating_mul(rows);
    batch_ns(query, node, weights_ns, rows).saturating_add(read_ns)
}

/// What takes `one_ns` for one row, for `rows` in one pass, ns: each further row adds its share.
pub(crate) fn batch_ns(query: &Query<'_>, node: usize, one_ns: u64, rows: u64) -> u64 {
    let node = &query.fleet.nodes()[node];
    let (more, beside) = (u128::from(node.batch_layer_ns), u128::from(node.layer_ns.max(1)));
    let further = u128::from(one_ns) * more / beside * u128::from(rows - 1);
    one_ns.saturating_add(u64::try_from(further).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
