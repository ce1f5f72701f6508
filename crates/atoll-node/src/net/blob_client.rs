//! Fetches blobs and manifests from the peers that hold them: several at once, verified before
//! they get their name, going on where a former run stopped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::BlobHash;
use atoll_proto::ModelId;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{PeerId, Stream};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::blob_wire::{
    BLOB_PROTOCOL, HEADER_BYTES, Header, Kind, MANIFEST_BYTES_MAX, Request, Status,
};
use crate::error::NodeError;
use crate::store::ShardStore;

/// Blobs fetched at once.
const PARALLEL: usize = 4;
/// Rounds over all holders before a blob counts as not to be had.
const ROUNDS: u32 = 4;
/// Pause before the second round; doubles with each.
const ROUND_PAUSE: Duration = Duration::from_millis(250);
/// A holder that sends nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes gathered before they are hashed and written.
const CHUNK_BYTES: usize = 1 << 20;

/// One fetch at a time uses the store's unfinished blobs; a copy of the guard goes along with
/// every write, so that a fetch that is given up has ended before the next begins.
type FetchGuard = Arc<OwnedMutexGuard<()>>;

/// Fetches from peers.
#[derive(Clone)]
pub(crate) struct BlobClient {
    control: libp2p_stream::Control,
    store: Arc<ShardStore>,
    bytes_received: Arc<AtomicU64>,
    fetching: Arc<tokio::sync::Mutex<()>>,
}

/// Blobs that are wanted, with their sizes.
pub(crate) type Wanted = BTreeMap<BlobHash, u64>;

impl BlobClient {
    pub(crate) fn new(
        control: libp2p_stream::Control,
        store: Arc<ShardStore>,
        bytes_received: Arc<AtomicU64>,
    ) -> Self {
        Self { control, store, bytes_received, fetching: Arc::default() }
    }

    /// Fetches a manifest's bytes from the first holder that gives the right ones.
    pub(crate) async fn manifest(
        &self,
        model: ModelId,
        holders: &[PeerId],
    ) -> Result<Vec<u8>, NodeError> {
        let mut cause = "no peer holds it".to_owned();
        for round in 0..ROUNDS {
            for holder in holders {
                match self.manifest_from(model, *holder).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) => cause = format!("{holder}: {error}"),
                }
            }
            sleep(ROUND_PAUSE * 2_u32.pow(round)).await;
        }
        Err(NodeError::Fetch { what: format!("manifest of model {model}"), cause })
    }

    async fn manifest_from(&self, model: ModelId, holder: PeerId) -> Result<Vec<u8>, String> {
        let mut stream = self.open(holder).await?;
        let request = Request { kind: Kind::Manifest, hash: model.0, offset: 0 };
        let total = ask(&mut stream, request).await?;
        if total > MANIFEST_BYTES_MAX {
            return Err(format!("its manifest has {total} bytes"));
        }
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        while (bytes.len() as u64) < total {
            let n = read_some(&mut stream, &mut chunk, total - bytes.len() as u64).await?;
            bytes.extend_from_slice(&chunk[..n]);
        }
        self.bytes_received.fetch_add(total, Ordering::Relaxed);
        if *blake3::hash(&bytes).as_bytes() != model.0 {
            return Err("its manifest has another hash".to_owned());
        }
        Ok(bytes)
    }

    /// Fetches those of the wanted blobs that are missing. `done` counts bytes that are here.
    pub(crate) async fn fetch(
        &self,
        wanted: &Wanted,
        holders: &[PeerId],
        done: &Arc<AtomicU64>,
    ) -> Result<(), NodeError> {
        let guard: FetchGuard = Arc::new(Arc::clone(&self.fetching).lock_owned().await);
        let here = wanted.iter().map(|(hash, total)| self.store.len_so_far(*hash).min(*total));
        done.store(here.sum(), Ordering::Relaxed);
        let missing: Vec<(BlobHash, u64)> = wanted
            .iter()
            .filter(|(hash, total)| self.store.blob_len(**hash) != Some(**total))
            .map(|(hash, total)| (*hash, *total))
            .collect();
        let queue = Arc::new(Mutex::new(missing));
        let mut workers: JoinSet<Result<(), NodeError>> = JoinSet::new();
        for index in 0..PARALLEL {
            let mut worker = Worker {
                client: self.clone(),
                // Each begins with another holder, so that all of them share the work.
                holders: rotated(holders, index),
                done: Arc::clone(done),
                guard: Arc::clone(&guard),
                stream: None,
            };
            let queue = Arc::clone(&queue);
            workers.spawn(async move {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some((hash, total)) = next else { return Ok(()) };
                    worker.fetch(hash, total).await?;
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|error| NodeError::Fetch {
                what: "blobs".to_owned(),
                cause: error.to_string(),
            })??;
        }
        Ok(())
    }

    async fn open(&self, holder: PeerId) -> Result<Stream, String> {
        let mut control = self.control.clone();
        timeout(PATIENCE, control.open_stream(holder, BLOB_PROTOCOL))
            .await
            .map_err(|_| "no stream in time".to_owned())?
            .map_err(|error| error.to_string())
    }
}

fn rotated(holders: &[PeerId], by: usize) -> Vec<PeerId> {
    let mut holders = holders.to_vec();
    if !holders.is_empty() {
        let by = by % holders.len();
        holders.rotate_left(by);
    }
    holders
}

/// Fetches one blob after the other.
struct Worker {
    client: BlobClient,
    holders: Vec<PeerId>,
    done: Arc<AtomicU64>,
    guard: FetchGuard,
    /// Kept open from blob to blob.
    stream: Option<(PeerId, Stream)>,
}

/// Why a holder did not give a blob.
enum Failure {
    /// Try another one.
    Holder(String),
    /// The fault is here.
    Local(NodeError),
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self::Local(error)
    }
}

impl Worker {
    async fn fetch(&mut self, hash: BlobHash, total: u64) -> Result<(), NodeError> {
        let mut cause = "no peer holds it".to_owned();
        for round in 0..ROUNDS {
            for holder in self.holders.clone() {
                match self.fetch_from(holder, hash, total).await {
                    Ok(()) => return Ok(()),
                    Err(Failure::Local(error)) => return Err(error),
                    Err(Failure::Holder(why)) => {
                        tracing::debug!(%holder, %hash, why, "blob not got");
                        self.stream = None;
                        cause = format!("{holder}: {why}");
                    }
                }
            }
            sleep(ROUND_PAUSE * 2_u32.pow(round)).await;
        }
        Err(NodeError::Fetch { what: format!("blob {hash}"), cause })
    }

    async fn fetch_from(
        &mut self,
        holder: PeerId,
        hash: BlobHash,
        total: u64,
    ) -> Result<(), Failure> {
        let mut stream = match self.stream.take() {
            Some((peer, stream)) if peer == holder => stream,
            _ => self.client.open(holder).await.map_err(Failure::Holder)?,
        };
        let store = Arc::clone(&self.client.store);
        let mut partial = blocking(&self.guard, move || store.resume(hash, total)).await?;
        let request = Request { kind: Kind::Blob, hash: hash.0, offset: partial.len() };
        let announced = ask(&mut stream, request).await.map_err(Failure::Holder)?;
        if announced != total {
            return Err(Failure::Holder(format!("its blob has {announced} bytes, not {total}")));
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        while partial.missing() > 0 {
            let mut filled = 0;
            let mut broke = None;
            while filled < chunk.len() && (filled as u64) < partial.missing() {
                let left = partial.missing() - filled as u64;
                match read_some(&mut stream, &mut chunk[filled..], left).await {
                    Ok(n) => filled += n,
                    Err(why) => {
                        broke = Some(why);
                        break;
                    }
                }
            }
            let n = filled as u64;
            self.client.bytes_received.fetch_add(n, Ordering::Relaxed);
            (partial, chunk) = blocking(&self.guard, move || {
                partial.append(&chunk[..filled])?;
                Ok((partial, chunk))
            })
            .await?;
            self.done.fetch_add(n, Ordering::Relaxed);
            if let Some(why) = broke {
                return Err(Failure::Holder(why));
            }
        }
        match blocking(&self.guard, move || partial.finish()).await {
            Ok(()) => {
                self.stream = Some((holder, stream));
                Ok(())
            }
            Err(NodeError::CorruptBlob(_)) => {
                self.done.fetch_sub(total, Ordering::Relaxed);
                tracing::warn!(%holder, %hash, "peer sent bytes with another hash");
                Err(Failure::Holder("its bytes have another hash".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs disk work outside the event loop; it keeps a copy of the guard until it has ended.
async fn blocking<T: Send + 'static>(
    guard: &FetchGuard,
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    let guard = Arc::clone(guard);
    tokio::task::spawn_blocking(move || {
        let result = work();
        drop(guard);
        result
    })
    .await
    .map_err(|error| NodeError::Fetch { what: "blob".to_owned(), cause: error.to_string() })?
}

/// Sends a request; returns the whole's size.
async fn ask(stream: &mut Stream, request: Request) -> Result<u64, String> {
    let exchange = async {
        stream.write_all(&request.encode()).await?;
        stream.flush().await?;
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).await?;
        Header::decode(&header)
    };
    let header = timeout(PATIENCE, exchange)
        .await
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|error| error.to_string())?;
    match header.status {
        Status::Found => Ok(header.total),
        Status::NotFound => Err("it does not hold it".to_owned()),
        Status::Busy => Err("it is busy".to_owned()),
    }
}

async fn read_some(stream: &mut Stream, buffer: &mut [u8], left: u64) -> Result<usize, String> {
    let len = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    match timeout(PATIENCE, stream.read(&mut buffer[..len])).await {
        Ok(Ok(0)) => Err("it closed the stream".to_owned()),
        Ok(Ok(n)) => Ok(n),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("nothing came for {} s", PATIENCE.as_secs())),
    }
}
