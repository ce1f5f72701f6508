//! What the real engine takes on this machine, one process alone: the figures that a prediction
//! is made of.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use atoll_sim::cost::Model;
use atoll_sim::scenario::DeviceProfile;
use serde_json::Value;

use crate::quota::Quota;

/// Prompt tokens of the timed prefill: one chunk, as `atoll serve` cuts prompts.
const CHUNK: u64 = 128;
/// Tokens that are decoded.
const DECODED: u64 = 48;
/// Positions in the cache before, in one measurement and in the other.
const CONTEXTS: [u64; 2] = [16, 768];

/// Sizes of a model's file.
pub(crate) fn model(atoll: &Path, file: &Path, context: u64) -> Result<Model> {
    let shown = json_of(Command::new(atoll).arg("show").arg(file).arg("--json"), None)?;
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
        prefill_chunk: CHUNK.try_into()?,
    })
}

/// Times the engine alone, on one thread within a share of the processor.
pub(crate) fn device(
    atoll: &Path,
    file: &Path,
    model: &Model,
    cpu: Option<f64>,
) -> Result<DeviceProfile> {
    let quota = cpu.filter(|cpu| *cpu < 1.0).map(Quota::new).transpose()?;
    let bench = |context: u64| {
        let mut command = Command::new(atoll);
        command.arg("bench").arg(file).args(["--json", "--threads", "1", "--repeat", "3"]);
        command.args(["--pp", &CHUNK.to_string(), "--tg", &DECODED.to_string()]);
        command.args(["--context", &context.to_string()]);
        json_of(&mut command, quota.as_ref())
    };
    let [near, far] = CONTEXTS.map(bench);
    let (near, far) = (near?, far?);
    Ok(profile(model, [token_s(&near)?, token_s(&far)?], CHUNK as f64 / prefill_per_s(&near)?))
}

/// The cost model's figures from the times of one token behind either context, and of one chunk.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes per second")]
fn profile(model: &Model, token_s: [f64; 2], chunk_s: f64) -> DeviceProfile {
    let layers = f64::from(model.layers);
    let kv_bytes = layers * f64::from(model.kv_bytes_per_position);
    let positions = CONTEXTS.map(|context| (context + DECODED / 2) as f64);
    let position_s = ((token_s[1] - token_s[0]) / (positions[1] - positions[0])).max(1e-12);
    let weights = layers * model.layer_bytes as f64;
    let row_s = (token_s[0] - position_s * positions[0]).max(1e-9);
    let weight_bytes_per_s = (weights + model.head_read_bytes as f64) / row_s;
    let chunk = CHUNK as f64;
    let more_s = chunk_s - row_s - position_s * chunk * (chunk + 1.0) / 2.0;
    DeviceProfile {
        memory_bytes: 0,
        weight_bytes_per_s: weight_bytes_per_s as u64,
        more_rows_bytes_per_s: (weights * (chunk - 1.0) / more_s.max(1e-9)) as u64,
        kv_bytes_per_s: Some((kv_bytes / position_s) as u64),
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
    let said = json_of(&mut command, None)?;
    let ids: Vec<u32> = serde_json::from_value(said["prompt_tokens"].clone())?;
    ensure!(!ids.is_empty(), "atoll run says no prompt_tokens");
    Ok(ids.into_iter().cycle().take(n).collect())
}

fn median(values: &Value) -> Result<f64> {
    let mut all: Vec<f64> = serde_json::from_value(values.clone())?;
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().context("atoll bench says no speed")
}

fn token_s(bench: &Value) -> Result<f64> {
    Ok(1.0 / median(&bench["decode_tokens_per_s"])?)
}

fn prefill_per_s(bench: &Value) -> Result<f64> {
    median(&bench["prefill_tokens_per_s"])
}

fn json_of(command: &mut Command, quota: Option<&Quota>) -> Result<Value> {
    let data = tempfile::tempdir()?;
    command.env("ATOLL_DATA_DIR", data.path()).env("ATOLL_CONFIG", "/dev/null");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("running {command:?}"))?;
    if let Some(quota) = quota {
        quota.take(child.id())?;
    }
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
        let speed = profile(&model, [0.006, 0.007], 0.120).speed();
        let us = |rows: u64, from_pos: u64, head: bool| {
            speed.job_us(&model, Work { layers: 30, rows, from_pos, head })
        };
        let near = |us: u64, expected: u64| assert!(us.abs_diff(expected) <= 20, "{us} µs");
        near(us(1, CONTEXTS[0] + DECODED / 2 - 1, true), 6_000);
        near(us(1, CONTEXTS[1] + DECODED / 2 - 1, true), 7_000);
        near(us(CHUNK, 0, true), 120_000);
    }
}
