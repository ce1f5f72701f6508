//! The program as a shell sees it: words in, words out, exit codes.
#![expect(clippy::unwrap_used, reason = "tests")]

mod atoll;
mod pull;
mod server;
mod usage;
