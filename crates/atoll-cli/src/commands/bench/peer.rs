//! Another program that does the same work in turns: llama.cpp, through the user's Python.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use atoll_model::KvType;
use atoll_model::bench::Work;
use serde::Deserialize;
use serde_json::Value;

use crate::exit::{Exit, Failure};

const SCRIPT: &str = include_str!("llama_peer.py");

/// What the other program must make room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) threads: usize,
    /// Positions of a sequence.
    pub(super) positions: usize,
    /// Sequences decoded together.
    pub(super) sequences: usize,
    pub(super) kv: KvType,
}

/// What it calls itself.
#[derive(Debug, Deserialize)]
struct Greeting {
    name: String,
    version: String,
}

/// The running program. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Peer {
    child: Child,
    answers: BufReader<ChildStdout>,
    python: String,
    /// Name and version.
    pub(super) name: String,
}

impl Peer {
    /// Starts llama.cpp with the model at `path`, threads and caches as `room` says.
    pub(super) fn llama_cpp(python: &Path, path: &Path, room: Room) -> Result<Self, Failure> {
        let python_name = python.display().to_string();
        let kv = match room.kv {
            KvType::F16 => "f16",
            KvType::Int8 => "int8",
        };
        let counts = [room.threads, room.positions, room.sequences].map(|n| n.to_string());
        let mut child = Command::new(python)
            .args(["-c", SCRIPT])
            .arg(path)
            .args(counts)
            .arg(kv)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                Failure::new(Exit::NotFound, format!("cannot run {python_name}"))
                    .because(error)
                    .hint("--peer-python names the Python that has llama-cpp-python")
            })?;
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped above"));
        let mut peer = Self { child, answers, python: python_name, name: String::new() };
        let greeting: Greeting = serde_json::from_value(peer.answer()?).map_err(|error| {
            Failure::new(Exit::Failure, "llama.cpp did not start").because(error)
        })?;
        peer.name = format!("{} ({})", greeting.name, greeting.version);
        Ok(peer)
    }

    /// Does a piece of work and gives the seconds that it took.
    pub(super) fn seconds(&mut self, work: &Work) -> Result<f64, Failure> {
        let mut line = serde_json::to_vec(work).expect("work is plain data");
        line.push(b'\n');
        let asked = self.child.stdin.as_mut().expect("stdin is piped").write_all(&line);
        asked.map_err(|error| self.gone(&error.to_string()))?;
        let answer = self.answer()?;
        answer["seconds"].as_f64().filter(|seconds| *seconds > 0.0).ok_or_else(|| {
            Failure::new(Exit::Failure, "llama.cpp gave no time").because(answer.to_string())
        })
    }

    fn answer(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err(self.gone("its last words stand above")),
            Ok(_) => serde_json::from_str(&line).map_err(|error| self.gone(&error.to_string())),
            Err(error) => Err(self.gone(&error.to_string())),
        }
    }

    fn gone(&self, cause: &str) -> Failure {
        Failure::new(Exit::Failure, "llama.cpp ended early")
            .because(cause)
            .hint(format!("{} -m pip install llama-cpp-python", self.python))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
