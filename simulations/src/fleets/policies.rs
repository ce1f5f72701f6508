//! How other systems place layers, each written anew from what is known of its rule.
//!
//! Only the rule is theirs: every placement is priced by our cost function, as a ring, and where a
//! rule would give a node more than fits, the rest goes to the nodes that have room. Both are in
//! their favour.

use std::cmp::Reverse;

use atoll_plan::{Placement, Query, Stage};

/// A system's rule.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// One ring, if it finds one.
    One(fn(&Query<'_>) -> Option<Placement>),
    /// Rings beside each other, among which users are shared out.
    Several(fn(&Query<'_>) -> Vec<Placement>),
}

impl Rule {
    /// The placements that it finds.
    pub(super) fn place(self, query: &Query<'_>) -> Vec<Placement> {
        match self {
            Self::One(rule) => rule(query).into_iter().collect(),
            Self::Several(rule) => rule(query),
        }
    }
}

/// The rules by their systems' names.
pub(super) const POLICIES: &[(&str, Rule)] = &[
    ("exo", Rule::One(exo)),
    ("cake", Rule::One(cake)),
    ("llama.cpp", Rule::One(llama_cpp)),
    ("parallax", Rule::Several(parallax)),
    ("prima.cpp", Rule::One(prima)),
    ("mesh-llm", Rule::One(mesh_llm)),
];

/// How many layers each node has room for.
fn rooms(query: &Query<'_>) -> Vec<usize> {
    let bytes = query.model.layers.iter().map(|layer| layer.variants[0].bytes).max().unwrap_or(1);
    let bytes = bytes.saturating_add(query.kv_layer_bytes()).max(1);
    let nodes = 0..query.fleet.nodes().len();
    let room = |v| usize::try_from(query.layer_memory_bytes(v) / bytes).unwrap_or(usize::MAX);
    nodes.map(|v| room(v).min(query.model.layers.len())).collect()
}

/// Layers for these nodes in this order: shares of the weights with the largest remainders first,
/// at most what each has room for.
fn shared(query: &Query<'_>, order: &[usize], weight: impl Fn(usize) -> u64) -> Option<Placement> {
    let (n_layers, rooms) = (query.model.layers.len(), rooms(query));
    if order.iter().map(|&v| rooms[v]).sum::<usize>() < n_layers {
        return None;
    }
    let weights: Vec<u128> = order.iter().map(|&v| u128::from(weight(v).max(1))).collect();
    let sum: u128 = weights.iter().sum();
    let share = |w: &u128| usize::try_from(w * n_layers as u128 / sum).unwrap_or(0);
    let mut counts: Vec<usize> =
        weights.iter().zip(order).map(|(w, &v)| share(w).min(rooms[v])).collect();
    let mut by_rest: Vec<usize> = (0..order.len()).collect();
    by_rest.sort_by_key(|&i| (Reverse(weights[i] * n_layers as u128 % sum), i));
    while counts.iter().sum::<usize>() < n_layers {
        for &i in &by_rest {
            if counts[i] < rooms[order[i]] && counts.iter().sum::<usize>() < n_layers {
                counts[i] += 1;
            }
        }
    }
    Some(stages(order, &counts))
}

fn stages(order: &[usize], counts: &[usize]) -> Placement {
    let mut at = 0;
    let mut stages = Vec::new();
    for (&node, &count) in order.iter().zip(counts).filter(|(_, count)| **count > 0) {
        stages.push(Stage { node, layers: at..at + count, variants: vec![0; count] });
        at += count;
    }
    Placement { codecs: vec![0; stages.len() + 1], stages }
}

fn memory(query: &Query<'_>, v: usize) -> u64 {
    query.layer_memory_bytes(v)
}

/// Nodes with room for a layer, those with most memory first.
fn by_memory(query: &Query<'_>) -> Vec<usize> {
    let rooms = rooms(query);
    let mut order: Vec<usize> = (0..rooms.len()).filter(|&v| rooms[v] > 0).collect();
    order.sort_by_key(|&v| (Reverse(memory(query, v)), v));
    order
}

/// The fewest of these nodes, from the first on, that hold the model.
fn fewest(query: &Query<'_>, order: &[usize]) -> Option<usize> {
    let (rooms, n_layers) = (rooms(query), query.model.layers.len());
    (1..=order.len()).find(|&k| order[..k].iter().map(|&v| rooms[v]).sum::<usize>() >= n_layers)
}

/// exo: the smallest cycle whose free memory holds the model, of these the one with most; layers
/// in proportion to free memory, in the cycle's order, which knows no speeds.
fn exo(query: &Query<'_>) -> Option<Placement> {
    let mut order = by_memory(query);
    order.truncate(fewest(query, &order)?);
    order.sort_unstable();
    shared(query, &order, |v| memory(query, v))
}

/// cake: every worker takes part, layers in proportion to operations per second. On machines
/// without a known accelerator it guesses these from memory: 0.4 per GiB.
fn cake(query: &Query<'_>) -> Option<Placement> {
    let mut order: Vec<usize> = by_memory(query);
    order.sort_unstable();
    shared(query, &order, |v| query.fleet.nodes()[v].memory_bytes * 4 / 10)
}

/// llama.cpp's RPC: every server takes part, layers in proportion to free memory.
fn llama_cpp(query: &Query<'_>) -> Option<Placement> {
    let mut order = by_memory(query);
    let own = query.fleet.owner();
    // The servers as they are named, the host's own device last.
    order.sort_by_key(|&v| (v == own, v));
    shared(query, &order, |v| memory(query, v))
}

/// Parallax: pipelines of as few stages as memory allows, as many as pay (k²/s at most); in each,
/// layers in proportion to operations per second; a request takes the fastest that is free. Its
/// dynamic programming over capacities is done here by filling the largest nodes first and
/// closing each pipeline with the smallest node that completes it.
fn parallax(query: &Query<'_>) -> Vec<Placement> {
    let (rooms, n_layers) = (rooms(query), query.model.layers.len());
    let mut left = by_memory(query);
    let mut pipelines: Vec<Vec<usize>> = Vec::new();
    loop {
        let (mut pipeline, mut held) = (Vec::new(), 0);
        while held < n_layers && !left.is_empty() {
            let closes = left.iter().rposition(|&v| held + rooms[v] >= n_layers);
            let node = left.remove(closes.unwrap_or(0));
            held += rooms[node];
            pipeline.push(node);
        }
        if held < n_layers {
            break;
        }
        pipelines.push(pipeline);
    }
    // k²/s with k pipelines of s stages in all.
    let mut stages = 0;
    let worth = pipelines.iter().enumerate().map(|(i, pipeline)| {
        stages += pipeline.len();
        ((i + 1) * (i + 1), stages)
    });
    let best = worth.enumerate().max_by(|(_, (a, s)), (_, (b, t))| (a * t).cmp(&(b * s)));
    let k = best.map_or(0, |(i, _)| i + 1);
    let flops = |v: usize| 1_000_000_000_000 / query.fleet.nodes()[v].prefill_layer_ns.max(1);
    let placed = pipelines[..k].iter().filter_map(|order| shared(query, order, flops));
    placed.collect()
}

/// prima.cpp with its network term of 0: the least time of computing alone, which fills the
/// fastest nodes first; the ring goes by rank, the head's node first.
fn prima(query: &Query<'_>) -> Option<Placement> {
    let (rooms, mut left) = (rooms(query), query.model.layers.len());
    let own = query.fleet.owner();
    let mut fastest: Vec<usize> = (0..rooms.len()).filter(|&v| rooms[v] > 0).collect();
    fastest.sort_by_key(|&v| (query.fleet.nodes()[v].layer_ns, v != own, v));
    let mut counts = vec![0; rooms.len()];
    for v in fastest {
        counts[v] = rooms[v].min(left);
        left -= counts[v];
    }
    let mut order: Vec<usize> = (0..rooms.len()).collect();
    order.sort_by_key(|&v| (v != own, v));
    let counts: Vec<usize> = order.iter().map(|&v| counts[v]).collect();
    (left == 0).then(|| stages(&order, &counts))
}

/// Mesh-LLM's default: one node if the model fits one, the asked one before the largest; else
/// the fewest nodes by memory, in that order, the asked one first if it is among them; layers in
/// proportion to memory.
fn mesh_llm(query: &Query<'_>) -> Option<Placement> {
    let (rooms, n_layers, own) = (rooms(query), query.model.layers.len(), query.fleet.owner());
    let mut order = by_memory(query);
    if rooms[own] >= n_layers {
        order = vec![own];
    }
    order.truncate(fewest(query, &order)?);
    order.sort_by_key(|&v| v != own);
    shared(query, &order, |v| memory(query, v))
}

#[cfg(test)]
mod tests {
    use atoll_plan::{Fleet, Link, Model, Node, Policy};

    use super::*;

    /// Nodes of these memories (in layers) and layer times, linked all alike; the first owns.
    fn check(rule: Rule, nodes: &[(u64, u64)], expected: &[(usize, usize)]) {
        let node = |(i, &(layers, layer_ns)): (usize, &(u64, u64))| Node {
            layer_ns,
            prefill_layer_ns: layer_ns,
            ..Node::new(&format!("n{i}"), layers * 1000)
        };
        let nodes: Vec<Node> = nodes.iter().enumerate().map(node).collect();
        let n = nodes.len();
        let mut fleet = Fleet::new(nodes, 0).expect("the nodes are sound");
        for (u, v) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))).filter(|(u, v)| u != v) {
            let link = Link { latency_ns: 10, bytes_per_s: 1_000_000 };
            fleet.connect(u, v, link).expect("the link is sound");
        }
        let (model, policy) = (Model::uniform("m", 12, 1000, 8), Policy::default());
        let query = Query { fleet: &fleet, model: &model, policy: &policy };
        let placed = rule.place(&query);
        let found = placed.iter().min_by_key(|placement| {
            assert_eq!(placement.check(&query), Ok(()));
            atoll_plan::cost::predict(&query, placement).map(|found| found.token_ns)
        });
        let stages = found.map_or(&[][..], |placement| placement.stages.as_slice());
        let stages: Vec<(usize, usize)> =
            stages.iter().map(|stage| (stage.node, stage.layers.len())).collect();
        assert_eq!(stages, expected);
    }

    #[test]
    fn rules_do_what_is_known_of_them() {
        let uneven = [(4, 100), (12, 900), (8, 300)];
        check(Rule::One(exo), &uneven, &[(1, 12)]);
        check(Rule::One(exo), &[(4, 100), (8, 900), (8, 300)], &[(1, 6), (2, 6)]);
        check(Rule::One(cake), &uneven, &[(0, 2), (1, 6), (2, 4)]);
        check(Rule::One(llama_cpp), &uneven, &[(1, 6), (2, 4), (0, 2)]);
        check(Rule::One(prima), &uneven, &[(0, 4), (2, 8)]);
        check(Rule::One(mesh_llm), &uneven, &[(1, 12)]);
        check(Rule::One(mesh_llm), &[(12, 900), (12, 100)], &[(0, 12)]);
        check(Rule::One(mesh_llm), &[(6, 100), (9, 900), (8, 300)], &[(1, 6), (2, 6)]);
        // One pipeline of one, or that and one of two: 1/1 against 4/3.
        check(Rule::Several(parallax), &uneven, &[(2, 8), (0, 4)]);
        check(Rule::One(exo), &[(4, 1), (4, 1)], &[]);
    }
}
