//! The ten best log-probabilities of the first position, beside llama.cpp's.

use serde_json::Value;

use crate::local::run;
use crate::models::{Case, Model, QWEN, SMOLLM2};

/// Between our log-probabilities and llama.cpp's: other int8 roundings of the activations.
const TOP10_DIFFERENCE_MAX: f64 = 0.2;

#[test]
fn smollm2_is_as_sure_as_llama_cpp() {
    is_as_sure_as_llama_cpp(&SMOLLM2);
}

#[test]
fn qwen_is_as_sure_as_llama_cpp() {
    is_as_sure_as_llama_cpp(&QWEN);
}

fn is_as_sure_as_llama_cpp(model: &'static Model) {
    let Some(path) = model.path() else { return };
    for case in model.golden() {
        let answer = run(path, &case.prompt, 1, &["--logprobs", "10"]);
        top10_agrees(&case, &answer["logprobs"][0]["top"]);
    }
}

fn top10_agrees(case: &Case, top: &Value) {
    let ours: Vec<(u32, f64)> = top
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let id = u32::try_from(entry["id"].as_u64().unwrap()).unwrap();
            (id, entry["logprob"].as_f64().unwrap())
        })
        .collect();
    assert_eq!(ours.len(), 10);
    let last = case.top10[9].1;
    for (id, wanted) in &case.top10 {
        match ours.iter().find(|(own, _)| own == id) {
            Some((_, got)) => assert!(
                (got - wanted).abs() <= TOP10_DIFFERENCE_MAX,
                "{}: token {id} has {got}, llama.cpp says {wanted}",
                case.prompt
            ),
            // Near the tenth place two tokens may change places.
            None => assert!(wanted - last <= TOP10_DIFFERENCE_MAX, "{}: no {id}", case.prompt),
        }
    }
}
