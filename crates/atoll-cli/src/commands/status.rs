//! `atoll status`: asks the running node.

use std::time::Duration;

use serde_json::Value;

use crate::api_file::ApiFile;
use crate::args::{ApiAddress, StatusArgs};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::settings::Settings;

/// A node on this machine answers far sooner.
const ANSWER_MAX: Duration = Duration::from_secs(5);

pub(crate) fn run(settings: &Settings, args: &StatusArgs) -> Result<(), Failure> {
    let status = ask(settings, args.api)?;
    if settings.json { output::json(&status) } else { output::line_out(&text(&status)) }
}

/// What the node there says of itself, or the one that the data directory knows of.
///
/// # Errors
/// [`Exit::Unreachable`] if no node answers, [`Exit::VersionSkew`] if it is of another version.
pub(super) fn ask(settings: &Settings, api: Option<ApiAddress>) -> Result<Value, Failure> {
    let url = match api {
        Some(ApiAddress::At(at)) => format!("http://{at}"),
        Some(ApiAddress::None) => return Err(Failure::usage("there is no address to ask")),
        None => ApiFile::read(&settings.data_dir)?,
    };
    let unreachable = |cause: String| {
        Failure::new(Exit::Unreachable, format!("the node at {url} does not answer"))
            .because(cause)
            .hint("atoll up starts one")
    };
    let config = ureq::Agent::config_builder().timeout_global(Some(ANSWER_MAX)).proxy(None).build();
    let agent: ureq::Agent = config.into();
    let answer = agent.get(format!("{url}/api/v1/state")).call();
    let mut answer = answer.map_err(|error| unreachable(error.to_string()))?;
    let body =
        answer.body_mut().read_to_string().map_err(|error| unreachable(error.to_string()))?;
    let status: Value =
        serde_json::from_str(&body).map_err(|error| unreachable(error.to_string()))?;
    match status["schema"].as_str() {
        Some("atoll.status/1") => Ok(status),
        other => {
            Err(Failure::new(Exit::VersionSkew, format!("the node at {url} is of another version"))
                .because(format!("it answers in {other:?} instead of atoll.status/1")))
        }
    }
}

/// A word of a status, or a question mark.
pub(super) fn word(value: &Value) -> String {
    value.as_str().unwrap_or("?").to_owned()
}

/// A list of a status; empty where there is none.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A time of a status with one digit, or a question mark.
pub(super) fn ms(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".to_owned(), |ms| format!("{ms:.1}"))
}

fn text(status: &Value) -> String {
    let node = &status["node"];
    let mut lines = vec![format!("node   {}  {}", word(&node["name"]), word(&node["id"]))];
    for address in list(&node["listen"]) {
        lines.push(format!("       {}", word(address)));
    }
    for peer in list(&status["peers"]) {
        lines.push(format!(
            "peer   {}  {}  found by {}",
            word(&peer["name"]),
            word(&peer["address"]),
            word(&peer["found_by"])
        ));
    }
    for model in list(&status["models"]) {
        lines.push(format!("model  {}", word(&model["name"])));
        let widths = list(&model["widths"]);
        if !widths.is_empty() {
            let narrower = widths.iter().filter(|width| width.as_f64() < Some(1.0)).count();
            let nats = model["loss_nats"].as_f64().unwrap_or_default();
            let all = widths.len();
            lines.push(format!(
                "       {narrower} of {all} layers are narrower, {nats:.4} nats from the model as given"
            ));
        }
        for stage in list(&model["stages"]) {
            let at = |idx: usize| stage["layers"][idx].as_u64().unwrap_or_default();
            lines.push(format!(
                "       layers {:>2}..{:<2} {}",
                at(0),
                at(1),
                word(&stage["node"])
            ));
        }
    }
    lines.extend(timing(&status["plan"]["timing"]));
    if let Some(us) = status["ring"]["hop_us_median"].as_f64() {
        lines.push(format!("hops   {us:.0} µs each beside computing, median of the latest tokens"));
    }
    lines.join("\n")
}

/// What tokens should take, and what they took.
fn timing(timing: &Value) -> Vec<String> {
    let Some(nodes) = timing["nodes"].as_array() else { return Vec::new() };
    let line = |what: &str, predicted: &Value, measured: &Value| {
        format!("       {what:<14} {:>8} {:>8}", ms(predicted), ms(measured))
    };
    let positions = timing["positions"].as_u64().unwrap_or_default();
    let prompt_tokens = timing["prompt_tokens"].as_u64().unwrap_or_default();
    let mut lines = vec![format!("time   ms of {:<8} predicted measured", "")];
    lines.extend(nodes.iter().map(|node| {
        let name = node["node"].as_str().unwrap_or("?");
        line(name, &node["compute_ms"], &node["measured_ms"])
    }));
    lines.push(line("between nodes", &timing["between_ms"], &timing["measured_between_ms"]));
    lines.push(line("a token", &timing["token_ms"], &timing["measured_token_ms"]));
    lines.push(format!(
        "       at {positions} positions; the first of {prompt_tokens} after {} ms",
        ms(&timing["first_token_ms"])
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_node_peers_and_stages() {
        let status = serde_json::json!({
            "node": { "name": "a", "id": "12D3", "listen": ["/ip4/127.0.0.1/tcp/1"] },
            "peers": [{ "name": "b", "address": "/ip4/127.0.0.1/tcp/2", "found_by": "kademlia" }],
            "models": [{
                "name": "m", "stages": [{ "node": "a", "layers": [0, 15] }],
                "widths": [1.0, 0.5], "loss_nats": 0.25,
            }],
            "plan": { "timing": {
                "positions": 9, "token_ms": 12.34, "measured_token_ms": 13.0,
                "prompt_tokens": 512, "first_token_ms": 800.0,
                "nodes": [{ "node": "a", "compute_ms": 10.0, "measured_ms": null }],
                "between_ms": 2.34, "measured_between_ms": 3.0,
            } },
        });
        let text = text(&status);
        assert!(text.contains("node   a  12D3"), "{text}");
        assert!(text.contains("peer   b  /ip4/127.0.0.1/tcp/2  found by kademlia"), "{text}");
        assert!(text.contains("layers  0..15 a"), "{text}");
        assert!(text.contains("1 of 2 layers are narrower, 0.2500 nats"), "{text}");
        assert!(text.contains("a                  10.0        ?"), "{text}");
        assert!(text.contains("a token            12.3     13.0"), "{text}");
    }
}
