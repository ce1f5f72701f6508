//! Schedules that once broke an invariant, as files.

use std::fs::{read_to_string, write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use atoll_sim::{Report, Schedule, run, shrink};
use serde::{Deserialize, Serialize};

/// Where they are kept.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions")
}

/// A small schedule and what it showed when it was found.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Regression {
    /// Name of the invariant.
    invariant: String,
    /// What was seen.
    seen: String,
    schedule: Schedule,
}

impl Regression {
    /// Shrinks a schedule that breaks an invariant; the small one breaks the same.
    pub(crate) fn of(schedule: &Schedule) -> Result<Self> {
        let violation = |schedule: &Schedule| run(schedule).violations.into_iter().next();
        let (invariant, _) = violation(schedule).context("this seed breaks no invariant")?;
        let same =
            |small: &Schedule| run(small).violations.iter().any(|(name, _)| *name == invariant);
        let schedule = shrink(schedule, same);
        let violations = run(&schedule).violations;
        let seen = violations.into_iter().find(|(name, _)| *name == invariant);
        let seen = seen.map(|(_, what)| what).unwrap_or_default();
        Ok(Self { invariant: invariant.to_owned(), seen, schedule })
    }

    /// Writes it as `regressions/NAME.json`.
    pub(crate) fn write(&self, name: &str) -> Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        ensure!(name.chars().all(plain), "--name is {name:?}; letters, digits and - are taken");
        let path = folder().join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(self)? + "\n";
        write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Runs a file again.
    pub(crate) fn replay(path: &Path) -> Result<Report> {
        let text = read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let read: Self =
            serde_json::from_str(&text).with_context(|| format!("parsing {}", path.display()))?;
        Ok(run(&read.schedule))
    }

    /// Faults that are left.
    pub(crate) const fn faults(&self) -> usize {
        self.schedule.faults.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_broke_once_breaks_no_more() -> Result<()> {
        let files = std::fs::read_dir(folder())?;
        let mut n = 0;
        for file in files {
            let path = file?.path();
            let report = Regression::replay(&path)?;
            assert_eq!(report.violations, [], "{}", path.display());
            assert_eq!(report, Regression::replay(&path)?, "{}", path.display());
            n += 1;
        }
        assert!(n > 0, "{} is empty", folder().display());
        Ok(())
    }
}
