//! I3b: a stage computes a frame only if it is of the epoch that the stage took up last.

use std::collections::BTreeMap;

use atoll_proto::{Epoch, SessionId};

use super::{Invariant, Seen};

#[derive(Default)]
pub(super) struct Claim {
    current: BTreeMap<(usize, SessionId), Epoch>,
}

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "stages_append_in_their_epoch"
    }

    fn see(&mut self, _: u64, seen: &Seen<'_>) -> Option<String> {
        match *seen {
            Seen::Opened { node, session, epoch } => {
                self.current.insert((node, session), epoch);
                None
            }
            Seen::Job { node, framed: Some(framed), job, .. } => {
                // The origin is no stage: what comes around to it opened no epoch.
                let current = *self.current.get(&(node, job.session))?;
                (framed != current).then(|| {
                    format!("node {node} in epoch {} computes a frame of {}", current.0, framed.0)
                })
            }
            Seen::Job { .. }
            | Seen::Told { .. }
            | Seen::Cancelled { .. }
            | Seen::Memory { .. }
            | Seen::Outlived { .. }
            | Seen::Uplink { .. }
            | Seen::Left { .. }
            | Seen::Struck { .. }
            | Seen::Gone { .. }
            | Seen::Back { .. }
            | Seen::End => None,
        }
    }
}
