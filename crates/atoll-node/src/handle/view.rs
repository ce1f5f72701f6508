//! The node as `atoll.status/1`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use atoll_proto::ModelId;
use atoll_proto::plan::Plan;
use atoll_proto::snapshot::{LinkView, Peer, Timing};

use super::{NodeHandle, lock};
use crate::events::{Names, id_text, stages_of};
use crate::served::Served;
use crate::status::{
    BlobsView, HeldView, LinkTimingView, ModelView, NodeTimingView, NodeView, PeerView, PlanView,
    STATUS_SCHEMA, Status, TimingView,
};

impl NodeHandle {
    /// This node's id, as libp2p writes it.
    #[must_use]
    pub fn id(&self) -> String {
        id_text(self.shared.core.id())
    }

    /// This node, its members and its models.
    #[must_use]
    pub fn status(&self) -> Status {
        let plans = self.shared.core.plans();
        Status {
            schema: STATUS_SCHEMA.to_owned(),
            node: self.node_view(),
            peers: self.peers(),
            models: self.models(&plans),
            plan: plans.values().next().map(|plan| self.plan_view(plan)),
            links: self.links(),
            held: self.held(),
            requests: self.shared.core.n_requests(),
            ring: self.shared.core.rounds().view(),
            blobs: BlobsView {
                received_bytes: self.shared.blob_bytes_received.load(Ordering::Relaxed),
                sent_bytes: self.shared.blob_bytes_sent.load(Ordering::Relaxed),
            },
            search: self.shared.search.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn node_view(&self) -> NodeView {
        let profile = self.shared.core.profile();
        NodeView {
            id: self.id(),
            name: self.shared.name.clone(),
            listen: self.addresses(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.shared.started.elapsed().as_secs(),
            memory_bytes: profile.memory_bytes,
            weight_bytes_per_s: profile.weight_bytes_per_s,
            prefill_bytes_per_s: profile.prefill_bytes_per_s,
            threads: self.shared.options.threads,
            kernels: self.shared.kernels.clone(),
            rss_bytes: rss_bytes(),
        }
    }

    fn peers(&self) -> Vec<PeerView> {
        let links = self.shared.core.links.infos();
        let view = |member: Peer| {
            let link = links.get(&member.node)?;
            Some(PeerView {
                id: id_text(member.node),
                name: member.name,
                address: link.address.to_string(),
                transport: link.transport().to_owned(),
                found_by: link.found_by.to_owned(),
                rtt_us: link.rtt_us,
                memory_bytes: member.profile.memory_bytes,
                weight_bytes_per_s: member.profile.weight_bytes_per_s,
                prefill_bytes_per_s: member.profile.prefill_bytes_per_s,
                bytes_received: link.bytes_received,
                bytes_sent: link.bytes_sent,
            })
        };
        self.shared.core.snapshot().peers.into_iter().filter_map(view).collect()
    }

    fn models(&self, plans: &BTreeMap<ModelId, Plan>) -> Vec<ModelView> {
        let served = lock(&self.shared.served);
        let names = self.shared.core.names();
        let view = |served: &Arc<Served>| {
            let plan = plans.get(&served.id);
            ModelView {
                name: served.name.clone(),
                id: served.id.to_string(),
                context: plan.map_or(0, |plan| plan.context),
                ready: plan.is_some(),
                stages: plan.map_or_else(Vec::new, |plan| stages_of(plan, &names)),
                widths: served.widths.clone(),
                loss_nats: served.loss_nats(),
            }
        };
        served.values().map(view).collect()
    }

    fn plan_view(&self, plan: &Plan) -> PlanView {
        let timing = self.shared.core.timing(plan.model);
        let names = self.shared.core.names();
        PlanView {
            model: plan.model.to_string(),
            epoch: plan.epoch.0,
            stages: stages_of(plan, &names),
            context: plan.context,
            timing: timing.map(|timing| timing_view(&timing, &names)),
        }
    }

    fn links(&self) -> Vec<LinkTimingView> {
        let links = self.shared.core.known_links();
        let names = self.shared.core.names();
        let view = |link: LinkView| LinkTimingView {
            from: names.of(link.from),
            to: names.of(link.to),
            rtt_us: link.figures.rtt_us,
            bytes_per_s: link.figures.bytes_per_s,
        };
        links.into_iter().map(view).collect()
    }

    fn held(&self) -> Vec<HeldView> {
        self.shared
            .core
            .held()
            .into_iter()
            .map(|(model, held)| HeldView {
                model: model.to_string(),
                layers: held.part.layers.map_or([0, 0], |range| [range.start, range.end]),
                embed: held.part.embed,
                head: held.part.head,
                weight_bytes: held.weight_bytes,
                kv_bytes: held.kv_bytes,
                sessions: held.sessions,
            })
            .collect()
    }
}

fn timing_view(timing: &Timing, names: &Names) -> TimingView {
    let (mut computed_us, mut measured_us) = (0, Some(0));
    let nodes = timing.nodes.iter().map(|node| {
        computed_us += node.predicted_us;
        measured_us = measured_us.zip(node.measured_us).map(|(sum, us)| sum + us);
        NodeTimingView {
            node: names.of(node.node),
            compute_ms: ms(node.predicted_us),
            measured_ms: node.measured_us.map(ms),
        }
    });
    let nodes = nodes.collect();
    let measured = timing.measured_token_us.zip(measured_us);
    TimingView {
        positions: timing.positions,
        token_ms: ms(timing.token_us),
        measured_token_ms: timing.measured_token_us.map(ms),
        prompt_tokens: timing.prompt_tokens,
        first_token_ms: ms(timing.first_token_us),
        nodes,
        between_ms: ms(timing.token_us.saturating_sub(computed_us)),
        measured_between_ms: measured.map(|(token, computed)| ms(token.saturating_sub(computed))),
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

/// Resident memory of this process (`VmRSS`), where the system tells.
fn rss_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
