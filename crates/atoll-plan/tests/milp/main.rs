//! Plans of seven to ten nodes against a solver of mixed integer linear programs, which shares
//! nothing with the search but the cost function.
//!
//! The program: one variable for each range of layers that fits a node, one for each hop between
//! two nodes at each boundary in each codec, one for each lighter variant of a layer on a node.
//! What enters a node at a boundary begins a range there, what ends one leaves; no node has two.
//!
//! `ATOLL_SEED=N` runs one instance again, `ATOLL_INSTANCES=N` so many, without judging them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod program;
#[path = "../random/mod.rs"]
mod random;

use atoll_plan::{
    Codec, Fleet, Found, Layer, Link, Model, Node, Pin, PlanError, Policy, Variant, cost, plan,
};
use microlp::SolveOptions;

use self::program::{Program, ms};
use self::random::{Instance, Random};

/// What is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One variant of each layer and one codec.
    Plain,
    /// The same, but the owner's stage comes first if it has one, as in a mesh.
    OwnerFirst,
    /// Variants and codecs.
    Lossy,
}

/// Instances of one variant that every run solves, for each of the first two kinds.
const INSTANCES: u64 = 120;
/// The same with variants and codecs.
const INSTANCES_LOSSY: u64 = 12;
/// Branches that the solver may look at; what it has not proven by then is left out.
const BRANCHES_MAX: u64 = 400;

/// Unequal devices of a house or an office, each direction its own link, of which some are bad and
/// some are not there; `lossy` with variants and codecs.
fn instance(seed: u64, kind: Kind) -> Instance {
    let (mut random, lossy) = (Random(seed), kind == Kind::Lossy);
    // What the solver can finish: variants and codecs cost it most.
    let (n, n_layers) = if lossy {
        (7 + random.index(2), 8 + random.index(5))
    } else {
        (7 + random.index(4), 16 + random.index(9))
    };
    let layers: Vec<Layer> = (0..n_layers).map(|_| layer(&mut random, lossy)).collect();
    let total: u64 = layers.iter().map(|layer| layer.variants[0].bytes).sum();
    let mut codecs = vec![Codec { name: "f32".into(), row_bytes: 16_384, loss: 0 }];
    if lossy {
        codecs.push(Codec { name: "int8".into(), row_bytes: 4_160, loss: 10 });
    }
    let model = Model {
        name: "random".into(),
        layers,
        ends_bytes: 300_000_000,
        kv_bytes_per_position: 4_096,
        codecs,
    };
    let nodes = (0..n).map(|i| Node {
        layer_ns: 300_000 + random.below(30) * random.below(400_000),
        kv_ns_per_1024: random.below(200_000),
        stage_ns: random.below(300_000),
        embed_ns: 10_000,
        head_ns: random.below(4_000_000),
        ..Node::new(&format!("node-{i}"), 350_000_000 + random.below(3 * total / n as u64))
    });
    let mut fleet = Fleet::new(nodes.collect(), random.index(n)).unwrap();
    for (from, to) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
        if from != to && !random.one_in(10) {
            let latency_ns = 100_000 + random.below(10) * random.below(2_000_000);
            let bytes_per_s = 1_000_000 + random.below(100_000_000);
            fleet.connect(from, to, Link { latency_ns, bytes_per_s }).unwrap();
        }
    }
    let mut policy = Policy {
        context: 512 * random.below(9),
        sessions: 1 + random.below(2),
        positions: random.below(2048),
        is_owner_first: kind == Kind::OwnerFirst,
        loss_max: if lossy { random.below(300) } else { 0 },
        ..Policy::default()
    };
    if random.one_in(3) {
        policy.excluded.insert(random.index(n));
    }
    if random.one_in(3) {
        let start = random.index(n_layers - 2);
        policy.pins.push(Pin { layers: start..start + 2, node: random.index(n) });
    }
    Instance { fleet, model, policy }
}

fn layer(random: &mut Random, lossy: bool) -> Layer {
    let bytes = 120_000_000 + 1_000_000 * random.below(20);
    let variant = |name: &str, percent: u64, loss| Variant {
        name: name.into(),
        bytes: bytes * percent / 100,
        time_permille: 10 * percent,
        loss,
    };
    let mut variants = vec![variant("q4", 100, 0)];
    if lossy {
        variants.push(variant("q3", 78, 3 + random.below(20)));
        variants.push(variant("q2", 60, 30 + random.below(60)));
    }
    Layer { variants }
}

/// What became of an instance.
enum Outcome {
    /// The solver did not finish.
    Unfinished,
    /// Both say that there is no plan.
    NoPlan,
    /// The solver has one, the search found none.
    Missed,
    /// The least time, what the search found and what it knows of the least, ns.
    Proven { optimum: u64, found: u64, bound: u64 },
}

fn compare(seed: u64, kind: Kind) -> Outcome {
    let replay =
        format!("replay: ATOLL_SEED={seed} cargo test --release -p atoll-plan --test milp");
    let instance = instance(seed, kind);
    let query = instance.query();
    let found = match plan(&query) {
        Ok(found) => Some(found),
        Err(PlanError::NoRoom { .. } | PlanError::NoOrder) => None,
        Err(PlanError::PinExcluded { .. } | PlanError::OwnerTooSmall { .. }) => {
            return Outcome::NoPlan;
        }
        Err(error) => panic!("{error}; {replay}"),
    };
    let program = Program::new(query);
    let mut options = SolveOptions::default();
    options.node_limit = Some(BRANCHES_MAX);
    options.warm_start = found.as_ref().map(|found| program.hint(&found.placement));
    let solution = match program.problem.solve_with(options) {
        Err(microlp::Error::Infeasible) => {
            assert!(found.is_none(), "the solver finds no plan; {replay}");
            return Outcome::NoPlan;
        }
        Err(error) => panic!("{error}; {replay}"),
        Ok(outcome) if outcome.is_optimal() => outcome.into_solution().unwrap(),
        Ok(_) => return Outcome::Unfinished,
    };
    let placement = program.placement(&solution);
    placement.check(&query).unwrap_or_else(|fault| panic!("no placement: {fault}; {replay}"));
    let prediction = cost::predict(&query, &placement).unwrap();
    let ends_ms = ms(prediction.ends_ns);
    let apart = ms(prediction.token_ns) - ends_ms - solution.objective();
    assert!(apart.abs() < 1e-3, "the program does not say what the cost is: {apart} ms; {replay}");
    let Some(Found { placement, prediction: ours, bound_ns, .. }) = found else {
        return Outcome::Missed;
    };
    placement.check(&query).unwrap_or_else(|fault| panic!("{fault}; {replay}"));
    Outcome::Proven { optimum: prediction.token_ns, found: ours.token_ns, bound: bound_ns }
}

/// What became of many, with each gap in thousandths, in order.
#[derive(Default)]
struct Tally {
    unfinished: u64,
    no_plan: u64,
    missed: u64,
    /// From the optimum to what was found.
    from_optimum: Vec<u64>,
    /// From the bound to what was found, as it is reported.
    from_bound: Vec<u64>,
}

impl Tally {
    fn of(seeds: std::ops::Range<u64>, kind: Kind) -> Self {
        let mut tally = Self::default();
        let permille = |more: u64, less: u64| (more - less) * 1000 / less.max(1);
        for seed in seeds {
            match compare(seed, kind) {
                Outcome::Unfinished => tally.unfinished += 1,
                Outcome::NoPlan => tally.no_plan += 1,
                Outcome::Missed => tally.missed += 1,
                Outcome::Proven { optimum, found, bound } => {
                    assert!(bound <= optimum, "seed {seed}: {bound} is no bound of {optimum}");
                    assert!(optimum <= found, "seed {seed}: {found} is better than {optimum}");
                    tally.from_optimum.push(permille(found, optimum));
                    tally.from_bound.push(permille(found, bound));
                }
            }
        }
        tally.from_optimum.sort_unstable();
        tally.from_bound.sort_unstable();
        tally
    }
}

fn text(gaps: &[u64]) -> String {
    let at = |percent: usize| gaps[(gaps.len() - 1) * percent / 100] as f64 / 10.0;
    let best = gaps.iter().filter(|gap| **gap == 0).count();
    let (half, most, all) = (at(50), at(95), at(100));
    format!("{best} of {} below 0.1 %, {half} %, {most} %, {all} % at 50, 95, 100", gaps.len())
}

/// What became of `end` instances, or of those that the environment asks for, which are told and
/// not to be judged: `None`.
#[expect(clippy::disallowed_methods, reason = "the seed to run again, or how many")]
#[expect(clippy::print_stdout, reason = "the figures")]
fn tally(end: u64, kind: Kind) -> Option<Tally> {
    let asked = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seed = asked("ATOLL_SEED").map(|seed| seed..seed + 1);
    let Some(seeds) = seed.or_else(|| Some(0..asked("ATOLL_INSTANCES")?)) else {
        return Some(Tally::of(0..end, kind));
    };
    let tally = Tally::of(seeds, kind);
    println!("{kind:?}:");
    println!("no plan by either {}, missed {}", tally.no_plan, tally.missed);
    println!("not finished by the solver {}", tally.unfinished);
    if !tally.from_optimum.is_empty() {
        println!("from the optimum: {}", text(&tally.from_optimum));
        println!("from the bound: {}", text(&tally.from_bound));
    }
    None
}

#[test]
fn plans_of_one_variant_are_the_optimum() {
    are_the_optimum(Kind::Plain);
}

#[test]
fn plans_in_which_the_owner_is_first_are_the_optimum() {
    are_the_optimum(Kind::OwnerFirst);
}

fn are_the_optimum(kind: Kind) {
    let n = INSTANCES;
    let Some(tally) = tally(n, kind) else { return };
    let finished = tally.from_optimum.len() as u64;
    assert!(finished * 10 >= n * 8, "{finished} of {n}, {} unfinished", tally.unfinished);
    assert_eq!(tally.missed, 0, "the solver finds plans that the search does not");
    let (found, known) = (&tally.from_optimum, &tally.from_bound);
    let best = found.iter().filter(|gap| **gap == 0).count() as u64;
    assert!(best * 100 >= finished * 98 && found.iter().all(|gap| *gap <= 20), "{found:?}");
    assert!(known.iter().all(|gap| *gap <= 50), "{known:?}");
}

#[test]
fn plans_of_variants_are_near_the_optimum() {
    let Some(tally) = tally(INSTANCES_LOSSY, Kind::Lossy) else { return };
    let (found, known) = (&tally.from_optimum, &tally.from_bound);
    assert!(found.len() >= 6, "{} finished", found.len());
    assert_eq!(tally.missed, 0, "the solver finds plans that the search does not");
    // Half within 1 %, all within 10 %; what is known of them is less.
    let half = |gaps: &[u64]| gaps[gaps.len() / 2];
    assert!(half(found) <= 10 && found.iter().all(|gap| *gap <= 100), "{found:?}");
    assert!(half(known) <= 100, "{known:?}");
}
