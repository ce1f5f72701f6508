//! A peer's side of a link: answers its hello, then hands its messages to the core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atoll_proto::{Input, codec};
use futures::StreamExt as _;
use libp2p::{PeerId, Stream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tokio_util::task::AbortOnDropHandle;

use super::{FRAME_BYTES_MAX, Inbound, Links};
use crate::identity;
use crate::net::hello::{self, Answer, HELLO_TIMEOUT, Incarnation, WIRE_VERSION};

/// Hellos being heard at once; more are dropped, and their openers try again.
const HELLOS_MAX: usize = 64;
/// A live peer says something every second: one that says nothing for so long is not there.
const PROOF_OF_LIFE: Duration = Duration::from_millis(3_500);

enum Admission {
    Welcome,
    IdentityInUse,
    /// The old link is dead: start over.
    Reset(String),
}

impl Links {
    /// Takes in links until the swarm ends. Does nothing but spawn: the library holds one
    /// inbound stream for us and drops the rest.
    pub(crate) async fn accept(self: Arc<Self>, mut streams: libp2p_stream::IncomingStreams) {
        let permits = Arc::new(Semaphore::new(HELLOS_MAX));
        while let Some((peer, stream)) = streams.next().await {
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                tracing::debug!(%peer, "too many hellos at once, stream dropped");
                continue;
            };
            let links = Arc::clone(&self);
            tokio::spawn(async move {
                if let Err(cause) = links.admit(peer, stream).await {
                    tracing::warn!(%peer, cause, "link refused");
                    links.disconnect(peer, cause);
                }
                drop(permit);
            });
        }
    }

    async fn admit(self: &Arc<Self>, peer: PeerId, mut stream: Stream) -> Result<(), String> {
        let (version, from) = match timeout(HELLO_TIMEOUT, hello::hear(&mut stream)).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(error)) => return Err(format!("bad hello: {error}")),
            Err(_) => return Err(format!("no hello within {} s", HELLO_TIMEOUT.as_secs())),
        };
        let answer = |stream, answer| async move {
            let mut stream: Stream = stream;
            let told = timeout(HELLO_TIMEOUT, hello::answer(&mut stream, answer)).await;
            told.map(|result| result.map(|()| stream))
        };
        if version != WIRE_VERSION {
            // The refusal is what counts, not whether it could still be told.
            let _ = answer(stream, Answer::WrongVersion).await;
            return Err(format!("it speaks wire version {version}, not {WIRE_VERSION}"));
        }
        self.wait_until_announced(peer).await?;
        match self.judge(peer, from).await {
            Admission::Welcome => {}
            Admission::Reset(cause) => return Err(cause),
            Admission::IdentityInUse => {
                tracing::warn!(%peer, "two live nodes have this identity, the later is refused");
                let _ = answer(stream, Answer::IdentityInUse).await;
                return Ok(());
            }
        }
        match answer(stream, Answer::Welcome).await {
            Ok(Ok(stream)) => self.enter(peer, from, stream),
            // The opener will try again, or its connection is gone.
            Ok(Err(error)) => tracing::debug!(%peer, %error, "hello not answered"),
            Err(_) => tracing::debug!(%peer, "hello not answered in time"),
        }
        Ok(())
    }

    /// A stream can be here before the swarm's task has told of its connection.
    async fn wait_until_announced(&self, peer: PeerId) -> Result<(), String> {
        let announced = async {
            loop {
                let notified = self.announced.notified();
                if self.lock().get(&peer).is_some_and(|link| link.announced) {
                    return;
                }
                // Woken by every connection; the pause covers one between the check and the wait.
                let _ = timeout(Duration::from_millis(100), notified).await;
            }
        };
        timeout(HELLO_TIMEOUT, announced).await.map_err(|_| "its connection is gone".to_owned())
    }

    async fn judge(&self, peer: PeerId, from: Incarnation) -> Admission {
        let seen = || {
            let peers = self.lock();
            let inbound = peers.get(&peer)?.inbound.as_ref()?;
            Some((inbound.from, inbound.messages.load(Ordering::Relaxed)))
        };
        let Some((known, messages)) = seen() else { return Admission::Welcome };
        if known == from {
            if messages == 0 {
                return Admission::Welcome;
            }
            return Admission::Reset("it opened its link a second time".to_owned());
        }
        let deadline = Instant::now() + PROOF_OF_LIFE;
        while Instant::now() < deadline {
            sleep(Duration::from_millis(50)).await;
            match seen() {
                None => return Admission::Reset("it was restarted".to_owned()),
                Some((known, now)) if known != from && now > messages => {
                    return Admission::IdentityInUse;
                }
                Some(_) => {}
            }
        }
        Admission::Reset("it was restarted".to_owned())
    }

    fn enter(self: &Arc<Self>, peer: PeerId, from: Incarnation, stream: Stream) {
        let messages = Arc::new(AtomicU64::new(0));
        let (go, start) = oneshot::channel();
        let reader = tokio::spawn({
            let (links, messages) = (Arc::clone(self), Arc::clone(&messages));
            async move {
                // Ends at once if the link was dropped before it was entered.
                if start.await.is_ok() {
                    let cause = links.read(peer, stream, &messages).await;
                    links.disconnect(peer, cause);
                }
            }
        });
        let inbound = Inbound { from, messages, _reader: AbortOnDropHandle::new(reader) };
        if let Some(link) = self.lock().get_mut(&peer) {
            link.inbound = Some(inbound);
            // The receiver lives in the task just made.
            let _ = go.send(());
        }
    }

    /// Reads until the link breaks; returns why.
    async fn read(&self, peer: PeerId, stream: Stream, messages: &AtomicU64) -> String {
        let Some(from) = identity::node_id(&peer) else { return "no member".to_owned() };
        let Some(counters) = self.lock().get(&peer).map(|link| Arc::clone(&link.counters)) else {
            return "gone".to_owned();
        };
        let framing = LengthDelimitedCodec::builder()
            .little_endian()
            .max_frame_length(FRAME_BYTES_MAX)
            .new_codec();
        let mut frames = FramedRead::new(stream.compat(), framing);
        while let Some(frame) = frames.next().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return format!("link broke: {error}"),
            };
            let message = match codec::decode(&frame, &self.decode_limits) {
                Ok(message) => message,
                Err(error) => return format!("it sent a malformed message: {error}"),
            };
            counters.bytes_received.fetch_add(frame.len() as u64 + 4, Ordering::Relaxed);
            messages.fetch_add(1, Ordering::Relaxed);
            (self.upward.input)(Input::Received { from, message });
        }
        "it closed its link".to_owned()
    }
}
