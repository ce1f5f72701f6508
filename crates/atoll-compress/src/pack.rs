//! Codes and grids as blocks. Source: the layouts of ggml (`ggml-common.h`); those of our own types
//! stand in `atoll-kernels`, `own.rs`.

use atoll_model::BlockType;
use half::{bf16, f16};
use ndarray::Array2;

use crate::grid::Grid;

/// A matrix as floats of `ty`, row-major, and what they stand for; nothing if `ty` has blocks.
pub(crate) fn floats(ty: BlockType, w: &Array2<f32>) -> Option<(Vec<u8>, Array2<f32>)> {
    let mut bytes = Vec::with_capacity(w.len() * ty.block_bytes());
    let values = match ty {
        BlockType::F32 => w.map(|value| {
            bytes.extend(value.to_le_bytes());
            *value
        }),
        BlockType::F16 => w.map(|value| {
            let half = f16::from_f32(*value);
            bytes.extend(half.to_le_bytes());
            half.to_f32()
        }),
        BlockType::BF16 => w.map(|value| {
            let half = bf16::from_f32(*value);
            bytes.extend(half.to_le_bytes());
            half.to_f32()
        }),
        BlockType::Q4_0
        | BlockType::Q4_1
        | BlockType::Q5_0
        | BlockType::Q5_1
        | BlockType::Q8_0
        | BlockType::Q2K
        | BlockType::Q3K
        | BlockType::Q4K
        | BlockType::Q5K
        | BlockType::Q6K
        | BlockType::IQ4NL
        | BlockType::IQ4XS
        | BlockType::E3
        | BlockType::E4
        | BlockType::E5
        | BlockType::E6 => return None,
    };
    Some((bytes, values))
}

/// Writes a row of codes behind `out`, in blocks of `ty`.
///
/// # Panics
/// If the codes are not whole blocks.
pub(crate) fn row(ty: BlockType, grid: &Grid, codes: &[u8], out: &mut Vec<u8>) {
    let len = ty.block_len();
    assert_eq!(codes.len() % len, 0, "whole blocks of {}", ty.name());
    let runs = len / grid.shape.run;
    for (idx, q) in codes.chunks_exact(len).enumerate() {
        let (d, m) = (grid.blocks[idx].0.to_le_bytes(), grid.blocks[idx].1.to_le_bytes());
        let run_codes = &grid.codes[idx * runs..][..runs];
        match ty {
            BlockType::Q4_0 | BlockType::IQ4NL => {
                out.extend(d);
                nibbles(q, out);
            }
            BlockType::Q4_1 => {
                out.extend(d.iter().chain(&m));
                nibbles(q, out);
            }
            BlockType::Q5_0 => {
                out.extend(d);
                bits::<4>(q, out);
                nibbles(q, out);
            }
            BlockType::Q5_1 => {
                out.extend(d.iter().chain(&m));
                bits::<4>(q, out);
                nibbles(q, out);
            }
            BlockType::Q8_0 => {
                out.extend(d);
                // Code 0 stands for -127.
                out.extend(q.iter().map(|&code| code.wrapping_sub(127)));
            }
            BlockType::Q2K => {
                out.extend(run_codes.iter().map(|c| byte(c.0) | (byte(c.1) << 4)));
                crumbs(q, out);
                out.extend(d.iter().chain(&m));
            }
            BlockType::Q3K => q3k(q, run_codes, d, out),
            BlockType::Q4K | BlockType::Q5K => {
                out.extend(d.iter().chain(&m));
                out.extend(six_bit_pairs(run_codes));
                if ty == BlockType::Q5K {
                    out.extend(
                        (0..32).map(|i| {
                            (0..8).fold(0, |bits, j| bits | ((q[32 * j + i] >> 4) & 1) << j)
                        }),
                    );
                }
                q.chunks_exact(64).for_each(|pair| {
                    let (low, high) = pair.split_at(32);
                    out.extend(low.iter().zip(high).map(|(l, h)| (l & 15) | ((h & 15) << 4)));
                });
            }
            BlockType::Q6K => q6k(q, run_codes, d, out),
            BlockType::IQ4XS => {
                let shifted = run_codes.iter().map(|c| byte(c.0 + 32)).collect::<Vec<_>>();
                let high = shifted
                    .iter()
                    .enumerate()
                    .fold(0u16, |bits, (j, s)| bits | (u16::from(s >> 4) << (2 * j)));
                out.extend(d);
                out.extend(high.to_le_bytes());
                out.extend(shifted.chunks(2).map(|s| (s[0] & 15) | ((s[1] & 15) << 4)));
                q.chunks_exact(32).for_each(|q| nibbles(q, out));
            }
            BlockType::E3 => {
                out.push(d[0]);
                own_crumbs::<0>(q, out);
                bits::<2>(q, out);
            }
            BlockType::E4 => {
                out.push(d[0]);
                nibbles(q, out);
            }
            BlockType::E5 => {
                out.push(d[0]);
                bits::<4>(q, out);
                nibbles(q, out);
            }
            BlockType::E6 => {
                out.push(d[0]);
                nibbles(q, out);
                own_crumbs::<4>(q, out);
            }
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => {
                unreachable!("floats have no grid")
            }
        }
    }
}

/// A code that its range keeps within a byte.
fn byte(code: i16) -> u8 {
    code.to_le_bytes()[0]
}

/// 32 codes: the first 16 in the low nibbles, the others in the high ones.
fn nibbles(q: &[u8], out: &mut Vec<u8>) {
    let (low, high) = q.split_at(16);
    out.extend(low.iter().zip(high).map(|(l, h)| (l & 15) | ((h & 15) << 4)));
}

/// Bit `OF` of 32 codes.
fn bits<const OF: u8>(q: &[u8], out: &mut Vec<u8>) {
    let bits = q.iter().enumerate().fold(0u32, |bits, (i, q)| bits | (u32::from(q >> OF) & 1) << i);
    out.extend(bits.to_le_bytes());
}

/// Two bits of 32 codes, from bit `OF` on: byte `i` holds columns `i`, `8 + i`, ….
fn own_crumbs<const OF: u8>(q: &[u8], out: &mut Vec<u8>) {
    out.extend((0..8).map(|i| (0..4).fold(0, |b, u| b | ((q[8 * u + i] >> OF) & 3) << (2 * u))));
}

/// The low two bits of 256 codes: byte `i` of a half holds columns `i`, `32 + i`, ….
fn crumbs(q: &[u8], out: &mut Vec<u8>) {
    for half in q.chunks_exact(128) {
        out.extend((0..32).map(|i| (0..4).fold(0, |b, j| b | (half[32 * j + i] & 3) << (2 * j))));
    }
}

/// Eight pairs of 6-bit scale and offset in 12 bytes.
fn six_bit_pairs(codes: &[(i16, i16)]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for j in 0..4 {
        let (s, m) = (byte(codes[j].0), byte(codes[j].1));
        let (s4, m4) = (byte(codes[j + 4].0), byte(codes[j + 4].1));
        bytes[j] = s | ((s4 >> 4) << 6);
        bytes[j + 4] = m | ((m4 >> 4) << 6);
        bytes[j + 8] = (s4 & 15) | ((m4 & 15) << 4);
    }
    bytes
}

fn q3k(q: &[u8], codes: &[(i16, i16)], d: [u8; 2], out: &mut Vec<u8>) {
    // Bit 2 of a code is set where nothing is subtracted.
    out.extend((0..32).map(|i| (0..8).fold(0, |b, j| b | ((q[32 * j + i] >> 2) & 1) << j)));
    crumbs(q, out);
    let mut scales = [0u8; 12];
    for (at, code) in codes.iter().enumerate() {
        let code = byte(code.0 + 32);
        scales[at % 8] |= (code & 15) << (4 * (at / 8));
        scales[8 + at % 4] |= (code >> 4) << (2 * (at / 4));
    }
    out.extend(scales.iter().chain(&d));
}

fn q6k(q: &[u8], codes: &[(i16, i16)], d: [u8; 2], out: &mut Vec<u8>) {
    for half in q.chunks_exact(128) {
        out.extend((0..64).map(|i| (half[i] & 15) | ((half[64 + i] & 15) << 4)));
    }
    for half in q.chunks_exact(128) {
        let high = |i: usize| (0..4).fold(0, |b, r| b | ((half[32 * r + i] >> 4) & 3) << (2 * r));
        out.extend((0..32).map(high));
    }
    out.extend(codes.iter().map(|code| byte(code.0)));
    out.extend(d);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::{Shape, TYPES};
    use atoll_model::{Tensor, TensorInfo};

    /// What is packed reads back, by the reader of the kernels, as the values of the grid.
    #[test]
    fn packed_rows_read_back_as_the_grid_has_them() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        for ty in TYPES {
            let shape = Shape::of(ty).expect("a type that is written");
            for _ in 0..50 {
                let x: Vec<f32> = (0..512).map(|_| random() * random() * 3.0).collect();
                let weights: Vec<f32> = (0..512).map(|_| random().abs() + 0.01).collect();
                let grid = Grid::fit(shape, &x, &weights);
                let nearest: Vec<_> =
                    x.iter().enumerate().map(|(col, &x)| grid.nearest(col, x)).collect();
                let codes: Vec<u8> = nearest.iter().map(|pair| pair.0).collect();
                let mut bytes = Vec::new();
                row(ty, &grid, &codes, &mut bytes);
                let info = TensorInfo { name: "x".to_owned(), dtype: ty, rows: 1, cols: 512 };
                let back = Tensor { info: &info, bytes: &bytes }.dequantize();
                for (col, (back, (_, value))) in back.iter().zip(&nearest).enumerate() {
                    assert!(
                        (back - value).abs() < 1e-6,
                        "{} column {col}: {back} {value}",
                        ty.name()
                    );
                }
            }
        }
    }
}
