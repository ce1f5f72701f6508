//! Other nodes as child processes on this machine. They end when this process does, however it
//! ends: each reads a pipe that only this process holds open.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child as Process, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::exit::{Exit, Failure};

/// A child that has not begun to listen by then never will.
const START_MAX: Duration = Duration::from_secs(20);
/// A child that was asked to end has so long before it is killed.
const END_MAX: Duration = Duration::from_secs(3);
/// Lines of a child's stderr that are kept for an error message.
const TAIL_LINES: usize = 20;

/// How a child node is started.
#[derive(Debug)]
pub(crate) struct ChildOptions<'a> {
    pub(crate) name: &'a str,
    pub(crate) data_dir: &'a Path,
    pub(crate) join: &'a [String],
    pub(crate) threads: usize,
    pub(crate) kernels: Option<&'a str>,
    pub(crate) log: Option<&'a str>,
}

/// A running child node. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: Process,
    lifeline: Option<ChildStdin>,
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts `atoll up` and waits until it listens.
    ///
    /// # Errors
    /// What the child said on stderr, if it ended or stayed silent.
    pub(crate) async fn start(options: &ChildOptions<'_>) -> Result<Self, Failure> {
        let binary = std::env::current_exe().map_err(|error| {
            Failure::new(Exit::Failure, "cannot find this program").because(error)
        })?;
        let mut command = Command::new(binary);
        command
            .args(["up", "--json", "--until-stdin-closes", "--no-mdns", "--api", "none"])
            .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--name", options.name])
            .arg("--data-dir")
            .arg(options.data_dir)
            .args(["--threads", &options.threads.to_string()]);
        for address in options.join {
            command.args(["--join", address]);
        }
        if let Some(kernels) = options.kernels {
            command.args(["--kernels", kernels]);
        }
        if let Some(log) = options.log {
            command.args(["--log", log]);
        }
        // A group of its own: Ctrl-C reaches this process, which ends the children in order.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().map_err(|error| {
            Failure::new(Exit::Failure, format!("cannot start {}", options.name)).because(error)
        })?;
        let lifeline = process.stdin.take();
        let stdout = process.stdout.take().expect("stdout is piped above");
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let stderr = process.stderr.take().expect("stderr is piped above");
        tokio::spawn(keep_tail(stderr, Arc::clone(&tail)));
        let name = options.name.to_owned();
        let mut child = Self { name, process, lifeline, tail };
        match timeout(START_MAX, until_listening(stdout)).await {
            Ok(true) => Ok(child),
            Ok(false) => Err(child.ended().await),
            Err(_elapsed) => {
                let what = format!("{} did not start within {} s", child.name, START_MAX.as_secs());
                Err(Failure::new(Exit::Timeout, what).because(child.last_words()))
            }
        }
    }

    /// Ends the child: its pipe is closed, and it is killed if it does not go.
    pub(crate) async fn end(mut self) {
        drop(self.lifeline.take());
        if timeout(END_MAX, self.process.wait()).await.is_err() {
            let _gone = self.process.kill().await;
        }
    }

    /// Completes when the child ends by itself.
    pub(crate) async fn ended(&mut self) -> Failure {
        let status: Option<ExitStatus> = self.process.wait().await.ok();
        let code = status.and_then(|status| status.code());
        let code = code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
        Failure::new(Exit::Failure, format!("{} ended with {code}", self.name))
            .because(self.last_words())
    }

    fn last_words(&self) -> String {
        let tail = self.tail.lock().expect("nothing panics while holding this lock");
        let lines: Vec<&str> = tail.iter().map(String::as_str).collect();
        if lines.is_empty() { "it said nothing".to_owned() } else { lines.join("\n       ") }
    }
}

/// Reads event lines until the child listens; `false` if they end before.
async fn until_listening(stdout: ChildStdout) -> bool {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if event["event"] == "listening" {
            // The rest is read and dropped, so that the child never waits for us.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return true;
        }
    }
    false
}

async fn keep_tail(stderr: impl AsyncRead + Unpin, tail: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut tail = tail.lock().expect("nothing panics while holding this lock");
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
}
