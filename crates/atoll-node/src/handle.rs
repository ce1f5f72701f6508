//! The door of a node, at the level of text: what gateway and command line use.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_proto::io::Request;
use atoll_proto::plan::{Plan, PlanPolicy};
use atoll_proto::{Command, Input, ModelId, RequestId, SessionId};
use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;

use crate::core::Core;
use crate::data_dir::DataDir;
use crate::error::NodeError;
use crate::events::{NodeEvent, StageView, stages_of};
use crate::generate::{self, Begin, GenerateRequest, GenerateStream};
use crate::net::swarm::Search;
use crate::options::NodeOptions;
use crate::random;
use crate::served::Served;
use crate::store::ShardStore;

mod lighter;
mod view;

/// Prompt tokens per prefill step when nobody says: large enough that weights are read rarely,
/// small enough that several stages work at once.
const PREFILL_CHUNK: u32 = 128;
/// How long a request may take when nobody says.
const DEADLINE: Duration = Duration::from_secs(3600);
/// A goodbye that has not left by then does not leave.
const GOODBYE_MAX: Duration = Duration::from_millis(400);

/// How a model is to be placed.
#[derive(Clone, Debug, PartialEq)]
pub struct ServePolicy {
    /// Exactly so many stages on so many nodes. Default: as many as are fastest.
    pub stages: Option<u16>,
    /// Positions per session to leave room for. Default: 8192, or what the model was made for.
    pub context: u32,
    /// Sessions at once to leave room for. Default: 16.
    pub sessions: u16,
    /// Nodes that hold each stage's layers beside its own, so that they can take it over at once,
    /// where nodes and memory allow: 0 or 1. Default: 1.
    pub spares: u16,
    /// How long to wait for enough nodes. Default: a minute.
    pub wait: Duration,
    /// How far from the model that its file was made of the model may be, nats, where the nodes
    /// have no room for it whole and it has narrower widths. Default: 0, whole or not at all.
    pub loss_max: f64,
}

impl Default for ServePolicy {
    fn default() -> Self {
        let wait = Duration::from_secs(60);
        Self { stages: None, context: 8192, sessions: 16, spares: 1, wait, loss_max: 0.0 }
    }
}

/// A model that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct ServedModel {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Positions per session.
    pub context: u32,
    /// Who holds what.
    pub stages: Vec<StageView>,
    /// Of each layer the share of its neurons that it runs with; none if all run whole.
    pub widths: Vec<f64>,
    /// How far it is from the model that its file was made of, as far as that was measured, nats.
    pub loss_nats: f64,
}

/// Reaches a running node. Clones reach the same one, which ends with [`NodeHandle::shutdown`] or
/// with the last of them.
#[derive(Clone)]
pub struct NodeHandle {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeHandle").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) options: NodeOptions,
    pub(crate) kernels: String,
    pub(crate) started: Instant,
    pub(crate) core: Arc<Core>,
    pub(crate) store: Arc<ShardStore>,
    pub(crate) search: Arc<Mutex<Search>>,
    pub(crate) blob_bytes_received: Arc<AtomicU64>,
    pub(crate) blob_bytes_sent: Arc<AtomicU64>,
    pub(crate) served: Mutex<BTreeMap<ModelId, Arc<Served>>>,
    pub(crate) next_request: AtomicU64,
    pub(crate) stopped: AtomicBool,
    /// What runs for the node; the data directory's lock goes with them.
    pub(crate) running: Mutex<Option<(Vec<AbortOnDropHandle<()>>, DataDir)>>,
}

impl NodeHandle {
    /// The name that peers see.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where this node can be reached, ready to be given to others: `…/p2p/ID`.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let search = self.shared.search.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.id();
        search.listening.iter().map(|address| format!("{address}/p2p/{id}")).collect()
    }

    /// The store of blobs and manifests.
    #[must_use]
    pub fn store(&self) -> &Arc<ShardStore> {
        &self.shared.store
    }

    /// News: for the first caller from the node's start on (at most the latest thousand), for
    /// others from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<NodeEvent> {
        self.shared.core.subscribe()
    }

    /// Completes with the reason when the node cannot go on (another live node with its identity).
    pub async fn failure(&self) -> Arc<NodeError> {
        let mut fatal = self.shared.core.fatal();
        let failed = fatal.wait_for(Option::is_some).await;
        let reason = failed.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| Arc::new(NodeError::Stopped))
    }

    fn check_running(&self) -> Result<(), NodeError> {
        if self.shared.stopped.load(Ordering::Relaxed) {
            return Err(NodeError::Stopped);
        }
        let fatal = self.shared.core.fatal();
        let seen = match fatal.borrow().as_deref() {
            Some(NodeError::IdentityInUse { seen }) => Some(seen.clone()),
            _ => None,
        };
        seen.map_or(Ok(()), |seen| Err(NodeError::IdentityInUse { seen }))
    }

    /// Imports a model file into the store if it is not there, and serves it under `name`.
    ///
    /// # Errors
    /// What [`ShardStore::import`] and [`NodeHandle::serve_stored`] say.
    pub async fn serve(
        &self,
        name: &str,
        path: &Path,
        policy: ServePolicy,
    ) -> Result<ServedModel, NodeError> {
        self.check_running()?;
        let shared = Arc::clone(&self.shared);
        let (name, path) = (name.to_owned(), path.to_owned());
        let imported = tokio::task::spawn_blocking(move || {
            let mut progress = |bytes_done, bytes_total| {
                let model = name.clone();
                shared.core.tell(NodeEvent::Import { model, bytes_done, bytes_total });
            };
            let id = shared.store.import(&name, &path, &mut progress)?;
            Served::load(&shared.store, id, name)
        });
        let served = imported.await.map_err(|_| NodeError::Stopped)??;
        self.plan(Arc::new(served), policy).await
    }

    /// Serves a model of the store by name or id: plans it over the members and returns when it
    /// can be used.
    ///
    /// # Errors
    /// [`NodeError::UnknownModel`], [`NodeError::MissingBlob`] or [`NodeError::CorruptBlob`] if the
    /// store does not hold it; [`NodeError::Plan`] if it cannot be placed, [`NodeError::Lighter`]
    /// if it could be with a larger loss.
    pub async fn serve_stored(
        &self,
        name: &str,
        policy: ServePolicy,
    ) -> Result<ServedModel, NodeError> {
        self.check_running()?;
        let shared = Arc::clone(&self.shared);
        let name = name.to_owned();
        let loaded = tokio::task::spawn_blocking(move || {
            let id = shared.store.resolve(&name)?;
            Served::load(&shared.store, id, name)
        });
        let served = loaded.await.map_err(|_| NodeError::Stopped)??;
        self.plan(Arc::new(served), policy).await
    }

    /// Has the core place a model; returns when it can be used.
    async fn placed(
        &self,
        served: &Arc<Served>,
        policy: PlanPolicy,
    ) -> Result<ServedModel, NodeError> {
        let model = served.info();
        let mut plans = self.shared.core.listen_to_plans();
        let id = model.id;
        lock(&self.shared.served).insert(id, Arc::clone(served));
        self.shared.core.input(Input::Command(Command::Serve { model, policy }));
        loop {
            match plans.recv().await {
                Ok((model, Ok(plan))) if model == id => return Ok(self.served(served, &plan)),
                Ok((model, Err(error))) if model == id => {
                    lock(&self.shared.served).remove(&id);
                    return Err(error.into());
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(NodeError::Stopped),
            }
        }
    }

    fn served(&self, served: &Served, plan: &Plan) -> ServedModel {
        ServedModel {
            name: served.name.clone(),
            id: served.id.to_string(),
            context: plan.context,
            stages: stages_of(plan, &self.shared.core.names()),
            widths: served.widths.clone(),
            loss_nats: served.loss_nats(),
        }
    }

    /// Stops serving a model; its requests end with an error.
    ///
    /// # Errors
    /// [`NodeError::UnknownModel`].
    pub fn unserve(&self, model: &str) -> Result<(), NodeError> {
        let served = self.find(model)?;
        lock(&self.shared.served).remove(&served.id);
        self.shared.core.input(Input::Command(Command::Unserve { model: served.id }));
        Ok(())
    }

    /// A served model by name or id.
    fn find(&self, model: &str) -> Result<Arc<Served>, NodeError> {
        let served = lock(&self.shared.served);
        served
            .values()
            .find(|served| served.name == model || served.id.to_string() == model)
            .cloned()
            .ok_or_else(|| NodeError::UnknownModel(model.to_owned()))
    }

    /// Begins to generate. Dropping the stream cancels the request at every stage.
    ///
    /// # Errors
    /// What is known before anything is sent: an unknown model, an empty prompt, one that does
    /// not fit, sampling settings without meaning.
    pub async fn generate(&self, request: GenerateRequest) -> Result<GenerateStream, NodeError> {
        self.check_running()?;
        let served = self.find(&request.model)?;
        request.sampler.validate()?;
        let sampling = serde_json::to_vec(&request.sampler).expect("plain settings are JSON");
        // Long texts take milliseconds: not on the event loop.
        let tokenizing = Arc::clone(&served);
        let prompt = request.prompt;
        let tokens = tokio::task::spawn_blocking(move || tokenizing.tokens(prompt));
        let tokens = tokens.await.map_err(|_| NodeError::Stopped)??;
        let plan = self.shared.core.plans().remove(&served.id);
        let context = plan.as_ref().map_or(u32::MAX, |plan| plan.context);
        generate::check(&tokens, context)?;
        let stages = plan.map_or_else(Vec::new, |plan| stages_of(&plan, &self.shared.core.names()));
        let id = RequestId(self.shared.next_request.fetch_add(1, Ordering::Relaxed));
        let incoming = self.shared.core.listen_to(id);
        let deadline = request.deadline.unwrap_or(DEADLINE);
        let begin = Begin {
            core: Arc::clone(&self.shared.core),
            request: id,
            incoming,
            stop: request.stop,
            prompt_tokens: tokens.clone(),
            stages,
            served: Arc::clone(&served),
        };
        let stream = GenerateStream::new(begin);
        self.shared.core.input(Input::Command(Command::Generate(Request {
            id,
            model: served.id,
            session: SessionId(u128::from_le_bytes(random::bytes())),
            prompt: tokens,
            max_tokens: request.max_tokens.unwrap_or(u32::MAX),
            stop_tokens: served.tokenizer.ends(),
            prefill_chunk: request.prefill_chunk.unwrap_or(PREFILL_CHUNK).max(1),
            sampling,
            deadline_us: u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX),
        })));
        Ok(stream)
    }

    /// Says goodbye to all peers and ends the node, within a second. Streams of its requests end
    /// with an error; later calls answer [`NodeError::Stopped`].
    pub async fn shutdown(&self) {
        if self.shared.stopped.swap(true, Ordering::Relaxed) {
            return;
        }
        self.shared.core.input(Input::Command(Command::Leave));
        let flushed = async {
            while !self.shared.core.links.is_flushed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // Whoever does not take the goodbye in time will notice the closed connection.
        let _ = tokio::time::timeout(GOODBYE_MAX, flushed).await;
        let running = lock(&self.shared.running).take();
        drop(running);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
