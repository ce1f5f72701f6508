//! Carries out `Output::Prepare`: the manifest, the missing blobs, then the weights.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::{Compute, Manifest, ShardBlob, ShardSet, Stage, TensorSource};
use atoll_proto::io::Part;
use atoll_proto::{Input, ModelId, PlanEpoch};
use libp2p::PeerId;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::core::CoreSlot;
use crate::engine::Loaded;
use crate::error::NodeError;
use crate::net::blob_client::{BlobClient, Wanted};
use crate::store::ShardStore;

/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Prepares parts of models, one at a time per model.
pub(crate) struct Preparer {
    context: Context,
    runtime: Handle,
    running: Mutex<BTreeMap<ModelId, AbortOnDropHandle<()>>>,
}

#[derive(Clone)]
struct Context {
    store: Arc<ShardStore>,
    client: BlobClient,
    compute: Arc<Compute>,
    core: CoreSlot,
}

/// What is to be prepared.
#[derive(Clone, Copy)]
struct Order {
    model: ModelId,
    plan_epoch: PlanEpoch,
    part: Part,
    /// What is loaded of the model stays.
    is_beside: bool,
}

impl Preparer {
    pub(crate) fn new(
        store: Arc<ShardStore>,
        client: BlobClient,
        compute: Arc<Compute>,
        core: CoreSlot,
    ) -> Self {
        let context = Context { store, client, compute, core };
        Self { context, runtime: Handle::current(), running: Mutex::default() }
    }

    /// Starts preparing; an older order for the same model is given up.
    pub(crate) fn prepare(
        &self,
        (model, plan_epoch): (ModelId, PlanEpoch),
        part: Part,
        holders: Vec<PeerId>,
        is_beside: bool,
    ) {
        let context = self.context.clone();
        let order = Order { model, plan_epoch, part, is_beside };
        let task = self.runtime.spawn(async move {
            if let Err(error) = context.carry_out(order, &holders).await {
                tracing::warn!(%model, %error, "cannot prepare");
                let result = Err(error.to_string());
                context.core.input(Input::Prepared { model, plan_epoch, result });
            }
        });
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(model, AbortOnDropHandle::new(task));
    }

    /// Gives up preparing a model.
    pub(crate) fn cancel(&self, model: ModelId) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&model);
    }
}

impl Context {
    async fn carry_out(&self, order: Order, holders: &[PeerId]) -> Result<(), NodeError> {
        let Order { model, plan_epoch, part, is_beside } = order;
        let manifest = self.manifest(model, holders).await?;
        let wanted = wanted(&manifest, &part)?;
        let total = wanted.values().sum();
        let done = Arc::new(AtomicU64::new(0));
        let fetch = self.client.fetch(&wanted, holders, &done);
        let report = async {
            loop {
                tokio::time::sleep(PROGRESS_INTERVAL).await;
                self.core.input(Input::PrepareProgress {
                    model,
                    plan_epoch,
                    bytes_done: done.load(Ordering::Relaxed),
                    bytes_total: total,
                });
            }
        };
        tokio::select! {
            fetched = fetch => fetched?,
            () = report => {}
        }
        let (store, compute) = (Arc::clone(&self.store), Arc::clone(&self.compute));
        let loading = move || load(&store, &manifest, part, &compute);
        let loaded = tokio::task::spawn_blocking(loading).await.map_err(|error| {
            NodeError::Fetch { what: "weights".to_owned(), cause: error.to_string() }
        })??;
        if let Some(core) = self.core.core() {
            let then = Input::Prepared { model, plan_epoch, result: Ok(()) };
            core.install(model, loaded, is_beside, then);
        }
        Ok(())
    }

    /// The manifest from the store or, if it is not there, from a holder.
    async fn manifest(&self, model: ModelId, holders: &[PeerId]) -> Result<Manifest, NodeError> {
        if let Some(manifest) = self.store.manifest(model)? {
            return Ok(manifest);
        }
        let bytes = self.client.manifest(model, holders).await?;
        let manifest = Manifest::parse(&bytes)?;
        self.store.put_manifest(&bytes)?;
        Ok(manifest)
    }
}

/// The blobs that a part needs, with their sizes. A tied head's matrix is the embedding's.
fn wanted(manifest: &Manifest, part: &Part) -> Result<Wanted, NodeError> {
    let mut entries = Vec::new();
    if part.embed || (part.head && manifest.config.tied) {
        entries.push(&manifest.embed);
    }
    if let Some(range) = part.layers {
        let layers = usize::from(range.start)..usize::from(range.end);
        let layers = manifest.layers.get(layers).ok_or_else(|| NodeError::Fetch {
            what: format!("layers {range}"),
            cause: format!("the model has {}", manifest.layers.len()),
        })?;
        entries.extend(layers);
    }
    if part.head {
        entries.push(&manifest.head);
    }
    Ok(entries.into_iter().map(|entry| (entry.blob, entry.bytes)).collect())
}

/// Maps the part's blobs, packs their weights, and lets go of the blobs.
fn load(
    store: &ShardStore,
    manifest: &Manifest,
    part: Part,
    compute: &Arc<Compute>,
) -> Result<Loaded, NodeError> {
    let blobs = wanted(manifest, &part)?;
    let blobs = blobs.keys().map(|hash| ShardBlob::open(&store.blob_path(*hash)));
    let blobs = blobs.collect::<Result<Vec<_>, _>>()?;
    let source = TensorSource::Shards(ShardSet::new(manifest.config.clone(), blobs)?);
    let layers = part.layers.map_or(0..0, |range| range.start.into()..range.end.into());
    let model_part = atoll_model::Part { embed: part.embed, layers, head: part.head };
    let stage = Stage::load(&source, &model_part, compute, &mut |_| {})?;
    Ok(Loaded { part, stage })
}
