//! What a running node tells: a line for people on stderr, or a line of JSON on stdout.

use atoll_node::{NodeEvent, NodeHandle, Search, StageView};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::exit::Failure;
use crate::output;

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

/// Tells everything that `node` reports, until it ends.
///
/// # Errors
/// What keeps the node from going on.
pub(crate) async fn follow(json: bool, node: &NodeHandle) -> Result<(), Failure> {
    let mut events = node.subscribe();
    loop {
        match events.recv().await {
            Ok(event) => tell(json, &object(node, &event), &text(&event))?,
            // Progress came faster than it could be written: what is newer is what counts.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Ok(()),
        }
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

/// An event for people.
pub(crate) fn text(event: &NodeEvent) -> String {
    let share = |done: &u64, total: &u64| {
        format!("{} of {}", output::bytes_text(*done), output::bytes_text(*total))
    };
    match event {
        NodeEvent::PeerJoined { name, .. } => format!("{name} is here"),
        NodeEvent::PeerLeft { name, cause, .. } => format!("{name} is gone: {cause}"),
        NodeEvent::Import { model, bytes_done, bytes_total } => {
            format!("storing {model}: {}", share(bytes_done, bytes_total))
        }
        NodeEvent::Progress { node, bytes_done, bytes_total, .. } => {
            format!("{node} fetches and loads its layers: {}", share(bytes_done, bytes_total))
        }
        NodeEvent::PlanReady { stages, .. } => {
            let stage = |stage: &StageView| {
                format!("{} {}..{}", stage.node, stage.layers[0], stage.layers[1])
            };
            format!("ready: {}", stages.iter().map(stage).collect::<Vec<_>>().join(", "))
        }
        NodeEvent::PlanFailed { error, .. } => format!("no plan: {error}"),
        NodeEvent::Alone { search } => alone(search),
        NodeEvent::Fatal { error } => format!("cannot go on: {error}"),
    }
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
