//! The program as a shell sees it: words in, words out, exit codes.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod atoll;
mod lighter;
mod local;
mod plan;
mod pull;
mod server;
mod usage;
