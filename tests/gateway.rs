//! The HTTP interface: shapes, many at once, clients that leave.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::atoll::{self, Running};
use crate::models::SMOLLM2;

/// `atoll serve` on loopback, gone with its owner.
struct Served {
    node: Running,
    client: Client,
    _data: TempDir,
}

/// Somebody who talks to it.
struct Client {
    url: String,
    model: String,
}

fn serve(path: &Path) -> Served {
    let data = tempdir().unwrap();
    let mut args = vec!["serve", path.to_str().unwrap(), "--no-mdns", "--json", "--ctx", "2048"];
    args.extend(["--api", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    let mut node = Running::start(atoll::command(data.path(), &args));
    let api = node.wait_for_event("api", Duration::from_secs(20));
    let url = api["url"].as_str().unwrap().to_owned();
    node.wait_for_event("serving", Duration::from_secs(60));
    let models = get(&format!("{url}/v1/models"));
    let model = models["data"][0]["id"].as_str().unwrap().to_owned();
    Served { node, client: Client { url, model }, _data: data }
}

fn get(url: &str) -> Value {
    let mut response = ureq::get(url).call().unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Status and body of a POST.
fn post(url: &str, body: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(120)))
        .build()
        .into();
    let request = agent.post(url).header("content-type", "application/json");
    let mut response = request.send(body).unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (response.status().as_u16(), body)
}

/// Greedy `/v1/completions`.
pub(crate) fn complete(url: &str, prompt: &str, n: u32) -> String {
    let models = get(&format!("{url}/v1/models"));
    let body = json!({
        "model": models["data"][0]["id"], "prompt": prompt, "max_tokens": n, "temperature": 0,
    });
    let (status, answer) = post(&format!("{url}/v1/completions"), &body.to_string());
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["object"], "text_completion", "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], n, "{answer}");
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

impl Client {
    fn chat_body(&self, prompt: &str, n: u32, stream: bool) -> String {
        let messages = json!([{"role": "user", "content": prompt}]);
        json!({
            "model": self.model, "messages": messages, "max_tokens": n, "temperature": 0,
            "stream": stream,
        })
        .to_string()
    }

    fn chat(&self, prompt: &str, n: u32) -> String {
        let url = format!("{}/v1/chat/completions", self.url);
        let (status, answer) = post(&url, &self.chat_body(prompt, n, false));
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["object"], "chat.completion", "{answer}");
        assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"), "{answer}");
        let choice = &answer["choices"][0];
        assert!(matches!(choice["finish_reason"].as_str(), Some("stop" | "length")), "{answer}");
        assert_eq!(choice["message"]["role"], "assistant", "{answer}");
        let usage = &answer["usage"];
        let sum =
            usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
        assert_eq!(usage["total_tokens"], sum, "{answer}");
        choice["message"]["content"].as_str().unwrap().to_owned()
    }

    /// The events of a streamed chat and how many characters came before `[DONE]`.
    fn chat_stream(&self, prompt: &str, n: u32) -> String {
        let url = format!("{}/v1/chat/completions", self.url);
        let request = ureq::post(&url).header("content-type", "application/json");
        let mut response = request.send(self.chat_body(prompt, n, true)).unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        let mut text = String::new();
        response.body_mut().as_reader().read_to_string(&mut text).unwrap();
        joined(&text)
    }
}

/// Checks the shape of a chat stream and returns its text.
fn joined(stream: &str) -> String {
    let events: Vec<&str> = stream
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(':'))
        .map(|line| line.strip_prefix("data: ").unwrap_or_else(|| panic!("{line:?}")))
        .collect();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|c| serde_json::from_str(c).unwrap()).collect();
    let mut text = String::new();
    for (index, chunk) in chunks.iter().enumerate() {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        for key in ["id", "created", "model"] {
            assert_eq!(chunk[key], chunks[0][key], "{key} changed");
        }
        let choice = &chunk["choices"][0];
        assert_eq!(choice["delta"].get("role").is_some(), index == 0, "{chunk}");
        let last = index + 1 == chunks.len();
        assert_eq!(choice["finish_reason"].is_string(), last, "{chunk}");
        text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
    }
    text
}

#[test]
fn chats_have_the_documented_shape_and_say_what_run_says() {
    let Some(path) = SMOLLM2.path() else { return };
    let served = serve(path);
    let prompt = "Why is the sky blue?";
    let whole = served.client.chat(prompt, 40);
    assert_eq!(served.client.chat_stream(prompt, 40), whole);
    let data = tempdir().unwrap();
    let mut args = vec!["run", path.to_str().unwrap(), prompt, "--local", "--json"];
    args.extend(["--temp", "0", "--max-tokens", "40"]);
    assert_eq!(atoll::json(data.path(), &args)["text"], whole);

    let golden = &SMOLLM2.golden()[0];
    assert!(complete(&served.client.url, &golden.prompt, 8).starts_with(" Paris.\n\n"));
    assert_eq!(ureq::get(format!("{}/healthz", served.client.url)).call().unwrap().status(), 200);
    let listed = get(&format!("{}/v1/models", served.client.url));
    assert_eq!(listed["object"], "list");
    assert_eq!(listed["data"][0]["object"], "model");
}

#[test]
fn wrong_requests_are_refused_with_a_reason() {
    let Some(path) = SMOLLM2.path() else { return };
    let served = serve(path);
    let url = format!("{}/v1/chat/completions", served.client.url);
    let model = &served.client.model;
    for body in [
        "{".to_owned(),
        "[]".to_owned(),
        json!({"model": model}).to_string(),
        json!({"model": model, "messages": null}).to_string(),
        json!({"model": model, "messages": "hello"}).to_string(),
        json!({"model": model, "messages": [123]}).to_string(),
        json!({"model": model, "messages": [{}]}).to_string(),
        json!({"model": model, "messages": [{"role": "user", "content": 123}]}).to_string(),
        json!({"model": model, "messages": [{"role": "user", "content": "x"}], "n": 2}).to_string(),
        json!({"model": model, "messages": [{"role": "user", "content": "x"}],
            "temperature": "hot"})
        .to_string(),
    ] {
        let (status, answer) = post(&url, &body);
        assert_eq!(status, 400, "{body}: {answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error", "{body}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().len() > 5, "{body}: {answer}");
    }
    let unknown = json!({"model": "gpt-9", "messages": [{"role": "user", "content": "x"}]});
    let (status, answer) = post(&url, &unknown.to_string());
    assert_eq!(status, 404, "{answer}");
    let long = served.client.chat_body(&crate::local::long_prompt(10_000), 8, false);
    let (status, answer) = post(&url, &long);
    assert_eq!(status, 400, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("2048"), "{answer}");
}

#[test]
fn eight_chats_at_once_say_what_each_says_alone() {
    let Some(path) = SMOLLM2.path() else { return };
    let served = serve(path);
    let prompts: Vec<String> =
        (0..8).map(|n| format!("Tell me something about the number {n}.")).collect();
    let client = &served.client;
    let at_once: Vec<String> = thread::scope(|scope| {
        let asked: Vec<_> =
            prompts.iter().map(|prompt| scope.spawn(|| client.chat_stream(prompt, 32))).collect();
        asked.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    for (prompt, answer) in prompts.iter().zip(at_once) {
        assert_eq!(served.client.chat(prompt, 32), answer, "{prompt}");
    }
}

#[test]
fn the_openai_package_gets_the_text_of_run() {
    let Some(python) = python_with_openai() else {
        return atoll::skip("the openai package", "no Python has it; see tests/peers/README.md");
    };
    let Some(path) = SMOLLM2.path() else { return };
    let served = serve(path);
    let script = crate::workspace::root().join("tests/peers/openai_chat.py");
    let prompt = "Why is the sky blue?";
    let mut client = Command::new(python);
    client
        .arg("-B")
        .arg(script)
        .arg(format!("{}/v1", served.client.url))
        .arg(&served.client.model)
        .arg(prompt);
    let run = atoll::run_within(client, Duration::from_secs(200));
    let answer = run.json();
    assert_eq!(answer["stream"], answer["whole"]);
    assert_eq!(answer["at_once"], answer["alone"]);
    assert_eq!(answer["models"][0], served.client.model);
    let data = tempdir().unwrap();
    let mut args = vec!["run", path.to_str().unwrap(), prompt, "--local", "--json"];
    args.extend(["--temp", "0", "--max-tokens", "48"]);
    assert_eq!(answer["stream"], atoll::json(data.path(), &args)["text"]);
}

fn python_with_openai() -> Option<PathBuf> {
    let named = std::env::var_os("ATOLL_TEST_PYTHON").map(PathBuf::from);
    [named, Some(PathBuf::from("python3"))].into_iter().flatten().find(|python| {
        let done = Command::new(python).args(["-c", "import openai"]).output();
        done.is_ok_and(|done| done.status.success())
    })
}

#[test]
fn a_client_that_leaves_stops_the_work() {
    let Some(path) = SMOLLM2.path() else { return };
    let served = serve(path);
    let host = served.client.url.strip_prefix("http://").unwrap();
    let body = served.client.chat_body("Write a very long story about the sea.", 1500, true);
    let mut stream = TcpStream::connect(host).unwrap();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut lines = BufReader::new(stream);
    let mut heard = 0;
    while heard < 5 {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the stream ended early");
        heard += usize::from(line.starts_with("data: "));
    }
    // On a busy machine it may not get at much in the first half second.
    let works = || cpu_s_within(served.node.pid(), Duration::from_millis(500)) > 0.2;
    assert!((0..6).any(|_| works()), "it is at work");
    drop(lines);
    thread::sleep(Duration::from_millis(500));
    let after = cpu_s_within(served.node.pid(), Duration::from_secs(1));
    assert!(after < 0.2, "{after} s of work in the second after the client left");
    assert!(!served.client.chat("Hello", 4).is_empty(), "and others are still served");
}

/// Processor time that `pid` takes in the next `span`, in seconds.
fn cpu_s_within(pid: u32, span: Duration) -> f64 {
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        // utime and stime, in hundredths of a second on Linux.
        fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap()
    };
    let before = ticks();
    thread::sleep(span);
    f64::from(ticks() - before) / 100.0
}
