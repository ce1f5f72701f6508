//! Shares of the processor for single processes, by control groups of either version.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use atoll_sim::cost::QUOTA_PERIOD_US;

/// A control group with a share of the processor, gone with its owner.
#[derive(Debug)]
pub struct Quota {
    folder: PathBuf,
    is_second: bool,
    is_even: bool,
}

/// The least that the system gives in a period, µs.
const QUOTA_MIN_US: f64 = 1_000.0;

impl Quota {
    /// Makes a group that may use `cores` of the processor, such as 0.5.
    ///
    /// # Errors
    /// If this machine has no such groups, with what was looked for.
    pub fn new(cores: f64) -> Result<Self> {
        Self::group(cores, false)
    }

    /// The same in periods as short as there can be, a millisecond of each: what uses it is slowed
    /// down evenly.
    ///
    /// # Errors
    /// As [`Quota::new`].
    pub fn even(cores: f64) -> Result<Self> {
        Self::group(cores, true)
    }

    fn group(cores: f64, is_even: bool) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("atoll-quota-{}-{count}", std::process::id());
        let (first, second) = (Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup"));
        let is_second = !first.join("cpu.cfs_quota_us").is_file();
        if is_second && !second.join("cgroup.controllers").is_file() {
            bail!("no quota of the processor: neither {first:?} nor {second:?} has such groups");
        }
        let folder = if is_second { second } else { first }.join(name);
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        let quota = Self { folder, is_second, is_even };
        quota.set(cores)?;
        Ok(quota)
    }

    /// Gives the group another share.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn set(&self, cores: f64) -> Result<()> {
        let period_us = if self.is_even { QUOTA_MIN_US / cores } else { QUOTA_PERIOD_US as f64 };
        let quota_us = (cores * period_us).round().max(QUOTA_MIN_US);
        let period_us = period_us.round();
        let files = if self.is_second {
            vec![("cpu.max", format!("{quota_us} {period_us}"))]
        } else {
            let period = ("cpu.cfs_period_us", period_us.to_string());
            vec![period, ("cpu.cfs_quota_us", quota_us.to_string())]
        };
        for (file, value) in files {
            let path = self.folder.join(file);
            fs::write(&path, value).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Puts a process in, with all that it will start.
    ///
    /// # Errors
    /// If it is gone.
    pub fn take(&self, pid: u32) -> Result<()> {
        let path = self.folder.join("cgroup.procs");
        fs::write(&path, pid.to_string()).with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Its processes have ended; one that has not keeps the group until it does.
        let _removed = fs::remove_dir(&self.folder);
    }
}
