//! Every instruction set gives the bits of the plain code; the plain code is near f64.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::{Activations, BlockType, Isa, KV_TILE, Kernels, PackedMatrix, TILE_ROWS, dequantize};

/// A small generator (splitmix64), seeded by the test.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// `n` random blocks with finite scales.
    fn blocks(&mut self, ty: BlockType, n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut values = vec![0.0; ty.block_len()];
        while bytes.len() < n * ty.block_bytes() {
            let block: Vec<u8> =
                (0..ty.block_bytes()).map(|_| self.next().to_le_bytes()[0]).collect();
            dequantize(ty, &block, &mut values);
            if values.iter().all(|v| v.abs() < 1e6) {
                bytes.extend(block);
            }
        }
        bytes
    }
}

fn isas() -> impl Iterator<Item = Isa> {
    [Isa::Avx2, Isa::Avx512Vnni].into_iter().filter(|isa| isa.is_available())
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

fn product(isa: Isa, w: &PackedMatrix, x: &[f32], rows: usize) -> Vec<f32> {
    let kernels = Kernels::new(isa);
    let mut acts = Activations::new();
    acts.quantize(&kernels, x, rows, w.cols());
    let mut out = vec![0.0; w.n_tiles() * rows * TILE_ROWS];
    kernels.matmul(w, 0..w.n_tiles(), &acts, &mut out);
    out
}

#[test]
fn matmul_is_the_same_for_every_isa_batch_and_split() {
    let mut random = Random(1);
    for ty in BlockType::all() {
        for (rows, blocks, n) in [(1, 1, 1), (16, 2, 3), (17, 1, 9), (40, 3, 131)] {
            let cols = blocks * ty.block_len().max(32);
            let bytes = random.blocks(ty, rows * cols / ty.block_len());
            let w = PackedMatrix::pack(ty, rows, cols, &bytes);
            let x = random.floats(n * cols);
            let want = product(Isa::Generic, &w, &x, n);
            for isa in isas() {
                assert_eq!(bits(&product(isa, &w, &x, n)), bits(&want), "{ty:?} {isa:?} {n}");
            }
            let row = n / 2;
            let alone = product(Isa::detect(), &w, &x[row * cols..][..cols], 1);
            let kernels = Kernels::new(Isa::detect());
            let mut acts = Activations::new();
            acts.quantize(&kernels, &x, n, cols);
            for tile in 0..w.n_tiles() {
                let at = (tile * n + row) * TILE_ROWS;
                let one = &alone[tile * TILE_ROWS..][..TILE_ROWS];
                assert_eq!(bits(&want[at..at + TILE_ROWS]), bits(one), "{ty:?} row {row}");
                let mut out = vec![0.0; n * TILE_ROWS];
                kernels.matmul(&w, tile..tile + 1, &acts, &mut out);
                assert_eq!(bits(&want[tile * n * TILE_ROWS..][..n * TILE_ROWS]), bits(&out));
            }
        }
    }
}

#[test]
fn matmul_is_near_f64() {
    /// Of the sum of magnitudes: int8 activations are off by up to 1/254 of the largest of 32.
    const TOLERANCE: f64 = 0.01;
    let mut random = Random(2);
    for ty in BlockType::all() {
        let (rows, cols) = (20, 512);
        let bytes = random.blocks(ty, rows * cols / ty.block_len());
        let mut values = vec![0.0; rows * cols];
        dequantize(ty, &bytes, &mut values);
        let w = PackedMatrix::pack(ty, rows, cols, &bytes);
        assert!(w.scales_finite());
        let x = random.floats(cols);
        let out = product(Isa::detect(), &w, &x, 1);
        for (r, row) in values.chunks(cols).enumerate() {
            let terms = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (sum, size) = terms.fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()));
            let error = (f64::from(out[r]) - sum).abs();
            assert!(error <= TOLERANCE * size + 1e-9, "{ty:?} row {r}: {error} of {size}");
        }
        let mut got = vec![0.0; cols];
        for (r, row) in values.chunks(cols).enumerate() {
            Kernels::new(Isa::detect()).dequantize_row(&w, r, &mut got);
            assert_eq!(bits(&got), bits(row), "{ty:?} row {r}");
        }
    }
}

#[test]
fn vectors_and_attention_are_the_same_for_every_isa() {
    let mut random = Random(3);
    let plain = Kernels::new(Isa::Generic);
    for isa in isas() {
        let kernels = Kernels::new(isa);
        for n in [1, 15, 64, 577] {
            let (a, b) = (random.floats(n), random.floats(n));
            let run = |k: &Kernels| {
                let (mut norm, mut silu, mut sum) = (vec![0.0; n], vec![0.0; n], a.clone());
                k.rms_norm(&a, &b, 1e-5, &mut norm);
                k.silu_mul(&a, &b, &mut silu);
                k.add(&mut sum, &b);
                [bits(&norm), bits(&silu), bits(&sum)]
            };
            assert_eq!(run(&kernels), run(&plain), "{isa:?} {n}");
        }
        let head_dim = 64;
        let mut caches = [vec![0u16; 4 * KV_TILE * head_dim], vec![0u16; 4 * KV_TILE * head_dim]];
        let q = random.floats(3 * head_dim);
        for position in 0..4 * KV_TILE {
            let (k, v) = (random.floats(head_dim), random.floats(head_dim));
            let [keys, values] = &mut caches;
            plain.kv_append(&k, &v, position, keys, values);
            let run = |kernels: &Kernels| {
                let mut out = vec![0.0; 3 * head_dim];
                kernels.attention(&q, keys, values, position + 1, head_dim, 0.125, &mut out);
                bits(&out)
            };
            assert_eq!(run(&kernels), run(&plain), "{isa:?} {position}");
        }
    }
}

#[test]
fn exp_and_halves_are_exact_enough() {
    for i in -8600..8600 {
        let x = i as f32 / 100.0;
        let (got, want) = (f64::from(crate::vector::exp(x)), f64::from(x).exp());
        assert!((got / want - 1.0).abs() < 3e-7, "exp({x}) is {got}, not {want}");
    }
    for h in 0..=u16::MAX {
        let want = half::f16::from_bits(h).to_f32();
        let got = crate::vector::f32_from_f16(h);
        assert!(want.is_nan() && got.is_nan() || want.to_bits() == got.to_bits(), "{h:#x}");
    }
    let all = [Isa::Generic, Isa::Avx2, Isa::Avx512Vnni];
    assert!(all.iter().all(|isa| Isa::parse(isa.name()).unwrap() == *isa));
}

#[test]
fn no_type_grows_beyond_its_file() {
    for ty in BlockType::all() {
        let bytes = vec![0; 32 * ty.row_bytes(512)];
        let packed = PackedMatrix::pack(ty, 32, 512, &bytes).bytes();
        let ratio = packed as f64 / bytes.len() as f64;
        assert!((1.0..=1.03).contains(&ratio), "{ty:?}: {ratio}");
    }
}
