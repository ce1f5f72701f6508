//! Our side of a link: opens the stream, then writes what is queued.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::AsyncWriteExt as _;
use libp2p::{PeerId, Stream};
use libp2p_stream::OpenStreamError;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::{LINK_PROTOCOL, LinkCounters, Links};
use crate::error::NodeError;
use crate::net::hello::{self, Answer, HELLO_TIMEOUT, Incarnation, WIRE_VERSION};

/// Tries to open a link before the peer counts as unreachable.
const OPEN_ATTEMPTS: u32 = 6;
/// Pause after the first failed try; doubles with each.
const OPEN_PAUSE: Duration = Duration::from_millis(20);
/// Small messages that wait together are written together, up to about so many bytes.
const BATCH_BYTES: usize = 64 << 10;

pub(super) struct Writer {
    pub(super) peer: PeerId,
    pub(super) links: Weak<Links>,
    pub(super) control: libp2p_stream::Control,
    pub(super) me: Incarnation,
    pub(super) queue: mpsc::Receiver<Vec<u8>>,
    pub(super) queued_bytes: Arc<AtomicUsize>,
    pub(super) counters: Arc<LinkCounters>,
}

/// Why a link did not come to stand.
enum Refusal {
    Cause(String),
    IdentityInUse,
}

impl Writer {
    pub(super) async fn run(mut self) {
        let cause = match self.open().await {
            Ok(stream) => match self.write(stream).await {
                Ok(()) => return,
                Err(error) => format!("link broke: {error}"),
            },
            Err(Refusal::Cause(cause)) => cause,
            Err(Refusal::IdentityInUse) => {
                if let Some(links) = self.links.upgrade() {
                    let seen = format!("peer {} is connected to both", self.peer);
                    (links.upward.fatal)(NodeError::IdentityInUse { seen });
                }
                return;
            }
        };
        if let Some(links) = self.links.upgrade() {
            links.disconnect(self.peer, cause);
        }
    }

    async fn open(&mut self) -> Result<Stream, Refusal> {
        let mut cause = String::new();
        for attempt in 0..OPEN_ATTEMPTS {
            match timeout(HELLO_TIMEOUT, self.open_once()).await {
                Ok(Ok((stream, Answer::Welcome))) => return Ok(stream),
                Ok(Ok((_, Answer::WrongVersion))) => {
                    let cause = format!("it does not speak wire version {WIRE_VERSION}");
                    return Err(Refusal::Cause(cause));
                }
                Ok(Ok((_, Answer::IdentityInUse))) => return Err(Refusal::IdentityInUse),
                Ok(Err(OpenStreamError::UnsupportedProtocol(protocol))) => {
                    return Err(Refusal::Cause(format!("it does not speak {protocol}")));
                }
                Ok(Err(error)) => cause = format!("cannot open a link: {error}"),
                Err(_) => cause = format!("no answer to hello in {} s", HELLO_TIMEOUT.as_secs()),
            }
            tracing::debug!(peer = %self.peer, attempt, cause, "link not open yet");
            sleep(OPEN_PAUSE * 2_u32.pow(attempt)).await;
        }
        Err(Refusal::Cause(cause))
    }

    async fn open_once(&mut self) -> Result<(Stream, Answer), OpenStreamError> {
        let mut stream = self.control.open_stream(self.peer, LINK_PROTOCOL).await?;
        let answer = hello::greet(&mut stream, self.me).await?;
        Ok((stream, answer))
    }

    /// Writes frames (`u32` length, little-endian, then the message) until the link is dropped.
    async fn write(&mut self, mut stream: Stream) -> std::io::Result<()> {
        let mut batch = Vec::new();
        while let Some(first) = self.queue.recv().await {
            let mut next = Some(first);
            let mut payload_bytes = 0;
            while let Some(message) = next {
                let len = u32::try_from(message.len()).expect("the core's frames are limited");
                batch.extend_from_slice(&len.to_le_bytes());
                batch.extend_from_slice(&message);
                payload_bytes += message.len();
                next = if batch.len() < BATCH_BYTES { self.queue.try_recv().ok() } else { None };
            }
            stream.write_all(&batch).await?;
            stream.flush().await?;
            self.counters.bytes_sent.fetch_add(batch.len() as u64, Ordering::Relaxed);
            self.queued_bytes.fetch_sub(payload_bytes, Ordering::Relaxed);
            batch.clear();
            batch.shrink_to(BATCH_BYTES * 2);
        }
        Ok(())
    }
}
