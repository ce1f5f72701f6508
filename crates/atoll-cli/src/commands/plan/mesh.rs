//! The mesh of the node that runs here, as a fleet.

use atoll_node::Status;
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
    let own = &status.node;
    let this = (&own.name, own.memory_bytes, own.weight_bytes_per_s, own.prefill_bytes_per_s);
    let peers = status.peers.iter().map(|peer| {
        (&peer.name, peer.memory_bytes, peer.weight_bytes_per_s, peer.prefill_bytes_per_s)
    });
    // As the mesh itself assumes.
    let unknown_s = Link::UNKNOWN.latency_ns as f64 / 1e9;
    let unknown_bytes_per_s = Link::UNKNOWN.bytes_per_s as f64;
    let link = status.links.iter().map(|link| LinkEntry {
        from: link.from.clone(),
        to: link.to.clone(),
        latency_s: link.rtt_us.map_or(unknown_s, |us| f64::from(us) / 2e6),
        bandwidth_bytes_per_s: link.bytes_per_s.map_or(unknown_bytes_per_s, |rate| rate as f64),
    });
    let file = FleetFile {
        origin: own.name.clone(),
        about: format!("the mesh of {}", own.name),
        defaults: Defaults {
            link_latency_s: Some(unknown_s),
            link_bandwidth_bytes_per_s: Some(unknown_bytes_per_s),
        },
        node: std::iter::once(this).chain(peers).map(entry).collect(),
        zone_link: Vec::new(),
        link: link.collect(),
        model: None,
    };
    Ok((file, status.models.first().map(|model| model.name.clone())))
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
