//! The gateway over a real node with a tiny random model, as clients see it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use atoll_gateway::GatewayConfig;
use atoll_model::{Architecture, BlockType, tiny};
use atoll_node::{NodeHandle, NodeOptions, ServePolicy};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Positions that the served plan has room for.
const CONTEXT: u32 = 256;

struct Served {
    address: SocketAddr,
    node: NodeHandle,
    runtime: Runtime,
    _dir: tempfile::TempDir,
}

/// One node for all tests of this file.
static SERVED: LazyLock<Served> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let bytes = tiny::random_model(&tiny::config(Architecture::Qwen2), BlockType::Q8_0, 3);
    std::fs::write(&path, bytes).unwrap();
    let runtime = Runtime::new().unwrap();
    let (node, address) = runtime.block_on(async {
        let node = atoll_node::start(NodeOptions::new(dir.path().join("node"))).await.unwrap();
        let policy = ServePolicy { context: CONTEXT, ..ServePolicy::default() };
        node.serve("family/tiny:1", &path, policy).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        serve(node.clone(), listener, GatewayConfig::default());
        (node, address)
    });
    Served { address, node, runtime, _dir: dir }
});

fn serve(node: NodeHandle, listener: tokio::net::TcpListener, config: GatewayConfig) {
    let router = atoll_gateway::router(node, config);
    tokio::spawn(atoll_gateway::serve(listener, router, config, std::future::pending()));
}

struct Answer {
    status: u16,
    kind: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The `data:` of every event.
    fn events(&self) -> Vec<String> {
        assert_eq!(self.kind, "text/event-stream");
        let events = self.body.split("\n\n").filter(|event| !event.is_empty());
        events.map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
    config.timeout_global(Some(Duration::from_secs(60))).build().into()
}

fn get(path: &str) -> Answer {
    let address = SERVED.address;
    read(agent().get(format!("http://{address}{path}")).call().unwrap())
}

fn post(path: &str, body: &Value) -> Answer {
    let url = format!("http://{}{path}", SERVED.address);
    let request = agent().post(url).header("content-type", "application/json");
    read(request.send(body.to_string()).unwrap())
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    assert!(response.headers().contains_key("x-request-id"));
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    Answer {
        status: response.status().as_u16(),
        kind: kind.unwrap_or_default(),
        body: response.body_mut().read_to_string().unwrap(),
    }
}

fn chat(content: &str, more: &Value) -> Value {
    let mut request = json!({
        "model": "family/tiny:1",
        "messages": [{ "role": "user", "content": content }],
        "temperature": 0,
        "max_tokens": 12,
    });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

fn chat_text(content: &str) -> String {
    let answer = post("/v1/chat/completions", &chat(content, &json!({})));
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, kind: &str, part: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    let json = answer.json();
    let error = json["error"].as_object().unwrap();
    assert_eq!(error["type"], kind);
    assert!(error["message"].as_str().unwrap().contains(part), "{}", answer.body);
    assert!(error.contains_key("param") && error.contains_key("code"));
}

#[test]
fn models_are_listed_and_found_by_names_with_slashes() {
    let list = get("/v1/models").json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "family/tiny:1");
    assert_eq!(list["data"][0]["object"], "model");
    assert_eq!(get("/v1/models/family/tiny:1").json()["id"], "family/tiny:1");
    refused(&get("/v1/models/other"), 404, "not_found_error", "other");
    assert_eq!(get("/healthz").json()["status"], "ok");
    assert_eq!(get("/api/v1/state").json()["schema"], "atoll.status/1");
    let scraped = get("/metrics").body;
    assert!(scraped.contains("atoll_model_ready{model=\"family/tiny:1\"} 1.0\n"), "{scraped}");
    assert!(scraped.ends_with("# EOF\n"), "{scraped}");
    refused(&get("/v2/x"), 404, "not_found_error", "/v2/x");
    refused(&get("/v1/chat/completions"), 405, "invalid_request_error", "GET");
}

#[test]
fn a_chat_is_the_same_streamed_and_whole() {
    let whole = post("/v1/chat/completions", &chat("Hello", &json!({}))).json();
    assert_eq!(whole["object"], "chat.completion");
    assert!(whole["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    assert!(["stop", "length"].contains(&whole["choices"][0]["finish_reason"].as_str().unwrap()));
    let usage = &whole["usage"];
    let sum =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"].as_u64(), Some(sum));

    let more = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let events = post("/v1/chat/completions", &chat("Hello", &more)).events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    assert!(chunks.iter().all(|chunk| {
        chunk["id"] == chunks[0]["id"] && chunk["object"] == "chat.completion.chunk"
    }));
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let pieces = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    let [.., finish, last] = &chunks[..] else { panic!("{chunks:?}") };
    assert_eq!(finish["choices"][0]["delta"], json!({}));
    assert_eq!(finish["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), usage));

    let plain = post("/v1/chat/completions", &chat("Hello", &json!({ "stream": true }))).events();
    assert!(!plain.iter().any(|data| data.contains(r#""choices":[]"#)), "usage was not asked for");
}

#[test]
fn completions_and_log_probabilities() {
    let request = json!({
        "model": "family/tiny:1", "prompt": "the tide", "temperature": 0, "max_tokens": 5,
        "logprobs": 2, "seed": -4, "unheard_of": true,
    });
    let whole = post("/v1/completions", &request).json();
    assert_eq!(whole["object"], "text_completion");
    let logprobs = &whole["choices"][0]["logprobs"];
    let n = logprobs["tokens"].as_array().unwrap().len();
    assert_eq!(whole["usage"]["completion_tokens"].as_u64().unwrap(), n as u64);
    for key in ["token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[key].as_array().unwrap().len(), n, "{key}");
    }
    assert!(logprobs["token_logprobs"][0].as_f64().unwrap() <= 0.0);
    let more = json!({ "logprobs": true, "top_logprobs": 3 });
    let chat = post("/v1/chat/completions", &chat("Hello", &more)).json();
    let first = &chat["choices"][0]["logprobs"]["content"][0];
    assert_eq!(first["top_logprobs"].as_array().unwrap().len(), 3);
    assert!(first["token"].is_string() && first["bytes"].is_array());
}

#[test]
fn what_cannot_be_answered_is_refused_in_the_clients_words() {
    let path = "/v1/chat/completions";
    let long = "tide ".repeat(600);
    let answer = post(path, &chat(&long, &json!({})));
    refused(&answer, 400, "invalid_request_error", &format!("the context holds {CONTEXT}"));
    assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
    let other = json!({ "model": "other" });
    refused(&post(path, &chat("x", &other)), 404, "not_found_error", "other");
    refused(&post(path, &json!({})), 400, "invalid_request_error", "missing field");
    refused(&post(path, &chat("x", &json!({ "n": 2 }))), 400, "invalid_request_error", "n must");
    // More than the sockets of both sides hold, so that it is written only if it is read.
    for mib in [5, 48] {
        let huge = post(path, &chat(&"x".repeat(mib << 20), &json!({})));
        refused(&huge, 413, "invalid_request_error", "4194304 bytes");
    }
    let url = format!("http://{}{path}", SERVED.address);
    let form = agent().post(&url).header("content-type", "text/plain").send("{}").unwrap();
    refused(&read(form), 415, "invalid_request_error", "application/json");
    let rebound = agent().get(format!("http://{}/v1/models", SERVED.address));
    let rebound = rebound.header("host", "evil.example").call().unwrap();
    refused(&read(rebound), 403, "invalid_request_error", "evil.example");
}

#[test]
fn eight_at_once_say_what_each_says_alone() {
    let questions: Vec<String> =
        (0..8).map(|n| format!("Question {n}: {}", "why ".repeat(n))).collect();
    let alone: Vec<String> = questions.iter().map(|question| chat_text(question)).collect();
    let together: Vec<String> = thread::scope(|scope| {
        let asked: Vec<_> =
            questions.iter().map(|question| scope.spawn(|| chat_text(question))).collect();
        asked.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn a_client_that_goes_away_frees_its_session() {
    let body = chat("Hello", &json!({ "stream": true, "max_tokens": 200 })).to_string();
    let mut stream = TcpStream::connect(SERVED.address).unwrap();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut some = [0; 300];
    assert!(stream.read(&mut some).unwrap() > 0);
    drop(stream);
    let began = Instant::now();
    while SERVED.node.status().held.iter().any(|held| held.sessions > 0) {
        assert!(began.elapsed() < Duration::from_secs(10), "the session goes on");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends `head`, then nothing; what comes back until the gateway hangs up.
fn what_a_slow_client_hears(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the gateway hangs up");
    answer
}

#[test]
fn clients_that_do_not_say_what_they_want_are_hung_up_on() {
    let address = SERVED.runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let request_max = Duration::from_millis(300);
        let config = GatewayConfig { request_max, ..GatewayConfig::default() };
        serve(SERVED.node.clone(), listener, config);
        address
    });
    let began = Instant::now();
    what_a_slow_client_hears(address, "");
    what_a_slow_client_hears(address, "GET /healthz HTTP/1.1\r\nHost: local");
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let answer = what_a_slow_client_hears(address, head);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("did not come within 0.3 s"), "{answer}");
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // Whoever is quick is answered meanwhile.
    let quick = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(what_a_slow_client_hears(address, quick).starts_with("HTTP/1.1 200 "));
}
