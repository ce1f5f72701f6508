//! The mesh of the node that runs here, as a fleet.

use std::time::Duration;

use atoll_node::Status;
use atoll_plan::{Defaults, FleetFile, LinkEntry, NodeEntry};

use crate::api_file::ApiFile;
use crate::args::ApiAddress;
use crate::commands::status;
use crate::exit::{Exit, Failure};
use crate::settings::Settings;

/// What a mesh assumes of links that nobody measured: one way, and what they carry.
const UNKNOWN_LATENCY: Duration = Duration::from_micros(500);
const UNKNOWN_BYTES_PER_S: f64 = 12_500_000.0;

/// The node, its peers, and the links that were measured; and the model that the node serves, if
/// it serves one. Speeds are what nodes say of themselves.
///
/// # Errors
/// [`Exit::Unreachable`] if no node answers, [`Exit::VersionSkew`] if it answers otherwise.
pub(super) fn fleet(
    settings: &Settings,
    api: Option<ApiAddress>,
) -> Result<(FleetFile, Option<String>), Failure> {
    let url = match api {
        Some(ApiAddress::At(at)) => format!("http://{at}"),
        Some(ApiAddress::None) => {
            return Err(Failure::usage("plan needs --fleet, or a node to ask"));
        }
        None => ApiFile::read(&settings.data_dir).map_err(|failure| {
            failure.hint("atoll plan MODEL --fleet FILE plans for devices that are not here")
        })?,
    };
    let status: Status = serde_json::from_value(status::fetch(&url)?).map_err(|error| {
        Failure::new(Exit::VersionSkew, format!("the node at {url} is of another version"))
            .because(error)
    })?;
    let own = &status.node;
    let this = (&own.name, own.memory_bytes, own.weight_bytes_per_s, own.prefill_bytes_per_s);
    let peers = status.peers.iter().map(|peer| {
        (&peer.name, peer.memory_bytes, peer.weight_bytes_per_s, peer.prefill_bytes_per_s)
    });
    let link = status.links.iter().map(|link| LinkEntry {
        from: link.from.clone(),
        to: link.to.clone(),
        latency_s: link.rtt_us.map_or(UNKNOWN_LATENCY.as_secs_f64(), |us| f64::from(us) / 2e6),
        bandwidth_bytes_per_s: link.bytes_per_s.map_or(UNKNOWN_BYTES_PER_S, |rate| rate as f64),
    });
    let file = FleetFile {
        origin: own.name.clone(),
        about: format!("the mesh of {}", own.name),
        defaults: Defaults {
            link_latency_s: Some(UNKNOWN_LATENCY.as_secs_f64()),
            link_bandwidth_bytes_per_s: Some(UNKNOWN_BYTES_PER_S),
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
