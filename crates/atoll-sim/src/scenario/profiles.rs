//! What is known of devices, links and models, each figure with its source.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Scenario, ScenarioError};
use crate::cost::{Model, Speed};
use crate::schedule::Link;

/// A kind of device.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceProfile {
    /// What models may take.
    pub memory_bytes: u64,
    /// Weight bytes per second for one row.
    pub weight_bytes_per_s: u64,
    /// Weight bytes per second for each further row of a chunk.
    pub more_rows_bytes_per_s: u64,
    /// Cache bytes per second; absent: as weights.
    #[serde(default)]
    pub kv_bytes_per_s: Option<u64>,
    /// The same for each row of a chunk; absent: as for a row alone.
    #[serde(default)]
    pub more_rows_kv_bytes_per_s: Option<u64>,
    /// What each job takes beside, µs.
    #[serde(default)]
    pub job_us: u64,
    /// Bytes per second at which a part is fetched and loaded.
    pub load_bytes_per_s: u64,
    /// Where the figures come from; what is an estimate says so.
    pub source: String,
}

impl DeviceProfile {
    /// What a job costs on it.
    #[must_use]
    pub fn speed(&self) -> Speed {
        Speed {
            weight_bytes_per_s: self.weight_bytes_per_s,
            more_rows_bytes_per_s: self.more_rows_bytes_per_s,
            kv_bytes_per_s: self.kv_bytes_per_s.unwrap_or(self.weight_bytes_per_s),
            more_rows_kv_bytes_per_s: self.more_rows_kv_bytes_per_s,
            job_us: self.job_us,
            load_bytes_per_s: self.load_bytes_per_s,
        }
    }
}

/// A kind of access to the network.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinkProfile {
    /// One way, from the device to the middle of its network, ms.
    pub latency_ms: f64,
    /// Up to so much more, ms.
    pub jitter_ms: f64,
    /// What it carries.
    pub bytes_per_s: u64,
    /// Of a thousand messages so many wait until the transport sends again.
    #[serde(default)]
    pub loss_permille: u64,
    /// Where the figures come from; what is an estimate says so.
    pub source: String,
}

impl LinkProfile {
    pub(super) fn link(&self, name: &str) -> Result<Link, ScenarioError> {
        let us = |what: &str, ms: f64| super::expand::micros(&format!("{name}.{what}"), ms / 1e3);
        if self.bytes_per_s < 1_000 || self.loss_permille > 500 {
            let value = format!("{} bytes/s, {} ‰", self.bytes_per_s, self.loss_permille);
            let why = "a link carries 1,000 bytes/s at least and loses half at most";
            return Err(ScenarioError::impossible(name, value, why));
        }
        Ok(Link {
            latency_us: us("latency_ms", self.latency_ms)?,
            jitter_us: us("jitter_ms", self.jitter_ms)?,
            uplink_bytes_per_s: self.bytes_per_s,
            wifi: None,
            loss_permille: self.loss_permille,
        })
    }
}

/// Profiles by name.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// Devices.
    pub device: BTreeMap<String, DeviceProfile>,
    /// Links.
    pub link: BTreeMap<String, LinkProfile>,
    /// Models.
    pub model: BTreeMap<String, Model>,
}

impl Profiles {
    /// Those that every scenario knows.
    ///
    /// # Panics
    /// Never: a test reads them.
    #[must_use]
    pub fn standard() -> Self {
        toml::from_str(include_str!("profiles.toml")).expect("a test reads these profiles")
    }

    /// With the scenario's own, which come first.
    pub(super) fn of(scenario: &Scenario) -> Self {
        let mut all = Self::standard();
        all.device.extend(scenario.device_profile.clone());
        all.link.extend(scenario.link_profile.clone());
        all.model.extend(scenario.model_profile.clone());
        all
    }

    pub(super) fn device(&self, name: &str) -> Result<&DeviceProfile, ScenarioError> {
        let unknown = || ScenarioError::unknown("device profile", name, self.device.keys());
        self.device.get(name).ok_or_else(unknown)
    }

    pub(super) fn link(&self, name: &str) -> Result<Link, ScenarioError> {
        let unknown = || ScenarioError::unknown("link profile", name, self.link.keys());
        self.link.get(name).ok_or_else(unknown)?.link(name)
    }

    pub(super) fn model(&self, name: &str) -> Result<&Model, ScenarioError> {
        let unknown = || ScenarioError::unknown("model", name, self.model.keys());
        self.model.get(name).ok_or_else(unknown)
    }
}
