//! Weights as the kernels read them: tiles of 16 rows, all columns of a tile in one run of bytes.
//!
//! A tile of a quantized matrix is a sequence of groups, a group is its head, then one step for
//! every 32 columns: 8 steps where a block has 256 columns, else 1, 2 or 4. A step is codes and
//! numbers. Everything read by vectors of 64 bytes stands at a multiple of 64, since a load across
//! two cache lines costs two: so the numbers of as many steps as fill 64 bytes stand together,
//! behind the codes of the first of them, and a head is filled up to 64. In the last group of a
//! tile steps may be missing; their numbers keep their room.
//!
//! Codes stand in vectors of 64 bytes (`layout/codes.rs`), numbers 16 at a time, one per row (see
//! [`Scales`]). No type takes more than 1.03 times the bytes of its file. A tile of a float matrix
//! is, column by column, 16 numbers of its type.

mod codes;

use core::ops::Range;

use crate::own::{E3_VALUES, E4_VALUES, E5_VALUES, SCALE_UNIT, half_of_byte};
use crate::unpack::{IQ4_VALUES, RUN, Run, has_half_scales, has_offsets};
use crate::vector::f32_from_f16;
use crate::{BlockType, TILE_ROWS};

/// How scales and offsets are stored. A head is `d`, then `dmin` if there are offsets, as f16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    /// No head; each step ends with its scales, then its offsets, as f16.
    Halves,
    /// No head; the numbers of a step are its scales, as bytes of our own types ([`crate::own`]).
    Small,
    /// The numbers of a step are its scales, then its minima, as int8.
    Bytes,
    /// The numbers of a step are bytes of scale (low nibble) and minimum (high).
    Nibbles,
    /// Scales of 6 bits, biased by 32. The numbers of a step are bytes of the low nibbles of both;
    /// the head goes on with four times 16 bytes: byte `t` has bits 4 and 5 of the scales of steps
    /// `2 * t` and `2 * t + 1`, at bits 0, 2, 4 and 6.
    Sixes,
}

/// Where a group holds what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    pub(crate) bits: usize,
    /// What the codes stand for, ascending; empty if they are the unsigned values themselves.
    pub(crate) table: &'static [i8],
    /// An unsigned value is the signed one plus `1 << offset_shift`, or plus 0 if it is 0.
    pub(crate) offset_shift: usize,
    /// Scales of a row in a step.
    pub(crate) n_scales: usize,
    /// Whether as many offsets follow.
    pub(crate) has_offsets: bool,
    pub(crate) scales: Scales,
}

impl Layout {
    pub(crate) const fn of(ty: BlockType) -> Self {
        let (bits, offset_shift) = match ty {
            BlockType::Q2K => (2, 0),
            BlockType::Q3K => (3, 2),
            BlockType::Q4_0 => (4, 3),
            BlockType::Q4_1 | BlockType::Q4K => (4, 0),
            BlockType::IQ4NL | BlockType::IQ4XS | BlockType::E4 => (4, 7),
            BlockType::E3 => (3, 7),
            BlockType::E5 => (5, 7),
            BlockType::Q5_0 => (5, 4),
            BlockType::Q5_1 | BlockType::Q5K => (5, 0),
            BlockType::Q6K | BlockType::E6 => (6, 5),
            BlockType::Q8_0 | BlockType::F32 | BlockType::F16 | BlockType::BF16 => (8, 7),
        };
        let scales = match ty {
            BlockType::Q2K => Scales::Nibbles,
            BlockType::Q3K => Scales::Sixes,
            _ if ty.is_own() => Scales::Small,
            _ if ty.block_len() == RUN => Scales::Halves,
            _ => Scales::Bytes,
        };
        let table: &[i8] = match ty {
            BlockType::IQ4NL | BlockType::IQ4XS => &IQ4_VALUES,
            BlockType::E3 => &E3_VALUES,
            BlockType::E4 => &E4_VALUES,
            BlockType::E5 => &E5_VALUES,
            _ => &[],
        };
        Self {
            bits,
            table,
            offset_shift,
            n_scales: if has_half_scales(ty) { 2 } else { 1 },
            has_offsets: has_offsets(ty),
            scales,
        }
    }

    /// Whether codes are indices into a table.
    pub(crate) const fn is_table(self) -> bool {
        !self.table.is_empty()
    }

    /// What 16 codes from `from` on stand for; 0 where the table has ended.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub(crate) const fn sixteen_values(self, from: usize) -> [i8; 16] {
        let (mut values, mut i) = ([0; 16], 0);
        while i < 16 && from + i < self.table.len() {
            values[i] = self.table[from + i];
            i += 1;
        }
        values
    }

    /// Whether a group begins with the factors of its numbers.
    pub(crate) const fn has_head(self) -> bool {
        !matches!(self.scales, Scales::Halves | Scales::Small)
    }

    /// Steps of a group.
    pub(crate) const fn steps(self) -> usize {
        if self.has_head() { 8 } else { self.bundle() }
    }

    /// Steps of a group of `bytes`, which may be a tile's last.
    #[inline(always)]
    pub(crate) const fn steps_in(self, bytes: usize) -> usize {
        if self.has_head() {
            self.steps()
        } else {
            (bytes - self.bundle() * self.number_bytes()) / self.code_bytes()
        }
    }

    /// Steps whose numbers stand together: as many as fill 64 bytes.
    const fn bundle(self) -> usize {
        match self.number_bytes() {
            16 => 4,
            32 => 2,
            _ => 1,
        }
    }

    pub(crate) const fn head_bytes(self) -> usize {
        match self.scales {
            Scales::Halves | Scales::Small => 0,
            Scales::Sixes => 128,
            Scales::Bytes | Scales::Nibbles => 64,
        }
    }

    /// Bytes of the codes of a step.
    const fn code_bytes(self) -> usize {
        self.bits * 64
    }

    /// Bytes of the numbers of a step.
    const fn number_bytes(self) -> usize {
        let per_row = match self.scales {
            Scales::Halves => 2 * self.n_scales * (1 + self.has_offsets as usize),
            Scales::Bytes => self.n_scales * (1 + self.has_offsets as usize),
            Scales::Nibbles => self.n_scales,
            Scales::Sixes | Scales::Small => 1,
        };
        TILE_ROWS * per_row
    }

    pub(crate) const fn group_bytes(self) -> usize {
        self.head_bytes() + self.steps() * (self.code_bytes() + self.number_bytes())
    }

    /// Bytes of a tile of `steps` steps.
    pub(crate) const fn tile_bytes(self, steps: usize) -> usize {
        let bytes = steps / self.steps() * self.group_bytes();
        match steps % self.steps() {
            0 => bytes,
            n => bytes + n * self.code_bytes() + self.bundle() * self.number_bytes(),
        }
    }

    /// Where the codes and the numbers of step `s` of a group stand.
    pub(crate) const fn places(self, s: usize) -> (Range<usize>, Range<usize>) {
        let (codes, numbers, bundle) = (self.code_bytes(), self.number_bytes(), self.bundle());
        let first = self.head_bytes() + s / bundle * bundle * (codes + numbers);
        let s = s % bundle;
        let behind = first + codes + bundle * numbers;
        let code_at = if s == 0 { first } else { behind + (s - 1) * codes };
        let number_at = first + codes + s * numbers;
        (code_at..code_at + codes, number_at..number_at + numbers)
    }

    /// The codes of step `s` of a group.
    #[inline(always)]
    pub(crate) fn codes(self, group: &[u8], s: usize) -> &[u8] {
        &group[self.places(s).0]
    }

    /// The numbers of step `s` of a group.
    #[inline(always)]
    pub(crate) fn numbers(self, group: &[u8], s: usize) -> &[u8] {
        &group[self.places(s).1]
    }

    /// What is added to a signed value to make it unsigned.
    pub(crate) const fn bias(self) -> i32 {
        if self.offset_shift == 0 { 0 } else { 1 << self.offset_shift }
    }

    /// Scales and offsets of row `r` in step `s` of a group.
    #[inline(always)]
    pub(crate) fn scales_and_offsets(
        self,
        group: &[u8],
        s: usize,
        r: usize,
    ) -> ([f32; 2], [f32; 2]) {
        let n = self.n_scales;
        let bytes = self.numbers(group, s);
        let half = |bytes: &[u8], k: usize| {
            let at = 2 * (k * TILE_ROWS + r);
            f32_from_f16(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
        };
        let (mut scales, mut offsets) = ([0.0; 2], [0.0; 2]);
        for h in 0..n {
            let byte = |k: usize| bytes[k * TILE_ROWS + r];
            let (scale, min) = match self.scales {
                Scales::Halves => {
                    scales[h] = half(bytes, h);
                    offsets[h] = if self.has_offsets { half(bytes, n + h) } else { 0.0 };
                    continue;
                }
                Scales::Small => {
                    scales[h] = f32_from_f16(half_of_byte(byte(h))) * SCALE_UNIT;
                    continue;
                }
                Scales::Bytes => (
                    byte(h).cast_signed(),
                    if self.has_offsets { byte(n + h).cast_signed() } else { 0 },
                ),
                Scales::Nibbles => ((byte(h) & 15).cast_signed(), (byte(h) >> 4).cast_signed()),
                Scales::Sixes => {
                    let high = group[32 + s / 2 * TILE_ROWS + r] >> (4 * (s % 2) + 2 * h);
                    let six = (byte(0) >> (4 * h)) & 15 | (high & 3) << 4;
                    (six.cast_signed() - 32, 0)
                }
            };
            scales[h] = half(group, 0) * f32::from(scale);
            if self.has_offsets {
                offsets[h] = -(half(group, 1) * f32::from(min));
            }
        }
        (scales, offsets)
    }

    /// The unsigned value at `lane` of chunk `chunk` of a step.
    #[inline(always)]
    pub(crate) fn value(self, codes: &[u8], chunk: usize, lane: usize) -> u8 {
        let code = self.code(codes, chunk, lane);
        if self.is_table() { self.table[usize::from(code)].cast_unsigned() ^ 0x80 } else { code }
    }
}

/// A step, expanded.
pub(crate) struct Step {
    /// Unsigned values: (chunk of 4 columns, row, column of the chunk).
    pub(crate) values: [u8; 512],
    pub(crate) scales: [[f32; TILE_ROWS]; 2],
    pub(crate) offsets: [[f32; TILE_ROWS]; 2],
}

impl Step {
    pub(crate) const ZERO: Self =
        Self { values: [0; 512], scales: [[0.0; TILE_ROWS]; 2], offsets: [[0.0; TILE_ROWS]; 2] };

    /// Expands step `s` of a group.
    #[inline(always)]
    pub(crate) fn read(&mut self, layout: Layout, group: &[u8], s: usize) {
        let codes = layout.codes(group, s);
        for chunk in 0..8 {
            for lane in 0..64 {
                self.values[chunk * 64 + lane] = layout.value(codes, chunk, lane);
            }
        }
        for row in 0..TILE_ROWS {
            let (scales, offsets) = layout.scales_and_offsets(group, s, row);
            for n in 0..layout.n_scales {
                (self.scales[n][row], self.offsets[n][row]) = (scales[n], offsets[n]);
            }
        }
    }
}

/// Writes step `s` of a group, where all bits are 0; `runs` are those of its rows, in order.
pub(crate) fn write_step(layout: Layout, runs: &[Run], group: &mut [u8], s: usize) {
    let mut codes = [0; 512];
    for (r, run) in runs.iter().enumerate() {
        let row = if layout.is_table() {
            let code = |q| layout.table.binary_search(&q).expect("unpacked from the table");
            run.q.map(|q| code(q).to_le_bytes()[0])
        } else {
            let bias = layout.bias().to_le_bytes()[0];
            run.q.map(|q| q.cast_unsigned().wrapping_add(bias))
        };
        for (chunk, four) in row.chunks_exact(4).enumerate() {
            codes[chunk * 64 + 4 * r..][..4].copy_from_slice(four);
        }
        write_numbers(layout, run, group, s, r);
    }
    layout.write_codes(&mut group[layout.places(s).0], &codes);
}

/// Writes scales and offsets of row `r` of step `s` of a group, where all bits are 0.
fn write_numbers(layout: Layout, run: &Run, group: &mut [u8], s: usize, r: usize) {
    let d = if layout.has_head() { Some([run.d, run.dmin]) } else { None };
    let numbers = &mut group[layout.places(s).1];
    let n = layout.n_scales;
    for h in 0..n {
        let (scale, min) = (run.scale[h].cast_unsigned(), run.min[h].cast_unsigned());
        match layout.scales {
            Scales::Halves => {
                put_half(numbers, h, r, run.d);
                if layout.has_offsets {
                    put_half(numbers, n + h, r, run.dmin);
                }
            }
            Scales::Small => {
                let [low, high] = run.d.to_le_bytes();
                numbers[r] = (high & 0x80) | (high << 1 & 0x7E) | low >> 7;
            }
            Scales::Bytes => {
                numbers[h * TILE_ROWS + r] = scale;
                if layout.has_offsets {
                    numbers[(n + h) * TILE_ROWS + r] = min;
                }
            }
            Scales::Nibbles => numbers[h * TILE_ROWS + r] = scale | min << 4,
            Scales::Sixes => numbers[r] |= (scale.wrapping_add(32) & 15) << (4 * h),
        }
    }
    if layout.scales == Scales::Sixes {
        for h in 0..n {
            let high = (run.scale[h] + 32).cast_unsigned() >> 4;
            group[32 + s / 2 * TILE_ROWS + r] |= high << (4 * (s % 2) + 2 * h);
        }
    }
    for (k, half) in d.into_iter().flatten().enumerate().take(1 + usize::from(layout.has_offsets)) {
        put_half(group, k, r, half);
    }
}

/// Writes number `r` of the `k`th 16 halves.
fn put_half(bytes: &mut [u8], k: usize, r: usize, half: u16) {
    bytes[2 * (k * TILE_ROWS + r)..][..2].copy_from_slice(&half.to_le_bytes());
}
