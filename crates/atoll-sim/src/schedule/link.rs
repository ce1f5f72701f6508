//! What nodes are joined by.

use serde::{Deserialize, Serialize};

use crate::Wifi;

/// How messages travel: over one node's access to the network, or over the whole way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Shortest one-way time, µs.
    pub latency_us: u64,
    /// Up to so much more, µs.
    pub jitter_us: u64,
    /// What a node's uplink carries.
    pub uplink_bytes_per_s: u64,
    /// The nodes' radios; absent: they have cables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wifi: Option<Wifi>,
    /// Of a thousand messages so many are sent again by the transport, which takes a while.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub loss_permille: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
pub(super) const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Link {
    /// A home's switch.
    pub(crate) const fn wired() -> Self {
        Self {
            latency_us: 200,
            jitter_us: 3_000,
            uplink_bytes_per_s: 100_000_000,
            wifi: None,
            loss_permille: 0,
        }
    }

    /// One access point, far away and in use.
    pub(crate) fn bad_wifi() -> Self {
        Self { latency_us: 1_000, jitter_us: 9_000, wifi: Some(Wifi::bad()), ..Self::wired() }
    }
}
