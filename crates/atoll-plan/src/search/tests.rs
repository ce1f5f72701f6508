//! The search of large fleets, held against the exact one where both can be run.

use super::*;
use crate::fleet::{Fleet, Link, Node};
use crate::model::{Codec, Layer, Model, Variant};
use crate::query::Policy;

/// A linear congruential generator: the same instances everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
        (self.0 >> 33) % end
    }
}

/// A fleet of unequal nodes and links, each direction its own.
pub(super) fn fleet(random: &mut Random, n: usize, layer_bytes: u64, n_layers: u64) -> Fleet {
    let nodes = (0..n).map(|i| {
        let layers = 1 + random.below(1 + 3 * n_layers / n as u64);
        Node {
            layer_ns: 500_000 + random.below(8_000_000),
            stage_ns: random.below(200_000),
            head_ns: random.below(4_000_000),
            ..Node::new(&format!("node-{i}"), (layers + 1) * layer_bytes)
        }
    });
    let mut fleet = Fleet::new(nodes.collect(), 0).unwrap();
    for (from, to) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
        if from != to && random.below(12) > 0 {
            let latency_ns = 100_000 + random.below(10) * random.below(2_000_000);
            let bytes_per_s = 1_000_000 + random.below(100_000_000);
            fleet.connect(from, to, Link { latency_ns, bytes_per_s }).unwrap();
        }
    }
    fleet
}

fn model(random: &mut Random, n_layers: usize, lossy: bool) -> Model {
    let mut model = Model::uniform("m", n_layers, 1_000_000, 8192);
    if lossy {
        let variant = |name: &str, bytes, time_permille, loss| Variant {
            name: name.to_owned(),
            bytes,
            time_permille,
            loss,
        };
        let layers = (0..n_layers).map(|_| Layer {
            variants: vec![
                variant("q8", 1_000_000, 1000, 0),
                variant("q4", 560_000, 600, 5 + random.below(20)),
                variant("q3", 420_000, 500, 20 + random.below(60)),
            ],
        });
        model.layers = layers.collect();
        model.codecs.push(Codec { name: "int8".into(), row_bytes: 2100, loss: 10 });
    }
    model
}

/// Each instance by both searches: the gap of the approximate one, in thousandths, if both found
/// something.
fn compare(seed: u64, lossy: bool) -> Option<u64> {
    let mut random = Random(seed);
    let n = 3 + usize::try_from(random.below(4)).unwrap();
    let n_layers = if lossy { 8 } else { 24 };
    let fleet = fleet(&mut random, n, 1_000_000, n_layers as u64);
    let model = model(&mut random, n_layers, lossy);
    let policy = Policy { loss_max: if lossy { 150 } else { 0 }, ..Policy::default() };
    let query = Query { fleet: &fleet, model: &model, policy: &policy };
    let Ok(tables) = Tables::new(&query, 1) else { return None };
    let best = exact::search(&tables);
    let (found, bound) = approximate(&tables, None);
    let Some(best) = best else {
        assert_eq!(found, None, "seed {seed}: there is no placement");
        return None;
    };
    let best_ns = cost::predict(&query, &best).unwrap().token_ns;
    assert!(bound <= best_ns, "seed {seed}: {bound} is no bound of {best_ns}");
    let Some(found) = found else { return Some(1_000_000) };
    assert_eq!(found.check(&query), Ok(()), "seed {seed}");
    let found_ns = cost::predict(&query, &found).unwrap().token_ns;
    assert!(found_ns >= best_ns, "seed {seed}: better than the best");
    Some((found_ns - best_ns) * 1000 / best_ns)
}

fn gaps(lossy: bool) -> Vec<u64> {
    let mut gaps: Vec<u64> = (0..600).filter_map(|seed| compare(seed, lossy)).collect();
    gaps.sort_unstable();
    gaps
}

#[test]
fn large_fleets_search_finds_the_best_of_small_ones() {
    let gaps = gaps(false);
    let (n, exact) = (gaps.len(), gaps.iter().filter(|gap| **gap == 0).count());
    let found: Vec<u64> = gaps.iter().copied().filter(|gap| *gap < 1_000_000).collect();
    assert!(n > 300, "{n} instances only");
    assert!(exact * 100 >= n * 97, "{exact} of {n} are the best; {gaps:?}");
    assert!(found.len() * 100 >= n * 99, "{} of {n} placed", found.len());
}

#[test]
fn variants_and_codecs_are_chosen_nearly_as_well() {
    let gaps = gaps(true);
    let n = gaps.len();
    assert!(n > 300, "{n} instances only");
    // Half within 1 %, nine of ten within 5 %.
    assert!(gaps[n / 2] <= 10 && gaps[n * 9 / 10] <= 50, "{gaps:?}");
}
