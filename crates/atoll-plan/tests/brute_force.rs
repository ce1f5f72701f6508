//! The exact search against an oracle that tries everything: each order of nodes, each boundary,
//! each variant of each layer and each codec of each hop, priced by the cost function alone.
//!
//! `ATOLL_SEED=N` runs one instance again; a failure prints the line.
#![expect(clippy::unwrap_used, reason = "tests")]

mod random;

use std::collections::BTreeSet;

use atoll_plan::{
    Codec, Fleet, Layer, Link, Model, Node, Objective, Pin, Placement, PlanError, Policy, Query,
    Stage, Variant, cost, plan,
};

use self::random::{Instance, Random};

const INSTANCES: u64 = 10_000;

/// How large an instance of this seed is: nodes, layers, variants and codecs, such that trying
/// everything stays possible. One in a hundred has 6 nodes and 12 layers.
fn size(seed: u64, random: &mut Random) -> (usize, usize, usize, usize) {
    if seed.is_multiple_of(100) {
        return (6, 12, 1, 1);
    }
    match random.below(4) {
        0 => (1 + random.index(6), 1 + random.index(7), 1, 1),
        1 => (1 + random.index(4), 1 + random.index(6), 2, 1),
        2 => (1 + random.index(3), 1 + random.index(5), 3, 2),
        _ => (1 + random.index(4), 1 + random.index(12), 1, 2),
    }
}

fn instance(seed: u64) -> Instance {
    let mut random = Random(seed);
    let (n, n_layers, n_variants, n_codecs) = size(seed, &mut random);
    let layers: Vec<Layer> = (0..n_layers).map(|_| layer(&mut random, n_variants)).collect();
    let total: u64 = layers.iter().map(|layer| layer.variants[0].bytes).sum();
    let model = Model {
        name: "random".to_owned(),
        layers,
        ends_bytes: random.below(50),
        kv_bytes_per_position: random.below(3),
        codecs: (0..n_codecs)
            .map(|i| Codec {
                name: format!("codec {i}"),
                row_bytes: 4_000 >> (2 * i),
                loss: i as u64 * random.below(20),
            })
            .collect(),
    };
    let nodes = (0..n).map(|i| Node {
        layer_ns: 100 + random.below(3_000),
        kv_ns_per_1024: random.below(200),
        stage_ns: random.below(500),
        embed_ns: random.below(500),
        head_ns: random.below(500),
        ..Node::new(&format!("node-{i}"), 60 + random.below(2 * total / n as u64 + 100))
    });
    let mut fleet = Fleet::new(nodes.collect(), random.index(n)).unwrap();
    for (from, to) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
        if from != to && !random.one_in(8) {
            let latency_ns = random.below(6_000);
            let bytes_per_s = 500_000_000 + random.below(20_000_000_000);
            fleet.connect(from, to, Link { latency_ns, bytes_per_s }).unwrap();
        }
    }
    let mut policy = Policy {
        context: random.below(8),
        sessions: 1 + random.below(3),
        positions: random.below(2048),
        loss_max: random.below(60),
        ..Policy::default()
    };
    policy.is_owner_first = random.one_in(4);
    if random.one_in(4) {
        policy.excluded.insert(random.index(n));
    }
    for _ in 0..random.below(3) {
        let start = random.index(n_layers);
        let layers = start..start + 1 + random.index((n_layers - start).min(2));
        policy.pins.push(Pin { layers, node: random.index(n) });
    }
    Instance { fleet, model, policy }
}

fn layer(random: &mut Random, n_variants: usize) -> Layer {
    let variant = |i: usize| Variant {
        name: format!("variant {i}"),
        bytes: (20 + random.below(30)) >> i,
        time_permille: 400 + random.below(600),
        loss: i as u64 * random.below(15),
    };
    Layer { variants: (0..n_variants).map(variant).collect() }
}

/// Tries everything. Layers are given out one at a time: to the node of the layer before, or to
/// one that has none yet.
struct Oracle<'a> {
    query: Query<'a>,
    best: Option<u64>,
    tried: u64,
}

impl Oracle<'_> {
    fn extend(&mut self, stages: &mut Vec<Stage>, layer: usize) {
        if layer == self.query.model.layers.len() {
            return self.codecs(stages, &mut Vec::new());
        }
        for variant in 0..self.query.model.layers[layer].variants.len() {
            if let Some(last) = stages.last_mut() {
                last.layers.end += 1;
                last.variants.push(variant);
                if self.is_sound(stages, layer) {
                    self.extend(stages, layer + 1);
                }
                let last = stages.last_mut().unwrap();
                last.layers.end -= 1;
                last.variants.pop();
            }
            for node in 0..self.query.fleet.nodes().len() {
                if stages.iter().all(|stage| stage.node != node) {
                    let (layers, variants) = (layer..layer + 1, vec![variant]);
                    stages.push(Stage { node, layers, variants });
                    if self.is_sound(stages, layer) {
                        self.extend(stages, layer + 1);
                    }
                    stages.pop();
                }
            }
        }
    }

    /// Whether the last layer given out can stay there: no cost is looked at.
    fn is_sound(&self, stages: &[Stage], layer: usize) -> bool {
        let last = stages.last().unwrap();
        let bytes = Placement::stage_bytes(&self.query, last);
        self.query.allows(last.node, layer)
            && self.query.may_begin(last.node, last.layers.start)
            && bytes <= self.query.layer_memory_bytes(last.node)
    }

    fn codecs(&mut self, stages: &[Stage], codecs: &mut Vec<usize>) {
        if codecs.len() <= stages.len() {
            for codec in 0..self.query.model.codecs.len() {
                codecs.push(codec);
                self.codecs(stages, codecs);
                codecs.pop();
            }
            return;
        }
        self.tried += 1;
        let placement = Placement { stages: stages.to_vec(), codecs: codecs.clone() };
        if placement.check(&self.query).is_ok() {
            let aim_ns = aim_ns(&self.query, &placement);
            self.best = Some(self.best.map_or(aim_ns, |best| best.min(aim_ns)));
        }
    }
}

/// What a placement is judged by.
fn aim_ns(query: &Query<'_>, placement: &Placement) -> u64 {
    match query.policy.objective {
        Objective::Latency => cost::predict(query, placement).unwrap().token_ns,
        Objective::Throughput => {
            cost::round(query, placement, query.policy.sessions).unwrap().round_ns
        }
    }
}

/// The instance of a seed with up to eight users, whom it is to serve fastest.
fn for_users(seed: u64) -> Instance {
    let Instance { mut fleet, model, mut policy } = instance(seed);
    let mut random = Random(!seed);
    for node in 0..fleet.nodes().len() {
        let profile = fleet.nodes()[node].clone();
        let batch_layer_ns = random.below(profile.layer_ns);
        fleet = fleet.with_node(node, Node { batch_layer_ns, ..profile }).unwrap();
    }
    policy.sessions = 1 + random.below(8);
    policy.objective = Objective::Throughput;
    Instance { fleet, model, policy }
}

/// What became of an instance: planned or not, of how many ways.
fn compare(seed: u64, instance: &Instance) -> (Option<u64>, u64) {
    let query = instance.query();
    let replay = format!("replay: ATOLL_SEED={seed} cargo test --release -p atoll-plan");
    let mut oracle = Oracle { query, best: None, tried: 0 };
    let found = match plan(&query) {
        Ok(found) => {
            found.placement.check(&query).unwrap_or_else(|fault| panic!("{fault}; {replay}"));
            let owner = query.fleet.owner();
            let owners = found.placement.stages.iter().position(|stage| stage.node == owner);
            let is_first = owners.is_none_or(|at| at == 0);
            assert!(is_first || !query.policy.is_owner_first, "the owner is not first; {replay}");
            let predicted = cost::predict(&query, &found.placement).unwrap();
            assert_eq!(found.prediction, predicted, "{replay}");
            assert_eq!(found.aim_ns, aim_ns(&query, &found.placement), "{replay}");
            assert_eq!(found.bound_ns, found.aim_ns, "it is exact; {replay}");
            Some(found.aim_ns)
        }
        Err(PlanError::PinsConflict { .. } | PlanError::PinExcluded { .. }) => return (None, 0),
        Err(PlanError::NoRoom { .. } | PlanError::NoOrder | PlanError::OwnerTooSmall { .. }) => {
            None
        }
        Err(error) => panic!("{error}; {replay}"),
    };
    let owner = &query.fleet.nodes()[query.fleet.owner()];
    if owner.memory_bytes >= query.model.ends_bytes {
        oracle.extend(&mut Vec::new(), 0);
    }
    assert_eq!(found, oracle.best, "{replay}");
    (found, oracle.tried)
}

/// Compares all instances; how many could be planned, how many times there were, how many ways.
#[expect(clippy::disallowed_methods, reason = "the seed to run again")]
fn compare_all(instance: fn(u64) -> Instance, instances: u64) -> Option<(u64, usize, u64)> {
    if let Some(seed) = std::env::var("ATOLL_SEED").ok().and_then(|seed| seed.parse().ok()) {
        compare(seed, &instance(seed));
        return None;
    }
    let (mut planned, mut tried, mut kinds) = (0_u64, 0_u64, BTreeSet::new());
    for seed in 0..instances {
        let (found, ways) = compare(seed, &instance(seed));
        planned += u64::from(found.is_some());
        tried += ways;
        kinds.insert(found);
    }
    Some((planned, kinds.len(), tried))
}

#[test]
fn the_plan_is_the_best_of_all() {
    let Some((planned, kinds, tried)) = compare_all(instance, INSTANCES) else { return };
    // Instances that nothing holds are worth a look, but must not be the most.
    assert!(planned > INSTANCES / 2, "{planned} of {INSTANCES} could be planned");
    assert!(kinds > 1_000 && tried > 10_000_000, "{kinds} kinds, {tried} ways");
}

#[test]
fn the_plan_for_many_users_is_the_best_of_all() {
    let Some((planned, kinds, tried)) = compare_all(for_users, INSTANCES) else { return };
    assert!(planned > INSTANCES / 2, "{planned} of {INSTANCES} could be planned");
    assert!(kinds > 1_000 && tried > 10_000_000, "{kinds} kinds, {tried} ways");
}

#[test]
fn a_node_more_never_makes_it_slower() {
    for seed in 0..INSTANCES {
        let instance = instance(seed);
        let n = instance.fleet.nodes().len();
        let Ok(all) = plan(&instance.query()) else { continue };
        let policy = Policy { pins: Vec::new(), excluded: BTreeSet::new(), ..instance.policy };
        let ask = |fleet: &Fleet| plan(&Query { fleet, model: &instance.model, policy: &policy });
        let free = ask(&instance.fleet).unwrap().prediction.token_ns;
        assert!(free <= all.prediction.token_ns, "pins cost something: seed {seed}");
        for gone in (0..n).filter(|&gone| gone != instance.fleet.owner()) {
            if let Ok(less) = ask(&instance.fleet.only(|node| node != gone)) {
                assert!(free <= less.prediction.token_ns, "without {gone}: seed {seed}");
            }
        }
    }
}
