//! The arrows between the crates and what each crate must not contain (`crates/ARCHITECTURE.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::workspace::{self, Source};

/// Who may lean on whom.
const ARROWS: &[(&str, &[&str])] = &[
    ("atoll-kernels", &[]),
    ("atoll-model", &["atoll-kernels"]),
    ("atoll-compress", &["atoll-model"]),
    ("atoll-plan", &[]),
    ("atoll-proto", &["atoll-plan"]),
    ("atoll-sim", &["atoll-proto"]),
    ("atoll-node", &["atoll-model", "atoll-proto"]),
    ("atoll-gateway", &["atoll-node"]),
    (
        "atoll-cli",
        &[
            "atoll-compress",
            "atoll-gateway",
            "atoll-model",
            "atoll-node",
            "atoll-plan",
            "atoll-sim",
        ],
    ),
    ("atoll-examples", &["atoll-model", "atoll-node"]),
    ("atoll-simulations", &["atoll-plan", "atoll-sim"]),
    ("atoll-netns", &["atoll-sim"]),
    ("atoll-tests", &[]),
];

/// What must not be anywhere below a crate, however deep.
const FORBIDDEN_BELOW: &[(&str, &[&str])] = &[
    (
        "atoll-kernels",
        &["anyhow", "axum", "clap", "libp2p", "memmap2", "ndarray", "rayon", "thiserror", "tokio"],
    ),
    ("atoll-model", &["axum", "clap", "hyper", "libp2p", "tokio"]),
    ("atoll-plan", &["axum", "clap", "libp2p", "ndarray", "rand", "rayon", "tokio"]),
    (
        "atoll-proto",
        &["axum", "chrono", "clap", "foca", "libp2p", "ndarray", "rand", "rayon", "time", "tokio"],
    ),
    ("atoll-sim", &["axum", "clap", "libp2p", "ndarray", "rand", "rayon", "tokio"]),
    ("atoll-node", &["axum", "clap"]),
];

/// What a crate may not name as its own dependency although a crate below brings it.
const FORBIDDEN_DIRECT: &[(&str, &[&str])] = &[
    ("atoll-gateway", &["atoll-kernels", "atoll-model", "atoll-proto", "libp2p", "ndarray"]),
    ("atoll-cli", &["atoll-kernels", "atoll-proto", "libp2p", "ndarray"]),
    ("atoll-node", &["ndarray", "tokenizers"]),
    ("atoll-plan", &["getrandom"]),
    ("atoll-proto", &["getrandom"]),
    ("atoll-sim", &["getrandom"]),
];

/// Words that a crate's sources must not hold outside comments.
const FORBIDDEN_WORDS: &[(&str, &[&str])] = &[
    (
        "atoll-plan",
        &["HashMap", "HashSet", "Instant", "SystemTime", "unsafe", "thread", "fs", "env"],
    ),
    (
        "atoll-proto",
        &["HashMap", "HashSet", "Instant", "SystemTime", "unsafe", "thread", "tokio", "libp2p"],
    ),
    (
        "atoll-sim",
        &["HashMap", "HashSet", "Instant", "SystemTime", "unsafe", "thread", "tokio", "libp2p"],
    ),
    ("atoll-kernels", &["ndarray", "rayon", "thread", "fs", "env"]),
    ("atoll-model", &["tokio", "libp2p", "PeerId", "clap", "TcpStream"]),
    ("atoll-node", &["axum", "clap", "hyper"]),
    ("atoll-gateway", &["atoll_model", "atoll_kernels", "libp2p", "unsafe"]),
    ("atoll-cli", &["libp2p", "unsafe"]),
];

#[test]
fn crates_lean_only_where_the_design_allows() {
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut faults = Vec::new();
    for (name, manifest) in workspace::manifests() {
        let Some(allowed) = allowed.get(name.as_str()) else {
            faults.push(format!("{name} is no crate of the design"));
            continue;
        };
        for dependency in direct(&manifest).iter().filter(|d| d.starts_with("atoll-")) {
            if !allowed.contains(&dependency.as_str()) {
                faults.push(format!("{name} must not lean on {dependency}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn forbidden_dependencies_are_nowhere_below() {
    let lock = lock_graph();
    let manifests: BTreeMap<_, _> = workspace::manifests().into_iter().collect();
    let mut faults = Vec::new();
    for (name, forbidden) in FORBIDDEN_BELOW {
        let below = closure(name, &manifests, &lock);
        assert!(!below.is_empty(), "{name} has no dependencies at all: is the manifest read?");
        let found = forbidden.iter().filter(|f| below.contains(**f));
        faults.extend(found.map(|f| format!("{name} brings {f}")));
    }
    for (name, forbidden) in FORBIDDEN_DIRECT {
        let own = direct(&manifests[*name]);
        let found = forbidden.iter().filter(|f| own.contains(**f));
        faults.extend(found.map(|f| format!("{name} names {f}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_closure_sees_what_lies_deep() {
    let manifests: BTreeMap<_, _> = workspace::manifests().into_iter().collect();
    let below = closure("atoll-gateway", &manifests, &lock_graph());
    for deep in ["libp2p-swarm", "tokio", "ndarray", "atoll-kernels", "hyper"] {
        assert!(below.contains(deep), "{deep} is below the gateway but was not found");
    }
}

#[test]
fn sources_hold_no_forbidden_words() {
    let sources = workspace::sources();
    let mut faults = Vec::new();
    for (name, words) in FORBIDDEN_WORDS {
        let folder = format!("crates/{name}/src/");
        let files: Vec<_> = sources.iter().filter(|s| s.path.starts_with(&folder)).collect();
        assert!(!files.is_empty(), "no sources below {folder}");
        for file in files {
            faults.extend(words_in(file, words));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn one_file_names_bincode() {
    let named: Vec<_> = workspace::sources()
        .into_iter()
        .filter(|s| s.path.starts_with("crates/") && s.path.ends_with(".rs"))
        .filter(|s| code_of(&s.text).any(|(_, line)| has_word(line, "bincode")))
        .map(|s| s.path)
        .filter(|path| !path.starts_with("crates/atoll-proto/src/codec"))
        .collect();
    assert!(named.is_empty(), "only atoll-proto's codec may name bincode, not {named:?}");
}

#[test]
fn unsafe_code_stays_in_its_places() {
    let strays: Vec<_> = workspace::sources()
        .into_iter()
        .filter(|s| s.path.ends_with(".rs") && !s.path.starts_with("tests/"))
        .filter(|s| !s.path.starts_with("crates/atoll-kernels/"))
        .filter(|s| code_of(&s.text).any(|(_, line)| has_word(line, "unsafe")))
        .map(|s| s.path)
        .collect();
    // The one mmap, what tells the C library's allocator to give memory back, and what lends a
    // caller's slices to persistent threads.
    let places = ["heap.rs", "mapped.rs", "pool.rs", "pool/split.rs", "pool/workers.rs"];
    let is_place = |path: &String| {
        let file = path.strip_prefix("crates/atoll-model/src/");
        file.is_some_and(|file| places.contains(&file))
    };
    assert!(
        strays.iter().all(is_place),
        "unsafe code is for the kernels and {places:?} of atoll-model, but is in {strays:?}"
    );
}

#[test]
fn words_are_found_in_code_and_not_in_comments() {
    let source = |text: &str| Source { path: "a.rs".to_owned(), bytes: 0, text: text.to_owned() };
    for bad in ["use std::collections::HashMap;", "let a = 1; HashMap::new(); // why"] {
        assert_eq!(words_in(&source(bad), &["HashMap"]).len(), 1, "{bad}");
    }
    for good in ["// HashMap", "/// never HashMap", "MyHashMapLike", "let x = 1; // HashMap"] {
        assert!(words_in(&source(good), &["HashMap"]).is_empty(), "{good}");
    }
}

/// The names under `[dependencies]`, `[target.*.dependencies]` included.
fn direct(manifest: &toml::Table) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut take = |table: Option<&toml::Value>| {
        let keys = table.and_then(toml::Value::as_table).map(|t| t.keys().cloned());
        names.extend(keys.into_iter().flatten());
    };
    take(manifest.get("dependencies"));
    take(manifest.get("build-dependencies"));
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        targets.values().for_each(|target| take(target.get("dependencies")));
    }
    names
}

/// Package name to the names it depends on, as `Cargo.lock` has them; versions are merged.
fn lock_graph() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(workspace::root().join("Cargo.lock")).unwrap();
    let lock: toml::Table = text.parse().unwrap();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap().to_owned();
        let dependencies = package.get("dependencies").and_then(toml::Value::as_array);
        let names = dependencies
            .into_iter()
            .flatten()
            .map(|d| d.as_str().unwrap().split(' ').next().unwrap().to_owned());
        graph.entry(name).or_default().extend(names);
    }
    graph
}

/// Everything below a member, without what only its tests need.
fn closure(
    name: &str,
    manifests: &BTreeMap<String, toml::Table>,
    lock: &BTreeMap<String, BTreeSet<String>>,
) -> BTreeSet<String> {
    let mut below = BTreeSet::new();
    let mut open: Vec<String> = direct(&manifests[name]).into_iter().collect();
    while let Some(next) = open.pop() {
        if !below.insert(next.clone()) {
            continue;
        }
        match manifests.get(&next) {
            Some(member) => open.extend(direct(member)),
            None => open.extend(lock.get(&next).into_iter().flatten().cloned()),
        }
    }
    below
}

fn words_in(file: &Source, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in code_of(&file.text) {
        for word in words.iter().filter(|word| has_word(line, word)) {
            found.push(format!("{}:{number}: {word}", file.path));
        }
    }
    found
}

/// Numbered lines without their comments; ends where the file's own tests begin.
fn code_of(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .map(|(number, line)| match line.find("//") {
            Some(at) if line[..at].trim().is_empty() || line[..at].ends_with(' ') => {
                (number, &line[..at])
            }
            _ => (number, line),
        })
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}
