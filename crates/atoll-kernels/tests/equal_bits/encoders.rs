//! Layer norm, GELU and attention to all positions.

use atoll_kernels::{Isa, Kernels, TILE_ROWS};

use crate::vectors::{one_row, tiled};
use crate::{assert_bits, cases, isas};

/// Cases of every kernel.
const CASES: u64 = 3_000;

#[test]
fn rows() {
    cases("encoders::rows", CASES, 0x5640_DC9D_2F84_60DE, |random| {
        let (rows, cols) = (random.within(1..=20), random.small(1..=200));
        let x = tiled(random, rows, cols);
        let (weight, bias) = (tiled(random, 1, cols), tiled(random, 1, cols));
        let run = |isa: Isa, x: &[f32]| {
            let (kernels, mut out) = (Kernels::new(isa), x.to_vec());
            kernels.layer_norm(&mut out, cols, &weight, &bias, 1e-12);
            let mut forms = [x.to_vec(), x.to_vec()];
            kernels.gelu(&mut forms[0], &bias);
            kernels.add_bias(&mut forms[1], &bias);
            [out, forms[0].clone(), forms[1].clone()]
        };
        let want = run(Isa::Generic, &x);
        for isa in isas() {
            let (found, row) = (run(isa, &x), random.within(0..=rows - 1));
            let alone = run(isa, &one_row(&x, rows, row));
            for (form, (found, alone)) in found.iter().zip(&alone).enumerate() {
                let name = || format!("form {form} {rows}x{cols} {}", isa.name());
                assert_bits(&name, found, &want[form]);
                assert_bits(&name, alone, &one_row(found, rows, row));
            }
        }
        want.concat()
    });
}

#[test]
fn attention_to_all() {
    cases("encoders::attention_to_all", CASES, 0x601D_5A3C_87AA_0F0A, |random| {
        let (n, head_dim) = (random.small(1..=70), random.small(1..=70));
        let (tiles, width) = (n.div_ceil(TILE_ROWS), head_dim.next_multiple_of(TILE_ROWS));
        let q = random.floats(head_dim);
        let (k, v) = (random.floats(tiles * head_dim * TILE_ROWS), random.floats(n * width));
        let run = |isa: Isa| {
            let (mut weights, mut out) = (vec![0.5; tiles * TILE_ROWS], vec![f32::NAN; width]);
            Kernels::new(isa).attend_all(&q, 0.2, (&k, &v), &mut weights, &mut out);
            [weights, out].concat()
        };
        let want = run(Isa::Generic);
        for isa in isas() {
            let name = || format!("{n} positions of {head_dim}, {}", isa.name());
            assert_bits(&name, &run(isa), &want);
        }
        want
    });
}
