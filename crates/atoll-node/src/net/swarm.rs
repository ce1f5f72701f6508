//! The task that owns the swarm: turns its events into inputs, and commands into dials.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, kad, mdns};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::address;
use super::behaviour::{Behaviour, BehaviourEvent, IDENTIFY_PROTOCOL};
use super::book::{AddressBook, Source};
use super::links::Links;
use crate::error::NodeError;
use crate::identity;

/// Commands waiting for the swarm's task; it never blocks, so this is ample.
const COMMANDS_MAX: usize = 1024;
/// How often bootstrap addresses and known peers that are not connected are looked at.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Pause between tries of one bootstrap address.
const BOOTSTRAP_PAUSE: Duration = Duration::from_secs(2);

/// What the swarm's task is asked.
#[derive(Debug)]
pub(crate) enum SwarmCommand {
    /// Connect to a known peer.
    Dial(PeerId),
    /// Close every connection to a peer.
    Disconnect { peer: PeerId, cause: String },
}

/// Reaches the swarm's task.
#[derive(Clone, Debug)]
pub(crate) struct SwarmHandle(mpsc::Sender<SwarmCommand>);

impl SwarmHandle {
    /// A handle, and the end that [`SwarmTask`] takes.
    pub(crate) fn new() -> (Self, mpsc::Receiver<SwarmCommand>) {
        let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
        (Self(sender), receiver)
    }

    pub(crate) fn send(&self, command: SwarmCommand) {
        if let Err(error) = self.0.try_send(command) {
            tracing::warn!(%error, "command to the swarm dropped");
        }
    }
}

/// What the network did to find others: for a user who is alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    /// Addresses that this node listens on, one per interface and transport.
    pub listening: Vec<String>,
    /// Whether multicast is used.
    pub mdns: bool,
    /// Addresses that were given to start with.
    pub bootstrap: Vec<String>,
    /// Peers that were heard of, and how: `PEER by mdns`.
    pub heard: Vec<String>,
    /// The latest failures, oldest first, at most 16.
    pub failures: Vec<String>,
}

const FAILURES_KEPT_MAX: usize = 16;

/// A bootstrap address.
#[derive(Debug)]
struct Bootstrap {
    address: Multiaddr,
    /// Who answers there, once known.
    peer: Option<PeerId>,
    next_try: Instant,
}

/// Owns the swarm.
pub(crate) struct SwarmTask {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<SwarmCommand>,
    links: Arc<Links>,
    book: AddressBook,
    bootstrap: Vec<Bootstrap>,
    bootstrap_dials: BTreeMap<ConnectionId, usize>,
    /// Why we closed connections that are still closing.
    causes: BTreeMap<PeerId, String>,
    /// Met over loopback: their loopback addresses are good.
    met_on_loopback: BTreeSet<PeerId>,
    search: Arc<Mutex<Search>>,
}

impl SwarmTask {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        commands: mpsc::Receiver<SwarmCommand>,
        links: Arc<Links>,
        bootstrap: Vec<Multiaddr>,
        search: Arc<Mutex<Search>>,
    ) -> Self {
        let now = Instant::now();
        let bootstrap = bootstrap
            .into_iter()
            .map(|address| {
                let peer = match address.iter().last() {
                    Some(Protocol::P2p(peer)) => Some(peer),
                    _ => None,
                };
                Bootstrap { address, peer, next_try: now }
            })
            .collect();
        Self {
            swarm,
            commands,
            links,
            book: AddressBook::default(),
            bootstrap,
            bootstrap_dials: BTreeMap::new(),
            causes: BTreeMap::new(),
            met_on_loopback: BTreeSet::new(),
            search,
        }
    }

    /// Runs until the command channel closes. `early`: what happened before.
    pub(crate) async fn run(mut self, early: Vec<SwarmEvent<BehaviourEvent>>) {
        for event in early {
            self.on_event(event);
        }
        let mut retry = tokio::time::interval(RETRY_INTERVAL);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                _ = retry.tick() => self.on_retry(Instant::now()),
            }
        }
    }

    fn on_command(&mut self, command: SwarmCommand) {
        match command {
            SwarmCommand::Dial(peer) => self.dial(peer),
            SwarmCommand::Disconnect { peer, cause } => {
                tracing::debug!(%peer, cause, "disconnecting");
                if self.swarm.disconnect_peer_id(peer).is_ok() {
                    self.causes.entry(peer).or_insert(cause);
                }
            }
        }
    }

    fn dial(&mut self, peer: PeerId) {
        if self.swarm.is_connected(&peer) {
            return;
        }
        let addresses = self.book.addresses(&peer).to_vec();
        if addresses.is_empty() {
            return;
        }
        // From a port of its own: were both to dial at once from their listening ports, TCP would
        // make one connection of the two, with nobody to answer on either end.
        let options = DialOpts::peer_id(peer).addresses(addresses).allocate_new_port().build();
        match self.swarm.dial(options) {
            // Somebody else (Kademlia) is dialling already.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => {
                self.note_failure(format!("dial of {peer}: {error}"));
                self.book.failed(&peer, Instant::now());
            }
        }
    }

    fn on_retry(&mut self, now: Instant) {
        for index in 0..self.bootstrap.len() {
            let entry = &mut self.bootstrap[index];
            let there = entry.peer.is_some_and(|peer| self.swarm.is_connected(&peer));
            if there || entry.next_try > now {
                continue;
            }
            entry.next_try = now + BOOTSTRAP_PAUSE;
            let dial = DialOpts::unknown_peer_id().address(entry.address.clone());
            let options = dial.allocate_new_port().build();
            let id = options.connection_id();
            match self.swarm.dial(options) {
                Ok(()) => {
                    self.bootstrap_dials.insert(id, index);
                }
                Err(DialError::DialPeerConditionFalse(_)) => {}
                Err(error) => self.on_dial_error(id, None, &error),
            }
        }
        for peer in self.book.due(now) {
            if let (false, Some(node)) = (self.swarm.is_connected(&peer), identity::node_id(&peer))
            {
                self.links.discovered(node);
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                num_established,
                ..
            } => self.on_established(peer_id, connection_id, &endpoint, num_established.get()),
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
                let seen = || cause.map_or_else(|| "closed".to_owned(), |error| error.to_string());
                let cause = self.causes.remove(&peer_id).unwrap_or_else(seen);
                tracing::debug!(peer = %peer_id, cause, "disconnected");
                self.book.lost(&peer_id, Instant::now());
                self.links.disconnected(peer_id, cause);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_error(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                // The dialler hears of it and knows better what it means.
                tracing::debug!(%error, from = %send_back_addr, "incoming connection failed");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening");
                self.update_search(|search| search.listening.push(address.to_string()));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                let gone = address.to_string();
                self.update_search(|search| search.listening.retain(|known| *known != gone));
            }
            SwarmEvent::ListenerClosed { reason: Err(error), .. } => {
                self.note_failure(format!("listener closed: {error}"));
            }
            SwarmEvent::ListenerError { error, .. } => {
                self.note_failure(format!("listener: {error}"));
            }
            _ => {}
        }
    }

    fn on_established(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
        established: u32,
    ) {
        let remote = endpoint.get_remote_address().clone();
        let by_address = self.bootstrap_dials.remove(&connection);
        if let Some(index) = by_address {
            self.bootstrap[index].peer = Some(peer);
        }
        let by_address = by_address.is_some();
        if address::is_loopback(&remote) {
            self.met_on_loopback.insert(peer);
        }
        // Where we dialled it, it can be reached; where it came from, it cannot.
        if endpoint.is_dialer() {
            let source = if by_address { Source::Address } else { Source::Kademlia };
            self.learn(peer, vec![remote.clone()], source);
        }
        self.book.succeeded(&peer);
        if established == 1 {
            tracing::debug!(%peer, address = %remote, "connected");
            let found_by = self.book.source(&peer).name();
            self.links.connected(peer, remote, found_by);
        }
    }

    fn on_dial_error(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let bootstrap = self.bootstrap_dials.remove(&id);
        if let DialError::LocalPeerId { address } = error {
            if !self.is_own_address(address) {
                let seen = format!("it answered at {address}");
                self.links.fatal(NodeError::IdentityInUse { seen });
            } else if let Some(index) = bootstrap {
                // It is us: nothing to look for there.
                self.bootstrap[index].peer = None;
                self.bootstrap[index].next_try = Instant::now() + Duration::from_secs(3600);
            }
            return;
        }
        let what = match (bootstrap, peer) {
            (Some(index), _) => self.bootstrap[index].address.to_string(),
            (None, Some(peer)) => peer.to_string(),
            (None, None) => "address".to_owned(),
        };
        self.note_failure(format!("dial of {what}: {error}"));
        if let Some(peer) = peer {
            self.book.failed(&peer, Instant::now());
        }
    }

    fn is_own_address(&self, address: &Multiaddr) -> bool {
        let bare: Multiaddr =
            address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
        self.swarm.listeners().any(|own| *own == bare)
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                if info.protocol_version != IDENTIFY_PROTOCOL {
                    let other = info.protocol_version.chars().take(64).collect::<String>();
                    let cause = format!("it speaks {other:?}, not {IDENTIFY_PROTOCOL:?}");
                    tracing::warn!(peer = %peer_id, cause, "no member");
                    self.on_command(SwarmCommand::Disconnect { peer: peer_id, cause });
                    return;
                }
                self.learn(peer_id, info.listen_addrs, Source::Inbound);
                for address in self.book.addresses(&peer_id).to_vec() {
                    self.swarm.behaviour_mut().kad.add_address(&peer_id, address);
                }
            }
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.learn(peer, vec![address], Source::Mdns);
                }
            }
            BehaviourEvent::Ping(event) => {
                if let Ok(rtt) = event.result {
                    self.links.set_rtt(&event.peer, rtt);
                }
            }
            BehaviourEvent::Identify(_) | BehaviourEvent::Mdns(_) | BehaviourEvent::Stream(()) => {}
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::RoutingUpdated { peer, addresses, .. } => {
                self.learn(peer, addresses.into_vec(), Source::Kademlia);
            }
            kad::Event::RoutablePeer { peer, address }
            | kad::Event::PendingRoutablePeer { peer, address } => {
                self.learn(peer, vec![address], Source::Kademlia);
            }
            kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(Ok(found)),
                ..
            } => {
                for info in found.peers {
                    self.learn(info.peer_id, info.addrs, Source::Kademlia);
                }
            }
            _ => {}
        }
    }

    /// Notes addresses of a peer and, if they are news, tells the core that it might be there.
    fn learn(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, source: Source) {
        if peer == *self.swarm.local_peer_id() {
            return;
        }
        let here = self.met_on_loopback.contains(&peer) || self.listens_on_loopback_only();
        let usable = address::usable(addresses, here);
        let Some(node) = identity::node_id(&peer) else { return };
        if self.book.learn(peer, usable, source, Instant::now()) {
            let heard: Vec<String> = self
                .book
                .iter()
                .map(|(peer, known)| format!("{peer} by {}", known.source.name()))
                .collect();
            self.update_search(|search| search.heard = heard);
            if !self.swarm.is_connected(&peer) {
                self.links.discovered(node);
            }
        }
    }

    fn listens_on_loopback_only(&self) -> bool {
        self.swarm.listeners().all(address::is_loopback)
    }

    fn note_failure(&self, failure: String) {
        tracing::debug!(failure, "network");
        self.update_search(|search| {
            if search.failures.len() == FAILURES_KEPT_MAX {
                search.failures.remove(0);
            }
            search.failures.push(failure);
        });
    }

    fn update_search(&self, change: impl FnOnce(&mut Search)) {
        change(&mut self.search.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
