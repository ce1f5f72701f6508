//! What no placement can beat: the cheapest way through layers and nodes under prices, which may
//! use a node twice.

use std::collections::VecDeque;

use crate::prices::{self, Prices, WHOLE};
use crate::tables::Tables;

/// No way.
const FAR: i64 = 1 << 60;

/// The nodes that are still looked at, with what each of their layers and hops costs.
#[derive(Debug)]
pub(crate) struct Relaxed {
    /// Node numbers.
    pub(crate) alive: Vec<usize>,
    n_layers: usize,
    /// Per alive node: cost of layers `0..i`, `n_layers + 1` each.
    sums: Vec<i64>,
    /// Per alive node and layer: shares of memory and loss of the variant taken.
    shares: Vec<(u64, u64)>,
    /// Per alive node and start: the furthest end.
    ends: Vec<u16>,
    /// Per alive node: what each stage costs beside its layers.
    stage: Vec<i64>,
    /// `(m, m)`, from the row to the column; and from and to the owner.
    hops: Vec<i64>,
    from_owner: Vec<i64>,
    to_owner: Vec<i64>,
    /// The loss price for which the hops were looked up.
    hops_at: Option<u64>,
    /// What the prices pay back, less embedding and head.
    paid_back: i64,
}

/// A way under prices.
#[derive(Debug)]
pub(crate) struct Way {
    /// What no placement can beat, ns; may be negative under bad prices.
    pub(crate) bound: i64,
    /// Alive index, start and end of each stage.
    pub(crate) stages: Vec<(usize, usize, usize)>,
}

/// The costs of the cheapest ways to each alive node and boundary, `(m, n_layers + 1)`.
#[derive(Debug)]
pub(crate) struct Costs {
    /// From the owner to the end of a stage there.
    pub(crate) ends: Vec<i64>,
    start_of: Vec<u16>,
    before: Vec<u16>,
}

fn signed(cost: u64) -> i64 {
    i64::try_from(cost).map_or(FAR, |cost| cost.min(FAR))
}

impl Relaxed {
    pub(crate) fn new(tables: &Tables) -> Self {
        let (n, n_layers) = (tables.n, tables.n_layers);
        let holds_any = |&v: &usize| (0..n_layers).any(|start| tables.furthest(v, start) > start);
        let mut relaxed = Self {
            alive: (0..n).filter(holds_any).collect(),
            n_layers,
            sums: Vec::new(),
            shares: Vec::new(),
            ends: Vec::new(),
            stage: Vec::new(),
            hops: Vec::new(),
            from_owner: Vec::new(),
            to_owner: Vec::new(),
            hops_at: None,
            paid_back: 0,
        };
        relaxed.look_up_ends(tables);
        relaxed
    }

    fn look_up_ends(&mut self, tables: &Tables) {
        let starts = self.alive.iter().flat_map(|&v| (0..self.n_layers).map(move |l| (v, l)));
        let ends = starts.map(|(v, l)| tables.furthest(v, l));
        self.ends = ends.map(|end| u16::try_from(end).expect("layers are few")).collect();
    }

    /// Leaves only the nodes that `keep` says.
    pub(crate) fn keep(&mut self, tables: &Tables, keep: &[bool]) {
        let mut kept = keep.iter();
        self.alive.retain(|_| *kept.next().expect("one for each alive node"));
        self.look_up_ends(tables);
        self.hops_at = None;
    }

    /// Takes up new prices.
    pub(crate) fn price(&mut self, tables: &Tables, prices: &Prices) {
        let n_layers = self.n_layers;
        self.sums.clear();
        self.shares.clear();
        self.stage.clear();
        for &v in &self.alive {
            let mut sum = 0_i64;
            self.sums.push(0);
            for layer in 0..n_layers {
                let priced = (prices.memory[v], prices.loss);
                let cheapest = prices::cheapest(tables, (v, layer), priced);
                let (cost, memory, loss, _) = cheapest.unwrap_or((0, 0, 0, 0));
                sum += signed(cost);
                self.sums.push(sum);
                self.shares.push((memory, loss));
            }
            self.stage.push(signed(tables.stage_ns[v] + prices.visit[v]));
        }
        if self.hops_at != Some(prices.loss) {
            let hop = |u, v| signed(prices::cheapest_hop(tables, (u, v), prices.loss).0);
            let alive = &self.alive;
            let plain = tables.codec_loss.len() == 1;
            self.hops.clear();
            for &u in alive {
                let row = tables.hops_from(0, u);
                let row_hop = |&v: &usize| if plain { signed(row[v]) } else { hop(u, v) };
                self.hops.extend(alive.iter().map(row_hop));
            }
            self.from_owner = alive.iter().map(|&v| hop(tables.owner, v)).collect();
            self.to_owner = alive.iter().map(|&v| hop(v, tables.owner)).collect();
            self.hops_at = Some(prices.loss);
        }
        self.paid_back = signed(prices.paid_back()) - signed(tables.ends_ns);
    }

    fn sum(&self, i: usize, layer: usize) -> i64 {
        self.sums[i * (self.n_layers + 1) + layer]
    }

    /// The furthest end of a stage that starts there.
    pub(crate) fn furthest(&self, i: usize, start: usize) -> usize {
        usize::from(self.ends[i * self.n_layers + start])
    }

    /// The cheapest ways from the owner to the end of a stage at each node and boundary.
    pub(crate) fn forward(&self) -> Costs {
        let (m, n_layers) = (self.alive.len(), self.n_layers);
        let at = |i: usize, l: usize| i * (n_layers + 1) + l;
        let mut costs = Costs {
            ends: vec![FAR; m * (n_layers + 1)],
            start_of: vec![0; m * (n_layers + 1)],
            before: vec![0; m * (n_layers + 1)],
        };
        let mut open: Vec<VecDeque<(i64, usize)>> = vec![VecDeque::new(); m];
        let mut enter = self.from_owner.clone();
        let mut before = vec![0_u16; m];
        for l in 0..n_layers {
            if l > 0 {
                enter.fill(FAR);
                self.hop_all(&costs.ends, l, &mut enter, &mut before);
            }
            for i in 0..m {
                let open = &mut open[i];
                if enter[i] < FAR && self.furthest(i, l) > l {
                    costs.before[at(i, l)] = before[i];
                    let begun = enter[i] + self.stage[i] - self.sum(i, l);
                    while open.back().is_some_and(|&(other, _)| other > begun) {
                        open.pop_back();
                    }
                    open.push_back((begun, l));
                }
                while open.front().is_some_and(|&(_, start)| self.furthest(i, start) < l + 1) {
                    open.pop_front();
                }
                if let Some(&(begun, start)) = open.front() {
                    costs.ends[at(i, l + 1)] = begun + self.sum(i, l + 1);
                    costs.start_of[at(i, l + 1)] = u16::try_from(start).expect("layers are few");
                }
            }
        }
        costs
    }

    /// The cheapest hop to each node at a boundary, from wherever a stage ends there.
    fn hop_all(&self, ends: &[i64], l: usize, enter: &mut [i64], before: &mut [u16]) {
        let m = self.alive.len();
        let mut from: Vec<(i64, usize)> = (0..m)
            .map(|i| (ends[i * (self.n_layers + 1) + l], i))
            .filter(|&(end, _)| end < FAR)
            .collect();
        from.sort_unstable();
        let mut dearest = FAR;
        for (count, &(end, i)) in from.iter().enumerate() {
            if count % 8 == 7 {
                dearest = enter.iter().copied().max().unwrap_or(FAR);
            }
            if end >= dearest {
                break;
            }
            let row = &self.hops[i * m..(i + 1) * m];
            for (j, (&hop, enter)) in row.iter().zip(enter.iter_mut()).enumerate() {
                if end + hop < *enter && i != j {
                    *enter = end + hop;
                    before[j] = u16::try_from(i).expect("nodes are few");
                }
            }
        }
    }

    /// The cheapest way of all.
    pub(crate) fn way(&self, costs: &Costs) -> Option<Way> {
        let at = |i: usize, l: usize| i * (self.n_layers + 1) + l;
        let total = |i: usize| costs.ends[at(i, self.n_layers)] + self.to_owner[i];
        let mut last = (0..self.alive.len()).min_by_key(|&i| (total(i), i))?;
        if total(last) >= FAR {
            return None;
        }
        let bound = total(last) - self.paid_back;
        let (mut stages, mut end) = (Vec::new(), self.n_layers);
        while end > 0 {
            let start = usize::from(costs.start_of[at(last, end)]);
            stages.push((last, start, end));
            last = usize::from(costs.before[at(last, start)]);
            end = start;
        }
        stages.reverse();
        Some(Way { bound, stages })
    }

    /// Per alive node: what no placement that uses it can beat, ns.
    pub(crate) fn through(&self, costs: &Costs) -> Vec<i64> {
        let rows = costs.ends.iter().zip(self.rest());
        let sums: Vec<i64> = rows.map(|(end, rest)| end.saturating_add(rest)).collect();
        let least = |row: &[i64]| row.iter().copied().min().unwrap_or(FAR);
        let least = sums.chunks(self.n_layers + 1).map(least);
        least.map(|cost| cost.min(FAR).saturating_sub(self.paid_back)).collect()
    }

    /// Per alive node and boundary, `(m, n_layers + 1)`: the cheapest that can follow a stage which
    /// ends there.
    pub(crate) fn rest(&self) -> Vec<i64> {
        let (m, n_layers) = (self.alive.len(), self.n_layers);
        let mut rest = vec![FAR; m * (n_layers + 1)];
        let mut after = vec![FAR; m];
        // Per node, from the last layer down: what follows a stage that starts there.
        let mut open: Vec<VecDeque<(i64, usize)>> = vec![VecDeque::new(); m];
        let mut start_costs = vec![FAR; m];
        for l in (1..=n_layers).rev() {
            if l == n_layers {
                after.copy_from_slice(&self.to_owner);
            } else {
                self.after_all(&start_costs, &mut after);
            }
            for i in 0..m {
                rest[i * (n_layers + 1) + l] = after[i];
                let open = &mut open[i];
                if after[i] < FAR {
                    let ended = after[i] + self.sum(i, l);
                    while open.back().is_some_and(|&(other, _)| other > ended) {
                        open.pop_back();
                    }
                    open.push_back((ended, l));
                }
                // Only the first start, whose cost nothing reads, may reach an end dropped here.
                let furthest = self.furthest(i, l - 1);
                while open.front().is_some_and(|&(_, end)| end > furthest) {
                    open.pop_front();
                }
                start_costs[i] = open
                    .front()
                    .map_or(FAR, |&(ended, _)| ended - self.sum(i, l - 1) + self.stage[i]);
            }
        }
        rest
    }

    /// What a stage costs on an alive node, beside the hop to it.
    pub(crate) fn stage(&self, i: usize, start: usize, end: usize) -> i64 {
        self.stage[i] + self.sum(i, end) - self.sum(i, start)
    }

    /// What a hop costs between alive nodes, from the owner or back to it; `None`: no link.
    pub(crate) fn hop(&self, from: Option<usize>, to: Option<usize>) -> Option<i64> {
        let m = self.alive.len();
        let cost = match (from, to) {
            (Some(from), Some(to)) => self.hops[from * m + to],
            (None, Some(to)) => self.from_owner[to],
            (Some(from), None) => self.to_owner[from],
            (None, None) => FAR,
        };
        (cost < FAR).then_some(cost)
    }

    /// What the prices pay back, less embedding and head, ns.
    pub(crate) const fn paid_back(&self) -> i64 {
        self.paid_back
    }

    /// The cheapest continuation after a stage ends, for each node.
    fn after_all(&self, start_costs: &[i64], after: &mut [i64]) {
        let m = self.alive.len();
        for (i, after) in after.iter_mut().enumerate() {
            let row = &self.hops[i * m..(i + 1) * m];
            let own = start_costs[i];
            let sums = row.iter().zip(start_costs).map(|(hop, start)| hop + start);
            let least = sums.min().unwrap_or(FAR);
            // Only a hop to itself could be this cheap: then it is looked for among the others.
            *after = if least == own && row[i] == 0 {
                let others = row.iter().zip(start_costs).enumerate().filter(|&(j, _)| j != i);
                others.map(|(_, (hop, start))| hop + start).min().unwrap_or(FAR).min(FAR)
            } else {
                least.min(FAR)
            };
        }
    }

    /// Moves the prices towards a better bound: limits that `way` breaks become dearer, limits
    /// that it leaves open cheaper, by a step of `permille` of Polyak's towards `best_ns`.
    pub(crate) fn improve(&self, prices: &mut Prices, way: &Way, best_ns: i64, permille: i64) {
        let whole = i64::try_from(WHOLE).expect("a small constant");
        let mut memory = vec![-whole; self.alive.len()];
        let mut visits = vec![-whole; self.alive.len()];
        let mut loss = -whole;
        let mut at = None;
        for &(i, start, end) in &way.stages {
            visits[i] += whole;
            for &(layer_memory, layer_loss) in
                &self.shares[i * self.n_layers + start..i * self.n_layers + end]
            {
                memory[i] += signed(layer_memory);
                loss += signed(layer_loss);
            }
            at = Some(i);
        }
        debug_assert!(at.is_some(), "a way has stages");
        let mut slopes: Vec<(&mut u64, i64)> = vec![(&mut prices.loss, loss)];
        let (memories, uses) = (&mut prices.memory, &mut prices.visit);
        let of_node = memories.iter_mut().zip(uses.iter_mut()).enumerate();
        let mut index = self.alive.iter().copied().enumerate().peekable();
        for (v, (memory_price, visit_price)) in of_node {
            if let Some(&(i, alive)) = index.peek()
                && alive == v
            {
                slopes.push((memory_price, memory[i]));
                slopes.push((visit_price, visits[i]));
                index.next();
            }
        }
        // A price of 0 goes no lower.
        slopes.retain(|(price, slope)| **price > 0 || *slope > 0);
        let square: i128 = slopes.iter().map(|(_, slope)| i128::from(*slope).pow(2)).sum();
        if square == 0 {
            return;
        }
        let gap = i128::from((best_ns - way.bound).max(1)) * i128::from(permille) / 1000;
        for (price, slope) in slopes {
            let step = gap * i128::from(slope) * i128::from(whole) / square;
            let moved = (i128::from(*price) + step).clamp(0, i128::from(prices::PRICE_MAX));
            *price = u64::try_from(moved).expect("clamped to what fits");
        }
    }
}
