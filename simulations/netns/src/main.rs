//! Level two of the simulations: real nodes in namespaces. `netns --help` says what it can do.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_netns::report::Report;
use atoll_netns::{Site, adapt, host, linkd, measure, predict, rounds, soak};
use clap::{Args, Parser};

/// Runs real nodes in network namespaces, over links that can be made bad.
#[derive(Parser)]
#[command(
    after_help = "Exit codes: 0 all held, 1 something broke, 2 usage, 8 something that this \
                        needs is not here (said on stderr)."
)]
enum Arguments {
    /// Joins namespaces by links; prints a line when ready, ends when stdin is closed.
    Linkd {
        /// Namespaces.
        #[arg(long, default_value_t = 2)]
        hosts: usize,
        /// Seed of what the links do.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Their names, before a number each.
        #[arg(long, default_value = "atoll-h")]
        name: String,
        /// Socket for JSON lines, such as {"op":"set","from":0,"to":1,"link":{"delay_us":5000}}.
        #[arg(long)]
        control: PathBuf,
    },
    /// Kills and stops stages in the middle of answers: each must end whole and equal.
    Run {
        #[command(flatten)]
        mesh: MeshArguments,
        /// How often something ends.
        #[arg(long, default_value_t = 8)]
        rounds: usize,
        /// Delay of each link.
        #[arg(long, default_value_t = 1_000, value_name = "US")]
        delay_us: u64,
        /// Only the rounds of this kind, with the moments that they have among all.
        #[arg(long, value_name = "KIND")]
        only: Option<rounds::End>,
        /// Leave out the two rounds without spares.
        #[arg(long)]
        no_last: bool,
    },
    /// Throttles a stage, cuts a link and brings a faster node in the middle of answers: the plan
    /// must follow and the answer stay whole.
    Adapt {
        #[command(flatten)]
        mesh: MeshArguments,
        /// Tokens of each answer, of which a quarter come before anything happens.
        #[arg(long, default_value_t = 1_200)]
        tokens: u32,
        /// Only this change.
        #[arg(long, value_name = "CHANGE")]
        only: Option<adapt::Change>,
    },
    /// Holds what owners predict of tokens and first tokens against what they take, in meshes of
    /// two to six nodes.
    Predict {
        #[command(flatten)]
        mesh: MeshArguments,
        /// Only the meshes of these names.
        #[arg(long, value_name = "NAME", num_args = 1..)]
        only: Vec<String>,
        /// Requests of each mesh that are measured, of which the median counts.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Draw each plan into this folder.
        #[arg(long, value_name = "DIR")]
        svg: Option<PathBuf>,
    },
    /// Plays scenarios with real nodes, for `atoll sim calibrate` to predict.
    Measure {
        #[command(flatten)]
        mesh: MeshArguments,
        /// Scenarios, each with a `kill` of a `stage`.
        #[arg(long = "scenario", value_name = "FILE", required = true)]
        scenarios: Vec<PathBuf>,
        /// Model with which the cost of a crossing is measured [default: the model itself].
        #[arg(long, value_name = "FILE")]
        crossing_model: Option<PathBuf>,
    },
    /// Requests go on while every 10 s a node is killed, stopped or cut off, over bad links.
    Soak {
        #[command(flatten)]
        mesh: MeshArguments,
        /// How long.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Requests under way at once.
        #[arg(long, default_value_t = 2)]
        streams: usize,
    },
}

#[derive(Args)]
struct MeshArguments {
    /// A GGUF file.
    model: PathBuf,
    /// Seed of what happens and when.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Nodes, the owner among them [default: 7 for run, 8 for soak].
    #[arg(long)]
    hosts: Option<usize>,
    /// Nodes over which the model is spread.
    #[arg(long, default_value_t = 4)]
    stages: usize,
    /// Longest sequence, tokens.
    #[arg(long, default_value_t = 512)]
    ctx: u64,
    /// The program [default: `atoll` beside this one].
    #[arg(long)]
    atoll: Option<PathBuf>,
    /// Keep the nodes' data and logs there.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let missing = host::missing();
    if !missing.is_empty() {
        for what in missing {
            writeln!(std::io::stderr(), "MISSING {what}")?;
        }
        return Ok(ExitCode::from(host::EXIT_MISSING));
    }
    match arguments {
        Arguments::Linkd { hosts, seed, name, control } => {
            let options = linkd::Options { name, hosts, seed, socket: control };
            linkd::run(&options, std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Arguments::Run { mesh, rounds, delay_us, only, no_last } => mesh.run(7, |site| {
            let last = !no_last;
            let options = rounds::Options { site, rounds, delay_us, only, last };
            rounds::run(&options, progress())
        }),
        Arguments::Adapt { mesh, tokens, only } => {
            mesh.run(3, |site| adapt::run(&adapt::Options { site, tokens, only }, progress()))
        }
        Arguments::Predict { mesh, only, runs, svg } => mesh.run(2, |site| {
            let options = predict::Options { site, only, runs, svg };
            predict::run(&options, progress())
        }),
        Arguments::Measure { mesh, scenarios, crossing_model } => {
            let read = |path: PathBuf| {
                let text = std::fs::read_to_string(&path);
                let text = text.with_context(|| format!("reading {}", path.display()))?;
                Ok((path, text))
            };
            let scenarios = scenarios.into_iter().map(read).collect::<Result<_>>()?;
            mesh.with_site(2, |site| {
                let crossing_model = crossing_model.unwrap_or_else(|| site.model.clone());
                let options = measure::Options { site, scenarios, crossing_model };
                let found = measure::measure(&options, progress())?;
                mesh.tell(&found.json(), &found.text(), found.valid())
            })
        }
        Arguments::Soak { mesh, seconds, streams } => mesh.run(8, |site| {
            let duration = Duration::from_secs(seconds);
            soak::run(&soak::Options { site, duration, streams }, progress())
        }),
    }
}

impl MeshArguments {
    fn run(&self, hosts: usize, what: impl FnOnce(Site) -> Result<Report>) -> Result<ExitCode> {
        self.with_site(hosts, |site| {
            let report = what(site)?;
            self.tell(&report.json(), &report.text(), report.passed())
        })
    }

    fn with_site(
        &self,
        hosts: usize,
        what: impl FnOnce(Site) -> Result<ExitCode>,
    ) -> Result<ExitCode> {
        let program = std::env::current_exe()?;
        let atoll = self.atoll.clone().unwrap_or_else(|| program.with_file_name("atoll"));
        ensure!(atoll.is_file(), "{} is missing: cargo build --release", atoll.display());
        let model = &self.model;
        ensure!(model.is_file(), "{} is no file", model.display());
        let own = tempfile::tempdir()?;
        what(Site {
            atoll,
            model: model.clone(),
            program,
            seed: self.seed,
            hosts: self.hosts.unwrap_or(hosts),
            stages: self.stages,
            context: self.ctx,
            folder: self.keep.clone().unwrap_or_else(|| own.path().to_path_buf()),
        })
    }

    fn tell(&self, json: &serde_json::Value, text: &str, passed: bool) -> Result<ExitCode> {
        let text = if self.json { json.to_string() } else { text.to_owned() };
        writeln!(std::io::stdout(), "{text}").context("writing the result")?;
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Writes lines to stderr, each with the time since the start.
fn progress() -> impl FnMut(&str) {
    let start = Instant::now();
    move |line| {
        let s = start.elapsed().as_secs();
        // Nobody may listen.
        let _written = writeln!(std::io::stderr(), "[{s} s] {line}");
    }
}
