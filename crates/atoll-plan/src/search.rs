//! The search: exact where the fleet is small, else from above by changing orders of nodes and
//! from below by prices, until both meet or the work is done.

use std::collections::BTreeSet;

use crate::bound::{Relaxed, Way};
use crate::cost::{self, Prediction};
use crate::error::PlanError;
use crate::exact::{self, LAYERS_EXACT, NODES_EXACT, PLAIN_LAYERS_EXACT};
use crate::order::Orders;
use crate::placement::Placement;
use crate::polish;
use crate::prices::{PRICE_MAX, Prices};
use crate::query::Query;
use crate::tables::{NEVER, Tables};

/// Rounds of prices at most.
const ROUNDS_MAX: u64 = 150;
/// Additions that one search may make, about; the same on every machine, unlike a time.
const WORK_MAX: u64 = 1_200_000_000;
/// Of these, per node and layer of a small fleet.
const WORK_PER_NODE_LAYER: u64 = 25_000;
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
    /// No plan takes less per token than this, ns.
    pub bound_ns: u64,
}

/// The placement with the least time per token that keeps to the query's limits: the least of all
/// for up to 6 nodes, else one that is at most `bound_ns` away from it.
///
/// # Errors
/// [`PlanError`] if the query contradicts itself or nothing was found that holds the model.
pub fn plan(query: &Query<'_>) -> Result<Found, PlanError> {
    let tables = Tables::new(query)?;
    let plain = tables.codec_loss.len() == 1 && tables.variants.iter().all(|of| of.len() == 1);
    let layers_exact = if plain { PLAIN_LAYERS_EXACT } else { LAYERS_EXACT };
    let exact = tables.n <= NODES_EXACT && tables.n_layers <= layers_exact;
    let (placement, bound) = if exact { (exact::search(&tables), 0) } else { approximate(&tables) };
    let placement = placement.ok_or(PlanError::NoOrder)?;
    debug_assert_eq!(placement.check(query), Ok(()), "a plan keeps to its limits");
    let prediction = cost::predict(query, &placement).expect("a plan has its links");
    let token_ns = prediction.token_ns;
    let bound_ns = if exact { token_ns } else { bound };
    Ok(Found { placement, prediction, bound_ns })
}

/// A good placement, and what none can beat, ns.
fn approximate(tables: &Tables) -> (Option<Placement>, u64) {
    let mut search = Search::new(tables);
    search.run();
    // Nodes were dropped that no better plan could use: of those plans the best is the bound.
    let bound = search.best.as_ref().map_or(search.bound, |(time, _)| search.bound.min(*time));
    (search.best.map(|(_, placement)| placement), bound)
}

struct Search<'a> {
    tables: &'a Tables,
    best: Option<(u64, Placement)>,
    bound: u64,
    /// Alive nodes, those of the best ways first.
    pool: Vec<usize>,
    work_left: u64,
    tried: BTreeSet<Vec<usize>>,
}

impl<'a> Search<'a> {
    fn new(tables: &'a Tables) -> Self {
        let size = (tables.n * tables.n_layers) as u64;
        let work_left = (size * WORK_PER_NODE_LAYER).min(WORK_MAX);
        let (best, bound) = (None, tables.ends_ns);
        Self { tables, best, bound, pool: Vec::new(), work_left, tried: BTreeSet::new() }
    }

    fn run(&mut self) {
        let mut plain = Orders::new(self.tables, 0);
        for order in self.first_orders() {
            self.try_order(&mut plain, &order);
        }
        let prices = self.raise_bound(&mut plain);
        if self.is_proven() {
            return;
        }
        let lossy = self.tables.codec_loss.iter().any(|loss| *loss > 0)
            || self.tables.variants.iter().flatten().any(|(_, loss)| *loss > 0);
        let mut loss_prices = vec![prices.loss];
        if lossy {
            let all: u64 = (0..self.tables.n_layers)
                .map(|layer| self.tables.times(self.tables.owner, layer)[0])
                .sum();
            let base = prices.loss.max(all / 16);
            loss_prices.extend([2, 4, 1, 8, 16].map(|factor| base * factor / 2));
            loss_prices.extend([all * 16, all * 256]);
        }
        for price in loss_prices {
            let mut orders = Orders::new(self.tables, price.min(PRICE_MAX));
            for order in self.first_orders() {
                self.try_order(&mut orders, &order);
            }
            self.change_orders(&mut orders);
        }
    }

    fn is_proven(&self) -> bool {
        self.best.as_ref().is_some_and(|(time, _)| *time <= self.bound)
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
    fn raise_bound(&mut self, orders: &mut Orders<'_>) -> Prices {
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
            let Some(way) = relaxed.way(&costs) else { break };
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
            if self.is_proven() || idle > 40 {
                break;
            }
            let best = self.best.as_ref().map(|(time, _)| i64::try_from(*time).unwrap_or(i64::MAX));
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
        best_prices
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
            if !better || self.is_proven() {
                return;
            }
        }
    }
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
