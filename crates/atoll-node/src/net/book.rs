//! Whom we have heard of, where they might be, and when to try them again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

use super::address;

/// Peers remembered at once: bounds what strangers can make us remember.
const PEERS_MAX: usize = 512;
/// Failed dials before a peer is forgotten.
const FAILURES_MAX: u32 = 12;
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How a peer came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Mdns,
    Kademlia,
    Address,
    Inbound,
}

impl Source {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mdns => "mdns",
            Self::Kademlia => "kademlia",
            Self::Address => "address",
            Self::Inbound => "inbound",
        }
    }
}

/// A peer that was heard of.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) source: Source,
    failures: u32,
    next_try: Instant,
}

/// The peers that were heard of.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    peers: BTreeMap<PeerId, Known>,
}

impl AddressBook {
    /// Notes usable addresses of a peer. Returns whether any of them is new.
    pub(crate) fn learn(
        &mut self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        source: Source,
        now: Instant,
    ) -> bool {
        if addresses.is_empty() {
            return false;
        }
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            tracing::debug!(%peer, "address book full");
            return false;
        }
        let known = self.peers.entry(peer).or_insert_with(|| Known {
            addresses: Vec::new(),
            source,
            failures: 0,
            next_try: now,
        });
        let fresh = addresses.iter().any(|address| !known.addresses.contains(address));
        if fresh {
            // The latest word goes first; what it does not repeat is tried after it.
            let older = std::mem::replace(&mut known.addresses, addresses);
            let merged = known.addresses.iter().cloned().chain(older).collect::<Vec<_>>();
            known.addresses = address::usable(merged, true);
            known.next_try = now;
        }
        fresh
    }

    /// Where a peer might be.
    pub(crate) fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.peers.get(peer).map_or(&[], |known| &known.addresses)
    }

    /// A dial succeeded.
    pub(crate) fn succeeded(&mut self, peer: &PeerId) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.failures = 0;
        }
    }

    /// A dial failed: the next try comes later, and after many the peer is forgotten.
    pub(crate) fn failed(&mut self, peer: &PeerId, now: Instant) {
        let Some(known) = self.peers.get_mut(peer) else { return };
        known.failures += 1;
        if known.failures >= FAILURES_MAX {
            self.peers.remove(peer);
            return;
        }
        known.next_try = now + (RETRY_FIRST * 2_u32.pow(known.failures)).min(RETRY_MAX);
    }

    /// Connection lost: try again soon.
    pub(crate) fn lost(&mut self, peer: &PeerId, now: Instant) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.next_try = now + RETRY_FIRST;
        }
    }

    /// Peers whose time has come; each is put off so that it is named once per pause.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<PeerId> {
        let due = |(peer, known): (&PeerId, &mut Known)| {
            if known.next_try > now {
                return None;
            }
            known.next_try = now + RETRY_MAX;
            Some(*peer)
        };
        self.peers.iter_mut().filter_map(due).collect()
    }

    /// How a peer came to be known first.
    pub(crate) fn source(&self, peer: &PeerId) -> Source {
        self.peers.get(peer).map_or(Source::Inbound, |known| known.source)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Known)> {
        self.peers.iter()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.2/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_peer_is_named_when_due_and_forgotten_after_many_failures() {
        let (mut book, peer, now) = (AddressBook::default(), PeerId::random(), Instant::now());
        assert!(book.learn(peer, vec![address(1)], Source::Mdns, now));
        assert!(!book.learn(peer, vec![address(1)], Source::Kademlia, now));
        assert_eq!(book.due(now), [peer]);
        assert!(book.due(now).is_empty());
        for failure in 1..FAILURES_MAX {
            book.failed(&peer, now);
            assert!(book.due(now).is_empty(), "put off after failure {failure}");
            assert_eq!(book.due(now + RETRY_MAX), [peer]);
        }
        book.failed(&peer, now);
        assert!(book.addresses(&peer).is_empty());
    }

    #[test]
    fn the_latest_address_goes_first() {
        let (mut book, peer, now) = (AddressBook::default(), PeerId::random(), Instant::now());
        book.learn(peer, vec![address(1)], Source::Mdns, now);
        book.learn(peer, vec![address(2)], Source::Mdns, now);
        assert_eq!(book.addresses(&peer), [address(2), address(1)]);
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let (mut book, now) = (AddressBook::default(), Instant::now());
        for _ in 0..2 * PEERS_MAX {
            book.learn(PeerId::random(), vec![address(1)], Source::Kademlia, now);
        }
        assert_eq!(book.iter().count(), PEERS_MAX);
    }
}
