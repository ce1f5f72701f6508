//! `atoll sim bench`: one large run, how long it takes and how much memory.

use std::time::Instant;

use atoll_sim::{Schedule, run as play};
use serde_json::json;

use super::{broken, object, shown, tell};
use crate::args::SimBenchArgs;
use crate::exit::Failure;
use crate::output::bytes_text;
use crate::settings::Settings;

/// Memory of one device with the others around it: 12 KiB were measured with 10,000.
const DEVICE_BYTES: u64 = 16 << 10;

pub(super) fn run(settings: &Settings, args: &SimBenchArgs) -> Result<(), Failure> {
    let &SimBenchArgs { nodes, seconds, seed, memory } = args;
    if nodes < 32 {
        return Err(Failure::usage(format!("--nodes is {nodes}; 32 or more are taken")));
    }
    let needed_bytes = (nodes as u64).saturating_mul(DEVICE_BYTES);
    if needed_bytes > memory {
        let needed = bytes_text(needed_bytes);
        let each = bytes_text(DEVICE_BYTES);
        return Err(Failure::usage(format!("{nodes} devices would take about {needed}"))
            .because(format!("{each} each, and {} are allowed", bytes_text(memory)))
            .hint("fewer --nodes or more --memory"));
    }
    let schedule = Schedule::city(seed, nodes, seconds * 1_000_000);
    let began = Instant::now();
    let report = play(&schedule);
    let wall_s = began.elapsed().as_secs_f64();
    let mut found = shown("bench", 1, &report);
    found.extend(object(json!({
        "nodes": nodes, "simulated_s": seconds, "seed": seed, "wall_s": wall_s,
        "events_per_s": report.events as f64 / wall_s,
        "peak_memory_bytes": peak_memory_bytes(),
    })));
    tell(settings, found, &broken(&report))
}

/// The most that this process has had in memory, where the system says it.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}
