//! A query as a mixed integer linear program.

use atoll_plan::{Placement, Query, Stage, Variant, cost};
use microlp::{ComparisonOp, LinearExpr, OptimizationDirection, Problem, Solution, Variable};

/// A query as a program.
pub(crate) struct Program<'a> {
    query: Query<'a>,
    pub(crate) problem: Problem,
    /// Node, start and end of a stage.
    ranges: Vec<(Variable, usize, usize, usize)>,
    /// From, to, boundary and codec of a hop.
    hops: Vec<(Variable, usize, usize, usize, usize)>,
    /// Node, layer and variant, beside the first variant.
    lighter: Vec<(Variable, usize, usize, usize)>,
}

/// Milliseconds: figures near 1 keep the solver exact.
pub(crate) fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

impl<'a> Program<'a> {
    pub(crate) fn new(query: Query<'a>) -> Self {
        let problem = Problem::new(OptimizationDirection::Minimize);
        let (ranges, hops, lighter) = (vec![], vec![], vec![]);
        let mut program = Self { query, problem, ranges, hops, lighter };
        program.add_ranges();
        program.add_hops();
        program.flow();
        program.limits();
        program
    }

    fn variants(&self, layer: usize) -> &'a [Variant] {
        &self.query.model.layers[layer].variants
    }

    /// Bytes of a layer with its cache.
    fn bytes(&self, layer: usize, variant: usize) -> u64 {
        self.variants(layer)[variant].bytes + self.query.kv_layer_bytes()
    }

    fn add_ranges(&mut self) {
        let query = self.query;
        let n_layers = query.model.layers.len();
        for node in 0..query.fleet.nodes().len() {
            for start in 0..n_layers {
                let (mut bytes_min, mut ns) = (0, query.fleet.nodes()[node].stage_ns);
                for end in start + 1..=n_layers {
                    let last = end - 1;
                    let smallest = (0..self.variants(last).len()).map(|k| self.bytes(last, k));
                    bytes_min += smallest.min().unwrap();
                    ns += cost::layer_ns(&query, node, last, 0);
                    let fits = bytes_min <= query.layer_memory_bytes(node);
                    if !fits || !query.allows(node, last) || !query.may_begin(node, start) {
                        break;
                    }
                    let variable = self.problem.add_binary_var(ms(ns));
                    self.ranges.push((variable, node, start, end));
                }
            }
            for layer in 0..n_layers {
                for variant in 1..self.variants(layer).len() {
                    let [first, this] =
                        [0, variant].map(|k| cost::layer_ns(&query, node, layer, k));
                    let variable = self.problem.add_binary_var(ms(this) - ms(first));
                    self.lighter.push((variable, node, layer, variant));
                }
            }
        }
    }

    fn add_hops(&mut self) {
        let (n, owner) = (self.query.fleet.nodes().len(), self.query.fleet.owner());
        let n_layers = self.query.model.layers.len();
        let inner = (1..n_layers).flat_map(|at| {
            let pairs = (0..n).flat_map(move |u| (0..n).map(move |v| (u, v, at)));
            pairs.filter(|(u, v, _)| u != v)
        });
        let ends = (0..n).flat_map(|v| [(owner, v, 0), (v, owner, n_layers)]);
        for (from, to, at) in inner.chain(ends) {
            let codecs = if from == to { 1 } else { self.query.model.codecs.len() };
            for codec in 0..codecs {
                if let Some(ns) = cost::hop_ns(&self.query, from, to, codec) {
                    let variable = self.problem.add_binary_var(ms(ns));
                    self.hops.push((variable, from, to, at, codec));
                }
            }
        }
    }

    fn require(&mut self, terms: Vec<(Variable, f64)>, operator: ComparisonOp, right: f64) {
        let mut sum = LinearExpr::empty();
        terms.into_iter().for_each(|(variable, factor)| sum.add(variable, factor));
        self.problem.add_constraint(sum, operator, right);
    }

    fn flow(&mut self) {
        let n_layers = self.query.model.layers.len();
        let begun = self.hops.iter().filter(|hop| hop.3 == 0).map(|hop| (hop.0, 1.0)).collect();
        self.require(begun, ComparisonOp::Eq, 1.0);
        for node in 0..self.query.fleet.nodes().len() {
            let once = self.ranges.iter().filter(|range| range.1 == node);
            let once = once.map(|range| (range.0, 1.0)).collect();
            self.require(once, ComparisonOp::Le, 1.0);
            for at in 0..=n_layers {
                let begins = self.ranges.iter().filter(|range| (range.1, range.2) == (node, at));
                let ends = self.ranges.iter().filter(|range| (range.1, range.3) == (node, at));
                let enters = self.hops.iter().filter(|hop| (hop.2, hop.3) == (node, at));
                let leaves = self.hops.iter().filter(|hop| (hop.1, hop.3) == (node, at));
                let one = |variable: Variable| (variable, 1.0);
                let less = |variable: Variable| (variable, -1.0);
                let into = begins.map(|range| one(range.0)).chain(enters.map(|hop| less(hop.0)));
                let out = ends.map(|range| one(range.0)).chain(leaves.map(|hop| less(hop.0)));
                let (into, out) = (into.collect(), out.collect());
                // At the last boundary only the owner is entered, at the first only it is left.
                if at < n_layers {
                    self.require(into, ComparisonOp::Eq, 0.0);
                }
                if at > 0 {
                    self.require(out, ComparisonOp::Eq, 0.0);
                }
            }
        }
    }

    fn limits(&mut self) {
        let n_layers = self.query.model.layers.len();
        let mut loss: Vec<(Variable, f64)> = Vec::new();
        for node in 0..self.query.fleet.nodes().len() {
            let memory = self.query.layer_memory_bytes(node).max(1) as f64;
            let of_range = |&(variable, _, start, end): &(Variable, usize, usize, usize)| {
                let bytes: u64 = (start..end).map(|layer| self.bytes(layer, 0)).sum();
                (variable, bytes as f64 / memory)
            };
            let own = self.ranges.iter().filter(|range| range.1 == node);
            let mut used: Vec<(Variable, f64)> = own.map(of_range).collect();
            for layer in 0..n_layers {
                let here = |of: &&(Variable, usize, usize, usize)| (of.1, of.2) == (node, layer);
                let lighter: Vec<_> = self.lighter.iter().filter(here).copied().collect();
                for &(variable, _, _, k) in &lighter {
                    let saved = self.bytes(layer, 0) as f64 - self.bytes(layer, k) as f64;
                    used.push((variable, -saved / memory));
                    loss.push((variable, self.variants(layer)[k].loss as f64));
                }
                if !lighter.is_empty() {
                    let over = self
                        .ranges
                        .iter()
                        .filter(|&&(_, v, start, end)| v == node && (start..end).contains(&layer));
                    let over = over.map(|range| (range.0, -1.0));
                    let terms = lighter.iter().map(|of| (of.0, 1.0)).chain(over).collect();
                    self.require(terms, ComparisonOp::Le, 0.0);
                }
            }
            self.require(used, ComparisonOp::Le, 1.0);
        }
        let codecs = &self.query.model.codecs;
        let of_hop = |hop: &(Variable, usize, usize, usize, usize)| {
            (hop.0, if hop.1 == hop.2 { 0.0 } else { codecs[hop.4].loss as f64 })
        };
        loss.extend(self.hops.iter().map(of_hop));
        self.require(loss, ComparisonOp::Le, self.query.policy.loss_max as f64);
    }

    /// What a solution means.
    pub(crate) fn placement(&self, solution: &Solution) -> Placement {
        let is_set = |variable: Variable| solution.var_value(variable) > 0.5;
        let set = self.ranges.iter().filter(|range| is_set(range.0));
        let mut stages: Vec<Stage> = set
            .map(|&(_, node, start, end)| Stage {
                node,
                layers: start..end,
                variants: vec![0; end - start],
            })
            .collect();
        stages.sort_by_key(|stage| stage.layers.start);
        for &(_, node, layer, variant) in self.lighter.iter().filter(|of| is_set(of.0)) {
            let stage = stages.iter_mut().find(|stage| stage.node == node).unwrap();
            stage.variants[layer - stage.layers.start] = variant;
        }
        let mut hops: Vec<_> = self.hops.iter().filter(|hop| is_set(hop.0)).collect();
        hops.sort_by_key(|hop| hop.3);
        Placement { stages, codecs: hops.iter().map(|hop| hop.4).collect() }
    }

    /// The variables that a plan sets, for the solver to begin with.
    pub(crate) fn hint(&self, placement: &Placement) -> Vec<(Variable, f64)> {
        let stage_of = |node: usize| placement.stages.iter().find(|stage| stage.node == node);
        let ring = placement.ring(self.query.fleet.owner());
        let ranges = self.ranges.iter().map(|&(variable, node, start, end)| {
            (variable, stage_of(node).is_some_and(|stage| stage.layers == (start..end)))
        });
        let lighter = self.lighter.iter().map(|&(variable, node, layer, variant)| {
            let of = stage_of(node).filter(|stage| stage.layers.contains(&layer));
            let is = |stage: &Stage| stage.variants[layer - stage.layers.start] == variant;
            (variable, of.is_some_and(is))
        });
        let hops = self.hops.iter().map(|&(variable, from, to, at, codec)| {
            let starts = placement.stages.iter().map(|stage| stage.layers.start);
            let boundaries = starts.chain([self.query.model.layers.len()]);
            let way = ring.windows(2).zip(&placement.codecs).zip(boundaries);
            let mut way = way.map(|((pair, &codec), at)| (pair[0], pair[1], at, codec));
            (variable, way.any(|hop| hop == (from, to, at, codec)))
        });
        let all = ranges.chain(lighter).chain(hops);
        all.map(|(variable, set)| (variable, f64::from(u8::from(set)))).collect()
    }
}
