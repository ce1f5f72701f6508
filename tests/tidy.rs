//! Habits that a machine can check: lengths, leftovers, leaks, licences and the top level.

use std::collections::BTreeSet;
use std::fs;

use crate::workspace::{self, Source};

const FILE_LINES: usize = 400;
const FILE_LINES_MAX: usize = 600;
const LIB_LINES_MAX: usize = 120;
/// A function is one page, about 70 lines; beyond this it is not.
const FUNCTION_LINES_MAX: usize = 90;
const EXAMPLE_LINES_MAX: usize = 80;
const LINE_CHARS_MAX: usize = 100;
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Sources that may be longer than [`FILE_LINES`], each with the reason why it is one file.
const LONG_FILES: &[(&str, &str)] =
    &[("crates/atoll-proto/src/io.rs", "the closed input and output sets, read side by side")];

/// Everything visible at the top, `target/` aside.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "crates",
    "examples",
    "simulations",
    "tests",
];

/// Module names that say nothing.
const EMPTY_NAMES: &[&str] = &["common", "helper", "helpers", "manager", "misc", "util", "utils"];

/// What must not stay in a source, in two halves so that this file does not hold it.
const LEFTOVERS: &[(&str, &str)] =
    &[("to", "do!("), ("unimple", "mented!("), ("db", "g!("), ("#[ig", "nore"), ("FIX", "ME")];

/// What must not be in any file: folders of a machine, hosts of registries, files beside the clone.
const LEAKS: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/fa", "rm/"),
    ("pyp", "i.org"),
    ("pythonho", "sted.org"),
    ("crate", "s.io"),
    ("npm", "js.org"),
    ("npm", "js.com"),
    ("deb.de", "bian"),
    ("../sha", "red"),
];

#[test]
fn files_are_tidy() {
    let sources = workspace::sources();
    let faults: Vec<_> = sources.iter().flat_map(faults_of).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn the_list_of_long_files_is_true() {
    let sources = workspace::sources();
    for (path, reason) in LONG_FILES {
        assert!(reason.len() > 10, "{path}: say why it is long");
        let file = sources.iter().find(|s| s.path == *path);
        let lines = file.map_or(0, |file| file.text.lines().count());
        assert!(lines > FILE_LINES, "{path} has {lines} lines: take it off the list");
    }
}

#[test]
fn the_top_level_is_the_designs() {
    let found: BTreeSet<_> = workspace::sources()
        .iter()
        .map(|s| s.path.split('/').next().unwrap().to_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let wanted: BTreeSet<_> = TOP_LEVEL.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(found, wanted);
}

#[test]
fn every_crate_says_what_it_is() {
    let sources = workspace::sources();
    let mut roots = 0;
    for file in sources.iter().filter(|s| is_crate_root(&s.path)) {
        let docs = file.text.lines().take_while(|line| line.starts_with("//!")).count();
        let wanted = if file.path.ends_with("lib.rs") { 3 } else { 1 };
        assert!(docs >= wanted, "{} opens with {docs} lines of docs", file.path);
        let is_lib = file.path.ends_with("/lib.rs");
        let lines = file.text.lines().count();
        assert!(!is_lib || lines <= LIB_LINES_MAX, "{} has {lines} lines", file.path);
        roots += 1;
    }
    assert!(roots >= 8, "only {roots} crate roots found");
}

#[test]
fn manifests_take_from_the_workspace() {
    for (name, manifest) in workspace::manifests() {
        let package = &manifest["package"];
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            let inherited = package[key].get("workspace").and_then(toml::Value::as_bool);
            assert_eq!(inherited, Some(true), "{name}: package.{key}");
        }
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{name}: lints");
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = manifest.get(table).and_then(toml::Value::as_table);
            for (dependency, entry) in entries.into_iter().flatten() {
                let inherited = entry.get("workspace").and_then(toml::Value::as_bool);
                assert_eq!(inherited, Some(true), "{name}: {table}.{dependency}");
            }
        }
    }
}

#[test]
fn licences_are_there() {
    let root = workspace::root();
    for (file, words) in [("LICENSE-MIT", "MIT License"), ("LICENSE-APACHE", "Apache License")] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        assert!(text.contains(words), "{file} does not hold the {words}");
    }
    let manifest: toml::Table =
        fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let license = manifest["workspace"]["package"]["license"].as_str();
    assert_eq!(license, Some("MIT OR Apache-2.0"));
}

#[test]
fn each_fault_is_seen() {
    let check = |path: &str, text: String, wanted: &str| {
        let bytes = text.len() as u64;
        let faults = faults_of(&Source { path: path.to_owned(), bytes, text });
        assert!(faults.iter().any(|f| f.contains(wanted)), "{wanted} not seen in {faults:?}");
    };
    for (left, right) in LEFTOVERS {
        check("a/b.rs", format!("    {left}{right}\n"), "leftover");
    }
    for (left, right) in LEAKS {
        check("README.md", format!("see {left}{right}x\n"), "leak");
    }
    check("a/b.rs", format!("//{}\n", "x".repeat(LINE_CHARS_MAX)), "columns");
    check("a/b.rs", "x\n".repeat(FILE_LINES + 1), "lines");
    check("a/b.rs", "let a = 1; \n".to_owned(), "blank at its end");
    check("a/b.rs", "\tlet a = 1;\n".to_owned(), "tab");
    check("a/b.rs", "let a = 1;".to_owned(), "last line");
    let body = "    x();\n".repeat(FUNCTION_LINES_MAX);
    check("a/b.rs", format!("pub(crate) fn long() {{\n{body}}}\n"), "function");
    check("examples/a.rs", "x\n".repeat(EXAMPLE_LINES_MAX + 1), "lines");
    check("crates/x/src/utils.rs", String::new(), "says nothing");
    check("crates/x/src/helpers/mod.rs", String::new(), "says nothing");
    check("a.bin", "x".repeat(1 << 21), "bytes");
    let good = Source { path: "a/b.rs".into(), bytes: 9, text: "//! Good.\n".into() };
    assert_eq!(faults_of(&good), Vec::<String>::new());
}

fn faults_of(file: &Source) -> Vec<String> {
    let path = &file.path;
    let mut faults = Vec::new();
    if file.bytes > FILE_BYTES_MAX {
        faults.push(format!("{path}: {} bytes", file.bytes));
    }
    if path != "Cargo.lock" {
        faults.extend(leaks_in(file));
    }
    if is_program(path) {
        faults.extend(shape_faults(file));
    }
    let stem = path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
    let name = stem.rsplit('/').next().unwrap_or_default();
    if path.ends_with(".rs") && EMPTY_NAMES.contains(&name) {
        faults.push(format!("{path}: the name says nothing"));
    }
    faults
}

fn leaks_in(file: &Source) -> impl Iterator<Item = String> + '_ {
    numbered(file).flat_map(move |(number, line)| {
        let held = LEAKS.iter().filter(move |(left, right)| holds(line, left, right));
        held.map(move |(left, right)| format!("{}:{number}: leak: {left}{right}", file.path))
    })
}

/// `left` + `right` in the line, not as the tail of a longer path or name.
fn holds(line: &str, left: &str, right: &str) -> bool {
    let needle = format!("{left}{right}");
    line.match_indices(&needle).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn shape_faults(file: &Source) -> Vec<String> {
    let path = &file.path;
    let lines = file.text.lines().count();
    let is_example = path.starts_with("examples/") && path.ends_with(".rs");
    let listed = LONG_FILES.iter().any(|(long, _)| long == path);
    let lines_max = if listed { FILE_LINES_MAX } else { FILE_LINES };
    let lines_max = if is_example { EXAMPLE_LINES_MAX } else { lines_max };
    let mut faults = long_functions(file);
    if lines > lines_max {
        faults.push(format!("{path}: {lines} lines, at most {lines_max}"));
    }
    for (number, line) in numbered(file) {
        let mut fault = |what: &str| faults.push(format!("{path}:{number}: {what}"));
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX && !is_one_literal(line) {
            fault(&format!("{chars} columns"));
        }
        if line.ends_with([' ', '\t']) {
            fault("blank at its end");
        }
        if line.starts_with('\t') {
            fault("tab");
        }
        for (left, right) in LEFTOVERS.iter().filter(|(l, r)| line.contains(&format!("{l}{r}"))) {
            fault(&format!("leftover: {left}{right}"));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        faults.push(format!("{path}: the last line does not end"));
    }
    faults
}

/// Relies on rustfmt: a function's last line is a brace at the indent of its first.
fn long_functions(file: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let mut open: Option<(usize, usize, &str)> = None;
    for (number, line) in numbered(file) {
        let indent = line.len() - line.trim_start().len();
        if is_function(line.trim_start()) && open.is_none_or(|(_, outer, _)| indent <= outer) {
            open = Some((number, indent, line.trim()));
        }
        let Some((first, outer, head)) = open else { continue };
        if indent == outer && line.trim() == "}" {
            let lines = number - first + 1;
            if lines > FUNCTION_LINES_MAX {
                faults.push(format!("{}:{first}: a function of {lines} lines: {head}", file.path));
            }
            open = None;
        }
    }
    faults
}

fn is_function(line: &str) -> bool {
    let before = line.split("fn ").next().unwrap_or_default();
    let words = ["pub", "const", "async", "unsafe", "extern", "\"C\""];
    let is_prefix = |word: &str| words.contains(&word) || word.starts_with("pub(");
    line.contains("fn ") && before.split(' ').filter(|w| !w.is_empty()).all(is_prefix)
}

/// A line that is nothing but one string, which cannot be broken without harm.
fn is_one_literal(line: &str) -> bool {
    let line = line.trim().trim_end_matches([',', ';', ')']);
    let start = ["\"", "r\"", "r#\"", "b\"", "br\""].iter().any(|start| line.starts_with(start));
    start && (line.ends_with('"') || line.ends_with("\"#"))
}

fn numbered(file: &Source) -> impl Iterator<Item = (usize, &str)> {
    file.text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn is_program(path: &str) -> bool {
    [".rs", ".sh", ".py"].iter().any(|end| path.ends_with(end)) || path == ".ci/run"
}

fn is_crate_root(path: &str) -> bool {
    let in_crate = path.starts_with("crates/") && path.matches('/').count() == 3;
    in_crate && (path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs"))
        || path == "simulations/src/main.rs"
        || path == "simulations/netns/src/lib.rs"
        || path == "tests/main.rs"
}
