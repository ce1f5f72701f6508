//! Real nodes, one a namespace: an owner, which is asked, and members that come and go.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::footprint::Footprint;
use crate::http::{self, API, Line};
use crate::quota::Quota;

/// How long nodes may take to be one mesh with a plan.
const MESH_LIMIT: Duration = Duration::from_secs(90);
/// Sessions that `atoll serve` makes room for.
pub(crate) const SESSIONS: u64 = 16;

/// What runs, and where.
#[derive(Clone, Debug)]
pub struct Site {
    /// The program `atoll`.
    pub atoll: PathBuf,
    /// A GGUF file.
    pub model: PathBuf,
    /// This program, which is also `linkd`.
    pub program: PathBuf,
    /// Of the links, and of what happens and when.
    pub seed: u64,
    /// Nodes, the owner among them.
    pub hosts: usize,
    /// Of which so many are stages; 0: as many as the owner finds best.
    pub stages: usize,
    /// Longest sequence, tokens.
    pub context: u64,
    /// Where data and logs are kept.
    pub folder: PathBuf,
}

impl Site {
    /// Makes the namespaces and the links, all perfect.
    pub(crate) fn links(&self) -> Result<Emulator> {
        let &Self { hosts, stages, .. } = self;
        ensure!(hosts > stages + 1, "--hosts is {hosts}; at least two more than {stages} stages");
        Emulator::start(&self.program, hosts, self.seed)
    }
}

/// What a node may take of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Memory for layers and caches.
    pub memory_bytes: u64,
    /// Share of a core; absent or 1 and more: no limit beside its one thread.
    pub cpu: Option<f64>,
    /// That share is given in periods as short as there are: the node is like one with a slower
    /// processor.
    pub is_even: bool,
}

/// A node's process; none while it is dead.
#[derive(Debug)]
struct Member {
    namespace: String,
    name: String,
    process: Option<Child>,
    memory_bytes: u64,
    quota: Option<Quota>,
}

/// Host 0 is the owner.
#[derive(Debug)]
pub(crate) struct Mesh {
    site: Site,
    /// Seconds that requests wait for a plan when a node is lost.
    wait_s: u64,
    members: Vec<Member>,
    /// As the interface calls it.
    model: String,
}

impl Mesh {
    /// Starts a node in each namespace and waits until they serve the model.
    pub(crate) fn start(site: Site, wait_s: u64, namespaces: &[String]) -> Result<Self> {
        let (bytes, ends_bytes) = room(&site)?;
        let ends = |host| if host == 0 { ends_bytes } else { 0 };
        let room = |host| Room { memory_bytes: bytes + ends(host), cpu: None, is_even: false };
        let rooms = (0..namespaces.len()).map(room).collect();
        Self::with_rooms(site, wait_s, namespaces, rooms)
    }

    /// The same with a room for each node.
    pub(crate) fn with_rooms(
        site: Site,
        wait_s: u64,
        namespaces: &[String],
        rooms: Vec<Room>,
    ) -> Result<Self> {
        let member = |(host, (namespace, room)): (usize, (&String, Room))| {
            let quota = if room.is_even { Quota::even } else { Quota::new };
            let quota = room.cpu.filter(|cpu| *cpu < 1.0).map(quota).transpose()?;
            Ok(Member {
                namespace: namespace.clone(),
                name: format!("n{host}"),
                process: None,
                memory_bytes: room.memory_bytes,
                quota,
            })
        };
        let members = namespaces.iter().zip(rooms).enumerate().map(member);
        let members = members.collect::<Result<_>>()?;
        let mut mesh = Self { site, wait_s, members, model: String::new() };
        for host in 0..mesh.members.len() {
            // Each measures itself at the start, alone, as it would on a machine of its own.
            mesh.revive(host)?;
            mesh.wait_for_api(host)?;
        }
        mesh.mend(true)?;
        let status = mesh.status(0)?;
        let name = status["models"][0]["name"].as_str().context("no model is served")?;
        name.clone_into(&mut mesh.model);
        Ok(mesh)
    }

    /// Starts whoever is dead and waits until all are one mesh with a plan, and if asked until
    /// spares are loaded.
    pub(crate) fn mend(&mut self, spares: bool) -> Result<()> {
        for host in 0..self.members.len() {
            if self.members[host].process.is_none() {
                self.revive(host)?;
            }
        }
        let others = self.members.len() - 1;
        let start = Instant::now();
        loop {
            let status = self.status(0);
            if status.as_ref().is_ok_and(|status| {
                let peers = status["peers"].as_array().map_or(0, Vec::len);
                peers == others && status["plan"].is_object() && (!spares || self.all_hold())
            }) {
                return Ok(());
            }
            if start.elapsed() > MESH_LIMIT {
                bail!("no mesh with a plan within {MESH_LIMIT:?}: {status:?}");
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn wait_for_api(&self, host: usize) -> Result<()> {
        let start = Instant::now();
        while self.status(host).is_err() {
            ensure!(start.elapsed() < MESH_LIMIT, "n{host} does not answer");
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Every stage but the owner's has a spare that holds its layers, as far as there are nodes.
    fn all_hold(&self) -> bool {
        let holds = |host: &usize| {
            let held = |status: Value| status["held"].as_array().map_or(0, Vec::len) > 0;
            self.status(*host).is_ok_and(held)
        };
        let wanted = self.members.len().min((2 * self.site.stages).saturating_sub(1));
        (0..self.members.len()).filter(holds).count() >= wanted
    }

    /// Starts a node that is dead. What it had on disk is still there.
    pub(crate) fn revive(&mut self, host: usize) -> Result<()> {
        let site = &self.site;
        let member = &mut self.members[host];
        let data = site.folder.join(&member.name);
        fs::create_dir_all(&data)?;
        let log = File::options().append(true).create(true).open(data.join("log"))?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &member.namespace]).arg(&site.atoll);
        if host == 0 {
            let (stages, wait) = (site.stages.to_string(), self.wait_s.to_string());
            command.arg("serve").arg(&site.model).args(["--wait", &wait]);
            if site.stages > 0 {
                command.args(["--stages", &stages]);
            }
            command.args(["--ctx", &site.context.to_string()]);
        } else {
            command.arg("up");
        }
        command.args(["--memory", &member.memory_bytes.to_string()]);
        command.args(["--json", "--name", &member.name, "--api", API, "--threads", "1"]);
        command.args(["--listen", "/ip4/0.0.0.0/tcp/7400"]);
        command.args(["--log", "atoll_proto=info,atoll_node=info"]);
        let own = |(key, _): &(std::ffi::OsString, _)| key.to_string_lossy().starts_with("ATOLL_");
        std::env::vars_os().filter(own).for_each(|(key, _)| _ = command.env_remove(key));
        command.env("ATOLL_DATA_DIR", &data).env("ATOLL_CONFIG", "/dev/null");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let process = member.process.insert(command.spawn().context("starting a node")?);
        if let Some(quota) = &member.quota {
            quota.take(process.id())?;
        }
        Ok(())
    }

    /// Forgets what a dead node had on disk.
    pub(crate) fn wipe(&self, host: usize) -> Result<()> {
        ensure!(self.members[host].process.is_none(), "n{host} runs");
        let blobs = self.site.folder.join(&self.members[host].name).join("blobs");
        if blobs.exists() {
            fs::remove_dir_all(&blobs).with_context(|| format!("deleting {}", blobs.display()))?;
        }
        Ok(())
    }

    /// What a node says of itself.
    pub(crate) fn status(&self, host: usize) -> Result<Value> {
        http::status(&self.members[host].namespace)
    }

    /// The namespace of a node.
    pub(crate) fn namespace(&self, host: usize) -> &str {
        &self.members[host].namespace
    }

    /// Gives a node that has a share of a core another one.
    pub(crate) fn set_cpu(&self, host: usize, cores: f64) -> Result<()> {
        self.members[host].quota.as_ref().context("it has no share to change")?.set(cores)
    }

    /// Which members are stages of the plan in force, the owner left out.
    pub(crate) fn stages(&self) -> Result<Vec<usize>> {
        let status = self.status(0)?;
        let stages = status["plan"]["stages"].as_array().context("there is no plan")?;
        let host = |stage: &Value| {
            self.members.iter().position(|member| stage["node"] == member.name.as_str())
        };
        Ok(stages.iter().filter_map(host).filter(|host| *host != 0).collect())
    }

    /// How many nodes there are, the owner among them.
    pub(crate) const fn len(&self) -> usize {
        self.members.len()
    }

    /// Sends a signal to a node.
    pub(crate) fn signal(&self, host: usize, signal: Signal) -> Result<()> {
        let process = self.members[host].process.as_ref().context("it is dead")?;
        let pid = Pid::from_raw(i32::try_from(process.id())?).context("it has no id")?;
        kill_process(pid, signal).with_context(|| format!("signalling n{host}"))
    }

    /// Ends a node at once.
    pub(crate) fn kill(&mut self, host: usize) -> Result<()> {
        if let Some(mut process) = self.members[host].process.take() {
            process.kill().with_context(|| format!("killing n{host}"))?;
            process.wait()?;
        }
        Ok(())
    }

    /// Asks the owner.
    pub(crate) fn ask(&self, prompt: &str, n: u32, limit: Duration) -> Receiver<Result<Line>> {
        self.ask_with(json!(prompt), n, limit)
    }

    /// Asks the owner to go on with tokens as they stand.
    pub(crate) fn ask_tokens(
        &self,
        prompt: &[u32],
        n: u32,
        limit: Duration,
    ) -> Receiver<Result<Line>> {
        self.ask_with(json!(prompt), n, limit)
    }

    fn ask_with(&self, prompt: Value, n: u32, limit: Duration) -> Receiver<Result<Line>> {
        let body = json!({
            "model": self.model, "prompt": prompt, "max_tokens": n, "temperature": 0,
            "stream": true,
        });
        http::stream(&self.members[0].namespace, &body, limit)
    }

    /// What a node takes of this machine.
    pub(crate) fn footprint(&self, host: usize) -> Result<Footprint> {
        let process = self.members[host].process.as_ref().context("it is dead")?;
        Footprint::of(process.id(), &self.status(host)?)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for host in 0..self.members.len() {
            // One that cannot be ended goes with its namespace.
            let _ended = self.kill(host);
        }
    }
}

/// Bytes for one stage's layers and their caches, and for embedding and head: so many stages hold
/// the model and one less does not, whatever speeds the nodes measure.
fn room(site: &Site) -> Result<(u64, u64)> {
    let data = tempfile::tempdir()?;
    let mut command = Command::new(&site.atoll);
    command.arg("show").arg(&site.model).arg("--json").env("ATOLL_DATA_DIR", data.path());
    let done = command.output().with_context(|| format!("running {}", site.atoll.display()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "atoll show: {said}");
    let shown: Value = serde_json::from_slice(&done.stdout)?;
    let number = |value: &Value| value.as_u64().context("atoll show says no number");
    let layers = shown["layers"].as_array().context("atoll show says no layers")?;
    let size = |key: &str| number(&shown["config"][key]);
    // Keys and values, two bytes each.
    let kv_bytes = 2 * 2 * size("n_kv_heads")? * size("head_dim")? * site.context * SESSIONS;
    let layer_bytes = layers.iter().map(number).collect::<Result<Vec<_>>>()?;
    let layer_bytes = layer_bytes.into_iter().max().context("the model has no layers")?;
    let n = layers.len().div_ceil(site.stages) as u64;
    let ends = number(&shown["embed_bytes"])? + number(&shown["head_bytes"])?;
    Ok(((2 * n + 1) * (layer_bytes + kv_bytes) / 2, ends))
}
