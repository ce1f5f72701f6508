//! The best placement of a fleet without variants, for certain, where the bound leaves little to
//! look at.
//!
//! Ways from the owner on are lengthened stage by stage, each node once. A way is dropped when it
//! and the cheapest rest under prices, which may use nodes again, cannot beat the best plan; and
//! when another ends at the same place, is no slower and has used no other nodes (labels with
//! completion bounds: Desrochers and Soumis, 1988).

use crate::bound::Relaxed;
use crate::query::STAGES_MAX;
use crate::tables::Tables;

/// Ways that are kept at most.
const WAYS_MAX: usize = 8_000;
/// What lengthening a way by a node takes, in the units of the search's work.
const WORK_PER_NODE: usize = 256;

/// A way from the owner to the end of a stage.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// Alive nodes used, a bit each.
    used: u128,
    /// Without prices, ns.
    time: u64,
    /// With prices, ns.
    priced: i64,
    /// Of its last stage: alive node and start.
    node: usize,
    start: usize,
    /// The way before that stage.
    before: Option<u32>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Looked {
    /// Node, start and end of each stage of the fastest placement that takes less than was known.
    Better(Vec<(usize, usize, usize)>),
    /// Nothing is faster than what was known.
    Nothing,
    /// There was more to look at than may be.
    TooMuch,
}

/// Looks for a placement that takes less than `to_beat` ns. `relaxed` holds the prices, and every
/// node that such a placement could use.
pub(crate) fn search(
    tables: &Tables,
    relaxed: &Relaxed,
    to_beat: u64,
    mut spend: impl FnMut(usize) -> bool,
) -> Looked {
    let (m, n_layers) = (relaxed.alive.len(), tables.n_layers);
    if m > 128 {
        return Looked::TooMuch;
    }
    let rest = relaxed.rest();
    let limit = i64::try_from(to_beat).unwrap_or(i64::MAX).saturating_add(relaxed.paid_back());
    let mut ways: Vec<Way> = Vec::new();
    // Per boundary and alive node: the ways that end there.
    let mut ends: Vec<Vec<u32>> = vec![Vec::new(); (n_layers + 1) * m];
    for l in 0..n_layers {
        let here: Vec<Option<u32>> = match l {
            0 => vec![None],
            _ => ends[l * m..(l + 1) * m].iter().flatten().copied().map(Some).collect(),
        };
        for before in here {
            if !spend(m * WORK_PER_NODE) || ways.len() > WAYS_MAX {
                return Looked::TooMuch;
            }
            let last = before.map(|id| ways[id as usize]);
            if last.is_some_and(|way| way.used.count_ones() as usize >= STAGES_MAX) {
                continue;
            }
            for i in (0..m).filter(|i| last.is_none_or(|way| way.used >> i & 1 == 0)) {
                let Some(hop) = relaxed.hop(last.map(|way| way.node), Some(i)) else { continue };
                let node = relaxed.alive[i];
                let from = last.map_or(tables.owner, |way| relaxed.alive[way.node]);
                let mut time = last.map_or(tables.ends_ns, |way| way.time)
                    + tables.hop(0, from, node)
                    + tables.stage_ns[node];
                for end in l + 1..=relaxed.furthest(i, l) {
                    time += tables.times(node, end - 1)[0];
                    let priced = last.map_or(0, |way| way.priced) + hop + relaxed.stage(i, l, end);
                    if priced.saturating_add(rest[i * (n_layers + 1) + end]) >= limit {
                        continue;
                    }
                    let used = last.map_or(0, |way| way.used) | 1 << i;
                    let way = Way { used, time, priced, node: i, start: l, before };
                    add(&mut ways, &mut ends[end * m + i], way);
                }
            }
        }
    }
    let last = ends[n_layers * m..].iter().flatten().filter_map(|&id| {
        let way = ways[id as usize];
        let back = tables.hop(0, relaxed.alive[way.node], tables.owner);
        let time = way.time.saturating_add(back);
        (time < to_beat).then_some((time, id))
    });
    let Some((_, mut id)) = last.min() else { return Looked::Nothing };
    let (mut stages, mut end) = (Vec::new(), n_layers);
    loop {
        let way = ways[id as usize];
        stages.push((relaxed.alive[way.node], way.start, end));
        end = way.start;
        match way.before {
            Some(before) => id = before,
            None => break,
        }
    }
    stages.reverse();
    Looked::Better(stages)
}

/// Adds a way to those that end at one place, unless another is as fast and leaves as many nodes.
fn add(ways: &mut Vec<Way>, ends: &mut Vec<u32>, way: Way) {
    let beats = |a: Way, b: Way| a.time <= b.time && a.used & !b.used == 0;
    if ends.iter().any(|&other| beats(ways[other as usize], way)) {
        return;
    }
    ends.retain(|&other| !beats(way, ways[other as usize]));
    ends.push(u32::try_from(ways.len()).expect("fewer ways than that are kept"));
    ways.push(way);
}
