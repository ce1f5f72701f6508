#![expect(clippy::unwrap_used, reason = "tests")]

use atoll_kernels::{BlockType, Isa};

use super::*;
use crate::config::Architecture;
use crate::gguf::GgufFile;
use crate::pool::Compute;
use crate::tensor::TensorSource;
use crate::tiny;
use crate::weights::Part;

fn stage(threads: usize) -> Arc<Stage> {
    let config = tiny::config(Architecture::Qwen3);
    let bytes = tiny::random_model(&config, BlockType::Q8_0, 11);
    let source = TensorSource::Gguf(GgufFile::parse(bytes).unwrap());
    let compute = Arc::new(Compute::new(Isa::detect(), threads).unwrap());
    Arc::new(Stage::load(&source, &Part::whole(&config), &compute, &mut |_| {}).unwrap())
}

fn options(tokens_max: usize, prefill_chunk: usize) -> GenerateOptions {
    let sampler = SamplerConfig { temperature: 0.0, ..SamplerConfig::default() };
    GenerateOptions { sampler, tokens_max, prefill_chunk }
}

fn generate(generator: &mut Generator, prompt: &[u32], options: &GenerateOptions) -> Generated {
    let go = &mut |_: &Sampled| ControlFlow::Continue(());
    generator.generate(prompt, options, &|_| false, &AtomicBool::new(false), go).unwrap()
}

/// The most likely token after `tokens`, everything computed afresh.
fn most_likely(stage: &Stage, tokens: &[u32]) -> u32 {
    let mut kv = stage.new_kv_cache(tokens.len());
    let rows = stage.forward(&mut kv, StageInput::Tokens(tokens), 0).unwrap();
    let logits = stage.logits(rows.row(tokens.len() - 1)).unwrap();
    let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    u32::try_from(best.unwrap()).unwrap()
}

#[test]
fn greedy_tokens_are_those_of_full_recomputation_for_any_chunk() {
    let stage = stage(2);
    let prompt: Vec<u32> = (1..=37).collect();
    let mut expected = prompt.clone();
    for _ in 0..12 {
        expected.push(most_likely(&stage, &expected));
    }
    for chunk in [0, 1, 7, 64] {
        let mut generator = Generator::new(Arc::clone(&stage), 100).unwrap();
        let generated = generate(&mut generator, &prompt, &options(12, chunk));
        assert_eq!(generated.tokens, expected[37..]);
        assert_eq!(generated.reason, FinishReason::Length);
        let timings = generated.timings;
        assert_eq!((timings.prefill_tokens, timings.decode_tokens), (37, 11));
        assert!(timings.ttft_s > 0.0 && timings.decode_tokens_per_s() > 0.0);
    }
}

#[test]
fn a_prompt_that_goes_on_costs_only_its_new_part() {
    let stage = stage(1);
    let mut generator = Generator::new(Arc::clone(&stage), 100).unwrap();
    let first = generate(&mut generator, &[5, 6, 7], &options(8, 64));
    let mut prompt = vec![5, 6, 7];
    prompt.extend(&first.tokens);
    prompt.extend([9, 9]);
    let warm = generate(&mut generator, &prompt, &options(8, 64));
    // The last generated token was never computed, and two are new.
    assert_eq!(warm.timings.prefill_tokens, 3);
    let mut cold = Generator::new(stage, 100).unwrap();
    assert_eq!(generate(&mut cold, &prompt, &options(8, 64)).tokens, warm.tokens);
    let again = generate(&mut cold, &prompt, &options(8, 64));
    assert_eq!((again.timings.prefill_tokens, again.tokens), (1, warm.tokens));
}

#[test]
fn a_generation_ends_for_every_reason() {
    let stage = stage(1);
    let mut generator = Generator::new(stage, 20).unwrap();
    let full = generate(&mut generator, &[1, 2, 3], &options(100, 64));
    assert_eq!((full.tokens.len(), full.reason), (17, FinishReason::Length));
    assert!(generate(&mut generator, &[1, 2, 3], &options(0, 64)).tokens.is_empty());

    let never = AtomicBool::new(false);
    let go = &mut |_: &Sampled| ControlFlow::Continue(());
    let end = full.tokens[4];
    let at = full.tokens.iter().position(|&token| token == end).unwrap();
    let options = options(100, 2);
    let ended =
        generator.generate(&[1, 2, 3], &options, &|token| token == end, &never, go).unwrap();
    assert_eq!((&ended.tokens[..], ended.reason), (&full.tokens[..at], FinishReason::End));

    let mut seen = 0;
    let stop = &mut |_: &Sampled| {
        seen += 1;
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let stopped = generator.generate(&[1, 2, 3], &options, &|_| false, &never, stop).unwrap();
    assert_eq!((stopped.tokens.len(), stopped.reason), (3, FinishReason::Stopped));

    let cancel = AtomicBool::new(false);
    let cancel_it = &mut |_: &Sampled| {
        cancel.store(true, Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    let cancelled = generator.generate(&[1, 2], &options, &|_| false, &cancel, cancel_it).unwrap();
    assert_eq!((cancelled.tokens.len(), cancelled.reason), (1, FinishReason::Cancelled));
    let before = generator.generate(&[4, 5, 6], &options, &|_| false, &cancel, go).unwrap();
    assert_eq!((before.tokens.len(), before.reason), (0, FinishReason::Cancelled));
    // What was cut short leaves nothing wrong behind.
    assert_eq!(generate(&mut generator, &[1, 2, 3], &options).tokens, full.tokens);
}

#[test]
fn bad_prompts_are_refused() {
    let stage = stage(1);
    let check = |prompt: &[u32], expected: &str| {
        let mut generator = Generator::new(Arc::clone(&stage), 8).unwrap();
        let go = &mut |_: &Sampled| ControlFlow::Continue(());
        let never = AtomicBool::new(false);
        let result = generator.generate(prompt, &options(1, 4), &|_| false, &never, go);
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(&[], "empty");
    check(&[1; 8], "8 tokens, the context holds 8");
    check(&[1, 2, 9999], "9999");
}
