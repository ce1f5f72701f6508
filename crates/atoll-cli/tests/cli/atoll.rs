//! Running the binary in a data directory of its own.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A data directory and the binary.
pub(crate) struct Atoll {
    pub(crate) dir: TempDir,
}

impl Atoll {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// `atoll ARGS`, in an environment without settings of the machine's own.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        for (name, _value) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ATOLL_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .env("ATOLL_DATA_DIR", self.dir.path())
            .env("XDG_CONFIG_HOME", self.dir.path())
            .env("HF_HOME", self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        Finished::of(&self.command(args).output().unwrap())
    }

    pub(crate) fn run_with_stdin(&self, args: &[&str], stdin: &[u8]) -> Finished {
        let mut child: Child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        // A command that refuses its arguments does not read: the pipe may be closed.
        let _sent = child.stdin.take().unwrap().write_all(stdin);
        Finished::of(&child.wait_with_output().unwrap())
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    /// The one JSON object on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks the exit code, and that stderr holds `part`, and that nothing panicked.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, part: &str) -> &Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(part), "{part:?} is missing: {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }
}
