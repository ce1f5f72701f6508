//! What `atoll plan` prints.

use atoll_plan::Found;
use atoll_plan::cost::{self, Busiest};
use atoll_plan::explain::LeftOut;
use atoll_plan::{Objective, Placement, Query};
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
    /// For what the plan is the best: `latency` or `throughput`.
    objective: &'static str,
    /// No plan takes less per token, alone or as one of all users.
    bound_tpot_s: f64,
    /// Divergence that variants cost, nats.
    loss_nats: f64,
    left_out: Vec<Left>,
    /// With `--explain` and several users: what the plan for the other objective takes.
    instead: Option<Instead>,
}

#[derive(Debug, Serialize)]
struct Instead {
    objective: &'static str,
    nodes: Vec<String>,
    tpot_s: f64,
    users_tpot_s: f64,
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
    /// Until each of them has its next token.
    users_tpot_s: f64,
    /// They go around in so many groups.
    groups: u64,
    /// What has most to do in a round, and which part of the round.
    busiest: String,
    busiest_share: f64,
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
    pub(super) fn new(query: &Query<'_>, found: &Found, left_out: &[LeftOut]) -> Self {
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
        let users = query.policy.sessions;
        let round = cost::round(query, placement, users).expect("a plan has its links");
        let round_ns = round.round_ns.max(1);
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
                tokens_per_s: users as f64 / seconds(round_ns),
                users,
                users_tpot_s: seconds(round_ns),
                groups: round.groups,
                busiest: match round.busiest {
                    Busiest::Node(node) => name(node),
                    Busiest::Link(from, to) => format!("{} to {}", name(from), name(to)),
                },
                busiest_share: (round.busiest_ns * round.groups) as f64 / round_ns as f64,
                ends_s: seconds(prediction.ends_ns),
            },
            objective: match query.policy.objective {
                Objective::Latency => "latency",
                Objective::Throughput => "throughput",
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
            instead: None,
        }
    }

    /// Puts the plan for the other objective beside this one.
    pub(super) fn compare(&mut self, other: &Self) {
        self.instead = Some(Instead {
            objective: other.objective,
            nodes: other.stages.iter().map(|stage| stage.node.clone()).collect(),
            tpot_s: other.predicted.tpot_s,
            users_tpot_s: other.predicted.users_tpot_s,
        });
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
        let bound = format!(" (no plan takes less than {})", ms(self.bound_tpot_s));
        let (alone, together) = if self.objective == "latency" {
            (bound, String::new())
        } else {
            (String::new(), bound)
        };
        lines.push(format!(
            "one token {}{alone}, first token {}, {:.2} tokens/s for {}",
            ms(predicted.tpot_s),
            ms(predicted.ttft_s),
            predicted.tokens_per_s,
            predicted.users,
        ));
        if predicted.users > 1 {
            lines.push(format!(
                "{} users at once in {} groups: each has a token every {}{together}; {} is busy \
                 for {:.0} % of that",
                predicted.users,
                predicted.groups,
                ms(predicted.users_tpot_s),
                predicted.busiest,
                predicted.busiest_share * 100.0,
            ));
        }
        if let Some(instead) = &self.instead {
            lines.push(format!(
                "the plan for {} instead: {}; one token {}, each of {} users one every {}",
                instead.objective,
                instead.nodes.join(", "),
                ms(instead.tpot_s),
                predicted.users,
                ms(instead.users_tpot_s),
            ));
        }
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
