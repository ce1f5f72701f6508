//! The variants of layers in a row on one node, such that they fit its memory.

use crate::prices;
use crate::tables::Tables;

/// Layers in a row from one start, each in some variant: the cheapest under a price of loss, and
/// lighter ones where that costs least for what it frees, until all fit.
#[derive(Debug)]
pub(crate) struct Mix<'a> {
    tables: &'a Tables,
    node: usize,
    start: usize,
    loss_price: u64,
    /// Of each layer, from the start on.
    pub(crate) variants: Vec<usize>,
    /// Times and priced losses together, ns.
    pub(crate) cost: u64,
    bytes: u64,
    time: u64,
}

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Short {
    Memory,
    Time,
}

impl<'a> Mix<'a> {
    /// No layers yet.
    pub(crate) const fn new(
        tables: &'a Tables,
        node: usize,
        start: usize,
        loss_price: u64,
    ) -> Self {
        let variants = Vec::new();
        Self { tables, node, start, loss_price, variants, cost: 0, bytes: 0, time: 0 }
    }

    /// Cost, bytes and time of a variant; `None`: its loss alone is more than is allowed.
    fn option(&self, layer: usize, variant: usize) -> Option<(u64, u64, u64)> {
        let (bytes, loss) = self.tables.variants[layer][variant];
        let share = prices::share(loss, self.tables.loss_max)?;
        let time = self.tables.times(self.node, layer)[variant];
        Some((time + prices::cost(share, self.loss_price), bytes, time))
    }

    /// The options of a layer that may be taken.
    fn options(&self, layer: usize) -> impl Iterator<Item = (usize, (u64, u64, u64))> + '_ {
        let variants = 0..self.tables.variants[layer].len();
        variants.filter_map(move |variant| Some((variant, self.option(layer, variant)?)))
    }

    fn swap(&mut self, i: usize, variant: usize) {
        let layer = self.start + i;
        let old = self.option(layer, self.variants[i]).expect("it was taken");
        let new = self.option(layer, variant).expect("it was offered");
        self.cost = self.cost - old.0 + new.0;
        self.bytes = self.bytes - old.1 + new.1;
        self.time = self.time - old.2 + new.2;
        self.variants[i] = variant;
    }

    /// Takes one layer more; whether they fit. If not, no longer row is to be asked for.
    pub(crate) fn lengthen(&mut self) -> bool {
        let layer = self.start + self.variants.len();
        let cheapest = self.options(layer).min_by_key(|&(variant, of)| (of.0, variant));
        let Some((variant, (cost, bytes, time))) = cheapest else { return false };
        self.variants.push(variant);
        self.cost += cost;
        self.bytes += bytes;
        self.time += time;
        let (tables, node) = (self.tables, self.node);
        let memory = tables.memory[node];
        let time_max = tables.stage_max[node].saturating_sub(tables.stage_ns[node]);
        let mut swapped = false;
        while self.bytes > memory || self.time > time_max {
            let short = if self.bytes > memory { Short::Memory } else { Short::Time };
            let Some((i, variant)) = self.lighter(short) else { return false };
            self.swap(i, variant);
            swapped = true;
        }
        while let Some((i, variant)) = swapped.then(|| self.cheaper(memory, time_max)).flatten() {
            self.swap(i, variant);
        }
        true
    }

    /// The change that costs least for what it frees of what is short.
    fn lighter(&self, short: Short) -> Option<(usize, usize)> {
        let mut best: Option<(u64, u64, usize, usize)> = None;
        for (i, &taken) in self.variants.iter().enumerate() {
            let layer = self.start + i;
            let old = self.option(layer, taken).expect("it was taken");
            for (variant, new) in self.options(layer) {
                let (before, after) = match short {
                    Short::Memory => (old.1, new.1),
                    Short::Time => (old.2, new.2),
                };
                // What is not short must not become so.
                if after >= before || short == Short::Time && new.1 > old.1 {
                    continue;
                }
                let (costs, freed) = (new.0.saturating_sub(old.0), before - after);
                let is_better = best.is_none_or(|(least, most, ..)| {
                    u128::from(costs) * u128::from(most) < u128::from(least) * u128::from(freed)
                });
                if is_better {
                    best = Some((costs, freed, i, variant));
                }
            }
        }
        best.map(|(_, _, i, variant)| (i, variant))
    }

    /// The change that saves most and still fits.
    fn cheaper(&self, memory: u64, time_max: u64) -> Option<(usize, usize)> {
        let mut best: Option<(u64, usize, usize)> = None;
        for (i, &taken) in self.variants.iter().enumerate() {
            let layer = self.start + i;
            let old = self.option(layer, taken).expect("it was taken");
            for (variant, new) in self.options(layer) {
                let fits =
                    self.bytes - old.1 + new.1 <= memory && self.time - old.2 + new.2 <= time_max;
                let saved = old.0.saturating_sub(new.0);
                if fits && saved > best.map_or(0, |(most, ..)| most) {
                    best = Some((saved, i, variant));
                }
            }
        }
        best.map(|(_, i, variant)| (i, variant))
    }
}
