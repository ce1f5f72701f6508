//! SentencePiece's byte-pair encoding with byte fallback.
//!
//! Source: Kudo and Richardson 2018 (arXiv 1808.06226) and the behaviour of llama.cpp's `spm`
//! vocabulary, which decides ties: of equal scores the leftmost pair is joined first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::vocabulary::Vocabulary;
use crate::error::ModelError;

/// The byte tokens of a vocabulary, by byte.
#[derive(Debug)]
pub(super) struct SentenceModel {
    bytes: Vec<u32>,
}

/// A candidate: the neighbours `left` and `right` could become one token.
#[derive(Debug, PartialEq)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both together when the candidate was found; it is stale if they differ now.
    len: usize,
}

impl Eq for Pair {}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

/// A run of text that is one token so far; empty once it was joined to its left neighbour.
#[derive(Debug)]
struct Symbol {
    range: Range<usize>,
    prev: Option<usize>,
    next: Option<usize>,
}

impl SentenceModel {
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self, ModelError> {
        let bytes = (0..=255_u8)
            .map(|byte| {
                vocabulary.id(&format!("<0x{byte:02X}>")).ok_or_else(|| ModelError::Unsupported {
                    what: "tokenizer",
                    name: format!("SentencePiece without a token for byte 0x{byte:02X}"),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { bytes })
    }

    /// Appends the ids of a text without special tokens. With `prefix`, a space
    /// is put before it.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        scores: &[f32],
        text: &str,
        prefix: bool,
        out: &mut Vec<u32>,
    ) {
        let prefix = if prefix { "▁" } else { "" };
        let text = format!("{prefix}{}", text.replace(' ', "▁"));
        for symbol in join(vocabulary, scores, &text) {
            let piece = &text[symbol.range];
            match vocabulary.id(piece) {
                Some(id) => out.push(id),
                None => out.extend(piece.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }
}

/// Joins neighbours, the best-scored pair first, until no pair is a token.
fn join(vocabulary: &Vocabulary, scores: &[f32], text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = text
        .char_indices()
        .enumerate()
        .map(|(idx, (start, c))| {
            let end = start + c.len_utf8();
            let next = (end < text.len()).then_some(idx + 1);
            Symbol { range: start..end, prev: idx.checked_sub(1), next }
        })
        .collect();
    let mut queue = BinaryHeap::new();
    let candidate = |symbols: &[Symbol], left: Option<usize>, right: Option<usize>| {
        let (left, right) = (left?, right?);
        let range = symbols[left].range.start..symbols[right].range.end;
        let id = vocabulary.id(&text[range.clone()])?;
        Some(Pair { score: scores[id as usize], left, right, len: range.len() })
    };
    for right in 1..symbols.len() {
        queue.extend(candidate(&symbols, Some(right - 1), Some(right)));
    }
    while let Some(Pair { left, right, len, .. }) = queue.pop() {
        let (left_len, right_len) = (symbols[left].range.len(), symbols[right].range.len());
        if left_len == 0 || right_len == 0 || left_len + right_len != len {
            continue;
        }
        symbols[left].range.end = symbols[right].range.end;
        let next = symbols[right].next;
        symbols[left].next = next;
        symbols[right].range = 0..0;
        if let Some(next) = next {
            symbols[next].prev = Some(left);
        }
        queue.extend(candidate(&symbols, symbols[left].prev, Some(left)));
        queue.extend(candidate(&symbols, Some(left), next));
    }
    symbols.retain(|symbol| !symbol.range.is_empty());
    symbols
}
