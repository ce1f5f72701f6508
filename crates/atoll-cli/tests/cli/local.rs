//! Models in one process, on tiny random weights; and models and prompts that are refused.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use atoll_model::{Architecture, BlockType, tiny};

use crate::atoll::{Atoll, Finished};

/// A tiny random model in the test's own folder.
fn tiny_model(atoll: &Atoll) -> PathBuf {
    let bytes = tiny::random_model(&tiny::config(Architecture::Llama), BlockType::Q8_0, 1);
    let path = atoll.dir.path().join("tiny.gguf");
    fs::write(&path, bytes).unwrap();
    path
}

fn run(atoll: &Atoll, more: &[&str]) -> Finished {
    let model = tiny_model(atoll);
    let mut args = vec!["run", model.to_str().unwrap()];
    args.extend(more);
    atoll.run(&args)
}

#[test]
fn an_answer_as_json_has_the_promised_keys() {
    let atoll = Atoll::new();
    let more = ["Hello there", "--local", "--raw", "--json", "--max-tokens", "8", "--temp", "0"];
    let json = run(&atoll, &more).expect(0, "").json();
    assert_eq!(json["schema"], "atoll.run/1");
    assert_eq!(json["model"], "tiny");
    assert_eq!(json["stages"][0]["layers"], serde_json::json!([0, 4]));
    assert!(json["prompt_tokens"].as_array().unwrap().len() > 1);
    assert!(json["tokens"].as_array().unwrap().len() <= 8);
    assert!(json["ttft_s"].is_f64() && json["decode_tokens_per_s"].is_f64());
    // The same words again, in other chunks and on other kernels: the same tokens.
    for again in [["--chunk", "1"], ["--kernels", "generic"], ["--threads", "1"]] {
        let args: Vec<&str> = more.iter().copied().chain(again).collect();
        assert_eq!(run(&atoll, &args).json()["tokens"], json["tokens"], "{again:?}");
    }
    let logprobs: Vec<&str> = more.iter().copied().chain(["--logprobs", "3"]).collect();
    let with = run(&atoll, &logprobs).json();
    assert_eq!(
        with["logprobs"].as_array().unwrap().len(),
        with["tokens"].as_array().unwrap().len()
    );
    assert_eq!(with["logprobs"][0]["top"].as_array().unwrap().len(), 3);
}

#[test]
fn people_get_the_text_on_stdout_and_the_figures_on_stderr() {
    let atoll = Atoll::new();
    let base = ["Hi", "--local", "--temp", "0", "--max-tokens", "5"];
    let plain = run(&atoll, &base);
    plain.expect(0, "tokens/s");
    let json = run(&atoll, &[&base[..], &["--json"]].concat()).json();
    assert_eq!(plain.stdout, format!("{}\n", json["text"].as_str().unwrap()));
    let model = tiny_model(&atoll);
    let args = ["run", model.to_str().unwrap(), "--local", "--temp", "0", "--max-tokens", "5"];
    assert_eq!(atoll.run_with_stdin(&args, b"Hi\n").stdout, plain.stdout);
    let dashed = [&args[..2], &["-"], &args[2..]].concat();
    assert_eq!(atoll.run_with_stdin(&dashed, b"Hi").stdout, plain.stdout);
}

#[test]
fn prompts_that_cannot_be_used_are_refused() {
    let atoll = Atoll::new();
    run(&atoll, &["", "--local"]).expect(2, "the prompt is empty");
    let model = tiny_model(&atoll);
    let args = ["run", model.to_str().unwrap(), "--local"];
    atoll.run_with_stdin(&args, b"").expect(2, "the prompt is empty");
    atoll.run_with_stdin(&args, b"ab\xffcd").expect(2, "byte 2 is not valid UTF-8");
    let long = "word ".repeat(600);
    let refused = run(&atoll, &[&long, "--local", "--raw"]);
    refused.expect(2, "tokens, the context holds 512");
    let refused = run(&atoll, &["one two three four five six", "--local", "--ctx", "16", "--raw"]);
    refused.expect(2, "the context holds 16");
    run(&atoll, &["x", "--local", "--kernels", "mmx"]).expect(2, "generic runs everywhere");
}

#[test]
fn files_that_are_no_model_are_refused() {
    let atoll = Atoll::new();
    let whole = fs::read(tiny_model(&atoll)).unwrap();
    let check = |name: &str, bytes: &[u8], code: i32, part: &str| {
        let path = atoll.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        atoll.run(&["run", path, "x", "--local"]).expect(code, part).expect(code, name);
        atoll.run(&["show", path]).expect(code, part);
    };
    check("empty.gguf", b"", 9, "not a GGUF file");
    check("text.gguf", b"hello, I am a text file", 9, "not a GGUF file");
    check("cut.gguf", &whole[..whole.len() / 2], 9, "the model is damaged");
    check("head.gguf", &whole[..20], 9, "truncated");
    let mut huge = whole.clone();
    huge[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    check("huge.gguf", &huge, 9, "the limit is");
    let mut strange = whole;
    let at = strange.windows(5).position(|bytes| bytes == b"llama").unwrap();
    strange[at..at + 5].copy_from_slice(b"xlama");
    check("strange.gguf", &strange, 1, "architecture: xlama");
    atoll.run(&["run", "absent.gguf", "x", "--local"]).expect(3, "absent.gguf");
}

#[test]
fn a_model_is_shown() {
    let atoll = Atoll::new();
    let model = tiny_model(&atoll);
    let json = atoll.run(&["show", model.to_str().unwrap(), "--json"]).expect(0, "").json();
    assert_eq!(json["schema"], "atoll.show/1");
    assert_eq!(json["layers"].as_array().unwrap().len(), 4);
    assert_eq!(json["config"]["n_layers"], 4);
    assert!(json["layers"][0].as_u64().unwrap() > 0 && json["embed_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn speed_and_quality_are_measured() {
    let atoll = Atoll::new();
    let model = tiny_model(&atoll);
    let model = model.to_str().unwrap();
    let args = ["bench", model, "--pp", "8", "--tg", "4", "--repeat", "2", "--json"];
    let json = atoll.run(&args).expect(0, "").json();
    assert_eq!(json["schema"], "atoll.bench/1");
    assert_eq!(json["prefill_tokens_per_s"].as_array().unwrap().len(), 2);
    assert_eq!(json["decode_tokens_per_s"].as_array().unwrap().len(), 2);
    assert!(json["weight_bytes_per_token"].as_u64().unwrap() > 0);

    let text = atoll.dir.path().join("text");
    fs::write(&text, "the tide is in and the tide is out ".repeat(40)).unwrap();
    let text = text.to_str().unwrap();
    let args = ["eval", model, "--text", text, "--ctx", "64", "--chunks", "3", "--against", model];
    let json = atoll.run(&[&args[..], &["--json"]].concat()).expect(0, "").json();
    assert_eq!(json["schema"], "atoll.eval/1");
    assert!(json["ppl"].as_f64().unwrap() > 1.0);
    assert_eq!(json["kl_mean"].as_f64(), Some(0.0), "a model is no distance from itself");
    assert_eq!(json["top1_agreement"].as_f64(), Some(1.0));
    atoll.run(&["eval", model, "--text", "/nowhere/text"]).expect(3, "/nowhere/text");
    let short = ["eval", model, "--text", text, "--ctx", "131072"];
    atoll.run(&short).expect(2, "one chunk needs 131072");
}

/// Sends `signal` to the process `pid`.
fn kill(signal: &str, pid: u32) {
    let status = std::process::Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

#[test]
fn signals_end_the_wait_for_a_prompt_with_their_code() {
    let atoll = Atoll::new();
    let model = tiny_model(&atoll);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let args = ["run", model.to_str().unwrap(), "--local"];
        let mut command = atoll.command(&args);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // Held open: waiting would close it, and its end would be an empty prompt.
        let _stdin = child.stdin.take();
        std::thread::sleep(Duration::from_millis(300));
        kill(signal, child.id());
        let began = Instant::now();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(code));
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}
