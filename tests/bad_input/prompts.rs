//! Prompts that cannot be answered.

use std::time::Duration;

use tempfile::tempdir;

use crate::atoll;
use crate::local::long_prompt;
use crate::models::SMOLLM2;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_numbers() {
    let Some(path) = SMOLLM2.path() else { return };
    let prompt = long_prompt(1000);
    for place in [&["--local"][..], &["--stages", "2"]] {
        let data = tempdir().unwrap();
        let mut args = vec!["run", path.to_str().unwrap(), &prompt, "--raw", "--ctx", "128"];
        args.extend(place);
        let run = atoll::run_within(atoll::command(data.path(), &args), LIMIT);
        assert!(matches!(run.code, 1 | 2), "{run}");
        run.refuses(run.code, &["128"]);
        let numbers: Vec<u32> = run
            .stderr
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect();
        assert!(numbers.iter().any(|n| (180..400).contains(n)), "no length of the prompt: {run}");
        assert!(run.stdout.trim().is_empty(), "an answer to a cut prompt: {run}");
    }
}

#[test]
fn an_empty_prompt_is_refused() {
    let Some(path) = SMOLLM2.path() else { return };
    let data = tempdir().unwrap();
    let args = ["run", path.to_str().unwrap(), "", "--local", "--raw"];
    let run = atoll::run_within(atoll::command(data.path(), &args), LIMIT);
    run.refuses(2, &["prompt", "empty"]);
    let args = ["run", path.to_str().unwrap(), "--local", "--raw"];
    let run = atoll::run_with_input(atoll::command(data.path(), &args), b"");
    run.refuses(2, &["prompt", "empty"]);
}

#[test]
fn stdin_that_is_not_utf8_is_refused() {
    let Some(path) = SMOLLM2.path() else { return };
    let data = tempdir().unwrap();
    let args = ["run", path.to_str().unwrap(), "-", "--local", "--raw"];
    let run = atoll::run_with_input(atoll::command(data.path(), &args), b"caf\xe9 au lait");
    assert!(matches!(run.code, 1 | 2), "{run}");
    run.refuses(run.code, &["UTF-8", "3"]);
}

#[test]
fn stdin_is_a_prompt() {
    let Some(path) = SMOLLM2.path() else { return };
    let data = tempdir().unwrap();
    let mut args = vec!["run", path.to_str().unwrap(), "--local", "--raw", "--temp", "0"];
    args.extend(["--max-tokens", "8", "--json"]);
    let case = &SMOLLM2.golden()[0];
    let run = atoll::run_with_input(atoll::command(data.path(), &args), case.prompt.as_bytes());
    assert_eq!(crate::local::ids(&run.json()["tokens"])[..8], case.tokens[..8]);
}

#[test]
fn wrong_options_are_usage_errors() {
    let data = tempdir().unwrap();
    for args in [
        &["run"][..],
        &["run", "smollm2:135m", "x", "--stages", "0"],
        &["run", "smollm2:135m", "x", "--local", "--stages", "2"],
        &["run", "smollm2:135m", "x", "--temp", "-1"],
        &["run", "smollm2:135m", "x", "--local", "--kernels", "mmx"],
        &["serve", "--api", "0.0.0.0:7411"],
        &["frobnicate"],
    ] {
        let run = atoll::run_within(atoll::command(data.path(), args), LIMIT);
        assert_eq!(run.code, 2, "{args:?}: {run}");
        run.did_not_panic();
        assert!(run.stdout.is_empty(), "{args:?}: {run}");
    }
}
