//! How fast a model runs here, beside how fast this machine can read, and beside another program
//! given the same work in turns.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use ndarray::Axis;
use serde::Serialize;

use crate::error::ModelError;
use crate::kv_cache::KvCache;
use crate::mapped::large_memory;
use crate::pool::Compute;
use crate::stage::{Sequence, Stage, StageInput};

/// Buffer that is read to measure bandwidth; larger than the caches of the machines we know.
const READ_BYTES: usize = 512 << 20;
/// Rounds of multiplications that take some milliseconds.
const PEAK_ROUNDS: usize = 1 << 20;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchOptions {
    /// Tokens of the prompt whose prefill is timed.
    pub prefill_tokens: usize,
    /// Tokens decoded one by one behind the context.
    pub decode_tokens: usize,
    /// Tokens in the cache before decoding is timed.
    pub context: usize,
    /// Sequences decoded together, beside one alone; 1 means that nothing is decoded together.
    pub batch: usize,
    /// How often each is measured, after one run that does not count.
    pub repeat: usize,
    /// Wait before each decoded token, not counted: what a stage of a ring does until its turn
    /// comes, so that caches and clocks are as they are then.
    pub pause: Duration,
}

/// Something to compute and to time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "work")]
pub enum Work {
    /// A prompt from an empty cache, and the logits after it.
    Prefill {
        /// Its tokens.
        tokens: Vec<u32>,
    },
    /// Tokens one by one, with all logits after each; several sequences go in step. The contexts
    /// are not timed; those of one call are often those of the call before.
    Decode {
        /// What each sequence has in its cache before; none is empty.
        contexts: Vec<Vec<u32>>,
        /// What each goes on with; equally many.
        tokens: Vec<Vec<u32>>,
    },
}

impl Work {
    /// Tokens whose computing is timed, of all sequences together.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        match self {
            Self::Prefill { tokens } => tokens.len(),
            Self::Decode { tokens, .. } => tokens.iter().map(Vec::len).sum(),
        }
    }
}

/// Does a piece of work in another program and gives the seconds that it took.
pub type Peer<'a, E> = dyn FnMut(&Work) -> Result<f64, E> + 'a;

/// Speeds at one kind of work, one figure per repetition, of all sequences together.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Speeds {
    /// Atoll's.
    pub tokens_per_s: Vec<f64>,
    /// The other program's, measured in turns with it.
    pub peer_tokens_per_s: Vec<f64>,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchReport {
    /// A prompt.
    pub prefill: Speeds,
    /// One sequence.
    pub decode: Speeds,
    /// Several sequences together, if that was asked for.
    pub batch: Option<Speeds>,
    /// Bytes of packed weights that one decoded token reads.
    pub weight_bytes_per_token: usize,
    /// Multiplications of one token with the weights.
    pub macs_per_token: usize,
    /// Bytes of the cache that the first decoded token reads.
    pub kv_bytes_per_token: usize,
    /// Multiplications of 8-bit integers by the same threads, out of registers.
    pub int8_peak_macs_per_s: f64,
    /// Sequential reads by the same threads from a buffer of 512 MiB, around each repetition of
    /// decoding one sequence: the better of two ways to read.
    pub read_bandwidth_bytes_per_s: Vec<f64>,
    /// The fastest such read by one thread.
    pub read_bandwidth_1_thread_bytes_per_s: f64,
    /// Threads that computed.
    pub threads: usize,
}

/// Measures the whole model `stage` with random tokens, in turns with `peer` where there is one:
/// of each pair another one begins. Every logit vector is computed, none is sampled from.
///
/// # Errors
/// As [`Stage::forward`]; [`ModelError::InvalidInput`] if there is nothing to measure; what `peer`
/// returns.
pub fn bench<E: From<ModelError>>(
    stage: &Stage,
    options: BenchOptions,
    mut peer: Option<&mut Peer<'_, E>>,
) -> Result<BenchReport, E> {
    let BenchOptions { prefill_tokens, decode_tokens, context, batch, repeat, pause } = options;
    if [prefill_tokens, decode_tokens, context, batch, repeat].contains(&0) {
        let why = format!("{options:?} has nothing to measure");
        return Err(ModelError::InvalidInput { what: "bench", why }.into());
    }
    let (config, compute) = (stage.config(), stage.compute());
    let threads = compute.pool.threads();
    let mut report = BenchReport {
        prefill: Speeds::default(),
        decode: Speeds::default(),
        batch: (batch > 1).then(Speeds::default),
        weight_bytes_per_token: stage.weight_bytes_per_token(),
        macs_per_token: stage.macs_per_token(),
        kv_bytes_per_token: KvCache::bytes_for(config, config.n_layers, context, compute.kv),
        int8_peak_macs_per_s: 0.0,
        read_bandwidth_bytes_per_s: Vec::new(),
        read_bandwidth_1_thread_bytes_per_s: 0.0,
        threads,
    };
    let mut memory = large_memory(READ_BYTES)?;
    memory.fill(1);
    let memory: &[u64] = bytemuck::cast_slice(&memory);
    let mut runner = Runner { stage, pause, ready: Vec::new() };
    let sequences = |n: usize, seed: u64, len: usize| -> Vec<Vec<u32>> {
        (0..n as u64).map(|at| random_tokens(seed + (at << 32), len, stage)).collect()
    };
    let decode = |n: usize, seed: u64| Work::Decode {
        contexts: sequences(n, 0, context),
        tokens: sequences(n, seed, decode_tokens),
    };
    for round in 0..=repeat {
        let seed = round as u64 + 1;
        let prefill = Work::Prefill { tokens: random_tokens(seed, prefill_tokens, stage) };
        let mut todo = vec![(&mut report.prefill, prefill), (&mut report.decode, decode(1, seed))];
        todo.extend(report.batch.as_mut().map(|speeds| (speeds, decode(batch, seed))));
        let mut bandwidth = 0.0;
        for (index, (speeds, work)) in todo.into_iter().enumerate() {
            let is_decode = index == 1;
            let (mut ours, mut theirs) = (None, None);
            for turn in 0..2 {
                if (turn + round) % 2 == 0 {
                    let read = || read_seconds(compute, threads, memory);
                    let before = is_decode.then(read);
                    ours = Some(runner.seconds(&work)?);
                    if let Some(before) = before {
                        let (both, after) = (2.0 * size_of_val(memory) as f64, read());
                        let ways = [0, 1].map(|way| both / (before[way] + after[way]));
                        bandwidth = ways[0].max(ways[1]);
                    }
                } else if let Some(peer) = &mut peer {
                    theirs = Some(peer(&work)?);
                }
            }
            if round > 0 {
                if is_decode {
                    report.read_bandwidth_bytes_per_s.push(bandwidth);
                }
                let tokens = work.n_tokens() as f64;
                speeds.tokens_per_s.extend(ours.map(|seconds| tokens / seconds));
                speeds.peer_tokens_per_s.extend(theirs.map(|seconds| tokens / seconds));
            }
        }
        let raise = |fastest: &mut f64, found: f64| *fastest = fastest.max(found);
        let [by_itself, asked] = read_seconds(compute, 1, memory);
        let alone = size_of_val(memory) as f64 / by_itself.min(asked);
        raise(&mut report.read_bandwidth_1_thread_bytes_per_s, alone);
        raise(&mut report.int8_peak_macs_per_s, int8_peak(compute));
    }
    Ok(report)
}

/// Does work on this model.
struct Runner<'a> {
    stage: &'a Stage,
    /// Before each decoded token.
    pause: Duration,
    /// The contexts that sequences had last, and their caches.
    ready: Vec<(Vec<u32>, KvCache)>,
}

impl Runner<'_> {
    /// Seconds that `work` takes.
    fn seconds(&mut self, work: &Work) -> Result<f64, ModelError> {
        match work {
            Work::Prefill { tokens } => {
                let mut kv = self.stage.new_kv_cache(tokens.len());
                let start = Instant::now();
                let rows = self.stage.forward(&mut kv, StageInput::Tokens(tokens), 0)?;
                black_box(self.stage.logits(rows.index_axis(Axis(0), rows.nrows() - 1))?);
                Ok(start.elapsed().as_secs_f64())
            }
            Work::Decode { contexts, tokens } => {
                let mut caches = self.caches(contexts)?;
                let mut spent = Duration::ZERO;
                for at in 0..tokens[0].len() {
                    if !self.pause.is_zero() {
                        thread::sleep(self.pause);
                    }
                    let start = Instant::now();
                    let sequences = caches.iter_mut().zip(tokens).map(|(kv, tokens)| {
                        let (from_pos, token) = (kv.len(), std::slice::from_ref(&tokens[at]));
                        Sequence { kv, input: StageInput::Tokens(token), from_pos }
                    });
                    let rows = self.stage.forward_batch(&mut sequences.collect::<Vec<_>>())?;
                    black_box(self.stage.logits_of_rows(rows.view())?);
                    spent += start.elapsed();
                }
                Ok(spent.as_secs_f64())
            }
        }
    }

    /// Caches that hold `contexts`, with room to go on.
    fn caches(&mut self, contexts: &[Vec<u32>]) -> Result<Vec<KvCache>, ModelError> {
        for (at, context) in contexts.iter().enumerate() {
            if self.ready.get(at).is_some_and(|(known, _)| known == context) {
                continue;
            }
            let mut kv = self.stage.new_kv_cache(self.stage.config().context_max);
            self.stage.forward(&mut kv, StageInput::Tokens(context), 0)?;
            self.ready.truncate(at);
            self.ready.push((context.clone(), kv));
        }
        Ok(self.ready[..contexts.len()].iter().map(|(_, kv)| kv.clone()).collect())
    }
}

/// Seconds in which `threads` of the pool's threads read `memory` once, each its own part in order:
/// by itself, and asking for what lies ahead.
fn read_seconds(compute: &Compute, threads: usize, memory: &[u64]) -> [f64; 2] {
    let mut parts: Vec<_> = memory.chunks(memory.len().div_ceil(threads)).collect();
    [false, true].map(|is_asked| {
        let start = Instant::now();
        compute.pool.for_each(&mut parts, |part| {
            black_box(compute.kernels.read(part, is_asked));
        });
        start.elapsed().as_secs_f64()
    })
}

/// Multiplications per second of 8-bit integers that the pool's threads do out of registers.
fn int8_peak(compute: &Compute) -> f64 {
    let mut done = vec![0_u64; compute.pool.threads()];
    let start = Instant::now();
    compute.pool.for_each(&mut done, |macs| *macs = compute.kernels.int8_peak(PEAK_ROUNDS));
    done.iter().sum::<u64>() as f64 / start.elapsed().as_secs_f64()
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use super::*;
    use crate::{Architecture, BlockType, Compute, GgufFile, Isa, Part, TensorSource, tiny};

    fn stage() -> Stage {
        let config = tiny::config(Architecture::Llama);
        let file = GgufFile::parse(tiny::random_model(&config, BlockType::Q8_0, 1)).unwrap();
        let compute = Arc::new(Compute::new(Isa::detect(), 1).unwrap());
        let source = TensorSource::Gguf(file);
        Stage::load(&source, &Part::whole(&config), &compute, &mut |_| {}).unwrap()
    }

    const OPTIONS: BenchOptions = BenchOptions {
        prefill_tokens: 5,
        decode_tokens: 3,
        context: 7,
        batch: 4,
        repeat: 3,
        pause: Duration::ZERO,
    };

    #[test]
    fn the_peer_gets_the_same_work_in_turns() {
        let mut asked: Vec<Work> = Vec::new();
        let mut peer = |work: &Work| {
            asked.push(work.clone());
            Ok::<_, ModelError>(0.5)
        };
        let report = bench(&stage(), OPTIONS, Some(&mut peer)).unwrap();
        assert_eq!(report.prefill.peer_tokens_per_s, [10.0; 3]);
        assert_eq!(report.decode.peer_tokens_per_s, [6.0; 3]);
        let batch = report.batch.unwrap();
        assert_eq!(batch.peer_tokens_per_s, [24.0; 3]);
        assert_eq!(batch.tokens_per_s.len(), 3);
        // One round does not count; the others are all of different tokens.
        assert_eq!(asked.len(), 12);
        let Work::Decode { contexts, tokens } = &asked[11] else { panic!("{asked:?}") };
        assert_eq!((contexts.len(), contexts[3].len()), (4, 7));
        assert_eq!((tokens.len(), tokens[3].len()), (4, 3));
        assert_ne!(contexts[0], contexts[1]);
        assert!(asked[0] != asked[3] && asked[2] != asked[5]);
    }

    #[test]
    fn a_pause_is_made_and_not_counted() {
        let (stage, pause) = (stage(), Duration::from_millis(30));
        let mut runner = Runner { stage: &stage, pause, ready: Vec::new() };
        let work = Work::Decode { contexts: vec![vec![1]], tokens: vec![vec![1, 2, 3]] };
        let start = Instant::now();
        let counted = Duration::from_secs_f64(runner.seconds(&work).unwrap());
        assert!(start.elapsed() >= pause * 3, "three tokens");
        assert!(counted < pause * 3, "{counted:?}");
    }

    #[test]
    fn nothing_to_measure_is_an_error_and_so_is_the_peers() {
        let none = BenchOptions { repeat: 0, ..OPTIONS };
        let error = bench::<ModelError>(&stage(), none, None).unwrap_err();
        assert!(error.to_string().contains("nothing to measure"), "{error}");
        let gone = || ModelError::InvalidInput { what: "peer", why: "gone".to_owned() };
        let error = bench(&stage(), OPTIONS, Some(&mut |_| Err(gone()))).unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
    }
}
