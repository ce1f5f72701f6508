//! One large run: how long it takes, and how much memory.

use std::time::Instant;

use anyhow::{Result, ensure};
use atoll_sim::{Report, Schedule, run};
use clap::Args;
use serde_json::{Value, json};

/// Memory of one device with the others around it: 12 KiB were measured with 10,000.
const DEVICE_BYTES: u64 = 16 << 10;

/// Runs many devices once and says what it took.
#[derive(Args)]
pub(crate) struct Bench {
    /// Devices of the run.
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
    /// Simulated time, s.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Which run.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Memory that the run may take, GiB.
    #[arg(long, default_value_t = 4)]
    memory_gib: u64,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Bench {
    /// Runs it; refuses what would not fit, and what is no city.
    pub(crate) fn run(&self) -> Result<(Report, Value)> {
        let &Self { nodes, seconds, seed, memory_gib, .. } = self;
        ensure!(nodes >= 32, "--nodes is {nodes}; a bench takes 32 or more");
        ensure!((30..=86_400).contains(&seconds), "--seconds is {seconds}; 30 to 86400 are taken");
        let needed_bytes = (nodes as u64).saturating_mul(DEVICE_BYTES);
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        ensure!(
            needed_bytes <= memory_gib.saturating_mul(1 << 30),
            "{nodes} devices would take about {:.1} GiB ({} KiB each), {memory_gib} GiB are \
             allowed: fewer --nodes or more --memory-gib",
            gib(needed_bytes),
            DEVICE_BYTES >> 10,
        );
        let schedule = Schedule::city(seed, nodes, seconds * 1_000_000);
        let began = Instant::now();
        let report = run(&schedule);
        let wall_s = began.elapsed().as_secs_f64();
        let events_per_s = report.events as f64 / wall_s;
        let value = json!({
            "schema": "atoll.sim-bench/1", "nodes": nodes, "simulated_s": seconds, "seed": seed,
            "wall_s": wall_s, "events": report.events, "events_per_s": events_per_s,
            "peak_memory_bytes": peak_memory_bytes(), "faults": report.faults,
            "tokens": report.tokens, "completed": report.completed, "failed": report.failed,
            "trace": format!("{:016x}", report.trace), "violations": report.violations.len(),
        });
        Ok((report, value))
    }
}

/// The most that this process has had in memory, where the system says it.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(nodes: usize) -> Bench {
        Bench { nodes, seconds: 30, seed: 1, memory_gib: 4, json: true }
    }

    #[test]
    fn a_million_devices_are_told_their_memory() {
        let error = bench(1_000_000).run().expect_err("it is too much").to_string();
        assert!(error.contains("15.3 GiB (16 KiB each), 4 GiB are allowed"), "{error}");
    }

    #[test]
    fn a_small_city_runs_clean() -> Result<()> {
        let (report, value) = bench(600).run()?;
        assert_eq!(report.violations, []);
        assert!(report.completed > 0 && report.failed.is_empty(), "{value}");
        assert!(value["peak_memory_bytes"].as_u64() > Some(1 << 20), "{value}");
        Ok(())
    }
}
