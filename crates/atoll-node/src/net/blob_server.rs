//! Gives blobs and manifests to peers that ask.

use std::collections::BTreeMap;
use std::io::SeekFrom;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::BlobHash;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, Stream};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::time::timeout;

use super::blob_wire::{Header, Kind, REQUEST_BYTES, Request, Status};
use crate::store::ShardStore;

/// Blob streams served at once, to all peers.
const STREAMS_MAX: usize = 32;
/// Blob streams served at once to one peer.
const STREAMS_PER_PEER_MAX: usize = 8;
/// A stream that asks for nothing, or takes nothing, is closed after so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes read from disk and written to the stream in one go.
const CHUNK_BYTES: usize = 256 << 10;

/// Serves the store's contents.
#[derive(Clone)]
pub(crate) struct BlobServer {
    store: Arc<ShardStore>,
    streams: Arc<Mutex<BTreeMap<PeerId, usize>>>,
    bytes_sent: Arc<AtomicU64>,
}

impl BlobServer {
    pub(crate) fn new(store: Arc<ShardStore>, bytes_sent: Arc<AtomicU64>) -> Self {
        Self { store, streams: Arc::default(), bytes_sent }
    }

    /// Serves inbound streams until the swarm ends.
    pub(crate) async fn accept(self, mut streams: libp2p_stream::IncomingStreams) {
        while let Some((peer, stream)) = streams.next().await {
            let server = self.clone();
            tokio::spawn(async move {
                let admitted = server.enter(peer);
                if let Err(error) = server.serve(stream, admitted).await {
                    tracing::debug!(%peer, %error, "blob stream ended");
                }
                if admitted {
                    server.leave(peer);
                }
            });
        }
    }

    fn enter(&self, peer: PeerId) -> bool {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = streams.values().sum();
        let own = streams.get(&peer).copied().unwrap_or(0);
        let admitted = total < STREAMS_MAX && own < STREAMS_PER_PEER_MAX;
        if admitted {
            streams.insert(peer, own + 1);
        }
        admitted
    }

    fn leave(&self, peer: PeerId) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = streams.get_mut(&peer) {
            *own -= 1;
            if *own == 0 {
                streams.remove(&peer);
            }
        }
    }

    async fn serve(&self, mut stream: Stream, admitted: bool) -> std::io::Result<()> {
        loop {
            let mut bytes = [0; REQUEST_BYTES];
            timeout(PATIENCE, stream.read_exact(&mut bytes)).await??;
            let request = Request::decode(&bytes)?;
            if !admitted {
                let header = Header { status: Status::Busy, total: 0 };
                timeout(PATIENCE, stream.write_all(&header.encode())).await??;
                return stream.close().await;
            }
            self.answer(&mut stream, request).await?;
        }
    }

    async fn answer(&self, stream: &mut Stream, request: Request) -> std::io::Result<()> {
        let path = match request.kind {
            Kind::Blob => self.store.blob_path(BlobHash(request.hash)),
            Kind::Manifest => self.store.manifest_path(atoll_proto::ModelId(request.hash)),
        };
        let found = match tokio::fs::File::open(&path).await {
            Ok(file) => Some((file.metadata().await?.len(), file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some((total, mut file)) = found else {
            let header = Header { status: Status::NotFound, total: 0 };
            timeout(PATIENCE, stream.write_all(&header.encode())).await??;
            return stream.flush().await;
        };
        let header = Header { status: Status::Found, total };
        timeout(PATIENCE, stream.write_all(&header.encode())).await??;
        let mut left = total.saturating_sub(request.offset);
        file.seek(SeekFrom::Start(request.offset)).await?;
        file.set_max_buf_size(CHUNK_BYTES);
        let mut chunk = vec![0; CHUNK_BYTES];
        while left > 0 {
            let n = file.read(&mut chunk).await?;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            timeout(PATIENCE, stream.write_all(&chunk[..n])).await??;
            self.bytes_sent.fetch_add(n as u64, Ordering::Relaxed);
            left = left.saturating_sub(n as u64);
        }
        stream.flush().await
    }
}
