//! The HTTP interface of a node, asked from within its namespace.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde_json::Value;

use crate::lan::in_namespace;

/// Where every node's interface listens, each on the loopback of its namespace.
pub(crate) const API: &str = "127.0.0.1:7411";
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// A line of a stream of events and when it came.
pub(crate) type Line = (Instant, String);

/// What a node says of itself.
pub(crate) fn status(namespace: &str) -> Result<Value> {
    let got = in_namespace(namespace, || -> Result<Value> {
        let mut response = agent(STATUS_LIMIT).get(format!("http://{API}/api/v1/state")).call()?;
        Ok(serde_json::from_str(&response.body_mut().read_to_string()?)?)
    });
    got?
}

/// Posts `body`; the events of the answer come as they arrive, and what broke it, if anything.
pub(crate) fn stream(namespace: &str, body: &Value, limit: Duration) -> Receiver<Result<Line>> {
    let (send, lines) = channel();
    let (namespace, body) = (namespace.to_owned(), body.to_string());
    thread::spawn(move || {
        let inside = send.clone();
        let read = in_namespace(&namespace, move || read(body, limit, &inside));
        if let Err(error) = read.and_then(|read| read) {
            // Who asked may have heard enough.
            let _gone = send.send(Err(error));
        }
    });
    lines
}

fn read(body: String, limit: Duration, out: &Sender<Result<Line>>) -> Result<()> {
    let request = agent(limit).post(format!("http://{API}/v1/completions"));
    let request = request.config().http_status_as_error(false).build();
    let mut response = request.header("content-type", "application/json").send(body)?;
    if response.status() != 200 {
        let said = response.body_mut().read_to_string()?;
        return Err(anyhow!("{}: {said}", response.status()));
    }
    for line in BufReader::new(response.body_mut().as_reader()).lines() {
        if let Some(data) = line?.strip_prefix("data: ")
            && out.send(Ok((Instant::now(), data.to_owned()))).is_err()
        {
            break;
        }
    }
    Ok(())
}

fn agent(limit: Duration) -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(limit)).build().into()
}
