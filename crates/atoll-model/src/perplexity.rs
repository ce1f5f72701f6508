//! How well a model predicts a text, counted as `llama-perplexity` counts it, and how far one
//! model's predictions are from another's.

use ndarray::{Array2, ArrayView1, Axis, s};
use serde::Serialize;

use crate::error::ModelError;
use crate::pool::split::Parts;
use crate::stage::{Stage, StageInput};

/// Rows whose logits are held at a time: 64 × 150,000 × 4 bytes are 39 MB.
const ROWS_AT_A_TIME: usize = 64;

/// How to cut the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerplexityOptions {
    /// Tokens per chunk. Chunks do not overlap, and the first half of each is only context.
    pub context: usize,
    /// Number of chunks at most; the text may hold fewer.
    pub chunks_max: usize,
    /// Token that replaces the first of every chunk, for models whose texts begin with it.
    pub bos: Option<u32>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perplexity {
    /// exp(mean negative log-likelihood) of the scored tokens.
    pub ppl: f64,
    /// Standard error of `ppl`.
    pub ppl_error: f64,
    /// Tokens scored.
    pub tokens: usize,
    /// Chunks scored.
    pub chunks: usize,
    /// Against the other model, if there was one.
    #[serde(flatten)]
    pub divergence: Option<Divergence>,
}

/// How far a model's predictions are from those of a base model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Divergence {
    /// Mean over tokens of KL(base ‖ model), nats.
    pub kl_mean: f64,
    /// 99th percentile of the same.
    pub kl_p99: f64,
    /// Share of tokens for which both models find the same token most likely.
    pub top1_agreement: f64,
}

/// Scores `tokens` with the whole model `stage`, against the base model `against` if given.
/// `progress` is told the chunks done, of how many, and the perplexity so far.
///
/// # Errors
/// [`ModelError::InvalidInput`] if the text is shorter than one chunk, if a chunk has no half, or
/// if the two models have different vocabularies; else as [`Stage::forward`].
pub fn perplexity(
    stage: &Stage,
    against: Option<&Stage>,
    tokens: &[u32],
    options: PerplexityOptions,
    progress: &mut dyn FnMut(usize, usize, f64),
) -> Result<Perplexity, ModelError> {
    let chunks = check(stage, against, tokens, options)?;
    let mut scores = Vec::new();
    for (index, chunk) in tokens.chunks_exact(options.context).take(chunks).enumerate() {
        let mut chunk = chunk.to_vec();
        if let Some(bos) = options.bos {
            chunk[0] = bos;
        }
        let rows = rows_of(stage, &chunk)?;
        let base_rows = against.map(|base| rows_of(base, &chunk)).transpose()?;
        let first = options.context / 2;
        for from in (first..options.context - 1).step_by(ROWS_AT_A_TIME) {
            let to = (from + ROWS_AT_A_TIME).min(options.context - 1);
            let logits = stage.logits_of_rows(rows.slice(s![from..to, ..]))?;
            let base = match (&against, &base_rows) {
                (Some(base), Some(rows)) => {
                    Some(base.logits_of_rows(rows.slice(s![from..to, ..]))?)
                }
                (Some(_) | None, _) => None,
            };
            scores.extend(score(stage, &logits, base.as_ref(), &chunk[from + 1..=to]));
        }
        progress(index + 1, chunks, mean_error(scores.iter().map(|score| score.nll)).0.exp());
    }
    Ok(summary(&scores, chunks, against.is_some()))
}

/// Number of chunks that will be scored.
fn check(
    stage: &Stage,
    against: Option<&Stage>,
    tokens: &[u32],
    options: PerplexityOptions,
) -> Result<usize, ModelError> {
    let invalid = |what, why| Err(ModelError::InvalidInput { what, why });
    if options.context < 4 || options.chunks_max == 0 {
        return invalid("chunk", format!("{options:?} leaves nothing to score"));
    }
    if tokens.len() < options.context {
        let why = format!("it has {} tokens, one chunk needs {}", tokens.len(), options.context);
        return invalid("text", why);
    }
    let size = stage.config().vocab_size;
    match against.map(|base| base.config().vocab_size) {
        Some(base) if base != size => {
            invalid("base model", format!("its vocabulary has {base} tokens, the model's {size}"))
        }
        Some(_) | None => Ok((tokens.len() / options.context).min(options.chunks_max)),
    }
}

/// The model's last rows for a chunk, `(chunk.len(), dim)`.
fn rows_of(stage: &Stage, chunk: &[u32]) -> Result<Array2<f32>, ModelError> {
    stage.forward(&mut stage.new_kv_cache(chunk.len()), StageInput::Tokens(chunk), 0)
}

/// One scored token.
#[derive(Debug, Clone, Copy, Default)]
struct Score {
    /// Negative log-likelihood, nats.
    nll: f64,
    /// KL(base ‖ model), nats.
    kl: f64,
    same_top: bool,
}

/// Scores `targets`, one for every row of `logits` and of `base`, `(n, vocab_size)`.
fn score(
    stage: &Stage,
    logits: &Array2<f32>,
    base: Option<&Array2<f32>>,
    targets: &[u32],
) -> Vec<Score> {
    let mut scores = vec![Score::default(); targets.len()];
    stage.compute().pool.split(Parts::new(&mut scores, 1), |row_idx, score| {
        let (score, target) = (&mut score[0], targets[row_idx]);
        let row = logits.index_axis(Axis(0), row_idx);
        let (log_sum, top) = log_sum_exp(row);
        score.nll = log_sum - f64::from(row[target as usize]);
        if let Some(base) = base {
            let base_row = base.index_axis(Axis(0), row_idx);
            let (base_log_sum, base_top) = log_sum_exp(base_row);
            score.same_top = top == base_top;
            let terms = row.iter().zip(base_row).map(|(&logit, &base_logit)| {
                let base_log_p = f64::from(base_logit) - base_log_sum;
                let log_p = f64::from(logit) - log_sum;
                f64::from((base_log_p as f32).exp()) * (base_log_p - log_p)
            });
            score.kl = terms.sum();
        }
    });
    scores
}

/// Logarithm of the sum of exponentials, summed in f64 in order, and the index of the largest.
fn log_sum_exp(row: ArrayView1<'_, f32>) -> (f64, usize) {
    let (mut top, mut max) = (0, f32::NEG_INFINITY);
    for (index, &logit) in row.iter().enumerate() {
        if logit > max {
            (top, max) = (index, logit);
        }
    }
    let sum: f64 = row.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    (sum.ln() + f64::from(max), top)
}

fn summary(scores: &[Score], chunks: usize, against: bool) -> Perplexity {
    let (nll, nll_error) = mean_error(scores.iter().map(|score| score.nll));
    let divergence = against.then(|| {
        let mut kl: Vec<f64> = scores.iter().map(|score| score.kl).collect();
        kl.sort_by(f64::total_cmp);
        Divergence {
            kl_mean: kl.iter().sum::<f64>() / kl.len() as f64,
            kl_p99: kl[(kl.len() - 1) * 99 / 100],
            top1_agreement: scores.iter().filter(|score| score.same_top).count() as f64
                / scores.len() as f64,
        }
    });
    let ppl = nll.exp();
    Perplexity { ppl, ppl_error: ppl * nll_error, tokens: scores.len(), chunks, divergence }
}

/// Mean and its standard error.
fn mean_error(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

#[cfg(test)]
mod tests;
