//! Peers that send garbage, the wrong version, an oversized frame, or nothing: each is
//! disconnected, and the node lives.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::atoll::{self, Running};
use crate::random::Random;

const LINK: StreamProtocol = StreamProtocol::new("/atoll/link/1");
const BLOB: StreamProtocol = StreamProtocol::new("/atoll/blob/1");

/// A node in a process of its own, listening on loopback.
struct Node {
    running: Running,
    listening: Value,
    _data: TempDir,
}

impl Node {
    fn up(more: &[&str]) -> Self {
        let data = tempdir().unwrap();
        let args = ["up", "--api", "none", "--no-mdns", "--json", "--log", "info"];
        let args = [&args[..], &["--listen", "/ip4/127.0.0.1/tcp/0"], more].concat();
        let mut running = Running::start(atoll::command(data.path(), &args));
        let listening = running.wait_for_event("listening", Duration::from_secs(20));
        Self { running, listening, _data: data }
    }

    fn address(&self) -> &str {
        self.listening["addresses"][0].as_str().unwrap()
    }

    fn port(&self) -> u16 {
        self.address().split('/').nth(4).unwrap().parse().unwrap()
    }

    /// Somebody honest is still heard, and the node has said `why` it let the stranger go.
    fn lives(mut self, why: &str) {
        let mut friend = Self::up(&["--join", self.address()]);
        let met = friend.running.wait_for_event("peer", Duration::from_secs(20));
        assert_eq!(met["node"], self.listening["node"]);
        let end = self.running.end_with("TERM", Duration::from_secs(10));
        end.did_not_panic();
        assert_eq!(end.code, 143, "{end}");
        assert!(end.stderr.contains(why), "{why:?} is not said: {end}");
        let joined = end.stdout.matches(r#""event":"peer""#).count();
        assert!(joined <= 1, "a stranger was taken for a peer: {end}");
    }
}

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
    async fn connect(node: &Node, says: &str) -> Self {
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
        let address: Multiaddr = node.address().parse().unwrap();
        swarm.dial(address).unwrap();
        let node = loop {
            let event = swarm.select_next_some().await;
            if let SwarmEvent::OutgoingConnectionError { error, .. } = event {
                panic!("{error}");
            }
            if let SwarmEvent::ConnectionEstablished { peer_id, .. } = event {
                break peer_id;
            }
        };
        let closed = tokio::spawn(async move {
            loop {
                let event = swarm.select_next_some().await;
                if matches!(event, SwarmEvent::ConnectionClosed { .. }) {
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

/// What nodes speak after the hello.
const WIRE_VERSION: u16 = 3;

fn hello(version: u16) -> Vec<u8> {
    let mut bytes = b"atll".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend([7; 16]);
    bytes
}

/// Writes `bytes` as the beginning of a link; the node must hang up and say `why`.
fn refused(bytes: &[u8], why: &str) {
    let node = Node::up(&[]);
    Runtime::new().unwrap().block_on(async {
        let mut stranger = Stranger::connect(&node, "/atoll/1").await;
        let _stream = stranger.write(LINK, bytes).await;
        stranger.until_disconnected(8).await;
    });
    node.lives(why);
}

#[test]
fn garbage_instead_of_a_hello() {
    refused(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", "bad hello: stream begins with");
}

#[test]
fn another_wire_version() {
    refused(&hello(9), "it speaks wire version 9, not 3");
}

#[test]
fn a_frame_that_is_no_message() {
    let mut bytes = hello(WIRE_VERSION);
    bytes.extend(100_u32.to_le_bytes());
    bytes.extend([0x5a; 100]);
    refused(&bytes, "it sent a malformed message");
}

#[test]
fn an_oversized_frame() {
    let mut bytes = hello(WIRE_VERSION);
    bytes.extend(u32::MAX.to_le_bytes());
    refused(&bytes, "frame size too big");
}

#[test]
fn half_a_hello() {
    refused(&hello(WIRE_VERSION)[..9], "no hello within");
}

#[test]
fn nothing_at_all() {
    let node = Node::up(&[]);
    Runtime::new().unwrap().block_on(async {
        Stranger::connect(&node, "/atoll/1").await.until_disconnected(12).await;
    });
    node.lives("no hello within");
}

#[test]
fn another_program() {
    let node = Node::up(&[]);
    Runtime::new().unwrap().block_on(async {
        Stranger::connect(&node, "/ipfs/0.1.0").await.until_disconnected(5).await;
    });
    node.lives("/ipfs/0.1.0");
}

#[test]
fn a_senseless_blob_request_ends_its_stream_only() {
    let node = Node::up(&[]);
    Runtime::new().unwrap().block_on(async {
        let mut stranger = Stranger::connect(&node, "/atoll/1").await;
        let mut stream = stranger.write(BLOB, &[0x33; 48]).await;
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap();
        assert!(read.is_err() || answer.is_empty());
    });
    node.lives("");
}

/// Garbage, silence and floods on a node's port leave it as it was.
#[test]
fn what_is_not_even_libp2p() {
    let node = Node::up(&[]);
    let before = node.running.resident_bytes();
    let mut random = Random::from_environment("strangers_do_not_hurt");
    let mut silent = Vec::new();
    for n in 0..60 {
        let mut stream = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let garbage: Vec<u8> = (0..4096).map(|_| random.next().to_le_bytes()[0]).collect();
        // The node may rightly hang up while we write.
        let _written = match n % 3 {
            0 => stream.write_all(&garbage),
            1 => stream
                .write_all(b"\x13/multistream/1.0.0\n")
                .and_then(|()| stream.write_all(&garbage)),
            _ => Ok(()),
        };
        let mut answer = [0; 512];
        let _heard = stream.read(&mut answer);
        if n % 3 == 2 {
            silent.push(stream);
        }
    }
    let grown = node.running.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more, {random}");
    node.lives("");
    drop(silent);
}
