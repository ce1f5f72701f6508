//! What the real engine takes on this machine, one process alone: the figures that a prediction
//! is made of.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atoll_sim::cost::Model;
use atoll_sim::scenario::DeviceProfile;
use serde_json::Value;

/// Prompt tokens of the two timed prefills: one chunk, as `atoll serve` cuts prompts, and two.
const CHUNKS: [u64; 2] = [128, 256];
/// Tokens that are decoded.
const DECODED: u64 = 24;
/// Positions in the cache before, in one measurement and in the other.
const CONTEXTS: [u64; 2] = [16, 400];

/// What the engine alone took for the whole model, s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Times {
    /// A token behind each of the contexts.
    token: [f64; 2],
    /// Each of the chunks, from an empty cache.
    chunk: [f64; 2],
}

impl Times {
    /// A token behind the shorter context, s.
    pub(crate) const fn token_s(self) -> f64 {
        self.token[0]
    }

    /// Of two measurements.
    pub(crate) fn mean(self, other: Self) -> Self {
        let mean = |a: [f64; 2], b: [f64; 2]| [0, 1].map(|i| f64::midpoint(a[i], b[i]));
        Self { token: mean(self.token, other.token), chunk: mean(self.chunk, other.chunk) }
    }
}

/// Sizes of a model's file.
pub(crate) fn model(atoll: &Path, file: &Path, context: u64) -> Result<Model> {
    let shown = json_of(Command::new(atoll).arg("show").arg(file).arg("--json"))?;
    let number = |value: &Value| value.as_u64().context("atoll show says no number");
    let layers = shown["layers"].as_array().context("atoll show says no layers")?;
    let sum = layers.iter().map(number).sum::<Result<u64>>()?;
    let config = |key: &str| number(&shown["config"][key]);
    let [embed_bytes, head_bytes] = [number(&shown["embed_bytes"])?, number(&shown["head_bytes"])?];
    let is_tied = shown["config"]["tied"] == true;
    Ok(Model {
        layers: layers.len().try_into()?,
        layer_bytes: sum / layers.len().max(1) as u64,
        embed_bytes,
        head_bytes,
        head_read_bytes: head_bytes + if is_tied { embed_bytes } else { 0 },
        // Keys and values, two bytes each; rows of floats.
        kv_bytes_per_position: (4 * config("n_kv_heads")? * config("head_dim")?).try_into()?,
        row_bytes: (4 * config("dim")?).try_into()?,
        context: context.try_into()?,
        prefill_chunk: CHUNKS[0].try_into()?,
    })
}

/// Times the engine alone, on one thread that has been idle for so long before each token: a
/// processor that was idle wakes up slow and with cold caches, as a stage's does in a ring.
pub(crate) fn times(atoll: &Path, file: &Path, pause: Duration) -> Result<Times> {
    let bench = |i: usize| {
        let mut command = Command::new(atoll);
        command.arg("bench").arg(file).args(["--json", "--threads", "1", "--repeat", "3"]);
        command.args(["--pp", &CHUNKS[i].to_string(), "--tg", &DECODED.to_string()]);
        command.args(["--context", &CONTEXTS[i].to_string()]);
        command.args(["--pause", &pause.as_millis().to_string()]);
        let said = json_of(&mut command)?;
        let speed = |key: &str| median(&said[key]);
        let chunk_s = CHUNKS[i] as f64 / speed("prefill_tokens_per_s")?;
        Ok::<_, anyhow::Error>((1.0 / speed("decode_tokens_per_s")?, chunk_s))
    };
    let (near, far) = (bench(0)?, bench(1)?);
    Ok(Times { token: [near.0, far.0], chunk: [near.1, far.1] })
}

/// The cost model's figures from what the engine took.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes per second")]
pub(crate) fn profile(model: &Model, Times { token, chunk }: Times) -> DeviceProfile {
    let layers = f64::from(model.layers);
    let kv_bytes = layers * f64::from(model.kv_bytes_per_position);
    let positions = CONTEXTS.map(|context| (context + DECODED / 2) as f64);
    let position_s = ((token[1] - token[0]) / (positions[1] - positions[0])).max(1e-12);
    let row_s = (token[0] - position_s * positions[0]).max(1e-9);
    let weights = layers * model.layer_bytes as f64;
    // What a chunk takes beside its first row: so much a row, and so much a position that a row
    // looks at, which rows do together and therefore in less time than one alone.
    let rows = CHUNKS.map(|rows| (rows - 1) as f64);
    let looked_at = CHUNKS.map(|rows| (rows * (rows + 1) / 2) as f64);
    let more_s = chunk.map(|s| (s - row_s).max(1e-9));
    let together_s = (more_s[1] * rows[0] - more_s[0] * rows[1])
        / (looked_at[1] * rows[0] - looked_at[0] * rows[1]);
    let together_s = together_s.clamp(1e-12, position_s);
    let each_s = [0, 1].map(|i| (more_s[i] - together_s * looked_at[i]) / rows[i]);
    let each_s = f64::midpoint(each_s[0], each_s[1]).max(1e-12);
    DeviceProfile {
        memory_bytes: 0,
        weight_bytes_per_s: ((weights + model.head_read_bytes as f64) / row_s) as u64,
        more_rows_bytes_per_s: (weights / each_s) as u64,
        kv_bytes_per_s: Some((kv_bytes / position_s) as u64),
        more_rows_kv_bytes_per_s: Some((kv_bytes / together_s) as u64),
        job_us: 0,
        load_bytes_per_s: 1_000_000_000,
        source: "the real engine, timed alone on this machine: `atoll bench`".to_owned(),
    }
}

/// The ids of a text that is `n` tokens long.
pub(crate) fn prompt(atoll: &Path, file: &Path, n: usize) -> Result<Vec<u32>> {
    let text = "The lamp on the hill went out, and the keeper climbed the stairs again. ".repeat(9);
    let mut command = Command::new(atoll);
    command.arg("run").arg(file).arg(text).args(["--raw", "--json", "--local"]);
    command.args(["--max-tokens", "1", "--temp", "0"]);
    let said = json_of(&mut command)?;
    let ids: Vec<u32> = serde_json::from_value(said["prompt_tokens"].clone())?;
    ensure!(!ids.is_empty(), "atoll run says no prompt_tokens");
    Ok(ids.into_iter().cycle().take(n).collect())
}

fn median(values: &Value) -> Result<f64> {
    let mut all: Vec<f64> = serde_json::from_value(values.clone())?;
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().context("atoll bench says no speed")
}

fn json_of(command: &mut Command) -> Result<Value> {
    let data = tempfile::tempdir()?;
    command.env("ATOLL_DATA_DIR", data.path()).env("ATOLL_CONFIG", "/dev/null");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("running {command:?}"))?;
    let done = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?}: {said}");
    serde_json::from_slice(&done.stdout).with_context(|| format!("reading what {command:?} says"))
}

#[cfg(test)]
mod tests {
    use atoll_sim::cost::Work;

    use super::*;

    #[test]
    fn what_was_timed_is_what_is_predicted() {
        let model = Model {
            layers: 30,
            layer_bytes: 2_000_000,
            head_read_bytes: 30_000_000,
            kv_bytes_per_position: 768,
            ..Model::default()
        };
        let times = Times { token: [0.006, 0.0065], chunk: [0.120, 0.250] };
        let speed = profile(&model, times).speed();
        let us = |rows: u64, from_pos: u64, head: bool| {
            speed.job_us(&model, Work { layers: 30, rows, from_pos, head })
        };
        let near = |us: u64, expected: u64| assert!(us.abs_diff(expected) <= 20, "{us} µs");
        near(us(1, CONTEXTS[0] + DECODED / 2 - 1, true), 6_000);
        near(us(1, CONTEXTS[1] + DECODED / 2 - 1, true), 6_500);
        near(us(CHUNKS[0], 0, true), 120_000);
        near(us(CHUNKS[1], 0, true), 250_000);
        // Times that contradict each other are met in the middle, without a negative speed.
        let odd = Times { chunk: [0.120, 0.200], ..times };
        let speed = profile(&model, odd.mean(odd)).speed();
        let us = |rows| speed.job_us(&model, Work { layers: 30, rows, from_pos: 0, head: true });
        assert!((105_000..120_000).contains(&us(CHUNKS[0])), "{}", us(CHUNKS[0]));
        assert!((200_000..230_000).contains(&us(CHUNKS[1])), "{}", us(CHUNKS[1]));
    }
}
