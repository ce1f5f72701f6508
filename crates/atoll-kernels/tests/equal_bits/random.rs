//! What a seed becomes: numbers, shapes, blocks.

use std::ops::RangeInclusive;

use atoll_kernels::{BlockType, dequantize};

/// A small generator (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number of `range`.
    pub(crate) fn within(&mut self, range: RangeInclusive<usize>) -> usize {
        let n = (range.end() - range.start() + 1) as u64;
        range.start() + usize::try_from(self.next() % n).expect("less than a usize")
    }

    /// A number of `range`, small ones more often.
    pub(crate) fn small(&mut self, range: RangeInclusive<usize>) -> usize {
        let end = self.within(range.clone());
        self.within(*range.start()..=end)
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    /// -1 to 1.
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    /// Numbers as activations are, and in some cases as they should not be: all zero, huge, tiny,
    /// with an outlier, of one size (where sums of products are greatest), of few values (where
    /// rounding meets halves).
    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        let mut x: Vec<f32> = (0..n).map(|_| self.float()).collect();
        match self.next() % 16 {
            0 => x.fill(if self.once_in(2) { 0.0 } else { -0.0 }),
            1 => x.iter_mut().for_each(|x| *x *= 1e25),
            2 => x.iter_mut().for_each(|x| *x *= 1e-34),
            3 | 4 => x.iter_mut().step_by(37).for_each(|x| *x *= 500.0),
            5 | 6 => x.iter_mut().for_each(|x| *x = 3.0f32.copysign(*x)),
            7 => x.fill(-2.0),
            8 | 9 => x.iter_mut().for_each(|x| *x = (*x * 8.0).round() / 2.0),
            _ => {}
        }
        x
    }

    /// Cuts `0..n` into 1 to 4 ranges.
    pub(crate) fn split(&mut self, n: usize) -> Vec<std::ops::Range<usize>> {
        let mut cuts: Vec<usize> = (0..self.within(0..=3)).map(|_| self.within(0..=n)).collect();
        cuts.extend([0, n]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }

    /// `n` random blocks of finite numbers under 1e6; in some, all codes are the least or the
    /// greatest.
    pub(crate) fn blocks(&mut self, ty: BlockType, n: usize) -> Vec<u8> {
        let size = ty.block_bytes();
        let mut bytes = Vec::with_capacity(n * size);
        let mut values = vec![0.0; ty.block_len()];
        let flat = match self.next() % 8 {
            0 => Some(0),
            1 => Some(0xFF),
            2 => Some(0x80),
            _ => None,
        };
        while bytes.len() < n * size {
            let at = bytes.len();
            while bytes.len() < at + size {
                bytes.extend(self.next().to_le_bytes());
            }
            bytes.truncate(at + size);
            if let (Some(byte), false) = (flat, ty.block_len() == 1) {
                codes(ty, &mut bytes[at..]).fill(byte);
            }
            dequantize(ty, &bytes[at..], &mut values);
            if !values.iter().all(|v| v.abs() < 1e6) {
                bytes.truncate(at);
            }
        }
        bytes
    }
}

/// The bytes of a block that hold nothing but codes.
fn codes(ty: BlockType, block: &mut [u8]) -> &mut [u8] {
    match ty {
        BlockType::Q2K => &mut block[16..80],
        BlockType::Q3K => &mut block[..96],
        BlockType::Q4_1 | BlockType::Q5_1 => &mut block[4..],
        BlockType::Q4K | BlockType::Q5K => &mut block[16..],
        BlockType::Q6K => &mut block[..192],
        BlockType::IQ4XS => &mut block[8..],
        BlockType::F32 | BlockType::F16 | BlockType::BF16 => block,
        BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 | BlockType::IQ4NL => &mut block[2..],
        BlockType::E3 | BlockType::E4 | BlockType::E5 | BlockType::E6 => &mut block[1..],
    }
}
