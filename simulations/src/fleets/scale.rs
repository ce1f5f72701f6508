//! How long planning takes: fleets whose nodes and links are all unequal, each direction its own.

use std::time::Instant;

use anyhow::Result;
use atoll_plan::{Fleet, Link, Model, Node, Policy, Query, plan};
use atoll_sim::Random;

/// Nodes of the fleets, each with 80 layers to place.
const NODES: [usize; 3] = [16, 256, 1000];
const SEEDS: u64 = 5;
const LAYERS: usize = 80;
const LAYER_BYTES: u64 = 500_000_000;

/// What a size took, over its seeds.
pub(super) struct Scale {
    pub(super) nodes: usize,
    /// The slowest plan, s.
    pub(super) plan_s_max: f64,
    /// The largest gap to the bound.
    pub(super) gap_max: f64,
    pub(super) gap_mean: f64,
}

/// Plans for every size.
pub(super) fn measure() -> Result<Vec<Scale>> {
    NODES.into_iter().map(of_size).collect()
}

fn of_size(nodes: usize) -> Result<Scale> {
    let mut scale = Scale { nodes, plan_s_max: 0.0, gap_max: 0.0, gap_mean: 0.0 };
    let (model, policy) = (Model::uniform("80", LAYERS, LAYER_BYTES, 32_768), Policy::default());
    for seed in 0..SEEDS {
        let fleet = fleet(nodes, &mut Random::new(seed, "scale"))?;
        let query = Query { fleet: &fleet, model: &model, policy: &policy };
        let began = Instant::now();
        let found = plan(&query)?;
        scale.plan_s_max = scale.plan_s_max.max(began.elapsed().as_secs_f64());
        let gap = found.prediction.token_ns as f64 / found.bound_ns.max(1) as f64 - 1.0;
        scale.gap_max = scale.gap_max.max(gap);
        scale.gap_mean += gap / SEEDS as f64;
    }
    Ok(scale)
}

/// Nodes with room for 3 to 20 layers: a plan takes several of them.
fn fleet(n: usize, random: &mut Random) -> Result<Fleet> {
    let nodes = (0..n).map(|i| Node {
        layer_ns: random.within(500_000..30_000_000),
        stage_ns: 100_000,
        head_ns: 3_000_000,
        ..Node::new(&format!("node-{i}"), LAYER_BYTES * random.within(3..21))
    });
    let mut fleet = Fleet::new(nodes.collect(), 0)?;
    for (from, to) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
        if from != to {
            let latency_ns = random.within(150_000..6_000_000);
            let bytes_per_s = random.within(2_000_000..118_000_000);
            fleet.connect(from, to, Link { latency_ns, bytes_per_s })?;
        }
    }
    Ok(fleet)
}
