//! Every instruction set gives the bits of the plain code; the plain code is near f64.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::layout::Layout;
use crate::unpack::is_float;
use crate::{
    ATTENTION_TILE, Activations, ActivationsPart, BlockType, Isa, KV_TILE, Kernels, KvHead,
    KvHeadMut, PackedMatrix, QUERIES_MAX, Queries, TILE_ROWS, attention_state_len, dequantize,
};

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
    Isa::ALL.into_iter().skip(1).filter(|isa| isa.is_available())
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
fn vectors_are_the_same_for_every_isa() {
    let mut random = Random(3);
    for n in [1_usize, 15, 16, 17, 32, 64, 100, 577] {
        for rows in [1, 3, 8, 9] {
            let tiles = n.div_ceil(16);
            let tiled = |seed: &mut Random| {
                let mut x = seed.floats(tiles * rows * 16);
                for row in x[(tiles - 1) * rows * 16..].chunks_exact_mut(16) {
                    row[n - (tiles - 1) * 16..].fill(0.0);
                }
                x
            };
            let (a, b) = (tiled(&mut random), tiled(&mut random));
            let weight = random.floats(tiles * 16);
            let run = |isa: Isa| {
                let kernels = Kernels::new(isa);
                let mut scales = vec![0.0; rows];
                kernels.norm_scales(&a, n, 1e-5, &mut scales);
                let float = PackedMatrix::pack(BlockType::F32, 1, n, &vec![0; 4 * n]);
                let coded = PackedMatrix::pack(BlockType::Q8_0, 1, 32, &[0; 34]);
                let mut found = vec![bits(&scales)];
                let forms: [&dyn Fn(&mut ActivationsPart<'_>); 3] = [
                    &|part| kernels.quantize(&a, part),
                    &|part| kernels.quantize_normed(&a, &scales, &weight, part),
                    &|part| kernels.quantize_gated(&a, &b, part),
                ];
                for form in forms {
                    let mut acts = Activations::new();
                    acts.reset(rows, n, &[&float, &coded]);
                    form(&mut acts.whole());
                    found.push(bits(&acts.floats));
                    found.push(acts.codes.iter().map(|&code| code as u32).collect());
                    found.push(acts.numbers.iter().map(|n| n.scale.to_bits()).collect());
                    let biased = Layout::of(BlockType::Q8_0);
                    found.push(acts.numbers.iter().map(|n| n.bias(biased, 0) as u32).collect());
                }
                found
            };
            let plain = run(Isa::Generic);
            for isa in isas() {
                assert_eq!(run(isa), plain, "{isa:?} {n} {rows}");
            }
            let (row, mut one) = (rows / 2, vec![0.0; n]);
            let x: Vec<f32> = (0..n).map(|i| a[(i / 16 * rows + row) * 16 + i % 16]).collect();
            Kernels::new(Isa::detect()).rms_norm(&x, &weight[..n], 1e-5, &mut one);
            let normed = |i: usize| plain[5][(i / 16 * rows + row) * 16 + i % 16];
            assert_eq!(bits(&one), (0..n).map(normed).collect::<Vec<_>>(), "{n} {rows}");
        }
    }
}

/// Attention of one column as the crate's documentation states its order, on numbers.
fn plain_attention(q: &[f32], k: &[Vec<f32>], v: &[Vec<f32>], scale: f32) -> Vec<f32> {
    let (mut max, mut total, mut out) = (f32::NEG_INFINITY, 0.0, vec![0.0; q.len()]);
    for (k, v) in k.chunks(ATTENTION_TILE).zip(v.chunks(ATTENTION_TILE)) {
        let score = |k: &Vec<f32>| q.iter().zip(k).fold(0.0, |s: f32, (q, k)| k.mul_add(*q, s));
        let scores: Vec<f32> = k.iter().map(|k| score(k) * scale).collect();
        let tile_max = scores.iter().fold(f32::NEG_INFINITY, |a: f32, &b| a.max(b));
        let weights: Vec<f32> = scores.iter().map(|s| crate::vector::exp(s - tile_max)).collect();
        let mut lanes = [0.0; 16];
        weights.iter().enumerate().for_each(|(i, w)| lanes[i % 16] += w);
        let tile_total = crate::vector::add_lanes(lanes);
        let sum = |d: usize| weights.iter().zip(v).fold(0.0, |s: f32, (w, v)| v[d].mul_add(*w, s));
        let sums: Vec<f32> = (0..q.len()).map(sum).collect();
        if max == f32::NEG_INFINITY {
            (max, total, out) = (tile_max, tile_total, sums);
            continue;
        }
        let m = max.max(tile_max);
        let (old, new) = (crate::vector::exp(max - m), crate::vector::exp(tile_max - m));
        total = f32::mul_add(total, old, tile_total * new);
        out.iter_mut().zip(&sums).for_each(|(o, s)| *o = o.mul_add(old, s * new));
        max = m;
    }
    out.iter().map(|o| o * (1.0 / total)).collect()
}

#[test]
fn attention_keeps_its_order_for_every_isa_column_count_and_split() {
    let mut random = Random(4);
    for (head_dim, positions) in [(64_usize, 600_usize), (16, 257), (24, 70), (80, 33), (128, 256)]
    {
        let width = head_dim.next_multiple_of(16);
        let room = positions.next_multiple_of(KV_TILE);
        // What lies behind the positions must not matter: it is not a number.
        let (mut k, mut v) = (vec![0x7E00u16; room * head_dim], vec![0x7E00u16; room * width]);
        let (mut numbers, kernels) = ((Vec::new(), Vec::new()), Kernels::new(Isa::Generic));
        for position in 0..positions {
            let (key, value) = (random.floats(head_dim), random.floats(head_dim));
            let to = KvHeadMut::F16 { k: &mut k, v: &mut v };
            kernels.kv_append(&key, &value, position, to);
            let rounded = |x: &[f32]| x.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect();
            numbers.0.push(rounded(&key));
            numbers.1.push(rounded(&value));
        }
        let kv = KvHead::F16 { k: &k, v: &v };
        for columns in 1..=QUERIES_MAX {
            let lens: Vec<usize> = (0..columns).map(|c| positions - (columns - c) / 2).collect();
            let q = random.floats(columns * head_dim);
            let queries = Queries { q: &q, lens: &lens, scale: 0.3 };
            let len = attention_state_len(head_dim);
            let run = |isa: Isa, split: bool| {
                let kernels = Kernels::new(isa);
                let mut state = vec![f32::NAN; columns * len];
                kernels.attention_clear(&mut state, head_dim);
                let tiles = positions.div_ceil(ATTENTION_TILE);
                if split {
                    for tile in 0..tiles {
                        let mut own = vec![f32::NAN; columns * len];
                        kernels.attention_clear(&mut own, head_dim);
                        kernels.attention(&queries, kv, tile..tile + 1, &mut own);
                        kernels.attention_merge(&mut state, &own, head_dim);
                    }
                } else {
                    kernels.attention(&queries, kv, 0..tiles, &mut state);
                }
                let mut out = vec![0.0; columns * head_dim];
                for (out, state) in out.chunks_mut(head_dim).zip(state.chunks(len)) {
                    kernels.attention_finish(state, out);
                }
                bits(&out)
            };
            let mut expected = Vec::new();
            for c in 0..columns {
                let q: Vec<f32> = (0..head_dim).map(|d| q[d * columns + c]).collect();
                let (k, v) = (&numbers.0[..lens[c]], &numbers.1[..lens[c]]);
                expected.extend(bits(&plain_attention(&q, k, v, 0.3)));
            }
            for isa in isas().chain([Isa::Generic]) {
                for split in [false, true] {
                    assert_eq!(run(isa, split), expected, "{isa:?} {head_dim} {columns} {split}");
                }
            }
        }
    }
}

#[test]
fn an_int8_cache_is_the_same_for_every_isa_and_near_the_numbers() {
    /// Codes are off by up to 1/254 of the largest number of a head.
    const TOLERANCE: f32 = 0.02;
    let mut random = Random(5);
    let (head_dim, positions, columns) = (64, 300, 7);
    let keys: Vec<Vec<f32>> = (0..positions).map(|_| random.floats(head_dim)).collect();
    let values: Vec<Vec<f32>> = (0..positions).map(|_| random.floats(head_dim)).collect();
    let (q, lens) = (random.floats(columns * head_dim), vec![positions; columns]);
    let run = |isa: Isa| {
        let kernels = Kernels::new(isa);
        let (mut k, mut v) = (vec![0i8; 320 * head_dim], vec![0i8; 320 * head_dim]);
        let (mut k_scales, mut v_scales) = (vec![f32::NAN; 320], vec![f32::NAN; 320]);
        for (position, (key, value)) in keys.iter().zip(&values).enumerate() {
            let (k_scales, v_scales) = (&mut k_scales, &mut v_scales);
            let to = KvHeadMut::I8 { k: &mut k, v: &mut v, k_scales, v_scales };
            kernels.kv_append(key, value, position, to);
        }
        let mut state = vec![0.0; columns * attention_state_len(head_dim)];
        kernels.attention_clear(&mut state, head_dim);
        let kv = KvHead::I8 { k: &k, v: &v, k_scales: &k_scales, v_scales: &v_scales };
        kernels.attention(&Queries { q: &q, lens: &lens, scale: 0.1 }, kv, 0..2, &mut state);
        let mut out = vec![0.0; columns * head_dim];
        let states = state.chunks(attention_state_len(head_dim));
        out.chunks_mut(head_dim).zip(states).for_each(|(o, s)| kernels.attention_finish(s, o));
        out
    };
    let plain = run(Isa::Generic);
    for isa in isas() {
        assert_eq!(bits(&run(isa)), bits(&plain), "{isa:?}");
    }
    for c in 0..columns {
        let q: Vec<f32> = (0..head_dim).map(|d| q[d * columns + c]).collect();
        let exact = plain_attention(&q, &keys, &values, 0.1);
        for (a, b) in plain[c * head_dim..].iter().zip(&exact) {
            assert!((a - b).abs() < TOLERANCE, "{a} {b}");
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
    assert!(Isa::ALL.iter().all(|isa| Isa::parse(isa.name()).unwrap() == *isa));
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

#[test]
fn a_step_has_its_place_and_its_codes_begin_a_line() {
    for ty in BlockType::all().filter(|&ty| !is_float(ty)) {
        let layout = Layout::of(ty);
        // A tile's last group may lack steps where it has no head.
        let least = if layout.has_head() { layout.steps() } else { 1 };
        for steps in least..=layout.steps() {
            let bytes = layout.tile_bytes(steps);
            assert_eq!(layout.steps_in(bytes), steps, "{ty:?}");
            assert_eq!(bytes % 64, 0, "{ty:?}: what follows begins a line, too");
            let (mut taken, mut end) = (Vec::new(), layout.head_bytes());
            for (codes, numbers) in (0..steps).map(|s| layout.places(s)) {
                assert_eq!(codes.start % 64, 0, "{ty:?}: {codes:?} of {steps} steps");
                taken.extend([codes, numbers]);
            }
            taken.sort_by_key(|place| place.start);
            for place in taken {
                assert!(place.start >= end, "{ty:?}: {place:?} begins before {end}");
                end = place.end;
            }
            assert!(end <= bytes, "{ty:?}: {end} of {bytes}");
        }
    }
}
