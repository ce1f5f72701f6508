//! The program as a shell sees it: words in, words out, exit codes.
#![cfg_attr(not(feature = "end_to_end"), allow(dead_code, reason = "the models' tests are off"))]
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod atoll;
#[cfg(feature = "end_to_end")]
mod local;
mod pull;
mod server;
mod usage;
