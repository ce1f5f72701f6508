//! Which wishes cannot be kept together when there is no plan.

use std::collections::BTreeSet;

use crate::query::{Objective, Policy, Query};
use crate::search;
use crate::tables::{NEVER, Tables};

/// Sets of wishes that are planned for, at most, to find a smaller one.
const TRIES_MAX: usize = 400;

/// One limit of a policy that could be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// A pin, by its place in [`Policy::pins`].
    Pin(usize),
    /// Not to use this node.
    Excluded(usize),
    /// Memory for caches of the whole context of all sessions.
    Caches,
    /// The most that variants and codecs may cost in quality.
    Loss,
}

/// Wishes that no plan keeps together, although it could keep all but any one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// In order; empty: the fleet cannot hold the model, whatever is given up.
    pub wishes: Vec<Wish>,
    /// Whether no set of fewer wishes is one, as far as was looked.
    pub is_smallest: bool,
}

/// The wishes that are in each other's way; `None` if there is a plan.
///
/// For fleets that are too large for the exact search, "no plan" means that none was found.
#[must_use]
pub fn conflict(query: &Query<'_>) -> Option<Conflict> {
    let policy = query.policy;
    let pins = (0..policy.pins.len()).map(Wish::Pin);
    let excluded = policy.excluded.iter().copied().map(Wish::Excluded);
    let all: Vec<Wish> = pins.chain(excluded).chain([Wish::Caches, Wish::Loss]).collect();
    if is_planned(query, &all) {
        return None;
    }
    if !is_planned(query, &[]) {
        return Some(Conflict { wishes: Vec::new(), is_smallest: true });
    }
    let mut wishes = needed(query, &[], &all);
    wishes.sort_unstable();
    let mut tries = TRIES_MAX;
    for size in 1..wishes.len() {
        match first_of_size(query, &all, size, &mut Vec::new(), &mut tries) {
            Some(fewer) => return Some(Conflict { wishes: fewer, is_smallest: true }),
            None if tries == 0 => return Some(Conflict { wishes, is_smallest: false }),
            None => {}
        }
    }
    Some(Conflict { wishes, is_smallest: true })
}

/// Whether there is a plan that keeps these wishes alone.
fn is_planned(query: &Query<'_>, wishes: &[Wish]) -> bool {
    let asked = query.policy;
    let mut policy = Policy {
        context: 0,
        objective: Objective::Latency,
        excluded: BTreeSet::new(),
        pins: Vec::new(),
        loss_max: u64::MAX,
        ..asked.clone()
    };
    for &wish in wishes {
        match wish {
            Wish::Pin(i) => policy.pins.push(asked.pins[i].clone()),
            Wish::Excluded(node) => {
                policy.excluded.insert(node);
            }
            Wish::Caches => policy.context = asked.context,
            Wish::Loss => policy.loss_max = asked.loss_max,
        }
    }
    // The first plan that is found will do.
    let tables = Tables::new(&Query { policy: &policy, ..*query }, 1);
    tables.is_ok_and(|tables| search::solve(&tables, Some(NEVER)).0.is_some())
}

/// The wishes of `of` that, together with `kept`, leave no plan and cannot be fewer: halves are
/// taken away (Junker, "QuickXplain", 2004). With all of `of` there is no plan, without there is.
fn needed(query: &Query<'_>, kept: &[Wish], of: &[Wish]) -> Vec<Wish> {
    if of.len() == 1 {
        return of.to_vec();
    }
    let (first, second) = of.split_at(of.len() / 2);
    let with = |more: &[Wish]| kept.iter().chain(more).copied().collect::<Vec<Wish>>();
    let with_first = with(first);
    let mut of_second = Vec::new();
    if is_planned(query, &with_first) {
        of_second = needed(query, &with_first, second);
    }
    let with_second = with(&of_second);
    let mut found = of_second;
    if is_planned(query, &with_second) {
        found.extend(needed(query, &with_second, first));
    }
    found
}

/// The first set of `size` more wishes that leaves no plan.
fn first_of_size(
    query: &Query<'_>,
    left: &[Wish],
    size: usize,
    taken: &mut Vec<Wish>,
    tries: &mut usize,
) -> Option<Vec<Wish>> {
    if size == 0 {
        if *tries == 0 {
            return None;
        }
        *tries -= 1;
        return (!is_planned(query, taken)).then(|| taken.clone());
    }
    for (i, &wish) in left.iter().enumerate() {
        taken.push(wish);
        let found = first_of_size(query, &left[i + 1..], size - 1, taken, tries);
        taken.pop();
        if found.is_some() || *tries == 0 {
            return found;
        }
    }
    None
}

impl Wish {
    /// The wish in words.
    #[must_use]
    pub fn text(self, query: &Query<'_>) -> String {
        let policy = query.policy;
        let name = |node: usize| &query.fleet.nodes()[node].name;
        match self {
            Self::Pin(i) => {
                let pin = &policy.pins[i];
                format!("layers {}..{} on {}", pin.layers.start, pin.layers.end, name(pin.node))
            }
            Self::Excluded(node) => format!("{} not used", name(node)),
            Self::Caches => {
                let (context, sessions) = (policy.context, policy.sessions);
                format!("caches of {context} positions for {sessions}")
            }
            Self::Loss => format!("a loss of at most {} nats", policy.loss_max as f64 / 1e6),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::fleet::{Fleet, Link, Node};
    use crate::model::{Model, Variant};
    use crate::query::Pin;

    /// Three nodes with room for 4 layers of 8 each, cache of 1 position a thousandth of a layer.
    fn check(change: impl Fn(&mut Policy), expected: Option<&[Wish]>) {
        let nodes = ["a", "b", "c"].map(|name| Node { layer_ns: 1, ..Node::new(name, 4_000) });
        let mut fleet = Fleet::new(nodes.to_vec(), 0).unwrap();
        for (u, v) in (0..3).flat_map(|u| (0..3).map(move |v| (u, v))).filter(|(u, v)| u != v) {
            fleet.connect(u, v, Link { latency_ns: 1, bytes_per_s: 1 << 30 }).unwrap();
        }
        let mut model = Model::uniform("m", 8, 1000, 8);
        model.kv_bytes_per_position = 1;
        for layer in &mut model.layers {
            let half = Variant { bytes: 500, loss: 9, ..layer.variants[0].clone() };
            layer.variants.push(half);
        }
        let mut policy = Policy { context: 0, ..Policy::default() };
        change(&mut policy);
        let query = Query { fleet: &fleet, model: &model, policy: &policy };
        let found = conflict(&query);
        assert_eq!(found.as_ref().map(|found| found.wishes.as_slice()), expected);
        assert!(found.is_none_or(|found| found.is_smallest));
    }

    fn pin(layers: std::ops::Range<usize>, node: usize) -> Pin {
        Pin { layers, node }
    }

    #[test]
    fn the_fewest_wishes_that_leave_no_plan_are_named() {
        check(|_| {}, None);
        // Two of the three nodes are needed for layers as they are, if their caches are small.
        check(|policy| policy.excluded = BTreeSet::from([1]), None);
        let without_two = |policy: &mut Policy| policy.excluded = BTreeSet::from([1, 2]);
        check(without_two, Some(&[Wish::Excluded(1), Wish::Excluded(2), Wish::Loss]));
        // A node has its layers in one stretch; what else is asked does not matter.
        let torn = |policy: &mut Policy| {
            policy.excluded = BTreeSet::from([2]);
            policy.pins = vec![pin(0..1, 0), pin(2..3, 1), pin(4..5, 0), pin(6..7, 0)];
        };
        check(torn, Some(&[Wish::Pin(0), Wish::Pin(1), Wish::Pin(2)]));
        let both = |policy: &mut Policy| {
            policy.pins = vec![pin(0..1, 0), pin(3..5, 1), pin(4..6, 2)];
            policy.excluded = BTreeSet::from([0, 1]);
        };
        check(both, Some(&[Wish::Pin(1), Wish::Pin(2)]));
        check(|policy| policy.context = 4_000, Some(&[Wish::Caches]));
        check(|policy| policy.context = 500, Some(&[Wish::Caches, Wish::Loss]));
    }
}
