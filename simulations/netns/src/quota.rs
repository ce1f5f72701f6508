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
}

impl Quota {
    /// Makes a group that may use `cores` of the processor, such as 0.5.
    ///
    /// # Errors
    /// If this machine has no such groups, with what was looked for.
    pub fn new(cores: f64) -> Result<Self> {
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
        let quota = Self { folder, is_second };
        quota.set(cores)?;
        Ok(quota)
    }

    /// Gives the group another share.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn set(&self, cores: f64) -> Result<()> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few cores")]
        let quota_us = (cores * QUOTA_PERIOD_US as f64).round().max(1_000.0) as u64;
        let files = if self.is_second {
            vec![("cpu.max", format!("{quota_us} {QUOTA_PERIOD_US}"))]
        } else {
            let period = ("cpu.cfs_period_us", QUOTA_PERIOD_US.to_string());
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
