//! Runs the real binary, within a time limit and with nothing inherited from the environment.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a run may take unless a test says otherwise.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// What a finished run left.
#[derive(Debug)]
pub(crate) struct Run {
    /// Exit code; 128 + the signal's number if it was killed.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
}

/// The binary beside this test binary.
pub(crate) fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join("atoll");
    assert!(path.is_file(), "{} is missing: cargo build --release", path.display());
    path
}

/// `atoll ARGS…` with its data below `data_dir`.
pub(crate) fn command(data_dir: &Path, args: &[&str]) -> Command {
    dressed(Command::new(binary()), data_dir, args)
}

/// The same in a network namespace.
pub(crate) fn command_in(namespace: &str, data_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(binary());
    dressed(command, data_dir, args)
}

fn dressed(mut command: Command, data_dir: &Path, args: &[&str]) -> Command {
    let inherited = std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("ATOLL_"));
    for (key, _) in inherited {
        command.env_remove(key);
    }
    command.args(args).env("ATOLL_DATA_DIR", data_dir).env("ATOLL_CONFIG", "/dev/null");
    command.env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command
}

/// Runs to the end; fails the test at `limit`.
pub(crate) fn run_within(command: Command, limit: Duration) -> Run {
    Running::start(command).finish(limit)
}

/// Runs to the end, with `stdin` as its input.
pub(crate) fn run_with_input(mut command: Command, stdin: &[u8]) -> Run {
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut pipe = running.child.stdin.take().unwrap();
    // The program may rightly stop reading early.
    let _closed = pipe.write_all(stdin);
    drop(pipe);
    running.finish(LIMIT)
}

/// The JSON object of a run that must succeed.
pub(crate) fn json(data_dir: &Path, args: &[&str]) -> Value {
    run_within(command(data_dir, args), LIMIT).json()
}

impl Run {
    /// The one JSON object on stdout of a run that succeeded.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self}"))
    }

    /// Checks how a refusal looks: its exit code, its words, and that nothing panicked.
    pub(crate) fn refuses(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self}");
        assert!(self.stderr.contains("error: "), "no line that says what: {self}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not said: {self}");
        }
        self.did_not_panic();
    }

    pub(crate) fn did_not_panic(&self) {
        let panicked = self.stderr.contains("panicked at") || self.stderr.contains("overflowed");
        assert!(!panicked && self.code != 101 && self.code < 132 || self.code == 143, "{self}");
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = |text: &str| text.chars().take(2000).collect::<String>();
        let (out, err) = (head(&self.stdout), head(&self.stderr));
        writeln!(f, "code {} after {:?}", self.code, self.elapsed)?;
        write!(f, "--- stdout\n{out}\n--- stderr\n{err}")
    }
}

/// A run under way; ends with its owner.
pub(crate) struct Running {
    child: Child,
    start: Instant,
    lines: Receiver<String>,
    stdout: String,
    stderr: thread::JoinHandle<String>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let start = Instant::now();
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
                panic!("cannot start {command:?}: {error}");
            });
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut err = child.stderr.take().unwrap();
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr = thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ended = err.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self { child, start, lines, stdout: String::new(), stderr }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Bytes of it that are the process's own, not those of a file.
    pub(crate) fn own_bytes(&self) -> u64 {
        self.memory("RssAnon:")
    }

    fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// Time since the start.
    pub(crate) fn age(&self) -> Duration {
        self.start.elapsed()
    }

    /// The next stdout line that `wanted` takes, as JSON if it is; fails the test after `limit`.
    pub(crate) fn wait_for<T>(
        &mut self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> T {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let run = self.end_with("KILL", Duration::from_secs(5));
                panic!("no {what} within {limit:?}: {run}");
            };
            self.stdout.push_str(&line);
            self.stdout.push('\n');
            if let Some(found) = wanted(&line) {
                return found;
            }
        }
    }

    /// Waits for the JSON line of the event called `event`.
    pub(crate) fn wait_for_event(&mut self, event: &str, limit: Duration) -> Value {
        self.wait_for(limit, event, |line| {
            let value: Value = serde_json::from_str(line).ok()?;
            (value["event"] == event).then_some(value)
        })
    }

    /// Sends a signal by name, such as `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(status.success(), "kill -s {name} {pid}");
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end_with(&mut self, signal: &str, limit: Duration) -> Run {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(signal);
        }
        self.collect(limit)
    }

    /// Waits for the end; fails the test at `limit`.
    pub(crate) fn finish(mut self, limit: Duration) -> Run {
        self.collect(limit)
    }

    fn collect(&mut self, limit: Duration) -> Run {
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > end {
                let _ended = self.child.kill();
                let _reaped = self.child.wait();
                break None;
            }
            thread::sleep(Duration::from_millis(5));
        };
        let elapsed = self.start.elapsed();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(2)) {
            self.stdout.push_str(&line);
            self.stdout.push('\n');
        }
        let reader = std::mem::replace(&mut self.stderr, thread::spawn(String::new));
        let stderr = reader.join().unwrap();
        let code = status.map_or(-1, |status| {
            use std::os::unix::process::ExitStatusExt;
            status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
        });
        let run = Run { code, stdout: std::mem::take(&mut self.stdout), stderr, elapsed };
        assert!(status.is_some(), "not done within {limit:?}: {run}");
        run
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ended = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// Says loudly, past the test harness, that something was not tested.
pub(crate) fn skip(what: &str, why: &str) {
    let _said = writeln!(std::io::stderr(), "\nSKIPPED {what}: {why}");
}

/// Notes a measured figure, past the test harness; `must_show.sh` collects these lines.
pub(crate) fn figure(what: &str, figure: &str) {
    let _said = writeln!(std::io::stderr(), "\nFIGURE {what}: {figure}");
}

/// Polls `done` until it gives something; fails the test after `limit`.
pub(crate) fn poll<T>(limit: Duration, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(Instant::now() < end, "no {what} within {limit:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
