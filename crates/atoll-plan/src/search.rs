//! The search: exact where the fleet is small, else from above by changing orders of nodes and
//! from below by prices, until both meet or the work is done.

use std::collections::BTreeSet;

use crate::bound::{Relaxed, Way};
use crate::cost::{self, Prediction};
use crate::error::PlanError;
use crate::exact::{self, LAYERS_EXACT, NODES_EXACT, PLAIN_LAYERS_EXACT};
use crate::labels::{self, Looked};
use crate::order::Orders;
use crate::placement::{Placement, Stage};
use crate::polish;
use crate::prices::{PRICE_MAX, Prices};
use crate::query::{Objective, Query};
use crate::tables::{NEVER, Tables};
use crate::throughput;

/// Rounds of prices at most.
const ROUNDS_MAX: u64 = 150;
/// Additions that one search may make, about; the same on every machine, unlike a time.
const WORK_MAX: u64 = 1_200_000_000;
/// Of these, per node and layer of a small fleet.
const WORK_PER_NODE_LAYER: u64 = 25_000;
/// How much more a search may take where layers have variants or hops codecs.
const WORK_VARIANTS: u64 = 4;
/// Nodes of one order that is looked at.
const ORDER_MAX: usize = 96;
/// Nodes that are tried at every place of an order.
const POOL_MAX: usize = 24;

/// A plan with what it takes, and how far from the best it can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The plan.
    pub placement: Placement,
    /// What it takes.
    pub prediction: Prediction,
    /// What was to be the least: the time per token of a session that is alone, or of each of the
    /// policy's sessions at once, ns.
    pub aim_ns: u64,
    /// No plan takes less of it than this, ns.
    pub bound_ns: u64,
}

/// The placement with the least time per token, alone or of each session by the policy's objective,
/// that keeps to the query's limits: the least of all for up to 6 nodes, else one that is at most
/// `bound_ns` away from it.
///
/// # Errors
/// [`PlanError`] if the query contradicts itself or nothing was found that holds the model.
pub fn plan(query: &Query<'_>) -> Result<Found, PlanError> {
    let (placement, bound_ns) = match query.policy.objective {
        Objective::Latency => {
            let tables = Tables::new(query, 1)?;
            solve(&tables, None)
        }
        Objective::Throughput => throughput::search(query)?,
    };
    let placement = placement.ok_or(PlanError::NoOrder)?;
    debug_assert_eq!(placement.check(query), Ok(()), "a plan keeps to its limits");
    let prediction = cost::predict(query, &placement).expect("a plan has its links");
    let aim_ns = match query.policy.objective {
        Objective::Latency => prediction.token_ns,
        Objective::Throughput => throughput::round_ns(query, &placement),
    };
    Ok(Found { placement, prediction, aim_ns, bound_ns })
}

/// A placement with little time for one pass, and what none can beat, ns; [`NEVER`] if there is
/// none. The least of all where the fleet is small; else the search ends when a placement takes
/// at most `enough_ns`, or none can.
pub(crate) fn solve(tables: &Tables, enough_ns: Option<u64>) -> (Option<Placement>, u64) {
    if is_exact(tables) {
        let found = exact::search(tables);
        let time = found.as_ref().map(|placement| polish::time_and_loss(tables, placement).0);
        return (found, time.unwrap_or(NEVER));
    }
    approximate(tables, enough_ns)
}

/// Whether every state is looked at.
pub(crate) fn is_exact(tables: &Tables) -> bool {
    let layers_max = if is_plain(tables) { PLAIN_LAYERS_EXACT } else { LAYERS_EXACT };
    tables.n <= NODES_EXACT && tables.n_layers <= layers_max
}

/// Whether there is but one variant of each layer, and one codec.
fn is_plain(tables: &Tables) -> bool {
    tables.codec_loss.len() == 1 && tables.variants.iter().all(|of| of.len() == 1)
}

/// A good placement, and what none can beat, ns.
fn approximate(tables: &Tables, enough_ns: Option<u64>) -> (Option<Placement>, u64) {
    let mut search = Search::new(tables, enough_ns);
    search.run();
    // Nodes were dropped that no better plan could use: what such a plan must beat is the bound.
    let bound = search.bound.min(search.to_beat().unwrap_or(NEVER));
    (search.best.map(|(_, placement)| placement), bound)
}

struct Search<'a> {
    tables: &'a Tables,
    enough_ns: Option<u64>,
    best: Option<(u64, Placement)>,
    bound: u64,
    /// Alive nodes, those of the best ways first.
    pool: Vec<usize>,
    work_left: u64,
    tried: BTreeSet<Vec<usize>>,
}

impl<'a> Search<'a> {
    fn new(tables: &'a Tables, enough_ns: Option<u64>) -> Self {
        let size = (tables.n * tables.n_layers) as u64;
        let more = if is_plain(tables) { 1 } else { WORK_VARIANTS };
        let work_left = (size * WORK_PER_NODE_LAYER).min(WORK_MAX) * more;
        let (best, bound, tried) = (None, tables.ends_ns, BTreeSet::new());
        Self { tables, enough_ns, best, bound, pool: Vec::new(), work_left, tried }
    }

    fn run(&mut self) {
        let mut plain = Orders::new(self.tables, 0);
        for order in self.first_orders() {
            self.try_order(&mut plain, &order);
        }
        if self.is_done() {
            return;
        }
        let (prices, mut relaxed) = self.raise_bound(&mut plain);
        if self.is_done() {
            return;
        }
        let lossy = self.tables.codec_loss.iter().any(|loss| *loss > 0)
            || self.tables.variants.iter().flatten().any(|(_, loss)| *loss > 0);
        if !lossy {
            self.change_orders(&mut plain);
            if !self.is_done() && is_plain(self.tables) {
                relaxed.price(self.tables, &prices);
                self.look_at_the_rest(&relaxed);
            }
            return;
        }
        let all: u64 = (0..self.tables.n_layers)
            .map(|layer| self.tables.times(self.tables.owner, layer)[0])
            .sum();
        let base = prices.loss.max(all / 16);
        let loss_prices = [2, 4, 1, 8, 16].map(|factor| base * factor / 2);
        // Orders of the cheapest ways were judged as if loss cost nothing.
        let ways: Vec<Vec<usize>> = self.tried.iter().cloned().collect();
        for price in [prices.loss].into_iter().chain(loss_prices).chain([all * 16, all * 256, 0]) {
            let mut orders = Orders::new(self.tables, price.min(PRICE_MAX));
            for order in self.first_orders().iter().chain(&ways) {
                self.try_order(&mut orders, order);
            }
            self.change_orders(&mut orders);
        }
    }

    /// The time that a plan must stay below to be of any use, ns.
    fn to_beat(&self) -> Option<u64> {
        let best = self.best.as_ref().map(|(time, _)| *time);
        best.into_iter().chain(self.enough_ns.map(|enough| enough + 1)).min()
    }

    /// Whether the best is proven or good enough, or nothing can be.
    fn is_done(&self) -> bool {
        let best = self.best.as_ref().map(|(time, _)| *time);
        let enough = best.zip(self.enough_ns).is_some_and(|(best, enough)| best <= enough);
        enough || self.to_beat().is_some_and(|to_beat| to_beat <= self.bound)
    }

    fn spend(&mut self, work: usize) -> bool {
        let work = work as u64;
        let enough = self.work_left >= work;
        self.work_left = self.work_left.saturating_sub(work);
        enough
    }

    /// Plans with an order; whether that is better than the best so far.
    fn try_order(&mut self, orders: &mut Orders<'_>, order: &[usize]) -> bool {
        let n_layers = self.tables.n_layers;
        if !self.spend(order.len() * n_layers * (order.len() + n_layers / 2)) {
            return false;
        }
        let Some((_, stages)) = orders.best(order) else { return false };
        let mut placement = orders.placement(&stages);
        polish::mend(self.tables, &mut placement);
        polish::polish(self.tables, &mut placement);
        let (time, loss) = polish::time_and_loss(self.tables, &placement);
        let better = self.best.as_ref().is_none_or(|(best, _)| time < *best);
        if !better || loss > self.tables.loss_max {
            return false;
        }
        self.best = Some((time, placement));
        true
    }

    /// Orders to begin with: nodes by what a layer costs on them with their hops shared out, as
    /// they are and each time to the nearest; and by memory.
    fn first_orders(&self) -> Vec<Vec<usize>> {
        let tables = self.tables;
        let ahead = |v: usize| {
            (0..tables.n_layers).map(|start| tables.furthest(v, start) - start).max().unwrap_or(0)
        };
        let way = |u, v| (0..tables.codec_loss.len()).map(|c| tables.hop(c, u, v)).min();
        let score = |&v: &usize| {
            let hops = way(tables.owner, v).unwrap_or(NEVER) / 2
                + way(v, tables.owner).unwrap_or(NEVER) / 2
                + tables.stage_ns[v];
            tables.times(v, 0)[0].saturating_add(hops / ahead(v).max(1) as u64)
        };
        let mut by_cost: Vec<usize> = (0..tables.n).filter(|&v| ahead(v) > 0).collect();
        by_cost.sort_by_key(|v| (score(v), *v));
        let mut by_memory = by_cost.clone();
        by_memory.sort_by_key(|&v| (std::cmp::Reverse(tables.memory[v]), v));
        let mut by_pins = by_cost.clone();
        by_cost.truncate(ORDER_MAX);
        by_memory.truncate(ORDER_MAX);
        // Nodes by the first layer that they may hold: pins ask for an order.
        let first = |v: usize| (0..tables.n_layers).find(|&l| tables.furthest(v, l) > l);
        by_pins.sort_by_key(|&v| (first(v), v));
        by_pins.truncate(ORDER_MAX);
        let near = |nodes: &[usize]| {
            let (mut left, mut order, mut at) = (nodes.to_vec(), Vec::new(), tables.owner);
            while let Some(i) = (0..left.len()).min_by_key(|&i| (way(at, left[i]), left[i])) {
                at = left.remove(i);
                order.push(at);
            }
            order
        };
        let both = [near(&by_cost), near(&by_memory)];
        [by_cost, by_memory, by_pins].into_iter().chain(both).collect()
    }

    /// Raises the bound by prices, and plans with the order of each way that it meets; nodes that
    /// no better plan can use are dropped.
    fn raise_bound(&mut self, orders: &mut Orders<'_>) -> (Prices, Relaxed) {
        let tables = self.tables;
        let mut relaxed = Relaxed::new(tables);
        let mut prices = Prices::free(tables.n);
        let (mut best_prices, mut best_bound) = (prices.clone(), i64::MIN);
        let (mut permille, mut idle) = (1_000, 0);
        for round in 0..ROUNDS_MAX {
            let m = relaxed.alive.len();
            if !self.spend(m * m * tables.n_layers + 20 * m * tables.n_layers) {
                break;
            }
            relaxed.price(tables, &prices);
            let costs = relaxed.forward();
            let Some(way) = relaxed.way(&costs) else {
                // Nothing is left that could beat the best, or nothing at all.
                self.bound = self.bound.max(self.to_beat().unwrap_or(NEVER));
                break;
            };
            if way.bound > best_bound {
                (best_bound, best_prices, idle) = (way.bound, prices.clone(), 0);
                self.bound = self.bound.max(u64::try_from(way.bound).unwrap_or(0));
            } else {
                idle += 1;
                if idle % 6 == 0 {
                    permille = (permille / 2).max(20);
                    prices = best_prices.clone();
                }
            }
            let order = order_of(&relaxed, &way);
            if self.tried.insert(order.clone()) {
                self.try_order(orders, &order);
            }
            if self.is_done() || idle > 40 {
                break;
            }
            let best = self.to_beat().map(|time| i64::try_from(time).unwrap_or(i64::MAX));
            if let Some(best) = best
                && (round % 8 == 0 || way.bound == best_bound && round % 2 == 0)
                && self.spend(m * m * tables.n_layers)
            {
                let through = relaxed.through(&costs);
                self.rank(&relaxed, &through);
                let keep: Vec<bool> = through.iter().map(|&least| least < best).collect();
                if keep.iter().all(|keep| !keep) {
                    // Nothing is left that could beat the best: it is the best of all.
                    self.bound = self.bound.max(u64::try_from(best).unwrap_or(0));
                    break;
                }
                if keep.iter().any(|keep| !keep) {
                    relaxed.improve(&mut prices, &way, best, permille);
                    relaxed.keep(tables, &keep);
                    continue;
                }
            }
            let aim = best.unwrap_or(way.bound.max(1).saturating_mul(3) / 2);
            relaxed.improve(&mut prices, &way, aim, permille);
        }
        (best_prices, relaxed)
    }

    /// Looks at every way that could still beat the best, if they are few: then it is proven.
    fn look_at_the_rest(&mut self, relaxed: &Relaxed) {
        let Some(to_beat) = self.to_beat() else { return };
        let tables = self.tables;
        match labels::search(tables, relaxed, to_beat, |work| self.spend(work)) {
            Looked::TooMuch => {}
            Looked::Nothing => self.bound = self.bound.max(to_beat),
            Looked::Better(stages) => {
                let placement = plain_placement(&stages);
                let (time, _) = polish::time_and_loss(tables, &placement);
                self.bound = self.bound.max(time);
                self.best = Some((time, placement));
            }
        }
    }

    fn rank(&mut self, relaxed: &Relaxed, through: &[i64]) {
        let mut ranked: Vec<(i64, usize)> =
            through.iter().copied().zip(relaxed.alive.iter().copied()).collect();
        ranked.sort_unstable();
        self.pool = ranked.into_iter().take(POOL_MAX).map(|(_, node)| node).collect();
    }

    /// Changes the best order, one node at a time and by turning parts of it around, as long as
    /// that makes it better.
    fn change_orders(&mut self, orders: &mut Orders<'_>) {
        loop {
            let Some((_, placement)) = &self.best else { return };
            let order: Vec<usize> = placement.stages.iter().map(|stage| stage.node).collect();
            let mut better = false;
            for changed in changes(&order, &self.pool) {
                better = self.try_order(orders, &changed);
                if better || self.work_left == 0 {
                    break;
                }
            }
            if !better || self.is_done() {
                return;
            }
        }
    }
}

/// The placement of these stages in the first variants and codec.
fn plain_placement(stages: &[(usize, usize, usize)]) -> Placement {
    let stages = stages.iter().map(|&(node, start, end)| {
        (Stage { node, layers: start..end, variants: vec![0; end - start] }, 0)
    });
    Tables::placement(stages.collect(), 0)
}

/// Nodes in the order of their first stages.
fn order_of(relaxed: &Relaxed, way: &Way) -> Vec<usize> {
    let mut order = Vec::new();
    for &(i, ..) in &way.stages {
        if !order.contains(&relaxed.alive[i]) {
            order.push(relaxed.alive[i]);
        }
    }
    order
}

/// An order with each node of the pool at each place, and with each part turned around.
fn changes(order: &[usize], pool: &[usize]) -> Vec<Vec<usize>> {
    let mut changes = Vec::new();
    for &node in pool.iter().chain(order) {
        let rest: Vec<usize> = order.iter().copied().filter(|&other| other != node).collect();
        for place in 0..=rest.len() {
            let mut changed = rest.clone();
            changed.insert(place, node);
            if changed != order {
                changes.push(changed);
            }
        }
    }
    for start in 0..order.len() {
        for end in start + 2..=order.len() {
            let mut changed = order.to_vec();
            changed[start..end].reverse();
            changes.push(changed);
        }
    }
    changes
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
