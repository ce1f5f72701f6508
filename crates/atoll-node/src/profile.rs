//! What this machine can carry, measured at the start.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{
    Architecture, BlockType, Compute, GgufFile, ModelConfig, ModelError, Part, Stage, StageInput,
    TensorSource, tiny,
};
use atoll_proto::plan::Profile;

/// Share of the free memory that models may take when nobody says: the rest is for the system,
/// for this program's own buffers, and for files in the page cache.
const SHARE_PERCENT: u64 = 80;

/// How long the kernels are tried at a time, and how often: the second best counts, since whatever
/// else a machine is busy with for a while makes it slower. A process whose share of the processor
/// is given in longer periods than this is taken for faster than it is, until its work is timed.
const TRIAL: Duration = Duration::from_millis(25);
const TRIALS: usize = 7;
/// Before that, so that the weights are where they will be, and the processor as fast.
const WARM_UP: Duration = Duration::from_millis(15);
const TRIAL_TOKENS_MAX: usize = 256;
/// The same for the rows of a chunk, which take some milliseconds together.
const CHUNK_ROWS: usize = 64;
const CHUNK_TRIALS: usize = 4;
const CHUNK_TRIAL: Duration = Duration::from_millis(10);

/// Measures. `memory_bytes` stands instead of what is found free.
///
/// # Errors
/// If the trial model cannot be computed.
pub(crate) fn measure(
    compute: &Arc<Compute>,
    memory_bytes: Option<u64>,
) -> Result<Profile, ModelError> {
    let memory_bytes = memory_bytes.unwrap_or_else(|| free_bytes() / 100 * SHARE_PERCENT);
    let (weight_bytes_per_s, prefill_bytes_per_s) = speeds(compute)?;
    Ok(Profile { memory_bytes, weight_bytes_per_s, prefill_bytes_per_s })
}

/// Weight bytes per second of decoding, and of each row of a chunk, from a random model of 4 layers
/// of width 512 (12 MiB).
fn speeds(compute: &Arc<Compute>) -> Result<(u64, u64), ModelError> {
    let small = tiny::config(Architecture::Llama);
    let config = ModelConfig {
        dim: 512,
        n_heads: 8,
        n_kv_heads: 4,
        head_dim: 64,
        ffn_dim: 1408,
        rope: atoll_model::RopeConfig { n_dims: 64, ..small.rope.clone() },
        ..small
    };
    let file = GgufFile::parse(tiny::random_model(&config, BlockType::Q8_0, 1))?;
    let part = Part { embed: true, layers: 0..config.n_layers, head: false };
    let stage = Stage::load(&TensorSource::Gguf(file), &part, compute, &mut |_| {})?;
    let mut kv = stage.new_kv_cache(TRIAL_TOKENS_MAX);
    let bytes = stage.weight_bytes_per_token() as f64;
    let mut try_for = |rows: usize, time: Duration| {
        let (begin, mut tokens, input) = (Instant::now(), 0, vec![1; rows]);
        while tokens == 0 || tokens + rows <= TRIAL_TOKENS_MAX && begin.elapsed() < time {
            stage.forward(&mut kv, StageInput::Tokens(&input), tokens)?;
            tokens += rows;
        }
        kv.truncate(0);
        Ok::<_, ModelError>(bytes * tokens as f64 / begin.elapsed().as_secs_f64())
    };
    try_for(1, WARM_UP)?;
    let mut second_best = |rows: usize, trials: usize, time: Duration| {
        let found = (0..trials).map(|_| try_for(rows, time)).collect::<Result<Vec<f64>, _>>();
        let mut found = found?;
        found.sort_by(f64::total_cmp);
        tracing::debug!(rows, ?found, "kernels tried, weight bytes per second and row");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bytes per second are positive and far below 2^53"
        )]
        let per_s = found[trials - 2] as u64;
        Ok::<_, ModelError>(per_s)
    };
    Ok((second_best(1, TRIALS, TRIAL)?, second_best(CHUNK_ROWS, CHUNK_TRIALS, CHUNK_TRIAL)?))
}

/// Memory free for this process: the system's, or less if a control group says so.
fn free_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = group_files(&membership).into_iter().filter_map(|(limit, used)| {
        let limit = read_number(&limit)?;
        Some(limit.saturating_sub(read_number(&used).unwrap_or(0)))
    });
    limits.fold(system.available_memory(), u64::min)
}

/// A file that holds one number; `max` and files that are not there are none.
fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The files with limit and usage of every control group that this process is in, own group and
/// its parents, for both versions of the interface; as `/proc/self/cgroup` names them.
fn group_files(membership: &str) -> Vec<(std::path::PathBuf, std::path::PathBuf)> {
    let mut files = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (root, limit, used) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max", "memory.current")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            let folder = Path::new(root).join(group);
            files.push((folder.join(limit), folder.join(used)));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_versions_are_looked_at() {
        let found = group_files("4:memory:/a/b\n2:cpu:/x\n0::/c\n");
        let limits: Vec<&str> = found.iter().filter_map(|(limit, _)| limit.to_str()).collect();
        assert_eq!(
            limits,
            [
                "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/c/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(free_bytes() > 1 << 20);
    }
}
