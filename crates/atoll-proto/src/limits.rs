//! Every bound of the core, each with its reason.

/// What one node takes on at most. The driver may lower any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Peers connected at once: each costs a connection and its buffers.
    pub peers_max: usize,
    /// Discovery hints remembered: they come unauthenticated, so they must not pile up.
    pub hints_max: usize,
    /// Time from connection to hello, µs: a connection that says nothing is not kept. Longer than a
    /// radio is off the air, else one side has joined already when the other hangs up.
    pub hello_timeout_us: u64,
    /// Time between two beats to a member that needs them often, µs.
    pub beat_us: u64,
    /// So long after a promised beat a member is asked for, µs: more than a busy link delays it.
    pub overdue_us: u64,
    /// So long others wait for an answer of it before they say that they do not hear it, µs.
    pub answer_us: u64,
    /// Silence after which a member is lost if others do not hear it either, µs: three times as
    /// long as a radio is off the air for a scan. Suspicion comes long before, and is taken back.
    pub evict_us: u64,
    /// And if nobody else can tell, µs: longer than a transport waits before it sends again (two
    /// minutes at most in Linux), since a connection can be stuck so long between two that live.
    /// Whom others hear is never lost for its silence.
    pub evict_alone_us: u64,
    /// Requests running or waiting at this origin: one per live client stream, with room.
    pub requests_max: usize,
    /// Sessions held for other origins: bounds the bookkeeping beside the KV budget.
    pub stage_sessions_max: usize,
    /// Models this node holds parts of for other owners.
    pub assignments_max: usize,
    /// Positions in one frame: a larger prefill chunk is cut, a larger frame is refused.
    pub chunk_rows_max: u32,
    /// Prefill chunks of one session in the ring at once: enough to keep each stage of a short
    /// ring busy, few enough to bound what waits at a slow one.
    pub chunks_in_flight_max: usize,
    /// Jobs of one session waiting at a stage: above any honest origin's chunks in flight.
    pub stage_jobs_max: usize,
    /// Bytes of sent activations kept so that the next stage can be rebuilt, all sessions together:
    /// part of the 64 MiB that a node may use beside weights and KV cache.
    pub boundary_bytes_max: usize,
    /// A node without progress in fetching or loading its part gives up, µs.
    pub prepare_stall_us: u64,
    /// A stage waits so long for a connection to the stage after it, µs.
    pub neighbour_wait_us: u64,
    /// Floor of the time that one stage may take over one job, µs. Far above a slow device's
    /// step: slow is not dead.
    pub hop_timeout_us: u64,
    /// Floor of the time in which a ring must give something back before it is opened again, µs:
    /// opening again costs one small message per stage and harms nobody, so it may come early.
    pub ring_patience_us: u64,
    /// Openings in a row that a stage leaves unanswered before another takes its place: never one.
    pub stage_strikes_max: u8,
    /// A suspected node is not chosen again for so long, µs.
    pub suspicion_us: u64,
    /// Refusals and restarts of one request between two tokens before it ends with an error.
    pub recoveries_max: u8,
    /// What was loaded for an owner that is gone is kept so long, µs: it may come back.
    pub orphan_us: u64,
    /// A session untouched so long is released by its stages, µs: nothing leaks.
    pub session_idle_us: u64,
    /// Least time between two nacks, or two answers to one, of a session, µs.
    pub nack_interval_us: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers_max: 128,
            hints_max: 256,
            hello_timeout_us: 10_000_000,
            beat_us: 500_000,
            overdue_us: 650_000,
            answer_us: 350_000,
            evict_us: 20_000_000,
            evict_alone_us: 180_000_000,
            requests_max: 256,
            stage_sessions_max: 256,
            assignments_max: 16,
            chunk_rows_max: 512,
            chunks_in_flight_max: 8,
            stage_jobs_max: 16,
            boundary_bytes_max: 32 << 20,
            prepare_stall_us: 60_000_000,
            neighbour_wait_us: 10_000_000,
            hop_timeout_us: 10_000_000,
            ring_patience_us: 500_000,
            stage_strikes_max: 3,
            suspicion_us: 30_000_000,
            recoveries_max: 8,
            orphan_us: 10_000_000,
            session_idle_us: 300_000_000,
            nack_interval_us: 200_000,
        }
    }
}

/// Bytes of a node's chosen name.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a model's name.
pub const MODEL_NAME_BYTES_MAX: usize = 256;
/// Bytes of a cause in a peer's words: a line for a log, not a document.
pub const CAUSE_BYTES_MAX: usize = 512;
/// Stages of one plan: a ring longer than this is slower than any part of it.
pub const STAGES_MAX: usize = 64;
/// Hop times in one frame: one per stage.
pub const HOPS_MAX: usize = 64;
/// Layers of one model; the largest published ones have a few hundred.
pub const LAYERS_MAX: usize = 1024;
/// Blob holders named in one assignment.
pub const HOLDERS_MAX: usize = 64;
/// Values of one activation row; the largest published models have 16 384.
pub const ROW_VALUES_MAX: u32 = 32_768;
/// Nodes beside its owner that a plan is made with, and between which links are measured: pairs
/// grow with their square.
pub const SURVEYED_MAX: usize = 16;
/// Bytes that a probe carries to show how long they take: what a connection sends before it has
/// heard back, and more than most rows.
pub const FILLER_BYTES_MAX: usize = 12 << 10;
/// Closed sessions remembered, so that an opening overtaken by its closing is not taken up.
pub const TOMBSTONES_MAX: usize = 1024;
/// Bytes of a sampler's report per token.
pub const DETAIL_BYTES_MAX: usize = 16 << 10;

/// `text` cut to `max` bytes at a character's border.
pub(crate) fn clip(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
