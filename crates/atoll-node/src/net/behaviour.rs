//! The swarm: which of libp2p's behaviours run, and within which limits.

use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::kad::store::MemoryStore;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, connection_limits, identify, kad, mdns, noise, ping, tcp,
    yamux,
};

use crate::error::NodeError;

/// What identify says of us; a peer that says anything else is no member.
pub(crate) const IDENTIFY_PROTOCOL: &str = "/atoll/1";
/// Members' own table, apart from the public one.
const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/atoll/kad/1");

/// Two dials may cross, and a peer may come by TCP and QUIC.
const CONNECTIONS_PER_PEER_MAX: u32 = 4;
const CONNECTIONS_MAX: u32 = 256;
const CONNECTIONS_INCOMING_MAX: u32 = 128;
/// Handshakes not yet done, per direction.
const CONNECTIONS_PENDING_MAX: u32 = 32;
/// A ring keeps its streams open; only what nobody uses for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Substreams of one connection: two links, blob streams, identify, kad, ping.
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// The core tells who is silent; a connection ends of itself only when that has had its time, ms.
const QUIC_IDLE_MS: u32 = 60_000;
const QUIC_STREAM_WINDOW_BYTES: u32 = 4 << 20;
const QUIC_CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// How often the table of members is looked through for new ones.
const KAD_BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(30);
/// A smaller pause than the default, so that a late multicast answer is not the only one.
const MDNS_QUERY_INTERVAL: Duration = Duration::from_secs(15);

/// Library behaviours only. Limits come first: they can deny before others allocate.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(crate) stream: libp2p_stream::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(crate) kad: kad::Behaviour<MemoryStore>,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

impl Behaviour {
    fn new(key: &Keypair, with_mdns: bool) -> std::io::Result<Self> {
        let public = key.public();
        let id = public.to_peer_id();
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(CONNECTIONS_PENDING_MAX))
            .with_max_pending_outgoing(Some(CONNECTIONS_PENDING_MAX))
            .with_max_established_incoming(Some(CONNECTIONS_INCOMING_MAX))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX))
            .with_max_established(Some(CONNECTIONS_MAX));
        let mut kad_config = kad::Config::new(KAD_PROTOCOL);
        kad_config.set_periodic_bootstrap_interval(Some(KAD_BOOTSTRAP_INTERVAL));
        let mut kad = kad::Behaviour::with_config(id, MemoryStore::new(id), kad_config);
        // Without it a node on a local network never answers (it waits for a public address).
        kad.set_mode(Some(kad::Mode::Server));
        let mdns = if with_mdns {
            let config =
                mdns::Config { query_interval: MDNS_QUERY_INTERVAL, ..mdns::Config::default() };
            Some(mdns::tokio::Behaviour::new(config, id)?)
        } else {
            None
        };
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits),
            stream: libp2p_stream::Behaviour::new(),
            identify: identify::Behaviour::new(
                identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), public)
                    .with_agent_version(format!("atoll/{}", env!("CARGO_PKG_VERSION"))),
            ),
            ping: ping::Behaviour::default(),
            kad,
            mdns: Toggle::from(mdns),
        })
    }
}

/// Builds the swarm: TCP with Noise and Yamux, and QUIC.
pub(crate) fn build_swarm(key: Keypair, with_mdns: bool) -> Result<Swarm<Behaviour>, NodeError> {
    let network = |error: &dyn std::fmt::Display| NodeError::Network(error.to_string());
    let yamux_config = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS_PER_CONNECTION_MAX as usize);
        config
    };
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::new(), noise::Config::new, yamux_config)
        .map_err(|error| network(&error))?
        .with_quic_config(|mut config| {
            config.max_concurrent_stream_limit = STREAMS_PER_CONNECTION_MAX;
            config.max_idle_timeout = QUIC_IDLE_MS;
            config.max_stream_data = QUIC_STREAM_WINDOW_BYTES;
            config.max_connection_data = QUIC_CONNECTION_WINDOW_BYTES;
            config
        })
        .with_behaviour(|key| Ok(Behaviour::new(key, with_mdns)?))
        .map_err(|error| network(&error))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_TIMEOUT))
        .build();
    Ok(swarm)
}
