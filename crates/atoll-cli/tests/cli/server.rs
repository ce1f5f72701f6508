//! A small HTTP server on loopback that serves one file under any path that ends in its name,
//! as a model hub does, with ranges.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Paths asked for, in order.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serves `bytes` as `name`; the thread ends with the test process.
    pub(crate) fn new(name: &'static str, bytes: Vec<u8>, tag: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _closed = answer(&stream, name, &bytes, &tag, &log);
            }
        });
        Self { address, asked }
    }
}

fn answer(
    mut stream: &TcpStream,
    name: &str,
    bytes: &[u8],
    tag: &str,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut range = None;
    for line in lines {
        let line = line?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(bounds) = line.strip_prefix("range: bytes=") {
            let (from, to) = bounds.split_once('-').unwrap();
            let to = to.parse::<usize>().map_or(bytes.len(), |to| to + 1);
            range = Some((from.parse::<usize>().unwrap(), to.min(bytes.len())));
        }
    }
    let found = path.ends_with(name);
    log.lock().unwrap().push(path);
    let (status, body, extra) = match (found, range) {
        (false, _) => ("404 Not Found", &b"no"[..], String::new()),
        (true, None) => ("200 OK", bytes, String::new()),
        (true, Some((from, to))) => {
            let extra = format!("Content-Range: bytes {from}-{}/{}\r\n", to - 1, bytes.len());
            ("206 Partial Content", &bytes[from..to], extra)
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{extra}ETag: \"{tag}\"\r\n\
         X-Repo-Commit: 0123456789abcdef0123456789abcdef01234567\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}
