//! What a running node tells: a line for people on stderr, or a line of JSON on stdout.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_node::{NodeEvent, NodeHandle, Search, StageView};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::exit::{Exit, Failure};
use crate::output;
use crate::progress::{Task, Unit};

/// Tells one event, with its schema.
pub(crate) fn tell(json: bool, event: &Value, text: &str) -> Result<(), Failure> {
    if !json {
        output::note(text);
        return Ok(());
    }
    let mut line = json!({ "schema": "atoll.event/1" });
    if let (Some(line), Some(event)) = (line.as_object_mut(), event.as_object()) {
        line.extend(event.clone());
    }
    output::json(&line)
}

/// Widths as `--width` takes them: one, if all layers have the same.
pub(crate) fn widths_text(widths: &[f64]) -> String {
    let mut texts: Vec<String> = widths.iter().map(|width| format!("{width:.3}")).collect();
    if texts.iter().all(|text| *text == texts[0]) {
        texts.truncate(1);
    }
    texts.join(",")
}

/// Tells everything that `node` reports, until it ends.
///
/// # Errors
/// What keeps the node from going on.
pub(crate) async fn follow(mut teller: Teller, node: &NodeHandle) -> Result<(), Failure> {
    let mut events = node.subscribe();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => teller.hear(node, &event)?,
                // Progress came faster than it could be written: what is newer is what counts.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            _ = ticks.tick() => teller.tick(node),
        }
    }
}

/// Who hears of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// People: lines and bars on stderr.
    People,
    /// Programs: a line of JSON on stdout for each event.
    Programs,
    /// People who wait for an answer: only what takes long.
    Waiting,
}

/// Tells what a node reports to one audience.
#[derive(Debug)]
pub(crate) struct Teller {
    audience: Audience,
    /// The model that is being placed for the first time.
    placing: Option<String>,
    /// What is stored or loaded.
    loading: Option<Task>,
    /// A placement that has not begun.
    waiting: Option<Task>,
    /// Bytes there and bytes needed, by node.
    shares: BTreeMap<String, (u64, u64)>,
}

impl Teller {
    /// Tells `audience`; `placing` is a model that is about to be served.
    pub(crate) fn new(audience: Audience, placing: Option<&str>) -> Self {
        Self {
            audience,
            placing: placing.map(str::to_owned),
            loading: None,
            waiting: None,
            shares: BTreeMap::new(),
        }
    }

    fn hear(&mut self, node: &NodeHandle, event: &NodeEvent) -> Result<(), Failure> {
        if self.audience == Audience::Programs {
            tell(true, &object(node, event), "")?;
        } else {
            self.show(event);
        }
        match event {
            NodeEvent::Fatal { error } => {
                Err(Failure::new(Exit::TrustRefused, "the node cannot go on").because(error))
            }
            NodeEvent::PeerJoined { .. }
            | NodeEvent::PeerLeft { .. }
            | NodeEvent::Import { .. }
            | NodeEvent::Progress { .. }
            | NodeEvent::PlanReady { .. }
            | NodeEvent::PlanFailed { .. }
            | NodeEvent::Alone { .. } => Ok(()),
        }
    }

    fn show(&mut self, event: &NodeEvent) {
        let note = match event {
            NodeEvent::Import { model, bytes_done, bytes_total } => {
                return self.progress(&format!("storing {model}"), *bytes_done, *bytes_total);
            }
            NodeEvent::Progress { node, bytes_done, bytes_total, .. } => {
                self.shares.insert(node.clone(), (*bytes_done, *bytes_total));
                let sum = |of: fn(&(u64, u64)) -> u64| self.shares.values().map(of).sum();
                let (done, total) = (sum(|share| share.0), sum(|share| share.1));
                let nodes: Vec<&str> = self.shares.keys().map(String::as_str).collect();
                return self.progress(&format!("loading on {}", nodes.join(", ")), done, total);
            }
            // Whoever placed it tells how that went.
            NodeEvent::PlanReady { .. } | NodeEvent::PlanFailed { .. } => {
                self.shares.clear();
                self.placing.take().is_none() && self.audience == Audience::People
            }
            NodeEvent::Alone { .. } => true,
            NodeEvent::PeerJoined { .. } | NodeEvent::PeerLeft { .. } => {
                self.audience == Audience::People
            }
            // The failure that follows says it.
            NodeEvent::Fatal { .. } => false,
        };
        for task in [self.loading.take(), self.waiting.take()].into_iter().flatten() {
            task.finish();
        }
        if note {
            output::note(&text(event));
        }
    }

    fn progress(&mut self, what: &str, done: u64, total: u64) {
        if let Some(waiting) = self.waiting.take() {
            waiting.finish();
        }
        let task = self.loading.get_or_insert_with(|| Task::new(what, Unit::Bytes, None));
        task.rename(what);
        task.set_total(Some(total));
        task.at(done);
    }

    /// Says what a placement that does not begin is waiting for.
    fn tick(&mut self, node: &NodeHandle) {
        let Some(model) = &self.placing else { return };
        if self.audience == Audience::Programs || self.loading.is_some() {
            return;
        }
        let task = self.waiting.get_or_insert_with(|| {
            Task::new(format!("placing {model}, nodes here"), Unit::Items, None)
        });
        task.at(node.status().peers.len() as u64 + 1);
    }
}

/// An event as JSON. A peer's says how it was found, too.
fn object(node: &NodeHandle, event: &NodeEvent) -> Value {
    if let NodeEvent::PeerJoined { name, id } = event {
        let peers = node.status().peers;
        let found_by = peers.into_iter().find(|peer| peer.id == *id).map(|peer| peer.found_by);
        return json!({ "event": "peer", "node": id, "name": name, "found_by": found_by });
    }
    serde_json::to_value(event).expect("our own structs serialize")
}

/// An event for people. What is under way is a bar, not a line.
fn text(event: &NodeEvent) -> String {
    match event {
        NodeEvent::PeerJoined { name, .. } => format!("{name} is here"),
        NodeEvent::PeerLeft { name, cause, .. } => format!("{name} is gone: {cause}"),
        NodeEvent::PlanReady { stages, .. } => format!("ready: {}", stages_text(stages)),
        NodeEvent::PlanFailed { error, .. } => format!("no plan: {error}"),
        NodeEvent::Alone { search } => alone(search),
        NodeEvent::Fatal { error } => format!("cannot go on: {error}"),
        NodeEvent::Import { model, .. } => format!("storing {model}"),
        NodeEvent::Progress { node, .. } => format!("{node} loads its layers"),
    }
}

/// Who holds what: `a 0..15, b 15..30`.
pub(crate) fn stages_text(stages: &[StageView]) -> String {
    let stage =
        |stage: &StageView| format!("{} {}..{}", stage.node, stage.layers[0], stage.layers[1]);
    stages.iter().map(stage).collect::<Vec<_>>().join(", ")
}

/// Why nobody may have been met: what was tried, what was heard, what to do.
fn alone(search: &Search) -> String {
    let or_none = |list: &[String]| match list {
        [] => "nothing".to_owned(),
        list => list.join(", "),
    };
    let multicast = if search.mdns { "on" } else { "off" };
    format!(
        "no peers yet: listening on {}; multicast {multicast}; asked {}; heard {}; failures: {}\n\
         try: atoll up --join ADDR with an address that a running node shows",
        or_none(&search.listening),
        or_none(&search.bootstrap),
        or_none(&search.heard),
        or_none(&search.failures),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn being_alone_is_explained() {
        let search = Search {
            listening: vec!["/ip4/10.0.0.1/tcp/7400".to_owned()],
            mdns: true,
            bootstrap: vec!["/ip4/10.0.0.2/tcp/7400".to_owned()],
            heard: Vec::new(),
            failures: vec!["10.0.0.2: refused".to_owned()],
        };
        let text = text(&NodeEvent::Alone { search });
        for part in ["10.0.0.1", "multicast on", "asked /ip4/10.0.0.2", "heard nothing", "refused"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("try: atoll up --join"));
    }
}
