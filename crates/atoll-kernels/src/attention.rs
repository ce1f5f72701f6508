//! Attention of a few queries over the cache of one KV head.
//!
//! Queries come as columns: the query heads that share the KV head, of one row or of several, so
//! that every key and value that is read serves all of them.

use core::ops::Range;

pub(crate) use self::kv::append;
use self::kv::{Cached, width};
pub use self::kv::{KvHead, KvHeadMut};
use crate::lanes::Lanes;
use crate::vector::exp;

mod kv;

/// Positions of a block of keys in the cache.
pub const KV_TILE: usize = 32;
/// Positions whose scores are taken together; the tiles' results are merged in ascending order.
pub const ATTENTION_TILE: usize = 256;
/// Query columns of one call.
pub const QUERIES_MAX: usize = 8;

/// Query columns, by ascending `lens`.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    /// (head_dim, columns).
    pub q: &'a [f32],
    /// For every column, the number of positions that it sees, at least 1.
    pub lens: &'a [usize],
    /// Factor of the scores.
    pub scale: f32,
}

/// Floats of one column's state: its largest score, its sum of weights, 14 unused, and from the
/// 16th on the weighted sum of values, rounded up to 16.
#[must_use]
pub const fn attention_state_len(head_dim: usize) -> usize {
    16 + head_dim.next_multiple_of(16)
}

/// Makes states empty.
pub(crate) fn clear(state: &mut [f32], head_dim: usize) {
    for column in state.chunks_exact_mut(attention_state_len(head_dim)) {
        (column[0], column[1]) = (f32::NEG_INFINITY, 0.0);
    }
}

/// Keys and values as [`KvHead`] has them.
#[derive(Clone, Copy)]
struct Cache<'a, E> {
    k: &'a [E],
    v: &'a [E],
    /// (positions), if there are any.
    scales: Option<(&'a [f32], &'a [f32])>,
    head_dim: usize,
}

/// Weights of a tile, (columns, positions).
type Weights = [[f32; ATTENTION_TILE]; QUERIES_MAX];

/// Adds the tiles `tiles` of [`ATTENTION_TILE`] positions to the columns' states.
#[inline(always)]
pub(crate) fn attend<L: Lanes>(
    queries: &Queries<'_>,
    kv: KvHead<'_>,
    tiles: Range<usize>,
    state: &mut [f32],
) {
    let head_dim = queries.q.len() / queries.lens.len();
    match kv {
        KvHead::F16 { k, v } => {
            let cache = Cache { k, v, scales: None, head_dim };
            tiles_of::<L, u16>(queries, cache, tiles, state);
        }
        KvHead::I8 { k, v, k_scales, v_scales } => {
            let cache = Cache { k, v, scales: Some((k_scales, v_scales)), head_dim };
            tiles_of::<L, i8>(queries, cache, tiles, state);
        }
    }
}

#[inline(always)]
fn tiles_of<L: Lanes, E: Cached>(
    queries: &Queries<'_>,
    cache: Cache<'_, E>,
    tiles: Range<usize>,
    state: &mut [f32],
) {
    let columns = queries.lens.len();
    let mut weights: Weights = [[0.0; ATTENTION_TILE]; QUERIES_MAX];
    for tile in tiles {
        let start = tile * ATTENTION_TILE;
        let first = queries.lens.iter().take_while(|&&len| len <= start).count();
        if first == columns {
            return;
        }
        let mut ns = [0; QUERIES_MAX];
        for column in first..columns {
            ns[column] = (queries.lens[column] - start).min(ATTENTION_TILE);
        }
        let mut at = first;
        while at < columns {
            at += scores::<L, E>(queries, cache, start, ns[columns - 1], at, &mut weights);
        }
        let mut merges = [Merge::default(); QUERIES_MAX];
        let len = attention_state_len(cache.head_dim);
        let scales = cache.scales.map(|(k, v)| (&k[start..], &v[start..]));
        for column in first..columns {
            let state = &mut state[column * len..][..len];
            let of = (ns[column], queries.scale, scales);
            merges[column] = softmax::<L>(&mut weights[column], of, state);
        }
        let mut at = first;
        while at < columns {
            at += values::<L, E>(cache, start, at..columns, &ns, &weights, &merges, state);
        }
    }
}

/// Products of the columns from `at` on with the keys of `n` positions from `start` on, without
/// any scale; returns how many columns it took.
#[inline(always)]
fn scores<L: Lanes, E: Cached>(
    queries: &Queries<'_>,
    cache: Cache<'_, E>,
    start: usize,
    n: usize,
    at: usize,
    weights: &mut Weights,
) -> usize {
    let left = queries.lens.len() - at;
    let left = left.div_ceil(left.div_ceil(L::SCORE_COLUMNS));
    let block = KV_TILE * cache.head_dim;
    let k = &cache.k[start * cache.head_dim..][..n.div_ceil(KV_TILE) * block];
    for (i, k) in k.chunks_exact(block).enumerate() {
        let to = i * KV_TILE;
        match left {
            1 => scores_of::<L, E, 1>(queries, k, at, to, weights),
            2 => scores_of::<L, E, 2>(queries, k, at, to, weights),
            3 => scores_of::<L, E, 3>(queries, k, at, to, weights),
            4 if L::SCORE_COLUMNS > 3 => scores_of::<L, E, 4>(queries, k, at, to, weights),
            5 if L::SCORE_COLUMNS > 3 => scores_of::<L, E, 5>(queries, k, at, to, weights),
            6 if L::SCORE_COLUMNS > 3 => scores_of::<L, E, 6>(queries, k, at, to, weights),
            7 if L::SCORE_COLUMNS > 3 => scores_of::<L, E, 7>(queries, k, at, to, weights),
            _ if L::SCORE_COLUMNS > 3 => scores_of::<L, E, 8>(queries, k, at, to, weights),
            _ => unreachable!("at most SCORE_COLUMNS"),
        }
    }
    left
}

/// As [`scores`], for `C` columns and a block of 32 positions, (head_dim, 32).
#[inline(always)]
fn scores_of<L: Lanes, E: Cached, const C: usize>(
    queries: &Queries<'_>,
    k: &[E],
    at: usize,
    to: usize,
    weights: &mut Weights,
) {
    let mut sums = [[L::splat(0.0); 2]; C];
    let columns = queries.q.chunks_exact(queries.lens.len());
    for (q, k) in columns.zip(k.as_chunks::<KV_TILE>().0) {
        let (halves, _) = k.as_chunks::<16>();
        let k = [E::load::<L>(&halves[0]), E::load::<L>(&halves[1])];
        let q: &[f32; C] = q[at..].first_chunk().expect("C columns");
        for c in 0..C {
            let q = L::splat(q[c]);
            sums[c] = [k[0].fma(q, sums[c][0]), k[1].fma(q, sums[c][1])];
        }
    }
    for c in 0..C {
        let (to, _) = weights[at + c][to..to + KV_TILE].as_chunks_mut::<16>();
        sums[c][0].store(&mut to[0]);
        sums[c][1].store(&mut to[1]);
    }
}

/// How a tile's sum of values is added to a state: `old * state + new * tile`.
#[derive(Clone, Copy, Default)]
struct Merge {
    /// The state was empty.
    is_first: bool,
    old: f32,
    new: f32,
}

/// Makes weights of `n` scores and adds their sum to the state.
#[inline(always)]
fn softmax<L: Lanes>(
    weights: &mut [f32; ATTENTION_TILE],
    (n, scale, scales): (usize, f32, Option<(&[f32], &[f32])>),
    state: &mut [f32],
) -> Merge {
    let padded = n.next_multiple_of(16);
    let mut max = L::splat(f32::NEG_INFINITY);
    for (i, chunk) in weights[..padded].as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let mut scores = L::load(chunk);
        if let Some((k_scales, _)) = scales {
            scores = scores.mul(L::load(k_scales[16 * i..].first_chunk().expect("whole tiles")));
        }
        scores.mul(L::splat(scale)).store(chunk);
        if 16 * (i + 1) > n {
            chunk[n % 16..].fill(f32::NEG_INFINITY);
        }
        max = L::load(chunk).max(max);
    }
    let max = max.greatest();
    let mut sum = L::splat(0.0);
    for (i, chunk) in weights[..padded].as_chunks_mut::<16>().0.iter_mut().enumerate() {
        L::load(chunk).add(L::splat(-max)).exp().store(chunk);
        if 16 * (i + 1) > n {
            chunk[n % 16..].fill(0.0);
        }
        let weights = L::load(chunk);
        sum = sum.add(weights);
        if let Some((_, v_scales)) = scales {
            let scales = L::load(v_scales[16 * i..].first_chunk().expect("whole tiles"));
            weights.mul(scales).store(chunk);
        }
    }
    let merge = merge_of(state[0], max);
    state[1] = merged(state[1], sum.sum(), merge);
    state[0] = if max > state[0] { max } else { state[0] };
    merge
}

#[inline(always)]
fn merge_of(old_max: f32, new_max: f32) -> Merge {
    let max = if new_max > old_max { new_max } else { old_max };
    let is_first = old_max == f32::NEG_INFINITY;
    Merge { is_first, old: exp(old_max - max), new: exp(new_max - max) }
}

#[inline(always)]
fn merged(old: f32, new: f32, merge: Merge) -> f32 {
    if merge.is_first { new } else { old.mul_add(merge.old, new * merge.new) }
}

/// Adds the values of a tile to the states of some columns; returns how many.
#[inline(always)]
fn values<L: Lanes, E: Cached>(
    cache: Cache<'_, E>,
    start: usize,
    columns: Range<usize>,
    ns: &[usize; QUERIES_MAX],
    weights: &Weights,
    merges: &[Merge; QUERIES_MAX],
    state: &mut [f32],
) -> usize {
    let left = columns.len().div_ceil(columns.len().div_ceil(L::VALUE_COLUMNS));
    let at = columns.start;
    let of = Tile { v: &cache.v[start * width(cache.head_dim)..], ns, at, weights, merges };
    match left {
        1 => values_of::<L, E, 1>(&of, cache.head_dim, state),
        2 => values_of::<L, E, 2>(&of, cache.head_dim, state),
        3 => values_of::<L, E, 3>(&of, cache.head_dim, state),
        4 if L::VALUE_COLUMNS > 3 => values_of::<L, E, 4>(&of, cache.head_dim, state),
        5 if L::VALUE_COLUMNS > 3 => values_of::<L, E, 5>(&of, cache.head_dim, state),
        _ if L::VALUE_COLUMNS > 3 => values_of::<L, E, 6>(&of, cache.head_dim, state),
        _ => unreachable!("at most VALUE_COLUMNS"),
    }
    left
}

/// What [`values`] works on: columns from `at` on with their numbers of positions.
struct Tile<'a, E> {
    v: &'a [E],
    ns: &'a [usize; QUERIES_MAX],
    at: usize,
    weights: &'a Weights,
    merges: &'a [Merge; QUERIES_MAX],
}

#[inline(always)]
fn values_of<L: Lanes, E: Cached, const C: usize>(
    of: &Tile<'_, E>,
    head_dim: usize,
    state: &mut [f32],
) {
    let vectors = width(head_dim) / 16;
    let mut first = 0;
    while first < vectors {
        if vectors - first >= 4 && L::VALUE_VECTORS == 4 {
            values_in::<L, E, C, 4>(of, head_dim, first, state);
            first += 4;
        } else if vectors - first >= 2 {
            values_in::<L, E, C, 2>(of, head_dim, first, state);
            first += 2;
        } else {
            values_in::<L, E, C, 1>(of, head_dim, first, state);
            first += 1;
        }
    }
}

/// As [`values`], for `C` columns and the `V` vectors from `first` on.
#[inline(always)]
fn values_in<L: Lanes, E: Cached, const C: usize, const V: usize>(
    of: &Tile<'_, E>,
    head_dim: usize,
    first: usize,
    state: &mut [f32],
) {
    let width = width(head_dim);
    let weights: &[[f32; ATTENTION_TILE]; C] = of.weights[of.at..].first_chunk().expect("columns");
    let mut sums = [[L::splat(0.0); V]; C];
    // Columns see ever more positions: what all see first, then each its own rest.
    let shared = of.ns[of.at];
    for p in 0..shared {
        let v = load::<L, E, V>(of.v, p * width + 16 * first);
        for c in 0..C {
            let weight = L::splat(weights[c][p]);
            for i in 0..V {
                sums[c][i] = v[i].fma(weight, sums[c][i]);
            }
        }
    }
    // By way of memory: an index unknown to the compiler would put the sums there for all loops.
    let mut stored = [[[0.0; 16]; V]; C];
    for c in 0..C {
        for i in 0..V {
            sums[c][i].store(&mut stored[c][i]);
        }
    }
    let len = attention_state_len(head_dim);
    for (c, stored) in stored.iter().enumerate() {
        let mut sums = [L::splat(0.0); V];
        for i in 0..V {
            sums[i] = L::load(&stored[i]);
        }
        for p in shared..of.ns[of.at + c] {
            let v = load::<L, E, V>(of.v, p * width + 16 * first);
            let weight = L::splat(weights[c][p]);
            for i in 0..V {
                sums[i] = v[i].fma(weight, sums[i]);
            }
        }
        let merge = of.merges[of.at + c];
        let state = &mut state[(of.at + c) * len + 16 + 16 * first..][..16 * V];
        for (sum, to) in sums.into_iter().zip(state.as_chunks_mut::<16>().0) {
            merge_lanes(to, sum, merge);
        }
    }
}

#[inline(always)]
fn load<L: Lanes, E: Cached, const V: usize>(v: &[E], at: usize) -> [L; V] {
    let (chunks, _) = v[at..at + 16 * V].as_chunks::<16>();
    let mut loaded = [L::splat(0.0); V];
    for i in 0..V {
        loaded[i] = E::load::<L>(&chunks[i]);
    }
    loaded
}

#[inline(always)]
fn merge_lanes<L: Lanes>(to: &mut [f32; 16], sum: L, merge: Merge) {
    if merge.is_first {
        sum.store(to);
    } else {
        let new = sum.mul(L::splat(merge.new));
        L::load(to).fma(L::splat(merge.old), new).store(to);
    }
}

/// Merges the states `other` into `state`, (columns) each; `other` holds the later positions.
#[inline(always)]
pub(crate) fn merge<L: Lanes>(state: &mut [f32], other: &[f32], head_dim: usize) {
    let len = attention_state_len(head_dim);
    for (state, other) in state.chunks_exact_mut(len).zip(other.chunks_exact(len)) {
        if other[0] == f32::NEG_INFINITY {
            continue;
        }
        let merge = merge_of(state[0], other[0]);
        state[1] = merged(state[1], other[1], merge);
        state[0] = if other[0] > state[0] { other[0] } else { state[0] };
        let others = other[16..].as_chunks::<16>().0;
        for (to, other) in state[16..].as_chunks_mut::<16>().0.iter_mut().zip(others) {
            merge_lanes(to, L::load(other), merge);
        }
    }
}

/// What a column gathered, (head_dim): its sum of values over its sum of weights.
#[inline(always)]
pub(crate) fn finish(state: &[f32], out: &mut [f32]) {
    let inverse = 1.0 / state[1];
    for (out, sum) in out.iter_mut().zip(&state[16..]) {
        *out = sum * inverse;
    }
}
