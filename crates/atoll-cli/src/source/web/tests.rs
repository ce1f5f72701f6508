#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use super::*;

/// Answers as many requests as there are `answers`, in order; returns the requests.
fn server(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/f.gguf", listener.local_addr().unwrap());
    let served = thread::spawn(move || {
        let answer = |text: String| {
            let (mut stream, _from) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            stream.write_all(text.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        };
        answers.into_iter().map(answer).collect()
    });
    (url, served)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n{body}")
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::new(dir.path(), "f.gguf");
    let (url, served) = server(vec![
        answer("200 OK", "Content-Length: 6\r\n", "abc"),
        answer("206 Partial Content", "Content-Length: 3\r\nContent-Range: bytes 3-5/6\r\n", "def"),
    ]);
    let done = fetch(&url, &target, None).unwrap();
    assert_eq!(done.bytes, 6);
    assert_eq!(std::fs::read(&target.path).unwrap(), b"abcdef");
    let requests = served.join().unwrap();
    assert!(!requests[0].to_lowercase().contains("range:"));
    assert!(requests[1].to_lowercase().contains("range: bytes=3-"), "{}", requests[1]);
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::new(dir.path(), "f.gguf");
    std::fs::write(&target.partial, "xyz").unwrap();
    let (url, served) = server(vec![answer("200 OK", "Content-Length: 4\r\n", "abcd")]);
    fetch(&url, &target, None).unwrap();
    assert_eq!(std::fs::read(&target.path).unwrap(), b"abcd");
    served.join().unwrap();
}

#[test]
fn a_whole_partial_file_is_only_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::new(dir.path(), "f.gguf");
    std::fs::write(&target.partial, "abcd").unwrap();
    let headers = "Content-Length: 0\r\nContent-Range: bytes */4\r\n";
    let (url, served) = server(vec![answer("416 Range Not Satisfiable", headers, "")]);
    fetch(&url, &target, None).unwrap();
    assert_eq!(std::fs::read(&target.path).unwrap(), b"abcd");
    served.join().unwrap();
}

#[test]
fn refusals_have_their_exit_code() {
    let check = |status: &str, exit| {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::new(dir.path(), "f.gguf");
        let (url, served) = server(vec![answer(status, "Content-Length: 0\r\n", "")]);
        let failure = fetch(&url, &target, None).unwrap_err();
        assert_eq!(failure.exit, exit, "{failure}");
        assert!(!target.path.exists() && !target.partial.exists());
        served.join().unwrap();
    };
    check("404 Not Found", Exit::NotFound);
    check("403 Forbidden", Exit::TrustRefused);
    check("418 I'm a teapot", Exit::Failure);
}

#[test]
fn nobody_there_is_an_error_and_not_a_wait() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::new(dir.path(), "f.gguf");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/f", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(fetch(&url, &target, None).unwrap_err().exit, Exit::Failure);
}
