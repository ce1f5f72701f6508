//! The best boundaries for nodes in a given order, some of which may be left out.

use crate::mix::Mix;
use crate::placement::{Placement, Stage};
use crate::prices;
use crate::query::STAGES_MAX;
use crate::tables::{NEVER, Tables};

/// What ranges of layers cost on one node under a price of loss.
#[derive(Debug)]
pub(crate) struct Menu {
    n_layers: usize,
    /// Per start and end; [`NEVER`]: it does not fit.
    costs: Vec<u64>,
}

impl Menu {
    fn new(tables: &Tables, node: usize, loss_price: u64) -> Self {
        let n_layers = tables.n_layers;
        let mut costs = vec![NEVER; n_layers * (n_layers + 1)];
        for start in 0..n_layers {
            let mut mix = Mix::new(tables, node, start, loss_price);
            for end in start + 1..=tables.furthest(node, start) {
                if !mix.lengthen() {
                    break;
                }
                costs[start * (n_layers + 1) + end] = mix.cost;
            }
        }
        Self { n_layers, costs }
    }

    /// Cost of a range, if it fits.
    fn range(&self, start: usize, end: usize) -> Option<u64> {
        let cost = self.costs[start * (self.n_layers + 1) + end];
        (cost < NEVER).then_some(cost)
    }
}

/// What orders of nodes cost under one price of loss.
#[derive(Debug)]
pub(crate) struct Orders<'a> {
    tables: &'a Tables,
    loss_price: u64,
    /// Per node, once it was asked for.
    menus: Vec<Option<Menu>>,
}

/// Stages in an order: node, start, end.
type Stages = Vec<(usize, usize, usize)>;

/// The best way so far to a boundary: cost, stages, place in the order of the stage before, start.
type Cell = (u64, usize, usize, usize);

impl<'a> Orders<'a> {
    pub(crate) fn new(tables: &'a Tables, loss_price: u64) -> Self {
        let menus = (0..tables.n).map(|_| None).collect();
        Self { tables, loss_price, menus }
    }

    fn hop(&self, from: usize, to: usize) -> u64 {
        prices::cheapest_hop(self.tables, (from, to), self.loss_price).0
    }

    /// The cheapest stages on nodes of `order`, in this order; no node may be in it twice.
    pub(crate) fn best(&mut self, order: &[usize]) -> Option<(u64, Stages)> {
        const NO: Cell = (NEVER, 0, 0, 0);
        let (tables, n_layers) = (self.tables, self.tables.n_layers);
        for &node in order {
            let (tables, loss_price) = (self.tables, self.loss_price);
            self.menus[node].get_or_insert_with(|| Menu::new(tables, node, loss_price));
        }
        let mut rows: Vec<Vec<Cell>> = Vec::with_capacity(order.len());
        for (i, &node) in order.iter().enumerate() {
            let mut enter = vec![NO; n_layers];
            enter[0] = (self.hop(tables.owner, node), 0, 0, 0);
            for (before, row) in rows.iter().enumerate() {
                let hop = self.hop(order[before], node);
                if hop >= NEVER {
                    continue;
                }
                for (enter, end) in enter.iter_mut().zip(row) {
                    if end.0 + hop < enter.0 && end.1 < STAGES_MAX {
                        *enter = (end.0 + hop, end.1, before, 0);
                    }
                }
            }
            let menu = self.menus[node].as_ref().expect("looked up above");
            let mut row = vec![NO; n_layers + 1];
            for (start, &(cost, stages, before, _)) in enter.iter().enumerate() {
                if cost >= NEVER {
                    continue;
                }
                let furthest = tables.furthest(node, start);
                for (end, cell) in row.iter_mut().enumerate().take(furthest + 1).skip(start + 1) {
                    let Some(range) = menu.range(start, end) else { break };
                    let cost = cost + tables.stage_ns[node] + range;
                    if cost < cell.0 {
                        *cell = (cost, stages + 1, before, start);
                    }
                }
            }
            debug_assert_eq!(i, rows.len());
            rows.push(row);
        }
        let total = |i: usize| rows[i][n_layers].0.saturating_add(self.hop(order[i], tables.owner));
        let mut last = (0..order.len()).min_by_key(|&i| (total(i), rows[i][n_layers].1, i))?;
        let cost = total(last);
        if cost >= NEVER {
            return None;
        }
        let (mut stages, mut end) = (Vec::new(), n_layers);
        while end > 0 {
            let (_, _, before, start) = rows[last][end];
            stages.push((order[last], start, end));
            (last, end) = (before, start);
        }
        stages.reverse();
        Some((cost, stages))
    }

    /// The placement of these stages.
    pub(crate) fn placement(&self, stages: &Stages) -> Placement {
        let (tables, price) = (self.tables, self.loss_price);
        let mut from = tables.owner;
        let with_codecs = stages.iter().map(|&(node, start, end)| {
            let mut mix = Mix::new(tables, node, start, price);
            let fits = (start..end).all(|_| mix.lengthen());
            debug_assert!(fits, "it was planned with");
            let variants = mix.variants;
            let (_, _, codec) = prices::cheapest_hop(tables, (from, node), price);
            from = node;
            (Stage { node, layers: start..end, variants }, codec)
        });
        let with_codecs: Vec<_> = with_codecs.collect();
        let (_, _, last_codec) = prices::cheapest_hop(tables, (from, tables.owner), price);
        Tables::placement(with_codecs, last_codec)
    }
}
