//! What encoders need beside products: layer norm, GELU, and attention of every position to all.
//!
//! Sums are those of the crate: 16 lanes added 8, 4, 2, 1 apart.

use crate::lanes::Lanes;
use crate::{Kernels, TILE_ROWS};

/// Coefficients `P` of `erfc(a / sqrt 2) / 2 = exp(-a^2 / 2) * t * P(t)`, `t = 1 / (1 + a / 4)`,
/// from the highest: a least relative error of 5e-8 over `0 <= a <= 13.2`, beyond which the
/// product is under 1e-38 (fitted by iterated least squares).
const TAIL: [f32; 9] = [
    0.026_650_624,
    -0.157_399_1,
    0.305_805_83,
    -0.217_133_95,
    0.209_825_28,
    0.029_375_397,
    0.104_691_59,
    0.098_378_27,
    0.099_806_05,
];

/// Adds `bias`, (tiles, 16), to every row of `x`, (tiles, rows, 16).
#[inline(always)]
pub(crate) fn add_bias<L: Lanes>(x: &mut [f32], bias: &[f32]) {
    let (x, (bias, _)) = (x.as_chunks_mut::<16>().0, bias.as_chunks::<16>());
    let rows = x.len() / bias.len().max(1);
    for (tile, bias) in bias.iter().enumerate() {
        let bias = L::load(bias);
        for x in &mut x[tile * rows..(tile + 1) * rows] {
            L::load(x).add(bias).store(x);
        }
    }
}

/// `gelu(x + bias)` of every row of `x`, (tiles, rows, 16); `bias` is (tiles, 16).
#[inline(always)]
pub(crate) fn gelu<L: Lanes>(x: &mut [f32], bias: &[f32]) {
    let (x, (bias, _)) = (x.as_chunks_mut::<16>().0, bias.as_chunks::<16>());
    let rows = x.len() / bias.len().max(1);
    for (tile, bias) in bias.iter().enumerate() {
        let bias = L::load(bias);
        for x in &mut x[tile * rows..(tile + 1) * rows] {
            gelu_of(L::load(x).add(bias)).store(x);
        }
    }
}

/// `x * Phi(x)`, which is `max(x, 0) - |x| * Phi(-|x|)`.
#[inline(always)]
fn gelu_of<L: Lanes>(x: L) -> L {
    let one = L::splat(1.0);
    let size = x.max(x.mul(L::splat(-1.0)));
    let t = one.div(size.fma(L::splat(0.25), one));
    let mut p = L::splat(TAIL[0]);
    for c in &TAIL[1..] {
        p = p.fma(t, L::splat(*c));
    }
    let tail = p.mul(t).mul(size.mul(size).mul(L::splat(-0.5)).exp());
    size.mul(tail).fma(L::splat(-1.0), x.max(L::splat(0.0)))
}

/// Every row of `x`, (tiles, rows, 16) with zeros behind the `cols` columns, becomes
/// `(x - mean) / sqrt(variance + eps) * weight + bias`; both are (tiles, 16).
#[inline(always)]
pub(crate) fn layer_norm<L: Lanes>(
    x: &mut [f32],
    cols: usize,
    weight: &[f32],
    bias: &[f32],
    eps: f32,
) {
    let (x, tiles) = (x.as_chunks_mut::<16>().0, cols.div_ceil(TILE_ROWS));
    let (weight, bias) = (weight.as_chunks::<16>().0, bias.as_chunks::<16>().0);
    let rows = x.len() / tiles.max(1);
    for row in 0..rows {
        let mut sums = L::splat(0.0);
        for tile in 0..tiles {
            sums = sums.add(L::load(&x[tile * rows + row]));
        }
        let minus_mean = L::splat(-(sums.sum() / cols as f32));
        let mut squares = L::splat(0.0);
        for tile in 0..tiles {
            let x = &mut x[tile * rows + row];
            L::load(x).add(minus_mean).store(x);
            for lane in cols - tile * TILE_ROWS..TILE_ROWS {
                x[lane] = 0.0;
            }
            let off = L::load(x);
            squares = off.fma(off, squares);
        }
        let scale = L::splat(1.0 / (squares.sum() / cols as f32 + eps).sqrt());
        for tile in 0..tiles {
            let x = &mut x[tile * rows + row];
            let (weight, bias) = (L::load(&weight[tile]), L::load(&bias[tile]));
            L::load(x).mul(scale).fma(weight, bias).store(x);
        }
    }
}

/// What one query of one head, `q`, (head_dim), gathers from all `n` positions: `out` is (tiles of
/// the head's dimensions, 16). `k` is (tiles of 16 positions, head_dim, 16), `v` is (n, tiles of
/// the head's dimensions, 16), `weights` room for (tiles of 16 positions, 16).
///
/// A score sums over the head's dimensions in ascending order, a value over the positions, with
/// fused multiply-add; the sum of the weights is one of a vector.
#[inline(always)]
pub(crate) fn attend_all<L: Lanes>(
    q: &[f32],
    scale: f32,
    (k, v): (&[f32], &[f32]),
    weights: &mut [f32],
    out: &mut [f32],
) {
    let (k, v) = (k.as_chunks::<16>().0, v.as_chunks::<16>().0);
    let (weights, out) = (weights.as_chunks_mut::<16>().0, out.as_chunks_mut::<16>().0);
    let (n, scale) = (v.len() / out.len().max(1), L::splat(scale));
    let mut max = L::splat(f32::NEG_INFINITY);
    for (tile, weights) in weights.iter_mut().enumerate() {
        let mut scores = L::splat(0.0);
        for (q, k) in q.iter().zip(&k[tile * q.len()..]) {
            scores = L::splat(*q).fma(L::load(k), scores);
        }
        scores.mul(scale).store(weights);
        for lane in (n - tile * TILE_ROWS).min(TILE_ROWS)..TILE_ROWS {
            weights[lane] = f32::NEG_INFINITY;
        }
        max = max.max(L::load(weights));
    }
    let minus_max = L::splat(-max.greatest());
    let mut sums = L::splat(0.0);
    for (tile, weights) in weights.iter_mut().enumerate() {
        L::load(weights).add(minus_max).exp().store(weights);
        for lane in (n - tile * TILE_ROWS).min(TILE_ROWS)..TILE_ROWS {
            weights[lane] = 0.0;
        }
        sums = sums.add(L::load(weights));
    }
    let (whole, weights) = (L::splat(sums.sum()), weights.as_flattened());
    let width = out.len();
    for (tile, out) in out.iter_mut().enumerate() {
        let mut values = L::splat(0.0);
        for (position, weight) in weights[..n].iter().enumerate() {
            values = L::splat(*weight).fma(L::load(&v[position * width + tile]), values);
        }
        values.div(whole).store(out);
    }
}

impl Kernels {
    /// Adds `bias`, (tiles, 16), to every row of `x`, (tiles, rows, 16).
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn add_bias(&self, x: &mut [f32], bias: &[f32]) {
        check_rows(x, bias);
        (self.table.add_bias)(x, bias);
    }

    /// `gelu(x + bias)`, by the error function (Hendrycks and Gimpel 2016, arXiv 1606.08415), of
    /// every row of `x`, (tiles, rows, 16); `bias` is (tiles, 16).
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn gelu(&self, x: &mut [f32], bias: &[f32]) {
        check_rows(x, bias);
        (self.table.gelu)(x, bias);
    }

    /// Every row of `x`, (tiles, rows, 16) with zeros behind the `cols` columns, becomes
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`; both are (tiles, 16).
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn layer_norm(&self, x: &mut [f32], cols: usize, weight: &[f32], bias: &[f32], eps: f32) {
        check_rows(x, weight);
        assert_eq!(weight.len(), cols.div_ceil(TILE_ROWS) * TILE_ROWS, "a weight per column");
        assert_eq!(weight.len(), bias.len(), "a bias per column");
        (self.table.layer_norm)(x, cols, weight, bias, eps);
    }

    /// What one query of one head, `q`, (head_dim), gathers from all positions, later ones too, in
    /// f32: `out` is (tiles of the head's dimensions, 16). `k` is (tiles of 16 positions, head_dim,
    /// 16), `v` is (positions, tiles of the head's dimensions, 16), `weights` room for (tiles of
    /// 16 positions, 16).
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn attend_all(
        &self,
        q: &[f32],
        scale: f32,
        (k, v): (&[f32], &[f32]),
        weights: &mut [f32],
        out: &mut [f32],
    ) {
        assert_eq!(out.len(), q.len().next_multiple_of(TILE_ROWS), "out is (tiles, 16)");
        let n = v.len() / out.len().max(1);
        assert!(n > 0 && v.len() == n * out.len(), "values of whole positions");
        assert_eq!(weights.len(), n.next_multiple_of(TILE_ROWS), "a weight per position");
        assert_eq!(k.len(), weights.len() * q.len(), "keys of {n} positions");
        (self.table.attend_all)(q, scale, (k, v), weights, out);
    }
}

/// Panics unless `x` is (tiles, rows, 16) for `of`, (tiles, 16).
fn check_rows(x: &[f32], of: &[f32]) {
    assert_eq!(of.len() % TILE_ROWS, 0, "whole tiles");
    assert_eq!(x.len() % of.len().max(1), 0, "x is (tiles, rows, 16)");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// Of Python's `0.5 * x * math.erfc(-x / math.sqrt(2))`.
    const GELU: [(f32, f64); 10] = [
        (-12.0, -2.131_778_534_5e-32),
        (-5.5, -1.044_425_935_624e-7),
        (-3.25, -1.875_331_387_77e-3),
        (-1.0, -0.158_655_253_931),
        (-0.3, -0.114_626_576_534),
        (0.0, 0.0),
        (1e-3, 5.003_989_422_139e-4),
        (0.75, 0.580_029_485_717),
        (2.5, 2.484_475_836_686),
        (7.0, 6.999_999_999_991),
    ];

    #[test]
    fn gelu_is_that_of_the_error_function() {
        for (x, want) in GELU {
            let mut row = [x; 16];
            Kernels::new(Isa::Generic).gelu(&mut row, &[0.0; 16]);
            let off = (f64::from(row[3]) - want).abs();
            assert!(off <= 6e-7 * want.abs().max(1e-12), "gelu({x}) is {}, not {want}", row[3]);
        }
        let mut far = [-60.0; 16];
        Kernels::new(Isa::Generic).gelu(&mut far, &[20.0; 16]);
        assert!(far[0].abs() < 1e-35, "{}", far[0]);
    }

    #[test]
    fn a_normed_row_has_no_mean_and_variance_one() {
        let (rows, cols) = (3, 21);
        let mut x = vec![0.0; 2 * rows * TILE_ROWS];
        for row in 0..rows {
            for col in 0..cols {
                let at = (col / TILE_ROWS * rows + row) * TILE_ROWS + col % TILE_ROWS;
                x[at] = 100.0 + ((row * 7 + col * col) % 13) as f32;
            }
        }
        let (mut weight, mut bias) = (vec![0.0; 32], vec![0.0; 32]);
        weight[..cols].fill(2.0);
        bias[..cols].fill(3.0);
        Kernels::new(Isa::Generic).layer_norm(&mut x, cols, &weight, &bias, 1e-12);
        for row in 0..rows {
            let lanes = |tile: usize| &x[(tile * rows + row) * TILE_ROWS..][..TILE_ROWS];
            let all: Vec<f64> =
                [lanes(0), lanes(1)].concat().iter().map(|x| f64::from(*x)).collect();
            let mean = all[..cols].iter().sum::<f64>() / cols as f64;
            let spread = all[..cols].iter().map(|x| (x - 3.0).powi(2)).sum::<f64>() / cols as f64;
            assert!((mean - 3.0).abs() < 1e-5 && (spread - 4.0).abs() < 1e-4, "{mean} {spread}");
            assert!(all[cols..].iter().all(|x| *x == 0.0), "nothing behind the columns");
        }
    }

    #[test]
    fn every_position_is_attended_to_by_its_share() {
        let (n, head_dim, scale) = (19_usize, 5_usize, 0.7_f32);
        let q: Vec<f32> = (0..head_dim).map(|d| (d as f32 - 2.0) * 0.3).collect();
        let key = |at: usize, d: usize| ((at * 5 + d * 3) % 7) as f32 * 0.2 - 0.5;
        let value = |at: usize, d: usize| ((at * 3 + d) % 11) as f32 - 4.0;
        let (mut k, mut v) = (vec![9.0; 2 * head_dim * 16], vec![0.0; n * 16]);
        for at in 0..n {
            for d in 0..head_dim {
                k[(at / 16 * head_dim + d) * 16 + at % 16] = key(at, d);
                v[at * 16 + d] = value(at, d);
            }
        }
        let (mut weights, mut out) = (vec![0.0; 32], vec![0.0; 16]);
        Kernels::new(Isa::Generic).attend_all(&q, scale, (&k, &v), &mut weights, &mut out);
        let score = |at| (0..head_dim).map(|d| f64::from(q[d] * key(at, d))).sum::<f64>();
        let weights: Vec<f64> = (0..n).map(|at| (score(at) * f64::from(scale)).exp()).collect();
        let all: f64 = weights.iter().sum();
        for d in 0..head_dim {
            let want: f64 = (0..n).map(|at| weights[at] / all * f64::from(value(at, d))).sum();
            assert!((f64::from(out[d]) - want).abs() < 1e-5, "{d}: {} not {want}", out[d]);
        }
    }
}
