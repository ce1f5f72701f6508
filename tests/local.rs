//! One process: the same answer as llama.cpp within named tolerances, and the same bits as
//! itself however the prompt is cut and whichever instruction set computes.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::atoll;
use crate::models::{self, Model, QWEN, SMOLLM2};

/// Where llama.cpp's two best log-probabilities are closer, either may rightly be chosen.
const GAP: f64 = 0.15;
/// Between our perplexity and llama.cpp's, relative.
const PERPLEXITY_DIFFERENCE_MAX: f64 = 0.005;

#[test]
fn smollm2_speaks_as_llama_cpp_does() {
    speaks_as_llama_cpp_does(&SMOLLM2);
}

#[test]
fn qwen_speaks_as_llama_cpp_does() {
    speaks_as_llama_cpp_does(&QWEN);
}

/// The same prompt ids, and the same tokens up to the first that either may rightly choose.
fn speaks_as_llama_cpp_does(model: &'static Model) {
    let Some(path) = model.path() else { return };
    for case in model.golden() {
        let answer = run(path, &case.prompt, 64, &[]);
        assert_eq!(ids(&answer["prompt_tokens"]), case.prompt_ids, "{}", case.prompt);
        let close = case.gaps.iter().position(|gap| *gap < GAP).unwrap_or(case.gaps.len());
        assert!(close > 0, "{}: nothing to compare", case.prompt);
        let tokens = ids(&answer["tokens"]);
        assert_eq!(tokens[..close], case.tokens[..close], "{}", case.prompt);
    }
}

#[test]
fn chunks_and_threads_do_not_change_a_bit() {
    let Some(path) = SMOLLM2.path() else { return };
    let mut prompts: Vec<_> = SMOLLM2.golden().into_iter().map(|case| case.prompt).collect();
    prompts.push(long_prompt(700));
    for prompt in &prompts {
        let more = |extra: &[&'static str]| {
            let answer = run(path, prompt, 16, &[&["--logprobs", "3"], extra].concat());
            (ids(&answer["tokens"]), answer["logprobs"].clone())
        };
        let wanted = more(&[]);
        for extra in [
            ["--chunk", "1", "--threads", "1"],
            ["--chunk", "7", "--threads", "2"],
            ["--chunk", "64", "--threads", "3"],
            ["--chunk", "4096", "--threads", "1"],
        ] {
            assert_eq!(more(&extra), wanted, "{extra:?} on {prompt:.40}");
        }
    }
}

#[test]
fn instruction_sets_do_not_change_a_bit() {
    // The generic kernels are slow: few tokens here, all of them in must_show.sh.
    for (model, n) in [(&SMOLLM2, 12), (&QWEN, 4)] {
        let Some(path) = model.path() else { continue };
        for case in model.golden() {
            let with = |kernels: &str| {
                let extra = ["--logprobs", "3", "--kernels", kernels];
                let answer = run(path, &case.prompt, n, &extra);
                (ids(&answer["tokens"]), answer["logprobs"].clone())
            };
            let answer = run(path, &case.prompt, n, &["--logprobs", "3"]);
            let default = (ids(&answer["tokens"]), answer["logprobs"].clone());
            assert_eq!(with("generic"), default, "{} {}", model.name, case.prompt);
        }
    }
}

#[test]
fn perplexity_is_llama_cpps() {
    let text = fs::read(models::data("perplexity.json")).unwrap();
    let wanted: Value = serde_json::from_slice(&text).unwrap();
    let file = models::data(wanted["text"].as_str().unwrap());
    let context = wanted["context"].as_u64().unwrap().to_string();
    for model in [&SMOLLM2, &QWEN] {
        let Some(path) = model.path() else { continue };
        let data = tempdir().unwrap();
        let (path, file) = (path.to_str().unwrap(), file.to_str().unwrap());
        let args = ["eval", path, "--text", file, "--ctx", &context, "--json"];
        let answer = atoll::json(data.path(), &args);
        let wanted = &wanted[model.stem];
        assert_eq!(answer["schema"], "atoll.eval/1");
        assert_eq!(answer["tokens"], wanted["tokens"], "{}", model.name);
        let (ours, theirs) = (answer["ppl"].as_f64().unwrap(), wanted["ppl"].as_f64().unwrap());
        let difference = (ours / theirs - 1.0).abs();
        assert!(
            difference <= PERPLEXITY_DIFFERENCE_MAX,
            "{}: {ours}, llama.cpp has {theirs}",
            model.name
        );
    }
}

/// `atoll run PATH PROMPT` in this process alone, greedily and without a template.
pub(crate) fn run(path: &Path, prompt: &str, n: u32, extra: &[&str]) -> Value {
    answer(path, prompt, n, &[&["--local"], extra].concat())
}

/// `atoll run PATH PROMPT …` greedily and without a template.
pub(crate) fn answer(path: &Path, prompt: &str, n: u32, extra: &[&str]) -> Value {
    let data = tempdir().unwrap();
    let n = n.to_string();
    let mut args = vec!["run", path.to_str().unwrap(), prompt];
    args.extend(["--raw", "--temp", "0", "--json", "--max-tokens", &n]);
    args.extend(extra);
    let answer = atoll::json(data.path(), &args);
    assert_eq!(answer["schema"], "atoll.run/1");
    answer
}

/// An array of token ids.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap_or_else(|| panic!("no ids but {value}"));
    ids.iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// The first `chars` characters of our own text.
pub(crate) fn long_prompt(chars: usize) -> String {
    let text = fs::read_to_string(models::data("own_text.txt")).unwrap();
    text.chars().take(chars).collect()
}
