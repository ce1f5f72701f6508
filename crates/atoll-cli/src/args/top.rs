//! What `atoll top` is told.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;

use super::StatusArgs;

/// `atoll top`
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) status: StatusArgs,
    /// Time between two looks, 1 to 3600
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=3600))]
    every: u16,
    /// Look so many times, then end [default: until q or Ctrl-C]
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<NonZeroU32>,
}

impl TopArgs {
    pub(crate) fn every(&self) -> Duration {
        Duration::from_secs(self.every.into())
    }
}
