//! The mesh of the node that runs here, as a fleet.

use std::collections::BTreeMap;

use atoll_node::{LinkFigures, Status, planned_links};
use atoll_plan::{Defaults, FleetFile, Link, LinkEntry, NodeEntry};

use crate::args::ApiAddress;
use crate::commands::status;
use crate::exit::{Exit, Failure};
use crate::settings::Settings;

/// The node, its peers, and the links that were measured; and the model that the node serves, if
/// it serves one. Speeds are what nodes say of themselves.
///
/// # Errors
/// [`Exit::Unreachable`] if no node answers, [`Exit::VersionSkew`] if it answers otherwise.
pub(super) fn fleet(
    settings: &Settings,
    api: Option<ApiAddress>,
) -> Result<(FleetFile, Option<String>), Failure> {
    let status = status::ask(settings, api).map_err(|failure| {
        failure.hint("atoll plan MODEL --fleet FILE plans for devices that are not here")
    })?;
    let status: Status = serde_json::from_value(status).map_err(|error| {
        Failure::new(Exit::VersionSkew, "the node is of another version").because(error)
    })?;
    let served = status.models.first().map(|model| model.name.clone());
    Ok((fleet_of(&status), served))
}

/// What a node says of its mesh, as a fleet.
fn fleet_of(status: &Status) -> FleetFile {
    let own = &status.node;
    let this = (&own.name, own.memory_bytes, own.weight_bytes_per_s, own.prefill_bytes_per_s);
    let peers = status.peers.iter().map(|peer| {
        (&peer.name, peer.memory_bytes, peer.weight_bytes_per_s, peer.prefill_bytes_per_s)
    });
    // Of nodes whose links were not looked at nothing is known.
    let mut names = vec![&own.name];
    for name in status.links.iter().flat_map(|link| [&link.from, &link.to]) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let measured: BTreeMap<(&String, &String), LinkFigures> = status
        .links
        .iter()
        .map(|link| {
            let (rtt_us, bytes_per_s) = (link.rtt_us, link.bytes_per_s);
            ((&link.from, &link.to), LinkFigures { rtt_us, bytes_per_s })
        })
        .collect();
    let known = |from: usize, to: usize| {
        measured.get(&(names[from], names[to])).copied().unwrap_or_default()
    };
    let link = planned_links(names.len(), &known).into_iter().map(|(from, to, link)| LinkEntry {
        from: names[from].clone(),
        to: names[to].clone(),
        latency_s: link.latency_ns as f64 / 1e9,
        bandwidth_bytes_per_s: link.bytes_per_s as f64,
    });
    FleetFile {
        origin: own.name.clone(),
        about: format!("the mesh of {}", own.name),
        defaults: Defaults {
            link_latency_s: Some(Link::UNKNOWN.latency_ns as f64 / 1e9),
            link_bandwidth_bytes_per_s: Some(Link::UNKNOWN.bytes_per_s as f64),
        },
        node: std::iter::once(this).chain(peers).map(entry).collect(),
        zone_link: Vec::new(),
        link: link.collect(),
        model: None,
    }
}

fn entry((name, memory_bytes, speed, together): (&String, u64, u64, u64)) -> NodeEntry {
    NodeEntry {
        name: name.clone(),
        count: None,
        memory_bytes,
        layer_s: None,
        weight_bytes_per_s: Some(speed.max(1) as f64),
        head_s: None,
        prefill_layer_s_per_token: None,
        prefill_bytes_per_s: (together > 0).then_some(together as f64),
        batch_layer_s: None,
        kv_s_per_1024: None,
        stage_s: None,
        zone: None,
        access_latency_s: 0.0,
        up_bandwidth_bytes_per_s: None,
        down_bandwidth_bytes_per_s: None,
        labels: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_mesh_is_a_fleet_with_what_was_measured() {
        let status = serde_json::json!({
            "schema": "atoll.status/1",
            "node": {
                "id": "1", "name": "desk", "listen": [], "version": "0", "uptime_s": 1,
                "memory_bytes": 5000, "weight_bytes_per_s": 100_000, "prefill_bytes_per_s": 400_000,
                "threads": 1, "kernels": "generic", "rss_bytes": null,
            },
            "peers": [{
                "id": "2", "name": "shelf", "address": "", "transport": "tcp", "found_by": "mdns",
                "rtt_us": null, "memory_bytes": 7000, "weight_bytes_per_s": 50_000,
                "prefill_bytes_per_s": 0, "bytes_received": 0, "bytes_sent": 0,
            }],
            "models": [], "plan": null, "held": [], "requests": 0, "ring": null,
            "links": [
                { "from": "desk", "to": "shelf", "rtt_us": 800, "bytes_per_s": 2_000_000 },
                { "from": "shelf", "to": "desk", "rtt_us": 800, "bytes_per_s": null },
            ],
            "blobs": { "received_bytes": 0, "sent_bytes": 0 },
            "search": {
                "listening": [], "mdns": true, "bootstrap": [], "heard": [], "failures": [],
            },
        });
        let status: Status = serde_json::from_value(status).unwrap();
        // Layers of 100 bytes, a head of 50, a byte for a position.
        let fleet = fleet_of(&status).resolve(100, 50, 1).unwrap();
        let [desk, shelf] = [0, 1].map(|i| &fleet.nodes()[i]);
        assert_eq!((desk.memory_bytes, shelf.memory_bytes), (5000, 7000));
        assert_eq!((desk.layer_ns, desk.prefill_layer_ns), (1_000_000, 250_000));
        assert_eq!((shelf.layer_ns, shelf.prefill_layer_ns), (2_000_000, 500_000), "not measured");
        let link = |latency_ns, bytes_per_s| Some(Link { latency_ns, bytes_per_s });
        assert_eq!(fleet.link(0, 1), link(400_000, 2_000_000));
        assert_eq!(fleet.link(1, 0), link(400_000, 2_000_000), "as the thinnest");
    }
}
