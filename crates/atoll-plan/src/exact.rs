//! The best placement of a small fleet, for certain.
//!
//! Every set of nodes, the last node of it and the layers held so far make a state; what is kept
//! of a state is the front of its cheapest ways: none that is both slower and worse than another.

use crate::placement::{Placement, Stage};
use crate::query::STAGES_MAX;
use crate::tables::{Choice, Tables};

/// Nodes up to which every state may be looked at.
pub(crate) const NODES_EXACT: usize = 6;
/// Layers up to which every choice of variants may be looked at.
pub(crate) const LAYERS_EXACT: usize = 12;
/// The same without a choice of variants: what is kept of ranges grows with the third power, and
/// with so many layers it is 20 MB.
pub(crate) const PLAIN_LAYERS_EXACT: usize = 128;

/// A way into a state.
#[derive(Clone, Copy, Debug)]
struct Way {
    time: u64,
    loss: u64,
    /// The way before its last stage; `u32::MAX`: from the owner.
    before: u32,
    node: u16,
    start: u16,
    end: u16,
    codec: u16,
    /// Which of the range's choices.
    choice: u32,
}

/// One choice of variants of a range.
#[derive(Clone, Debug)]
struct Variants {
    bytes: u64,
    time: u64,
    loss: u64,
    variants: Vec<usize>,
}

const OWNER: u32 = u32::MAX;

/// The fastest placement that keeps to every limit; `None` if there is none.
pub(crate) fn search(tables: &Tables) -> Option<Placement> {
    debug_assert!(tables.n <= 16, "the states of so many nodes would not fit");
    let (n, n_layers) = (tables.n, tables.n_layers);
    let ranges = Ranges::new(tables);
    let mut ways: Vec<Way> = Vec::new();
    // Per set, last node and layers held: the front.
    let mut fronts: Vec<Vec<u32>> = vec![Vec::new(); (1 << n) * n * (n_layers + 1)];
    let at = |set: usize, node: usize, end: usize| (set * n + node) * (n_layers + 1) + end;
    for set in 1_usize..1 << n {
        if set.count_ones() as usize > STAGES_MAX.min(n_layers) {
            continue;
        }
        for node in (0..n).filter(|node| set >> node & 1 == 1) {
            let rest = set & !(1 << node);
            for start in 0..n_layers {
                let mut entries: Vec<(Choice, u32, usize)> = Vec::new();
                if rest == 0 {
                    if start == 0 {
                        let hops = tables.hop_choices(tables.owner, node);
                        entries.extend(hops.map(|(codec, choice)| (choice, OWNER, codec)));
                    }
                } else {
                    for last in (0..n).filter(|last| rest >> last & 1 == 1) {
                        for &before in &fronts[at(rest, last, start)] {
                            let way = ways[before as usize];
                            for (codec, hop) in tables.hop_choices(last, node) {
                                let (time, loss) = (way.time + hop.time, way.loss + hop.loss);
                                entries.push((Choice { time, loss }, before, codec));
                            }
                        }
                    }
                }
                keep_front(&mut entries, |entry| entry.0);
                for (entry, before, codec) in entries {
                    for end in start + 1..=tables.furthest(node, start) {
                        for (choice, found) in ranges.of(node, start, end).iter().enumerate() {
                            let way = Way {
                                time: entry.time + found.time,
                                loss: entry.loss + found.loss,
                                before,
                                node: small(node),
                                start: small(start),
                                end: small(end),
                                codec: small(codec),
                                choice: u32::try_from(choice).expect("a front is short"),
                            };
                            if way.loss <= tables.loss_max {
                                add(&mut ways, &mut fronts[at(set, node, end)], way);
                            }
                        }
                    }
                }
            }
        }
    }
    let mut best: Option<(u64, u32, u32, usize)> = None;
    for set in 1_usize..1 << n {
        for node in 0..n {
            for &id in &fronts[at(set, node, n_layers)] {
                let way = ways[id as usize];
                for (codec, hop) in tables.hop_choices(node, tables.owner) {
                    let found = (way.time + hop.time, set.count_ones(), id, codec);
                    let allowed = way.loss + hop.loss <= tables.loss_max;
                    if allowed && best.is_none_or(|best| found < best) {
                        best = Some(found);
                    }
                }
            }
        }
    }
    best.map(|(_, _, id, codec)| placement(&ways, &ranges, id, codec))
}

fn placement(ways: &[Way], ranges: &Ranges, last: u32, last_codec: usize) -> Placement {
    let mut stages = Vec::new();
    let mut id = last;
    while id != OWNER {
        let way = ways[id as usize];
        let (start, end) = (usize::from(way.start), usize::from(way.end));
        let found = &ranges.of(usize::from(way.node), start, end)[way.choice as usize];
        let variants = found.variants.clone();
        let stage = Stage { node: usize::from(way.node), layers: start..end, variants };
        stages.push((stage, usize::from(way.codec)));
        id = way.before;
    }
    stages.reverse();
    Tables::placement(stages, last_codec)
}

fn small(number: usize) -> u16 {
    u16::try_from(number).expect("nodes, layers and codecs are few")
}

/// Adds a way to a front, unless another is as fast and as good.
fn add(ways: &mut Vec<Way>, front: &mut Vec<u32>, way: Way) {
    let beats = |a: Way, b: Way| a.time <= b.time && a.loss <= b.loss;
    if front.iter().any(|&other| beats(ways[other as usize], way)) {
        return;
    }
    front.retain(|&other| !beats(way, ways[other as usize]));
    front.push(u32::try_from(ways.len()).expect("fewer ways than fit into memory"));
    ways.push(way);
}

/// Leaves those that no other beats in both time and loss; of equals the first.
fn keep_front<T>(all: &mut Vec<T>, choice: impl Fn(&T) -> Choice) {
    all.sort_by_key(|item| (choice(item).time, choice(item).loss));
    let mut least = None;
    all.retain(|item| {
        let loss = choice(item).loss;
        let kept = least.is_none_or(|least| loss < least);
        if kept {
            least = Some(loss);
        }
        kept
    });
}

/// For every node and range of layers, the choices of variants that fit its memory and that no
/// other beats.
struct Ranges {
    n_layers: usize,
    fronts: Vec<Vec<Variants>>,
}

impl Ranges {
    fn new(tables: &Tables) -> Self {
        let n_layers = tables.n_layers;
        let mut fronts = vec![Vec::new(); tables.n * n_layers * (n_layers + 1)];
        for node in 0..tables.n {
            for start in 0..n_layers {
                let nothing =
                    Variants { bytes: 0, time: tables.stage_ns[node], loss: 0, variants: vec![] };
                let mut found = vec![nothing];
                for end in start + 1..=tables.furthest(node, start) {
                    found = longer(tables, node, end - 1, &found);
                    let mut front = found.clone();
                    keep_front(&mut front, |v| Choice { time: v.time, loss: v.loss });
                    fronts[(node * n_layers + start) * (n_layers + 1) + end] = front;
                }
            }
        }
        Self { n_layers, fronts }
    }

    fn of(&self, node: usize, start: usize, end: usize) -> &[Variants] {
        &self.fronts[(node * self.n_layers + start) * (self.n_layers + 1) + end]
    }
}

/// Every choice with one layer more, without those that another beats in bytes, time and loss.
fn longer(tables: &Tables, node: usize, layer: usize, found: &[Variants]) -> Vec<Variants> {
    let mut next: Vec<Variants> = Vec::new();
    for before in found {
        for (variant, &(bytes, loss)) in tables.variants[layer].iter().enumerate() {
            let (bytes, loss) = (before.bytes + bytes, before.loss + loss);
            let time = before.time + tables.times(node, layer)[variant];
            let beaten =
                |other: &Variants| other.bytes <= bytes && other.time <= time && other.loss <= loss;
            let fits = bytes <= tables.memory[node] && time <= tables.stage_max[node];
            if !fits || loss > tables.loss_max || next.iter().any(beaten) {
                continue;
            }
            next.retain(|v| !(bytes <= v.bytes && time <= v.time && loss <= v.loss));
            let variants = before.variants.iter().copied().chain([variant]).collect();
            next.push(Variants { bytes, time, loss, variants });
        }
    }
    next
}
