//! Asks a running node over its OpenAI interface, with nothing but an HTTP client:
//! `atoll serve` in one terminal, then
//! `cargo run --release -p atoll-examples --example http_client -- "Why is the sky blue?"`.
#![expect(clippy::print_stdout, reason = "a program for people to read")]

use std::env;
use std::io::{BufRead, BufReader, Write, stdout};

use anyhow::{Context, bail};
use serde_json::{Value, json};

fn main() -> anyhow::Result<()> {
    let question = env::args().nth(1).unwrap_or_else(|| "Why is the sky blue?".to_owned());
    let base =
        env::var("OPENAI_BASE_URL").unwrap_or_else(|_| "http://127.0.0.1:7411/v1".to_owned());

    // Errors come as JSON bodies, so a status is no error of its own.
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
    let models = agent.get(format!("{base}/models")).call();
    let mut models = models.context("no node answers; atoll serve starts one")?;
    let models: Value = serde_json::from_str(&models.body_mut().read_to_string()?)?;
    let model = models["data"][0]["id"].as_str().context("the node serves no model yet")?;

    let request = json!({
        "model": model,
        "messages": [{ "role": "user", "content": question }],
        "max_tokens": 128,
        "temperature": 0,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let answer = agent
        .post(format!("{base}/chat/completions"))
        .header("content-type", "application/json")
        .send(request.to_string())?;
    if answer.status() != 200 {
        bail!("{}: {}", answer.status(), answer.into_body().read_to_string()?);
    }

    // One JSON object in each `data:` line, then `[DONE]`.
    for line in BufReader::new(answer.into_body().into_reader()).lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            break;
        }
        let chunk: Value = serde_json::from_str(data)?;
        if let Some(message) = chunk["error"]["message"].as_str() {
            bail!("the answer broke off: {message}");
        }
        if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
            print!("{text}");
            stdout().flush()?;
        }
        if let Some(tokens) = chunk["usage"]["completion_tokens"].as_u64() {
            println!("\n({tokens} tokens from {model})");
        }
    }
    Ok(())
}
