//! What `atoll plan` prints.

use atoll_plan::Found;
use atoll_plan::explain::LeftOut;
use atoll_plan::{Placement, Query, cost};
use serde::Serialize;

use crate::output::bytes_text;

/// `atoll.plan/1`
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: &'static str,
    model: String,
    origin: String,
    stages: Vec<Stage>,
    head: String,
    hops: Vec<Hop>,
    predicted: Predicted,
    /// No plan takes less per token.
    bound_tpot_s: f64,
    /// Divergence that variants cost, nats.
    loss_nats: f64,
    left_out: Vec<Left>,
}

#[derive(Debug, Serialize)]
struct Stage {
    node: String,
    layers: [usize; 2],
    variants: Vec<String>,
    predicted_s: f64,
    memory_bytes: u64,
    memory_free_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Hop {
    from: String,
    to: String,
    codec: String,
    frame_bytes: u64,
    predicted_s: f64,
}

#[derive(Debug, Serialize)]
struct Predicted {
    tpot_s: f64,
    ttft_s: f64,
    tokens_per_s: f64,
    users: u64,
    /// Of `tpot_s`: embedding and head.
    ends_s: f64,
}

#[derive(Debug, Serialize)]
struct Left {
    node: String,
    why: String,
    change: Option<String>,
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl Report {
    pub(super) fn new(query: &Query<'_>, found: &Found, left_out: &[LeftOut], users: u64) -> Self {
        let (fleet, model) = (query.fleet, query.model);
        let name = |node: usize| fleet.nodes()[node].name.clone();
        let (placement, prediction) = (&found.placement, &found.prediction);
        let stages = placement.stages.iter().zip(&prediction.stage_ns).map(|(stage, &ns)| {
            let own = if stage.node == fleet.owner() { model.ends_bytes } else { 0 };
            let layers = stage.layers.clone().zip(&stage.variants);
            Stage {
                node: name(stage.node),
                layers: [stage.layers.start, stage.layers.end],
                variants: layers
                    .map(|(layer, &v)| model.layers[layer].variants[v].name.clone())
                    .collect(),
                predicted_s: seconds(ns),
                memory_bytes: Placement::stage_bytes(query, stage) + own,
                memory_free_bytes: fleet.nodes()[stage.node].memory_bytes,
            }
        });
        let ring = placement.ring(fleet.owner());
        let hops = ring.windows(2).zip(placement.codecs.iter().zip(&prediction.hop_ns));
        let hops = hops.map(|(pair, (&codec, &ns))| Hop {
            from: name(pair[0]),
            to: name(pair[1]),
            codec: model.codecs[codec].name.clone(),
            frame_bytes: if pair[0] == pair[1] { 0 } else { model.frame_bytes(codec, 1) },
            predicted_s: seconds(ns),
        });
        let tokens = cost::tokens_per_1000_s(query, placement, users).unwrap_or(0);
        Self {
            schema: "atoll.plan/1",
            model: model.name.clone(),
            origin: name(fleet.owner()),
            stages: stages.collect(),
            head: name(fleet.owner()),
            hops: hops.collect(),
            predicted: Predicted {
                tpot_s: seconds(prediction.token_ns),
                ttft_s: seconds(prediction.first_token_ns),
                tokens_per_s: tokens as f64 / 1000.0,
                users,
                ends_s: seconds(prediction.ends_ns),
            },
            bound_tpot_s: seconds(found.bound_ns),
            loss_nats: placement.loss(query) as f64 / 1e6,
            left_out: left_out
                .iter()
                .map(|left| Left {
                    node: name(left.node),
                    why: left.why.to_string(),
                    change: left.change.map(|change| change.to_string()),
                })
                .collect(),
        }
    }

    pub(super) fn text(&self, explained: bool) -> String {
        let ms = |s: f64| format!("{:.2} ms", s * 1e3);
        let mut lines = vec![format!("{} from {}", self.model, self.origin)];
        for (i, stage) in self.stages.iter().enumerate() {
            let [start, end] = stage.layers;
            let hop = &self.hops[i];
            lines.push(format!(
                "  {:<20} layers {:>9}  {:>10}  {:>9} of {:>9}  hop {:>10}",
                stage.node,
                format!("{start}..{end}"),
                ms(stage.predicted_s),
                bytes_text(stage.memory_bytes),
                bytes_text(stage.memory_free_bytes),
                ms(hop.predicted_s),
            ));
        }
        let (predicted, back) = (&self.predicted, self.hops.last());
        lines.push(format!(
            "  {:<20} embedding, head   {:>10}{:>35} {:>10}",
            self.head,
            ms(predicted.ends_s),
            "hop",
            ms(back.map_or(0.0, |hop| hop.predicted_s)),
        ));
        lines.push(format!(
            "one token {} (no plan takes less than {}), first token {}, {:.2} tokens/s for {}",
            ms(predicted.tpot_s),
            ms(self.bound_tpot_s),
            ms(predicted.ttft_s),
            predicted.tokens_per_s,
            predicted.users,
        ));
        if self.stages.len() == 1 && !self.left_out.is_empty() {
            lines.push("one node alone is fastest".to_owned());
        }
        if explained {
            lines.extend(self.left_out.iter().map(|left| {
                let change = left.change.as_ref().map(|change| format!("; {change}"));
                format!("{} is left out: {}{}", left.node, left.why, change.unwrap_or_default())
            }));
        } else if !self.left_out.is_empty() {
            lines.push(format!("{} nodes left out; --explain says why", self.left_out.len()));
        }
        lines.join("\n")
    }
}
