//! Which sequences of the calibration text are for what.

use atoll_model::ModelConfig;

use crate::compress::Options;
use crate::error::CompressError;
use crate::own_text::{Origin, draw_some};
use crate::probe::TOKENS_MIN;

/// Tokens of a calibration sequence.
pub const SEQUENCE: usize = 512;
/// Sequences of the calibration text that widths are judged by at most; none of them is calibrated
/// on.
const HELD_OUT: usize = 6;
/// Sequences of a text of its own that widths are judged by at most.
const JUDGED_BY: usize = 16;

/// What the tokens of the text are for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// Whole sequences.
    pub(crate) calibration: Vec<u32>,
    /// Whole sequences that widths are judged by, if there are any.
    pub(crate) held_out: Vec<u32>,
}

impl Text {
    /// What of the text that `options` give is used for the model `config`, and then what was
    /// written for it; of an encoder with some tokens drawn anew ([`draw_some`]).
    ///
    /// # Errors
    /// Too few tokens.
    pub(crate) fn of(options: &Options, config: &ModelConfig) -> Result<Self, CompressError> {
        let mut text = Self::given(options)?;
        if !options.judged_by.is_empty() && !options.widths.is_empty() {
            let (tokens, all) = (&options.judged_by[..], options.judged_by.len() / SEQUENCE);
            if all == 0 {
                return Err(CompressError::TextTooShort { tokens: tokens.len(), needed: SEQUENCE });
            }
            text.held_out = Self::spread(tokens, 0, all.min(JUDGED_BY)).held_out;
        }
        if config.encoder.is_some() {
            draw_some(&mut text.calibration, Origin::Given, config.vocab_size);
        }
        if let Some(written) = &options.written {
            let sequences = written.chunks_exact(SEQUENCE).take(options.own_sequences);
            let mut used: Vec<u32> = sequences.flatten().copied().collect();
            if config.encoder.is_some() {
                draw_some(&mut used, Origin::Written, config.vocab_size);
            }
            text.calibration.append(&mut used);
            if options.own_sequences > 0 && text.calibration.is_empty() {
                let tokens = written.len();
                return Err(CompressError::TextTooShort { tokens, needed: SEQUENCE });
            }
        }
        Ok(text)
    }

    /// What of the given text is used.
    fn given(options: &Options) -> Result<Self, CompressError> {
        const { assert!(TOKENS_MIN <= SEQUENCE, "one sequence is long enough to measure") };
        let tokens = &options.calibration[..];
        if tokens.is_empty() {
            // Widths are judged by a text that is not calibrated on.
            let is_judge = !options.widths.is_empty() && options.judged_by.is_empty();
            let is_needed = options.own_sequences == 0 || is_judge;
            return match options.needs_text().filter(|_| is_needed) {
                Some(what) => Err(CompressError::NeedsText(what)),
                None => Ok(Self::default()),
            };
        }
        let holds_out = !options.widths.is_empty() && options.judged_by.is_empty();
        let needed = if holds_out { 2 * SEQUENCE } else { SEQUENCE };
        if tokens.len() < needed || options.sequences_max == 0 {
            return Err(CompressError::TextTooShort { tokens: tokens.len(), needed });
        }
        let all = tokens.len() / SEQUENCE;
        let held_out = if holds_out { HELD_OUT.min(all / 2) } else { 0 };
        let used = options.sequences_max.min(all - held_out);
        Ok(Self::spread(tokens, used, held_out))
    }

    /// `used` and `held_out` of the sequences of `tokens`, both spread over all of them, because
    /// what a text is about changes along it.
    fn spread(tokens: &[u32], used: usize, held_out: usize) -> Self {
        let (all, picks) = (tokens.len() / SEQUENCE, used + held_out);
        let mut text = Self::default();
        for pick in 0..picks {
            let is_held_out = (pick + 1) * held_out / picks > pick * held_out / picks;
            let to = if is_held_out { &mut text.held_out } else { &mut text.calibration };
            to.extend(&tokens[pick * all / picks * SEQUENCE..][..SEQUENCE]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    quickcheck! {
        /// As many as asked for, no token twice, in their order, and from one end to the other.
        fn sequences_are_spread_over_the_text(used: u8, held_out: u8, more: u8) -> bool {
            let (used, held_out) = (usize::from(used) + 1, usize::from(held_out % 7));
            let all = used + held_out + usize::from(more);
            let tokens: Vec<u32> = (0..).take(all * SEQUENCE + 100).collect();
            let text = Text::spread(&tokens, used, held_out);
            let mut starts: Vec<u32> = Vec::new();
            for part in [&text.calibration, &text.held_out] {
                for sequence in part.chunks(SEQUENCE) {
                    assert!(sequence.windows(2).all(|pair| pair[1] == pair[0] + 1), "in one piece");
                    starts.push(sequence[0]);
                }
                assert!(part.is_sorted());
            }
            starts.sort_unstable();
            starts.dedup();
            let widest = SEQUENCE * all.div_ceil(used + held_out);
            let bounds: Vec<u32> =
                [0].into_iter().chain(starts.clone()).chain([tokens[all * SEQUENCE]]).collect();
            text.calibration.len() == used * SEQUENCE
                && text.held_out.len() == held_out * SEQUENCE
                && starts.len() == used + held_out
                && bounds.windows(2).all(|pair| (pair[1] - pair[0]) as usize <= widest)
        }
    }

    #[test]
    fn a_text_to_judge_by_spares_the_calibration_text() {
        let options = Options {
            widths: vec![0.5],
            calibration: (0..).take(20 * SEQUENCE).collect(),
            judged_by: (100_000..).take(40 * SEQUENCE).collect(),
            sequences_max: 64,
            ..crate::tests::options(atoll_model::BlockType::Q8_0)
        };
        let config = atoll_model::tiny::config(atoll_model::Architecture::Llama);
        let text = Text::of(&options, &config).expect("long enough");
        assert_eq!(text.held_out.len(), JUDGED_BY * SEQUENCE);
        assert!(text.held_out.iter().all(|token| *token >= 100_000));
        assert!(text.calibration.iter().all(|token| *token < 100_000));
        let calibrated = |text: &Text| text.calibration.len() / SEQUENCE;
        let without = Options { judged_by: Vec::new(), ..options.clone() };
        let without = Text::of(&without, &config).expect("long enough");
        assert!(calibrated(&text) > calibrated(&without), "none is held out");
        let short = Options { judged_by: vec![1; SEQUENCE - 1], ..options };
        let found = Text::of(&short, &config);
        assert!(matches!(found, Err(CompressError::TextTooShort { needed: SEQUENCE, .. })));
    }

    #[test]
    fn what_is_held_out_lies_between_what_is_used() {
        let tokens: Vec<u32> = (0..).take(20 * SEQUENCE).collect();
        let text = Text::spread(&tokens, 8, 2);
        let starts = |part: &[u32]| -> Vec<usize> {
            part.chunks(SEQUENCE).map(|sequence| sequence[0] as usize / SEQUENCE).collect()
        };
        assert_eq!(starts(&text.calibration), [0, 2, 4, 6, 10, 12, 14, 16]);
        assert_eq!(starts(&text.held_out), [8, 18]);
    }
}
