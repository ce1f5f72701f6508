//! What a core can do at most: multiplications of 8-bit integers out of registers, bytes read.

use core::hint::black_box;

use super::prefetch;
use crate::Isa;

/// Sums that are added to in turns: more than an instruction takes cycles times those that begin in
/// a cycle, and few enough for the registers.
const SUMS: usize = 12;

/// Reads `memory` in order and returns the sum of its numbers. `is_asked`: what lies
/// [`prefetch::AHEAD`] is asked for, as products do.
pub(crate) fn read(memory: &[u64], is_asked: bool) -> u64 {
    let mut sums = [0_u64; 16];
    for lines in memory.chunks_exact(16) {
        if is_asked {
            let first = lines.as_ptr().cast::<u8>().wrapping_add(prefetch::AHEAD);
            prefetch::far(first);
            prefetch::far(first.wrapping_add(64));
        }
        for (sum, value) in sums.iter_mut().zip(lines) {
            *sum = sum.wrapping_add(*value);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// Does `rounds` rounds and returns their multiplications.
pub(crate) fn int8(isa: Isa, rounds: usize) -> u64 {
    let per_round = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => {
            // SAFETY: whoever has kernels of this instruction set has it (see `Kernels::new`).
            unsafe { avx512(rounds) };
            64 * SUMS
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            // SAFETY: as above.
            unsafe { avx2(rounds) };
            32 * SUMS
        }
        _ => {
            plain(rounds);
            16 * SUMS
        }
    };
    (rounds * per_round) as u64
}

fn plain(rounds: usize) {
    let (a, b) = (black_box([3_i8; 16]), black_box([5_i8; 16]));
    let mut sums = [[0_i32; 16]; SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            for ((sum, a), b) in sum.iter_mut().zip(&a).zip(&b) {
                *sum = sum.wrapping_add(i32::from(*a) * i32::from(*b));
            }
        }
        sums = black_box(sums);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn avx512(rounds: usize) {
    use core::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_set1_epi8, _mm512_setzero_si512};

    let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(5)));
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(rounds: usize) {
    use core::arch::x86_64::{
        _mm256_add_epi32, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8,
        _mm256_set1_epi16, _mm256_setzero_si256,
    };

    let (mut a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(5)));
    let ones = _mm256_set1_epi16(black_box(1));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..rounds {
        // Or the compiler would do the products once.
        a = black_box(a);
        for sum in &mut sums {
            let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones);
            *sum = _mm256_add_epi32(*sum, pairs);
        }
    }
    black_box(sums);
}
