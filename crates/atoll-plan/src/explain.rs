//! Why a node was left out, and what would change that.

use std::fmt;

use crate::cost;
use crate::fleet::{Fleet, Link, Node};
use crate::query::{Pin, Policy, Query};
use crate::search::{Found, plan};
use crate::tables::NEVER;

/// How often faster a link or a node is tried, at most.
const FACTOR_MAX: u64 = 1024;
/// Nodes for which changes are tried: each takes some thirty small plans.
const TRIED_MAX: usize = 12;

/// A node that the plan does not use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Which.
    pub node: usize,
    /// Why.
    pub why: Why,
    /// What alone would bring it into the plan; `None`: nothing that was tried.
    pub change: Option<Change>,
}

/// Why a node is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The policy says so.
    Excluded,
    /// Pins leave no layer for it.
    Pinned,
    /// It has no room for one layer.
    NoRoom {
        /// Bytes of a layer with its cache.
        needed_bytes: u64,
        /// Bytes that it has for layers.
        memory_bytes: u64,
    },
    /// No link to it, or none back.
    Unreachable,
    /// It would cost more than it saves.
    Slower {
        /// What its hops and its handling of a frame would add to a token, at the best place, ns.
        detour_ns: u64,
        /// One layer there, ns.
        layer_ns: u64,
        /// One layer on the slowest node that is used, ns.
        slowest_ns: u64,
    },
}

/// What would bring a node into the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Links to and from it that carry at least so much, bytes/s.
    Bandwidth(u64),
    /// Links to and from it with at most this latency, ns.
    Latency(u64),
    /// A layer in at most this time, ns.
    LayerTime(u64),
    /// So much memory for layers, bytes: then it can hold one.
    Memory(u64),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        match *self {
            Self::Excluded => f.write_str("it is not to be used"),
            Self::Pinned => f.write_str("every layer is pinned to another node"),
            Self::NoRoom { needed_bytes, memory_bytes } => write!(
                f,
                "a layer with its cache takes {:.0} MB, it has {:.0} MB",
                needed_bytes as f64 / 1e6,
                memory_bytes as f64 / 1e6
            ),
            Self::Unreachable => f.write_str("no links to it and back"),
            Self::Slower { detour_ns, layer_ns, slowest_ns } => write!(
                f,
                "its hops would add {:.2} ms per token; a layer takes {:.3} ms there, at most \
                 {:.3} ms where it is",
                ms(detour_ns),
                ms(layer_ns),
                ms(slowest_ns)
            ),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bandwidth(bytes_per_s) => {
                write!(f, "from {:.1} Mbit/s it would be used", bytes_per_s as f64 / 125_000.0)
            }
            Self::Latency(ns) => {
                write!(f, "with a latency of {:.3} ms it would be used", ns as f64 / 1e6)
            }
            Self::LayerTime(ns) => {
                write!(f, "with {:.3} ms a layer it would be used", ns as f64 / 1e6)
            }
            Self::Memory(bytes) => {
                write!(f, "with {:.0} MB free it could hold a layer", bytes as f64 / 1e6)
            }
        }
    }
}

/// Every node that `found` does not use, in the fleet's order; with `changes`, what would change
/// that is searched for the first of them.
#[must_use]
pub fn left_out(query: &Query<'_>, found: &Found, changes: bool) -> Vec<LeftOut> {
    let n = query.fleet.nodes().len();
    let used: Vec<usize> = found.placement.stages.iter().map(|stage| stage.node).collect();
    let ring = found.placement.ring(query.fleet.owner());
    let mut tries = if changes { TRIED_MAX } else { 0 };
    let mut explain = |node: usize| {
        let why = why(query, &used, &ring, node);
        let change = match why {
            Why::NoRoom { needed_bytes, .. } => Some(Change::Memory(needed_bytes)),
            Why::Slower { .. } if tries > 0 => {
                tries -= 1;
                change(query, &used, node)
            }
            Why::Slower { .. } | Why::Excluded | Why::Pinned | Why::Unreachable => None,
        };
        LeftOut { node, why, change }
    };
    (0..n).filter(|node| !used.contains(node)).map(&mut explain).collect()
}

fn why(query: &Query<'_>, used: &[usize], ring: &[usize], node: usize) -> Why {
    let n_layers = query.model.layers.len();
    if query.policy.excluded.contains(&node) {
        return Why::Excluded;
    }
    if !(0..n_layers).any(|layer| query.allows(node, layer)) {
        return Why::Pinned;
    }
    let variants = query.model.layers.iter().flat_map(|layer| &layer.variants);
    let smallest = variants.map(|variant| variant.bytes).min().unwrap_or(0);
    let needed_bytes = smallest.saturating_add(query.kv_layer_bytes());
    let memory_bytes = query.layer_memory_bytes(node);
    if needed_bytes > memory_bytes {
        return Why::NoRoom { needed_bytes, memory_bytes };
    }
    let hop = |u, v| cost::hop_ns(query, u, v, 0).unwrap_or(NEVER);
    let detours = ring.windows(2).map(|pair| {
        let with = hop(pair[0], node).saturating_add(hop(node, pair[1]));
        (with, with.saturating_sub(hop(pair[0], pair[1])))
    });
    let (with, detour) = detours.min_by_key(|(_, detour)| *detour).unwrap_or((NEVER, NEVER));
    if with >= NEVER {
        return Why::Unreachable;
    }
    let layer_ns = |v: usize| cost::layer_ns(query, v, 0, 0);
    Why::Slower {
        detour_ns: detour.saturating_add(query.fleet.nodes()[node].stage_ns),
        layer_ns: layer_ns(node),
        slowest_ns: used.iter().map(|&v| layer_ns(v)).max().unwrap_or(0),
    }
}

/// The least single change with which a plan of the used nodes and this one uses it.
fn change(query: &Query<'_>, used: &[usize], node: usize) -> Option<Change> {
    let small = Small::new(query, |v| used.contains(&v) || v == node)?;
    let at = small.kept.iter().position(|&v| v == node)?;
    let links = |of: fn(Link) -> u64, pick: fn(u64, u64) -> u64| {
        let others = (0..small.kept.len()).filter(|&v| v != at);
        let both = others.flat_map(|v| [small.fleet.link(v, at), small.fleet.link(at, v)]);
        both.flatten().map(of).reduce(pick)
    };
    let narrowest = links(|link| link.bytes_per_s, u64::min)?;
    if let Some(factor) = least_factor(|tenths| {
        let at_least = narrowest.saturating_mul(tenths) / 10;
        small.uses(query, at, |_| (), |link| link.bytes_per_s = link.bytes_per_s.max(at_least))
    }) {
        return Some(Change::Bandwidth(narrowest.saturating_mul(factor) / 10));
    }
    let slowest = links(|link| link.latency_ns, u64::max)?;
    if let Some(factor) = least_factor(|tenths| {
        let at_most = slowest * 10 / tenths;
        small.uses(query, at, |_| (), |link| link.latency_ns = link.latency_ns.min(at_most))
    }) {
        return Some(Change::Latency(slowest * 10 / factor));
    }
    let layer_ns = query.fleet.nodes()[node].layer_ns;
    let factor = least_factor(|tenths| {
        small.uses(query, at, |node| node.layer_ns = layer_ns * 10 / tenths, |_| ())
    })?;
    Some(Change::LayerTime(layer_ns * 10 / factor))
}

/// The least factor, in tenths, for which `helps` is true: by doubling, then by halving the rest.
fn least_factor(helps: impl Fn(u64) -> bool) -> Option<u64> {
    let mut high = 20;
    while !helps(high) {
        high *= 2;
        if high > 10 * FACTOR_MAX {
            return None;
        }
    }
    let mut low = high / 2;
    while high - low > (low / 10).max(1) {
        let middle = low.midpoint(high);
        if helps(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// Some nodes of a query's fleet, with its policy for them.
struct Small {
    fleet: Fleet,
    policy: Policy,
    /// Their numbers in the whole fleet.
    kept: Vec<usize>,
}

impl Small {
    fn new(query: &Query<'_>, keep: impl Fn(usize) -> bool) -> Option<Self> {
        let n = query.fleet.nodes().len();
        let kept: Vec<usize> = (0..n).filter(|&v| v == query.fleet.owner() || keep(v)).collect();
        let to = |node: usize| kept.iter().position(|&v| v == node);
        let excluded = query.policy.excluded.iter().filter_map(|&v| to(v)).collect();
        let pins = query
            .policy
            .pins
            .iter()
            .map(|pin| Some(Pin { layers: pin.layers.clone(), node: to(pin.node)? }));
        let pins = pins.collect::<Option<Vec<_>>>()?;
        let policy = Policy { excluded, pins, ..query.policy.clone() };
        Some(Self { fleet: query.fleet.only(keep), policy, kept })
    }

    /// Whether a plan uses the node at `at` once it and its links are changed.
    fn uses(
        &self,
        query: &Query<'_>,
        at: usize,
        node: impl Fn(&mut Node),
        link: impl Fn(&mut Link),
    ) -> bool {
        let mut changed = self.fleet.nodes()[at].clone();
        node(&mut changed);
        let Ok(mut fleet) = self.fleet.with_node(at, changed) else { return false };
        for other in (0..self.kept.len()).filter(|&other| other != at) {
            for (from, to) in [(other, at), (at, other)] {
                if let Some(mut found) = self.fleet.link(from, to) {
                    link(&mut found);
                    if fleet.connect(from, to, found).is_err() {
                        return false;
                    }
                }
            }
        }
        let query = Query { fleet: &fleet, model: query.model, policy: &self.policy };
        plan(&query).is_ok_and(|found| found.placement.stages.iter().any(|s| s.node == at))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::Model;

    /// A desk with room for 6 of 10 layers, a shelf that is needed, and a slow kitchen.
    fn fleet(kitchen: Link) -> Fleet {
        let node =
            |name: &str, layers: u64, layer_ns| Node { layer_ns, ..Node::new(name, layers * 1000) };
        let nodes = vec![
            node("desk", 6, 1_000_000),
            node("shelf", 20, 3_000_000),
            node("kitchen", 9, 1_500_000),
            node("watch", 0, 1_000_000),
        ];
        let mut fleet = Fleet::new(nodes, 0).unwrap();
        let lan = Link { latency_ns: 200_000, bytes_per_s: 100_000_000 };
        for (u, v) in [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3)] {
            let link = if v == 2 { kitchen } else { lan };
            fleet.connect(u, v, link).unwrap();
            fleet.connect(v, u, link).unwrap();
        }
        fleet
    }

    fn explained(kitchen: Link) -> Vec<LeftOut> {
        let (fleet, policy) = (fleet(kitchen), Policy { positions: 0, ..Policy::default() });
        let model = Model::uniform("m", 10, 1000, 10_000);
        let query = Query { fleet: &fleet, model: &model, policy: &policy };
        let found = plan(&query).unwrap();
        left_out(&query, &found, true)
    }

    #[test]
    fn a_slow_link_is_named_and_what_would_do() {
        let left = explained(Link { latency_ns: 200_000, bytes_per_s: 500_000 });
        assert_eq!(left.iter().map(|left| left.node).collect::<Vec<_>>(), [2, 3]);
        let Why::Slower { detour_ns, .. } = left[0].why else { panic!("{:?}", left[0]) };
        assert!(detour_ns > 20_000_000, "{detour_ns}");
        let Some(Change::Bandwidth(needed)) = left[0].change else { panic!("{:?}", left[0]) };
        // With it the kitchen is used, with a tenth less it is not.
        let with = |bytes_per_s| {
            explained(Link { latency_ns: 200_000, bytes_per_s }).iter().all(|left| left.node != 2)
        };
        assert!(with(needed) && !with(needed * 8 / 10), "{needed}");
        assert_eq!(left[1].why, Why::NoRoom { needed_bytes: 1000, memory_bytes: 0 });
        assert_eq!(left[1].change, Some(Change::Memory(1000)));
    }
}
