//! Which addresses of a peer are worth keeping, and in which order they are tried.

use std::net::{IpAddr, Ipv6Addr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// Addresses kept of one peer: bounds what identify and Kademlia can make us remember.
pub(crate) const ADDRESSES_PER_PEER_MAX: usize = 16;

/// The address's IP, if it begins with one.
pub(crate) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether the address goes over TCP.
pub(crate) fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Tcp(_)))
}

/// Whether it leads back to the same machine.
pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.is_loopback())
}

fn is_link_local_v6(ip: &Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

fn is_routable(address: &Multiaddr) -> bool {
    match ip(address) {
        Some(IpAddr::V4(ip)) => !ip.is_unspecified() && !ip.is_link_local() && !ip.is_multicast(),
        Some(IpAddr::V6(ip)) => {
            !ip.is_unspecified() && !is_link_local_v6(&ip) && !ip.is_multicast()
        }
        None => false,
    }
}

/// The addresses of a peer that are worth dialling and telling others, without their `/p2p/…`.
///
/// A loopback address is kept only where the peer was met on loopback (`met_on_loopback`):
/// elsewhere it would lead to ourselves. Where TCP is offered, QUIC is left out: on a local
/// network it is slower, and libp2p would race the two.
pub(crate) fn usable(
    addresses: impl IntoIterator<Item = Multiaddr>,
    met_on_loopback: bool,
) -> Vec<Multiaddr> {
    let mut kept: Vec<Multiaddr> = Vec::new();
    for address in addresses {
        let bare: Multiaddr =
            address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
        let fits = is_routable(&bare) && (met_on_loopback || !is_loopback(&bare));
        if fits && !kept.contains(&bare) {
            kept.push(bare);
        }
        if kept.len() == ADDRESSES_PER_PEER_MAX {
            break;
        }
    }
    if kept.iter().any(is_tcp) {
        kept.retain(is_tcp);
    }
    kept
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn check(addresses: &[&str], met_on_loopback: bool, expected: &[&str]) {
        let parse = |texts: &[&str]| -> Vec<Multiaddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(usable(parse(addresses), met_on_loopback), parse(expected));
    }

    #[test]
    fn loopback_stays_where_it_was_met() {
        let both = ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.2/tcp/1"];
        check(&both, true, &both);
        check(&both, false, &["/ip4/10.0.0.2/tcp/1"]);
    }

    #[test]
    fn unusable_addresses_are_dropped() {
        let bad = [
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/169.254.1.1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip4/224.0.0.251/tcp/1",
            "/dns4/example.org/tcp/1",
        ];
        check(&bad, true, &[]);
    }

    #[test]
    fn tcp_goes_before_quic_and_doubles_go() {
        let quic = "/ip4/10.0.0.2/udp/7/quic-v1";
        let tcp = "/ip4/10.0.0.2/tcp/7";
        check(&[quic, tcp, tcp], false, &[tcp]);
        check(&[quic], false, &[quic]);
    }

    #[test]
    fn a_flood_is_cut() {
        let many = (1..1000_u16).map(|port| format!("/ip4/10.0.0.2/tcp/{port}").parse().unwrap());
        assert_eq!(usable(many, false).len(), ADDRESSES_PER_PEER_MAX);
    }
}
