//! Norms, rope, sums, and activations as they are quantized.

use atoll_kernels::{
    Activations, ActivationsPart, BlockType, Isa, Kernels, PackedMatrix, RopeStyle, TILE_ROWS,
};

use crate::random::Random;
use crate::{assert_bits, cases, isas};

/// Cases of every kernel.
const CASES: u64 = 10_000;

/// Rows in tiles, (tiles of 16 columns, rows, 16), with zeros behind the columns.
pub(crate) fn tiled(random: &mut Random, rows: usize, cols: usize) -> Vec<f32> {
    let mut x = vec![0.0; cols.div_ceil(TILE_ROWS) * rows * TILE_ROWS];
    for row in 0..rows {
        for (col, value) in random.floats(cols).into_iter().enumerate() {
            x[at(rows, row, col)] = value;
        }
    }
    x
}

const fn at(rows: usize, row: usize, col: usize) -> usize {
    (col / TILE_ROWS * rows + row) * TILE_ROWS + col % TILE_ROWS
}

/// Row `row` of `x`, as tiles.
pub(crate) fn one_row(x: &[f32], rows: usize, row: usize) -> Vec<f32> {
    let tiles = x.chunks_exact(TILE_ROWS).skip(row).step_by(rows);
    tiles.flatten().copied().collect()
}

#[test]
fn norms() {
    cases("vectors::norms", CASES, 0x2CE9_5947_6449_080F, |random| {
        let (rows, cols) = (random.within(1..=20), random.small(1..=200));
        let x = tiled(random, rows, cols);
        let weight: Vec<f32> = (0..cols).map(|_| random.float()).collect();
        let run = |isa: Isa| {
            let (kernels, mut out) = (Kernels::new(isa), vec![f32::NAN; rows]);
            kernels.norm_scales(&x, cols, 1e-6, &mut out);
            let mut normed = vec![f32::NAN; cols];
            kernels.rms_norm(&one_row(&x, rows, 0)[..cols], &weight, 1e-6, &mut normed);
            out.extend(normed);
            out
        };
        let want = run(Isa::Generic);
        for isa in isas() {
            assert_bits(&|| format!("{rows}x{cols} {}", isa.name()), &run(isa), &want);
            let row = random.within(0..=rows - 1);
            let mut alone = [f32::NAN];
            let x = one_row(&x, rows, row);
            Kernels::new(isa).norm_scales(&x, cols, 1e-6, &mut alone);
            assert_bits(&|| format!("row {row}, {}", isa.name()), &alone, &want[row..=row]);
        }
        want
    });
}

#[test]
fn rope_and_sums() {
    cases("vectors::rope_and_sums", CASES, 0x23E3_14A8_089D_5DAD, |random| {
        let half = random.small(1..=96);
        let (x, y) = (random.floats(2 * half), random.floats(2 * half));
        let (cos, sin) = (random.floats(half), random.floats(half));
        let run = |isa: Isa| {
            let (kernels, mut out) = (Kernels::new(isa), Vec::new());
            for style in [RopeStyle::Norm, RopeStyle::Neox] {
                let mut turned = x.clone();
                kernels.rope(&mut turned, &cos, &sin, style);
                out.extend(turned);
            }
            let (mut sum, mut rounded) = (x.clone(), x.clone());
            kernels.add(&mut sum, &y);
            kernels.round_queries(&mut rounded);
            out.extend(sum);
            out.extend(rounded);
            out
        };
        let want = run(Isa::Generic);
        for isa in isas() {
            assert_bits(&|| format!("{half} pairs {}", isa.name()), &run(isa), &want);
        }
        want
    });
}

/// Codes, numbers and floats of activations; the numbers printed, which tells all bits apart.
fn contents(mut acts: Activations) -> (Vec<i8>, String, Vec<u32>) {
    let (codes, numbers, floats) = acts.slices();
    let floats = floats.iter().map(|x| x.to_bits()).collect();
    (codes.to_vec(), format!("{numbers:?}"), floats)
}

/// Writes activations by `form` (0: as they are, 1: normed, 2: gated) in parts of steps.
fn written(
    isa: Isa,
    (rows, cols): (usize, usize),
    form: u64,
    [a, b, scales]: [&[f32]; 3],
    parts: &[std::ops::Range<usize>],
) -> Activations {
    let kernels = Kernels::new(isa);
    let float = PackedMatrix::pack(BlockType::F32, 1, cols, &vec![0; 4 * cols]);
    let coded = PackedMatrix::pack(BlockType::Q8_0, 1, 32, &[0; 34]);
    let mut acts = Activations::new();
    acts.reset(rows, cols, &[&float, &coded]);
    let (mut codes, mut numbers, mut floats) = acts.slices();
    for steps in parts {
        let own;
        (own, codes) = codes.split_at_mut(steps.len() * rows * 32);
        let (own_numbers, rest) = numbers.split_at_mut(steps.len() * rows);
        numbers = rest;
        let (own_floats, rest) = floats.split_at_mut(own.len().min(floats.len()));
        floats = rest;
        let mut part = ActivationsPart::new(rows, true, own, own_numbers, own_floats);
        let tiles = 2 * steps.start..(2 * steps.end).min(cols.div_ceil(TILE_ROWS));
        let tiles = tiles.start.min(tiles.end) * TILE_ROWS..tiles.end * TILE_ROWS;
        let of = |x: &'_ [f32], rows: usize| x[tiles.start * rows..tiles.end * rows].to_vec();
        match form {
            0 => kernels.quantize(&of(a, rows), &mut part),
            1 => kernels.quantize_normed(&of(a, rows), scales, &of(b, 1), &mut part),
            _ => kernels.quantize_gated(&of(a, rows), &of(b, rows), &mut part),
        }
    }
    acts
}

#[test]
fn activations() {
    cases("vectors::activations", CASES, 0x3760_60B1_D34E_0BDC, |random| {
        let (rows, cols) = (random.within(1..=10), random.small(1..=200));
        let form = random.next() % 3;
        let a = tiled(random, rows, cols);
        let scales: Vec<f32> = (0..rows).map(|_| random.float() * 4.0).collect();
        let b = if form == 1 { tiled(random, 1, cols) } else { tiled(random, rows, cols) };
        let steps = cols.div_ceil(32);
        let run = |isa, parts: &[std::ops::Range<usize>]| {
            contents(written(isa, (rows, cols), form, [&a, &b, &scales], parts))
        };
        #[expect(clippy::single_range_in_vec_init, reason = "one part is the whole")]
        let want = run(Isa::Generic, &[0..steps]);
        for isa in isas() {
            let parts = random.split(steps);
            let found = run(isa, &parts);
            assert_eq!(found, want, "form {form} {rows}x{cols} {parts:?} {}", isa.name());
        }
        let codes = want.0.iter().map(|&code| f32::from(code));
        codes.chain(want.2.iter().map(|&bits| f32::from_bits(bits))).collect()
    });
}
