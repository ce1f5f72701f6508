//! The edges of what the kernels take: nothing, one row, whole blocks only, finite numbers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use atoll_kernels::{
    Activations, BlockType, Isa, Kernels, PackedMatrix, TILE_ROWS, dequantize, scales_finite,
};

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Zeros times ones.
fn product(isa: Isa, ty: BlockType, (rows, cols, n): (usize, usize, usize)) -> Vec<f32> {
    let w = PackedMatrix::pack(ty, rows, cols, &vec![0; rows * ty.row_bytes(cols)]);
    let (kernels, mut acts) = (Kernels::new(isa), Activations::new());
    acts.quantize(&kernels, &vec![1.0; n * cols], n, cols);
    let mut out = vec![f32::NAN; w.n_tiles() * n * TILE_ROWS];
    kernels.matmul(&w, 0..w.n_tiles(), &acts, &mut out);
    out
}

#[test]
fn nothing_times_nothing_is_zeros() {
    for isa in isas() {
        for ty in BlockType::all() {
            let cols = ty.block_len();
            for (shape, len) in [
                ((0, cols, 1), 0),
                ((1, cols, 0), 0),
                ((0, 0, 0), 0),
                ((17, 0, 1), 32),
                ((17, 0, 30), 32 * 30),
                ((1, cols, 1), 16),
                ((1, cols, 30), 16 * 30),
            ] {
                let out = product(isa, ty, shape);
                assert_eq!(out, vec![0.0; len], "{} {} {shape:?}", isa.name(), ty.name());
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_panic_and_say_why() {
    let why = |run: &dyn Fn()| {
        let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("a panic");
        panic.downcast_ref::<String>().cloned().expect("a text")
    };
    for ty in BlockType::all() {
        let bytes = ty.block_bytes();
        let pack = |cols: usize, bytes: usize| PackedMatrix::pack(ty, 1, cols, &vec![0; bytes]);
        if ty.block_len() > 1 {
            let text = why(&|| drop(pack(ty.block_len() + 1, bytes)));
            assert!(text.contains(&format!("whole blocks of {}", ty.name())), "{text}");
        }
        for size in [0, bytes - 1, bytes + 1] {
            let text = why(&|| drop(pack(ty.block_len(), size)));
            assert!(text.contains("bytes of 1 rows"), "{text}");
        }
        for isa in isas() {
            let (w, kernels, mut acts) =
                (pack(ty.block_len(), bytes), Kernels::new(isa), Activations::new());
            acts.quantize(&kernels, &vec![1.0; ty.block_len()], 1, ty.block_len());
            let multiply = |tiles, acts: &Activations, len: usize| {
                why(&|| {
                    kernels.matmul(&w, core::ops::Range::clone(&tiles), acts, &mut vec![0.0; len])
                })
            };
            assert!(multiply(0..2, &acts, 32).contains("tiles 0..2 of 1"));
            assert!(multiply(0..1, &acts, 15).contains("out is (tiles, rows, 16)"));
            acts.quantize(&kernels, &vec![1.0; ty.block_len() * 2], 1, ty.block_len() * 2);
            assert!(multiply(0..1, &acts, 16).contains("columns"));
        }
    }
}

#[test]
fn a_factor_that_is_no_number_is_reported() {
    // Every scale that our own types can store is a finite number (`dequantize.rs`).
    for ty in BlockType::all().filter(|ty| !ty.is_own()) {
        // Not a number, and both infinities: of bf16 (and so of the upper half of f32), of f16.
        let is_wide = matches!(ty, BlockType::F32 | BlockType::BF16);
        let bad: [u16; 3] =
            if is_wide { [0x7FC0, 0x7F80, 0xFF80] } else { [0x7E00, 0x7C00, 0xFC00] };
        // The last block of the last row, behind others that are well.
        let (rows, blocks) = (18, 3);
        let cols = blocks * ty.block_len();
        let sound = vec![0x11; rows * blocks * ty.block_bytes()];
        assert!(PackedMatrix::pack(ty, rows, cols, &sound).scales_finite());
        let mut found = 0;
        for at in (0..ty.block_bytes()).step_by(2) {
            for bad in bad {
                let mut bytes = sound.clone();
                let last = bytes.len() - ty.block_bytes();
                bytes[last + at..last + at + 2].copy_from_slice(&bad.to_le_bytes());
                // Whether it is a factor or codes shows in what the block stands for.
                let mut values = vec![0.0_f32; ty.block_len()];
                dequantize(ty, &bytes[last..], &mut values);
                let is_finite = values.iter().all(|value| value.is_finite());
                found += usize::from(!is_finite);
                let place = format!("{} {bad:#x} at {at}", ty.name());
                let packed = PackedMatrix::pack(ty, rows, cols, &bytes);
                assert_eq!(packed.scales_finite(), is_finite, "{place}");
                assert_eq!(scales_finite(ty, &bytes), is_finite, "{place}");
            }
        }
        assert!(found >= bad.len(), "{} has a factor", ty.name());
    }
}
