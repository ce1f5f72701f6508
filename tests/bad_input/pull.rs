//! Downloads that fail: nothing half stays under a final name.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tempfile::tempdir;

use crate::atoll;

const LIMIT: Duration = Duration::from_secs(60);

/// Serves `content` under every path on loopback, honouring `Range`; `cut` closes each connection
/// after so many bytes of it. Returns `http://127.0.0.1:PORT`.
pub(super) fn serve(content: Vec<u8>, cut: Option<usize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let content = Arc::new(content);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let content = Arc::clone(&content);
            thread::spawn(move || answer(stream, &content, cut));
        }
    });
    format!("http://{address}")
}

/// Answers one request; the client may rightly hang up at any point.
fn answer(mut stream: TcpStream, content: &[u8], cut: Option<usize>) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16_384 {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let from = head.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next());
    let from: usize = from.and_then(|from| from.parse().ok()).unwrap_or(0).min(content.len());
    let rest = &content[from..];
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let (total, last) = (content.len(), content.len() - 1);
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{last}/{total}\r\n\
         ETag: \"a\"\r\nX-Repo-Commit: {}\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n",
        rest.len(),
        "0".repeat(40)
    )
    .ok()?;
    stream.write_all(&rest[..cut.unwrap_or(rest.len()).min(rest.len())]).ok()
}

/// Files with a final name below `folder`: everything but what marks itself as unfinished.
pub(super) fn finals(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(finals(&path));
        } else if path.extension().is_some_and(|end| end == "gguf") {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn pip_that_is_missing_is_named() {
    let data = tempdir().unwrap();
    let empty = tempdir().unwrap();
    let mut command = atoll::command(data.path(), &["pull", "smollm2:135m"]);
    command.env("PATH", empty.path());
    atoll::run_within(command, LIMIT).refuses(1, &["pip", "try: "]);
    assert_eq!(finals(data.path()), Vec::<String>::new());
}

#[test]
fn a_wrong_hash_is_refused() {
    let data = tempdir().unwrap();
    let url = format!("{}/a.gguf", serve(vec![7; 100_000], None));
    let hash = "0".repeat(64);
    let command = atoll::command(data.path(), &["pull", &url, "--sha256", &hash]);
    atoll::run_within(command, LIMIT).refuses(9, &["0000", "SHA-256"]);
    assert_eq!(finals(data.path()), Vec::<String>::new());
}

#[test]
fn a_download_that_breaks_off_is_kept_and_continued() {
    let data = tempdir().unwrap();
    let content: Vec<u8> = (0..1_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let broken = serve(content.clone(), Some(1_500_000));
    let command = atoll::command(data.path(), &["pull", &format!("{broken}/a.gguf"), "--json"]);
    let run = atoll::run_within(command, LIMIT);
    if run.code != 0 {
        run.refuses(1, &["broke off", "try: "]);
        assert_eq!(finals(data.path()), Vec::<String>::new());
        let command = atoll::command(data.path(), &["pull", &format!("{broken}/a.gguf")]);
        let again = atoll::run_within(command, LIMIT);
        assert!(again.code == 0 || again.stderr.contains("broke off"), "{again}");
    }
    for _ in 0..4 {
        let command = atoll::command(data.path(), &["pull", &format!("{broken}/a.gguf")]);
        atoll::run_within(command, LIMIT);
    }
    let done = finals(data.path());
    assert_eq!(done.len(), 1, "{done:?}");
    assert_eq!(fs::read(&done[0]).unwrap(), content, "continued to other bytes");
}

#[test]
fn the_hub_layout_is_understood() {
    let data = tempdir().unwrap();
    let content = vec![3; 50_000];
    let mut command = atoll::command(data.path(), &["pull", "hf:someone/some-model/x.gguf"]);
    command.env("HF_ENDPOINT", serve(content.clone(), None)).env("HF_HOME", data.path());
    let run = atoll::run_within(command, LIMIT);
    assert_eq!(run.code, 0, "{run}");
    let done = finals(&data.path().join("files"));
    assert_eq!(done.len(), 1, "{done:?}");
    assert_eq!(fs::read(&done[0]).unwrap(), content);
}
