//! Real nodes die in the middle of an answer, and the answer goes on, with the same text.
//!
//! Four nodes on loopback, three of them stages, one a spare. `ATOLL_RECOVERY_ROUNDS` sets how
//! many times each kind of end is tried (3 by default; `must_show.sh` asks for more).

use std::fmt::{self, Display};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::atoll::{self, Running};
use crate::models::{Room, SMOLLM2};
use crate::random::Random;

const STAGES: usize = 3;
const CONTEXT: u64 = 512;
const TOKENS: u32 = 64;
/// How long an answer may take, whatever happens to it.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The longest silence within an answer: what it takes to fetch a part that no spare has.
const GAP_MAX: Duration = Duration::from_secs(10);
/// How long the nodes may take to be one mesh again.
const MESH_LIMIT: Duration = Duration::from_secs(30);

/// A node that is no origin. `node` is none while it is dead.
struct Member {
    name: String,
    data: TempDir,
    node: Option<Running>,
}

/// The owner, which every request is made of, and the others.
struct Mesh {
    owner: Running,
    owner_data: TempDir,
    url: String,
    model: String,
    address: String,
    memory: String,
    members: Vec<Member>,
}

impl Mesh {
    fn start(model: &Path) -> Self {
        let room = Room::of(model, SMOLLM2.n_layers as u64 / STAGES as u64, CONTEXT);
        let owner_data = tempdir().unwrap();
        let (stages, context) = (STAGES.to_string(), CONTEXT.to_string());
        let mut serve = vec!["serve", model.to_str().unwrap(), "--stages", &stages];
        serve.extend(["--ctx", &context, "--memory", &room.with_ends, "--name", "owner"]);
        let mut owner = start(owner_data.path(), &serve);
        let listening = owner.wait_for_event("listening", Duration::from_secs(20));
        let mut mesh = Self {
            address: listening["addresses"][0].as_str().unwrap().to_owned(),
            url: owner.wait_for_event("api", Duration::from_secs(20))["url"]
                .as_str()
                .unwrap()
                .to_owned(),
            owner,
            owner_data,
            model: String::new(),
            memory: room.layers,
            members: Vec::new(),
        };
        for index in 0..STAGES {
            let name = format!("member{index}");
            mesh.members.push(Member { name, data: tempdir().unwrap(), node: None });
        }
        mesh.revive();
        mesh.owner.wait_for_event("serving", Duration::from_secs(60));
        let status = mesh.status();
        status["models"][0]["name"].as_str().unwrap().clone_into(&mut mesh.model);
        mesh
    }

    fn status(&self) -> Value {
        atoll::json(self.owner_data.path(), &["status", "--json"])
    }

    /// Starts whoever is dead, and waits until all are a mesh that serves.
    fn revive(&mut self) {
        for member in &mut self.members {
            if member.node.is_none() {
                let mut up = vec!["up", "--join", &self.address, "--memory", &self.memory];
                up.extend(["--name", &member.name]);
                member.node = Some(start(member.data.path(), &up));
            }
        }
        atoll::poll(MESH_LIMIT, "mesh of all nodes with a plan", || {
            let status = self.status();
            let peers = status["peers"].as_array().unwrap().len();
            (peers == self.members.len() && !self.stages(&status).is_empty()).then_some(())
        });
    }

    /// After some answers, what was measured stands beside what is predicted, and adds up.
    fn tells_what_tokens_take(&self) {
        let status = self.status();
        let timing = &status["plan"]["timing"];
        let ms = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {timing}"));
        let nodes = timing["nodes"].as_array().unwrap();
        assert_eq!((nodes.len(), &nodes[0]["node"]), (STAGES, &Value::from("owner")), "{timing}");
        for (what, node, between) in [
            ("token_ms", "compute_ms", "between_ms"),
            ("measured_token_ms", "measured_ms", "measured_between_ms"),
        ] {
            let sum = nodes.iter().map(|it| ms(&it[node])).sum::<f64>() + ms(&timing[between]);
            assert!(ms(&timing[what]) > 0.0 && (sum - ms(&timing[what])).abs() < 0.01, "{timing}");
        }
        assert!(ms(&timing["first_token_ms"]) > ms(&timing["token_ms"]), "{timing}");
        let scraped = ureq::get(format!("{}/metrics", self.url)).call().unwrap();
        let scraped = scraped.into_body().read_to_string().unwrap();
        for (by, key) in [("predicted", "token_ms"), ("measured", "measured_token_ms")] {
            let line = scraped.lines().find_map(|line| {
                let labels = line.strip_prefix("atoll_token_seconds{model=\"")?;
                let (_, value) = labels.split_once(&format!("\",by=\"{by}\"}} "))?;
                value.parse::<f64>().ok()
            });
            let found = 1e3 * line.unwrap_or_else(|| panic!("no token {by}: {scraped}"));
            // Asked a moment later, when more tokens may have been looked at.
            assert!((found / ms(&timing[key]) - 1.0).abs() < 0.5, "{by} {found}: {timing}");
        }
    }

    /// The mesh is what `atoll plan` plans for when it is given no fleet.
    fn plans(&self, model: &Path) {
        let (model, context) = (model.to_str().unwrap(), CONTEXT.to_string());
        let args = ["plan", model, "--ctx", &context, "--users", "16", "--json"];
        let plan = atoll::json(self.owner_data.path(), &args);
        assert_eq!(plan["origin"], "owner", "{plan}");
        // Each has room for its share alone.
        assert_eq!(plan["stages"].as_array().unwrap().len(), STAGES, "{plan}");
        assert_eq!(plan["stages"][0]["node"], "owner", "{plan}");
    }

    /// Which members are stages; none while there is no plan in force.
    fn stages(&self, status: &Value) -> Vec<usize> {
        let Some(stages) = status["plan"]["stages"].as_array() else { return Vec::new() };
        let index = |stage: &Value| {
            self.members.iter().position(|member| stage["node"] == member.name.as_str())
        };
        stages.iter().filter_map(index).collect()
    }

    /// Asks for an answer; its pieces and their times come as they arrive.
    fn ask(&self, prompt: &str) -> Receiver<(Instant, String)> {
        let body = json!({
            "model": self.model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0,
            "stream": true,
        });
        let (url, body) = (format!("{}/v1/completions", self.url), body.to_string());
        let (send, pieces) = channel();
        thread::spawn(move || {
            let agent = ureq::Agent::config_builder().timeout_global(Some(ANSWER_LIMIT)).build();
            let agent: ureq::Agent = agent.into();
            let request = agent.post(&url).header("content-type", "application/json");
            let mut response = request.send(body).unwrap();
            let lines = BufReader::new(response.body_mut().as_reader()).lines();
            for line in lines.map_while(Result::ok) {
                if let Some(data) = line.strip_prefix("data: ") {
                    // A test that has seen enough may be gone.
                    let _ = send.send((Instant::now(), data.to_owned()));
                }
            }
        });
        pieces
    }
}

fn start(data: &Path, args: &[&str]) -> Running {
    let loopback = ["--no-mdns", "--json", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let more = ["--api", "127.0.0.1:0", "--threads", "1", "--log", "atoll_proto=info"];
    Running::start(atoll::command(data, &[args, &loopback, &more].concat()))
}

/// What came of a request.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    finish: String,
    pieces: usize,
    /// The longest time between two pieces, or before the first.
    gap: Duration,
}

impl Answer {
    /// Hears an answer to its end, and strikes before its piece number `at`.
    fn of(pieces: &Receiver<(Instant, String)>, at: usize, strike: impl FnOnce()) -> Self {
        let (mut answer, mut strike) = (Self::default(), Some(strike));
        let mut last = Instant::now();
        loop {
            if answer.pieces >= at
                && let Some(strike) = strike.take()
            {
                strike();
                last = Instant::now();
            }
            let Ok((when, data)) = pieces.recv_timeout(ANSWER_LIMIT) else {
                panic!("the stream broke off after {answer:?}");
            };
            if data == "[DONE]" {
                return answer;
            }
            let chunk: Value = serde_json::from_str(&data).unwrap();
            let choice = &chunk["choices"][0];
            assert!(choice.is_object(), "{chunk}");
            answer.text.push_str(choice["text"].as_str().unwrap());
            answer.finish.push_str(choice["finish_reason"].as_str().unwrap_or_default());
            answer.pieces += 1;
            answer.gap = answer.gap.max(when.saturating_duration_since(last));
            last = when;
        }
    }
}

/// How a stage ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Killed, its caches lost.
    Kill,
    /// Killed while the prompt is read.
    KillInPrefill,
    /// It says nothing any more, and later goes on.
    Stop,
}

impl Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "killed",
            Self::KillInPrefill => "killed in prefill",
            Self::Stop => "stopped",
        })
    }
}

#[test]
fn an_answer_outlives_any_stage() {
    let Some(path) = SMOLLM2.path() else { return };
    let rounds = std::env::var("ATOLL_RECOVERY_ROUNDS").ok();
    let rounds: usize = rounds.map_or(3, |rounds| rounds.parse().unwrap());
    let mut random = Random::from_environment("an_answer_outlives_any_stage");
    let mut mesh = Mesh::start(path);
    let prompts = ["Once upon a time".to_owned(), crate::local::long_prompt(1200)];
    let undisturbed = prompts.each_ref().map(|prompt| Answer::of(&mesh.ask(prompt), 0, || {}));
    assert!(undisturbed.iter().all(|answer| answer.finish == "length"), "{undisturbed:?}");
    mesh.tells_what_tokens_take();
    mesh.plans(path);

    for end in [End::Stop, End::Kill, End::KillInPrefill] {
        let mut gaps = Vec::new();
        for _ in 0..rounds {
            let which = usize::from(end == End::KillInPrefill);
            let stages = mesh.stages(&mesh.status());
            let victim = stages[random.below(stages.len())];
            let at = if which == 0 { random.below(TOKENS as usize - 2) } else { 0 };
            let delay = Duration::from_millis(if which == 0 { 0 } else { random.next() % 300 });
            let place = format!("member{victim} {end} at {at} + {delay:?} ({random})");
            let pieces = mesh.ask(&prompts[which]);
            let node = mesh.members[victim].node.as_mut().unwrap();
            let answer = Answer::of(&pieces, at, || {
                thread::sleep(delay);
                match end {
                    End::Kill | End::KillInPrefill => {
                        node.end_with("KILL", Duration::from_secs(5));
                    }
                    End::Stop => node.signal("STOP"),
                }
            });
            assert_eq!(answer.text, undisturbed[which].text, "{place}");
            assert_eq!(answer.finish, undisturbed[which].finish, "{place}");
            if answer.gap > GAP_MAX {
                let log = mesh.owner.end_with("KILL", Duration::from_secs(5)).stderr;
                panic!("nothing was said for {:.1?}: {place}\n{log}", answer.gap);
            }
            gaps.push(answer.gap);
            match end {
                End::Kill | End::KillInPrefill => mesh.members[victim].node = None,
                End::Stop => node.signal("CONT"),
            }
            mesh.revive();
        }
        gaps.sort_unstable();
        let (middle, longest) = (gaps[rounds / 2], gaps[rounds - 1]);
        let p99 = gaps[(rounds * 99).div_ceil(100) - 1];
        atoll::figure(
            &format!("stage {end}"),
            &format!(
                "{rounds} of {rounds} whole and equal, gap median {middle:.2?}, p99 {p99:.2?}, \
                 longest {longest:.2?}"
            ),
        );
    }
}
