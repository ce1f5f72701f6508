//! Time of every kernel by shape class: one row (decode), few rows, many rows (prefill).

use std::hint::black_box;
use std::time::Duration;

use atoll_kernels::{Activations, BlockType, Isa, KV_TILE, Kernels, PackedMatrix, TILE_ROWS};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const ROWS: usize = 16384;
const COLS: usize = 2048;

/// All-ones bytes would be NaN as scales; 0x11 everywhere is a small finite number in each type.
fn weights(ty: BlockType) -> PackedMatrix {
    let bytes = vec![0x11; ROWS * ty.row_bytes(COLS)];
    PackedMatrix::pack(ty, ROWS, COLS, &bytes)
}

fn isas() -> impl Iterator<Item = Isa> {
    [Isa::Avx2, Isa::Avx512Vnni].into_iter().filter(|isa| isa.is_available())
}

fn matmul(c: &mut Criterion) {
    for ty in [BlockType::Q4_0, BlockType::Q4_1, BlockType::Q5_0, BlockType::Q8_0, BlockType::Q6K] {
        let w = weights(ty);
        for isa in isas() {
            let kernels = Kernels::new(isa);
            let mut group = c.benchmark_group(format!("matmul/{}/{}", ty.name(), isa.name()));
            for (n, tiles) in [(1, w.n_tiles()), (8, 64), (256, 16)] {
                let x: Vec<f32> = (0..n * COLS).map(|i| (i % 97) as f32 - 48.0).collect();
                let mut acts = Activations::new();
                acts.quantize(&kernels, &x, n, COLS);
                let mut out = vec![0.0; tiles * n * TILE_ROWS];
                let macs = tiles * TILE_ROWS * COLS * n;
                let bytes = w.bytes() / w.n_tiles() * tiles;
                group.throughput(match n {
                    1 => Throughput::Bytes(bytes as u64),
                    _ => Throughput::Elements(macs as u64),
                });
                group.bench_function(BenchmarkId::from_parameter(n), |b| {
                    b.iter(|| kernels.matmul(&w, 0..tiles, black_box(&acts), &mut out));
                });
            }
        }
    }
}

fn rest(c: &mut Criterion) {
    let head_dim = 64;
    for isa in isas() {
        let kernels = Kernels::new(isa);
        let cache = vec![0x3000u16; 512 / KV_TILE * KV_TILE * head_dim];
        let q = vec![0.01; 3 * head_dim];
        let mut out = vec![0.0; 3 * head_dim];
        c.bench_function(&format!("attention/3 heads of 64, 512 positions/{}", isa.name()), |b| {
            b.iter(|| {
                kernels.attention(black_box(&q), &cache, &cache, 512, head_dim, 0.125, &mut out);
            });
        });
        let (x, mut y) = (vec![0.5; 4864], vec![0.0; 4864]);
        c.bench_function(&format!("silu_mul/4864/{}", isa.name()), |b| {
            b.iter(|| kernels.silu_mul(black_box(&x), &x, &mut y));
        });
        c.bench_function(&format!("rms_norm/4864/{}", isa.name()), |b| {
            b.iter(|| kernels.rms_norm(black_box(&x), &x, 1e-5, &mut y));
        });
        let mut acts = Activations::new();
        c.bench_function(&format!("quantize/4864/{}", isa.name()), |b| {
            b.iter(|| acts.quantize(&kernels, black_box(&x), 1, 4864));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300));
    targets = matmul, rest
}
criterion_main!(benches);
