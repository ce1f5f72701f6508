//! A scenario: who is there, over which links, what is served and asked, what goes wrong and when,
//! and what is expected. A file in TOML, all of it data; with a seed it expands to a [`Schedule`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cost::Model;
use crate::{Report, Schedule};

mod error;
mod expand;
mod expect;
mod fault;
mod profiles;

pub use self::error::ScenarioError;
pub use self::expect::{Expect, Figures};
pub(crate) use self::fault::swizzle;
pub use self::fault::{Churn, FaultKind, FaultLine};
pub use self::profiles::{DeviceProfile, LinkProfile, Profiles};

/// What a scenario's file says.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it is to show.
    pub about: String,
    /// Its length, s.
    pub lasts_s: f64,
    /// Name of the model that the first device serves: a profile.
    pub model: String,
    /// How it is placed.
    pub serve: Serve,
    /// Name of the link that lies between two sites, beside the links of both ends.
    #[serde(default)]
    pub between_sites: Option<String>,
    /// All devices are processes on one machine with so many cores, and share them.
    #[serde(default)]
    pub host_cores: Option<usize>,
    /// Connections keep their window while nothing is sent, as with BBR; otherwise it closes.
    #[serde(default)]
    pub windows_stay: bool,
    /// Of how many others each device hears; absent: of all.
    #[serde(default)]
    pub hears_of: Option<usize>,
    /// Who is there; the first is asked, and plans.
    #[serde(rename = "device")]
    pub devices: Vec<DeviceLine>,
    /// What is asked.
    pub requests: Vec<Requests>,
    /// What goes wrong.
    #[serde(rename = "fault", default)]
    pub faults: Vec<FaultLine>,
    /// Devices that go and come back by themselves.
    #[serde(default)]
    pub churn: Option<Churn>,
    /// What must come of it.
    #[serde(default)]
    pub expect: Expect,
    /// Profiles of its own, beside those that every scenario knows.
    #[serde(default)]
    pub device_profile: BTreeMap<String, DeviceProfile>,
    /// Links of its own.
    #[serde(default)]
    pub link_profile: BTreeMap<String, LinkProfile>,
    /// Models of its own.
    #[serde(default)]
    pub model_profile: BTreeMap<String, Model>,
}

/// How the model is placed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// When the first device begins to serve, s.
    pub at_s: f64,
    /// Exactly so many stages; absent: as many as are fastest.
    #[serde(default)]
    pub stages: Option<u16>,
    /// Sessions at once.
    pub sessions: u16,
    /// Nodes that hold each stage's range beside its own: 0 or 1.
    pub spares: u16,
}

/// Some devices of one kind.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceLine {
    /// What they are called; more than one are numbered from 1: `pi-1`, `pi-2`.
    pub name: String,
    /// Name of their profile.
    pub profile: String,
    /// Name of their link.
    pub link: String,
    /// How many.
    #[serde(default = "one")]
    pub count: usize,
    /// Where they stand.
    #[serde(default)]
    pub site: String,
    /// When they come, s.
    #[serde(default)]
    pub joins_s: f64,
    /// Each comes up to so much later, s.
    #[serde(default)]
    pub joins_within_s: f64,
    /// What each may hold, instead of the profile's.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Name of a profile whose speed they say they have.
    #[serde(default)]
    pub claims: Option<String>,
    /// The share of a core that each gets, above 0, as a control group gives it; absent or 1 and
    /// more: a core.
    #[serde(default)]
    pub cpu: Option<f64>,
}

const fn one() -> usize {
    1
}

/// Some requests of one kind.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    /// How many.
    pub count: usize,
    /// When the first comes, s.
    pub from_s: f64,
    /// Time from one to the next, s; each comes up to half of it later.
    #[serde(default)]
    pub every_s: f64,
    /// Tokens of each prompt.
    pub prompt_tokens: u32,
    /// Tokens of each answer.
    pub new_tokens: u32,
    /// Each may take so long, s; absent: to the end.
    #[serde(default)]
    pub deadline_s: Option<f64>,
}

impl Scenario {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`ScenarioError::Malformed`] with the line, and for an unknown key the nearest known one.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        toml::from_str(text).map_err(|error| ScenarioError::malformed(&error.to_string()))
    }

    /// Everything that will happen with this seed.
    ///
    /// # Errors
    /// [`ScenarioError`] if a value is impossible, a name unknown, or no devices hold the model.
    pub fn schedule(&self, seed: u64) -> Result<Schedule, ScenarioError> {
        expand::schedule(self, seed)
    }

    /// The name of each device, in the schedule's order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let name = |line: &DeviceLine, i: usize| match line.count {
            1 => line.name.clone(),
            _ => format!("{}-{}", line.name, i + 1),
        };
        let lines = self.devices.iter();
        lines.flat_map(|line| (0..line.count).map(move |i| name(line, i))).collect()
    }

    /// What a run showed, in figures, and where it fell short of what is expected.
    #[must_use]
    pub fn judge(&self, report: &Report) -> (Figures, Vec<String>) {
        let figures = Figures::of(report);
        let short = self.expect.missed(&figures);
        (figures, short)
    }
}

#[cfg(test)]
mod tests;
