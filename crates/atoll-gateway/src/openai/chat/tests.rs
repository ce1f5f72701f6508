#![expect(clippy::unwrap_used, reason = "tests")]

use super::super::sampling::read;
use super::*;

fn request(json: &str) -> Result<Vec<(String, String)>, ApiError> {
    let request: ChatRequest = read(json.as_bytes())?;
    request.check()?;
    request.conversation()
}

fn check(json: &str, expected: &[(&str, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(role, text)| ((*role).to_owned(), (*text).to_owned())).collect();
    assert_eq!(request(json), Ok(expected), "{json}");
}

fn refused(json: &str, part: &str) {
    let error = request(json).unwrap_err();
    assert_eq!(error.status, 400, "{json}");
    assert!(error.body.message.contains(part), "{json}: {}", error.body.message);
}

#[test]
fn messages_are_read() {
    check(r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#, &[("user", "hi")]);
    check(
        r#"{"model":"m","messages":[{"role":"developer","content":[{"type":"text","text":"a"},
            {"type":"text","text":"b"}]},{"role":"assistant","content":null}],
            "audio":1,"prediction":{},"tools":[],"response_format":{"type":"text"}}"#,
        &[("system", "ab"), ("assistant", "")],
    );
    check(
        r#"{"model":"m","messages":[{"role":"user","content":"x"}],
            "tools":[{"type":"function"}],"tool_choice":"none"}"#,
        &[("user", "x")],
    );
}

#[test]
fn nonsense_is_refused() {
    refused("", "EOF");
    refused("{}", "missing field");
    refused(r#"{"model":"m"}"#, "messages");
    refused(r#"{"model":"m","messages":null}"#, "null");
    refused(r#"{"model":"m","messages":"x"}"#, "string");
    refused(r#"{"model":"m","messages":[123]}"#, "123");
    refused(r#"{"model":"m","messages":[{}]}"#, "role");
    refused(r#"{"model":"m","messages":[]}"#, "1 to");
    refused(r#"{"model":"m","messages":[{"role":"user","content":123}]}"#, "Content");
    refused(r#"{"model":"m","messages":[{"role":"user"}]}"#, "content is missing");
    refused(r#"{"model":"m","messages":[{"role":"king","content":"x"}]}"#, "king");
    let user = |more: &str| {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],{more}}}"#)
    };
    refused(&user(r#""response_format":{"type":"sound"}"#), "sound");
    refused(&user(r#""tools":[{"type":"function"}]"#), "tools");
    refused(&user(r#""n":3"#), "n must be 1");
    refused(&user(r#""top_logprobs":21"#), "at most 20");
    refused(&user(r#""temperature":"hot""#), "hot");
    refused(
        r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#,
        "image_url",
    );
}

#[test]
fn chunks_have_the_keys_that_clients_read() {
    let chunk = |delta, finish_reason, usage| {
        let logprobs = None;
        let choice = ChunkChoice { index: 0, delta, logprobs, finish_reason };
        let chunk = ChatChunk {
            id: "chatcmpl-1",
            object: "chat.completion.chunk",
            created: 5,
            model: "m",
            system_fingerprint: "f",
            choices: vec![choice],
            usage,
        };
        serde_json::to_string(&chunk).unwrap()
    };
    let head = concat!(
        r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":5,"model":"m","#,
        r#""system_fingerprint":"f","choices":[{"index":0,"delta":"#
    );
    let first = Delta { role: Some("assistant"), content: Some(String::new()) };
    assert_eq!(
        chunk(first, None, None),
        format!(
            r#"{head}{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}]}}"#
        )
    );
    assert_eq!(
        chunk(Delta::default(), Some(FinishReason::Length), None),
        format!(r#"{head}{{}},"logprobs":null,"finish_reason":"length"}}]}}"#)
    );
}
