#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use atoll_kernels::{BlockType, Isa};

use super::*;
use crate::config::Architecture;
use crate::gguf::GgufFile;
use crate::pool::Compute;
use crate::tensor::TensorSource;
use crate::weights::Part;
use crate::{reference, tiny};

/// Rounding of keys and values, on the perplexity itself.
const TOLERANCE: f64 = 1e-3;

fn source(seed: u64) -> TensorSource {
    let bytes = tiny::random_model(&tiny::config(Architecture::Llama), BlockType::F32, seed);
    TensorSource::Gguf(GgufFile::parse(bytes).unwrap())
}

fn stage(source: &TensorSource) -> Stage {
    let compute = Arc::new(Compute::new(Isa::detect(), 2).unwrap());
    Stage::load(source, &Part::whole(source.config()), &compute, &mut |_| {}).unwrap()
}

/// Natural logarithms of the probabilities of the reference.
fn log_probabilities(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| logit - sum.ln()).collect()
}

/// The definition, on the reference: chunks of 16, positions 8..15 predict tokens 9..16.
fn definition(tokens: &[u32], bos: u32) -> (f64, f64, f64) {
    let (model, base) = (source(1), source(2));
    let (mut nll, mut kl, mut same, mut n) = (0.0, 0.0, 0.0, 0.0);
    for chunk in tokens.chunks_exact(16) {
        let mut chunk = chunk.to_vec();
        chunk[0] = bos;
        let rows = reference::logits(&model, &chunk);
        let base_rows = reference::logits(&base, &chunk);
        for position in 8..15 {
            let p = log_probabilities(&rows[position]);
            let q = log_probabilities(&base_rows[position]);
            nll -= p[chunk[position + 1] as usize];
            kl += p.iter().zip(&q).map(|(p, q)| q.exp() * (q - p)).sum::<f64>();
            let top = |p: &[f64]| (0..p.len()).max_by(|&a, &b| p[a].total_cmp(&p[b]));
            same += f64::from(u8::from(top(&p) == top(&q)));
            n += 1.0;
        }
    }
    ((nll / n).exp(), kl / n, same / n)
}

#[test]
fn it_is_the_definition() {
    let tokens: Vec<u32> = (0..50).map(|i| i * 37 % 320).collect();
    let (ppl, kl, same) = definition(&tokens, 256);
    let options = PerplexityOptions { context: 16, chunks_max: 10, bos: Some(256) };
    let (model, base) = (stage(&source(1)), stage(&source(2)));
    let mut seen = Vec::new();
    let mut progress = |done, of, ppl| seen.push((done, of, ppl));
    let found = perplexity(&model, Some(&base), &tokens, options, &mut progress).unwrap();
    assert!((found.ppl / ppl - 1.0).abs() < TOLERANCE, "{} {ppl}", found.ppl);
    assert_eq!((found.tokens, found.chunks, seen.len()), (21, 3, 3));
    assert_eq!(seen[2], (3, 3, found.ppl));
    let divergence = found.divergence.unwrap();
    assert!((divergence.kl_mean / kl - 1.0).abs() < 10.0 * TOLERANCE);
    assert!(divergence.kl_p99 > divergence.kl_mean);
    assert!((divergence.top1_agreement - same).abs() < 1e-9);

    let itself = perplexity(&model, Some(&model), &tokens, options, &mut |_, _, _| {}).unwrap();
    let divergence = itself.divergence.unwrap();
    assert!(divergence.kl_mean.abs() < 1e-12);
    assert!((divergence.top1_agreement - 1.0).abs() < 1e-12);
    let one = PerplexityOptions { chunks_max: 1, ..options };
    assert_eq!(perplexity(&model, None, &tokens, one, &mut |_, _, _| {}).unwrap().tokens, 7);
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let model = stage(&source(1));
    let check = |n: usize, context: usize, chunks_max: usize, expected: &str| {
        let options = PerplexityOptions { context, chunks_max, bos: None };
        let result = perplexity(&model, None, &vec![1; n], options, &mut |_, _, _| {});
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(15, 16, 1, "15 tokens, one chunk needs 16");
    check(15, 2, 1, "nothing to score");
    check(15, 8, 0, "nothing to score");
}
