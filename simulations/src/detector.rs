//! Many nodes on bad Wi-Fi for long: who is found dead when, and who is taken for dead wrongly.

use std::io::Write;
use std::time::Instant;

use anyhow::{Result, ensure};
use atoll_sim::{Detection, Report, Schedule, Times, run_long};
use clap::Args;
use serde_json::{Value, json};

/// Kills nodes on bad Wi-Fi, one a minute, and says when it was found out.
#[derive(Args)]
pub(crate) struct Detector {
    /// Nodes of the run.
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// Simulated time, h.
    #[arg(long, default_value_t = 1)]
    hours: u64,
    /// Which run.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Detector {
    /// Runs it; the limits are those of `simulations/README.md`.
    pub(crate) fn run(&self) -> Result<(Report, Value)> {
        let &Self { nodes, hours, seed, .. } = self;
        ensure!((8..=10_000).contains(&nodes), "--nodes is {nodes}; 8 to 10000 are taken");
        ensure!((1..=168).contains(&hours), "--hours is {hours}; 1 to 168 are taken");
        let schedule = Schedule::bad_wifi(seed, nodes, hours * 3_600_000_000);
        let began = Instant::now();
        let mut said = began;
        let report = run_long(&schedule, |now_us, report| {
            if said.elapsed().as_secs() >= 10 {
                said = Instant::now();
                let (minutes, events) = (now_us / 60_000_000, report.events);
                let wrong = &report.detection.false_evictions;
                // Nobody may be listening; the run goes on.
                let _ = writeln!(
                    std::io::stderr(),
                    "{minutes} of {} min simulated, {events} events, false evictions {wrong:?}",
                    hours * 60,
                );
            }
        });
        let wall_s = began.elapsed().as_secs_f64();
        let hours_of_nodes = (nodes as u64 * hours) as f64;
        let mut gaps = Times(report.gaps_us.clone());
        gaps.0.retain(|gap| *gap > 0);
        let value = json!({
            "schema": "atoll.sim-detector/1", "nodes": nodes, "hours": hours, "seed": seed,
            "wall_s": wall_s, "events": report.events,
            "events_per_s": report.events as f64 / wall_s,
            "messages_per_node_and_s": report.messages as f64 / (hours_of_nodes * 3600.0),
            "detection": detection(&report.detection, hours_of_nodes),
            "requests": { "completed": report.completed, "failed": report.failed },
            "longest_gap_us": times(&gaps),
            "trace": format!("{:016x}", report.trace), "violations": report.violations.len(),
        });
        Ok((report, value))
    }
}

fn detection(found: &Detection, hours_of_nodes: f64) -> Value {
    json!({
        "kills": found.kills, "kill_lost_us": times(&found.kill_lost_us),
        "power_cuts": found.cuts,
        "cut_suspected_by_user_us": times(&found.cut_user_us),
        "cut_suspected_by_first_us": times(&found.cut_first_us),
        "cut_suspected_by_members_us": times(&found.cut_suspected_us),
        "cut_lost_by_members_us": times(&found.cut_lost_us),
        "cut_unnoticed_by_members": found.missed,
        "false_evictions": found.false_evictions.values().sum::<u64>(),
        "false_evictions_by_cause": found.false_evictions,
        "false_suspicions": found.false_suspicions,
        "false_suspicions_per_node_and_hour": found.false_suspicions as f64 / hours_of_nodes,
        "false_suspicions_by_user": found.false_user_suspicions,
    })
}

fn times(times: &Times) -> Value {
    let [p50, p99, max] = [500, 990, 1000].map(|permille| times.at(permille));
    json!({ "n": times.0.len(), "p50": p50, "p99": p99, "max": max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_forty_nodes_evicts_nobody_and_finds_the_dead_within_two_seconds() -> Result<()> {
        let (report, value) = Detector { nodes: 40, hours: 1, seed: 1, json: true }.run()?;
        assert_eq!(report.violations, []);
        let found = &report.detection;
        assert!(found.cuts > 30 && found.kills > 10, "{value:#}");
        assert!(found.false_evictions.is_empty() && found.missed == 0, "{value:#}");
        for times in [&found.cut_user_us, &found.cut_first_us, &found.kill_lost_us] {
            assert!(times.at(900).is_some_and(|at| at <= 2_000_000), "{value:#}");
        }
        Ok(())
    }

    #[test]
    fn what_is_no_run_is_refused() {
        let error = |nodes, hours| {
            let refused = Detector { nodes, hours, seed: 0, json: true }.run();
            refused.expect_err("it is refused").to_string()
        };
        assert!(error(7, 1).contains("8 to 10000"));
        assert!(error(8, 0).contains("1 to 168"));
    }
}
