//! The corpus from a seed: homes, workshops, clinics and campuses. Where the figures of devices,
//! links and models come from stands in `simulations/fleets/README.md`.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use atoll_plan::FleetFile;
use atoll_plan::file::{ModelEntry, NodeEntry};
use atoll_sim::Random;

/// The seed of the corpus that is kept.
const SEED: u64 = 1;

/// A kind of device: name, bytes/s of weights when decoding, free bytes of its sizes, and how many
/// prompt tokens take as long as one decoded.
type Device = (&'static str, f64, &'static [u64], f64);

const DEVICES: &[Device] = &[
    ("pi4", 3.0e9, &[2_600_000_000, 6_200_000_000], 4.0),
    ("pi5", 8.8e9, &[6_400_000_000, 13_500_000_000], 4.0),
    ("nas", 6.0e9, &[2_400_000_000, 5_000_000_000], 4.0),
    ("minipc", 20.0e9, &[5_500_000_000, 12_500_000_000], 4.0),
    ("oldpc", 18.0e9, &[4_800_000_000, 11_500_000_000], 4.0),
    ("laptop", 36.0e9, &[8_500_000_000, 22_000_000_000], 4.0),
    ("desktop", 62.0e9, &[24_000_000_000, 52_000_000_000], 5.0),
    ("jetson", 50.0e9, &[5_500_000_000], 30.0),
    ("macmini", 95.0e9, &[10_000_000_000, 17_000_000_000], 20.0),
    ("studio", 400.0e9, &[48_000_000_000], 30.0),
    ("gpu3060", 290.0e9, &[10_500_000_000], 60.0),
    ("gpu4090", 820.0e9, &[21_500_000_000], 60.0),
];

/// A model at four to five bits a weight: name, layers, bytes of a layer, row values, KV bytes of
/// a position in a layer, bytes of embedding and head.
type ModelKind = (&'static str, u64, u64, u64, u64, u64, u64);

const MODELS: &[ModelKind] = &[
    ("1.5B", 28, 31_000_000, 1536, 1024, 131_000_000, 191_000_000),
    ("3B", 28, 62_000_000, 3072, 4096, 220_000_000, 323_000_000),
    ("8B", 32, 132_000_000, 4096, 4096, 295_000_000, 431_000_000),
    ("14B", 48, 162_000_000, 5120, 4096, 438_000_000, 639_000_000),
    ("32B", 64, 289_000_000, 5120, 4096, 438_000_000, 639_000_000),
    ("70B", 80, 508_000_000, 8192, 4096, 591_000_000, 862_000_000),
    ("123B", 88, 813_000_000, 12288, 4096, 226_000_000, 330_000_000),
    ("405B", 126, 1_900_000_000, 16384, 4096, 1_182_000_000, 1_724_000_000),
];

/// How a device hangs on its zone: name, latency one way, up and down in bytes/s.
type Access = (&'static str, f64, f64, f64);

const HOME: &[Access] = &[
    ("1 Gbit/s", 0.0, 117e6, 117e6),
    ("Wi-Fi near", 0.0025, 25e6, 40e6),
    ("Wi-Fi far", 0.01, 2.5e6, 6e6),
    ("powerline", 0.004, 4e6, 5e6),
];
const OLD: &[Access] = &[("1 Gbit/s", 0.0, 117e6, 117e6), ("100 Mbit/s", 0.0001, 11.7e6, 11.7e6)];
const CAMPUS: &[Access] = &[
    ("1 Gbit/s", 0.0, 117e6, 117e6),
    ("1 Gbit/s", 0.0, 117e6, 117e6),
    ("campus Wi-Fi", 0.003, 10e6, 20e6),
];

/// What fleets of a kind are made of.
struct Kind {
    name: &'static str,
    fleets: usize,
    /// Numbers of nodes.
    nodes: &'static [usize],
    /// Indexes of [`DEVICES`].
    devices: &'static [usize],
    accesses: &'static [Access],
    /// Zones, and one way between them: latencies and bytes/s.
    zones: &'static [usize],
    between: &'static [(f64, f64)],
}

const KINDS: &[Kind] = &[
    Kind {
        name: "home",
        fleets: 22,
        nodes: &[2, 3, 3, 4, 4, 5, 6, 8],
        devices: &[0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 8, 10],
        accesses: HOME,
        zones: &[1],
        between: &[(0.0, 0.0)],
    },
    Kind {
        name: "workshop",
        fleets: 16,
        nodes: &[4, 6, 8, 10, 12, 16, 20],
        devices: &[0, 1, 3, 4, 4, 5, 6, 7, 7, 10],
        accesses: OLD,
        zones: &[1, 1, 2],
        between: &[(0.0015, 25e6), (0.0003, 117e6)],
    },
    Kind {
        name: "clinic",
        fleets: 14,
        nodes: &[6, 10, 16, 24, 32, 48],
        devices: &[1, 3, 3, 4, 4, 5, 6, 6, 8],
        accesses: OLD,
        zones: &[1, 2, 3],
        between: &[(0.008, 6e6), (0.02, 1.2e6), (0.0004, 117e6)],
    },
    Kind {
        name: "campus",
        fleets: 12,
        nodes: &[32, 48, 64, 96, 128, 192, 256],
        devices: &[3, 3, 4, 5, 6, 6, 8, 9, 10, 11],
        accesses: CAMPUS,
        zones: &[2, 3, 4, 6],
        between: &[(0.0003, 1.17e9), (0.0006, 117e6), (0.004, 12e6)],
    },
];

/// Five tokens a second.
const READABLE_S: f64 = 0.2;

/// Some equal devices of a fleet.
struct Group {
    device: usize,
    count: usize,
    memory_bytes: u64,
    access: Access,
    zone: usize,
}

/// Writes the corpus; how many fleets.
pub(super) fn write(folder: &Path) -> Result<usize> {
    let corpus = corpus();
    for (name, text) in &corpus {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(corpus.len())
}

/// File names and texts.
pub(super) fn corpus() -> Vec<(String, String)> {
    let of_kind = |kind: &'static Kind| {
        (1..=kind.fleets).map(move |i| {
            let name = format!("{}-{i:02}", kind.name);
            let text = fleet(kind, i, &mut Random::new(SEED, &name));
            (format!("{name}.toml"), text)
        })
    };
    KINDS.iter().flat_map(of_kind).collect()
}

fn one<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[random.index(of.len())]
}

fn fleet(kind: &Kind, number: usize, random: &mut Random) -> String {
    let nodes = kind.nodes[(number - 1) % kind.nodes.len()];
    let zones = one(random, kind.zones);
    let mut groups: Vec<Group> = Vec::new();
    let mut left = nodes;
    while left > 0 {
        // A home has single devices, a campus rooms full of equal ones.
        let most = (nodes / 5).max(1).min(left);
        let count = 1 + random.index(most);
        left -= count;
        let device = one(random, kind.devices);
        groups.push(Group {
            device,
            count,
            memory_bytes: one(random, DEVICES[device].2),
            access: one(random, kind.accesses),
            zone: if groups.len() < zones { groups.len() } else { random.index(zones) },
        });
    }
    // Who asks sits at a usual machine: of two devices drawn the faster.
    let (a, b) = (random.index(groups.len()), random.index(groups.len()));
    let speed = |group: usize| DEVICES[groups[group].device].1;
    let origin = if speed(a) >= speed(b) { a } else { b };
    let memory_bytes: u64 =
        groups.iter().map(|group| group.memory_bytes * group.count as u64).sum();
    let own_bytes = groups[origin].memory_bytes;
    let fits = |model: &&ModelKind| {
        let &&(_, layers, layer_bytes, _, kv_bytes, embed, head) = model;
        let rooms = groups.iter().map(|group| {
            group.count as u64 * (group.memory_bytes / (layer_bytes + kv_bytes * 2048))
        });
        layers * (layer_bytes + kv_bytes * 2048) + embed + head <= memory_bytes / 10 * 8
            && rooms.sum::<u64>() >= layers * 11 / 10
            && (embed + head) * 2 <= own_bytes
    };
    let fitting: Vec<&ModelKind> = MODELS.iter().filter(fits).collect();
    // The largest that can be read along as it answers, if computing were all that takes time.
    let readable = |model: &&&ModelKind| compute_s(&groups, model) <= READABLE_S;
    let model = fitting.iter().rev().find(readable).unwrap_or(&fitting[0]);
    text(kind, &groups, origin, model, zones, random)
}

/// The smallest of the usual models that no node of a fleet holds alone, if at most 80 % of the
/// fleet's memory do: what a mesh is made for.
pub(super) fn larger(file: &FleetFile) -> Option<ModelEntry> {
    let memory = |node: &NodeEntry| (node.memory_bytes, node.count.unwrap_or(1) as u64);
    let all: u64 = file.node.iter().map(memory).map(|(bytes, count)| bytes * count).sum();
    let most = file.node.iter().map(|node| node.memory_bytes).max()?;
    let own = file.node.iter().find(|node| file.origin.starts_with(&node.name))?.memory_bytes;
    let fits = |model: &&ModelKind| {
        let &&(_, layers, layer_bytes, _, kv_bytes, embed, head) = model;
        let bytes = layers * (layer_bytes + kv_bytes * 2048);
        bytes > most && bytes + embed + head <= all / 10 * 8 && (embed + head) * 2 <= own
    };
    let &(name, layers, layer_bytes, row_values, kv_bytes, embed_bytes, head_bytes) =
        MODELS.iter().find(fits)?;
    Some(ModelEntry {
        name: name.to_owned(),
        layers: usize::try_from(layers).ok()?,
        layer_bytes,
        row_values,
        kv_bytes_per_position: kv_bytes,
        embed_bytes,
        head_bytes,
        variant: Vec::new(),
    })
}

/// Seconds of one token if the fastest devices are filled first and links take no time.
fn compute_s(groups: &[Group], model: &ModelKind) -> f64 {
    let &(_, layers, layer_bytes, _, kv_bytes, ..) = model;
    let mut fastest: Vec<&Group> = groups.iter().collect();
    fastest.sort_by(|a, b| DEVICES[b.device].1.total_cmp(&DEVICES[a.device].1));
    let (mut left, mut seconds) = (layers, 0.0);
    for group in fastest {
        let room = group.count as u64 * (group.memory_bytes / (layer_bytes + kv_bytes * 2048));
        let taken = room.min(left);
        left -= taken;
        seconds += (taken * layer_bytes) as f64 / DEVICES[group.device].1;
    }
    seconds
}

fn text(
    kind: &Kind,
    groups: &[Group],
    origin: usize,
    model: &ModelKind,
    zones: usize,
    random: &mut Random,
) -> String {
    let name = |i: usize| format!("{}-{}", DEVICES[groups[i].device].0, i + 1);
    let nodes: usize = groups.iter().map(|group| group.count).sum();
    let mut text = String::new();
    let mut line = |words: String| writeln!(text, "{words}").expect("a string takes all");
    line(format!("about = \"a {} of {nodes} nodes\"", kind.name));
    line(format!("origin = \"{}-1\"", name(origin)));
    line("zone_link = [".to_owned());
    for (from, to) in (0..zones).flat_map(|from| (from..zones).map(move |to| (from, to))) {
        let (latency_s, bytes_per_s) =
            if from == to { (0.00015, 117e6) } else { one(random, kind.between) };
        line(format!(
            "  {{ from = \"z{from}\", to = \"z{to}\", latency_s = {latency_s}, \
             bandwidth_bytes_per_s = {bytes_per_s:.0} }},"
        ));
    }
    line("]\nnode = [".to_owned());
    let &(model_name, layers, layer_bytes, row_values, kv_bytes, embed_bytes, head_bytes) = model;
    for (i, group) in groups.iter().enumerate() {
        let (_, speed, _, prefill) = DEVICES[group.device];
        let (_, latency_s, up, down) = group.access;
        let prefill_s = layer_bytes as f64 / speed / prefill;
        line(format!(
            "  {{ name = \"{}\", count = {}, memory_bytes = {}, weight_bytes_per_s = {speed:.0}, \
             prefill_layer_s_per_token = {prefill_s:.9}, zone = \"z{}\", \
             access_latency_s = {latency_s}, up_bandwidth_bytes_per_s = {up:.0}, \
             down_bandwidth_bytes_per_s = {down:.0} }}, # {}",
            name(i),
            group.count,
            group.memory_bytes,
            group.zone,
            group.access.0,
        ));
    }
    line(format!(
        "]\n\n[model]\nname = \"{model_name}\"\nlayers = {layers}\nlayer_bytes = {layer_bytes}\n\
         row_values = {row_values}\nkv_bytes_per_position = {kv_bytes}\n\
         embed_bytes = {embed_bytes}\nhead_bytes = {head_bytes}"
    ));
    text
}
