//! Stop strings in text that comes in pieces.

/// Passes text through until one of the stop strings appears in it, and holds back what could
/// become one.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Text that could be the beginning of a stop string.
    held: String,
}

/// What a piece of text makes certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Text to hand on; it holds no stop string nor a part of one that appeared.
    pub text: String,
    /// The stop string that ends the text, if one appeared: its place in the list.
    pub stopped_by: Option<usize>,
}

impl StopMatcher {
    /// A matcher for the given strings; empty ones are ignored.
    #[must_use]
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), held: String::new() }
    }

    /// Takes the next piece of text. After a stop string appeared, what follows is dropped by the
    /// caller.
    #[must_use = "the text is not kept"]
    pub fn push(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        let found = (0..)
            .zip(&self.stops)
            .filter(|(_, stop)| !stop.is_empty())
            .filter_map(|(idx, stop): (usize, _)| Some((self.held.find(stop.as_str())?, idx)))
            .min();
        if let Some((start, idx)) = found {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return Passed { text, stopped_by: Some(idx) };
        }
        let certain = self.held.len() - self.held_back();
        let rest = self.held.split_off(certain);
        Passed { text: std::mem::replace(&mut self.held, rest), stopped_by: None }
    }

    /// What was held back when no more text comes.
    #[must_use = "the text is not kept"]
    pub fn finish(self) -> String {
        self.held
    }

    /// Bytes at the end of the text that begin a stop string.
    fn held_back(&self) -> usize {
        let begins = |stop: &String| {
            (1..stop.len())
                .rev()
                .filter(|&len| stop.is_char_boundary(len))
                .find(|&len| self.held.ends_with(&stop[..len]))
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::{Passed, StopMatcher};

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(&stops.iter().map(|&stop| stop.to_owned()).collect::<Vec<_>>())
    }

    fn run(matcher: &mut StopMatcher, pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut texts = Vec::new();
        for piece in pieces {
            let Passed { text, stopped_by } = matcher.push(piece);
            texts.push(text);
            if stopped_by.is_some() {
                return (texts, stopped_by);
            }
        }
        (texts, None)
    }

    #[test]
    fn holds_back_a_possible_beginning() {
        let mut matcher = matcher(&["\n\nQ:", "END"]);
        let (texts, stopped) = run(&mut matcher, &["a\n", "\n", "b E", "N", "x", "\n\nQ", ": c"]);
        assert_eq!(texts, ["a", "", "\n\nb ", "", "ENx", "", ""]);
        assert_eq!(stopped, Some(0));
    }

    #[test]
    fn takes_the_first_to_appear() {
        assert_eq!(run(&mut matcher(&["bc", "ab"]), &["xabc"]), (vec!["x".to_owned()], Some(1)));
        assert_eq!(run(&mut matcher(&[""]), &["x"]), (vec!["x".to_owned()], None));
        let mut stops = matcher(&["€€"]);
        assert_eq!(run(&mut stops, &["a€", "b€"]).0, ["a", "€b"]);
        assert_eq!(stops.finish(), "€");
    }

    quickcheck! {
        fn equals_the_search_in_the_whole_text(text: String, cuts: Vec<bool>) -> bool {
            // A text over few letters, so that stop strings appear often.
            let text: String = text.chars().map(|c| ['a', 'b', 'é'][c as usize % 3]).collect();
            let stops = ["abé", "bb", "éab"];
            let mut matcher = matcher(&stops);
            let (mut out, mut piece, mut stopped) = (String::new(), String::new(), None);
            for (idx, c) in text.chars().enumerate() {
                piece.push(c);
                if cuts.get(idx).copied().unwrap_or(false) {
                    let passed = matcher.push(&std::mem::take(&mut piece));
                    out.push_str(&passed.text);
                    stopped = passed.stopped_by;
                    if stopped.is_some() {
                        break;
                    }
                }
            }
            if stopped.is_none() {
                let passed = matcher.push(&piece);
                out.push_str(&passed.text);
                stopped = passed.stopped_by;
                if stopped.is_none() {
                    out.push_str(&matcher.finish());
                }
            }
            let first = stops.iter().filter_map(|stop| text.find(stop)).min();
            match first {
                Some(start) => stopped.is_some() && out == text[..start],
                None => stopped.is_none() && out == text,
            }
        }
    }
}
