//! Generation on one machine: prompt in, tokens out.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ndarray::ArrayView1;
use serde::Serialize;

use crate::error::ModelError;
use crate::kv_cache::KvCache;
use crate::sampler::{Sampled, SamplerConfig, sample};
use crate::stage::{Stage, StageInput};

/// How to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// How the next token is chosen.
    pub sampler: SamplerConfig,
    /// Largest number of tokens to generate.
    pub tokens_max: usize,
    /// Prompt tokens per pass. Cancelling takes effect between passes; no result depends on it.
    pub prefill_chunk: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { sampler: SamplerConfig::default(), tokens_max: 256, prefill_chunk: 256 }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model gave an end token, which is not among the tokens.
    End,
    /// As many tokens as asked for, or the context is full.
    Length,
    /// The callback wanted no more.
    Stopped,
    /// Cancelled from outside.
    Cancelled,
}

/// What a generation gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generated {
    /// The tokens, without an end token.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub reason: FinishReason,
    /// How long it took.
    pub timings: Timings,
}

/// How long the parts of a generation took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Prompt tokens that were computed, so without those found in the cache.
    pub prefill_tokens: usize,
    /// Time to the first token, sampling included, in seconds.
    pub ttft_s: f64,
    /// Tokens after the first.
    pub decode_tokens: usize,
    /// Time for the tokens after the first, in seconds.
    pub decode_s: f64,
}

impl Timings {
    /// Prompt tokens per second until the first token.
    #[must_use]
    pub fn prefill_tokens_per_s(&self) -> f64 {
        per_second(self.prefill_tokens, self.ttft_s)
    }

    /// Tokens per second after the first token; 0 if there was none.
    #[must_use]
    pub fn decode_tokens_per_s(&self) -> f64 {
        per_second(self.decode_tokens, self.decode_s)
    }
}

fn per_second(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// One sequence on a whole model. It remembers what it has computed, so that a prompt that begins
/// as the last one did (a chat going on) costs only its new part.
#[derive(Debug)]
pub struct Generator {
    stage: Arc<Stage>,
    kv: KvCache,
    /// Tokens whose keys and values are in `kv`.
    cached: Vec<u32>,
}

impl Generator {
    /// A generator on `stage`, for sequences of at most `context` tokens.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] if `stage` is not a whole model.
    pub fn new(stage: Arc<Stage>, context: usize) -> Result<Self, ModelError> {
        let part = stage.part();
        if !part.embed || !part.head || part.layers != (0..stage.config().n_layers) {
            let why = "local generation needs the whole model".to_owned();
            return Err(ModelError::InvalidInput { what: "stage", why });
        }
        let kv = stage.new_kv_cache(context);
        Ok(Self { stage, kv, cached: Vec::new() })
    }

    /// Continues `prompt`: gives every token to `on_token` as soon as it is chosen, until the
    /// model ends (`is_end`), `on_token` breaks, `cancel` is set, or there is no more room.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] for an empty prompt or a token that the model does not know,
    /// [`ModelError::ContextExceeded`] if the prompt leaves no room for a token.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        is_end: &dyn Fn(u32) -> bool,
        cancel: &AtomicBool,
        on_token: &mut dyn FnMut(&Sampled) -> ControlFlow<()>,
    ) -> Result<Generated, ModelError> {
        let start = Instant::now();
        let cached = self.reuse(prompt)?;
        let mut timings = Timings { prefill_tokens: prompt.len() - cached, ..Timings::default() };
        let mut tokens = Vec::new();
        let done = |tokens, reason, timings| Ok(Generated { tokens, reason, timings });

        let mut logits = Vec::new();
        for chunk in prompt[cached..].chunks(options.prefill_chunk.max(1)) {
            if cancel.load(Ordering::Relaxed) {
                return done(tokens, FinishReason::Cancelled, timings);
            }
            let last = self.cached.len() + chunk.len() == prompt.len();
            logits = self.advance(chunk, last)?;
        }
        let mut recent = prompt.to_vec();
        let mut first_at = start;
        loop {
            if tokens.len() == options.tokens_max || recent.len() == self.kv.positions_max() {
                return done(tokens, FinishReason::Length, timings);
            }
            let position = u32::try_from(recent.len()).expect("contexts are far shorter");
            let sampled = sample(&options.sampler, &mut logits, &recent, position);
            if tokens.is_empty() {
                timings.ttft_s = start.elapsed().as_secs_f64();
                first_at = Instant::now();
            } else {
                timings.decode_tokens = tokens.len();
                timings.decode_s = first_at.elapsed().as_secs_f64();
            }
            if is_end(sampled.token) {
                return done(tokens, FinishReason::End, timings);
            }
            tokens.push(sampled.token);
            recent.push(sampled.token);
            if on_token(&sampled).is_break() {
                return done(tokens, FinishReason::Stopped, timings);
            }
            if cancel.load(Ordering::Relaxed) {
                return done(tokens, FinishReason::Cancelled, timings);
            }
            let more = tokens.len() < options.tokens_max && recent.len() < self.kv.positions_max();
            if more {
                logits = self.advance(&[sampled.token], true)?;
            }
        }
    }

    /// Keeps what the cache has in common with `prompt`, and checks that the prompt fits; gives
    /// the number of its tokens that need not be computed, which is never all of them.
    fn reuse(&mut self, prompt: &[u32]) -> Result<usize, ModelError> {
        let context = self.kv.positions_max();
        if prompt.is_empty() {
            let why = "it is empty, and the model has no token to begin with".to_owned();
            return Err(ModelError::InvalidInput { what: "prompt", why });
        }
        if prompt.len() >= context {
            return Err(ModelError::ContextExceeded { tokens: prompt.len(), context });
        }
        let same = self.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let kept = same.min(prompt.len() - 1);
        self.kv.truncate(kept);
        self.cached.truncate(kept);
        Ok(kept)
    }

    /// Takes `tokens` through the model; gives the last one's logits if `want_logits`.
    fn advance(&mut self, tokens: &[u32], want_logits: bool) -> Result<Vec<f32>, ModelError> {
        let from_pos = self.kv.len();
        let rows = self.stage.forward(&mut self.kv, StageInput::Tokens(tokens), from_pos)?;
        self.cached.extend_from_slice(tokens);
        let last: ArrayView1<'_, f32> = rows.row(rows.nrows() - 1);
        if want_logits { self.stage.logits(last) } else { Ok(Vec::new()) }
    }
}

#[cfg(test)]
mod tests;
