//! The grid of a row of weights: what each of its codes stands for, under the numbers that the
//! block type can store.

use atoll_model::{BlockType, byte_of_scale, scale_of_byte};
use half::f16;

use crate::search::{E3, E4, E5, IQ4, Levels, affine, symmetric, symmetric_byte};

/// Block types that are written.
#[cfg(test)]
pub(crate) const TYPES: [BlockType; 16] = [
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
    BlockType::E3,
    BlockType::E4,
    BlockType::E5,
    BlockType::E6,
];

/// How a type lays out scales.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    /// Columns that share a scale.
    pub(crate) run: usize,
    pub(crate) levels: Levels,
    pub(crate) has_offsets: bool,
    pub(crate) scales: Scales,
}

/// What a run's scale and offset are stored as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scales {
    /// An f16 each.
    Halves,
    /// A byte of our own types.
    Byte,
    /// Codes of this range times an f16 of the block of 256; those of an offset are from 0.
    Codes(i16, i16),
}

impl Shape {
    /// Columns whose scales are stored together.
    pub(crate) const fn span(&self) -> usize {
        match self.scales {
            Scales::Halves | Scales::Byte => self.run,
            Scales::Codes(..) => 256,
        }
    }

    /// Whether a weight of exactly 0 can be stored beside others, whatever the scale.
    pub(crate) const fn has_zero(&self) -> bool {
        let spans_zero = matches!(self.levels, Levels::Uniform(min, max) if min <= 0 && max >= 0);
        spans_zero && !self.has_offsets
    }

    /// The shape of a type of [`TYPES`].
    pub(crate) fn of(ty: BlockType) -> Option<Self> {
        let shape =
            |run, levels, has_offsets, scales| Some(Self { run, levels, has_offsets, scales });
        let uniform = |min, max, scales| shape(32, Levels::Uniform(min, max), false, scales);
        let table = |values, scales| shape(32, Levels::Table(values), false, scales);
        let affine = |run, max, scales| shape(run, Levels::Uniform(0, max), true, scales);
        match ty {
            BlockType::Q4_0 => uniform(-8, 7, Scales::Halves),
            BlockType::Q5_0 => uniform(-16, 15, Scales::Halves),
            BlockType::Q8_0 => uniform(-127, 127, Scales::Halves),
            BlockType::IQ4NL => table(&IQ4, Scales::Halves),
            BlockType::Q4_1 => affine(32, 15, Scales::Halves),
            BlockType::Q5_1 => affine(32, 31, Scales::Halves),
            BlockType::Q2K => affine(16, 3, Scales::Codes(0, 15)),
            BlockType::Q4K => affine(32, 15, Scales::Codes(0, 63)),
            BlockType::Q5K => affine(32, 31, Scales::Codes(0, 63)),
            BlockType::Q3K => shape(16, Levels::Uniform(-4, 3), false, Scales::Codes(-32, 31)),
            BlockType::IQ4XS => table(&IQ4, Scales::Codes(-32, 31)),
            BlockType::Q6K => shape(16, Levels::Uniform(-32, 31), false, Scales::Codes(-128, 127)),
            BlockType::E3 => table(&E3, Scales::Byte),
            BlockType::E4 => table(&E4, Scales::Byte),
            BlockType::E5 => table(&E5, Scales::Byte),
            BlockType::E6 => uniform(-32, 31, Scales::Byte),
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
    /// What is stored: per block scale and offset (or base of both) as f16 bits; of our own types
    /// the byte of scale.
    pub(crate) blocks: Vec<(u16, u16)>,
    /// Per run the codes of scale and offset.
    pub(crate) codes: Vec<(i16, i16)>,
}

impl Grid {
    /// The grid of a row of which nothing is fitted yet.
    pub(crate) const fn new(shape: Shape) -> Self {
        Self { shape, runs: Vec::new(), blocks: Vec::new(), codes: Vec::new() }
    }

    /// Fits a grid to `row`, each column weighed by `weights`.
    #[cfg(test)]
    pub(crate) fn fit(shape: Shape, row: &[f32], weights: &[f32]) -> Self {
        let mut grid = Self::new(shape);
        let spans = row.chunks(shape.span()).zip(weights.chunks(shape.span()));
        spans.for_each(|(x, w)| grid.fit_span(x, w));
        grid
    }

    /// Fits the next [`Shape::span`] columns to `x`, each weighed by `weights`.
    pub(crate) fn fit_span(&mut self, x: &[f32], weights: &[f32]) {
        let shape = self.shape;
        let pairs = x.chunks(shape.run).zip(weights.chunks(shape.run));
        let free = pairs.map(|(x, w)| match (shape.has_offsets, shape.levels) {
            (true, Levels::Uniform(_, max)) => {
                affine(x, w, max, matches!(shape.scales, Scales::Codes(..)))
            }
            (true | false, levels) if shape.scales == Scales::Byte => {
                (scale_of_byte(symmetric_byte(x, w, levels)), 0.0)
            }
            (true | false, levels) => (symmetric(x, w, levels), 0.0),
        });
        match shape.scales {
            Scales::Halves => free.for_each(|run| self.push_run(run)),
            Scales::Byte => {
                for run in free {
                    self.runs.push(run);
                    self.blocks.push((byte_of_scale(run.0).into(), 0));
                    self.codes.push((0, 0));
                }
            }
            Scales::Codes(min, max) => self.push_block(&free.collect::<Vec<_>>(), (min, max)),
        }
    }

    /// Multiplies the scale of column `col`'s run with nearly `by` and returns with what, if it
    /// can change and does: if it stands alone in its block, without an offset.
    pub(crate) fn rescale(&mut self, col: usize, by: f32) -> Option<f32> {
        let run = col / self.shape.run;
        let old = self.runs[run].0;
        let (new, stored) = match self.shape.scales {
            Scales::Byte => {
                let byte = byte_of_scale(old * by);
                (scale_of_byte(byte), byte.into())
            }
            Scales::Halves if !self.shape.has_offsets => {
                let half = f16::from_f32(old * by);
                (half.to_f32(), half.to_bits())
            }
            Scales::Halves | Scales::Codes(..) => return None,
        };
        let is_new = old != 0.0 && new != 0.0 && new != old && new.is_finite();
        is_new.then(|| {
            self.runs[run].0 = new;
            self.blocks[run].0 = stored;
            new / old
        })
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

    /// What `code` stands for in column `col`.
    pub(crate) fn value(&self, col: usize, code: u8) -> f32 {
        let (scale, offset) = self.runs[col / self.shape.run];
        self.value_of(scale, offset, self.shape.levels.value(code))
    }

    fn value_of(&self, scale: f32, offset: f32, level: f32) -> f32 {
        if self.shape.has_offsets { scale * level + offset } else { scale * level }
    }
}
