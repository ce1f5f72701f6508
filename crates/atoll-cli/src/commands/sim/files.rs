//! Files that `atoll sim` reads and writes.

use std::fs;
use std::io::Read;
use std::path::Path;

use atoll_sim::calibration::Measured;
use atoll_sim::scenario::ScenarioError;
use atoll_sim::{Regression, Scenario};
use serde::Deserialize;

use crate::exit::{Exit, Failure};

/// Bytes of a file at most: the largest of ours has 40 kB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What `netns measure --json` prints.
#[derive(Deserialize)]
struct MeasuredFile {
    schema: String,
    measured: Vec<Measured>,
}

pub(super) fn scenario(path: &Path) -> Result<Scenario, Failure> {
    Scenario::parse(&text(path)?).map_err(|error| unfit(path, error))
}

/// A scenario that cannot be used.
pub(super) fn unfit(path: &Path, error: ScenarioError) -> Failure {
    let exit = match error {
        ScenarioError::NoPlan(_) => Exit::NoPlan,
        ScenarioError::Malformed(_)
        | ScenarioError::Impossible { .. }
        | ScenarioError::Unknown { .. }
        | ScenarioError::TooMany { .. } => Exit::Usage,
    };
    Failure::new(exit, format!("cannot use {}", path.display())).because(error)
}

pub(super) fn regression(path: &Path) -> Result<Regression, Failure> {
    serde_json::from_str(&text(path)?).map_err(|error| {
        Failure::usage(format!("{} holds no schedule", path.display()))
            .because(error)
            .hint("a file that `atoll sim shrink` wrote")
    })
}

pub(super) fn measured(path: &Path) -> Result<Vec<Measured>, Failure> {
    let what = || format!("{} holds no measurement", path.display());
    let hint = "what `netns measure --json` printed";
    let read: MeasuredFile = serde_json::from_str(&text(path)?)
        .map_err(|error| Failure::usage(what()).because(error).hint(hint))?;
    if read.schema != "atoll.measured/1" {
        let cause = format!("its schema is {:?}, not \"atoll.measured/1\"", read.schema);
        return Err(Failure::usage(what()).because(cause).hint(hint));
    }
    Ok(read.measured)
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| Failure::io("write", path, &error))
}

fn text(path: &Path) -> Result<String, Failure> {
    let io = |error| Failure::io("read", path, &error);
    let mut text = String::new();
    let file = fs::File::open(path).map_err(io)?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(io)?;
    if read as u64 > FILE_BYTES_MAX {
        let what = format!("cannot use {}", path.display());
        return Err(Failure::usage(what).because(format!("more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}
