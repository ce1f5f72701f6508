//! `atoll top`, and what scrapers read, of a node that runs.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::atoll::{self, Running};

const LIMIT: Duration = Duration::from_secs(20);

/// A node without a model, and its data.
fn node() -> (Running, TempDir, String) {
    let data = tempdir().unwrap();
    let args = ["up", "--no-mdns", "--json", "--listen", "/ip4/127.0.0.1/tcp/0", "--name", "alone"];
    let args = [&args[..], &["--api", "127.0.0.1:0"]].concat();
    let mut node = Running::start(atoll::command(data.path(), &args));
    let url = node.wait_for_event("api", LIMIT)["url"].as_str().unwrap().to_owned();
    (node, data, url)
}

#[test]
fn a_line_of_json_each_time_until_it_has_looked_often_enough() {
    let (mut node, data, _) = node();
    let args = ["top", "--json", "--every", "1", "--count", "2"];
    let run = atoll::run_within(atoll::command(data.path(), &args), LIMIT);
    assert_eq!(run.code, 0, "{run}");
    let looks: Vec<Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(looks.len(), 2, "{run}");
    let uptime = |look: &Value| look["node"]["uptime_s"].as_u64().unwrap();
    assert!(looks.iter().all(|look| look["schema"] == "atoll.status/1"), "{run}");
    assert!(uptime(&looks[1]) > uptime(&looks[0]), "a second lies between: {run}");
    node.end_with("TERM", LIMIT);
    let run = atoll::run_within(atoll::command(data.path(), &args), LIMIT);
    run.refuses(4, &["no node runs here", "try: "]);
}

#[test]
fn without_a_terminal_it_says_what_else_there_is() {
    let (mut node, data, _) = node();
    let run = atoll::run_within(atoll::command(data.path(), &["top"]), LIMIT);
    run.refuses(2, &["stdout is none", "atoll top --json"]);
    node.end_with("TERM", LIMIT);
}

/// On a terminal that `script` makes; what it showed, and how it ended.
fn on_a_terminal(data: &Path, keys: &str) -> Option<(String, bool)> {
    let line = format!(
        "stty cols 90 rows 30; timeout --foreground 20 '{}' top",
        atoll::binary().display()
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("ATOLL_DATA_DIR", data).env("TERM", "xterm");
    command.env("ATOLL_CONFIG", "/dev/null");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().ok()?;
    sleep(Duration::from_secs(3));
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), keys.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    Some((String::from_utf8_lossy(&done.stdout).into_owned(), done.status.success()))
}

#[test]
fn it_draws_until_a_key_ends_it_and_gives_the_terminal_back() {
    let (mut node, data, _) = node();
    for keys in ["q", "\u{3}"] {
        let Some((shown, success)) = on_a_terminal(data.path(), keys) else {
            node.end_with("TERM", LIMIT);
            return atoll::skip("atoll top on a terminal", "there is no `script`");
        };
        assert!(success, "{keys:?}: {shown}");
        // Between words of a line the cursor may be moved instead.
        for part in ["alone", "none is served here", "nothing is predicted without a plan"] {
            assert!(shown.contains(part), "{part:?} is not shown: {shown}");
        }
        assert!(shown.contains("\u{1b}[?1049h"), "a screen of its own: {shown}");
        assert!(shown.contains("\u{1b}[?1049l"), "which it leaves: {shown}");
    }
    node.end_with("TERM", LIMIT);
}

#[test]
fn scrapers_read_its_figures() {
    let (mut node, _data, url) = node();
    let mut answer = ureq::get(format!("{url}/metrics")).call().unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let text = answer.body_mut().read_to_string().unwrap();
    for line in ["atoll_peers 0.0", "atoll_requests 0.0", "atoll_blobs_sent_bytes_total 0"] {
        assert!(text.lines().any(|it| it == line), "no {line}: {text}");
    }
    let memory = text.lines().find_map(|line| line.strip_prefix("atoll_resident_memory_bytes "));
    assert!(memory.unwrap().parse::<f64>().unwrap() > 1e6, "{text}");
    node.end_with("TERM", LIMIT);
}
