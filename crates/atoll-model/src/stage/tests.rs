#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use atoll_kernels::{BlockType, Isa, Kernels};
use ndarray::{Array2, s};
use quickcheck::{TestResult, quickcheck};

use super::*;
use crate::config::{Architecture, RopeScaling};
use crate::gguf::GgufFile;
use crate::kv_cache::KvType;
use crate::pool::Pool;
use crate::tiny::{self, Random};
use crate::{ModelError, reference};

fn tiny_source(config: &ModelConfig, dtype: BlockType, seed: u64) -> TensorSource {
    TensorSource::Gguf(GgufFile::parse(tiny::random_model(config, dtype, seed)).unwrap())
}

fn compute(isa: Isa, threads: usize) -> Arc<Compute> {
    let pool = Pool::exactly(threads).unwrap();
    Arc::new(Compute { kernels: Kernels::new(isa), pool, kv: KvType::F16 })
}

fn load(source: &TensorSource, part: &Part, compute: &Arc<Compute>) -> Stage {
    Stage::load(source, part, compute, &mut |_| {}).unwrap()
}

fn whole(source: &TensorSource, compute: &Arc<Compute>) -> Stage {
    load(source, &Part::whole(source.config()), compute)
}

fn random_tokens(seed: u64, n: usize) -> Vec<u32> {
    let mut random = Random(seed);
    (0..n).map(|_| u32::try_from(random.next() % tiny::VOCAB_MIN as u64).unwrap()).collect()
}

/// Logits after every position, in one call.
fn logits(stage: &Stage, tokens: &[u32]) -> Array2<f32> {
    let mut kv = stage.new_kv_cache(tokens.len());
    let rows = stage.forward(&mut kv, StageInput::Tokens(tokens), 0).unwrap();
    stage.logits_of_rows(rows.view()).unwrap()
}

fn bits(values: &Array2<f32>) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Compares with the reference: root mean square of the difference over that of the logits.
fn check_reference(config: &ModelConfig, dtype: BlockType, tolerance: f64) {
    let source = tiny_source(config, dtype, 7);
    let tokens = random_tokens(3, 70);
    let found = logits(&whole(&source, &compute(Isa::detect(), 2)), &tokens);
    let expected = reference::logits(&source, &tokens);
    let flat: Vec<f64> = expected.into_iter().flatten().collect();
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let off = squares(&mut found.iter().zip(&flat).map(|(&a, &b)| f64::from(a) - b));
    let relative = (off / squares(&mut flat.iter().copied())).sqrt();
    assert!(relative <= tolerance, "{:?} {dtype:?}: {relative}", config.architecture);
}

/// Keys and values are rounded to half precision (2^-11), everything else is single precision.
const FLOAT_TOLERANCE: f64 = 1e-3;
/// Activations are rounded to 8 bits per 32 columns before every product: an error of about
/// 0.5 % each, which 4 layers of random weights multiply.
const QUANTIZED_TOLERANCE: f64 = 0.05;

const ARCHITECTURES: [Architecture; 3] =
    [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3];

#[test]
fn float_models_equal_the_reference() {
    for architecture in ARCHITECTURES {
        check_reference(&tiny::config(architecture), BlockType::F32, FLOAT_TOLERANCE);
    }
}

#[test]
fn quantized_models_are_near_the_reference() {
    for dtype in [BlockType::Q8_0, BlockType::Q4_1, BlockType::Q5_0] {
        for architecture in ARCHITECTURES {
            check_reference(&tiny::config(architecture), dtype, QUANTIZED_TOLERANCE);
        }
    }
}

#[test]
fn scaled_positions_equal_the_reference() {
    let mut config = tiny::config(Architecture::Llama);
    config.rope.scaling = RopeScaling::Linear { factor: 3.0 };
    check_reference(&config, BlockType::F32, FLOAT_TOLERANCE);
    let factors = vec![1.0, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 8.0];
    config.rope.scaling = RopeScaling::Factors { factors };
    check_reference(&config, BlockType::F32, FLOAT_TOLERANCE);
}

#[test]
fn odd_shapes_equal_the_reference() {
    let mut config = tiny::config(Architecture::Qwen3);
    (config.dim, config.head_dim, config.n_heads, config.n_kv_heads) = (96, 32, 3, 1);
    (config.ffn_dim, config.rope.n_dims) = (160, 24);
    (config.vocab_size, config.ffn_dims) = (tiny::VOCAB_MIN + 5, vec![96, 160, 32, 128]);
    check_reference(&config, BlockType::F32, FLOAT_TOLERANCE);
    check_reference(&config, BlockType::Q8_0, QUANTIZED_TOLERANCE);
}

/// Cuts `0..n` at places drawn from `random`.
fn cuts(random: &mut Random, n: usize) -> Vec<usize> {
    let mut cuts = vec![0];
    while cuts[cuts.len() - 1] < n {
        let at = cuts[cuts.len() - 1];
        let step = usize::try_from(random.next()).unwrap() % (n - at).min(90) + 1;
        cuts.push(at + step);
    }
    cuts
}

/// Logits after every position, the model cut into stages and the tokens into calls.
fn logits_cut(
    source: &TensorSource,
    tokens: &[u32],
    compute: &Arc<Compute>,
    seed: u64,
) -> Array2<f32> {
    let mut random = Random(seed);
    let n_layers = source.config().n_layers;
    let layer_cuts = cuts(&mut random, n_layers);
    let stages: Vec<Stage> = layer_cuts
        .windows(2)
        .map(|pair| {
            let (embed, head) = (pair[0] == 0, pair[1] == n_layers);
            load(source, &Part { embed, layers: pair[0]..pair[1], head }, compute)
        })
        .collect();
    let mut caches: Vec<KvCache> =
        stages.iter().map(|stage| stage.new_kv_cache(tokens.len())).collect();
    let mut out = Array2::zeros((tokens.len(), source.config().vocab_size));
    for pair in cuts(&mut random, tokens.len()).windows(2) {
        let chunk = &tokens[pair[0]..pair[1]];
        let mut rows: Option<Array2<f32>> = None;
        for (stage, kv) in stages.iter().zip(&mut caches) {
            let input = match &rows {
                None => StageInput::Tokens(chunk),
                Some(rows) => StageInput::Rows(rows.view()),
            };
            rows = Some(stage.forward(kv, input, pair[0]).unwrap());
        }
        let rows = rows.unwrap();
        let logits = stages[stages.len() - 1].logits_of_rows(rows.view()).unwrap();
        out.slice_mut(s![pair[0]..pair[1], ..]).assign(&logits);
    }
    out
}

quickcheck! {
    fn bits_do_not_depend_on_the_route(seed: u64, which: u8, threads: u8) -> TestResult {
        let dtypes = [BlockType::F32, BlockType::F16, BlockType::Q4_1, BlockType::Q5_0];
        let dtype = dtypes[usize::from(which) % dtypes.len()];
        let architecture = ARCHITECTURES[usize::from(which / 4) % 3];
        let source = tiny_source(&tiny::config(architecture), dtype, seed);
        let tokens = random_tokens(seed, 150);
        let expected = bits(&logits(&whole(&source, &compute(Isa::Generic, 1)), &tokens));
        let other = compute(Isa::detect(), [1, 2, 3, 8][usize::from(threads) % 4]);
        TestResult::from_bool(bits(&logits_cut(&source, &tokens, &other, seed)) == expected)
    }
}

#[test]
fn a_long_call_is_many_passes() {
    let mut config = tiny::config(Architecture::Llama);
    config.context_max = 2048;
    let source = tiny_source(&config, BlockType::Q8_0, 1);
    let tokens = random_tokens(1, 2 * PASS_ROWS_MAX + 3);
    let compute = compute(Isa::detect(), 2);
    let expected = bits(&logits(&whole(&source, &compute), &tokens));
    assert_eq!(bits(&logits_cut(&source, &tokens, &compute, 5)), expected);
}

#[test]
fn tiles_of_positions_shared_out_to_threads_give_the_same_bits() {
    let mut config = tiny::config(Architecture::Llama);
    config.context_max = 2048;
    let source = tiny_source(&config, BlockType::F32, 4); // int8 would hide a last bit
    let tokens = random_tokens(4, 1203);
    let expected = logits(&whole(&source, &compute(Isa::detect(), 1)), &tokens);
    for threads in [2, 3, 8] {
        let stage = whole(&source, &compute(Isa::detect(), threads));
        let mut kv = stage.new_kv_cache(tokens.len());
        stage.forward(&mut kv, StageInput::Tokens(&tokens[..1200]), 0).unwrap();
        for at in 1200..tokens.len() {
            let row = stage.forward(&mut kv, StageInput::Tokens(&tokens[at..=at]), at).unwrap();
            let found = stage.logits(row.row(0)).unwrap();
            assert!(found == expected.row(at).to_vec(), "{threads} threads, position {at}");
        }
    }
}

#[test]
fn truncating_and_going_another_way_leaves_no_trace() {
    let source = tiny_source(&tiny::config(Architecture::Qwen2), BlockType::Q8_0, 2);
    let stage = whole(&source, &compute(Isa::detect(), 1));
    let tokens = random_tokens(9, 100);
    let mut kv = stage.new_kv_cache(100);
    stage.forward(&mut kv, StageInput::Tokens(&random_tokens(10, 90)), 0).unwrap();
    kv.truncate(0);
    stage.forward(&mut kv, StageInput::Tokens(&tokens[..40]), 0).unwrap();
    stage.forward(&mut kv, StageInput::Tokens(&random_tokens(11, 33)), 40).unwrap();
    kv.truncate(40);
    let rows = stage.forward(&mut kv, StageInput::Tokens(&tokens[40..]), 40).unwrap();
    let fresh = logits(&stage, &tokens);
    let expected = fresh.slice(s![40.., ..]).to_owned();
    assert_eq!(bits(&stage.logits_of_rows(rows.view()).unwrap()), bits(&expected));
    let one = stage.logits(rows.row(59)).unwrap();
    assert_eq!(one, fresh.row(99).to_vec());
}

#[test]
fn the_cache_grows_with_the_positions_and_not_beyond() {
    let config = tiny::config(Architecture::Llama);
    let source = tiny_source(&config, BlockType::Q8_0, 2);
    let stage = whole(&source, &compute(Isa::detect(), 1));
    let mut kv = stage.new_kv_cache(400);
    assert_eq!(kv.bytes(), 0);
    for position in 0..400 {
        stage.forward(&mut kv, StageInput::Tokens(&[1]), position).unwrap();
        let exact = KvCache::bytes_for(&config, 4, position + 1, KvType::F16);
        assert!((exact..=exact + exact / 4).contains(&kv.bytes()), "{position}");
    }
    assert_eq!(kv.bytes(), KvCache::bytes_for(&config, 4, 400, KvType::F16));
    let error = stage.forward(&mut kv, StageInput::Tokens(&[1]), 400).unwrap_err();
    assert!(matches!(error, ModelError::ContextExceeded { tokens: 401, context: 400 }));
    assert_eq!(kv.len(), 400);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let source = tiny_source(&tiny::config(Architecture::Llama), BlockType::Q8_0, 2);
    let compute = compute(Isa::detect(), 1);
    let stage = whole(&source, &compute);
    let middle = load(&source, &Part { embed: false, layers: 1..3, head: false }, &compute);
    let mut kv = stage.new_kv_cache(8);
    let wide = Array2::zeros((1, 65));
    let refused = |stage: &Stage, kv: &mut KvCache, input: StageInput<'_>, at, expected: &str| {
        let message = stage.forward(kv, input, at).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    refused(&stage, &mut kv, StageInput::Tokens(&[0]), 1, "position 1, the cache holds 0");
    refused(&stage, &mut kv, StageInput::Tokens(&[320]), 0, "320, the vocabulary has 320");
    refused(&stage, &mut kv, StageInput::Rows(wide.view()), 0, "65 columns, the model has 64");
    refused(&stage, &mut kv, StageInput::Tokens(&[0; 9]), 0, "9 tokens, the context holds 8");
    refused(&middle, &mut kv, StageInput::Tokens(&[0]), 0, "other layers");
    let mut kv = middle.new_kv_cache(8);
    refused(&middle, &mut kv, StageInput::Tokens(&[0]), 0, "without embedding");
    assert_eq!((kv.len(), kv.bytes()), (0, 0));
    assert!(middle.logits(wide.row(0)).unwrap_err().to_string().contains("no head"));
    let beyond = Part { embed: false, layers: 3..5, head: false };
    let error = Stage::load(&source, &beyond, &compute, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("layers 3..5 of 4"), "{error}");
}

#[test]
fn no_rows_in_no_rows_out() {
    let source = tiny_source(&tiny::config(Architecture::Llama), BlockType::Q8_0, 2);
    let stage = whole(&source, &compute(Isa::detect(), 2));
    let mut kv = stage.new_kv_cache(8);
    assert_eq!(stage.forward(&mut kv, StageInput::Tokens(&[]), 0).unwrap().dim(), (0, 64));
}

#[test]
fn a_scale_that_is_not_finite_is_refused_by_name() {
    let config = tiny::config(Architecture::Llama);
    let bytes = tiny::random_model(&config, BlockType::Q8_0, 2);
    let source = tiny_source(&config, BlockType::Q8_0, 2);
    for name in ["blk.2.ffn_down.weight", "blk.3.attn_norm.weight", "token_embd.weight"] {
        let stored = source.require(name).unwrap().bytes;
        let at = bytes.windows(stored.len()).position(|window| window == stored).unwrap();
        let mut broken = bytes.clone();
        broken[at..at + 4].copy_from_slice(&[0x00, 0x7e, 0xc0, 0x7f]);
        let broken = TensorSource::Gguf(GgufFile::parse(broken).unwrap());
        let part = Part::whole(&config);
        let result = Stage::load(&broken, &part, &compute(Isa::detect(), 1), &mut |_| {});
        let message = result.unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("finite"), "{message}");
    }
}

#[test]
fn loading_touches_and_counts_only_the_part() {
    let config = tiny::config(Architecture::Qwen2);
    let source = tiny_source(&config, BlockType::Q8_0, 2);
    let compute = compute(Isa::detect(), 2);
    let part = Part { embed: false, layers: 1..3, head: false };
    let stored: u64 = part
        .tensors(&config)
        .iter()
        .map(|spec| source.require(&spec.name).unwrap().bytes.len() as u64)
        .sum();
    let mut seen = Vec::new();
    let stage = Stage::load(&source, &part, &compute, &mut |at| seen.push(at)).unwrap();
    assert_eq!(seen.len(), part.tensors(&config).len());
    assert!(seen.iter().all(|at| at.bytes_total == stored));
    assert!(seen.is_sorted_by(|a, b| a.bytes_done < b.bytes_done));
    assert_eq!(seen.last().unwrap().bytes_done, stored);
    let packed = stage.weight_bytes() as f64;
    assert!((1.0..1.1).contains(&(packed / stored as f64)), "{packed} of {stored}");
    assert_eq!(stage.weight_bytes(), stage.weight_bytes_per_token());
}

/// Greedy tokens and the bits of every logit, of `prompts` side by side: prompts in chunks, then
/// `n` tokens each, all in one pass per step.
fn generations(stage: &Stage, prompts: &[Vec<u32>], chunk: usize, n: usize) -> Vec<Vec<u32>> {
    let mut kvs: Vec<KvCache> = prompts.iter().map(|_| stage.new_kv_cache(400)).collect();
    let mut all: Vec<Vec<u32>> = prompts.to_vec();
    let mut found = vec![Vec::new(); prompts.len()];
    let total = prompts.iter().map(Vec::len).max().unwrap() + n;
    loop {
        // Sequences end at their own lengths and so drop out one by one.
        let live = |at: usize, kvs: &[KvCache]| kvs[at].len() < prompts[at].len() + n - 1;
        let at: Vec<usize> = (0..kvs.len()).filter(|&at| live(at, &kvs)).collect();
        if at.is_empty() {
            return found;
        }
        let mut sequences = Vec::new();
        for (index, kv) in kvs.iter_mut().enumerate().filter(|(index, _)| at.contains(index)) {
            let from_pos = kv.len();
            let input = &all[index][from_pos..all[index].len().min(from_pos + chunk)];
            sequences.push(Sequence { kv, input: StageInput::Tokens(input), from_pos });
        }
        let counts: Vec<usize> = sequences.iter().map(|s| s.input.len()).collect();
        let rows = stage.forward_batch(&mut sequences).unwrap();
        let mut end = 0;
        for (&index, count) in at.iter().zip(counts) {
            end += count;
            if kvs[index].len() == all[index].len() {
                let logits = stage.logits(rows.row(end - 1)).unwrap();
                found[index].extend(logits.iter().map(|logit| logit.to_bits()));
                let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
                all[index].push(u32::try_from(best.unwrap()).unwrap());
            }
        }
        assert!(kvs.iter().all(|kv| kv.len() <= total), "it ends");
    }
}

#[test]
fn whole_generations_are_the_same_bits_on_every_route() {
    let isas = [Isa::Generic, Isa::Avx2, Isa::Avx512Vnni, Isa::Avx512Vbmi];
    for (architecture, dtype) in
        [(Architecture::Qwen3, BlockType::Q8_0), (Architecture::Llama, BlockType::F16)]
    {
        let source = tiny_source(&tiny::config(architecture), dtype, 4);
        // The longest crosses a tile of attention, so that its positions are shared out.
        let prompts: Vec<Vec<u32>> = (0..8)
            .map(|i| random_tokens(i, [5, 300, 33, 1, 64, 7, 250, 100][i as usize]))
            .collect();
        for kv in [KvType::F16, KvType::Int8] {
            let stage = |isa: Isa, threads: usize| {
                let (kernels, pool) = (Kernels::new(isa), Pool::exactly(threads).unwrap());
                whole(&source, &Arc::new(Compute { kernels, pool, kv }))
            };
            let plain = stage(Isa::Generic, 1);
            let expected: Vec<_> = prompts
                .iter()
                .map(|prompt| generations(&plain, std::slice::from_ref(prompt), 512, 6).remove(0))
                .collect();
            assert_eq!(expected[1].len(), 6 * tiny::VOCAB_MIN);
            for (i, isa) in isas.into_iter().filter(|isa| isa.is_available()).enumerate() {
                for (j, threads) in [1, 2, 3, 8].into_iter().enumerate() {
                    if isa == Isa::Generic && threads != 8 {
                        continue; // slow, and like the others
                    }
                    let stage = stage(isa, threads);
                    for batch in [1, 3, 8] {
                        let chunk = [1, 7, 64, 512][(i + j + batch) % 4];
                        for (batch, expected) in prompts.chunks(batch).zip(expected.chunks(batch)) {
                            let found = generations(&stage, batch, chunk, 6);
                            let route = format!("{isa:?} {threads} {chunk} {kv:?}");
                            assert!(found == expected, "{architecture:?} {route}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_batch_with_a_fault_changes_no_cache() {
    let source = tiny_source(&tiny::config(Architecture::Llama), BlockType::Q8_0, 2);
    let stage = whole(&source, &compute(Isa::detect(), 2));
    let (mut good, mut full) = (stage.new_kv_cache(8), stage.new_kv_cache(2));
    let mut sequences = [
        Sequence { kv: &mut good, input: StageInput::Tokens(&[1, 2]), from_pos: 0 },
        Sequence { kv: &mut full, input: StageInput::Tokens(&[1, 2, 3]), from_pos: 0 },
    ];
    let error = stage.forward_batch(&mut sequences).unwrap_err();
    assert!(matches!(error, ModelError::ContextExceeded { tokens: 3, context: 2 }), "{error}");
    assert_eq!((good.len(), full.len()), (0, 0));
}
