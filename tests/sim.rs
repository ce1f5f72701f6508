//! `atoll sim`: scenarios, seeds, pictures and files, and what it says of those that it cannot use.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::atoll::{self, Run};
use crate::workspace;

const LIMIT: Duration = Duration::from_secs(120);

fn sim(folder: &TempDir, args: &[&str]) -> Run {
    let mut command = atoll::command(folder.path(), &[&["sim"], args].concat());
    command.current_dir(folder.path());
    atoll::run_within(command, LIMIT)
}

/// The one object that a command prints, whose schema and figures are those of all.
fn json(folder: &TempDir, args: &[&str]) -> Value {
    let run = sim(folder, &[args, &["--json"]].concat());
    assert_eq!(run.code, 0, "{run}");
    assert!(run.stderr.is_empty(), "{run}");
    let found = run.json();
    assert_eq!(found["schema"], "atoll.sim/3");
    for key in ["seeds", "events", "faults", "tokens", "violations"] {
        assert!(found[key].is_u64(), "{key} of {found}");
    }
    assert_eq!(found["violations"], 0);
    found
}

fn scenario(name: &str) -> PathBuf {
    workspace::root().join("simulations/scenarios").join(name)
}

fn words(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_scenario_is_played_and_told_as_page_and_table() {
    let folder = tempdir().unwrap();
    let file = scenario("home-8.toml");
    let args = ["run", words(&file), "--seed", "1", "--html", "a.html", "--csv", "a.csv"];
    let found = json(&folder, &args);
    assert_eq!((&found["passed"], &found["figures"]["answered"]), (&true.into(), &6.into()));
    let page = fs::read_to_string(folder.path().join("a.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("</svg>"));
    let table = fs::read_to_string(folder.path().join("a.csv")).unwrap();
    assert_eq!(table.lines().count(), 7, "{table}");
    assert!(table.starts_with("request,asked_s,first_token_s,"), "{table}");
}

#[test]
fn seeds_are_run_drawn_and_found_clean() {
    let folder = tempdir().unwrap();
    let of = ["--nodes", "8", "--kind", "chaos"];
    let found = json(&folder, &[&["swarm", "--seeds", "20"], &of[..]].concat());
    assert_eq!((&found["seeds"], &found["seeds_run_twice"]), (&20.into(), &1.into()));
    let again = json(&folder, &[&["swarm", "--seeds", "20", "--jobs", "1"], &of[..]].concat());
    assert_eq!(found["trace"], again["trace"]);
    json(&folder, &[&["explain", "--seed", "3", "--svg", "a.svg"], &of[..]].concat());
    let picture = fs::read_to_string(folder.path().join("a.svg")).unwrap();
    assert!(picture.contains("seed 3: 8 nodes") && picture.ends_with("</svg>\n"));
    let clean = sim(&folder, &[&["shrink", "3", "--out", "a.json"], &of[..]].concat());
    clean.refuses(1, &["seed 3 breaks no invariant", "try: atoll sim swarm"]);
    json(&folder, &["bench", "--nodes", "64", "--seconds", "30"]);
}

#[test]
fn what_was_written_down_is_run_again() {
    let folder = tempdir().unwrap();
    let files = fs::read_dir(workspace::root().join("simulations/regressions")).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    let args: Vec<_> = ["replay"].into_iter().chain(files.iter().map(|p| words(p))).collect();
    assert_eq!(json(&folder, &args)["seeds"], files.len());
}

#[test]
fn an_expectation_that_is_missed_is_a_failure_told_once() {
    let folder = tempdir().unwrap();
    let text = fs::read_to_string(scenario("home-8.toml")).unwrap();
    let strict = text.replace("tokens_per_s_min = 6.0", "tokens_per_s_min = 1e6");
    assert_ne!(strict, text);
    fs::write(folder.path().join("strict.toml"), strict).unwrap();
    let run = sim(&folder, &["run", "strict.toml", "--json"]);
    assert_eq!(run.code, 1, "{run}");
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(told["passed"], false, "{run}");
    assert!(run.stderr.contains("tokens_per_s_p50 is"), "{run}");
}

#[test]
fn what_cannot_be_used_is_refused_with_a_reason() {
    let folder = tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let text = fs::read_to_string(scenario("home-8.toml")).unwrap();
    write("typo.toml", &text.replace("lasts_s", "last_s"));
    write("list.json", "[1, 2]");
    let check = |args: &[&str], code, told: &[&str]| sim(&folder, args).refuses(code, told);
    check(&["run", "typo.toml"], 2, &["cannot use typo.toml", "did you mean `lasts_s`?"]);
    check(&["run", "none.toml"], 3, &["cannot read none.toml"]);
    check(&["replay", "list.json"], 2, &["list.json holds no schedule"]);
    check(&["calibrate", "list.json"], 2, &["holds no measurement", "netns measure"]);
    check(&["explain", "--from", "9", "--to", "3"], 2, &["--from is not before --to"]);
    check(&["bench", "--nodes", "1000000"], 2, &["1000000 devices would take about 16.4 GB"]);
    check(&["swarm", "--nodes", "3"], 2, &["5 to 128 are taken"]);
    check(&["swarm", "--kind", "stormy"], 2, &["calm"]);
    check(&["swarm", "--seeds", "-1"], 2, &[]);
    let text = text.replace("count = 2\nmemory_bytes = 1_500_000_000", "memory_bytes = 1_500");
    let text = text.replace("memory_bytes = 1_600_000_000", "memory_bytes = 1_600");
    let text = text.split("[[device]]\nname = \"nas\"").next().unwrap().to_owned();
    write(
        "small.toml",
        &format!("{text}[[requests]]\ncount = 1\nfrom_s = 60\nprompt_tokens = 6\nnew_tokens = 6\n"),
    );
    check(&["run", "small.toml"], 6, &["cannot use small.toml", "no plan: "]);
}
