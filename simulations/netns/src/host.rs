//! What this machine has: the right to make namespaces and TAP devices, and time left over.

use std::fs::{OpenOptions, read_to_string};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// The exit code when something that is needed is not here.
pub const EXIT_MISSING: u8 = 8;
/// Below this share of idle time a run's figures say more about this machine than about Atoll.
pub const IDLE_MIN: f64 = 0.10;

/// What is missing for a run in namespaces, each with what to do about it; empty if nothing is.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("the right to make network namespaces: run this as root".to_owned());
    }
    if !Command::new("ip").arg("-V").output().is_ok_and(|done| done.status.success()) {
        missing.push("the program `ip`: install iproute2".to_owned());
    }
    let tap = "/dev/net/tun";
    if let Err(error) = OpenOptions::new().read(true).write(true).open(Path::new(tap)) {
        missing.push(format!("TAP devices: {tap}: {error} (try `modprobe tun`)"));
    }
    missing
}

/// Processor time since the machine started, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct CpuTime {
    idle: u64,
    total: u64,
}

impl CpuTime {
    /// As it is now.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn now() -> Result<Self> {
        Self::parse(&read_to_string("/proc/stat").context("reading /proc/stat")?)
    }

    fn parse(stat: &str) -> Result<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
        let line = line.context("/proc/stat has no line of all processors")?;
        let ticks: Result<Vec<u64>, _> = line.split_whitespace().map(str::parse).collect();
        let ticks = ticks.context("parsing /proc/stat")?;
        // user nice system idle iowait irq softirq steal; guests are within user.
        let idle = ticks.iter().skip(3).take(2).sum();
        Ok(Self { idle, total: ticks.iter().take(8).sum() })
    }

    /// Share of the time between `earlier` and this that no processor was used, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share needs few digits")]
    pub fn idle_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        self.idle.saturating_sub(earlier.idle) as f64 / total as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_read_as_the_kernel_writes_it() -> Result<()> {
        let earlier = CpuTime::parse("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n")?;
        let later = CpuTime::parse("cpu  180 0 110 705 105 0 0 0 50 0\n")?;
        assert!((later.idle_since(earlier) - 0.10).abs() < 1e-9);
        assert!(CpuTime::parse("cpu0 1 2 3\n").is_err());
        assert!(CpuTime::parse("cpu  1 x\n").is_err());
        Ok(())
    }
}
