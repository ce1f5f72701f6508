//! Encoders: texts become what PyTorch makes of them, and what cannot be is refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::tempdir;

use crate::atoll::{self, Run};
use crate::models::SMOLLM2;
use crate::workspace;

/// Between a number of an embedding and PyTorch's.
const DIFFERENCE_MAX: f64 = 1e-5;

/// A tiny random encoder.
fn tiny() -> PathBuf {
    workspace::root().join("crates/atoll-model/tests/golden/encoder")
}

/// The same in a folder of `within`, an eighth of its weights zero.
fn spoilt(within: &Path) -> PathBuf {
    let folder = within.join("spoilt");
    std::fs::create_dir(&folder).unwrap();
    for name in ["config.json", "sentence_bert_config.json", "tokenizer.json"] {
        std::fs::copy(tiny().join(name), folder.join(name)).unwrap();
    }
    let mut weights = std::fs::read(tiny().join("model.safetensors")).unwrap();
    let eighth = weights.len() / 8;
    weights[4 * eighth..5 * eighth].fill(0);
    std::fs::write(folder.join("model.safetensors"), weights).unwrap();
    folder
}

fn embed(model: &Path, args: &[&str]) -> Run {
    let data = tempdir().unwrap();
    let all = [&["embed", model.to_str().unwrap()], args].concat();
    atoll::run_within(atoll::command(data.path(), &all), Duration::from_secs(60))
}

/// Embeds the texts of `golden`, and compares numbers and token counts with PyTorch's.
fn is_as_torch_says(model: &Path, golden: &Path) {
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    let texts: Vec<&str> = cases.iter().map(|case| case["text"].as_str().unwrap()).collect();
    let answer = embed(model, &[&texts[..], &["--json"]].concat()).json();
    assert_eq!(answer["schema"], "atoll.embed/1");
    for (case, text) in cases.iter().zip(answer["texts"].as_array().unwrap()) {
        let ids = case["ids"].as_array().unwrap().len() as u64;
        assert_eq!(text["tokens"].as_u64(), Some(ids), "{}", case["text"]);
        let numbers = |of: &Value| -> Vec<f64> {
            of["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        let (found, want) = (numbers(text), numbers(case));
        assert_eq!(found.len() as u64, answer["dim"].as_u64().unwrap());
        let off = found.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(found.len() == want.len() && off < DIFFERENCE_MAX, "{}: {off}", case["text"]);
    }
}

#[test]
fn a_tiny_encoder_is_as_torch_says() {
    is_as_torch_says(&tiny(), &tiny().join("expected.json"));
}

#[test]
fn minilm_is_as_torch_says() {
    let folder = std::env::var_os("ATOLL_TEST_MODELS").map(PathBuf::from);
    let Some(model) = folder.map(|at| at.join("all-minilm-l6-v2")).filter(|at| at.is_dir()) else {
        return atoll::skip("all-minilm-l6-v2", "no such folder in ATOLL_TEST_MODELS");
    };
    is_as_torch_says(&model, &workspace::root().join("tests/data/golden-minilm.json"));
}

#[test]
fn lines_of_a_file_are_compared() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("texts");
    std::fs::write(&path, "a boat\n\n  \nthe tide comes in\n").unwrap();
    let cosines = |other: &Path| {
        let args = ["--text", path.to_str().unwrap(), "--against", other.to_str().unwrap()];
        let answer = embed(&tiny(), &[&args[..], &["--json"]].concat()).json();
        assert_eq!(answer["texts"].as_array().unwrap().len(), 2);
        ["cosine_mean", "cosine_min"].map(|key| answer["against"][key].as_f64().unwrap())
    };
    let same = cosines(&tiny());
    assert!(same.iter().all(|cosine| (cosine - 1.0).abs() < 1e-6), "{same:?}");
    let [mean, least] = cosines(&spoilt(folder.path()));
    assert!(least < mean && mean < 0.999 && least > -1.0, "{mean} {least}");
    let plain = embed(&tiny(), &["a boat", "tide"]);
    assert_eq!((plain.code, plain.stdout.lines().count()), (0, 2), "{plain}");
    assert!(plain.stdout.lines().all(|line| line.split(' ').count() == 32), "{plain}");
}

#[test]
fn a_compressed_encoder_is_near_itself() {
    let (data, tiny) = (tempdir().unwrap(), tiny());
    let at = |name: &str| data.path().join(name).to_str().unwrap().to_owned();
    let (text, small, tiny) = (at("text"), at("small.gguf"), tiny.to_str().unwrap());
    std::fs::write(&text, "the tide comes in and out, islands!\na boat's ring ".repeat(60))
        .unwrap();
    let compress = |more: &[&str]| {
        let all = [&["compress", tiny, &small, "--calib", &text, "--json"], more].concat();
        atoll::run_within(atoll::command(data.path(), &all), Duration::from_secs(60))
    };
    let pruned = compress(&["--prune-neurons", "0.5"]).json();
    assert_eq!(pruned["neurons_after_over_before"].as_f64(), Some(0.5));
    assert_eq!(compress(&["--type", "q8_0"]).json()["schema"], "atoll.compress/1");
    let near = ["a boat in a lagoon", "--against", tiny, "--json"];
    let near = embed(Path::new(&small), &near).json();
    let cosine = near["against"]["cosine_mean"].as_f64().unwrap();
    assert!(cosine > 0.999 && cosine < 0.999_999, "{cosine}");
    compress(&["--widths", "0.5"]).refuses(2, &["an encoder"]);
    let budget = compress(&["--bytes", "40000"]).json();
    assert!(budget["cosine_expected"].as_f64().is_some_and(|cosine| cosine > 0.9), "{budget}");
    assert!(std::fs::metadata(&small).unwrap().len() <= 40_000);
}

#[test]
fn a_decoder_writes_for_an_encoder() {
    let (data, tiny) = (tempdir().unwrap(), tiny());
    let (out, tiny) = (data.path().join("small.gguf"), tiny.to_str().unwrap());
    let compress = |more: &[&str]| {
        let all = ["compress", tiny, out.to_str().unwrap(), "--prune-neurons", "0.5", "--json"];
        let all = [&all, more].concat();
        atoll::run_within(atoll::command(data.path(), &all), Duration::from_secs(120))
    };
    compress(&["--own-text", "2"]).refuses(2, &["an encoder"]);
    compress(&["--writer", tiny]).refuses(2, &["--own-text"]);
    compress(&["--own-text", "2", "--writer", tiny]).refuses(2, &["an encoder"]);
    compress(&["--own-text", "2", "--writer", "./none"]).refuses(3, &["none"]);
    let Some(writer) = SMOLLM2.path() else { return };
    let writer = ["--own-text", "3", "--writer", writer.to_str().unwrap()];
    let foreseen = compress(&[&writer[..], &["--dry-run"]].concat()).json();
    assert_eq!(foreseen["calibration_tokens"], 1536);
    // What it wrote is other tokens of the encoder's, about as many.
    let tokens = compress(&writer).json()["calibration_tokens"].as_u64().unwrap();
    assert!(tokens == 1024 || tokens == 1536, "{tokens}");
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    embed(Path::new("./no-such-model"), &["hi"]).refuses(3, &["no-such-model"]);
    embed(&tiny(), &[]).refuses(2, &["TEXT"]);
    embed(&tiny(), &["a boat", " "]).refuses(2, &["text 2 is empty"]);
    embed(&tiny(), &["--text", "/dev/null"]).refuses(2, &["empty"]);
    embed(&tiny(), &["--text", "./no-such-file"]).refuses(3, &["no-such-file"]);
}

#[test]
fn commands_say_what_an_encoder_is_for() {
    let (data, model) = (tempdir().unwrap(), tiny());
    let model = model.to_str().unwrap();
    for args in [&["run", model, "hi", "--local"][..], &["show", model], &["bench", model]] {
        let run = atoll::run_within(atoll::command(data.path(), args), Duration::from_secs(60));
        run.refuses(2, &["is an encoder", "atoll embed"]);
    }
    let Some(decoder) = SMOLLM2.path() else { return };
    embed(decoder, &["hi"]).refuses(2, &["llama is no encoder", "atoll run"]);
}
