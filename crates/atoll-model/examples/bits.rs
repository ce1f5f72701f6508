//! Shows that a model's answers are the same bits on every route: `bits MODEL.gguf [TOKENS]`.
//!
//! One greedy generation of TOKENS tokens behind a prompt of 520 is repeated with other instruction
//! sets, numbers of threads, chunks of the prompt and companions in a batch, for caches of f16 and
//! of int8. Of each route, a line of JSON: the digest of the tokens and that of every logit's bits.
//! It ends with an error if any differs from the first route's of its kind of cache.

use std::sync::Arc;
use std::time::Instant;

use atoll_model::{
    BlobHash, Compute, GgufFile, Isa, KvCache, KvType, Part, Pool, Sequence, Stage, StageInput,
    TensorSource,
};

/// Longer than the longest chunk, and over a tile of attention.
const PROMPT: usize = 520;

/// A way to the same answer.
#[derive(Clone, Copy, Debug)]
struct Route {
    isa: Isa,
    threads: usize,
    chunk: usize,
    /// Sequences in every pass; the others have prompts of their own.
    batch: usize,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: bits MODEL.gguf [TOKENS]")?;
    let n: usize = args.next().map_or(Ok(256), |n| n.parse())?;
    let source = TensorSource::Gguf(GgufFile::open(path.as_ref())?);
    let first = Route { isa: Isa::detect(), threads: 1, chunk: 64, batch: 1 };
    let mut routes = vec![first];
    routes.extend([2, 3, 8].map(|threads| Route { threads, ..first }));
    routes.extend([1, 7, 512].map(|chunk| Route { chunk, ..first }));
    routes.extend([3, 8].map(|batch| Route { batch, threads: 2, ..first }));
    // The slowest last.
    let others =
        ["avx512-vbmi", "avx512", "avx2", "generic"].iter().filter_map(|name| Isa::parse(name));
    let others = others.filter(|isa| isa.is_available() && *isa != first.isa);
    routes.extend(others.map(|isa| Route { isa, threads: 2, chunk: 512, batch: 1 }));
    let mut faults = 0;
    let mut expected = [None, None];
    for route in &routes {
        for (kv, expected) in [KvType::F16, KvType::Int8].into_iter().zip(&mut expected) {
            let start = Instant::now();
            let found = generate(&source, *route, kv, n)?;
            let is_equal = *expected.get_or_insert_with(|| found.clone()) == found;
            faults += usize::from(!is_equal);
            let (tokens, logits) = found;
            let seconds = start.elapsed().as_secs_f64();
            let line = format!(
                "{{\"kv\":\"{kv:?}\",\"isa\":\"{}\",\"threads\":{},\"chunk\":{},\"batch\":{},\
                 \"n\":{n},\"tokens\":\"{tokens}\",\"logits\":\"{logits}\",\"equal\":{is_equal},\
                 \"seconds\":{seconds:.1}}}",
                route.isa.name(),
                route.threads,
                route.chunk,
                route.batch
            );
            use_stdout(&line)?;
        }
    }
    if faults > 0 { Err(format!("{faults} routes give other bits").into()) } else { Ok(()) }
}

fn use_stdout(line: &str) -> std::io::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}")
}

/// Digests of the tokens and of all logits of `n` greedy tokens by `route`.
fn generate(
    source: &TensorSource,
    route: Route,
    kv: KvType,
    n: usize,
) -> Result<(String, String), Failure> {
    let mut compute = Compute::new(route.isa, 1)?.with_kv(kv);
    compute.pool = Pool::exactly(route.threads)?;
    let part = Part::whole(source.config());
    let stage = Stage::load(source, &part, &Arc::new(compute), &mut |_| {})?;
    let vocab_size = stage.config().vocab_size;
    // Every sequence has a prompt of its own; companions are ahead by their number.
    let mut texts: Vec<Vec<u32>> = (0..route.batch)
        .map(|at| (0..PROMPT + at).map(|i| token(at, i, vocab_size)).collect())
        .collect();
    let mut caches: Vec<KvCache> =
        texts.iter().map(|text| stage.new_kv_cache(text.len() + n)).collect();
    let mut bits = Vec::new();
    while texts[0].len() < PROMPT + n {
        let mut sequences = Vec::new();
        for (kv, text) in caches.iter_mut().zip(&texts) {
            let from_pos = kv.len();
            let to = text.len().min(from_pos + route.chunk);
            let input = StageInput::Tokens(&text[from_pos..to]);
            sequences.push(Sequence { kv, input, from_pos });
        }
        let counts: Vec<usize> = sequences.iter().map(|sequence| sequence.input.len()).collect();
        let rows = stage.forward_batch(&mut sequences)?;
        let mut end = 0;
        for (at, count) in counts.into_iter().enumerate() {
            end += count;
            if caches[at].len() < texts[at].len() {
                continue;
            }
            let logits = stage.logits(rows.row(end - 1))?;
            if at == 0 {
                bits.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
                bits = BlobHash::of(&bits).0.to_vec();
            }
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            texts[at].push(u32::try_from(best.ok_or("a vocabulary without tokens")?)?);
        }
    }
    let tokens: Vec<u8> = texts[0].iter().flat_map(|token| token.to_le_bytes()).collect();
    let hex = |hash: [u8; 32]| hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let logits = <[u8; 32]>::try_from(bits).map_err(|_| "no token was generated")?;
    Ok((hex(BlobHash::of(&tokens).0), hex(logits)))
}

/// Token `i` of the prompt of sequence `at`: anything, always the same.
#[expect(clippy::cast_possible_truncation, reason = "below the vocabulary's size")]
fn token(at: usize, i: usize, vocab_size: usize) -> u32 {
    let mixed = (at * 7919 + i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 17) % vocab_size) as u32
}
