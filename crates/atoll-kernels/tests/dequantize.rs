//! Blocks become the numbers that the Python package `gguf` makes of them, bit for bit; those of
//! our own types, the numbers that `golden/make_own.py` makes of them.

use std::path::Path;

use atoll_kernels::{BlockType, PackedMatrix, dequantize, scales_finite};

#[test]
fn blocks_equal_the_golden_values() {
    /// Blocks in each file of `golden/`, see `golden/make.py`.
    const N_BLOCKS: usize = 4;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for ty in BlockType::all().filter(|&ty| ty != BlockType::F32) {
        let data = std::fs::read(folder.join(format!("{}.bin", ty.name()))).expect("golden file");
        let (blocks, want) = data.split_at(N_BLOCKS * ty.block_bytes());
        let mut got = vec![0.0; N_BLOCKS * ty.block_len()];
        dequantize(ty, blocks, &mut got);
        let got: Vec<u8> = got.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(got == want, "{}", ty.name());
    }
}

#[test]
fn scales_are_found_wherever_a_type_keeps_them() {
    let mut state = 1_u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    for ty in BlockType::all() {
        let cols = ty.block_len().max(32);
        let mut seen = [0, 0];
        for _ in 0..400 {
            let blocks: Vec<u8> = (0..ty.row_bytes(cols)).map(|_| byte()).collect();
            let finite = scales_finite(ty, &blocks);
            assert_eq!(finite, PackedMatrix::pack(ty, 1, cols, &blocks).scales_finite(), "{ty:?}");
            seen[usize::from(finite)] += 1;
        }
        if ty.is_own() {
            assert_eq!(seen, [0, 400], "{ty:?}: every byte is a finite scale");
        } else {
            assert!(seen.iter().all(|&n| n > 0), "{ty:?} {seen:?}");
        }
    }
}
