//! Blocks become the numbers that the Python package `gguf` makes of them, bit for bit.

use std::path::Path;

use atoll_kernels::{BlockType, dequantize};

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
