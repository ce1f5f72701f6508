//! A `linkd` that a run started: its namespaces, and a line to it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::control::Request;
use crate::lan::delete;

/// How long `linkd` may take to answer or to take everything down.
const LIMIT: Duration = Duration::from_secs(20);

/// Ends with its owner, and its namespaces with it.
#[derive(Debug)]
pub struct Emulator {
    process: Child,
    control: BufReader<UnixStream>,
    /// One for each host.
    pub namespaces: Vec<String>,
    _folder: TempDir,
}

impl Emulator {
    /// Starts `program linkd` with so many hosts.
    ///
    /// # Errors
    /// If it does not say within 20 s that it is ready.
    pub fn start(program: &Path, hosts: usize, seed: u64) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("linkd");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("atoll{}x{count}h", std::process::id());
        let mut command = Command::new(program);
        command.args(["linkd", "--name", &name, "--hosts", &hosts.to_string()]);
        command.args(["--seed", &seed.to_string()]).arg("--control").arg(&socket);
        // Of a group of its own: Ctrl-C ends the run, whose end ends this in order.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("starting linkd")?;
        let stdout = process.stdout.take().context("linkd has no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(!line.is_empty(), "linkd ended before it was ready");
        let ready: Value = serde_json::from_str(&line)?;
        let namespaces = serde_json::from_value(ready["namespaces"].clone())?;
        let control = UnixStream::connect(&socket).context("connecting to linkd")?;
        control.set_read_timeout(Some(LIMIT))?;
        let control = BufReader::new(control);
        Ok(Self { process, control, namespaces, _folder: folder })
    }

    /// Asks `linkd`.
    ///
    /// # Errors
    /// With its words if it refuses, or if it does not answer.
    pub fn ask(&mut self, request: &Request) -> Result<Value> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.control.get_mut().write_all(line.as_bytes())?;
        let mut answer = String::new();
        self.control.read_line(&mut answer).context("waiting for linkd")?;
        let answer: Value = serde_json::from_str(&answer)?;
        if answer["ok"] != true {
            bail!("linkd: {}", answer["error"].as_str().unwrap_or("no reason given"));
        }
        Ok(answer)
    }

    /// The process id of `linkd`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let end = Instant::now() + LIMIT;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Only of one that did not end by itself.
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
        for namespace in &self.namespaces {
            delete(namespace);
        }
    }
}
