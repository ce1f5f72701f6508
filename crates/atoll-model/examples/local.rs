//! Loads a GGUF file, continues a prompt, and says how long it took; or measures the speed.
//!
//! ```text
//! local MODEL.gguf run "The capital of France is" [TOKENS [CHUNK]]
//! local MODEL.gguf eval TEXT.txt [CONTEXT [CHUNKS]]
//! local MODEL.gguf bench [PREFILL [DECODE [REPEAT]]]
//! ```
//! `ATOLL_THREADS` and `ATOLL_KERNELS` (generic, avx2, avx512) choose what computes.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to its user")]

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use atoll_model::bench::{BenchOptions, bench};
use atoll_model::perplexity::{PerplexityOptions, perplexity};
use atoll_model::{Compute, GenerateOptions, Generator, GgufFile, Isa, Part, Pool, SamplerConfig};
use atoll_model::{Stage, TensorSource, Tokenizer};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, what, rest @ ..] = args.as_slice() else {
        return Err("usage: local MODEL.gguf run PROMPT | eval TEXT | bench".into());
    };
    let threads = std::env::var("ATOLL_THREADS").ok().map(|value| value.parse()).transpose()?;
    let isa = match std::env::var("ATOLL_KERNELS") {
        Ok(name) => Isa::parse(&name).ok_or("ATOLL_KERNELS: generic, avx2 or avx512")?,
        Err(_) => Isa::detect(),
    };
    let compute = Arc::new(Compute::new(isa, threads.unwrap_or_else(Pool::available))?);

    let file = GgufFile::open(model.as_ref())?;
    let tokenizer = Tokenizer::from_gguf(file.metadata())?;
    let source = TensorSource::Gguf(file);
    let part = Part::whole(source.config());
    let stage = Arc::new(Stage::load(&source, &part, &compute, &mut |at| {
        eprint!("\rloading {:>5} of {} MB", at.bytes_done / 1_000_000, at.bytes_total / 1_000_000);
    })?);
    drop(source);
    eprintln!();
    let number = |index: usize, default: usize| match rest.get(index) {
        Some(text) => text.parse::<usize>(),
        None => Ok(default),
    };
    match what.as_str() {
        "run" => {
            let prompt = rest.first().ok_or("run needs a prompt")?;
            run(&stage, &tokenizer, prompt, number(1, 64)?, number(2, 256)?)
        }
        "eval" => {
            let text = std::fs::read_to_string(rest.first().ok_or("eval needs a text")?)?;
            eval(&stage, &tokenizer, &text, number(1, 512)?, number(2, 40)?)
        }
        "bench" => {
            let options = BenchOptions {
                prefill_tokens: number(0, 512)?,
                decode_tokens: number(1, 128)?,
                repeat: number(2, 3)?,
            };
            println!("{}", serde_json::to_string(&bench(&stage, options)?)?);
            Ok(())
        }
        other => Err(format!("{other}: run, eval or bench").into()),
    }
}

fn run(
    stage: &Arc<Stage>,
    tokenizer: &Tokenizer,
    prompt: &str,
    tokens_max: usize,
    prefill_chunk: usize,
) -> Result<(), Failure> {
    let prompt = tokenizer.encode(prompt, true)?;
    let sampler = SamplerConfig { temperature: 0.0, logprobs: 10, ..SamplerConfig::default() };
    let options = GenerateOptions { sampler, tokens_max, prefill_chunk };
    let mut generator = Generator::new(Arc::clone(stage), prompt.len() + tokens_max)?;
    let mut text = tokenizer.stream();
    let mut first_top = Vec::new();
    let generated = generator.generate(
        &prompt,
        &options,
        &|token| tokenizer.is_end(token),
        &AtomicBool::new(false),
        &mut |sampled| {
            if first_top.is_empty() {
                first_top.clone_from(&sampled.top);
            }
            eprint!("{}", text.push(sampled.token));
            let _ = std::io::stderr().flush();
            ControlFlow::Continue(())
        },
    )?;
    eprintln!("{}", text.finish());
    let report = serde_json::json!({
        "prompt_tokens": prompt,
        "tokens": generated.tokens,
        "first_top": first_top,
        "ttft_s": generated.timings.ttft_s,
        "prefill_tokens_per_s": generated.timings.prefill_tokens_per_s(),
        "decode_tokens_per_s": generated.timings.decode_tokens_per_s(),
    });
    println!("{report}");
    Ok(())
}

fn eval(
    stage: &Stage,
    tokenizer: &Tokenizer,
    text: &str,
    context: usize,
    chunks_max: usize,
) -> Result<(), Failure> {
    let tokens = tokenizer.encode(text, true)?;
    let bos = tokenizer.encode("", true)?.first().copied();
    let options = PerplexityOptions { context, chunks_max, bos };
    let found = perplexity(stage, None, &tokens, options, &mut |done, of, ppl| {
        eprint!("\rchunk {done} of {of}: {ppl:.3}");
    })?;
    eprintln!();
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}
