//! Finds scale and offset of a run of weights, each column weighed by its importance.

use atoll_model::{E3_VALUES, E4_VALUES, E5_VALUES, IQ4_VALUES, byte_of_scale, scale_of_byte};

/// Up to 32 ascending values that codes stand for.
#[derive(Debug, PartialEq)]
pub(crate) struct Table {
    values: [f32; 32],
    /// The code nearest to every half from -128 to 127.5, and to what lies up to the next.
    nearest: [u8; 512],
}

pub(crate) static IQ4: Table = Table::of(&IQ4_VALUES);
pub(crate) static E3: Table = Table::of(&E3_VALUES);
pub(crate) static E4: Table = Table::of(&E4_VALUES);
pub(crate) static E5: Table = Table::of(&E5_VALUES);

impl Table {
    const fn of(integers: &[i8]) -> Self {
        let (mut values, mut nearest) = ([0.0; 32], [0; 512]);
        let mut code = 0;
        while code < integers.len() {
            values[code] = integers[code] as f32;
            code += 1;
        }
        let (mut place, mut twice, mut code) = (0, -256, 0);
        while place < 512 {
            while code + 1 < integers.len()
                && twice >= integers[code] as i32 + integers[code + 1] as i32
            {
                code += 1;
            }
            nearest[place] = code.to_le_bytes()[0];
            (place, twice) = (place + 1, twice + 1);
        }
        Self { values, nearest }
    }
}

/// What an integer code can stand for, before scale and offset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Levels {
    /// Every integer from the first to the second.
    Uniform(i16, i16),
    /// The values of a table.
    Table(&'static Table),
}

impl Levels {
    /// Code and value nearest to `x`; some value for NaN.
    #[expect(clippy::cast_possible_truncation, reason = "codes are within 0..=255")]
    pub(crate) fn nearest(self, x: f32) -> (u8, f32) {
        match self {
            Self::Uniform(min, max) => {
                let value = x.round_ties_even().clamp(min.into(), max.into());
                let value = if value.is_nan() { min.into() } else { value };
                ((value - f32::from(min)) as u8, value)
            }
            Self::Table(table) => {
                // Borders between neighbours are whole or half numbers. NaN becomes 0.
                let place = ((x * 2.0).floor() as i32).clamp(-256, 255) + 256;
                let code = table.nearest[place.cast_unsigned() as usize];
                (code, table.values[usize::from(code)])
            }
        }
    }

    /// The value of a code.
    pub(crate) fn value(self, code: u8) -> f32 {
        match self {
            Self::Uniform(min, _) => f32::from(i16::from(code) + min),
            Self::Table(table) => table.values[usize::from(code)],
        }
    }

    /// The value farthest from 0.
    fn largest(self) -> f32 {
        match self {
            Self::Uniform(min, max) => f32::from(min.abs().max(max.abs())),
            Self::Table(_) => 127.0,
        }
    }
}

/// The scale `d` that makes `Σ w (x - d q)²` small, `q` being the level nearest to `x / d`.
///
/// Tries scales around the one that maps the largest weight to the largest level, in both signs,
/// and refits each by least squares to the levels that it chose.
pub(crate) fn symmetric(x: &[f32], weights: &[f32], levels: Levels) -> f32 {
    let amax = x.iter().fold(0.0f32, |max, &x| if x.abs() > max.abs() { x } else { max });
    if amax.abs() < 1e-30 {
        return 0.0;
    }
    let (mut best, mut scale) = (0.0f32, 0.0);
    for step in -12i8..=12 {
        for sign in [-1.0, 1.0] {
            let inverse = sign * (levels.largest() * (1.0 + f32::from(step) * 0.015)) / amax;
            let (mut with, mut square) = (0.0f32, 0.0f32);
            for (&x, &w) in x.iter().zip(weights) {
                let q = levels.nearest(x * inverse).1;
                with += w * x * q;
                square += w * q * q;
            }
            if square > 0.0 && with * with > best * square {
                (best, scale) = (with * with / square, with / square);
            }
        }
    }
    scale
}

/// The byte whose scale `d`, see [`scale_of_byte`], makes `Σ w (x - d q)²` least, `q` being the
/// level nearest to `x / d`: of all that let the largest weight be reached, give or take a third,
/// and both signs.
pub(crate) fn symmetric_byte(x: &[f32], weights: &[f32], levels: Levels) -> u8 {
    let amax = x.iter().fold(0.0f32, |max, &x| max.max(x.abs()));
    if amax < 1e-30 {
        return 0;
    }
    let scale = amax / levels.largest();
    let (first, last) = (byte_of_scale(scale * 0.75), byte_of_scale(scale * 1.34));
    let mut best = (f32::INFINITY, 0);
    for size in first..=last {
        for byte in [size, size | 0x80] {
            let error = error(x, weights, levels, (scale_of_byte(byte), 0.0));
            if error < best.0 {
                best = (error, byte);
            }
        }
    }
    best.1
}

/// Scale and offset, the offset at most 0 if `is_min`, for unsigned levels up to `max`: makes
/// `Σ w (x - d q - m)²` small.
pub(crate) fn affine(x: &[f32], weights: &[f32], max: i16, is_min: bool) -> (f32, f32) {
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let low = if is_min { low.min(0.0) } else { low };
    if high <= low || !(high - low).is_finite() {
        return (0.0, low);
    }
    let levels = Levels::Uniform(0, max);
    let first = ((high - low) / f32::from(max), low);
    let mut best = (error(x, weights, levels, first), first);
    for step in -6i8..=14 {
        let inverse = (f32::from(max) + f32::from(step) * 0.1) / (high - low);
        let mut sums = [0.0f32; 5];
        for (&x, &w) in x.iter().zip(weights) {
            let q = levels.nearest((x - low) * inverse).1;
            let terms = [w, w * q, w * q * q, w * x, w * x * q];
            sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        }
        let [n, q, qq, x1, xq] = sums;
        let determinant = n * qq - q * q;
        if determinant <= 0.0 {
            continue;
        }
        let mut fit = ((n * xq - q * x1) / determinant, (qq * x1 - q * xq) / determinant);
        if is_min && fit.1 > 0.0 {
            fit = (if qq > 0.0 { xq / qq } else { 0.0 }, 0.0);
        }
        let error = error(x, weights, levels, fit);
        if error < best.0 {
            best = (error, fit);
        }
    }
    best.1
}

/// `Σ w (x - d q - m)²` with the levels nearest under this scale and offset.
fn error(x: &[f32], weights: &[f32], levels: Levels, (d, m): (f32, f32)) -> f32 {
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let terms = x.iter().zip(weights).map(|(&x, &w)| {
        let off = x - m - d * levels.nearest((x - m) * inverse).1;
        w * off * off
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    #[test]
    fn nearest_is_nearest() {
        let (iq4, e3) = (Levels::Table(&IQ4), Levels::Table(&E3));
        for levels in [Levels::Uniform(-8, 7), Levels::Uniform(0, 31), iq4, e3] {
            let n = if levels == Levels::Uniform(0, 31) {
                32
            } else if levels == e3 {
                8
            } else {
                16u8
            };
            for i in -1400i16..1400 {
                let x = f32::from(i) * 0.1;
                let (code, value) = levels.nearest(x);
                assert!((levels.value(code) - value).abs() < f32::EPSILON);
                let best = (0..n).map(|c| (levels.value(c) - x).abs()).fold(f32::MAX, f32::min);
                assert!((value - x).abs() <= best + 1e-4, "{levels:?} {x}: {value}");
            }
        }
        assert_eq!(Levels::Uniform(-8, 7).nearest(f32::NAN), (0, -8.0));
    }

    quickcheck! {
        fn searching_is_no_worse_than_the_plain_scale(seed: Vec<i8>) -> bool {
            let x: Vec<f32> = seed.iter().map(|&v| f32::from(v) / 16.0).collect();
            let weights: Vec<f32> = (0..x.len()).map(|i| 1.0 + (i % 3) as f32).collect();
            let levels = Levels::Uniform(-8, 7);
            let amax = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            let found = symmetric(&x, &weights, levels);
            let plain = error(&x, &weights, levels, (amax / 8.0, 0.0));
            let searched = error(&x, &weights, levels, (found, 0.0));
            searched <= plain * 1.001 + 1e-6
        }

        fn an_affine_fit_holds_its_sign(seed: Vec<i8>) -> bool {
            let x: Vec<f32> = seed.iter().map(|&v| f32::from(v) / 16.0 + 3.0).collect();
            let weights = vec![1.0; x.len()];
            x.is_empty() || affine(&x, &weights, 15, true).1 <= 0.0
        }
    }
}
