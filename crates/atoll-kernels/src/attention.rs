//! Attention of one position over the cache of one KV head.

use half::f16;

use crate::vector::{add_lanes, exp, f32_from_f16};

/// Positions of a tile of the KV cache.
pub const KV_TILE: usize = 32;

/// Writes `k` and `v`, (head_dim) each, to `position` of tiles of (head_dim, 32) and
/// (32, head_dim).
pub(crate) fn append(
    k: &[f32],
    v: &[f32],
    position: usize,
    k_tiles: &mut [u16],
    v_tiles: &mut [u16],
) {
    let head_dim = k.len();
    let start = position / KV_TILE * KV_TILE * head_dim;
    let lane = position % KV_TILE;
    for d in 0..head_dim {
        k_tiles[start + d * KV_TILE + lane] = f16::from_f32(k[d]).to_bits();
        v_tiles[start + lane * head_dim + d] = f16::from_f32(v[d]).to_bits();
    }
}

/// One query head, (head_dim), over the first `len` positions; `out` is (head_dim).
#[inline(always)]
pub(crate) fn attend(q: &[f32], k: &[u16], v: &[u16], len: usize, scale: f32, out: &mut [f32]) {
    let head_dim = q.len();
    out.fill(0.0);
    let (mut max, mut total) = (f32::NEG_INFINITY, 0.0f32);
    for tile in 0..len.div_ceil(KV_TILE) {
        let n = (len - tile * KV_TILE).min(KV_TILE);
        let start = tile * KV_TILE * head_dim;
        let k = &k[start..][..KV_TILE * head_dim];
        let v = &v[start..][..n * head_dim];
        let mut scores = [0.0f32; KV_TILE];
        for (q, k) in q.iter().zip(k.chunks_exact(KV_TILE)) {
            for p in 0..KV_TILE {
                scores[p] = q.mul_add(f32_from_f16(k[p]), scores[p]);
            }
        }
        let mut new_max = max;
        for score in &mut scores[..n] {
            *score *= scale;
            new_max = if *score > new_max { *score } else { new_max };
        }
        let correction = if max == f32::NEG_INFINITY { 0.0 } else { exp(max - new_max) };
        max = new_max;
        let mut lanes = [0.0f32; 16];
        for p in 0..KV_TILE {
            scores[p] = if p < n { exp(scores[p] - max) } else { 0.0 };
            lanes[p % 16] += scores[p];
        }
        total = total.mul_add(correction, add_lanes(lanes));
        for out in out.iter_mut() {
            *out *= correction;
        }
        for (weight, v) in scores.iter().zip(v.chunks_exact(head_dim)) {
            for (out, v) in out.iter_mut().zip(v) {
                *out = weight.mul_add(f32_from_f16(*v), *out);
            }
        }
    }
    let inverse = 1.0 / total;
    for out in out.iter_mut() {
        *out *= inverse;
    }
}
