//! One ordered stream of messages to each connected peer, and one from it.
//!
//! A link is lossless while it stands: if either stream breaks, every connection to the peer is
//! closed and the core hears `Disconnected`. So the core never has to ask what got lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_proto::codec;
use atoll_proto::limits::Limits;
use atoll_proto::{Input, Message, NodeId};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::error::NodeError;
use crate::identity;
use crate::net::address;
use crate::net::hello::Incarnation;
use crate::net::swarm::{SwarmCommand, SwarmHandle};

mod inbound;
mod outbound;

/// The protocol of links.
pub(crate) const LINK_PROTOCOL: StreamProtocol = StreamProtocol::new("/atoll/link/1");

/// Longest frame: 512 positions of 8192 values of 4 bytes, and as much again for the rest.
pub(crate) const FRAME_BYTES_MAX: usize = 32 << 20;
/// Bytes waiting for one peer before it counts as stuck.
const QUEUE_BYTES_MAX: usize = 256 << 20;
/// Messages waiting for one peer before it counts as stuck.
const QUEUE_MESSAGES_MAX: usize = 4096;
/// A connected peer that has not opened its link by then is no member. Longer than the core waits
/// for a hello, so that one of the two says why it hangs up.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Where news from the network go.
pub(crate) struct Upward {
    /// To the core.
    pub(crate) input: Box<dyn Fn(Input) + Send + Sync>,
    /// The node cannot go on.
    pub(crate) fatal: Box<dyn Fn(NodeError) + Send + Sync>,
}

impl std::fmt::Debug for Upward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upward")
    }
}

/// What passed over all links since the start.
#[derive(Debug, Default)]
pub(crate) struct LinkCounters {
    pub(crate) bytes_received: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
}

/// What is known of a connected peer's link, for status.
#[derive(Clone, Debug)]
pub(crate) struct LinkInfo {
    pub(crate) address: Multiaddr,
    pub(crate) found_by: &'static str,
    pub(crate) rtt_us: Option<u64>,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

impl LinkInfo {
    /// `tcp` or `quic`.
    pub(crate) fn transport(&self) -> &'static str {
        if address::is_tcp(&self.address) { "tcp" } else { "quic" }
    }
}

/// All links of this node.
pub(crate) struct Links {
    me: Incarnation,
    control: libp2p_stream::Control,
    swarm: SwarmHandle,
    upward: Upward,
    peers: Mutex<BTreeMap<PeerId, Link>>,
    /// The core was told of a peer.
    announced: Notify,
    decode_limits: Limits,
}

/// One peer's link. Dropping it ends its tasks.
struct Link {
    /// The core has been told of the connection.
    announced: bool,
    address: Multiaddr,
    found_by: &'static str,
    rtt_us: Option<u64>,
    queue: mpsc::Sender<Vec<u8>>,
    queued_bytes: Arc<AtomicUsize>,
    counters: Arc<LinkCounters>,
    inbound: Option<Inbound>,
    _writer: AbortOnDropHandle<()>,
    _watch: AbortOnDropHandle<()>,
}

struct Inbound {
    from: Incarnation,
    messages: Arc<AtomicU64>,
    _reader: AbortOnDropHandle<()>,
}

impl Links {
    pub(crate) fn new(
        me: Incarnation,
        control: libp2p_stream::Control,
        swarm: SwarmHandle,
        upward: Upward,
    ) -> Arc<Self> {
        Arc::new(Self {
            me,
            control,
            swarm,
            upward,
            peers: Mutex::new(BTreeMap::new()),
            announced: Notify::new(),
            decode_limits: Limits::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Link>> {
        // Nothing panics while holding it; if it did, the map is still a map.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A first connection stands: opens our side of the link and tells the core.
    pub(crate) fn connected(
        self: &Arc<Self>,
        peer: PeerId,
        address: Multiaddr,
        found_by: &'static str,
    ) {
        let Some(node) = identity::node_id(&peer) else {
            self.disconnect(peer, "its key is not Ed25519".to_owned());
            return;
        };
        let (queue, queue_end) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let counters = Arc::new(LinkCounters::default());
        let writer = outbound::Writer {
            peer,
            links: Arc::downgrade(self),
            control: self.control.clone(),
            me: self.me,
            queue: queue_end,
            queued_bytes: Arc::clone(&queued_bytes),
            counters: Arc::clone(&counters),
        };
        let link = Link {
            announced: false,
            address,
            found_by,
            rtt_us: None,
            queue,
            queued_bytes,
            counters,
            inbound: None,
            _writer: AbortOnDropHandle::new(tokio::spawn(writer.run())),
            _watch: AbortOnDropHandle::new(tokio::spawn(Arc::clone(self).watch_silence(peer))),
        };
        self.lock().insert(peer, link);
        // The core hears of the connection before any message of it can pass.
        (self.upward.input)(Input::Connected { peer: node });
        if let Some(link) = self.lock().get_mut(&peer) {
            link.announced = true;
        }
        self.announced.notify_waiters();
    }

    /// The last connection is gone.
    pub(crate) fn disconnected(&self, peer: PeerId, cause: String) {
        let removed = self.lock().remove(&peer);
        if let (Some(_), Some(node)) = (removed, identity::node_id(&peer)) {
            (self.upward.input)(Input::Disconnected { peer: node, cause });
        }
    }

    /// Queues a message. To a peer that is gone: dropped.
    pub(crate) fn send(&self, to: &NodeId, message: &Message) {
        let Some(peer) = identity::peer_id(to) else { return };
        let bytes = codec::encode(message);
        let stuck = {
            let peers = self.lock();
            let Some(link) = peers.get(&peer) else { return };
            let waiting = link.queued_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
            waiting > QUEUE_BYTES_MAX || link.queue.try_send(bytes).is_err()
        };
        if stuck {
            self.disconnect(peer, "it does not take in what is sent to it".to_owned());
        }
    }

    /// Somebody may be there.
    pub(crate) fn discovered(&self, peer: NodeId) {
        (self.upward.input)(Input::Discovered { peer });
    }

    /// The node cannot go on.
    pub(crate) fn fatal(&self, error: NodeError) {
        (self.upward.fatal)(error);
    }

    /// Closes every connection to a peer.
    pub(crate) fn disconnect(&self, peer: PeerId, cause: String) {
        tracing::info!(%peer, cause, "hanging up");
        self.swarm.send(SwarmCommand::Disconnect { peer, cause });
    }

    /// Notes a measured round trip.
    pub(crate) fn set_rtt(&self, peer: &PeerId, rtt: Duration) {
        if let Some(link) = self.lock().get_mut(peer) {
            link.rtt_us = u64::try_from(rtt.as_micros()).ok();
        }
    }

    /// Every connected peer's link.
    pub(crate) fn infos(&self) -> BTreeMap<NodeId, LinkInfo> {
        let peers = self.lock();
        let info = |link: &Link| LinkInfo {
            address: link.address.clone(),
            found_by: link.found_by,
            rtt_us: link.rtt_us,
            bytes_received: link.counters.bytes_received.load(Ordering::Relaxed),
            bytes_sent: link.counters.bytes_sent.load(Ordering::Relaxed),
        };
        peers
            .iter()
            .filter_map(|(peer, link)| Some((identity::node_id(peer)?, info(link))))
            .collect()
    }

    /// Whether everything queued for every peer was handed to the transport.
    pub(crate) fn is_flushed(&self) -> bool {
        self.lock().values().all(|link| link.queued_bytes.load(Ordering::Relaxed) == 0)
    }

    async fn watch_silence(self: Arc<Self>, peer: PeerId) {
        tokio::time::sleep(SILENCE_MAX).await;
        let silent = self.lock().get(&peer).is_some_and(|link| link.inbound.is_none());
        if silent {
            let cause = format!("it has said nothing for {} s", SILENCE_MAX.as_secs());
            self.disconnect(peer, cause);
        }
    }
}
