//! Peers that send garbage, the wrong version, an oversized frame, or nothing: each is
//! disconnected, and the node lives.

use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use tokio::time::timeout;

use crate::fleet::{Fleet, TCP, alone, collect, model_file, policy, request};

const LINK: StreamProtocol = StreamProtocol::new("/atoll/link/1");
const BLOB: StreamProtocol = StreamProtocol::new("/atoll/blob/1");

#[derive(NetworkBehaviour)]
struct Behaviour {
    stream: libp2p_stream::Behaviour,
    identify: identify::Behaviour,
}

/// A libp2p peer that is no Atoll node.
struct Stranger {
    control: libp2p_stream::Control,
    node: PeerId,
    /// Ends when the node has closed the connection.
    closed: tokio::task::JoinHandle<()>,
}

impl Stranger {
    async fn connect(fleet: &Fleet, says: &str) -> Self {
        let says = says.to_owned();
        let mut swarm: Swarm<Behaviour> = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::new(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|key| Behaviour {
                stream: libp2p_stream::Behaviour::new(),
                identify: identify::Behaviour::new(identify::Config::new(says, key.public())),
            })
            .unwrap()
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(60))
            })
            .build();
        let mut control = swarm.behaviour().stream.new_control();
        // Speaks the protocol as far as the library goes: inbound links are taken and left unread.
        let mut links = control.accept(LINK).unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Some(link) = links.next().await {
                kept.push(link);
            }
        });
        let address: Multiaddr = fleet.nodes[0].addresses()[0].parse().unwrap();
        swarm.dial(address).unwrap();
        let node = loop {
            match swarm.select_next_some().await {
                libp2p::swarm::SwarmEvent::ConnectionEstablished { peer_id, .. } => break peer_id,
                libp2p::swarm::SwarmEvent::OutgoingConnectionError { error, .. } => {
                    panic!("{error}")
                }
                _ => {}
            }
        };
        let closed = tokio::spawn(async move {
            loop {
                let event = swarm.select_next_some().await;
                if matches!(event, libp2p::swarm::SwarmEvent::ConnectionClosed { .. }) {
                    return;
                }
            }
        });
        Self { control, node, closed }
    }

    /// Opens a link and writes; the node may close it before all is written.
    async fn write(&mut self, protocol: StreamProtocol, bytes: &[u8]) -> libp2p::Stream {
        let mut stream = self.control.open_stream(self.node, protocol).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        stream
    }

    async fn until_disconnected(self, seconds: u64) {
        timeout(Duration::from_secs(seconds), self.closed).await.expect("disconnected").unwrap();
    }
}

fn hello(version: u16) -> Vec<u8> {
    let mut bytes = b"atll".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend([7; 16]);
    bytes
}

/// The node still answers, and has no peer.
async fn lives(fleet: &Fleet) {
    let path = model_file(&fleet.dir, 2, 1);
    fleet.nodes[0].serve("tiny", &path, policy(1)).await.unwrap();
    let stream = fleet.nodes[0].generate(request(&[1, 2, 3], 5)).await.unwrap();
    assert_eq!(collect(stream).await.0, alone(2, 1, &[1, 2, 3], 5));
    assert!(fleet.nodes[0].status().peers.is_empty());
}

async fn check(bytes: &[u8]) {
    let fleet = Fleet::start(1, TCP).await;
    let mut stranger = Stranger::connect(&fleet, "/atoll/1").await;
    let _stream = stranger.write(LINK, bytes).await;
    stranger.until_disconnected(8).await;
    lives(&fleet).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_instead_of_a_hello() {
    check(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_wire_version() {
    check(&hello(9)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_no_message() {
    let mut bytes = hello(1);
    bytes.extend(100_u32.to_le_bytes());
    bytes.extend([0x5a; 100]);
    check(&bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_frame() {
    let mut bytes = hello(1);
    bytes.extend(u32::MAX.to_le_bytes());
    check(&bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_at_all() {
    let fleet = Fleet::start(1, TCP).await;
    let stranger = Stranger::connect(&fleet, "/atoll/1").await;
    stranger.until_disconnected(12).await;
    lives(&fleet).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_hello() {
    check(&hello(1)[..9]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program() {
    let fleet = Fleet::start(1, TCP).await;
    let stranger = Stranger::connect(&fleet, "/ipfs/0.1.0").await;
    stranger.until_disconnected(5).await;
    lives(&fleet).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_senseless_blob_request_ends_its_stream_only() {
    let fleet = Fleet::start(1, TCP).await;
    let mut stranger = Stranger::connect(&fleet, "/atoll/1").await;
    let mut stream = stranger.write(BLOB, &[0x33; 48]).await;
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap();
    assert!(read.is_err() || answer.is_empty());
    lives(&fleet).await;
    fleet.stop().await;
}
