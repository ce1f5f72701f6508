//! Limits turned into prices: memory, a node's single use, and quality each cost time, so that a
//! way through layers and nodes can be found without looking back at what it has used.
//!
//! A price is what the whole of something costs, in ns: all memory of a node, its one use, the
//! whole loss that is allowed. What a way takes of it is rounded down, and all of it is paid back
//! in the end, so that a placement within the limits never seems dearer than it is (Held and Karp,
//! "The traveling-salesman problem and minimum spanning trees: part II", 1971).

use crate::tables::{NEVER, Tables};

/// The whole of a limit.
pub(crate) const WHOLE: u64 = 1 << 20;

/// What limits cost.
#[derive(Clone, Debug)]
pub(crate) struct Prices {
    /// Per node: its whole memory, ns.
    pub(crate) memory: Vec<u64>,
    /// Per node: each stage on it, ns.
    pub(crate) visit: Vec<u64>,
    /// The whole loss allowed, ns.
    pub(crate) loss: u64,
}

impl Prices {
    /// Limits that cost nothing.
    pub(crate) fn free(n: usize) -> Self {
        Self { memory: vec![0; n], visit: vec![0; n], loss: 0 }
    }

    /// What is paid back.
    pub(crate) fn paid_back(&self) -> u64 {
        self.memory.iter().chain(&self.visit).fold(self.loss, |sum, price| sum + price)
    }
}

/// The part of a limit that `amount` is, rounded down; `None`: more than all of it.
pub(crate) fn share(amount: u64, limit: u64) -> Option<u64> {
    if amount > limit {
        return None;
    }
    let share = u128::from(amount) * u128::from(WHOLE) / u128::from(limit.max(1));
    u64::try_from(share).ok()
}

/// What a share of a limit costs, ns.
pub(crate) const fn cost(share: u64, price: u64) -> u64 {
    // Prices stay below 2^42 ns, an hour.
    (share * price) >> 20
}

/// The highest price, ns.
pub(crate) const PRICE_MAX: u64 = 1 << 42;

/// The cheapest variant of a layer on a node: cost, share of the memory, share of the loss,
/// variant. `None`: none fits at all.
pub(crate) fn cheapest(
    tables: &Tables,
    (node, layer): (usize, usize),
    (memory_price, loss_price): (u64, u64),
) -> Option<(u64, u64, u64, usize)> {
    let times = tables.times(node, layer).iter();
    let variants = times.zip(&tables.variants[layer]).enumerate();
    let priced = variants.filter_map(|(variant, (&time, &(bytes, loss)))| {
        let memory = share(bytes, tables.memory[node])?;
        let loss = share(loss, tables.loss_max)?;
        Some((time + cost(memory, memory_price) + cost(loss, loss_price), memory, loss, variant))
    });
    priced.min_by_key(|&(cost, _, _, variant)| (cost, variant))
}

/// The cheapest codec of a hop: cost, share of the loss, codec; [`NEVER`] without a link.
pub(crate) fn cheapest_hop(
    tables: &Tables,
    (from, to): (usize, usize),
    loss_price: u64,
) -> (u64, u64, usize) {
    let priced = tables.hop_choices(from, to).filter_map(|(codec, choice)| {
        let loss = share(choice.loss, tables.loss_max)?;
        Some((choice.time + cost(loss, loss_price), loss, codec))
    });
    priced.min_by_key(|&(cost, _, codec)| (cost, codec)).unwrap_or((NEVER, 0, 0))
}
