//! The fleet file: devices that are not here, as people write them down. SI units; the reader of
//! TOML or JSON is the caller's.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::PlanError;
use crate::fleet::{Fleet, Link, NODES_MAX, Node, STAGE_NS, TIME_NS_MAX};
use crate::model::{Codec, LAYERS_MAX, Layer, Model, Variant};

/// A fleet file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetFile {
    /// The node that owns the plan.
    pub origin: String,
    /// Where this fleet stands, for people.
    #[serde(default)]
    pub about: String,
    /// What holds for links that are not named.
    #[serde(default)]
    pub defaults: Defaults,
    /// The devices.
    pub node: Vec<NodeEntry>,
    /// Links between zones, both ways unless both directions are named.
    #[serde(default)]
    pub zone_link: Vec<LinkEntry>,
    /// Links between nodes, one way each.
    #[serde(default)]
    pub link: Vec<LinkEntry>,
    /// The model, where the file brings one.
    pub model: Option<ModelEntry>,
}

/// What holds for links that are not named.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// One way, s; without it, nodes that no entry links are unreachable.
    pub link_latency_s: Option<f64>,
    /// Bytes per second.
    pub link_bandwidth_bytes_per_s: Option<f64>,
}

/// A device, or `count` equal ones.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// Its name; of several, `-1`, `-2` … are added.
    pub name: String,
    /// How many.
    pub count: Option<usize>,
    /// Bytes free for weights and caches.
    pub memory_bytes: u64,
    /// One layer, one token, full variant, s.
    pub layer_s: Option<f64>,
    /// Or: weight bytes read per second of decoding.
    pub weight_bytes_per_s: Option<f64>,
    /// Head and sampling, s; without it, the time of its bytes at the layers' speed.
    pub head_s: Option<f64>,
    /// One layer, one prompt token, s; without it a quarter of `layer_s`.
    pub prefill_layer_s_per_token: Option<f64>,
    /// Or: weight bytes read per second for each row of a prompt's chunk.
    pub prefill_bytes_per_s: Option<f64>,
    /// What a further sequence adds to one layer, s; without it a quarter of `layer_s`.
    pub batch_layer_s: Option<f64>,
    /// What 1,024 positions in the cache add to one layer, s; without it, the time of their bytes.
    pub kv_s_per_1024: Option<f64>,
    /// Taking in and sending on one frame, s; without it 0.1 ms.
    pub stage_s: Option<f64>,
    /// The zone that it is in: links between zones are named once.
    pub zone: Option<String>,
    /// Its own access, such as Wi-Fi: added to every link from and to it, s.
    #[serde(default)]
    pub access_latency_s: f64,
    /// What it can send, bytes/s.
    pub up_bandwidth_bytes_per_s: Option<f64>,
    /// What it can receive, bytes/s.
    pub down_bandwidth_bytes_per_s: Option<f64>,
    /// Words that a caller may choose nodes by, such as `site=home`.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// One direction.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkEntry {
    /// From this node or zone.
    pub from: String,
    /// To that one.
    pub to: String,
    /// One way, s.
    pub latency_s: f64,
    /// Bytes per second.
    pub bandwidth_bytes_per_s: f64,
}

/// A model of equal layers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// For people.
    pub name: String,
    /// Layers.
    pub layers: usize,
    /// Bytes of one layer's weights in the full variant.
    pub layer_bytes: u64,
    /// Values of one activation row.
    pub row_values: u64,
    /// KV cache bytes of one position in one layer.
    pub kv_bytes_per_position: u64,
    /// Bytes of the embedding.
    pub embed_bytes: u64,
    /// Bytes of the head.
    pub head_bytes: u64,
    /// Lighter variants of each layer.
    #[serde(default)]
    pub variant: Vec<VariantEntry>,
}

/// A lighter variant of each layer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantEntry {
    /// For people.
    pub name: String,
    /// Bytes of one layer's weights.
    pub layer_bytes: u64,
    /// Its time beside the full variant's; without it, as its bytes.
    pub time_ratio: Option<f64>,
    /// Divergence that each layer adds, nats.
    pub loss_nats: f64,
}

impl ModelEntry {
    /// The model.
    ///
    /// # Errors
    /// [`PlanError::Absurd`].
    pub fn resolve(&self) -> Result<Model, PlanError> {
        if !(1..=LAYERS_MAX).contains(&self.layers) {
            return Err(absurd("the model's number of layers", &self.layers));
        }
        if self.layer_bytes == 0 {
            return Err(absurd("the model's layer_bytes", &0));
        }
        let full =
            Variant { name: "full".into(), bytes: self.layer_bytes, time_permille: 1000, loss: 0 };
        let lighter = self.variant.iter().map(|variant| {
            let by_bytes = variant.layer_bytes as f64 / self.layer_bytes as f64;
            let ratio = variant.time_ratio.unwrap_or(by_bytes);
            let what = |key: &str| format!("{key} of variant {}", variant.name);
            Ok(Variant {
                name: variant.name.clone(),
                bytes: variant.layer_bytes,
                time_permille: scaled(&what("time_ratio"), ratio, 1000.0, 1_000_000)?,
                loss: scaled(&what("loss_nats"), variant.loss_nats, 1e6, 1_000_000_000)?,
            })
        });
        let variants = std::iter::once(Ok(full)).chain(lighter).collect::<Result<_, _>>()?;
        Ok(Model {
            name: self.name.clone(),
            layers: vec![Layer { variants }; self.layers],
            ends_bytes: self.embed_bytes.saturating_add(self.head_bytes),
            kv_bytes_per_position: self.kv_bytes_per_position,
            codecs: vec![Codec {
                name: "f32".into(),
                row_bytes: self.row_values.saturating_mul(4),
                loss: 0,
            }],
        })
    }
}

impl FleetFile {
    /// The fleet for a model of which a layer has `layer_bytes`, the head `head_bytes`, and a
    /// position in one layer's cache `kv_bytes`.
    ///
    /// # Errors
    /// [`PlanError`] that names the entry and the figure.
    pub fn resolve(
        &self,
        layer_bytes: u64,
        head_bytes: u64,
        kv_bytes: u64,
    ) -> Result<Fleet, PlanError> {
        let entries = self.expanded()?;
        let nodes = entries
            .iter()
            .map(|(name, entry)| node(name, entry, layer_bytes, head_bytes, kv_bytes));
        let nodes = nodes.collect::<Result<Vec<Node>, _>>()?;
        let named = |origin: &str| {
            let found = nodes.iter().position(|node| node.name == origin);
            found.ok_or_else(|| PlanError::UnknownNode { name: origin.to_owned() })
        };
        let owner = named(&self.origin)?;
        let mut by_pair = BTreeMap::new();
        for entry in &self.link {
            let (from, to) = (named(&entry.from)?, named(&entry.to)?);
            by_pair.insert((from, to), entry.link()?);
        }
        let zones = self.zones(&entries)?;
        let default = match (self.defaults.link_latency_s, self.defaults.link_bandwidth_bytes_per_s)
        {
            (None, None) => None,
            (latency_s, bytes_per_s) => Some(Link {
                latency_ns: ns("link_latency_s", latency_s.unwrap_or(0.0))?,
                bytes_per_s: rate(
                    "link_bandwidth_bytes_per_s",
                    bytes_per_s.unwrap_or(125_000_000.0),
                )?,
            }),
        };
        let accesses = entries.iter().map(|(name, entry)| access(name, entry));
        let accesses = accesses.collect::<Result<Vec<Access>, _>>()?;
        let mut fleet = Fleet::new(nodes, owner)?;
        for (&(from, to), &link) in &by_pair {
            fleet.connect(from, to, link)?;
        }
        for (u, (_, from)) in entries.iter().enumerate() {
            for (v, (_, to)) in entries.iter().enumerate() {
                if u == v || by_pair.contains_key(&(u, v)) {
                    continue;
                }
                let pair = (from.zone.as_deref(), to.zone.as_deref());
                if let Some(link) = zones.get(&pair).copied().or(default) {
                    let (up, down) = (&accesses[u], &accesses[v]);
                    let latency_ns = link.latency_ns + up.latency_ns + down.latency_ns;
                    let bytes_per_s = link.bytes_per_s.min(up.up).min(down.down);
                    fleet.connect(u, v, Link { latency_ns, bytes_per_s })?;
                }
            }
        }
        Ok(fleet)
    }

    /// Every device by its own name.
    fn expanded(&self) -> Result<Vec<(String, &NodeEntry)>, PlanError> {
        let counts = self.node.iter().map(|entry| entry.count.unwrap_or(1));
        let nodes = counts.fold(0_usize, usize::saturating_add);
        if nodes > NODES_MAX {
            return Err(PlanError::TooManyNodes { nodes });
        }
        let mut expanded = Vec::with_capacity(nodes);
        for entry in &self.node {
            match entry.count {
                None => expanded.push((entry.name.clone(), entry)),
                Some(count) => {
                    let each = (1..=count).map(|i| (format!("{}-{i}", entry.name), entry));
                    expanded.extend(each);
                }
            }
        }
        Ok(expanded)
    }

    /// The labels of every node, in the fleet's order.
    ///
    /// # Errors
    /// [`PlanError::TooManyNodes`].
    pub fn labels(&self) -> Result<Vec<&[String]>, PlanError> {
        let nodes = self.expanded()?;
        Ok(nodes.into_iter().map(|(_, entry)| entry.labels.as_slice()).collect())
    }

    /// Links between zones; a direction that is not named is as the other one.
    #[expect(clippy::type_complexity, reason = "a pair of zones, either of which may be none")]
    fn zones<'a>(
        &'a self,
        entries: &[(String, &NodeEntry)],
    ) -> Result<BTreeMap<(Option<&'a str>, Option<&'a str>), Link>, PlanError> {
        let mut zones = BTreeMap::new();
        for entry in &self.zone_link {
            for zone in [&entry.from, &entry.to] {
                if entries.iter().all(|(_, node)| node.zone.as_ref() != Some(zone)) {
                    return Err(PlanError::UnknownZone { name: zone.clone() });
                }
            }
            zones.insert((Some(entry.from.as_str()), Some(entry.to.as_str())), entry.link()?);
        }
        for entry in &self.zone_link {
            let back = (Some(entry.to.as_str()), Some(entry.from.as_str()));
            zones.entry(back).or_insert(entry.link()?);
        }
        Ok(zones)
    }
}

impl LinkEntry {
    fn link(&self) -> Result<Link, PlanError> {
        let what = |key: &str| format!("{key} from {} to {}", self.from, self.to);
        Ok(Link {
            latency_ns: ns(&what("latency_s"), self.latency_s)?,
            bytes_per_s: rate(&what("bandwidth_bytes_per_s"), self.bandwidth_bytes_per_s)?,
        })
    }
}

struct Access {
    latency_ns: u64,
    up: u64,
    down: u64,
}

fn access(name: &str, entry: &NodeEntry) -> Result<Access, PlanError> {
    let speed = |key: &str, bytes_per_s: Option<f64>| {
        bytes_per_s.map_or(Ok(u64::MAX), |value| rate(&format!("{key} of {name}"), value))
    };
    Ok(Access {
        latency_ns: ns(&format!("access_latency_s of {name}"), entry.access_latency_s)?,
        up: speed("up_bandwidth_bytes_per_s", entry.up_bandwidth_bytes_per_s)?,
        down: speed("down_bandwidth_bytes_per_s", entry.down_bandwidth_bytes_per_s)?,
    })
}

fn node(
    name: &str,
    entry: &NodeEntry,
    layer_bytes: u64,
    head_bytes: u64,
    kv_bytes: u64,
) -> Result<Node, PlanError> {
    let what = |key: &str| format!("{key} of {name}");
    let (layer_ns, bytes_per_s) = match (entry.layer_s, entry.weight_bytes_per_s) {
        (Some(layer_s), _) => {
            let layer_ns = ns(&what("layer_s"), layer_s)?;
            let per_s = u128::from(layer_bytes) * 1_000_000_000 / u128::from(layer_ns.max(1));
            (layer_ns, u64::try_from(per_s).unwrap_or(u64::MAX))
        }
        (None, Some(value)) => {
            let bytes_per_s = rate(&what("weight_bytes_per_s"), value)?;
            (time_of(layer_bytes, bytes_per_s), bytes_per_s)
        }
        (None, None) => {
            let value = "not given, and neither is weight_bytes_per_s".to_owned();
            return Err(PlanError::Absurd { what: what("layer_s"), value });
        }
    };
    if layer_ns == 0 {
        return Err(absurd(&what("layer_s"), &0));
    }
    let or = |key: &str, seconds: Option<f64>, default_ns: u64| {
        seconds.map_or(Ok(default_ns), |seconds| ns(&what(key), seconds))
    };
    let prefill_ns = match entry.prefill_bytes_per_s {
        Some(value) => time_of(layer_bytes, rate(&what("prefill_bytes_per_s"), value)?),
        None => layer_ns / 4,
    };
    let kv_ns = time_of(kv_bytes.saturating_mul(1024), bytes_per_s);
    let head_ns = time_of(head_bytes, bytes_per_s);
    Ok(Node {
        name: name.to_owned(),
        memory_bytes: entry.memory_bytes,
        layer_ns,
        kv_ns_per_1024: or("kv_s_per_1024", entry.kv_s_per_1024, kv_ns)?,
        batch_layer_ns: or("batch_layer_s", entry.batch_layer_s, layer_ns / 4)?,
        prefill_layer_ns: or(
            "prefill_layer_s_per_token",
            entry.prefill_layer_s_per_token,
            prefill_ns,
        )?,
        stage_ns: or("stage_s", entry.stage_s, STAGE_NS)?,
        embed_ns: 10_000,
        head_ns: or("head_s", entry.head_s, head_ns)?,
    })
}

/// How long `bytes` take at a speed, ns; at most [`TIME_NS_MAX`].
fn time_of(bytes: u64, bytes_per_s: u64) -> u64 {
    Link { latency_ns: 0, bytes_per_s }.transfer_ns(bytes)
}

fn ns(what: &str, seconds: f64) -> Result<u64, PlanError> {
    scaled(what, seconds, 1e9, TIME_NS_MAX)
}

fn rate(what: &str, bytes_per_s: f64) -> Result<u64, PlanError> {
    match scaled(what, bytes_per_s, 1.0, 1 << 50)? {
        0 => Err(absurd(what, &bytes_per_s)),
        found => Ok(found),
    }
}

/// `value · scale`, rounded. The one place where a figure becomes an integer.
fn scaled(what: &str, value: f64, scale: f64, max: u64) -> Result<u64, PlanError> {
    let found = (value * scale).round();
    if !(0.0..=max as f64).contains(&found) || value.is_sign_negative() && value != 0.0 {
        return Err(absurd(what, &value));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let found = found as u64;
    Ok(found)
}

fn absurd(what: &str, value: &dyn std::fmt::Display) -> PlanError {
    PlanError::Absurd { what: what.to_owned(), value: value.to_string() }
}
