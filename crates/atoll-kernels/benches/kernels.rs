//! Time of every kernel by shape class: one row (decode), few rows, many rows (prefill).
//!
//! `cargo bench -p atoll-kernels -- [WORD…]` runs the cases whose names hold every word, such as
//! `matmul Q4_0 avx512`. Each case runs for [`CASE_TIME`] and prints its median and its best time;
//! on a machine that does other work the best is nearer to the truth.
#![expect(clippy::print_stdout, reason = "a bench reports")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_kernels::{
    ATTENTION_TILE, Activations, BlockType, Isa, Kernels, KvHead, PackedMatrix, Queries, TILE_ROWS,
    attention_state_len, pack_into, packed_bytes,
};
use memmap2::MmapMut;

/// Large enough that one row's weights come from memory, not from a cache.
const ROWS: usize = 65536;
const COLS: usize = 2048;
const CASE_TIME: Duration = Duration::from_millis(250);

/// Weights as a model holds them: in large pages, where the system has them.
fn pack(ty: BlockType, blocks: &[u8]) -> PackedMatrix {
    let mut memory = MmapMut::map_anon(packed_bytes(ty, ROWS, COLS)).expect("memory");
    #[cfg(target_os = "linux")]
    let _refused = memory.advise(memmap2::Advice::HugePage);
    let is_finite = pack_into(ty, ROWS, COLS, blocks, &mut memory, &mut |_| {});
    PackedMatrix::packed_in(Arc::new(memory), 0, (ty, ROWS, COLS), is_finite)
}

/// Median and least time of `run`.
fn time(mut run: impl FnMut()) -> (f64, f64) {
    run();
    let (mut times, start) = (Vec::new(), Instant::now());
    while times.len() < 5 || start.elapsed() < CASE_TIME {
        let begin = Instant::now();
        run();
        times.push(begin.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

/// The words of the command line; a case runs if its name holds all of them.
struct Filter(Vec<String>);

impl Filter {
    fn wants(&self, name: &str) -> bool {
        self.0.iter().all(|word| name.contains(word.as_str()))
    }

    /// Runs a case that handles `amount` of `unit` each time.
    fn case(&self, name: &str, amount: f64, unit: &str, run: impl FnMut()) {
        if self.wants(name) {
            let (median, best) = time(run);
            let (median, best) = (amount / median / 1e9, amount / best / 1e9);
            println!("{name:<44} {median:>8.1} {unit} (best {best:.1})");
        }
    }
}

/// Splits the tiles of `w` over `threads`.
fn multiply(
    kernels: &Kernels,
    w: &PackedMatrix,
    tiles: usize,
    x: &Activations,
    out: &mut [f32],
    threads: usize,
) {
    let per_thread = tiles.div_ceil(threads);
    if threads == 1 {
        return kernels.matmul(w, 0..tiles, black_box(x), out);
    }
    std::thread::scope(|scope| {
        for (i, out) in out.chunks_mut(per_thread * x.rows() * TILE_ROWS).enumerate() {
            let tiles = i * per_thread..tiles.min((i + 1) * per_thread);
            scope.spawn(move || kernels.matmul(w, tiles, black_box(x), out));
        }
    });
}

fn matmul(filter: &Filter, isas: &[Isa]) {
    for ty in BlockType::all() {
        let names: Vec<_> =
            isas.iter().map(|isa| format!("matmul {} {}", ty.name(), isa.name())).collect();
        // Threads, rows of activations, tiles of weights; a few tiles stay in the L2 cache.
        let all = ROWS / TILE_ROWS;
        let shapes = [
            (1, 1, all),
            (2, 1, all),
            (1, 1, 24),
            (1, 4, all),
            (1, 8, all),
            (1, 8, 24),
            (1, 16, all),
            (1, 32, all),
            (1, 256, 64),
            (2, 256, 64),
        ];
        let label = |name: &str, (threads, rows, tiles): (usize, usize, usize)| {
            let cached = if tiles < 64 { " cached" } else { "" };
            format!("{name} threads={threads} rows={rows}.{cached}")
        };
        let any = names.iter().any(|name| shapes.iter().any(|&s| filter.wants(&label(name, s))));
        if !any {
            continue;
        }
        // All-ones bytes would be NaN as scales; 0x11 everywhere is a small finite number.
        let w = pack(ty, &vec![0x11; ROWS * ty.row_bytes(COLS)]);
        for (isa, name) in isas.iter().zip(&names) {
            let kernels = Kernels::new(*isa);
            for shape in shapes {
                let (threads, rows, tiles) = shape;
                let x: Vec<f32> = (0..rows * COLS).map(|i| (i % 97) as f32 - 48.0).collect();
                let mut acts = Activations::new();
                acts.quantize(&kernels, &x, rows, COLS);
                let mut out = vec![0.0; tiles * rows * TILE_ROWS];
                let run = || multiply(&kernels, &w, tiles, &acts, &mut out, threads);
                let name = label(name, shape);
                if rows == 1 {
                    let bytes = w.bytes() / w.n_tiles() * tiles;
                    filter.case(&name, bytes as f64, "GB/s", run);
                } else {
                    let macs = tiles * TILE_ROWS * COLS * rows;
                    filter.case(&name, macs as f64, "GMAC/s", run);
                }
            }
        }
    }
}

/// The floor of one row: reading a buffer of 256 MiB.
fn read(filter: &Filter) {
    let buffer = vec![1u64; 32 << 20];
    let sum = |part: &[u64]| {
        let mut lanes = [0u64; 32];
        for chunk in part.chunks_exact(32) {
            lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane ^= v);
        }
        black_box(lanes);
    };
    for threads in [1, 2] {
        filter.case(
            &format!("memory threads={threads}"),
            buffer.len() as f64 * 8.0,
            "GB/s",
            || {
                std::thread::scope(|scope| {
                    for part in buffer.chunks(buffer.len() / threads) {
                        scope.spawn(move || sum(part));
                    }
                });
            },
        );
    }
}

fn vectors(filter: &Filter, isas: &[Isa]) {
    /// The widest inner product of a 0.5B model.
    const N: usize = 4864;
    for isa in isas {
        let (kernels, isa) = (Kernels::new(*isa), isa.name());
        let calls = 1000.0;
        let many = |run: &mut dyn FnMut()| (0..1000).for_each(|_| run());
        let (x, mut y) = (vec![0.5; N], vec![0.0; N]);
        let values = calls * N as f64;
        filter.case(&format!("rms_norm {N} {isa}"), values, "Gvalue/s", || {
            many(&mut || kernels.rms_norm(black_box(&x), &x, 1e-5, &mut y));
        });
        let mut acts = Activations::new();
        acts.quantize(&kernels, &x, 1, N);
        filter.case(&format!("quantize {N} {isa}"), values, "Gvalue/s", || {
            many(&mut || kernels.quantize(black_box(&x), &mut acts.whole()));
        });
        filter.case(&format!("quantize_normed {N} {isa}"), values, "Gvalue/s", || {
            many(&mut || {
                kernels.norm_scales(black_box(&x), N, 1e-5, &mut y[..1]);
                kernels.quantize_normed(&x, &y[..1], &x, &mut acts.whole());
            });
        });
        filter.case(&format!("quantize_gated {N} {isa}"), values, "Gvalue/s", || {
            many(&mut || kernels.quantize_gated(black_box(&x), &x, &mut acts.whole()));
        });
    }
}

/// Heads of 64; columns are query heads of one KV head, of one row or of two.
fn attention(filter: &Filter, isas: &[Isa]) {
    let head_dim = 64;
    for (columns, positions) in [(1, 512_usize), (3, 512), (6, 512), (7, 512), (8, 512), (3, 4096)]
    {
        let n = positions * head_dim;
        let (halves, codes, ones) = (vec![0x3000; n], vec![7; n], vec![1.0; positions]);
        let caches = [
            ("f16", KvHead::F16 { k: &halves, v: &halves }),
            ("int8", KvHead::I8 { k: &codes, v: &codes, k_scales: &ones, v_scales: &ones }),
        ];
        let (q, lens) = (vec![0.01; columns * head_dim], vec![positions; columns]);
        let queries = Queries { q: &q, lens: &lens, scale: 0.125 };
        let mut state = vec![0.0; columns * attention_state_len(head_dim)];
        let macs = (2 * columns * n) as f64;
        for isa in isas {
            let kernels = Kernels::new(*isa);
            for (kind, cache) in caches {
                let isa = isa.name();
                let name = format!("attention {columns} columns {positions} {kind} {isa}");
                filter.case(&name, macs, "GMAC/s", || {
                    kernels.attention_clear(&mut state, head_dim);
                    let tiles = 0..positions.div_ceil(ATTENTION_TILE);
                    kernels.attention(black_box(&queries), cache, tiles, &mut state);
                });
            }
        }
    }
}

fn main() {
    let words = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let filter = Filter(words);
    let isas: Vec<_> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
    read(&filter);
    vectors(&filter, &isas);
    attention(&filter, &isas);
    matmul(&filter, &isas);
}
