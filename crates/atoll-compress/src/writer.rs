//! Text that one model writes for another to calibrate on.
//!
//! With as many tokens, text of the kind that a model will read repairs it best, and text about
//! anything keeps it from being good at that kind alone. So one half of what is written goes on
//! from two short texts of ours ([`OPENINGS`]: lives, places, works and events, with names, dates
//! and figures, as an encyclopedia has them) and the first words of a third; left alone, a small
//! decoder soon writes lists and code. The other half is what the writer says of itself
//! ([`crate::own_text`]).

use std::ops::Range;
use std::sync::Arc;

use atoll_model::{
    Compute, KvCache, ModelError, SamplerConfig, Sequence, Stage, StageInput, TensorSource,
    Tokenizer, sample,
};
use ndarray::Axis;

use crate::compress::{Progress, Work};
use crate::error::CompressError;
use crate::own_text::{TOGETHER, any_token, freely, writing_stage};
use crate::text::SEQUENCE;

/// Texts to go on from, a paragraph each.
const OPENINGS: &str = include_str!("openings.txt");
/// Tokens that follow from one opening: of two texts together the length of a sequence.
const PIECE: usize = SEQUENCE / 2;
/// Letters that a word of the vocabulary has at least, to begin a text.
const LETTERS: usize = 4;

/// `sequences` times 512 tokens of text that a decoder writes: one half in pieces of 256 that go on
/// from openings, the other begun with any token. The same of the same model, whatever computes
/// them. Holds the model as it runs and the caches of 16 sequences.
///
/// # Errors
/// [`CompressError::Together`] of an encoder, which writes nothing; a missing tensor, or one of the
/// wrong shape; a tokenizer that has tokens which the model has not.
pub fn write_text(
    source: &TensorSource,
    tokenizer: &Tokenizer,
    sequences: usize,
    compute: &Arc<Compute>,
    progress: &mut dyn FnMut(Progress),
) -> Result<String, CompressError> {
    let stage = writing_stage(source, compute)?;
    let words = words(tokenizer);
    let mut written = String::new();
    for first in (0..sequences).step_by(TOGETHER) {
        let end = sequences.min(first + TOGETHER);
        let (opened, free) = (first.div_ceil(2)..end.div_ceil(2), first / 2..end / 2);
        let pieces = opened.start * SEQUENCE / PIECE..opened.end * SEQUENCE / PIECE;
        written += &from_openings(&stage, tokenizer, &words, pieces, compute)?;
        for text in freely(&stage, free, compute)? {
            written.extend([&tokenizer.decode(&text), "\n"]);
        }
        progress(Progress { work: Work::Writing, layers_done: end, layers: sequences });
    }
    Ok(written)
}

/// Pieces that go on from openings, a line end behind each.
fn from_openings(
    stage: &Stage,
    tokenizer: &Tokenizer,
    words: &[String],
    pieces: Range<usize>,
    compute: &Compute,
) -> Result<String, CompressError> {
    let begun = pieces.clone().map(|piece| Begun::new(tokenizer, words, piece));
    let begun: Vec<Begun> = begun.collect::<Result<_, _>>()?;
    let mut texts: Vec<_> = begun.iter().map(|begun| begun.tokens.clone()).collect();
    let samplers: Vec<_> = pieces.map(sampler).collect();
    // An answer's end would be the piece's.
    go_on(stage, &mut texts, &samplers, PIECE, &tokenizer.ends(), compute)?;
    let mut written = String::new();
    for (begun, text) in begun.iter().zip(&texts) {
        let said = tokenizer.decode(&text[begun.tokens.len()..]);
        written.extend([&begun.words, &said, "\n"]);
    }
    Ok(written)
}

/// What a piece goes on from.
struct Begun {
    tokens: Vec<u32>,
    /// The last of it, with which the piece begins.
    words: String,
}

impl Begun {
    /// The tokens of what [`opened`] gives.
    fn new(tokenizer: &Tokenizer, words: &[String], piece: usize) -> Result<Self, ModelError> {
        let (before, words) = opened(words, piece);
        let mut tokens = tokenizer.encode((before + &words).trim_end(), true)?;
        // A vocabulary of letters needs more tokens than a whole sequence has.
        tokens.drain(..tokens.len().saturating_sub(SEQUENCE - PIECE));
        Ok(Self { tokens, words })
    }
}

/// Two of the openings, and the first words of a third, drawn for `piece`.
fn opened(words: &[String], piece: usize) -> (String, String) {
    let openings: Vec<&str> = OPENINGS.trim().split("\n\n").collect();
    let drawn = |of: usize, position| any_token(of, piece, position) as usize;
    let one = drawn(openings.len(), 0);
    let other = (one + 1 + drawn(openings.len() - 1, 1)) % openings.len();
    let word = |position| match words.len() {
        0 => "",
        n => &words[drawn(n, position)],
    };
    let name = capitalized(word(2));
    let words = match drawn(4, 3) {
        0 => name,
        1 => format!("The {name}"),
        2 => format!("{name} {}", capitalized(word(4))),
        _ => format!("The {} {name}", word(4)),
    };
    (format!("{}\n\n{}\n\n", openings[one], openings[other]), words)
}

/// All words of the vocabulary.
fn words(tokenizer: &Tokenizer) -> Vec<String> {
    let ids = 0..u32::try_from(tokenizer.vocab_size()).expect("ids are 32 bits");
    ids.filter_map(|id| word(tokenizer.token_bytes(id))).collect()
}

/// The word that a token of these bytes is, without the space before it: in small letters, and of
/// [`LETTERS`] at least.
fn word(bytes: Vec<u8>) -> Option<String> {
    let word = String::from_utf8(bytes).ok()?.strip_prefix(' ')?.to_owned();
    let is_word = word.len() >= LETTERS && word.bytes().all(|letter| letter.is_ascii_lowercase());
    is_word.then_some(word)
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Nearly the distribution as it is: without its tail a small model stays with its subject.
fn sampler(piece: usize) -> SamplerConfig {
    SamplerConfig {
        temperature: 0.9,
        top_k: 0,
        top_p: 0.95,
        min_p: 0.0,
        seed: piece as u64,
        ..Default::default()
    }
}

/// Appends `n` tokens to each of `texts`, one sampler each; tokens in `never` are not chosen.
///
/// # Errors
/// A token that is not in the vocabulary.
///
/// # Panics
/// If a text is empty.
pub(crate) fn go_on(
    stage: &Stage,
    texts: &mut [Vec<u32>],
    samplers: &[SamplerConfig],
    n: usize,
    never: &[u32],
    compute: &Compute,
) -> Result<(), ModelError> {
    if texts.is_empty() {
        return Ok(());
    }
    let mut caches: Vec<KvCache> =
        texts.iter().map(|text| stage.new_kv_cache(text.len() + n)).collect();
    for _ in 0..n {
        let mut rows_before = 0;
        let mut lasts = Vec::with_capacity(texts.len());
        let mut batch: Vec<Sequence<'_, '_>> = Vec::with_capacity(texts.len());
        for (kv, text) in caches.iter_mut().zip(&*texts) {
            let from_pos = kv.len();
            rows_before += text.len() - from_pos;
            lasts.push(rows_before - 1);
            batch.push(Sequence { input: StageInput::Tokens(&text[from_pos..]), from_pos, kv });
        }
        let rows = stage.forward_batch(&mut batch)?.select(Axis(0), &lasts);
        let mut logits = stage.logits_of_rows(rows.view())?;
        let mut tasks: Vec<_> = texts.iter_mut().zip(logits.rows_mut()).zip(samplers).collect();
        compute.pool.for_each(&mut tasks, |((text, logits), sampler)| {
            let logits = logits.as_slice_mut().expect("rows lie in one piece");
            for &id in never {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            let position = u32::try_from(text.len()).expect("a sequence is far shorter");
            text.push(sample(sampler, logits, &[], position).token);
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
