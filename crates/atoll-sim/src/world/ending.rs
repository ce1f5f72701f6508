//! What is looked at after a request's end, and at the end of the run.

use atoll_proto::RequestId;

use super::World;
use crate::invariants::Seen;

impl World<'_> {
    /// Some time after a request's end: who still holds its session?
    pub(super) fn look_back(&mut self, request: RequestId) {
        let session = self.session(request);
        for node in 0..self.nodes.len() {
            let slot = &self.nodes[node];
            if !slot.is_up {
                continue;
            }
            let mut stages = slot.node.snapshot().stage_sessions.into_iter();
            if stages.any(|held| held.session == session)
                || slot.device.sessions().any(|held| held == session)
            {
                self.see(&Seen::Outlived { node, request });
            }
        }
    }

    pub(super) fn end(&mut self) {
        self.see(&Seen::End);
        for node in 0..self.nodes.len() {
            let bytes = self.network.sent_bytes(node, self.now);
            self.see(&Seen::Uplink { node, bytes });
            let slot = &self.nodes[node];
            if !slot.is_up {
                continue;
            }
            let snapshot = slot.node.snapshot();
            let (stages, caches) = (snapshot.stage_sessions.len(), slot.device.sessions().count());
            if stages + caches + snapshot.sessions.len() > 0 {
                let what = format!("{stages} sessions for others, {caches} KV caches");
                self.see(&Seen::Left { node, what });
            }
        }
        let heard = self.report.answers.iter().filter(|answer| !answer.token_us.is_empty());
        self.report.gaps_us = heard.map(|answer| answer.gap_us(0)).collect();
    }
}
