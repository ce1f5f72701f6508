//! Choosing the next token.
//!
//! The choice is a function of the logits, the recent tokens, the seed and the position, and of
//! nothing else: no state, no clock, no platform's mathematics. The same request gives the same
//! tokens wherever the head happens to run.

use serde::{Deserialize, Serialize};

use crate::error::ModelError;

/// Most alternatives that are reported with their log-probabilities.
pub const LOGPROBS_MAX: u8 = 20;

/// How to choose. The steps come in this order: penalties, top-k, top-p, min-p, temperature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerConfig {
    /// Divisor of the logits; 0 takes the best token. Default 0.8.
    pub temperature: f32,
    /// Keep this many of the best tokens; 0 keeps all. Default 40.
    pub top_k: u32,
    /// Keep the best tokens that together reach this probability; 1 keeps all. Default 0.95.
    pub top_p: f32,
    /// Keep tokens at least this fraction as probable as the best; 0 keeps all. Default 0.05.
    pub min_p: f32,
    /// Divisor of the positive logits, multiplier of the negative ones, of recent tokens (Keskar
    /// et al. 2019, CTRL, section 4.1); 1 changes nothing. Default 1.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every recent token. Default 0.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a recent token once for every time that it appears. Default 0.
    pub frequency_penalty: f32,
    /// How many of the last tokens are recent. Default 64.
    pub repeat_last_n: u32,
    /// Seed of the generator. Default 0.
    pub seed: u64,
    /// How many alternatives to report with their log-probabilities, at most [`LOGPROBS_MAX`].
    /// Default 0: none, and no log-probability of the chosen token either.
    pub logprobs: u8,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: 64,
            seed: 0,
            logprobs: 0,
        }
    }
}

impl SamplerConfig {
    /// Checks that every value has a meaning.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] naming the value.
    pub fn validate(&self) -> Result<(), ModelError> {
        let check = |what, value: f32, legal: bool, range: &str| {
            if legal && value.is_finite() {
                return Ok(());
            }
            Err(ModelError::InvalidInput { what, why: format!("{value} is not {range}") })
        };
        check("temperature", self.temperature, self.temperature >= 0.0, "0 or more")?;
        check("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1")?;
        check("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "between 0 and 1")?;
        let repetition = self.repetition_penalty;
        check("repetition_penalty", repetition, repetition > 0.0, "above 0")?;
        check("presence_penalty", self.presence_penalty, true, "a number")?;
        check("frequency_penalty", self.frequency_penalty, true, "a number")?;
        if self.logprobs > LOGPROBS_MAX {
            let why = format!("{} alternatives, the limit is {LOGPROBS_MAX}", self.logprobs);
            return Err(ModelError::InvalidInput { what: "logprobs", why });
        }
        Ok(())
    }
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Natural logarithm of its probability before any step of the sampler; only if asked for.
    pub logprob: Option<f32>,
    /// The best tokens with theirs, best first; as many as asked for.
    pub top: Vec<(u32, f32)>,
}

/// Chooses the token at position `pos` of a sequence.
///
/// `logits` (`vocab_size`) are changed by the penalties. `recent` are the tokens so far, of which
/// the last `repeat_last_n` count. A logit that is not a number is never chosen.
///
/// # Panics
/// If `logits` is empty.
#[must_use]
pub fn sample(config: &SamplerConfig, logits: &mut [f32], recent: &[u32], pos: u32) -> Sampled {
    assert!(!logits.is_empty(), "a model has a vocabulary");
    let report = (config.logprobs > 0).then(|| Report::new(logits, config.logprobs.into()));
    let raw = penalize(config, logits, recent);
    let token = if config.temperature == 0.0 {
        argmax(logits)
    } else {
        let candidates = candidates(config, logits);
        let drawn = draw(config, &candidates, uniform(config.seed, pos));
        drawn.unwrap_or_else(|| argmax(logits))
    };
    let Some(report) = report else { return Sampled { token, logprob: None, top: Vec::new() } };
    let penalized = raw.iter().find(|(id, _)| *id == token).map(|(_, logit)| *logit);
    let logit = penalized.unwrap_or(logits[token as usize]);
    Sampled { token, logprob: Some(report.logprob(logit)), top: report.top }
}

/// Log-probabilities of unchanged logits.
struct Report {
    /// Logarithm of the sum of their exponentials.
    log_sum: f64,
    top: Vec<(u32, f32)>,
}

impl Report {
    fn new(logits: &[f32], count: usize) -> Self {
        let best = f64::from(logits[argmax(logits) as usize]);
        let sum: f64 = logits
            .iter()
            .filter(|logit| !logit.is_nan())
            .map(|&logit| libm::exp(f64::from(logit) - best))
            .sum();
        let mut report = Self { log_sum: best + libm::log(sum), top: Vec::new() };
        let best = best_of(logits, count);
        report.top = best.into_iter().map(|(id, x)| (id, report.logprob(x))).collect();
        report
    }

    #[expect(clippy::cast_possible_truncation, reason = "reported in single precision")]
    fn logprob(&self, logit: f32) -> f32 {
        (f64::from(logit) - self.log_sum) as f32
    }
}

/// The best token; of equal ones the lowest id.
fn argmax(logits: &[f32]) -> u32 {
    // Sixteen running maxima at a time: the greatest value does not depend on the order.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let best = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |best, &x| best.max(x));
    let idx = logits.iter().position(|&x| x >= best).unwrap_or(0);
    u32::try_from(idx).expect("a vocabulary is below 2^22")
}

/// Applies the penalties; returns the logits as they were of the tokens that it changed.
fn penalize(config: &SamplerConfig, logits: &mut [f32], recent: &[u32]) -> Vec<(u32, f32)> {
    let changes = [config.repetition_penalty - 1.0, config.presence_penalty]
        .iter()
        .chain(&[config.frequency_penalty])
        .any(|change| *change != 0.0);
    if !changes {
        return Vec::new();
    }
    let window = recent.len().saturating_sub(config.repeat_last_n as usize);
    let mut counts = std::collections::BTreeMap::<u32, f32>::new();
    for &id in recent[window..].iter().filter(|&&id| (id as usize) < logits.len()) {
        *counts.entry(id).or_default() += 1.0;
    }
    let mut raw = Vec::with_capacity(counts.len());
    for (id, count) in counts {
        let logit = &mut logits[id as usize];
        raw.push((id, *logit));
        if *logit > 0.0 {
            *logit /= config.repetition_penalty;
        } else {
            *logit *= config.repetition_penalty;
        }
        *logit -= count * config.frequency_penalty + config.presence_penalty;
    }
    raw
}

/// The `count` best tokens with their logits, best first, of equal ones the lower id first.
fn best_of(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    // Few are kept out of many: what is below the worst of the best so far is not even stored.
    let room = count.saturating_mul(4).saturating_add(64).min(logits.len());
    let mut kept = Vec::with_capacity(room);
    let mut least = None;
    for (id, logit) in (0..).zip(logits.iter().copied()) {
        if logit.is_nan() || least.is_some_and(|least| logit <= least) {
            continue;
        }
        kept.push((id, logit));
        if kept.len() == room && count > 0 && count < room {
            let (_, worst, _) = kept.select_nth_unstable_by(count - 1, order);
            least = Some(worst.1);
            kept.truncate(count);
        }
    }
    kept.sort_unstable_by(order);
    kept.truncate(count);
    kept
}

/// The tokens to draw from: best first, with top-k, top-p and min-p applied, or all, in their
/// order, if none of those is.
fn candidates(config: &SamplerConfig, logits: &[f32]) -> Vec<(u32, f32)> {
    if config.top_k == 0 && config.top_p >= 1.0 && config.min_p <= 0.0 {
        let all = (0..).zip(logits.iter().copied());
        return all.filter(|(_, logit)| !logit.is_nan()).collect();
    }
    let count = if config.top_k == 0 { logits.len() } else { config.top_k as usize };
    let mut kept = best_of(logits, count);
    let Some(&(_, best)) = kept.first() else { return kept };
    if config.top_p < 1.0 {
        let weights = kept.iter().map(|&(_, x)| libm::exp(f64::from(x) - f64::from(best)));
        let weights: Vec<f64> = weights.collect();
        let goal = weights.iter().sum::<f64>() * f64::from(config.top_p);
        let mut sum = 0.0;
        let enough = weights.iter().position(|weight| {
            sum += weight;
            sum >= goal
        });
        kept.truncate(enough.map_or(kept.len(), |idx| idx + 1));
    }
    if config.min_p > 0.0 {
        let least = f64::from(best) + libm::log(f64::from(config.min_p));
        kept.retain(|&(_, logit)| f64::from(logit) >= least);
    }
    kept
}

/// Takes the candidate at which the running sum of probabilities passes `uniform`; none if there is
/// none, or if the best are infinite.
fn draw(config: &SamplerConfig, candidates: &[(u32, f32)], uniform: f64) -> Option<u32> {
    let best = candidates.iter().fold(f32::NEG_INFINITY, |best, candidate| best.max(candidate.1));
    let best = f64::from(best);
    let temperature = f64::from(config.temperature);
    let weights: Vec<f64> = candidates
        .iter()
        .map(|&(_, logit)| libm::exp((f64::from(logit) - best) / temperature))
        .collect();
    let goal = weights.iter().sum::<f64>() * uniform;
    let mut sum = 0.0;
    let idx = weights.iter().position(|weight| {
        sum += weight;
        sum > goal
    });
    idx.map(|idx| candidates[idx].0)
}

/// A number from 0 up to 1, the same for the same seed and position.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64")]
fn uniform(seed: u64, pos: u32) -> f64 {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let stream = mix(seed.wrapping_add(STEP));
    let bits = mix(stream.wrapping_add((u64::from(pos) + 1).wrapping_mul(STEP)));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits whose every
/// output bit depends on every input bit.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
