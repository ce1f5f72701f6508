//! What computing and sending cost: the one place that says so, for every run.
//!
//! A first honest form: bytes of weights over the device's speed, more rows of a chunk at a speed
//! of their own, the cache's bytes for every row, and something for each job. No term knows where
//! the figures come from: a profile, or a measurement of the real engine.

use serde::{Deserialize, Serialize};

use crate::hash_model::LAYERS;
use crate::schedule::LAYER_BYTES;

/// The model that is served. Its values are hashes; these are its sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// How many layers.
    pub layers: u16,
    /// Weight bytes of each.
    pub layer_bytes: u64,
    /// Bytes of the embedding.
    pub embed_bytes: u64,
    /// Bytes of the head that the embedding does not hold already.
    pub head_bytes: u64,
    /// Bytes that the head reads for a token.
    pub head_read_bytes: u64,
    /// KV cache bytes of one position in one layer.
    pub kv_bytes_per_position: u32,
    /// Bytes of an activation row on the wire.
    pub row_bytes: u32,
    /// Positions per session.
    pub context: u32,
    /// Prompt tokens per frame.
    pub prefill_chunk: u32,
}

impl Default for Model {
    /// The swarm's: small in everything, so that what counts are the messages.
    fn default() -> Self {
        Self {
            layers: LAYERS,
            layer_bytes: LAYER_BYTES,
            embed_bytes: 100_000,
            head_bytes: 100_000,
            head_read_bytes: 0,
            kv_bytes_per_position: 64,
            row_bytes: 8,
            context: 512,
            prefill_chunk: 7,
        }
    }
}

impl Model {
    pub(crate) fn is_standard(&self) -> bool {
        *self == Self::default()
    }
}

/// How fast a device computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// Weight bytes per second for the first row of a job.
    pub weight_bytes_per_s: u64,
    /// Weight bytes per second for each further row of it.
    pub more_rows_bytes_per_s: u64,
    /// Cache bytes per second for a row alone.
    pub kv_bytes_per_s: u64,
    /// Cache bytes per second for each row of several, which read the cache together; absent: as
    /// for a row alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more_rows_kv_bytes_per_s: Option<u64>,
    /// What each job takes beside, µs.
    pub job_us: u64,
    /// Bytes per second at which a part is fetched and loaded.
    pub load_bytes_per_s: u64,
}

/// What a job asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Layers.
    pub layers: u64,
    /// Rows, one behind the other.
    pub rows: u64,
    /// Positions in the cache before.
    pub from_pos: u64,
    /// Whether a token is made of the last row.
    pub head: bool,
}

impl Speed {
    /// Time of a job, µs.
    #[must_use]
    pub fn job_us(&self, model: &Model, work: Work) -> u64 {
        let Work { layers, rows, from_pos, head } = work;
        let weights = layers * model.layer_bytes;
        // Row i looks at from_pos + i + 1 positions.
        let positions = rows * from_pos + rows * (rows + 1) / 2;
        let kv = layers * u64::from(model.kv_bytes_per_position) * positions;
        let head = if head { model.head_read_bytes } else { 0 };
        let together = self.more_rows_kv_bytes_per_s.filter(|_| rows > 1);
        let kv_bytes_per_s = together.unwrap_or(self.kv_bytes_per_s);
        let ns = ns(weights + head, self.weight_bytes_per_s)
            + ns(weights * rows.saturating_sub(1), self.more_rows_bytes_per_s)
            + ns(kv, kv_bytes_per_s);
        self.job_us + ns / 1000
    }
}

/// Of such a device, how many times as fast a row is that goes through with others.
pub(crate) const STANDARD_ROWS_GAIN: u64 = 4;

/// Time of a job on a device of which only the speed that it tells is known, µs.
pub(crate) fn standard_job_us(model: &Model, work: Work, weight_bytes_per_s: u64) -> u64 {
    // Many rows share one pass over the weights.
    let row_us = 20 + work.layers * model.layer_bytes * 1_000_000 / weight_bytes_per_s.max(1);
    row_us * (STANDARD_ROWS_GAIN - 1 + work.rows) / STANDARD_ROWS_GAIN
}

/// Time that bytes take at a rate, ns.
fn ns(bytes: u64, bytes_per_s: u64) -> u64 {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX / 8)
}

/// Time that bytes take at a rate, µs.
#[must_use]
pub fn sending_us(bytes: u64, bytes_per_s: u64) -> u64 {
    bytes.saturating_mul(1_000_000) / bytes_per_s.max(1)
}

/// Within each so long a process with a share of a core may use its share, µs: short beside a
/// token, so that a share slows a process down instead of stopping it now and then.
pub const QUOTA_PERIOD_US: u64 = 5_000;

/// A share of a core, as a control group gives it: so much in every period. What is not used does
/// not add up, and what is done within a period's share is done at full speed.
#[derive(Clone, Debug)]
pub(crate) struct Quota {
    us: u64,
    period: u64,
    left_us: u64,
}

impl Quota {
    /// So many thousandths of a core.
    pub(crate) fn new(permille: u64) -> Self {
        let us = (QUOTA_PERIOD_US * permille / 1000).max(1);
        Self { us, period: 0, left_us: us }
    }

    /// When work of `us` is done that begins at `at`.
    pub(crate) fn through(&mut self, mut at: u64, mut us: u64) -> u64 {
        loop {
            let period = at / QUOTA_PERIOD_US;
            if period > self.period {
                (self.period, self.left_us) = (period, self.us);
            }
            let end = (period + 1) * QUOTA_PERIOD_US;
            let done = us.min(self.left_us).min(end - at);
            at += done;
            us -= done;
            self.left_us -= done;
            if us == 0 {
                return at;
            }
            at = end;
        }
    }
}

/// The cores that all devices share, if they are processes on one machine.
#[derive(Debug)]
pub(crate) struct Cores {
    /// When each is free.
    free_at: Vec<u64>,
}

impl Cores {
    pub(crate) fn new(cores: Option<usize>) -> Self {
        Self { free_at: vec![0; cores.unwrap_or(0)] }
    }

    /// When work that may begin at `from` and takes `us` begins, on the core that is left idle
    /// for the shortest time by it. Without shared cores: at once.
    pub(crate) fn begin(&mut self, from: u64, us: u64) -> u64 {
        let free = self.free_at.iter_mut().filter(|at| **at <= from);
        let core = match free.max() {
            Some(core) => core,
            None => match self.free_at.iter_mut().min() {
                Some(core) => core,
                None => return from,
            },
        };
        let begin = from.max(*core);
        *core = begin + us;
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed() -> Speed {
        Speed {
            weight_bytes_per_s: 1_000_000_000,
            more_rows_bytes_per_s: 4_000_000_000,
            kv_bytes_per_s: 2_000_000_000,
            more_rows_kv_bytes_per_s: None,
            job_us: 5,
            load_bytes_per_s: 1,
        }
    }

    #[test]
    fn each_term_counts_once() {
        let model = Model { layer_bytes: 1_000_000, head_read_bytes: 500_000, ..Model::default() };
        let us = |layers, rows, from_pos, head| {
            speed().job_us(&model, Work { layers, rows, from_pos, head })
        };
        assert_eq!(us(0, 1, 0, false), 5);
        assert_eq!(us(0, 1, 0, true), 5 + 500);
        assert_eq!(us(2, 1, 0, false), 5 + 2000);
        assert_eq!(us(2, 5, 0, false), 5 + 2000 + 4 * 500, "15 positions of 64 bytes are nothing");
        // 1,000 positions before, in two layers: 128,000 bytes.
        assert_eq!(us(2, 1, 999, false), 5 + 2000 + 64);
        // Two rows behind 999: 256,128 bytes, four times as fast as one by one.
        let together = Speed { more_rows_kv_bytes_per_s: Some(8_000_000_000), ..speed() };
        let us =
            |rows| together.job_us(&model, Work { layers: 2, rows, from_pos: 999, head: false });
        assert_eq!((us(1), us(2)), (5 + 2000 + 64, 5 + 2000 + 500 + 32));
    }

    #[test]
    fn a_share_of_a_core_is_as_fast_as_the_core_until_it_is_used_up() {
        let mut half = Quota::new(500);
        assert_eq!(half.through(10_000, 2_000), 12_000, "500 µs of this period are left");
        assert_eq!(half.through(13_000, 1_000), 15_500, "the other half comes with the next");
        assert_eq!(half.through(20_000, 10_000), 37_500, "four periods' shares");
        let mut late = Quota::new(500);
        assert_eq!(late.through(14_000, 3_000), 17_000, "a share, and one of the next period");
        let mut whole = Quota::new(1_000);
        assert_eq!(whole.through(12_345, 100_000), 112_345);
    }

    #[test]
    fn cores_are_shared_by_what_fits_best() {
        let mut two = Cores::new(Some(2));
        assert_eq!(two.begin(0, 100), 0);
        assert_eq!(two.begin(50, 100), 50, "the second is free");
        assert_eq!(two.begin(60, 10), 100, "both are taken");
        assert_eq!(two.begin(150, 10), 150);
        assert_eq!(two.begin(155, 10), 155, "one of them is free since 110");
        let mut own = Cores::new(None);
        assert_eq!((own.begin(7, 100), own.begin(8, 100)), (7, 8));
    }
}
