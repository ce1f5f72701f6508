//! `/metrics`: what `/api/v1/state` says, in Prometheus' text form.

use std::sync::atomic::AtomicU64;

use atoll_node::{PlanView, Status};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

/// What the answer is, as scrapers ask for it.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// Every figure of `status` that is a number and moves; times are seconds.
///
/// Names of nodes and models come from others: as label values they are escaped, and their number
/// is that of the members.
#[must_use]
pub(crate) fn text(status: &Status) -> String {
    let mut scrape = Scrape { registry: Registry::with_prefix("atoll") };
    scrape.node(status);
    scrape.peers(status);
    scrape.models(status);
    if let Some(plan) = &status.plan {
        scrape.timing(plan);
    }
    scrape.links(status);
    let mut text = String::new();
    encode(&mut text, &scrape.registry).expect("a string takes everything");
    text
}

struct Scrape {
    registry: Registry,
}

impl Scrape {
    fn add(&mut self, name: &str, help: &str, unit: Option<Unit>, metric: impl Metric) {
        match unit {
            Some(unit) => self.registry.register_with_unit(name, help, unit, metric),
            None => self.registry.register(name, help, metric),
        }
    }

    fn gauges(&mut self, name: &str, help: &str, unit: Option<Unit>) -> Gauges {
        let gauges = Gauges::default();
        self.add(name, help, unit, gauges.clone());
        gauges
    }

    fn one(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.add(name, help, unit, gauge);
    }

    fn count(&mut self, name: &str, help: &str, bytes: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(bytes);
        self.add(name, help, Some(Unit::Bytes), counter);
    }

    fn node(&mut self, status: &Status) {
        let node = &status.node;
        let what = vec![("version", node.version.clone()), ("kernels", node.kernels.clone())];
        set(&self.gauges("build_info", "This program; always 1", None), what, 1.0);
        self.one("uptime", "Since the start", Some(Unit::Seconds), float(node.uptime_s));
        let memory = "Memory that models may take";
        self.one("memory", memory, Some(Unit::Bytes), float(node.memory_bytes));
        if let Some(bytes) = node.rss_bytes {
            let help = "Memory of this process that is in use";
            self.one("resident_memory", help, Some(Unit::Bytes), float(bytes));
        }
        let requests = "Requests of this node's own under way";
        self.one("requests", requests, None, f64::from(status.requests));
        let sum = |of: fn(&atoll_node::HeldView) -> u64| float(status.held.iter().map(of).sum());
        let (weights, caches) = (sum(|held| held.weight_bytes), sum(|held| held.kv_bytes));
        self.one("held_weights", "Weights in memory", Some(Unit::Bytes), weights);
        self.one("held_caches", "KV caches in memory", Some(Unit::Bytes), caches);
        let blobs = status.blobs;
        self.count("blobs_received", "Blobs and manifests from peers", blobs.received_bytes);
        self.count("blobs_sent", "Blobs and manifests to peers", blobs.sent_bytes);
    }

    fn peers(&mut self, status: &Status) {
        let count = u32::try_from(status.peers.len()).map_or(f64::INFINITY, f64::from);
        self.one("peers", "Members that this node is connected to", None, count);
        let (received, sent) = (Counters::default(), Counters::default());
        let bytes = Some(Unit::Bytes);
        self.add("peer_received", "Messages from a member", bytes.clone(), received.clone());
        self.add("peer_sent", "Messages to a member", bytes, sent.clone());
        for peer in &status.peers {
            let who = vec![("peer", peer.name.clone())];
            received.get_or_create(&who).inc_by(peer.bytes_received);
            sent.get_or_create(&who).inc_by(peer.bytes_sent);
        }
    }

    fn models(&mut self, status: &Status) {
        let ready = self.gauges("model_ready", "Whether a model answers requests", None);
        let layers = self.gauges("model_layers", "Layers of a model that a node holds", None);
        for model in &status.models {
            let of = ("model", model.name.clone());
            set(&ready, vec![of.clone()], f64::from(u8::from(model.ready)));
            for stage in &model.stages {
                let n = f64::from(stage.layers[1].saturating_sub(stage.layers[0]));
                set(&layers, vec![of.clone(), ("node", stage.node.clone())], n);
            }
        }
    }

    /// What is predicted beside what was measured; what was not is left out.
    fn timing(&mut self, plan: &PlanView) {
        let Some(timing) = &plan.timing else { return };
        let seconds = Some(Unit::Seconds);
        let token = self.gauges("token", "A token of the plan in force", seconds.clone());
        let first = "From a prompt to its first token, by the plan in force";
        let first = self.gauges("first_token", first, seconds.clone());
        let between = "Of a token what is not computing: on its way, and waiting";
        let between = self.gauges("token_between_nodes", between, seconds.clone());
        let compute = "Of a token what a node computes";
        let compute = self.gauges("token_compute", compute, seconds);
        let of = ("model", plan.model.clone());
        let both = |gauges: &Gauges, node: Option<&String>, ms: [Option<f64>; 2]| {
            for (what, ms) in ["predicted", "measured"].into_iter().zip(ms) {
                let mut labels = vec![of.clone()];
                labels.extend(node.map(|node| ("node", node.clone())));
                labels.push(("by", what.to_owned()));
                if let Some(ms) = ms {
                    set(gauges, labels, ms / 1e3);
                }
            }
        };
        both(&token, None, [Some(timing.token_ms), timing.measured_token_ms]);
        both(&first, None, [Some(timing.first_token_ms), None]);
        both(&between, None, [Some(timing.between_ms), timing.measured_between_ms]);
        for node in &timing.nodes {
            both(&compute, Some(&node.node), [Some(node.compute_ms), node.measured_ms]);
        }
    }

    fn links(&mut self, status: &Status) {
        let rtt = "Between two nodes, there and back again";
        let rtt = self.gauges("link_round_trip", rtt, Some(Unit::Seconds));
        let rate = "What the way from one node to another carries";
        let rate = self.gauges("link", rate, Some(Unit::Other("bytes_per_second".to_owned())));
        for link in &status.links {
            let ends = vec![("from", link.from.clone()), ("to", link.to.clone())];
            if let Some(us) = link.rtt_us {
                set(&rtt, ends.clone(), f64::from(us) / 1e6);
            }
            if let Some(bytes) = link.bytes_per_s {
                set(&rate, ends, float(bytes));
            }
        }
    }
}

fn set(gauges: &Gauges, labels: Labels, value: f64) {
    gauges.get_or_create(&labels).set(value);
}

/// The nearest float.
#[expect(clippy::cast_precision_loss, reason = "nobody reads the last digits of bytes")]
const fn float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests;
