//! What must hold in every run: one file each, its claim in the first line.

use std::ops::Range;

use atoll_proto::{Epoch, Event, Job, RequestId, SessionId};

use crate::report::Report;
use crate::schedule::{Schedule, What};

mod caches_hold_each_position_once;
mod emitted_tokens_are_the_oracles;
mod errors_are_rightful;
mod every_request_ends;
mod indexes_have_no_gap;
mod links_carry_no_more_than_they_can;
mod memory_is_not_exceeded;
mod nothing_is_left_behind;
mod plans_cover_every_layer_once;
mod queues_are_bounded;
mod quiet;
mod sessions_end_with_their_request;
mod stages_append_in_their_epoch;
mod tokens_keep_coming;

/// Something that the world saw.
#[derive(Debug)]
pub enum Seen<'a> {
    /// The origin told its user.
    Told {
        /// What.
        event: &'a Event,
        /// For each stage of a plan in it: whether its layers are loaded, unless the origin cannot
        /// yet have heard that its node was lost.
        loaded: &'a [Option<bool>],
        /// With an error: how many members the origin has and does not suspect.
        members: usize,
    },
    /// The client of a request has gone, and the origin was told.
    Cancelled {
        /// Which request.
        request: RequestId,
    },
    /// A stage takes up an epoch of a session.
    Opened {
        /// Which node.
        node: usize,
        /// Whose.
        session: SessionId,
        /// Which epoch.
        epoch: Epoch,
    },
    /// A device was given a job.
    Job {
        /// Which device.
        node: usize,
        /// The epoch of the frame that it is for, if it is for one.
        framed: Option<Epoch>,
        /// Which.
        job: &'a Job,
        /// Length of the KV cache that it met.
        kv_len: u32,
        /// Jobs of its session that wait at the device, this one included.
        waiting: usize,
        /// From when to when it is computed, µs.
        computed_us: Range<u64>,
    },
    /// A fault strikes; it names the nodes that it truly strikes.
    Struck {
        /// Which.
        what: &'a What,
    },
    /// A node's process has ended, or its power is gone.
    Gone {
        /// Which.
        node: usize,
    },
    /// A node that was gone is back, and remembers nothing.
    Back {
        /// Which.
        node: usize,
    },
    /// A device's memory has filled.
    Memory {
        /// Which device.
        node: usize,
        /// Weights and caches.
        used_bytes: u64,
        /// What it may hold.
        memory_bytes: u64,
    },
    /// A node still holds the session of a request that ended a while ago.
    Outlived {
        /// Which node.
        node: usize,
        /// Which request.
        request: RequestId,
    },
    /// The run is over, this was its uplinks' work.
    Uplink {
        /// Whose.
        node: usize,
        /// Over all the run.
        bytes: u64,
    },
    /// The run is over and a node that is up still holds something.
    Left {
        /// Which node.
        node: usize,
        /// What.
        what: String,
    },
    /// The run is over.
    End,
}

/// A claim over a whole run. What only listens claims nothing.
pub trait Invariant {
    /// Its name in reports: the file's.
    fn name(&self) -> &'static str;
    /// What is wrong at `now`, µs, if anything.
    fn see(&mut self, now: u64, seen: &Seen<'_>) -> Option<String>;
}

impl<T: Invariant + ?Sized> Invariant for &mut T {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn see(&mut self, now: u64, seen: &Seen<'_>) -> Option<String> {
        (**self).see(now, seen)
    }
}

/// All invariants of one run.
pub(crate) struct Invariants<'a>(Vec<Box<dyn Invariant + 'a>>);

impl<'a> Invariants<'a> {
    pub(crate) fn new(schedule: &Schedule) -> Self {
        Self(vec![
            Box::new(emitted_tokens_are_the_oracles::Claim::new(schedule)),
            Box::new(indexes_have_no_gap::Claim::default()),
            Box::new(caches_hold_each_position_once::Claim),
            Box::new(memory_is_not_exceeded::Claim),
            Box::new(plans_cover_every_layer_once::Claim::new(schedule)),
            Box::new(queues_are_bounded::Claim),
            Box::new(every_request_ends::Claim::new(schedule)),
            Box::new(tokens_keep_coming::Claim::new(schedule)),
            Box::new(errors_are_rightful::Claim::new(schedule)),
            Box::new(stages_append_in_their_epoch::Claim::default()),
            Box::new(sessions_end_with_their_request::Claim::new(schedule)),
            Box::new(nothing_is_left_behind::Claim),
            Box::new(links_carry_no_more_than_they_can::Claim::new(schedule)),
        ])
    }

    pub(crate) fn add(&mut self, claims: impl IntoIterator<Item = Box<dyn Invariant + 'a>>) {
        self.0.extend(claims);
    }

    pub(crate) fn see(&mut self, report: &mut Report, now: u64, seen: &Seen<'_>) {
        for claim in &mut self.0 {
            if let Some(what) = claim.see(now, seen) {
                report.violations.push((claim.name(), format!("at {now} µs: {what}")));
            }
        }
    }
}
