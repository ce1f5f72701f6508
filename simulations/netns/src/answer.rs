//! What came of a request, piece by piece.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use crate::http::Line;

/// An answer as a client has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// What was said.
    pub(crate) text: String,
    /// Pieces that it came in.
    pub(crate) pieces: usize,
    /// Why it ended, if it said so.
    pub(crate) finish: Option<String>,
    /// What broke it, if anything did: the server's words, or those of the connection.
    pub(crate) error: Option<String>,
    /// The longest silence: before the first piece, between two, or before the end; after the
    /// strike only, if there was one.
    pub(crate) gap: Duration,
    /// When each piece that says something came, from the asking on.
    pub(crate) came: Vec<Duration>,
}

impl Answer {
    /// Hears an answer to its end, and strikes when it has `at` pieces; a strike says when it
    /// began.
    ///
    /// # Errors
    /// If the strike fails.
    pub(crate) fn hear(
        lines: &Receiver<Result<Line>>,
        limit: Duration,
        at: usize,
        strike: impl FnOnce() -> Result<Instant>,
    ) -> Result<Self> {
        let (mut answer, mut strike) = (Self::default(), Some(strike));
        let start = Instant::now();
        let mut last = start;
        loop {
            if answer.pieces >= at
                && let Some(strike) = strike.take()
            {
                last = strike()?;
                answer.gap = Duration::ZERO;
            }
            let line = lines.recv_timeout(limit.saturating_sub(start.elapsed()));
            let when = line.as_ref().map_or_else(
                |_| Instant::now(),
                |line| line.as_ref().map_or_else(|_| Instant::now(), |(when, _)| *when),
            );
            answer.gap = answer.gap.max(when.saturating_duration_since(last));
            last = last.max(when);
            match line {
                Ok(Ok((_, data))) if data == "[DONE]" => {
                    if strike.is_some() {
                        let n = answer.pieces;
                        answer.error = Some(format!("over with {n} pieces, before the strike"));
                    }
                    return Ok(answer);
                }
                Ok(Ok((_, data))) => {
                    let said = answer.text.len();
                    answer.add(&data);
                    if answer.text.len() > said {
                        answer.came.push(when.saturating_duration_since(start));
                    }
                }
                Ok(Err(error)) => answer.error = Some(format!("{error:#}")),
                Err(RecvTimeoutError::Timeout) => {
                    answer.error = Some(format!("no end within {limit:?}"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    answer.error.get_or_insert_with(|| "the stream broke off".to_owned());
                }
            }
            if answer.error.is_some() {
                return Ok(answer);
            }
        }
    }

    fn add(&mut self, data: &str) {
        let chunk: Value = match serde_json::from_str(data) {
            Ok(chunk) => chunk,
            Err(error) => {
                self.error = Some(format!("{error}: {data}"));
                return;
            }
        };
        if let Some(error) = chunk.get("error") {
            self.error = Some(error["message"].as_str().unwrap_or(data).to_owned());
        }
        let choice = &chunk["choices"][0];
        if let Some(text) = choice["text"].as_str() {
            self.text.push_str(text);
            self.pieces += 1;
        }
        if let Some(finish) = choice["finish_reason"].as_str() {
            self.finish = Some(finish.to_owned());
        }
    }

    /// How it differs from what it must be; `None` if it does not.
    pub(crate) fn fault(&self, wanted: &str) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(format!("ended after {} pieces: {error}", self.pieces));
        }
        if self.text != wanted {
            return Some(format!("said {:?} instead of {wanted:?}", self.text));
        }
        match &self.finish {
            Some(finish) if finish == "length" => None,
            other => Some(format!("finished by {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn hear(lines: &[&str], at: usize) -> Answer {
        let (send, receive) = channel();
        for line in lines {
            send.send(Ok((Instant::now(), (*line).to_owned()))).expect("it is heard");
        }
        drop(send);
        Answer::hear(&receive, Duration::from_secs(5), at, || Ok(Instant::now()))
            .expect("no strike fails")
    }

    fn piece(text: &str, finish: &str) -> String {
        format!(r#"{{"choices":[{{"text":"{text}","finish_reason":{finish}}}]}}"#)
    }

    #[test]
    fn what_is_not_as_undisturbed_is_a_fault() {
        let (a, b) = (piece("a", "null"), piece("b", "\"length\""));
        let whole = hear(&[&a, &b, "[DONE]"], 1);
        assert_eq!(whole.fault("ab"), None, "{whole:?}");
        for (lines, why) in [
            (&[&a[..], &b][..], "broke off"),
            (&[&b, &b, "[DONE]"], "instead of"),
            (&[&a, &a, &b, "[DONE]"], "instead of"),
            (&[&piece("ab", "null"), "[DONE]"], "finished by"),
            (&[&piece("ab", "\"stop\""), "[DONE]"], "finished by"),
            (&[&a, r#"{"error":{"message":"node lost"}}"#, "[DONE]"], "node lost"),
            (&[&a, "{"], "EOF"),
        ] {
            let fault = hear(lines, 0).fault("ab").unwrap_or_default();
            assert!(fault.contains(why), "{lines:?}: {fault}");
        }
    }

    #[test]
    fn the_gap_is_the_longest_silence_behind_the_strike() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (send, receive) = channel();
        let (a, b) = (piece("a", "null"), piece("b", "\"length\""));
        for (ms, line) in [(10_000, &a), (11_000, &a), (11_200, &b), (11_500, &"[DONE]".into())] {
            send.send(Ok((at(ms), line.clone()))).expect("it is heard");
        }
        let limit = Duration::from_secs(60);
        let answer = Answer::hear(&receive, limit, 1, || Ok(at(10_600))).expect("it strikes");
        assert_eq!(answer.gap, Duration::from_millis(400));
    }

    #[test]
    fn an_answer_that_was_never_struck_shows_nothing() {
        let b = piece("b", "\"length\"");
        let fault = hear(&[&b, "[DONE]"], 2).fault("b").unwrap_or_default();
        assert!(fault.contains("before the strike"), "{fault}");
    }

    #[test]
    fn silence_ends() {
        let (_send, receive) = channel();
        let limit = Duration::from_millis(20);
        let answer =
            Answer::hear(&receive, limit, 0, || Ok(Instant::now())).expect("no strike fails");
        assert!(answer.error.is_some_and(|error| error.contains("no end within")));
    }
}
