//! How fast a model runs here, beside how fast this machine can read.

use std::hint::black_box;
use std::time::Instant;

use ndarray::Axis;
use serde::Serialize;

use crate::error::ModelError;
use crate::pool::Pool;
use crate::stage::{Stage, StageInput};

/// Tokens in the cache before decoding is timed.
const DECODE_PROMPT: usize = 16;
/// Buffer that is read to measure bandwidth; larger than the caches of the machines we know.
const READ_BYTES: usize = 512 << 20;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchOptions {
    /// Tokens of the prompt whose prefill is timed.
    pub prefill_tokens: usize,
    /// Tokens decoded one by one after a prompt of 16.
    pub decode_tokens: usize,
    /// How often each is measured, after one run that does not count.
    pub repeat: usize,
}

/// What was measured; `atoll.bench/1`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    /// One figure per repetition.
    pub prefill_tokens_per_s: Vec<f64>,
    /// One figure per repetition.
    pub decode_tokens_per_s: Vec<f64>,
    /// Bytes of packed weights that one decoded token reads.
    pub weight_bytes_per_token: usize,
    /// Fastest sequential read by the same threads, from a buffer of 512 MiB.
    pub read_bandwidth_bytes_per_s: f64,
    /// Threads that computed.
    pub threads: usize,
}

/// Measures the whole model `stage` with random tokens. Every logit vector is computed, none is
/// sampled from.
///
/// # Errors
/// As [`Stage::forward`]; [`ModelError::InvalidInput`] if there is nothing to measure.
pub fn bench(stage: &Stage, options: BenchOptions) -> Result<BenchReport, ModelError> {
    let BenchOptions { prefill_tokens, decode_tokens, repeat } = options;
    if repeat == 0 || prefill_tokens == 0 || decode_tokens == 0 {
        let why = format!("{options:?} has nothing to measure");
        return Err(ModelError::InvalidInput { what: "bench", why });
    }
    let pool = &stage.compute().pool;
    let mut report = BenchReport {
        prefill_tokens_per_s: Vec::new(),
        decode_tokens_per_s: Vec::new(),
        weight_bytes_per_token: stage.weight_bytes_per_token(),
        read_bandwidth_bytes_per_s: 0.0,
        threads: pool.threads(),
    };
    let memory = vec![1_u64; READ_BYTES / size_of::<u64>()];
    for round in 0..=repeat {
        let seed = round as u64 + 1;
        let prompt = random_tokens(seed, prefill_tokens.max(decode_tokens), stage);
        let prefill_s = prefill(stage, &prompt[..prefill_tokens])?;
        let decode_s = decode(stage, &prompt[..decode_tokens])?;
        let bandwidth = read_bandwidth(pool, &memory);
        if round > 0 {
            report.prefill_tokens_per_s.push(prefill_tokens as f64 / prefill_s);
            report.decode_tokens_per_s.push(decode_tokens as f64 / decode_s);
            report.read_bandwidth_bytes_per_s = report.read_bandwidth_bytes_per_s.max(bandwidth);
        }
    }
    Ok(report)
}

/// Seconds for a whole prompt and the logits after it.
fn prefill(stage: &Stage, tokens: &[u32]) -> Result<f64, ModelError> {
    let mut kv = stage.new_kv_cache(tokens.len());
    let start = Instant::now();
    let rows = stage.forward(&mut kv, StageInput::Tokens(tokens), 0)?;
    black_box(stage.logits(rows.index_axis(Axis(0), rows.nrows() - 1))?);
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds for `tokens` one by one, behind a prompt of [`DECODE_PROMPT`].
fn decode(stage: &Stage, tokens: &[u32]) -> Result<f64, ModelError> {
    let mut kv = stage.new_kv_cache(DECODE_PROMPT + tokens.len());
    let prompt = random_tokens(0, DECODE_PROMPT, stage);
    stage.forward(&mut kv, StageInput::Tokens(&prompt), 0)?;
    let start = Instant::now();
    for token in tokens {
        let from_pos = kv.len();
        let input = StageInput::Tokens(std::slice::from_ref(token));
        let rows = stage.forward(&mut kv, input, from_pos)?;
        black_box(stage.logits(rows.row(0))?);
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Bytes per second at which the pool's threads read `memory` once, each its own part in order.
fn read_bandwidth(pool: &Pool, memory: &[u64]) -> f64 {
    let mut parts: Vec<_> = memory.chunks(memory.len().div_ceil(pool.threads())).collect();
    let start = Instant::now();
    pool.for_each(&mut parts, |part| {
        let mut sums = [0_u64; 16];
        for line in part.chunks_exact(16) {
            for (sum, value) in sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(*value);
            }
        }
        black_box(sums);
    });
    size_of_val(memory) as f64 / start.elapsed().as_secs_f64()
}

/// `n` token ids from a fixed sequence (splitmix64).
fn random_tokens(seed: u64, n: usize, stage: &Stage) -> Vec<u32> {
    let vocab_size = stage.config().vocab_size as u64;
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % vocab_size).expect("vocabularies are far smaller")
    };
    (0..n).map(|_| next()).collect()
}
