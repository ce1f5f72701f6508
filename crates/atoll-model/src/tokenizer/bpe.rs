//! Byte-pair encoding of one pre-token: join the two neighbours whose pair stands first in the list
//! of merges, the leftmost of equals, until none is left.
//!
//! Source: Sennrich, Haddow and Birch 2016 (arXiv 1508.07909), as the `tokenizers` library does it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::vocabulary::Vocabulary;
use crate::error::ModelError;
use crate::texts::Texts;

/// Which pairs of tokens join, and in which order.
#[derive(Debug)]
pub(super) struct Bpe {
    /// For a pair of neighbours the merge's rank, the best being 0, and the token of both.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Whether a pre-token that is itself a token is taken whole.
    ignore_merges: bool,
}

/// A token so far, with its neighbours; `next` is its own index where there is none.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    token: u32,
    prev: usize,
    next: usize,
    is_joined: bool,
}

impl Bpe {
    /// Reads `merges`, "left right" each. Those of which a part or the whole is no token never
    /// apply and are left out.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        merges: &Texts,
        ignore_merges: bool,
    ) -> Result<Self, ModelError> {
        let mut ranks = HashMap::with_capacity(merges.len());
        let mut joined = String::new();
        let mut rank = 0;
        for merge in merges.iter() {
            let Some((left, right)) = merge.split_once(' ') else {
                let why = format!("merge {merge:?} does not have two parts");
                return Err(ModelError::malformed("tokenizer", why));
            };
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let ids = [left, right, &joined].map(|part| vocabulary.id(part));
            if let [Some(left), Some(right), Some(both)] = ids {
                // Of a pair that is there twice the later rank counts, as in the library.
                ranks.insert((left, right), (rank, both));
                rank += 1;
            }
        }
        Ok(Self { merges: ranks, ignore_merges })
    }

    /// Appends the ids of a pre-token. A letter without a token (a vocabulary may lack control
    /// characters) is left out, as every other program does with such a vocabulary.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, word: &str, out: &mut Vec<u32>) {
        if self.ignore_merges
            && let Some(id) = vocabulary.id(word)
        {
            out.push(id);
            return;
        }
        let mut symbols = Vec::with_capacity(word.len());
        for (at, letter) in word.char_indices() {
            if let Some(token) = vocabulary.id(&word[at..at + letter.len_utf8()]) {
                let index = symbols.len();
                let prev = index.max(1) - 1;
                symbols.push(Symbol { token, prev, next: index + 1, is_joined: false });
            }
        }
        if let Some(last) = symbols.len().checked_sub(1) {
            symbols[last].next = last;
            self.join(&mut symbols);
        }
        out.extend(symbols.iter().filter(|symbol| !symbol.is_joined).map(|symbol| symbol.token));
    }

    fn join(&self, symbols: &mut [Symbol]) {
        let candidate = |symbols: &[Symbol], left: usize| {
            let right = symbols[left].next;
            let pair = (symbols[left].token, symbols[right].token);
            let merge = self.merges.get(&pair).filter(|_| right != left);
            merge.map(|&(rank, both)| Reverse((rank, left, both)))
        };
        let mut best: BinaryHeap<_> =
            (0..symbols.len()).filter_map(|left| candidate(symbols, left)).collect();
        while let Some(Reverse((_, left, both))) = best.pop() {
            // Stale if a neighbour has changed since, so that both would be another token.
            let now = candidate(symbols, left).map(|Reverse((.., both))| both);
            if symbols[left].is_joined || now != Some(both) {
                continue;
            }
            let right = symbols[left].next;
            let after = symbols[right].next;
            symbols[right].is_joined = true;
            symbols[left].token = both;
            symbols[left].next = if after == right { left } else { after };
            if after != right {
                symbols[after].prev = left;
                best.extend(candidate(symbols, left));
            }
            if left > 0 {
                best.extend(candidate(symbols, symbols[left].prev));
            }
        }
    }
}
