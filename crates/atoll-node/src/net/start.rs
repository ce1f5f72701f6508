//! Brings the network up: listens, and says at once what cannot be listened on.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use tokio::time::timeout;

use super::address;
use super::behaviour::{Behaviour, BehaviourEvent};
use crate::error::NodeError;

/// Interfaces report their addresses within this time.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// A swarm that listens.
pub(crate) struct Listening {
    /// What the addresses became, with the ports chosen. Of a listener on all interfaces the first
    /// is here; the others come as events.
    pub(crate) addresses: Vec<Multiaddr>,
    /// Whatever else has happened meanwhile, for the swarm's task.
    pub(crate) early: Vec<SwarmEvent<BehaviourEvent>>,
}

/// Reads multiaddresses.
pub(crate) fn parse_addresses(texts: &[String]) -> Result<Vec<Multiaddr>, NodeError> {
    let parse = |text: &String| {
        text.parse().map_err(|error: libp2p::multiaddr::Error| NodeError::Address {
            address: text.clone(),
            cause: error.to_string(),
        })
    };
    texts.iter().map(parse).collect()
}

/// Listens on every address: each listener has named one address.
pub(crate) async fn listen(
    swarm: &mut Swarm<Behaviour>,
    addresses: &[Multiaddr],
) -> Result<Listening, NodeError> {
    let mut waiting = Vec::new();
    for address in addresses {
        let refused = |cause: String| NodeError::Listen { address: address.to_string(), cause };
        check_port_is_free(address).map_err(|error| refused(error.to_string()))?;
        let id = swarm.listen_on(address.clone()).map_err(|error| refused(error.to_string()))?;
        waiting.push((id, address.clone()));
    }
    let (mut found, mut early) = (Vec::new(), Vec::new());
    while let Some((_, first)) = waiting.first() {
        let silent = || NodeError::Listen {
            address: first.to_string(),
            cause: "no interface has such an address".to_owned(),
        };
        let event =
            timeout(LISTEN_TIMEOUT, swarm.select_next_some()).await.map_err(|_| silent())?;
        match event {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                waiting.retain(|(id, _)| *id != listener_id);
                found.push(address);
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                let wanted = waiting.iter().find(|(id, _)| *id == listener_id);
                if let Some((_, wanted)) = wanted {
                    let cause = reason.err().map_or_else(|| "closed".to_owned(), |e| e.to_string());
                    return Err(NodeError::Listen { address: wanted.to_string(), cause });
                }
            }
            other => early.push(other),
        }
    }
    Ok(Listening { addresses: found, early })
}

/// The transport shares TCP ports between processes of one user, so it would not notice that
/// another node listens there.
fn check_port_is_free(address: &Multiaddr) -> std::io::Result<()> {
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    match (address::ip(address), port) {
        (Some(ip), Some(port)) if port != 0 => {
            TcpListener::bind(SocketAddr::new(ip, port)).map(drop)
        }
        _ => Ok(()),
    }
}
