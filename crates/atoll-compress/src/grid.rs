//! The grid of a row of weights: what each of its codes stands for, under the numbers that the
//! block type can store.

use atoll_model::BlockType;
use half::f16;

use crate::search::{Levels, affine, symmetric};

/// Block types that are written.
#[cfg(test)]
pub(crate) const TYPES: [BlockType; 12] = [
    BlockType::Q2K,
    BlockType::Q3K,
    BlockType::IQ4XS,
    BlockType::Q4K,
    BlockType::IQ4NL,
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q5_0,
    BlockType::Q5K,
    BlockType::Q5_1,
    BlockType::Q6K,
    BlockType::Q8_0,
];

/// How a type lays out scales.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    /// Columns that share a scale.
    pub(crate) run: usize,
    pub(crate) levels: Levels,
    pub(crate) has_offsets: bool,
    /// Codes of a run's scale within a block of 256, and of its offset (from 0); a run of a type
    /// without them has an f16 of its own.
    pub(crate) scale_codes: Option<(i16, i16)>,
}

impl Shape {
    /// The shape of a type of [`TYPES`].
    pub(crate) fn of(ty: BlockType) -> Option<Self> {
        let shape = |run, levels, has_offsets, scale_codes| {
            Some(Self { run, levels, has_offsets, scale_codes })
        };
        match ty {
            BlockType::Q4_0 => shape(32, Levels::Uniform(-8, 7), false, None),
            BlockType::Q5_0 => shape(32, Levels::Uniform(-16, 15), false, None),
            BlockType::Q8_0 => shape(32, Levels::Uniform(-127, 127), false, None),
            BlockType::IQ4NL => shape(32, Levels::Table, false, None),
            BlockType::Q4_1 => shape(32, Levels::Uniform(0, 15), true, None),
            BlockType::Q5_1 => shape(32, Levels::Uniform(0, 31), true, None),
            BlockType::Q2K => shape(16, Levels::Uniform(0, 3), true, Some((0, 15))),
            BlockType::Q4K => shape(32, Levels::Uniform(0, 15), true, Some((0, 63))),
            BlockType::Q5K => shape(32, Levels::Uniform(0, 31), true, Some((0, 63))),
            BlockType::Q3K => shape(16, Levels::Uniform(-4, 3), false, Some((-32, 31))),
            BlockType::IQ4XS => shape(32, Levels::Table, false, Some((-32, 31))),
            BlockType::Q6K => shape(16, Levels::Uniform(-32, 31), false, Some((-128, 127))),
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => None,
        }
    }
}

/// The grid of one row.
#[derive(Debug, Clone)]
pub(crate) struct Grid {
    pub(crate) shape: Shape,
    /// Scale and offset of every run, as the reader computes them.
    pub(crate) runs: Vec<(f32, f32)>,
    /// What is stored: per block scale and offset (or base of both) as f16 bits.
    pub(crate) blocks: Vec<(u16, u16)>,
    /// Per run the codes of scale and offset.
    pub(crate) codes: Vec<(i16, i16)>,
}

impl Grid {
    /// Fits a grid to `row`, each column weighed by `weights`.
    pub(crate) fn fit(shape: Shape, row: &[f32], weights: &[f32]) -> Self {
        let pairs = row.chunks(shape.run).zip(weights.chunks(shape.run));
        let free: Vec<(f32, f32)> = pairs
            .map(|(x, w)| match (shape.has_offsets, shape.levels) {
                (true, Levels::Uniform(_, max)) => affine(x, w, max, shape.scale_codes.is_some()),
                (true | false, levels) => (symmetric(x, w, levels), 0.0),
            })
            .collect();
        let mut grid = Self { shape, runs: Vec::new(), blocks: Vec::new(), codes: Vec::new() };
        match shape.scale_codes {
            None => free.into_iter().for_each(|run| grid.push_run(run)),
            Some(range) => {
                free.chunks(256 / shape.run).for_each(|runs| grid.push_block(runs, range));
            }
        }
        grid
    }

    fn push_run(&mut self, (scale, offset): (f32, f32)) {
        let (d, m) = (f16::from_f32(scale), f16::from_f32(offset));
        self.runs.push((d.to_f32(), m.to_f32()));
        self.blocks.push((d.to_bits(), m.to_bits()));
        self.codes.push((0, 0));
    }

    #[expect(clippy::cast_possible_truncation, reason = "clamped to the range of a code")]
    /// Stores the scales of a block as codes of one f16, and the offsets of another.
    fn push_block(&mut self, runs: &[(f32, f32)], range: (i16, i16)) {
        let base = |values: &mut dyn Iterator<Item = f32>| {
            let amax = values.fold(0.0f32, |max, x| if x.abs() > max.abs() { x } else { max });
            // The largest goes to the end of the range that reaches farther.
            let end = if range.0 < 0 { range.0 } else { range.1 };
            f16::from_f32(amax / f32::from(end))
        };
        let d = base(&mut runs.iter().map(|run| run.0));
        let dmin = base(&mut runs.iter().map(|run| -run.1));
        let code = |value: f32, base: f32| {
            let ratio = if base == 0.0 { 0.0 } else { value / base };
            ratio.round_ties_even().clamp(range.0.into(), range.1.into()) as i16
        };
        for &(scale, offset) in runs {
            let codes = (code(scale, d.to_f32()), code(-offset, dmin.to_f32()));
            self.codes.push(codes);
            let scale = d.to_f32() * f32::from(codes.0);
            self.runs.push((scale, -(dmin.to_f32() * f32::from(codes.1))));
        }
        self.blocks.push((d.to_bits(), dmin.to_bits()));
    }

    /// Code and value nearest to `x` in column `col`.
    pub(crate) fn nearest(&self, col: usize, x: f32) -> (u8, f32) {
        let (scale, offset) = self.runs[col / self.shape.run];
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let (code, level) = self.shape.levels.nearest((x - offset) * inverse);
        (code, self.value_of(scale, offset, level))
    }

    fn value_of(&self, scale: f32, offset: f32, level: f32) -> f32 {
        if self.shape.has_offsets { scale * level + offset } else { scale * level }
    }
}
