//! Puts a node together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atoll_model::{Compute, Isa};
use atoll_proto::{Command, Input, Limits, Node, NodeConfig};
use libp2p::identity::Keypair;
use tokio_util::task::AbortOnDropHandle;

use crate::core::{Core, CoreSlot, Parts};
use crate::data_dir::DataDir;
use crate::engine::{Engine, HeldBoard};
use crate::error::NodeError;
use crate::events::NodeEvent;
use crate::handle::{NodeHandle, Shared};
use crate::identity;
use crate::net::address;
use crate::net::blob_client::BlobClient;
use crate::net::blob_server::BlobServer;
use crate::net::blob_wire::BLOB_PROTOCOL;
use crate::net::hello::Incarnation;
use crate::net::start::{Listening, listen, parse_addresses};
use crate::net::swarm::{Search, SwarmHandle, SwarmTask};
use crate::net::{LINK_PROTOCOL, Links, Upward, behaviour};
use crate::options::NodeOptions;
use crate::prepare::Preparer;
use crate::store::ShardStore;
use crate::{profile, random};

/// A listener on all interfaces names their addresses one by one, from what the kernel lists at
/// once: after so long it has named them.
const INTERFACES_PAUSE: Duration = Duration::from_millis(50);
/// Being alone for so long is news.
const ALONE_AFTER: Duration = Duration::from_secs(5);

/// Starts a node on the current tokio runtime.
///
/// # Errors
/// The data directory is in use or unreadable, the identity is damaged, an address is malformed
/// or taken, the kernels are unknown.
pub async fn start(options: NodeOptions) -> Result<NodeHandle, NodeError> {
    let listen_addresses = parse_addresses(&options.listen)?;
    let bootstrap = parse_addresses(&options.bootstrap)?;
    let opened = {
        let options = options.clone();
        tokio::task::spawn_blocking(move || open(&options))
    };
    let Opened { data_dir, key, store, compute, kernels, profile } =
        opened.await.map_err(|error| NodeError::Network(error.to_string()))??;
    let mut swarm = behaviour::build_swarm(key, options.mdns)?;
    let peer = *swarm.local_peer_id();
    let id = identity::node_id(&peer).expect("our own key is Ed25519");
    // Whoever hears of us finds our protocols there: they come before the first address.
    let mut control = swarm.behaviour().stream.new_control();
    let accept = "a new swarm has no protocols yet";
    let link_streams = control.accept(LINK_PROTOCOL).expect(accept);
    let blob_streams = control.accept(BLOB_PROTOCOL).expect(accept);
    let Listening { addresses, early } = listen(&mut swarm, &listen_addresses).await?;
    let search = Arc::new(Mutex::new(Search {
        listening: addresses.iter().map(ToString::to_string).collect(),
        mdns: options.mdns,
        bootstrap: options.bootstrap.clone(),
        ..Search::default()
    }));
    let name = options.name.clone().unwrap_or_else(|| format!("node-{}", &id.to_string()[..6]));

    let slot = CoreSlot::default();
    let (swarm_handle, commands) = SwarmHandle::new();
    let links = links(&slot, &control, &swarm_handle);
    let received = Arc::new(AtomicU64::new(0));
    let sent = Arc::new(AtomicU64::new(0));
    let client = BlobClient::new(control, Arc::clone(&store), Arc::clone(&received));
    let held = HeldBoard::default();
    let reports = slot.clone();
    let engine = Engine::start(held.clone(), move |input| reports.input(input))
        .map_err(|error| NodeError::io("start a thread in", data_dir.path(), error))?;
    let preparer = Preparer::new(Arc::clone(&store), client, compute, slot.clone());
    let node = Node::new(NodeConfig { id, name: name.clone(), limits: Limits::default() });
    let core = Core::new(
        Parts {
            id,
            name: name.clone(),
            node,
            links: Arc::clone(&links),
            swarm: swarm_handle,
            engine,
            preparer,
            held,
            profile: profile.clone(),
        },
        &slot,
    );
    core.input(Input::Command(Command::Measured(profile)));
    let task = SwarmTask::new(swarm, commands, Arc::clone(&links), bootstrap, Arc::clone(&search));
    let server = BlobServer::new(Arc::clone(&store), Arc::clone(&sent));
    let running = vec![
        spawn(task.run(early)),
        spawn(links.accept(link_streams)),
        spawn(server.accept(blob_streams)),
        spawn(Core::keep_time(Arc::downgrade(&core))),
        spawn(tell_if_alone(slot, Arc::clone(&search))),
    ];
    if listen_addresses.iter().filter_map(address::ip).any(|ip| ip.is_unspecified()) {
        tokio::time::sleep(INTERFACES_PAUSE).await;
    }
    Ok(NodeHandle {
        shared: Arc::new(Shared {
            name,
            options,
            kernels,
            started: Instant::now(),
            core,
            store,
            search,
            blob_bytes_received: received,
            blob_bytes_sent: sent,
            served: Mutex::new(BTreeMap::new()),
            next_request: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
            running: Mutex::new(Some((running, data_dir))),
        }),
    })
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

/// What takes time to open, and no network.
struct Opened {
    data_dir: DataDir,
    key: Keypair,
    store: Arc<ShardStore>,
    compute: Arc<Compute>,
    /// The kernel set's name.
    kernels: String,
    profile: atoll_proto::plan::Profile,
}

fn open(options: &NodeOptions) -> Result<Opened, NodeError> {
    let isa = match options.kernels.as_deref() {
        None => Isa::detect(),
        Some(name) => {
            let unknown = || atoll_model::ModelError::Unsupported {
                what: "kernel set",
                name: name.to_owned(),
            };
            Isa::parse(name).filter(|isa| isa.is_available()).ok_or_else(unknown)?
        }
    };
    let data_dir = DataDir::open(&options.data_dir)?;
    let key = identity::load_or_create(data_dir.path())?;
    let store = Arc::new(ShardStore::open(data_dir.path())?);
    let compute = Arc::new(Compute::new(isa, options.threads)?);
    let profile = profile::measure(&compute, options.memory_bytes)?;
    let kernels = isa.name().to_owned();
    Ok(Opened { data_dir, key, store, compute, kernels, profile })
}

fn links(slot: &CoreSlot, control: &libp2p_stream::Control, swarm: &SwarmHandle) -> Arc<Links> {
    let (inputs, fatal) = (slot.clone(), slot.clone());
    let upward = Upward {
        input: Box::new(move |input| inputs.input(input)),
        fatal: Box::new(move |error| {
            if let Some(core) = fatal.core() {
                core.fail(error);
            }
        }),
    };
    Links::new(Incarnation(random::bytes()), control.clone(), swarm.clone(), upward)
}

async fn tell_if_alone(slot: CoreSlot, search: Arc<Mutex<Search>>) {
    tokio::time::sleep(ALONE_AFTER).await;
    if let Some(core) = slot.core()
        && core.snapshot().peers.is_empty()
    {
        let search = search.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        core.tell(NodeEvent::Alone { search });
    }
}
