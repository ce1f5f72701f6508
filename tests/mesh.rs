//! Several real nodes on loopback: the same tokens as one process, whatever the cut.

use serde_json::Value;

use crate::local::{answer, ids, long_prompt, run};
use crate::models::{Model, QWEN, SMOLLM2};

#[test]
fn smollm2_in_stages_equals_local() {
    stages_equal_local(&SMOLLM2, 64, &["2", "3", "5"]);
}

#[test]
fn qwen_in_stages_equals_local() {
    // Five nodes of half a gigabyte each are for must_show.sh.
    stages_equal_local(&QWEN, 24, &["2"]);
}

fn stages_equal_local(model: &'static Model, n: u32, stages: &[&str]) {
    let Some(path) = model.path() else { return };
    let mut prompts: Vec<_> = model.golden().into_iter().map(|case| case.prompt).collect();
    prompts.push(long_prompt(900));
    for prompt in &prompts {
        let wanted = ids(&run(path, prompt, n, &[])["tokens"]);
        for count in stages {
            let spread = answer(path, prompt, n, &["--stages", count]);
            assert_eq!(ids(&spread["tokens"]), wanted, "{count} stages of {}", model.name);
            covers(&spread["stages"], count.parse().unwrap(), model.n_layers);
        }
    }
}

/// Every layer once, in order, each stage on a node of its own.
fn covers(stages: &Value, count: usize, n_layers: usize) {
    let stages = stages.as_array().unwrap();
    assert_eq!(stages.len(), count);
    let mut next = 0;
    let mut nodes = Vec::new();
    for stage in stages {
        assert_eq!(stage["layers"][0].as_u64(), Some(next), "{stages:?}");
        next = stage["layers"][1].as_u64().unwrap();
        nodes.push(stage["node"].as_str().unwrap());
    }
    assert_eq!(usize::try_from(next).unwrap(), n_layers, "{stages:?}");
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), count, "{stages:?}");
}

#[test]
fn chunks_do_not_change_a_token_between_nodes() {
    let Some(path) = SMOLLM2.path() else { return };
    let prompt = long_prompt(600);
    let wanted = ids(&run(path, &prompt, 16, &[])["tokens"]);
    for chunk in ["1", "7", "4096"] {
        let spread = answer(path, &prompt, 16, &["--stages", "2", "--chunk", chunk]);
        assert_eq!(ids(&spread["tokens"]), wanted, "chunks of {chunk}");
    }
}

/// The token that ends an answer is among its tokens nowhere.
#[test]
fn an_answer_that_ends_by_itself_is_the_same_everywhere() {
    let Some(path) = SMOLLM2.path() else { return };
    let ask = |place: &[&str]| {
        let data = tempfile::tempdir().unwrap();
        let mut args = vec!["run", path.to_str().unwrap(), "Say hello."];
        args.extend(["--json", "--temp", "0", "--max-tokens", "64"]);
        args.extend(place);
        crate::atoll::json(data.path(), &args)
    };
    let (alone, spread) = (ask(&["--local"]), ask(&["--stages", "2"]));
    assert_eq!(alone["finish_reason"], "stop", "{alone}");
    for key in ["tokens", "text", "finish_reason"] {
        assert_eq!(alone[key], spread[key], "{key}");
    }
}

#[test]
fn sampling_with_a_seed_is_the_same_everywhere() {
    let Some(path) = SMOLLM2.path() else { return };
    let sampled = ["--temp", "0.9", "--top-p", "0.95", "--seed", "7"];
    let alone = sample(path, &[&["--local"][..], &sampled].concat());
    let spread = sample(path, &[&["--stages", "3"][..], &sampled].concat());
    assert_eq!(alone, spread);
    let other = sample(path, &["--local", "--temp", "0.9", "--top-p", "0.95", "--seed", "8"]);
    assert_ne!(alone, other, "another seed gives another text");
}

fn sample(path: &std::path::Path, extra: &[&str]) -> Vec<u32> {
    let data = tempfile::tempdir().unwrap();
    let mut args = vec!["run", path.to_str().unwrap(), "Tell me about the sea."];
    args.extend(["--json", "--max-tokens", "24"]);
    args.extend(extra);
    ids(&crate::atoll::json(data.path(), &args)["tokens"])
}
