//! Text of the model's own, to calibrate on beside a given one.
//!
//! A given text is about little of what a model knows, and what is removed because that text does
//! not need it is missed elsewhere. A decoder says what it knows: each sequence begins with a token
//! drawn evenly and goes on by the model's own distribution (Liu et al. 2023, LLM-QAT, arXiv
//! 2305.17888, section 3.1). An encoder says nothing: a decoder may write for it
//! ([`crate::write_text`]). Of what an encoder reads, tokens are drawn, so that all of its
//! vocabulary is seen: most of a given text, some of a written one.

use std::ops::Range;
use std::sync::Arc;

use atoll_model::{Compute, Part, SamplerConfig, Stage, TensorSource, sample};

use crate::compress::{Progress, Work};
use crate::error::CompressError;
use crate::resume::Resume;
use crate::text::SEQUENCE;
use crate::writer::go_on;

/// Who wrote a text that an encoder reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    /// People, about one thing.
    Given,
    /// A decoder, about many things.
    Written,
}

impl Origin {
    /// Of ten tokens, how many are drawn; and the first of the three seeds of that.
    const fn draws(self) -> (u32, usize) {
        match self {
            Self::Given => (6, 0),
            Self::Written => (2, 3),
        }
    }
}

/// Sequences that are written at once: the weights are read once for all of them.
pub(crate) const TOGETHER: usize = 16;
/// Of ten tokens that are drawn, how many are drawn as often as words are; the others evenly.
const WORDS_OF_TEN: u32 = 7;
/// Which place the median token of a text has among words by how frequent they are, about: half of
/// an English text are its 64 most frequent words and signs.
const PLACE_OF_MEDIAN: f64 = 64.0;
/// Under which name it is kept.
const NAME: &str = "own-text";

/// `sequences` of [`SEQUENCE`] tokens, in a row: the same of the same model, whatever computes
/// them. What was noted in `resume` is not made again. Holds the model as it runs and the caches of
/// 16 sequences.
///
/// # Errors
/// [`CompressError::Together`] of an encoder, which writes nothing; a missing tensor, or one of the
/// wrong shape; [`CompressError::Work`].
pub(crate) fn own_text(
    source: &TensorSource,
    sequences: usize,
    resume: Option<&Resume>,
    compute: &Arc<Compute>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<u32>, CompressError> {
    if sequences == 0 {
        return Ok(Vec::new());
    }
    if let Some(bytes) = resume.and_then(|at| at.get(NAME)) {
        return Ok(bytes.as_chunks().0.iter().map(|token| u32::from_le_bytes(*token)).collect());
    }
    let stage = writing_stage(source, compute)?;
    let mut tokens = Vec::with_capacity(sequences * SEQUENCE);
    for first in (0..sequences).step_by(TOGETHER) {
        tokens.extend(freely(&stage, first..sequences.min(first + TOGETHER), compute)?.concat());
        let (layers_done, layers) = (tokens.len() / SEQUENCE, sequences);
        progress(Progress { work: Work::Writing, layers_done, layers });
    }
    if let Some(resume) = resume {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        resume.put(NAME, &bytes)?;
    }
    Ok(tokens)
}

/// All of a decoder that writes.
///
/// # Errors
/// As [`own_text`], but for [`CompressError::Work`].
pub(crate) fn writing_stage(
    source: &TensorSource,
    compute: &Arc<Compute>,
) -> Result<Stage, CompressError> {
    let config = source.config();
    if config.encoder.is_some() {
        return Err(CompressError::Together("a text of the model's own", "an encoder"));
    }
    Ok(Stage::load(source, &Part::whole(config), compute, &mut |_| ())?)
}

/// Sequences of [`SEQUENCE`] tokens, one for each of `seeds`: each begins with a token drawn evenly
/// and goes on by the model's own distribution.
pub(crate) fn freely(
    stage: &Stage,
    seeds: Range<usize>,
    compute: &Compute,
) -> Result<Vec<Vec<u32>>, CompressError> {
    let vocab_size = stage.config().vocab_size;
    let mut texts: Vec<_> =
        seeds.clone().map(|seed| vec![any_token(vocab_size, seed, 0)]).collect();
    let samplers: Vec<_> = seeds.map(sampler).collect();
    go_on(stage, &mut texts, &samplers, SEQUENCE - 1, &[], compute)?;
    Ok(texts)
}

/// The distribution as it is.
fn sampler(seed: usize) -> SamplerConfig {
    let seed = seed as u64;
    SamplerConfig { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Default::default() }
}

/// Token `position` of sequence `seed`, all of `vocab_size` being as likely.
pub(crate) fn any_token(vocab_size: usize, seed: usize, position: usize) -> u32 {
    let position = u32::try_from(position).expect("a sequence is far shorter");
    let byte = |place| sample(&sampler(4 * seed + place), &mut [0.0; 256], &[], position).token;
    let bits = (0..4).fold(0, |bits, place| bits << 8 | u64::from(byte(place)));
    u32::try_from((bits * vocab_size as u64) >> 32).expect("less than the vocabulary")
}

/// Draws some of the `tokens` of a text anew, because a text is about little: of a given one most.
/// Vocabularies are in the order of how frequent words are, so that behind the text's median token
/// the law of Zipf holds for them: words at place `r` are as likely as `1 / r`. But names are more
/// frequent together than that, and seen too rarely; so some are drawn from all alike. What stands
/// before the first token that the text has are signs that no text has. A text with tokens outside
/// the vocabulary stays as it is: who looks them up refuses it.
pub(crate) fn draw_some(tokens: &mut [u32], origin: Origin, vocab_size: usize) {
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    let Some((&first, &median)) = sorted.first().zip(sorted.get(tokens.len() / 2)) else { return };
    if sorted.last().is_some_and(|&last| last as usize >= vocab_size) {
        return;
    }
    let (drawn_of_ten, seed) = origin.draws();
    let words = vocab_size - first as usize;
    let last = (vocab_size as f64 - f64::from(median)).max(1.0) / PLACE_OF_MEDIAN + 1.0;
    for (position, token) in tokens.iter_mut().enumerate() {
        if any_token(10, seed, position) >= drawn_of_ten {
            continue;
        }
        let drawn = any_token(words, seed + 1, position);
        *token = first + drawn;
        if any_token(10, seed + 2, position) < WORDS_OF_TEN {
            let share = f64::from(drawn) / words as f64;
            *token = median + whole(PLACE_OF_MEDIAN * (last.powf(share) - 1.0));
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a token's id")]
const fn whole(value: f64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use atoll_model::{Architecture, BlockType, GgufFile, Isa, StageInput, tiny};

    use super::*;

    /// Every token of it is the one that follows from all before it, taken in at once and alone.
    #[test]
    fn a_decoder_says_what_it_would_say() {
        let bytes = tiny::random_model(&tiny::config(Architecture::Qwen2), BlockType::F32, 7);
        let source = TensorSource::Gguf(GgufFile::parse(bytes).expect("a whole model"));
        let compute = Arc::new(Compute::new(Isa::detect(), 2).expect("threads"));
        let mut seen = Vec::new();
        let mut progress = |at: Progress| seen.push((at.work, at.layers_done, at.layers));
        let text = own_text(&source, 17, None, &compute, &mut progress).expect("a decoder");
        assert_eq!(text.len(), 17 * SEQUENCE);
        assert_eq!(seen, [(Work::Writing, 16, 17), (Work::Writing, 17, 17)]);
        let part = Part::whole(source.config());
        let stage = Stage::load(&source, &part, &compute, &mut |_| ()).expect("loads");
        for (seed, position) in [(0, 1), (0, 511), (3, 100), (16, 200)] {
            let said = &text[seed * SEQUENCE..][..SEQUENCE];
            let mut kv = stage.new_kv_cache(SEQUENCE);
            let rows = stage.forward(&mut kv, StageInput::Tokens(&said[..position]), 0);
            let mut logits = stage.logits(rows.expect("fits").row(position - 1)).expect("a head");
            let at = u32::try_from(position).expect("small");
            let want = sample(&sampler(seed), &mut logits, &[], at).token;
            assert_eq!(said[position], want, "token {position} of sequence {seed}");
        }
        let firsts: std::collections::BTreeSet<u32> =
            text.chunks(SEQUENCE).map(|sequence| sequence[0]).collect();
        assert!(firsts.len() > 10, "they begin differently: {firsts:?}");
    }

    #[test]
    fn most_of_an_encoders_text_is_drawn_and_frequent_words_most() {
        const VOCAB: usize = 30_000;
        let given: Vec<u32> = (0..20_000u32).map(|i| 1500 + (i * 7919) % 1001).collect();
        let mut text = given.clone();
        draw_some(&mut text, Origin::Given, VOCAB);
        assert!(text.iter().all(|&token| (token as usize) < VOCAB));
        let share = |is_counted: &dyn Fn(u32) -> bool| {
            text.iter().filter(|token| is_counted(**token)).count() as f64 / text.len() as f64
        };
        let kept = text.iter().zip(&given).filter(|(a, b)| a == b).count() as f64 / 20_000.0;
        assert!((kept - 0.4).abs() < 0.02, "{kept}");
        // Evenly are drawn 0.18 of all, by frequency 0.42: of those 0.13 at places 565 to 1282.
        assert!(text.iter().all(|&token| token >= 1500), "no text has what stands before");
        let frequent = share(&|token| (2501..3218).contains(&token));
        assert!(frequent > 0.05, "{frequent}");
        let seldom = share(&|token| token >= 29_000);
        assert!(seldom > 0.005 && seldom < 0.02, "{seldom}");
        let again = |mut text: Vec<u32>| {
            draw_some(&mut text, Origin::Given, VOCAB);
            text
        };
        assert_eq!(again(given), text, "the same each time");
        assert!(again(Vec::new()).is_empty());
        let unknown = vec![30_007; 100];
        assert_eq!(again(unknown.clone()), unknown, "looking them up refuses them");
    }
}
