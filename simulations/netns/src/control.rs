//! What can be asked of a running `linkd`: one JSON object a line, and one back.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::link::LinkChange;
use crate::switch::Switch;

/// The longest line that is read.
pub const LINE_MAX_BYTES: u64 = 1 << 16;

/// A line to `linkd`, such as
/// `{"op":"set","from":0,"to":1,"link":{"delay_us":5000,"loss_ppm":10000}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Changes links; without `from` or `to`, those of all hosts.
    Set {
        /// The sending host.
        #[serde(default)]
        from: Option<usize>,
        /// The receiving host.
        #[serde(default)]
        to: Option<usize>,
        /// What becomes other.
        link: LinkChange,
    },
    /// Cuts all links between groups, mends all within one.
    Partition {
        /// Every host once.
        groups: Vec<Vec<usize>>,
    },
    /// Mends what a partition cut.
    Heal,
    /// Every link with its counters.
    Show,
    /// Deletes the namespaces and ends.
    Stop,
}

impl Request {
    /// Does what is asked for, but for [`Request::Stop`], and says what came of it.
    #[must_use]
    pub fn answer(&self, switch: &mut Switch) -> Value {
        let done = match self {
            Self::Set { from, to, link } => switch.change(*from, *to, *link),
            Self::Partition { groups } => switch.part(groups),
            Self::Heal => {
                let up = LinkChange { up: Some(true), ..LinkChange::default() };
                switch.change(None, None, up)
            }
            Self::Show => return Self::show(switch),
            Self::Stop => Ok(()),
        };
        answer_of(done)
    }

    fn show(switch: &Switch) -> Value {
        let links: Vec<_> = switch
            .pairs()
            .map(|(from, to)| {
                let wire = switch.wire(from, to);
                json!({
                    "from": from, "to": to, "link": wire.link,
                    "frames_sent": wire.sent, "frames_lost": wire.lost,
                })
            })
            .collect();
        json!({ "ok": true, "links": links })
    }
}

/// `{"ok":true}` or what went wrong.
#[must_use]
pub fn answer_of(done: Result<()>) -> Value {
    match done {
        Ok(()) => json!({ "ok": true }),
        Err(error) => json!({ "ok": false, "error": error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_change_links_and_bad_lines_say_why() {
        let mut switch = Switch::new(1, 2);
        let mut ask = |line: &str| match serde_json::from_str::<Request>(line) {
            Ok(request) => request.answer(&mut switch),
            Err(error) => answer_of(Err(error.into())),
        };
        assert_eq!(ask(r#"{"op":"set","from":0,"to":1,"link":{"delay_us":7}}"#)["ok"], true);
        let shown = ask(r#"{"op":"show"}"#);
        assert_eq!(shown["links"][0]["link"]["delay_us"], 7, "{shown}");
        assert_eq!(shown["links"][1]["link"]["delay_us"], 0, "{shown}");
        assert_eq!(ask(r#"{"op":"partition","groups":[[0],[1]]}"#)["ok"], true);
        assert_eq!(ask(r#"{"op":"show"}"#)["links"][0]["link"]["up"], false);
        assert_eq!(ask(r#"{"op":"heal"}"#)["ok"], true);
        assert_eq!(ask(r#"{"op":"show"}"#)["links"][0]["link"]["up"], true);
        for (line, word) in [
            (r#"{"op":"set","link":{"delay":7}}"#, "delay"),
            (r#"{"op":"set","from":2,"link":{}}"#, "host 2"),
            (r#"{"op":"partition","groups":[[0]]}"#, "host 1"),
            (r#"{"op":"fly"}"#, "fly"),
            ("{", "EOF"),
        ] {
            let answer = ask(line);
            let error = answer["error"].as_str().unwrap_or_default();
            assert!(answer["ok"] == false && error.contains(word), "{line}: {answer}");
        }
    }
}
