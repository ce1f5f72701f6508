//! The three programs of `examples/` run and say what they promise.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::tempdir;

use crate::atoll::{self, Run, Running};
use crate::models::SMOLLM2;

const LIMIT: Duration = Duration::from_secs(120);

/// An example that cargo has built beside the tests.
fn example(name: &str) -> Command {
    let path = atoll::binary().parent().unwrap().join("examples").join(name);
    assert!(path.is_file(), "{name} is missing: cargo build --release --workspace --examples");
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).env("RUST_BACKTRACE", "1");
    command
}

fn succeeds(command: Command) -> Run {
    let run = atoll::run_within(command, LIMIT);
    assert_eq!(run.code, 0, "{run}");
    run
}

fn model(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn local_answers_in_one_process() {
    let tiny = succeeds(example("local"));
    assert!(tiny.stderr.contains("tokens/s"), "{tiny}");
    let Some(path) = SMOLLM2.path() else { return };
    let mut command = example("local");
    command.args([model(path), "What is the capital of France?"]);
    let real = succeeds(command);
    assert!(real.stdout.contains("Paris"), "{real}");
}

#[test]
fn three_nodes_answer_together() {
    let tiny = succeeds(example("three_nodes"));
    let stages = |run: &Run| run.stdout.lines().filter(|line| line.starts_with("layers ")).count();
    assert_eq!(stages(&tiny), 3, "{tiny}");
    assert!(tiny.stdout.contains("tokens/s on three nodes"), "{tiny}");
    let Some(path) = SMOLLM2.path() else { return };
    let mut command = example("three_nodes");
    command.arg(model(path));
    let real = succeeds(command);
    assert_eq!(stages(&real), 3, "{real}");
    let alone = crate::local::run(path, "Once upon a time", 32, &[]);
    assert!(real.stdout.contains(alone["text"].as_str().unwrap()), "{real}, alone: {alone}");
}

#[test]
fn http_client_streams_from_a_node() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = example("http_client");
    command.env("OPENAI_BASE_URL", format!("http://{free}/v1"));
    let nobody = atoll::run_within(command, LIMIT);
    assert_ne!(nobody.code, 0, "{nobody}");
    assert!(nobody.stderr.contains("atoll serve starts one"), "{nobody}");

    let Some(path) = SMOLLM2.path() else { return };
    let data = tempdir().unwrap();
    let mut args = vec!["serve", model(path), "--api", "127.0.0.1:0", "--no-mdns", "--json"];
    args.extend(["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let mut node = Running::start(atoll::command(data.path(), &args));
    let api = node.wait_for_event("api", Duration::from_secs(20));
    node.wait_for_event("serving", LIMIT);
    let mut command = example("http_client");
    command.arg("What is the capital of France?");
    command.env("OPENAI_BASE_URL", format!("{}/v1", api["url"].as_str().unwrap()));
    let answer = succeeds(command);
    let mut args = vec!["run", model(path), "What is the capital of France?", "--json"];
    args.extend(["--local", "--temp", "0", "--max-tokens", "128"]);
    let alone = atoll::json(data.path(), &args);
    assert!(answer.stdout.contains(alone["text"].as_str().unwrap()), "{answer}, alone: {alone}");
    assert!(answer.stdout.contains(" tokens from "), "{answer}");
    assert_eq!(node.end_with("TERM", Duration::from_secs(10)).code, 143);
}
