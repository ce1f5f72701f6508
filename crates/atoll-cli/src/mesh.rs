//! Several real nodes on this machine's loopback: this process and its children.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_node::{NodeHandle, NodeOptions};

use crate::children::{Child, ChildOptions};
use crate::exit::{Exit, Failure};
use crate::settings::Settings;

/// Meshes of one data directory that may run at once.
const GROUPS_MAX: usize = 32;
/// All nodes of one machine have met by then.
const MEET_MAX: Duration = Duration::from_secs(15);

/// Data directories of all nodes of this machine that keep theirs in `data_dir`, its own first.
pub(crate) fn node_dirs(data_dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut dirs = vec![data_dir.to_owned()];
    for group in folders(&data_dir.join("loopback"))? {
        dirs.extend(folders(&group)?);
    }
    Ok(dirs)
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let fail = |error: io::Error| Failure::io("list", dir, &error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = paths.map_err(fail)?;
    paths.retain(|path| path.is_dir());
    paths.sort();
    Ok(paths)
}

/// A mesh on loopback; this process is its first node.
#[derive(Debug)]
pub(crate) struct LoopbackMesh {
    pub(crate) node: NodeHandle,
    children: Vec<Child>,
    _group: Group,
}

/// Folders for the nodes of one mesh, kept so that a second start finds its blobs.
#[derive(Debug)]
struct Group {
    folder: PathBuf,
    _lock: File,
}

/// How each node computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Computing<'a> {
    pub(crate) threads: usize,
    pub(crate) kernels: Option<&'a str>,
}

impl LoopbackMesh {
    /// Starts `n` nodes and waits until they know each other. They meet through Kademlia from the
    /// first one's address alone; multicast stays off.
    ///
    /// # Errors
    /// Whatever keeps a node from starting, or [`Exit::Unreachable`] if they do not meet.
    pub(crate) async fn start(
        settings: &Settings,
        n: u16,
        computing: Computing<'_>,
    ) -> Result<Self, Failure> {
        let group = Group::claim(&settings.data_dir)?;
        let mut options = NodeOptions::new(group.node_dir(1));
        options.name = Some("node-1".to_owned());
        options.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
        options.threads = computing.threads;
        options.kernels = computing.kernels.map(str::to_owned);
        let node = atoll_node::start(options).await?;
        let join = node.addresses();
        let started = (2..=n).map(|k| {
            let (group, join) = (&group, &join);
            async move {
                let options = ChildOptions {
                    name: &format!("node-{k}"),
                    data_dir: &group.node_dir(k),
                    join,
                    threads: computing.threads,
                    kernels: computing.kernels,
                    log: settings.log.as_deref(),
                };
                Child::start(&options).await
            }
        });
        let children = futures::future::try_join_all(started).await?;
        let mut mesh = Self { node, children, _group: group };
        mesh.meet(n).await?;
        Ok(mesh)
    }

    /// Waits until this node knows all others.
    async fn meet(&mut self, n: u16) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            let peers = self.node.status().peers.len();
            if peers + 1 >= usize::from(n) {
                return Ok(());
            }
            if began.elapsed() > MEET_MAX {
                let what = format!("only {peers} of {} nodes answered on loopback", n - 1);
                return Err(Failure::new(Exit::Unreachable, what)
                    .because(format!("{} s have passed", MEET_MAX.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Completes when a child ends although nobody asked it to.
    pub(crate) async fn broken(&mut self) -> Failure {
        let ended = self.children.iter_mut().map(|child| Box::pin(child.ended()));
        let ended: Vec<_> = ended.collect();
        if ended.is_empty() {
            return std::future::pending().await;
        }
        futures::future::select_all(ended).await.0
    }

    /// Ends all nodes, this process's last.
    pub(crate) async fn end(self) {
        futures::future::join_all(self.children.into_iter().map(Child::end)).await;
        self.node.shutdown().await;
    }
}

impl Group {
    /// The first group that no other process uses.
    fn claim(data_dir: &Path) -> Result<Self, Failure> {
        for idx in 0..GROUPS_MAX {
            let folder = data_dir.join("loopback").join(format!("group-{idx}"));
            fs::create_dir_all(&folder).map_err(|error| Failure::io("create", &folder, &error))?;
            let path = folder.join(".lock");
            let lock = File::create(&path).map_err(|error| Failure::io("lock", &path, &error))?;
            if lock.try_lock().is_ok() {
                return Ok(Self { folder, _lock: lock });
            }
        }
        Err(Failure::new(Exit::Failure, "too many meshes run on this machine")
            .because(format!("{GROUPS_MAX} are using {}", data_dir.display())))
    }

    fn node_dir(&self, k: u16) -> PathBuf {
        self.folder.join(format!("node-{k}"))
    }
}
