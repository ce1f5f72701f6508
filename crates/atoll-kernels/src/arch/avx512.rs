//! Weight tiles times activation rows with AVX-512 VNNI: lanes are weight rows, the activations are
//! broadcast, a step's codes are expanded once for all rows of activations.

use core::arch::x86_64::*;
use core::ops::Range;

use crate::packed::Layout;
use crate::unpack::{IQ4_VALUES, RUN, is_float};
use crate::{Activations, BlockType, PackedMatrix, TILE_ROWS};

/// Activation rows that are multiplied before the next tile, so that they stay in the L2 cache.
const ROWS_MAX: usize = 128;

trait Kind {
    const LAYOUT: Layout;
}

macro_rules! kinds {
    ($($name:ident),*) => {$(
        struct $name;
        impl Kind for $name {
            const LAYOUT: Layout = Layout::of(BlockType::$name);
        }
    )*};
}
kinds!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, IQ4NL, IQ4XS);

type Tile = (Range<usize>, Range<usize>);

/// As [`crate::matmul::matmul`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn matmul(w: &PackedMatrix, tiles: Range<usize>, x: &Activations, out: &mut [f32]) {
    if is_float(w.block_type()) {
        crate::matmul::matmul(w, tiles, x, out);
        return;
    }
    out.fill(0.0);
    for start in (0..x.rows).step_by(ROWS_MAX) {
        let part = (tiles.clone(), start..(start + ROWS_MAX).min(x.rows));
        match w.block_type() {
            BlockType::Q4_0 => multiply::<Q4_0>(w, part, x, out),
            BlockType::Q4_1 => multiply::<Q4_1>(w, part, x, out),
            BlockType::Q5_0 => multiply::<Q5_0>(w, part, x, out),
            BlockType::Q5_1 => multiply::<Q5_1>(w, part, x, out),
            BlockType::Q2K => multiply::<Q2K>(w, part, x, out),
            BlockType::Q3K => multiply::<Q3K>(w, part, x, out),
            BlockType::Q4K => multiply::<Q4K>(w, part, x, out),
            BlockType::Q5K => multiply::<Q5K>(w, part, x, out),
            BlockType::Q6K => multiply::<Q6K>(w, part, x, out),
            BlockType::IQ4NL => multiply::<IQ4NL>(w, part, x, out),
            BlockType::IQ4XS => multiply::<IQ4XS>(w, part, x, out),
            BlockType::Q8_0 | BlockType::F32 | BlockType::F16 | BlockType::BF16 => {
                multiply::<Q8_0>(w, part, x, out);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn multiply<K: Kind>(w: &PackedMatrix, (tiles, rows): Tile, x: &Activations, out: &mut [f32]) {
    for (tile, out) in tiles.zip(out.chunks_exact_mut(x.rows * TILE_ROWS)) {
        let steps = w.tile(tile).chunks_exact(K::LAYOUT.step_bytes());
        for (s, bytes) in steps.enumerate() {
            let step = read::<K>(bytes);
            let mut row = rows.start;
            while row + 4 <= rows.end {
                columns::<K, 4>(&step, x, s, row, &mut out[row * TILE_ROWS..][..4 * TILE_ROWS]);
                row += 4;
            }
            while row < rows.end {
                columns::<K, 1>(&step, x, s, row, &mut out[row * TILE_ROWS..][..TILE_ROWS]);
                row += 1;
            }
        }
    }
}

struct Step {
    values: [__m512i; 8],
    scales: [__m512; 2],
    offsets: [__m512; 2],
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8], at: usize) -> __m512i {
    let bytes = &bytes[at..at + 64];
    // SAFETY: `bytes` is 64 bytes long; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn numbers<K: Kind>(bytes: &[u8], idx: usize) -> __m512 {
    let at = K::LAYOUT.code_bytes() + idx * K::LAYOUT.scale_bytes();
    if K::LAYOUT.is_wide {
        return _mm512_castsi512_ps(load(bytes, at));
    }
    let bytes = &bytes[at..at + 32];
    // SAFETY: `bytes` is 32 bytes long; the load needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

/// Expands a step.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn read<K: Kind>(bytes: &[u8]) -> Step {
    let l = K::LAYOUT;
    let bytes = &bytes[..l.step_bytes()];
    let zero = _mm512_setzero_ps();
    let mut step =
        Step { values: [_mm512_setzero_si512(); 8], scales: [zero; 2], offsets: [zero; 2] };
    if l.bits == 8 {
        for j in 0..8 {
            step.values[j] = load(bytes, 64 * j);
        }
    } else {
        let low = _mm512_set1_epi8(15);
        for s in 0..4 {
            let v = load(bytes, 64 * s);
            step.values[2 * s] = _mm512_and_si512(v, low);
            step.values[2 * s + 1] = _mm512_and_si512(_mm512_srli_epi16::<4>(v), low);
        }
    }
    if l.is_table {
        let table = table();
        for v in &mut step.values {
            *v = _mm512_shuffle_epi8(table, *v);
        }
    }
    if l.bits == 5 {
        let plane = load(bytes, 256);
        for (j, v) in step.values.iter_mut().enumerate() {
            let bit = if j < 4 {
                _mm512_sll_epi16(plane, _mm_cvtsi64_si128(4 - j.cast_signed() as i64))
            } else {
                _mm512_srl_epi16(plane, _mm_cvtsi64_si128(j.cast_signed() as i64 - 4))
            };
            *v = _mm512_or_si512(*v, _mm512_and_si512(bit, _mm512_set1_epi8(16)));
        }
    }
    if l.bits == 6 {
        let mask = _mm512_set1_epi8(0x30);
        for t in 0..2 {
            let plane = load(bytes, 256 + 64 * t);
            let four = [
                _mm512_slli_epi16::<4>(plane),
                _mm512_slli_epi16::<2>(plane),
                plane,
                _mm512_srli_epi16::<2>(plane),
            ];
            for (u, bits) in four.into_iter().enumerate() {
                let v = &mut step.values[4 * t + u];
                *v = _mm512_or_si512(*v, _mm512_and_si512(bits, mask));
            }
        }
    }
    for n in 0..l.n_scales {
        step.scales[n] = numbers::<K>(bytes, n);
        if l.has_offsets {
            step.offsets[n] = numbers::<K>(bytes, l.n_scales + n);
        }
    }
    step
}

#[inline]
#[target_feature(enable = "avx512f")]
fn table() -> __m512i {
    let mut bytes = [0u8; 64];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = IQ4_VALUES[i % 16].cast_unsigned() ^ 0x80;
    }
    load(&bytes, 0)
}

/// A step times `G` rows of activations from `row`; `out` is (G, 16).
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn columns<K: Kind, const G: usize>(
    step: &Step,
    x: &Activations,
    s: usize,
    row: usize,
    out: &mut [f32],
) {
    let l = K::LAYOUT;
    let first = s * x.rows + row;
    let codes = &x.codes[first * RUN..][..G * RUN];
    let numbers = &x.numbers[first..][..G];
    let mut dots = [[_mm512_setzero_si512(); 2]; G];
    for g in 0..G {
        if l.n_scales == 2 {
            dots[g][0] = _mm512_set1_epi32(numbers[g].minus_sums[0] * l.bias());
            dots[g][1] = _mm512_set1_epi32(numbers[g].minus_sums[1] * l.bias());
        } else if l.bias() != 0 {
            dots[g][0] = _mm512_set1_epi32(numbers[g].minus_sums[2] * l.bias());
        }
    }
    for j in 0..8 {
        let to = if l.n_scales == 2 || G == 1 { j / 4 } else { 0 };
        for g in 0..G {
            let c = &codes[g * RUN + 4 * j..][..4];
            let c = [0, 1, 2, 3].map(|i: usize| c[i].cast_unsigned());
            let c = _mm512_set1_epi32(i32::from_le_bytes(c));
            dots[g][to] = _mm512_dpbusd_epi32(dots[g][to], step.values[j], c);
        }
    }
    for (g, out) in out.chunks_exact_mut(TILE_ROWS).enumerate() {
        if l.n_scales == 1 && G == 1 {
            dots[g][0] = _mm512_add_epi32(dots[g][0], dots[g][1]);
        }
        let dx = _mm512_set1_ps(numbers[g].scale);
        // SAFETY: `out` is 16 floats long; the load needs no alignment.
        let mut acc = unsafe { _mm512_loadu_ps(out.as_ptr()) };
        for h in 0..l.n_scales {
            let scale = _mm512_mul_ps(step.scales[h], dx);
            acc = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dots[g][h]), acc);
        }
        if l.has_offsets {
            for h in 0..l.n_scales {
                let sum = numbers[g].scaled_sums[if l.n_scales == 2 { h } else { 2 }];
                let sum = _mm512_set1_ps(sum);
                acc = _mm512_fmadd_ps(step.offsets[h], sum, acc);
            }
        }
        // SAFETY: `out` is 16 floats long; the store needs no alignment.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), acc) };
    }
}
